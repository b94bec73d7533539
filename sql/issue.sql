-- issue: decisions and coupons.
CREATE FUNCTION coupon.clock() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'clock_now_wrapper';
COMMENT ON FUNCTION coupon.clock() IS 'The one clock of coupons: now(), or the time the superuser-only setting coupon_ext.clock holds';

CREATE FUNCTION coupon.live_offer(session text) RETURNS coupon.offer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    offer coupon.offer;
BEGIN
    IF to_regclass('coupon.coupon') IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT c.code, c.category, c.discount, c.issued_at, c.expires_at, c.display_seconds, c.campaign, c.message
    INTO offer FROM coupon.coupon c
    WHERE c.session = $1 AND c.closed_at IS NULL AND c.expires_at > coupon.clock();
    IF FOUND THEN
        RETURN offer;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.live_offer(text) IS 'The live coupon of a session, read only; NULL when there is none';

CREATE FUNCTION coupon.consider(session text) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'consider_wrapper';
COMMENT ON FUNCTION coupon.consider(text) IS 'Decides about a session as its last click would have; rebuilds it first if it missed one';

CREATE FUNCTION issue_coupon(session text) RETURNS coupon.offer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    offer coupon.offer;
BEGIN
    IF to_regclass('coupon.storage') IS NULL THEN
        RAISE WARNING 'coupon_ext watches nothing yet' USING HINT =
            'SELECT coupon.watch(...) your click table, then SELECT * FROM coupon.train().';
        RETURN NULL;
    END IF;
    offer := coupon.live_offer($1);
    IF offer.code IS NULL AND $1 IS NOT NULL THEN
        PERFORM coupon.consider($1);
        offer := coupon.live_offer($1);
    END IF;
    IF offer.code IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN offer;
END
$$;
COMMENT ON FUNCTION issue_coupon(text) IS 'The coupon of a session: the live one, or a new one if it is due now; NULL otherwise. Asking twice never issues twice';

CREATE FUNCTION issue_coupon(session bigint) RETURNS coupon.offer
LANGUAGE sql VOLATILE AS 'SELECT @extschema@.issue_coupon($1::text)';
COMMENT ON FUNCTION issue_coupon(bigint) IS 'The same for shops that number their sessions';

CREATE FUNCTION issue_coupon(session uuid) RETURNS coupon.offer
LANGUAGE sql VOLATILE AS 'SELECT @extschema@.issue_coupon($1::text)';
COMMENT ON FUNCTION issue_coupon(uuid) IS 'The same for shops whose sessions are uuids';

CREATE FUNCTION coupon.explain(session text)
    RETURNS TABLE (campaign text, step int, condition text, holds boolean, detail text)
LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'explain_wrapper';
COMMENT ON FUNCTION coupon.explain(text) IS 'What would happen to a session now and why, condition by condition, with no side effect';

CREATE FUNCTION coupon.draw_arm(salt text, shares float8[], session text) RETURNS int
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'draw_arm_wrapper';
COMMENT ON FUNCTION coupon.draw_arm(text, float8[], text) IS 'Which arm a session falls into, from 1, by SHA-256 of salt and session; shares in order of the arms'' names';

CREATE FUNCTION coupon.arm_of(campaign text, session text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('coupon.arm') IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT (array_agg(a.arm ORDER BY a.arm COLLATE "C"))[
            coupon.draw_arm(c.salt, array_agg(a.share ORDER BY a.arm COLLATE "C"), arm_of.session)]
        FROM coupon.campaign c JOIN coupon.arm a USING (campaign) WHERE c.campaign = arm_of.campaign GROUP BY c.salt);
END
$$;
COMMENT ON FUNCTION coupon.arm_of(text, text) IS 'The arm of a campaign that a session is assigned to';

CREATE FUNCTION coupon.normalise_code(code text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'normalise_code_wrapper';
COMMENT ON FUNCTION coupon.normalise_code(text) IS 'A code as it is stored: case, look-alikes, spaces and hyphens forgiven; NULL when its check symbol is wrong';

CREATE FUNCTION coupon.go_live(campaign text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon.need_storage();
    UPDATE coupon.campaign c SET state = 'live' WHERE c.campaign = go_live.campaign;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no campaign "%"', campaign USING ERRCODE = 'undefined_object',
            HINT = 'SELECT campaign, state FROM coupon.campaign shows what there is.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.go_live(text) IS 'The one statement that makes coupons flow';

CREATE FUNCTION redeem_coupon(code text, order_id text, order_amount numeric, session text DEFAULT NULL,
    customer text DEFAULT NULL) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    answer coupon.redemption;
BEGIN
    IF code IS NULL OR order_id IS NULL OR order_amount IS NULL THEN
        RAISE EXCEPTION 'code, order_id and order_amount must not be NULL'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF order_amount < 0 OR order_amount IN ('NaN', 'Infinity') THEN
        RAISE EXCEPTION 'order_amount is %', order_amount USING ERRCODE = 'numeric_value_out_of_range',
            HINT = 'Pass the amount of the goods the coupon is for, at least 0.';
    END IF;
    IF to_regclass('coupon.coupon') IS NULL THEN
        RETURN ('refused', 'unknown code', NULL)::coupon.redemption;
    END IF;
    SELECT * INTO c FROM coupon.coupon x WHERE x.code = coupon.normalise_code(redeem_coupon.code) FOR UPDATE;
    answer := CASE
        WHEN c.code IS NULL THEN ('refused', 'unknown code', NULL)::coupon.redemption
        WHEN c.session IS DISTINCT FROM redeem_coupon.session
            AND (c.customer IS NULL OR c.customer IS DISTINCT FROM redeem_coupon.customer)
            THEN ('refused', 'not yours', NULL)::coupon.redemption
        -- The same order asking again gets the same answer.
        WHEN c.redeemed_at IS NOT NULL AND c.order_id = redeem_coupon.order_id
            THEN ('redeemed', 'redeemed before', c.discount_amount)::coupon.redemption
        WHEN c.redeemed_at IS NOT NULL THEN ('refused', 'already redeemed', NULL)::coupon.redemption
        WHEN c.expires_at <= coupon.clock() THEN ('refused', 'expired', NULL)::coupon.redemption
        WHEN c.closed_at IS NOT NULL THEN ('refused', 'closed', NULL)::coupon.redemption
        ELSE ('redeemed', 'ok', round(order_amount * c.discount / 100, 2))::coupon.redemption END;
    IF answer.reason = 'ok' THEN
        UPDATE coupon.coupon x SET redeemed_at = coupon.clock(), closed_at = coupon.clock(),
            order_id = redeem_coupon.order_id, order_amount = redeem_coupon.order_amount,
            discount_amount = answer.discount
        WHERE x.session = c.session AND x.id = c.id;
    END IF;
    INSERT INTO coupon.attempt (at, session, coupon, order_id, order_amount, status, reason)
    VALUES (coupon.clock(), redeem_coupon.session, c.id, redeem_coupon.order_id, redeem_coupon.order_amount,
        answer.status, answer.reason);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION redeem_coupon(text, text, numeric, text, text) IS 'Redeems a code for an order, once; the presenter''s session or customer must be the coupon''s. A refusal is a value, and is counted';

CREATE FUNCTION release_coupon(code text, order_id text) RETURNS coupon.redemption
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    answer coupon.redemption;
    alive boolean;
BEGIN
    IF code IS NULL OR order_id IS NULL THEN
        RAISE EXCEPTION 'code and order_id must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF to_regclass('coupon.coupon') IS NULL THEN
        RETURN ('refused', 'unknown code', NULL)::coupon.redemption;
    END IF;
    SELECT * INTO c FROM coupon.coupon x WHERE x.code = coupon.normalise_code(release_coupon.code) FOR UPDATE;
    IF c.code IS NULL OR c.order_id IS DISTINCT FROM release_coupon.order_id THEN
        answer := ('refused', CASE WHEN c.code IS NULL THEN 'unknown code' ELSE 'not redeemed for this order' END, NULL);
    ELSE
        alive := c.expires_at > coupon.clock() AND NOT EXISTS (
            SELECT FROM coupon.coupon x WHERE x.session = c.session AND x.closed_at IS NULL);
        UPDATE coupon.coupon x SET redeemed_at = NULL, order_id = NULL, order_amount = NULL, discount_amount = NULL,
            closed_at = CASE WHEN alive THEN NULL ELSE c.closed_at END
        WHERE x.session = c.session AND x.id = c.id;
        answer := ('released', CASE WHEN alive THEN 'valid again' ELSE 'no longer valid' END, c.discount_amount);
    END IF;
    INSERT INTO coupon.attempt (at, session, coupon, order_id, order_amount, status, reason)
    VALUES (coupon.clock(), c.session, c.id, release_coupon.order_id, NULL, answer.status, answer.reason);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION release_coupon(text, text) IS 'The order was cancelled: the coupon comes back while it is still valid';

CREATE FUNCTION coupon.sweep(batch int DEFAULT 10000) RETURNS TABLE (expired bigint, rebuilt bigint, compacted bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s text;
BEGIN
    PERFORM coupon.need_storage();
    UPDATE coupon.coupon c SET closed_at = c.expires_at WHERE (c.session, c.id) IN (
        SELECT x.session, x.id FROM coupon.coupon x WHERE x.closed_at IS NULL AND x.expires_at <= coupon.clock()
        ORDER BY x.expires_at LIMIT batch FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS expired = ROW_COUNT;
    rebuilt := 0;
    FOR s IN SELECT DISTINCT g.session FROM coupon.gap g ORDER BY 1 LIMIT batch LOOP
        PERFORM coupon.consider(s);
        IF NOT EXISTS (SELECT FROM coupon.gap g WHERE g.session = s) THEN
            rebuilt := rebuilt + 1;
        END IF;
    END LOOP;
    UPDATE coupon.session x SET state = NULL WHERE x.session IN (
        SELECT y.session FROM coupon.session y WHERE y.state IS NOT NULL
            AND y.last_at < coupon.clock() - interval '1 day' LIMIT batch FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS compacted = ROW_COUNT;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION coupon.sweep(int) IS 'Housekeeping, at most batch rows of each: closes expired coupons, rebuilds sessions that missed a click, frees the state of sessions a day old';
