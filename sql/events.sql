-- events: a trigger on the shop's own table is the registration; its argument holds the mapping.
-- DateStyle is pinned wherever rows become events, or a date used as an id would depend on who inserts it; the trigger does so itself.
CREATE FUNCTION coupon.on_click() RETURNS trigger
LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'on_click_wrapper';
COMMENT ON FUNCTION coupon.on_click() IS 'Trigger of watched tables: advances the sessions of the inserted rows and issues coupons';

-- The first thing that keeps a mapping from fitting a relation, if any.
CREATE FUNCTION coupon.mapping_fault(relation regclass, columns jsonb, kind text, kinds jsonb,
    OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours CONSTANT text[] := '{session,customer,at,kind,page,category,product,quantity,price,order_id,zone,attributes}';
    our_kinds CONSTANT text[] := '{view,search,cart,uncart,checkout,purchase}';
    relkind "char";
    name text;
    theirs text;
    typ regtype;
    category "char";
    fits boolean;
BEGIN
    IF relation IS NULL OR columns IS NULL THEN
        code := 'null_value_not_allowed'; message := 'relation and columns must not be NULL';
        RETURN;
    END IF;
    SELECT c.relkind INTO relkind FROM pg_class c WHERE c.oid = relation;
    IF relkind IS DISTINCT FROM 'r' AND relkind IS DISTINCT FROM 'p' THEN
        code := 'wrong_object_type';
        message := format('"%s" is not a table', relation);
        detail := CASE relkind
            WHEN 'v' THEN 'It is a view, and clicks are noticed where they are stored.'
            WHEN 'm' THEN 'It is a materialized view, and clicks are noticed where they are stored.'
            WHEN 'f' THEN 'It is a foreign table, and PostgreSQL has no transition tables there.'
            ELSE 'Only ordinary and partitioned tables can be watched.' END;
        hint := 'Watch the table the clicks are inserted into, or send them with coupon.record_click().';
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
        hint := format('Columns of "%s": %s.', relation, coupon.column_names(relation));
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
    SELECT v INTO name FROM jsonb_each_text(kinds) e(k, v) WHERE v <> ALL (our_kinds) ORDER BY v LIMIT 1;
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
    FOR name, theirs IN
        SELECT e.key, coalesce(a.value, e.value #>> '{}')
        FROM jsonb_each(columns) e
        LEFT JOIN LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(e.value) WHEN 'array' THEN e.value END) a(value) ON true
        ORDER BY array_position(ours, e.key)
    LOOP
        SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE a.atttypid END, t.typcategory INTO typ, category
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = relation AND a.attname = theirs AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            code := 'undefined_column';
            message := format('column "%s" of relation "%s" does not exist', theirs, relation);
            detail := format('columns maps "%s" to it.', name);
            hint := format('Columns of "%s": %s.', relation, coupon.column_names(relation));
            RETURN;
        END IF;
        fits := CASE
            WHEN name = 'at' THEN typ IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
            WHEN name IN ('quantity', 'price') THEN typ IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                'float4'::regtype, 'float8'::regtype, 'numeric'::regtype)
            WHEN name = 'attributes' AND typ = 'text[]'::regtype THEN jsonb_typeof(columns -> name) = 'string'
            ELSE category IN ('S', 'N', 'B', 'E', 'D') OR typ = 'uuid'::regtype END;
        IF NOT fits THEN
            code := 'datatype_mismatch';
            message := format('column "%s" of relation "%s" is of type %s, which cannot serve as "%s"',
                theirs, relation, typ, name);
            hint := CASE WHEN name = 'at' THEN 'It must be timestamptz, timestamp or date.'
                WHEN name IN ('quantity', 'price') THEN 'It must be a number.'
                ELSE 'It must be text, a number, a boolean, an enum, a date or a uuid.' END;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.mapping_fault(regclass, jsonb, text, jsonb) IS 'The first reason why a mapping does not fit a table; code is NULL when it fits';

CREATE FUNCTION coupon.column_names(relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;
COMMENT ON FUNCTION coupon.column_names(regclass) IS 'The columns of a relation, for error messages';

CREATE VIEW coupon.watched AS
SELECT t.tgrelid::regclass AS relation, m.mapping -> 'columns' AS columns, m.mapping ->> 'kind' AS kind,
       m.mapping -> 'kinds' AS kinds, t.tgenabled <> 'D' AS live, f.message IS NULL AS fits, f.message AS problem
FROM pg_catalog.pg_trigger t
CROSS JOIN LATERAL (SELECT convert_from(substring(t.tgargs FOR octet_length(t.tgargs) - 1),
    getdatabaseencoding())::jsonb) m(mapping)
CROSS JOIN LATERAL coupon.mapping_fault(t.tgrelid::regclass, m.mapping -> 'columns', m.mapping ->> 'kind',
    m.mapping -> 'kinds') f
WHERE t.tgfoid = 'coupon.on_click'::regproc AND t.tgnargs = 1;
COMMENT ON VIEW coupon.watched IS 'Which tables are watched, with which mapping, and whether it still fits the table';
COMMENT ON COLUMN coupon.watched.relation IS 'The watched table';
COMMENT ON COLUMN coupon.watched.kind IS 'The kind of all its rows, where it holds only one';
COMMENT ON COLUMN coupon.watched.kinds IS 'From the table''s kinds to ours';
COMMENT ON COLUMN coupon.watched.fits IS 'Whether the mapping still fits the table';
COMMENT ON COLUMN coupon.watched.columns IS 'From our names to the table''s columns';
COMMENT ON COLUMN coupon.watched.live IS 'False for a table that is only trained from: its trigger stands, disabled';
COMMENT ON COLUMN coupon.watched.problem IS 'What no longer fits, for example a column that was renamed';

CREATE FUNCTION coupon.watch(relation regclass, columns jsonb, kind text DEFAULT NULL, kinds jsonb DEFAULT '{}',
    live boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fault record;
BEGIN
    SELECT * INTO fault FROM coupon.mapping_fault(watch.relation, watch.columns, watch.kind, watch.kinds);
    IF fault.code IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = fault.code, MESSAGE = fault.message,
            DETAIL = coalesce(fault.detail, ''), HINT = coalesce(fault.hint, '');
    END IF;
    IF EXISTS (SELECT FROM coupon.watched w WHERE w.relation = watch.relation) THEN
        RAISE EXCEPTION 'relation "%" is watched already', relation
            USING ERRCODE = 'duplicate_object', HINT = format('SELECT coupon.unwatch(%L) first.', relation);
    END IF;
    PERFORM coupon.create_storage();
    EXECUTE format('CREATE TRIGGER coupon_click AFTER INSERT ON %s REFERENCING NEW TABLE AS coupon_new '
        'FOR EACH STATEMENT EXECUTE FUNCTION coupon.on_click(%L)', relation,
        jsonb_strip_nulls(jsonb_build_object('columns', columns, 'kind', kind, 'kinds', kinds)));
    IF NOT live THEN
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER coupon_click', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.watch(regclass, jsonb, text, jsonb, boolean) IS 'Notices every click inserted into a table; columns maps our names to the table''s columns';

CREATE FUNCTION coupon.unwatch(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name name;
BEGIN
    SELECT tgname INTO name FROM pg_trigger t
    WHERE t.tgrelid = unwatch.relation AND t.tgfoid = 'coupon.on_click'::regproc;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'relation "%" is not watched', relation
            USING ERRCODE = 'undefined_object', HINT = 'SELECT relation FROM coupon.watched shows what is.';
    END IF;
    EXECUTE format('DROP TRIGGER %I ON %s', name, relation);
END
$$;
COMMENT ON FUNCTION coupon.unwatch(regclass) IS 'Stops noticing the clicks of a table; nothing that was learned or issued is lost';

-- The conversions of the trigger, so that log and trigger agree: what does not fit is NULL, and fails nobody else's row.
CREATE FUNCTION coupon.event_number(value numeric) RETURNS float8
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_number_wrapper';
COMMENT ON FUNCTION coupon.event_number(numeric) IS 'A number of a watched table as an event has it; NULL where it has no finite float8';

CREATE FUNCTION coupon.event_time(value timestamp) RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_time_of_timestamp_wrapper';
COMMENT ON FUNCTION coupon.event_time(timestamp) IS 'A time of a watched table as an event has it, in the session''s time zone; NULL where it has none';

CREATE FUNCTION coupon.event_time(value date) RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_time_of_date_wrapper';
COMMENT ON FUNCTION coupon.event_time(date) IS 'A day of a watched table as an event has it, at its midnight in the session''s time zone; NULL where it has none';

-- The SELECT that reads one watched table as coupon.event. Mirrors what the trigger does with a row.
CREATE FUNCTION coupon.event_query(relation regclass, columns jsonb, kind text, kinds jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c jsonb := columns;
    kind_sql text := CASE WHEN columns ? 'kind' AND coalesce(kinds, '{}') = '{}'
        THEN coupon.text_sql(relation, columns ->> 'kind')
        WHEN columns ? 'kind'
        THEN format('coalesce(%L::jsonb ->> (%2$s), %2$s)', kinds, coupon.text_sql(relation, columns ->> 'kind'))
        ELSE quote_literal(coalesce(kind, 'view')) || '::text' END;
    attributes text := CASE jsonb_typeof(columns -> 'attributes')
        WHEN 'string' THEN (SELECT CASE WHEN coupon.base_type(relation, a.attname) = 'text[]'::regtype
            THEN format('nullif(ARRAY(SELECT u FROM unnest(%I) WITH ORDINALITY x(u, n) ORDER BY n LIMIT 8), ''{}'')', a.attname)
            ELSE format('ARRAY[%s]', coupon.text_sql(relation, a.attname)) END
            FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = columns ->> 'attributes')
        WHEN 'array' THEN (SELECT 'ARRAY[' || string_agg(coupon.text_sql(relation, a), ', ' ORDER BY n) || ']::text[]'
                           FROM jsonb_array_elements_text(columns -> 'attributes') WITH ORDINALITY x(a, n))
        ELSE 'NULL::text[]' END;
BEGIN
    RETURN format('SELECT * FROM (SELECT %s AS at, %s AS session, %s AS customer, %s AS kind, %s AS page, '
        '%s AS category, %s AS product, %s AS quantity, %s AS price, %s AS order_id, %s AS zone, '
        '%s AS attributes FROM %s) e WHERE kind IN (''view'', ''search'', ''cart'', ''uncart'', ''checkout'', '
        '''purchase'') AND at IS NOT NULL AND isfinite(at) AND (session IS NOT NULL OR customer IS NOT NULL) '
        'AND (octet_length(session) <= 256) IS NOT FALSE AND (octet_length(customer) <= 256) IS NOT FALSE',
        coupon.time_sql(relation, c ->> 'at'), coupon.text_sql(relation, c ->> 'session'),
        coupon.text_sql(relation, c ->> 'customer'), kind_sql, coupon.text_sql(relation, c ->> 'page'),
        coupon.text_sql(relation, c ->> 'category'), coupon.text_sql(relation, c ->> 'product'),
        coupon.number_sql(relation, c ->> 'quantity'), coupon.number_sql(relation, c ->> 'price'),
        coupon.text_sql(relation, c ->> 'order_id'), coupon.text_sql(relation, c ->> 'zone'), attributes, relation);
END
$$;
COMMENT ON FUNCTION coupon.event_query(regclass, jsonb, text, jsonb) IS 'The SELECT that reads one watched table as events';

CREATE FUNCTION coupon.base_type(relation regclass, name text) RETURNS regtype
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE typ AS (
        SELECT a.atttypid AS oid FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = name AND NOT a.attisdropped
        UNION ALL SELECT t.typbasetype FROM typ JOIN pg_type t USING (oid) WHERE t.typtype = 'd')
    SELECT t.oid::regtype FROM typ JOIN pg_type t USING (oid) WHERE t.typtype <> 'd'
$$;
COMMENT ON FUNCTION coupon.base_type(regclass, text) IS 'The type of a column, or of what its domain is over in the end';

-- An enum by its output function, as the trigger reads it: whoever owns the type can make its cast anything. A moment in
-- UTC, whatever the session's time zone is.
CREATE FUNCTION coupon.text_sql(relation regclass, name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN name IS NULL THEN 'NULL::text'
        WHEN coupon.base_type(relation, name) = 'timestamptz'::regtype THEN format('(%I AT TIME ZONE ''UTC'')::text', name)
        WHEN EXISTS (SELECT FROM pg_type t WHERE t.oid = coupon.base_type(relation, name) AND t.typcategory = 'E')
        THEN format('CASE WHEN %1$I IS NOT NULL THEN format(''%%s'', %1$I) END', name)
        ELSE format('%I::text', name) END
$$;
COMMENT ON FUNCTION coupon.text_sql(regclass, text) IS 'A column read as text, or NULL where there is none';

CREATE FUNCTION coupon.number_sql(relation regclass, name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN name IS NULL THEN 'NULL::float8'
        WHEN t.typ = 'numeric'::regtype THEN format('coupon.event_number(%I)', name)
        WHEN t.typ IN ('float4'::regtype, 'float8'::regtype)
        THEN format('CASE WHEN %1$I > ''-Infinity'' AND %1$I < ''Infinity'' THEN %1$I::float8 END', name)
        ELSE format('%I::float8', name) END
    FROM (SELECT coupon.base_type(relation, name)) t(typ)
$$;
COMMENT ON FUNCTION coupon.number_sql(regclass, text) IS 'A column read as a finite float8, or NULL where there is none';

CREATE FUNCTION coupon.time_sql(relation regclass, name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE WHEN coupon.base_type(relation, name) = 'timestamptz'::regtype THEN '%I::timestamptz'
        ELSE 'coupon.event_time(%I)' END, name)
$$;
COMMENT ON FUNCTION coupon.time_sql(regclass, text) IS 'A column read as a time';

-- A partition whose parent is watched too is read through the parent only.
CREATE FUNCTION coupon.sources() RETURNS TABLE (relation regclass, query text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w record;
BEGIN
    FOR w IN SELECT * FROM coupon.watched x WHERE NOT EXISTS (
            SELECT FROM pg_partition_ancestors(x.relation) p(relid) JOIN coupon.watched y ON y.relation = p.relid
            WHERE p.relid <> x.relation) ORDER BY x.relation::text
    LOOP
        IF NOT w.fits THEN
            RAISE EXCEPTION 'the mapping of "%" no longer fits: %', w.relation, w.problem
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('SELECT coupon.unwatch(%L), then watch it with the right columns.', w.relation);
        END IF;
        relation := w.relation;
        query := coupon.event_query(w.relation, w.columns, w.kind, w.kinds);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.sources() IS 'The tables events are read from, and the query that reads each';

-- Behind time and session: what makes the order of events total.
CREATE FUNCTION coupon.event_order() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'customer COLLATE "C", kind COLLATE "C", page COLLATE "C", category COLLATE "C", product COLLATE "C", '
           'order_id COLLATE "C", zone COLLATE "C", attributes COLLATE "C", quantity, price'
$$;
COMMENT ON FUNCTION coupon.event_order() IS 'What events of one session and one time are ordered by';

CREATE FUNCTION coupon.events_query(condition text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'SELECT * FROM (' || string_agg(format('SELECT * FROM (%s) s WHERE %s', query, condition), ' UNION ALL ')
        || ') e ORDER BY at, session COLLATE "C", ' || coupon.event_order()
    FROM coupon.sources()
$$;
COMMENT ON FUNCTION coupon.events_query(text) IS 'The SELECT that reads all watched tables under a condition, in the total order; NULL when nothing is watched';

CREATE FUNCTION coupon.events(since timestamptz, until timestamptz) RETURNS SETOF coupon.event
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET extra_float_digits = 1 AS $$
DECLARE
    query text := coupon.events_query('at >= $1 AND at < $2');
BEGIN
    IF query IS NOT NULL THEN
        RETURN QUERY EXECUTE query USING since, until;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.events(timestamptz, timestamptz) IS 'All events of the watched tables in [since, until), in one total order';

CREATE FUNCTION coupon.record_click(session text, at timestamptz DEFAULT NULL, kind text DEFAULT 'view',
    customer text DEFAULT NULL, page text DEFAULT NULL, category text DEFAULT NULL, product text DEFAULT NULL,
    quantity float8 DEFAULT NULL, price float8 DEFAULT NULL, order_id text DEFAULT NULL, zone text DEFAULT NULL,
    attributes text[] DEFAULT NULL) RETURNS coupon.offer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session IS NULL OR session = '' THEN
        RAISE EXCEPTION 'a click needs a session' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass the shop''s session id.';
    END IF;
    IF kind IS NULL OR kind NOT IN ('view', 'search', 'cart', 'uncart', 'checkout', 'purchase') THEN
        RAISE EXCEPTION 'kind "%" is not known', kind USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Kinds are view, search, cart, uncart, checkout, purchase.';
    END IF;
    -- Of a click that is stored without its trigger nobody would know that it was missed.
    IF NOT coupon.storage_ready() THEN
        PERFORM coupon.create_storage();
    END IF;
    INSERT INTO coupon.click (session, at, kind, customer, page, category, product, quantity, price, order_id, zone,
        attributes)
    VALUES (record_click.session, coalesce(record_click.at, coupon.clock()), record_click.kind, record_click.customer,
        record_click.page, record_click.category, record_click.product, record_click.quantity, record_click.price,
        record_click.order_id, record_click.zone, record_click.attributes);
    RETURN coupon.show_offer(record_click.session);
END
$$;
COMMENT ON FUNCTION coupon.record_click IS 'Stores a click in coupon.click and answers with the session''s live offer, if any: one round trip';
