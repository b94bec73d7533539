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
# This version stops at SQL-standard bodies: it is given them as the strings they would be otherwise, with the search_path
# that the script sets at its beginning, under which they are looked up once and for all.
# The click trigger and issue_coupon(text) pin theirs in C, around what SQL they run.
sed -e '/on_click() RETURNS trigger\|issue_coupon(session text) RETURNS/{n;s/SECURITY DEFINER/& SET search_path = pg_catalog, pg_temp/}' -e 's/^BEGIN ATOMIC$/SET search_path = pg_catalog, pg_temp AS $atomic$/' -e 's/^END;$/$atomic$;/' "$script" >"$venv/script.sql"

# A procedure that commits may not pin its search_path (PostgreSQL refuses it); these two name every schema instead, which
# pgspot checks all the same.
"$venv/bin/pgspot" "$venv/script.sql" \
    --proc-without-search-path 'coupon.sweep_all(batch integer)' \
    --proc-without-search-path 'coupon.tune(trials integer,since timestamptz,until timestamptz,spec jsonb,seed bigint)'
