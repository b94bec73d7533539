-- What writes, and what tells of a person, is nobody's until it is granted.
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA coupon, coupon_internal FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION @extschema@.assign_segment(text), @extschema@.churn_probability(text),
    @extschema@.churn_probability(int, coupon.page_view[]), @extschema@.rank_categories(text, text, int),
    @extschema@.issue_coupon(text), @extschema@.issue_coupon(bigint), @extschema@.issue_coupon(uuid),
    @extschema@.redeem_coupon(text, text, numeric, text, text), @extschema@.release_coupon(text, text),
    @extschema@.reserve_coupon(text, text, interval, numeric, text, text), @extschema@.show_coupon(text, text, text),
    @extschema@.dismiss_coupon(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.clock(), coupon_internal.get_storage_version(), coupon_internal.compute_growth(float8, float8),
    coupon_internal.compute_estimated_sales(float8, float8, float8), coupon_internal.normalise_code(text), coupon_internal.get_budget_date(text), coupon_internal.get_minor_units(text),
    coupon_internal.compute_worst_case(numeric, text, numeric), coupon.draw_arm(text, float8[], text),
    coupon_internal.map_event(text, "any"), coupon_internal.convert_time(timestamp), coupon_internal.convert_time(date),
    coupon_internal.find_mapping_fault(regclass, jsonb, text, jsonb), coupon_internal.list_columns(regclass),
    coupon_internal.get_watch_state(oid), coupon_internal.find_foreign_partition(regclass), coupon_internal.find_stock_fault(regclass, name, name) TO PUBLIC;
GRANT SELECT ON coupon.watched TO PUBLIC;

-- The data belongs to the shop: DROP EXTENSION … CASCADE takes functions, views and triggers, and leaves the schema with
-- its tables.
ALTER EXTENSION coupon_ext DROP SCHEMA coupon;
-- It left them before: until coupon.create_storage() has put back what it took, every click and every verb is told so by
-- the version.
DO $$
BEGIN
    IF to_regclass('coupon.storage') IS NOT NULL THEN
        UPDATE coupon.storage SET version = -abs(version), revision = gen_random_uuid();
    END IF;
END
$$;
