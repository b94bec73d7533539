-- segment: loyalty variables, segments and their statistics, each beside plain SQL over coupon.events.
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- The six variables over the 30 days before a day. An event without a customer counts for the customer its session is known by.
CREATE FUNCTION loyalty(day timestamptz) RETURNS TABLE (customer text, spending_last_month float8, average_payment float8, items_per_purchase float8,
    searches_last_month float8, stay_per_session float8, visits_last_month float8) LANGUAGE sql AS $$
    WITH e AS (SELECT coalesce(e.customer, max(e.customer) OVER (PARTITION BY e.session)) AS customer, e.session, e.at, e.kind, e.order_id,
                   coalesce(e.quantity, 1) AS quantity, coalesce(e.price, 0) AS price FROM coupon.events('-infinity', 'infinity') e),
    known AS (SELECT customer FROM e WHERE customer IS NOT NULL AND at < loyalty.day GROUP BY customer),
    w AS (SELECT * FROM e WHERE at >= loyalty.day - interval '30 days' AND at < loyalty.day),
    bought AS (SELECT customer, sum(quantity * price) AS spent, sum(quantity) AS items, count(DISTINCT order_id) AS orders FROM w WHERE kind = 'purchase' GROUP BY customer),
    visits AS (SELECT customer, avg(extract(epoch FROM stay))::float8 AS stay, count(*) AS visits FROM (SELECT customer, session, max(at) - min(at) AS stay FROM w GROUP BY 1, 2) v GROUP BY customer),
    searches AS (SELECT customer, count(*) AS searches FROM w WHERE kind = 'search' GROUP BY customer)
    SELECT customer, coalesce(spent, 0), coalesce(spent / orders, 0), coalesce(items / orders, 0), coalesce(searches, 0), coalesce(stay, 0), coalesce(visits, 0)
    FROM known LEFT JOIN bought USING (customer) LEFT JOIN visits USING (customer) LEFT JOIN searches USING (customer)
$$;
-- Every customer of the version that stands; money is read in single precision.
CREATE FUNCTION loyalty_differs(day timestamptz) RETURNS TABLE (customers bigint, missing bigint, as_of bigint, spending bigint, payment bigint, items bigint, searches bigint, stay bigint, visits bigint)
LANGUAGE sql AS $$
    SELECT count(*), count(*) FILTER (WHERE c.customer IS NULL OR l.customer IS NULL), count(*) FILTER (WHERE c.as_of <> loyalty_differs.day),
        count(*) FILTER (WHERE abs(c.spending_last_month - l.spending_last_month) > 1e-5 * (1 + l.spending_last_month)),
        count(*) FILTER (WHERE abs(c.average_payment - l.average_payment) > 1e-5 * (1 + l.average_payment)),
        count(*) FILTER (WHERE abs(c.items_per_purchase - l.items_per_purchase) > 1e-9), count(*) FILTER (WHERE c.searches_last_month <> l.searches_last_month),
        count(*) FILTER (WHERE abs(c.stay_per_session - l.stay_per_session) > 1e-5), count(*) FILTER (WHERE c.visits_last_month <> l.visits_last_month)
    FROM coupon.customer c FULL JOIN loyalty(loyalty_differs.day) l USING (customer)
$$;
SELECT customers > 100 AS hundreds, missing, as_of, spending, payment, items, searches, stay, visits FROM loyalty_differs('2026-02-01');
SELECT count(*) FILTER (WHERE spending_last_month > 0) > 20 AS buyers, count(*) FILTER (WHERE searches_last_month > 0) > 20 AS searchers,
    count(*) FILTER (WHERE stay_per_session > 0) > 20 AS stayers FROM coupon.customer;
-- Order lines by category; a line that names only its product has the category the product was last seen under.
SELECT count(*) > 20 AS dozens, count(*) FILTER (WHERE s.lines IS DISTINCT FROM c.lines) AS differ
FROM (SELECT customer, jsonb_object_agg(category, n) AS lines FROM (SELECT customer, category, count(*) AS n FROM coupon.click WHERE kind = 'purchase' AND customer IS NOT NULL
      GROUP BY 1, 2) l GROUP BY customer) s
FULL JOIN (SELECT customer, jsonb_object_agg(category, n) AS lines FROM coupon.customer, unnest(categories, lines) u(category, n) GROUP BY customer) c USING (customer);

-- Known, unknown, anonymous.
SELECT bool_and(assign_segment(customer) IN (SELECT segment FROM coupon.segments WHERE version = 2)) AS known_customers_have_a_trained_segment FROM coupon.customer;
SELECT assign_segment('nobody'), assign_segment(NULL), assign_segment('');
SELECT count(*) AS same_variables_other_segment FROM coupon.customer a JOIN coupon.customer b USING (spending_last_month, average_payment, items_per_purchase, searches_last_month, stay_per_session, visits_last_month)
WHERE assign_segment(a.customer) <> assign_segment(b.customer);

-- Refreshed as of another day; nothing of that day or later is seen.
BEGIN;
SELECT left(refused($$SELECT coupon.refresh_segments('infinity')$$), 5) AS sqlstate LIMIT 1;
ROLLBACK;
BEGIN;
SELECT coupon.refresh_segments('2026-01-15 17:30:00') = (SELECT count(*) FROM loyalty('2026-01-15')) AS says_how_many;
SELECT customers > 50 AS dozens, missing, as_of, spending, payment, items, searches, stay, visits FROM loyalty_differs('2026-01-15');
SET LOCAL coupon_ext.clock = '2026-01-20 12:00:00';
SELECT coupon.refresh_segments() > 0 AS refreshed;
SELECT customers > 50 AS dozens, missing, as_of, spending, payment, items, searches, stay, visits FROM loyalty_differs('2026-01-20');
-- Only order lines before that moment.
SELECT sum(n) = (SELECT count(*) FROM coupon.click k JOIN coupon.customer USING (customer) WHERE kind = 'purchase' AND at < '2026-01-20 12:00:00') AS lines FROM coupon.customer, unnest(lines) n;
SELECT coupon.refresh_segments('2020-01-01');
SELECT assign_segment(customer) FROM (SELECT customer FROM coupon.click WHERE customer IS NOT NULL LIMIT 1) c;
ROLLBACK;

-- The segments of a version: sessions of its fit window under their as-of assignment; churn_rate is the share without a purchase.
SELECT segment, sessions > 0 AS sessions, buyers BETWEEN 0 AND sessions AS buyers, abs(churn_rate - (1 - buyers::float8 / sessions)) < 1e-9 AS churn_rate FROM coupon.segments WHERE version = 2 ORDER BY segment;
-- In fit, a session has a segment if its customer is known and was seen before the session's day.
SELECT (SELECT sum(sessions) FROM coupon.segments WHERE version = 2 AND segment > 0) = count(*) AS every_such_session, (SELECT sum(buyers) FROM coupon.segments WHERE version = 2 AND segment > 0) = count(*) FILTER (WHERE purchased) AS every_such_buyer
FROM (SELECT c.session, min(c.at) AS first, (array_agg(c.customer ORDER BY c.at, c.kind))[1] AS customer, bool_or(c.kind = 'purchase') AS purchased, count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views
      FROM coupon.click c GROUP BY c.session) s
WHERE views <= 100 AND extract(epoch FROM first - '2000-01-01 00:00:00+00') * 1000000 <= (SELECT (card -> 'fit' ->> 'to')::numeric FROM coupon.model WHERE version = 2 AND stage = 'sessions')
    AND EXISTS (SELECT FROM coupon.click o WHERE o.customer = s.customer AND o.at < date_trunc('day', s.first));

-- Statistics a segment: a percentile is what lies at its place in the sorted values, interpolated.
CREATE FUNCTION at_quantile(sorted float8[], q float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT sorted[i + 1] + (x - i) * (coalesce(sorted[i + 2], sorted[i + 1]) - sorted[i + 1]) FROM (SELECT q * (cardinality(sorted) - 1) AS x) p, LATERAL (SELECT floor(x)::int AS i) f
$$;
WITH v AS (
    SELECT assign_segment(c.customer) AS segment, u.variable, u.value
    FROM coupon.customer c, LATERAL (SELECT key AS variable, value::float8 FROM jsonb_each_text(to_jsonb(c) - '{customer,as_of,categories,lines}'::text[])) u),
s AS (SELECT segment, variable, array_agg(value ORDER BY value) AS sorted, sum(value) AS total, sum(value * value) AS squares, count(*) AS n FROM v GROUP BY 1, 2)
SELECT count(*) AS variables, count(*) FILTER (WHERE t.variable IS NULL OR s.variable IS NULL) AS missing, count(*) FILTER (WHERE t.customers <> s.n) AS customers,
    count(*) FILTER (WHERE abs(t.mean - s.total / s.n) > 1e-6 * (1 + abs(t.mean))) AS mean,
    count(*) FILTER (WHERE abs(t.std - sqrt(greatest(s.squares - s.total ^ 2 / s.n, 0) / (s.n - 1))) > 1e-6 * (1 + t.std)) AS std,
    count(*) FILTER (WHERE t.min <> s.sorted[1]) AS min, count(*) FILTER (WHERE t.max <> s.sorted[s.n]) AS max,
    count(*) FILTER (WHERE abs(t.p25 - at_quantile(s.sorted, 0.25)) > 1e-6) AS p25, count(*) FILTER (WHERE abs(t.p50 - at_quantile(s.sorted, 0.5)) > 1e-6) AS p50,
    count(*) FILTER (WHERE abs(t.p75 - at_quantile(s.sorted, 0.75)) > 1e-6) AS p75
FROM coupon.segment_statistics t FULL JOIN s USING (segment, variable);

-- A live session gets the segment its customer has at the first view, and keeps it: 0 when it began anonymous.
BEGIN;
SET LOCAL coupon_ext.clock = '2026-02-02 10:00:00';
SELECT customer FROM coupon.customer ORDER BY customer LIMIT 1 \gset
INSERT INTO coupon.click (session, at, kind, customer) VALUES ('seg-known', '2026-02-02 09:59:00', 'view', :'customer'), ('seg-unknown', '2026-02-02 09:59:00', 'view', 'nobody'),
    ('seg-late', '2026-02-02 09:59:00', 'view', NULL), ('seg-late', '2026-02-02 09:59:10', 'view', :'customer');
INSERT INTO coupon.click (session, at, kind, customer) VALUES ('seg-late', '2026-02-02 09:59:20', 'view', :'customer');
SELECT session, segment = assign_segment(:'customer') AS of_the_customer, segment = 0 AS none, customer IS NOT NULL AS customer_known FROM coupon.session WHERE session LIKE 'seg-%' ORDER BY session;
ROLLBACK;
