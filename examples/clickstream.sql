-- The churn model on a real log: the page views of a European online shop (published with "A deep Markov model for clickstream
-- analytics", WWW 2022). Half a minute on two cores.
--   make demo LOG=clickstream.csv.gz    (or: LOG=… psql -X -q -d shop <examples/clickstream.sql, as a superuser, in a database without the extension)
\set ON_ERROR_STOP on
SET timezone = 'UTC';
\pset footer off
\pset null -

\echo
\echo '== 1  The log, as its owner shaped it ============================================================================='
\echo
\echo 'It has seconds since the start of each session and no calendar. Here every session begins a minute after the one before,'
\echo 'those of the val part ten days later on top, and that time is one more column, which the table computes itself.'
\echo
\set ECHO queries
CREATE TABLE page_view (session_id int, split text, seconds float8, page int, static1 int, static2 int, static3 int,
    static4 int, purchase int, at timestamp GENERATED ALWAYS AS (timestamp '2022-01-01' + session_id * interval '1 minute'
        + CASE WHEN split = 'val' THEN interval '10 days' ELSE interval '0' END + seconds * interval '1 second') STORED);
CREATE TABLE bought (session_id int, at timestamp);
\set ECHO none
CREATE TABLE arriving (LIKE page_view INCLUDING GENERATED);
\copy arriving (session_id, split, seconds, page, static1, static2, static3, static4, purchase) from program 'zcat -f "$LOG"' with (format csv, header)
CREATE INDEX ON arriving (at);
CREATE TABLE ordered AS
    SELECT session_id, split, max(at) + interval '1 second' AS at FROM arriving WHERE purchase = 1 GROUP BY session_id, split;
ANALYZE arriving, ordered;
\set ECHO queries
SELECT split, count(*) AS views, count(DISTINCT session_id) AS sessions,
    round(count(DISTINCT session_id) FILTER (WHERE purchase = 1)::numeric / count(DISTINCT session_id), 4) AS buying,
    min(at), max(at) FROM arriving GROUP BY split ORDER BY split;
\set ECHO none
\echo 'The table says only at the end of a session whether it bought; a shop has its orders in a table of their own. Both are watched:'
\echo
\set ECHO queries
CREATE EXTENSION coupon_ext;
SELECT coupon.watch('page_view', '{"session": "session_id", "at": "at", "page": "page",
    "attributes": ["static1", "static2", "static3", "static4"]}');
SELECT coupon.watch('bought', '{"session": "session_id", "at": "at"}', kind => 'purchase');
INSERT INTO page_view (session_id, split, seconds, page, static1, static2, static3, static4, purchase)
    SELECT session_id, split, seconds, page, static1, static2, static3, static4, purchase
    FROM arriving WHERE split = 'train' ORDER BY at;
INSERT INTO bought SELECT session_id, at FROM ordered WHERE split = 'train';
\set ECHO none

\echo
\echo '== 2  Training on the train part =================================================================================='
\echo
\echo 'Twice: with the default loss, over every view of a session, and with the papers'' one, over its last view. Each is judged'
\echo 'on its newest tenth, then fitted anew to all.'
\echo
SELECT min(at) - interval '1 second' AS until, min(at) AS val FROM arriving WHERE split = 'val' \gset
\set ECHO queries
CREATE TEMP TABLE training AS SELECT 'every_view' AS loss_spec, * FROM coupon.train(until => :'until');
INSERT INTO training SELECT 'last', * FROM coupon.train(until => :'until', spec => '{"churn": {"loss": "last"}}');
\set ECHO none
\echo
SELECT loss_spec, version, count(step) FILTER (WHERE stage = 'churn') AS epochs, count(step) FILTER (WHERE stage = 'refit') AS refit, round(sum(seconds)::numeric, 1) AS seconds,
    round((percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE step IS NOT NULL))::numeric, 2) AS seconds_an_epoch
FROM training WHERE stage IN ('churn', 'refit') GROUP BY loss_spec, version ORDER BY version;
\pset format unaligned
\pset tuples_only on
SELECT format('%-10s  %-8s  %s', loss_spec, stage, note) FROM training WHERE stage = 'deploy';
\pset tuples_only off
\pset format aligned
\echo
SELECT min(version) AS every_view, max(version) AS last FROM training \gset

\echo
\echo '== 3  Live: the first 500 sessions of the val part, minute by minute =============================================='
\echo
\set ECHO queries
SELECT coupon.activate(:every_view);
\set ECHO none
\echo 'A fixed salt makes the draws the same in every run of this example. No order of this log is paid with its coupons, so no budget'
\echo 'bounds them: a shop keeps one.'
\echo
\set ECHO queries
UPDATE coupon.campaign SET salt = 'first shop', budget = NULL, max_discount = NULL, unlimited = true WHERE campaign = 'default';
SET coupon_ext.mock_clock = :'val';
SELECT coupon.go_live('default');
CREATE TEMP TABLE first AS SELECT session_id FROM arriving WHERE split = 'val' GROUP BY session_id ORDER BY min(at) LIMIT 500;
DO $$
DECLARE
    m record;
BEGIN
    FOR m IN SELECT date_trunc('minute', a.at) AS begins, max(a.at) AS last
            FROM (SELECT session_id, at, split FROM arriving UNION ALL SELECT session_id, at, split FROM ordered) a
            JOIN first USING (session_id) WHERE split = 'val' GROUP BY 1 ORDER BY 1 LOOP
        PERFORM set_config('coupon_ext.mock_clock', m.last::text, false);
        INSERT INTO page_view (session_id, split, seconds, page, static1, static2, static3, static4, purchase)
            SELECT session_id, split, seconds, page, static1, static2, static3, static4, purchase
            FROM arriving JOIN first USING (session_id)
            WHERE split = 'val' AND at >= m.begins AND at < m.begins + interval '1 minute' ORDER BY at;
        INSERT INTO bought SELECT session_id, at FROM ordered JOIN first USING (session_id)
            WHERE split = 'val' AND at >= m.begins AND at < m.begins + interval '1 minute';
    END LOOP;
END
$$;
SELECT outcome, count(*), round(avg(view), 1) AS view, round(avg(max_purchase_probability)::numeric, 3) AS max_purchase_probability,
    round(avg(churn)::numeric, 3) AS churn FROM coupon.decision GROUP BY outcome ORDER BY outcome;
\set ECHO none
\echo 'The rest is loaded in bulk. It is scored like any other click; without the clock it is old, and decides nothing.'
\echo
\set ECHO queries
RESET coupon_ext.mock_clock;
INSERT INTO page_view (session_id, split, seconds, page, static1, static2, static3, static4, purchase)
    SELECT session_id, split, seconds, page, static1, static2, static3, static4, purchase
    FROM arriving WHERE split = 'val' AND session_id NOT IN (SELECT session_id FROM first) ORDER BY at;
INSERT INTO bought SELECT session_id, at FROM ordered WHERE split = 'val' AND session_id NOT IN (SELECT session_id FROM first);
SELECT count(*) AS sessions, count(churn) AS scored, sum(views) AS views FROM coupon.session WHERE started_at >= :'val';
\set ECHO none

\echo
\echo '== 4  How well it predicts the val part ==========================================================================='
\echo
\echo 'cut: the last three views hidden, sessions of more than three views. live: every view of complete sessions.'
\echo
\set ECHO queries
CREATE TEMP TABLE judged AS SELECT 'every_view' AS loss, * FROM coupon.evaluate_churn(:'val', 'infinity');
SELECT coupon.activate(:last);
INSERT INTO judged SELECT 'last', * FROM coupon.evaluate_churn(:'val', 'infinity');
SELECT population, loss, predictions, round(base_rate::numeric, 4) AS base_rate, round(auroc::numeric, 4) AS auroc,
    round(auprc::numeric, 4) AS auprc, round(brier::numeric, 4) AS brier, round(ece::numeric, 3) AS ece,
    round(accuracy::numeric, 3) AS accuracy, round(majority::numeric, 3) AS majority
FROM judged WHERE model = 'final' AND segment IS NULL ORDER BY population, loss;
SELECT substring(pg_read_file(format('/proc/%s/status', pg_backend_pid())) FROM 'VmHWM:\s*(\d+) kB')::int / 1024 AS peak_mb,
    (SELECT count(*) FROM coupon.error_log) AS faults;
\set ECHO none
