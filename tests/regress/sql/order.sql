-- order: the coupons of one order never take off more than the order; what is refused without end is counted in few
-- rows.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL
SET coupon_ext.mock_clock = '2026-03-25 12:00:00';
TRUNCATE coupon.redemption_attempt RESTART IDENTITY;
CREATE FUNCTION hand_out(session text, discount numeric, unit text DEFAULT 'percent', currency text DEFAULT 'EUR',
    max_discount numeric DEFAULT NULL, transferable boolean DEFAULT false) RETURNS text LANGUAGE sql AS $$
    INSERT INTO coupon.coupon (session, code, campaign, discount, unit, currency, max_discount, minimum_basket,
        exclusive, transferable, code_hashed, message, display_seconds, issued_at, expires_at)
    VALUES (session, coupon_internal.generate_code(), 'order', discount, unit, currency, max_discount, 0, false, transferable, false, '',
        6, coupon.clock(), coupon.clock() + interval '2 hours') RETURNING code
$$;
SELECT hand_out('or-a', 60) AS a, hand_out('or-b', 60) AS b, hand_out('or-c', 5, 'money') AS c \gset
CREATE FUNCTION orders() RETURNS SETOF coupon.order_discount
    LANGUAGE sql AS 'SELECT * FROM coupon.order_discount WHERE order_id LIKE ''or-%'' ORDER BY order_id';
-- Two coupons of 60 % take 100 off an order of 100, not 120; a third finds nothing.
SELECT * FROM redeem_coupon(:'a', 'or-1', 100, 'or-a');
SELECT * FROM redeem_coupon(:'b', 'or-1', 100, 'or-b');
SELECT * FROM redeem_coupon(:'c', 'or-1', 100, 'or-c');
SELECT * FROM orders();
-- The same order asks again: the same answers, counted once.
SELECT * FROM redeem_coupon(:'b', 'or-1', 100, 'or-b');
SELECT * FROM redeem_coupon(:'a', 'or-1', 100, 'or-a');
SELECT * FROM orders();
-- One is given back: the next takes what is free then. The order has become smaller.
SELECT * FROM release_coupon(:'a', 'or-1');
SELECT * FROM redeem_coupon(:'c', 'or-1', 43, 'or-c');
SELECT * FROM orders();
SELECT * FROM release_coupon(:'b', 'or-1');
SELECT * FROM release_coupon(:'c', 'or-1');
SELECT * FROM release_coupon(:'c', 'or-1');
SELECT count(*) AS rows_left FROM orders();
-- Reserved: what was said to the first stays his, in whatever order they are redeemed.
SELECT * FROM reserve_coupon(:'a', 'or-2', '1 hour', 100, 'or-a');
SELECT * FROM reserve_coupon(:'b', 'or-2', '1 hour', 100, 'or-b');
SELECT * FROM reserve_coupon(:'c', 'or-2', '1 hour', 100, 'or-c');
SELECT * FROM reserve_coupon(:'a', 'or-2', '1 hour', 100, 'or-a');
SELECT session, state, promised FROM coupon.coupon WHERE order_id = 'or-2' ORDER BY 1;
SELECT * FROM redeem_coupon(:'b', 'or-2', 100, 'or-b');
SELECT * FROM redeem_coupon(:'a', 'or-2', 100, 'or-a');
SELECT * FROM orders();
-- A reservation that ran out keeps nothing.
SELECT hand_out('or-d', 60) AS d, hand_out('or-e', 60) AS e \gset
SELECT * FROM reserve_coupon(:'d', 'or-3', '10 minutes', 100, 'or-d');
SET coupon_ext.mock_clock = '2026-03-25 12:20:00';
SELECT * FROM redeem_coupon(:'e', 'or-3', 100, 'or-e');
-- A refusal leaves no row of an order.
SELECT * FROM redeem_coupon(:'e', 'or-4', 100, 'or-e');
SELECT order_id FROM orders();
-- The table itself says so.
SELECT refused('UPDATE coupon.order_discount SET discount = 100.01 WHERE order_id = ''or-2''');
-- Amounts can be paid in the currency, and are never more than the order, the coupon or its max_discount.
SELECT discount, unit, max_discount, currency, amount,
    coupon_internal.compute_discount(amount, discount, unit, max_discount, currency) FROM (VALUES
    (5.5, 'money', NULL, 'JPY', 100), (10, 'percent', NULL, 'JPY', 55), (10, 'percent', 2.5, 'JPY', 55),
        (50, 'money', NULL, 'JPY', 20.9),
    (9.999, 'money', NULL, 'EUR', 100), (100, 'percent', NULL, 'EUR', 10.005), (1.2345, 'money', NULL, 'KWD', 100),
        (5, 'money', NULL, 'EUR', NULL)) v(discount, unit, max_discount, currency, amount);
-- Refused without end: who gives no name, or one never seen, is counted in one row of this connection; who is blocked
-- too.
TRUNCATE coupon.redemption_attempt, coupon.redemption_limit;
SELECT count(*) FILTER (WHERE (redeem_coupon('no code', 'or-' || i, 1)).status = 'refused') AS refused
    FROM generate_series(1, 50) i;
SELECT count(*) FILTER (WHERE (redeem_coupon('no code', 'or-' || i, 1, 'never-seen-' || i)).status
    = 'refused') AS refused FROM generate_series(1, 5) i;
SELECT count(*) FILTER (WHERE (redeem_coupon('no code', 'or-' || i, 1, customer => 'mallory')).status
    = 'refused') AS refused FROM generate_series(1, 50) i;
SELECT action, customer, session, order_id IS NULL AS no_order, presenters, backend = pg_backend_pid() AS ours,
    count(*), sum(times) AS times FROM coupon.redemption_attempt GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 2, 5;
-- Ten minutes later there is another row.
SET coupon_ext.mock_clock = '2026-03-25 12:31:00';
SELECT status FROM redeem_coupon('no code', 'or-1', 1);
SELECT at, times FROM coupon.redemption_attempt WHERE presenters = 'unknown' ORDER BY at;
-- What is rolled back leaves no row; this connection remembers it all the same.
SELECT hand_out('or-f', 10, transferable => true) AS f, hand_out('or-g', 10, transferable => true) AS g \gset
BEGIN;
SELECT count(*) FILTER (WHERE (redeem_coupon('no code', 'or-' || i, 1, customer => 'trudy')).status
    = 'refused') AS refused FROM generate_series(1, 40) i;
ROLLBACK;
SELECT count(*) AS noted FROM coupon.redemption_limit WHERE presenter = 'customer trudy';
SELECT coupon_internal.count_refused_here('customer trudy') AS remembered;
SELECT * FROM redeem_coupon(:'f', 'or-9', 100, customer => 'trudy');
-- Nobody by name is counted and not blocked; ten minutes later trudy is not either.
SELECT * FROM redeem_coupon(:'f', 'or-9', 100);
SET coupon_ext.mock_clock = '2026-03-25 12:42:00';
SELECT * FROM redeem_coupon(:'g', 'or-10', 100, customer => 'trudy');
-- Of presenters, so many are remembered and no more.
SELECT count(*) FROM (SELECT coupon_internal.count_refused_attempt('p' || i) FROM generate_series(1, 10000) i) n;
SELECT sum(coupon_internal.count_refused_here('p' || i)) AS remembered FROM generate_series(1, 10000) i;
-- The budget of many coupons at once, and of those that were not issued back.
INSERT INTO coupon.campaign (campaign, unit, discount, budget, coupons_day) VALUES ('order-n', 'money', 5, 100, 30);
SELECT coupon_internal.claim_budget('order-n', true, 10) AS ten, coupon_internal.claim_budget('order-n', true, 11) AS eleven_more,
    coupon_internal.claim_budget('order-n', false, 10) AS ten_more;
SELECT unit, granted, available FROM coupon.budget WHERE campaign = 'order-n' ORDER BY unit;
SELECT coupon_internal.return_budget('order-n', 4), coupon_internal.claim_budget('order-n', true) AS one;
SELECT unit, granted, available FROM coupon.budget WHERE campaign = 'order-n' ORDER BY unit;
DELETE FROM coupon.campaign WHERE campaign = 'order-n';
DELETE FROM coupon.coupon WHERE campaign = 'order';
TRUNCATE coupon.redemption_attempt, coupon.redemption_limit, coupon.order_discount;
