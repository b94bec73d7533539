#!/usr/bin/env bash
# Proves: a training that is canceled in any of its parts, or runs out of statement_timeout, stops within a second,
# leaves no row and no thread, and the connection lives; signals never reach its worker threads and are served while it
# runs.
#
# A stop counts from the cancel to its ERROR at the client. Trainings look at least every 50 ms whether they may go on;
# the limit is a second, and another for a machine that has other things to do (STOP_SECONDS).
# alone: it reloads the configuration, and limits how long a stop takes
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/backend.sh"
limit=${STOP_SECONDS:-2}
train="SELECT count(*) FROM coupon.train(spec => '{\"churn\": {\"epochs\": 1}}', seed => 7)"
# Some seconds, whatever the machine: long enough to be disturbed.
long=${train/1\}/30, \"patience\": 30\}}
stored() {
    q "SELECT (SELECT count(*) FROM coupon.version), (SELECT count(*) FROM coupon.model), (SELECT count(*) FROM coupon.deployment),
       (SELECT sum(hashtextextended(c::text, 0)::numeric) FROM coupon.customer c), (SELECT max(version) FROM coupon.deployment)"
}
before=$(stored)
# stopped WHAT ERROR: the training ended with it, in time, and nothing is left of it
stopped() {
    until_said "ERROR:  $2" "$limit"
    answer "SELECT 1" >/dev/null
    # A thread that has ended is a moment longer in /proc.
    for ((look = 0; look < 20 && $(threads) > 1; look++)); do sleep 0.01; done
    expect "$1: stopped in $(printf %.2f "$waited") s, no thread is left" 1 "$(threads)"
    expect "and no row" "$before" "$(stored)"
    : >"$work/said"
}

note "canceled at the beginning of each part"
connect
begin "SET client_min_messages = debug1"
# In so small a shop some parts take milliseconds, and all may be done before the signal comes: then it is tried again.
# In the end each of the nine has been stopped.
for part in reading sessions segment churn evaluation replay rank customers saving; do
    case $part in reading) heard="reading the log" ;; *) heard="begins $part" ;; esac
    for ((try = 1; ; try++)); do
        begin "$train"
        until_said "$heard"
        kill -INT "$backend"
        asked=$EPOCHREALTIME
        answer "SELECT 1" >/dev/null
        took=$(awk "BEGIN {print $EPOCHREALTIME - $asked}")
        ! grep -q "ERROR:  canceling" "$work/said" || break
        [ $try -lt 20 ] || give_up "$part: twenty trainings were done before they could be canceled"
        before=$(stored)
        : >"$work/said"
    done
    stopped "$part" "canceling statement due to user request"
    awk "BEGIN {exit !($took < $limit)}" || give_up "$part: it took $took s from the signal, not $limit"
done

note "pg_cancel_backend in the middle of churn, and while it waits to save"
begin "$long"
until_said "begins churn"
sleep 0.3
expect "a worker and its pool are at work" t "$([ "$(threads)" -gt 2 ] && echo t)"
q "SELECT pg_cancel_backend($backend)" >/dev/null
stopped "churn" "canceling statement due to user request"
# Its rows are written up to here: the last table is held by somebody else.
psql -XAtq -c "BEGIN; LOCK TABLE coupon.customer IN SHARE MODE; SELECT 'held'; SELECT pg_sleep(600)" >"$work/holder" 2>&1 &
holder=$!
begin "$train"
until_said "begins saving"
until [ "$(q "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $backend")" = Lock ]; do sleep 0.02; done
q "SELECT pg_cancel_backend($backend)" >/dev/null
stopped "a version written and not committed" "canceling statement due to user request"
q "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $ours AND query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()" >/dev/null
wait "$holder" || true

note "statement_timeout"
train=$long
for timeout in 30 150 400 800; do
    begin "SET statement_timeout = $timeout"
    begin "$train"
    limit=$(awk "BEGIN {print $limit + $timeout / 1000}") stopped "after $timeout ms" "canceling statement due to statement timeout"
    begin "SET statement_timeout = 0"
done

note "while PostgreSQL's parallel workers read the log"
begin "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET work_mem = '64kB'"
for timeout in 10 20 30 45 60 80; do
    begin "SET statement_timeout = $timeout"
    begin "$train"
    stopped "after $timeout ms" "canceling statement due to statement timeout"
    begin "SET statement_timeout = 0"
done
begin "RESET ALL; SET client_min_messages = debug1"

note "signals while it trains"
begin "SET coupon_ext.threads = 2; LISTEN something"
begin "$train"
until_said "begins churn"
number=0
for task in /proc/"$backend"/task/*; do
    [ "${task##*/}" != "$backend" ] || continue
    number=$((number + 1))
    # All but KILL, STOP and the two that the C library keeps for itself.
    expect "thread $number has every signal blocked" fffffffe7ffbfeff \
        "$(sed -n 's/^SigBlk:[[:space:]]*//p' "$task/status")"
done
expect "a worker and a pool of two" 3 "$(($(threads) - 1))"
asked=$EPOCHREALTIME
q "SELECT pg_log_backend_memory_contexts($backend)" >/dev/null
until grep -q "logging memory contexts of PID $backend" "$CLUSTER_LOG"; do
    sleep 0.01
    awk "BEGIN {exit !($EPOCHREALTIME - $asked > $limit)}" && give_up "USR1 is not served"
done
echo "ok: USR1 is served while the workers work, after $(awk "BEGIN {printf \"%.2f\", $EPOCHREALTIME - $asked}") s"
for ((i = 0; i < 30; i++)); do
    kill -USR1 "$backend"
    kill -HUP "$backend"
    [ $((i % 10)) != 0 ] || q "NOTIFY something; SELECT pg_reload_conf()" >/dev/null
    sleep 0.01
done
expect "it trains on" 3 "$(($(threads) - 1))"
answer "SELECT 1" >/dev/null
begin "$train"
answer "SELECT 1" >/dev/null
expect "and a training that was left alone finds the same model" 1 \
    "$(q "SELECT count(DISTINCT digest) FROM (SELECT digest FROM coupon.version ORDER BY version DESC LIMIT 2) v")"

note "pg_terminate_backend"
before=$(stored)
: >"$work/said"
begin "$train"
until_said "begins churn"
q "SELECT pg_terminate_backend($backend)" >/dev/null
until_said "terminating connection due to administrator command" "$limit"
echo "ok: terminated in $(printf %.2f "$waited") s"
disconnect
expect "nothing is left" "$before" "$(stored)"
[ ! -e "/proc/$backend" ] || give_up "the process is still there"
