#!/usr/bin/env bash
# Proves: coupon.score_sessions and coupon.explain_churn stop within a second when cancelled and leave no thread behind;
# both answer on a hot standby what they answer on the primary.
# alone: it limits how long a stop takes, and copies the whole cluster
. "$(dirname "$0")/lib.sh"

note "a log that takes a while"
q "CREATE TABLE big (session text, at timestamptz)"
q "SELECT coupon.watch('big', '{\"session\": \"session\", \"at\": \"at\"}', live => false)" >/dev/null
q "INSERT INTO big SELECT 'big' || i % 20000, timestamptz '2035-01-01' + i * interval '1 second' FROM generate_series(1, 400000) i"

note "cancelled while it reads, while it scores"
cancelled=0
# A thread that has ended is a moment longer in /proc.
until_ended="DO 'BEGIN FOR look IN 1 .. 100 LOOP
    EXIT WHEN (SELECT count(*) FROM pg_ls_dir(''/proc/'' || pg_backend_pid() \
        || ''/task'')) = 1; PERFORM pg_sleep(0.01); END LOOP; END'"
for limit in 50 200 500 1000 2000; do
    said=$(psql -XAtq -c "SET coupon_ext.threads = 2; SET statement_timeout = $limit" -c '\timing on' \
        -c "SELECT count(*) FROM coupon.score_sessions('-infinity', 'infinity')" -c '\timing off' -c 'SET statement_timeout = 0' \
        -c "$until_ended" -c "SELECT 'threads ' || count(*) FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/task')" \
        -c "SELECT 'again ' || count(*) FROM coupon.score_sessions('2035-01-01', '2035-01-01 00:10')" 2>&1)
    case $said in *"canceling statement due to statement timeout"*) cancelled=$((cancelled + 1)) ;; esac
    took=$(sed -n 's/^Time: \([0-9]*\).*/\1/p' <<<"$said" | head -n 1)
    if [ "$took" -gt $((limit + 1000)) ]; then give_up "cancelled after $limit ms, stopped after $took ms"; fi
    expect "no thread is left after $limit ms" "threads 1" "$(grep '^threads' <<<"$said")"
    expect "and the connection works on" "again 599" "$(grep '^again' <<<"$said")"
done
expect "it was cancelled at least once" t "$([ $cancelled -gt 0 ] && echo t)"

note "the endless session"
q "INSERT INTO click SELECT 'endless', now() - interval '1 day' + i * interval '1 millisecond', 'view', 'p' FROM generate_series(1, 300000) i"
begin=$(date +%s%N)
expect_error "explain_churn is cancelled" 57014 \
    "SET statement_timeout = 100; SELECT * FROM coupon.explain_churn('endless')"
took=$((($(date +%s%N) - begin) / 1000000))
if [ $took -gt 1500 ]; then give_up "cancelled after 100 ms, stopped after $took ms"; fi
expect "and without a limit it looks at the last 200 views" 200 \
    "$(q "SELECT count(*) FROM coupon.explain_churn('endless')")"

note "on a hot standby"
play standby- 20 6
. "$here/../../scripts/common.sh"
use_postgres
standby=$(as_server mktemp -d /tmp/coupon_ext.XXXXXX)
stop_standby() {
    as_server "$(command -v pg_ctl)" -D "$standby/data" -s -m immediate stop || true
    case $standby in /tmp/coupon_ext.??????) rm -rf -- "$standby" ;; esac
    rm -rf "$work"
}
trap stop_standby EXIT
as_server "$(command -v pg_basebackup)" -D "$standby/data" -R -c fast -h "$PGHOST" -p "$PGPORT" -U "$PGUSER"
as_server "$(command -v pg_ctl)" -D "$standby/data" -s -w -l "$standby/log" -o "-c listen_addresses='' -c unix_socket_directories='$standby'" start >/dev/null
both() { expect "$1" "$(q "$2")" "$(PGHOST=$standby q "$2")"; }
expect "it is one" t "$(PGHOST=$standby q "SELECT pg_is_in_recovery()")"
# The simulated shop is scored whole: attributes, customers and segments too.
both "all sessions" "SELECT count(*) > 1000, md5(string_agg(s::text, ',')) FROM coupon.score_sessions('-infinity', '2034-01-01') s"
both "explained" "SELECT count(*), md5(string_agg(e::text, ',')) FROM coupon.explain_churn('standby-1') e"
expect "and there is something to explain" 6 \
    "$(PGHOST=$standby q "SELECT count(*) FROM coupon.explain_churn('standby-1')")"
