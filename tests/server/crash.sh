#!/usr/bin/env bash
# Proves: kill -9 of a backend or of the whole server, at a random moment under load, loses no acknowledged click and
# leaves no coupon without its decision, no state without its audit, no cent astray, no torn table. On a cluster of its
# own.
. "$(dirname "$0")/lib.sh"
SEED=${SEED:-$(full $RANDOM 1)}
RANDOM=$SEED
rounds=${KILLS:-$(full 50 3)}
note "seed $SEED"

trap 'scripts/cluster.sh stop crash; rm -rf "$work"' EXIT
CLUSTER_CONF='' scripts/cluster.sh start crash >"$work/env"
. "$work/env"
psql -X -v ON_ERROR_STOP=1 -f tests/server/shop.sql >"$work/shop" 2>&1 || { tail "$work/shop"; give_up "no shop"; }
q "CREATE TABLE acknowledged (round int, client int, clicks int);
   UPDATE coupon.campaign SET max_discount = 5, budget = 100000, budget_day = 100000, coupons_day = 100000 WHERE campaign = 'default'"

up() {
    local i
    for ((i = 0; i < 600; i++)); do
        if q "SELECT 1" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    give_up "the server does not come back"
}
for ((round = 1; round <= rounds; round++)); do
    stress load 8 "$round" "$SEED" >"$work/acknowledged" &
    load=$!
    until [ "$(q "SELECT count(*) > 8 FROM click WHERE page LIKE '$round-%'")" = t ]; do
        kill -0 $load || give_up "there is no load"
        sleep 0.05
    done
    sleep "0.$((100 + RANDOM % 900))"
    if ((round % 2)); then
        note "$round: the server"
        scripts/cluster.sh crash crash
    else
        note "$round: a backend"
        kill -KILL "$(q "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1")"
    fi
    wait $load || give_up "the load ended before the server did"
    up
    q "\\copy acknowledged FROM '$work/acknowledged'"
    # What was prepared is still there, and may be committed.
    for transaction in $(q "SELECT gid FROM pg_prepared_xacts"); do q "COMMIT PREPARED '$transaction'"; done

    expect "no acknowledged click is lost" "$(q "SELECT sum(clicks) FROM acknowledged")" \
        "$(q "SELECT count(*) FROM acknowledged a
        CROSS JOIN generate_series(1, a.clicks) n JOIN click c ON c.page = format('%s-%s-%s', a.round, a.client, n)")"
    expect "issued decisions and coupons are of each other" 0 "$(q "SELECT count(*) FROM
        (SELECT * FROM coupon.decision WHERE outcome = 'issued') d FULL JOIN coupon.coupon c USING (session, campaign) WHERE d.arm IS NULL OR c.id IS NULL")"
    expect_true "the budgets add up" "$adds_up"
    expect "every coupon is what its audit says" 0 "$(q "SELECT count(*) FROM coupon.coupon c LEFT JOIN
        (SELECT DISTINCT ON (name) name, event, count(*) FILTER (WHERE event = 'issued') OVER (PARTITION BY name) AS begun
            FROM coupon.audit WHERE name IN (SELECT id::text FROM coupon.coupon) ORDER BY name, id DESC) a
        ON a.name = c.id::text WHERE (a.event, a.begun) IS DISTINCT FROM (c.state, 1::bigint)")"
    expect "every redemption has its attempt" 0 "$(q "SELECT count(*) FROM (SELECT name AS coupon, count(*) FROM coupon.audit WHERE event = 'redeemed' GROUP BY 1) a
        FULL JOIN (SELECT coupon::text, count(*) FROM coupon.redemption_attempt WHERE reason = 'ok' AND status = 'redeemed' GROUP BY 1) b USING (coupon) WHERE a.count IS DISTINCT FROM b.count")"
    q "SELECT coupon.maintain()" >/dev/null
    expect "every view is counted" 0 "$(q "SELECT count(*) FROM coupon.session s FULL JOIN (SELECT session, count(*) FILTER (WHERE kind = 'view') AS views FROM click GROUP BY 1) c
        USING (session) WHERE session LIKE 'load-%' AND s.views IS DISTINCT FROM c.views")"
    amcheck
done
figure "crash: $rounds kills, seed $SEED: $(q "SELECT sum(clicks) FROM acknowledged") acknowledged clicks and $(q "SELECT count(*) FROM coupon.coupon") coupons, nothing lost"
