-- segment: which of the trained segments a customer belongs to.
CREATE FUNCTION assign_segment(customer text) RETURNS int
LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'assign_segment_wrapper';
COMMENT ON FUNCTION assign_segment(text) IS 'The customer''s segment under the active version; 0 = unknown or anonymous';

CREATE FUNCTION coupon.refresh_segments(as_of timestamptz DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'refresh_segments_wrapper';
COMMENT ON FUNCTION coupon.refresh_segments(timestamptz) IS 'Recomputes every customer''s loyalty variables and purchases as of a day (default: today on coupon.clock()); returns their number';
