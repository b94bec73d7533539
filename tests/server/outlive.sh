#!/usr/bin/env bash
# Proves: the data outlives the extension. DROP EXTENSION … CASCADE leaves every row of every table; CREATE EXTENSION
# finds them; until coupon.create_storage() has put back views and triggers, every verb says so and nothing is half
# done; then budgets are enforced, the audit is append-only, clicks are counted and old coupons redeemable, as before.
. "$(dirname "$0")/lib.sh"
role=reader_$$
trap 'q "DROP OWNED BY $role; DROP ROLE $role" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

q "UPDATE coupon.campaign SET max_discount = 5 WHERE campaign = 'default'; UPDATE coupon.campaign SET budget = 1000, coupons = 5000 WHERE campaign = 'default'" >/dev/null
play o- 60 8
q "SELECT coupon.record_click('mine', category => 'c1') FROM generate_series(1, 3)" >/dev/null
q "SELECT coupon.name_segment(1, 'the curious')" >/dev/null
q "SELECT redeem_coupon(code, 'o-' || id, 50, session => session) FROM coupon.coupon WHERE closed_at IS NULL ORDER BY session LIMIT 3; CREATE ROLE $role; SELECT coupon.grant_access('$role', 'operator'), coupon.grant_access('$role', 'analyst')" >/dev/null

# One line a table: its rows and a digest of them, in no order. coupon.storage says when the tables were last looked at.
fingerprint() {
    psql -XAtq -v ON_ERROR_STOP=1 <<'SQL'
SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %s t', c.oid::regclass, c.oid::regclass)
FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace IN ('coupon'::regnamespace, 'public'::regnamespace) AND c.oid::regclass::text <> 'coupon.storage'
ORDER BY c.oid::regclass::text \gexec
SQL
}
triggers="SELECT tgrelid::regclass::text, tgname, tgenabled, tgtype, tgargs, tgattr::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'coupon'::regnamespace) ORDER BY 1, 2"
views="SELECT c.relname, pg_get_viewdef(c.oid), obj_description(c.oid) FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = 'coupon'::regnamespace ORDER BY 1"
fingerprint >"$work/before"
q "$triggers" >"$work/triggers"
q "$views" >"$work/views"
code=$(q "SELECT code FROM coupon.coupon WHERE closed_at IS NULL AND code IS NOT NULL ORDER BY session LIMIT 1")
of=$(q "SELECT session FROM coupon.coupon WHERE code = '$code'")
coupons=$(q "SELECT count(*) FROM coupon.coupon")

expect_error "without CASCADE it is refused" 2BP01 "DROP EXTENSION coupon_ext"
q "DROP EXTENSION coupon_ext CASCADE" 2>/dev/null
fingerprint >"$work/after"
diff "$work/before" "$work/after" || give_up "CASCADE took rows"
echo "ok: $(wc -l <"$work/before") tables are the same without the extension, row by row"
play n- 10 1
expect "the shop's clicks are kept" 10 "$(clicks n-)"
fingerprint >"$work/before"

note "the extension comes back"
q "CREATE EXTENSION coupon_ext"
for verb in "SELECT coupon.go_live('default')" "SELECT coupon.activate(1)" "SELECT coupon.maintain()" "SELECT coupon.forget('x')" "SELECT * FROM coupon.train()" "SELECT coupon.export_model(1)"; do
    said=$(psql -XAtq -c "$verb" 2>&1 || true)
    case $said in *"HINT:  SELECT coupon.create_storage()"*) echo "ok: $verb says what to do" ;; *) give_up "$verb: $said" ;; esac
done
for verb in "SELECT issue_coupon('$of') IS NULL" "SELECT (redeem_coupon('$code', 'o', 50, session => '$of')).status = 'refused'" "SELECT (release_coupon('$code', 'o')).status = 'refused'"; do
    said=$(psql -XAtq -c "$verb" 2>&1 || true)
    case $said in "WARNING:  "*"HINT:  SELECT coupon.create_storage()"*t) echo "ok: $verb, with a warning" ;; *) give_up "$verb: $said" ;; esac
done
# A trigger that somebody puts back by hand finds half of the rest.
q "CREATE TRIGGER early AFTER INSERT ON click REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION coupon_internal.on_click('{\"columns\": {\"session\": \"session\", \"at\": \"at\"}}')"
play early- 3 6 2>"$work/said"
grep -q 'create_storage' "$work/said" || give_up "a click says nothing"
expect "no click is half done" "18 0 0" "$(clicks early-) $(views early-) $(decisions early-)"
q "DROP TRIGGER early ON click; DELETE FROM click WHERE session LIKE 'early-%'; DELETE FROM coupon.missed_click WHERE session LIKE 'early-%'; DELETE FROM coupon.error_log WHERE message LIKE '%storage is not ready%'"

q "SELECT coupon.create_storage()" >/dev/null
fingerprint >"$work/after"
diff "$work/before" "$work/after" || give_up "the tables differ"
echo "ok: all data are equal"
q "$triggers" | diff "$work/triggers" - || give_up "triggers of ours are missing"
q "$views" | diff "$work/views" - || give_up "views are missing"
echo "ok: triggers and views are as they were"
expect "who may do what is granted again" "t t" \
    "$(q "SELECT holds FROM coupon.access WHERE role = '$role'" | tr '\n' ' ' | sed 's/ $//')"
again=$(q "SELECT at FROM coupon.storage")
q "SELECT coupon.create_storage()" >/dev/null
expect "once more does nothing" "$again" "$(q "SELECT at FROM coupon.storage")"

note "all goes on"
expect "an old coupon is redeemable" redeemed \
    "$(q "SELECT status FROM redeem_coupon('$code', 'o-old', 50, session => '$of')")"
expect_true "every budget adds up" "$adds_up"
expect_error "a budget below what is committed is refused" 23514 \
    "UPDATE coupon.campaign SET coupons = 1 WHERE campaign = 'default'"
expect_error "the audit is append-only" 55000 "DELETE FROM coupon.audit"
expect_error "a campaign that has issued stays" 23001 "DELETE FROM coupon.campaign WHERE campaign = 'default'"
q "SELECT coupon.record_click('mine', category => 'c1')" >/dev/null
expect "coupon.click is watched: a session goes on with its state" 4 "$(views mine)"
q "SELECT coupon.watch('click', '{\"session\": \"session\", \"at\": \"at\", \"kind\": \"kind\", \"page\": \"page\", \"category\": \"category\", \"price\": \"price\"}')"
play w- 60 8
expect "the shop's table, watched again, too" 480 "$(views w-)"
expect_true "coupons are issued and audited" "SELECT count(*) > $coupons AND count(*) = (SELECT count(*) FROM coupon.audit a WHERE a.subject = 'coupon' AND a.event = 'issued') FROM coupon.coupon"
expect_true "and the budgets add up" "$adds_up"
expect "no fault" 0 "$(faults)"

note "what somebody else prepared"
other=${PGDATABASE}_hostile
createdb "$other"
trap 'PGDATABASE=postgres dropdb --if-exists --force "$other" 2>/dev/null; q "DROP OWNED BY $role; DROP ROLE $role" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
(
    PGDATABASE=$other
    refused() {
        local said
        said=$(psql -XAtq -c "$2; CREATE EXTENSION coupon_ext" 2>&1 || true)
        case $said in *'schema "coupon" exists already'*"DETAIL:  $3"*HINT:*) echo "ok: refused: $1" ;; *) give_up "$1: $said" ;; esac
        expect "nothing of it is left" 0 "$(q "SELECT count(*) FROM pg_extension WHERE extname = 'coupon_ext'")"
        q "DROP SCHEMA IF EXISTS coupon CASCADE" 2>/dev/null
    }
    refused "a schema of somebody else" "CREATE SCHEMA coupon AUTHORIZATION $role" \
        "It belongs to role \"$role\", who is no superuser."
    refused "a function" "CREATE SCHEMA coupon; CREATE FUNCTION coupon.clock() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'" "It holds function coupon.clock(), and may hold nothing but tables, views and sequences."
    refused "an operator" "CREATE SCHEMA coupon; CREATE OPERATOR coupon.= (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)" "It holds operator coupon.=(text,text), and"
    refused "a type" "CREATE SCHEMA coupon; CREATE TYPE coupon.offer AS (code text)" "It holds type coupon.offer, and"
    refused "a table of somebody else" "CREATE SCHEMA coupon; CREATE TABLE coupon.storage (version int, revision uuid); ALTER TABLE coupon.storage OWNER TO $role" "It holds table coupon.storage of role \"$role\", who is no superuser."
    refused "a schema others may create in" "CREATE SCHEMA coupon; GRANT CREATE ON SCHEMA coupon TO PUBLIC" \
        "Everybody may create objects in it."
    expect_error "a schema coupon for the verbs" 3F000 "CREATE SCHEMA coupon; CREATE EXTENSION coupon_ext SCHEMA coupon"
    q "DROP SCHEMA IF EXISTS coupon CASCADE; CREATE SCHEMA coupon; CREATE EXTENSION coupon_ext; SELECT coupon.create_storage(); DROP EXTENSION coupon_ext CASCADE; CREATE EXTENSION coupon_ext; SELECT coupon.create_storage()" >/dev/null 2>&1
    expect "an empty schema is taken, and twice is once" 1 "$(q "SELECT count(*) FROM coupon.campaign")"
    expect_true "PUBLIC may use it" "SELECT has_schema_privilege('$role', 'coupon', 'USAGE')"
    expect "nothing of the schema is noted as the extension's" 0 "$(q "SELECT count(*) FROM pg_init_privs WHERE classoid = 'pg_namespace'::regclass AND objoid = 'coupon'::regnamespace")"
)
