#!/usr/bin/env bash
# Proves: a cancelled tuning stops within a second, keeps the trials it has committed, and goes on as if it had not been
# cancelled; every thread it makes has the signals blocked, and is gone with the call.
# alone: it limits how long a stop takes
. "$(dirname "$0")/lib.sh"

# Large enough that a trial takes a while; three trials in, the points are chosen by what was learned.
spec='{"tune": {"epochs": 2, "initial": 3, "space": {"hidden": {"low": 16, "high": 64}}}}'
until=$(q "SELECT max(at) + interval '1 hour' FROM coupon.click")
one() { q "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CALL coupon.tune%' AND state = 'active'"; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

note "threads"
q "CALL coupon.tune(50, until => '$until', spec => '$spec')" >/dev/null 2>"$work/said" &
seen=0
open=""
while [ "$(q "SELECT count(*) FROM coupon.tuning")" -lt 5 ]; do
    kill -0 $! 2>/dev/null || give_up "the tuning ended: $(cat "$work/said")"
    pid=$(one)
    [ -n "$pid" ] || continue
    for task in /proc/"$pid"/task/*; do
        [ "${task##*/}" != "$pid" ] || continue
        blocked=$(sed -n 's/^SigBlk:\t//p' "$task/status" 2>/dev/null) || continue
        [ -n "$blocked" ] || continue
        seen=$((seen + 1))
        # All but SIGKILL, SIGSTOP and the two the C library keeps for itself.
        [ "$blocked" = fffffffe7ffbfeff ] || open="$open $blocked"
    done
    sleep 0.1
done
[ $seen -gt 0 ] || give_up "no thread was seen"
expect "$seen looks at threads: all signals blocked" "" "$open"

note "cancelled while it computes"
pid=$(one)
begin=$(milliseconds)
q "SELECT pg_cancel_backend($pid)" >/dev/null
wait $! && give_up "it was not cancelled"
took=$(($(milliseconds) - begin))
grep -q 'canceling statement due to user request' "$work/said" || give_up "$(cat "$work/said")"
[ $took -lt 1000 ] || give_up "it took $took ms to stop"
echo "ok: stopped after $took ms"
kept=$(q "SELECT count(*) FROM coupon.tuning")
[ "$kept" -ge 5 ] || give_up "only $kept trials were kept"
expect "their numbers have no hole" "$kept" "$(q "SELECT max(trial) FROM coupon.tuning")"

note "going on"
q "CALL coupon.tune(2, until => '$until', spec => '$spec')" >/dev/null 2>"$work/said" || give_up "$(cat "$work/said")"
expect "one study" "1 $((kept + 2))" "$(q "SELECT count(DISTINCT study) || ' ' || count(*) FROM coupon.tuning")"
q "CREATE TABLE parts AS SELECT * FROM coupon.tuning; DELETE FROM coupon.tuning" >/dev/null
q "SELECT count(*) FROM coupon.tune_churn($((kept + 2)), until => '$until', spec => '$spec')" >/dev/null 2>"$work/said" \
    || give_up "$(cat "$work/said")"
expect "an uninterrupted call finds the same" $((kept + 2)) \
    "$(q "SELECT count(*) FROM parts p JOIN coupon.tuning t USING (study, trial, spec, loss, auroc)")"

note "a time limit"
begin=$(milliseconds)
expect_error "statement_timeout" 57014 "SET statement_timeout = '1s'; SELECT * FROM coupon.tune_churn(50, until => '$until', spec => '$spec')"
took=$(($(milliseconds) - begin))
[ $took -lt 2000 ] || give_up "it took $took ms to stop after one second"
expect "nothing of a cancelled function is left" $((kept + 2)) "$(q "SELECT count(*) FROM coupon.tuning")"

note "two at once"
q "SELECT count(*) FROM coupon.tune_churn(50, until => '$until', spec => '$spec')" >/dev/null 2>"$work/said" &
while [ "$(q "SELECT count(*) FROM pg_locks WHERE $our_locks AND relation = 'coupon.mutex'::regclass AND mode = 'RowExclusiveLock'")" = 0 ]; do sleep 0.1; done
expect_error "the second is told" 55006 "SELECT * FROM coupon.tune_churn(1, until => '$until', spec => '$spec')"
q "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'" >/dev/null
wait $! || true
expect "no fault was written" 0 "$(faults)"
