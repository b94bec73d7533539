#!/usr/bin/env bash
# Proves: PUBLIC can execute nothing that writes and change no table; definer functions pin their search_path;
# a role that may only INSERT into the click table can click, and can do nothing else.
. "$(dirname "$0")/lib.sh"

# Roles belong to the whole cluster; this one is gone with the test.
role=clicker_$$
owner=$PGUSER
trap 'PGUSER=$owner; q "DROP OWNED BY $role; DROP ROLE $role" >/dev/null; rm -rf "$work"' EXIT
q "CREATE ROLE $role LOGIN; GRANT INSERT ON click TO $role"
as_clicker() { as "$role" "$@"; }

note "from the catalogue"
members="SELECT p.* FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'coupon_ext'"
expect_true "the extension has functions" "SELECT count(*) > 20 FROM ($members) p"
expect "PUBLIC executes no volatile function" "" \
    "$(q "SELECT p.oid::regprocedure FROM ($members) p WHERE p.provolatile = 'v' AND has_function_privilege('$role', p.oid, 'EXECUTE')")"
expect "definer functions pin search_path" "" \
    "$(q "SELECT p.oid::regprocedure FROM ($members) p WHERE p.prosecdef
          AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)")"
expect "PUBLIC changes no table, view or sequence" "" \
    "$(q "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND CASE
          WHEN c.relkind = 'S' THEN has_sequence_privilege('$role', c.oid, 'USAGE, UPDATE')
          WHEN c.relkind IN ('r', 'p', 'v', 'm', 'f') THEN has_table_privilege('$role', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
              OR has_any_column_privilege('$role', c.oid, 'INSERT, UPDATE, REFERENCES') END")"
expect_true "PUBLIC creates nothing in schema coupon" "NOT has_schema_privilege('$role', 'coupon', 'CREATE')"

note "as a role with only INSERT on the click table"
before=$(faults)
for view in 1 2 3 4 5 6; do
    as_clicker q "INSERT INTO click VALUES ('low-1', now(), 'view', 'p$view', 'c1', 20)"
done
expect "its clicks are kept" 6 "$(clicks low-)"
expect "and counted" 6 "$(views low-)"
expect "without a fault" "$before" "$(faults)"

for statement in "SELECT * FROM coupon.coupon" "SELECT * FROM coupon.session" "SELECT weights FROM coupon.model" \
    "SELECT issue_coupon('low-1')" "SELECT redeem_coupon('X', 'o', 1)" "SELECT release_coupon('X', 'o')" \
    "SELECT coupon.record_click('low-1')" "SELECT coupon.go_live('default')" "SELECT coupon.create_storage()" \
    "SELECT coupon.rollback()" "SELECT coupon.export_model(1)" "SELECT coupon.import_model('x')" "SELECT coupon.simulate()" "SELECT * FROM coupon.train()" "SELECT * FROM coupon.tune_churn(1)" "CALL coupon.tune(1)" \
    "DELETE FROM click" "UPDATE coupon.campaign SET campaign = campaign" "SELECT coupon.unwatch('click')"; do
    as_clicker expect_error "refused: $statement" 42501 "$statement"
done
q "CREATE SCHEMA own AUTHORIZATION $role"
as_clicker q "CREATE TABLE own.click (session text, at timestamptz)"
as_clicker expect_error "it cannot put our trigger on its own table" 42501 \
    "CREATE TRIGGER t AFTER INSERT ON own.click REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION coupon.on_click()"
as_clicker expect_error "nor by watch" 42501 "SELECT coupon.watch('own.click', '{\"session\": \"session\", \"at\": \"at\"}')"
as_clicker expect_error "nor move the clock" 42501 "SELECT coupon.clock(); SET coupon_ext.clock = '2030-01-01'"
expect "not even before the library is loaded" t \
    "$(as_clicker q "SET coupon_ext.clock = '2030-01-01'; SELECT coupon.clock() < now() + interval '1 day'" 2>/dev/null)"
