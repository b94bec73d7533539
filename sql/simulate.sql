-- A shop to try it on.
CREATE FUNCTION coupon.simulate(customers int DEFAULT 2000, days int DEFAULT 35, seed bigint DEFAULT 0,
    start timestamptz DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'simulate_wrapper';
COMMENT ON FUNCTION coupon.simulate(int, int, bigint, timestamptz) IS 'Fills coupon.click with a plausible fashion shop, through ordinary INSERTs; the same seed and a later start continue the same shop. Returns the number of clicks';
