#!/usr/bin/env bash
# Proves: coupon.forget leaves no trace of a customer in any column of any table of ours, keeps everybody else, and
# budgets add up to the cent; while the customer goes on clicking and redeeming, nothing fails and no budget is off at
# any instant; what outlives its retention goes the same way, batch by batch.
. "$(dirname "$0")/lib.sh"

# trace PATTERN: tables with a row that holds it, and how many
trace() {
    psql -XAtq -v ON_ERROR_STOP=1 -v pattern="$1" <<'SQL'
SELECT format('SELECT %L, count(*) FROM %s t WHERE t::text LIKE %L HAVING count(*) > 0', c.oid::regclass, c.oid::regclass, '%' || :'pattern' || '%')
FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'coupon'::regnamespace ORDER BY 1 \gexec
SQL
}
budgets="SELECT string_agg(format('%s %s: %s', unit, coalesce(day::text, 'in all'), spent), ', ' ORDER BY unit, day) FROM coupon.budget WHERE campaign = 'default'"
off="SELECT count(*) FROM coupon.budget WHERE granted <> available + reserved_amount + spent"
click() { q "SELECT coupon.record_click('$1', customer => $2, category => 'c1', product => 'p' || i) FROM generate_series(1, 8) i" >/dev/null; }

q "UPDATE coupon.campaign SET discount = 10, max_discount = 5, budget = 100000, budget_day = 50000, coupons = 100000, coupons_day = 50000 WHERE campaign = 'default'"
for i in $(seq 1 30); do click "anna-$i" "'anna'"; click "bert-$i" "'bert'"; done
click "anna-quiet" NULL; click "anna-quiet" "'anna'"
expect_true "both have coupons" "SELECT count(DISTINCT customer) = 2 FROM coupon.coupon"
# Some redeemed, some presented by strangers, some released; faults; marks, one of a session that is known by it alone.
q "SELECT redeem_coupon(code, 'order-' || session, 33.33, customer => 'anna') FROM coupon.coupon WHERE customer = 'anna' ORDER BY session LIMIT 5;
   SELECT release_coupon(code, 'order-' || session) FROM coupon.coupon WHERE customer = 'anna' AND state = 'redeemed' ORDER BY session LIMIT 1;
   SELECT redeem_coupon(code, 'stolen', 10, customer => 'bert') FROM coupon.coupon WHERE customer = 'anna' ORDER BY session LIMIT 1;
   SELECT redeem_coupon(code, 'order-' || session, 20, customer => 'bert') FROM coupon.coupon WHERE customer = 'bert' ORDER BY session LIMIT 3;
   SELECT redeem_coupon('0000-0000-0000-0000-0', 'o', 10, customer => 'anna'), redeem_coupon('0000-0000-0000-0000-0', 'o', 10, session => 'anna-1');
   INSERT INTO coupon.missed_click (session, customer, reason) VALUES ('anna-2', NULL, 'test'), ('anna, (her phone)', 'anna', 'test'), ('bert-3', 'anna', 'test');
   INSERT INTO coupon.error_log (session, customer, sqlstate, message, repeated) VALUES ('anna-3', NULL, 'XX000', 'm', 1), (NULL, 'anna', '23505', 'm', 1), ('anna, (her phone)', NULL, '23505', 'm', 1),
       (NULL, 'Johanna', 'XX000', 'm', 1), ('annabel', NULL, 'XX000', 'm', 1)" >/dev/null
q "SELECT coupon.refresh_segments()" >/dev/null
total="SELECT (SELECT count(*) FROM coupon.coupon) + coalesce(sum(issued), 0) || ' issued, ' || (SELECT count(*) FROM coupon.decision WHERE outcome <> 'stopped') + coalesce(sum(decisions), 0) || ' decided, '
    || (SELECT count(*) FROM coupon.coupon WHERE state = 'redeemed') + coalesce(sum(redeemed), 0) || ' redeemed, '
    || (SELECT coalesce(sum(discount_amount), 0) FROM coupon.coupon WHERE state = 'redeemed') + coalesce(sum(spent), 0) \
        || ' spent' FROM coupon.archived_total"
sums=$(q "$total")
spent=$(q "$budgets")
bert=$(trace bert-)
others=$(q "SELECT sum(reserved_amount) FROM coupon.coupon WHERE customer = 'bert'")
ids=$(q "SELECT string_agg(id::text, '|') FROM coupon.coupon WHERE customer = 'anna'")
expect_true "there is much to forget" "SELECT count(*) > 10 FROM coupon.coupon WHERE customer = 'anna'"
said=$(q "SELECT relation, removed > 0, kept IS NOT NULL FROM coupon.forget('anna')")
expect "it says what it removed and what it kept" "coupon.coupon|t|t coupon.order_discount|t|t coupon.decision|t|t coupon.redemption_attempt|t|f coupon.customer_limit|t|f coupon.redemption_limit|t|f coupon.error_log|t|f coupon.missed_click|t|f coupon.customer|f|f coupon.session|t|f coupon.click|t|f public.click|f|t coupon.model|f|t" "$(echo $said)"
expect "no trace of her" "" "$(trace anna | grep -v '^coupon.error_log|2$' || true)"
expect "what only sounds like her is still there" 2 \
    "$(q "SELECT count(*) FROM coupon.error_log WHERE customer = 'Johanna' OR session = 'annabel'")"
expect "another's session that missed a click of hers stays marked" "1|" \
    "$(q "SELECT count(*), max(customer) FROM coupon.missed_click WHERE session = 'bert-3'")"
expect "her coupons' ids are in the audit alone" "" \
    "$(for id in ${ids//|/ }; do trace "$id"; done | grep -v '^coupon.audit|' || true)"
expect "of the others nothing is gone" "$bert" \
    "$(trace bert- | sed 's/^coupon.redemption_attempt|.*/'"$(echo "$bert" | grep attempt)"'/')"
expect "all that was issued, decided, redeemed and spent is still counted" "$sums" "$(q "$total")"
expect "and spent from the same budgets" "$spent" "$(q "$budgets")"
expect "which add up" 0 "$(q "$off")"
expect "and hold money for the others alone" "$others" \
    "$(q "SELECT reserved_amount FROM coupon.budget WHERE unit = 'money' AND day IS NULL AND campaign = 'default'")"
expect "twice is once" 0 "$(q "SELECT sum(removed) FROM coupon.forget('anna')")"
click "anna-1" "'anna'"
expect "who comes back begins anew" 8 "$(views anna-1)"
expect_error "nobody" 22004 "SELECT * FROM coupon.forget(NULL)"
expect_error "a snapshot that does not see what commits meanwhile" 25001 \
    "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM coupon.forget('anna')"

word=$(q "SELECT category FROM coupon.click WHERE category IS NOT NULL AND kind = 'view' GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
expect "a model that knows the id as a word is said to" "1 1" "$(q "SELECT count(*) FROM coupon.forget('$word') WHERE relation = 'coupon.model' AND kept LIKE '%Train a version without it%'") $(q "SELECT count(*) FROM coupon.forget('nobody') WHERE relation = 'coupon.model' AND kept NOT LIKE '%Train%'")"

note "while she goes on"
cat >"$work/click.sql" <<'SQL'
\set who random(1, 3)
\set s random(1, 6)
SELECT coupon.record_click('r-' || :who || '-' || :s || '-' || pg_backend_pid() % 3, customer => 'cust' || :who, category => 'c1');
SELECT redeem_coupon(code, 'order ' || id, 30, session => session) FROM coupon.coupon WHERE customer = 'cust' || :who AND closed_at IS NULL AND random() < 0.2 LIMIT 1;
SQL
: >"$work/off"
(
    while [ ! -e "$work/done" ]; do q "$off" >>"$work/off"; done
) &
watcher=$!
(
    while [ ! -e "$work/done" ]; do q "SELECT sum(removed) FROM coupon.forget('cust1'); SELECT sum(removed) FROM coupon.forget('cust2')" >>"$work/forgotten"; done
) 2>"$work/refused" &
forgetter=$!
clients 6 300 "$work/click.sql"
touch "$work/done"
wait $watcher $forgetter
[ ! -s "$work/refused" ] || { cat "$work/refused"; give_up "forgetting failed"; }
expect_true "1,800 clicks and redemptions did not fail; she was forgotten $(wc -l <"$work/forgotten") times" \
    "$(paste -sd+ "$work/forgotten" | sed 's/++*/+/g') > 0"
expect "no budget was off at any of $(wc -l <"$work/off") looks" 0 "$(sort -u "$work/off")"
expect_true "nor did anybody wait in a circle" \
    "SELECT deadlocks = 0 FROM pg_stat_database WHERE datname = current_database()"
q "SELECT coupon.forget('cust1'), coupon.forget('cust2')" >/dev/null
expect "no trace of either" "" "$(trace cust1; trace cust2; trace r-1-; trace r-2-)"
expect "and the budgets add up" 0 "$(q "$off")"

note "retention"
q "INSERT INTO coupon.session (session, customer, started_at, last_at, views, segment, ended, purchased) SELECT 'old-' || i, 'old', now() - interval '40 days', now() - interval '40 days', 3, 0, false, false FROM generate_series(1, 25) i;
   INSERT INTO coupon.missed_click (session, at, reason) VALUES ('nowhere', now() - interval '40 days', 'test'), ('bert-1', now() - interval '40 days', 'test');
   INSERT INTO coupon.redemption_limit VALUES ('customer old', now() - interval '40 days', 3)"
sums=$(q "$total")
sweep="SELECT sessions, coupons, decisions, notes FROM coupon.maintain(10)"
expect "by default everything is kept" "0|0|0|0" "$(q "LOAD 'coupon_ext'; SET coupon_ext.mock_clock = '2060-01-01'; $sweep")"
expect "sessions of 40 days after 30, ten at a time, and a presenter" "10|0|0|1 10|0|0|0 5|0|0|0 0|0|0|0" \
    "$(echo $(q "LOAD 'coupon_ext'; SET coupon_ext.session_retention = '30d'; $sweep; $sweep; $sweep; $sweep"))"
expect "a mark of a session that is nowhere goes at once" 0 \
    "$(q "SELECT count(*) FROM coupon.missed_click g WHERE g.session = 'nowhere'")"
later="LOAD 'coupon_ext'; SET coupon_ext.mock_clock = '2060-01-01'; SET coupon_ext.coupon_retention = '365d'; SET coupon_ext.session_retention = '365d'"
psql -XAtq -v ON_ERROR_STOP=1 -c "$later" -c "CALL coupon.maintain_all(10)"
expect "all closed coupons and decisions are totals now" "0 0 0 0" "$(q "SELECT (SELECT count(*) FROM coupon.coupon), (SELECT count(*) FROM coupon.decision), (SELECT count(*) FROM coupon.session), (SELECT count(*) FROM coupon.redemption_attempt)" | tr '|' ' ')"
expect "of the same sums" "$sums" "$(q "$total")"
expect "in which nobody is named" "" "$(trace bert | grep -v 'coupon.\(click\|holder\)|' || true)"
expect "and on that day's clock the budgets add up" 0 "$(q "$later; $off")"
expect "purses of days long past are gone" 0 \
    "$(q "SELECT count(*) FROM coupon.budget_bucket WHERE day > '-infinity' AND day < '2058-01-01'")"
expect_error "a batch that is none" 22023 "CALL coupon.maintain_all(0)"
amcheck
