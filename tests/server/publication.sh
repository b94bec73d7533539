#!/usr/bin/env bash
# Proves: under a publication FOR ALL TABLES everything that changes a row of ours goes on; a subscriber that replays
# the sessions while eight clients race for new sessions' first clicks meets no error and ends equal to the publisher.
. "$(dirname "$0")/lib.sh"
shop=$PGDATABASE
replica=${shop}_replica
trap 'PGDATABASE=$replica q "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s" >/dev/null 2>&1 || true
PGDATABASE=$shop q "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()" >/dev/null 2>&1 || true
PGDATABASE=postgres dropdb --if-exists --force "$replica" 2>/dev/null; rm -rf "$work"' EXIT
expect "the server decodes" logical "$(q "SHOW wal_level")"

note "every table has a key"
expect "of its own" "" "$(q "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)")"
q "CREATE PUBLICATION everything FOR ALL TABLES"
before=$(faults)
q "UPDATE coupon.campaign SET priority = 1, max_discount = 5, budget = 1000 WHERE campaign = 'default'"
play p- 60 8
q "UPDATE coupon.campaign SET discount = 11 WHERE campaign = 'default';
   UPDATE coupon.arm SET share = 0.5; UPDATE coupon.campaign SET state = 'paused' WHERE campaign = 'default'"
q "SELECT coupon.go_live('default')" >/dev/null
q "SELECT count(*) FROM coupon.train(spec => '{\"churn\": {\"epochs\": 1}}', seed => 2)" >/dev/null
q "SELECT coupon.activate(1); SELECT coupon.rollback(); SELECT coupon.refresh_segments(); SELECT coupon.name_segment(1, 'some')" >/dev/null
play p2- 60 8
expect "clicks are counted" "480 480" "$(views p-) $(views p2-)"
q "SELECT coupon.record_click('p3', customer => 'anna', category => 'c1') FROM generate_series(1, 8)" >/dev/null
q "SELECT redeem_coupon(code, 'o-' || id, 50, session => session) FROM coupon.coupon WHERE closed_at IS NULL AND code IS NOT NULL ORDER BY session LIMIT 3;
   SELECT release_coupon(code, order_id) FROM coupon.coupon WHERE state = 'redeemed' ORDER BY session LIMIT 1;
   SELECT redeem_coupon('0000-0000-0000-0000-0', 'o', 50, session => 'p3')" >/dev/null
expect_true "a coupon was redeemed" "EXISTS (SELECT FROM coupon.coupon WHERE state = 'redeemed')"
q "INSERT INTO coupon.missed_click (session, reason) VALUES ('p-1', 'test')"
q "LOAD 'coupon_ext'; SET coupon_ext.mock_clock = '2060-01-01'; SET coupon_ext.coupon_retention = '365d'; SET coupon_ext.session_retention = '365d'; SELECT coupon.maintain()" >/dev/null
q "SELECT coupon.forget('anna')" >/dev/null
q "DELETE FROM coupon.arm WHERE arm = 'none'; SELECT coupon.create_storage()" >/dev/null
expect "no fault" "$before" "$(faults)"

note "a subscriber"
createdb "$replica"
(
    PGDATABASE=$replica
    q "CREATE EXTENSION coupon_ext; SELECT coupon.create_storage()" >/dev/null
)
q "DELETE FROM coupon.session; CREATE PUBLICATION sessions FOR TABLE coupon.session"
q "SELECT pg_create_logical_replication_slot('$replica', 'pgoutput')" >/dev/null
PGDATABASE=$replica q "CREATE SUBSCRIPTION s CONNECTION 'dbname=$shop host=$PGHOST port=$PGPORT user=$PGUSER' PUBLICATION sessions
    WITH (create_slot = false, slot_name = '$replica', copy_data = false, disable_on_error = false)"
cat >"$work/race.sql" <<'SQL'
\set n random(1, 40)
INSERT INTO click VALUES ('race-' || extract(epoch FROM now())::bigint || '-' || :n, now(), 'view', 'p1', 'c' || :n % 5, 20);
SQL
pgbench -n -c 8 -j 2 -T "$(full 30 5)" -f "$work/race.sql" >"$work/pgbench" 2>&1 \
    || { cat "$work/pgbench"; give_up "pgbench"; }
expect_true "there was a race" "SELECT count(*) > 20 FROM coupon.session WHERE session LIKE 'race-%' AND views > 1"
end=$(q "SELECT pg_current_wal_insert_lsn()")
tries=0
until [ "$(q "SELECT confirmed_flush_lsn >= '$end' FROM pg_replication_slots WHERE slot_name = '$replica'")" = t ]; do
    [ $((++tries)) -lt 600 ] || give_up "the subscriber does not catch up: $(PGDATABASE=$replica q "SELECT apply_error_count FROM pg_stat_subscription_stats")"
    sleep 0.1
done
equal="SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM coupon.session t"
expect "it met no error" 0 "$(PGDATABASE=$replica q "SELECT apply_error_count FROM pg_stat_subscription_stats")"
expect "it ends equal to the publisher" "$(q "$equal")" "$(PGDATABASE=$replica q "$equal")"
amcheck
