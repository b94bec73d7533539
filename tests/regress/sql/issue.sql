-- issue: who becomes eligible, which draw decides, and what a coupon is. Draws, views and thresholds are recomputed in
-- SQL.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

SELECT draw('arm', 'default', 's-42') = 0.08602841669777228 AS as_published;
-- What a session's probabilities were, view by view.
CREATE FUNCTION path_of(session text, segment int) RETURNS TABLE (view int, churn float8, max_purchase_probability float8)
    LANGUAGE sql AS $$
    WITH v AS MATERIALIZED (SELECT views_of(path_of.session) AS v),
        p AS MATERIALIZED (SELECT i, churn_probability(path_of.segment, v.v[1:i]) AS churn FROM v,
        generate_series(1, cardinality(v.v)) i)
    SELECT i, churn, max(1 - churn) OVER (ORDER BY i) FROM p
$$;

-- A campaign of its own salt, so that draws can be told in advance; the share of sessions is larger than any shop would
-- want.
TRUNCATE coupon.decision;
UPDATE coupon.session SET decided_campaigns = NULL;
SELECT max_discount, budget, currency, unlimited FROM coupon.campaign;
UPDATE coupon.campaign SET salt = 'regress', target = 0.2, max_discount = NULL, budget = NULL, unlimited = true
    WHERE campaign = 'default';
SELECT campaign, state, discount, valid_for, display_seconds, holdout, priority, live_since IS NULL AS never_live
    FROM coupon.campaign;
SELECT * FROM coupon.arm;

--
-- In shadow: it decides and logs everything and issues nothing
--
SELECT coupon.simulate(800, 1, 0, '2026-02-05') AS clicks;
-- at_risk: the first view from the fourth on where the session was interested and is leaving.
CREATE TABLE foreseen AS
SELECT s.session, min(p.view) AS view FROM (SELECT session, segment FROM coupon.session
    WHERE started_at >= '2026-02-05' AND started_at < '2026-02-06' AND views >= 4) s
CROSS JOIN LATERAL path_of(s.session, s.segment) p, thresholds('at_risk', 0.2) t WHERE p.view >= t.min_views
    AND p.max_purchase_probability >= t.eta AND p.churn >= t.tau GROUP BY s.session;
SELECT count(*) > 10 AS some, count(*) FILTER (WHERE d.session IS NULL) AS missed,
    count(*) FILTER (WHERE f.session IS NULL) AS too_many, count(*) FILTER (WHERE d.view <> f.view) AS at_another_view
FROM foreseen f FULL JOIN coupon.decision d USING (session);
SELECT count(*) FILTER (WHERE outcome <> 'shadow' OR issue_probability <> 0 OR reason <> 'eligible') AS not_shadow,
    count(*) FILTER (WHERE arm <> 'at_risk' OR policy <> 'at_risk' OR arm_probability <> 1) AS arm,
    count(*) FILTER (WHERE abs(issue_draw - draw('issue', 'regress', session)) > 1e-15) AS draw,
        count(*) FILTER (WHERE target <> 0.2 OR version <> 2) AS target,
    count(*) FILTER (WHERE churn < tau OR max_purchase_probability < eta OR view < 4) AS not_eligible,
        count(*) FILTER (WHERE decided_at < clicked_at OR decided_at > clicked_at + interval '1 minute') AS clock,
    count(*) FILTER (WHERE categories -> 0 ->> 'category' IS DISTINCT FROM category
        OR jsonb_array_length(categories) <> 5) AS ranking
FROM coupon.decision;
SELECT count(*) FILTER (WHERE abs(d.eta - t.eta) > 1e-12 OR abs(d.tau - t.tau) > 1e-12) AS other_thresholds
    FROM coupon.decision d, thresholds('at_risk', 0.2) t;
SELECT count(*) = (SELECT count(*) FROM coupon.decision) AS every_such_session_knows FROM coupon.decision d
    JOIN coupon.session s USING (session) WHERE s.decided_campaigns = '{default}';
SELECT count(*) = (SELECT count(*) FROM coupon.decision) AS and_no_other FROM coupon.session WHERE decided_campaigns <> '{}';
SELECT count(*) AS coupons FROM coupon.coupon;
SELECT issue_coupon(session) IS NULL AS no_offer FROM coupon.decision ORDER BY session LIMIT 1;

--
-- Live: issued or held out as the draw says
--
SELECT refused($$SELECT coupon.go_live('summer')$$);
SELECT refused($$SELECT coupon.go_live(NULL)$$);
SET coupon_ext.mock_clock = '2026-02-06 00:00:00';
SELECT coupon.go_live('default');
RESET coupon_ext.mock_clock;
SELECT state, live_since FROM coupon.campaign;
TRUNCATE coupon.decision;
SELECT coupon.simulate(800, 1, 0, '2026-02-06') AS clicks;
TRUNCATE foreseen;
INSERT INTO foreseen SELECT s.session, min(p.view)
    FROM (SELECT session, segment FROM coupon.session WHERE started_at >= '2026-02-06' AND views >= 4) s
CROSS JOIN LATERAL path_of(s.session, s.segment) p, thresholds('at_risk', 0.2) t WHERE p.view >= t.min_views
    AND p.max_purchase_probability >= t.eta AND p.churn >= t.tau GROUP BY s.session;
SELECT count(*) > 10 AS some, count(*) FILTER (WHERE d.session IS NULL) AS missed,
    count(*) FILTER (WHERE f.session IS NULL) AS too_many, count(*) FILTER (WHERE d.view <> f.view) AS at_another_view
FROM foreseen f FULL JOIN (SELECT * FROM coupon.decision WHERE clicked_at >= '2026-02-06') d USING (session);
SELECT count(*) FILTER (WHERE outcome = 'issued') > 5 AS issued,
    count(*) FILTER (WHERE outcome = 'held out') > 0 AS held_out,
    count(*) FILTER (WHERE issue_probability <> 0.8) AS probability,
    count(*) FILTER (WHERE (outcome = 'issued') <> (draw('issue', 'regress', session) < 0.8)) AS against_the_draw,
        count(*) FILTER (WHERE outcome = 'shadow') AS shadow FROM coupon.decision;
SELECT count(*) FILTER (WHERE c.session IS NULL) AS issued_without_a_coupon,
    count(*) FILTER (WHERE d.session IS NULL) AS coupon_without_a_decision,
    count(*) FILTER (WHERE c.issued_at <> d.decided_at OR c.expires_at <> c.issued_at + interval '2 hours') AS times,
        count(*) FILTER (WHERE c.category IS DISTINCT FROM d.category OR c.customer IS DISTINCT
        FROM d.customer) AS terms,
    count(*) FILTER (WHERE c.discount <> 10 OR c.display_seconds <> 6 OR c.campaign <> 'default'
        OR c.message <> format('10 %% off %s, for you, for the next 2 hours', c.category)) AS offer,
    count(*) FILTER (WHERE c.code !~ '^([0-9A-HJKMNP-TV-Z]{4}-){4}[0-9A-HJKMNP-TV-Z*~$=U]$'
        OR coupon_internal.normalise_code(c.code) <> c.code) AS code,
        count(*) FILTER (WHERE c.closed_at IS NOT NULL OR c.redeemed_at IS NOT NULL) AS closed
FROM (SELECT * FROM coupon.decision WHERE outcome = 'issued') d FULL JOIN coupon.coupon c USING (session);
SELECT count(*) = count(DISTINCT code) AND count(*) = count(DISTINCT id)
    AND count(*) = count(DISTINCT session) AS one_each FROM coupon.coupon;

--
-- Arms: every session is in one by hash at its first view, in proportion to the shares
--
UPDATE coupon.arm SET arm = 'a', policy = 'risk', share = 0.3 WHERE campaign = 'default';
INSERT INTO coupon.arm (campaign, arm, policy, segments, ranking, share)
    VALUES ('default', 'b', 'random', false, 'popular', 0.2);
SELECT coupon.arm_of('default', 'x') = CASE WHEN draw('arm', 'regress', 'x') < 0.6 THEN 'a' ELSE 'b' END AS alike,
    coupon.arm_of('summer', 'x'), coupon.arm_of('default', NULL), coupon.arm_of(NULL, 'x');
SELECT count(*) FILTER (WHERE coupon.arm_of('default', 's' || i) <> CASE WHEN draw('arm', 'regress', 's' || i) < 0.6
    THEN 'a' ELSE 'b' END) AS differ,
    abs(avg((coupon.arm_of('default', 's' || i) = 'a')::int) - 0.6) < 0.03 AS three_in_five
        FROM generate_series(1, 2000) i;
SELECT coupon.simulate(800, 1, 0, '2026-02-07') AS clicks;
TRUNCATE foreseen;
-- risk: the first view from the fourth on that is above τ.
INSERT INTO foreseen SELECT s.session, min(p.view)
    FROM (SELECT session, segment FROM coupon.session WHERE started_at >= '2026-02-07' AND views >= 4
    AND draw('arm', 'regress', session) < 0.6) s
CROSS JOIN LATERAL path_of(s.session, s.segment) p, thresholds('risk', 0.2) t WHERE p.view >= t.min_views
    AND p.churn >= t.tau GROUP BY s.session;
SELECT count(*) > 5 AS some, count(*) FILTER (WHERE d.session IS NULL) AS missed,
    count(*) FILTER (WHERE f.session IS NULL) AS too_many, count(*) FILTER (WHERE d.view <> f.view) AS at_another_view
FROM foreseen f FULL JOIN (SELECT * FROM coupon.decision WHERE arm = 'a') d USING (session);
TRUNCATE foreseen;
-- random: one draw says whether and at which view, by the shares of views at which at_risk issues. Without segments the
-- pooled thresholds hold.
INSERT INTO foreseen SELECT s.session, v.view
    FROM (SELECT session, views, draw('view', 'regress', session) AS unit FROM coupon.session
    WHERE started_at >= '2026-02-07' AND draw('arm', 'regress', session) >= 0.6) s,
    thresholds('random', 0.2, true) t, LATERAL (SELECT view
        FROM (SELECT (e.v ->> 0)::int AS view, sum((e.v ->> 1)::float8) OVER (ORDER BY (e.v ->> 0)::int) AS upto
        FROM jsonb_array_elements(t.views) e(v)) u
    WHERE s.unit / t.random_share < u.upto ORDER BY view LIMIT 1) v WHERE s.unit < t.random_share AND s.views >= v.view;
SELECT count(*) > 5 AS some, count(*) FILTER (WHERE d.session IS NULL) AS missed,
    count(*) FILTER (WHERE f.session IS NULL) AS too_many, count(*) FILTER (WHERE d.view <> f.view) AS at_another_view
FROM foreseen f FULL JOIN (SELECT * FROM coupon.decision WHERE arm = 'b') d USING (session);
SELECT arm, policy, segments, ranking, round(arm_probability::numeric, 6) AS arm_probability,
    bool_and(abs(arm_draw - draw('arm', 'regress', session)) < 1e-15) AS arm_drawn,
    bool_and(outcome = CASE WHEN draw('issue', 'regress', session) < 0.8 THEN 'issued' ELSE 'held out' END) AS as_drawn,
    count(DISTINCT (segment, categories)) = count(DISTINCT segment) AS the_same_for_all_of_a_segment
FROM coupon.decision WHERE clicked_at >= '2026-02-07' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1;
-- In an arm without segments the pooled model scores, whatever segment is noted.
SELECT count(*) > 5 AS some, count(*) FILTER (WHERE abs(d.churn - p.churn) > 1e-6) AS differ FROM coupon.decision d
    CROSS JOIN LATERAL path_of(d.session, 0) p WHERE d.arm = 'b' AND p.view = d.view;
DROP TABLE foreseen;

--
-- One session, step by step
--
-- Everybody who looks long enough is drawn; sessions are named so that the draw is known.
DELETE FROM coupon.arm WHERE arm = 'b';
UPDATE coupon.arm SET arm = 'all', policy = 'random', share = 1;
UPDATE coupon.campaign SET target = 0.5;
SELECT random_share = 1 AS everybody FROM thresholds('random', 0.5);
SET coupon_ext.mock_clock = '2026-02-10 12:00:00';
SELECT name_it('yes-', true) AS yes, name_it('no-', false) AS no, name_it('stale-', true) AS stale,
    name_it('future-', true) AS future, name_it('frozen-', true) AS frozen, name_it('gap-', true) AS gap,
    name_it('rec-', true) AS rec,
    name_it('off-', true) AS off, name_it('paused-', true) AS paused, name_it('cheap-', true) AS cheap,
        name_it('quiet-', true) AS quiet, name_it('loud-', true) AS loud \gset

CALL look(:'yes', 3);
SELECT issue_coupon(:'yes') IS NULL AS too_early;
SELECT step, campaign, condition, holds, detail FROM coupon.explain_decision(:'yes')
    WHERE condition NOT IN ('drawn', 'the session is known') ORDER BY step;
CALL look(:'yes', 1);
SELECT outcome, view, decided_at, clicked_at, customer, policy, arm FROM coupon.decision WHERE session = :'yes';
SELECT (o).code = c.code AS code, (o).category = c.category AS category, (o).discount, (o).issued_at, (o).expires_at,
    (o).display_seconds, (o).campaign, replace((o).message, c.category, 'CATEGORY') AS message
FROM (SELECT issue_coupon(:'yes') AS o) i, coupon.coupon c WHERE c.session = :'yes';
-- Asking twice, or ten times, and more clicks: the same code.
SELECT count(DISTINCT (issue_coupon(:'yes')).code) AS codes FROM generate_series(1, 10);
CALL look(:'yes', 3);
SELECT count(*) AS coupons, bool_and(c.code = (issue_coupon(:'yes')).code) AS the_same FROM coupon.coupon c
    WHERE session = :'yes';
-- The same where it cannot be looked up beside the executor, and with the extension switched off.
BEGIN;
ALTER INDEX coupon.coupon_live RENAME TO renamed;
SELECT (issue_coupon(:'yes')).code IS NOT NULL AS offer, issue_coupon('nobody') IS NULL AS nobody;
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT (issue_coupon(:'yes')).code IS NOT NULL AS offer, issue_coupon('nobody') IS NULL AS nobody;
ROLLBACK;
SET coupon_ext.enabled = off;
SELECT (issue_coupon(:'yes')).code IS NOT NULL AS offer, issue_coupon('nobody') IS NULL AS nobody;
RESET coupon_ext.enabled;
SELECT condition, holds, detail FROM coupon.explain_decision(:'yes') WHERE condition LIKE 'rule%';
-- Held out: the same path, logged, and nothing to see.
CALL look(:'no', 6);
SELECT issue_coupon(:'no') IS NULL AS no_coupon;
SELECT outcome, view, reason, (SELECT count(*) FROM coupon.coupon c WHERE c.session = d.session) AS coupons
    FROM coupon.decision d WHERE session = :'no';
-- NULL, unknown, empty, too long.
SELECT issue_coupon(NULL::text) IS NULL AS null_text, issue_coupon(NULL::bigint) IS NULL AS null_bigint,
    issue_coupon(NULL::uuid) IS NULL AS null_uuid, issue_coupon('nobody') IS NULL AS nobody,
    issue_coupon('') IS NULL AS empty,
    issue_coupon(repeat('x', 100000)) IS NULL AS too_long;
SELECT count(*) AS nothing_was_made FROM coupon.session WHERE session IN ('nobody', '') OR length(session) > 256;
-- Sessions that are numbers or uuids.
SELECT i AS number FROM generate_series(1, 1000) i WHERE draw('issue', 'regress', i::text) < 0.8
    AND view_of_random(i::text) = 4 LIMIT 1 \gset
SELECT md5(i::text)::uuid AS uuid FROM generate_series(1, 1000) i
    WHERE draw('issue', 'regress', md5(i::text)::uuid::text) < 0.8 AND view_of_random(md5(i::text)::uuid::text) = 4
    LIMIT 1 \gset
CALL look(:'number', 4);
CALL look(:'uuid', 4);
SELECT (issue_coupon(:number)).code = (issue_coupon(:'number')).code AS bigint_form,
    (issue_coupon(:'uuid'::uuid)).code = (issue_coupon(:'uuid')).code AS uuid_form;
SELECT count(*) AS coupons FROM coupon.coupon WHERE session IN (:'number', :'uuid');
-- record_click answers with the offer in one round trip.
CALL look(:'rec', 3);
SELECT code AS offered FROM coupon.record_click(:'rec') \gset
SELECT code = :'offered' AS at_once FROM coupon.coupon WHERE session = :'rec';
SELECT code = :'offered' AS and_again FROM coupon.record_click(:'rec');
SELECT code = :'offered' AS read_only FROM coupon.live_offer(:'rec');
SELECT coupon.live_offer('nobody') IS NULL AS nobody, coupon.live_offer(NULL) IS NULL AS no_session;

--
-- The clock
--
-- A click older than max_click_age, or in the future, advances the session and decides nothing.
CALL look(:'stale', 6, '5 minutes 1 second');
SELECT (SELECT views FROM coupon.session s WHERE s.session = :'stale') AS views,
    (SELECT count(*) FROM coupon.decision d WHERE d.session = :'stale') AS decisions;
SELECT issue_coupon(:'stale') IS NULL AS no_coupon;
SELECT condition, holds, detail FROM coupon.explain_decision(:'stale') WHERE condition = 'its last click is recent';
CALL look(:'future', 6, '-1 minute');
SELECT (SELECT views FROM coupon.session s WHERE s.session = :'future') AS views,
    (SELECT count(*) FROM coupon.decision d WHERE d.session = :'future') AS decisions;
SELECT issue_coupon(:'future') IS NULL AS no_coupon;
-- The next fresh click decides; so does asking as long as the last click is fresh.
CALL look(:'stale', 1, '5 minutes');
SELECT outcome, view FROM coupon.decision WHERE session = :'stale';
SET coupon_ext.mock_clock = '2026-02-10 12:02:00';
SELECT (issue_coupon(:'future')).code IS NOT NULL AS now_it_is_the_present;
SELECT outcome, view, decided_at, clicked_at FROM coupon.decision WHERE session = :'future';
-- A COPY of last month's clicks decides nothing.
COPY coupon.click (session, at, kind) FROM stdin;
old-1	2026-01-10 12:00:00+00	view
old-1	2026-01-10 12:00:01+00	view
old-1	2026-01-10 12:00:02+00	view
old-1	2026-01-10 12:00:03+00	view
old-1	2026-01-10 12:00:04+00	view
old-1	2026-01-10 12:00:05+00	view
old-1	2026-01-10 12:00:06+00	view
old-1	2026-01-10 12:00:07+00	view
old-1	2026-01-10 12:00:08+00	view
old-1	2026-01-10 12:00:09+00	view
\.
SELECT count(*) AS decisions FROM coupon.decision WHERE session = 'old-1';
-- After two hours the offer is gone; nothing was written for that.
SET coupon_ext.mock_clock = '2026-02-10 13:59:59.999999';
SELECT (issue_coupon(:'yes')).code IS NOT NULL AS in_the_last_microsecond;
SET coupon_ext.mock_clock = '2026-02-10 14:00:00';
SELECT issue_coupon(:'yes') IS NULL AS expired, closed_at IS NULL AS not_closed_yet FROM coupon.coupon
    WHERE session = :'yes';
-- The sweep closes it, at the time it expired, and forgets the state of sessions that are long over.
SELECT expired > 5 AS expired FROM coupon.maintain();
SELECT closed_at, expires_at FROM coupon.coupon WHERE session = :'yes';
SELECT expired, rebuilt FROM coupon.maintain();
SELECT expired, rebuilt, compacted FROM coupon.maintain(0);

--
-- What keeps a session from a decision
--
SET coupon_ext.mock_clock = '2026-02-10 15:00:00';
-- a checkout
CALL look(:'frozen', 3);
CALL look(:'frozen', 1, kind => 'checkout');
CALL look(:'frozen', 5);
SELECT (SELECT count(*) FROM coupon.decision d WHERE d.session = :'frozen') AS decisions,
    issue_coupon(:'frozen') IS NULL AS no_coupon;
SELECT condition, holds FROM coupon.explain_decision(:'frozen') WHERE condition = 'no checkout or purchase yet';
-- a click that was missed, until it was rebuilt: asking rebuilds, and so does the sweep
CALL look(:'gap', 3);
INSERT INTO coupon.missed_click (session, reason) VALUES (:'gap', 'test');
CALL look(:'gap', 2);
SELECT views FROM coupon.session WHERE session = :'gap';
SELECT condition, holds FROM coupon.explain_decision(:'gap') ORDER BY step DESC LIMIT 1;
BEGIN;
SELECT (issue_coupon(:'gap')).code IS NOT NULL AS rebuilt_and_issued;
SELECT s.views, abs(s.churn - churn_probability(s.segment, views_of(s.session))) < 1e-6 AS as_if_nothing_was_missed,
    (SELECT count(*) FROM coupon.missed_click) AS gaps FROM coupon.session s WHERE session = :'gap';
ROLLBACK;
SELECT rebuilt FROM coupon.maintain();
SELECT s.views, abs(s.churn - churn_probability(s.segment, views_of(s.session))) < 1e-6 AS as_if_nothing_was_missed,
    (SELECT count(*) FROM coupon.missed_click) AS gaps FROM coupon.session s WHERE session = :'gap';
-- a session that comes back after the sweep freed its state is not scored, until the sweep has read the log again; then
-- from
-- its first view on, never from the middle
BEGIN;
CALL look('swept', 3);
SET LOCAL coupon_ext.mock_clock = '2026-02-16 15:00:01';
SELECT compacted > 0 AS compacted FROM coupon.maintain();
SELECT state IS NULL AS freed, churn IS NOT NULL AS churn_is_kept FROM coupon.session WHERE session = 'swept';
CALL look('swept', 3);
SELECT s.views, cardinality(views_of(session)) AS in_the_log, churn_probability(session) IS NOT NULL AS scored,
    abs(churn_probability(session) - churn_probability(segment, views_of(session))) < 1e-6 AS from_the_first,
    abs(churn_probability(session) - churn_probability(segment, (views_of(session))[4:])) < 1e-6 AS from_the_middle,
    (SELECT string_agg(reason, ', ') FROM coupon.missed_click g WHERE g.session = s.session) AS missed
FROM coupon.session s WHERE session = 'swept';
SELECT rebuilt FROM coupon.maintain();
SELECT s.views, cardinality(views_of(session)) AS in_the_log, churn_probability(session) IS NOT NULL AS scored,
    abs(churn_probability(session) - churn_probability(segment, views_of(session))) < 1e-6 AS from_the_first,
    abs(churn_probability(session) - churn_probability(segment, (views_of(session))[4:])) < 1e-6 AS from_the_middle,
    (SELECT string_agg(reason, ', ') FROM coupon.missed_click g WHERE g.session = s.session) AS missed
FROM coupon.session s WHERE session = 'swept';
ROLLBACK;
-- the switch
CALL look(:'off', 3);
BEGIN;
SET LOCAL coupon_ext.enabled = off;
CALL look(:'off', 2);
SELECT issue_coupon(:'off') IS NULL AS no_coupon;
SELECT condition, holds FROM coupon.explain_decision(:'off');
SELECT count(*) AS decisions FROM coupon.decision WHERE session = :'off';
ROLLBACK;
-- a paused campaign
UPDATE coupon.campaign SET state = 'paused';
CALL look(:'paused', 6);
SELECT issue_coupon(:'paused') IS NULL AS no_coupon;
SELECT condition, holds, detail FROM coupon.explain_decision(:'paused') ORDER BY step DESC LIMIT 1;
SELECT live_since AS since_then FROM coupon.campaign \gset
SELECT coupon.go_live('default');
SELECT live_since = :'since_then' AS live_since_the_first_time FROM coupon.campaign;
SELECT (issue_coupon(:'paused')).code IS NOT NULL AS due_now;
-- A coupon keeps the terms it was issued under; new ones have the new.
UPDATE coupon.campaign SET discount = 12.50, valid_for = '90 minutes', display_seconds = 8,
    message = '{discount}/{category}/{hours}/{hours}';
CALL look(:'cheap', 4);
SELECT CASE session WHEN :'cheap' THEN 'after' ELSE 'before' END AS issued, discount,
    expires_at - issued_at AS valid_for, display_seconds, replace(message, category, 'CATEGORY') AS message
    FROM coupon.coupon WHERE session IN (:'cheap', :'paused') ORDER BY 1;
UPDATE coupon.campaign SET discount = 10, valid_for = '2 hours', display_seconds = 6, message = DEFAULT;
-- explain has no side effect: it runs in a read-only transaction.
BEGIN READ ONLY;
SELECT count(*) > 5 AS lines FROM coupon.explain_decision(:'off');
SELECT count(*) AS nobody, bool_or(condition = 'the session is known' AND NOT holds) AS says_so
    FROM coupon.explain_decision('nobody');
SELECT bool_or(condition = 'the session is known' AND NOT holds) AS null_is_not_known FROM coupon.explain_decision(NULL);
COMMIT;

--
-- NOTIFY: only where it is asked for. A transaction that notified cannot be prepared, which is how it shows here.
--
SHOW coupon_ext.notify_issued;
BEGIN;
CALL look(:'quiet', 4);
PREPARE TRANSACTION 'quiet';
COMMIT PREPARED 'quiet';
SELECT (issue_coupon(:'quiet')).code IS NOT NULL AS issued;
SET coupon_ext.notify_issued = on;
BEGIN;
CALL look(:'loud', 4);
PREPARE TRANSACTION 'loud';
SELECT issue_coupon(:'loud') IS NULL AS rolled_back;
RESET coupon_ext.notify_issued;

--
-- Two campaigns: the first by priority, then by name, that finds a session eligible takes it
--
INSERT INTO coupon.campaign (campaign, state, target, salt, priority, discount, unlimited)
    VALUES ('autumn', 'shadow', 0.5, 'regress', 0, 20, false), ('winter', 'draft', 0.5, 'regress', 5, 30, true);
INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('autumn', 'x', 'random', 1), ('winter', 'x', 'random', 1);
SELECT name_it('first-', true) AS first, name_it('second-', true) AS second \gset
CALL look(:'first', 6);
SELECT campaign, outcome FROM coupon.decision WHERE session = :'first';
SELECT coupon.go_live('winter');
CALL look(:'second', 6);
SELECT campaign, outcome FROM coupon.decision WHERE session = :'second';
SELECT discount FROM coupon.coupon WHERE session = :'second';
SELECT (issue_coupon(:'second')).campaign, (SELECT count(*) FROM coupon.coupon WHERE session = :'second') AS coupons;
UPDATE coupon.campaign SET state = 'ended' WHERE campaign IN ('autumn', 'winter');
DELETE FROM coupon.arm WHERE campaign IN ('autumn', 'winter');

--
-- States of a campaign
--
CREATE FUNCTION transition(was text, becomes text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- Every way here is one that is allowed.
    INSERT INTO coupon.campaign (campaign, unlimited) VALUES ('walk', true);
    INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('walk', 'all', 'random', 1);
    IF was IN ('shadow', 'paused') THEN UPDATE coupon.campaign SET state = 'shadow' WHERE campaign = 'walk'; END IF;
    IF was <> 'draft' THEN UPDATE coupon.campaign SET state = was WHERE campaign = 'walk'; END IF;
    UPDATE coupon.campaign SET state = becomes WHERE campaign = 'walk';
    RAISE EXCEPTION 'undo' USING ERRCODE = 'P0099';
EXCEPTION WHEN SQLSTATE 'P0099' THEN RETURN 'yes';
    WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;
SELECT was, transition(was, 'draft') AS draft, transition(was, 'shadow') AS shadow, transition(was, 'live') AS live,
    transition(was, 'paused') AS paused, transition(was, 'ended') AS ended, transition(was, 'on') AS no_state
FROM unnest('{draft,shadow,live,paused,ended}'::text[]) was;
SELECT refused($$UPDATE coupon.campaign SET state = 'draft'$$);
SELECT refused($$INSERT INTO coupon.campaign (campaign, state) VALUES ('rushed', 'paused')$$);
UPDATE coupon.campaign SET state = state;
SELECT coupon.go_live('default');
-- What a campaign cannot be.
SELECT s AS assignment, left(r, 5) AS sqlstate
    FROM unnest(ARRAY['discount = 0', 'discount = 101', 'discount = -1', 'discount = NULL', $$discount = 'NaN'$$,
    $$valid_for = '0'$$, $$valid_for = '-1 hour'$$, 'display_seconds = 0', 'target = 0', 'target = 0.51',
    $$target = 'NaN'$$,
    'holdout = 0.049', 'holdout = 1', $$holdout = 'NaN'$$, $$campaign = ''$$, 'state = NULL', 'salt = NULL',
        'message = NULL', 'priority = NULL']) s, LATERAL refused('UPDATE coupon.campaign SET ' || s) r
        WHERE r !~ '^(detail|hint)';
SELECT s AS assignment, left(r, 5) AS sqlstate
    FROM unnest(ARRAY[$$policy = 'value'$$, $$policy = NULL$$, $$ranking = 'best'$$, 'share = 0', 'share = 1.1',
    $$share = 'NaN'$$, $$arm = ''$$, $$campaign = 'nobody'$$]) s, LATERAL refused('UPDATE coupon.arm SET ' || s) r
    WHERE r !~ '^(detail|hint)';
-- A campaign without arms decides nothing.
BEGIN;
UPDATE coupon.campaign SET state = 'paused' WHERE campaign = 'default';
UPDATE coupon.campaign SET state = 'shadow' WHERE campaign = 'default';
DELETE FROM coupon.arm;
CALL look('armless', 6);
SELECT count(*) AS decisions FROM coupon.decision WHERE session = 'armless';
ROLLBACK;
-- A live campaign changes its hold-out share at the start of a day (UTC): until then the old one counts, in the draw
-- and in the log.
BEGIN;
UPDATE coupon.arm SET policy = 'random';
UPDATE coupon.campaign SET target = 0.5, priority = CASE campaign WHEN 'default' THEN 100 ELSE 0 END;
SET LOCAL coupon_ext.mock_clock = '2026-02-20 15:00:00';
UPDATE coupon.campaign SET holdout = 0.5 WHERE campaign = 'default';
SELECT holdout, holdout_next, holdout_from FROM coupon.campaign WHERE campaign = 'default';
INSERT INTO coupon.click (session, at, kind) SELECT 'today-' || i, coupon.clock() - j * interval '1 second',
    'view' FROM generate_series(1, 60) i, generate_series(0, 5) j;
SET LOCAL coupon_ext.mock_clock = '2026-02-21 00:00:05';
INSERT INTO coupon.click (session, at, kind) SELECT 'tomorrow-' || i, coupon.clock() - j * interval '1 second',
    'view' FROM generate_series(1, 60) i, generate_series(0, 5) j;
SELECT split_part(session, '-', 1) AS day, count(*) > 10 AS dozens,
    array_agg(DISTINCT issue_probability) AS probabilities,
    bool_and((outcome = 'issued') = (issue_draw < issue_probability)) AS as_drawn
FROM coupon.decision WHERE session ~ '^(today|tomorrow)-' GROUP BY 1 ORDER BY 1;
-- Changed back the next day: what counts on that day is what was announced for it.
UPDATE coupon.campaign SET holdout = 0.3 WHERE campaign = 'default';
SELECT holdout, holdout_next, holdout_from FROM coupon.campaign WHERE campaign = 'default';
ROLLBACK;
-- At most one live coupon a session: the index says so, whatever writes.
SELECT left(refused(format('INSERT INTO coupon.coupon (session, code, campaign, discount, unit, currency, minimum_basket, exclusive, transferable, code_hashed, message, display_seconds, issued_at, expires_at) SELECT session, ''x'', campaign, discount, unit, currency, minimum_basket, exclusive, transferable, code_hashed, message, display_seconds, issued_at, expires_at FROM coupon.coupon WHERE session = %L AND closed_at IS NULL', :'cheap')), 110) LIMIT 1;

--
-- Without a churn model: an arm of policy random draws the target share at the fourth view, and the campaign's own
-- hold-out counts
--
BEGIN;
DO $$ BEGIN PERFORM coupon.train(until => '2026-01-07'); END $$;
SET LOCAL coupon_ext.mock_clock = '2026-02-10 18:00:00';
INSERT INTO coupon.click (session, at, kind) SELECT 'coin-' || i, coupon.clock() - j * interval '1 second',
    'view' FROM generate_series(1, 100) i, generate_series(0, 5) j;
SELECT count(*) = count(*) FILTER (WHERE draw('view', 'regress', session) < t.share) AS only_the_drawn,
    count(*) = (SELECT count(*) FROM generate_series(1, 100) i
    WHERE draw('view', 'regress', 'coin-' || i) < max(t.share)) AS all_of_them,
    count(*) FILTER (WHERE view <> 4 OR policy <> 'random' OR issue_probability <> 0.8 OR churn IS NOT NULL
        OR reason <> 'eligible') AS odd,
    count(*) FILTER (WHERE outcome <> CASE WHEN issue_draw < 0.8 THEN 'issued' ELSE 'held out' END) AS against_the_draw
FROM coupon.decision d, (SELECT least(1,
    0.5 * (card -> 'segments' ->> 'sessions')::float8 / (card -> 'segments' -> 'reaching' ->> 0)::float8) AS share
    FROM coupon.model WHERE stage = 'issue' ORDER BY version DESC LIMIT 1) t WHERE session LIKE 'coin-%';
-- Arms that ask the churn model find nobody eligible, in a campaign that is live already, and say so; paused, it does
-- not come back.
UPDATE coupon.arm SET policy = 'risk';
INSERT INTO coupon.click (session, at, kind) SELECT 'blind-' || i, coupon.clock() - j * interval '1 second',
    'view' FROM generate_series(1, 100) i, generate_series(0, 5) j;
SELECT count(*) AS decisions FROM coupon.decision WHERE session LIKE 'blind-%';
SELECT state, (SELECT issue_coupon('blind-1') IS NULL) AS no_coupon FROM coupon.campaign WHERE campaign = 'default';
SELECT condition, holds, regexp_replace(detail, 'version \d+', 'version N') AS detail FROM coupon.explain_decision('blind-1')
    WHERE campaign = 'default';
UPDATE coupon.campaign SET state = 'paused' WHERE campaign = 'default';
SELECT regexp_replace(refused($$SELECT coupon.go_live('default')$$), 'version \d+', 'version N') AS refused;
UPDATE coupon.arm SET policy = 'random';
SELECT coupon.go_live('default');
ROLLBACK;
SELECT sqlstate, message FROM coupon.error_log;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
