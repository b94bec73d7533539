-- The train part of clickstream.csv.gz as a watched table; the environment's CLICKSTREAM names the file.
-- The file has no calendar: a fixed day, a minute a session; who buys, buys after the last view.
\set ON_ERROR_STOP on
CREATE TABLE raw (session_id int, split text, seconds float8, page int, s1 text, s2 text, s3 text, s4 text, purchase int);
\copy raw FROM PROGRAM 'zcat "$CLICKSTREAM"' WITH (FORMAT csv, HEADER)
CREATE TABLE visit AS
WITH v AS (
    SELECT session_id::text AS session, timestamptz '2020-01-01 00:00Z' + session_id * interval '1 minute' + seconds * interval '1 second' AS at,
           page::text AS page, ARRAY[s1, s2, s3, s4] AS facts, purchase
    FROM raw WHERE split = 'train')
SELECT session, at, 'view' AS kind, page, facts FROM v
UNION ALL SELECT session, max(at) + interval '1 second', 'purchase', NULL, NULL FROM v WHERE purchase = 1 GROUP BY session;
ANALYZE visit;
SELECT coupon.watch('visit', '{"session": "session", "at": "at", "kind": "kind", "page": "page", "attributes": "facts"}', live => false);
