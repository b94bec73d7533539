#!/usr/bin/env bash
# Proves: a role without any right of ours, which may take any advisory lock there is, keeps nobody from making or
# granting storage, nor from storing a version, nor coupons from being issued and redeemed; and what goes one at a time
# still does.
. "$(dirname "$0")/lib.sh"
role=nobody_$$
reader=reader_$$
trap 'kill "$holder" 2>/dev/null || true; q "DROP OWNED BY $role, $reader; DROP ROLE $role, $reader" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
q "CREATE ROLE $role LOGIN; CREATE ROLE $reader LOGIN"
q "SELECT encode(coupon.export_model(1), 'hex')" >"$work/model"
PGUSER=$role psql -XAtq -c "SELECT pg_advisory_lock(hashtextextended('coupon_ext ' || k, 0)) FROM unnest('{storage,training,tuning,totals ,campaign default,order o-1,customer cleo,day of money default,day of coupons default}'::text[]) k; SELECT pg_sleep(60)" >/dev/null 2>&1 &
holder=$!
until [ "$(q "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND $our_locks")" = 9 ]; do sleep 0.05; done
quick="SET statement_timeout = '5s'; SET lock_timeout = '5s'"
for what in "SELECT coupon.create_storage()" "SELECT coupon.grant_access('$reader', 'operator')" "SELECT coupon.revoke_access('$reader')" \
    "SELECT coupon.import_model(coupon.export_model(1))" \
        "SELECT count(*) FROM coupon.tune_churn(1, spec => '{\"churn\": {\"epochs\": 1}}')" \
        "SELECT coupon.refresh_segments()"; do
    q "$quick; $what" >/dev/null 2>"$work/said" || give_up "$what: $(cat "$work/said")"
    echo "ok: $what"
done
expect "no function of ours takes such a lock" "" "$(q "SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' WHERE pg_get_functiondef(p.oid) ~ 'pg_[a-z_]*advisory'")"
expect "it holds up no decision" "" "$(q "SELECT coupon_internal.claim_decision('default', 'l-1', 'cleo', true)")"
play l- 20 8
expect_true "no coupon" "$(coupons l-) > 0 AND NOT EXISTS (SELECT FROM coupon.decision WHERE reason LIKE 'busy%')"
read -r code session < <(q "SELECT code, session FROM coupon.coupon WHERE session LIKE 'l-%' AND code IS NOT NULL LIMIT 1" | tr '|' ' ')
expect "and no checkout" "redeemed|ok" "$(q "$quick; SELECT status, reason FROM redeem_coupon('$code', 'o-1', 30, '$session')")"
for statement in "SELECT FROM pg_extension FOR UPDATE" "SELECT FROM coupon.order_discount FOR UPDATE" "SELECT FROM coupon.customer_limit FOR UPDATE" "SELECT coupon_internal.try_lock_mutex('campaign default', true)" "SELECT FROM coupon.mutex FOR UPDATE" "BEGIN; LOCK TABLE coupon.mutex" "SELECT coupon_internal.lock_mutex('training')" "SELECT coupon_internal.try_lock_name('tuning x')"; do
    as "$role" expect_error "and it takes none of ours: $statement" 42501 "$statement"
done

note "one at a time"
psql -XAtq -c "BEGIN; SELECT coupon_internal.lock_mutex('training'); SELECT pg_sleep(60)" >/dev/null 2>&1 &
other=$!
until [ "$(q "SELECT count(*) FROM pg_stat_activity WHERE $ours AND query LIKE '%lock_mutex%' AND wait_event = 'PgSleep'")" = 1 ]; do sleep 0.05; done
expect_error "a second training waits for the first" 55P03 \
    "SET lock_timeout = '200ms'; SELECT coupon.import_model(coupon.export_model(1))"
q "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $ours AND query LIKE '%lock_mutex%' AND wait_event = 'PgSleep'" >/dev/null
wait $other || true
q "TRUNCATE coupon.mutex; SELECT coupon.import_model(coupon.export_model(1))" >/dev/null
echo "ok: somebody who emptied the table has not broken it"
