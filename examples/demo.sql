-- The whole flow on a simulated shop: make demo
-- (or: createdb shop && psql -X -q -d shop <examples/demo.sql, as a superuser; the database must not hold the extension yet)
\set ON_ERROR_STOP on
SET timezone = 'UTC';
\pset footer off
\pset null -


\echo
\echo '== 1  A shop ======================================================================================================'
\echo
\echo 'The extension, and 35 days of a small fashion shop to try it on: 2,000 customers, clicks stored by plain INSERTs.'
\echo
\set ECHO queries
CREATE EXTENSION coupon_ext;
SELECT coupon.simulate(customers => 2000, days => 35, start => '2026-06-01') AS clicks;
SELECT kind, count(*) AS events, count(DISTINCT session) AS sessions FROM coupon.click GROUP BY kind ORDER BY 3 DESC;
\set ECHO none
\echo 'One visit:'
\echo
SELECT at::timestamp(0) AS at, kind, page, category, product, price, quantity AS units
FROM coupon.click JOIN (SELECT session FROM coupon.click GROUP BY session
    HAVING count(*) BETWEEN 8 AND 12 AND count(*) FILTER (WHERE kind = 'cart') > 0 AND bool_or(kind = 'purchase')
    ORDER BY min(at) LIMIT 1) one USING (session) ORDER BY click.at, id;
\echo 'The click table is watched: its trigger is the registration. A shop that has a log of its own calls coupon.watch() once.'
\echo
\set ECHO queries
SELECT relation, live, fits, columns ->> 'session' AS session, columns ->> 'at' AS at FROM coupon.watched;
\set ECHO none

\echo
\echo '== 2  Training ===================================================================================================='
\echo
\echo 'Sessions, segments, one churn model a segment, ranking and thresholds, all in one statement; about a minute.'
\echo
\set ECHO queries
CREATE TEMP TABLE training AS SELECT * FROM coupon.train(until => '2026-07-06');
\set ECHO none
\echo
\echo 'What it told. An epoch is a pass over the sessions; of each model the first, the best and the last one:'
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
\echo 'What the preprocessing rules removed from the log:'
\echo
\set ECHO queries
SELECT step, rule, population, sessions_removed, views_removed, sessions_left, views_left FROM coupon.preprocessing;
\set ECHO none
\echo 'The segments, by how often a session of theirs ends without a purchase, and what their customers are like:'
\echo
\set ECHO queries
SELECT segment, name, sessions, buyers, round(churn_rate::numeric, 4) AS churn_rate FROM coupon.segments;
SELECT segment, variable, customers, round(mean::numeric, 2) AS mean, round(p25::numeric, 2) AS p25,
    round(p50::numeric, 2) AS p50, round(p75::numeric, 2) AS p75, round(max::numeric, 2) AS max
FROM coupon.segment_statistics;
\set ECHO none
\echo 'How well it predicts sessions that nothing was fitted on (cut: the last three views hidden; live: every view):'
\echo
\set ECHO queries
SELECT population, model, predictions, round(base_rate::numeric, 3) AS base_rate, round(auroc::numeric, 3) AS auroc,
    round(auprc::numeric, 3) AS auprc, round(brier::numeric, 4) AS brier, round(ece::numeric, 3) AS ece,
    round(accuracy::numeric, 3) AS accuracy, round(majority::numeric, 3) AS majority
FROM coupon.model_metrics WHERE segment IS NULL AND population IN ('cut', 'live');
\set ECHO none

\echo
\echo '== 3  In shadow ==================================================================================================='
\echo
\echo 'A trained model hands out nothing yet: the campaign starts in shadow, where it decides, logs, and issues nothing.'
\echo 'One more day of visitors. (A fixed salt makes the draws the same in every run of this demonstration.)'
\echo
\set ECHO queries
UPDATE coupon.campaign SET salt = 'first shop' WHERE campaign = 'default';
SET coupon_ext.mock_clock = '2026-07-06';
SELECT coupon.simulate(customers => 2000, days => 1, start => '2026-07-06') AS clicks;
SELECT decided_at::timestamp(0) AS decided_at, session, segment, view, round(max_purchase_probability::numeric, 3) AS max_purchase_probability,
    round(churn::numeric, 3) AS churn, category, outcome
FROM coupon.decision ORDER BY decided_at LIMIT 5;
\set ECHO none
\echo 'max_purchase_probability: the largest probability of a purchase so far. churn: the probability, now, that the visit ends without one.'
\echo 'Why another session got no decision, as it stood at its last click:'
\echo
SELECT session, last_at FROM coupon.session
WHERE decided_campaigns IS NULL AND NOT ended AND views >= 12 AND version IS NOT NULL ORDER BY max_purchase_probability DESC, session LIMIT 1 \gset
SET coupon_ext.mock_clock = :'last_at';
\set ECHO queries
SELECT step, condition, holds, detail FROM coupon.explain_decision(:'session');
\set ECHO none

\echo
\echo '== 4  Live ========================================================================================================'
\echo
\set ECHO queries
SET coupon_ext.mock_clock = '2026-07-07';
UPDATE coupon.campaign SET max_discount = 20, budget = 2000, budget_day = 150, cool_down = '3 days' WHERE campaign = 'default';
SELECT coupon.go_live('default');
SELECT coupon.simulate(customers => 2000, days => 14, start => '2026-07-07') AS clicks;
SELECT outcome, reason, count(*), round(avg(issue_probability)::numeric, 2) AS issue_probability
FROM coupon.decision GROUP BY outcome, reason ORDER BY outcome, reason;
SELECT issued_at::timestamp(0) AS issued_at, session, d.customer, segment, view, round(churn::numeric, 3) AS churn,
    c.category, code
FROM coupon.coupon c JOIN coupon.decision d USING (session, campaign) ORDER BY issued_at LIMIT 10;
\set ECHO none

\echo
\echo '== 5  What the application does ==================================================================================='
\echo
\echo 'A shop whose log is in another system sends each click and is answered with the coupon, if one is due.'
\echo 'A visitor of this shop walks in and does what an earlier one did who was given a coupon:'
\echo
CREATE TEMP TABLE walk AS
SELECT row_number() OVER (ORDER BY k.at, k.id) AS n, count(*) OVER () AS clicks, k.at + interval '14 days' AS at, k.kind, k.page,
    k.category, k.product, k.quantity, k.price, k.attributes
FROM coupon.click k JOIN (SELECT session, clicked_at FROM coupon.decision WHERE customer IS NULL AND outcome = 'issued'
    ORDER BY view, session LIMIT 1) d ON d.session = k.session AND k.at <= d.clicked_at;
CREATE TEMP TABLE answer (n int, page text, category text, churn float8, code text);
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM walk WHERE n < clicks ORDER BY n LOOP
        PERFORM set_config('coupon_ext.mock_clock', c.at::text, false);
        INSERT INTO answer SELECT c.n, c.page, c.category, NULL, (o).code
        FROM coupon.record_click('s-42', NULL, c.kind, NULL, c.page, c.category, c.product, c.quantity, c.price,
            attributes => c.attributes) o;
        UPDATE answer SET churn = (SELECT churn_probability('s-42')) WHERE n = c.n;
    END LOOP;
END
$$;
SELECT n AS click, page, category, round(churn::numeric, 3) AS churn, code AS coupon FROM answer ORDER BY n DESC LIMIT 5;
SELECT at, 'SELECT * FROM coupon.record_click(''s-42'', ' || concat_ws(', ', 'kind => ' || quote_literal(kind),
    'page => ' || quote_literal(page), 'category => ' || quote_literal(category), 'product => ' || quote_literal(product),
    'price => ' || price, 'quantity => ' || quantity, 'attributes => ' || quote_literal(attributes)) || ')' AS click
FROM walk WHERE n = clicks \gset
SET coupon_ext.mock_clock = :'at';
\echo 'And the click that decides:'
\echo
\pset expanded on
\set ECHO queries
:click;
\set ECHO none
\echo 'A shop whose own table is watched asks; asking twice never issues twice:'
\echo
\set ECHO queries
SELECT * FROM issue_coupon('s-42');
\set ECHO none
\pset expanded off
\set ECHO queries
SELECT (SELECT code FROM issue_coupon('s-42')) = (SELECT code FROM issue_coupon('s-42')) AS same_code,
    count(*) AS coupons FROM coupon.coupon WHERE session = 's-42';
\set ECHO none
\echo 'The checkout takes its time: the coupon is kept for the order. To anybody else it looks like no coupon at all.'
\echo
\set ECHO queries
SELECT * FROM reserve_coupon((SELECT code FROM issue_coupon('s-42')), 'order-1001', '15 minutes', session => 's-42');
SELECT * FROM redeem_coupon((SELECT code FROM issue_coupon('s-42')), 'order-666', 500.00, session => 'another');
\set ECHO none
\echo 'At the till. The visitor typed the code in small letters, o for 0, l for 1, and without hyphens:'
\echo
SELECT code, translate(lower(code), '01-', 'ol') AS typed FROM issue_coupon('s-42') \gset
\set ECHO queries
SELECT * FROM redeem_coupon(:'typed', 'order-1001', 80.00, session => 's-42');
SELECT * FROM redeem_coupon(:'typed', 'order-1002', 45.00, session => 's-42');
\set ECHO none
\echo 'The order is cancelled; the coupon comes back while it is valid, and serves the next one:'
\echo
\set ECHO queries
SELECT * FROM release_coupon(:'code', 'order-1001');
SELECT * FROM redeem_coupon(:'typed', 'order-1002', 45.00, session => 's-42');
SELECT a.clock::timestamp(0) AS at, a.event, a.detail - 'order' - 'campaign' AS detail
FROM coupon.audit a JOIN coupon.coupon c ON c.id::text = a.name WHERE c.session = 's-42' ORDER BY a.id;
\set ECHO none

\echo
\echo '== 6  Whether it worked ==========================================================================================='
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
\echo 'causal = false: coupons go to chosen sessions, which buy more often anyway. In this simulated shop a coupon changes'
\echo 'nothing, and yet "growth" is large. What a coupon changes, the draw tells: issued against held out, among the eligible.'
\echo
\set ECHO queries
SELECT outcome, count(*) AS sessions, count(*) FILTER (WHERE s.purchased) AS buyers
FROM coupon.decision d JOIN coupon.session s USING (session) WHERE outcome IN ('issued', 'held out') GROUP BY outcome;
SELECT expired, rebuilt, compacted FROM coupon.maintain();
SELECT count(*) AS issued, count(redeemed_at) AS redeemed, count(*) FILTER (WHERE closed_at IS NULL) AS live,
    count(*) FILTER (WHERE closed_at = expires_at) AS expired FROM coupon.coupon;
SELECT unit, day, granted, available, reserved_amount, spent, currency FROM coupon.budget;
SELECT status, reason, count(*) FROM coupon.redemption_attempt GROUP BY status, reason ORDER BY min(id);
SELECT count(*) AS faults FROM coupon.error_log;
\set ECHO none
