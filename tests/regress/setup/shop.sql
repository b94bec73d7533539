-- needs: installed
-- A shop with a log of three weeks, and no model.
SET timezone = 'UTC';
SELECT coupon.simulate(800, 20, 0, '2026-01-05');
