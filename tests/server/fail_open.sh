#!/usr/bin/env bash
# Proves: whatever is broken in turn, every click is kept and coupon.error_log tells what happened; put right, all goes on
# as before.
. "$(dirname "$0")/lib.sh"

# broken WHAT PREFIX: twelve views of five sessions, so that some become due, and somebody asks for a coupon.
broken() {
    play "$2" 5 12
    q "SELECT issue_coupon('${2}1')" >/dev/null
    expect "$1: the clicks are kept" 60 "$(clicks "$2")"
}
told() { expect_true "$1: coupon.error_log tells" "SELECT coalesce(sum(repeated), 0) > $2 FROM coupon.error_log"; }

note "a storage table is missing"
# A budget, so that its purses are asked for.
q "UPDATE coupon.campaign SET max_discount = 5, budget = 1000000 WHERE campaign = 'default'"
for table in session customer decision coupon campaign arm budget_bucket model version deployment storage missed_click customer_limit audit; do
    before=$(faults)
    q "ALTER TABLE coupon.$table RENAME TO lost"
    broken "without coupon.$table" "lost-$table-" 2>/dev/null
    q "ALTER TABLE coupon.lost RENAME TO $table"
    case $table in
        customer | customer_limit) ;; # nobody here is a customer
        *) told "without coupon.$table" "$before" ;;
    esac
done
q "ALTER TABLE coupon.error_log RENAME TO lost; ALTER TABLE coupon.session RENAME TO lost_too"
broken "without coupon.session and coupon.error_log" lost-both- 2>/dev/null
q "ALTER TABLE coupon.lost RENAME TO error_log; ALTER TABLE coupon.lost_too RENAME TO session"
broken "all tables are back" back-
expect "and every view counts" 60 "$(views back-)"
expect_true "and coupons are issued" "(SELECT count(*) FROM coupon.coupon WHERE session LIKE 'back-%') > 0"

note "no room for temporary files"
before=$(faults)
# Beyond work_mem PostgreSQL itself keeps a statement's new rows in a temporary file, for any trigger that asks for
# them.
q "SET temp_file_limit = 0; SET work_mem = '4MB'; INSERT INTO click SELECT 'temp-' || i % 3000, now(), 'view', repeat('p', 100), 'c1', 20 FROM generate_series(1, 12000) i"
expect "12,000 clicks are kept" 12000 "$(clicks temp-)"
expect "and counted" 12000 "$(views temp-)"
expect "without a fault" "$before" "$(faults)"

note "what is no session, and what is too long"
before=$(faults)
q "INSERT INTO click VALUES (NULL, now(), 'view', 'p1', 'c1', 20)"
q "INSERT INTO click SELECT repeat('s', 1000000), now(), 'view', 'p1', 'c1', 20"
expect "both are kept" 2 "$(q "SELECT count(*) FROM click WHERE session IS NULL OR length(session) = 1000000")"
expect "neither becomes a session" 0 "$(q "SELECT count(*) FROM coupon.session WHERE length(session) > 256")"
told "a session id of a megabyte" "$before"
q "INSERT INTO click SELECT 'long-1', now(), 'view', 'p' || v, repeat('c', 100000), 20 FROM generate_series(1, 8) v"
expect "a category of 100 kB is kept" 8 "$(clicks long-)"
expect "and counted" 8 "$(views long-)"
expect "issue_coupon takes nonsense" "|" "$(q "SELECT issue_coupon(repeat('s', 1000000)), issue_coupon(NULL::text)")"

note "the session's row is held for longer than lock_wait"
play held- 1 3
before=$(faults)
psql -XAtq -c "BEGIN" -c "SELECT FROM coupon.session WHERE session = 'held-1' FOR UPDATE" -c "SELECT pg_sleep(2)" -c "COMMIT" >/dev/null &
sleep 0.5
begin=$(date +%s%N)
q "INSERT INTO click VALUES ('held-1', now(), 'view', 'p4', 'c1', 20)" 2>/dev/null
took=$((($(date +%s%N) - begin) / 1000000))
expect "the click did not wait for it (it took $took ms)" t "$([ $took -lt 1000 ] && echo t)"
wait
expect "it is kept" 4 "$(clicks held-)"
told "a held row" "$before"
expect "it gets no decision before it was rebuilt" 1 "$(q "SELECT count(*) FROM coupon.missed_click WHERE session = 'held-1'")"
q "SELECT issue_coupon('held-1')" >/dev/null
expect "then no view is missing" 4 "$(views held-)"

note "switched off"
before=$(faults)
q "SET coupon_ext.enabled = off; INSERT INTO click SELECT 'off-1', now(), 'view', 'p' || v, 'c1', 20 FROM generate_series(1, 8) v; SELECT issue_coupon('off-1')" >/dev/null
expect "the clicks are kept" 8 "$(clicks off-)"
expect "nothing is noticed" "0 0" "$(views off-) $(decisions off-)"
expect "without a fault" "$before" "$(faults)"

note "a role without rights on our tables"
role=shopper_$$
owner=$PGUSER
trap 'PGUSER=$owner; q "DROP OWNED BY $role; DROP ROLE $role" >/dev/null; rm -rf "$work"' EXIT
q "CREATE ROLE $role LOGIN; GRANT INSERT ON click TO $role"
before=$(faults)
for ((view = 1; view <= 8; view++)); do
    as "$role" q "INSERT INTO click SELECT 'role-' || i, now(), 'view', 'p$view', 'c1', 20 FROM generate_series(1, 10) i"
done
expect "its clicks are kept" 80 "$(clicks role-)"
expect "and counted" 80 "$(views role-)"
expect_true "and some are given a coupon" "(SELECT count(*) FROM coupon.coupon WHERE session LIKE 'role-%') > 0"
expect "without a fault" "$before" "$(faults)"

note "statement_timeout and cancel inside scoring cancel the statement, and leave nothing"
expect_error "a timeout inside a large load" 57014 "SET statement_timeout = 150; INSERT INTO click SELECT 'slow-' || i % 20000, now(), 'view', 'p1', 'c1', 20 FROM generate_series(1, 600000) i"
expect "no click, no session" "0 0" "$(clicks slow-) $(views slow-)"
expect "no mark" 0 "$(q "SELECT count(*) FROM coupon.missed_click WHERE session LIKE 'slow-%'")"
expect "sound for the next" 10 "$(play slow- 10 1 && views slow-)"
amcheck
