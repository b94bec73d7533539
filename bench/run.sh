#!/usr/bin/env bash
# How fast, as ratios: what is compared runs in turns on the same server, medians over the rounds.
#
#   ROUNDS (5), SECONDS_A_ROUND (5)   how long to look
#   PEERS_PYTHON                      a Python with the peers' requirements, to train the same data in PyTorch beside us
#   DATA, PEERS                       folders of clickstream.csv.gz and churn.py (../shared/data, ../shared/peers)
. "$(dirname "$0")/lib.sh"
use_postgres

rounds=${ROUNDS:-5}
seconds=${SECONDS_A_ROUND:-5}
data=${DATA:-$ROOT/../shared/data}
peers=${PEERS:-$ROOT/../shared/peers}

if [ "${1:-}" != inside ]; then
    scripts/install.sh
    say "building the crate's own measurements"
    [ ! -f crates/model/examples/bench_step.rs ] || cargo build --quiet --release -p coupon_model --example bench_step
    # A server as a shop would run it, but without waiting for the disk at each commit.
    export CLUSTER_CONF=$'fsync = on\nfull_page_writes = on\nsynchronous_commit = off\nmax_wal_size = 4GB\nshared_buffers = 512MB'
    exec scripts/cluster.sh run bench -- bench/run.sh inside
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table=$work/table
row() { printf '%s|%s|%s|%s|%s\n' "$@" >>"$table"; }

say "a shop with a trained, live model"
createdb bench
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'
q "CREATE EXTENSION coupon_ext"
q "SELECT coupon.simulate()" >/dev/null
q "SELECT coupon.train()" >/dev/null
q "UPDATE coupon.campaign SET budget = NULL, max_discount = NULL, unlimited = true WHERE campaign = 'default'" # no budget: nothing but the trigger is measured
q "SELECT coupon.go_live('default')" >/dev/null
for name in click plain; do
    q "CREATE TABLE $name (session text, at timestamptz, kind text, page text, category text, price numeric)"
    # A table as shops have them: a key, two indexes, 200 bytes of properties.
    q "CREATE TABLE shop_$name (id bigserial PRIMARY KEY, LIKE $name,
        properties jsonb DEFAULT '{\"agent\": \"$(printf 'x%.0s' {1..120})\", \"from\": \"https://example.com/a/page\", \"width\": 1280, \"height\": 720}')"
    q "CREATE INDEX ON shop_$name (session)"
    q "CREATE INDEX ON shop_$name (at)"
done
for name in click shop_click; do
    q "SELECT coupon.watch('$name', '{\"session\": \"session\", \"at\": \"at\", \"kind\": \"kind\", \"page\": \"page\", \"category\": \"category\", \"price\": \"price\"}')" >/dev/null
done

# --- INSERT of one click ---------------------------------------------------------------------------------------------
for shop in '' shop_; do
    for clients in 1 8; do
        say "INSERT of one click into ${shop}click, $clients clients"
        for name in plain click; do insert "$shop$name" "$clients" 1 "$work" >/dev/null; done
        for ((round = 1; round <= rounds; round++)); do
            for name in plain click; do insert "$shop$name" "$clients" "$seconds" "$work" >>"$work/insert.$shop$name.$clients"; done
        done
        without=$(median <"$work/insert.${shop}plain.$clients")
        with=$(median <"$work/insert.${shop}click.$clients")
        row "INSERT of one click, $([ -n "$shop" ] && echo "a shop's table" || echo "a bare one"), $clients client(s)" "$(calc "$without" 0) µs" "$(calc "$with" 0) µs" \
            "$(calc "$with / $without") ×" "$([ -n "$shop" ] && echo '≤ 2.5, aim 2' || echo reported)"
    done
done

# --- a transaction of many clicks, and a question that nothing is due for ------------------------------------------------
say "a transaction of 1,000 clicks, and issue_coupon with nothing due"
thousand() { # table: milliseconds
    psql -XAt -v ON_ERROR_STOP=1 -c '\timing on' -c "DO \$\$ BEGIN FOR i IN 1..1000 LOOP INSERT INTO $1 (session, at, kind, page, category, price)
        VALUES ('t' || i % 100, now(), 'view', 'p' || i % 50, 'c' || i % 5, 19.90); END LOOP; END \$\$" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
}
ask() { # SQL: microseconds
    echo "$1" >"$work/ask.sql"
    pgbench -n -M prepared -c 1 -T "$seconds" -f "$work/ask.sql" 2>/dev/null | awk '/^tps = / {print 1e6 / $3}'
}
for ((round = 1; round <= rounds; round++)); do
    for name in plain click; do thousand "shop_$name" >>"$work/thousand.$name"; done
    ask "SELECT 'a constant'" >>"$work/ask.constant"
    ask '\set s random(1, 10000)
SELECT issue_coupon('"'s'"' || :s)' >>"$work/ask.issue"
done
without=$(median <"$work/thousand.plain")
with=$(median <"$work/thousand.click")
row "1,000 clicks in one transaction, a shop's table" "$(calc "$without" 0) ms" "$(calc "$with" 0) ms" "$(calc "$with / $without") ×" "reported"
without=$(median <"$work/ask.constant")
with=$(median <"$work/ask.issue")
row "issue_coupon, nothing due, beside a constant" "$(calc "$without" 0) µs" "$(calc "$with" 0) µs" "$(calc "$with - $without" 0) µs" "≤ 30 µs more"

# --- whatever a DBA adds to coupon.session -----------------------------------------------------------------------------
altered() { # what, how, how it is undone
    local round name
    say "coupon.session with $1"
    rm -f "$work"/altered.*
    for ((round = 1; round <= rounds; round++)); do
        insert shop_click 8 "$seconds" "$work" >>"$work/altered.without"
        q "$2" >/dev/null
        insert shop_click 8 "$seconds" "$work" >>"$work/altered.with"
        q "$3" >/dev/null
    done
    without=$(median <"$work/altered.without")
    with=$(median <"$work/altered.with")
    row "  coupon.session with $1, 8 clients" "$(calc "$without" 0) µs" "$(calc "$with" 0) µs" "$(calc "$with / $without") ×" "≤ 1.1"
}
altered "a CHECK" "ALTER TABLE coupon.session ADD CONSTRAINT guarded CHECK (views >= 0)" "ALTER TABLE coupon.session DROP CONSTRAINT guarded"
altered "row security" "ALTER TABLE coupon.session ENABLE ROW LEVEL SECURITY" "ALTER TABLE coupon.session DISABLE ROW LEVEL SECURITY"
q "CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
altered "a row trigger" "CREATE TRIGGER pass BEFORE UPDATE ON coupon.session FOR EACH ROW EXECUTE FUNCTION public.pass()" "DROP TRIGGER pass ON coupon.session"
altered "a publication" "CREATE PUBLICATION sessions FOR TABLE coupon.session" "DROP PUBLICATION sessions"
altered "hash partitions" "BEGIN; ALTER TABLE coupon.session RENAME TO session_whole;
    CREATE TABLE coupon.session (LIKE coupon.session_whole INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE) PARTITION BY HASH (session);
    $(for i in 0 1 2 3; do echo "CREATE TABLE coupon.session_$i PARTITION OF coupon.session FOR VALUES WITH (MODULUS 4, REMAINDER $i)
        WITH (fillfactor = 65, toast_tuple_target = 8160);"; done)
    INSERT INTO coupon.session SELECT * FROM coupon.session_whole;
    COMMIT" "BEGIN; DROP TABLE coupon.session; ALTER TABLE coupon.session_whole RENAME TO session; COMMIT"

# --- COPY ------------------------------------------------------------------------------------------------------------
copy() { # table, file: milliseconds
    psql -XAt -v ON_ERROR_STOP=1 -c '\timing on' -c "\\copy $1 FROM '$2'" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
}
load() { # clicks, sessions, target
    say "COPY of $1 clicks of $2 sessions"
    for ((round = 1; round <= rounds; round++)); do
        # Sessions are new in each round; clicks are of the last four minutes, so that decisions are made.
        q "COPY (SELECT 'load$1-$2-$round-' || i % $2, now() - interval '4 minutes' + i * interval '3 minutes' / $1, 'view',
                 'p' || i % 50, 'c' || i % 5, 19.90 FROM generate_series(1, $1) i) TO STDOUT" >"$work/load"
        for table_name in plain click; do
            # Or a load writes out what those before it left in the buffers.
            q "TRUNCATE $table_name, coupon.session"
            q CHECKPOINT
            copy "$table_name" "$work/load" >>"$work/copy.$table_name.$1.$2"
        done
    done
    without=$(median <"$work/copy.plain.$1.$2")
    with=$(median <"$work/copy.click.$1.$2")
    row "COPY of $1 clicks of $2 sessions" "$(calc "$without" 0) ms" "$(calc "$with" 0) ms" "$(calc "$with / $without") ×" "$3"
}
load 100000 10000 "≤ 4"
per_click=$(calc "1000 * $with / 100000")
load 1000000 100000 "linear"
row "  time a click, 100,000 and a million clicks" "$per_click µs" "$(calc "1000 * $with / 1000000") µs" "$(calc "$with / 1000000 / ($per_click / 1000)") ×" "1 = linear"
load 100000 100000 "reported"

# --- first use in a new connection -----------------------------------------------------------------------------------
# Milliseconds of a connection's first statement: a click or a scoring, beside a function that reads a table through SPI.
first() { psql -XAt -v ON_ERROR_STOP=1 -c '\timing on' -c "$1" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'; }
say "first use in a new connection"
for ((round = 1; round <= 5 * rounds; round++)); do
    first 'DO $$ BEGIN PERFORM FROM plain LIMIT 1; END $$' >>"$work/first.plain"
    first "INSERT INTO click (session, at, kind) VALUES ('first', now(), 'view')" >>"$work/first.click"
    first "SELECT churn_probability(0, ARRAY[ROW(now(), 'view', 'p1', 'c1', NULL, 1, NULL)::coupon.page_view])" >>"$work/first.array"
done
without=$(median <"$work/first.plain")
for what in click array; do
    with=$(median <"$work/first.$what")
    row "first use in a new connection: $what" "$without ms" "$with ms" "$(calc "$with - $without" 1) ms" "< 5 ms more"
done

q "SELECT pg_stat_force_next_flush()" >/dev/null
row "HOT share of updates of coupon.session" "" "$(q "SELECT round(100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0), 2) FROM pg_stat_user_tables WHERE relid = 'coupon.session'::regclass") %" "" "> 99 %"
row "faults while measuring" "" "$(q "SELECT coalesce(sum(repeated), 0) FROM coupon.error_log")" "" "0"

# --- training beside PyTorch -----------------------------------------------------------------------------------------
epochs() {
    local file=$data/clickstream.csv.gz ours sessions theirs n
    [ -f "$file" ] || { say "no $file (DATA names its folder): no training measured"; return; }
    say "training on clickstream"
    # Only its train part is loaded, and the simulated shop's clicks are out of the way.
    q "SELECT coupon.unwatch('click'), coupon.unwatch('coupon.click')" >/dev/null
    CLICKSTREAM=$file psql -Xq -f "$ROOT/bench/clickstream.sql" >/dev/null
    ours=$(q "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)
              FROM coupon.train(until => '2021-01-01', spec => '{\"churn\": {\"loss_on\": \"last_view\", \"epochs\": 5, \"refit\": false}}')
              WHERE stage = 'churn' AND segment = 0 AND step > 0")
    # Ours learns from the first 80 % of these, the peer from 90 %.
    sessions=$(q "SELECT round(0.8 * count(*)) FROM (SELECT FROM raw WHERE split = 'train' GROUP BY session_id HAVING count(*) > 3) s")
    if [ -z "${PEERS_PYTHON:-}" ] || [ ! -f "$peers/churn.py" ]; then
        say "PEERS_PYTHON or $peers/churn.py is missing: PyTorch not measured"
        row "one training epoch, a session" "" "$(calc "1e6 * $ours / $sessions" 0) µs" "" "≤ 0.2 of PyTorch"
        return
    fi
    "$PEERS_PYTHON" -W ignore "$peers/churn.py" --inputs rich --threads "$(nproc)" --epochs 3 --data "$file" >"$work/peer" || true
    read -r n theirs < <(sed -n 's/^torch train: sessions \([0-9]*\) median_epoch_seconds \([0-9.]*\).*/\1 \2/p' "$work/peer") || true
    [ -n "${theirs:-}" ] || { say "churn.py gave no figure"; return; }
    row "one training epoch, a session: PyTorch, ours" "$(calc "1e6 * $theirs / $n" 0) µs" "$(calc "1e6 * $ours / $sessions" 0) µs" \
        "$(calc "($ours / $sessions) / ($theirs / $n)") ×" "≤ 0.2"
}
# What is written above stands, whatever happens to this one.
(epochs) || say "training on clickstream failed; the other figures stand"

# --- the crate alone -------------------------------------------------------------------------------------------------
step=$TARGET/release/examples/bench_step
echo
if [ -f crates/model/examples/bench_step.rs ] && [ -x "$step" ]; then
    "$step" | tee "$work/step"
    onnx=$(sed -n 's/^onnxruntime: threads 1 batch 1 .* median_microseconds_a_session //p' "$work/peer" 2>/dev/null || true)
    if [ -n "$onnx" ]; then
        ours() { sed -n "s/^$1 //p" "$work/step"; }
        row "a session of 100 views, one thread: ONNX, ours" "$onnx µs" "$(ours array_100_views_microseconds) µs" \
            "$(calc "$onnx / $(ours array_100_views_microseconds)" 1) ×" "≥ 2"
        row "one more click: ONNX from the start, ours" "$onnx µs" "$(ours live_step_microseconds) µs" \
            "$(calc "$onnx / $(ours live_step_microseconds)" 0) ×" "≥ 50"
    fi
else
    say "crates/model/examples/bench_step.rs is missing: no figures of the crate alone"
fi

echo
echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, PostgreSQL 15, medians of $rounds rounds"
# printf pads by bytes, the lengths of the shell count characters.
printf 'work|without|with|ratio|target\n' | cat - "$table" | LC_ALL=C.UTF-8 bash -c '
    while IFS="|" read -r work without with ratio target; do
        i=0
        for cell in "$work" "$without" "$with" "$ratio" "$target"; do
            widths=(52 12 12 9 14); pad=$((widths[i] - ${#cell})); i=$((i + 1))
            printf "%s%*s" "$cell" $((pad > 1 ? pad : 1)) ""
        done
        echo
    done'
