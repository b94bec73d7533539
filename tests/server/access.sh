#!/usr/bin/env bash
# Proves: each access lets a role do what it is for, logged in as that role, and nothing else; it is remembered across a
# rebuilt view, a role renamed, dropped or made anew, and a restore; who gave it is in the audit.
. "$(dirname "$0")/lib.sh"
owner=$PGUSER
shop=$PGDATABASE
restored=${shop}_restored
all="operator marketer application analyst"
trap 'PGUSER=$owner; PGDATABASE=$shop; dropdb --if-exists --force "$restored" 2>/dev/null
    for a in $all renamed gone; do q "DROP OWNED BY ${a}_$$; DROP ROLE ${a}_$$" \
        || true; done >/dev/null 2>&1; rm -rf "$work"' EXIT
for a in $all; do q "CREATE ROLE ${a}_$$ LOGIN; SELECT coupon.grant_access('${a}_$$', '$a')" >/dev/null; done
q "GRANT SELECT ON click TO operator_$$" # the log is the shop's, and the shop lets whom it likes train on it
play a- 40 8
code=$(q "SELECT code FROM coupon.coupon WHERE session LIKE 'a-%' ORDER BY session LIMIT 1")
session=$(q "SELECT session FROM coupon.coupon WHERE session LIKE 'a-%' ORDER BY session LIMIT 1")
[ -n "$code" ] || give_up "no coupon to try with"

# may ACCESS SQL…: every statement works for that role. may_not ACCESS SQL…: every one is refused to it, and to no other
# reason. All in one connection, each in a transaction of its own.
may() {
    local access=$1 statement options=()
    shift
    for statement in "$@"; do options+=(-c "$statement"); done
    as "${access}_$$" psql -XAtq -v ON_ERROR_STOP=1 "${options[@]}" >"$work/may" 2>&1 \
        || { cat "$work/may"; give_up "$access may not do all of: $*"; }
    echo "ok: $access may do $# things"
}
may_not() {
    local access=$1 statement options=()
    shift
    for statement in "$@"; do options+=(-c "$statement"); done
    as "${access}_$$" psql -XAtq -v VERBOSITY=sqlstate "${options[@]}" >"$work/done" 2>"$work/refused" || true
    # Each says one line, and that is a refusal.
    if [ "$(grep -cx 'ERROR:  42501' "$work/refused")" != $# ] || [ "$(wc -l <"$work/refused")" != $# ]; then
        for statement in "$@"; do as "${access}_$$" expect_error "$access may not: $statement" 42501 "$statement"; done
        cat "$work/refused"
        give_up "$access: one of these was not refused when it came after the others"
    fi
    for statement in "$@"; do echo "ok: $access may not: $statement (42501)"; done
}
clicks="SELECT coupon.record_click('b-1', customer => 'cust-1')"
train="SELECT * FROM coupon.train(spec => '{\"churn\": {\"epochs\": 1}}')"
run_campaigns="INSERT INTO coupon.campaign (campaign, discount, max_discount, budget) VALUES ('m', 5, 9, 100)"
codes="SELECT code FROM coupon.coupon"

note "application"
may application "$clicks" "SELECT issue_coupon('b-1'); SELECT issue_coupon(7::bigint); SELECT issue_coupon(gen_random_uuid())" \
    "SELECT coupon.live_offer('$session')" "SELECT show_coupon('$code', session => '$session')" \
    "SELECT dismiss_coupon('$code', session => '$session')" \
        "SELECT reserve_coupon('$code', 'o1', session => '$session')" \
    "SELECT redeem_coupon('$code', 'o1', 50, session => '$session')" "SELECT release_coupon('$code', 'o1')" \
    "SELECT churn_probability('b-1'), churn_probability(0, '{}'), assign_segment('cust-1')" \
        "SELECT * FROM rank_categories('cust-1', 'b-1')"
expect "and its coupon was really redeemed and released" released \
    "$(q "SELECT state FROM coupon.coupon WHERE code = '$code'")"
may_not application "$codes" "SELECT * FROM coupon.session" "SELECT * FROM coupon.decision" \
    "SELECT * FROM coupon.click" "SELECT * FROM coupon.customer" \
    "SELECT * FROM coupon.budget" "SELECT * FROM coupon.model_metrics" "SELECT * FROM coupon.audit" \
        "INSERT INTO coupon.click (session, at, kind) VALUES ('x', now(), 'view')" \
    "$train" "$run_campaigns" "SELECT coupon.go_live('default')" "SELECT * FROM coupon.explain_decision('$session')" \
        "SELECT * FROM coupon.explain_churn('$session')" \
    "SELECT * FROM coupon.session_events('$session')" "SELECT * FROM coupon.forget('cust-1')" \
        "SELECT * FROM coupon.maintain()" "CALL coupon.maintain_all()" \
    "SELECT coupon_internal.return_amount('default', 'money', '-infinity', 1000)" \
        "SELECT coupon.grant_access('application_$$', 'operator')"

note "analyst"
for view in $(q "SELECT unnest(coupon_internal.list_views())"); do
    [ "$view" = access ] || as "analyst_$$" q "SELECT * FROM coupon.$view" >/dev/null \
        || give_up "analyst cannot read coupon.$view"
done
echo "ok: analyst reads every view"
may_not analyst "$codes" "SELECT * FROM coupon.session" "SELECT * FROM coupon.decision" "SELECT * FROM coupon.campaign" \
    "SELECT * FROM coupon.customer" "SELECT * FROM coupon.access" \
    "SELECT * FROM coupon.role_access" "$clicks" "SELECT issue_coupon('b-1')" "SELECT coupon.live_offer('$session')" \
        "SELECT churn_probability('$session')" \
    "SELECT * FROM coupon.explain_decision('$session')" "$train" "$run_campaigns" "SELECT coupon.go_live('default')" \
        "SELECT * FROM coupon.forget('cust-1')" \
    "SELECT coupon.revoke_access('operator_$$')" "SELECT coupon_internal.restore_access()"

note "marketer"
q "CREATE TABLE stock (category text, quantity int); CREATE TABLE secret (category text, quantity int); GRANT SELECT ON secret TO marketer_$$; ALTER TABLE stock OWNER TO marketer_$$"
may marketer "$run_campaigns" "INSERT INTO coupon.arm (campaign, arm, policy, share) VALUES ('m', 'a', 'at_risk', 1)" \
    "SELECT coupon.go_live('m')" \
    "UPDATE coupon.campaign SET budget = 200 WHERE campaign = 'm'" "SELECT * FROM coupon.explain_decision('$session')" \
        "SELECT coupon.arm_of('m', 'x')" \
    "SELECT coupon.watch_stock('stock', 'category', 'quantity'); SELECT coupon_internal.read_stock('c1')" \
        "SELECT * FROM coupon.budget" "SELECT * FROM coupon.conversion_by_scenario" \
    "SELECT campaign, state, budget, holdout, holdout_next, live_since FROM coupon.campaign" \
        "UPDATE coupon.campaign SET holdout = 0.3, unlimited = true WHERE campaign = 'm'" \
    "INSERT INTO coupon.campaign (campaign) VALUES ('draft'); DELETE FROM coupon.campaign WHERE campaign = 'draft'" \
        "DELETE FROM coupon.stock_source"
# Whoever knows the salt, or sets it, knows who is held out: coupon.draw_arm() is no secret.
may_not marketer "SELECT salt FROM coupon.campaign" "SELECT * FROM coupon.campaign" \
    "UPDATE coupon.campaign SET salt = 'mine' WHERE campaign = 'm'" \
    "INSERT INTO coupon.campaign (campaign, salt) VALUES ('n', 'mine')" \
    "UPDATE coupon.campaign SET live_since = now()" \
        "UPDATE coupon.campaign SET holdout_next = 0.9, holdout_from = now()" \
        "DELETE FROM coupon.campaign WHERE salt = ''"
expect "explain says that a customer is known, not who" "known 0" "$(q "SELECT coupon.record_click('of-anna', customer => 'anna')" >/dev/null; as "marketer_$$" q "SELECT substring(string_agg(detail, ' ') FROM 'customer (\w+)') || ' ' || count(*) FILTER (WHERE detail LIKE '%anna%') FROM coupon.explain_decision('of-anna')")"
expect "a campaign that has issued stays" 23001 "$(as "marketer_$$" psql -XAtq -v VERBOSITY=sqlstate -c "DELETE FROM coupon.campaign WHERE campaign = 'default'" 2>&1 | sed 's/.*: *//')"
expect "its budget was filled" 200 "$(q "SELECT trim_scale(available) FROM coupon.budget WHERE campaign = 'm'")"
expect "and it is in the audit by its name" "marketer_$$" "$(q "SELECT DISTINCT by FROM coupon.audit WHERE name = 'm'")"
may_not marketer "$codes" "SELECT session FROM coupon.coupon" "SELECT * FROM coupon.session" \
    "SELECT * FROM coupon.decision" "SELECT * FROM coupon.customer" "SELECT * FROM coupon.audit" \
    "SELECT * FROM coupon.budget_bucket" \
    "UPDATE coupon.budget_bucket SET amount = 1000" "SELECT coupon_internal.adjust_budget('m', 'money', '-infinity', 1000)" \
        "UPDATE coupon.archived_total SET spent = 0" "$clicks" "SELECT issue_coupon('b-1')" \
    "$train" "SELECT coupon.activate(1)" "SELECT coupon.rollback()" "SELECT * FROM coupon.forget('cust-1')" \
        "SELECT * FROM coupon.session_events('$session')" \
    "SELECT coupon.watch_stock('secret', 'category', 'quantity')" \
        "INSERT INTO coupon.stock_source VALUES (true, 'secret', 'category', 'quantity')" \
    "SELECT coupon.watch('stock', '{\"session\": \"category\", \"at\": \"quantity\"}', NULL)" \
        "SELECT coupon.grant_access('marketer_$$', 'operator')"

note "operator"
may operator "$train" "SELECT * FROM coupon.train_churn(spec => '{\"churn\": {\"epochs\": 1}}')" \
    "SELECT * FROM coupon.train_ranking()" "SELECT coupon.activate(1)" "SELECT coupon.rollback()" \
    "SELECT coupon.refresh_segments()" "SELECT * FROM coupon.evaluate_churn('-infinity', 'infinity')" \
        "SELECT count(*) FROM coupon.score_sessions('-infinity', 'infinity')" \
    "SELECT * FROM coupon.tune_churn(1, spec => '{\"churn\": {\"epochs\": 1}}')" \
        "CALL coupon.tune(1, spec => '{\"churn\": {\"epochs\": 1}}')" \
    "SELECT * FROM coupon.explain_decision('$session')" "SELECT * FROM coupon.explain_churn('$session')" \
        "SELECT * FROM coupon.session_events('$session')" "SELECT * FROM coupon.maintain()" "CALL coupon.maintain_all()" \
    "SELECT * FROM coupon.forget('cust-1')" "SELECT coupon.name_segment(1, 'ours')" \
        "SELECT count(*) FROM coupon.events('-infinity', 'infinity')" \
    "$codes" "SELECT * FROM coupon.access" "SELECT * FROM coupon.audit" "SELECT * FROM coupon.error_log" \
        "SELECT * FROM coupon.watched"
may_not operator "$clicks" "SELECT issue_coupon('b-1')" "SELECT redeem_coupon('$code', 'o', 1)" "$run_campaigns" \
    "SELECT coupon.go_live('default')" "UPDATE coupon.campaign SET budget = NULL" \
    "UPDATE coupon.coupon SET state = 'issued'" "DELETE FROM coupon.audit" "DELETE FROM coupon.decision" \
        "UPDATE coupon.model SET weights = ''" "DELETE FROM coupon.deployment" \
        "INSERT INTO coupon.role_access DEFAULT VALUES" \
    "SELECT coupon.watch('click', '{}')" "SELECT coupon.simulate()" \
        "SELECT coupon.grant_access('operator_$$', 'marketer')" "SELECT coupon.revoke_access('analyst_$$')" \
    "SELECT coupon.clock(); SET coupon_ext.coupon_retention = '1d'"
q "LOAD 'coupon_ext'; SET coupon_ext.mock_clock = '2040-01-01'; SELECT coupon_internal.expire_coupons(NULL, 100000)" >/dev/null
before=$(q "SELECT count(*) FROM coupon.coupon")
as "operator_$$" q "SET coupon_ext.coupon_retention = '1d'; SELECT * FROM coupon.maintain()" >/dev/null 2>&1
expect "and shortens no retention before the library is loaded" "$before" "$(q "SELECT count(*) FROM coupon.coupon")"

note "who has what"
expect "all hold" "$(printf '%s\n' $all | sort | sed "s/.*/&_$$ & t/")" \
    "$(q "SELECT role || ' ' || access || ' ' || CASE WHEN holds THEN 't' ELSE 'f' END FROM coupon.access ORDER BY 1")"
before=$(q "SELECT count(*) FROM coupon.audit WHERE subject = 'access'")
q "SELECT coupon.grant_access('analyst_$$', 'analyst')" >/dev/null
expect "granting twice is granting once" "4 $before" \
    "$(q "SELECT count(*) FROM coupon.access") $(q "SELECT count(*) FROM coupon.audit WHERE subject = 'access'")"
expect_error "an access that is none" 22023 "SELECT coupon.grant_access('analyst_$$', 'boss')"
expect_error "a role that is none" 42704 "SELECT coupon.grant_access(4000000000::oid::regrole, 'analyst')"
q "REVOKE SELECT ON coupon.budget FROM analyst_$$"
q "REVOKE UPDATE (budget, holdout) ON coupon.campaign FROM marketer_$$"
expect "columns too" "UPDATE (budget, holdout) on coupon.campaign" \
    "$(q "SELECT substring(problem FROM ': (.*)') FROM coupon.access WHERE role = 'marketer_$$'")"
expect "what somebody took away is seen" "SELECT on coupon.budget" \
    "$(q "SELECT substring(problem FROM ': (.*)') FROM coupon.access WHERE role = 'analyst_$$'")"
q "SELECT coupon.create_storage()" >/dev/null
expect_true "and given again" "SELECT holds FROM coupon.access WHERE role = 'analyst_$$'"
q "SELECT coupon_internal.create_views()" >/dev/null
expect_true "made anew, the views are as open as before" "SELECT bool_and(holds) FROM coupon.access"

note "a role renamed, dropped, made anew"
q "ALTER ROLE analyst_$$ RENAME TO renamed_$$; SELECT coupon.create_storage()" >/dev/null
expect "renamed, it keeps its access" "renamed_$$ t" \
    "$(q "SELECT role || ' ' || CASE WHEN holds THEN 't' END FROM coupon.access WHERE access = 'analyst'")"
q "CREATE ROLE gone_$$ LOGIN; SELECT coupon.grant_access('gone_$$', 'operator'); DROP OWNED BY gone_$$; DROP ROLE gone_$$" >/dev/null
expect "dropped, it is said so" "the role does not exist" \
    "$(q "SELECT problem FROM coupon.access WHERE role = 'gone_$$'")"
q "CREATE ROLE gone_$$ LOGIN; SELECT coupon.create_storage()" >/dev/null
as "gone_$$" expect_error "another of its name has nothing" 42501 "$codes"
q "SELECT coupon.revoke_access(NULL)" >/dev/null
expect "forgotten" 0 "$(q "SELECT count(*) FROM coupon.access WHERE role = 'gone_$$'")"

note "a restore, with rights that did not come along"
pg_dump --no-acl "$shop" >"$work/dump.sql"
createdb "$restored"
PGDATABASE=$restored psql -Xq -v ON_ERROR_STOP=1 -f "$work/dump.sql" >/dev/null || give_up "the dump does not restore"
(
    PGDATABASE=$restored
    as "renamed_$$" expect_error "nothing yet" 42501 "SELECT * FROM coupon.budget"
    # As in another cluster, where the numbers of roles mean nothing: names count.
    q "UPDATE coupon.role_access SET cluster = 1, number = number::bigint + 1000000; SELECT coupon.create_storage()" >/dev/null
    expect_true "what is remembered holds again" "SELECT count(*) = 4 AND bool_and(holds) FROM coupon.access"
    as "renamed_$$" q "SELECT * FROM coupon.budget" >/dev/null
    as "marketer_$$" q "UPDATE coupon.campaign SET budget = 300 WHERE campaign = 'm'" >/dev/null
    as "marketer_$$" expect_error "the salt stays unseen" 42501 "SELECT salt FROM coupon.campaign"
    as "application_$$" q "$clicks" >/dev/null
    as "application_$$" expect_error "and no more" 42501 "$codes"
)

note "revoking"
q "SELECT coupon.grant_access('renamed_$$', 'marketer'); SELECT coupon.revoke_access('renamed_$$', 'marketer')" >/dev/null
as "renamed_$$" expect_error "what went" 42501 "SELECT * FROM coupon.campaign"
as "renamed_$$" q "SELECT * FROM coupon.budget" >/dev/null
echo "ok: what another access needs as well stays"
for role in operator_$$ marketer_$$ application_$$ renamed_$$; do
    q "SELECT coupon.revoke_access('$role')" >/dev/null
    expect "$role has nothing left" "" "$(q "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname <> 'watched'
            AND (has_table_privilege('$role', c.oid, 'DELETE') OR has_any_column_privilege('$role', c.oid, 'SELECT, INSERT, UPDATE'))
        UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace IN ('coupon'::regnamespace, 'coupon_internal'::regnamespace) AND p.prosecdef AND has_function_privilege('$role', p.oid, 'EXECUTE')")"
done
expect "and the audit has it all" "grant 6, revoke 6" "$(q "SELECT string_agg(event || ' ' || n, ', ' ORDER BY event) FROM (SELECT event, count(*) AS n FROM coupon.audit WHERE subject = 'access' GROUP BY 1) a")"
