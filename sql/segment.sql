-- segment: which of the trained segments a customer belongs to.
CREATE FUNCTION @extschema@.assign_segment(customer text) RETURNS int
LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'assign_segment_wrapper';
COMMENT ON FUNCTION @extschema@.assign_segment(text) IS 'The customer''s segment under the active version; 0 = unknown or anonymous';

CREATE FUNCTION coupon.refresh_segments(as_of timestamptz DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'refresh_segments_wrapper';
COMMENT ON FUNCTION coupon.refresh_segments(timestamptz) IS 'Recomputes every customer''s variables, segment and purchases as of a day (default: today on coupon.clock()); returns their number';

CREATE FUNCTION coupon.name_segment(segment int, name text, version bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted CONSTANT bigint := coalesce(name_segment.version,
        (SELECT d.version FROM coupon.deployment d ORDER BY d.id DESC LIMIT 1));
    given CONSTANT text := nullif(btrim(name_segment.name), '');
BEGIN
    PERFORM coupon_internal.require_storage();
    IF NOT EXISTS (SELECT FROM coupon.segments s WHERE s.version = wanted AND s.segment = name_segment.segment) THEN
        RAISE EXCEPTION 'version % has no segment %', coalesce(wanted::text, '(none)'), coalesce(name_segment.segment::text, 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'SELECT version, segment, name FROM coupon.segments shows what there is.';
    END IF;
    DELETE FROM coupon.segment_name n WHERE n.version = wanted AND n.segment = name_segment.segment;
    IF EXISTS (SELECT FROM coupon.segments s WHERE s.version = wanted AND s.name = given AND s.segment <> name_segment.segment) THEN
        RAISE EXCEPTION 'another segment of version % is called "%"', wanted, given
            USING ERRCODE = 'unique_violation', HINT = 'Give each segment of a version a name of its own.';
    END IF;
    IF given IS NOT NULL THEN
        INSERT INTO coupon.segment_name VALUES (wanted, name_segment.segment, given);
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.name_segment(int, text, bigint) IS 'Names a segment of a version (default: the active one) in all views; NULL or an empty name gives it back the name made from its statistics';
