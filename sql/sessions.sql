-- sessions: one session's events as they are stored.
CREATE FUNCTION coupon.session_events(session text) RETURNS SETOF coupon.event
LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'session_events_wrapper';
COMMENT ON FUNCTION coupon.session_events(text) IS 'The stored events of one session, each table read with its owner''s rights; what a session that missed a click is rebuilt from';
