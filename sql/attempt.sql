-- attempt: every presented code is noted, and who presents codes of others is refused after some.
--
-- A row belongs to the caller's transaction, and PostgreSQL has no other: attempts that are rolled back leave none. The limit
-- holds over all connections for what commits; beside it each connection counts in its memory, which no ROLLBACK reaches.
CREATE FUNCTION coupon_internal.count_refused_attempt(presenter text) RETURNS int
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'count_refused_attempt_wrapper';
COMMENT ON FUNCTION coupon_internal.count_refused_attempt(text) IS 'Counts a refused attempt in the memory of this connection, ten minutes by coupon.clock(); what was counted';

CREATE FUNCTION coupon_internal.count_refused_here(presenter text) RETURNS int
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'count_refused_here_wrapper';
COMMENT ON FUNCTION coupon_internal.count_refused_here(text) IS 'Refused attempts of a presenter on this connection within ten minutes, rolled-back ones included; of the 256 latest presenters';

CREATE FUNCTION coupon_internal.name_presenter(session text, customer text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT pg_catalog.left(coalesce('customer ' OPERATOR(pg_catalog.||) customer,
        'session ' OPERATOR(pg_catalog.||) session, 'nobody'), 256);
END;
COMMENT ON FUNCTION coupon_internal.name_presenter(text, text) IS 'The presenter for whom attempts are counted';

CREATE FUNCTION coupon_internal.log_attempt(action text, session text, customer text, coupon uuid, order_id text,
    order_amount numeric, answer coupon.redemption) RETURNS coupon.redemption
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind CONSTANT text := CASE WHEN answer.status <> 'refused' THEN NULL
        WHEN num_nonnulls(session, customer) = 0 THEN 'unknown' WHEN coupon_internal.is_blocked(session, customer) THEN 'blocked' END;
BEGIN
    -- They may come without end: one row for each connection and ten minutes, so that nobody waits for another's.
    IF kind IS NOT NULL THEN
        UPDATE coupon.redemption_attempt a SET times = a.times + 1 WHERE a.id = (SELECT x.id FROM coupon.redemption_attempt x
            WHERE x.backend = pg_backend_pid() AND x.at > coupon.clock() - interval '10 minutes' AND x.at <= coupon.clock()
                AND x.presenters = kind AND x.action = log_attempt.action AND x.reason = answer.reason
            ORDER BY x.at DESC LIMIT 1 FOR UPDATE SKIP LOCKED);
        IF FOUND THEN
            RETURN answer;
        END IF;
        INSERT INTO coupon.redemption_attempt (at, action, status, reason, presenters, backend)
        VALUES (coupon.clock(), action, answer.status, answer.reason, kind, pg_backend_pid());
        RETURN answer;
    END IF;
    INSERT INTO coupon.redemption_attempt (at, action, session, customer, coupon, order_id, order_amount, status, reason)
    VALUES (coupon.clock(), action, left(session, 256), left(customer, 256), log_attempt.coupon, order_id, order_amount,
        answer.status, answer.reason);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION coupon_internal.log_attempt(text, text, text, uuid, text, numeric, coupon.redemption) IS 'Notes an attempt and passes its answer on; refused ones of a presenter who is blocked or not known are counted together';

CREATE FUNCTION coupon_internal.count_foreign_code(session text, customer text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := current_setting('lock_timeout');
BEGIN
    -- Nobody is never blocked; one row for all that are nobody would make their checkouts wait for each other.
    IF num_nonnulls(session, customer) = 0 THEN
        RETURN;
    END IF;
    PERFORM coupon_internal.count_refused_attempt(coupon_internal.name_presenter(session, customer));
    -- Of one presenter in two open transactions, this connection's memory counts the second.
    BEGIN
        PERFORM set_config('lock_timeout', '1ms', true);
        INSERT INTO coupon.redemption_limit AS p (presenter, since, refused)
        SELECT coupon_internal.name_presenter(session, customer), coupon.clock(), 1
        ON CONFLICT (presenter) DO UPDATE
        SET since = CASE WHEN p.since < excluded.since - interval '10 minutes' THEN excluded.since ELSE p.since END,
            refused = CASE WHEN p.since < excluded.since - interval '10 minutes' THEN 1 ELSE p.refused + 1 END;
        PERFORM set_config('lock_timeout', own, true);
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
END
$$;
COMMENT ON FUNCTION coupon_internal.count_foreign_code(text, text) IS 'Counts a code that is not the presenter''s: in this connection''s memory, and in coupon.redemption_limit if the transaction commits';

CREATE FUNCTION coupon_internal.is_blocked(session text, customer text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT text := coupon_internal.name_presenter(session, customer);
    -- First, because it loads the library: before, anybody could have set the placeholder of the setting.
    here CONSTANT int := coupon_internal.count_refused_here(who);
BEGIN
    -- Nobody is not blocked: with eighty random bits, guessing is hopeless, and one who asks for all would block all.
    RETURN num_nonnulls(session, customer) > 0 AND (here >= current_setting('coupon_ext.max_attempts')::int
        OR EXISTS (SELECT FROM coupon.redemption_limit p WHERE p.presenter = who
            AND p.refused >= current_setting('coupon_ext.max_attempts')::int
            AND p.since >= coupon.clock() - interval '10 minutes'));
END
$$;
COMMENT ON FUNCTION coupon_internal.is_blocked(text, text) IS 'Whether a presenter has offered too many codes of others within ten minutes: attempts that committed, of all connections, or all attempts of this one. A presenter without a name is counted and not blocked';
