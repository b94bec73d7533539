# shellcheck shell=bash
# Sourced by the tests beside it. PGHOST, PGPORT, PGUSER and PGDATABASE name a fresh copy of the shop of shop.sql.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Runs SQL, prints bare values. Every call is a connection, hence a backend, of its own. A failure inside "$(q …)" does
# not stop a script; the extra word makes sure that no comparison takes it for an empty answer.
q() { psql -XAtq -v ON_ERROR_STOP=1 -c "$1" || { echo "(SQL failed)"; return 1; }; }

# Of pg_stat_activity and of pg_locks, what is of this test's database: another test may run beside it.
ours="datname = current_database()"
our_locks="database = (SELECT oid FROM pg_database WHERE datname = current_database())"

note() { echo "-- $*"; }
give_up() { echo "FAILED: $*"; exit 1; }

# expect WHAT WANTED GOT
expect() {
    if [ "$2" = "$3" ]; then echo "ok: $1"; else give_up "$1: wanted $2, got $3"; fi
}

# expect_true WHAT 'SQL that gives one boolean'
expect_true() { expect "$1" t "$(q "SELECT ($2)")"; }

# expect_error WHAT SQLSTATE SQL
expect_error() {
    local said
    if said=$(psql -XAtq -v ON_ERROR_STOP=1 -v VERBOSITY=sqlstate -c "$3" 2>&1); then give_up "$1: no error"; fi
    case $said in *"ERROR:  $2"*) echo "ok: $1 ($2)" ;; *) give_up "$1: wanted $2, got $said" ;; esac
}

# as ROLE COMMAND…: the same database as another role
as() { PGUSER=$1 "${@:2}"; }

# play PREFIX SESSIONS VIEWS: the sessions PREFIX1, PREFIX2, … see VIEWS pages each, one statement a view.
play() {
    local view
    for ((view = 1; view <= $3; view++)); do
        q "INSERT INTO click SELECT '$1' || i, now(), 'view', 'p' || $view, 'c' || (i + $view) % 5, 20 FROM generate_series(1, $2) i"
    done
}

# clients COUNT TRANSACTIONS FILE [pgbench options]: that many clients at once, that many transactions each.
clients() {
    pgbench -n -c "$1" -j 2 -t "$2" -f "$3" "${@:4}" >"$work/pgbench" 2>&1 \
        || { cat "$work/pgbench"; give_up "pgbench"; }
    grep -q '^number of failed transactions: 0 ' "$work/pgbench" \
        || { cat "$work/pgbench"; give_up "transactions failed"; }
}

# stress ARGUMENTS: the program of tests/stress, which tests/run.sh builds; with STRESS=full the sizes that `make
# stress` and `make crash` use.
stress() { "${CARGO_TARGET_DIR:-target}/debug/coupon_stress" "$@"; }
# full FULL SHORT: one of both
full() { if [ "${STRESS:-}" = full ]; then echo "$1"; else echo "$2"; fi; }
# A line that the full versions show when they are done.
figure() { echo "= $*"; }

# What is stored of the sessions whose name begins with $1.
clicks() { q "SELECT count(*) FROM click WHERE session LIKE '$1%'"; }
views() { q "SELECT coalesce(sum(views), 0) FROM coupon.session WHERE session LIKE '$1%'"; }
coupons() { q "SELECT count(*) FROM coupon.coupon WHERE session LIKE '$1%'"; }
decisions() { q "SELECT count(*) FROM coupon.decision WHERE session LIKE '$1%'"; }
faults() { q "SELECT coalesce(sum(repeated), 0) FROM coupon.error_log"; }

# At every instant, of every budget.
adds_up='SELECT bool_and(granted = available + coalesce(reserved_amount, 0) + spent AND available >= 0) FROM coupon.budget'

# Every heap and every B-tree of the extension's data is sound.
amcheck() {
    expect "heaps are sound" "" "$(q "SELECT c.oid::regclass, v.* FROM pg_class c, LATERAL verify_heapam(c.oid) v
        WHERE c.relkind = 'r' AND c.relnamespace = 'coupon'::regnamespace OR c.oid = 'click'::regclass")"
    q "SELECT bt_index_check(i.indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relnamespace = 'coupon'::regnamespace" >/dev/null
    echo "ok: indexes are sound"
}
