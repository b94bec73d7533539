#!/usr/bin/env bash
# Everything that must hold, cheapest first. A failing step does not hide the next ones; the last line is the sum.
. "$(dirname "$0")/common.sh"
use_postgres

failed=0
step() {
    local name=$1 begin=$SECONDS
    shift
    say "$name"
    if "$@" </dev/null; then
        say "$name: ok ($((SECONDS - begin)) s)"
    else
        say "$name: FAILED ($((SECONDS - begin)) s)"
        failed=$((failed + 1))
        return 1
    fi
}

summary=$TARGET/results/summary
rm -f "$summary"
step "formatting" cargo fmt --all --check || true
step "clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings || true
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --document-private-items || true
# The examples are not built: they hold no test, and clippy has checked them.
step "crates" cargo test --quiet --workspace --exclude coupon_ext --exclude coupon_stress --lib --tests || true
if step "extension" scripts/install.sh; then
    step "pgspot" scripts/pgspot.sh || true
    step "SQL" env CLUSTER_CONF='wal_level = logical' scripts/cluster.sh run test -- tests/run.sh || true
fi

# tests/run.sh counts its tests one by one; what it counted must not be counted again as a step.
passed=0
if [ -f "$summary" ]; then
    read -r passed of_sql <"$summary"
    [ "$of_sql" = 0 ] || failed=$((failed - 1 + of_sql))
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
