-- events: the trigger is the registration; whatever inserts a click, the trigger and coupon.events read it alike.
-- needs: shop
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- What was advanced for the sessions of a table, beside what SQL counts over it; prints only what differs.
CREATE FUNCTION differs(relation regclass) RETURNS TABLE (session text, advanced text, counted text)
    LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format($q$
        SELECT session, a.said, c.said
        FROM (SELECT c.session::text, format('%%s views from %%s to %%s, customer %%s, frozen %%s, purchased %%s',
            count(*) FILTER (WHERE NOT over),
                  min(at), max(at), coalesce((array_agg(customer ORDER BY at) FILTER (WHERE customer IS NOT NULL))[1],
                      'none'),
                  bool_or(kind IN ('checkout', 'purchase')), bool_or(kind = 'purchase')) AS said
              FROM (SELECT x.*, bool_or(kind IN ('checkout', 'purchase'))
                  OVER (PARTITION BY x.session ORDER BY at) AS over FROM %s x) c
              GROUP BY c.session) c
        FULL JOIN (SELECT s.session, format('%%s views from %%s to %%s, customer %%s, frozen %%s, purchased %%s',
            s.views, s.started_at, s.last_at,
                  coalesce(s.customer, 'none'), s.ended, s.purchased) AS said
              FROM coupon.session s WHERE s.session LIKE %L) a USING (session)
        WHERE a.said IS DISTINCT FROM c.said ORDER BY session$q$, relation, replace(relation::text, '_', '\_') || '-%');
END
$$;

--
-- Every form of INSERT
--
CREATE TABLE page_hit (id int PRIMARY KEY, session text, at timestamptz NOT NULL, kind text NOT NULL DEFAULT 'view',
    customer text);
SELECT coupon.watch('page_hit', '{"session": "session", "at": "at", "kind": "kind", "customer": "customer"}');
SELECT relation, columns, kind, kinds, live, fits, problem FROM coupon.watched
    WHERE relation <> 'coupon.click'::regclass;
-- one row
INSERT INTO page_hit VALUES (1, 'page_hit-1', '2025-06-01 10:00:00+00');
SELECT views, customer, started_at, last_at, ended, purchased, segment, version, churn FROM coupon.session
    WHERE session = 'page_hit-1';
-- several rows, several sessions, in any order; the customer that is known last
INSERT INTO page_hit VALUES (2, 'page_hit-2', '2025-06-01 10:05:00+00', 'cart', 'ann'),
    (3, 'page_hit-1', '2025-06-01 10:01:00+00', 'view', 'bob'),
    (4, 'page_hit-2', '2025-06-01 10:03:00+00', 'search', NULL),
        (5, 'page_hit-2', '2025-06-01 10:04:00+00', 'uncart', NULL);
-- INSERT … SELECT
INSERT INTO page_hit SELECT i, 'page_hit-' || i % 7, '2025-06-01 11:00:00+00'::timestamptz + i * interval '1 second'
    FROM generate_series(10, 200) i;
-- COPY
COPY page_hit FROM stdin;
300	page_hit-8	2025-06-01 12:00:00+00	view	\N
301	page_hit-8	2025-06-01 12:00:05+00	view	eve
302	page_hit-9	2025-06-01 12:00:05+00	view	\N
303	page_hit-8	2025-06-01 12:01:05+00	checkout	eve
304	page_hit-8	2025-06-01 12:01:06+00	view	eve
\.
-- MERGE: rows that are updated are no clicks
MERGE INTO page_hit p USING (VALUES (302, 'page_hit-9'), (310, 'page_hit-10'), (311, 'page_hit-10')) n(id,
    session) ON p.id = n.id
    WHEN MATCHED THEN UPDATE SET customer = 'changed'
    WHEN NOT MATCHED THEN INSERT VALUES (n.id, n.session,
        '2025-06-01 12:05:00+00'::timestamptz + n.id * interval '1 second', 'view', NULL);
SELECT session, views, customer FROM coupon.session WHERE session IN ('page_hit-9', 'page_hit-10') ORDER BY 1;
UPDATE page_hit SET customer = NULL WHERE id = 302;
-- ON CONFLICT: only rows really inserted
INSERT INTO page_hit VALUES (310, 'page_hit-11', '2025-06-01 13:00:00+00'),
    (320, 'page_hit-11', '2025-06-01 13:00:01+00') ON CONFLICT DO NOTHING;
INSERT INTO page_hit VALUES (320, 'page_hit-12', '2025-06-01 13:00:02+00'),
    (321, 'page_hit-12', '2025-06-01 13:00:03+00')
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind;
INSERT INTO page_hit VALUES (320, 'page_hit-13', '2025-06-01 13:00:04+00') ON CONFLICT DO NOTHING;
SELECT session, views FROM coupon.session WHERE session IN ('page_hit-11', 'page_hit-12', 'page_hit-13') ORDER BY 1;
-- a writable CTE, alone and two of them
WITH i AS (INSERT INTO page_hit VALUES (330, 'page_hit-14', '2025-06-01 13:10:00+00') RETURNING session) SELECT *
    FROM i;
WITH a AS (INSERT INTO page_hit VALUES (331, 'page_hit-14', '2025-06-01 13:10:01+00')),
     b AS (INSERT INTO page_hit VALUES (332, 'page_hit-14', '2025-06-01 13:10:02+00'))
INSERT INTO page_hit VALUES (333, 'page_hit-14', '2025-06-01 13:10:03+00');
-- no row; an UPDATE and a DELETE, which are no clicks
INSERT INTO page_hit SELECT * FROM page_hit WHERE false;
BEGIN;
UPDATE page_hit SET customer = 'nobody' WHERE session = 'page_hit-1';
DELETE FROM page_hit WHERE session = 'page_hit-1';
SELECT views FROM coupon.session WHERE session = 'page_hit-1';
ROLLBACK;
-- roll-backs take the advance along
BEGIN;
INSERT INTO page_hit VALUES (340, 'page_hit-1', '2025-06-01 14:00:00+00'),
    (341, 'page_hit-15', '2025-06-01 14:00:00+00');
ROLLBACK;
BEGIN;
INSERT INTO page_hit VALUES (342, 'page_hit-1', '2025-06-01 14:00:01+00');
SAVEPOINT s;
INSERT INTO page_hit VALUES (343, 'page_hit-1', '2025-06-01 14:00:02+00', 'purchase');
ROLLBACK TO s;
INSERT INTO page_hit VALUES (344, 'page_hit-1', '2025-06-01 14:00:03+00');
COMMIT;
-- a statement that fails for its own reasons
INSERT INTO page_hit VALUES (345, 'page_hit-16', '2025-06-01 14:00:04+00'),
    (345, 'page_hit-16', '2025-06-01 14:00:05+00');
-- from a function, a DO block, a prepared statement
CREATE FUNCTION hit(i int) RETURNS void LANGUAGE sql AS $$ INSERT INTO page_hit
    VALUES (i, 'page_hit-17', '2025-06-01 15:00:00+00'::timestamptz + i * interval '1 second') $$;
DO $$ BEGIN PERFORM hit(i) FROM generate_series(350, 353) i; END $$;
DO $$ BEGIN INSERT INTO page_hit VALUES (354, 'page_hit-17', '2025-06-01 16:00:00+00'); END $$;
PREPARE hit(int) AS INSERT INTO page_hit
    VALUES ($1, 'page_hit-17', '2025-06-01 17:00:00+00'::timestamptz + $1 * interval '1 second');
EXECUTE hit(355);
EXECUTE hit(356);
-- a kind that is none: the row is kept and is no event
INSERT INTO page_hit VALUES (360, 'page_hit-17', '2025-06-01 18:00:00+00', 'logout');
DELETE FROM page_hit WHERE id = 360;
SELECT * FROM differs('page_hit');
SELECT count(*) AS sessions, sum(views) AS views FROM coupon.session WHERE session LIKE 'page\_hit-%';
SELECT count(*) AS faults FROM coupon.error_log;

--
-- Mappings: partitions, a constant kind, renamed kinds, odd names
--
CREATE TABLE visit (session text, at timestamptz, kind text DEFAULT 'view', customer text) PARTITION BY RANGE (at);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM ('2025-07-01') TO ('2025-08-01');
CREATE TABLE visit_2 PARTITION OF visit DEFAULT;
SELECT coupon.watch('visit', '{"session": "session", "at": "at", "kind": "kind", "customer": "customer"}');
-- A partition can carry a trigger of its own, for what is inserted into it by name; it is read through its parent.
SELECT coupon.watch('visit_1', '{"session": "session", "at": "at", "kind": "kind", "customer": "customer"}');
INSERT INTO visit VALUES ('visit-1', '2025-07-02 10:00:00+00'), ('visit-1', '2025-09-02 10:00:00+00'),
    ('visit-2', '2025-09-02 10:00:00+00');
INSERT INTO visit_1 VALUES ('visit-3', '2025-07-03 10:00:00+00', 'view', 'kim');
COPY visit FROM stdin;
visit-1	2025-09-03 10:00:00+00	view	kim
visit-3	2025-07-03 10:05:00+00	purchase	kim
\.
SELECT * FROM differs('visit');
SELECT session, count(*) FROM coupon.events('-infinity', 'infinity') WHERE session LIKE 'visit-%' GROUP BY 1 ORDER BY 1;
SELECT relation FROM coupon.watched ORDER BY relation::text COLLATE "C";

-- An order-line table holds one kind, and knows the customer and not the session.
CREATE TABLE order_line (order_no int, line int, client int, sold timestamptz, article text, pieces smallint,
    unit_price numeric(10, 2));
SELECT coupon.watch('order_line', '{"customer": "client", "at": "sold", "order_id": "order_no", "product": "article",
    "quantity": "pieces", "price": "unit_price"}', 'purchase');
INSERT INTO page_hit VALUES (400, 'page_hit-20', '2025-06-02 10:00:00+00', 'view', '77'),
    (401, 'page_hit-21', '2025-06-02 10:20:00+00', 'view', '77'),
    (402, 'page_hit-22', '2025-06-02 10:20:00+00', 'view', '78'),
        (403, 'page_hit-23', '2025-06-02 09:00:00+00', 'view', '79');
INSERT INTO order_line VALUES (1, 1, 77, '2025-06-02 10:30:00+00', 'boot', 2, 49.90),
    (1, 2, 77, '2025-06-02 10:30:00+00', 'sock', 6, 3.50),
    (2, 1, 79, '2025-06-02 10:30:00+00', 'hat', 1, 20), (3, 1, 80, '2025-06-02 10:30:00+00', 'hat', 1, 20);
-- The customer's latest session seen within the timeout: 21 and no other; 79 was last seen 90 minutes ago.
SELECT session, purchased, ended FROM coupon.session WHERE session LIKE 'page\_hit-2_' ORDER BY 1;
SELECT at, session, customer, kind, product, quantity, price,
    order_id FROM coupon.events('2025-06-02 10:30:00+00', '2025-06-02 10:31:00+00');

-- Their words for ours; what is not listed must be ours, and what is neither is no event.
CREATE TABLE shop_log (visit_no bigint, happened timestamp, what text);
SELECT coupon.watch('shop_log', '{"session": "visit_no", "at": "happened", "kind": "what"}',
    kinds => '{"PageView": "view", "AddToCart": "cart", "Order": "purchase"}');
INSERT INTO shop_log VALUES (9001, '2025-06-03 10:00:00', 'PageView'), (9001, '2025-06-03 10:00:01', 'AddToCart'),
    (9001, '2025-06-03 10:00:02', 'search'),
    (9001, '2025-06-03 10:00:03', 'Scroll'), (9001, '2025-06-03 10:00:04', NULL),
        (9001, '2025-06-03 10:00:05', 'pageview'), (9001, '2025-06-03 10:00:06', 'Order');
SELECT views, purchased, started_at, last_at FROM coupon.session WHERE session = '9001';
SELECT at, kind FROM coupon.events('2025-06-03 10:00:00', '2025-06-03 10:00:06');
SELECT count(*) FROM coupon.events('2025-06-03 10:00:00', '2025-06-03 10:00:06.000001') e WHERE session = '9001';

-- Names that need quoting, in a schema that is on nobody's path.
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."select ""from""" ("the 'session'" text, "At" timestamptz, "back\slash" text,
    "drop table" text, "ünï" text);
SELECT coupon.watch('"Odd Schema"."select ""from"""',
    '{"session": "the ''session''", "at": "At", "page": "back\\slash", "attributes": ["drop table", "ünï"]}');
INSERT INTO "Odd Schema"."select ""from""" VALUES ('odd-1', '2025-06-04 10:00:00+00', 'a\b', 'x', 'y');
SELECT session, page, attributes FROM coupon.events('2025-06-04', '2025-06-05');
SELECT views FROM coupon.session WHERE session = 'odd-1';
SELECT coupon.unwatch('"Odd Schema"."select ""from"""');
DROP SCHEMA "Odd Schema" CASCADE;

--
-- Every type that can serve: the session id is read as text by the trigger exactly as coupon.events reads it
--
CREATE TYPE mood AS ENUM ('sad', 'so so');
CREATE DOMAIN code AS char(8);
CREATE DOMAIN yes AS boolean;
CREATE FUNCTION read_alike(type text, value text, at_type text DEFAULT 'timestamptz')
    RETURNS TABLE (type_ text, alike boolean, as_text text) LANGUAGE plpgsql AS $$
DECLARE
    read text;
    started timestamptz;
BEGIN
    EXECUTE format('CREATE TABLE typed (session %s, at %s)', type, at_type);
    PERFORM coupon.watch('typed', '{"session": "session", "at": "at"}');
    EXECUTE format('INSERT INTO typed VALUES (%L, ''2025-06-05 10:00:00'')', value);
    SELECT e.session, e.at INTO read, started FROM coupon.events('2025-06-05', '2025-06-06') e;
    RETURN QUERY SELECT type, s.started_at = started, s.session FROM coupon.session s WHERE s.session = read;
    IF NOT FOUND THEN
        RETURN QUERY SELECT type, false, 'coupon.events reads ' || read;
    END IF;
    DROP TABLE typed;
    DELETE FROM coupon.session WHERE started_at >= '2025-06-05' AND started_at < '2025-06-06';
END
$$;
SELECT r.* FROM (VALUES ('text', 'a b '), ('varchar(20)', 'v '), ('char(10)', 'padded'), ('char(10)', ''),
    ('name', 'n'), ('int', '-7'), ('smallint', '3'),
    ('bigint', '9007199254740993'), ('numeric', '1.500'), ('real', '0.1'), ('double precision', '0.1'),
        ('boolean', 'yes'), ('boolean', 'f'),
    ('uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), ('mood', 'so so'), ('date', '2025-02-03'),
        ('timestamp', '2025-02-03 04:05'),
    ('timestamptz', '2025-02-03 04:05'), ('time', '04:05'), ('code', 'padded'), ('yes', 'true'), ('oid', '42')) v(type,
        value)
CROSS JOIN LATERAL read_alike(v.type, v.value) r;
SELECT r.*, v.at_type FROM (VALUES ('timestamptz'), ('timestamp'), ('date')) v(at_type) CROSS
    JOIN LATERAL read_alike('text', 'x', v.at_type) r;
-- Neither the session's time zone nor its date style may change what is read: training and shop connect with their own.
SET timezone = 'America/New_York';
SET datestyle = 'German, DMY';
CREATE TABLE dated (session date, at timestamptz);
SELECT coupon.watch('dated', '{"session": "session", "at": "at"}');
INSERT INTO dated VALUES ('03.02.2025', '06.06.2025 10:00:00+00');
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SELECT e.session, s.session IS NOT NULL AS advanced_under_that_name FROM coupon.events('2025-06-06', '2025-06-07') e
    LEFT JOIN coupon.session s USING (session);
SELECT coupon.unwatch('dated');

--
-- coupon.events: one total order, half-open, NULL is nothing
--
SELECT count(*) FROM coupon.events(NULL, 'infinity');
SELECT count(*) FROM coupon.events('-infinity', NULL);
SELECT count(*) FROM coupon.events('2025-06-01 10:00:00+00', '2025-06-01 10:00:00+00');
SELECT count(*) FROM coupon.events('2025-06-01 10:00:00+00', '2025-06-01 10:00:00.000001+00')
    WHERE session = 'page_hit-1';
SELECT count(*) AS out_of_order
FROM (SELECT at, lag(at) OVER (ORDER BY n) AS before_at, session, lag(session) OVER (ORDER BY n) AS before_session
      FROM coupon.events('-infinity', 'infinity') WITH ORDINALITY e(at, session, customer, kind, page, category,
          product, quantity, price, order_id, zone, attributes, n)) e
WHERE (before_at, before_session COLLATE "C") > (at, session COLLATE "C");
SELECT count(*) = (SELECT count(*) FROM coupon.click) + (SELECT count(*) FROM page_hit) + (SELECT count(*)
    FROM visit) + (SELECT count(*) FROM order_line)
    + (SELECT count(*) FROM shop_log WHERE what IN ('PageView', 'AddToCart', 'Order', 'search')) AS every_row_once
FROM coupon.events('-infinity', 'infinity');

--
-- What watch refuses
--
CREATE VIEW page_hit_view AS SELECT * FROM page_hit;
CREATE MATERIALIZED VIEW page_hit_matview AS SELECT * FROM page_hit;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nothing FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE page_hit_foreign (session text, at timestamptz) SERVER nothing;
CREATE SEQUENCE page_hit_sequence;
CREATE TABLE plain (sess text, at timestamptz, place point, parts text[], price text, duration interval, doc jsonb,
    day date);
CREATE FUNCTION watching(columns jsonb, kind text DEFAULT NULL, kinds jsonb DEFAULT '{}',
    relation text DEFAULT 'plain') RETURNS SETOF text LANGUAGE sql
    AS $$ SELECT refused(format('SELECT coupon.watch(%L, %L, %L, %L)', relation, columns, kind, kinds)) $$;
SELECT watching('{"session": "session", "at": "at"}', relation => 'page_hit');
SELECT watching('{"session": "session", "at": "at"}', relation => 'page_hit_view');
SELECT watching('{"session": "session", "at": "at"}', relation => 'page_hit_matview');
SELECT watching('{"session": "session", "at": "at"}', relation => 'page_hit_foreign');
SELECT watching('{"session": "session", "at": "at"}', relation => 'page_hit_sequence');
SELECT refused($$SELECT coupon.watch('no_such_table', '{"session": "session", "at": "at"}')$$);
SELECT refused($$SELECT coupon.watch(NULL, '{"session": "session", "at": "at"}')$$);
SELECT watching(NULL);
SELECT watching('[1]');
SELECT watching('{}');
SELECT watching('{"session": "sess"}');
SELECT watching('{"at": "at"}');
BEGIN;
SELECT watching('{"customer": "sess", "at": "at"}');
ROLLBACK;
SELECT watching('{"customer": "sess", "at": "at"}', 'view');
SELECT watching('{"session": "session", "at": "at"}');
SELECT watching('{"session": "sess", "at": "at", "pages": "sess"}');
SELECT watching('{"session": "sess", "at": "at", "page": null}');
SELECT watching('{"session": "ctid", "at": "at"}');
SELECT watching('{"session": "sess", "at": "sess"}');
SELECT watching('{"session": "place", "at": "at"}');
SELECT watching('{"session": "sess", "at": "at", "page": "doc"}');
SELECT watching('{"session": "sess", "at": "at", "price": "price"}');
SELECT watching('{"session": "sess", "at": "at", "quantity": "duration"}');
SELECT watching('{"session": "parts", "at": "at"}');
SELECT watching('{"session": "sess", "at": "at", "attributes": ["sess", "parts"]}');
SELECT watching('{"session": "sess", "at": "at", "attributes": ["sess", "sess", "sess", "sess", "sess", "sess", "sess",
    "sess", "sess"]}');
SELECT watching('{"session": "sess", "at": "at", "kind": "sess"}', 'view');
SELECT watching('{"session": "sess", "at": "at"}', 'click');
SELECT watching('{"session": "sess", "at": "at", "kind": "sess"}', kinds => '{"hit": "click"}');
SELECT watching('{"session": "sess", "at": "at", "kind": "sess"}', kinds => '["view"]');
-- Only attributes may be a list, and of strings.
BEGIN;
SELECT left(watching('{"session": ["sess"], "at": "at"}'), 5) AS sqlstate LIMIT 1;
ROLLBACK;
BEGIN;
SELECT left(watching('{"session": "sess", "at": "at", "page": ["sess"]}'), 5) AS sqlstate LIMIT 1;
ROLLBACK;
-- Nothing of all that was left behind.
SELECT relation FROM coupon.watched WHERE relation = 'plain'::regclass;
-- A single attribute column, a text[] of attributes and a list of none are taken.
SELECT coupon.watch('plain', '{"session": "sess", "at": "day", "attributes": "parts"}');
INSERT INTO plain (sess, day, parts) VALUES ('plain-1', '2025-06-07', '{a,NULL,c}'), ('plain-1', '2025-06-07', NULL),
    ('plain-1', '2025-06-07', '{1,2,3,4,5,6,7,8,9,10}');
SELECT at, session, attributes FROM coupon.events('2025-06-07', '2025-06-08');
SELECT coupon.unwatch('plain');
SELECT coupon.watch('plain', '{"session": "sess", "at": "day", "attributes": "sess"}');
SELECT at, session, attributes FROM coupon.events('2025-06-07', '2025-06-08') LIMIT 1;
SELECT coupon.unwatch('plain');

--
-- unwatch, live => false, and DROP TRIGGER
--
SELECT refused($$SELECT coupon.unwatch('plain')$$);
SELECT refused($$SELECT coupon.unwatch(NULL)$$);
SELECT coupon.watch('plain', '{"session": "sess", "at": "at"}', live => false);
SELECT live, fits FROM coupon.watched WHERE relation = 'plain'::regclass;
INSERT INTO plain (sess, at) VALUES ('plain-2', '2025-06-08 10:00:00+00');
SELECT count(*) AS advanced FROM coupon.session WHERE session = 'plain-2';
SELECT count(*) AS trained_from FROM coupon.events('2025-06-08', '2025-06-09');
DROP TRIGGER coupon_click ON plain;
SELECT count(*) AS watched FROM coupon.watched WHERE relation = 'plain'::regclass;
SELECT count(*) AS trained_from FROM coupon.events('2025-06-08', '2025-06-09');
SELECT coupon.watch('plain', '{"session": "sess", "at": "at"}');
DROP TABLE plain;
SELECT count(*) FROM coupon.events('2025-06-08', '2025-06-09');

--
-- Rows that cannot be clicks are kept; the others of the statement are advanced; a fault says why
--
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
TRUNCATE coupon.error_log;
INSERT INTO page_hit VALUES (500, NULL, '2025-06-09 10:00:00+00'), (501, 'page_hit-30', '2025-06-09 10:00:00+00');
SELECT relation, session, sqlstate, message, hint, repeated FROM coupon.error_log;
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
TRUNCATE coupon.error_log;
INSERT INTO page_hit VALUES (502, repeat('x', 300), '2025-06-09 10:00:00+00', 'view', NULL),
    (503, 'page_hit-30', '2025-06-09 10:00:01+00', 'view', NULL),
    (504, repeat('ü', 128), '2025-06-09 10:00:01+00', 'view', NULL),
        (505, repeat('ü', 129), '2025-06-09 10:00:01+00', 'view', NULL),
        (506, 'page_hit-30', '2025-06-09 10:00:02+00', 'view', repeat('c', 257));
SELECT relation, session, sqlstate, message, hint, repeated FROM coupon.error_log;
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
TRUNCATE coupon.error_log;
INSERT INTO page_hit VALUES (507, 'page_hit-30', 'infinity'), (508, 'page_hit-30', '2025-06-09 10:00:03+00'),
    (509, 'page_hit-31', '-infinity');
SELECT relation, session, sqlstate, message, hint, repeated FROM coupon.error_log;
SELECT left(session, 12) AS session, octet_length(session) AS bytes, views, customer FROM coupon.session
    WHERE session IN ('page_hit-30', 'page_hit-31', repeat('ü', 128)) ORDER BY views;
SELECT count(*) AS rows_kept FROM page_hit WHERE id >= 500;
SELECT count(*) AS events FROM coupon.events('2025-06-09', '2025-06-10');
-- An empty id is an id; a click of a session alone needs no customer.
INSERT INTO page_hit VALUES (510, '', '2025-06-09 10:00:00+00');
SELECT views FROM coupon.session WHERE session = '';
-- An error in our part keeps the click, marks the session and says so once a second.
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
TRUNCATE coupon.error_log;
ALTER TABLE coupon.session ADD CONSTRAINT forced CHECK (session NOT LIKE 'page\_hit-32%') NOT VALID;
INSERT INTO page_hit VALUES (511, 'page_hit-32', '2025-06-09 10:00:00+00');
INSERT INTO page_hit VALUES (512, 'page_hit-32', '2025-06-09 10:00:01+00');
SELECT count(*) AS clicks_kept FROM page_hit WHERE session = 'page_hit-32';
SELECT relation, session, sqlstate, message, repeated FROM coupon.error_log;
SELECT session, reason FROM coupon.missed_click ORDER BY at;
-- coupon_ext.on_error = raise is for who wants it otherwise; the switch is for who wants none of it.
BEGIN;
SET LOCAL coupon_ext.on_error = raise;
INSERT INTO page_hit VALUES (513, 'page_hit-32b', '2025-06-09 10:00:02+00');
ROLLBACK;
ALTER TABLE coupon.session DROP CONSTRAINT forced;
DELETE FROM coupon.missed_click;
BEGIN;
SET LOCAL coupon_ext.enabled = off;
INSERT INTO page_hit VALUES (514, 'page_hit-33', '2025-06-09 10:00:00+00');
SELECT count(*) AS advanced FROM coupon.session WHERE session = 'page_hit-33';
ROLLBACK;

--
-- The mapping after an ALTER TABLE
--
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
TRUNCATE coupon.error_log;
CREATE TABLE altered (session text, at timestamptz, price numeric);
SELECT coupon.watch('altered', '{"session": "session", "at": "at", "price": "price"}');
INSERT INTO altered VALUES ('altered-1', '2025-06-10 10:00:00+00', 1);
ALTER TABLE altered ADD COLUMN before_all int, DROP COLUMN price, ADD COLUMN price int;
INSERT INTO altered VALUES ('altered-1', '2025-06-10 10:00:01+00', 0, 2);
SELECT price FROM coupon.events('2025-06-10', '2025-06-11');
ALTER TABLE altered RENAME COLUMN price TO amount;
SELECT fits, problem FROM coupon.watched WHERE relation = 'altered'::regclass;
INSERT INTO altered VALUES ('altered-1', '2025-06-10 10:00:02+00', 0, 3);
SELECT count(*) AS clicks_kept FROM altered;
SELECT relation, message FROM coupon.error_log;
SELECT count(*) AS left_out FROM coupon.events('2025-06-10', '2025-06-11');
-- The session missed a click: until it was rebuilt it must not be scored, whatever the mapping lacked.
SELECT session FROM coupon.missed_click;
SELECT coupon.unwatch('altered');
SELECT coupon.watch('altered', '{"session": "session", "at": "at", "price": "amount"}');
SELECT fits, problem FROM coupon.watched WHERE relation = 'altered'::regclass;
ALTER TABLE altered ALTER COLUMN amount TYPE text;
SELECT fits, problem FROM coupon.watched WHERE relation = 'altered'::regclass;
-- A column that changed its type is not read as what it was.
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = error;
TRUNCATE coupon.error_log;
INSERT INTO altered VALUES ('altered-2', '2025-06-10 10:00:03+00', 0, 'not a number');
SELECT relation, message LIKE '%no longer fits%' AS says_so, count(*) OVER () AS faults FROM coupon.error_log;
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = error;
TRUNCATE coupon.error_log;
ALTER TABLE altered ALTER COLUMN amount TYPE numeric USING 1, ALTER COLUMN at TYPE text;
INSERT INTO altered VALUES ('altered-3', '2025-06-10 10:00:03+00', 0, 1);
SELECT relation, message LIKE '%no longer fits%' AS says_so, count(*) OVER () AS faults FROM coupon.error_log;
SELECT count(*) AS clicks_kept FROM altered;
SELECT session, views FROM coupon.session WHERE session IN ('altered-2', 'altered-3');
SELECT coupon.unwatch('altered');
DELETE FROM coupon.missed_click;
SET client_min_messages = warning;

--
-- record_click: for shops without a log
--
\pset null NULL
SET coupon_ext.mock_clock = '2025-06-11 10:00:00+00';
SELECT coupon.record_click('rec-1');
SELECT coupon.record_click('rec-1', '2025-06-11 10:00:05+00', 'cart', 'joe', 'p', 'c', 'pr', 2, 9.5, NULL, 'z',
    '{mobile,NULL}');
SELECT session, at, kind, customer, page, category, product, quantity, price, order_id, zone, attributes
    FROM coupon.events('2025-06-11', '2025-06-12');
SELECT views, customer, started_at, last_at FROM coupon.session WHERE session = 'rec-1';
SELECT refused('SELECT coupon.record_click(NULL)');
SELECT refused($$SELECT coupon.record_click('')$$);
SELECT refused($$SELECT coupon.record_click('rec-1', kind => 'hover')$$);
SELECT refused($$SELECT coupon.record_click('rec-1', kind => NULL)$$);
SELECT coupon.record_click(repeat('r', 300)) IS NULL AS kept_without_an_offer;
SELECT coupon.record_click('rec-1', 'infinity') IS NULL AS kept_without_an_offer;
SELECT count(*) AS clicks FROM coupon.click WHERE session LIKE 'r%'
    AND (at >= '2025-06-11' AND at < '2025-06-12' OR at = 'infinity');
SELECT views FROM coupon.session WHERE session = 'rec-1';
RESET coupon_ext.mock_clock;

-- The tables of this file are no part of the shop that is trained on.
DROP TABLE page_hit, visit, order_line, shop_log, altered, dated CASCADE;
DROP FOREIGN DATA WRAPPER nothing CASCADE;
DELETE FROM coupon.click WHERE at < '2026-01-01' OR at = 'infinity';
DELETE FROM coupon.session WHERE started_at < '2026-01-01';
TRUNCATE coupon.error_log, coupon.missed_click;
SELECT relation FROM coupon.watched;
