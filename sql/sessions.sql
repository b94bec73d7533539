-- sessions: one session's events as they are stored, and those that missed a click.
CREATE FUNCTION coupon.session_events(session text) RETURNS SETOF coupon.event
LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'session_events_wrapper';
COMMENT ON FUNCTION coupon.session_events(text) IS 'The stored events of one session, each table read with its owner''s rights; what a session that missed a click is rebuilt from';

CREATE FUNCTION coupon_internal.rebuild_marked_sessions(batch int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s text;
    rebuilt bigint := 0;
BEGIN
    -- Who was tried in vain comes after all others, so that nobody waits for a session that cannot be rebuilt now.
    FOR s IN SELECT DISTINCT d.session FROM (
        SELECT g.session FROM coupon.missed_click g WHERE g.rebuildable ORDER BY g.tries, g.id LIMIT batch) d
    LOOP
        PERFORM coupon_internal.evaluate_session(s);
        IF NOT EXISTS (SELECT FROM coupon.missed_click g WHERE g.session = s) THEN
            rebuilt := rebuilt + 1;
        ELSE
            UPDATE coupon.missed_click SET tries = tries + 1 WHERE id IN (
                SELECT g.id FROM coupon.missed_click g WHERE g.session = s AND g.rebuildable FOR NO KEY UPDATE SKIP LOCKED);
        END IF;
    END LOOP;
    RETURN rebuilt;
END
$$;
COMMENT ON FUNCTION coupon_internal.rebuild_marked_sessions(int) IS 'Rebuilds marked sessions from the log, those that were marked first and tried least first; how many no longer have a mark';
