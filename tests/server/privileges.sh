#!/usr/bin/env bash
# Proves, from the catalogue, for every object: who may what, by name, so that a new object is noticed; definer
# functions pin their search_path; SQL is put together in a few named places. A role that may only INSERT into the click
# table can click, and can do nothing else.
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
          AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false) ORDER BY 1")"
expect "PUBLIC changes no table, view or sequence" "" \
    "$(q "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND CASE
          WHEN c.relkind = 'S' THEN has_sequence_privilege('$role', c.oid, 'USAGE, UPDATE')
          WHEN c.relkind IN ('r', 'p', 'v', 'm', 'f') THEN has_table_privilege('$role', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
              OR has_any_column_privilege('$role', c.oid, 'INSERT, UPDATE, REFERENCES') END")"
expect_true "PUBLIC creates nothing in our schemas" \
    "NOT has_schema_privilege('$role', 'coupon', 'CREATE') AND NOT has_schema_privilege('$role', 'coupon_internal', 'CREATE')"

expect "nobody but the owner and PUBLIC has anything on anything" "" "$(q "
    SELECT pg_describe_object(o.class, o.oid, 0) || ': ' || a.grantee::regrole || ' ' || a.privilege_type
    FROM (SELECT 'pg_proc'::regclass AS class, p.oid, p.proacl AS acl, p.proowner AS owner FROM ($members) p
        UNION ALL SELECT 'pg_class', c.oid, c.relacl, c.relowner FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace
        UNION ALL SELECT 'pg_type', t.oid, t.typacl, t.typowner FROM pg_type t WHERE t.typnamespace = 'coupon'::regnamespace
        UNION ALL SELECT 'pg_namespace', n.oid, n.nspacl, n.nspowner FROM pg_namespace n WHERE n.nspname IN ('coupon', 'coupon_internal')) o
    CROSS JOIN LATERAL aclexplode(o.acl) a WHERE a.grantee NOT IN (0, o.owner) OR a.grantee = 0 AND a.is_grantable")"
expect "PUBLIC executes these, which only compute" \
    "clock compute_estimated_sales compute_growth compute_worst_case convert_time convert_time draw_arm find_foreign_partition find_mapping_fault find_stock_fault get_budget_date get_minor_units get_storage_version get_watch_state list_columns map_event normalise_code" \
    "$(q "SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM ($members) p WHERE has_function_privilege('$role', p.oid, 'EXECUTE')")"
expect "PUBLIC reads one view, which is of the catalogue" watched \
    "$(q "SELECT string_agg(c.relname, ' ') FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND CASE
          WHEN c.relkind = 'S' THEN has_sequence_privilege('$role', c.oid, 'SELECT')
          WHEN c.relkind IN ('r', 'p', 'v', 'm', 'f') THEN has_table_privilege('$role', c.oid, 'SELECT') OR has_any_column_privilege('$role', c.oid, 'SELECT') END")"
expect "SQL is put together in these functions, from quoted names" \
    "change_rights check_trigger create_views drop_transition_tables events raise_unreadable_table unwatch watch" \
    "$(q "SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM ($members) p JOIN pg_language l ON l.oid = p.prolang
          WHERE l.lanname = 'plpgsql' AND p.prosrc ~ '(^|\\s|;)EXECUTE\\s+(?!FUNCTION)'")"
expect "none of them a definer's" "" "$(q "SELECT p.oid::regprocedure FROM ($members) p WHERE p.prosecdef AND p.prosrc ~ '(^|\\s|;)EXECUTE\\s+(?!FUNCTION)'")"
# A body that begins with BEGIN ATOMIC was looked up when the extension was installed, in pg_catalog alone.
expect "all that are looked up as they run pin their search_path but two procedures that commit, which pgspot reads" \
    "sweep_all tune" \
    "$(q "SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM ($members) p JOIN pg_language l ON l.oid = p.prolang
          WHERE l.lanname IN ('sql', 'plpgsql') AND p.prosqlbody IS NULL AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)")"

note "what each access is, by name"
# has ACCESS FUNCTIONS RIGHTS: beside what PUBLIC has
has() {
    q "CREATE ROLE ${role}_$1; SELECT coupon.grant_access('${role}_$1', '$1')" >/dev/null
    expect "$1 executes" "$2" "$(q "SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM ($members) p
        WHERE has_function_privilege('${role}_$1', p.oid, 'EXECUTE') AND NOT has_function_privilege('$role', p.oid, 'EXECUTE')")"
    expect "$1 changes" "$3" "$(q "SELECT string_agg(c.relname || ' ' || r, ', ' ORDER BY c.relname, r) FROM pg_class c, unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) r
        WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege('${role}_$1', c.oid, r)")"
    expect "$1 reads" "$4" "$(q "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c
        WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'p') AND has_table_privilege('${role}_$1', c.oid, 'SELECT')")"
    q "DROP OWNED BY ${role}_$1; DROP ROLE ${role}_$1" >/dev/null
}
has application "assign_segment churn_probability dismiss_coupon issue_coupon live_offer rank_categories record_click redeem_coupon release_coupon reserve_coupon show_coupon" "" ""
has analyst assign_segment "" ""
has marketer "arm_of assign_segment create_storage explain_decision go_live read_stock require_storage watch_stock" \
    "arm DELETE, arm INSERT, arm UPDATE, campaign DELETE, stock_source DELETE, stock_source INSERT, stock_source UPDATE" \
    "arm stock_source"
has operator "activate arm_of assign_segment build_event_order build_event_query build_events_query build_from_item build_score_query build_text_sql build_time_sql churn_probability create_storage drop_version evaluate_churn events explain_churn explain_decision export_model forget get_base_type import_model list_access_rights list_misfits list_missing_rights list_sources list_views live_offer lock_mutex maintain maintain_all name_segment raise_unreadable_table rank_categories read_stock refresh_segments require_storage rollback run_training run_tuning score_sessions session_events train train_churn train_ranking try_lock_name tune tune_churn warn_misfits" \
    "customer DELETE, customer INSERT, customer UPDATE, deployment INSERT, model INSERT, segment_name DELETE, segment_name INSERT, tuning INSERT, version INSERT" \
    "archived_total arm audit budget_bucket campaign click coupon customer customer_limit decision deployment error_log missed_click model mutex order_discount redemption_attempt redemption_limit role_access segment_name session stock_source storage tuning version"
q "SELECT coupon.revoke_access(NULL)" >/dev/null

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
    "SELECT coupon.rollback()" "SELECT coupon.export_model(1)" "SELECT coupon.import_model('x')" \
        "SELECT coupon.simulate()" "SELECT * FROM coupon.train()" "SELECT * FROM coupon.tune_churn(1)" \
        "CALL coupon.tune(1)" \
    "DELETE FROM click" "UPDATE coupon.campaign SET campaign = campaign" "SELECT coupon.unwatch('click')"; do
    as_clicker expect_error "refused: $statement" 42501 "$statement"
done
q "CREATE SCHEMA own AUTHORIZATION $role"
as_clicker q "CREATE TABLE own.click (session text, at timestamptz)"
as_clicker expect_error "it cannot put our trigger on its own table" 42501 \
    "CREATE TRIGGER t AFTER INSERT ON own.click REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click()"
as_clicker expect_error "nor by watch" 42501 "SELECT coupon.watch('own.click', '{\"session\": \"session\", \"at\": \"at\"}')"
as_clicker expect_error "nor move the clock" 42501 "SELECT coupon.clock(); SET coupon_ext.mock_clock = '2030-01-01'"
expect "not even before the library is loaded" t \
    "$(as_clicker q "SET coupon_ext.mock_clock = '2030-01-01'; SELECT coupon.clock() < now() + interval '1 day'" 2>/dev/null)"
