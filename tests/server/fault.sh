#!/usr/bin/env bash
# Proves: an error forced inside scoring keeps the click, is written to coupon.error_log and leaves the tables sound; with
# on_error = raise it reaches the client; a cancel inside a big load cancels and leaves nothing.
. "$(dirname "$0")/lib.sh"

note "corrupt weights"
q "CREATE TABLE kept AS TABLE coupon.model"
before=$(faults)
# Model rows are never changed; as replica no trigger can hold us back. Every connection below decodes them afresh.
q "SET session_replication_role = replica; UPDATE coupon.model SET weights = '\\x6e6f7420612066696c65'"
play f- 20 3
expect "the clicks are kept" 60 "$(clicks f-)"
expect_true "the fault is written" "SELECT coalesce(sum(repeated), 0) > $before FROM coupon.error_log"
expect "no coupon" 0 "$(coupons f-)"
click="INSERT INTO click VALUES ('f-1', now(), 'view', 'p', 'c1', 20)"
expect "the client is told once a connection" 1 "$(psql -XAtq -c "$click" -c "$click" 2>&1 | grep -c '^WARNING')"
expect_true "issue_coupon gives nothing" "issue_coupon('f-1') IS NULL"
if q "LOAD 'coupon_ext'; SET coupon_ext.on_error = raise; $click" >/dev/null 2>"$work/said"; then give_up "on_error = raise raised nothing"; fi
grep -q '^ERROR' "$work/said" || { cat "$work/said"; give_up "on_error = raise: no error"; }
echo "ok: on_error = raise: $(head -n 1 "$work/said")"
expect "and that click is not kept" 62 "$(clicks f-)"
amcheck

note "weights restored: a sweep makes the sessions good"
q "SET session_replication_role = replica; UPDATE coupon.model m SET weights = k.weights FROM kept k
   WHERE (m.version, m.stage, m.segment) = (k.version, k.stage, k.segment)"
q "SELECT coupon.maintain()" >/dev/null
expect "every view is counted" 62 "$(views f-)"
before=$(faults)
play g- 20 3
expect "and new sessions meet no fault" "$before" "$(faults)"

# all_or_nothing NAME ROWS ERROR: what a big load left, whether it was canceled with this message or was faster
canceled=0
all_or_nothing() {
    if [ ! -s "$work/said" ]; then
        expect "$1 came too late: every click is kept and counted" "$2 $2" "$(clicks "$1-") $(views "$1-")"
    else
        grep -q "ERROR:  $3" "$work/said" || { cat "$work/said"; give_up "$1: another error"; }
        expect "$1 canceled: nothing is left" "0 0" "$(clicks "$1-") $(views "$1-")"
        canceled=$((canceled + 1))
    fi
}
big() { echo "SELECT '$1-' || i % 20000, now(), 'view', 'p1', 'c1', 20 FROM generate_series(1, 200000) i"; }

note "time limits inside a big load, in the rows and in the trigger behind them"
for limit in 50 200 400 600 800; do
    q "SET statement_timeout = $limit; INSERT INTO click $(big "limit$limit")" >/dev/null 2>"$work/said" || true
    all_or_nothing "limit$limit" 200000 "canceling statement due to statement timeout"
done

note "pg_cancel_backend inside a COPY"
for after in 100 300 500; do
    q "COPY ($(big "cancel$after")) TO STDOUT" >"$work/big.copy"
    psql -Xq -v ON_ERROR_STOP=1 -c "\\copy click FROM '$work/big.copy'" 2>"$work/said" &
    while kill -0 $! 2>/dev/null; do
        q "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%click%'
           AND state = 'active' AND clock_timestamp() - query_start > interval '$after ms'" >/dev/null
    done
    wait $! || true
    all_or_nothing "cancel$after" 200000 "canceling statement due to user request"
done
[ $canceled -gt 0 ] || give_up "no load was long enough to be canceled"
echo "ok: $canceled loads were canceled"
amcheck
