-- needs: visited
-- A live campaign whose draws can be told in advance (salt), and the decisions of two days: the first with one arm, the
-- second
-- with two. Then everybody who looks long enough is drawn: what name_it foresees.
SET timezone = 'UTC';
UPDATE coupon.campaign SET salt = 'regress', target = 0.2, max_discount = NULL, budget = NULL, unlimited = true
    WHERE campaign = 'default';
SET coupon_ext.mock_clock = '2026-02-06 00:00:00';
SELECT coupon.go_live('default');
RESET coupon_ext.mock_clock;
SELECT coupon.simulate(800, 1, 0, '2026-02-06');
UPDATE coupon.arm SET arm = 'a', policy = 'risk', share = 0.3 WHERE campaign = 'default';
INSERT INTO coupon.arm (campaign, arm, policy, segments, ranking, share)
    VALUES ('default', 'b', 'random', false, 'popular', 0.2);
SELECT coupon.simulate(800, 1, 0, '2026-02-07');
DELETE FROM coupon.arm WHERE arm = 'b';
UPDATE coupon.arm SET arm = 'all', policy = 'random', share = 1;
UPDATE coupon.campaign SET target = 0.5;
SET coupon_ext.mock_clock = '2026-02-10 12:00:00';
SELECT expired FROM coupon.maintain();
