-- values: one bad row costs one row, and what the trigger reads of a value is what the log is read as, for every type a
-- mapping
-- may name, whatever the settings of whoever inserts.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = error;
SET coupon_ext.mock_clock = '2026-01-25 10:00:00+00';

-- A value out of range among others of the statement: a price is unknown, a time refuses its own row.
CREATE TABLE odd (session text, at timestamp, price numeric, quantity float8);
SELECT coupon.watch('odd', '{"session": "session", "at": "at", "price": "price", "quantity": "quantity"}');
TRUNCATE coupon.error_log;
INSERT INTO odd VALUES
    ('odd-1', '2025-07-01 10:00:00', 5, 1), ('odd-2', '2025-07-01 10:00:00', 1e400, 'NaN'),
        ('odd-3', '294276-12-31 23:59:59', 5, 1),
    ('odd-4', '2025-07-01 10:00:00', 'NaN', 'Infinity'), ('odd-5', 'infinity', 5, 1),
        ('odd-6', '2025-07-01 10:00:00', 1e-400, 1),
    ('odd-7', '2025-07-01 10:00:00', '-Infinity', '-Infinity'), ('odd-1', '2025-07-01 10:00:01', -1e400, 1e300);
SELECT session, views, (SELECT count(*) FROM coupon.missed_click g WHERE g.session = s.session) AS marks FROM coupon.session s
    WHERE session LIKE 'odd-%' ORDER BY 1;
SELECT relation, session, sqlstate, message, repeated FROM coupon.error_log;
SELECT session, price, quantity FROM coupon.events('2025-07-01', 'infinity') WHERE session LIKE 'odd-%' ORDER BY at,
    session;
-- A time that has no timestamptz in the time zone of whoever inserts.
SET timezone = 'America/Los_Angeles';
INSERT INTO odd VALUES ('odd-8', '294276-12-31 23:59:59', 5, 1), ('odd-9', '2025-07-01 10:00:00', 5, 1);
SET timezone = 'UTC';
SELECT session, views FROM coupon.session WHERE session IN ('odd-8', 'odd-9');
CREATE TABLE far (session text, at date);
SELECT coupon.watch('far', '{"session": "session", "at": "at"}');
INSERT INTO far VALUES ('far-1', '5000000-01-01'), ('far-2', '2025-07-01'), ('far-3', '-infinity'),
    ('far-4', '4713-01-01 BC');
SELECT session, views FROM coupon.session WHERE session LIKE 'far-%' ORDER BY 1;
SELECT session, at FROM coupon.events('-infinity', 'infinity') WHERE session LIKE 'far-%' ORDER BY 1;

-- Every type as a text, at its extremes: the sessions that the trigger saw are those of the log.
CREATE TYPE feeling AS ENUM ('sad', 'ok', 'happy, (really)');
CREATE DOMAIN short AS varchar(20);
CREATE DOMAIN shorter AS short CHECK (length(VALUE) < 15);
CREATE FUNCTION compare(typ text, VARIADIC samples text[])
    RETURNS TABLE (of_type text, rows bigint, live bigint, in_log bigint, same boolean)
LANGUAGE plpgsql AS $$
DECLARE
    sample text;
BEGIN
    EXECUTE format('CREATE TABLE sampled (id %s, at timestamptz)', typ);
    PERFORM coupon.watch('sampled', '{"session": "id", "at": "at"}');
    DELETE FROM coupon.session;
    FOREACH sample IN ARRAY samples LOOP
        EXECUTE format('INSERT INTO sampled VALUES (%L::%s, ''2025-07-02 10:00:00+00'')', sample, typ);
    END LOOP;
    -- As somebody else reads it.
    PERFORM set_config('datestyle', 'ISO, YMD', true), set_config('timezone', 'UTC', true),
        set_config('extra_float_digits', '1', true), set_config('intervalstyle', 'postgres', true);
    RETURN QUERY SELECT typ, (SELECT count(*) FROM sampled), (SELECT count(*) FROM coupon.session),
        (SELECT count(DISTINCT e.session) FROM coupon.events('2025-07-02', '2025-07-03') e),
        NOT EXISTS (SELECT s.session FROM coupon.session s EXCEPT SELECT e.session
            FROM coupon.events('2025-07-02', '2025-07-03') e)
        AND NOT EXISTS (SELECT e.session FROM coupon.events('2025-07-02', '2025-07-03') e EXCEPT SELECT s.session
            FROM coupon.session s);
    PERFORM coupon.unwatch('sampled');
    DROP TABLE sampled;
END
$$;
BEGIN;
SET LOCAL datestyle = 'German';
SET LOCAL timezone = 'Asia/Kathmandu';
SET LOCAL extra_float_digits = -15;
SELECT * FROM compare('text', 'a', '', ' ', E'tab\tnewline\n', 'ü', repeat('x', 256), repeat('y', 257), NULL);
SELECT * FROM compare('varchar(3)', 'a', 'abc', '', 'ab ');
SELECT * FROM compare('bpchar', 'a', 'a  ', '', ' ');
SELECT * FROM compare('char(5)', 'a', 'abcde', '');
SELECT * FROM compare('name', 'a', repeat('n', 63));
SELECT * FROM compare('feeling', 'sad', 'happy, (really)', NULL);
SELECT * FROM compare('short', 'a', 'b c', NULL);
SELECT * FROM compare('shorter', 'a', 'b  ', NULL);
SELECT * FROM compare('int2', '-32768', '32767', '0');
SELECT * FROM compare('int4', '-2147483648', '2147483647');
SELECT * FROM compare('int8', '-9223372036854775808', '9223372036854775807');
SELECT * FROM compare('oid', '0', '4294967295');
SELECT * FROM compare('numeric', '0', '-0.00', '1e200', '1.50', 'NaN', 'Infinity', '-Infinity', '1e-20');
SELECT * FROM compare('numeric(10,2)', '12345678.90', '-0.01', '0');
SELECT * FROM compare('float4', '0', '-0', '0.1', '3.4e38', 'NaN', 'Infinity', '1e-45', '16777217');
SELECT * FROM compare('float8', '0', '-0', '0.1', '1.7976931348623157e308', 'NaN', '-Infinity', '5e-324',
    '0.30000000000000004');
SELECT * FROM compare('bool', 'true', 'false', NULL);
SELECT * FROM compare('date', '2025-12-31', 'infinity', '-infinity', '4713-01-01 BC', '5874897-12-31');
SELECT * FROM compare('time', '00:00', '24:00', '12:34:56.789012');
SELECT * FROM compare('timetz', '00:00+15:59', '24:00-15:59', '12:34:56.789012+05:45');
SELECT * FROM compare('timestamp', '2025-12-31 23:59:59.999999', 'infinity', '4713-01-01 00:00 BC',
    '294276-12-31 23:59:59.999999');
SELECT * FROM compare('timestamptz', '2025-12-31 23:59:59.999999+00', 'infinity', '-infinity', '294276-12-31 00:00+00',
    '1900-01-01 00:00+00');
SELECT * FROM compare('uuid', '00000000-0000-0000-0000-000000000000', 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF');
ROLLBACK;

-- Attributes of a text[]: NULLs, none, many, other lower bounds and dimensions. The state that live clicks left is the
-- state that
-- rebuilding from the log gives; the same for every number.
BEGIN;
CREATE TABLE attributed (session text, at timestamptz, page text, price numeric, quantity float4, tags text[]);
SELECT coupon.watch('attributed', '{"session": "session", "at": "at", "page": "page", "price": "price",
    "quantity": "quantity", "attributes": "tags"}');
INSERT INTO attributed SELECT 'attributed', '2026-01-25 09:58:00+00'::timestamptz + i * interval '1 second', 'p' || i,
    (ARRAY['1e400', '-1e400', 'NaN', 'Infinity', '1e-400', '0.1', '12345678901234567890.12345678901234567890', '19.90',
    '1e307', '-0'])[i]::numeric,
    (ARRAY['NaN', 'Infinity', '-Infinity', '0', '1e-45', '3.4e38', '1', '2', '3', NULL])[i]::float4,
    (ARRAY['{}', '{NULL}', '{a,NULL,b}', '[0:1]={low,bound}', '{{two,dims},{x,y}}', '{1,2,3,4,5,6,7,8,9,10}', NULL,
        '{""}', '{a}', '{"with, comma"}'])[i]::text[] FROM generate_series(1, 10) i;
CREATE TEMP TABLE live AS SELECT views, churn, max_purchase_probability, state FROM coupon.session WHERE session = 'attributed';
SELECT views, churn IS NOT NULL AS scored FROM live;
INSERT INTO coupon.missed_click (session, reason) VALUES ('attributed', 'as if it had missed a click');
SELECT coupon_internal.evaluate_session('attributed');
SELECT (SELECT count(*) FROM coupon.missed_click WHERE session = 'attributed') AS marks,
    (s.views, s.churn, s.max_purchase_probability, s.state) IS NOT DISTINCT FROM (l.views, l.churn, l.max_purchase_probability, l.state) AS same
FROM coupon.session s, live l WHERE s.session = 'attributed';
ROLLBACK;

-- In a transaction that may not write, the question is answered without a warning.
SET client_min_messages = warning;
BEGIN READ ONLY;
SELECT issue_coupon('odd-1') IS NULL AS none, issue_coupon('never seen') IS NULL AS none_either;
ROLLBACK;
RESET coupon_ext.mock_clock;
DROP TABLE odd, far;
DROP FUNCTION compare;
DROP DOMAIN shorter, short;
DROP TYPE feeling;
TRUNCATE coupon.error_log, coupon.missed_click;
DELETE FROM coupon.session WHERE started_at < '2026-01-01';

-- Anybody may call the mapper: arguments that do not fit the mapping are refused, whatever they are.
CREATE ROLE regress_values_stranger;
SET ROLE regress_values_stranger;
\set mapping '{"columns": {"session": "s", "at": "t", "quantity": "q"}}'
SELECT coupon_internal.map_event(:'mapping', '2026-01-01'::timestamptz, 's1'::text, 2::int);
SELECT coupon_internal.map_event(:'mapping', '2026-01-01'::timestamptz, 's1'::text);
SELECT coupon_internal.map_event(:'mapping', '2026-01-01'::timestamptz, 's1', 2);
SELECT coupon_internal.map_event(:'mapping', 's1'::text, '2026-01-01'::timestamptz, 2);
SELECT coupon_internal.map_event(:'mapping', '2026-01-01'::timestamptz, ROW(1, 2), 2);
SELECT coupon_internal.map_event(:'mapping', VARIADIC ARRAY['2026-01-01'::timestamptz]);
SELECT coupon_internal.map_event(NULL, '2026-01-01'::timestamptz);
SELECT coupon_internal.map_event('no json', '2026-01-01'::timestamptz);
SELECT coupon_internal.map_event('{"columns": {"at": "t", "session": "s", "attributes": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]}}',
    '2026-01-01'::timestamptz, 's1'::text, 1, 2, 3, 4, 5, 6, 7, 8, 9);
SELECT coupon_internal.map_event(:'mapping', 'infinity'::timestamptz, 's1'::text, 'NaN'::float8) IS NULL AS no_event;
RESET ROLE;
DROP ROLE regress_values_stranger;
