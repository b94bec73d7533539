-- install: what CREATE EXTENSION makes, what it does not, and what every verb says before there is anything to work on.
-- needs: empty
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

-- The schema must be ours: nobody else's, and with nothing in it that could be taken for ours.
CREATE SCHEMA coupon;
CREATE FUNCTION coupon.clock() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()';
SELECT * FROM refused('CREATE EXTENSION coupon_ext');
DROP FUNCTION coupon.clock();
SELECT * FROM refused('CREATE EXTENSION coupon_ext SCHEMA coupon');
-- An empty one is what a restore makes first.
CREATE EXTENSION coupon_ext;
SELECT count(*) AS schema_that_is_a_member FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND deptype = 'e'
    AND objid = 'coupon'::regnamespace;

-- Everything has a comment.
SELECT pg_describe_object(d.classid, d.objid, 0) AS member_without_comment
FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'coupon_ext')
    AND CASE d.classid WHEN 'pg_type'::regclass THEN (SELECT t.typtype = 'c' FROM pg_type t WHERE t.oid = d.objid)
        ELSE true END
    AND coalesce(obj_description(d.objid, d.classid::regclass::name),
        (SELECT obj_description(t.typrelid, 'pg_class') FROM pg_type t WHERE t.oid = d.objid)) IS NULL
ORDER BY 1;

-- The verbs stand where the extension was created, everything else in schema coupon; relocatable it is not.
SELECT extrelocatable, extnamespace::regnamespace FROM pg_extension WHERE extname = 'coupon_ext';
SELECT p.oid::regprocedure AS verb, CASE p.provolatile WHEN 's' THEN 'stable' WHEN 'v' THEN 'volatile' WHEN 'i'
    THEN 'immutable' END AS volatility,
    p.proparallel = 's' AS parallel_safe, p.prosecdef AS definer,
        p.proconfig @> '{"search_path=pg_catalog, pg_temp"}' AS pinned
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'coupon_ext')
        AND p.pronamespace = 'public'::regnamespace
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Invariant 9: a function that runs with its owner's rights, or as a trigger, pins its search path; these two do so in
-- C, around their SQL.
SELECT p.oid::regprocedure AS not_pinned FROM pg_proc p
WHERE p.pronamespace IN ('coupon'::regnamespace, 'coupon_internal'::regnamespace, 'public'::regnamespace) AND p.proname <> 'refused'
    AND (p.prosecdef OR p.prorettype = 'trigger'::regtype)
        AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)
ORDER BY 1;

-- ... and PUBLIC executes nothing that writes, nor anything that tells of a person.
SELECT p.oid::regprocedure AS for_everybody, p.provolatile = 'v' AS writes FROM pg_proc p
WHERE p.pronamespace IN ('coupon'::regnamespace, 'coupon_internal'::regnamespace, 'public'::regnamespace) AND p.proname <> 'refused'
    AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Settings: which there are once the library is loaded, and that only a superuser may change what the trigger reads in
-- everybody's session.
LOAD 'coupon_ext';
SELECT name, setting, unit, context FROM pg_settings WHERE name LIKE 'coupon\_ext.%' ORDER BY name;
SELECT name FROM pg_settings WHERE name LIKE 'coupon\_ext.%' AND coalesce(short_desc, '') = '';
SELECT * FROM refused($$SET coupon_ext.mock_clock = 'noon'$$);
SELECT * FROM refused($$SET coupon_ext.lock_wait = -1$$);
SELECT * FROM refused($$SET coupon_ext.on_error = 'shout'$$);
SELECT coupon.clock() = now() AS clock_is_now;
SET coupon_ext.mock_clock = '2026-03-01 12:00:00+00';
SELECT coupon.clock();
SET coupon_ext.mock_clock = '';
SELECT coupon.clock() = now() AS clock_is_now;
RESET coupon_ext.mock_clock;

-- Before there is storage: nothing in schema coupon but what the extension owns; what reads says NULL or nothing.
SELECT count(*) AS tables FROM pg_class WHERE relnamespace = 'coupon'::regnamespace AND relkind IN ('r', 'p', 'S');
SELECT * FROM coupon.watched;
SELECT count(*) FROM coupon.events('-infinity', 'infinity');
SELECT assign_segment('c1'), assign_segment(NULL), coupon.arm_of('default', 's1');
SELECT churn_probability('s1');
SELECT issue_coupon('s1') IS NULL AS no_coupon;
SELECT condition, holds, detail FROM coupon.explain_decision('s1') ORDER BY step;
SELECT * FROM refused('SELECT * FROM rank_categories(''c1'')');
SELECT * FROM refused('SELECT churn_probability(0, ''{}'')');
SELECT * FROM refused('SELECT * FROM coupon.evaluate_churn(''-infinity'', ''infinity'')');
SELECT * FROM refused('SELECT coupon.refresh_segments()');
SELECT * FROM refused('SELECT * FROM coupon.train()');
-- The others answer, or refuse with a hint what to do; never with a table that is missing.
CREATE FUNCTION clear(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'clear';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN CASE WHEN SQLSTATE IN ('55000', '42704') AND hint <> '' THEN 'clear'
        ELSE 'UNCLEAR: ' || SQLSTATE || ' ' || SQLERRM END;
END
$$;
SELECT s AS statement, clear(s) FROM unnest(ARRAY[
    'SELECT coupon.live_offer(''s1'')', 'SELECT redeem_coupon(''0000-0000-0000-0000-0'', ''o1'', 10)',
    'SELECT release_coupon(''0000-0000-0000-0000-0'', ''o1'')', 'SELECT * FROM coupon.maintain()',
        'SELECT * FROM coupon.forget(''c1'')', 'SELECT coupon.revoke_access(NULL)', 'SELECT coupon.activate(1)',
    'SELECT coupon.rollback()', 'SELECT coupon.go_live(''default'')']) s;

-- Storage: made on first use, once; the tables and views are the shop's, not the extension's.
SELECT coupon.create_storage();
SELECT coupon.create_storage();
SELECT version FROM coupon.storage;
SELECT relkind, array_agg(relname::text ORDER BY relname COLLATE "C") AS names FROM pg_class
WHERE relnamespace = 'coupon'::regnamespace AND relkind IN ('r', 'v') GROUP BY relkind ORDER BY relkind;
SELECT c.relname AS table_that_is_a_member FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass
    AND d.objid = c.oid AND d.deptype = 'e'
WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind = 'r';
-- No column is of one of our types, and no default, check or index calls one of our functions: pg_dump would not
-- restore it.
SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
    AND t.typnamespace = 'coupon'::regnamespace;
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid
    AND d.refclassid = 'pg_proc'::regclass
WHERE p.pronamespace IN ('coupon'::regnamespace, 'coupon_internal'::regnamespace) AND d.classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass,
    'pg_class'::regclass);
-- Every table has a primary key: without one, a publication FOR ALL TABLES refuses updates and deletions.
SELECT c.oid::regclass AS without_key FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind = 'r'
    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
-- Every table and view has a comment, and every column of a view that a person reads in a BI tool.
SELECT c.oid::regclass AS without_comment FROM pg_class c
WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'v')
    AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT c.oid::regclass AS view, string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns_without_comment
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind = 'v' AND col_description(c.oid, a.attnum) IS NULL
GROUP BY c.oid ORDER BY c.oid::regclass::text COLLATE "C";

-- With storage and without a model: still NULL, with a warning that says what to do.
SELECT issue_coupon('s1') IS NULL AS no_coupon;
SELECT churn_probability('s1');
SELECT clear('SELECT coupon.activate(1)');

-- The views are made again with their grants.
CREATE ROLE regress_coupon_analyst;
GRANT SELECT ON coupon.model_metrics TO regress_coupon_analyst;
SELECT coupon_internal.create_views();
SELECT has_table_privilege('regress_coupon_analyst', 'coupon.model_metrics', 'SELECT') AS kept,
    has_table_privilege('regress_coupon_analyst', 'coupon.segments', 'SELECT') AS never_given;
REVOKE ALL ON coupon.model_metrics FROM regress_coupon_analyst;
DROP ROLE regress_coupon_analyst;

-- A storage of the future is not touched.
BEGIN;
UPDATE coupon.storage SET version = 1000000;
SELECT regexp_replace(r, 'knows \d+', 'knows N') AS refused FROM refused('SELECT coupon.create_storage()') r;
ROLLBACK;

-- DROP EXTENSION does not take a shop's coupons along.
DO $$
BEGIN
    DROP EXTENSION coupon_ext;
EXCEPTION WHEN dependent_objects_still_exist THEN
    RAISE NOTICE 'refused: % %', SQLSTATE, SQLERRM;
END
$$;
SELECT count(*) FROM coupon.campaign;

-- CASCADE takes functions, views and triggers, and leaves the tables to the next one; until they are complete, verbs
-- say so.
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION coupon_ext CASCADE;
SELECT relkind, count(*) FROM pg_class WHERE relnamespace = 'coupon'::regnamespace AND relkind IN ('r', 'v')
    GROUP BY relkind;
CREATE EXTENSION coupon_ext;
SELECT * FROM refused('SELECT coupon.go_live(''default'')');
SELECT issue_coupon('s1') IS NULL AS no_coupon;
SELECT * FROM redeem_coupon('0000-0000-0000-0000-0', 'o1', 10);
SELECT coupon.create_storage();
SELECT relkind, count(*) FROM pg_class WHERE relnamespace = 'coupon'::regnamespace AND relkind IN ('r', 'v')
    GROUP BY relkind;
SELECT relation FROM coupon.watched;
SELECT * FROM refused('DELETE FROM coupon.audit');
SELECT * FROM refused('INSERT INTO coupon.campaign (campaign, time_zone) VALUES (''nowhere'', ''Nowhere/Else'')');
ROLLBACK;
-- No lock of ours is one that a role without rights on our tables could take.
SELECT p.oid::regprocedure AS takes_advisory_locks FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass
    AND d.objid = p.oid AND d.deptype = 'e'
WHERE pg_get_functiondef(p.oid) ~ 'pg_[a-z_]*advisory';
