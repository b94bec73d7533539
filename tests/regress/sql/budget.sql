-- budget: granted = available + held + spent at every step; not a cent more, not a coupon more; the day has its own.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL
-- A campaign of its own, live without a budget, of which one coupon is out that nothing bounds.
UPDATE coupon.campaign SET state = 'paused' WHERE campaign = 'default';
INSERT INTO coupon.campaign (campaign, salt, target, time_zone, discount, unlimited)
    VALUES ('spring', 'regress', 0.5, 'Europe/Berlin', 20, true);
INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('spring', 'all', 'random', 1);
SELECT coupon.go_live('spring');
SET coupon_ext.mock_clock = '2026-03-07 23:30:00';
SELECT code IS NOT NULL AS one_is_out FROM coupon_for('unbounded');
SET coupon_ext.mock_clock = '2026-03-10 12:00:00';
UPDATE coupon.campaign SET discount = 10, max_discount = 5 WHERE campaign = 'spring';
CREATE FUNCTION adds_up() RETURNS boolean
    LANGUAGE sql AS $$ SELECT bool_and(granted = available + coalesce(reserved_amount, 0) + spent AND available >= 0)
    FROM coupon.budget $$;
CREATE FUNCTION budgets() RETURNS TABLE (unit text, day date, granted numeric, available numeric, reserved_amount numeric,
    spent numeric) LANGUAGE sql AS $$ SELECT unit, day, granted, available, reserved_amount, spent FROM coupon.budget
    ORDER BY unit, day NULLS FIRST $$;
-- The budget is set while coupons are out that nothing bounds: refused. Bounded ones are held for.
SELECT count(*) > 0 AS some_are_out FROM coupon.coupon WHERE campaign = 'spring' AND closed_at IS NULL;
SELECT left(refused('UPDATE coupon.campaign SET budget = 12 WHERE campaign = ''spring'''), 5) AS refused LIMIT 1;
SELECT expired > 0 AS closed FROM coupon.maintain();
SELECT session AS b0, code AS c0 FROM coupon_for('b0') \gset
UPDATE coupon.campaign SET budget = 12 WHERE campaign = 'spring';
SELECT * FROM budgets();
SELECT session AS b1, code AS c1 FROM coupon_for('b1') \gset
SELECT * FROM budgets();
-- Two more euros are left, one coupon may cost five.
SELECT * FROM stopped_by('b2');
-- Redeemed for one: the rest comes back, and another can be given.
SELECT * FROM redeem_coupon(:'c0', 'b-1', 10, :'b0');
SELECT * FROM budgets();
SELECT session AS b3, code AS c3 FROM coupon_for('b3') \gset
SELECT adds_up(), available FROM coupon.budget;
SELECT noted FROM stopped_by('b4');
-- Released: one comes back, but five would have to be held, and two are there: it stays closed, and the money is free.
SELECT * FROM release_coupon(:'c0', 'b-1');
SELECT * FROM budgets();
-- Redeemed at the most, released: exactly what it was.
SELECT * FROM redeem_coupon(:'c1', 'b-2', 1000, :'b1');
SELECT * FROM budgets();
SELECT * FROM release_coupon(:'c1', 'b-2');
SELECT * FROM budgets();
-- A rolled-back order leaves no trace.
BEGIN;
SELECT discount FROM redeem_coupon(:'c1', 'b-3', 10, :'b1');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT discount FROM redeem_coupon(:'c1', 'b-3', 10, :'b1');
ROLLBACK TO s;
COMMIT;
SELECT adds_up();
-- More and less; never below what is committed, never in another isolation level.
UPDATE coupon.campaign SET budget = 100 WHERE campaign = 'spring';
SELECT * FROM budgets();
SELECT count(*) AS purses FROM coupon.budget_bucket WHERE campaign = 'spring' AND NOT is_marker;
SELECT left(refused('UPDATE coupon.campaign SET budget = 9.99 WHERE campaign = ''spring'''), 5) AS refused LIMIT 1;
UPDATE coupon.campaign SET budget = 10 WHERE campaign = 'spring';
SELECT * FROM budgets();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT refused('UPDATE coupon.campaign SET budget = 11 WHERE campaign = ''spring''');
ROLLBACK;
-- What expired ones hold is found when it is needed.
SET coupon_ext.mock_clock = '2026-03-10 14:30:00';
SELECT state, count(*) FROM coupon.coupon WHERE session IN (:'b1', :'b3') GROUP BY state;
SELECT noted, coupon FROM stopped_by('b5');
SELECT * FROM budgets();
SELECT state, count(*) FROM coupon.coupon WHERE session IN (:'b1', :'b3') GROUP BY state;
-- The day in Berlin ends at 23:00 UTC.
SELECT (refused('UPDATE coupon.campaign SET coupons = 3 WHERE campaign = ''spring''')) IS NOT NULL AS refused LIMIT 1;
UPDATE coupon.campaign SET budget = NULL, budget_day = 10, coupons = 100, coupons_day = 7 WHERE campaign = 'spring';
SELECT * FROM budgets();
SELECT noted, coupon FROM stopped_by('b6');
SELECT noted, coupon FROM stopped_by('b7');
SET coupon_ext.mock_clock = '2026-03-10 22:59:59';
SELECT noted, coupon FROM stopped_by('b8');
SET coupon_ext.mock_clock = '2026-03-10 23:00:00';
SELECT noted, coupon FROM stopped_by('b9');
SELECT noted, coupon FROM stopped_by('b10');
SELECT noted, coupon FROM stopped_by('b11');
SELECT * FROM budgets();
SELECT adds_up();
-- Money of small pieces is joined when none is large enough for a coupon.
UPDATE coupon.campaign SET budget_day = NULL, coupons_day = NULL, budget = 100 WHERE campaign = 'spring';
UPDATE coupon.budget_bucket SET amount = 0 WHERE campaign = 'spring' AND unit = 'money';
INSERT INTO coupon.budget_bucket (campaign, unit, day, amount) SELECT 'spring', 'money', '-infinity',
    0.5 FROM generate_series(1, 19);
SELECT noted, coupon FROM stopped_by('b12');
SELECT sum(amount) AS left, count(*) AS purses FROM coupon.budget_bucket WHERE campaign = 'spring' AND unit = 'money'
    AND day = '-infinity' AND NOT is_marker;
SELECT noted, coupon FROM stopped_by('b13');
-- Paced: the factor, the probability it makes, and the draw that follows it.
SELECT spent, share, round(coupon_internal.compute_pacing_factor(spent, 100, share)::numeric, 4) AS pacing_factor
    FROM (VALUES (0, 0.0), (50, 0.5), (51, 0.5), (52, 0.5), (54, 0.5), (60, 0.5), (40, 0.5), (100, 0.99)) v(spent,
    share);
SET coupon_ext.mock_clock = '2026-03-12 11:00:00';
UPDATE coupon.campaign SET budget = NULL, coupons_day = 10, paced = true WHERE campaign = 'spring';
SELECT count(*) FILTER (WHERE coupon) AS issued FROM generate_series(1, 12) i, stopped_by('p' || i);
SELECT view, round(pacing_factor::numeric, 4) AS pacing_factor, round((issue_probability / pacing_factor)::numeric, 4) AS else, outcome,
    outcome = CASE WHEN issue_draw < issue_probability THEN 'issued' ELSE 'held out' END AS as_drawn
FROM coupon.decision WHERE session ~ '^p\d+-' AND outcome <> 'stopped' ORDER BY decided_at, length(session), session;
SELECT adds_up();
-- Reserved past its time, a coupon still holds its money: that is the budget's rule, and nobody else's doing.
SET coupon_ext.mock_clock = '2026-03-20 12:00:00';
SELECT expired > 0 AS closed FROM coupon.maintain();
UPDATE coupon.campaign SET paced = false, coupons = NULL, coupons_day = NULL,
    budget = coupon_internal.sum_committed('spring', 'money', '-infinity') + 5 WHERE campaign = 'spring';
SELECT session AS b20, code AS c20 FROM coupon_for('b20') \gset
-- What it will take off is not known before the order's amount is.
SELECT * FROM reserve_coupon(:'c20', 'b-20', '1 day', session => :'b20');
SET coupon_ext.mock_clock = '2026-03-20 15:00:00';
SELECT noted, coupon FROM stopped_by('b21');
SELECT * FROM redeem_coupon(:'c20', 'b-20', 20, :'b20');
SELECT adds_up();
-- A daily budget that is taken away bounds no day that is over.
UPDATE coupon.campaign SET budget = NULL, budget_day = 50 WHERE campaign = 'spring';
SELECT session AS b22, code AS c22 FROM coupon_for('b22') \gset
UPDATE coupon.campaign SET budget_day = NULL WHERE campaign = 'spring';
SELECT count(*) AS left FROM coupon.budget_bucket WHERE campaign = 'spring' AND unit = 'money';
-- A session's expired coupon makes room for the one that a cancelled order gives back.
BEGIN;
UPDATE coupon.coupon SET expires_at = '2026-03-20 18:00:00' WHERE session = :'b22';
SELECT status FROM redeem_coupon(:'c22', 'b-22', 10, :'b22');
INSERT INTO coupon.coupon (session, code, campaign, discount, unit, currency, minimum_basket, exclusive, transferable,
    code_hashed, message, display_seconds, issued_at, expires_at)
VALUES (:'b22', 'other', 'default', 10, 'percent', 'EUR', 0, false, false, false, '', 6, '2026-03-20 15:00:00',
    '2026-03-20 16:00:00');
SET coupon_ext.mock_clock = '2026-03-20 15:30:00';
SAVEPOINT s;
SELECT * FROM release_coupon(:'c22', 'b-22');
ROLLBACK TO s;
SET coupon_ext.mock_clock = '2026-03-20 16:30:00';
SELECT * FROM release_coupon(:'c22', 'b-22');
SELECT campaign, state, closed_at IS NULL AS live FROM coupon.coupon WHERE session = :'b22' ORDER BY campaign;
ROLLBACK;
UPDATE coupon.campaign SET state = 'ended' WHERE campaign = 'spring';
UPDATE coupon.campaign SET state = 'live' WHERE campaign = 'default';

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
