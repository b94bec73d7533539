#!/usr/bin/env bash
# Proves: a backend that is killed (SIGKILL) while it trains leaves nothing after recovery, and the old version serves.
# alone: a killed backend restarts the whole server
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/backend.sh"
stored() {
    q "SELECT (SELECT count(*) FROM coupon.version), (SELECT count(*) FROM coupon.model), (SELECT count(*) FROM coupon.deployment),
       (SELECT sum(hashtextextended(c::text, 0)::numeric) FROM coupon.customer c), (SELECT max(version) FROM coupon.deployment)"
}
before=$(stored)
for part in churn saving; do
    note "killed in $part"
    connect
    if [ $part = saving ]; then
        # Its rows are written up to here: the last table is held by somebody else.
        psql -XAtq -c "BEGIN; LOCK TABLE coupon.customer IN SHARE MODE; SELECT pg_sleep(600)" >/dev/null 2>&1 &
    fi
    begin "SET client_min_messages = debug1; SELECT count(*) FROM coupon.train(spec => '{\"churn\": {\"epochs\": 1}}', seed => 8)"
    until_said "begins $part"
    if [ $part = saving ]; then
        until [ "$(q "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $backend")" = Lock ]; do sleep 0.02; done
    fi
    # tests/run.sh takes any other death of a backend for a crash.
    echo "(PID $backend)" >>"$KILLED"
    kill -KILL "$backend"
    disconnect
    while [ -e "/proc/$backend" ]; do sleep 0.02; done
    for ((i = 0; i < 600; i++)); do
        sleep 0.1
        if q "SELECT 1" >/dev/null 2>&1; then break; fi
    done
    expect "nothing is left" "$before" "$(stored)"
    play "$part-" 20 6
    expect "the old version serves" "120 t" \
        "$(views "$part-") $(q "SELECT bool_and(churn IS NOT NULL) FROM coupon.session WHERE session LIKE '$part-%'")"
done
amcheck
