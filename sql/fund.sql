-- fund: a campaign's purses follow its budgets. How they are kept stands in budget.sql.
CREATE FUNCTION coupon.check_committed(name text, unit text, day date, granted numeric, used numeric) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF used > granted THEN
        RAISE EXCEPTION 'campaign "%" has committed more than that already', name
            USING ERRCODE = 'check_violation',
                DETAIL = format('%s %s %s: spent, or held for coupons that are out.', trim_scale(used),
                    CASE unit WHEN 'money' THEN (SELECT c.currency FROM coupon.campaign c WHERE c.campaign = name) ELSE unit END,
                    CASE day WHEN '-infinity' THEN 'in all' ELSE 'on ' || day END),
                HINT = CASE unit WHEN 'money' THEN 'What is held comes back as coupons expire (coupon.sweep); pause the campaign meanwhile.'
                    ELSE 'Pause the campaign to issue no more.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.check_committed(text, text, date, numeric, numeric) IS 'Refuses a budget below what is spent or held';

CREATE FUNCTION coupon.check_bounded(name text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM coupon.coupon c WHERE c.campaign = name AND c.closed_at IS NULL
            AND coupon.worst_case(c.discount, c.unit, c.max_discount) IS NULL) THEN
        RAISE EXCEPTION 'campaign "%" has coupons out that nothing bounds', name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                DETAIL = 'They were issued in percent without a max_discount, so no money can be held for them.',
                HINT = 'Pause the campaign and set the budget when they are redeemed or expired.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.check_bounded(text) IS 'Refuses a money budget while coupons are out that no money can be held for';

CREATE FUNCTION coupon.fill(name text, unit text, day date, granted numeric, patient boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    used numeric;
    ids bigint[];
    seen bigint[];
BEGIN
    -- Who has an older snapshot does not see the purses, and fails here instead of filling them once more.
    INSERT INTO coupon.purse (campaign, unit, day, amount, opens, granted) VALUES (name, fill.unit, fill.day, 0, true, fill.granted)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Money that came back while there was no budget is counted with the coupons it came from. Both are read by one
    -- snapshot, in which no purse is changing: what comes back later is put into a purse that it does not show.
    LOOP
        IF patient THEN
            ids := ARRAY(SELECT p.id FROM coupon.purse p WHERE p.campaign = name AND p.unit = fill.unit AND p.day = fill.day
                AND NOT p.opens ORDER BY p.id FOR UPDATE);
        ELSE
            ids := ARRAY(SELECT p.id FROM coupon.purse p WHERE p.campaign = name AND p.unit = fill.unit AND p.day = fill.day
                AND NOT p.opens ORDER BY p.id FOR UPDATE SKIP LOCKED);
        END IF;
        SELECT coupon.committed(name, fill.unit, fill.day), ARRAY(SELECT p.id FROM coupon.purse p
            WHERE p.campaign = name AND p.unit = fill.unit AND p.day = fill.day AND NOT p.opens) INTO used, seen;
        EXIT WHEN seen <@ ids;
        IF NOT patient THEN
            RAISE lock_not_available;
        END IF;
    END LOOP;
    IF NOT patient AND used > granted THEN
        RAISE lock_not_available;
    END IF;
    PERFORM coupon.check_committed(name, fill.unit, fill.day, fill.granted, used);
    DELETE FROM coupon.purse p WHERE p.id = ANY (ids);
    SELECT * INTO c FROM coupon.campaign x WHERE x.campaign = name;
    PERFORM coupon.put(name, fill.unit, fill.day, granted - used,
        CASE fill.unit WHEN 'money' THEN coupon.worst_case(c.discount, c.unit, c.max_discount) ELSE 1 END,
        coupon.minor_units(c.currency));
    RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.fill(text, text, date, numeric, boolean) IS 'Fills a budget''s purses with what is not committed; false where they are filled. The caller holds the campaign''s lock alone, or opens a day; one who is not patient fails with 55P03 instead of waiting';

CREATE FUNCTION coupon.adjust(name text, unit text, day date, granted numeric) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    was numeric;
    free numeric;
    waited boolean;
BEGIN
    SELECT p.granted INTO was FROM coupon.purse p
    WHERE p.campaign = name AND p.unit = adjust.unit AND p.day = adjust.day AND p.opens;
    IF was IS NULL THEN
        -- Coupons that are being issued are waited for: they are counted, or see the budget.
        PERFORM coupon.lock_mutex('campaign ' || name);
        IF adjust.unit = 'money' THEN
            PERFORM coupon.check_bounded(name);
        END IF;
        IF coupon.fill(name, adjust.unit, adjust.day, adjust.granted, true) THEN
            RETURN;
        END IF;
        SELECT p.granted INTO was FROM coupon.purse p
        WHERE p.campaign = name AND p.unit = adjust.unit AND p.day = adjust.day AND p.opens;
    END IF;
    IF was = adjust.granted THEN
        RETURN;
    END IF;
    UPDATE coupon.purse p SET granted = adjust.granted
    WHERE p.campaign = name AND p.unit = adjust.unit AND p.day = adjust.day AND p.opens;
    free := coalesce(coupon.gather(name, adjust.unit, adjust.day), 0);
    -- Nobody waits for a purse but who lowers a budget, so nobody waits for him in turn.
    WHILE free < was - adjust.granted LOOP
        PERFORM FROM coupon.purse p WHERE p.campaign = name AND p.unit = adjust.unit AND p.day = adjust.day AND NOT p.opens
        ORDER BY p.id LIMIT 1 FOR UPDATE;
        waited := FOUND;
        free := free + coalesce(coupon.gather(name, adjust.unit, adjust.day), 0);
        EXIT WHEN NOT waited;
    END LOOP;
    IF free < was - adjust.granted THEN
        PERFORM coupon.check_committed(name, adjust.unit, adjust.day, adjust.granted, was - free);
    END IF;
    SELECT * INTO c FROM coupon.campaign x WHERE x.campaign = name;
    PERFORM coupon.put(name, adjust.unit, adjust.day, free + adjust.granted - was,
        CASE adjust.unit WHEN 'money' THEN coupon.worst_case(c.discount, c.unit, c.max_discount) ELSE 1 END,
        coupon.minor_units(c.currency));
END
$$;
COMMENT ON FUNCTION coupon.adjust(text, text, date, numeric) IS 'Gives the difference to a budget''s purses or takes it from them; fills them where there are none';

CREATE FUNCTION coupon.unbound(name text, unit text, total boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM coupon.purse p WHERE p.campaign = name AND p.unit = unbound.unit
            AND (p.day = '-infinity') = total) THEN
        -- Or one who read the budget before it went could open a day of it after.
        PERFORM coupon.lock_mutex('campaign ' || name);
        DELETE FROM coupon.purse p WHERE p.campaign = name AND p.unit = unbound.unit AND (p.day = '-infinity') = total;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.unbound(text, text, boolean) IS 'Removes the purses of a budget that is no longer there, or of all its days: a day that is over bounds nothing then, so that a cancelled order''s coupon lives again';

CREATE FUNCTION coupon.fund() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM coupon.purse p WHERE p.campaign = OLD.campaign;
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
        PERFORM coupon.check_bounded(NEW.campaign);
    END IF;
    FOR b IN SELECT * FROM (VALUES ('money', '-infinity'::date, NEW.budget),
            ('coupons', '-infinity', NEW.coupons::numeric), ('money', coupon.budget_date(NEW.time_zone), NEW.budget_day),
            ('coupons', coupon.budget_date(NEW.time_zone), NEW.coupons_day::numeric)) v(unit, day, granted)
        WHERE v.granted IS NOT NULL
    LOOP
        IF TG_OP = 'INSERT' THEN
            PERFORM coupon.adjust(NEW.campaign, b.unit, b.day, b.granted);
        ELSE
            -- What cannot be is said at once; what is, is settled when the transaction commits.
            PERFORM coupon.check_committed(NEW.campaign, b.unit, b.day, b.granted,
                coupon.committed(NEW.campaign, b.unit, b.day));
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.fund() IS 'Trigger: fills the purses of a new campaign, and refuses a change of its budgets that cannot be';

CREATE FUNCTION coupon.settle_budget() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    b record;
BEGIN
    IF OLD.campaign <> NEW.campaign AND NOT EXISTS (SELECT FROM coupon.campaign x WHERE x.campaign = OLD.campaign) THEN
        DELETE FROM coupon.purse p WHERE p.campaign = OLD.campaign;
        DELETE FROM coupon.mutex m WHERE m.name = 'campaign ' || OLD.campaign;
    END IF;
    -- As the transaction leaves it, however often it was changed.
    SELECT x.*, coupon.budget_date(x.time_zone) AS today INTO c FROM coupon.campaign x WHERE x.campaign = NEW.campaign;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOR b IN SELECT * FROM (VALUES ('money', true, c.budget), ('coupons', true, c.coupons::numeric),
            ('money', false, c.budget_day), ('coupons', false, c.coupons_day::numeric)) v(unit, total, granted)
    LOOP
        IF b.granted IS NULL THEN
            PERFORM coupon.unbound(c.campaign, b.unit, b.total);
        ELSIF b.total THEN
            PERFORM coupon.adjust(c.campaign, b.unit, '-infinity', b.granted);
        ELSE
            -- Today, opened by us or another; and days after it, which others may have opened while this waited.
            PERFORM coupon.adjust(c.campaign, b.unit, c.today, b.granted);
            PERFORM coupon.adjust(c.campaign, b.unit, p.day, b.granted) FROM coupon.purse p
            WHERE p.campaign = c.campaign AND p.unit = b.unit AND p.opens AND p.day > c.today;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.settle_budget() IS 'Trigger, when a transaction commits: a campaign''s purses follow its budgets';
