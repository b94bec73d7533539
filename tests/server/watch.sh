#!/usr/bin/env bash
# Proves: a watched table that is given a foreign partition goes on taking the shop's INSERTs, whoever changes it, while
# others write, and through a dump; a table that no longer fits is left out of training and scoring, named; our event
# trigger costs nobody's DDL.
. "$(dirname "$0")/lib.sh"
shop=$PGDATABASE
restored=${shop}_restored
role=owner_$$
trap 'dropdb --if-exists --force "$restored" 2>/dev/null; PGDATABASE=$shop q "DROP OWNED BY $role CASCADE; DROP ROLE $role" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
today=$(q "SELECT now()::date")
mapping='{"session": "session", "at": "at", "page": "page"}'

note "late events of an archived month"
q "CREATE EXTENSION postgres_fdw;
   DO \$\$ BEGIN EXECUTE format('CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
       split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database()); END \$\$;
   CREATE USER MAPPING FOR PUBLIC SERVER loop OPTIONS (user '$PGUSER', password_required 'false');
   CREATE TABLE archived (session text, at timestamptz, page text);
   CREATE TABLE hits (session text, at timestamptz, page text) PARTITION BY RANGE (at);
   CREATE TABLE hits_now PARTITION OF hits FOR VALUES FROM ('$today') TO ('infinity');
   CREATE FOREIGN TABLE hits_old (session text, at timestamptz, page text) SERVER loop OPTIONS (table_name 'archived')"
attach="ALTER TABLE hits ATTACH PARTITION hits_old FOR VALUES FROM ('2020-01-01') TO ('$today')"
q "SELECT coupon.watch('hits', '$mapping')" >/dev/null
late() { q "INSERT INTO hits VALUES ('$1', now(), '/'), ('$1', '2020-06-01', '/late')"; }
state() { q "SELECT concat_ws(' ', live, fits, problem) FROM coupon.watched WHERE relation = 'hits'::regclass"; }
q "INSERT INTO hits VALUES ('f-1', now(), '/')"
expect "a click is noticed" 1 "$(views f-1)"

note "while somebody writes"
psql -XAtq <<<"BEGIN; INSERT INTO hits VALUES ('f-2', now(), '/'); SELECT pg_sleep(4); COMMIT" >/dev/null &
writer=$!
for ((i = 0; i < 100; i++)); do [ "$(q "SELECT count(*) FROM pg_stat_activity WHERE datname = '$shop' AND query LIKE '%pg_sleep(4)%' AND pid <> pg_backend_pid()")" = 0 ] || break; sleep 0.05; done
# A third waits behind the one who waits, and no longer.
{ sleep 0.2; q "INSERT INTO hits VALUES ('f-6', now(), '/')"; date +%s%N >"$work/third"; } &
third=$!
begin=$(date +%s%N)
expect_error "the partition is not attached at once" 55P03 "$attach"
wait "$third"
[ $((($(cat "$work/third") - begin) / 1000000)) -lt 2000 ] || give_up "another INSERT waited for the writer"
echo "ok: nobody waited for the writer"
expect "and nothing has changed" "t t" "$(state)"
wait "$writer"
expect "the writer lost nothing" 1 "$(views f-2)"
said=$(psql -XAtq -v ON_ERROR_STOP=1 -c "$attach" 2>&1)
case $said in *"WARNING:  clicks of \"public.hits\" are no longer noticed"*) echo "ok: then it is, with a warning" ;; *) give_up "no warning: $said" ;; esac
late f-3
expect "both rows were inserted" "1 1" "$(q "SELECT count(*) FROM ONLY hits_now WHERE session = 'f-3'") $(q "SELECT count(*) FROM archived WHERE session = 'f-3'")"
q "COPY (SELECT 'f-4', now(), '/' UNION ALL SELECT 'f-4', '2020-06-01', '/late') TO STDOUT" >"$work/late.copy"
psql -Xq -v ON_ERROR_STOP=1 -c "\\copy hits FROM '$work/late.copy'"
expect "by COPY too" 1 "$(q "SELECT count(*) FROM archived WHERE session = 'f-4'")"
expect "the log holds them all" 7 "$(q "SELECT count(*) FROM coupon.events('2020-01-01', 'infinity') WHERE session LIKE 'f-%'")"
expect "and the table says what it is now" 'f t its partition "public.hits_old" is a foreign table, so that its clicks are read and not noticed' "$(state)"
expect_error "it is not watched again" 0A000 "SELECT coupon.unwatch('hits'); SELECT coupon.watch('hits', '$mapping')"
q "SELECT coupon.unwatch('hits'); SELECT coupon.watch('hits', '$mapping', live => false)" >/dev/null
late f-5
expect "a table that is only read takes every row" 1 "$(q "SELECT count(*) FROM archived WHERE session = 'f-5'")"

note "watching and attaching at once, two levels apart"
q "CREATE TABLE top (session text, at timestamptz, page text) PARTITION BY RANGE (at);
   CREATE TABLE middle PARTITION OF top FOR VALUES FROM ('2020-01-01') TO ('infinity') PARTITION BY RANGE (at);
   CREATE TABLE leaf PARTITION OF middle FOR VALUES FROM ('$today') TO ('infinity');
   CREATE ROLE $role; GRANT USAGE ON FOREIGN SERVER loop TO $role; GRANT CREATE ON SCHEMA public TO $role; ALTER TABLE middle OWNER TO $role"
psql -XAtq <<<"BEGIN; SELECT coupon.watch('top', '$mapping'); SELECT pg_sleep(2); COMMIT" >/dev/null &
writer=$!
for ((i = 0; i < 100; i++)); do [ "$(q "SELECT count(*) FROM pg_stat_activity WHERE datname = '$shop' AND query LIKE '%pg_sleep(2)%' AND pid <> pg_backend_pid()")" = 0 ] || break; sleep 0.05; done
# The owner of the middle one has no right at all on the watched table.
psql -XAtq -v ON_ERROR_STOP=1 -c "SET ROLE $role; CREATE FOREIGN TABLE older PARTITION OF middle FOR VALUES FROM ('2020-01-01') TO ('$today') SERVER loop OPTIONS (table_name 'archived')" 2>"$work/said"
wait "$writer"
grep -q 'clicks of "public.top" are no longer noticed' "$work/said" || give_up "no warning: $(cat "$work/said")"
q "INSERT INTO top VALUES ('g-1', now(), '/'), ('g-1', '2020-06-01', '/')"
expect "the watched table takes every row" 1 "$(q "SELECT count(*) FROM archived WHERE session = 'g-1'")"

note "a table that no longer fits"
q "CREATE TABLE moved (session text, at timestamptz, page text); SELECT coupon.watch('moved', '$mapping'); ALTER TABLE moved RENAME at TO seen_at" >/dev/null
said=$(psql -XAtq -v ON_ERROR_STOP=1 -c "SELECT count(*) > 0 FROM coupon.train(spec => '{\"churn\": {\"epochs\": 1}}', seed => 1)" 2>&1)
expect "training goes on, and warns once" 1 "$(grep -c 'WARNING:  events of "public.moved" are left out' <<<"$said")"
expect "the card names it" '[{"problem": "column \"at\" of relation \"public.moved\" does not exist", "relation": "public.moved"}]' \
    "$(q "SELECT card -> 'relations_left_out' FROM coupon.model WHERE stage = 'sessions' ORDER BY version DESC LIMIT 1")"
expect "other cards name none" 0 "$(q "SELECT count(*) FROM coupon.model WHERE version = 1 AND card ? 'relations_left_out'")"
said=$(psql -XAtq -v ON_ERROR_STOP=1 -c "SELECT count(*) > 0 FROM coupon.score_sessions('-infinity', 'infinity')" 2>&1)
expect "scoring warns once" 1 "$(grep -c 'WARNING:  events of "public.moved" are left out' <<<"$said")"
said=$(psql -XAtq -v ON_ERROR_STOP=1 -c "SELECT coupon.refresh_segments() > 0" 2>&1)
expect "and refreshing" 1 "$(grep -c 'WARNING:  events of "public.moved" are left out' <<<"$said")"

note "through a dump"
watched="SELECT relation, live, fits, problem FROM coupon.watched ORDER BY relation::text"
pg_dump "$shop" >"$work/dump.sql"
createdb "$restored"
PGDATABASE=$restored psql -Xq -v ON_ERROR_STOP=1 -f "$work/dump.sql" >/dev/null 2>"$work/said" \
    || { cat "$work/said"; give_up "the dump does not restore"; }
expect "all is watched as it was" "$(q "$watched")" "$(PGDATABASE=$restored q "$watched")"
expect "one event trigger, the extension's" "coupon_ext_ddl A e" \
    "$(PGDATABASE=$restored q "SELECT e.evtname, e.evtenabled, d.deptype FROM pg_event_trigger e
    LEFT JOIN pg_depend d ON d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_extension'::regclass" | tr '|' ' ')"

note "our part never costs a DDL statement"
q "ALTER FUNCTION coupon_internal.drop_transition_tables() RENAME TO gone"
said=$(psql -XAtq -v ON_ERROR_STOP=1 -c "ALTER TABLE archived ADD COLUMN more int" 2>&1) || give_up "$said"
case $said in *"WARNING:  coupon_ext could not look at the watched tables"*) echo "ok: it warns" ;; *) give_up "no warning: $said" ;; esac
q "ALTER FUNCTION coupon.gone() RENAME TO keep_inserts"
