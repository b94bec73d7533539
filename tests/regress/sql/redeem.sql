-- redeem: a code redeems once, for who it was issued to; a refusal is a value and is counted.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL
SET coupon_ext.mock_clock = '2026-02-12 12:00:00';

-- Codes: Crockford's base 32 with its check symbol, forgiving what a person may mistype.
SELECT code, coupon_internal.normalise_code(code) FROM (VALUES ('0410-6105-0R3G-G28A-Z'), ('o4l0 6i05 0r3g g28a z'),
    ('  041061050R3GG28AZ '), ('0410-6105-0R3G-G28A-Y'), ('4010-6105-0R3G-G28A-Z'), ('0410-6105-0R3G-G28A'),
    ('0410-6105-0R3G-G28A-ZZ'), ('0410-6105-0R3G-G28U-Z'), ('0410-6105-0R3G-G28é-Z'), ('0000-0000-0000-0014-u'),
        ('ZZZZ-ZZZZ-ZZZZ-ZZZZ-~'), (''), ('-'), (NULL)) v(code);
SELECT coupon_internal.normalise_code(repeat('0', 1000000)) IS NULL AS far_too_long;
-- The check symbol is the number modulo 37; every code issued so far has it.
SELECT count(*) > 10 AS dozens, count(*)
    FILTER (WHERE check_symbol <> substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U', n % 37 + 1, 1)) AS wrong
FROM (SELECT right(code, 1) AS check_symbol,
    ((SELECT sum((position(substr(replace(code, '-', ''), i, 1) IN '0123456789ABCDEFGHJKMNPQRSTVWXYZ') - 1)
        * power(32::numeric, 16 - i)) FROM generate_series(1, 16) i) % 37)::int AS n FROM coupon.coupon) c;

-- Three sessions with a coupon, one of them of a known customer.
SELECT name_it('buyer-', true) AS buyer, name_it('member-', true) AS member, name_it('late-', true) AS late,
    name_it('zero-', true) AS zero \gset
CALL give(:'buyer');
CALL give(:'member', 'maria');
CALL give(:'late');
CALL give(:'zero');
SELECT (issue_coupon(:'buyer')).code AS buyer_code, (issue_coupon(:'member')).code AS member_code,
    (issue_coupon(:'late')).code AS late_code, (issue_coupon(:'zero')).code AS zero_code \gset
TRUNCATE coupon.redemption_attempt RESTART IDENTITY;

-- Misuse is an error, and no attempt.
SELECT refused('SELECT redeem_coupon(NULL, ''o'', 1)');
SELECT refused('SELECT redeem_coupon(''x'', NULL, 1)');
SELECT refused('SELECT redeem_coupon(''x'', ''o'', NULL)');
SELECT refused('SELECT redeem_coupon(''x'', ''o'', -0.01)');
SELECT refused('SELECT redeem_coupon(''x'', ''o'', ''NaN'')');
SELECT refused('SELECT redeem_coupon(''x'', ''o'', ''Infinity'')');
SELECT refused('SELECT redeem_coupon(''x'', ''o'', ''-Infinity'')');
SELECT refused('SELECT release_coupon(NULL, ''o'')');
SELECT refused('SELECT release_coupon(''x'', NULL)');
SELECT count(*) AS attempts FROM coupon.redemption_attempt;

-- Refused: unknown, not yours.
SELECT * FROM redeem_coupon('0410-6105-0R3G-G28A-Z', 'o-1', 100, :'buyer');
SELECT * FROM redeem_coupon('no code at all', 'o-1', 100, :'buyer');
SELECT * FROM redeem_coupon('', 'o-1', 100, :'buyer');
SELECT * FROM redeem_coupon(:'buyer_code', 'o-1', 100, 'somebody-else');
SELECT * FROM redeem_coupon(:'buyer_code', 'o-1', 100);
SELECT * FROM redeem_coupon(:'buyer_code', 'o-1', 100, customer => 'maria');
SELECT * FROM redeem_coupon(:'member_code', 'o-1', 100, customer => 'mario');
SELECT * FROM redeem_coupon(:'member_code', 'o-1', 100, :'buyer', 'mario');
-- A roll-back takes the redemption along, and a coupon is as good as before.
BEGIN;
SELECT * FROM redeem_coupon(:'buyer_code', 'o-1', 59.99, :'buyer');
SELECT issue_coupon(:'buyer') IS NULL AS no_longer_offered;
ROLLBACK;
SELECT (issue_coupon(:'buyer')).code = :'buyer_code' AS still_offered;
-- Redeemed, as a person types it; ten per cent, rounded to cents.
SELECT * FROM redeem_coupon(translate(lower(replace(:'buyer_code', '-', ' ')), '01', 'ol'), 'o-1', 59.99, :'buyer');
SELECT redeemed_at, closed_at, order_id, order_amount, discount_amount FROM coupon.coupon WHERE session = :'buyer';
SELECT issue_coupon(:'buyer') IS NULL AS no_longer_offered;
-- The same order asking again gets the same answer, any other is refused.
SELECT * FROM redeem_coupon(:'buyer_code', 'o-1', 59.99, :'buyer');
SELECT * FROM redeem_coupon(:'buyer_code', 'o-2', 59.99, :'buyer');
SELECT * FROM redeem_coupon(:'buyer_code', 'o-1', 59.99, 'somebody-else');
-- A customer may redeem in another session.
SELECT * FROM redeem_coupon(:'member_code', 'o-3', 1000, 'another-session', 'maria');
-- Nothing to pay is no discount.
SELECT * FROM redeem_coupon(:'zero_code', 'o-4', 0, :'zero');
-- No second coupon for a session whose first was redeemed.
INSERT INTO coupon.click (session, at, kind) VALUES (:'buyer', coupon.clock(), 'view');
SELECT issue_coupon(:'buyer') IS NULL AS no_second,
    (SELECT count(*) FROM coupon.coupon WHERE session = :'buyer') AS coupons;

-- Released: the order was cancelled.
SELECT * FROM release_coupon('0410-6105-0R3G-G28A-Z', 'o-1');
SELECT * FROM release_coupon(:'buyer_code', 'o-2');
SELECT * FROM release_coupon(:'late_code', 'o-1');
SELECT * FROM release_coupon(lower(:'buyer_code'), 'o-1');
SELECT redeemed_at, closed_at, order_id, order_amount, discount_amount FROM coupon.coupon WHERE session = :'buyer';
SELECT * FROM release_coupon(:'buyer_code', 'o-1');
SELECT (issue_coupon(:'buyer')).code = :'buyer_code' AS offered_again;
SELECT * FROM redeem_coupon(:'buyer_code', 'o-5', 20, :'buyer');

-- Expired: at the very end of its time.
SET coupon_ext.mock_clock = '2026-02-12 13:59:59.999999';
BEGIN;
SELECT * FROM redeem_coupon(:'late_code', 'o-6', 10, :'late');
ROLLBACK;
SET coupon_ext.mock_clock = '2026-02-12 14:00:00';
SELECT * FROM redeem_coupon(:'late_code', 'o-6', 10, :'late');
-- What was redeemed in time stays redeemed; released too late it does not come back.
SELECT * FROM redeem_coupon(:'buyer_code', 'o-5', 20, :'buyer');
SELECT * FROM release_coupon(:'buyer_code', 'o-5');
SELECT redeemed_at IS NULL AS not_redeemed, closed_at IS NOT NULL AS closed FROM coupon.coupon WHERE session = :'buyer';
SELECT * FROM redeem_coupon(:'buyer_code', 'o-5', 20, :'buyer');
SELECT expired FROM coupon.maintain();
SELECT * FROM redeem_coupon(:'late_code', 'o-6', 10, :'late');

-- Every attempt was counted, with the presenter as it was given, but for sessions that were never seen: nobody could
-- forget those.
SELECT id, at, CASE session WHEN :'buyer' THEN 'buyer' WHEN :'member' THEN 'member' WHEN :'late' THEN 'late'
    WHEN :'zero' THEN 'zero' ELSE session END AS session,
    (SELECT CASE c.session WHEN :'buyer' THEN 'buyer' WHEN :'member' THEN 'member' WHEN :'late' THEN 'late'
        WHEN :'zero' THEN 'zero' END FROM coupon.coupon c WHERE c.id = a.coupon) AS coupon_of,
    order_id, order_amount, status, reason FROM coupon.redemption_attempt a ORDER BY id;
-- The table does not let a coupon be half redeemed.
SELECT left(refused(format('UPDATE coupon.coupon SET state = ''redeemed'' WHERE code = %L', :'late_code')),
    5) AS redeemed_without_an_order LIMIT 1;
SELECT left(refused(format('UPDATE coupon.coupon SET redeemed_at = now() WHERE code = %L', :'late_code')),
    5) AS time_without_order LIMIT 1;
SELECT left(refused(format('UPDATE coupon.coupon SET closed_at = NULL WHERE code = %L', :'zero_code')),
    5) AS redeemed_and_open LIMIT 1;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
