-- The whole flow on a real log: one of the files of REES46's "eCommerce behavior data from multi category store".
--   make demo LOG=2019-Oct.csv.gz    (or: LOG=… psql -X -q -d shop <examples/rees46.sql, as a superuser, in a database without the extension)
\set ON_ERROR_STOP on
SET timezone = 'UTC';
\pset footer off
\pset null -

\echo
\echo '== 1  The log, as its owner shaped it ============================================================================='
\echo
\set ECHO queries
CREATE TABLE event (event_time timestamptz, event_type text, product_id bigint, category_id bigint, category_code text,
    brand text, price numeric, user_id bigint, user_session uuid);
\set ECHO none
-- All of it waits in a table of the same shape first. The last line of the file is cut off.
CREATE TABLE arriving (LIKE event);
\copy arriving from program 'zcat -f "$LOG" | head -n -1' with (format csv, header)
CREATE INDEX ON arriving (event_time);
ANALYZE arriving;
\set ECHO queries
SELECT event_type, count(*) AS events, count(DISTINCT user_session) AS sessions, count(DISTINCT user_id) AS users,
    min(event_time), max(event_time) FROM arriving GROUP BY event_type ORDER BY 2 DESC;
\set ECHO none
\echo 'One statement points the extension at the table. The categories are the ones that have a name.'
\echo
\set ECHO queries
CREATE EXTENSION coupon_ext;
SELECT coupon.watch('event', '{"session": "user_session", "customer": "user_id", "at": "event_time", "kind": "event_type",
    "product": "product_id", "category": "category_code", "price": "price"}');
\set ECHO none

\echo
\echo '== 2  Training on the first 80 % of the events ===================================================================='
\echo
\echo 'Most sessions are still open at the end of so short a log, so five minutes of silence close one here.'
\echo
SELECT percentile_disc(0.8) WITHIN GROUP (ORDER BY event_time) AS until FROM arriving \gset
\set ECHO queries
SET coupon_ext.session_timeout = '5min';
INSERT INTO event SELECT * FROM arriving WHERE event_time < :'until' ORDER BY event_time;
SELECT count(*) AS decisions, (SELECT count(*) FROM coupon.session) AS sessions FROM coupon.decision;
\set ECHO none
\echo 'Old clicks decide nothing, whenever they are loaded. Now train:'
\echo
\set ECHO queries
CREATE TEMP TABLE training AS SELECT * FROM coupon.train(until => :'until');
\set ECHO none
\echo
WITH epochs AS (
    SELECT *, tune_loss = min(tune_loss) OVER w AS best, step = max(step) OVER w AS last
    FROM training WHERE stage = 'churn' AND step IS NOT NULL WINDOW w AS (PARTITION BY segment))
SELECT segment, step AS epoch, round(loss::numeric, 4) AS loss, round(tune_loss::numeric, 4) AS tune_loss,
    round(auroc::numeric, 3) AS auroc, round(auprc::numeric, 3) AS auprc, round(seconds::numeric, 1) AS seconds,
    CASE WHEN best THEN 'best' END AS note
FROM epochs WHERE step = 1 OR best OR last ORDER BY segment, step;
\pset format unaligned
\pset tuples_only on
SELECT format('%-8s  %s', stage, note) FROM training WHERE note IS NOT NULL AND stage <> 'sessions';
\pset tuples_only off
\pset format aligned
\echo
\set ECHO queries
SELECT step, rule, population, sessions_removed, views_removed, sessions_left, views_left FROM coupon.preprocessing;
SELECT segment, name, sessions, buyers, round(churn_rate::numeric, 4) AS churn_rate FROM coupon.segments;
SELECT population, model, predictions, round(base_rate::numeric, 3) AS base_rate, round(auroc::numeric, 3) AS auroc,
    round(auprc::numeric, 3) AS auprc, round(brier::numeric, 4) AS brier, round(ece::numeric, 3) AS ece
FROM coupon.model_metrics WHERE segment IS NULL AND population IN ('cut', 'live');
\set ECHO none
\echo 'So few buyers show the flow and say nothing about the quality of a model; nor do so few sessions, all of them short enough'
\echo 'to be over, make exact thresholds: expect more than the target of 1.34 % to be eligible below.'

\echo
\echo '== 3  Live: the rest of the log, click by click ==================================================================='
\echo
\echo 'A fixed salt makes the draws the same in every run of this example. No order of this log is paid with its coupons, so no budget'
\echo 'bounds them: a shop keeps one.'
\echo
\set ECHO queries
UPDATE coupon.campaign SET salt = 'first shop', budget = NULL, max_discount = NULL, unlimited = true WHERE campaign = 'default';
SET coupon_ext.mock_clock = :'until';
SELECT coupon.go_live('default');
DO $$
DECLARE
    second timestamptz;
BEGIN
    FOR second IN SELECT DISTINCT event_time FROM arriving WHERE event_time >= coupon.clock() ORDER BY 1 LOOP
        PERFORM set_config('coupon_ext.mock_clock', second::text, false);
        INSERT INTO event SELECT * FROM arriving WHERE event_time = second;
    END LOOP;
END
$$;
SELECT outcome, count(*), count(DISTINCT category) AS categories, min(view) AS first_view, max(view) AS last_view
FROM coupon.decision GROUP BY outcome ORDER BY outcome;
SELECT issued_at, left(session, 8) AS session, d.customer, segment, view, round(max_purchase_probability::numeric, 3) AS max_purchase_probability,
    round(churn::numeric, 3) AS churn, c.category
FROM coupon.coupon c JOIN coupon.decision d USING (session, campaign) ORDER BY issued_at LIMIT 10;
\set ECHO none

\echo
\echo '== 4  At the till ================================================================================================='
\echo
SELECT code, session FROM coupon.coupon WHERE closed_at IS NULL ORDER BY issued_at DESC LIMIT 1 \gset
SELECT translate(lower(:'code'), '01-', 'ol') AS typed \gset
\set ECHO queries
SELECT code, category, discount, expires_at, message FROM issue_coupon(:'session'::uuid);
SELECT * FROM redeem_coupon(:'typed', 'order-1', 129.90, session => :'session');
SELECT * FROM redeem_coupon(:'typed', 'order-2', 129.90, session => :'session');
\set ECHO none

\echo
\echo '== 5  Results ====================================================================================================='
\echo
\set ECHO queries
SELECT scenario, issued, round(issued_conversion::numeric, 4) AS issued_conversion, not_issued,
    round(not_issued_conversion::numeric, 4) AS not_issued_conversion, round(growth::numeric, 4) AS growth,
    round(issue_rate::numeric, 4) AS issue_rate, causal
FROM coupon.conversion_by_scenario;
SELECT scenario, round(issue_rate::numeric, 4) AS issue_rate, round(growth::numeric, 4) AS growth, discount,
    round(sales::numeric, 2) AS sales, causal
FROM coupon.estimated_sales;
\set ECHO none
\echo 'Loyalty variables count the 30 days before a day, so on the log''s only day there are none. The next morning there are:'
\echo
\set ECHO queries
SET coupon_ext.mock_clock = '2019-10-02';
SELECT coupon.refresh_segments() AS customers;
SELECT segment, variable, customers, round(mean::numeric, 2) AS mean, round(p25::numeric, 2) AS p25,
    round(p50::numeric, 2) AS p50, round(p75::numeric, 2) AS p75, round(max::numeric, 2) AS max
FROM coupon.segment_statistics;
SELECT count(*) AS issued, count(redeemed_at) AS redeemed, (SELECT count(*) FROM coupon.error_log) AS faults FROM coupon.coupon;
\set ECHO none
