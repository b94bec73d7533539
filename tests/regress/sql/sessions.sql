-- sessions: the preprocessing rules, in their order, beside a count in plain SQL; and what makes a session a buyer's.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- The rules in plain SQL over coupon.events. Page views are all but checkout and purchase; a session is open at `until`
-- when it was seen in the timeout before it.
CREATE FUNCTION rules(until timestamptz, timeout interval, max_views int, short_views int, drop_last int)
    RETURNS TABLE (step int, rule text, sessions_removed bigint, views_removed bigint, sessions_left bigint,
        views_left bigint) LANGUAGE sql AS $$
    WITH e AS (
        -- A purchase that knows only its customer belongs to that customer's latest session with a view at or before it
        -- and within the timeout.
        SELECT coalesce(e.session, CASE WHEN e.at - v.at <= timeout THEN v.session END) AS session, e.at, e.kind,
            row_number() OVER () AS n
        FROM coupon.events('-infinity', rules.until) e
        LEFT JOIN LATERAL (SELECT v.session, v.at FROM coupon.events('-infinity', rules.until) v
            WHERE e.session IS NULL AND v.customer = e.customer AND v.session IS NOT NULL
                AND v.kind NOT IN ('checkout', 'purchase') AND v.at <= e.at
            ORDER BY v.at DESC LIMIT 1) v ON true),
    f AS (SELECT e.*, bool_or(kind IN ('checkout', 'purchase')) OVER (PARTITION BY session ORDER BY n) AS over FROM e
        WHERE session IS NOT NULL),
    s AS (SELECT session, max(at) > rules.until - timeout AS open,
        count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views,
              count(*) FILTER (WHERE NOT over) AS kept FROM f GROUP BY session),
    r AS (SELECT s.*, CASE WHEN open THEN 1 WHEN views > max_views THEN 2 WHEN kept = 0 THEN 3 WHEN kept <= short_views
        THEN 4 END AS out FROM s),
    removed AS (
        SELECT 1 AS step, 'open session' AS rule, count(*) FILTER (WHERE out = 1) AS sessions,
            coalesce(sum(views) FILTER (WHERE out = 1), 0) AS views FROM r
        UNION ALL SELECT 2, 'more page views than a person', count(*) FILTER (WHERE out = 2),
            coalesce(sum(views) FILTER (WHERE out = 2), 0) FROM r
        UNION ALL SELECT 3, 'checkout and after', count(*) FILTER (WHERE out = 3),
            coalesce(sum(views - kept) FILTER (WHERE out IS NULL OR out >= 3), 0) FROM r
        UNION ALL SELECT 4, 'short session', count(*) FILTER (WHERE out = 4),
            coalesce(sum(kept) FILTER (WHERE out = 4), 0) FROM r
        UNION ALL SELECT 5, 'last views', 0, coalesce(sum(least(drop_last, kept)) FILTER (WHERE out IS NULL), 0) FROM r)
    SELECT step, rule, sessions, views, (SELECT count(*) FROM s) - sum(sessions) OVER (ORDER BY step),
        (SELECT sum(views) FROM s) - sum(views) OVER (ORDER BY step) FROM removed
$$;

-- The version that stands.
SELECT step, rule, population FROM coupon.preprocessing WHERE version = 1 ORDER BY step;
SELECT v.step, v.rule, v.sessions_removed > 0 AS removed_sessions, v.views_removed > 0 AS removed_views,
    (v.sessions_removed, v.views_removed, v.sessions_left, v.views_left) = (r.sessions_removed, r.views_removed,
        r.sessions_left, r.views_left) AS counted_alike
FROM coupon.preprocessing v FULL JOIN rules('2026-02-01', '30 minutes', 100, 3, 3) r USING (step, rule)
    WHERE v.version = 1 ORDER BY step;

-- Planted sessions, so that every rule has something to remove; another until, another timeout, other lengths.
BEGIN;
CREATE TABLE till (client text, sold timestamptz);
SELECT coupon.watch('till', '{"customer": "client", "at": "sold"}', 'purchase', live => false);
INSERT INTO coupon.click (session, at, kind, customer) VALUES
    ('planted-checkout-first', '2026-01-10 10:00:00', 'checkout', NULL),
        ('planted-checkout-first', '2026-01-10 10:00:01', 'view', NULL),
    ('planted-purchase-only', '2026-01-10 10:00:00', 'purchase', NULL),
    ('planted-open', '2026-01-20 11:55:00', 'view', NULL), ('planted-just-closed', '2026-01-20 11:50:00', 'view', NULL),
    ('planted-till', '2026-01-10 10:00:00', 'view', 'tilly'), ('planted-till', '2026-01-10 10:01:00', 'view', 'tilly'),
        ('planted-till', '2026-01-10 10:02:00', 'view', 'tilly');
INSERT INTO coupon.click (session, at, kind) SELECT 'planted-bot',
    '2026-01-10 10:00:00'::timestamptz + i * interval '1 second', 'view' FROM generate_series(1, 41) i;
INSERT INTO coupon.click (session, at, kind) SELECT 'planted-not-a-bot',
    '2026-01-10 10:00:00'::timestamptz + i * interval '1 second', 'view' FROM generate_series(1, 40) i;
INSERT INTO till VALUES ('tilly', '2026-01-10 10:02:00'), ('tilly', '2026-01-10 10:12:01'),
    ('nobody', '2026-01-10 10:00:00');
DO $$ BEGIN PERFORM coupon.train(until => '2026-01-20 12:00:00', spec => '{"churn": {"epochs": 1},
    "sessions": {"session_timeout": 600, "max_views": 40, "short_views": 2, "drop_last": 5}}'); END $$;
SELECT v.step, v.rule, v.sessions_removed > 0 AS removed_sessions, v.views_removed > 0 AS removed_views,
    (v.sessions_removed, v.views_removed, v.sessions_left, v.views_left) = (r.sessions_removed, r.views_removed,
        r.sessions_left, r.views_left) AS counted_alike
FROM coupon.preprocessing v FULL JOIN rules('2026-01-20 12:00:00', '10 minutes', 40, 2, 5) r USING (step, rule)
WHERE v.version = (SELECT max(version) FROM coupon.version) ORDER BY step;
-- One purchase of the till came too late for a session, one has none; the card counts both, and the buyers.
SELECT card -> 'unattributed_purchases' AS unattributed,
    (card ->> 'buyers')::bigint = (SELECT count(*)
        FROM (SELECT session, bool_or(kind = 'purchase') AS buys FROM coupon.events('-infinity', '2026-01-20 12:00:00')
        WHERE session IS NOT NULL GROUP BY session HAVING max(at) <= '2026-01-20 11:50:00'
            AND count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) BETWEEN 1 AND 40
            AND (array_agg(kind ORDER BY at))[1] NOT IN ('checkout', 'purchase')) s WHERE buys) + 1 AS buyers_and_tilly
FROM coupon.model WHERE version = (SELECT max(version) FROM coupon.version) AND stage = 'sessions';
ROLLBACK;

-- Three windows in time order by first view, 80/10/10, none overlapping, none leaving a session out.
SELECT (card -> 'train' ->> 'sessions')::int + (card -> 'validation' ->> 'sessions')::int
    + (card -> 'test' ->> 'sessions')::int = (card ->> 'sessions')::int AS complete,
    (card -> 'train' ->> 'to')::bigint <= (card -> 'validation' ->> 'from')::bigint
        AND (card -> 'validation' ->> 'to')::bigint <= (card -> 'test' ->> 'from')::bigint AS in_time_order,
    abs((card -> 'train' ->> 'sessions')::float8 / (card ->> 'sessions')::float8 - 0.8) < 0.001 AS fit_80,
        abs((card -> 'test' ->> 'sessions')::float8 / (card ->> 'sessions')::float8 - 0.1) < 0.001 AS judge_10,
    (card ->> 'sessions')::bigint = (SELECT sessions_left FROM coupon.preprocessing p WHERE p.version = 1
        AND step = 3) AS those_left_by_the_rules_for_everybody
FROM coupon.model WHERE version = 1 AND stage = 'sessions';

-- The setting says when a session is over, unless the specification does.
BEGIN;
SET LOCAL coupon_ext.session_timeout = '5min';
DO $$ BEGIN PERFORM coupon.train_churn(until => '2026-02-01', spec => '{"churn": {"epochs": 1}}'); END $$;
DO $$ BEGIN PERFORM coupon.train_churn(until => '2026-02-01',
    spec => '{"churn": {"epochs": 1}, "sessions": {"session_timeout": 60}}'); END $$;
SELECT spec -> 'session_timeout' AS session_timeout FROM coupon.model WHERE stage = 'sessions' ORDER BY version DESC
    LIMIT 2;
ROLLBACK;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
