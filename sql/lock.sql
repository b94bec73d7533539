-- lock: who goes first. A lock is a row of a table of ours, so that a role without rights on our tables cannot take it.
--
-- Clicks and checkouts never queue for one: they take it if it is free, or look again until their time is over. Whoever
-- queues can be the victim of a deadlock, and the victim would be the shop's statement.
CREATE FUNCTION coupon_internal.try_lock_mutex(name text, alone boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := current_setting('lock_timeout');
BEGIN
    IF alone THEN
        PERFORM FROM coupon.mutex m WHERE m.name = try_lock_mutex.name FOR NO KEY UPDATE SKIP LOCKED;
    ELSE
        PERFORM FROM coupon.mutex m WHERE m.name = try_lock_mutex.name FOR SHARE SKIP LOCKED;
    END IF;
    IF FOUND THEN
        RETURN true;
    ELSIF EXISTS (SELECT FROM coupon.mutex m WHERE m.name = try_lock_mutex.name) THEN
        RETURN false;
    END IF;
    -- Somebody emptied the table. The row stays locked by having been made.
    BEGIN
        PERFORM set_config('lock_timeout', '1ms', true);
        INSERT INTO coupon.mutex VALUES (try_lock_mutex.name);
        PERFORM set_config('lock_timeout', own, true);
        RETURN true;
    EXCEPTION WHEN lock_not_available OR unique_violation THEN
        RETURN false;
    END;
END
$$;
COMMENT ON FUNCTION coupon_internal.try_lock_mutex(text, boolean) IS 'Holds a row of coupon.mutex until the transaction ends, alone or with others who share it; false where it is not free. Never waits';

CREATE FUNCTION coupon_internal.get_redeem_wait() RETURNS int
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'get_redeem_wait_wrapper';
COMMENT ON FUNCTION coupon_internal.get_redeem_wait() IS 'Milliseconds that a checkout looks again for a coupon or an order that another transaction holds: coupon_ext.redeem_wait, below half of deadlock_timeout';

CREATE FUNCTION coupon_internal.wait_until(deadline timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF clock_timestamp() >= deadline THEN
        RETURN false;
    END IF;
    PERFORM pg_sleep(0.002);
    RETURN true;
END
$$;
COMMENT ON FUNCTION coupon_internal.wait_until(timestamptz) IS 'Sleeps two milliseconds; false once the time is over';

CREATE FUNCTION coupon_internal.lock_coupon(of text, key uuid, deadline timestamptz, unless_redeemed boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOOP
        PERFORM FROM coupon.coupon c WHERE c.session = of AND c.id = key FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            RETURN true;
        ELSIF NOT EXISTS (SELECT FROM coupon.coupon c WHERE c.session = of AND c.id = key) THEN
            RETURN NULL;
        ELSIF unless_redeemed AND EXISTS (SELECT FROM coupon.coupon c WHERE c.session = of AND c.id = key AND c.state = 'redeemed') THEN
            RETURN false;
        ELSIF NOT coupon_internal.wait_until(deadline) THEN
            RETURN false;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.lock_coupon(text, uuid, timestamptz, boolean) IS 'Locks a coupon; false where another transaction holds it for longer, or where it is redeemed and that is not waited for; NULL where it is gone';

CREATE FUNCTION coupon_internal.lock_order(of text, deadline timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := current_setting('lock_timeout');
BEGIN
    LOOP
        PERFORM FROM coupon.order_discount o WHERE o.order_id = of FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            RETURN true;
        END IF;
        IF NOT EXISTS (SELECT FROM coupon.order_discount o WHERE o.order_id = of) THEN
            BEGIN
                -- It may meet the row of a transaction that has not ended.
                PERFORM set_config('lock_timeout', '1ms', true);
                INSERT INTO coupon.order_discount (order_id) VALUES (of);
                PERFORM set_config('lock_timeout', own, true);
                RETURN true;
            EXCEPTION WHEN lock_not_available OR unique_violation THEN
                NULL;
            END;
        END IF;
        IF NOT coupon_internal.wait_until(deadline) THEN
            RETURN false;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.lock_order(text, timestamptz) IS 'Locks an order''s row, and makes it where there is none; false where another transaction holds it for longer';

CREATE FUNCTION coupon_internal.remove_empty_order(of text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM coupon.order_discount o WHERE o.order_id = of AND o.discount = 0 AND NOT EXISTS (
        SELECT FROM coupon.coupon c WHERE c.order_id = of AND (c.state = 'redeemed' OR c.state = 'reserved' AND c.closed_at IS NULL));
END
$$;
COMMENT ON FUNCTION coupon_internal.remove_empty_order(text) IS 'Removes an order''s row where no coupon is taken for it; the caller has locked it';

CREATE FUNCTION coupon_internal.compute_order_rest(of text, amount numeric, session text, id uuid) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN amount - (SELECT o.discount FROM coupon.order_discount o WHERE o.order_id = of)
        - (SELECT coalesce(sum(c.promised), 0) FROM coupon.coupon c WHERE c.order_id = of AND c.state = 'reserved'
            AND c.closed_at IS NULL AND c.reserved_until > coupon.clock() AND (c.session, c.id) <> (compute_order_rest.session, compute_order_rest.id));
END
$$;
COMMENT ON FUNCTION coupon_internal.compute_order_rest(text, numeric, text, uuid) IS 'What other coupons, redeemed or reserved, leave of an order''s amount; NULL while the amount is not known';
