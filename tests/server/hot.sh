#!/usr/bin/env bash
# Proves: a campaign's budget does not serialise the shop. Visits of eight clicks, about half of which are issued a coupon, with and
# without budgets in money and in coupons, in interleaved rounds; the ratio of their throughputs.
. "$(dirname "$0")/lib.sh"
q "UPDATE coupon.campaign SET max_discount = 5 WHERE campaign = 'default'"
cat >"$work/visit.sql" <<'SQL'
\set i random(1, 1000000000000)
INSERT INTO click SELECT 'hot-' || :i, now(), 'view', 'p' || v, 'c' || v % 5, 20 FROM generate_series(1, 8) v;
SQL
visits() {
    pgbench -n -c "$1" -j 2 -T "$(full 4 1)" -f "$work/visit.sql" >"$work/pgbench" 2>&1 || { cat "$work/pgbench"; give_up pgbench; }
    sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$work/pgbench"
}
budgets() { q "UPDATE coupon.campaign SET budget = $1, budget_day = $1, coupons = $1, coupons_day = $1 WHERE campaign = 'default'"; }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
for n in $(full "1 8 32" 8); do
    : >"$work/without"
    : >"$work/with"
    for ((round = 0; round < $(full 5 2); round++)); do
        budgets NULL
        visits "$n" >>"$work/without"
        budgets 100000000
        before=$(coupons hot-)
        begun=$EPOCHREALTIME
        visits "$n" >>"$work/with"
        issues=$(awk "BEGIN {printf \"%.0f\", ($(coupons hot-) - $before) / ($EPOCHREALTIME - $begun)}")
    done
    without=$(median <"$work/without")
    with=$(median <"$work/with")
    figure "hot: $n clients: $with visits a second with four budgets, $without without ($(awk "BEGIN {printf \"%.2f\", $with / $without}")), $issues coupons a second"
    awk "BEGIN {exit !($with > 0.4 * $without)}" || give_up "budgets take more than three fifths of the shop's throughput at $n clients"
done
expect_true "the budgets add up" "$adds_up"
expect "nobody met a busy budget" 0 "$(q "SELECT count(*) FROM coupon.decision WHERE reason LIKE 'busy: %' AND reason <> 'busy: customer'")"
