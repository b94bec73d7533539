-- score: many stored sessions at once, and why one is thought to leave.
-- The watched tables as one log in order of session. A purchase that knows only its customer belongs to that customer's
-- latest session with a view at or before it and within the timeout, and comes last of its moment, as in training.
-- $1 and $2 are the window, $3 the timeout in microseconds. The window's sessions are found by session_key, which has the
-- statistics of the shop's column: by session, PostgreSQL expects one and joins by nested loops.
CREATE FUNCTION coupon_internal.build_score_query(whole boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fields CONSTANT text := 'at_key, session_key, at, session, customer, kind, page, category, product, quantity, price, order_id, zone, attributes';
    named text;
    unnamed text;
BEGIN
    SELECT string_agg(format('SELECT %s FROM (%s) s WHERE session IS NOT NULL', fields, s.query), ' UNION ALL ')
               FILTER (WHERE w.columns ? 'session'),
           string_agg(format('SELECT at, customer, kind FROM (%s) s', s.query), ' UNION ALL ')
               FILTER (WHERE NOT w.columns ? 'session')
    INTO named, unnamed FROM coupon_internal.list_sources() s JOIN coupon.watched w ON w.relation = s.relation AND w.fits;
    PERFORM coupon_internal.warn_misfits();
    IF named IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN 'SELECT session, at, customer, kind, page, category, price, attributes FROM ('
        || format('SELECT 1 AS last, %s FROM (%s) n', fields, named)
        || CASE WHEN unnamed IS NULL THEN '' ELSE format(' UNION ALL (SELECT DISTINCT ON (p.at, p.customer, p.kind) 2, NULL::timestamptz, v.session_key, p.at, v.session, p.customer, '
               'p.kind, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM (%s) p JOIN (%s) v ON v.customer = p.customer '
               'AND v.at BETWEEN p.at - make_interval(secs => $3 / 1e6) AND p.at '
               'AND v.kind NOT IN (''checkout'', ''purchase'') '
               'ORDER BY p.at, p.customer, p.kind, v.at DESC, v.session COLLATE "C" DESC)', unnamed, named) END
        || ') e'
        || CASE WHEN whole THEN '' ELSE format(' WHERE session_key IN (SELECT session_key FROM (%s) w WHERE at_key >= $1 AND at_key < $2)',
               named) END
        || ' ORDER BY session COLLATE "C", at, last, ' || coupon_internal.build_event_order();
END
$$;
COMMENT ON FUNCTION coupon_internal.build_score_query(boolean) IS 'The SELECT that coupon.score_sessions reads: all events of the sessions of a window, or of all, in order of session and time; NULL when nothing is watched';

CREATE FUNCTION coupon.score_sessions(since timestamptz, until timestamptz)
    RETURNS TABLE (session text, customer text, started_at timestamptz, segment int, views int, churn float8,
        max_purchase_probability float8, version bigint)
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED ROWS 10000 SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET extra_float_digits = 1
AS 'MODULE_PATHNAME', 'score_sessions_wrapper';
COMMENT ON FUNCTION coupon.score_sessions(timestamptz, timestamptz) IS 'Every stored session whose first view lies in [since, until), scored by the active version over all its views before a checkout or purchase: P(churn) after the last, the largest P(purchase) after any. The segment is what assign_segment gives the customer of the first view now; campaigns and their arms play no part';

CREATE FUNCTION coupon.explain_churn(session text)
    RETURNS TABLE (view int, at timestamptz, kind text, page text, category text, churn_after float8,
        contribution float8, rank int)
LANGUAGE c STABLE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'explain_churn_wrapper';
COMMENT ON FUNCTION coupon.explain_churn(text) IS 'What each of the last 200 page views of a live session did to its P(churn): with all views minus without that one, the most decisive first; above 0 speaks for leaving. NULL for a session''s only view';
