#!/usr/bin/env bash
# Stored sessions scored, log to probabilities: coupon.score_sessions beside a Python client that reads the same rows, builds the
# same inputs and calls ONNX Runtime in batches. They take turns on one server; medians over the rounds.
#
#   PEERS_PYTHON   a Python with the peers' requirements
#   DATA           folder of clickstream.csv.gz (../shared/data)
#   ROUNDS (7)     how long to look
#   THREADS        threads of either side (default: one a core)
#   INPUTS         by_session: the client builds its inputs a session at a time, not with whole-log numpy
. "$(dirname "$0")/lib.sh"
use_postgres

rounds=${ROUNDS:-7}
threads=${THREADS:-$(nproc)}
export CLICKSTREAM=${DATA:-$ROOT/../shared/data}/clickstream.csv.gz THREADS=$threads
[ -f "$CLICKSTREAM" ] || die "no $CLICKSTREAM" "DATA names its folder"
[ -n "${PEERS_PYTHON:-}" ] || die "PEERS_PYTHON is not set" "it names a Python with torch, onnxruntime, pandas and psycopg"

if [ "${1:-}" != inside ]; then
    scripts/install.sh
    export CLUSTER_CONF=$'max_wal_size = 4GB\nshared_buffers = 512MB'
    exec scripts/cluster.sh run score_bench -- bench/score.sh inside
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "loading clickstream and training a model of the same shape"
createdb score
export PGDATABASE=score PGOPTIONS="-c client_min_messages=warning -c coupon_ext.threads=$threads"
q "CREATE EXTENSION coupon_ext"
psql -Xq -f bench/clickstream.sql >/dev/null
# Scoring takes the same time whatever was learned.
q "SELECT coupon.train(until => '2021-01-01', spec => '{\"churn\": {\"epochs\": 1, \"one_cycle_epochs\": 1}}')" >/dev/null

mkfifo "$work/turns"
"$PEERS_PYTHON" -W ignore bench/score_client.py "host=$PGHOST port=$PGPORT user=$PGUSER dbname=$PGDATABASE" visit "$rounds" <"$work/turns" >"$work/theirs" 2>"$work/err" &
client=$!
exec 8>"$work/turns"
# wait_for LINES: of the client's output.
wait_for() {
    while [ "$(wc -l <"$work/theirs")" -lt "$1" ]; do
        kill -0 $client 2>/dev/null || { cat "$work/err" >&2; die "the Python client ended"; }
        sleep 0.1
    done
}
wait_for 1

# Both sides have a connection, a model and a warm cache before the clock runs; both bring (session, churn) to the client.
say "$rounds rounds in turns"
for ((round = 1; round <= rounds; round++)); do
    psql -XAtq -v ON_ERROR_STOP=1 -c "SELECT count(*) FROM coupon.score_sessions('2020-01-01', '2020-01-02')" -c '\timing on' \
        -c "\copy (SELECT session, churn FROM coupon.score_sessions('-infinity', 'infinity')) TO '$work/ours.csv'" >"$work/out"
    awk -v sessions="$(wc -l <"$work/ours.csv")" '/^Time: / {print sessions / $2 * 1000}' "$work/out" >>"$work/ours"
    echo >&8
    wait_for $((round + 1))
done
exec 8>&-
wait $client

sed -i 1d "$work/theirs"
theirs=$(awk '{print $1 / $2}' "$work/theirs" | median)
ours=$(median <"$work/ours")
echo
echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $threads threads, medians of $rounds rounds"
for part in "3 read" "4 inputs" "5 ONNX Runtime"; do
    printf '  Python, %-14s %s s\n' "${part#* }" "$(awk -v n="${part%% *}" '{print $n}' "$work/theirs" | median)"
done
printf 'sessions a second: Python %.0f, coupon.score_sessions %.0f, ratio %.2f (target 5)\n' "$theirs" "$ours" "$(awk "BEGIN {print $ours / $theirs}")"
