#!/usr/bin/env bash
# Proves: 1,000 sessions of twelve views, each view its own commit, from eight clients at once, and nothing is lost;
# what is rolled back leaves nothing.
. "$(dirname "$0")/lib.sh"

q "CREATE SEQUENCE visitor"
{
    echo "SELECT nextval('visitor') AS s \\gset"
    for view in {1..12}; do
        echo "INSERT INTO click VALUES ('r-' || :s, now(), 'view', 'p$view', 'c' || (:s + $view) % 5, 20);"
    done
    echo "SELECT issue_coupon('r-' || :s);"
    echo "BEGIN;"
    echo "INSERT INTO click VALUES ('gone-' || :s, now(), 'view', 'p1', 'c1', 20);"
    echo "ROLLBACK;"
} >"$work/session.sql"
before=$(faults)
clients 8 125 "$work/session.sql"

expect "every click is kept" 12000 "$(clicks r-)"
expect "every view is counted" 12000 "$(views r-)"
expect_true "in 1,000 sessions of twelve views" \
    "(SELECT count(*) FROM coupon.session WHERE session LIKE 'r-%' AND views = 12) = 1000"
expect "no fault" "$before" "$(faults)"
expect "what was rolled back left no click" 0 "$(clicks gone-)"
expect "and no session" 0 "$(views gone-)"
expect_true "coupons were issued" "(SELECT count(*) FROM coupon.coupon WHERE session LIKE 'r-%') > 0"
expect_true "each belongs to a decision of its session" \
    "NOT EXISTS (SELECT FROM coupon.coupon c WHERE session LIKE 'r-%'
    AND NOT EXISTS (SELECT FROM coupon.decision d WHERE d.session = c.session))"
expect_true "nobody has two live ones" "NOT EXISTS (SELECT FROM coupon.coupon WHERE closed_at IS NULL GROUP BY session HAVING count(*) > 1)"
