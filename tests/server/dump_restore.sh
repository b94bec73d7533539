#!/usr/bin/env bash
# Proves: pg_dump and restore into a new database bring everything back without an error, nothing is fired twice, and
# clicks go on issuing coupons there; loading last month's clicks, by COPY or as a data-only restore, issues nothing.
. "$(dirname "$0")/lib.sh"
shop=$PGDATABASE
restored=${shop}_restored
role=reader_$$
trap 'dropdb --if-exists --force "$restored" 2>/dev/null; PGDATABASE=$shop q "DROP OWNED BY $role; DROP ROLE $role" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

play d- 100 12
q "CREATE ROLE $role; SELECT coupon.grant_access('$role', 'operator')" >/dev/null
expect_true "the shop has coupons" "SELECT count(*) > 0 FROM coupon.coupon"

q "SELECT coupon.name_segment(1, 'the curious')" >/dev/null

# One line a table: its rows and a digest of them, in no order.
fingerprint() {
    psql -XAtq -v ON_ERROR_STOP=1 -d "$1" <<'SQL'
SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %s t', c.oid::regclass, c.oid::regclass)
FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace IN ('coupon'::regnamespace, 'public'::regnamespace)
ORDER BY c.oid::regclass::text \gexec
SQL
}

note "the whole dump"
pg_dump "$shop" >"$work/dump.sql"
grep -q '^CREATE SCHEMA coupon;' "$work/dump.sql" || give_up "the schema is the extension's"
createdb "$restored"
PGDATABASE=$restored psql -Xq -v ON_ERROR_STOP=1 -f "$work/dump.sql" >/dev/null || give_up "the dump does not restore"
fingerprint "$shop" >"$work/before"
fingerprint "$restored" >"$work/after"
diff "$work/before" "$work/after" || give_up "the restored tables differ"
echo "ok: $(wc -l <"$work/before") tables are the same, row by row"
named="SELECT name FROM coupon.segments WHERE segment = 1 AND version = (SELECT max(version) FROM coupon.version)"
expect "a segment has its name there" "$(q "$named")" "$(PGDATABASE=$restored q "$named")"
expect "which people gave it" "the curious" "$(PGDATABASE=$restored q "$named")"
triggers="SELECT tgrelid::regclass::text, tgname, tgenabled, tgargs FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
expect "triggers came along" "$(q "$triggers")" "$(PGDATABASE=$restored q "$triggers")"
expect_true "and who may do what" "SELECT holds FROM coupon.access WHERE role = '$role'"
PGDATABASE=$restored expect_true "there too, with nothing granted again" "SELECT holds FROM coupon.access WHERE role = '$role'"

note "the restored shop goes on"
(
    PGDATABASE=$restored
    before=$(faults)
    play e- 100 12
    expect "clicks are counted" 1200 "$(views e-)"
    expect_true "coupons are issued" "SELECT count(*) > 0 FROM coupon.coupon WHERE session LIKE 'e-%'"
    play d- 100 1
    expect_true "no session has two live coupons" \
        "NOT EXISTS (SELECT FROM coupon.coupon WHERE closed_at IS NULL GROUP BY session HAVING count(*) > 1)"
    expect "no fault" "$before" "$(faults)"
)

note "last month's clicks by COPY"
q "COPY (SELECT 'm-' || i % 500, now() - interval '30 days' + i * interval '1 second', 'view', 'p' || i % 7, 'c' || i % 5, 20
         FROM generate_series(1, 5000) i) TO STDOUT" >"$work/month.copy"
total="SELECT (SELECT count(*) FROM coupon.coupon), (SELECT count(*) FROM coupon.decision)"
before=$(q "$total")
psql -Xq -v ON_ERROR_STOP=1 -c "\\copy click FROM '$work/month.copy'"
expect "the clicks are kept" 5000 "$(clicks m-)"
expect "nothing was issued or decided" "$before" "$(q "$total")"

note "last month's clicks as a data-only restore"
pg_dump --data-only -t public.click "$shop" \
    | grep -v '^[de]-' >"$work/data.sql" # the clicks of a moment ago would be live ones
PGDATABASE=$restored
q "DELETE FROM click"
before=$(q "$total")
psql -Xq -v ON_ERROR_STOP=1 -f "$work/data.sql" >/dev/null || give_up "the data do not restore"
expect "the clicks are there" 5000 "$(clicks m-)"
expect "nothing was issued or decided" "$before" "$(q "$total")"
