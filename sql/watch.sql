-- watch: which tables are watched, and whether each still can be.
--
-- The first thing that keeps a mapping from fitting a relation, if any.
CREATE FUNCTION coupon_internal.find_mapping_fault(relation regclass, columns jsonb, kind text, kinds jsonb,
    OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours CONSTANT text[] := '{session,customer,at,kind,page,category,product,quantity,price,order_id,zone,attributes}';
    our_kinds CONSTANT text[] := '{view,search,cart,uncart,checkout,purchase}';
    -- Their text depends on the settings of whoever reads them.
    unsteady CONSTANT regtype[] := '{money,regclass,regcollation,regconfig,regdictionary,regnamespace,regoper,
        regoperator,regproc,regprocedure,regrole,regtype}';
    class record;
    name text;
    theirs text;
    typ regtype;
    base oid;
    category "char";
    fits boolean;
BEGIN
    IF relation IS NULL OR columns IS NULL THEN
        code := 'null_value_not_allowed'; message := 'relation and columns must not be NULL';
        RETURN;
    END IF;
    SELECT c.relkind, c.relpersistence, c.relnamespace::regnamespace::text AS schema, c.relname INTO class
    FROM pg_class c WHERE c.oid = relation;
    IF class.relkind IS NULL OR class.relkind NOT IN ('r', 'p') THEN
        code := 'wrong_object_type';
        message := format('"%s" is not a table', relation);
        detail := CASE class.relkind
            WHEN 'v' THEN 'It is a view, and clicks are noticed where they are stored.'
            WHEN 'm' THEN 'It is a materialized view, and clicks are noticed where they are stored.'
            WHEN 'f' THEN 'It is a foreign table, and PostgreSQL has no transition tables there.'
            ELSE 'Only ordinary and partitioned tables can be watched.' END;
        hint := 'Watch the table the clicks are inserted into, or send them with coupon.record_click().';
        RETURN;
    END IF;
    IF class.relpersistence = 't' THEN
        code := 'wrong_object_type'; message := format('"%s" is a temporary table', relation);
        detail := 'No other session can read it, so that nobody could train on it.';
        hint := 'Watch the table that keeps the clicks, or send them with coupon.record_click().';
        RETURN;
    END IF;
    IF class.schema IN ('coupon', 'pg_catalog', 'information_schema') AND relation <> to_regclass('coupon.click') THEN
        code := 'wrong_object_type'; message := format('"%s" holds no clicks of a shop', relation);
        hint := 'Watch the table the clicks are inserted into.';
        RETURN;
    END IF;
    IF jsonb_typeof(columns) <> 'object' THEN
        code := 'invalid_parameter_value'; message := 'columns must be a JSON object';
        hint := 'For example {"session": "session_id", "at": "created_at"}.';
        RETURN;
    END IF;
    SELECT k INTO name FROM jsonb_object_keys(columns) k WHERE k <> ALL (ours) ORDER BY k LIMIT 1;
    IF FOUND THEN
        code := 'invalid_parameter_value';
        message := format('columns names "%s", which coupon_ext does not know', name);
        hint := 'It knows ' || array_to_string(ours, ', ') || '.';
        RETURN;
    END IF;
    SELECT k INTO name FROM jsonb_each(columns) e(k, v)
    WHERE jsonb_typeof(v) <> 'string' AND NOT (k = 'attributes' AND jsonb_typeof(v) = 'array') ORDER BY k LIMIT 1;
    IF FOUND THEN
        code := 'invalid_parameter_value'; message := format('columns must map "%s" to the name of one column', name);
        hint := 'Only attributes takes a list.';
        RETURN;
    END IF;
    IF NOT columns ? 'at' OR NOT (columns ? 'session' OR columns ? 'customer' AND kind IS NOT DISTINCT FROM 'purchase') THEN
        code := 'invalid_parameter_value';
        message := format('columns of "%s" must name the columns for session and at', relation);
        detail := 'Only a table of purchases may name customer instead of session.';
        hint := format('Columns of "%s": %s.', relation, coupon_internal.list_columns(relation));
        RETURN;
    END IF;
    IF kind IS NOT NULL AND columns ? 'kind' THEN
        code := 'invalid_parameter_value'; message := 'kind and columns.kind exclude each other';
        hint := 'Give the kind as a constant, or name the column that holds it.';
        RETURN;
    END IF;
    IF kind <> ALL (our_kinds) THEN
        code := 'invalid_parameter_value'; message := format('kind "%s" is not known', kind);
        hint := 'Kinds are ' || array_to_string(our_kinds, ', ') || '.';
        RETURN;
    END IF;
    IF kinds IS NOT NULL AND jsonb_typeof(kinds) <> 'object' THEN
        code := 'invalid_parameter_value'; message := 'kinds must be a JSON object from their values to ours';
        RETURN;
    END IF;
    SELECT coalesce(v #>> '{}', 'null') INTO name FROM jsonb_each(kinds) e(k, v)
    WHERE jsonb_typeof(v) <> 'string' OR v #>> '{}' <> ALL (our_kinds) ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        code := 'invalid_parameter_value'; message := format('kinds maps to "%s", which is not known', name);
        hint := 'Kinds are ' || array_to_string(our_kinds, ', ') || '.';
        RETURN;
    END IF;
    IF jsonb_typeof(columns -> 'attributes') = 'array' AND jsonb_array_length(columns -> 'attributes') > 8 THEN
        code := 'program_limit_exceeded'; message := 'at most 8 attributes';
        hint := 'Name the facts about the visit that a person would look at first.';
        RETURN;
    END IF;
    IF jsonb_typeof(columns -> 'attributes') = 'array' AND (columns -> 'attributes' = '[]'
            OR EXISTS (SELECT FROM jsonb_array_elements(columns -> 'attributes') e(v) WHERE jsonb_typeof(v) <> 'string'))
    THEN
        code := 'invalid_parameter_value'; message := 'attributes must be a column or a list of columns';
        hint := 'Leave attributes out where there are none.';
        RETURN;
    END IF;
    FOR name, theirs IN
        SELECT e.key, coalesce(a.value, e.value #>> '{}')
        FROM jsonb_each(columns) e
        LEFT JOIN LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(e.value) WHEN 'array' THEN e.value END) a(value) ON true
        ORDER BY array_position(ours, e.key)
    LOOP
        SELECT a.atttypid INTO typ FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attname = theirs AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            code := 'undefined_column';
            message := format('column "%s" of relation "%s" does not exist', theirs, relation);
            detail := format('columns maps "%s" to it.', name);
            hint := format('Columns of "%s": %s.', relation, coupon_internal.list_columns(relation));
            RETURN;
        END IF;
        -- A domain may be over a domain.
        LOOP
            SELECT t.typbasetype, t.typcategory INTO base, category FROM pg_type t WHERE t.oid = typ;
            EXIT WHEN coalesce(base, 0) = 0;
            typ := base;
        END LOOP;
        fits := CASE
            WHEN name = 'at' THEN typ IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
            WHEN name IN ('quantity', 'price') THEN typ IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                'float4'::regtype, 'float8'::regtype, 'numeric'::regtype)
            WHEN typ = 'text[]'::regtype THEN name = 'attributes' AND jsonb_typeof(columns -> name) = 'string'
            WHEN typ = ANY (unsteady) THEN false
            ELSE category IN ('S', 'N', 'B', 'E', 'D') OR typ = 'uuid'::regtype END;
        IF NOT fits THEN
            code := 'datatype_mismatch';
            message := format('column "%s" of relation "%s" is of type %s, which cannot serve as "%s"',
                theirs, relation, typ, name);
            hint := CASE WHEN name = 'at' THEN 'It must be timestamptz, timestamp or date.'
                WHEN name IN ('quantity', 'price') THEN 'It must be a number.'
                WHEN typ = ANY (unsteady)
                    THEN 'Its text depends on the settings of whoever reads it; a generated column can hold it as text.'
                ELSE 'It must be text, a number, a boolean, an enum, a date or a uuid.' END;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.find_mapping_fault(regclass, jsonb, text, jsonb) IS 'The first reason why a mapping does not fit a table; code is NULL when it fits';

CREATE FUNCTION coupon_internal.list_columns(relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;
COMMENT ON FUNCTION coupon_internal.list_columns(regclass) IS 'The columns of a relation, for error messages';

-- INSERT finds out which rows a transition table is to hold from the triggers that stand, enabled or not, and cannot collect
-- those that go to a foreign table: it fails.
CREATE FUNCTION coupon_internal.find_foreign_partition(relation regclass) RETURNS regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT p.relid FROM pg_partition_tree(relation) p JOIN pg_class c ON c.oid = p.relid
        WHERE c.relkind = 'f' ORDER BY p.relid::regclass::text LIMIT 1);
END
$$;
COMMENT ON FUNCTION coupon_internal.find_foreign_partition(regclass) IS 'A partition of a table, at any depth, that is a foreign table; NULL where there is none';

-- Whoever owns a table can write any trigger and rename any column: whatever that makes of ours is said, and never raised.
CREATE FUNCTION coupon_internal.get_watch_state(trigger oid, OUT mapping jsonb, OUT live boolean, OUT fits boolean, OUT problem text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    away regclass;
BEGIN
    live := false;
    fits := false;
    SELECT g.tgrelid::regclass AS relation, g.tgname, g.tgtype, g.tgnargs, g.tgargs, g.tgenabled IN ('O', 'A') AS enabled,
        g.tgnewtable IS NOT NULL AS told INTO t
    FROM pg_trigger g WHERE g.oid = get_watch_state.trigger;
    -- AFTER INSERT FOR EACH STATEMENT.
    IF t.tgtype <> 4 THEN
        problem := format('trigger "%s" is not AFTER INSERT FOR EACH STATEMENT', t.tgname);
    ELSIF t.tgnargs <> 1 THEN
        problem := format('trigger "%s" has %s arguments instead of one', t.tgname, t.tgnargs);
    ELSIF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.relation AND g.tgfoid = 'coupon_internal.on_click'::regproc
            AND g.tgtype = 4 AND g.tgname < t.tgname) THEN
        problem := format('trigger "%s" is not the only one of coupon_internal.on_click() there', t.tgname);
    END IF;
    IF problem IS NOT NULL THEN
        RETURN;
    END IF;
    BEGIN
        mapping := convert_from(substring(t.tgargs FOR octet_length(t.tgargs) - 1), getdatabaseencoding())::jsonb;
    EXCEPTION WHEN OTHERS THEN
        problem := format('the argument of trigger "%s" is no JSON: %s', t.tgname, SQLERRM);
        RETURN;
    END;
    IF jsonb_typeof(mapping) <> 'object' OR EXISTS (SELECT FROM jsonb_object_keys(mapping) k
            WHERE k NOT IN ('columns', 'kind', 'kinds')) OR jsonb_typeof(mapping -> 'kind') <> 'string' THEN
        problem := format('the argument of trigger "%s" is no mapping of columns, kind and kinds', t.tgname);
        mapping := NULL;
        RETURN;
    END IF;
    SELECT f.message INTO problem
    FROM coupon_internal.find_mapping_fault(t.relation, mapping -> 'columns', mapping ->> 'kind', mapping -> 'kinds') f;
    fits := problem IS NULL;
    away := coupon_internal.find_foreign_partition(t.relation);
    live := fits AND t.enabled AND t.told AND away IS NULL;
    IF fits AND away IS NOT NULL THEN
        problem := CASE WHEN t.told THEN format('rows for its partition "%s", a foreign table, cannot be inserted', away)
            ELSE format('its partition "%s" is a foreign table, so that its clicks are read and not noticed', away) END;
    ELSIF fits AND t.enabled AND NOT t.told THEN
        problem := format('trigger "%s" has no transition table, so that its clicks are read and not noticed', t.tgname);
    ELSIF live THEN
        -- The trigger of a partition does not fire for rows that are inserted through a parent.
        SELECT format('rows that are inserted through "%s" are read and not noticed', p.relid) INTO problem
        FROM pg_partition_ancestors(t.relation) WITH ORDINALITY p(relid, n)
        WHERE p.relid <> t.relation AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.relid
            AND g.tgfoid = 'coupon_internal.on_click'::regproc AND g.tgnewtable IS NOT NULL AND g.tgenabled IN ('O', 'A'))
        ORDER BY p.n DESC LIMIT 1;
    END IF;
EXCEPTION WHEN OTHERS THEN
    live := false;
    fits := false;
    problem := SQLERRM;
END
$$;
COMMENT ON FUNCTION coupon_internal.get_watch_state(oid) IS 'A trigger of ours as coupon.watched shows it: its mapping, whether clicks are noticed, whether the table can be read through it, and what is wrong';

CREATE VIEW coupon.watched AS
SELECT t.tgrelid::regclass AS relation, s.mapping -> 'columns' AS columns, s.mapping ->> 'kind' AS kind,
       s.mapping -> 'kinds' AS kinds, s.live, s.fits, s.problem
FROM pg_catalog.pg_trigger t CROSS JOIN LATERAL coupon_internal.get_watch_state(t.oid) s
WHERE t.tgfoid = 'coupon_internal.on_click'::regproc AND t.tgparentid = 0;
COMMENT ON VIEW coupon.watched IS 'Which tables are watched, with which mapping, and whether it still fits the table. Each row of a table is one event, once: a partition of a watched table is read through that table; of a table that others inherit from, only its own rows are read and noticed, and a child is watched by itself';
COMMENT ON COLUMN coupon.watched.relation IS 'The watched table';
COMMENT ON COLUMN coupon.watched.kind IS 'The kind of all its rows, where it holds only one';
COMMENT ON COLUMN coupon.watched.kinds IS 'From the table''s kinds to ours';
COMMENT ON COLUMN coupon.watched.fits IS 'Whether the mapping still fits the table; a table that does not fit is left out wherever events are read, with a WARNING';
COMMENT ON COLUMN coupon.watched.columns IS 'From our names to the table''s columns';
COMMENT ON COLUMN coupon.watched.live IS 'Whether clicks are noticed as they are inserted; false for a table that is only trained from';
COMMENT ON COLUMN coupon.watched.problem IS 'What no longer fits, for example a column that was renamed, or why clicks are not noticed';

CREATE FUNCTION coupon.watch(relation regclass, columns jsonb, kind text DEFAULT NULL, kinds jsonb DEFAULT '{}',
    live boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fault record;
    away regclass;
BEGIN
    SELECT * INTO fault FROM coupon_internal.find_mapping_fault(watch.relation, watch.columns, watch.kind, watch.kinds);
    IF fault.code IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = fault.code, MESSAGE = fault.message,
            DETAIL = coalesce(fault.detail, ''), HINT = coalesce(fault.hint, '');
    END IF;
    IF EXISTS (SELECT FROM coupon.watched w WHERE w.relation = watch.relation) THEN
        RAISE EXCEPTION 'relation "%" is watched already', relation
            USING ERRCODE = 'duplicate_object', HINT = format('SELECT coupon.unwatch(%L) first.', relation);
    END IF;
    away := coupon_internal.find_foreign_partition(relation);
    IF live AND away IS NOT NULL THEN
        RAISE EXCEPTION 'clicks of "%" cannot be noticed: its partition "%" is a foreign table', relation, away
            USING ERRCODE = 'feature_not_supported',
                DETAIL = 'With our trigger, PostgreSQL would refuse every INSERT of a row for that partition.',
                HINT = format('Pass live => false to train from "%s", or detach "%s" first. A local partition can be watched '
                    'for the rows that are inserted into it by name.', relation, away);
    END IF;
    PERFORM coupon.create_storage();
    -- Only a trigger that may fire has a transition table: PostgreSQL fills it for one that is disabled, too.
    EXECUTE format('CREATE TRIGGER coupon_click AFTER INSERT ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click(%L)',
        relation, CASE WHEN live THEN 'REFERENCING NEW TABLE AS coupon_new' ELSE '' END,
        jsonb_strip_nulls(jsonb_build_object('columns', columns, 'kind', kind, 'kinds', kinds)));
    IF NOT live THEN
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER coupon_click', relation);
    END IF;
    IF EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent AND c.relkind = 'r'
            WHERE i.inhparent = relation) THEN
        RAISE NOTICE 'rows of the tables that inherit from "%" are not watched with it', relation
            USING HINT = 'Watch each of them that holds clicks.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.watch(regclass, jsonb, text, jsonb, boolean) IS 'Notices every click inserted into a table; columns maps our names to the table''s columns. Of a partitioned table all partitions are read, and clicks are noticed that are inserted through it; of a table that others inherit from, its own rows only. live => false: the table is only read';

CREATE FUNCTION coupon.unwatch(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names name[] := ARRAY(SELECT t.tgname FROM pg_trigger t
        WHERE t.tgrelid = unwatch.relation AND t.tgfoid = 'coupon_internal.on_click'::regproc AND t.tgparentid = 0);
    name name;
BEGIN
    IF names = '{}' THEN
        RAISE EXCEPTION 'relation "%" is not watched', relation
            USING ERRCODE = 'undefined_object', HINT = 'SELECT relation FROM coupon.watched shows what is.';
    END IF;
    FOREACH name IN ARRAY names LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', name, relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.unwatch(regclass) IS 'Stops noticing the clicks of a table; nothing that was learned or issued is lost';
