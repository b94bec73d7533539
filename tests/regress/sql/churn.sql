-- churn: a live session's state, the array form from the start, and the card, all of the same model.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- Hundreds of sessions, clicked live in many statements: what trains is what serves.
SELECT coupon.simulate(800, 2, 0, '2026-02-02') AS clicks;
SELECT count(*) > 300 AS hundreds, count(*) FILTER (WHERE views > 5) > 50 AS long_ones,
    count(*) FILTER (WHERE version = 2) = count(*) AS under_the_active_version,
    count(*) FILTER (WHERE live IS NULL OR live <= 0 OR live >= 1) AS not_a_probability,
        count(*) FILTER (WHERE abs(live - again) > 1e-6) AS differ,
    count(DISTINCT round(live::numeric, 4)) > 100 AS they_differ_among_each_other
FROM (SELECT s.session, s.views, s.version, churn_probability(s.session) AS live,
    churn_probability(s.segment, views_of(s.session)) AS again
      FROM coupon.session s WHERE s.started_at >= '2026-02-02' AND s.views > 0) s;
-- Interest is the largest probability of a purchase after any view so far.
SELECT count(*) > 50 AS dozens, count(*) FILTER (WHERE abs(s.max_purchase_probability - p.max_purchase_probability) > 1e-6) AS differ
FROM (SELECT s.*, views_of(session) AS v FROM coupon.session s WHERE started_at >= '2026-02-03' AND views BETWEEN 2
    AND 20 OFFSET 0) s
CROSS JOIN LATERAL (SELECT max(1 - churn_probability(s.segment, s.v[1:i])) AS max_purchase_probability
    FROM generate_series(1, cardinality(s.v)) i) p;

-- Whatever the table, its types and the form of the INSERT, the trigger reads what coupon.events reads. The values are
-- words the model knows.
CREATE TYPE category AS ENUM ('hats', 'shoes');
DO $$ DECLARE c text; BEGIN FOR c IN SELECT DISTINCT category FROM coupon.click WHERE category IS NOT NULL
    AND category NOT IN ('hats', 'shoes') LOOP EXECUTE format('ALTER TYPE category ADD VALUE %L', c); END LOOP; END $$;
CREATE TABLE typed (visit bigint, at timestamp, what varchar(10), place char(20), kind_of_thing category,
    cost numeric(8, 2), device text, referrer name, n smallint);
CREATE TABLE listed (visit uuid, day timestamptz, place text, cost int, facts text[]);
SELECT coupon.watch('typed', '{"session": "visit", "at": "at", "kind": "what", "page": "place",
    "category": "kind_of_thing", "price": "cost", "attributes": ["device", "referrer"], "quantity": "n"}',
    kinds => '{"look": "view", "basket": "cart"}');
SELECT coupon.watch('listed', '{"session": "visit", "at": "day", "page": "place", "price": "cost",
    "attributes": "facts"}');
CREATE FUNCTION typed_rows(first int, last int) RETURNS SETOF typed LANGUAGE sql AS $$
    SELECT 700000 + (n % 40), c.at AT TIME ZONE 'UTC' + interval '40 days', CASE c.kind WHEN 'view' THEN 'look'
        WHEN 'cart' THEN 'basket' ELSE c.kind END, c.page, c.category::category, c.price::numeric, c.attributes[1],
        c.attributes[2]::name, c.quantity::smallint
    FROM (SELECT c.*, row_number() OVER (ORDER BY at, id) AS n FROM coupon.click c
        WHERE kind NOT IN ('checkout', 'purchase') AND at < '2026-01-20') c WHERE n BETWEEN first AND last
$$;
INSERT INTO typed SELECT * FROM typed_rows(1, 1);
INSERT INTO typed SELECT * FROM typed_rows(2, 400);
MERGE INTO typed t USING (SELECT * FROM typed_rows(401, 500)) r ON false WHEN NOT MATCHED THEN INSERT
    VALUES (r.visit, r.at, r.what, r.place, r.kind_of_thing, r.cost, r.device, r.referrer, r.n);
WITH i AS (INSERT INTO typed SELECT * FROM typed_rows(501, 600) RETURNING 1) SELECT count(*) FROM i;
COPY typed FROM stdin (DELIMITER ',', NULL 'null');
700000,2026-02-25 10:00:00,look,product,shoes,19.90,mobile,search,1
700041,2026-02-25 10:00:00,search,no such page,null,-1,null,nobody,null
700041,2026-02-25 10:00:09,basket,null,hats,NaN,desktop,,1
\.
INSERT INTO listed SELECT md5((n % 30)::text)::uuid, at + interval '30 days', page, price::int,
    CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN attributes ELSE attributes || '{x,y,z,1,2,3,4,5}' END
FROM (SELECT c.*, row_number() OVER (ORDER BY at, id) AS n FROM coupon.click c WHERE kind = 'view'
    AND at < '2026-01-10') c WHERE n <= 200;
-- Several clicks of one session in one statement, in any order of rows, count in the order of their times.
INSERT INTO listed SELECT md5('shuffled')::uuid, at + interval '30 days', page, price::int, attributes
    FROM coupon.click WHERE kind = 'view' AND at < '2026-01-06' ORDER BY md5(id::text) LIMIT 60;
SELECT CASE WHEN s.session ~ '^7' THEN 'typed' ELSE 'listed' END AS of_table, count(*) AS sessions,
    sum(views) AS views, count(DISTINCT round(s.churn::numeric, 6)) > 10 AS they_differ,
    count(*) FILTER (WHERE s.churn IS NULL
        OR abs(s.churn - churn_probability(s.segment, views_of(s.session))) > 1e-6) AS differ
FROM coupon.session s WHERE s.session ~ '^7000' OR s.session IN (SELECT visit::text FROM listed) GROUP BY 1 ORDER BY 1;
DROP FUNCTION typed_rows;
DROP TABLE typed, listed;
DELETE FROM coupon.session WHERE session ~ '^7000' OR length(session) = 36;

-- A numeric is read as PostgreSQL casts it, whatever its digits: each is the price of a session of its own.
CREATE TABLE exact (session text, at timestamptz, price numeric);
CREATE TABLE inexact (session text, at timestamptz, price float8);
SELECT coupon.watch('exact', '{"session": "session", "at": "at", "price": "price"}'),
    coupon.watch('inexact', '{"session": "session", "at": "at", "price": "price"}');
CREATE TABLE priced AS SELECT row_number() OVER () AS n, price FROM (
    SELECT unnest('{0,0.00,1,9999,10000,10001,0.01,0.10,19.90,100000000,123456789012.34,9007199254740992,9007199254740993,1e22,1e23,1e60,1e-3,1e-16,1e-22,1e-23,1e-60,-19.90,NaN,Infinity,3.14159265358979323846}'::numeric[]) AS price
    UNION ALL SELECT round((random() * power(10, n % 12))::numeric, n % 7) FROM generate_series(1, 300) n) p;
INSERT INTO exact SELECT 'exact-' || n, '2026-02-05 10:00:00', price FROM priced;
INSERT INTO inexact SELECT 'inexact-' || n, '2026-02-05 10:00:00', price::float8 FROM priced;
SELECT count(*) AS prices, count(DISTINCT e.churn) > 100 AS they_count,
    count(*) FILTER (WHERE e.state IS DISTINCT FROM i.state OR e.churn IS DISTINCT FROM i.churn) AS differ
FROM priced JOIN coupon.session e ON e.session = 'exact-' || n JOIN coupon.session i ON i.session = 'inexact-' || n;
DROP TABLE exact, inexact, priced;
DELETE FROM coupon.session WHERE session ~ 'exact-';

-- Arrival order counts: a click of an earlier time, in a later statement, is the next step with no time passed.
BEGIN;
INSERT INTO coupon.click (session, at, kind, page) VALUES ('late', '2026-02-05 10:00:30', 'view', 'product');
INSERT INTO coupon.click (session, at, kind, page) VALUES ('late', '2026-02-05 10:00:00', 'view', 'product');
SELECT abs(churn - churn_probability(segment,
    ARRAY[('2026-02-05 10:00:30', 'view', 'product', NULL, NULL, NULL, NULL),
    ('2026-02-05 10:00:00', 'view', 'product', NULL, NULL, NULL, NULL)]::coupon.page_view[]))
    < 1e-6 AS in_order_of_arrival,
    abs(churn - churn_probability(segment,
        ARRAY[('2026-02-05 10:00:30', 'view', 'product', NULL, NULL, NULL, NULL),
        ('2026-02-05 10:00:30', 'view', 'product', NULL, NULL, NULL, NULL)]::coupon.page_view[])) < 1e-6 AS gap_of_0,
    started_at, last_at FROM coupon.session WHERE session = 'late';
ROLLBACK;

-- What a session's probability is not.
SELECT churn_probability('nobody') AS unknown, churn_probability(NULL::text) AS no_session;
SELECT churn_probability(session) AS began_before_there_was_a_model, views > 0 AS seen FROM coupon.session
    WHERE started_at < '2026-01-06' ORDER BY session LIMIT 1;
BEGIN;
INSERT INTO coupon.click (session, at, kind) VALUES ('gap', '2026-02-05 10:00:00', 'view');
SELECT churn_probability('gap') IS NOT NULL AS known;
INSERT INTO coupon.missed_click (session, reason) VALUES ('gap', 'test');
SELECT churn_probability('gap') IS NOT NULL AS known_though_it_missed_a_click;
ROLLBACK;
-- After a checkout nothing but a purchase is noted.
BEGIN;
INSERT INTO coupon.click (session, at, kind) VALUES ('over', '2026-02-05 10:00:00', 'view');
SELECT churn_probability('over') AS before_checkout \gset
INSERT INTO coupon.click (session, at, kind) VALUES ('over', '2026-02-05 10:00:05', 'checkout');
INSERT INTO coupon.click (session, at, kind) VALUES ('over', '2026-02-05 10:00:10', 'view');
SELECT views, ended, purchased, churn = :before_checkout AS as_it_was FROM coupon.session WHERE session = 'over';
INSERT INTO coupon.click (session, at, kind) VALUES ('over', '2026-02-05 10:00:15', 'purchase');
SELECT views, ended, purchased FROM coupon.session WHERE session = 'over';
ROLLBACK;

-- The array form: nothing, NULL, bad input.
CREATE FUNCTION view_at(at timestamptz, kind text DEFAULT 'view', page text DEFAULT 'product', price float8 DEFAULT 10,
    attributes text[] DEFAULT '{mobile,search}') RETURNS coupon.page_view LANGUAGE sql IMMUTABLE
    AS $$ SELECT (at, kind, page, 'shoes', 'p1', price, attributes)::coupon.page_view $$;
SELECT churn_probability(0, '{}') AS empty, churn_probability(0, NULL) AS null_array,
    churn_probability(NULL, ARRAY[view_at('2026-02-05')]) AS null_segment;
SELECT refused($$SELECT churn_probability(0, ARRAY[view_at('2026-02-05'), NULL])$$);
SELECT refused($$SELECT churn_probability(0, ARRAY[view_at(NULL)])$$);
SELECT refused($$SELECT churn_probability(0, ARRAY[view_at('2026-02-05', 'hover')])$$);
SELECT refused($$SELECT churn_probability(0, ARRAY[view_at('2026-02-05', 'purchase')])$$);
SELECT refused($$SELECT churn_probability(0, ARRAY[view_at('2026-02-05'), view_at('2026-02-05', 'checkout')])$$);
SELECT refused($$SELECT churn_probability(-1, ARRAY[view_at('2026-02-05')])$$);
SELECT churn_probability(0, ARRAY[view_at('2026-02-05', NULL)]) = churn_probability(0,
    ARRAY[view_at('2026-02-05', 'view')]) AS no_kind_is_a_view;
SELECT churn_probability(99, ARRAY[view_at('2026-02-05')]) = churn_probability(0,
    ARRAY[view_at('2026-02-05')]) AS unknown_segment_is_pooled;
SELECT p BETWEEN 0 AND 1 AND p <> 'NaN' AS a_probability, what FROM (VALUES
    ('NaN', churn_probability(0, ARRAY[view_at('2026-02-05', price => 'NaN')])),
        ('Infinity', churn_probability(0, ARRAY[view_at('2026-02-05', price => 'Infinity')])),
    ('negative', churn_probability(0, ARRAY[view_at('2026-02-05', price => -1)])),
        ('huge', churn_probability(0, ARRAY[view_at('2026-02-05', price => 1e308)])),
    ('no price', churn_probability(0, ARRAY[view_at('2026-02-05', price => NULL)])),
        ('no attributes', churn_probability(0, ARRAY[view_at('2026-02-05', attributes => NULL)])),
    ('NULL attributes', churn_probability(0, ARRAY[view_at('2026-02-05', attributes => '{NULL,NULL}')])),
        ('many attributes', churn_probability(0,
        ARRAY[view_at('2026-02-05', attributes => array_fill('x'::text, ARRAY[1000]))])),
    ('everything NULL but the time', churn_probability(0,
        ARRAY[('2026-02-05', NULL, NULL, NULL, NULL, NULL, NULL)]::coupon.page_view[])),
    ('backwards', churn_probability(0, ARRAY[view_at('2026-02-05'), view_at('2025-02-05')])),
        ('BC', churn_probability(0, ARRAY[view_at('0044-03-15 BC'), view_at('290000-01-01')])),
    ('long texts', churn_probability(0, ARRAY[view_at('2026-02-05', page => repeat('x', 1000000))])),
    ('100,000 views', churn_probability(0,
        (SELECT array_agg(view_at('2026-02-05'::timestamptz + i * interval '1 second'))
        FROM generate_series(1, 100000) i)))) v(what, p);
SELECT left(refused($$SELECT churn_probability(0, ARRAY[view_at('infinity')])$$), 5) AS sqlstate LIMIT 1;
-- A prefix does not know what follows, and time matters only as it passes.
SELECT churn_probability(0, ARRAY[view_at('2026-02-05 10:00'), view_at('2026-02-05 10:01')]) <> churn_probability(0,
    ARRAY[view_at('2026-02-05 10:00')]) AS a_view_more_changes_it,
    churn_probability(0, ARRAY[view_at('2026-02-05 10:00'), view_at('2026-02-05 10:01')]) <> churn_probability(0,
        ARRAY[view_at('2026-02-05 10:00'), view_at('2026-02-05 10:20')]) AS so_does_its_time;
-- In a parallel plan and in a read-only transaction.
BEGIN READ ONLY;
SET LOCAL force_parallel_mode = on;
SELECT churn_probability(0, ARRAY[view_at('2026-02-05')]) IS NOT NULL AS parallel;
RESET force_parallel_mode;
SELECT count(*) > 0 AS read_only FROM (SELECT churn_probability(session) AS p FROM coupon.session
    WHERE version = 2 LIMIT 5) s WHERE p IS NOT NULL;
COMMIT;

-- The card, and the same judged again on the judge window. One epoch, and nine buyers at the cut: a slope there says
-- nothing.
SELECT population, model, segment, sessions > 100 AS sessions, predictions >= 20 AS predictions, buyers BETWEEN 1
    AND predictions AS buyers, base_rate BETWEEN 0.001 AND 0.2 AS base_rate, auroc BETWEEN 0.2 AND 1 AS auroc,
    auprc BETWEEN 0 AND 1 AS auprc,
    brier BETWEEN 0 AND 0.25 AS brier, log_loss BETWEEN 0 AND 1 AS log_loss, ece BETWEEN 0 AND 1 AS ece,
        slope BETWEEN CASE population WHEN 'live' THEN 0.1 ELSE -10 END AND 10 AS slope, intercept BETWEEN -3
        AND 3 AS intercept, accuracy BETWEEN 0.5 AND 1 AS accuracy, majority BETWEEN 0.5 AND 1 AS majority
FROM coupon.model_metrics WHERE version = 2 AND segment IS NULL AND population IN ('cut', 'live') ORDER BY 1, 2;
SELECT population, model, count(*) FILTER (WHERE segment IS NULL) AS everybody,
    count(*) FILTER (WHERE segment IS NOT NULL) > 0 AS by_segment,
    sum(predictions) FILTER (WHERE segment IS NULL) = sum(predictions)
        FILTER (WHERE segment IS NOT NULL) AS segments_add_up,
        bool_or(('NaN' IN (base_rate, auroc, auprc, brier, log_loss, ece, slope, intercept, accuracy,
        majority)) IS TRUE) AS not_a_number
FROM coupon.model_metrics WHERE version = 2 AND model <> 'own' GROUP BY 1, 2 ORDER BY 1, 2;
-- The curves: the reliability bins are those of the calibration error, the area under the ROC curve is the AUROC.
SELECT a.population, count(*) AS bins, sum(b.predictions) = a.predictions AS predictions,
    abs(sum(b.predictions * abs(b.predicted - b.observed)) / a.predictions - a.ece) < 1e-9 AS ece,
    bool_and(b.observed BETWEEN b.lower AND b.upper AND b.lower < b.upper AND b.lower >= 0
        AND b.upper <= 1) AS intervals, bool_and(b.rising) AS rising
FROM coupon.model_metrics a JOIN (SELECT *, predicted >= lag(predicted, 1, 0::float8)
    OVER (PARTITION BY version, population ORDER BY bin) AS rising FROM coupon.reliability) b USING (version,
    population)
WHERE a.version = 2 AND a.model = 'final' AND a.segment IS NULL GROUP BY a.population, a.predictions, a.ece ORDER BY 1;
SELECT a.population, count(*) BETWEEN 3 AND 100 AS bounded, min(r.false_positive_rate) = 0
    AND max(r.true_positive_rate) = 1 AS end_to_end, abs(sum(r.area) - a.auroc) < 0.02 AS auroc
FROM coupon.model_metrics a JOIN (SELECT *, (false_positive_rate - lag(false_positive_rate) OVER w)
    * (true_positive_rate + lag(true_positive_rate) OVER w) / 2 AS area
    FROM coupon.roc WINDOW w AS (PARTITION BY version, population ORDER BY threshold DESC)) r USING (version,
    population)
WHERE a.version = 2 AND a.model = 'final' AND a.segment IS NULL GROUP BY a.population, a.auroc ORDER BY 1;
-- How it was trained: one row an epoch, and one verdict a segment that has sessions.
SELECT segment, count(*) = max(epoch) AS every_epoch, min(fit_log_loss) > 0 AS fit, min(tune_log_loss) > 0 AS tune,
    bool_or(best) AS has_a_best FROM coupon.training_history WHERE version = 2 AND segment = 0 GROUP BY segment;
SELECT count(*) > 0 AS segments, bool_and(segment > 0 AND sessions > 0 AND buyers <= sessions) AS counts,
    bool_and(used = coalesce(difference < -standard_error, false)) AS verdict,
    bool_and((own_log_loss IS NULL) = (difference IS NULL)) AS compared FROM coupon.segment_models WHERE version = 2;
SELECT '2000-01-01 00:00:00+00'::timestamptz + (card -> 'judge' ->> 'from')::bigint * interval '1 microsecond' AS judge
    FROM coupon.model WHERE version = 2 AND stage = 'sessions' \gset
SELECT population, count(*) > 3 AS rows,
    bool_and((j.sessions, j.predictions, j.buyers) IS NOT DISTINCT
    FROM (a.sessions, a.predictions, a.buyers)) AS counts,
    bool_and((j.auroc IS NULL, j.auprc IS NULL, j.slope IS NULL, j.intercept IS NULL) = (a.auroc IS NULL,
        a.auprc IS NULL, a.slope IS NULL, a.intercept IS NULL)) AS nulls,
    max(greatest(abs(j.base_rate - a.base_rate), abs(j.auroc - a.auroc), abs(j.auprc - a.auprc),
        abs(j.brier - a.brier), abs(j.log_loss - a.log_loss), abs(j.ece - a.ece), abs(j.accuracy - a.accuracy),
        abs(j.majority - a.majority))) < 1e-9 AS same,
    max(greatest(abs(j.slope - a.slope), abs(j.intercept - a.intercept))) < 1e-6 AS recalibration
FROM (SELECT *, coalesce(segment, -1) AS s FROM coupon.evaluate_churn(:'judge', '2026-02-01') WHERE model <> 'own') j
FULL JOIN (SELECT *, coalesce(segment, -1) AS s FROM coupon.model_metrics WHERE version = 2
    AND model <> 'own') a USING (population, model, s) GROUP BY population ORDER BY 1;
-- What the live population is made of, counted in SQL: every view of every closed session of the window that is no
-- bot's.
WITH s AS (SELECT session, bool_or(kind = 'purchase') AS buys, count(*) FILTER (WHERE NOT over) AS kept,
    count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views, min(at) AS first
    FROM (SELECT c.*, bool_or(kind IN ('checkout', 'purchase')) OVER (PARTITION BY session ORDER BY at, kind) AS over
        FROM coupon.click c WHERE at < '2026-02-01') c GROUP BY session)
SELECT j.population, j.sessions = CASE j.population WHEN 'live' THEN l.sessions ELSE l.long END AS sessions,
    j.predictions = CASE j.population WHEN 'live' THEN l.views ELSE l.long END AS predictions
FROM coupon.evaluate_churn(:'judge', '2026-02-01') j,
    (SELECT count(*) AS sessions, sum(kept) AS views, count(*) FILTER (WHERE kept > 3) AS long FROM s
    WHERE first >= :'judge' AND views <= 100 AND kept > 0) l
WHERE j.model = 'final' AND j.segment IS NULL AND j.population IN ('cut', 'live') ORDER BY 1;
-- AUROC, Brier and the majority line of the live population recomputed in SQL from the array form.
WITH s AS (SELECT session, max(customer) AS customer, min(at) AS first, bool_or(kind = 'purchase') AS buys,
    count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views FROM coupon.click WHERE at < '2026-02-01'
    GROUP BY session),
v AS (SELECT s.session, s.buys, p.churn FROM s CROSS JOIN LATERAL (SELECT views_of(s.session) AS v OFFSET 0) v CROSS
    JOIN LATERAL (SELECT churn_probability(0, v.v[1:i]) AS churn FROM generate_series(1, cardinality(v.v)) i) p
      WHERE s.first >= :'judge' AND s.views <= 100),
r AS (SELECT *, rank() OVER (ORDER BY -churn) + (count(*) OVER (PARTITION BY churn) - 1) / 2.0 AS rank FROM v)
SELECT abs(j.auroc - (sum(r.rank) FILTER (WHERE buys) - count(*)
    FILTER (WHERE buys) * (count(*) FILTER (WHERE buys) + 1) / 2.0) / (count(*) FILTER (WHERE buys) * count(*)
    FILTER (WHERE NOT buys))) < 1e-5 AS auroc,
    abs(j.brier - avg((churn - (NOT buys)::int) ^ 2)) < 1e-6 AS brier,
        abs(j.majority - greatest(avg(buys::int), 1 - avg(buys::int))) < 1e-9 AS majority,
    abs(j.log_loss + avg(ln(CASE WHEN buys THEN 1 - churn ELSE churn END))) < 1e-5 AS log_loss
FROM r, coupon.evaluate_churn(:'judge', '2026-02-01') j WHERE j.population = 'live' AND j.model = 'pooled'
    AND j.segment IS NULL GROUP BY j.auroc, j.brier, j.majority, j.log_loss;
-- A window anywhere: the sessions that begin in it, and what is not closed at its end is not in it. Two windows side by
-- side are the whole.
WITH w AS (SELECT 'first' AS part, j.* FROM coupon.evaluate_churn('2026-01-10', '2026-01-15') j UNION ALL SELECT 'second',
    j.* FROM coupon.evaluate_churn('2026-01-15', '2026-01-20') j
    UNION ALL SELECT 'whole', j.* FROM coupon.evaluate_churn('2026-01-10', '2026-01-20') j),
s AS (SELECT session, min(at) AS first, max(at) AS last,
    count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views FROM coupon.click GROUP BY session),
n AS (SELECT part, count(*) AS sessions FROM (VALUES ('first', '2026-01-10'::timestamptz, '2026-01-15'::timestamptz),
    ('second', '2026-01-15', '2026-01-20'), ('whole', '2026-01-10', '2026-01-20')) p(part, since, until)
    JOIN s ON s.first >= p.since AND s.last < p.until - interval '30 minutes' AND s.views BETWEEN 1 AND 100
        GROUP BY part)
SELECT part, w.sessions = n.sessions AS sessions FROM w JOIN n USING (part) WHERE w.population = 'live'
    AND w.model = 'final' AND w.segment IS NULL ORDER BY part;
SELECT count(*) AS no_window FROM coupon.evaluate_churn(NULL, '2026-02-01');
SELECT count(*) AS rows_without_sessions FROM coupon.evaluate_churn('2030-01-01', '2030-01-02') WHERE sessions > 0;
-- The sessions after the last buyer's are of one class: what has no value is NULL.
SELECT max(first) + interval '1 microsecond' AS after_the_last_buyer
    FROM (SELECT min(at) AS first FROM coupon.click WHERE at < '2026-02-01'
    GROUP BY session HAVING bool_or(kind = 'purchase')) b \gset
SELECT population, model, sessions > 0 AS sessions, buyers, base_rate, auroc, auprc, slope, intercept,
    majority FROM coupon.evaluate_churn(:'after_the_last_buyer', '2026-02-01') WHERE population = 'live'
    AND segment IS NULL AND model <> 'own' ORDER BY 2;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
