-- The shop that every test here gets its own copy of: a click table of the shop's own, watched, and a trained, live model.
\set ON_ERROR_STOP on
CREATE EXTENSION coupon_ext;
CREATE EXTENSION amcheck;

CREATE TABLE click (session text, at timestamptz, kind text, page text, category text, price numeric);
SELECT coupon.watch('click', '{"session": "session", "at": "at", "kind": "kind", "page": "page", "category": "category", "price": "price"}');

-- A campaign that gives a coupon to many, so that a test need not wait for one. Thresholds are set by training: before it.
UPDATE coupon.arm SET policy = 'random' WHERE campaign = 'default';
UPDATE coupon.campaign SET target = 0.5, holdout = 0.05, budget = NULL, max_discount = NULL, unlimited = true WHERE campaign = 'default';

-- Enough sessions and buyers for a churn model; one epoch, because these tests ask what holds, not how good it is.
SELECT coupon.simulate(customers => 800, days => 20, seed => 1);
SELECT * FROM coupon.train(spec => '{"churn": {"epochs": 1}}', seed => 1);
SELECT coupon.go_live('default');
