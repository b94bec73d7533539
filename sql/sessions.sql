-- sessions: what the preprocessing rules removed, read from the cards of the versions.
CREATE FUNCTION coupon.clock() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'clock_now_wrapper';
COMMENT ON FUNCTION coupon.clock() IS 'The one clock of coupons: now(), or the time the superuser-only setting coupon_ext.clock holds';
