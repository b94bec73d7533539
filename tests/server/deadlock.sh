#!/usr/bin/env bash
# Proves: transactions that click for (a, then b) and for (b, then a) at once never deadlock the shop: all commit, all clicks are
# kept, and what could not be counted at the time is made good from the stored log.
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

note "after a sweep every view is counted"
q "SELECT coupon.sweep()" >/dev/null
expect "views of x" 1600 "$(views x-)"
expect "views of y" 10000 "$(views y-)"
