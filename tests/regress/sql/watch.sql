-- watch: what a watched table becomes after watching, and triggers that nobody should have written. The shop's rows are
-- kept,
-- each is one event, and a table that does not fit is left out of the log, named.
-- needs: shop
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = notice;
\set SHOW_CONTEXT never
SET coupon_ext.mock_clock = '2025-09-01 12:00:00+00';
CREATE SCHEMA w;
SET search_path = w, public;
-- What the log holds of one day, beside what was counted live.
CREATE FUNCTION w.seen(prefix text) RETURNS TABLE (session text, events bigint, views bigint) LANGUAGE sql AS $$
    SELECT session, e.n, s.views FROM (SELECT session, count(*) AS n FROM coupon.events('2025-09-01', '2025-09-02')
        GROUP BY 1) e
    FULL JOIN (SELECT session, sum(views) AS views FROM coupon.session GROUP BY 1) s USING (session)
    WHERE session LIKE prefix || '-%' ORDER BY session COLLATE "C" $$;

--
-- One owner's table does not fit: the others are read
--
CREATE TABLE good (session text, at timestamptz);
CREATE TABLE bad (session text, at timestamptz);
-- As everything here is published.
ALTER TABLE bad REPLICA IDENTITY FULL;
SELECT coupon.watch('good', '{"session": "session", "at": "at"}');
SELECT coupon.watch('bad', '{"session": "session", "at": "at"}');
INSERT INTO good VALUES ('good-1', '2025-09-01 10:00:00+00');
INSERT INTO bad VALUES ('good-2', '2025-09-01 10:00:00+00');
SELECT * FROM w.seen('good');
ALTER TABLE bad RENAME COLUMN at TO seen_at;
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation = 'bad'::regclass;
SELECT * FROM w.seen('good');
SELECT relation, problem, sessions FROM coupon_internal.list_misfits();
SELECT coupon_internal.build_score_query(true) LIKE '%bad%' AS reads_it_to_score;
-- A session of which it holds clicks is not rebuilt without them; others are.
INSERT INTO good VALUES ('good-3', '2025-09-01 10:00:00+00');
INSERT INTO bad VALUES ('good-1', '2025-09-01 10:00:01+00');
INSERT INTO coupon.missed_click (session, reason) VALUES ('good-3', 'test');
SELECT coupon_internal.evaluate_session('good-1'), coupon_internal.evaluate_session('good-3');
SELECT session, count(*) AS marks FROM coupon.missed_click GROUP BY session;
SELECT coupon.unwatch('bad');
SELECT coupon.watch('bad', '{"session": "session", "at": "seen_at"}');
SELECT coupon_internal.evaluate_session('good-1');
SELECT session, count(*) AS marks FROM coupon.missed_click GROUP BY session;
SELECT * FROM w.seen('good');
DELETE FROM bad;
SELECT coupon.unwatch('bad');

-- An argument that is no mapping.
CREATE FUNCTION w.trigger_with(argument text) RETURNS TABLE (fits boolean, live boolean, problem text, others bigint)
    LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = error;
    DROP TRIGGER IF EXISTS t ON w.bad;
    EXECUTE format('CREATE TRIGGER t AFTER INSERT ON w.bad REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click(%s)', argument);
    INSERT INTO w.bad VALUES ('bad-1', '2025-09-01 10:00:00+00');
    RETURN QUERY SELECT x.fits, x.live, left(x.problem, 100),
        (SELECT count(*) FROM coupon.events('2025-09-01', '2025-09-02'))
    FROM coupon.watched x WHERE x.relation = 'w.bad'::regclass;
END $$;
SELECT a.what, t.* FROM (VALUES ('no JSON', quote_literal('not json')), ('empty', quote_literal('')), ('none', ''),
    ('two', quote_literal('{}') || ', 1'),
    ('a list', quote_literal('[1]')), ('a number', '5'), ('null', quote_literal('null')),
        ('deep', quote_literal(repeat('[', 30000) || repeat(']', 30000))),
    ('deep below a key', quote_literal('{"columns": {"session": "session", "at": "seen_at"}, "x": ' || repeat('[',
        200) || repeat(']', 200) || '}')),
    ('columns: a list', quote_literal('{"columns": []}')), ('columns: text', quote_literal('{"columns": "at"}')),
        ('columns: null', quote_literal('{"columns": null}')),
    ('no columns', quote_literal('{"kind": "view"}')),
        ('a number for a name', quote_literal('{"columns": {"session": 1, "at": "seen_at"}}')),
    ('a list for a name', quote_literal('{"columns": {"session": ["session"], "at": "seen_at"}}')),
    ('attributes: empty', quote_literal('{"columns": {"session": "session", "at": "seen_at", "attributes": []}}')),
    ('attributes: nested', quote_literal('{"columns": {"session": "session", "at": "seen_at",
        "attributes": [["session"]]}}')),
    ('kind: a number', quote_literal('{"columns": {"session": "session", "at": "seen_at"}, "kind": 1}')),
    ('kind: unknown', quote_literal('{"columns": {"session": "session", "at": "seen_at"}, "kind": "hover"}')),
    ('kinds: a list', quote_literal('{"columns": {"session": "session", "at": "seen_at"}, "kinds": ["view"]}')),
    ('kinds: null within', quote_literal('{"columns": {"session": "session", "at": "seen_at"}, "kinds": {"a": null}}')),
    ('a column that is not there', quote_literal('{"columns": {"session": "nobody''s", "at": "seen_at"}}')),
    ('NUL', quote_literal('{"columns": {"session": "a\u0000", "at": "seen_at"}}'))) a(what, argument)
CROSS JOIN LATERAL w.trigger_with(a.argument) t;
SELECT count(*) AS rows_kept FROM bad WHERE session = 'bad-1';
-- Nothing else stops either.
SELECT relation, kept IS NOT NULL AS named FROM coupon.forget('nobody') WHERE relation IN ('w.bad', 'w.good');
DROP TABLE bad;
DELETE FROM coupon.missed_click;

-- A table whose rows cannot be read is named.
CREATE ROLE regress_coupon_reader;
GRANT USAGE ON SCHEMA w TO regress_coupon_reader;
SELECT coupon.grant_access('regress_coupon_reader', 'operator');
GRANT SELECT ON good TO regress_coupon_reader;
ALTER TABLE good ENABLE ROW LEVEL SECURITY;
CREATE POLICY fails ON good USING (1 / (length(session) - length(session)) = 1);
SET ROLE regress_coupon_reader;
SELECT refused($$SELECT count(*) FROM coupon.events('2025-09-01', '2025-09-02')$$);
RESET ROLE;
REVOKE SELECT ON good FROM regress_coupon_reader;
SET ROLE regress_coupon_reader;
SELECT refused($$SELECT count(*) FROM coupon.events('2025-09-01', '2025-09-02')$$);
RESET ROLE;
SELECT coupon.revoke_access('regress_coupon_reader');
DROP OWNED BY regress_coupon_reader;
DROP ROLE regress_coupon_reader;
ALTER TABLE good DISABLE ROW LEVEL SECURITY;

--
-- A trigger that is fired the wrong way
--
-- CREATE TRIGGER refuses it.
CREATE TABLE odd (session text, at timestamptz);
ALTER TABLE odd REPLICA IDENTITY FULL;
CREATE VIEW odd_view AS SELECT * FROM odd;
\set odd '\'{"columns": {"session": "session", "at": "at"}}\''
CREATE TRIGGER t BEFORE INSERT ON odd FOR EACH ROW EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE TRIGGER t AFTER INSERT ON odd REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE TRIGGER t AFTER UPDATE ON odd REFERENCING NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE TRIGGER t BEFORE INSERT ON odd FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE TRIGGER t AFTER INSERT OR UPDATE ON odd FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE TRIGGER t AFTER TRUNCATE ON odd FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE TRIGGER t INSTEAD OF INSERT ON odd_view FOR EACH ROW EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON odd DEFERRABLE FOR EACH ROW EXECUTE FUNCTION coupon_internal.on_click(:odd);
SELECT coupon.watch('odd', '{"session": "session", "at": "at"}');
CREATE TRIGGER t AFTER INSERT ON odd REFERENCING NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION coupon_internal.on_click(:odd);
SELECT coupon.unwatch('odd');
CREATE TRIGGER t AFTER INSERT ON odd REFERENCING NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION coupon_internal.on_click('{"columns": {"session": "id", "at": "at"}}');
DROP TRIGGER t ON odd;
SELECT tgname FROM pg_trigger WHERE tgrelid IN ('odd'::regclass, 'odd_view'::regclass);
-- Where it was made all the same, it counts nothing and leaves every row.
ALTER EVENT TRIGGER coupon_ext_ddl DISABLE;
CREATE FUNCTION w.fired(form text) RETURNS TABLE (form_ text, rows_there bigint, counted bigint, fits boolean,
    problem text, events bigint) LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = error;
    EXECUTE format('CREATE TRIGGER t %s EXECUTE FUNCTION coupon_internal.on_click(%L)', form,
        '{"columns": {"session": "session", "at": "at"}}');
    INSERT INTO w.odd SELECT 'odd-1', '2025-09-01 10:00:00+00'::timestamptz + i * interval '1 second'
        FROM generate_series(1, 5) i;
    UPDATE w.odd SET session = 'odd-2' WHERE at >= '2025-09-01 10:00:04+00';
    RETURN QUERY SELECT form, (SELECT count(*) FROM w.odd WHERE session IN ('odd-1', 'odd-2')),
        (SELECT sum(s.views)::bigint FROM coupon.session s WHERE s.session LIKE 'odd-%'),
        x.fits, x.problem, (SELECT count(*) FROM coupon.events('2025-09-01', '2025-09-02') e
            WHERE e.session LIKE 'odd-%')
    FROM coupon.watched x WHERE x.relation = 'w.odd'::regclass;
    DELETE FROM w.odd WHERE session = 'odd-2';
    DROP TRIGGER t ON w.odd;
    TRUNCATE w.odd;
END $$;
SELECT f.* FROM unnest('{BEFORE INSERT ON w.odd FOR EACH ROW,BEFORE UPDATE ON w.odd FOR EACH ROW,BEFORE DELETE ON w.odd FOR EACH ROW,
    AFTER INSERT ON w.odd FOR EACH ROW,AFTER INSERT ON w.odd REFERENCING NEW TABLE AS n FOR EACH ROW,BEFORE INSERT ON w.odd FOR EACH STATEMENT,
    AFTER UPDATE ON w.odd REFERENCING NEW TABLE AS n FOR EACH STATEMENT,AFTER TRUNCATE ON w.odd FOR EACH STATEMENT,
    AFTER INSERT OR DELETE ON w.odd FOR EACH STATEMENT,AFTER INSERT ON w.odd FOR EACH STATEMENT}'::text[]) form
CROSS JOIN LATERAL w.fired(form) f;
CREATE TRIGGER t INSTEAD OF INSERT ON odd_view FOR EACH ROW EXECUTE FUNCTION coupon_internal.on_click(:odd);
CREATE CONSTRAINT TRIGGER c AFTER INSERT ON odd DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION coupon_internal.on_click(:odd);
\c -
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET coupon_ext.mock_clock = '2025-09-01 12:00:00+00';
SET search_path = w, public;
TRUNCATE coupon.error_log;
INSERT INTO odd VALUES ('odd-3', '2025-09-01 10:00:00+00');
SELECT relation, sqlstate, message, hint FROM coupon.error_log;
INSERT INTO odd_view VALUES ('odd-4', '2025-09-01 10:00:00+00');
SET coupon_ext.on_error = raise;
INSERT INTO odd VALUES ('odd-5', '2025-09-01 10:00:00+00');
RESET coupon_ext.on_error;
SELECT session FROM odd;
SELECT count(*) AS counted FROM coupon.session WHERE session LIKE 'odd-%';
DROP TABLE odd CASCADE;
ALTER EVENT TRIGGER coupon_ext_ddl ENABLE ALWAYS;

--
-- A partition that is a foreign table
--
CREATE EXTENSION postgres_fdw SCHEMA public;
DO $$ BEGIN EXECUTE format('CREATE SERVER archive FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
    split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'),
        current_database()); END $$;
CREATE USER MAPPING FOR PUBLIC SERVER archive OPTIONS (user 'postgres', password_required 'false');
CREATE TABLE archived (session text, at timestamptz);
CREATE TABLE hit (session text, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE hit_now PARTITION OF hit FOR VALUES FROM ('2025-09-01') TO ('2025-10-01');
CREATE FOREIGN TABLE hit_old (session text, at timestamptz) SERVER archive OPTIONS (schema_name 'w',
    table_name 'archived');
-- None yet: its clicks are noticed.
SELECT coupon.watch('hit', '{"session": "session", "at": "at"}');
INSERT INTO hit VALUES ('hit-1', '2025-09-01 10:00:00+00');
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation = 'hit'::regclass;
-- One is attached: the statement says what it costs, and INSERTs go on.
ALTER TABLE hit ATTACH PARTITION hit_old FOR VALUES FROM ('2025-08-01') TO ('2025-09-01');
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation = 'hit'::regclass;
SELECT tgname, tgenabled, tgnewtable, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'hit'::regclass;
INSERT INTO hit VALUES ('hit-1', '2025-09-01 10:00:01+00');
INSERT INTO hit VALUES ('hit-1', '2025-08-01 10:00:01+00');
SELECT views FROM coupon.session WHERE session = 'hit-1';
SELECT at, session FROM coupon.events('2025-08-01', '2025-09-02') WHERE session LIKE 'hit-%';
-- Watching refuses it, and says how to train from it.
SELECT coupon.unwatch('hit');
SELECT refused($$SELECT coupon.watch('hit', '{"session": "session", "at": "at"}')$$);
CREATE TRIGGER t AFTER INSERT ON hit REFERENCING NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION coupon_internal.on_click('{"columns": {"session": "session", "at": "at"}}');
SELECT coupon.watch('hit', '{"session": "session", "at": "at"}', live => false);
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation = 'hit'::regclass;
INSERT INTO hit VALUES ('hit-1', '2025-08-01 10:00:01+00');
SELECT count(*) FROM coupon.events('2025-08-01', '2025-09-02') WHERE session LIKE 'hit-%';
-- Without it all is as before.
SELECT coupon.unwatch('hit');
ALTER TABLE hit DETACH PARTITION hit_old;
SELECT coupon.watch('hit', '{"session": "session", "at": "at"}');
INSERT INTO hit VALUES ('hit-2', '2025-09-01 10:00:00+00');
SELECT views FROM coupon.session WHERE session = 'hit-2';
-- Attached while our event trigger was switched off: said where it can be.
ALTER EVENT TRIGGER coupon_ext_ddl DISABLE;
ALTER TABLE hit ATTACH PARTITION hit_old FOR VALUES FROM ('2025-08-01') TO ('2025-09-01');
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation = 'hit'::regclass;
ALTER EVENT TRIGGER coupon_ext_ddl ENABLE ALWAYS;
-- Any change of a table has it looked at again; a replica's too.
SET session_replication_role = replica;
ALTER TABLE archived ADD COLUMN more int;
RESET session_replication_role;
INSERT INTO hit VALUES ('hit-3', '2025-08-01 10:00:00+00');
-- CREATE FOREIGN TABLE, and a table that brings one along: two levels, both watched, of another owner.
CREATE TABLE deep (session text, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE deep_1 PARTITION OF deep FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY RANGE (at);
CREATE TABLE deep_now PARTITION OF deep_1 FOR VALUES FROM ('2025-09-01') TO ('2025-10-01');
SELECT coupon.watch('deep', '{"session": "session", "at": "at"}');
SELECT coupon.watch('deep_1', '{"session": "session", "at": "at"}');
CREATE ROLE regress_coupon_owner;
GRANT ALL ON SCHEMA w TO regress_coupon_owner;
GRANT USAGE ON FOREIGN SERVER archive TO regress_coupon_owner;
ALTER TABLE deep_1 OWNER TO regress_coupon_owner;
SET ROLE regress_coupon_owner;
CREATE FOREIGN TABLE deep_old PARTITION OF deep_1 FOR VALUES
    FROM ('2025-08-01') TO ('2025-09-01') SERVER archive OPTIONS (schema_name 'w', table_name 'archived');
RESET ROLE;
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation::text LIKE 'deep%' ORDER BY 1;
INSERT INTO deep VALUES ('deep-1', '2025-09-01 10:00:00+00');
SELECT * FROM w.seen('deep');
CREATE TABLE top (session text, at timestamptz) PARTITION BY LIST (session);
SELECT coupon.watch('top', '{"session": "session", "at": "at"}');
SELECT coupon.unwatch('deep_1');
SELECT coupon.unwatch('deep');
ALTER TABLE top ATTACH PARTITION deep DEFAULT;
SELECT relation, live, fits, problem FROM coupon.watched WHERE relation = 'top'::regclass;
DROP TABLE top, hit CASCADE;

--
-- Each row of a table that others inherit from is one event
--
CREATE TABLE parent (session text, at timestamptz);
CREATE TABLE child () INHERITS (parent);
SELECT coupon.watch('parent', '{"session": "session", "at": "at"}');
INSERT INTO parent VALUES ('parent-1', '2025-09-01 10:00:00+00'), ('parent-1', '2025-09-01 10:00:01+00');
INSERT INTO child VALUES ('parent-2', '2025-09-01 10:00:00+00');
SELECT * FROM w.seen('parent');
SELECT coupon.watch('child', '{"session": "session", "at": "at"}');
INSERT INTO child VALUES ('parent-3', '2025-09-01 10:00:00+00');
SELECT * FROM w.seen('parent');
SELECT coupon.unwatch('parent');
SELECT * FROM w.seen('parent');
-- A partition is read through its parent, and by itself where the parent does not fit.
CREATE TABLE whole (session text, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE part PARTITION OF whole DEFAULT;
SELECT coupon.watch('whole', '{"session": "session", "at": "at"}');
SELECT coupon.watch('part', '{"session": "session", "at": "at"}');
INSERT INTO whole VALUES ('whole-1', '2025-09-01 10:00:00+00');
INSERT INTO part VALUES ('whole-2', '2025-09-01 10:00:00+00');
SELECT * FROM w.seen('whole');
SELECT relation, live, problem FROM coupon.watched WHERE relation IN ('whole'::regclass, 'part'::regclass) ORDER BY 1;
SELECT coupon.unwatch('whole');
SELECT relation, live, problem FROM coupon.watched WHERE relation = 'part'::regclass;
SET client_min_messages = error;
CREATE TRIGGER t AFTER INSERT ON whole REFERENCING NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION coupon_internal.on_click('nothing');
SELECT * FROM w.seen('whole');
SET client_min_messages = notice;

--
-- Other relations
--
CREATE TEMP TABLE brief (session text, at timestamptz);
SELECT refused($$SELECT coupon.watch('brief', '{"session": "session", "at": "at"}')$$);
SELECT refused($$SELECT coupon.watch('coupon.session', '{"session": "session", "at": "last_at"}')$$);
SELECT refused($$SELECT coupon.watch('pg_catalog.pg_class', '{"session": "session", "at": "last_at"}')$$);
CREATE UNLOGGED TABLE quick (session text, at timestamptz);
SELECT coupon.watch('quick', '{"session": "session", "at": "at"}');
-- live => false: no transition table is filled for it, and enabling it notices nothing.
CREATE TABLE still (session text, at timestamptz);
SELECT coupon.watch('still', '{"session": "session", "at": "at"}', live => false);
SELECT tgenabled, tgnewtable FROM pg_trigger WHERE tgrelid = 'still'::regclass;
ALTER TABLE still ENABLE TRIGGER ALL;
SELECT live, fits, problem FROM coupon.watched WHERE relation = 'still'::regclass;
INSERT INTO still VALUES ('still-1', '2025-09-01 10:00:00+00');
SELECT * FROM w.seen('still');

--
-- Types
--
CREATE DOMAIN id AS text;
CREATE DOMAIN id2 AS id CHECK (VALUE <> '');
CREATE DOMAIN id3 AS id2;
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN moment2 AS moment;
CREATE DOMAIN amount AS numeric(10, 2);
CREATE DOMAIN amount2 AS amount;
CREATE DOMAIN words AS text[];
CREATE TYPE mood AS ENUM ('sad');
CREATE DOMAIN mood2 AS mood;
CREATE FUNCTION w.takes(type text, part text DEFAULT 'page') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    EXECUTE format('CREATE TABLE w.typed (session text, at timestamptz, x %s)', type);
    SELECT coalesce(f.message, 'yes') INTO said FROM coupon_internal.find_mapping_fault('w.typed',
        CASE part WHEN 'at' THEN '{"session": "session", "at": "x"}' ELSE jsonb_build_object('session', 'session',
            'at', 'at', part, 'x') END, NULL, '{}') f;
    DROP TABLE w.typed;
    RETURN said;
END $$;
SELECT part, type, w.takes(type, part) FROM (VALUES ('page', '{text,varchar,char(3),name,"\"char\"",id3,mood,mood2,int2,int4,int8,numeric,float4,float8,money,oid,regclass,regtype,bool,uuid,date,time,timetz,timestamp,timestamptz,moment2,interval,bytea,json,jsonb,xml,inet,bit(3),point,text[],int4range,words}'::text[]),
    ('at', '{timestamptz,timestamp,date,moment2,text,int8,time}'),
        ('price', '{int2,int4,int8,float4,float8,numeric,amount2,money,text,oid}'),
        ('attributes', '{text[],words,varchar[],text,id3,int4}')) v(part, types),
    unnest(types) WITH ORDINALITY t(type, n) ORDER BY part, n;

SET client_min_messages = error;
DROP SCHEMA w CASCADE;
DROP EXTENSION postgres_fdw CASCADE;
DROP ROLE regress_coupon_owner;
DELETE FROM coupon.session WHERE started_at < '2025-10-01';
TRUNCATE coupon.error_log, coupon.missed_click;
RESET client_min_messages;
RESET coupon_ext.mock_clock;
SELECT relation FROM coupon.watched;
