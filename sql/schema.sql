-- The schema everything lives in, and the types the functions speak.
--
-- Nothing of this script is looked up in the schema it is run in: whoever may create objects there could put his own
-- operators and functions in our views. What goes there is named with it.
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    schema record;
    hostile text;
BEGIN
    -- Rust's texts are UTF-8, and SQL_ASCII promises nothing about its bytes.
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'coupon_ext needs a database with encoding UTF8; this one has %', getdatabaseencoding()
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'CREATE DATABASE name ENCODING ''UTF8'' LOCALE ''C.UTF-8'' TEMPLATE template0 makes one; pg_dump converts what it carries there.';
    END IF;
    IF '@extschema@' = 'coupon' THEN
        RAISE EXCEPTION 'schema "coupon" cannot hold what applications call' USING ERRCODE = 'invalid_schema_name',
            HINT = 'CREATE EXTENSION coupon_ext SCHEMA public, or any other.';
    END IF;
    -- The data outlives the extension, and pg_dump makes its schema before it. Whatever else somebody put there could be
    -- taken for ours.
    SELECT n.oid, n.nspowner AS owner, n.nspacl AS acl INTO schema FROM pg_namespace n WHERE n.nspname = 'coupon';
    IF NOT FOUND THEN
        CREATE SCHEMA coupon;
        RETURN;
    END IF;
    WITH trusted AS (SELECT r.oid FROM pg_roles r WHERE r.rolsuper OR r.rolname = current_user),
        held AS (
            SELECT pg_describe_object(d.classid, d.objid, 0) AS name, coalesce(c.relowner, x.stxowner) AS owner
            FROM pg_depend d LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I')
            LEFT JOIN pg_statistic_ext x ON d.classid = 'pg_statistic_ext'::regclass AND x.oid = d.objid
            WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = schema.oid
                AND d.classid NOT IN ('pg_default_acl'::regclass, 'pg_publication_namespace'::regclass))
    SELECT f.why INTO hostile FROM (
        SELECT 1, format('It belongs to role "%s", who is no superuser.', pg_get_userbyid(schema.owner))
        WHERE schema.owner NOT IN (SELECT t.oid FROM trusted t)
        UNION ALL
        SELECT 2, format('%s may create objects in it.', CASE a.grantee WHEN 0 THEN 'Everybody' ELSE format('Role "%s"', pg_get_userbyid(a.grantee)) END)
        FROM aclexplode(schema.acl) a WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (SELECT t.oid FROM trusted t)
        UNION ALL
        SELECT 3, CASE WHEN h.owner IS NULL THEN format('It holds %s, and may hold nothing but tables, views and sequences.', h.name)
            ELSE format('It holds %s of role "%s", who is no superuser.', h.name, pg_get_userbyid(h.owner)) END
        FROM held h WHERE h.owner IS NULL OR h.owner NOT IN (SELECT t.oid FROM trusted t)) f(n, why)
    ORDER BY f.n, f.why COLLATE "C" LIMIT 1;
    IF hostile IS NOT NULL THEN
        RAISE EXCEPTION 'schema "coupon" exists already'
            USING ERRCODE = 'duplicate_schema', DETAIL = hostile,
                  HINT = 'coupon_ext keeps its functions and its tables in a schema of that name. Rename the existing one, or remove what an earlier installation did not leave there.';
    END IF;
    -- A member until the end of this script, so that no privilege of the schema is noted as the extension's.
    ALTER EXTENSION coupon_ext ADD SCHEMA coupon;
END
$$;
COMMENT ON SCHEMA coupon IS 'coupon_ext: click log to coupons; the verbs applications call stand in the schema CREATE EXTENSION was run in';
GRANT USAGE ON SCHEMA coupon TO PUBLIC;

-- What nobody calls by name; unlike the data it goes with the extension. Views and policies name it, so everybody may look in.
CREATE SCHEMA coupon_internal;
COMMENT ON SCHEMA coupon_internal IS 'coupon_ext: routines that its own functions, triggers and views call';
GRANT USAGE ON SCHEMA coupon_internal TO PUBLIC;

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
    version bigint, stage text, segment int, step int, loss float8, validation_loss float8, auroc float8, auprc float8,
    accuracy float8, seconds float8, note text);
COMMENT ON TYPE coupon.training_step IS 'One step of training: a rule, a clustering, an epoch of a segment''s model, a verdict';
