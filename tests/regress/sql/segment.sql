-- segment: loyalty variables, segments and their statistics, each beside plain SQL over coupon.events.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- The six variables over the 30 days before a day. An event without a customer counts for the customer its session is
-- known by.
CREATE FUNCTION loyalty(day timestamptz)
    RETURNS TABLE (customer text, spending_last_month float8, average_payment float8, items_per_purchase float8,
    searches_last_month float8, stay_per_session float8, visits_last_month float8) LANGUAGE sql AS $$
    WITH e AS (SELECT coalesce(e.customer, max(e.customer) OVER (PARTITION BY e.session)) AS customer, e.session, e.at,
        e.kind, e.order_id,
                   coalesce(e.quantity, 1) AS quantity, coalesce(e.price, 0) AS price
                       FROM coupon.events('-infinity', 'infinity') e),
    known AS (SELECT customer FROM e WHERE customer IS NOT NULL AND at < loyalty.day GROUP BY customer),
    w AS (SELECT * FROM e WHERE at >= loyalty.day - interval '30 days' AND at < loyalty.day),
    bought AS (SELECT customer, sum(quantity * price) AS spent, sum(quantity) AS items,
        count(DISTINCT order_id) AS orders FROM w WHERE kind = 'purchase' GROUP BY customer),
    visits AS (SELECT customer, avg(extract(epoch FROM stay))::float8 AS stay, count(*) AS visits
        FROM (SELECT customer, session, max(at) - min(at) AS stay FROM w GROUP BY 1, 2) v GROUP BY customer),
    searches AS (SELECT customer, count(*) AS searches FROM w WHERE kind = 'search' GROUP BY customer)
    SELECT customer, coalesce(spent, 0), coalesce(spent / orders, 0), coalesce(items / orders, 0),
        coalesce(searches, 0), coalesce(stay, 0), coalesce(visits, 0)
    FROM known LEFT JOIN bought USING (customer) LEFT JOIN visits USING (customer) LEFT JOIN searches USING (customer)
$$;
-- Every customer of the version that stands; money is read in single precision.
CREATE FUNCTION loyalty_differs(day timestamptz)
    RETURNS TABLE (customers bigint, missing bigint, as_of bigint, spending bigint, payment bigint, items bigint,
    searches bigint, stay bigint, visits bigint)
LANGUAGE sql AS $$
    SELECT count(*), count(*) FILTER (WHERE c.customer IS NULL OR l.customer IS NULL),
        count(*) FILTER (WHERE c.as_of <> loyalty_differs.day),
        count(*) FILTER (WHERE abs(c.spending_last_month - l.spending_last_month) > 1e-5 * (1 + l.spending_last_month)),
        count(*) FILTER (WHERE abs(c.average_payment - l.average_payment) > 1e-5 * (1 + l.average_payment)),
        count(*) FILTER (WHERE abs(c.items_per_purchase - l.items_per_purchase) > 1e-9),
            count(*) FILTER (WHERE c.searches_last_month <> l.searches_last_month),
        count(*) FILTER (WHERE abs(c.stay_per_session - l.stay_per_session) > 1e-5),
            count(*) FILTER (WHERE c.visits_last_month <> l.visits_last_month)
    FROM coupon.customer c FULL JOIN loyalty(loyalty_differs.day) l USING (customer)
$$;
SELECT customers > 100 AS hundreds, missing, as_of, spending, payment, items, searches, stay,
    visits FROM loyalty_differs('2026-02-01');
SELECT count(*) FILTER (WHERE spending_last_month > 0) > 20 AS buyers,
    count(*) FILTER (WHERE searches_last_month > 0) > 20 AS searchers,
    count(*) FILTER (WHERE stay_per_session > 0) > 20 AS stayers FROM coupon.customer;
-- Order lines by category; a line that names only its product has the category the product was last seen under.
SELECT count(*) > 20 AS dozens, count(*) FILTER (WHERE s.lines IS DISTINCT FROM c.lines) AS differ
FROM (SELECT customer, jsonb_object_agg(category, n) AS lines
    FROM (SELECT customer, category, count(*) AS n FROM coupon.click WHERE kind = 'purchase' AND customer IS NOT NULL
      GROUP BY 1, 2) l GROUP BY customer) s
FULL JOIN (SELECT customer, jsonb_object_agg(category, n) AS lines FROM coupon.customer,
    unnest(categories, lines) u(category, n) GROUP BY customer) c USING (customer);

-- Known, unknown, anonymous.
SELECT bool_and(assign_segment(customer) IN (SELECT segment FROM coupon.segments
    WHERE version = 2)) AS known_customers_have_a_trained_segment FROM coupon.customer;
SELECT assign_segment('nobody'), assign_segment(NULL), assign_segment('');
SELECT count(*) AS same_variables_other_segment FROM coupon.customer a
    JOIN coupon.customer b USING (spending_last_month, average_payment, items_per_purchase, searches_last_month,
    stay_per_session, visits_last_month)
WHERE assign_segment(a.customer) <> assign_segment(b.customer);

-- Refreshed as of another day; nothing of that day or later is seen.
BEGIN;
SELECT left(refused($$SELECT coupon.refresh_segments('infinity')$$), 5) AS sqlstate LIMIT 1;
ROLLBACK;
BEGIN;
SELECT coupon.refresh_segments('2026-01-15 17:30:00') = (SELECT count(*) FROM loyalty('2026-01-15')) AS says_how_many;
SELECT customers > 50 AS dozens, missing, as_of, spending, payment, items, searches, stay,
    visits FROM loyalty_differs('2026-01-15');
SET LOCAL coupon_ext.mock_clock = '2026-01-20 12:00:00';
SELECT coupon.refresh_segments() AS customers;
SELECT customers > 50 AS dozens, missing, as_of, spending, payment, items, searches, stay,
    visits FROM loyalty_differs('2026-01-20');
-- Only order lines before that moment.
SELECT sum(n) = (SELECT count(*) FROM coupon.click k JOIN coupon.customer USING (customer) WHERE kind = 'purchase'
    AND at < '2026-01-20 12:00:00') AS lines FROM coupon.customer, unnest(lines) n;
SELECT coupon.refresh_segments('2020-01-01');
SELECT assign_segment(customer) FROM (SELECT customer FROM coupon.click WHERE customer IS NOT NULL LIMIT 1) c;
ROLLBACK;

-- The segments of a version: sessions of its fit window under their as-of assignment; churn_rate is the share without a
-- purchase.
SELECT segment, sessions > 0 AS sessions, buyers BETWEEN 0 AND sessions AS buyers,
    abs(churn_rate - (1 - buyers::float8 / sessions)) < 1e-9 AS churn_rate FROM coupon.segments WHERE version = 2
    ORDER BY segment;
-- In fit, a session has a segment if its customer is known and was seen before the session's day.
SELECT (SELECT sum(sessions) FROM coupon.segments WHERE version = 2 AND segment > 0) = count(*) AS every_such_session,
    (SELECT sum(buyers) FROM coupon.segments WHERE version = 2 AND segment > 0) = count(*)
    FILTER (WHERE purchased) AS every_such_buyer
FROM (SELECT c.session, min(c.at) AS first, (array_agg(c.customer ORDER BY c.at, c.kind))[1] AS customer,
    bool_or(c.kind = 'purchase') AS purchased, count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views
      FROM coupon.click c GROUP BY c.session) s
WHERE views <= 100 AND extract(epoch FROM first - '2000-01-01 00:00:00+00')
    * 1000000 <= (SELECT (card -> 'train' ->> 'to')::numeric FROM coupon.model WHERE version = 2 AND stage = 'sessions')
    AND EXISTS (SELECT FROM coupon.click o WHERE o.customer = s.customer AND o.at < date_trunc('day', s.first));

-- Statistics a segment: a percentile is what lies at its place in the sorted values, interpolated.
CREATE FUNCTION at_quantile(sorted float8[], q float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT sorted[i + 1] + (x - i) * (coalesce(sorted[i + 2], sorted[i + 1]) - sorted[i + 1])
        FROM (SELECT q * (cardinality(sorted) - 1) AS x) p, LATERAL (SELECT floor(x)::int AS i) f
$$;
WITH v AS (
    SELECT assign_segment(c.customer) AS segment, u.variable, u.value
    FROM coupon.customer c, LATERAL (SELECT key AS variable, value::float8 FROM jsonb_each_text(to_jsonb(c) - '{customer,as_of,categories,lines,definition,variables,version,segment,previous_segment,moved_at,refreshed_at}'::text[])) u),
s AS (SELECT segment, variable, array_agg(value ORDER BY value) AS sorted, sum(value) AS total,
    sum(value * value) AS squares, count(*) AS n FROM v GROUP BY 1, 2)
SELECT count(*) AS variables, count(*) FILTER (WHERE t.variable IS NULL OR s.variable IS NULL) AS missing,
    count(*) FILTER (WHERE t.customers <> s.n) AS customers,
    count(*) FILTER (WHERE abs(t.mean - s.total / s.n) > 1e-6 * (1 + abs(t.mean))) AS mean,
    count(*) FILTER (WHERE abs(t.std - sqrt(greatest(s.squares - s.total ^ 2 / s.n, 0) / (s.n - 1))) > 1e-6
        * (1 + t.std)) AS std,
    count(*) FILTER (WHERE t.min <> s.sorted[1]) AS min, count(*) FILTER (WHERE t.max <> s.sorted[s.n]) AS max,
    count(*) FILTER (WHERE abs(t.p25 - at_quantile(s.sorted, 0.25)) > 1e-6) AS p25,
        count(*) FILTER (WHERE abs(t.p50 - at_quantile(s.sorted, 0.5)) > 1e-6) AS p50,
    count(*) FILTER (WHERE abs(t.p75 - at_quantile(s.sorted, 0.75)) > 1e-6) AS p75
FROM coupon.segment_statistics t FULL JOIN s USING (segment, variable);

-- A live session gets the segment its customer has at the first view, and keeps it: 0 when it began anonymous.
BEGIN;
SET LOCAL coupon_ext.mock_clock = '2026-02-02 10:00:00';
SELECT customer FROM coupon.customer ORDER BY customer LIMIT 1 \gset
INSERT INTO coupon.click (session, at, kind, customer)
    VALUES ('seg-known', '2026-02-02 09:59:00', 'view', :'customer'),
    ('seg-unknown', '2026-02-02 09:59:00', 'view', 'nobody'),
    ('seg-late', '2026-02-02 09:59:00', 'view', NULL), ('seg-late', '2026-02-02 09:59:10', 'view', :'customer');
INSERT INTO coupon.click (session, at, kind, customer) VALUES ('seg-late', '2026-02-02 09:59:20', 'view', :'customer');
SELECT session, segment = assign_segment(:'customer') AS of_the_customer, segment = 0 AS none,
    customer IS NOT NULL AS customer_known FROM coupon.session WHERE session LIKE 'seg-%' ORDER BY session;
ROLLBACK;

-- The elbow: ten rows a dimension, one chosen with its reason; one cluster's inertia is the number of values, which are
-- standardised.
SELECT dimension, count(*), sum(chosen::int) AS chosen, bool_and(chosen = (reason LIKE 'furthest, %')) AS reasons,
    bool_and((silhouette IS NULL) = (k = 1)) AS silhouettes,
    bool_and(silhouette BETWEEN -1 AND 1) AS from_to,
        abs(max(inertia) / (max(customers) * (SELECT count(*) FROM coupon.segment_variables v WHERE v.version = 2
        AND v.dimension = e.dimension)) - 1) < 1e-6 AS first
FROM coupon.elbow e, (SELECT sum(customers) AS customers FROM coupon.segments WHERE version = 2) c WHERE version = 2
    GROUP BY dimension ORDER BY dimension;
SELECT count(*) AS rises FROM (SELECT inertia > lag(inertia) OVER (PARTITION BY dimension ORDER BY k) AS rises
    FROM coupon.elbow WHERE version = 2) e WHERE rises;
SELECT dimension, variable, expression, log, low, high, std > 0 AS std, edges FROM coupon.segment_variables
    WHERE version = 2 ORDER BY 1 DESC, 2;
-- Cells: one a pair of chosen clusters, and together what the segments say, in both windows.
SELECT count(*) = (SELECT exp(sum(ln(k)))::int FROM coupon.elbow WHERE version = 2 AND chosen) AS pairs,
    count(DISTINCT (spending, behaviour)) = count(*) AS different, count(recency) AS rfm FROM coupon.segment_cells
    WHERE version = 2;
SELECT count(*) AS differ FROM (SELECT segment, count(*) AS cells, sum(sessions) AS sessions, sum(buyers) AS buyers,
    sum(test_sessions) AS test_sessions, sum(test_buyers) AS test_buyers FROM coupon.segment_cells
    WHERE version = 2 GROUP BY segment) c
FULL JOIN (SELECT * FROM coupon.segments WHERE version = 2) s USING (segment, cells, sessions, buyers, test_sessions,
    test_buyers) WHERE s.version IS NULL OR c.cells IS NULL;
-- The judge window beside plain SQL, as for the fit window above.
SELECT (SELECT sum(test_sessions) FROM coupon.segments WHERE version = 2) = count(*) AS every_such_session,
    (SELECT sum(test_buyers) FROM coupon.segments WHERE version = 2) = count(*)
    FILTER (WHERE purchased) AS every_such_buyer, count(*) > 0 AS some
FROM (SELECT c.session, min(c.at) AS first, max(c.at) AS last,
    (array_agg(c.customer ORDER BY c.at, c.kind))[1] AS customer, bool_or(c.kind = 'purchase') AS purchased,
    count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views
      FROM coupon.click c GROUP BY c.session) s
WHERE views <= 100 AND extract(epoch FROM first - '2000-01-01 00:00:00+00')
    * 1000000 BETWEEN (SELECT (card -> 'test' ->> 'from')::numeric FROM coupon.model WHERE version = 2
    AND stage = 'sessions') AND (SELECT (card -> 'test' ->> 'to')::numeric FROM coupon.model WHERE version = 2
    AND stage = 'sessions')
    AND EXISTS (SELECT FROM coupon.click o WHERE o.customer = s.customer AND o.at < date_trunc('day', s.first));

-- What is refused, and why.
CREATE FUNCTION segments_refused(segment jsonb) RETURNS SETOF text LANGUAGE sql
    AS $$ SELECT refused(format('SELECT * FROM coupon.train(until => %L, spec => %L)', '2026-02-01',
        jsonb_build_object('segment', segment))) $$;
SELECT segments_refused('{"spending": [{"name": "spent", "expression": "sum(prize)"}]}');
SELECT left(r, 100) FROM segments_refused('{"spending": [{"name": "spent",
    "expression": "(SELECT sum(price) FROM coupon.click)"}]}') r LIMIT 1;
SELECT left(r, 100) FROM segments_refused('{"spending": [{"name": "spent",
    "expression": "sum(price); DROP TABLE coupon.click"}]}') r LIMIT 1;
SELECT left(r, 100) FROM segments_refused('{"behaviour": [{"name": "slept", "expression": "pg_sleep(1)"}]}') r LIMIT 1;
SELECT left(r, 120) FROM segments_refused('{"behaviour": ["mood"]}') r LIMIT 1;
SELECT left(r, 120) FROM segments_refused('{"method": "som"}') r LIMIT 1;

-- Variables of the shop's own: what PostgreSQL makes of the same expressions.
CREATE FUNCTION train_segments_only(segment jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT DISTINCT version FROM coupon.train(until => '2026-02-01',
        spec => jsonb_build_object('churn', '{"epochs": 1, "min_sessions": 1000000000}'::jsonb, 'segment', segment)));
END $$;
CREATE FUNCTION in_sql(day timestamptz) RETURNS TABLE (customer text, variable text, value float8)
    LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    CREATE TEMP TABLE w AS SELECT coalesce(e.customer, max(e.customer) OVER (PARTITION BY e.session)) AS customer,
        e.session, e.at, e.kind, e.page, e.category, e.product, e.order_id,
        coalesce(e.quantity, 1) AS quantity, e.price, extract(hour FROM e.at)::float8 AS hour,
            extract(isodow FROM e.at)::float8 AS weekday,
            extract(epoch FROM in_sql.day - e.at)::float8 / 86400 AS days_ago
        FROM coupon.events('-infinity', 'infinity') e;
    CREATE TEMP TABLE known AS SELECT w.customer FROM w WHERE w.customer IS NOT NULL AND at < in_sql.day GROUP BY 1;
    DELETE FROM w WHERE at >= in_sql.day OR at < in_sql.day - interval '30 days';
    FOR r IN SELECT v.variable, v.expression FROM coupon.segment_variables v WHERE v.expression IS NOT NULL
        AND v.version = (SELECT max(version) FROM coupon.version) LOOP
        RETURN QUERY EXECUTE format('SELECT k.customer, %L, coalesce(CASE WHEN g.customer IS NULL THEN (SELECT %s FROM w WHERE false) ELSE g.value END, 0)::float8
            FROM known k LEFT JOIN (SELECT customer, %2$s AS value FROM w GROUP BY customer) g USING (customer)', r.variable, r.expression);
    END LOOP;
    DROP TABLE w, known;
END $$;
CREATE FUNCTION own_differs(day timestamptz)
    RETURNS TABLE (variable text, hundreds boolean, varies boolean, differ bigint) LANGUAGE sql AS $$
    SELECT variable, count(*) > 100, count(DISTINCT s.value) > 1,
        count(*) FILTER (WHERE c.value IS NULL OR s.value IS NULL OR abs(c.value - s.value) > 1e-6 * (1 + abs(s.value)))
    FROM (SELECT customer, key AS variable, value::float8 FROM coupon.customer, jsonb_each_text(variables)) c FULL
        JOIN in_sql(day) s USING (customer, variable) GROUP BY variable ORDER BY variable
$$;
BEGIN;
SELECT train_segments_only('{"spending": ["spending_last_month", {"name": "dear",
    "expression": "count(*) FILTER (WHERE kind = ''purchase'' AND price >= 30)"},
        {"name": "ticket", "expression": "ln(1 + coalesce(max(price * quantity) FILTER (WHERE kind IN (''purchase'', ''cart'')), 0))"}],
    "behaviour": ["visits_last_month", {"name": "night_share",
        "expression": "avg(CASE WHEN hour >= 20 OR hour < 8 THEN 1 ELSE 0 END)"}, {"name": "breadth",
        "expression": "count(DISTINCT category)"},
        {"name": "last_seen", "expression": "coalesce(min(days_ago), 99)"}, {"name": "weekend",
            "expression": "count(*) FILTER (WHERE weekday IN (6, 7) AND NOT (page = ''home'' OR category IS NULL))"}],
    "log": ["spending_last_month", "dear"], "winsorize": 0.99, "min_sessions": 50, "min_buyers": 1,
        "prior_strength": 20}') AS version \gset
SELECT variable, dimension, expression IS NOT NULL AS own, log, low < high AS clipped FROM coupon.segment_variables
    WHERE version = :version ORDER BY dimension DESC, variable;
SELECT * FROM own_differs('2026-02-01');
SELECT coupon.refresh_segments('2026-01-20') AS customers;
SELECT variable, varies, differ FROM own_differs('2026-01-20');
SELECT count(DISTINCT variable) AS variables FROM coupon.segment_statistics;
SELECT bool_and(assign_segment(customer) = segment AND segment > 0 AND c.version = :version) AS assigned
    FROM coupon.customer c;
-- A version of other variables does not know these rows until they are refreshed.
SELECT coupon.activate(2);
SELECT count(*) FILTER (WHERE assign_segment(customer) <> 0) AS known FROM coupon.customer;
SELECT coupon.refresh_segments('2026-02-01') AS customers;
SELECT count(*) FILTER (WHERE assign_segment(customer) = 0 OR variables <> '{}') AS unknown FROM coupon.customer;
ROLLBACK;

-- Fifths, and no segments at all. Planted: a third buys every day, a third never does, and the rest since the 21st.
BEGIN;
INSERT INTO coupon.click (session, at, kind, customer, price, order_id)
SELECT format('planted-%s-%s', c, d), timestamptz '2026-01-01 10:00' + d * interval '1 day' + c * interval '1 second'
    + k * interval '5 seconds',
    CASE k WHEN 4 THEN 'purchase' ELSE 'view' END, format('planted-%s', c), 20,
        CASE k WHEN 4 THEN format('planted-%s-%s', c, d) END
FROM generate_series(1, 120) c, generate_series(1, 30) d, generate_series(0, 4) k WHERE k < 4 OR c % 3 = 0
    OR (c % 3 = 1 AND d >= 20);
SELECT train_segments_only('{"method": "rfm", "min_sessions": 50, "min_buyers": 1,
    "prior_strength": 20}') AS version \gset
SELECT dimension, variable, edges IS NOT NULL AS edges FROM coupon.segment_variables WHERE version = :version
    ORDER BY 1;
SELECT count(*) = max(recency) * max(frequency) * max(monetary) AS cells, count(spending) AS two_dimensional
    FROM coupon.segment_cells WHERE version = :version;
SELECT variable, differ FROM own_differs('2026-02-01');
CREATE FUNCTION fifth(v bigint, d text, x float8) RETURNS bigint LANGUAGE sql AS $$ SELECT 1 + count(*)
    FROM coupon.segment_variables s, unnest(s.edges) e WHERE s.version = v AND s.dimension = d AND e < x $$;
WITH f AS MATERIALIZED (SELECT customer, fifth(:version, 'recency', (variables ->> 'recency')::float8) AS recency,
    fifth(:version, 'frequency', (variables ->> 'frequency')::float8) AS frequency,
    fifth(:version, 'monetary', spending_last_month) AS monetary FROM coupon.customer),
        cells AS MATERIALIZED (SELECT * FROM coupon.segment_cells WHERE version = :version)
SELECT count(*) AS differ FROM f LEFT JOIN cells s USING (recency, frequency, monetary) WHERE s.segment IS DISTINCT
    FROM assign_segment(f.customer);
-- Who moved: between two refreshes of the same version, until the next move; a new version begins anew.
SELECT count(*) > 1 AS several FROM coupon.segments WHERE version = :version;
SELECT count(*) AS moved FROM coupon.segment_changes;
SELECT coupon.refresh_segments('2026-01-20') AS customers;
CREATE TEMP TABLE earlier AS SELECT customer, assign_segment(customer) AS segment FROM coupon.customer;
SELECT coupon.refresh_segments('2026-01-30') AS customers;
CREATE TEMP TABLE later AS SELECT customer, assign_segment(customer) AS segment FROM coupon.customer;
SELECT count(*) FILTER (WHERE customer LIKE 'planted-%') AS planted,
    count(*) FILTER (WHERE m.customer IS NULL OR l.customer IS NULL) AS differ,
    bool_and(m.version = :version AND m.at = '2026-01-30' AND from_name <> to_name) AS told
FROM coupon.segment_changes m FULL JOIN (SELECT l.customer, e.segment AS from_segment, l.segment AS to_segment FROM later l
    JOIN earlier e USING (customer) WHERE l.segment <> e.segment) l USING (customer, from_segment, to_segment);
CREATE TEMP TABLE told AS SELECT * FROM coupon.segment_changes;
SELECT coupon.refresh_segments('2026-01-30') AS customers;
SELECT count(*) AS differ FROM (TABLE told EXCEPT TABLE coupon.segment_changes
    UNION ALL (TABLE coupon.segment_changes EXCEPT TABLE told)) d;
SELECT coupon.refresh_segments('2026-01-20') AS customers;
SELECT count(*) > 0 AS some, bool_and(at = '2026-01-20') AS at FROM coupon.segment_changes;
SELECT train_segments_only('{"method": "none"}') AS version \gset
SELECT segment, name, cells FROM coupon.segments WHERE version = :version;
SELECT DISTINCT assign_segment(customer) FROM coupon.customer;
SELECT count(*) AS moved FROM coupon.segment_changes;
ROLLBACK;

-- Names: made from statistics, given by people, of one version.
BEGIN;
SELECT segment, name FROM coupon.segments WHERE version = 2;
SELECT coupon.name_segment(1, ' visitors ');
SELECT version, name FROM coupon.segments WHERE version <= 2 ORDER BY version;
SELECT DISTINCT name FROM coupon.segment_cells WHERE version = 2;
SELECT coupon.name_segment(1, NULL), coupon.name_segment(1, 'first', version => 1);
SELECT version, name FROM coupon.segments WHERE version <= 2 ORDER BY version;
SELECT count(*) FROM coupon.segment_name;
ROLLBACK;
SELECT * FROM refused($$SELECT coupon.name_segment(99, 'x')$$);
SELECT * FROM refused($$SELECT coupon.name_segment(1, 'x', 999)$$);
SELECT * FROM refused($$SELECT coupon.name_segment(NULL, NULL)$$);

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
