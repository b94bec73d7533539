#!/usr/bin/env bash
# Runs the tests that need a server, on the one that PGHOST and PGPORT name:
# scripts/cluster.sh run test -- tests/run.sh
#
#   run.sh                               all
#   run.sh regress/issue server/once     some: regress, isolation, server, KIND/NAME
#   SEED=n run.sh regress                the SQL tests in that order (otherwise in a new one, which is printed)
#
# Every test has a database of its own and needs no other test; JOBS of them run side by side (as many as processors,
# two at most, because tests at times measure). A server test with a line "# alone" restarts or kills the server,
# changes what is the whole server's, or measures: nothing runs beside it. Results, logs and differences lie under
# target/results; differences and the output of failed tests are shown.
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


# A test that nothing is compared with passes whatever happens: here it fails.
# $1 kind, $2 folder of inputs, $3 their ending
guard() {
    local kind=$1 inputs=$ROOT/tests/$1/$2 ending=$3 file name
    for file in "$inputs"/*."$ending"; do
        [ -e "$file" ] || { fail "$kind: no tests in ${inputs#"$ROOT"/}"; return; }
        name=$(basename "$file" ".$ending")
        [ -s "$inputs/../expected/$name.out" ] \
            || fail "$kind/$name: no expected output (tests/$kind/expected/$name.out)"
    done
    for file in "$inputs"/../expected/*.out; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .out)
        [ -e "$inputs/$name.$ending" ] || fail "$kind/$name: an expected output without a test"
    done
}

# The wanted names of $1 in tests/$1/$2 with the ending $3, a line each.
names() {
    local file name
    for file in "$ROOT/tests/$1/$2"/*."$3"; do
        name=$(basename "$file" ".$3")
        if [ -e "$file" ] && wanted "$1/$name"; then echo "$name"; fi
    done
}

# side_by_side COMMAND NAME…: COMMAND NAME for each, JOBS at a time. COMMAND runs in a shell of its own: it prints what
# is to be seen, and its status is the verdict. Sets verdicts[NAME].
jobs=${JOBS:-$(n=$(nproc); echo $((n < 2 ? n : 2)))}
declare -A verdicts
side_by_side() {
    local command=$1 pid name code running=0
    local -A names_of
    shift
    for name in "$@"; do
        "$command" "$name" &
        names_of[$!]=$name
        running=$((running + 1))
        while [ "$running" -ge "$jobs" ]; do collect; done
    done
    while [ "$running" -gt 0 ]; do collect; done
}
collect() {
    code=0
    wait -n -p pid "${!names_of[@]}" || code=$?
    verdicts[${names_of[$pid]}]=$code
    unset "names_of[$pid]"
    running=$((running - 1))
}
# Milliseconds since the moment $1 of EPOCHREALTIME.
since() { echo $((${EPOCHREALTIME/[.,]/} / 1000 - ${1/[.,]/} / 1000)); }

# A database made once, which the tests that name it copy: tests/regress/setup/NAME.sql, in a copy of what that needs
# itself.
needs() { sed -n '1,/^[^-]/s/^-- needs: *\([a-z_]*\)$/\1/p' "$1"; }
declare -A made
template() {
    local file=$ROOT/tests/regress/setup/$1.sql before begun
    [ -z "${made[$1]:-}" ] || return "${made[$1]}"
    made[$1]=1
    [ -r "$file" ] || { fail "regress: no tests/regress/setup/$1.sql"; return 1; }
    before=$(needs "$file")
    if [ -n "$before" ]; then template "$before" || return; fi
    begun=$EPOCHREALTIME
    dropdb --force --if-exists "coupon_made_$1" 2>/dev/null
    createdb -T "${before:+coupon_made_}${before:-template0}" "coupon_made_$1"
    if ! psql -X -v ON_ERROR_STOP=1 -d "coupon_made_$1" -f "$file" >"$results/regress/$1.log" 2>&1 </dev/null; then
        tail -n 40 "$results/regress/$1.log"
        fail "regress: tests/regress/setup/$1.sql"
        return 1
    fi
    printf '        made %-26s %8d ms\n' "$1" "$(since "$begun")"
    made[$1]=0
}

# One file by pg_regress, in a copy of the database that its first lines name.
regress_one() {
    local name=$1 begun=$EPOCHREALTIME code=0 out=$results/regress/$1
    mkdir -p "$out"
    createdb -T "coupon_made_$(needs "$ROOT/tests/regress/sql/$name.sql")" "coupon_regress_$name" || return
    env -u PGDATABASE -u PGOPTIONS "$(pg_test_dir)/regress/pg_regress" --inputdir="$ROOT/tests/regress" --outputdir="$out" \
        --bindir="$("$PG_CONFIG" --bindir)" --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" \
        --use-existing --dbname="coupon_regress_$name" "$name" >"$out/log" 2>&1 </dev/null || code=$?
    dropdb --force "coupon_regress_$name" || code=1
    if [ $code = 0 ] && grep -qE '^test .*\.\.\. ok' "$out/log"; then
        printf 'ok      regress/%-20s %8d ms\n' "$name" "$(since "$begun")"
    else
        printf 'failed  regress/%s\n' "$name"
        return 1
    fi
}

regress() {
    local all name need out
    echo "--- regress: the SQL surface"
    rm -rf "$results/regress"
    mkdir -p "$results/regress"
    guard regress sql sql
    SEED=${SEED:-$RANDOM}
    mapfile -t all < <(names regress sql sql | while read -r name; do
        echo "$(echo "$SEED $name" | md5sum) $name"
    done | sort | awk '{print $NF}')
    echo "        in the order of SEED=$SEED: ${all[*]}"
    for name in "${all[@]}"; do
        need=$(needs "$ROOT/tests/regress/sql/$name.sql")
        if [ -z "$need" ]; then
            fail "regress/$name: says no database that it needs (a line \"-- needs: NAME\" on top)"
            return
        fi
        template "$need" || return
    done
    verdicts=()
    side_by_side regress_one "${all[@]}"
    for name in "${all[@]}"; do
        out=$results/regress/$name
        if [ "${verdicts[$name]}" = 0 ]; then
            passed=$((passed + 1))
        else
            fail "regress/$name"
            if [ -s "$out/regression.diffs" ]; then
                head -n 300 "$out/regression.diffs"
                head -n 30 "$out/regression.diffs" >>"$faults"
            else
                cat "$out/log" || true
            fi
        fi
    done
    for name in "${!made[@]}"; do dropdb --force --if-exists "coupon_made_$name"; done
}

# Two sessions at once, in one database: a specification makes and removes what it needs.
isolation() {
    local all code=0 ok bad out=$results/isolation
    echo "--- isolation: two sessions at once"
    guard isolation specs spec
    mapfile -t all < <(names isolation specs spec)
    rm -rf "$out"
    mkdir -p "$out"
    # psql must not meet our database's name or options.
    env -u PGDATABASE -u PGOPTIONS "$(pg_test_dir)/isolation/pg_isolation_regress" --inputdir="$ROOT/tests/isolation" \
        --outputdir="$out" --bindir="$("$PG_CONFIG" --bindir)" --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" \
        --dbname=coupon_isolation --encoding=UTF8 --load-extension="$EXTENSION" "${all[@]}" >"$out/log" 2>&1 </dev/null \
            || code=$?
    sed -n 's/^test \(.*\) \.\.\. ok *\([0-9]* ms\)$/ok      isolation\/\1 \2/p' "$out/log"
    ok=$(grep -cE '\.\.\. ok' "$out/log" || true)
    bad=$(grep -cE '\.\.\. (FAILED|failed)' "$out/log" || true)
    passed=$((passed + ok))
    for name in $(sed -nE 's/^test ([a-z_0-9]+) .*\.\.\. (FAILED|failed).*/\1/p' "$out/log"); do
        fail "isolation/$name"
    done
    if [ "$bad" = 0 ] && { [ "$code" != 0 ] || [ "$ok" != "${#all[@]}" ]; }; then
        tail -n 20 "$out/log"
        fail "isolation: pg_isolation_regress ended with $code after $ok of ${#all[@]} tests"
    fi
    if [ -s "$out/regression.diffs" ]; then
        head -n 300 "$out/regression.diffs"
        head -n 30 "$out/regression.diffs" >>"$faults"
    fi
}

# Every executable tests/server/NAME.sh runs with a database of its own, a copy of the shop of tests/server/shop.sql.
server_one() {
    local name=$1 file=$ROOT/tests/server/$1.sh log=$results/server/$1.log code=0 begun=$SECONDS figures
    dropdb --force --if-exists "coupon_$name" 2>/dev/null
    createdb -T coupon_shop "coupon_$name"
    KILLED=$killed PGDATABASE=coupon_$name timeout -k 10 "${SERVER_TEST_SECONDS:-600}" "$file" >"$log" 2>&1 </dev/null \
        || code=$?
    begun=$((SECONDS - begun))
    if [ $code = 0 ]; then
        # One write: another test may say something at the same time.
        figures=$(sed -n 's/^= /        /p' "$log")
        printf '%s\n' "ok      server/$name ($begun s)${figures:+$'\n'$figures}"
        dropdb --force --if-exists "coupon_$name" 2>/dev/null
        return 0
    fi
    printf '%s, %s s' "exit code $code$([ $code != 124 ] || echo ', out of time')" "$begun" >"$results/server/$name.end"
    return 1
}

server() {
    local alone=() beside=() all name shop=$results/server/shop.log begun=$SECONDS
    echo "--- server: real servers, real clients"
    rm -rf "$results/server"
    mkdir -p "$results/server"
    cargo build --quiet -p coupon_stress </dev/null || { fail "server: tests/stress does not build"; return; }
    dropdb --if-exists coupon_shop 2>/dev/null
    createdb coupon_shop
    begun=$SECONDS
    if ! psql -X -v ON_ERROR_STOP=1 -d coupon_shop -f "$ROOT/tests/server/shop.sql" >"$shop" 2>&1 </dev/null; then
        tail -n 40 "$shop"
        fail "server: tests/server/shop.sql made no shop"
        return
    fi
    echo "        shop.sql ($((SECONDS - begun)) s)"
    mapfile -t all < <(names server . sh | grep -vxE 'lib|backend')
    for name in "${all[@]}"; do
        [ -x "$ROOT/tests/server/$name.sh" ] || { fail "server/$name: not executable"; continue; }
        if grep -q '^# alone' "$ROOT/tests/server/$name.sh"; then alone+=("$name"); else beside+=("$name"); fi
    done
    verdicts=()
    side_by_side server_one "${beside[@]}"
    jobs=1 side_by_side server_one "${alone[@]}"
    for name in "${!verdicts[@]}"; do
        if [ "${verdicts[$name]}" = 0 ]; then
            passed=$((passed + 1))
        else
            sed 's/^/  | /' "$results/server/$name.log"
            tail -n 5 "$results/server/$name.log" | sed 's/^/  | /' >>"$faults"
            fail "server/$name ($(cat "$results/server/$name.end" 2>/dev/null || echo "not begun"))"
        fi
    done
    dropdb --force --if-exists coupon_shop 2>/dev/null
}

for kind in regress isolation server; do
    if wanted "$kind"; then "$kind"; fi
done

# A test may pass although a backend died in it.
if grep -E 'PANIC:|was terminated by signal' "${CLUSTER_LOG:-/dev/null}" \
    | grep -vFf "$killed"; then fail "the server crashed; its log: $CLUSTER_LOG"; fi

if [ -s "$faults" ]; then
    echo "--- again, what failed"
    cat "$faults"
fi
echo "$passed $failed" >"$results/summary"
echo "--- on the server: $passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
