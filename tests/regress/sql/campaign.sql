-- campaign: what may be written into one, and each rule by itself: the first that stops a campaign is named by
-- coupon.explain_decision and noted.
-- needs: live
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
\pset null NULL

-- Nonsense is refused.
CREATE FUNCTION nonsense(what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO coupon.campaign (campaign, %s) VALUES (''nonsense'', %s)', split_part(what, ' = ', 1),
        split_part(what, ' = ', 2));
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SELECT what, nonsense(what) FROM unnest(ARRAY['discount = -1', 'discount = 0', 'discount = 100.01',
    'discount = ''NaN''', 'unit, discount = ''money'', ''Infinity''', 'unit = ''points''', 'currency = ''euro''',
    'max_discount = -5', 'minimum_basket = -1',
    'valid_for = ''0''', 'valid_for = ''-1 h''', 'valid_for = ''1000 years''', 'display_seconds = 0', 'target = 0',
        'target = 1', 'holdout = 0.01', 'holdout = 1', 'starts_at, ends_at = ''2026-02-01'', ''2026-01-01''',
    'time_zone = ''Mars/Olympus''', 'days = ''{0}''', 'days = ''{8}''', 'days = ''{}''', 'from_time = ''10:00''',
        'from_time, to_time = ''10:00'', ''10:00''', 'segments = ''{-1}''', 'zones = ''{NULL}''', 'categories = ''{}''',
    'minimum_stock = 0', 'max_traffic = 0', 'per_session = 0', 'per_customer = 0', 'cool_down = ''0''',
        'budget, max_discount = -1, 1', 'budget = 100', 'budget_day = 100', 'coupons = -1', 'paced = true',
        'state = ''paused''', 'state = ''running''', 'campaign = '''''''
    ]) WITH ORDINALITY u(what, i) ORDER BY i;
SELECT count(*) AS none FROM coupon.campaign WHERE campaign = 'nonsense';

-- A campaign for each rule, and the default one out of the way.
UPDATE coupon.campaign SET state = 'paused' WHERE campaign = 'default';
INSERT INTO coupon.campaign (campaign, salt, target, discount, unlimited) VALUES ('spring', 'regress', 0.5, 20, true);
INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('spring', 'all', 'random', 1);
SELECT coupon.go_live('spring');
SET coupon_ext.mock_clock = '2026-03-07 23:30:00';
CREATE PROCEDURE set_only(what text) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE coupon.campaign SET starts_at = NULL, ends_at = NULL, days = NULL, from_time = NULL, to_time = NULL,
        time_zone = 'UTC', segments = NULL, zones = NULL, categories = NULL, minimum_stock = NULL, max_traffic = NULL,
        per_customer = NULL, cool_down = NULL, budget = NULL, budget_day = NULL, coupons = NULL, coupons_day = NULL,
            paced = false WHERE campaign = 'spring';
    EXECUTE 'UPDATE coupon.campaign SET ' || what || ' WHERE campaign = ''spring''';
END
$$;
CALL set_only('starts_at = ''2026-03-08''');
SELECT * FROM stopped_by('r1');
CALL set_only('starts_at = ''2026-03-07 23:30:00'', ends_at = ''2026-03-07 23:30:01''');
SELECT * FROM stopped_by('r2');
CALL set_only('ends_at = ''2026-03-07 23:30:00''');
SELECT * FROM stopped_by('r3');
-- Saturday 23:30 in UTC is Sunday 00:30 in Berlin: over midnight it still belongs to Saturday's evening.
CALL set_only('from_time = ''22:00'', to_time = ''02:00'', time_zone = ''Europe/Berlin''');
SELECT * FROM stopped_by('r4');
CALL set_only('from_time = ''22:00'', to_time = ''02:00'', days = ''{6}'', time_zone = ''Europe/Berlin''');
SELECT * FROM stopped_by('r5');
CALL set_only('from_time = ''22:00'', to_time = ''00:30'', time_zone = ''Europe/Berlin''');
SELECT * FROM stopped_by('r6');
CALL set_only('days = ''{6}'', time_zone = ''Europe/Berlin''');
SELECT * FROM stopped_by('r7');
CALL set_only('days = ''{7}'', time_zone = ''Europe/Berlin''');
SELECT * FROM stopped_by('r8');
-- Against the plain reading of hours, for every minute of a week and windows that do and do not cross midnight.
SELECT count(*) AS minutes, count(*) FILTER (WHERE coupon_internal.is_in_hours(m, 'America/New_York', '{1,5}', w.f,
    w.t) <> (l::time >= w.f AND l::time < w.t AND extract(isodow FROM l) IN (1, 5))) AS wrong_by_day
FROM generate_series(timestamptz '2026-03-02', '2026-03-09', '7 minutes') m,
    LATERAL (SELECT m AT TIME ZONE 'America/New_York' AS l) l,
    (VALUES (time '08:00', time '20:00'), ('00:00', '24:00')) w(f, t);
SELECT count(*) FILTER (WHERE coupon_internal.is_in_hours(m, 'UTC', '{2}', '21:00', '03:00') <> (m >= '2026-03-03 21:00'
    AND m < '2026-03-04 03:00')) AS wrong_over_midnight
    FROM generate_series(timestamptz '2026-03-02', '2026-03-08 23:59', '1 minute') m;
CALL set_only('segments = ''{7}''');
SELECT * FROM stopped_by('r9');
CALL set_only('segments = ''{0,7}''');
SELECT * FROM stopped_by('r10');
CALL set_only('zones = ''{north,east}''');
SELECT * FROM stopped_by('r11');
SELECT * FROM stopped_by('r12', zone => 'west');
SELECT * FROM stopped_by('r13', zone => 'east');
-- Sessions that began within ten minutes: those of this file.
CALL set_only('max_traffic = 5');
SELECT * FROM stopped_by('r14');
CALL set_only('max_traffic = 1000');
SELECT * FROM stopped_by('r15');
CALL set_only('categories = ''{nothing}''');
SELECT * FROM stopped_by('r16');
SELECT category AS third FROM rank_categories(NULL, NULL, 3) WHERE rank = 3 \gset
CALL set_only(format('categories = ''{%s}''', :'third'));
SELECT * FROM stopped_by('r17');
SELECT category = :'third' AS the_third FROM coupon.coupon WHERE session LIKE 'r17-%';
-- Stock, live, in the shop's own table.
SELECT refused('SELECT coupon.watch_stock(''coupon.arm'', ''arm'', ''policy'')');
SELECT refused('SELECT coupon.watch_stock(''coupon.model_metrics'', ''population'', ''auroc'')');
SELECT refused('SELECT coupon.watch_stock(NULL, ''a'', ''b'')');
CREATE TABLE "Stock" (product int, "Category" varchar, pieces int);
INSERT INTO "Stock" VALUES (1, :'third', 3), (2, :'third', 4);
SELECT coupon.watch_stock('"Stock"', 'Category', 'pieces');
SELECT coupon_internal.read_stock(:'third') AS stock, coupon_internal.read_stock('nothing') AS nothing, coupon_internal.read_stock(NULL) AS no_category;
-- Its owner names it, since it is read with the owner's rights; whoever may read it may not.
CREATE ROLE regress_coupon_marketer;
SELECT coupon.grant_access('regress_coupon_marketer', 'marketer');
GRANT SELECT ON "Stock" TO regress_coupon_marketer;
SET ROLE regress_coupon_marketer;
SELECT refused($$SELECT coupon.watch_stock('"Stock"', 'Category', 'pieces')$$);
SELECT refused($$UPDATE coupon.stock_source SET quantity = 'product'$$);
SELECT refused($$INSERT INTO coupon.stock_source VALUES (true, '"Stock"', 'Category', 'pieces')$$);
RESET ROLE;
CREATE TABLE "Secret" (category text, owner name, quantity int);
INSERT INTO "Secret" VALUES (:'third', 'postgres', 99999);
ALTER TABLE "Secret" ENABLE ROW LEVEL SECURITY;
SELECT refused($$SELECT coupon.watch_stock('"Secret"', 'category', 'quantity')$$);
SELECT refused($$UPDATE coupon.stock_source SET relation = '"Secret"', category = 'category', quantity = 'quantity'$$);
-- Of a table that may no longer be read no stock is known: that is said once, and no click is lost by it.
CREATE FUNCTION stock_after(change text, category text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    found numeric;
BEGIN
    EXECUTE change;
    found := coupon_internal.read_stock(category);
    RAISE EXCEPTION USING MESSAGE = coalesce(found::text, 'unknown'), ERRCODE = 'UUUUU';
EXCEPTION WHEN SQLSTATE 'UUUUU' THEN
    RETURN nullif(SQLERRM, 'unknown');
END
$$;
SELECT stock_after('SELECT 1', category) AS before,
    stock_after('ALTER TABLE "Stock" ENABLE ROW LEVEL SECURITY', category) AS row_security,
    stock_after('REVOKE SELECT ON "Stock" FROM postgres; ALTER TABLE "Stock" OWNER TO regress_coupon_marketer; REVOKE SELECT ON "Stock" FROM regress_coupon_marketer', category) AS revoked,
    stock_after('ALTER TABLE "Stock" RENAME pieces TO number', category) AS renamed,
        stock_after('ALTER TABLE "Stock" ALTER pieces TYPE text', category) AS retyped,
    stock_after('ALTER TABLE "Stock" ALTER pieces TYPE float8 USING 1e308', category) AS overflow,
    stock_after('DROP TABLE "Stock"', category) AS gone
FROM (VALUES (:'third')) c(category);
SELECT coupon.revoke_access('regress_coupon_marketer');
DROP OWNED BY regress_coupon_marketer;
DROP ROLE regress_coupon_marketer;
DROP FUNCTION stock_after(text, text);
DROP TABLE "Secret";
CALL set_only(format('categories = ''{%s}'', minimum_stock = 8', :'third'));
SELECT rule, replace(detail, :'third', 'the third') AS detail, noted, coupon FROM stopped_by('r18');
CALL set_only('minimum_stock = 7');
SELECT * FROM stopped_by('r19');
SELECT count(*) = 1 AS the_only_one_in_stock FROM coupon.coupon WHERE session LIKE 'r19-%' AND category = :'third';
-- Limits and cool-down of a customer count held-out sessions too; an anonymous one has none.
CALL set_only('per_customer = 1');
SELECT * FROM stopped_by('r20', 'cleo');
SELECT * FROM stopped_by('r21', 'cleo');
SELECT * FROM stopped_by('r22');
SELECT campaign, decisions, last_at FROM coupon.customer_limit WHERE customer = 'cleo' ORDER BY 1;
CALL set_only('cool_down = ''1 day''');
SELECT * FROM stopped_by('r23', 'cleo');
SET coupon_ext.mock_clock = '2026-03-08 23:30:00';
SELECT * FROM stopped_by('r24', 'cleo');
SELECT name_it('r25-', false) AS held \gset
CALL give(:'held', 'vera');
SELECT outcome FROM coupon.decision WHERE session = :'held';
SELECT * FROM stopped_by('r26', 'vera');

-- Several campaigns: by priority, then name; the next one where a rule stops the first; each session once.
INSERT INTO coupon.campaign (campaign, salt, target, priority, unlimited) VALUES ('harvest', 'regress', 0.5, 5, true),
    ('beach', 'regress', 0.5, 5, true);
INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('harvest', 'all', 'random', 1),
    ('beach', 'all', 'random', 1);
SELECT coupon.go_live('harvest'), coupon.go_live('beach');
SELECT name_it('m1-', true) AS m1, name_it('m2-', true) AS m2, name_it('m3-', true) AS m3 \gset
CALL give(:'m1');
UPDATE coupon.campaign SET segments = '{9}' WHERE campaign = 'harvest';
CALL give(:'m2');
SELECT d.session = :'m1' AS first, d.campaign, d.outcome, d.reason FROM coupon.decision d
    WHERE session IN (:'m1', :'m2') ORDER BY 1 DESC, 2;
SELECT campaign, condition, holds FROM coupon.explain_decision(:'m2') WHERE campaign IS NOT NULL
    AND (condition LIKE 'rule%' OR condition = 'all rules');
-- What was stopped may be due at a later click, and then its row says so.
UPDATE coupon.campaign SET segments = '{9}' WHERE campaign IN ('beach', 'spring');
CALL give(:'m3');
SELECT campaign, outcome, reason FROM coupon.decision WHERE session = :'m3' ORDER BY 1;
UPDATE coupon.campaign SET segments = NULL WHERE campaign = 'beach';
SELECT (issue_coupon(:'m3')).campaign;
SELECT campaign, outcome, reason FROM coupon.decision WHERE session = :'m3' ORDER BY 1;
-- A campaign that has issued stays, and keeps its name; every change is in the audit.
SELECT refused('DELETE FROM coupon.campaign WHERE campaign = ''beach''');
SELECT refused('UPDATE coupon.campaign SET campaign = ''winter'' WHERE campaign = ''beach''');
DELETE FROM coupon.campaign WHERE campaign = 'harvest'
    AND NOT EXISTS (SELECT FROM coupon.coupon c WHERE c.campaign = 'harvest');
SELECT subject, name, event, detail - 'salt' - 'live_since' AS detail FROM coupon.audit WHERE name LIKE 'beach%'
    AND event <> 'insert' ORDER BY id;
UPDATE coupon.campaign SET state = 'ended' WHERE campaign IN ('harvest', 'beach');

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
