#!/usr/bin/env bash
# Proves: a campaign's budget does not serialise the shop. Visits of eight clicks, about half of which are issued a
# coupon, with and without budgets in money and in coupons, in interleaved rounds; the ratio of their throughputs.
# alone: it measures
. "$(dirname "$0")/lib.sh"
q "UPDATE coupon.campaign SET max_discount = 5 WHERE campaign = 'default'"
cat >"$work/visit.sql" <<'SQL'
\set i random(1, 1000000000000)
INSERT INTO click SELECT 'hot-' || :i, now(), 'view', 'p' || v, 'c' || v % 5, 20 FROM generate_series(1, 8) v;
SQL
visits() {
    pgbench -n -c "$1" -j 2 -T "$(full 4 1)" -f "$work/visit.sql" >"$work/pgbench" 2>&1 \
        || { cat "$work/pgbench"; give_up pgbench; }
    sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$work/pgbench"
}
budgets() {
    q "UPDATE coupon.campaign SET budget = $1, budget_day = $1, coupons = $1, coupons_day = $1 WHERE campaign = 'default'"
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
# The bound is of the median of the rounds' ratios. A machine that does other work moves a ratio by a fifth and more:
# where the median of five rounds is below it, more are played, 25 at most. The order changes from round to round.
bound=0.75
for n in $(full "1 8 32" 8); do
    : >"$work/ratios"
    for ((round = 1; round <= 25; round++)); do
        for kind in $([ $((round % 2)) = 0 ] && echo with without || echo without with); do
            if [ $kind = without ]; then
                budgets NULL
                without=$(visits "$n")
                continue
            fi
            budgets 100000000
            before=$(coupons hot-)
            begun=$EPOCHREALTIME
            with=$(visits "$n")
            issues=$(awk "BEGIN {printf \"%.0f\", ($(coupons hot-) - $before) / ($EPOCHREALTIME - $begun)}")
        done
        awk "BEGIN {print $with / $without}" >>"$work/ratios"
        ratio=$(median <"$work/ratios")
        if [ "$round" -ge 5 ] && awk "BEGIN {exit !($ratio >= $bound)}"; then break; fi
    done
    figure "hot: $n clients: with four budgets $(printf %.2f "$ratio") of the visits without (median of" \
        "$(wc -l <"$work/ratios") rounds); the last: $with against $without visits and $issues coupons a second"
    awk "BEGIN {exit !($ratio >= $bound)}" || give_up "$n clients: budgets take more than a quarter of the throughput"
done
expect_true "the budgets add up" "$adds_up"
expect "nobody met a busy budget" 0 "$(q "SELECT count(*) FROM coupon.decision
    WHERE reason LIKE 'busy: %' AND reason <> 'busy: customer'")"
