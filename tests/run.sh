#!/usr/bin/env bash
# Runs the tests that need a server, on the one that PGHOST and PGPORT name (scripts/cluster.sh run test -- tests/run.sh).
#
#   run.sh                          all
#   run.sh regress server/once      some: regress, isolation, server, server/NAME
#
# Results, logs and differences lie under target/results; differences and the output of failed tests are shown.
. "$(dirname "$0")/../scripts/common.sh"
use_postgres
: "${PGHOST:?start a server first: scripts/cluster.sh run test -- tests/run.sh}"

results=$TARGET/results
mkdir -p "$results"
# Backends that a test killed on purpose, as the server's log names them.
killed=$results/killed
: >"$killed"
passed=0
failed=0
# What is said again at the end, where a log that was cut short still has it.
faults=$results/faults
: >"$faults"
pass() { passed=$((passed + 1)); printf 'ok      %s\n' "$*"; }
fail() { failed=$((failed + 1)); printf 'FAILED  %s\n' "$*" | tee -a "$faults"; }
wanted() {
    local want
    [ ${#only[@]} -gt 0 ] || return 0
    for want in "${only[@]}"; do
        [ "$want" = "$1" ] || [ "$want" = "${1%/*}" ] && return 0
        [ "${want%/*}" = "$1" ] && return 0
    done
    return 1
}
only=("$@")

# A test that nothing is compared with passes whatever happens, and one that is not listed does not run: both fail here.
# $1 kind, $2 folder of inputs, $3 their ending, $4 scheduled names
guard() {
    local kind=$1 inputs=$2 ending=$3 scheduled=" $4 " file name
    for file in "$inputs"/*."$ending"; do
        [ -e "$file" ] || { fail "$kind: no tests in ${inputs#"$ROOT"/}"; return; }
        name=$(basename "$file" ".$ending")
        [ -s "$inputs/../expected/$name.out" ] || fail "$kind/$name: no expected output (tests/$kind/expected/$name.out)"
        [[ $scheduled == *" $name "* ]] || fail "$kind/$name: not in tests/$kind/schedule"
    done
    for file in "$inputs"/../expected/*.out; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .out)
        [ -e "$inputs/$name.$ending" ] || [ -e "$inputs/${name%_[0-9]}.$ending" ] \
            || fail "$kind/$name: an expected output without a test"
    done
}

# $1 kind, $2 program, the rest its further arguments. Both programs speak the same language.
pg_regress_like() {
    local kind=$1 program=$2 code ok bad out=$results/$1
    shift 2
    rm -rf "$out"
    mkdir -p "$out"
    set +e
    # psql must not meet our database's name or options.
    env -u PGDATABASE -u PGOPTIONS "$program" --inputdir="$ROOT/tests/$kind" --outputdir="$out" \
        --bindir="$("$PG_CONFIG" --bindir)" --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" \
        --dbname="coupon_$kind" --encoding=UTF8 "$@" </dev/null 2>&1 \
        | tee "$out/log" | grep -vE '^(=====.*|SET|(CREATE|DROP|ALTER) DATABASE|CREATE EXTENSION|\(using .*|)$'
    code=${PIPESTATUS[0]}
    set -e
    ok=$(grep -cE '\.\.\. ok' "$out/log" || true)
    bad=$(grep -cE '\.\.\. (FAILED|failed)' "$out/log" || true)
    passed=$((passed + ok))
    failed=$((failed + bad))
    if [ "$bad" = 0 ] && [ "$code" != 0 ]; then fail "$kind: $(basename "$program") ended with $code"; fi
    if [ -s "$out/regression.diffs" ]; then
        head -n 300 "$out/regression.diffs"
        { grep -E '\.\.\. (FAILED|failed)' "$out/log" || true; head -n 30 "$out/regression.diffs"; } >>"$faults"
    fi
}

regress() {
    local schedule=$ROOT/tests/regress/schedule names
    echo "--- regress: the SQL surface"
    names=$(sed -n 's/^test: *//p' "$schedule" 2>/dev/null | tr '\n' ' ')
    if grep -q '^ignore:' "$schedule" 2>/dev/null; then fail "regress: the schedule ignores a failure"; fi
    guard regress "$ROOT/tests/regress/sql" sql "$names"
    if [ -n "$names" ]; then pg_regress_like regress "$(pg_test_dir)/regress/pg_regress" --schedule="$schedule"; fi
}

isolation() {
    local names
    echo "--- isolation: two sessions at once"
    names=$(cd "$ROOT/tests/isolation/specs" 2>/dev/null && for f in *.spec; do [ ! -e "$f" ] || echo "${f%.spec}"; done | tr '\n' ' ')
    guard isolation "$ROOT/tests/isolation/specs" spec "$names"
    # shellcheck disable=SC2086 # one word a test
    if [ -n "$names" ]; then
        pg_regress_like isolation "$(pg_test_dir)/isolation/pg_isolation_regress" --load-extension="$EXTENSION" $names
    fi
}

# Every executable tests/server/NAME.sh runs with a database of its own, a copy of the shop that tests/server/shop.sql makes once.
server() {
    local file name log code begin shop=$results/server/shop.log
    echo "--- server: real servers, real clients"
    mkdir -p "$results/server"
    cargo build --quiet -p coupon_stress </dev/null || { fail "server: tests/stress does not build"; return; }
    dropdb --if-exists coupon_shop 2>/dev/null
    createdb coupon_shop
    begin=$SECONDS
    if ! psql -X -v ON_ERROR_STOP=1 -d coupon_shop -f "$ROOT/tests/server/shop.sql" >"$shop" 2>&1 </dev/null; then
        tail -n 40 "$shop"
        fail "server: tests/server/shop.sql made no shop"
        return
    fi
    echo "        shop.sql ($((SECONDS - begin)) s)"
    for file in "$ROOT"/tests/server/*.sh; do
        name=$(basename "$file" .sh)
        case $name in lib | backend) continue ;; esac
        wanted "server/$name" || continue
        [ -x "$file" ] || { fail "server/$name: not executable"; continue; }
        log=$results/server/$name.log
        begin=$SECONDS
        dropdb --force --if-exists "coupon_$name" 2>/dev/null
        createdb -T coupon_shop "coupon_$name"
        code=0
        KILLED=$killed PGDATABASE=coupon_$name timeout -k 10 "${SERVER_TEST_SECONDS:-600}" "$file" >"$log" 2>&1 </dev/null || code=$?
        if [ $code = 0 ]; then
            pass "server/$name ($((SECONDS - begin)) s)"
            sed -n 's/^= /        /p' "$log"
            dropdb --force --if-exists "coupon_$name" 2>/dev/null
        else
            sed 's/^/  | /' "$log"
            tail -n 5 "$log" | sed 's/^/  | /' >>"$faults"
            fail "server/$name (exit code $code$([ $code != 124 ] || echo ', out of time'), $((SECONDS - begin)) s)"
        fi
    done
    dropdb --force --if-exists coupon_shop 2>/dev/null
}

for kind in regress isolation server; do
    if wanted "$kind"; then "$kind"; fi
done

# A test may pass although a backend died in it.
if grep -E 'PANIC:|was terminated by signal' "${CLUSTER_LOG:-/dev/null}" | grep -vFf "$killed"; then fail "the server crashed; its log: $CLUSTER_LOG"; fi

if [ -s "$faults" ]; then
    echo "--- again, what failed"
    cat "$faults"
fi
echo "$passed $failed" >"$results/summary"
echo "--- on the server: $passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
