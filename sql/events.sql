-- events: a trigger on the shop's own table is the registration; its argument holds the mapping.
-- DateStyle is pinned wherever rows become events, or a date used as an id would depend on who inserts it; the trigger does so itself.
CREATE FUNCTION coupon_internal.on_click() RETURNS trigger
LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'on_click_wrapper';
COMMENT ON FUNCTION coupon_internal.on_click() IS 'Trigger of watched tables: advances the sessions of the inserted rows and issues coupons';

-- The one mapping of rows to events: the trigger reads rows by the same code.
CREATE FUNCTION coupon_internal.map_event(mapping text, VARIADIC "any") RETURNS coupon.event
LANGUAGE c STABLE PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'map_event_wrapper';
COMMENT ON FUNCTION coupon_internal.map_event(text, "any") IS 'A row of a watched table as an event, from its mapped columns in the order of coupon.event; NULL for a row that is none';

CREATE FUNCTION coupon_internal.convert_time(value timestamp) RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'convert_time_of_timestamp_wrapper';
COMMENT ON FUNCTION coupon_internal.convert_time(timestamp) IS 'A time of a watched table as an event has it, in the session''s time zone; NULL where it has none';

CREATE FUNCTION coupon_internal.convert_time(value date) RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'convert_time_of_date_wrapper';
COMMENT ON FUNCTION coupon_internal.convert_time(date) IS 'A day of a watched table as an event has it, at its midnight in the session''s time zone; NULL where it has none';

-- at_key and session_key are what an event's at and session are made of: conditions on them find an index of the shop's.
-- OFFSET 0 keeps PostgreSQL from calling map_event once for each field of its result.
CREATE FUNCTION coupon_internal.build_event_query(relation regclass, mapping jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c CONSTANT jsonb := mapping -> 'columns';
    fields CONSTANT text[] := '{at,session,customer,kind,page,category,product,quantity,price,order_id,zone}';
    arguments text;
BEGIN
    arguments := concat_ws(', ', (SELECT string_agg(quote_ident(c ->> f), ', ' ORDER BY n) FROM unnest(fields) WITH ORDINALITY x(f, n)
            WHERE c ? f),
        CASE jsonb_typeof(c -> 'attributes') WHEN 'string' THEN quote_ident(c ->> 'attributes')
            WHEN 'array' THEN (SELECT string_agg(quote_ident(a), ', ' ORDER BY n)
                FROM jsonb_array_elements_text(c -> 'attributes') WITH ORDINALITY x(a, n)) END);
    RETURN format('SELECT %s, %s AS at_key, %s AS session_key FROM %s '
        'CROSS JOIN LATERAL (SELECT coupon_internal.map_event(%L, %s) AS coupon_event OFFSET 0) m WHERE (coupon_event).at IS NOT NULL',
        (SELECT string_agg('(coupon_event).' || f, ', ' ORDER BY n) FROM unnest(fields || 'attributes'::text) WITH ORDINALITY x(f, n)),
        coupon_internal.build_time_sql(relation, c ->> 'at'), coupon_internal.build_text_sql(relation, c ->> 'session'),
        coupon_internal.build_from_item(relation), mapping, arguments);
END
$$;
COMMENT ON FUNCTION coupon_internal.build_event_query(regclass, jsonb) IS 'The SELECT that reads one watched table as events';

-- PL/pgSQL, because an SQL function with a search_path of its own is planned at each call: 464 µs instead of 15.
CREATE FUNCTION coupon_internal.get_base_type(relation regclass, name text) RETURNS regtype
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    typ regtype;
    domain boolean;
BEGIN
    SELECT a.atttypid INTO typ FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = name AND NOT a.attisdropped;
    LOOP
        SELECT t.typtype = 'd' INTO domain FROM pg_type t WHERE t.oid = typ;
        IF domain IS NOT TRUE THEN
            RETURN typ;
        END IF;
        SELECT t.typbasetype INTO typ FROM pg_type t WHERE t.oid = typ;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.get_base_type(regclass, text) IS 'The type of a column, or of what its domain is over in the end';

-- An enum by its output function, as the trigger reads it: whoever owns the type can make its cast anything. A moment in
-- UTC, whatever the session's time zone is.
CREATE FUNCTION coupon_internal.build_text_sql(relation regclass, name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    typ CONSTANT regtype := coupon_internal.get_base_type(relation, name);
BEGIN
    RETURN CASE WHEN name IS NULL THEN 'NULL::text'
        WHEN typ = 'timestamptz'::regtype THEN format('(%I AT TIME ZONE ''UTC'')::text', name)
        WHEN (SELECT t.typcategory = 'E' FROM pg_type t WHERE t.oid = typ)
        THEN format('CASE WHEN %1$I IS NOT NULL THEN format(''%%s'', %1$I) END', name)
        ELSE format('%I::text', name) END;
END
$$;
COMMENT ON FUNCTION coupon_internal.build_text_sql(regclass, text) IS 'A column read as text, or NULL where there is none';

CREATE FUNCTION coupon_internal.build_time_sql(relation regclass, name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format(CASE WHEN coupon_internal.get_base_type(relation, name) = 'timestamptz'::regtype THEN '%I::timestamptz'
        ELSE 'coupon_internal.convert_time(%I)' END, name);
END
$$;
COMMENT ON FUNCTION coupon_internal.build_time_sql(regclass, text) IS 'A column read as a time';

-- A partitioned table holds its rows in its partitions. A trigger of any other table fires for the table's own rows alone,
-- and not for those of the tables that inherit from it, whose own triggers do.
CREATE FUNCTION coupon_internal.build_from_item(relation regclass) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p') THEN '' ELSE 'ONLY ' END
        || relation::text;
END
$$;
COMMENT ON FUNCTION coupon_internal.build_from_item(regclass) IS 'A watched table as a FROM clause names it: with its partitions, and without the tables that inherit from it';

-- A partition whose parent is watched too is read through the parent only. (PL/pgSQL, which keeps its plans: this is asked
-- for each session that is rebuilt.)
CREATE FUNCTION coupon_internal.list_sources() RETURNS TABLE (relation regclass, query text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH fit AS MATERIALIZED (SELECT w.* FROM coupon.watched w WHERE w.fits)
    SELECT f.relation, coupon_internal.build_event_query(f.relation,
        jsonb_strip_nulls(jsonb_build_object('columns', f.columns, 'kind', f.kind, 'kinds', f.kinds))) FROM fit f
    WHERE NOT EXISTS (SELECT FROM pg_partition_ancestors(f.relation) p(relid) JOIN fit y ON y.relation = p.relid
        WHERE p.relid <> f.relation)
    ORDER BY f.relation::text;
END
$$;
COMMENT ON FUNCTION coupon_internal.list_sources() IS 'The tables events are read from, each row of each once, and the query that reads each; a table that does not fit its mapping is left out';

CREATE FUNCTION coupon_internal.list_misfits() RETURNS TABLE (relation regclass, problem text, sessions text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH every AS MATERIALIZED (SELECT w.* FROM coupon.watched w)
    SELECT m.relation, m.problem, CASE WHEN a.attname IS NOT NULL THEN format('SELECT %s AS session FROM %s',
        coupon_internal.build_text_sql(m.relation, a.attname), coupon_internal.build_from_item(m.relation)) END
    FROM every m LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attname = m.columns ->> 'session'
        AND a.attnum > 0 AND NOT a.attisdropped
    WHERE NOT m.fits AND NOT EXISTS (SELECT FROM every y WHERE y.fits AND (y.relation = m.relation
        OR y.relation IN (SELECT p.relid FROM pg_partition_ancestors(m.relation) p(relid))))
    ORDER BY m.relation::text;
END
$$;
COMMENT ON FUNCTION coupon_internal.list_misfits() IS 'The watched tables that are left out because their mapping does not fit, why, and the SELECT of their session ids where these can still be read';

CREATE FUNCTION coupon_internal.warn_misfits() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m record;
BEGIN
    FOR m IN SELECT * FROM coupon_internal.list_misfits() LOOP
        RAISE WARNING 'events of "%" are left out: %', m.relation, m.problem USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('SELECT coupon.unwatch(%L), then watch it with the right columns.', m.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.warn_misfits() IS 'Warns of each watched table that is left out';

-- Behind time and session: what makes the order of events total.
CREATE FUNCTION coupon_internal.build_event_order() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'customer COLLATE "C", kind COLLATE "C", page COLLATE "C", category COLLATE "C", product COLLATE "C", '
           'order_id COLLATE "C", zone COLLATE "C", attributes COLLATE "C", quantity, price'
$$;
COMMENT ON FUNCTION coupon_internal.build_event_order() IS 'What events of one session and one time are ordered by';

CREATE FUNCTION coupon_internal.build_events_query(condition text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'SELECT at, session, customer, kind, page, category, product, quantity, price, order_id, zone, attributes FROM ('
        || string_agg(format('SELECT * FROM (%s) s WHERE %s', query, condition), ' UNION ALL ')
        || ') e ORDER BY at, session COLLATE "C", ' || coupon_internal.build_event_order()
    FROM coupon_internal.list_sources()
$$;
COMMENT ON FUNCTION coupon_internal.build_events_query(text) IS 'The SELECT that reads all watched tables under a condition, in the total order; NULL when nothing is watched';

-- One table whose rows cannot be read is named, so that it can be unwatched: its owner may have given it a policy that fails.
CREATE FUNCTION coupon_internal.raise_unreadable_table(since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET extra_float_digits = 1 AS $$
DECLARE
    source record;
    why text;
    more text;
BEGIN
    FOR source IN SELECT * FROM coupon_internal.list_sources() LOOP
        BEGIN
            -- The whole row, or the columns that fail might not be read.
            EXECUTE format('SELECT count(s) FROM (%s) s WHERE at_key >= $1 AND at_key < $2', source.query) USING since, until;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS why = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION 'events of "%" cannot be read: %', source.relation, why USING ERRCODE = SQLSTATE, DETAIL = more,
                HINT = format('SELECT coupon.unwatch(%L) to read the others without it.', source.relation);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.raise_unreadable_table(timestamptz, timestamptz) IS 'Fails with the name of the watched table whose events of [since, until) cannot be read, if there is one';

CREATE FUNCTION coupon.events(since timestamptz, until timestamptz) RETURNS SETOF coupon.event
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET extra_float_digits = 1 AS $$
DECLARE
    query text := coupon_internal.build_events_query('at_key >= $1 AND at_key < $2');
BEGIN
    PERFORM coupon_internal.warn_misfits();
    IF query IS NOT NULL THEN
        BEGIN
            RETURN QUERY EXECUTE query USING since, until;
        EXCEPTION WHEN OTHERS THEN
            -- What the server lacks is no table's fault.
            IF SQLSTATE !~ '^(40|53|57|58|XX)' THEN
                PERFORM coupon_internal.raise_unreadable_table(since, until);
            END IF;
            RAISE;
        END;
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
    IF kind IS NULL OR kind NOT IN ('view', 'search', 'cart', 'uncart', 'checkout', 'purchase', 'page_view', 'view_item',
            'view_item_list', 'view_search_results', 'add_to_cart', 'remove_from_cart', 'begin_checkout') THEN
        RAISE EXCEPTION 'kind "%" is not known', kind USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Kinds are view, search, cart, uncart, checkout, purchase, or the names of Google Analytics 4 for them.';
    END IF;
    -- Of a click that is stored without its trigger nobody would know that it was missed.
    IF NOT coupon_internal.is_storage_ready() THEN
        PERFORM coupon.create_storage();
    END IF;
    INSERT INTO coupon.click (session, at, kind, customer, page, category, product, quantity, price, order_id, zone,
        attributes)
    VALUES (record_click.session, coalesce(record_click.at, coupon.clock()), record_click.kind, record_click.customer,
        record_click.page, record_click.category, record_click.product, record_click.quantity, record_click.price,
        record_click.order_id, record_click.zone, record_click.attributes);
    RETURN coupon_internal.show_offer(record_click.session);
END
$$;
COMMENT ON FUNCTION coupon.record_click IS 'Stores a click in coupon.click and answers with the session''s live offer, if any: one round trip';
