-- issue: decisions and coupons.
CREATE FUNCTION coupon_internal.generate_code() RETURNS text
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'generate_code_wrapper';
COMMENT ON FUNCTION coupon_internal.generate_code() IS 'Eighty bits from PostgreSQL''s strong random source, with a check symbol';

CREATE FUNCTION coupon.live_offer(session text) RETURNS coupon.offer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    offer coupon.offer;
BEGIN
    IF to_regclass('coupon.coupon') IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT CASE WHEN NOT c.code_hashed THEN c.code END, c.category, c.discount, c.issued_at, c.expires_at, c.display_seconds,
        c.campaign, c.message, c.unit, c.currency INTO offer
    FROM coupon.coupon c WHERE c.session = $1 AND c.closed_at IS NULL AND c.expires_at > coupon.clock();
    IF FOUND THEN
        RETURN offer;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.live_offer(text) IS 'The live coupon of a session, read only, without its code where that is stored hashed; NULL when there is none';

CREATE FUNCTION coupon_internal.show_offer(session text) RETURNS coupon.offer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    offer coupon.offer := coupon.live_offer($1);
    fresh text;
BEGIN
    IF offer.issued_at IS NULL THEN
        RETURN NULL;
    END IF;
    IF offer.code IS NULL THEN
        -- Drawn when it is first shown, because only its hash is kept.
        fresh := coupon_internal.generate_code();
        -- One that somebody holds is shown without its code, and not waited for.
        UPDATE coupon.coupon c SET code = coupon_internal.hash_code(fresh) WHERE c.session = $1 AND c.id = (
            SELECT x.id FROM coupon.coupon x WHERE x.session = $1 AND x.closed_at IS NULL AND x.code IS NULL
            FOR UPDATE SKIP LOCKED);
        IF FOUND THEN
            offer := jsonb_populate_record(offer, jsonb_build_object('code', fresh));
        END IF;
    END IF;
    RETURN offer;
END
$$;
COMMENT ON FUNCTION coupon_internal.show_offer(text) IS 'The live coupon of a session; a code that is stored hashed is shown the first time only';

-- It may have to read the shop's log, whose owner decides about indexes.
CREATE FUNCTION coupon_internal.evaluate_session(session text) RETURNS boolean
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = on
AS 'MODULE_PATHNAME', 'evaluate_session_wrapper';
COMMENT ON FUNCTION coupon_internal.evaluate_session(text) IS 'Decides about a session as its last click would have; rebuilds it first if it missed one. Whether there may be a coupon now';

-- One plan, by the key: a connection's first requests would else plan anew, and later ones go on reading the table whole
-- because it was small once. Without JIT, because a table that has to be read whole counts as expensive then.
CREATE FUNCTION coupon_internal.issue_due_offer(session text) RETURNS coupon.offer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    offer coupon.offer;
BEGIN
    IF NOT coupon_internal.is_storage_ready() THEN
        PERFORM coupon_internal.warn_storage();
        RETURN NULL;
    END IF;
    -- A standby, or a transaction that may not write: what there is, and no decision.
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN coupon.live_offer($1);
    END IF;
    offer := coupon_internal.show_offer($1);
    IF offer.issued_at IS NULL AND $1 IS NOT NULL AND coupon_internal.evaluate_session($1) THEN
        offer := coupon_internal.show_offer($1);
    END IF;
    IF offer.issued_at IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN offer;
END
$$;
COMMENT ON FUNCTION coupon_internal.issue_due_offer(text) IS 'What issue_coupon answers where it cannot see at once that there is nothing';

CREATE FUNCTION @extschema@.issue_coupon(session text) RETURNS coupon.offer
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'issue_coupon_wrapper';
COMMENT ON FUNCTION @extschema@.issue_coupon(text) IS 'The coupon of a session: the live one, or a new one if it is due now; NULL otherwise. Asking twice never issues twice';

CREATE FUNCTION @extschema@.issue_coupon(session bigint) RETURNS coupon.offer
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT @extschema@.issue_coupon($1::text)';
COMMENT ON FUNCTION @extschema@.issue_coupon(bigint) IS 'The same for shops that number their sessions';

CREATE FUNCTION @extschema@.issue_coupon(session uuid) RETURNS coupon.offer
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT @extschema@.issue_coupon($1::text)';
COMMENT ON FUNCTION @extschema@.issue_coupon(uuid) IS 'The same for shops whose sessions are uuids';

CREATE FUNCTION coupon.explain_decision(session text)
    RETURNS TABLE (campaign text, step int, condition text, holds boolean, detail text)
LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'explain_decision_wrapper';
COMMENT ON FUNCTION coupon.explain_decision(text) IS 'What would happen to a session now and why, condition by condition, with no side effect. It says whether the customer is known, not who it is';

CREATE FUNCTION coupon_internal.find_threshold_fault(policy text, segments boolean, target float8) RETURNS text
LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'find_threshold_fault_wrapper';
COMMENT ON FUNCTION coupon_internal.find_threshold_fault(text, boolean, float8) IS 'Why an arm would find nobody eligible under the active version; NULL where it has thresholds';

CREATE FUNCTION coupon.draw_arm(salt text, shares float8[], session text) RETURNS int
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'draw_arm_wrapper';
COMMENT ON FUNCTION coupon.draw_arm(text, float8[], text) IS 'Which arm a session falls into, from 1, by SHA-256 of salt and session; shares in order of the arms'' names, none negative and their sum above 0';

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

CREATE FUNCTION coupon_internal.normalise_code(code text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'normalise_code_wrapper';
COMMENT ON FUNCTION coupon_internal.normalise_code(text) IS 'A code as it is stored: case, look-alikes, spaces and hyphens forgiven; NULL when its check symbol is wrong, and for more than 64 characters';

CREATE FUNCTION coupon.go_live(campaign text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.require_storage();
    UPDATE coupon.campaign c SET state = 'live' WHERE c.campaign = go_live.campaign;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no campaign "%"', campaign USING ERRCODE = 'undefined_object',
            HINT = 'SELECT campaign, state FROM coupon.campaign shows what there is.';
    END IF;
END
$$;
COMMENT ON FUNCTION coupon.go_live(text) IS 'The one statement that makes coupons flow; refused, with the reason, to a campaign without an arm, a budget or thresholds under the active version';

CREATE FUNCTION coupon.maintain(batch int DEFAULT 10000) RETURNS TABLE (expired bigint, rebuilt bigint, compacted bigint,
    sessions bigint, coupons bigint, decisions bigint, notes bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.require_storage();
    expired := coupon_internal.expire_coupons(NULL, batch);
    rebuilt := coupon_internal.rebuild_marked_sessions(batch);
    UPDATE coupon.session x SET state = NULL WHERE x.session IN (
        SELECT y.session FROM coupon.session y WHERE y.state IS NOT NULL
            AND y.last_at < coupon.clock() - interval '1 day' LIMIT batch FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS compacted = ROW_COUNT;
    SELECT r.sessions, r.coupons, r.decisions, r.notes INTO sessions, coupons, decisions, notes FROM coupon_internal.delete_expired_rows(batch) r;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION coupon.maintain(int) IS 'Housekeeping, at most batch rows of each: closes expired coupons, rebuilds sessions that missed a click, frees the state of sessions a day old, and removes what outlived coupon_ext.session_retention and coupon_ext.coupon_retention: sessions; coupons and decisions, into coupon.archived_total; attempts, errors, marks, redemption limits and buckets of past days (notes)';
