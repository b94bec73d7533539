-- budget: money and coupons that a campaign may still give, kept in buckets so that coupons can be issued side by side.
--
-- What is left of a budget is the sum of its buckets. Issuing takes from one that nobody holds, so two transactions wait for
-- each other only where none is large enough; what was not used is put into any bucket, or into a new one. At every instant
-- granted = available + reserved_amount + spent.
--
-- A budget that changes gives the difference to its buckets or takes it from them, when the marketer commits: until then he
-- keeps nobody waiting. Only one that was not there before is filled by what is committed, and must miss no coupon: issuing
-- shares the row 'campaign …' of coupon.mutex, and whoever sets a budget holds it alone. Not the campaign's own row: on one
-- that was updated twice in an open transaction, FOR KEY SHARE SKIP LOCKED waits.
--
-- A body that begins with BEGIN ATOMIC was looked up when it was made, so no search_path of its caller's reaches it. Without
-- one of its own PostgreSQL puts it into the caller's expression, where it would else plan it anew in every transaction
-- (15 to 60 µs each, ten times a decision).
CREATE FUNCTION coupon_internal.get_minor_units(currency text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- ISO 4217's minor units; currencies that are not named have two. A constant, because a function that reads a
    -- table is not put into its caller's expression.
    SELECT coalesce(('{
        "BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0,
        "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
        "BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
        "CLF": 4, "UYW": 4
    }'::pg_catalog.jsonb OPERATOR(pg_catalog.->>) currency)::pg_catalog.int4, 2);
END;
COMMENT ON FUNCTION coupon_internal.get_minor_units(text) IS 'Decimals of a currency''s amounts (ISO 4217)';

CREATE FUNCTION coupon_internal.fill_buckets(campaign text, unit text, day date, amount numeric, largest numeric, decimals int)
    RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- None smaller than what one coupon takes; the first has what the division leaves.
    n int := greatest(1, least(32, floor(amount / largest)));
    size numeric := trunc(amount / n, CASE unit WHEN 'coupons' THEN 0 ELSE decimals END);
BEGIN
    INSERT INTO coupon.budget_bucket (campaign, unit, day, amount)
    SELECT fill_buckets.campaign, fill_buckets.unit, fill_buckets.day, CASE i WHEN 1 THEN fill_buckets.amount - size * (n - 1) ELSE size END
    FROM generate_series(1, n) i;
END
$$;
COMMENT ON FUNCTION coupon_internal.fill_buckets(text, text, date, numeric, numeric, int) IS 'Fills buckets with an amount';

CREATE FUNCTION coupon_internal.return_amount(campaign text, unit text, day date, amount numeric) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE coupon.budget_bucket p SET amount = p.amount + return_amount.amount WHERE p.id = (
        SELECT x.id FROM coupon.budget_bucket x
        WHERE x.campaign = return_amount.campaign AND x.unit = return_amount.unit AND x.day = return_amount.day AND NOT x.is_marker
        ORDER BY x.id LIMIT 1 FOR UPDATE SKIP LOCKED);
    IF NOT FOUND THEN
        INSERT INTO coupon.budget_bucket (campaign, unit, day, amount) VALUES (return_amount.campaign, return_amount.unit, return_amount.day, return_amount.amount);
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.return_amount(text, text, date, numeric) IS 'Puts back what was not used; never waits';

CREATE FUNCTION coupon_internal.collect_buckets(campaign text, unit text, day date, OUT amount numeric)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH free AS (
        SELECT x.id FROM coupon.budget_bucket x WHERE x.campaign = collect_buckets.campaign AND x.unit = collect_buckets.unit AND x.day = collect_buckets.day
            AND NOT x.is_marker
        FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM coupon.budget_bucket p USING free WHERE p.id = free.id RETURNING p.amount AS n)
    SELECT sum(gone.n) INTO amount FROM gone;
END
$$;
COMMENT ON FUNCTION coupon_internal.collect_buckets(text, text, date) IS 'Empties the buckets of a budget that nobody holds; NULL where there is none. Never waits';

CREATE FUNCTION coupon_internal.take_amount(campaign text, unit text, day date, need numeric, decimals int, really boolean)
    RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rest numeric;
BEGIN
    -- In one order: a transaction that issues many coupons keeps to one bucket, and does not go round locking all of them.
    UPDATE coupon.budget_bucket p SET amount = p.amount - CASE WHEN really THEN need ELSE 0 END WHERE p.id = (
        SELECT x.id FROM coupon.budget_bucket x WHERE x.campaign = take_amount.campaign AND x.unit = take_amount.unit AND x.day = take_amount.day
            AND x.amount >= need ORDER BY x.id LIMIT 1 FOR UPDATE SKIP LOCKED);
    IF FOUND THEN
        RETURN true;
    END IF;
    -- None that is free is large enough: all that are free are joined, and shared out anew.
    rest := coupon_internal.collect_buckets(campaign, unit, day);
    IF rest IS NULL THEN
        RETURN false;
    END IF;
    PERFORM coupon_internal.fill_buckets(campaign, unit, day, CASE WHEN really AND rest >= need THEN rest - need ELSE rest END,
        greatest(need, 1), decimals);
    RETURN rest >= need;
END
$$;
COMMENT ON FUNCTION coupon_internal.take_amount(text, text, date, numeric, int, boolean) IS 'Takes an amount out of a budget, or only looks whether it could; never waits: what other transactions hold counts as gone';

CREATE FUNCTION coupon_internal.get_budget_date(time_zone text) RETURNS date
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pg_catalog.timezone(time_zone, coupon.clock())::pg_catalog.date;
END;
COMMENT ON FUNCTION coupon_internal.get_budget_date(text) IS 'Today on the clock of coupons, in a time zone';

CREATE FUNCTION coupon_internal.compute_worst_case(discount numeric, unit text, max_discount numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN unit OPERATOR(pg_catalog.=) 'money' THEN least(discount, max_discount) ELSE max_discount END;
END;
COMMENT ON FUNCTION coupon_internal.compute_worst_case(numeric, text, numeric) IS 'The most a coupon can take off; NULL where nothing bounds it';

CREATE FUNCTION coupon_internal.sum_committed(campaign text, unit text, day date) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(sum(CASE sum_committed.unit WHEN 'coupons' THEN 1 ELSE coalesce(c.reserved_amount, 0)
            + CASE c.state WHEN 'redeemed' THEN c.discount_amount ELSE 0 END END), 0)
        + (SELECT coalesce(sum(CASE sum_committed.unit WHEN 'coupons' THEN t.issued ELSE t.spent END), 0) FROM coupon.archived_total t
           WHERE t.campaign = sum_committed.campaign AND (sum_committed.day = '-infinity' OR t.day = sum_committed.day))
    FROM coupon.coupon c
    WHERE c.campaign = sum_committed.campaign AND (sum_committed.day = '-infinity' OR c.budget_day = sum_committed.day));
END
$$;
COMMENT ON FUNCTION coupon_internal.sum_committed(text, text, date) IS 'The part of a budget that is spent, or reserved for coupons that are out';

CREATE FUNCTION coupon_internal.sum_available(campaign text, unit text, day date) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Money that came back where there is no budget bounds nothing.
    RETURN (SELECT sum(p.amount) FROM coupon.budget_bucket p
        WHERE p.campaign = sum_available.campaign AND p.unit = sum_available.unit AND p.day = sum_available.day HAVING bool_or(p.is_marker));
END
$$;
COMMENT ON FUNCTION coupon_internal.sum_available(text, text, date) IS 'What is left of a budget; NULL where there is none, and for a day that nothing was issued on yet';

CREATE FUNCTION coupon_internal.claim_budget(name text, really boolean, n int DEFAULT 1) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    units text[] := '{money,money,coupons,coupons}';
    days date[];
    needs numeric[];
    taken int[];
    enough boolean;
    i int;
BEGIN
    -- All budgets at once, each from the first free bucket that is large enough: nearly always there is one. The first, so
    -- that a transaction that issues many coupons keeps to one bucket, and does not go round locking all of them.
    WITH found AS MATERIALIZED (
        SELECT b.scope, b.need, p.id
        FROM (SELECT x.*, coupon_internal.get_budget_date(x.time_zone) AS today,
                coupon_internal.compute_worst_case(x.discount, x.unit, x.max_discount) * claim_budget.n AS worst
            FROM coupon.campaign x WHERE x.campaign = name) k,
            LATERAL (VALUES (1, k.budget, 'money', '-infinity'::date, k.worst), (2, k.budget_day, 'money', k.today, k.worst),
                (3, k.coupons, 'coupons', '-infinity', claim_budget.n), (4, k.coupons_day, 'coupons', k.today, claim_budget.n))
                b(scope, granted, unit, day, need)
            LEFT JOIN LATERAL (SELECT y.id FROM coupon.budget_bucket y WHERE y.campaign = name AND y.unit = b.unit
                AND y.day = b.day AND y.amount >= b.need ORDER BY y.id LIMIT 1 FOR UPDATE SKIP LOCKED) p ON true
        WHERE b.granted IS NOT NULL),
        gone AS (UPDATE coupon.budget_bucket p SET amount = p.amount - f.need FROM found f WHERE p.id = f.id AND really)
    SELECT coalesce(array_agg(f.scope) FILTER (WHERE f.id IS NOT NULL), '{}'), coalesce(bool_and(f.id IS NOT NULL), true)
    INTO taken, enough FROM found f;
    IF enough THEN
        RETURN true;
    END IF;
    -- Others hold what is free, or it has to be joined, or the day's buckets are not filled yet.
    SELECT x.*, coupon_internal.get_budget_date(x.time_zone) AS today, coupon_internal.compute_worst_case(x.discount, x.unit, x.max_discount) * claim_budget.n AS worst
    INTO c FROM coupon.campaign x WHERE x.campaign = name;
    days := ARRAY['-infinity', c.today, '-infinity', c.today];
    needs := ARRAY[CASE WHEN c.budget IS NOT NULL THEN c.worst END, CASE WHEN c.budget_day IS NOT NULL THEN c.worst END,
        CASE WHEN c.coupons IS NOT NULL THEN claim_budget.n END, CASE WHEN c.coupons_day IS NOT NULL THEN claim_budget.n END];
    enough := coupon_internal.open_budget_day(name, c.today, c.coupons_day, c.budget_day);
    FOR i IN 1 .. 4 LOOP
        EXIT WHEN NOT enough;
        CONTINUE WHEN needs[i] IS NULL OR i = ANY (taken);
        enough := coupon_internal.take_amount(name, units[i], days[i], needs[i], coupon_internal.get_minor_units(c.currency), really);
        taken := CASE WHEN enough THEN taken || i ELSE taken END;
    END LOOP;
    IF really AND NOT enough THEN
        FOREACH i IN ARRAY taken LOOP
            PERFORM coupon_internal.return_amount(name, units[i], days[i], needs[i]);
        END LOOP;
    END IF;
    RETURN enough;
END
$$;
COMMENT ON FUNCTION coupon_internal.claim_budget(text, boolean, int) IS 'Takes n coupons and their worst case out of all budgets of a campaign, or only looks whether it could; never waits. The caller shares the campaign''s lock';

CREATE FUNCTION coupon_internal.return_budget(name text, n int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF n > 0 THEN
        PERFORM coupon_internal.return_amount(name, b.unit, b.day, b.amount)
        FROM (SELECT x.*, coupon_internal.get_budget_date(x.time_zone) AS today,
                coupon_internal.compute_worst_case(x.discount, x.unit, x.max_discount) * n AS worst
            FROM coupon.campaign x WHERE x.campaign = name) k,
            LATERAL (VALUES (k.budget, 'money', '-infinity'::date, k.worst), (k.budget_day, 'money', k.today, k.worst),
                (k.coupons, 'coupons', '-infinity', n), (k.coupons_day, 'coupons', k.today, n)) b(granted, unit, day, amount)
        WHERE b.granted IS NOT NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.return_budget(text, int) IS 'Gives back what coupon_internal.claim_budget() took in the same transaction for n coupons that were not issued; never waits';

-- A transaction that takes coupon after coupon from one bucket leaves as many dead versions of its row, and walks all of them at
-- each look-up: 8,000 coupons in one statement took twice as long each as 2,000.
CREATE FUNCTION coupon_internal.prepay_budget(name text, n int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT coupon_internal.try_lock_mutex('campaign ' || name, false) THEN
        RETURN false;
    END IF;
    PERFORM coupon_internal.ensure_budget_visible(name);
    -- One more, which is given back: what a rule looks for must be there still. Not by joining buckets, which others use too.
    IF (SELECT count(*) > 0 AND bool_and(NOT k.paced AND EXISTS (SELECT FROM coupon.budget_bucket p WHERE p.campaign = name
                AND p.unit = b.unit AND p.day = b.day AND p.amount >= b.need * (n + 1)))
            FROM (SELECT x.*, coupon_internal.get_budget_date(x.time_zone) AS today,
                    coupon_internal.compute_worst_case(x.discount, x.unit, x.max_discount) AS worst
                FROM coupon.campaign x WHERE x.campaign = name) k,
                LATERAL (VALUES (k.budget, 'money', '-infinity'::date, k.worst), (k.budget_day, 'money', k.today, k.worst),
                    (k.coupons, 'coupons', '-infinity', 1), (k.coupons_day, 'coupons', k.today, 1)) b(granted, unit, day, need)
            WHERE b.granted IS NOT NULL)
        AND coupon_internal.claim_budget(name, true, n + 1)
    THEN
        PERFORM coupon_internal.return_budget(name, 1);
        RETURN true;
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION coupon_internal.prepay_budget(text, int) IS 'Takes the budget of n coupons at once, for a statement that may issue as many; coupon_internal.return_budget() gives back what was not used. False where it is not to be had so, or nothing bounds the campaign';

CREATE FUNCTION coupon_internal.open_budget_day(name text, today date, coupons_day numeric, budget_day numeric) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := current_setting('lock_timeout');
    scope record;
BEGIN
    FOR scope IN SELECT * FROM (VALUES (coupons_day, 'coupons'), (budget_day, 'money')) s(granted, unit)
        WHERE granted IS NOT NULL AND NOT EXISTS (
            SELECT FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = s.unit AND p.day = today AND p.is_marker)
    LOOP
        BEGIN
            -- One opens the day; for the others it has not begun yet.
            PERFORM set_config('lock_timeout', '1ms', true);
            PERFORM coupon_internal.refill_budget(name, scope.unit, today, scope.granted, false);
            PERFORM set_config('lock_timeout', own, true);
        EXCEPTION WHEN lock_not_available THEN
            RETURN false;
        END;
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION coupon_internal.open_budget_day(text, date, numeric, numeric) IS 'Fills the buckets of a new day; false while another transaction is at it, which is waited for no longer than a millisecond';

CREATE FUNCTION coupon_internal.ensure_budget_visible(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Under the two upper levels a budget that was set since the snapshot is not seen; this fails then, with 40001. A row
    -- that is just being changed is passed by: under the lock that we share, no budget can be set where there was none.
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM FROM coupon.campaign c WHERE c.campaign = name FOR SHARE SKIP LOCKED;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.ensure_budget_visible(text) IS 'Makes sure that the transaction sees a campaign''s budget as it is; the caller shares the campaign''s lock';

CREATE FUNCTION coupon_internal.return_reserved_amount(name text, day date, amount numeric) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    scope date;
    known boolean;
BEGIN
    IF amount IS NULL OR amount = 0 THEN
        RETURN;
    END IF;
    -- A day that is over takes back what was its own, too. Where there is no budget nothing comes back, unless one is just
    -- being set, or was since the snapshot: that one has counted the coupon as it was.
    FOREACH scope IN ARRAY array_remove(ARRAY['-infinity', day], NULL) LOOP
        known := coupon_internal.sum_available(name, 'money', scope) IS NOT NULL
            OR current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
        IF NOT known THEN
            known := NOT coupon_internal.try_lock_mutex('campaign ' || name, false);
        END IF;
        IF known OR coupon_internal.sum_available(name, 'money', scope) IS NOT NULL THEN
            PERFORM coupon_internal.return_amount(name, 'money', scope, amount);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.return_reserved_amount(text, date, numeric) IS 'Money that was held for a coupon comes back to its campaign and its day; never waits';

CREATE FUNCTION coupon_internal.expire_coupons(name text, most int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    closed bigint := 0;
    back record;
BEGIN
    FOR back IN
        WITH due AS MATERIALIZED (
            SELECT x.session, x.id, x.reserved_amount FROM coupon.coupon x
            WHERE x.closed_at IS NULL AND x.expires_at <= coupon.clock() AND (name IS NULL OR x.campaign = name)
                AND NOT (x.state = 'reserved' AND x.reserved_until > coupon.clock())
            ORDER BY x.expires_at LIMIT most FOR UPDATE SKIP LOCKED),
        gone AS (
            UPDATE coupon.coupon c SET closed_at = c.expires_at, state = 'expired',
                reserved_amount = CASE WHEN c.reserved_amount IS NOT NULL THEN 0 END
            FROM due WHERE c.session = due.session AND c.id = due.id
            RETURNING c.campaign, c.budget_day, due.reserved_amount)
        SELECT campaign, budget_day, sum(reserved_amount) AS reserved_amount, count(*) AS n FROM gone GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        closed := closed + back.n;
        PERFORM coupon_internal.return_reserved_amount(back.campaign, back.budget_day, back.reserved_amount);
    END LOOP;
    RETURN closed;
END
$$;
COMMENT ON FUNCTION coupon_internal.expire_coupons(text, int) IS 'Closes expired coupons of a campaign, or of all, and gives back what was held for them; passes by those that are locked';
