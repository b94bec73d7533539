-- needs: empty
-- The extension and its storage, nothing in it.
CREATE EXTENSION coupon_ext;
SELECT coupon.create_storage();
