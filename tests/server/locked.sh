#!/usr/bin/env bash
# Proves: whatever of our tables somebody locks as a whole, a click and a question end, and the click is kept; sessions
# that missed it are rebuilt when the table is free. And a thousand clicks of one transaction are all counted.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/backend.sh"

play l- 3 2
tables=$(q "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1")
connect
n=0
for table in $tables; do
    answer "BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE" >/dev/null
    # Far more than coupon_ext.lock_wait, so that only a wait without bound fails it.
    q "SET statement_timeout = '10s'; SET client_min_messages = error; INSERT INTO click VALUES ('l-1', now(), 'view', 'p1', 'c1', 20), ('l-2', now(), 'view', 'p1', 'c1', 20)"
    q "SET statement_timeout = '10s'; SET client_min_messages = error; INSERT INTO click VALUES ('l-3', now(), 'view', 'p1', 'c1', 20), ('l-new-$((++n))', now(), 'view', 'p1', 'c1', 20)"
    q "SET statement_timeout = '10s'; SET client_min_messages = error; SELECT issue_coupon('l-1') IS NOT DISTINCT FROM NULL" >/dev/null 2>&1 || note "with $table locked the question is an error"
    answer "ROLLBACK" >/dev/null
done
disconnect
expect_true "there was something to lock" "$n > 20"
expect "every click is kept" "$((6 + 4 * n))" "$(clicks l-)"
expect_true "some had to wait in vain" "EXISTS (SELECT FROM coupon.error_log WHERE sqlstate = '55P03')"
# A mark that could not be written because the table of marks itself was locked is the one thing that is lost.
q "INSERT INTO coupon.missed_click (session, reason) SELECT DISTINCT session, 'its mark could not be written' FROM click WHERE session LIKE 'l-%'"
q "SELECT coupon.maintain()" >/dev/null
expect "every view is counted" "$((6 + 4 * n))" "$(views l-)"

note "a thousand clicks in one transaction, one statement each"
{ echo "BEGIN;"; for ((i = 1; i <= 1000; i++)); do echo "INSERT INTO click VALUES ('t-$((i % 50))', now(), 'view', 'p$((i % 7))', 'c1', 20);"; done; echo "COMMIT;"; } >"$work/thousand.sql"
psql -Xq -v ON_ERROR_STOP=1 -f "$work/thousand.sql"
expect "views" 1000 "$(views t-)"
expect "faults" 0 "$(q "SELECT count(*) FROM coupon.error_log WHERE session LIKE 't-%'")"
amcheck
