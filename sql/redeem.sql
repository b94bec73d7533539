-- redeem: what happens to a coupon after it was issued. A refusal is a value, and every attempt is counted.
CREATE FUNCTION coupon_internal.hash_code(code text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(code, 'UTF8')), 'hex');
END;
COMMENT ON FUNCTION coupon_internal.hash_code(text) IS 'How a normalised code is stored where the campaign hashes them: eighty random bits need no salt';

CREATE FUNCTION coupon_internal.compute_discount(order_amount numeric, discount numeric, unit text, max_discount numeric,
    currency text) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- least() passes over a NULL, and would promise max_discount for an order nobody knows the amount of.
    -- An amount that the currency cannot pay is rounded down, so that it is never more than any of them.
    SELECT CASE WHEN order_amount IS NOT NULL THEN least(
        CASE WHEN unit OPERATOR(pg_catalog.=) 'money' THEN pg_catalog.trunc(discount, coupon_internal.get_minor_units(currency))
        ELSE pg_catalog.round(order_amount OPERATOR(pg_catalog.*) discount OPERATOR(pg_catalog./) 100, coupon_internal.get_minor_units(currency)) END,
        pg_catalog.trunc(max_discount, coupon_internal.get_minor_units(currency)),
        pg_catalog.trunc(order_amount, coupon_internal.get_minor_units(currency))) END;
END;
COMMENT ON FUNCTION coupon_internal.compute_discount(numeric, numeric, text, numeric, text) IS 'What a coupon takes off an order: never more than its max_discount, never more than the order; NULL while its amount is not known';

CREATE FUNCTION coupon_internal.check_presentation(code text, order_id text, order_amount numeric) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF code IS NULL OR order_id IS NULL THEN
        RAISE EXCEPTION 'code and order_id must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF order_id = '' OR octet_length(order_id) > 256 THEN
        RAISE EXCEPTION 'order_id has % bytes', octet_length(order_id) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Pass the shop''s order id, 1 to 256 bytes.';
    END IF;
    IF order_amount < 0 OR order_amount IN ('NaN', 'Infinity') THEN
        RAISE EXCEPTION 'order_amount is %', order_amount USING ERRCODE = 'numeric_value_out_of_range',
            HINT = 'Pass the amount of the order, at least 0.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.check_presentation(text, text, numeric) IS 'Refuses misuse: NULLs, an order without an id, an amount that is none';

CREATE FUNCTION coupon_internal.present_code(action text, code text, order_id text, order_amount numeric, ttl interval, session text,
    customer text) RETURNS coupon.redemption
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at timestamptz := coupon.clock();
    plain text := coupon_internal.normalise_code(code);
    deadline CONSTANT timestamptz := clock_timestamp() + make_interval(secs => coupon_internal.get_redeem_wait() / 1000.0);
    c record;
    now record;
    ours boolean;
    locked boolean := true;
    reserved boolean;
    free numeric;
    answer coupon.redemption;
BEGIN
    IF NOT coupon_internal.is_storage_ready() THEN
        PERFORM coupon_internal.warn_storage();
        RETURN ('refused', 'not valid', NULL)::coupon.redemption;
    END IF;
    SELECT x.session, x.id, x.campaign, x.transferable, x.customer INTO c FROM coupon.coupon x
    WHERE x.code IN (plain, coupon_internal.hash_code(plain));
    -- To a stranger a coupon of others and none look alike.
    IF (c.transferable OR c.session = session OR c.customer = customer) IS NOT TRUE OR coupon_internal.is_blocked(session, customer) THEN
        PERFORM coupon_internal.count_foreign_code(session, customer);
        RETURN coupon_internal.log_attempt(action, coupon_internal.find_session(session), customer, c.id, order_id, order_amount,
            ('refused', 'not valid', NULL)::coupon.redemption);
    END IF;
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = c.session AND x.id = c.id;
    -- In one order for all: the order, the coupon, the buckets. What is redeemed needs no lock to be refused.
    IF c.state <> 'redeemed' THEN
        IF order_id IS NOT NULL THEN
            ours := coupon_internal.lock_order(order_id, deadline);
            locked := ours;
        END IF;
        IF locked THEN
            locked := coupon_internal.lock_coupon(c.session, c.id, deadline, true);
        END IF;
        SELECT x.state, x.order_id, x.discount_amount INTO now FROM coupon.coupon x WHERE x.session = c.session AND x.id = c.id;
    ELSE
        now := c;
    END IF;
    IF now.state = 'redeemed' THEN
        IF ours THEN
            PERFORM coupon_internal.remove_empty_order(order_id);
        END IF;
        RETURN coupon_internal.log_attempt(action, session, customer, c.id, order_id, order_amount,
            -- The same order asking again gets the same answer.
            CASE WHEN now.order_id = present_code.order_id THEN ('redeemed', 'redeemed before', now.discount_amount)::coupon.redemption
            ELSE ('refused', 'already redeemed', NULL)::coupon.redemption END);
    END IF;
    IF c.state IS NULL THEN
        locked := NULL;
    END IF;
    IF locked IS NOT TRUE THEN
        IF ours THEN
            PERFORM coupon_internal.remove_empty_order(order_id);
        END IF;
        -- Erased since it was found, or perhaps being erased, with all that named its session: no id is noted that could
        -- never be found again.
        RETURN coupon_internal.log_attempt(action, NULL, NULL, NULL, NULL, order_amount,
            ('refused', CASE WHEN locked IS NULL THEN 'not valid' ELSE 'busy, try again' END, NULL)::coupon.redemption);
    END IF;
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = c.session AND x.id = c.id;
    reserved := c.state = 'reserved' AND c.reserved_until > at;
    free := coupon_internal.compute_order_rest(order_id, order_amount, c.session, c.id);
    answer := CASE
        WHEN reserved AND c.order_id <> present_code.order_id
            THEN ('refused', 'reserved for another order', NULL)::coupon.redemption
        WHEN c.closed_at IS NOT NULL OR c.expires_at <= at AND NOT reserved
            THEN ('refused', 'expired', NULL)::coupon.redemption
        WHEN order_amount < c.minimum_basket
            THEN ('refused', 'below the minimum basket', NULL)::coupon.redemption
        WHEN order_id IS NOT NULL AND EXISTS (SELECT FROM coupon.coupon o WHERE o.order_id = present_code.order_id
                AND (o.session, o.id) <> (c.session, c.id)
                AND (o.state = 'redeemed' OR o.state = 'reserved' AND o.reserved_until > at)
                AND (o.exclusive OR c.exclusive OR o.stacking_group = c.stacking_group))
            THEN ('refused', 'not with the order''s other coupon', NULL)::coupon.redemption
        WHEN action IN ('reserve', 'redeem') AND order_amount > 0 AND free <= 0
            THEN ('refused', 'nothing is left of the order', NULL)::coupon.redemption
        WHEN action IN ('reserve', 'redeem') THEN (
            CASE action WHEN 'reserve' THEN 'reserved' ELSE 'redeemed' END,
            CASE WHEN action = 'reserve' AND reserved THEN 'reserved before' ELSE 'ok' END,
            least(coupon_internal.compute_discount(order_amount, c.discount, c.unit, c.max_discount, c.currency),
                trunc(free, coupon_internal.get_minor_units(c.currency))))::coupon.redemption
        ELSE (CASE action WHEN 'show' THEN 'shown' ELSE 'dismissed' END, 'ok', NULL)::coupon.redemption END;
    IF answer.reason IN ('ok', 'reserved before') THEN
        UPDATE coupon.coupon x SET
            state = CASE WHEN action IN ('reserve', 'redeem') THEN answer.status
                         WHEN x.state = 'issued' OR x.state = 'shown' AND action = 'dismiss' THEN answer.status
                         ELSE x.state END,
            shown_at = CASE action WHEN 'show' THEN coalesce(x.shown_at, at) ELSE x.shown_at END,
            dismissed_at = CASE action WHEN 'dismiss' THEN coalesce(x.dismissed_at, at) ELSE x.dismissed_at END,
            reserved_at = CASE WHEN action = 'reserve' AND answer.reason = 'ok' THEN at ELSE x.reserved_at END,
            reserved_until = CASE WHEN action = 'reserve' AND answer.reason = 'ok' THEN at + ttl ELSE x.reserved_until END,
            redeemed_at = CASE action WHEN 'redeem' THEN at END,
            closed_at = CASE action WHEN 'redeem' THEN at END,
            order_id = coalesce(present_code.order_id, x.order_id),
            order_amount = CASE action WHEN 'redeem' THEN present_code.order_amount ELSE x.order_amount END,
            discount_amount = CASE action WHEN 'redeem' THEN answer.discount END,
            promised = CASE WHEN action = 'redeem' THEN NULL WHEN action = 'reserve' AND answer.reason = 'ok' THEN answer.discount
                WHEN action = 'reserve' THEN coalesce(answer.discount, x.promised) ELSE x.promised END,
            reserved_amount = CASE WHEN action = 'redeem' AND x.reserved_amount IS NOT NULL THEN 0 ELSE x.reserved_amount END
        WHERE x.session = c.session AND x.id = c.id;
        IF order_id IS NOT NULL THEN
            UPDATE coupon.order_discount o SET amount = coalesce(present_code.order_amount, o.amount),
                discount = o.discount + CASE action WHEN 'redeem' THEN answer.discount ELSE 0 END
            WHERE o.order_id = present_code.order_id;
        END IF;
        IF action = 'redeem' THEN
            PERFORM coupon_internal.return_reserved_amount(c.campaign, c.budget_day, c.reserved_amount - answer.discount);
        END IF;
    ELSIF ours THEN
        PERFORM coupon_internal.remove_empty_order(order_id);
    END IF;
    RETURN coupon_internal.log_attempt(action, session, customer, c.id, order_id, order_amount, answer);
END
$$;
COMMENT ON FUNCTION coupon_internal.present_code(text, text, text, numeric, interval, text, text) IS 'The one path of a presented code: show, dismiss, reserve, redeem';

CREATE FUNCTION @extschema@.redeem_coupon(code text, order_id text, order_amount numeric, session text DEFAULT NULL,
    customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF order_amount IS NULL THEN
        RAISE EXCEPTION 'order_amount must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM coupon_internal.check_presentation(code, order_id, order_amount);
    RETURN coupon_internal.present_code('redeem', code, order_id, order_amount, NULL, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.redeem_coupon(text, text, numeric, text, text) IS 'Redeems a code for an order, once; the presenter''s session or customer must be the coupon''s. The same order asking again gets the same answer; a refusal is a value, and is counted';

CREATE FUNCTION @extschema@.reserve_coupon(code text, order_id text, ttl interval DEFAULT '15 minutes',
    order_amount numeric DEFAULT NULL, session text DEFAULT NULL, customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF ttl IS NULL OR ttl <= interval '0' OR ttl > interval '1 day' THEN
        RAISE EXCEPTION 'ttl is %', ttl USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Pass how long the checkout may take, up to one day.';
    END IF;
    PERFORM coupon_internal.check_presentation(code, order_id, order_amount);
    RETURN coupon_internal.present_code('reserve', code, order_id, order_amount, ttl, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.reserve_coupon(text, text, interval, numeric, text, text) IS 'Keeps a coupon for an order whose checkout takes time: valid until ttl is over even if it expires meanwhile, then free again. redeem_coupon confirms it';

CREATE FUNCTION @extschema@.show_coupon(code text, session text DEFAULT NULL, customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.check_presentation(code, '-', NULL);
    RETURN coupon_internal.present_code('show', code, NULL, NULL, NULL, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.show_coupon(text, text, text) IS 'The pop-up was shown';

CREATE FUNCTION @extschema@.dismiss_coupon(code text, session text DEFAULT NULL, customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.check_presentation(code, '-', NULL);
    RETURN coupon_internal.present_code('dismiss', code, NULL, NULL, NULL, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.dismiss_coupon(text, text, text) IS 'The visitor closed the pop-up; the coupon stays valid';

CREATE FUNCTION @extschema@.release_coupon(code text, order_id text) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    plain text := coupon_internal.normalise_code(code);
    deadline CONSTANT timestamptz := clock_timestamp() + make_interval(secs => coupon_internal.get_redeem_wait() / 1000.0);
    c record;
    ours boolean;
    locked boolean;
    answer coupon.redemption;
BEGIN
    PERFORM coupon_internal.check_presentation(code, order_id, NULL);
    IF NOT coupon_internal.is_storage_ready() THEN
        PERFORM coupon_internal.warn_storage();
        RETURN ('refused', 'not taken for this order', NULL)::coupon.redemption;
    END IF;
    SELECT x.session, x.id INTO c FROM coupon.coupon x WHERE x.code IN (plain, coupon_internal.hash_code(plain));
    IF FOUND THEN
        ours := coupon_internal.lock_order(order_id, deadline);
        locked := ours AND coupon_internal.lock_coupon(c.session, c.id, deadline, false);
    END IF;
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = c.session AND x.id = c.id;
    -- Whether money is held for a coupon that lives again depends on a budget that must not be set meanwhile.
    IF locked AND c.order_id = release_coupon.order_id AND c.state <> 'released' THEN
        locked := coupon_internal.try_lock_mutex('campaign ' || c.campaign, false);
        PERFORM coupon_internal.ensure_budget_visible(c.campaign);
    END IF;
    IF NOT locked THEN
        IF ours THEN
            PERFORM coupon_internal.remove_empty_order(order_id);
        END IF;
        RETURN coupon_internal.log_attempt('release', NULL, NULL, NULL, NULL, NULL,
            ('refused', 'busy, try again', NULL)::coupon.redemption);
    END IF;
    answer := CASE
        WHEN (c.order_id = release_coupon.order_id) IS NOT TRUE
            THEN ('refused', 'not taken for this order', NULL)::coupon.redemption
        WHEN c.state = 'released' THEN ('released', 'released before', NULL)::coupon.redemption
        WHEN c.state = 'redeemed' OR c.state = 'reserved' AND c.closed_at IS NULL
            THEN ('released', 'no longer valid', c.discount_amount)::coupon.redemption
        ELSE ('refused', 'expired', NULL)::coupon.redemption END;
    IF answer.reason = 'no longer valid' THEN
        UPDATE coupon.order_discount o SET discount = o.discount - c.discount_amount
        WHERE o.order_id = release_coupon.order_id AND c.state = 'redeemed';
        IF coupon_internal.revive_coupon(c.session, c.id) THEN
            answer := (answer.status, 'valid again', answer.discount)::coupon.redemption;
        END IF;
    END IF;
    IF ours THEN
        PERFORM coupon_internal.remove_empty_order(order_id);
    END IF;
    RETURN coupon_internal.log_attempt('release', c.session, c.customer, c.id, release_coupon.order_id, NULL, answer);
END
$$;
COMMENT ON FUNCTION @extschema@.release_coupon(text, text) IS 'The order was cancelled: usage and budget are given back, and the coupon lives again while it is valid';

CREATE FUNCTION coupon_internal.revive_coupon(of text, key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at timestamptz := coupon.clock();
    c record;
    worst numeric;
BEGIN
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = of AND x.id = key;
    worst := coupon_internal.compute_worst_case(c.discount, c.unit, c.max_discount);
    -- All of the discount comes back; then, as when it was issued, the worst case is held again.
    IF c.state = 'redeemed' THEN
        PERFORM coupon_internal.return_reserved_amount(c.campaign, c.budget_day, c.discount_amount);
    END IF;
    IF c.expires_at > at AND (worst IS NOT NULL OR coupon_internal.sum_available(c.campaign, 'money', '-infinity') IS NULL
            AND coupon_internal.sum_available(c.campaign, 'money', c.budget_day) IS NULL) THEN
        PERFORM coupon_internal.close_expired_coupon(of);
        BEGIN
            UPDATE coupon.coupon x SET state = 'released', released_at = at, redeemed_at = NULL, reserved_at = NULL,
                reserved_until = NULL, order_amount = NULL, discount_amount = NULL, promised = NULL, closed_at = NULL,
                reserved_amount = worst
            WHERE x.session = of AND x.id = key;
            IF c.state = 'reserved' OR coupon_internal.reserve_amount_again(c.campaign, c.budget_day, worst) THEN
                RETURN true;
            END IF;
            RAISE unique_violation;
        EXCEPTION WHEN unique_violation THEN
            -- The session has another coupon by now, or the budget was given to others: it stays closed.
            NULL;
        END;
    END IF;
    IF c.reserved_amount IS NOT NULL AND c.state = 'reserved' THEN
        PERFORM coupon_internal.return_reserved_amount(c.campaign, c.budget_day, c.reserved_amount);
    END IF;
    UPDATE coupon.coupon x SET state = 'released', released_at = at, redeemed_at = NULL, reserved_at = NULL,
        reserved_until = NULL, order_amount = NULL, discount_amount = NULL, promised = NULL, closed_at = coalesce(x.closed_at, at),
        reserved_amount = CASE WHEN x.reserved_amount IS NOT NULL THEN 0 END
    WHERE x.session = of AND x.id = key;
    RETURN false;
END
$$;
COMMENT ON FUNCTION coupon_internal.revive_coupon(text, uuid) IS 'Gives back what a cancelled order used; whether the coupon is valid again';

CREATE FUNCTION coupon_internal.reserve_amount_again(name text, day date, need numeric) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
BEGIN
    SELECT * INTO c FROM coupon.campaign x WHERE x.campaign = name;
    -- Where nothing bounds the coupon, there is no budget either.
    IF c.budget IS NOT NULL AND NOT coupon_internal.take_amount(name, 'money', '-infinity', need, coupon_internal.get_minor_units(c.currency), true) THEN
        RETURN false;
    END IF;
    RETURN coupon_internal.sum_available(name, 'money', day) IS NULL
        OR coupon_internal.take_amount(name, 'money', day, need, coupon_internal.get_minor_units(c.currency), true);
END
$$;
COMMENT ON FUNCTION coupon_internal.reserve_amount_again(text, date, numeric) IS 'Holds money for a coupon that lives again; what was taken before a refusal is the caller''s to roll back';
