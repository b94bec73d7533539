-- lifecycle: issued → shown → dismissed → reserved → redeemed → released → expired, what a stranger is told, codes
-- stored hashed.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL
SET coupon_ext.mock_clock = '2026-03-02 12:00:00';
SELECT session AS s, code AS c FROM coupon_for('cycle', 'carla') \gset
CREATE FUNCTION stands(of text) RETURNS TABLE (state text, shown text, dismissed text, reserved text, until text,
    redeemed text, released text, closed text, order_id text, amount numeric, discount numeric) LANGUAGE sql AS $$
    SELECT state, to_char(shown_at, 'HH24:MI'), to_char(dismissed_at, 'HH24:MI'), to_char(reserved_at, 'HH24:MI'),
        to_char(reserved_until, 'HH24:MI'), to_char(redeemed_at, 'HH24:MI'), to_char(released_at, 'HH24:MI'),
        to_char(closed_at, 'HH24:MI'), order_id, order_amount, discount_amount FROM coupon.coupon WHERE session = of
$$;
SELECT * FROM stands(:'s');
SET coupon_ext.mock_clock = '2026-03-02 12:01:00';
SELECT * FROM show_coupon(:'c', :'s');
SET coupon_ext.mock_clock = '2026-03-02 12:02:00';
SELECT * FROM dismiss_coupon(:'c', customer => 'carla');
SELECT * FROM show_coupon(:'c', :'s');
SELECT * FROM stands(:'s');
-- Reserved: held for one order, the same answer to it, refused to others.
SET coupon_ext.mock_clock = '2026-03-02 12:03:00';
SELECT * FROM reserve_coupon(:'c', 'o-10', '10 minutes', 50, :'s');
SELECT * FROM reserve_coupon(:'c', 'o-10', '10 minutes', 50, :'s');
SELECT * FROM reserve_coupon(:'c', 'o-11', session => :'s');
SELECT * FROM redeem_coupon(:'c', 'o-11', 50, :'s');
SELECT * FROM stands(:'s');
-- It frees itself; then another order may have it.
SET coupon_ext.mock_clock = '2026-03-02 12:13:00';
SELECT * FROM reserve_coupon(:'c', 'o-11', '1 day', NULL, :'s');
SELECT * FROM redeem_coupon(:'c', 'o-10', 50, :'s');
-- A reservation outlives the coupon's own time, and the sweep leaves it alone.
SET coupon_ext.mock_clock = '2026-03-02 15:00:00';
SELECT expired FROM coupon.maintain();
SELECT * FROM redeem_coupon(:'c', 'o-11', 33.33, :'s');
SELECT * FROM redeem_coupon(:'c', 'o-11', 33.33, :'s');
SELECT * FROM reserve_coupon(:'c', 'o-11', session => :'s');
SELECT * FROM reserve_coupon(:'c', 'o-12', session => :'s');
SELECT * FROM show_coupon(:'c', :'s');
SELECT * FROM stands(:'s');
SELECT * FROM release_coupon(:'c', 'o-11');
SELECT * FROM release_coupon(:'c', 'o-11');
SELECT * FROM redeem_coupon(:'c', 'o-11', 33.33, :'s');
SELECT * FROM stands(:'s');
-- A reservation released in time: as if nothing had been.
SET coupon_ext.mock_clock = '2026-03-03 12:00:00';
SELECT session AS s2, code AS c2 FROM coupon_for('cycle2') \gset
SELECT * FROM reserve_coupon(:'c2', 'o-20', session => :'s2');
SELECT * FROM release_coupon(:'c2', 'o-20');
SELECT * FROM release_coupon(:'c2', 'o-20');
SELECT * FROM redeem_coupon(:'c2', 'o-21', 10, :'s2');
SELECT * FROM release_coupon(:'c2', 'o-21');
SELECT (issue_coupon(:'s2')).code = :'c2' AS offered_again;
SELECT * FROM stands(:'s2');
-- Misuse.
SELECT refused(format('SELECT reserve_coupon(%L, ''o'', NULL)', :'c2'));
SELECT refused(format('SELECT reserve_coupon(%L, ''o'', ''-1 s'')', :'c2'));
SELECT refused(format('SELECT reserve_coupon(%L, ''o'', ''2 days'')', :'c2'));
SELECT refused(format('SELECT reserve_coupon(%L, '''')', :'c2'));
SELECT refused(format('SELECT redeem_coupon(%L, %L, 1)', :'c2', repeat('o', 300)));
SELECT refused('SELECT show_coupon(NULL)');

-- To a stranger a code that exists and one that does not look alike; after max_attempts even his own is refused.
SELECT session AS s3, code AS c3 FROM coupon_for('cycle3') \gset
SELECT a = b AS alike, a.* FROM redeem_coupon(:'c3', 'o-30', 10, :'s2') a,
    redeem_coupon('0410-6105-0R3G-G28A-Z', 'o-30', 10, :'s2') b;
SELECT a = b AS alike FROM show_coupon(:'c3') a, show_coupon('nonsense') b;
SELECT count(*) AS guesses FROM generate_series(1, 30) i,
    redeem_coupon(coupon_internal.generate_code(), 'o-31-' || i, 10, 'guesser') r WHERE r.reason = 'not valid';
SELECT presenter, refused FROM coupon.redemption_limit ORDER BY presenter;
BEGIN;
UPDATE coupon.coupon SET session = 'guesser' WHERE session = :'s3';
SELECT * FROM redeem_coupon(:'c3', 'o-32', 10, 'guesser');
SET coupon_ext.mock_clock = '2026-03-03 12:10:00.000001';
SELECT * FROM redeem_coupon(:'c3', 'o-32', 10, 'guesser');
ROLLBACK;

-- Terms are the coupon's own: what the campaign becomes later changes nothing.
UPDATE coupon.campaign SET discount = 50, minimum_basket = 100 WHERE campaign = 'default';
SELECT * FROM redeem_coupon(:'c3', 'o-33', 60, :'s3');
SELECT session AS s4, code AS c4 FROM coupon_for('cycle4') \gset
SELECT * FROM redeem_coupon(:'c4', 'o-40', 99.99, :'s4');
SELECT * FROM reserve_coupon(:'c4', 'o-40', order_amount => 99.99, session => :'s4');
SELECT * FROM redeem_coupon(:'c4', 'o-40', 100, :'s4');
-- Money: never more than the order, never more than max_discount, in the currency's own decimals.
UPDATE coupon.campaign SET discount = 15, unit = 'money', minimum_basket = 0, message = '{discount} off'
    WHERE campaign = 'default';
SELECT session AS s5, code AS c5 FROM coupon_for('cycle5') \gset
SELECT (o).discount, (o).unit, (o).currency, (o).message FROM (SELECT issue_coupon(:'s5') AS o) x;
SELECT * FROM redeem_coupon(:'c5', 'o-50', 9.5, :'s5');
UPDATE coupon.campaign SET discount = 33.3, unit = 'percent', currency = 'JPY', max_discount = 500
    WHERE campaign = 'default';
SELECT session AS s6, code AS c6 FROM coupon_for('cycle6') \gset
SELECT discount FROM reserve_coupon(:'c6', 'o-60', session => :'s6');
SELECT discount FROM reserve_coupon(:'c6', 'o-60', order_amount => 1000, session => :'s6');
SELECT discount FROM redeem_coupon(:'c6', 'o-60', 10000, :'s6');
UPDATE coupon.campaign SET discount = 10, unit = 'percent', currency = 'EUR', max_discount = NULL
    WHERE campaign = 'default';
-- A bearer's coupon is whoever's who holds it.
UPDATE coupon.campaign SET transferable = true WHERE campaign = 'default';
SELECT session AS s7, code AS c7 FROM coupon_for('cycle7') \gset
SELECT * FROM redeem_coupon(:'c7', 'o-70', 10);
UPDATE coupon.campaign SET transferable = false WHERE campaign = 'default';
-- Stacking: one of a class an order; an exclusive one alone.
UPDATE coupon.campaign SET stacking_group = 'spring' WHERE campaign = 'default';
SELECT session AS s8, code AS c8 FROM coupon_for('cycle8') \gset
SELECT session AS s9, code AS c9 FROM coupon_for('cycle9') \gset
UPDATE coupon.campaign SET stacking_group = NULL, exclusive = true WHERE campaign = 'default';
SELECT session AS s10, code AS c10 FROM coupon_for('cycle10') \gset
UPDATE coupon.campaign SET exclusive = false WHERE campaign = 'default';
SELECT session AS s11, code AS c11 FROM coupon_for('cycle11') \gset
SELECT * FROM reserve_coupon(:'c8', 'o-80', session => :'s8');
SELECT * FROM redeem_coupon(:'c9', 'o-80', 10, :'s9');
SELECT * FROM redeem_coupon(:'c10', 'o-80', 10, :'s10');
SELECT * FROM redeem_coupon(:'c11', 'o-80', 10, :'s11');
SELECT * FROM release_coupon(:'c8', 'o-80');
SELECT * FROM redeem_coupon(:'c9', 'o-80', 10, :'s9');
SELECT * FROM redeem_coupon(:'c10', 'o-81', 10, :'s10');
SELECT * FROM redeem_coupon(:'c8', 'o-81', 10, :'s8');
-- Hashed: the code is shown once, and nothing that is stored is one.
UPDATE coupon.campaign SET code_hashed = true WHERE campaign = 'default';
SELECT session AS s12, code AS c12 FROM coupon_for('cycle12') \gset
SELECT (issue_coupon(:'s12')).code IS NULL AS not_again, (issue_coupon(:'s12')).category IS NOT NULL AS but_the_offer;
SELECT code = encode(sha256(convert_to(:'c12', 'UTF8')), 'hex') AS code_hashed FROM coupon.coupon WHERE session = :'s12';
SELECT count(*) AS told FROM coupon.coupon c, coupon.audit a WHERE c.session = :'s12'
    AND a.detail::text LIKE '%' || :'c12' || '%';
SELECT * FROM redeem_coupon(lower(:'c12'), 'o-90', 10, :'s12');
UPDATE coupon.campaign SET code_hashed = false WHERE campaign = 'default';

-- The audit has every state, and nobody's name; it can only grow.
SELECT a.event, a.by = session_user AS by_me, a.clock, a.detail - 'order' AS detail,
    a.detail ->> 'order' = encode(sha256(convert_to(c.id || 'o-11', 'UTF8')), 'hex') AS of_order_11
FROM coupon.audit a JOIN coupon.coupon c ON c.id::text = a.name WHERE c.session = :'s' ORDER BY a.id;
SELECT event, detail FROM coupon.audit WHERE subject = 'campaign' AND name = 'default' ORDER BY id DESC LIMIT 3;
SELECT refused('UPDATE coupon.audit SET by = ''somebody''');
SELECT refused('DELETE FROM coupon.audit');
SELECT refused('TRUNCATE coupon.audit');

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
