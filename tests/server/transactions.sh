#!/usr/bin/env bash
# Proves: a coupon, its decision, its budget and its redemption go with the click or the order they belong to: rolled
# back, rolled back to a savepoint, prepared and then committed or not, and under every isolation level. A budget that
# is set meanwhile waits.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/backend.sh"

# A database with prepared transactions cannot be dropped.
trap 'for t in $(q "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"); do q "ROLLBACK PREPARED '"'"'$t'"'"'"; done; rm -rf "$work"' EXIT

visits() { echo "INSERT INTO click SELECT '$1' || i, now(), 'view', 'p' || v, 'c' || v % 5, 20 FROM generate_series(1, 40) i, generate_series(1, 12) v"; }
stored() {
    q "SELECT (SELECT count(*) FROM click), (SELECT sum(views) FROM coupon.session), (SELECT count(*) FROM coupon.decision), (SELECT count(*) FROM coupon.customer_limit),
       (SELECT md5(string_agg(c::text, '' ORDER BY session, id)) FROM coupon.coupon c), (SELECT count(*) FROM coupon.audit), (SELECT count(*) FROM coupon.redemption_attempt),
       (SELECT string_agg(b::text, ' ') FROM coupon.budget b)"
}
some() { q "SELECT code, session FROM coupon.coupon WHERE closed_at IS NULL AND state = 'issued' AND session LIKE '$1%' ORDER BY session LIMIT 1" | tr '|' ' '; }

note "a campaign without a budget: one that is set waits for the coupon that is not committed yet"
q "UPDATE coupon.campaign SET max_discount = 5 WHERE campaign = 'default'"
q "BEGIN; $(visits early-); PREPARE TRANSACTION 'early'"
expect_error "the budget waits" 55P03 "SET lock_timeout = '100 ms'; UPDATE coupon.campaign SET budget = 10000 WHERE campaign = 'default'"
q "COMMIT PREPARED 'early'"
q "UPDATE coupon.campaign SET budget = 10000, coupons_day = 100000 WHERE campaign = 'default'"
expect_true "every coupon that is out is held for" \
    "SELECT count(*) > 0 AND sum(reserved_amount) = 5 * count(*) FROM coupon.coupon WHERE closed_at IS NULL"
expect_true "the budgets add up" "$adds_up"

before=$(stored)
note "rolled back"
q "BEGIN; $(visits back-); ROLLBACK"
expect "the click" "$before" "$(stored)"
q "BEGIN; SAVEPOINT s; $(visits back-); ROLLBACK TO s; COMMIT"
expect "the click's savepoint" "$before" "$(stored)"
read -r code session < <(some early-)
q "BEGIN; SELECT redeem_coupon('$code', 'o-1', 30, '$session'); ROLLBACK" >/dev/null
expect "the order" "$before" "$(stored)"
q "BEGIN; SAVEPOINT s; SELECT reserve_coupon('$code', 'o-1', session => '$session'), redeem_coupon('$code', 'o-1', 30, '$session'); ROLLBACK TO s;
   SAVEPOINT t; SELECT release_coupon('$code', 'o-1'); ROLLBACK TO t; COMMIT" >/dev/null
expect "the order's savepoints" "$before" "$(stored)"

note "a prepared click"
q "BEGIN; $(visits two-); PREPARE TRANSACTION 'two'"
expect "nothing of it is seen" "$before" "$(stored)"
q "$(visits other-)"
expect_true "others are given coupons meanwhile" "SELECT count(*) > 0 FROM coupon.coupon WHERE session LIKE 'other-%'"
expect_true "the budgets add up" "$adds_up"
before=$(stored)
q "ROLLBACK PREPARED 'two'"
expect "rolled back, nothing is left" "$before" "$(stored)"
q "BEGIN; $(visits two-); PREPARE TRANSACTION 'two'"
q "COMMIT PREPARED 'two'"
expect "committed, every coupon has its decision" "$(coupons two-)" \
    "$(q "SELECT count(*) FROM coupon.decision WHERE session LIKE 'two-%' AND outcome = 'issued'")"
expect_true "there are some" "$(coupons two-) > 0"
expect_true "the budgets add up" "$adds_up"

note "a prepared order"
read -r code session < <(some two-)
before=$(stored)
for end in ROLLBACK COMMIT; do
    q "BEGIN; SELECT redeem_coupon('$code', 'o-2', 30, '$session'); PREPARE TRANSACTION 'order'" >/dev/null
    expect "the code is nobody else's" "refused|busy, try again|" \
        "$(q "SELECT * FROM redeem_coupon('$code', 'o-3', 30, '$session')")"
    expect "which is counted" 1 "$(q "WITH gone AS (DELETE FROM coupon.redemption_attempt WHERE reason = 'busy, try again' RETURNING 1) SELECT count(*) FROM gone")"
    expect "to others nothing has happened" "$before" "$(stored)"
    q "$end PREPARED 'order'"
    [ $end = COMMIT ] || expect "rolled back, nothing is left" "$before" "$(stored)"
done
expect "committed, it is redeemed" "redeemed|redeemed before|3.00" \
    "$(q "SELECT * FROM redeem_coupon('$code', 'o-2', 30, '$session')")"
expect_true "the budgets add up" "$adds_up"

note "REPEATABLE READ: what an older snapshot does not show is not decided by"
connect
answer "LOAD 'coupon_ext'" >/dev/null
# Nothing but the day: any other purse that moved meanwhile would fail the old snapshot by itself.
q "UPDATE coupon.campaign SET budget = NULL WHERE campaign = 'default'"
tomorrow="SET coupon_ext.mock_clock = '$(q "SELECT date_trunc('day', now()) + interval '47.5 hours'")'"
after="SET coupon_ext.mock_clock = '$(q "SELECT date_trunc('day', now()) + interval '48.5 hours'")'"
answer "$tomorrow; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM coupon.budget_bucket" >/dev/null
clicks="INSERT INTO click SELECT 'NAME' || i, coupon.clock(), 'view', 'p' || v, 'c' || v % 5, 20 FROM generate_series(1, 40) i, generate_series(1, 12) v"
q "LOAD 'coupon_ext'; $tomorrow; ${clicks/NAME/new-}"
answer "${clicks/NAME/old-}; COMMIT" >/dev/null
expect "the clicks are kept" "480 480" "$(clicks new-) $(clicks old-)"
expect_true "what could not be decided is told" "EXISTS (SELECT FROM coupon.error_log WHERE sqlstate = '40001')"
expect "a day is opened once" "f" "$(q "LOAD 'coupon_ext'; $tomorrow; SELECT NOT ($adds_up)")"
q "LOAD 'coupon_ext'; $tomorrow; SELECT coupon.maintain()" >/dev/null
expect "after a sweep every view is counted" "960" \
    "$(q "SELECT sum(views) FROM coupon.session WHERE session ~ '^(new|old)-'")"
q "LOAD 'coupon_ext'; $tomorrow; UPDATE coupon.campaign SET budget = NULL, budget_day = 10000 WHERE campaign = 'default'; ${clicks/NAME/late-}"
read -r code session < <(some late-)
answer "$after; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM coupon.budget_bucket" >/dev/null
q "LOAD 'coupon_ext'; $after; UPDATE coupon.campaign SET budget = 10000 WHERE campaign = 'default'"
: >"$work/said"
answer "SELECT redeem_coupon('$code', 'o-4', 30, '$session'); COMMIT" >/dev/null
expect "an order that does not see the new budget is redeemed" redeemed \
    "$(q "SELECT state FROM coupon.coupon WHERE code = '$code'")"
disconnect
expect "the budgets add up" t "$(q "LOAD 'coupon_ext'; $after; $adds_up")"
q "UPDATE coupon.campaign SET budget_day = NULL WHERE campaign = 'default'"

note "SERIALIZABLE: what fails is retried, and works"
cat >"$work/serializable.sql" <<'SQL'
\set i random(1, 20)
\set n random(1, 1000000000)
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO click SELECT 'ser-' || :i || '-' || :n, now(), 'view', 'p' || v, 'c1', 20 FROM generate_series(1, 8) v;
INSERT INTO click VALUES ('ser-' || :i, now(), 'view', 'p1', 'c1', 20);
COMMIT;
SQL
clients 8 40 "$work/serializable.sql" --max-tries=1000
expect "every click is kept" 2880 "$(clicks ser-)"
q "SELECT coupon.maintain()" >/dev/null
expect "and counted" 2880 "$(views ser-)"
expect_true "the budgets add up" "$adds_up"
figure "transactions: of 320 serialisable transactions $(sed -n 's/^number of transactions retried: \([0-9]*\).*/\1/p' "$work/pgbench") were retried, by eight clients"
