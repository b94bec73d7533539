-- sessions: one session's events as they are stored.
CREATE FUNCTION coupon.session_events(session text) RETURNS SETOF coupon.event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' AS $$
DECLARE
    query text := coupon.events_query('session = $1');
BEGIN
    IF query IS NOT NULL THEN
        RETURN QUERY EXECUTE query USING session;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.session_events(text) IS 'The stored events of one session; what a session that missed a click is rebuilt from';
