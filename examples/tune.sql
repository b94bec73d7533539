-- Twenty specifications of the churn network tried on a real log: the train part of the clicks that examples/clickstream.sql reads.
--   LOG=clickstream.csv.gz psql -X -q -d shop <examples/tune.sql    (as a superuser, in a database without the extension)
\set ON_ERROR_STOP on
SET timezone = 'UTC';
SET client_min_messages = warning;
\pset footer off
\pset null -
CREATE TABLE page_view (session_id int, split text, seconds float8, page int, static1 int, static2 int, static3 int,
    static4 int, purchase int, at timestamp GENERATED ALWAYS AS (timestamp '2022-01-01' + session_id * interval '1 minute'
        + CASE WHEN split = 'val' THEN interval '10 days' ELSE interval '0' END + seconds * interval '1 second') STORED);
CREATE TABLE bought (session_id int, at timestamp);
CREATE EXTENSION coupon_ext;
SELECT coupon.watch('page_view', '{"session": "session_id", "at": "at", "page": "page",
    "attributes": ["static1", "static2", "static3", "static4"]}', live => false) \g /dev/null
SELECT coupon.watch('bought', '{"session": "session_id", "at": "at"}', kind => 'purchase', live => false) \g /dev/null
\copy page_view (session_id, split, seconds, page, static1, static2, static3, static4, purchase) from program 'zcat -f "$LOG"' with (format csv, header)
DELETE FROM page_view WHERE split = 'val';
INSERT INTO bought SELECT session_id, max(at) + interval '1 second' FROM page_view WHERE purchase = 1 GROUP BY session_id;
ANALYZE page_view, bought;

\echo 'Six epochs a trial, log loss over every view on the tune window. Trial 1 is the default; from the ninth on the points are chosen by what was learned.'
\echo
CALL coupon.tune(20, until => 'infinity', spec => '{"tune": {"epochs": 6}}');
SELECT trial, spec -> 'churn' -> 'hidden_size' AS hidden, spec -> 'churn' -> 'dense_units' AS feed_forward, spec -> 'churn' -> 'pool_size' AS kernel,
    spec -> 'churn' -> 'dropout' AS dropout, spec -> 'churn' -> 'learning_rate' AS learning_rate, spec -> 'churn' -> 'max_length' AS max_length,
    round(loss::numeric, 4) AS loss, round(auroc::numeric, 4) AS auroc, round(seconds::numeric, 1) AS seconds,
    CASE WHEN loss = min(loss) OVER (ORDER BY trial) THEN '*' ELSE '' END AS best
FROM coupon.tuning ORDER BY trial;
\echo
SELECT spec FROM coupon.best_trial;
