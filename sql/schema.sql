-- The schema everything lives in, and the types the functions speak.
--
-- Nothing of this script is looked up in the schema it is run in: whoever may create objects there could put his own
-- operators and functions in our views. What goes there is named with it.
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
BEGIN
    IF to_regnamespace('coupon') IS NOT NULL THEN
        RAISE EXCEPTION 'schema "coupon" exists already'
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'coupon_ext keeps its functions and its tables in a schema of that name.',
                  HINT = 'Rename the existing schema, or drop it if an earlier installation left it behind.';
    END IF;
END
$$;
CREATE SCHEMA coupon;
COMMENT ON SCHEMA coupon IS 'coupon_ext: click log to coupons; the verbs applications call stand in the schema CREATE EXTENSION was run in';
GRANT USAGE ON SCHEMA coupon TO PUBLIC;

CREATE TYPE coupon.event AS (
    at timestamptz, session text, customer text, kind text, page text, category text, product text,
    quantity float8, price float8, order_id text, zone text, attributes text[]);
COMMENT ON TYPE coupon.event IS 'One event of the shop: a row of a watched table, renamed by its mapping';

CREATE TYPE coupon.page_view AS (
    at timestamptz, kind text, page text, category text, product text, price float8, attributes text[]);
COMMENT ON TYPE coupon.page_view IS 'One page view as the churn model reads it; attributes in the order watch names them';

CREATE TYPE coupon.offer AS (
    code text, category text, discount numeric, issued_at timestamptz, expires_at timestamptz,
    display_seconds int, campaign text, message text, unit text, currency text);
COMMENT ON TYPE coupon.offer IS 'What a pop-up needs: the code, its category and discount (percent, or money of the currency), and how long it shows and holds';

CREATE TYPE coupon.redemption AS (status text, reason text, discount numeric);
COMMENT ON TYPE coupon.redemption IS 'The answer to a presented code: shown, dismissed, reserved, redeemed, released or refused, why, and the discount in money';

CREATE TYPE coupon.training_step AS (
    version bigint, stage text, segment int, step int, loss float8, tune_loss float8, auroc float8, auprc float8,
    accuracy float8, seconds float8, note text);
COMMENT ON TYPE coupon.training_step IS 'One step of training: a rule, a clustering, an epoch of a segment''s model, a verdict';
