-- privacy: what is stored about a person, and how it goes away.
--
-- Whoever counts rows into coupon.archived_total holds one lock, so that two never wait for each other's days.
CREATE FUNCTION coupon_internal.archive_decisions(sessions text[], campaigns text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO coupon.archived_total AS t (campaign, day, arm, decisions, issued, redeemed, spent)
    SELECT d.campaign, (d.decided_at AT TIME ZONE coalesce(k.time_zone, 'UTC'))::date, d.arm, count(*), 0, 0, 0
    FROM unnest(archive_decisions.sessions, archive_decisions.campaigns) u(session, campaign)
    JOIN coupon.decision d USING (session, campaign) LEFT JOIN coupon.campaign k USING (campaign)
    WHERE d.outcome <> 'stopped' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (campaign, day, arm) DO UPDATE SET decisions = t.decisions + excluded.decisions;
END
$$;
COMMENT ON FUNCTION coupon_internal.archive_decisions(text[], text[]) IS 'Counts decisions into coupon.archived_total; the caller deletes them';

CREATE FUNCTION coupon_internal.archive_coupons(sessions text[], ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO coupon.archived_total AS t (campaign, day, arm, decisions, issued, redeemed, spent)
    SELECT c.campaign, coalesce(c.budget_day, '-infinity'), coalesce(d.arm, ''), 0, count(*),
        count(*) FILTER (WHERE c.state = 'redeemed'),
        coalesce(sum(c.discount_amount) FILTER (WHERE c.state = 'redeemed'), 0)
    FROM unnest(archive_coupons.sessions, archive_coupons.ids) u(session, id)
    JOIN coupon.coupon c USING (session, id)
    LEFT JOIN coupon.decision d ON d.session = c.session AND d.campaign = c.campaign
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (campaign, day, arm) DO UPDATE SET issued = t.issued + excluded.issued,
        redeemed = t.redeemed + excluded.redeemed, spent = t.spent + excluded.spent;
END
$$;
COMMENT ON FUNCTION coupon_internal.archive_coupons(text[], uuid[]) IS 'Counts coupons into coupon.archived_total; the caller deletes them';

-- An id that nothing of ours knows could never be found again. The lock keeps coupon.forget() waiting until what names the
-- session is there to be found.
CREATE FUNCTION coupon_internal.find_session(session text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT s.session FROM coupon.session s WHERE s.session = find_session.session FOR KEY SHARE SKIP LOCKED);
END
$$;
COMMENT ON FUNCTION coupon_internal.find_session(text) IS 'A session''s id, if coupon.forget() will find it; else NULL';

CREATE FUNCTION coupon.forget(customer text) RETURNS TABLE (relation text, removed bigint, kept text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    person CONSTANT text := forget.customer;
    theirs text[];
    coupons uuid[];
    orders text[];
    named boolean;
    back record;
BEGIN
    PERFORM coupon_internal.require_storage();
    IF person IS NULL OR person = '' THEN
        RAISE EXCEPTION 'customer must be named' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass the id under which the shop''s clicks name the customer.';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- What is committed while we wait for a lock must be seen.
        RAISE EXCEPTION 'a customer is forgotten in READ COMMITTED only' USING ERRCODE = 'active_sql_transaction';
    END IF;
    -- The words a model knows stand in its weights as quoted text. Looked for before anybody is kept waiting.
    named := EXISTS (SELECT FROM coupon.model m WHERE position(convert_to('"' || person || '\"', 'UTF8') IN m.weights) > 0);
    -- Before any other row: the totals, the customer's turn. A click waits for none of what is locked here longer than
    -- coupon_ext.lock_wait: it is kept, and its session rebuilt. A checkout waits no longer than coupon_ext.redeem_wait.
    PERFORM coupon_internal.lock_mutex('totals');
    PERFORM FROM coupon.customer_limit h WHERE h.customer = person AND h.campaign = '' FOR UPDATE;
    -- A session is theirs with all that happened in it, signed in or not, unless somebody else signed in first.
    theirs := ARRAY(
        SELECT s.session FROM coupon.session s WHERE s.customer = person
        UNION SELECT c.session FROM coupon.coupon c WHERE c.customer = person
        UNION SELECT d.session FROM coupon.decision d WHERE d.customer = person
        UNION SELECT k.session FROM coupon.click k WHERE k.customer = person AND NOT EXISTS (
            SELECT FROM coupon.click o WHERE o.session = k.session AND o.customer <> person)
        -- Of some, nothing is known but the mark of a click that was missed.
        UNION SELECT g.session FROM coupon.missed_click g WHERE g.customer = person AND NOT EXISTS (
            SELECT FROM coupon.session s WHERE s.session = g.session AND s.customer <> person));
    PERFORM FROM coupon.session s WHERE s.session = ANY (theirs) ORDER BY s.session FOR UPDATE;
    PERFORM FROM coupon.order_discount o WHERE o.order_id IN (
        SELECT c.order_id FROM coupon.coupon c WHERE c.session = ANY (theirs)) ORDER BY o.order_id FOR UPDATE;
    PERFORM FROM coupon.coupon c WHERE c.session = ANY (theirs) ORDER BY c.session, c.id FOR UPDATE;
    coupons := ARRAY(SELECT c.id FROM coupon.coupon c WHERE c.session = ANY (theirs));

    PERFORM coupon_internal.archive_coupons(array_agg(c.session), array_agg(c.id)) FROM coupon.coupon c WHERE c.session = ANY (theirs);
    PERFORM coupon_internal.archive_decisions(array_agg(d.session), array_agg(d.campaign))
    FROM coupon.decision d WHERE d.session = ANY (theirs);
    FOR back IN SELECT c.campaign, c.budget_day, sum(c.reserved_amount) AS reserved_amount FROM coupon.coupon c
        WHERE c.session = ANY (theirs) AND c.closed_at IS NULL GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        PERFORM coupon_internal.return_reserved_amount(back.campaign, back.budget_day, back.reserved_amount);
    END LOOP;

    relation := 'coupon.coupon';
    kept := 'coupon.archived_total: how many were issued and redeemed, and what they took off, by campaign, day and arm. '
        'coupon.audit: the random ids of coupons, and digests of their orders. What was taken off an order stays spent';
    orders := ARRAY(SELECT DISTINCT c.order_id FROM coupon.coupon c WHERE c.session = ANY (theirs) AND c.order_id IS NOT NULL);
    DELETE FROM coupon.coupon c WHERE c.session = ANY (theirs);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.order_discount'; kept := 'orders that have a coupon of somebody else: their number, amount and discount';
    DELETE FROM coupon.order_discount o WHERE o.order_id = ANY (orders)
        AND NOT EXISTS (SELECT FROM coupon.coupon c WHERE c.order_id = o.order_id);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.decision'; kept := 'coupon.archived_total: how many there were, by campaign, day and arm';
    DELETE FROM coupon.decision d WHERE d.session = ANY (theirs);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    kept := NULL;
    relation := 'coupon.redemption_attempt';
    DELETE FROM coupon.redemption_attempt a WHERE a.customer = person OR a.session = ANY (theirs) OR a.coupon = ANY (coupons);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.customer_limit';
    DELETE FROM coupon.customer_limit h WHERE h.customer = person;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.redemption_limit';
    DELETE FROM coupon.redemption_limit p WHERE p.presenter = coupon_internal.name_presenter(NULL, person)
        OR p.presenter IN (SELECT coupon_internal.name_presenter(s, NULL) FROM unnest(theirs) s)
        -- Whose a session is that nothing of ours knows, nobody can say: one of theirs it may be.
        OR starts_with(p.presenter, 'session ') AND NOT EXISTS (
            SELECT FROM coupon.session s WHERE s.session = substr(p.presenter, 9));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.error_log';
    DELETE FROM coupon.error_log f WHERE f.customer = person OR f.session = ANY (theirs);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.missed_click';
    DELETE FROM coupon.missed_click g WHERE g.session = ANY (theirs);
    GET DIAGNOSTICS removed = ROW_COUNT;
    -- Somebody else's session has missed their click and stays marked.
    UPDATE coupon.missed_click g SET customer = NULL WHERE g.customer = person;
    RETURN NEXT;
    relation := 'coupon.customer';
    DELETE FROM coupon.customer c WHERE c.customer = person;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.session';
    DELETE FROM coupon.session s WHERE s.session = ANY (theirs);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    relation := 'coupon.click';
    DELETE FROM coupon.click k WHERE k.customer = person OR k.session = ANY (theirs);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
    removed := 0; kept := 'all: the shop''s own table, whose rows about the customer are the shop''s to remove';
    FOR relation IN SELECT w.relation::text FROM coupon.watched w WHERE w.relation <> 'coupon.click'::regclass ORDER BY 1 LOOP
        RETURN NEXT;
    END LOOP;
    relation := 'coupon.model';
    kept := CASE WHEN named THEN 'all, and a word they know is this id: a column mapped as page, category or attribute holds it. '
        'Train a version without it, then SELECT coupon.drop_version() of those that have it'
        ELSE 'all: numbers learned from everybody''s clicks, and the commonest pages, categories and attributes' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION coupon.forget(text) IS 'Removes a customer from everything coupon_ext stores, in one transaction, and says what it removed and what it kept; a customer who comes back is a new one';

CREATE FUNCTION coupon_internal.get_retention(setting text) RETURNS interval
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The clock first: it loads the library, without which anybody could have set the placeholder of a setting.
    PERFORM coupon.clock();
    RETURN nullif(current_setting('coupon_ext.' || setting)::interval, '0');
END
$$;
COMMENT ON FUNCTION coupon_internal.get_retention(text) IS 'A retention; NULL: for ever';

CREATE FUNCTION coupon_internal.delete_expired_rows(batch int, OUT sessions bigint, OUT coupons bigint, OUT decisions bigint, OUT notes bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT timestamptz := coupon.clock() - coupon_internal.get_retention('session_retention');
    closed CONSTANT timestamptz := coupon.clock() - coupon_internal.get_retention('coupon_retention');
    n bigint;
    of text[];
    ids uuid[];
    whose text[];
    orders text[];
BEGIN
    sessions := 0; coupons := 0; decisions := 0; notes := 0;
    IF before IS NULL AND closed IS NULL OR NOT coupon_internal.try_lock_mutex('totals', true) THEN
        RETURN;
    END IF;
    IF closed IS NOT NULL THEN
        SELECT array_agg(c.session), array_agg(c.id) INTO of, ids FROM (
            SELECT x.session, x.id FROM coupon.coupon x WHERE x.closed_at < closed
            ORDER BY x.closed_at LIMIT batch FOR UPDATE SKIP LOCKED) c;
        PERFORM coupon_internal.archive_coupons(of, ids);
        WITH gone AS (DELETE FROM coupon.coupon c USING unnest(of, ids) u(session, id)
            WHERE c.session = u.session AND c.id = u.id RETURNING c.order_id)
        SELECT count(*), array_agg(DISTINCT order_id) INTO coupons, orders FROM gone;
        DELETE FROM coupon.order_discount WHERE order_id IN (
            SELECT o.order_id FROM coupon.order_discount o WHERE o.order_id = ANY (orders) AND NOT EXISTS (
                SELECT FROM coupon.coupon c WHERE c.order_id = o.order_id) FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS notes = ROW_COUNT;
        -- A decision outlives its coupon: it knows the arm.
        SELECT array_agg(d.session), array_agg(d.campaign) INTO of, whose FROM (
            SELECT x.session, x.campaign FROM coupon.decision x WHERE x.decided_at < closed
                AND NOT EXISTS (SELECT FROM coupon.coupon c WHERE c.session = x.session AND c.campaign = x.campaign)
            ORDER BY x.decided_at LIMIT batch FOR UPDATE SKIP LOCKED) d;
        PERFORM coupon_internal.archive_decisions(of, whose);
        DELETE FROM coupon.decision d USING unnest(of, whose) u(session, campaign)
        WHERE d.session = u.session AND d.campaign = u.campaign;
        GET DIAGNOSTICS decisions = ROW_COUNT;
        DELETE FROM coupon.redemption_attempt WHERE id IN (
            SELECT x.id FROM (SELECT a.id, a.at FROM coupon.redemption_attempt a ORDER BY a.id LIMIT batch) x WHERE x.at < closed);
        GET DIAGNOSTICS n = ROW_COUNT;
        notes := notes + n;
        DELETE FROM coupon.budget_bucket p WHERE p.day > '-infinity' AND p.day < closed::date - 1 AND NOT EXISTS (
            SELECT FROM coupon.coupon c WHERE c.campaign = p.campaign AND c.budget_day = p.day AND c.closed_at IS NULL);
        GET DIAGNOSTICS n = ROW_COUNT;
        notes := notes + n;
    END IF;
    IF before IS NOT NULL THEN
        DELETE FROM coupon.session s WHERE s.session IN (
            SELECT x.session FROM coupon.session x WHERE x.started_at < before AND x.last_at < before
                AND NOT EXISTS (SELECT FROM coupon.coupon c WHERE c.session = x.session AND c.closed_at IS NULL)
            ORDER BY x.started_at LIMIT batch FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS sessions = ROW_COUNT;
        DELETE FROM coupon.error_log WHERE id IN (
            SELECT x.id FROM (SELECT f.id, f.at FROM coupon.error_log f ORDER BY f.id LIMIT batch) x WHERE x.at < before);
        GET DIAGNOSTICS n = ROW_COUNT;
        notes := notes + n;
        -- The mark of a session that is still there says that it missed a click.
        DELETE FROM coupon.missed_click WHERE ctid = ANY (ARRAY(SELECT g.ctid FROM coupon.missed_click g WHERE g.at < before
            AND NOT EXISTS (SELECT FROM coupon.session s WHERE s.session = g.session) LIMIT batch));
        GET DIAGNOSTICS n = ROW_COUNT;
        notes := notes + n;
        DELETE FROM coupon.redemption_limit WHERE presenter IN (
            SELECT p.presenter FROM coupon.redemption_limit p WHERE p.since < before LIMIT batch FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS n = ROW_COUNT;
        notes := notes + n;
    END IF;
END
$$;
COMMENT ON FUNCTION coupon_internal.delete_expired_rows(int) IS 'Deletes at most batch rows of each kind that outlived coupon_ext.session_retention and coupon_ext.coupon_retention; nothing while another transaction is at it';

-- A procedure, so that the removal of millions holds nothing for long and loses nothing when it is cancelled.
CREATE PROCEDURE coupon.maintain_all(batch int DEFAULT 10000)
LANGUAGE plpgsql AS $$
DECLARE
    done pg_catalog.record;
BEGIN
    IF batch IS NULL OR batch OPERATOR(pg_catalog.<) 1 THEN
        RAISE EXCEPTION 'batch is %', batch USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass how many rows a transaction may take.';
    END IF;
    LOOP
        SELECT * INTO done FROM coupon.maintain(batch);
        COMMIT;
        EXIT WHEN GREATEST(done.expired, done.rebuilt, done.compacted, done.sessions, done.coupons, done.decisions, done.notes)
            OPERATOR(pg_catalog.<) batch;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE coupon.maintain_all(int) IS 'coupon.maintain with a commit after every batch, until nothing is left to do';
