-- results: growth and sales as published, and the views on planted sessions whose numbers are worked out by hand.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL

-- The four scenarios of Seo & Yoo (IEEE Access 2022), tables 4 and 5: published rates, counts, growth and issue rate.
WITH published(scenario, issued, n_issued, not_issued, n_not, growth, issue_rate) AS (VALUES
    (1, 12.25, 1056, 2.47, 77177, 395.95, 1.34), (2, 5.43, 664, 3.29, 76603, 65.04, 0.85),
        (3, 7.71, 2217, 2.35, 93548, 227.69, 2.31), (4, 4.09, 1220, 3.34, 105448, 22.45, 1.14))
SELECT scenario, round(100 * coupon_internal.compute_growth(issued / 100, not_issued / 100)::numeric, 2) AS growth,
    round(coupon_internal.compute_estimated_sales(issue_rate / 100, growth / 100, 0.1)::numeric, 2) AS sales_published_growth,
    round(coupon_internal.compute_estimated_sales(issue_rate / 100, coupon_internal.compute_growth(issued, not_issued), 0.1)::numeric,
        2) AS sales_own_growth,
    round(coupon_internal.compute_estimated_sales(n_issued::float8 / (n_issued + n_not), coupon_internal.compute_growth(issued, not_issued),
        0.1)::numeric, 2) AS sales_from_counts
FROM published ORDER BY scenario;
SELECT coupon_internal.compute_growth(0.1, 0) AS nobody_bought, coupon_internal.compute_growth(NULL, 0.1) AS none_issued,
    coupon_internal.compute_growth(0, 0.1) AS issued_in_vain, coupon_internal.compute_growth(0.1, 0.1) AS no_growth;
SELECT coupon_internal.compute_estimated_sales(0, 5, 0.1) AS none_issued, coupon_internal.compute_estimated_sales(1, 0, 0.1) AS all_issued_in_vain,
    coupon_internal.compute_estimated_sales(0.5, 1, 0.5) AS even, coupon_internal.compute_estimated_sales(NULL, 1, 0.1) AS unknown,
    coupon_internal.compute_estimated_sales(0.1, NULL, 0.1) AS no_growth_known;

-- Planted sessions of a campaign with two arms. In arm s1 eight were issued a coupon, two of them bought; twenty were
-- not, two of them bought, two were held out.
INSERT INTO coupon.campaign (campaign, state, salt, discount, unlimited)
    VALUES ('planted', 'draft', 'planted', 25, true);
INSERT INTO coupon.arm (campaign, arm, policy, segments, ranking, share)
    VALUES ('planted', 's1', 'at_risk', true, 'personal', 0.5), ('planted', 's4', 'random', false, 'popular', 0.5);
SELECT scenario, segments, churn_model, personalised, issued, issued_conversion, not_issued, not_issued_conversion,
    growth, issue_rate, causal FROM coupon.conversion_by_scenario WHERE campaign = 'planted' ORDER BY scenario;
SET coupon_ext.mock_clock = '2030-01-01 00:00:00';
SELECT coupon.go_live('planted');
RESET coupon_ext.mock_clock;
CREATE TABLE planted AS SELECT session, arm, row_number() OVER (PARTITION BY arm ORDER BY n) AS n
FROM (SELECT 'planted-' || n AS session, n, coupon.arm_of('planted', 'planted-' || n) AS arm
    FROM generate_series(1, 200) n) p;
INSERT INTO coupon.session (session, started_at, last_at, views, segment, ended, purchased)
SELECT session, '2030-01-01 00:00:00'::timestamptz + n * interval '1 minute', '2030-01-02', 5, 0, false, arm = 's1'
    AND n IN (1, 2, 9, 10) OR arm = 's4' AND n <= 1 FROM planted WHERE arm = 's1' AND n <= 28 OR arm = 's4' AND n <= 10;
-- A buyer of before the campaign went live does not count.
INSERT INTO coupon.session (session, started_at, last_at, views, segment, ended, purchased) SELECT session,
    '2029-12-31 23:59:59.999999', '2030-01-01', 5, 0, true, true FROM planted WHERE n BETWEEN 50 AND 60;
INSERT INTO coupon.decision (session, campaign, arm, policy, segments, ranking, decided_at, clicked_at, view, segment,
    version, target, arm_draw, arm_probability, issue_draw, issue_probability, categories, outcome, reason)
SELECT session, 'planted', arm, 'at_risk', true, 'personal', '2030-01-01', '2030-01-01', 4, 0, 2, 0.0134, 0.5, 0.5,
    0.5, 0.8, '[]', CASE WHEN n <= 8 THEN 'issued' ELSE 'held out' END, 'eligible' FROM planted WHERE arm = 's1'
    AND (n <= 8 OR n IN (9, 11));
-- 2 / 8 = 25 %, 2 / 20 = 10 %: growth 1.5; 8 of 28 issued. Sales: 100 · 8/28 · 2.5 · 0.75 + 100 · 20/28 = 125.
SELECT scenario, segments, churn_model, personalised, issued, issued_conversion, not_issued, not_issued_conversion,
    round(growth::numeric, 6) AS growth, round(issue_rate::numeric, 6) AS issue_rate, causal
FROM coupon.conversion_by_scenario WHERE campaign = 'planted' ORDER BY scenario;
SELECT scenario, round(issue_rate::numeric, 6) AS issue_rate, round(growth::numeric, 6) AS growth, discount,
    round(sales::numeric, 6) AS sales, causal FROM coupon.estimated_sales WHERE campaign = 'planted' ORDER BY scenario;
-- A session issued a coupon by another campaign is not this one's.
SELECT count(*) AS issued_by_default FROM coupon.decision WHERE campaign = 'default' AND outcome = 'issued'
    AND session LIKE 'planted-%';
DELETE FROM coupon.campaign WHERE campaign = 'planted';
DELETE FROM coupon.decision WHERE campaign = 'planted';
DELETE FROM coupon.session WHERE session LIKE 'planted-%';

-- The default campaign's real flow, counted from the clicks.
WITH s AS (SELECT session, bool_or(kind = 'purchase') AS purchased,
    EXISTS (SELECT FROM coupon.coupon c WHERE c.session = k.session AND c.campaign = 'default') AS issued
    FROM coupon.click k WHERE session IN (SELECT session FROM coupon.session WHERE started_at >= '2026-02-06')
        GROUP BY session)
SELECT v.issued > 20 AS dozens, v.issued = count(*) FILTER (WHERE s.issued) AS issued,
    v.not_issued = count(*) FILTER (WHERE NOT s.issued) AS not_issued,
    abs(v.issued_conversion - avg(s.purchased::int) FILTER (WHERE s.issued)) < 1e-9 AS issued_conversion,
        abs(v.not_issued_conversion - avg(s.purchased::int) FILTER (WHERE NOT s.issued)) < 1e-9 AS not_issued_conversion
FROM s, coupon.conversion_by_scenario v WHERE v.campaign = 'default' GROUP BY v.issued, v.not_issued,
    v.issued_conversion, v.not_issued_conversion;
SELECT bool_and(NOT causal) AS nothing_is_called_causal
    FROM (SELECT causal FROM coupon.conversion_by_scenario UNION ALL SELECT causal FROM coupon.estimated_sales) c;

-- Training leaves out what was issued a coupon and weighs what was held out, and says so in the card.
BEGIN;
DO $$ BEGIN PERFORM coupon.train_churn(until => '2026-02-09', spec => '{"churn": {"epochs": 1}}'); END $$;
SELECT i.n > 20 AS dozens, (card ->> 'issued_left_out')::int = i.n AS issued_left_out,
    (card ->> 'sessions')::int = (SELECT sessions_left FROM coupon.preprocessing p WHERE p.version = m.version
    AND step = 3) - i.n AS sessions,
    (card ->> 'effective_sessions')::float8 < (card ->> 'sessions')::float8 AS effective_sample_is_smaller
FROM coupon.model m, (SELECT count(*) AS n FROM coupon.decision d
    JOIN (SELECT session, count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views FROM coupon.click
    WHERE at < '2026-02-09' GROUP BY session) c USING (session)
    WHERE outcome = 'issued' AND clicked_at < '2026-02-09' AND views <= 100) i WHERE stage = 'sessions'
        ORDER BY version DESC LIMIT 1;
-- A held-out session weighs 1 / P(not issued) = 5: (n + 4h)² / (n + 24h).
SELECT abs((card ->> 'effective_sessions')::float8 - ((card ->> 'sessions')::float8 + 4 * h) ^ 2
    / ((card ->> 'sessions')::float8 + 24 * h)) < 0.01 AS effective_sessions
FROM coupon.model m, (SELECT count(*)::float8 AS h FROM coupon.decision d
    JOIN (SELECT session, count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views FROM coupon.click
    WHERE at < '2026-02-09' GROUP BY session) c USING (session)
    WHERE outcome = 'held out' AND clicked_at < '2026-02-09' AND views <= 100) d WHERE stage = 'sessions'
        ORDER BY version DESC LIMIT 1;
ROLLBACK;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
