-- needs: shop
-- Version 1 and version 2, which serves: two that are the same, trained on the whole log, without a refit, so that
-- their
-- cards are of what serves.
SET timezone = 'UTC';
SET coupon_ext.threads = 2;
SELECT count(*) FROM coupon.train(until => '2026-02-01', spec => '{"churn": {"epochs": 1, "refit": false}}');
SELECT count(*) FROM coupon.train(until => '2026-02-01', spec => '{"churn": {"epochs": 1, "refit": false}}');

-- The page views of a session as coupon.events reads them: what the array form is given.
CREATE FUNCTION views_of(session text) RETURNS coupon.page_view[] LANGUAGE sql STABLE AS $$
    SELECT array_agg((at, kind, page, category, product, price, attributes)::coupon.page_view ORDER BY n)
    FROM (SELECT e.*, bool_or(kind IN ('checkout', 'purchase')) OVER (ORDER BY n) AS over
          FROM (SELECT e.*, row_number() OVER () AS n FROM coupon.session_events(views_of.session) e) e) e
              WHERE NOT over
$$;

-- The draw as anybody with SHA-256 can compute it: the first 53 bits of salt, experiment and unit, joined by zero
-- bytes.
CREATE FUNCTION draw(salt text, experiment text, unit text) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT ((('x' || encode(substr(sha256(convert_to(salt, 'UTF8') || '\x00' || convert_to(experiment,
        'UTF8') || '\x00' || convert_to(unit, 'UTF8')), 1, 8), 'hex'))::bit(64)) >> 11)::bigint / 2 ^ 53
$$;
-- The thresholds of a policy at a target share, from the version's card.
CREATE FUNCTION thresholds(policy text, target float8, pooled boolean DEFAULT false)
    RETURNS TABLE (eta float8, tau float8, random_share float8, views jsonb, min_views int) LANGUAGE sql AS $$
    SELECT (t ->> 'eta')::float8, (t ->> 'tau')::float8, (t ->> 'random_share')::float8, t -> 'views',
        (t ->> 'min_views')::int
    FROM coupon.model, jsonb_array_elements(card -> CASE WHEN pooled THEN 'pooled' ELSE 'segments' END -> 'rows') r,
        LATERAL (SELECT r -> policy AS t) p
    WHERE version = 2 AND stage = 'issue' AND (t ->> 'target')::float8 = target
$$;
-- The view at which policy random decides about a session, and a name that begins so and is drawn there, to be issued
-- or not.
CREATE FUNCTION view_of_random(session text) RETURNS int LANGUAGE sql AS $$
    SELECT min(view) FROM (SELECT (e.v ->> 0)::int AS view,
        sum((e.v ->> 1)::float8) OVER (ORDER BY (e.v ->> 0)::int) AS upto FROM thresholds('random', 0.5) t,
        jsonb_array_elements(t.views) e(v)) u WHERE draw('view', 'regress', session) < upto
$$;
CREATE FUNCTION name_it(prefix text, issued boolean) RETURNS text LANGUAGE sql AS $$
    SELECT prefix || i FROM generate_series(1, 1000) i WHERE (draw('issue', 'regress', prefix || i) < 0.8) = issued
        AND view_of_random(prefix || i) = 4 ORDER BY i LIMIT 1
$$;
-- n views of a session, one statement each, the last of them `ago` before the clock.
CREATE PROCEDURE look(session text, n int, ago interval DEFAULT '0', kind text DEFAULT 'view') LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..n LOOP
        INSERT INTO coupon.click (session, at, kind, category)
            VALUES (look.session, coupon.clock() - ago - (n - i) * interval '1 second', look.kind, 'shoes');
    END LOOP;
END
$$;
-- Four views in a row, after which a session of name_it has its coupon.
CREATE PROCEDURE give(session text, customer text DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..4 LOOP
        INSERT INTO coupon.click (session, at, kind, category, customer)
            VALUES (give.session, coupon.clock() - (4 - i) * interval '1 second', 'view', 'shoes', give.customer);
    END LOOP;
END
$$;
-- A coupon of a new session; its code.
CREATE FUNCTION coupon_for(prefix text, customer text DEFAULT NULL, OUT session text, OUT code text)
    LANGUAGE plpgsql AS $$
BEGIN
    session := name_it(prefix || '-', true);
    CALL give(session, customer);
    code := (issue_coupon(session)).code;
END
$$;
-- What stops a new session now; and that the trigger noted the same.
CREATE FUNCTION stopped_by(prefix text, customer text DEFAULT NULL, zone text DEFAULT NULL)
    RETURNS TABLE (rule text, detail text, noted text, coupon boolean) LANGUAGE plpgsql AS $$
DECLARE
    of text := name_it(prefix || '-', true);
BEGIN
    FOR i IN 1..4 LOOP
        INSERT INTO coupon.click (session, at, kind, category, customer, zone)
            VALUES (of, coupon.clock() - (4 - i) * interval '1 second', 'view', 'shoes', stopped_by.customer,
            stopped_by.zone);
    END LOOP;
    SELECT e.condition, e.detail INTO rule, detail FROM coupon.explain_decision(of) e WHERE e.condition LIKE 'rule %'
        OR e.condition = 'all rules';
    SELECT d.reason INTO noted FROM coupon.decision d WHERE d.session = of AND d.outcome = 'stopped';
    coupon := EXISTS (SELECT FROM coupon.coupon c WHERE c.session = of);
    RETURN NEXT;
END
$$;
