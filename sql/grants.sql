-- What writes, and what tells of a person, is nobody's until it is granted.
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA coupon FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION assign_segment(text), churn_probability(text), churn_probability(int, coupon.page_view[]),
    rank_categories(text, text, int), issue_coupon(text), issue_coupon(bigint), issue_coupon(uuid),
    redeem_coupon(text, text, numeric, text, text), release_coupon(text, text),
    reserve_coupon(text, text, interval, numeric, text, text), show_coupon(text, text, text),
    dismiss_coupon(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.clock(), coupon.storage_version(), coupon.growth(float8, float8),
    coupon.estimated_sales(float8, float8, float8), coupon.normalise_code(text), coupon.budget_date(text), coupon.minor_units(text),
    coupon.worst_case(numeric, text, numeric), coupon.draw_arm(text, float8[], text),
    coupon.mapping_fault(regclass, jsonb, text, jsonb), coupon.column_names(regclass) TO PUBLIC;
GRANT SELECT ON coupon.watched TO PUBLIC;
