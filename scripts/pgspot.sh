#!/usr/bin/env bash
# Looks for what a hostile user of the same database could turn against the install script: unqualified names and operators,
# functions whose search_path is not pinned. By pgspot (PyPI), on the script that scripts/install.sh installed.
. "$(dirname "$0")/common.sh"
use_postgres

venv=$TARGET/pgspot
wanted="pgspot==0.9.4 pglast==7.21"
if [ "$(cat "$venv/wanted" 2>/dev/null)" != "$wanted" ]; then
    have python3 || die "no python3, which pgspot is written in" "install Python 3.10 or later"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "python3 -m venv failed" "Debian: apt-get install python3-venv"
    # shellcheck disable=SC2086 # two words
    "$venv/bin/pip" install --quiet --disable-pip-version-check $wanted \
        || die "pgspot could not be installed" "it needs PyPI once; later runs use target/pgspot"
    echo "$wanted" >"$venv/wanted"
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
script=$("$PG_CONFIG" --sharedir)/extension/$EXTENSION--$version.sql
[ -f "$script" ] || die "$script is not there" "run: make install"
# This version stops at SQL-standard bodies: it is given them as the strings they would be otherwise, and nothing else is changed.
sed -e 's/^BEGIN ATOMIC$/AS $atomic$/' -e 's/^END;$/$atomic$;/' "$script" >"$venv/script.sql"

# Two kinds of functions pin no search_path, and name every schema instead, which pgspot checks all the same: procedures that
# commit, where PostgreSQL refuses it; and functions with a SQL-standard body, which was looked up when it was made, and which
# PostgreSQL puts into its caller's expression only without one (15 to 60 µs a call otherwise).
unpinned=(
    'coupon.maintain_all(batch integer)'
    'coupon.tune(trials integer,since timestamptz,until timestamptz,spec jsonb,seed bigint)'
    'coupon_internal.name_presenter(session text,customer text)'
    'coupon_internal.get_minor_units(currency text)'
    'coupon_internal.get_budget_date(time_zone text)'
    'coupon_internal.compute_worst_case(discount numeric,unit text,max_discount numeric)'
    'coupon_internal.hash_code(code text)'
    'coupon_internal.compute_discount(order_amount numeric,discount numeric,unit text,max_discount numeric,currency text)'
    'coupon_internal.compute_pacing_factor(spent numeric,granted numeric,share_of_day float8)'
)
"$venv/bin/pgspot" "$venv/script.sql" "${unpinned[@]/#/--proc-without-search-path=}"
