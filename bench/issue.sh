#!/usr/bin/env bash
# Issuing: issue_coupon from a client beside an HTTP service that does the same (web framework, ONNX Runtime, database driver), and
# the trigger with three campaigns, budgets and a daily limit beside none. In turns on one server, medians over the rounds.
#
#   PEERS_PYTHON             a Python with the peers' requirements
#   DATA, PEERS              folders of clickstream.csv.gz and of churn.py, service.py, client.py
#   ROUNDS (5), CLICKS (3000), SECONDS_A_ROUND (3)
. "$(dirname "$0")/lib.sh"
use_postgres

rounds=${ROUNDS:-5}
clicks=${CLICKS:-3000}
seconds=${SECONDS_A_ROUND:-3}
data=${DATA:-$ROOT/../shared/data}
peers=${PEERS:-$ROOT/../shared/peers}

if [ "${1:-}" != inside ]; then
    scripts/install.sh
    export CLUSTER_CONF=$'fsync = on\nsynchronous_commit = off\nmax_wal_size = 4GB\nshared_buffers = 512MB'
    exec scripts/cluster.sh run issue_bench -- bench/issue.sh inside
fi

work=$(mktemp -d)
service=
trap 'kill $service 2>/dev/null; rm -rf "$work"' EXIT

say "a shop with a trained, live model"
createdb issue
export PGDATABASE=issue PGOPTIONS='-c client_min_messages=warning'
q "CREATE EXTENSION coupon_ext"
q "SELECT coupon.simulate()" >/dev/null
q "SELECT coupon.train()" >/dev/null
columns='(session text, at timestamptz, kind text, page text, category text, price numeric)'
q "CREATE TABLE click $columns; CREATE TABLE plain $columns"
q "SELECT coupon.watch('click', '{\"session\": \"session\", \"at\": \"at\", \"kind\": \"kind\", \"page\": \"page\", \"category\": \"category\", \"price\": \"price\"}')" >/dev/null

# --- the trigger with three campaigns, budgets and a daily limit, beside one without ---------------------------------
q "UPDATE coupon.campaign SET budget = NULL, max_discount = NULL, unlimited = true WHERE campaign = 'default'" # no budget: nothing but the trigger is measured
q "SELECT coupon.go_live('default')" >/dev/null
q "INSERT INTO coupon.campaign (campaign, max_discount, budget, budget_day, coupons_day, per_customer, cool_down, paced)
   VALUES ('second', 5, 1e7, 1e6, 1000000, 3, '1 day', true), ('third', 5, 1e7, 1e6, 1000000, 3, '1 day', false)"
q "INSERT INTO coupon.arm (campaign, arm, policy, share) SELECT campaign, 'all', policy, 1 FROM (VALUES ('second', 'risk'), ('third', 'random')) v(campaign, policy)"
for ((round = 1; round <= rounds; round++)); do
    for clients in 1 8; do
        q "UPDATE coupon.campaign SET state = 'paused' WHERE campaign <> 'default' AND state = 'live'"
        insert plain $clients "$seconds" "$work" >>"$work/plain.$clients"
        insert click $clients "$seconds" "$work" >>"$work/one.$clients"
        q "UPDATE coupon.campaign SET state = 'live' WHERE campaign <> 'default'"
        insert click $clients "$seconds" "$work" >>"$work/three.$clients"
    done
done
for clients in 1 8; do
    bare=$(median <"$work/plain.$clients")
    echo "INSERT of one click, $clients client(s): without the trigger $(calc "$bare" 0) µs," \
        "one campaign $(calc "$(median <"$work/one.$clients") / $bare") ×, three with budgets $(calc "$(median <"$work/three.$clients") / $bare") × (at most 2.5)"
done
echo "coupons issued meanwhile: $(q "SELECT count(*) FROM coupon.coupon"), decisions $(q "SELECT count(*) FROM coupon.decision"), faults $(q "SELECT coalesce(sum(repeated), 0) FROM coupon.error_log")"

# --- beside a service ------------------------------------------------------------------------------------------------
if [ -z "${PEERS_PYTHON:-}" ]; then
    say "PEERS_PYTHON is not set: no service to compare with"
    exit
fi
say "the peer's model and service"
TMPDIR=$work "$PEERS_PYTHON" -W ignore "$peers/churn.py" --inputs plain --epochs 1 --data "$data/clickstream.csv.gz" >"$work/churn" 2>&1 \
    || { tail -n 20 "$work/churn" >&2; die "churn.py gave no model"; }
PEER_ONNX=$(find "$work" -name churn.onnx)
export PEER_ONNX PEER_DSN="host=$PGHOST port=$PGPORT user=$PGUSER dbname=$PGDATABASE"
port=$((20000 + RANDOM % 10000))
(cd "$peers" && exec "$PEERS_PYTHON" -B -m uvicorn service:app --port "$port" --log-level error) >"$work/service" 2>&1 &
service=$!
for ((i = 0; i < 100; i++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    kill -0 $service 2>/dev/null || { cat "$work/service" >&2; die "the service ended"; }
    sleep 0.2
done
for ((round = 1; round <= rounds; round++)); do
    # Both begin with sessions nobody has seen.
    q "TRUNCATE peer_click, peer_coupon"
    "$PEERS_PYTHON" -B "$peers/client.py" "http://127.0.0.1:$port" "$PEER_DSN" "$clicks" | tee -a "$work/theirs"
    "$PEERS_PYTHON" -B bench/issue_client.py "$PEER_DSN" "$clicks" "round$round" | tee -a "$work/ours"
done
figure() { sed -n "s/.* $2 \([0-9.]*\).*/\1/p" "$work/$1" | median; }
for what in median_ms p99_ms; do
    echo "click and coupon request, $what: service $(figure theirs $what), coupon_ext $(figure ours $what): $(calc "$(figure theirs $what) / $(figure ours $what)" 1) ×"
done
# The service's request is its client's time less the click before it.
click=$(figure ours bare_click_ms)
echo "coupon request alone, median: service $(calc "$(figure theirs median_ms) - $click" 3), issue_coupon $(figure ours request_ms): $(calc "($(figure theirs median_ms) - $click) / $(figure ours request_ms)" 1) × (at least 10)"
echo "coupon request alone, p99: service $(calc "$(figure theirs p99_ms) - $click" 3), issue_coupon $(figure ours request_p99_ms): $(calc "($(figure theirs p99_ms) - $click) / $(figure ours request_p99_ms)" 1) ×"
