#!/usr/bin/env bash
# Proves, with many clients at once: a code is redeemed once; a session has at most one live coupon, whoever clicks or asks.
. "$(dirname "$0")/lib.sh"

play o- 100 12
read -r code session < <(q "SELECT code, session FROM coupon.coupon WHERE closed_at IS NULL AND session LIKE 'o-%' LIMIT 1" | tr '|' ' ')
[ -n "${code:-}" ] || give_up "no coupon to redeem"

note "160 attempts on one code"
q "CREATE TABLE answer (status text, reason text)"
cat >"$work/redeem.sql" <<SQL
\\set order random(1, 1000000000)
INSERT INTO answer SELECT r.status, r.reason FROM redeem_coupon('$code', 'order-' || :order, 100, session => '$session') r;
SQL
clients 16 10 "$work/redeem.sql"
expect "every attempt has its answer" 160 "$(q "SELECT count(*) FROM answer")"
expect "one redeems" 1 "$(q "SELECT count(*) FROM answer WHERE status = 'redeemed'")"
expect "every attempt is counted" 160 "$(q "SELECT count(*) FROM coupon.redemption_attempt WHERE session = '$session'")"
expect "the others are refused" 159 "$(q "SELECT count(*) FROM answer WHERE status = 'refused'")"

note "16 clients click and ask for three sessions"
cat >"$work/click.sql" <<'SQL'
\set i random(1, 3)
INSERT INTO click VALUES ('one-' || :i, now(), 'view', 'p1', 'c1', 20);
SELECT issue_coupon('one-' || :i);
SQL
clients 16 20 "$work/click.sql"
expect "every click is kept" 320 "$(clicks one-)"
expect_true "at most one live coupon a session" "NOT EXISTS (SELECT FROM coupon.coupon WHERE closed_at IS NULL GROUP BY session HAVING count(*) > 1)"
expect_true "at most one coupon for each of the three" "(SELECT count(*) FROM coupon.coupon WHERE session LIKE 'one-%') <= 3"
expect_true "asking twice gives the same offer" "(issue_coupon('one-1')).code IS NOT DISTINCT FROM (issue_coupon('one-1')).code"

note "a transaction that rolls back takes its coupon along"
before=$(q "SELECT count(*) FROM coupon.coupon")
q "BEGIN; INSERT INTO click SELECT 'back-' || i, now(), 'view', 'p' || v, 'c1', 20 FROM generate_series(1, 50) i, generate_series(1, 12) v; ROLLBACK"
expect "coupons" "$before" "$(q "SELECT count(*) FROM coupon.coupon")"
expect "sessions" 0 "$(views back-)"
