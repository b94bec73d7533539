#!/usr/bin/env bash
# Proves: expired coupons by the ten thousand are swept in batches while clicks go on; a sweep that is killed half-way
# is done again by the next; every one is audited, and every cent comes back.
# alone: it measures
. "$(dirname "$0")/lib.sh"
rows=${ROWS:-$(full 2000000 50000)}
batch=$(full 10000 5000)

q "INSERT INTO coupon.campaign (campaign, max_discount) VALUES ('old', 5);
   ALTER TABLE coupon.coupon DISABLE TRIGGER audit;
   INSERT INTO coupon.coupon (session, campaign, discount, unit, currency, max_discount, minimum_basket, exclusive, transferable, code_hashed, message, display_seconds, issued_at, expires_at, reserved_amount, budget_day)
   SELECT 'e-' || i, 'old', 10, 'percent', 'EUR', 5, 0, false, false, true, '', 6, now() - interval '1 day', now() - interval '1 hour' * random(), 5, current_date FROM generate_series(1, $rows) i;
   ALTER TABLE coupon.coupon ENABLE TRIGGER audit;
   UPDATE coupon.campaign SET budget = 5 * $rows WHERE campaign = 'old'" 2>"$work/said" \
       || { cat "$work/said"; give_up "no coupons"; }
q "VACUUM ANALYZE coupon.coupon"

# latency SECONDS: clicks for so long, in new sessions and known ones; their median and 99th percentile, in milliseconds
cat >"$work/click.sql" <<'SQL'
\set i random(1, 2000)
INSERT INTO click VALUES ('q-' || :i, now(), 'view', 'p1', 'c1', 20);
SQL
latency() {
    rm -f "$work"/log.*
    (cd "$work" && pgbench -n -c 2 -T "$1" -f "$work/click.sql" -l --log-prefix=log >"$work/pgbench" 2>&1) \
        || { cat "$work/pgbench"; give_up pgbench; }
    cat "$work"/log.* | awk '{print $3}' | sort -n | awk '{v[NR] = $1} END {printf "%.3f %.3f %.1f\n", v[int(NR / 2) + 1] / 1000, v[int(NR * .99) + 1] / 1000, v[NR] / 1000}'
}
read -r quiet quiet_99 quiet_most < <(latency "$(full 5 2)")

note "a sweep is killed half-way, and goes on"
(PGAPPNAME=sweep psql -XAtq -c "SELECT expired FROM coupon.maintain($rows)" >/dev/null 2>&1 || true) &
until [ "$(q "SELECT count(*) FROM pg_stat_activity WHERE $ours AND application_name = 'sweep' AND clock_timestamp() - query_start > interval '300 ms'")" = 1 ]; do
    kill -0 $! 2>/dev/null || break
    sleep 0.02
done
killed=$(q "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE $ours AND application_name = 'sweep'")
wait $! || true
expect "it was killed, and closed none" "1 0" \
    "$killed $(q "SELECT count(*) FROM coupon.coupon WHERE campaign = 'old' AND closed_at IS NOT NULL")"

begun=$EPOCHREALTIME
(while :; do
    n=$(q "SELECT expired FROM coupon.maintain($batch)")
    echo "$n"
    [ "$n" != 0 ] || break
done) >"$work/swept" &
sweeper=$!
read -r busy busy_99 busy_most < <(latency "$(full 20 2)")
wait $sweeper
took=$(awk "BEGIN {print $EPOCHREALTIME - $begun}")
expect "all are swept" "$rows" "$(awk '{n += $1} END {print n + 0}' "$work/swept")"
expect "each is audited" "$rows" "$(q "SELECT count(*) FROM coupon.audit WHERE event = 'expired'")"
expect "every cent is back" "0 $((5 * rows))" \
    "$(q "SELECT trim_scale(reserved_amount) || ' ' || trim_scale(available) FROM coupon.budget WHERE campaign = 'old'")"
expect "no click waited for a lock in vain" 0 "$(faults)"
figure "sweep: $rows coupons in batches of $batch, $(awk "BEGIN {printf \"%.0f\", $rows / $took}") a second while clicks go on; a click's median $quiet ms without and $busy ms with it ($(awk "BEGIN {printf \"%.2f\", $busy / $quiet}") times), p99 $quiet_99 and $busy_99, worst $quiet_most and $busy_most"
