-- live: what a campaign needs before it gives anything, whichever statement lets it; and what the functions beside it
-- refuse.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL

BEGIN;
UPDATE coupon.campaign SET state = 'paused' WHERE state = 'live';
-- An arm.
INSERT INTO coupon.campaign (campaign, salt, max_discount, budget, target) VALUES ('gift', 'regress', 5, 100, 0.2);
SELECT refused($$SELECT coupon.go_live('gift')$$);
SELECT refused($$UPDATE coupon.campaign SET state = 'live' WHERE campaign = 'gift'$$);
SELECT left(refused($$INSERT INTO coupon.campaign (campaign, state, max_discount, budget)
    VALUES ('hasty', 'live', 5, 100)$$), 42) LIMIT 1;
INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('gift', 'a', 'at_risk', 0.5),
    ('gift', 'b', 'random', 0.5);
-- A budget, unless it says that it gives without one.
CREATE FUNCTION goes_live(terms text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'UPDATE coupon.campaign SET budget = NULL, max_discount = NULL WHERE campaign = ''gift''';
    EXECUTE format('UPDATE coupon.campaign SET %s, state = ''live'' WHERE campaign = ''gift''', terms);
    RAISE EXCEPTION 'undo' USING ERRCODE = 'P0099';
EXCEPTION WHEN SQLSTATE 'P0099' THEN RETURN 'yes';
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT terms, goes_live(terms) FROM unnest(ARRAY['discount = 10', 'max_discount = 5', 'unit = ''money''',
    'coupons = 100', 'coupons_day = 10', 'minimum_basket = 100',
    'max_discount = 5, budget = 100', 'max_discount = 5, budget_day = 100', 'unit = ''money'', budget = 100',
        'unit = ''money'', coupons = 100', 'max_discount = 5, coupons_day = 10', 'budget = 0, max_discount = 5',
        'unlimited = true']) WITH ORDINALITY u(terms, i) ORDER BY i;
UPDATE coupon.campaign SET state = 'live' WHERE campaign = 'gift';
-- And keeps both while it is live.
SELECT refused($$UPDATE coupon.campaign SET budget = NULL WHERE campaign = 'gift'$$);
UPDATE coupon.campaign SET coupons = 50 WHERE campaign = 'gift';
UPDATE coupon.campaign SET budget = NULL WHERE campaign = 'gift';
SELECT left(refused($$UPDATE coupon.campaign SET max_discount = NULL WHERE campaign = 'gift'$$), 5) AS refused LIMIT 1;
SELECT left(refused($$UPDATE coupon.campaign SET coupons = NULL WHERE campaign = 'gift'$$), 5) AS refused LIMIT 1;
DELETE FROM coupon.arm WHERE campaign = 'gift' AND arm = 'b';
SELECT refused($$DELETE FROM coupon.arm WHERE campaign = 'gift'$$);
SELECT left(refused($$UPDATE coupon.arm SET campaign = 'default' WHERE campaign = 'gift'$$), 5) AS refused LIMIT 1;
SELECT left(refused($$TRUNCATE coupon.arm$$), 5) AS refused LIMIT 1;
UPDATE coupon.arm SET arm = 'c' WHERE campaign = 'gift';
UPDATE coupon.campaign SET state = 'paused' WHERE campaign = 'gift';
UPDATE coupon.campaign SET coupons = NULL WHERE campaign = 'gift';
DELETE FROM coupon.arm WHERE campaign = 'gift';
SELECT left(refused($$UPDATE coupon.campaign SET state = 'live' WHERE campaign = 'gift'$$), 5) AS refused LIMIT 1;
-- A version, and thresholds in it.
UPDATE coupon.campaign SET unlimited = true WHERE campaign = 'gift';
INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('gift', 'a', 'at_risk', 1);
SELECT coupon_internal.find_threshold_fault('at_risk', true, 0.2) AS ok, coupon_internal.find_threshold_fault('random', false, 0.0134) AS ok_too,
    coupon_internal.find_threshold_fault('at_risk', true, 0.6) AS beyond, coupon_internal.find_threshold_fault('value', true, 0.2) AS unknown;
DELETE FROM coupon.deployment;
SELECT refused($$SELECT coupon.go_live('gift')$$);
ROLLBACK;

-- Trained on 300 sessions of one view, at a target of 1.34 %: of sixty visitors with six views hardly one is decided,
-- and an arm that asks the
-- churn model decides none.
BEGIN;
INSERT INTO coupon.click (session, at, kind, page) SELECT 'short-' || i,
    '2020-01-01 00:00:00'::timestamptz + i * interval '1 hour', 'view', 'p' FROM generate_series(1, 300) i;
DO $$ BEGIN PERFORM coupon.train('2020-01-01', '2020-02-01'); END $$;
SELECT card -> 'segments' ->> 'sessions' AS sessions, card -> 'segments' -> 'reaching' AS reaching FROM coupon.model
    WHERE stage = 'issue' ORDER BY version DESC LIMIT 1;
UPDATE coupon.campaign SET target = 0.0134, holdout = 0.05 WHERE campaign = 'default';
UPDATE coupon.arm SET policy = 'random', share = 1 WHERE campaign = 'default';
SELECT state FROM coupon.campaign WHERE campaign = 'default';
SET LOCAL coupon_ext.mock_clock = '2026-02-10 18:00:00';
INSERT INTO coupon.click (session, at, kind) SELECT 'visitor-' || i, coupon.clock() - j * interval '1 second',
    'view' FROM generate_series(1, 60) i, generate_series(0, 5) j;
SELECT count(*) <= 3 AS hardly_one, count(*) = (SELECT count(*) FROM generate_series(1, 60) i
    WHERE draw('view', 'regress', 'visitor-' || i) < 0.0134) AS as_drawn FROM coupon.decision
    WHERE session LIKE 'visitor-%';
UPDATE coupon.arm SET policy = 'at_risk' WHERE campaign = 'default';
INSERT INTO coupon.click (session, at, kind) SELECT 'guest-' || i, coupon.clock() - j * interval '1 second',
    'view' FROM generate_series(1, 60) i, generate_series(0, 5) j;
SELECT count(*) AS decided_campaigns FROM coupon.decision WHERE session LIKE 'guest-%';
ROLLBACK;

-- Amounts are payable in the currency.
CREATE FUNCTION payable(terms text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO coupon.campaign (campaign, %s) VALUES (''amounts'', %s)', split_part(terms, ' = ', 1),
        split_part(terms, ' = ', 2));
    RAISE EXCEPTION 'undo' USING ERRCODE = 'P0099';
EXCEPTION WHEN SQLSTATE 'P0099' THEN RETURN 'yes';
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT terms, payable(terms) FROM unnest(ARRAY['currency, unit, discount = ''JPY'', ''money'', 5.5',
    'currency, unit, discount = ''JPY'', ''money'', 5.00', 'currency, discount = ''JPY'', 5.5',
    'currency, max_discount = ''JPY'', 0.5', 'currency, minimum_basket = ''JPY'', 99.9',
    'currency, max_discount, budget = ''JPY'', 5, 100.5', 'currency, max_discount, budget_day = ''JPY'', 5, 100.5',
        'max_discount = 5.005', 'max_discount = 5.05', 'currency, max_discount = ''KWD'', 5.005',
        'currency, max_discount = ''KWD'', 5.0005', 'max_discount = ''NaN''',
        'minimum_basket = ''Infinity''']) WITH ORDINALITY u(terms, i) ORDER BY i;
SELECT refused($$INSERT INTO coupon.campaign (campaign, currency, max_discount) VALUES ('amounts', 'JPY', 5.5)$$);

-- Shares that are none.
SELECT shares, refused(format('SELECT coupon.draw_arm(''salt'', %L, ''s'')', shares))
    FROM unnest(ARRAY['{}', '{NULL}', '{0.5,NULL}', '{NaN}', '{Infinity}', '{-1}', '{0.5,-0.1}', '{0,0}',
    '{{0.5,0.5}}', '{1e308,1e308}']) WITH ORDINALITY u(shares, i) ORDER BY i;
SELECT coupon.draw_arm('salt', '{1}', 's') AS one, coupon.draw_arm('salt', '{0,1,0}', 's') AS two,
    coupon.draw_arm('salt', NULL, 's') AS none, coupon.draw_arm('salt', '[0:1]={0,1}', 's') AS two_again;

-- A code is at most 64 characters, however it is written.
SELECT coupon_internal.normalise_code(' 0410 6105 0r3g g28a z') AS code,
    coupon_internal.normalise_code(repeat(' ', 43) || '041061050R3GG28AZ') IS NOT NULL AS sixty,
    coupon_internal.normalise_code(repeat(' ', 48) || '041061050R3GG28AZ') AS sixty_five,
    coupon_internal.normalise_code(repeat(' ', 1000000) || '041061050R3GG28AZ') AS a_million;
DROP FUNCTION payable(text);

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
