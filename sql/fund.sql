-- fund: a campaign's buckets follow its budgets. How they are kept stands in budget.sql.
CREATE FUNCTION coupon_internal.check_committed_budget(name text, unit text, day date, granted numeric, used numeric) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF used > granted THEN
        RAISE EXCEPTION 'campaign "%" has committed more than that already', name
            USING ERRCODE = 'check_violation',
                DETAIL = format('%s %s %s: spent, or held for coupons that are out.', trim_scale(used),
                    CASE unit WHEN 'money' THEN (SELECT c.currency FROM coupon.campaign c WHERE c.campaign = name) ELSE unit END,
                    CASE day WHEN '-infinity' THEN 'in all' ELSE 'on ' || day END),
                HINT = CASE unit WHEN 'money' THEN 'What is held comes back as coupons expire (coupon.maintain); pause the campaign meanwhile.'
                    ELSE 'Pause the campaign to issue no more.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_committed_budget(text, text, date, numeric, numeric) IS 'Refuses a budget below what is spent or held';

CREATE FUNCTION coupon_internal.check_bounded_budget(name text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM coupon.coupon c WHERE c.campaign = name AND c.closed_at IS NULL
            AND coupon_internal.compute_worst_case(c.discount, c.unit, c.max_discount) IS NULL) THEN
        RAISE EXCEPTION 'campaign "%" has coupons out that nothing bounds', name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                DETAIL = 'They were issued in percent without a max_discount, so no money can be held for them.',
                HINT = 'Pause the campaign and set the budget when they are redeemed or expired.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_bounded_budget(text) IS 'Refuses a money budget while coupons are out that no money can be held for';

CREATE FUNCTION coupon_internal.refill_budget(name text, unit text, day date, granted numeric, patient boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    used numeric;
    ids bigint[];
    seen bigint[];
BEGIN
    -- Who has an older snapshot does not see the buckets, and fails here instead of filling them once more.
    INSERT INTO coupon.budget_bucket (campaign, unit, day, amount, is_marker, granted) VALUES (name, refill_budget.unit, refill_budget.day, 0, true, refill_budget.granted)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Money that came back while there was no budget is counted with the coupons it came from. Both are read by one
    -- snapshot, in which no bucket is changing: what comes back later is put into a bucket that it does not show.
    LOOP
        IF patient THEN
            ids := ARRAY(SELECT p.id FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = refill_budget.unit AND p.day = refill_budget.day
                AND NOT p.is_marker ORDER BY p.id FOR UPDATE);
        ELSE
            ids := ARRAY(SELECT p.id FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = refill_budget.unit AND p.day = refill_budget.day
                AND NOT p.is_marker ORDER BY p.id FOR UPDATE SKIP LOCKED);
        END IF;
        SELECT coupon_internal.sum_committed(name, refill_budget.unit, refill_budget.day), ARRAY(SELECT p.id FROM coupon.budget_bucket p
            WHERE p.campaign = name AND p.unit = refill_budget.unit AND p.day = refill_budget.day AND NOT p.is_marker) INTO used, seen;
        EXIT WHEN seen <@ ids;
        IF NOT patient THEN
            RAISE lock_not_available;
        END IF;
    END LOOP;
    IF NOT patient AND used > granted THEN
        RAISE lock_not_available;
    END IF;
    PERFORM coupon_internal.check_committed_budget(name, refill_budget.unit, refill_budget.day, refill_budget.granted, used);
    DELETE FROM coupon.budget_bucket p WHERE p.id = ANY (ids);
    SELECT * INTO c FROM coupon.campaign x WHERE x.campaign = name;
    PERFORM coupon_internal.fill_buckets(name, refill_budget.unit, refill_budget.day, granted - used,
        CASE refill_budget.unit WHEN 'money' THEN coupon_internal.compute_worst_case(c.discount, c.unit, c.max_discount) ELSE 1 END,
        coupon_internal.get_minor_units(c.currency));
    RETURN true;
END
$$;
COMMENT ON FUNCTION coupon_internal.refill_budget(text, text, date, numeric, boolean) IS 'Fills a budget''s buckets with what is not committed; false where they are filled. The caller holds the campaign''s lock alone, or opens a day; one who is not patient fails with 55P03 instead of waiting';

CREATE FUNCTION coupon_internal.adjust_budget(name text, unit text, day date, granted numeric) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    was numeric;
    free numeric;
    waited boolean;
BEGIN
    SELECT p.granted INTO was FROM coupon.budget_bucket p
    WHERE p.campaign = name AND p.unit = adjust_budget.unit AND p.day = adjust_budget.day AND p.is_marker;
    IF was IS NULL THEN
        -- Coupons that are being issued are waited for: they are counted, or see the budget.
        PERFORM coupon_internal.lock_mutex('campaign ' || name);
        IF adjust_budget.unit = 'money' THEN
            PERFORM coupon_internal.check_bounded_budget(name);
        END IF;
        IF coupon_internal.refill_budget(name, adjust_budget.unit, adjust_budget.day, adjust_budget.granted, true) THEN
            RETURN;
        END IF;
        SELECT p.granted INTO was FROM coupon.budget_bucket p
        WHERE p.campaign = name AND p.unit = adjust_budget.unit AND p.day = adjust_budget.day AND p.is_marker;
    END IF;
    IF was = adjust_budget.granted THEN
        RETURN;
    END IF;
    UPDATE coupon.budget_bucket p SET granted = adjust_budget.granted
    WHERE p.campaign = name AND p.unit = adjust_budget.unit AND p.day = adjust_budget.day AND p.is_marker;
    free := coalesce(coupon_internal.collect_buckets(name, adjust_budget.unit, adjust_budget.day), 0);
    -- Nobody waits for a bucket but who lowers a budget, so nobody waits for him in turn.
    WHILE free < was - adjust_budget.granted LOOP
        PERFORM FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = adjust_budget.unit AND p.day = adjust_budget.day AND NOT p.is_marker
        ORDER BY p.id LIMIT 1 FOR UPDATE;
        waited := FOUND;
        free := free + coalesce(coupon_internal.collect_buckets(name, adjust_budget.unit, adjust_budget.day), 0);
        EXIT WHEN NOT waited;
    END LOOP;
    IF free < was - adjust_budget.granted THEN
        PERFORM coupon_internal.check_committed_budget(name, adjust_budget.unit, adjust_budget.day, adjust_budget.granted, was - free);
    END IF;
    SELECT * INTO c FROM coupon.campaign x WHERE x.campaign = name;
    PERFORM coupon_internal.fill_buckets(name, adjust_budget.unit, adjust_budget.day, free + adjust_budget.granted - was,
        CASE adjust_budget.unit WHEN 'money' THEN coupon_internal.compute_worst_case(c.discount, c.unit, c.max_discount) ELSE 1 END,
        coupon_internal.get_minor_units(c.currency));
END
$$;
COMMENT ON FUNCTION coupon_internal.adjust_budget(text, text, date, numeric) IS 'Gives the difference to a budget''s buckets or takes it from them; fills them where there are none';

CREATE FUNCTION coupon_internal.remove_budget(name text, unit text, total boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = remove_budget.unit
            AND (p.day = '-infinity') = total) THEN
        -- Or one who read the budget before it went could open a day of it after.
        PERFORM coupon_internal.lock_mutex('campaign ' || name);
        DELETE FROM coupon.budget_bucket p WHERE p.campaign = name AND p.unit = remove_budget.unit AND (p.day = '-infinity') = total;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.remove_budget(text, text, boolean) IS 'Removes the buckets of a budget that is no longer there, or of all its days: a day that is over bounds nothing then, so that a cancelled order''s coupon lives again';

CREATE FUNCTION coupon_internal.fund_campaign() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM coupon.budget_bucket p WHERE p.campaign = OLD.campaign;
        DELETE FROM coupon.mutex m WHERE m.name = 'campaign ' || OLD.campaign;
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO coupon.mutex VALUES ('campaign ' || NEW.campaign) ON CONFLICT DO NOTHING;
    ELSIF (NEW.budget, NEW.budget_day, NEW.coupons, NEW.coupons_day)
        IS NOT DISTINCT FROM (OLD.budget, OLD.budget_day, OLD.coupons, OLD.coupons_day) THEN
        RETURN NULL;
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        -- Under another level the coupons issued meanwhile would not be seen.
        RAISE EXCEPTION 'a budget is changed in READ COMMITTED only' USING ERRCODE = 'active_sql_transaction';
    ELSIF coalesce(OLD.budget, OLD.budget_day) IS NULL AND coalesce(NEW.budget, NEW.budget_day) IS NOT NULL THEN
        PERFORM coupon_internal.check_bounded_budget(NEW.campaign);
    END IF;
    FOR b IN SELECT * FROM (VALUES ('money', '-infinity'::date, NEW.budget),
            ('coupons', '-infinity', NEW.coupons::numeric), ('money', coupon_internal.get_budget_date(NEW.time_zone), NEW.budget_day),
            ('coupons', coupon_internal.get_budget_date(NEW.time_zone), NEW.coupons_day::numeric)) v(unit, day, granted)
        WHERE v.granted IS NOT NULL
    LOOP
        IF TG_OP = 'INSERT' THEN
            PERFORM coupon_internal.adjust_budget(NEW.campaign, b.unit, b.day, b.granted);
        ELSE
            -- What cannot be is said at once; what is, is settled when the transaction commits.
            PERFORM coupon_internal.check_committed_budget(NEW.campaign, b.unit, b.day, b.granted,
                coupon_internal.sum_committed(NEW.campaign, b.unit, b.day));
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.fund_campaign() IS 'Trigger: fills the buckets of a new campaign, and refuses a change of its budgets that cannot be';

CREATE FUNCTION coupon_internal.settle_budget() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    b record;
BEGIN
    IF OLD.campaign <> NEW.campaign AND NOT EXISTS (SELECT FROM coupon.campaign x WHERE x.campaign = OLD.campaign) THEN
        DELETE FROM coupon.budget_bucket p WHERE p.campaign = OLD.campaign;
        DELETE FROM coupon.mutex m WHERE m.name = 'campaign ' || OLD.campaign;
    END IF;
    -- As the transaction leaves it, however often it was changed.
    SELECT x.*, coupon_internal.get_budget_date(x.time_zone) AS today INTO c FROM coupon.campaign x WHERE x.campaign = NEW.campaign;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOR b IN SELECT * FROM (VALUES ('money', true, c.budget), ('coupons', true, c.coupons::numeric),
            ('money', false, c.budget_day), ('coupons', false, c.coupons_day::numeric)) v(unit, total, granted)
    LOOP
        IF b.granted IS NULL THEN
            PERFORM coupon_internal.remove_budget(c.campaign, b.unit, b.total);
        ELSIF b.total THEN
            PERFORM coupon_internal.adjust_budget(c.campaign, b.unit, '-infinity', b.granted);
        ELSE
            -- Today, opened by us or another; and days after it, which others may have opened while this waited.
            PERFORM coupon_internal.adjust_budget(c.campaign, b.unit, c.today, b.granted);
            PERFORM coupon_internal.adjust_budget(c.campaign, b.unit, p.day, b.granted) FROM coupon.budget_bucket p
            WHERE p.campaign = c.campaign AND p.unit = b.unit AND p.is_marker AND p.day > c.today;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon_internal.settle_budget() IS 'Trigger, when a transaction commits: a campaign''s buckets follow its budgets';
