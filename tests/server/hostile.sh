#!/usr/bin/env bash
# Proves: a user who owns a watched table, the table of stock and a schema in everybody's way, who may create in public
# and sets what search_path he likes, makes none of our functions run his code with more than his own rights.
. "$(dirname "$0")/lib.sh"
owner=$PGUSER
role=mallory_$$
second=${PGDATABASE}_install
# shellcheck disable=SC2016 # $1 is SQL's
trap 'PGUSER=$owner; dropdb --if-exists --force "$second" 2>/dev/null
    q "DROP OWNED BY $role CASCADE; DROP ROLE $role; DROP ROLE IF EXISTS \"$role; ALTER ROLE $role SUPERUSER; --\"" >/dev/null 2>&1; rm -rf "$work"' EXIT
mallory() { as "$role" "$@"; }

# His tools. A sequence counts with whose rights his code ran: it counts in functions that may not write, and no
# rollback undoes it.
tools() {
    q "CREATE SCHEMA own AUTHORIZATION $role; GRANT CREATE ON SCHEMA public TO $role"
    mallory q "
        CREATE SEQUENCE own.as_other; CREATE SEQUENCE own.as_self; CREATE SEQUENCE own.out;
        CREATE FUNCTION own.strike() RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
            PERFORM pg_catalog.nextval(CASE WHEN current_user = '$role' THEN 'own.as_self' ELSE 'own.as_other' END);
            -- What he leaves behind for whoever runs next.
            PERFORM pg_catalog.set_config('search_path', 'own, public, pg_catalog', false);
        END \$\$;
        CREATE FUNCTION own.strike(x text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN x; END';
        CREATE FUNCTION own.strike(x text, y text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN true; END';
        CREATE OPERATOR own.= (LEFTARG = text, RIGHTARG = text, FUNCTION = own.strike);
        CREATE OPERATOR own.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = own.strike);
        CREATE FUNCTION own.array_to_string(text[], text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN NULL; END';
        CREATE FUNCTION own.to_regclass(text) RETURNS regclass LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN NULL; END'"
}
times() { q "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM own.as_$1"; }
# ran WHAT: his code ran since the last look, and with his rights; kept_out WHAT: it did not run at all.
seen=0
ran() {
    expect "$1: never with another's rights" 0 "$(times other)"
    [ "$(times self)" -gt "$seen" ] || give_up "$1: his code did not even run, which proves nothing"
    echo "ok: $1: his code ran, and with his own rights"
    seen=$(times self)
}
kept_out() {
    expect "$1: never with another's rights" 0 "$(times other)"
    expect "$1: his code did not run" "$seen" "$(times self)"
}

q "CREATE ROLE $role LOGIN"

note "objects in public before the extension is installed there"
shop=$PGDATABASE
createdb "$second"
PGDATABASE=$second
tools
# Operators and functions that fit better than PostgreSQL's own, wherever the script lets an argument be converted.
mallory q "
    CREATE FUNCTION public.b(oid, regproc) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN true; END';
    CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regproc, FUNCTION = public.b);
    CREATE FUNCTION public.d(numeric, int) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN 0; END';
    CREATE OPERATOR public./ (LEFTARG = numeric, RIGHTARG = int, FUNCTION = public.d);
    CREATE FUNCTION public.hashtextextended(text, int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN 0; END';
    CREATE FUNCTION public.assign_segment(character varying) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN 0; END';
    CREATE FUNCTION public.issue_coupon(character varying) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN 0; END'"
q "CREATE EXTENSION coupon_ext; SELECT coupon.create_storage(); SELECT count(*) FROM coupon.watched;
   SELECT coupon_internal.try_lock_mutex('a', false), coupon_internal.compute_discount(50, 10, 'percent', NULL, 'EUR'); SELECT issue_coupon(42::bigint);
   SELECT count(*) FROM coupon.segment_statistics; SELECT coupon.record_click('h-1', NULL, 'view', 'c-1')" >/dev/null 2>&1
kept_out "installed and used"
expect "the discount is right" 5.00 "$(q "SELECT coupon_internal.compute_discount(50, 10, 'percent', NULL, 'EUR')")"
PGDATABASE=$shop
dropdb --force "$second"

tools
q "GRANT USAGE ON SCHEMA own TO PUBLIC; GRANT EXECUTE ON FUNCTION issue_coupon(text), redeem_coupon(text, text, numeric, text, text),
       coupon.live_offer(text), rank_categories(text, text, int), assign_segment(text), churn_probability(text) TO $role;
   GRANT INSERT ON click TO $role"
seen=$(times self)

note "a search_path of his own, and what pg_temp can hold"
for view in 1 2 3 4 5 6 7 8; do
    mallory q "SET search_path = pg_temp, own, public;
        CREATE TEMP TABLE pg_class (oid oid, relname name); CREATE TEMP TABLE pg_trigger (tgrelid oid);
        CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN ''2000-01-01''; END';
        INSERT INTO public.click SELECT 't-' || i, pg_catalog.now(), 'view', 'p$view', 'c1', 20 FROM generate_series(1, 20) i;
        SELECT public.issue_coupon('t-1'), public.redeem_coupon('0000-0000-0000-0000-0', 'o', 1), coupon.live_offer('t-1'),
            public.assign_segment('x'::text), public.churn_probability('t-1');
        SELECT * FROM public.rank_categories('c', 't-1')" >/dev/null
done
expect "his clicks were counted" 160 "$(views t-)"
expect_true "and some of his sessions got a coupon, as anybody's" \
    "SELECT count(*) > 0 FROM coupon.coupon WHERE session LIKE 't-%'"
expect "none of our functions called his" 0 "$(times other)"

note "the table of stock is his"
stocked=$(q "SELECT string_agg(DISTINCT format('(%L, 5)', category), ', ') FROM coupon.click WHERE category IS NOT NULL")
mallory q "CREATE TABLE own.stock (category text, quantity int); INSERT INTO own.stock VALUES $stocked;
    CREATE INDEX ON own.stock ((own.strike('x') || category)); GRANT SELECT ON own.stock TO PUBLIC"
q "SELECT coupon.watch_stock('own.stock', 'category', 'quantity'); UPDATE coupon.campaign SET minimum_stock = 1 WHERE campaign = 'default'" >/dev/null
seen=$(times self)
before=$(faults)
play u- 20 8
ran "an index on an expression, and the search_path it leaves behind"
expect "no fault" "$before" "$(faults)"
expect_true "coupons are issued" "SELECT count(*) > 0 FROM coupon.coupon WHERE session LIKE 'u-%'"
mallory q "CREATE TABLE own.empty (category text, quantity int); GRANT SELECT ON own.empty TO PUBLIC"
q "SELECT coupon.watch_stock('own.empty', 'category', 'quantity')" >/dev/null
mallory q "CREATE FUNCTION own.rows() RETURNS SETOF own.empty LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN; END';
    CREATE RULE \"_RETURN\" AS ON SELECT TO own.empty DO INSTEAD SELECT * FROM own.rows()"
play v- 20 8
kept_out "a view in place of the table of stock"
mallory q "DROP TABLE own.stock; CREATE VIEW own.stock AS SELECT own.strike('c1') AS category, 1 AS quantity"
q "UPDATE coupon.campaign SET minimum_stock = NULL WHERE campaign = 'default'"

note "a watched table is his"
mallory q "CREATE TYPE own.kind AS ENUM ('view', 'cart');
    CREATE FUNCTION own.cast_kind(own.kind) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM own.strike(); RETURN ''purchase''; END';
    CREATE CAST (own.kind AS text) WITH FUNCTION own.cast_kind(own.kind) AS IMPLICIT;
    CREATE DOMAIN own.name AS text CHECK (own.strike(VALUE) IS NOT NULL);
    CREATE DOMAIN own.kinds AS own.kind;
    CREATE TABLE own.log (session own.name, at timestamptz, kind own.kind, page own.kinds, \"cat\"\"; SELECT own.strike(); --\" text)"
q "SELECT coupon.watch('own.log', '{\"session\": \"session\", \"at\": \"at\", \"kind\": \"kind\", \"page\": \"page\", \"category\": \"cat\\\"; SELECT own.strike(); --\"}')" >/dev/null
log() { mallory q "INSERT INTO own.log SELECT '$1-1', now(), 'view', 'cart', 'c' || i FROM generate_series(1, 6) i" >/dev/null; }
# A session that missed a click is rebuilt from the log inside a definer function.
rebuild() {
    log "$1"
    expect "$1: its clicks are counted" 6 "$(views "$1-")"
    q "INSERT INTO coupon.missed_click (session, reason) VALUES ('$1-1', 'test')"
    seen=$(times self)
    q "SELECT coupon.maintain()" >/dev/null
    expect "$1: it is rebuilt" "6 0" "$(views "$1-") $(q "SELECT count(*) FROM coupon.missed_click WHERE session = '$1-1'")"
}
rebuild w
kept_out "a cast and a domain of his, in reading his log"
expect "an enum is read by its label, by the trigger and from the log" "view cart" \
    "$(q "SELECT DISTINCT kind || ' ' || page FROM coupon.session_events('w-1')")"

mallory q "CREATE INDEX ON own.log ((own.strike('x') || session))"
rebuild a
ran "an index on an expression"
mallory q "DROP INDEX own.log_expr_idx; CREATE INDEX bait ON own.log (at) WHERE own.strike('x') = 'x'"
rebuild b
ran "the condition of a partial index"
mallory q "DROP INDEX own.bait; CREATE STATISTICS own.bait ON (own.strike('x') || session), at FROM own.log"
rebuild c
ran "a statistics object on an expression"
mallory q "DROP STATISTICS own.bait; CREATE TABLE own.child (CHECK (own.strike('x') = 'x')) INHERITS (own.log)"
rebuild d
kept_out "the CHECK of a child, whose rows are not the table's"
mallory q "DROP TABLE own.child; ALTER TABLE own.log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY bait ON own.log USING (own.strike(session::text) IS NOT NULL) WITH CHECK (true)"
rebuild e
ran "a policy on rows"
mallory expect_error "a watched table does not become a view" 55000 \
    "BEGIN; ALTER TABLE own.log DISABLE ROW LEVEL SECURITY; DROP POLICY bait ON own.log; DELETE FROM own.log;
     CREATE RULE \"_RETURN\" AS ON SELECT TO own.log DO INSTEAD SELECT NULL::own.name AS session, now() AS at, NULL::own.kind AS kind, NULL::own.kinds AS page, ''::text AS \"cat\"\"; SELECT own.strike(); --\""
seen=$(times self)
q "SELECT coupon.explain_churn('w-1'); SELECT coupon.explain_decision('w-1'); SELECT * FROM coupon.maintain()" >/dev/null
ran "explaining and sweeping"

note "names that are meant to be run"
q "CREATE ROLE \"$role; ALTER ROLE $role SUPERUSER; --\"; SELECT coupon.grant_access('\"$role; ALTER ROLE $role SUPERUSER; --\"', 'analyst');
   SELECT coupon_internal.create_views(); SELECT coupon.revoke_access('\"$role; ALTER ROLE $role SUPERUSER; --\"')" >/dev/null
mallory q "CREATE TABLE own.\"x; SELECT own.strike(); --\" (session text, at timestamptz)"
seen=$(times self)
q "SELECT coupon.watch('own.\"x; SELECT own.strike(); --\"', '{\"session\": \"session\", \"at\": \"at\"}');
   SELECT count(*) FROM coupon.session_events('''; SELECT own.strike(); --'); SELECT coupon.unwatch('own.\"x; SELECT own.strike(); --\"')" >/dev/null
expect "none was run" 0 "$(times other)"
mallory expect_error "event triggers are a superuser's" 42501 "CREATE EVENT TRIGGER bait ON ddl_command_end EXECUTE FUNCTION coupon_internal.bump_revision()"
expect "after all that he is what he was" "f f f" "$(q "SELECT rolsuper, rolcreaterole, pg_has_role('$role', '$owner', 'MEMBER') FROM pg_roles WHERE rolname = '$role'" | tr '|' ' ')"
