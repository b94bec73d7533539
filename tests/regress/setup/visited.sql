-- needs: trained
-- Two days more, clicked while version 2 served.
SET timezone = 'UTC';
SELECT coupon.simulate(800, 2, 0, '2026-02-02');
