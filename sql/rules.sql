-- rules: what a campaign asks before it gives anything, beside the policy. Deciding and coupon.explain_decision ask the same function.
-- The shop's table need not have an index that fits: who asks here has turned reading whole tables off, for ours.
CREATE FUNCTION coupon_internal.read_stock(category text) RETURNS numeric
LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = on
AS 'MODULE_PATHNAME', 'read_stock_wrapper';
COMMENT ON FUNCTION coupon_internal.read_stock(text) IS 'What is in stock of a category, in the table that coupon.watch_stock() named, read with its owner''s rights; NULL where there is none, and, with a warning, where the table can no longer be read';

CREATE FUNCTION coupon_internal.find_stock_fault(relation regclass, category name, quantity name, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
BEGIN
    SELECT x.relkind IN ('r', 'p') AS is_table, x.relpersistence = 't' AS brief, x.relrowsecurity INTO c
    FROM pg_class x WHERE x.oid = find_stock_fault.relation;
    IF c.is_table IS NOT TRUE OR c.brief THEN
        code := 'wrong_object_type';
        message := format('"%s" is %s', relation, CASE WHEN c.brief THEN 'a temporary table' ELSE 'not a table' END);
        hint := 'Name the table that holds the stock.';
    ELSIF c.relrowsecurity THEN
        code := 'feature_not_supported';
        message := format('"%s" has row security', relation);
        hint := 'It would be read with the rights of its owner, whom policies do not bind. Name a table without row security.';
    ELSIF (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = find_stock_fault.relation AND a.attnum > 0 AND NOT a.attisdropped
            AND (a.attname = find_stock_fault.category OR a.attname = find_stock_fault.quantity
                AND a.atttypid = ANY ('{int2,int4,int8,numeric,float4,float8}'::regtype[]))) <> 2 THEN
        code := 'undefined_column';
        message := format('"%s" has no columns "%s" and "%s" with a category and a number', relation, category, quantity);
        hint := format('It has %s.', coupon_internal.list_columns(relation));
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.find_stock_fault(regclass, name, name) IS 'Why a table cannot be read as the shop''s stock; code is NULL when it can';

-- What is read later is read with the owner's rights, so that it is the owner who names the table.
CREATE FUNCTION coupon_internal.check_stock_source() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fault record;
BEGIN
    SELECT * INTO fault FROM coupon_internal.find_stock_fault(NEW.relation, NEW.category, NEW.quantity);
    IF fault.code IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = fault.code, MESSAGE = fault.message, HINT = fault.hint;
    END IF;
    IF NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = NEW.relation), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', NEW.relation USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'What is in stock is read with the rights of the table''s owner.',
            HINT = 'Its owner or a superuser can name it.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_stock_source() IS 'Trigger: the table of stock is named by its owner, has the columns that are named and no row security';

CREATE FUNCTION coupon.watch_stock(relation regclass, category name, quantity name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF relation IS NULL OR category IS NULL OR quantity IS NULL THEN
        RAISE EXCEPTION 'relation, category and quantity must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM coupon.create_storage();
    INSERT INTO coupon.stock_source (relation, category, quantity)
    VALUES (watch_stock.relation, watch_stock.category, watch_stock.quantity)
    ON CONFLICT (one) DO UPDATE SET relation = excluded.relation, category = excluded.category, quantity = excluded.quantity;
END
$$;
COMMENT ON FUNCTION coupon.watch_stock(regclass, name, name) IS 'Names the shop''s table of stock, as its owner or a superuser: several rows of a category are added up';

CREATE FUNCTION coupon_internal.is_in_hours(at timestamptz, time_zone text, days int[], from_time time, to_time time) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    local timestamp := at AT TIME ZONE time_zone;
    clock time := local;
    early boolean := from_time > to_time AND clock < to_time;
BEGIN
    -- Over midnight, the small hours belong to the day before.
    RETURN coalesce(CASE WHEN from_time < to_time THEN clock >= from_time AND clock < to_time
                         ELSE clock >= from_time OR clock < to_time END, true)
        AND coalesce(extract(isodow FROM local::date - CASE WHEN early THEN 1 ELSE 0 END)::int = ANY (days), true);
END
$$;
COMMENT ON FUNCTION coupon_internal.is_in_hours(timestamptz, text, int[], time, time) IS 'Whether a moment lies within the hours and days of a time zone';

CREATE FUNCTION coupon_internal.compute_pacing_factor(spent numeric, granted numeric, share_of_day float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- One as long as the plan holds, falling to a twentieth when an hour's share ahead of it; never 0, so that whoever was
    -- passed over can still be weighed.
    SELECT CASE WHEN granted OPERATOR(pg_catalog.>) 0 THEN greatest(0.05, least(1, 1 OPERATOR(pg_catalog.-)
        (((spent::pg_catalog.float8 OPERATOR(pg_catalog./) granted::pg_catalog.float8) OPERATOR(pg_catalog.-) share_of_day)
            OPERATOR(pg_catalog.*) 24))) ELSE 1 END;
END;
COMMENT ON FUNCTION coupon_internal.compute_pacing_factor(numeric, numeric, float8) IS 'The factor that spreads a day''s budget over the day';

CREATE FUNCTION coupon_internal.lacks_budget(name text, unit text, day date, granted numeric, need numeric) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    free numeric := coalesce(coupon_internal.sum_available(name, unit, day), granted);
BEGIN
    IF free >= need THEN
        RETURN false;
    END IF;
    -- What expired coupons hold comes back before it is missed.
    RETURN unit = 'coupons' OR free + (SELECT coalesce(sum(c.reserved_amount), 0) FROM coupon.coupon c
        WHERE c.campaign = name AND c.closed_at IS NULL AND c.expires_at <= coupon.clock()
            AND NOT (c.state = 'reserved' AND c.reserved_until > coupon.clock())
            AND (day = '-infinity' OR c.budget_day = day)) < need;
END
$$;
COMMENT ON FUNCTION coupon_internal.lacks_budget(text, text, date, numeric, numeric) IS 'Whether a budget has not enough left for one coupon';

CREATE FUNCTION coupon_internal.check_rules(name text, session text, customer text, segment int, zone text, categories text[],
    OUT rule text, OUT detail text, OUT category text, OUT pacing_factor float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    at timestamptz := coupon.clock();
    n bigint;
    decided_campaigns bigint;
    decided_here bigint;
    has_one boolean;
    decisions bigint;
    last_at timestamptz;
    money boolean;
    money_today boolean;
    coupons boolean;
    coupons_today boolean;
    share_of_day float8;
BEGIN
    -- Each statement and each assignment costs a decision its setting up, so there are few, and what is said of a rule is
    -- put together only where it stops.
    SELECT x.*, coupon_internal.get_budget_date(x.time_zone) AS today, coupon_internal.compute_worst_case(x.discount, x.unit, x.max_discount) AS need
    INTO c FROM coupon.campaign x WHERE x.campaign = name;
    pacing_factor := 1;
    category := categories[1];
    rule := CASE
        WHEN at < c.starts_at THEN 'starts_at'
        WHEN at >= c.ends_at THEN 'ends_at'
        WHEN num_nonnulls(c.days, c.from_time) > 0
            AND NOT coupon_internal.is_in_hours(at, c.time_zone, c.days, c.from_time, c.to_time) THEN 'hours'
        WHEN segment <> ALL (c.segments) THEN 'segments'
        WHEN c.zones IS NOT NULL AND (zone = ANY (c.zones)) IS NOT TRUE THEN 'zones' END;
    IF rule IS NULL AND c.max_traffic IS NOT NULL THEN
        SELECT count(*) INTO n FROM (SELECT FROM coupon.session s
            WHERE s.started_at > at - c.traffic_window LIMIT c.max_traffic + 1) s;
        rule := CASE WHEN n > c.max_traffic THEN 'max_traffic' END;
    END IF;
    IF rule IS NULL AND c.categories IS NOT NULL AND category IS NULL THEN
        rule := 'categories';
    END IF;
    IF rule IS NULL AND c.minimum_stock IS NOT NULL THEN
        SELECT k INTO category FROM unnest(categories) WITH ORDINALITY u(k, i)
        WHERE coupon_internal.read_stock(k) >= c.minimum_stock ORDER BY i LIMIT 1;
        rule := CASE WHEN category IS NULL THEN 'minimum_stock' END;
    END IF;
    IF rule IS NULL THEN
        -- Of the buckets the first that is large enough, by the order of their index: EXISTS would read the table.
        SELECT s.decided_campaigns, s.here, EXISTS (SELECT FROM coupon.coupon x
                WHERE x.session = check_rules.session AND x.closed_at IS NULL
                    AND (x.expires_at > at OR x.state = 'reserved' AND x.reserved_until > at)),
            h.decisions, h.last_at,
            (SELECT true FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = 'money' AND p.day = '-infinity'
                AND p.amount >= c.need ORDER BY p.id LIMIT 1),
            (SELECT true FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = 'money' AND p.day = c.today
                AND p.amount >= c.need ORDER BY p.id LIMIT 1),
            (SELECT true FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = 'coupons' AND p.day = '-infinity'
                AND p.amount >= 1 ORDER BY p.id LIMIT 1),
            (SELECT true FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = 'coupons' AND p.day = c.today
                AND p.amount >= 1 ORDER BY p.id LIMIT 1)
        INTO decided_campaigns, decided_here, has_one, decisions, last_at, money, money_today, coupons, coupons_today
        FROM (SELECT count(*) AS decided_campaigns, count(*) FILTER (WHERE d.campaign = name) AS here FROM coupon.decision d
                WHERE d.session = check_rules.session AND d.outcome <> 'stopped') s,
            (SELECT coalesce(sum(d.decisions) FILTER (WHERE d.campaign = name), 0) AS decisions, max(d.last_at) AS last_at
                FROM coupon.customer_limit d WHERE d.customer = check_rules.customer) h;
        rule := CASE
            WHEN decided_here > 0 THEN 'once a session'
            WHEN decided_campaigns >= c.per_session THEN 'per_session'
            WHEN has_one THEN 'one live coupon'
            WHEN decisions >= c.per_customer THEN 'per_customer'
            WHEN last_at + c.cool_down > at THEN 'cool_down'
            -- Added up only where no single bucket is large enough.
            WHEN c.budget IS NOT NULL AND money IS NULL
                AND coupon_internal.lacks_budget(name, 'money', '-infinity', c.budget, c.need) THEN 'budget'
            WHEN c.budget_day IS NOT NULL AND money_today IS NULL
                AND coupon_internal.lacks_budget(name, 'money', c.today, c.budget_day, c.need) THEN 'budget_day'
            WHEN c.coupons IS NOT NULL AND coupons IS NULL
                AND coupon_internal.lacks_budget(name, 'coupons', '-infinity', c.coupons, 1) THEN 'coupons'
            WHEN c.coupons_day IS NOT NULL AND coupons_today IS NULL
                AND coupon_internal.lacks_budget(name, 'coupons', c.today, c.coupons_day, 1) THEN 'coupons_day' END;
    END IF;
    IF rule IS NOT NULL THEN
        detail := CASE rule
            WHEN 'starts_at' THEN format('it starts at %s', c.starts_at)
            WHEN 'ends_at' THEN format('it ended at %s', c.ends_at)
            WHEN 'hours' THEN format('it is %s in %s', to_char(at AT TIME ZONE c.time_zone, 'Dy HH24:MI'), c.time_zone)
            WHEN 'segments' THEN format('the session is of segment %s', segment)
            WHEN 'zones' THEN format('the last click was in %s', coalesce('zone ' || zone, 'no zone'))
            WHEN 'max_traffic' THEN format('more than %s sessions began within %s', c.max_traffic, c.traffic_window)
            WHEN 'categories' THEN 'none of its categories is ranked for this visitor'
            WHEN 'minimum_stock' THEN format('none of %s has %s in stock', array_to_string(categories, ', '), c.minimum_stock)
            WHEN 'once a session' THEN 'it has decided about the session'
            WHEN 'per_session' THEN 'enough campaigns have decided about the session'
            WHEN 'one live coupon' THEN 'the session has one'
            WHEN 'per_customer' THEN format('it has decided about the customer %s times', decisions)
            WHEN 'cool_down' THEN format('the customer''s last decision was at %s', last_at)
            WHEN 'coupons' THEN format('%s are out', c.coupons)
            WHEN 'coupons_day' THEN format('%s are out today', c.coupons_day)
            ELSE format('less than %s %s are left', c.need, c.currency) END;
    ELSIF c.paced THEN
        share_of_day := extract(epoch FROM (at AT TIME ZONE c.time_zone)::time) / 86400;
        pacing_factor := least(
            CASE WHEN c.budget_day IS NOT NULL THEN
                coupon_internal.compute_pacing_factor(c.budget_day - coupon_internal.sum_available(name, 'money', c.today), c.budget_day, share_of_day) END,
            CASE WHEN c.coupons_day IS NOT NULL THEN
                coupon_internal.compute_pacing_factor(c.coupons_day - coupon_internal.sum_available(name, 'coupons', c.today), c.coupons_day, share_of_day) END);
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_rules(text, text, text, int, text, text[]) IS 'The first rule that keeps a campaign from giving to a session now, NULL if none; the category it would give, and how far pacing lowers the probability. Changes nothing';

CREATE FUNCTION coupon_internal.close_expired_coupon(of text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old record;
BEGIN
    SELECT x.campaign INTO old FROM coupon.coupon x WHERE x.session = of AND x.closed_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE coupon.coupon x SET closed_at = x.expires_at, state = 'expired', reserved_amount = CASE WHEN x.reserved_amount IS NOT NULL THEN 0 END
    FROM (SELECT y.session, y.id, y.reserved_amount FROM coupon.coupon y
        WHERE y.session = of AND y.closed_at IS NULL AND y.expires_at <= coupon.clock()
            AND NOT (y.state = 'reserved' AND y.reserved_until > coupon.clock()) FOR UPDATE SKIP LOCKED) due
    WHERE x.session = due.session AND x.id = due.id
    RETURNING x.campaign, x.budget_day, due.reserved_amount INTO old;
    IF NOT FOUND THEN
        RETURN 'busy: coupon';
    END IF;
    PERFORM coupon_internal.return_reserved_amount(old.campaign, old.budget_day, old.reserved_amount);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.close_expired_coupon(text) IS 'Makes room for a session''s next coupon; NULL, or what another transaction holds. Never waits';

CREATE FUNCTION coupon_internal.lock_customer(customer text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := current_setting('lock_timeout');
BEGIN
    PERFORM FROM coupon.customer_limit h WHERE h.customer = lock_customer.customer AND h.campaign = '' FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN true;
    ELSIF EXISTS (SELECT FROM coupon.customer_limit h WHERE h.customer = lock_customer.customer AND h.campaign = '') THEN
        RETURN false;
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', '1ms', true);
        INSERT INTO coupon.customer_limit (campaign, customer, decisions, last_at) VALUES ('', lock_customer.customer, 0, '-infinity');
        PERFORM set_config('lock_timeout', own, true);
        RETURN true;
    EXCEPTION WHEN lock_not_available OR unique_violation THEN
        RETURN false;
    END;
END
$$;
COMMENT ON FUNCTION coupon_internal.lock_customer(text) IS 'Holds a customer''s row until the transaction ends, or makes it; false where another transaction decides about the customer. Waits no longer than a millisecond';

CREATE FUNCTION coupon_internal.claim_decision(name text, session text, customer text, issued boolean,
    prepaid boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    busy text;
    at timestamptz := coupon.clock();
BEGIN
    -- Before the campaign is read, and whether or not it has a budget: whoever gives it one counts the coupons that are
    -- out, and must not miss this one.
    IF NOT coupon_internal.try_lock_mutex('campaign ' || name, false) THEN
        RETURN 'busy: campaign';
    END IF;
    PERFORM coupon_internal.ensure_budget_visible(name);
    SELECT x.per_customer, x.cool_down, num_nonnulls(x.budget, x.budget_day, x.coupons, x.coupons_day) > 0 AS bounded,
        EXISTS (SELECT FROM coupon.coupon y WHERE y.session = claim_decision.session AND y.closed_at IS NULL) AS has_one
    INTO c FROM coupon.campaign x WHERE x.campaign = name;
    IF customer IS NOT NULL THEN
        -- Whoever has this row decides about the customer; nobody else waits for it, or for the customer's others.
        IF NOT coupon_internal.lock_customer(customer) THEN
            RETURN 'busy: customer';
        END IF;
        SELECT CASE WHEN bool_or(h.campaign = name AND h.decisions >= c.per_customer) THEN 'per_customer'
            WHEN bool_or(h.last_at + c.cool_down > at) THEN 'cool_down' END
        INTO busy FROM coupon.customer_limit h WHERE h.customer = claim_decision.customer;
        IF busy IS NOT NULL THEN
            RETURN busy;
        END IF;
    END IF;
    IF c.has_one THEN
        busy := coupon_internal.close_expired_coupon(session);
        IF busy IS NOT NULL THEN
            RETURN busy;
        END IF;
    END IF;
    IF c.bounded AND NOT prepaid AND NOT coupon_internal.claim_budget(name, issued) THEN
        PERFORM coupon_internal.expire_coupons(name, 100);
        IF NOT coupon_internal.claim_budget(name, issued) THEN
            RETURN 'busy: budget';
        END IF;
    END IF;
    IF customer IS NOT NULL THEN
        INSERT INTO coupon.customer_limit AS h (campaign, customer, decisions, last_at)
        VALUES ('', claim_decision.customer, 1, at), (name, claim_decision.customer, 1, at)
        ON CONFLICT ON CONSTRAINT customer_limit_pkey DO UPDATE SET decisions = h.decisions + 1, last_at = at;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.claim_decision(text, text, text, boolean, boolean) IS 'Takes what a decision needs: the customer''s turn and, if issued and not prepaid, the budget; NULL, or what other transactions hold. Never waits';
