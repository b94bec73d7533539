-- simulate: a shop to try it on; it fills coupon.click through ordinary INSERTs.
-- needs: installed
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- What it refuses.
SELECT * FROM refused('SELECT coupon.simulate(0)');
SELECT * FROM refused('SELECT coupon.simulate(-5)');
SELECT * FROM refused('SELECT coupon.simulate(10, -1)');
SELECT * FROM refused('SELECT coupon.simulate(2147483647, 1)');
SELECT left(r, 2) AS class, r LIKE '%start%' AS names_what_is_wrong
    FROM refused($$SELECT coupon.simulate(10, 1, 0, 'infinity')$$) r LIMIT 1;
SELECT coupon.simulate(10, 0);

-- All arguments have defaults, NULL is the default too; the default shop ends yesterday.
BEGIN;
SET LOCAL coupon_ext.mock_clock = '2026-03-10 15:00:00+00';
SELECT coupon.simulate(customers => 200, days => NULL) AS clicks;
SELECT min(at) >= '2026-02-03' AS not_before, max(at) < '2026-03-11' AS not_after, count(DISTINCT at::date) BETWEEN 35
    AND 36 AS days FROM coupon.click;
SHOW coupon_ext.mock_clock;
ROLLBACK;
SELECT pronargdefaults AS defaults, pronargs AS arguments FROM pg_proc WHERE oid = 'coupon.simulate'::regproc;

-- Same arguments, same clicks, whatever the session's settings; another seed is another shop.
CREATE TABLE shops (shop text, digest text);
CREATE PROCEDURE note_shop(shop text, seed bigint) LANGUAGE plpgsql AS $$
DECLARE
    digest text;
BEGIN
    BEGIN
        PERFORM coupon.simulate(100, 3, seed, '2026-01-05 00:00:00+00');
        SELECT md5(string_agg(to_jsonb(c)::text, ',' ORDER BY at, session, kind, page, product)) INTO digest
        FROM (SELECT session, extract(epoch FROM at) AS at, kind, customer, page, category, product, quantity, price,
            order_id, attributes
              FROM coupon.click) c;
        RAISE EXCEPTION 'undo';
    EXCEPTION WHEN raise_exception THEN
        INSERT INTO shops VALUES (shop, digest);
    END;
END
$$;
CALL note_shop('first', 1);
CALL note_shop('again', 1);
CALL note_shop('another', 2);
SET datestyle = 'German';
SET timezone = 'Asia/Kolkata';
CALL note_shop('elsewhere', 1);
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SELECT shop, digest = first_value(digest) OVER () AS like_the_first FROM shops ORDER BY shop <> 'first', shop;
SELECT count(*) AS clicks_left FROM coupon.click;

-- The shop that setup/shop.sql makes for other files.
SELECT coupon.simulate(800, 20, 0, '2026-01-05') AS said \gset
SELECT count(*) = :said AS says_how_many FROM coupon.click;

-- It is a plausible one: every column means what it should ...
SELECT kind, count(*) > 0 AS some, count(*) FILTER (WHERE session IS NULL OR at IS NULL OR page IS NULL) AS incomplete,
    count(*) FILTER (WHERE (kind = 'purchase') <> (order_id IS NOT NULL)) AS order_misplaced,
    count(*) FILTER (WHERE price <= 0 OR price = 'NaN' OR quantity < 1) AS odd_numbers
FROM coupon.click GROUP BY kind ORDER BY kind;
SELECT count(*) AS sessions_of_two_people
    FROM (SELECT FROM coupon.click WHERE customer IS NOT NULL GROUP BY session HAVING count(DISTINCT customer) > 1) s;
SELECT count(*) AS orders_of_two_sessions
    FROM (SELECT FROM coupon.click WHERE order_id IS NOT NULL GROUP BY order_id HAVING count(DISTINCT session) > 1) o;
SELECT min(at) >= '2026-01-05' AS not_before, max(at) < '2026-01-26' AS not_after FROM coupon.click;
-- ... two to three visits in a hundred buy, most leave at once, and buyers look longer than leavers.
SELECT avg(buys::int) BETWEEN 0.015 AND 0.035 AS conversion_plausible, avg((views = 1)::int) BETWEEN 0.3
    AND 0.8 AS bounces_plausible,
    avg(views) FILTER (WHERE buys) > avg(views) FILTER (WHERE NOT buys) AS buyers_look_longer,
    avg((customer IS NULL)::int) BETWEEN 0.1 AND 0.9 AS some_are_anonymous
FROM (SELECT session, bool_or(kind = 'purchase') AS buys,
    count(*) FILTER (WHERE kind NOT IN ('checkout', 'purchase')) AS views,
          max(customer) AS customer FROM coupon.click GROUP BY session) s;
SELECT count(DISTINCT category) BETWEEN 10 AND 20 AS more_than_ten_categories,
    count(DISTINCT product) <= 1317 AS at_most_1317_products FROM coupon.click;

-- Its clicks were noticed like any others: what was advanced in large steps equals what SQL counts.
WITH counted AS (
    SELECT session, min(at) AS started_at, count(*) FILTER (WHERE NOT over) AS views,
        bool_or(kind = 'purchase') AS purchased,
        bool_or(kind IN ('checkout', 'purchase')) AS ended, max(at) AS last_at, max(customer) AS customer
    FROM (SELECT c.*, bool_or(kind IN ('checkout', 'purchase')) OVER (PARTITION BY session ORDER BY at, kind) AS over
        FROM coupon.click c) c
    GROUP BY session)
SELECT count(*) > 4000 AS thousands, count(*) FILTER (WHERE s.session IS NULL OR c.session IS NULL) AS missing,
    count(*) FILTER (WHERE s.views <> c.views) AS views,
        count(*) FILTER (WHERE s.started_at <> c.started_at) AS started_at,
    count(*) FILTER (WHERE s.last_at <> c.last_at) AS last_at, count(*) FILTER (WHERE s.ended <> c.ended) AS ended,
    count(*) FILTER (WHERE s.purchased <> c.purchased) AS purchased,
    count(*) FILTER (WHERE s.customer IS DISTINCT FROM c.customer) AS customer,
    count(*) FILTER (WHERE s.version IS NOT NULL OR s.churn IS NOT NULL OR s.segment <> 0) AS scored_without_a_model
FROM counted c FULL JOIN coupon.session s USING (session);
SELECT count(*) AS faults FROM coupon.error_log;

-- A later start continues the same shop: the same customers come back.
BEGIN;
SELECT coupon.simulate(800, 3, 0, '2026-02-02') AS clicks;
SELECT count(*) FILTER (WHERE known) > 3 * count(*) FILTER (WHERE NOT known) AS mostly_the_same_people
FROM (SELECT DISTINCT customer, EXISTS (SELECT FROM coupon.click o WHERE o.customer = c.customer
    AND o.at < '2026-01-27') AS known
      FROM coupon.click c WHERE at >= '2026-02-02' AND customer IS NOT NULL) c;
SELECT count(*) AS session_ids_used_twice
    FROM (SELECT FROM coupon.click GROUP BY session HAVING max(at) - min(at) > interval '2 days') s;
ROLLBACK;
