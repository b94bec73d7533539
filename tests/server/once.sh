#!/usr/bin/env bash
# Proves, with many clients at once: a code is redeemed once; a session has at most one live coupon, whoever clicks
# or asks, and whoever asks is offered that one.
. "$(dirname "$0")/lib.sh"

play o- 100 12
read -r code session < <(q "SELECT code, session FROM coupon.coupon
    WHERE closed_at IS NULL AND session LIKE 'o-%' LIMIT 1" | tr '|' ' ')
[ -n "${code:-}" ] || give_up "no coupon to redeem"

note "160 attempts on one code"
q "CREATE TABLE answer (status text, reason text)"
cat >"$work/redeem.sql" <<SQL
\\set order random(1, 1000000000)
INSERT INTO answer
    SELECT r.status, r.reason FROM redeem_coupon('$code', 'order-' || :order, 100, session => '$session') r;
SQL
clients 16 10 "$work/redeem.sql"
expect "every attempt has its answer" 160 "$(q "SELECT count(*) FROM answer")"
expect "one redeems" 1 "$(q "SELECT count(*) FROM answer WHERE status = 'redeemed'")"
expect "every attempt is counted" 160 "$(q "SELECT count(*) FROM coupon.redemption_attempt WHERE session = '$session'")"
expect "the others are refused" 159 "$(q "SELECT count(*) FROM answer WHERE status = 'refused'")"

note "16 clients click and ask for three sessions that the draw gives a coupon"
# A draw depends on the campaign's salt and the session's name only: what is rolled back tells it in advance.
q "BEGIN; INSERT INTO click SELECT 'one-' || i, now(), 'view', 'p' || v, 'c1', 20
       FROM generate_series(1, 50) i, generate_series(1, 12) v;
   SELECT session FROM coupon.coupon WHERE session LIKE 'one-%' ORDER BY session LIMIT 3; ROLLBACK" >"$work/drawn"
mapfile -t drawn <"$work/drawn"
expect "three are drawn" 3 "${#drawn[@]}"
expect "which have not clicked yet" 0 "$(clicks one-)"
session="(ARRAY['${drawn[0]}', '${drawn[1]}', '${drawn[2]}'])[:i]"
cat >"$work/click.sql" <<SQL
\\set i random(1, 3)
INSERT INTO click VALUES ($session, now(), 'view', 'p1', 'c1', 20);
SELECT issue_coupon($session);
SQL
clients 16 20 "$work/click.sql"
expect "every click is kept" 320 "$(clicks one-)"
for session in "${drawn[@]}"; do
    expect "$session has one coupon, and it is live" "1|1" \
        "$(q "SELECT count(*), count(*) FILTER (WHERE closed_at IS NULL) FROM coupon.coupon
            WHERE session = '$session'")"
    code=$(q "SELECT code FROM coupon.coupon WHERE session = '$session'")
    [ -n "$code" ] || give_up "$session: a coupon without a code"
    for time in first second; do
        expect "asked for the $time time, $session is offered that code" "$code" \
            "$(q "SELECT (issue_coupon('$session')).code")"
    done
done
expect "nobody has two live coupons" 0 "$(q "SELECT count(*) FROM (SELECT FROM coupon.coupon WHERE closed_at IS NULL
    GROUP BY session HAVING count(*) > 1) s")"

note "a transaction that rolls back takes its coupon along"
before=$(q "SELECT count(*) FROM coupon.coupon")
issued=$(q "BEGIN; INSERT INTO click SELECT 'back-' || i, now(), 'view', 'p' || v, 'c1', 20
       FROM generate_series(1, 50) i, generate_series(1, 12) v;
   SELECT count(*) FROM coupon.coupon WHERE session LIKE 'back-%'; ROLLBACK")
expect "it had issued some" t "$([ "$issued" -gt 0 ] && echo t)"
expect "coupons are as many as before" "$before" "$(q "SELECT count(*) FROM coupon.coupon")"
expect "sessions" 0 "$(views back-)"
