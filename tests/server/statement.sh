#!/usr/bin/env bash
# Proves: the clicks of one statement, however many, are held in bounded memory, and every session is advanced once
# through all of its own; what does not fit into memory gives the same as what does.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/backend.sh"
rows=$(full 5000000 600000)
sessions=$((rows / 50))

# allow BYTES: the address space the backend may have
allow() {
    local as=()
    [ "$(id -u)" != 0 ] || as=(setpriv "--reuid=$(stat -c %u "/proc/$backend")" "--regid=$(stat -c %g "/proc/$backend")" --clear-groups)
    "${as[@]}" prlimit --pid "$backend" --as="$1:"
}
started=$(q "SELECT pg_postmaster_start_time()")

note "$rows clicks of $sessions sessions in one statement, with 64 MB more than the same without a trigger needs"
connect
# What a backend needs for such a statement at all is mapped by the table that is not watched.
answer "CREATE TABLE unwatched (LIKE click); LOAD 'coupon_ext'" >/dev/null
statement="SELECT 'm' || i % $sessions, '2020-01-01'::timestamptz + i * interval '1 ms', 'view', 'p' || i % 50, 'c' || i % 5, 20 FROM generate_series(1, $rows) i"
answer "INSERT INTO unwatched $statement; INSERT INTO click VALUES ('warm', '2020-01-01', 'view', 'p1', 'c1', 20)" >/dev/null
size=$(sed -n 's/^VmSize:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$backend/status")
allow $(((size + 65536) * 1024))
answer "INSERT INTO click $statement" >/dev/null
expect "the statement ends" 1 "$(answer "SELECT 1")"
disconnect
expect "every click is kept" "$rows" "$(clicks m)"
expect "and counted" "$rows" "$(views m)"
expect "each session once" "$sessions" "$(q "SELECT count(*) FROM coupon.session WHERE session LIKE 'm%'")"
expect "without a fault" 0 "$(faults)"

note "where the operating system refuses even less, the error is ours alone"
for more in 0 1 2 4 8 16; do
    connect
    answer "LOAD 'coupon_ext'; INSERT INTO click VALUES ('warm', '2020-01-01', 'view', 'p1', 'c1', 20)" >/dev/null
    size=$(sed -n 's/^VmSize:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$backend/status")
    allow $(((size + more * 1024) * 1024))
    answer "INSERT INTO click SELECT 'n$more-' || i % 4000, '2020-01-01', 'view', 'p' || i % 50, 'c' || i % 5, 20 FROM generate_series(1, 60000) i" >/dev/null
    expect "with $more MB the backend lives" 1 "$(answer "SELECT 1")"
    disconnect
done
expect "and so does the server" "$started" "$(q "SELECT pg_postmaster_start_time()")"

note "sorted on disk, and grouped in memory: the same sessions to the bit"
q "CREATE TABLE mixed AS SELECT 'k' || (i * 7919) % 997 AS session, '2026-01-25 10:00:00+00'::timestamptz + (i * 31 % 5000) * interval '10 ms' AS at,
    (ARRAY['view', 'search', 'cart', 'view', 'view'])[1 + i % 5] AS kind, CASE WHEN i % 11 > 0 THEN 'p' \
        || i % 50 END AS page,
    'c' || i % 5 AS category, (i % 100) / 3.0 AS price FROM generate_series(1, 60000) i"
# one HOW SETTINGS: all of mixed in one statement
one() {
    q "SET work_mem = '$2'; SET hash_mem_multiplier = 1; INSERT INTO click SELECT '$1' || session, at, kind, page, category, price FROM mixed ORDER BY md5(page || at)"
}
one disk- 64kB
one room- 1GB
expect "sessions" "997 997" "$(q "SELECT count(*) FILTER (WHERE session LIKE 'disk-%') || ' ' || count(*) FILTER (WHERE session LIKE 'room-%') FROM coupon.session")"
expect "those that differ" 0 "$(q "SELECT count(*) FROM coupon.session a JOIN coupon.session b ON b.session = 'room-' || substr(a.session, 6)
    WHERE a.session LIKE 'disk-%' AND (a.views, a.started_at, a.last_at, a.churn, a.max_purchase_probability, a.state) IS DISTINCT FROM (b.views, b.started_at, b.last_at, b.churn, b.max_purchase_probability, b.state)")"
expect "and from what the log says" 0 "$(q "
    CREATE TEMP TABLE live AS SELECT session, views, churn, state FROM coupon.session WHERE session LIKE 'disk-k1%';
    INSERT INTO coupon.missed_click (session, reason) SELECT session, 'as if it had missed a click' FROM live;
    DO \$\$ BEGIN PERFORM coupon_internal.evaluate_session(session) FROM live; END \$\$;
    SELECT count(*) FROM coupon.session s JOIN live l USING (session) WHERE (s.views, s.churn, s.state) IS DISTINCT FROM (l.views, l.churn, l.state)")"

note "one session with more clicks than fit"
q "SET work_mem = '64kB'; INSERT INTO click SELECT 'giant', '2026-01-25 10:00:00+00'::timestamptz + i * interval '1 ms', 'view', 'p' || i % 50, 'c', 20 FROM generate_series(1, 20000) i ORDER BY md5(i::text)"
expect "its views" 20000 "$(views giant)"
amcheck
