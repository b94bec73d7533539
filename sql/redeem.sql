-- redeem: what happens to a coupon after it was issued. A refusal is a value, and every attempt is counted.
CREATE FUNCTION coupon.hash_code(code text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT encode(sha256(convert_to(code, 'UTF8')), 'hex');
END;
COMMENT ON FUNCTION coupon.hash_code(text) IS 'How a normalised code is stored where the campaign hashes them: eighty random bits need no salt';

CREATE FUNCTION coupon.discount_on(order_amount numeric, discount numeric, unit text, max_discount numeric,
    currency text) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- least() passes over a NULL, and would promise max_discount for an order nobody knows the amount of.
    SELECT CASE WHEN order_amount IS NOT NULL THEN least(CASE unit WHEN 'money' THEN discount
        ELSE round(order_amount * discount / 100, coupon.minor_units(currency)) END, max_discount, order_amount) END;
END;
COMMENT ON FUNCTION coupon.discount_on(numeric, numeric, text, numeric, text) IS 'What a coupon takes off an order: never more than its max_discount, never more than the order; NULL while its amount is not known';

CREATE FUNCTION coupon.check_presented(code text, order_id text, order_amount numeric) RETURNS void
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
            HINT = 'Pass the amount of the goods the coupon is for, at least 0.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.check_presented(text, text, numeric) IS 'Refuses misuse: NULLs, an order without an id, an amount that is none';

CREATE FUNCTION coupon.note_attempt(action text, session text, customer text, coupon uuid, order_id text,
    order_amount numeric, answer coupon.redemption) RETURNS coupon.redemption
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO coupon.attempt (at, action, session, customer, coupon, order_id, order_amount, status, reason)
    VALUES (coupon.clock(), action, left(session, 256), left(customer, 256), note_attempt.coupon, order_id, order_amount,
        answer.status, answer.reason);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION coupon.note_attempt(text, text, text, uuid, text, numeric, coupon.redemption) IS 'Notes an attempt and passes its answer on';

CREATE FUNCTION coupon.count_stranger(session text, customer text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Nobody is never blocked; one row for all that are nobody would make their checkouts wait for each other.
    IF num_nonnulls(session, customer) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO coupon.presenter AS p (presenter, since, refused)
    SELECT coupon.presenter_name(session, customer), coupon.clock(), 1
    ON CONFLICT (presenter) DO UPDATE
    SET since = CASE WHEN p.since < excluded.since - interval '10 minutes' THEN excluded.since ELSE p.since END,
        refused = CASE WHEN p.since < excluded.since - interval '10 minutes' THEN 1 ELSE p.refused + 1 END;
END
$$;
COMMENT ON FUNCTION coupon.count_stranger(text, text) IS 'Counts a code that is not the presenter''s';

CREATE FUNCTION coupon.presenter_name(session text, customer text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT left(coalesce('customer ' || customer, 'session ' || session, 'nobody'), 256);
END;
COMMENT ON FUNCTION coupon.presenter_name(text, text) IS 'Whom attempts are counted for';

CREATE FUNCTION coupon.blocked(session text, customer text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Nobody is not blocked: with eighty random bits, guessing is hopeless, and one who asks for all would block all.
    RETURN num_nonnulls(session, customer) > 0 AND EXISTS (SELECT FROM coupon.presenter p
        WHERE p.presenter = coupon.presenter_name(session, customer)
            AND p.refused >= current_setting('coupon_ext.max_attempts')::int
            AND p.since >= coupon.clock() - interval '10 minutes');
END
$$;
COMMENT ON FUNCTION coupon.blocked(text, text) IS 'Whether a presenter has offered too many codes of others within ten minutes';

CREATE FUNCTION coupon.present(action text, code text, order_id text, order_amount numeric, ttl interval, session text,
    customer text) RETURNS coupon.redemption
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at timestamptz := coupon.clock();
    plain text := coupon.normalise_code(code);
    c record;
    reserved boolean;
    answer coupon.redemption;
BEGIN
    IF NOT coupon.storage_ready() THEN
        PERFORM coupon.warn_storage();
        RETURN ('refused', 'not valid', NULL)::coupon.redemption;
    END IF;
    -- Locks in one order for all: the order, the campaign, the coupon, the purses.
    IF order_id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(coupon.lock_key('order', order_id));
    END IF;
    SELECT x.session, x.id, x.campaign, x.bearer, x.customer INTO c FROM coupon.coupon x
    WHERE x.code IN (plain, coupon.hash_code(plain));
    -- To a stranger a coupon of others and none look alike.
    IF (c.bearer OR c.session = session OR c.customer = customer) IS NOT TRUE OR coupon.blocked(session, customer) THEN
        PERFORM coupon.count_stranger(session, customer);
        RETURN coupon.note_attempt(action, coupon.known_session(session), customer, c.id, order_id, order_amount,
            ('refused', 'not valid', NULL)::coupon.redemption);
    END IF;
    PERFORM coupon.share_budget(c.campaign);
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = c.session AND x.id = c.id FOR UPDATE;
    IF NOT FOUND THEN
        -- Erased since it was found, with all that named its session: no id is noted that could never be found again.
        RETURN coupon.note_attempt(action, NULL, NULL, NULL, NULL, order_amount,
            ('refused', 'not valid', NULL)::coupon.redemption);
    END IF;
    reserved := c.state = 'reserved' AND c.reserved_until > at;
    answer := CASE
        -- The same order asking again gets the same answer.
        WHEN c.state = 'redeemed' AND c.order_id = present.order_id
            THEN ('redeemed', 'redeemed before', c.discount_amount)::coupon.redemption
        WHEN c.state = 'redeemed' THEN ('refused', 'already redeemed', NULL)::coupon.redemption
        WHEN reserved AND c.order_id <> present.order_id
            THEN ('refused', 'reserved for another order', NULL)::coupon.redemption
        WHEN c.closed_at IS NOT NULL OR c.expires_at <= at AND NOT reserved
            THEN ('refused', 'expired', NULL)::coupon.redemption
        WHEN order_amount < c.minimum_basket
            THEN ('refused', 'below the minimum basket', NULL)::coupon.redemption
        WHEN order_id IS NOT NULL AND EXISTS (SELECT FROM coupon.coupon o WHERE o.order_id = present.order_id
                AND (o.session, o.id) <> (c.session, c.id)
                AND (o.state = 'redeemed' OR o.state = 'reserved' AND o.reserved_until > at)
                AND (o.exclusive OR c.exclusive OR o.stacking = c.stacking))
            THEN ('refused', 'not with the order''s other coupon', NULL)::coupon.redemption
        WHEN action = 'reserve' AND reserved THEN ('reserved', 'reserved before',
            coupon.discount_on(order_amount, c.discount, c.unit, c.max_discount, c.currency))::coupon.redemption
        WHEN action = 'redeem' THEN ('redeemed', 'ok',
            coupon.discount_on(order_amount, c.discount, c.unit, c.max_discount, c.currency))::coupon.redemption
        WHEN action = 'reserve' THEN ('reserved', 'ok',
            coupon.discount_on(order_amount, c.discount, c.unit, c.max_discount, c.currency))::coupon.redemption
        ELSE (CASE action WHEN 'show' THEN 'shown' ELSE 'dismissed' END, 'ok', NULL)::coupon.redemption END;
    IF answer.reason = 'ok' THEN
        UPDATE coupon.coupon x SET
            state = CASE WHEN action IN ('reserve', 'redeem') THEN answer.status
                         WHEN x.state = 'issued' OR x.state = 'shown' AND action = 'dismiss' THEN answer.status
                         ELSE x.state END,
            shown_at = CASE action WHEN 'show' THEN coalesce(x.shown_at, at) ELSE x.shown_at END,
            dismissed_at = CASE action WHEN 'dismiss' THEN coalesce(x.dismissed_at, at) ELSE x.dismissed_at END,
            reserved_at = CASE action WHEN 'reserve' THEN at ELSE x.reserved_at END,
            reserved_until = CASE action WHEN 'reserve' THEN at + ttl ELSE x.reserved_until END,
            redeemed_at = CASE action WHEN 'redeem' THEN at END,
            closed_at = CASE action WHEN 'redeem' THEN at END,
            order_id = coalesce(present.order_id, x.order_id),
            order_amount = CASE action WHEN 'redeem' THEN present.order_amount ELSE x.order_amount END,
            discount_amount = CASE action WHEN 'redeem' THEN answer.discount END,
            held = CASE WHEN action = 'redeem' AND x.held IS NOT NULL THEN 0 ELSE x.held END
        WHERE x.session = c.session AND x.id = c.id;
        IF action = 'redeem' THEN
            PERFORM coupon.return_money(c.campaign, c.budget_day, c.held - answer.discount);
        END IF;
    END IF;
    RETURN coupon.note_attempt(action, session, customer, c.id, order_id, order_amount, answer);
END
$$;
COMMENT ON FUNCTION coupon.present(text, text, text, numeric, interval, text, text) IS 'The one path of a presented code: show, dismiss, reserve, redeem';

CREATE FUNCTION @extschema@.redeem_coupon(code text, order_id text, order_amount numeric, session text DEFAULT NULL,
    customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF order_amount IS NULL THEN
        RAISE EXCEPTION 'order_amount must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM coupon.check_presented(code, order_id, order_amount);
    RETURN coupon.present('redeem', code, order_id, order_amount, NULL, session, customer);
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
    PERFORM coupon.check_presented(code, order_id, order_amount);
    RETURN coupon.present('reserve', code, order_id, order_amount, ttl, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.reserve_coupon(text, text, interval, numeric, text, text) IS 'Keeps a coupon for an order whose checkout takes time: valid until ttl is over even if it expires meanwhile, then free again. redeem_coupon confirms it';

CREATE FUNCTION @extschema@.show_coupon(code text, session text DEFAULT NULL, customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon.check_presented(code, '-', NULL);
    RETURN coupon.present('show', code, NULL, NULL, NULL, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.show_coupon(text, text, text) IS 'The pop-up was shown';

CREATE FUNCTION @extschema@.dismiss_coupon(code text, session text DEFAULT NULL, customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon.check_presented(code, '-', NULL);
    RETURN coupon.present('dismiss', code, NULL, NULL, NULL, session, customer);
END
$$;
COMMENT ON FUNCTION @extschema@.dismiss_coupon(text, text, text) IS 'The visitor closed the pop-up; the coupon stays valid';

CREATE FUNCTION @extschema@.release_coupon(code text, order_id text) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    plain text := coupon.normalise_code(code);
    c record;
    answer coupon.redemption;
BEGIN
    PERFORM coupon.check_presented(code, order_id, NULL);
    IF NOT coupon.storage_ready() THEN
        PERFORM coupon.warn_storage();
        RETURN ('refused', 'not taken for this order', NULL)::coupon.redemption;
    END IF;
    PERFORM pg_advisory_xact_lock(coupon.lock_key('order', order_id));
    SELECT x.session, x.id, x.campaign INTO c FROM coupon.coupon x
    WHERE x.code IN (plain, coupon.hash_code(plain));
    IF FOUND THEN
        PERFORM coupon.share_budget(c.campaign);
    END IF;
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = c.session AND x.id = c.id FOR UPDATE;
    answer := CASE
        WHEN (c.order_id = release_coupon.order_id) IS NOT TRUE
            THEN ('refused', 'not taken for this order', NULL)::coupon.redemption
        WHEN c.state = 'released' THEN ('released', 'released before', NULL)::coupon.redemption
        WHEN c.state = 'redeemed' OR c.state = 'reserved' AND c.closed_at IS NULL
            THEN ('released', 'no longer valid', c.discount_amount)::coupon.redemption
        ELSE ('refused', 'expired', NULL)::coupon.redemption END;
    IF answer.reason = 'no longer valid' AND coupon.revive(c.session, c.id) THEN
        answer := (answer.status, 'valid again', answer.discount)::coupon.redemption;
    END IF;
    RETURN coupon.note_attempt('release', c.session, c.customer, c.id, release_coupon.order_id, NULL, answer);
END
$$;
COMMENT ON FUNCTION @extschema@.release_coupon(text, text) IS 'The order was cancelled: usage and budget are given back, and the coupon lives again while it is valid';

CREATE FUNCTION coupon.revive(of text, key uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at timestamptz := coupon.clock();
    c record;
    worst numeric;
BEGIN
    SELECT * INTO c FROM coupon.coupon x WHERE x.session = of AND x.id = key;
    worst := coupon.worst_case(c.discount, c.unit, c.max_discount);
    -- All of the discount comes back; then, as when it was issued, the worst case is held again.
    IF c.held IS NOT NULL AND c.state = 'redeemed' THEN
        PERFORM coupon.return_money(c.campaign, c.budget_day, c.discount_amount);
    END IF;
    IF c.expires_at > at AND (c.held IS NULL OR worst IS NOT NULL) THEN
        PERFORM coupon.close_expired(of);
        BEGIN
            UPDATE coupon.coupon x SET state = 'released', released_at = at, redeemed_at = NULL, reserved_at = NULL,
                reserved_until = NULL, order_amount = NULL, discount_amount = NULL, closed_at = NULL,
                held = CASE WHEN x.held IS NOT NULL THEN worst END
            WHERE x.session = of AND x.id = key;
            IF c.held IS NULL OR c.state = 'reserved' OR coupon.hold_again(c.campaign, c.budget_day, worst) THEN
                RETURN true;
            END IF;
            RAISE unique_violation;
        EXCEPTION WHEN unique_violation THEN
            -- The session has another coupon by now, or the budget was given to others: it stays closed.
            NULL;
        END;
    END IF;
    IF c.held IS NOT NULL AND c.state = 'reserved' THEN
        PERFORM coupon.return_money(c.campaign, c.budget_day, c.held);
    END IF;
    UPDATE coupon.coupon x SET state = 'released', released_at = at, redeemed_at = NULL, reserved_at = NULL,
        reserved_until = NULL, order_amount = NULL, discount_amount = NULL, closed_at = coalesce(x.closed_at, at),
        held = CASE WHEN x.held IS NOT NULL THEN 0 END
    WHERE x.session = of AND x.id = key;
    RETURN false;
END
$$;
COMMENT ON FUNCTION coupon.revive(text, uuid) IS 'Gives back what a cancelled order used; whether the coupon is valid again';

CREATE FUNCTION coupon.hold_again(name text, day date, need numeric) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
BEGIN
    SELECT * INTO c FROM coupon.campaign x WHERE x.campaign = name;
    IF c.budget IS NOT NULL AND NOT coupon.take(name, 'money', '-infinity', need, coupon.minor_units(c.currency), true) THEN
        RETURN false;
    END IF;
    RETURN coupon.available(name, 'money', day) IS NULL
        OR coupon.take(name, 'money', day, need, coupon.minor_units(c.currency), true);
END
$$;
COMMENT ON FUNCTION coupon.hold_again(text, date, numeric) IS 'Holds money for a coupon that lives again; what was taken before a refusal is the caller''s to roll back';
