-- events: a trigger on the shop's own table is the registration; its argument holds the mapping.
-- DateStyle is pinned wherever rows become events, or a date used as an id would depend on who inserts it; the trigger does so itself.
CREATE FUNCTION coupon.on_click() RETURNS trigger
LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'on_click_wrapper';
COMMENT ON FUNCTION coupon.on_click() IS 'Trigger of watched tables: advances the sessions of the inserted rows and issues coupons';

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
        coupon.text_sql(relation, c ->> 'order_id'), coupon.text_sql(relation, c ->> 'zone'), attributes,
        coupon.own_rows(relation));
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

-- A partitioned table holds its rows in its partitions. A trigger of any other table fires for the table's own rows alone,
-- and not for those of the tables that inherit from it, whose own triggers do.
CREATE FUNCTION coupon.own_rows(relation regclass) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p') THEN '' ELSE 'ONLY ' END
        || relation::text;
END
$$;
COMMENT ON FUNCTION coupon.own_rows(regclass) IS 'A watched table as a FROM clause names it: with its partitions, and without the tables that inherit from it';

-- A partition whose parent is watched too is read through the parent only. (PL/pgSQL, which keeps its plans: this is asked
-- for each session that is rebuilt.)
CREATE FUNCTION coupon.sources() RETURNS TABLE (relation regclass, query text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH fit AS MATERIALIZED (SELECT w.* FROM coupon.watched w WHERE w.fits)
    SELECT f.relation, coupon.event_query(f.relation, f.columns, f.kind, f.kinds) FROM fit f
    WHERE NOT EXISTS (SELECT FROM pg_partition_ancestors(f.relation) p(relid) JOIN fit y ON y.relation = p.relid
        WHERE p.relid <> f.relation)
    ORDER BY f.relation::text;
END
$$;
COMMENT ON FUNCTION coupon.sources() IS 'The tables events are read from, each row of each once, and the query that reads each; a table that does not fit its mapping is left out';

CREATE FUNCTION coupon.misfits() RETURNS TABLE (relation regclass, problem text, sessions text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH every AS MATERIALIZED (SELECT w.* FROM coupon.watched w)
    SELECT m.relation, m.problem, CASE WHEN a.attname IS NOT NULL THEN format('SELECT %s AS session FROM %s',
        coupon.text_sql(m.relation, a.attname), coupon.own_rows(m.relation)) END
    FROM every m LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attname = m.columns ->> 'session'
        AND a.attnum > 0 AND NOT a.attisdropped
    WHERE NOT m.fits AND NOT EXISTS (SELECT FROM every y WHERE y.fits AND (y.relation = m.relation
        OR y.relation IN (SELECT p.relid FROM pg_partition_ancestors(m.relation) p(relid))))
    ORDER BY m.relation::text;
END
$$;
COMMENT ON FUNCTION coupon.misfits() IS 'The watched tables that are left out because their mapping does not fit, why, and the SELECT of their session ids where these can still be read';

CREATE FUNCTION coupon.warn_misfits() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m record;
BEGIN
    FOR m IN SELECT * FROM coupon.misfits() LOOP
        RAISE WARNING 'events of "%" are left out: %', m.relation, m.problem USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('SELECT coupon.unwatch(%L), then watch it with the right columns.', m.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.warn_misfits() IS 'Warns of each watched table that is left out';

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

-- One table whose rows cannot be read is named, so that it can be unwatched: its owner may have given it a policy that fails.
CREATE FUNCTION coupon.blame(since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET extra_float_digits = 1 AS $$
DECLARE
    source record;
    why text;
    more text;
BEGIN
    FOR source IN SELECT * FROM coupon.sources() LOOP
        BEGIN
            -- The whole row, or the columns that fail might not be read.
            EXECUTE format('SELECT count(s) FROM (%s) s WHERE at >= $1 AND at < $2', source.query) USING since, until;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS why = MESSAGE_TEXT, more = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION 'events of "%" cannot be read: %', source.relation, why USING ERRCODE = SQLSTATE, DETAIL = more,
                HINT = format('SELECT coupon.unwatch(%L) to read the others without it.', source.relation);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.blame(timestamptz, timestamptz) IS 'Fails with the name of the watched table whose events of [since, until) cannot be read, if there is one';

CREATE FUNCTION coupon.events(since timestamptz, until timestamptz) RETURNS SETOF coupon.event
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET extra_float_digits = 1 AS $$
DECLARE
    query text := coupon.events_query('at >= $1 AND at < $2');
BEGIN
    PERFORM coupon.warn_misfits();
    IF query IS NOT NULL THEN
        BEGIN
            RETURN QUERY EXECUTE query USING since, until;
        EXCEPTION WHEN OTHERS THEN
            -- What the server lacks is no table's fault.
            IF SQLSTATE !~ '^(40|53|57|58|XX)' THEN
                PERFORM coupon.blame(since, until);
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
