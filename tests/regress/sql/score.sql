-- score: many stored sessions at once, and why one is thought to leave. churn.sql has left sessions that were clicked
-- live.
-- needs: visited
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL

-- What the trigger said click by click is what the stored log says at once.
SELECT count(*) > 300 AS hundreds, count(*) FILTER (WHERE l.session IS NULL OR s.session IS NULL) AS on_one_side_only,
    count(*) FILTER (WHERE abs(s.churn - churn_probability(l.session)) > 1e-6) AS churn_differs,
    count(*) FILTER (WHERE abs(s.max_purchase_probability - l.max_purchase_probability) > 1e-6) AS interest_differs,
        count(*) FILTER (WHERE (s.views, s.segment, s.started_at, s.version) IS DISTINCT
        FROM (l.views, l.segment, l.started_at, l.version)) AS others_differ,
    count(*) FILTER (WHERE s.customer IS NOT NULL AND s.segment > 0) > 50 AS with_a_segment,
        count(*) FILTER (WHERE l.ended) > 0 AS some_were_over
FROM (SELECT * FROM coupon.session WHERE started_at >= '2026-02-02' AND views > 0 AND version = 2) l
FULL JOIN coupon.score_sessions('2026-02-02', 'infinity') s USING (session);
-- The whole log, of which most began before there was a model: against the array form. In order of session.
SELECT count(*) = (SELECT count(DISTINCT session) FROM coupon.click) AS all_sessions,
    count(*) FILTER (WHERE churn NOT BETWEEN 0 AND 1 OR max_purchase_probability < 1 - churn - 1e-9
    OR segment <> assign_segment(customer)) AS odd
FROM coupon.score_sessions('-infinity', 'infinity');
SELECT count(*) AS sampled, count(*) FILTER (WHERE abs(s.churn - churn_probability(s.segment, views_of(s.session)))
    > 1e-6) AS differ
FROM (SELECT * FROM coupon.score_sessions('-infinity', 'infinity') ORDER BY md5(session) LIMIT 150) s;
SELECT count(*) AS out_of_order FROM (SELECT session COLLATE "C" < lag(session) OVER (ORDER BY n) COLLATE "C" AS falls
    FROM coupon.score_sessions('-infinity', 'infinity') WITH ORDINALITY s(session, customer, started_at, segment,
    views, churn, max_purchase_probability, version, n)) s WHERE falls;

-- Neither threads, nor memory, nor workers of PostgreSQL's change a bit of it.
CREATE FUNCTION said() RETURNS text LANGUAGE sql AS $$ SELECT md5(string_agg(s::text, ','))
    FROM coupon.score_sessions('2026-01-10', '2026-01-12') s $$;
CREATE TABLE ways (way text, said text);
INSERT INTO ways VALUES ('default', said());
SET coupon_ext.threads = 1;
INSERT INTO ways VALUES ('one thread', said());
SET coupon_ext.threads = 7;
SET work_mem = '64kB';
INSERT INTO ways VALUES ('seven threads, a sort on disk', said());
RESET coupon_ext.threads;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
INSERT INTO ways VALUES ('parallel', said());
RESET work_mem;
SET datestyle = 'German';
SET timezone = 'Asia/Kolkata';
SET extra_float_digits = 0;
CREATE TABLE elsewhere AS SELECT * FROM coupon.score_sessions('2026-01-10 00:00Z', '2026-01-12 00:00Z');
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
RESET extra_float_digits;
INSERT INTO ways SELECT 'elsewhere', md5(string_agg(e::text, ',' ORDER BY session COLLATE "C")) FROM elsewhere e;
DROP TABLE elsewhere;
SELECT way, said = first_value(said) OVER (ORDER BY way = 'default' DESC) AS the_same FROM ways ORDER BY way;
-- The log is read in a parallel plan where PostgreSQL finds one worth while, and the array form runs in workers, with
-- the same answers.
CREATE FUNCTION plan_of(query text) RETURNS TABLE (gathers bool, workers_launched bool) LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) ' || query INTO plan;
    RETURN QUERY SELECT plan::text ~ '"Node Type": "Gather', plan::text ~ '"Workers Launched": [1-9]';
END
$$;
SELECT gathers FROM plan_of(coupon_internal.build_score_query(true));
CREATE TABLE many AS SELECT s.session, s.segment, s.churn, views_of(s.session) AS v
    FROM (SELECT * FROM coupon.score_sessions('2026-01-10', '2026-01-12') ORDER BY md5(session) LIMIT 100) s;
ALTER TABLE many SET (parallel_workers = 2);
SET force_parallel_mode = off;
SELECT * FROM plan_of('SELECT count(*) FILTER (WHERE abs(churn_probability(segment, v) - churn) > 1e-9) FROM many');
SELECT count(*) > 50 AS dozens, count(*) FILTER (WHERE abs(churn_probability(segment, v) - churn) > 1e-6) AS differ
    FROM many;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
DROP TABLE many, ways;

-- The window is of first views, half-open; a session that has begun counts whole.
SELECT started_at AS b FROM coupon.score_sessions('2026-01-10', '2026-01-12') ORDER BY started_at OFFSET 20
    LIMIT 1 \gset
SELECT (SELECT count(*) FROM coupon.score_sessions('2026-01-10', :'b')) = 20 AS before_it,
    (SELECT min(started_at) FROM coupon.score_sessions(:'b', '2026-01-12')) = :'b' AS from_it_on,
    (SELECT count(*) FROM coupon.score_sessions('2026-01-10', '2026-01-12')) = 20 + (SELECT count(*)
        FROM coupon.score_sessions(:'b', '2026-01-12')) AS nothing_lost;
BEGIN;
INSERT INTO coupon.click (session, at, kind, page) VALUES ('w-1', '2030-01-01 09:59:59', 'view', 'product'),
    ('w-1', '2030-01-01 10:00:00', 'view', 'product'),
    ('w-2', '2030-01-01 10:00:00', 'view', 'product'), ('w-2', '2030-01-01 11:00:00', 'cart', 'product'),
        ('w-3', '2030-01-01 11:00:00', 'view', 'product'),
    -- Over before it began; over after its second view; an empty id is an id.
    ('w-4', '2030-01-01 10:00:00', 'checkout', NULL), ('w-4', '2030-01-01 10:00:01', 'view', 'product'),
    ('w-5', '2030-01-01 10:00:00', 'view', 'product'), ('w-5', '2030-01-01 10:00:05', 'view', 'cart'),
        ('w-5', '2030-01-01 10:00:09', 'checkout', NULL), ('w-5', '2030-01-01 10:00:10', 'view', 'product'),
        ('', '2030-01-01 10:30:00', 'search', NULL);
-- Views of one moment, in any order of rows, and prices that are none: the order of coupon.events.
INSERT INTO coupon.click (session, at, kind, page, category, price, attributes) SELECT 'w-6', '2030-01-01 10:00:00',
    'view', CASE i % 3 WHEN 0 THEN 'product' WHEN 1 THEN 'home' END, CASE WHEN i % 2 = 0 THEN 'shoes' ELSE 'hats' END,
    CASE i % 4 WHEN 0 THEN 'NaN'::float8 WHEN 1 THEN -1 ELSE i END, CASE i % 4 WHEN 0 THEN '{mobile,search}'::text[]
        WHEN 1 THEN '{}' WHEN 2 THEN '{desktop}' END FROM generate_series(1, 24) i ORDER BY md5(i::text);
SELECT s.session, s.views, abs(s.churn - churn_probability(s.session)) < 1e-6 AS as_live,
    abs(s.max_purchase_probability - l.max_purchase_probability) < 1e-6 AS interest_too
    FROM coupon.score_sessions('2030-01-01 10:00', '2030-01-01 11:00') s JOIN coupon.session l USING (session)
    ORDER BY 1;
-- A purchase that knows only its customer ends that customer's latest session, if that was seen within the timeout.
CREATE TABLE till (who text, at timestamptz);
SELECT coupon.watch('till', '{"customer": "who", "at": "at"}', kind => 'purchase');
INSERT INTO coupon.click (session, at, kind, page, customer)
    VALUES ('t-1', '2030-01-02 09:00', 'view', 'product', 'ann'),
    ('t-2', '2030-01-02 10:00', 'view', 'product', 'ann'), ('t-3', '2030-01-02 08:00', 'view', 'product', 'bob'),
    ('t-4', '2030-01-02 10:00', 'view', 'product', NULL);
INSERT INTO till VALUES ('ann', '2030-01-02 10:00'), ('bob', '2030-01-02 10:00'), ('nobody', '2030-01-02 10:00');
INSERT INTO coupon.click (session, at, kind, page, customer)
    VALUES ('t-1', '2030-01-02 10:10', 'view', 'product', 'ann'),
    ('t-2', '2030-01-02 10:10', 'view', 'product', 'ann'), ('t-3', '2030-01-02 10:10', 'view', 'product', 'bob'),
    ('t-4', '2030-01-02 10:10', 'view', 'product', NULL);
SELECT s.session, s.customer, s.views, l.ended, s.views = l.views AS views_as_live,
    abs(s.churn - churn_probability(s.session)) < 1e-6 AS as_live
    FROM coupon.score_sessions('2030-01-02', '2030-01-03') s JOIN coupon.session l USING (session) ORDER BY 1;
SELECT count(*) AS views_of_a_session_that_was_frozen FROM coupon.explain_churn('t-2');
-- No table is left that names sessions, then none at all.
SELECT coupon.unwatch(relation) FROM coupon.watched WHERE relation <> 'till'::regclass;
SELECT count(*) AS no_sessions FROM coupon.score_sessions('-infinity', 'infinity');
SELECT coupon.unwatch('till');
SELECT count(*) AS nothing_is_watched FROM coupon.score_sessions('-infinity', 'infinity');
ROLLBACK;

-- Nothing to score, NULL, an empty and a reversed window, a read-only transaction, somebody without the rights, too
-- little memory.
SELECT (SELECT count(*) FROM coupon.score_sessions(NULL, 'infinity')) AS no_start,
    (SELECT count(*) FROM coupon.score_sessions('-infinity', NULL)) AS no_end,
    (SELECT count(*) FROM coupon.score_sessions('2026-01-10', '2026-01-10')) AS empty,
    (SELECT count(*) FROM coupon.score_sessions('2026-01-12', '2026-01-10')) AS reversed,
        (SELECT count(*) FROM coupon.score_sessions('2040-01-01', 'infinity')) AS nothing_yet;
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT count(*) > 50 AS read_only FROM coupon.score_sessions('2026-01-10', '2026-01-12');
SELECT count(*) > 0 AS read_only FROM (SELECT session FROM coupon.session WHERE version = 2 AND views > 3
    ORDER BY session LIMIT 1) s, coupon.explain_churn(s.session);
COMMIT;
BEGIN;
CREATE ROLE score_nobody;
SET ROLE score_nobody;
SELECT refused($$SELECT * FROM coupon.score_sessions('-infinity', 'infinity')$$);
SELECT refused($$SELECT * FROM coupon.explain_churn('x')$$);
RESET ROLE;
ROLLBACK;
BEGIN;
SET LOCAL coupon_ext.training_memory = '16MB';
INSERT INTO coupon.click (session, at, kind) SELECT 'endless', '2030-01-01'::timestamptz + i * interval '1 second',
    'view' FROM generate_series(1, 145000) i;
SELECT regexp_replace(r, '[0-9]{6,}', 'N', 'g')
    FROM refused($$SELECT * FROM coupon.score_sessions('2030-01-01', '2031-01-01')$$) r;
ROLLBACK;

-- Contributions are what occlusion says, and the last state is the session's own.
CREATE TABLE explained AS SELECT s.session, s.segment, v.v AS all_views,
    e.* FROM (SELECT * FROM coupon.session WHERE version = 2 AND views BETWEEN 2 AND 30 AND started_at >= '2026-02-02'
    ORDER BY md5(session) LIMIT 40) s
    CROSS JOIN LATERAL (SELECT views_of(s.session) AS v OFFSET 0) v CROSS
        JOIN LATERAL coupon.explain_churn(s.session) WITH ORDINALITY e(view, at, kind, page, category, churn_after,
        contribution, rank, n);
SELECT count(DISTINCT session) AS sessions,
    count(*) = (SELECT sum(views) FROM coupon.session WHERE session IN (SELECT session FROM explained)) AS every_view,
    count(*) FILTER (WHERE abs(churn_after - churn_probability(segment, all_views[1:view])) > 1e-6) AS after_differs,
    count(*) FILTER (WHERE abs(contribution - (churn_probability(segment, all_views) - churn_probability(segment,
        all_views[1:view - 1] || all_views[view + 1:]))) > 1e-6) AS contribution_differs,
    count(*) FILTER (WHERE (at, kind, page, category) IS DISTINCT
        FROM ((all_views[view]).at, (all_views[view]).kind, (all_views[view]).page,
        (all_views[view]).category)) AS words_differ, count(*) FILTER (WHERE rank <> n) AS unordered,
    count(*) FILTER (WHERE view = cardinality(all_views)
        AND abs(churn_after - churn_probability(session)) > 1e-6) AS last_differs
FROM explained;
SELECT count(*) AS misranked FROM (SELECT abs(contribution) > lag(abs(contribution))
    OVER (PARTITION BY session ORDER BY rank) AS rises FROM explained) e WHERE rises;
DROP TABLE explained;
-- Unknown, NULL, and a session that began before there was a model.
SELECT count(*) AS unknown FROM coupon.explain_churn('nobody');
SELECT count(*) AS no_session FROM coupon.explain_churn(NULL);
SET client_min_messages = notice;
SELECT count(*) AS never_scored FROM (SELECT session FROM coupon.session WHERE version IS NULL
    ORDER BY session LIMIT 1) s, coupon.explain_churn(s.session);
SET client_min_messages = warning;
-- A single view leaves nothing without it; of ten thousand the last two hundred are explained; after a checkout nothing
-- counts.
BEGIN;
INSERT INTO coupon.click (session, at, kind, page) VALUES ('one', '2030-01-01 10:00', 'view', 'product');
INSERT INTO coupon.click (session, at, kind, page) SELECT 'long', '2030-01-01'::timestamptz + i * interval '1 second',
    'view', 'product' FROM generate_series(1, 10000) i;
INSERT INTO coupon.click (session, at, kind, page) VALUES ('over', '2030-01-01 10:00', 'view', 'home'),
    ('over', '2030-01-01 10:01', 'cart', 'product'), ('over', '2030-01-01 10:02', 'checkout', NULL),
    ('over', '2030-01-01 10:03', 'view', 'home');
SELECT view, kind, churn_after = churn_probability('one') AS as_it_is, contribution,
    rank FROM coupon.explain_churn('one');
SELECT count(*), min(view), max(view), count(contribution) AS contributions, max(rank) AS ranks,
    bool_and(contribution BETWEEN -1 AND 1) AS sane FROM coupon.explain_churn('long');
SELECT array_agg(view ORDER BY view) AS views, array_agg(kind ORDER BY view) AS kinds FROM coupon.explain_churn('over');
-- A session whose state was freed, and one that missed a click, are explained from the log like any other.
SELECT md5(string_agg(e::text, ',')) AS before FROM coupon.explain_churn('long') e \gset
UPDATE coupon.session SET state = NULL WHERE session = 'long';
INSERT INTO coupon.missed_click (session, reason) VALUES ('long', 'test');
SELECT md5(string_agg(e::text, ',')) = :'before' AS the_same FROM coupon.explain_churn('long') e;
ROLLBACK;
DROP FUNCTION said, plan_of;

-- The sessions of a window are joined by the shop's own column, whose statistics PostgreSQL knows: by a nested loop, each
-- event would be compared with each session, for minutes.
CREATE FUNCTION joins_of(query text) RETURNS TABLE (compared_one_by_one int, joined_by_hash int) LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    compared_one_by_one := 0;
    joined_by_hash := 0;
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) '
        || replace(replace(replace(query, '$1', '''2026-01-10'''), '$2', '''2026-01-12'''), '$3', '1800000000')
    LOOP
        compared_one_by_one := compared_one_by_one + (line LIKE '%Join Filter%')::int;
        joined_by_hash := joined_by_hash + (line ~ 'Hash (Semi )?Join')::int;
    END LOOP;
    RETURN NEXT;
END
$$;
ANALYZE coupon.click;
SELECT * FROM joins_of(coupon_internal.build_score_query(false));
DROP FUNCTION joins_of;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
