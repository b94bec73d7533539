#!/usr/bin/env bash
# Proves: transactions that click for (a, then b) and for (b, then a) at once never deadlock the shop: all commit, all
# clicks are kept, and what could not be counted at the time is made good from the stored log. No wait for a row fails a
# click.
# alone: how many wait too long depends on the machine
. "$(dirname "$0")/lib.sh"

cat >"$work/cross.sql" <<'SQL'
\set first random(1, 4)
\set second random(1, 4)
BEGIN;
INSERT INTO click VALUES ('x-' || :first, now(), 'view', 'p1', 'c1', 20);
INSERT INTO click VALUES ('x-' || :second, now(), 'view', 'p2', 'c2', 20);
COMMIT;
SQL
clients 8 100 "$work/cross.sql"
expect "every click is kept" 1600 "$(clicks x-)"
expect "PostgreSQL saw no deadlock" 0 "$(q "SELECT pg_stat_force_next_flush(); SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()" | tail -n 1)"

note "one statement with many sessions, in opposite orders"
cat >"$work/up.sql" <<'SQL'
INSERT INTO click SELECT 'y-' || i, now(), 'view', 'p1', 'c1', 20 FROM generate_series(1, 50) i;
SQL
cat >"$work/down.sql" <<'SQL'
INSERT INTO click SELECT 'y-' || i, now(), 'view', 'p1', 'c1', 20 FROM generate_series(50, 1, -1) i;
SQL
clients 8 25 "$work/up.sql" -f "$work/down.sql"
expect "every click is kept" 10000 "$(clicks y-)"

# A wait that ends in the instant the row is released must not fail the click: rows are held about as long as patience
# lasts.
note "short patience, rows and new sessions held for as long"
q "ALTER DATABASE $PGDATABASE SET coupon_ext.lock_wait = 2"
cat >"$work/contend.sql" <<'SQL'
\set known random(1, 4)
\set new random(1, 150)
BEGIN;
INSERT INTO click VALUES ('z-' || :known, now(), 'view', 'p1', 'c1', 20);
\sleep 1500 us
COMMIT;
BEGIN;
INSERT INTO click VALUES ('z-' || :part || '-' || :new, now(), 'view', 'p1', 'c1', 20);
\sleep 1 ms
COMMIT;
SQL
clients 8 300 "$work/contend.sql" -D part=1
note "the same through SQL statements"
q "ALTER TABLE coupon.session ADD CONSTRAINT guarded CHECK (views >= 0)"
clients 8 300 "$work/contend.sql" -D part=2
q "ALTER TABLE coupon.session DROP CONSTRAINT guarded"
q "ALTER DATABASE $PGDATABASE RESET coupon_ext.lock_wait"
expect "every click is kept" 9600 "$(clicks z-)"
expect_true "some had to give up" "EXISTS (SELECT FROM coupon.error_log WHERE session LIKE 'z-%' AND sqlstate = '55P03')"
expect_true "and most did not" "(SELECT count(*) FROM coupon.missed_click WHERE session LIKE 'z-%') < 0.75 * 9600"

note "after a sweep every view is counted"
q "SELECT coupon.maintain()" >/dev/null
expect "views of x" 1600 "$(views x-)"
expect "views of y" 10000 "$(views y-)"
expect "views of z" 9600 "$(views z-)"

note "rows that lost a race are gone from table and indexes"
amcheck
