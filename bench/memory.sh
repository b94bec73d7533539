#!/usr/bin/env bash
# How much memory a training takes, beside what it announced, and how long its parts take.
#
#   SESSIONS (1000000), VIEWS (10)   the size of the log
#   CANCELS (0)                      how often to cancel it too, at moments spread over its time
. "$(dirname "$0")/lib.sh"
use_postgres

sessions=${SESSIONS:-1000000}
views=${VIEWS:-10}

if [ "${1:-}" != inside ]; then
    [ -n "${NO_INSTALL:-}" ] || scripts/install.sh
    export CLUSTER_CONF=$'synchronous_commit = off\nmax_wal_size = 8GB\nwal_level = minimal\nmax_wal_senders = 0'
    exec scripts/cluster.sh run memory -- bench/memory.sh inside
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "a log of $sessions sessions of $views views"
createdb memory
export PGDATABASE=memory
q "CREATE EXTENSION coupon_ext"
q "CREATE TABLE visit (session text, customer text, at timestamptz, kind text, page text, category text, product text, price numeric, device text)"
# Two sessions of three have a customer; one in thirty ends with a purchase; a session a second or so, two months in all.
q "INSERT INTO visit SELECT 'session-' || i, CASE WHEN i % 3 > 0 THEN 'customer-' || abs(hashint4(i)) % ($sessions / 4) END,
       timestamptz '2026-01-01 00:00Z' + i * interval '60 days' / $sessions + v * interval '25 seconds',
       CASE WHEN v = $views - 1 AND i % 30 = 0 THEN 'purchase' ELSE 'view' END, 'page-' || h % 12, 'category-' || h % 40,
       'product-' || h % 20000, 5 + h % 100, (ARRAY['mobile', 'desktop', 'tablet'])[1 + i % 3]
   FROM generate_series(1, $sessions) i, generate_series(0, $views - 1) v, abs(hashint4(i * $views + v)) h"
q "SELECT coupon.watch('visit', '{\"session\": \"session\", \"customer\": \"customer\", \"at\": \"at\", \"kind\": \"kind\", \"page\": \"page\",
       \"category\": \"category\", \"product\": \"product\", \"price\": \"price\", \"attributes\": [\"device\"]}', live => false)" >/dev/null
q "VACUUM ANALYZE visit"

train="SELECT count(*) FROM coupon.train(until => '2026-06-01', seed => 1,
    spec => '{\"churn\": {\"epochs\": 1, \"hidden_size\": 8, \"dense_units\": 8, \"batch_size\": 256}}')"
status() { sed -n "s/^$2:[[:space:]]*\([0-9]*\) kB/\1/p" "/proc/$1/status" 2>/dev/null || true; }

# Starts a training in a backend of its own; sets $client and $backend. Lines of stderr are stamped as they come.
begin() {
    rm -f "$work"/*
    mkfifo "$work/in" "$work/err"
    psql -XAtq <"$work/in" >"$work/out" 2>"$work/err" &
    client=$!
    : >"$work/said"
    while IFS= read -r line; do echo "$EPOCHREALTIME $line"; done <"$work/err" >>"$work/said" &
    exec 3>"$work/in"
    echo "SELECT pg_backend_pid();" >&3
    until [ -s "$work/out" ]; do sleep 0.05; done
    backend=$(cat "$work/out")
    # A first query loads the library and the catalogue: what a fresh backend has.
    before=$(status "$backend" RssAnon)
    began=$EPOCHREALTIME
    printf '%s;\n' "SET client_min_messages = debug1" "$train" "\\echo done" >&3
}
finish() {
    exec 3>&-
    wait "$client" || true
}

say "training"
begin
peak=0
until grep -q done "$work/out"; do
    now=$(status "$backend" RssAnon)
    [ "${now:-0}" -le "$peak" ] || peak=$now
    echo "$EPOCHREALTIME sample $now" >>"$work/said"
    sleep 0.1
done
ended=$EPOCHREALTIME
high=$(status "$backend" VmHWM)
finish
grep -q ERROR "$work/said" && { cat "$work/said"; exit 1; }
announced=$(sed -n 's/.*will hold at most \([0-9]*\) MB.*/\1/p' "$work/said")
echo "announced $announced MB; RssAnon before $((before / 1024)) MB, at the peak $((peak / 1024)) MB (VmHWM, shared buffers included: $((high / 1024)) MB)"
awk -v began="$began" -v ended="$ended" -v events=$((sessions * views)) '
    function part(name) { printf "%8.1f s %6d MB  %s\n", $1 - last, high / 1024, at; last = $1; at = name; high = 0 }
    $2 == "sample" && $3 > high {high = $3}
    BEGIN {last = began; at = "reading the log"}
    /coupon_ext: begins/ {part($NF)}
    END {printf "%8.1f s %6d MB  %s\n", ended - last, high / 1024, at; printf "%8.1f s  in all, %.1f µs an event\n", ended - began, 1e6 * (ended - began) / events}' "$work/said"
[ "$peak" -lt $((announced * 1024)) ] || { echo "FAILED: more than was announced"; exit 1; }

seconds=$(awk "BEGIN {print $ended - $began}")
for ((i = 0; i < ${CANCELS:-0}; i++)); do
    begin
    sleep "$(awk "BEGIN {print $seconds * ($i + 0.5) / $CANCELS}")"
    last=$(grep -v sample "$work/said" | tail -n 1)
    asked=$EPOCHREALTIME
    kill -INT "$backend"
    until grep -q 'canceling\|done' "$work/said" "$work/out"; do sleep 0.01; done
    awk "BEGIN {printf \"canceled after %.1f s: stopped in %.2f s; last heard: %s\n\", $asked - $began, $EPOCHREALTIME - $asked, \"${last#* }\"}"
    finish
done
