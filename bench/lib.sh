# shellcheck shell=bash
# Sourced by the measurements: scripts/common.sh, and how figures are asked for and summed up.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

q() { psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
median() { sort -g | awk '{v[NR] = $1} END {if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
calc() { awk "BEGIN {printf \"%.${2:-2}f\", $1}"; }
# Microseconds a statement of bench/click.sql on a table, as its clients see it.
insert() { # table, clients, seconds, a folder
    sed "s/:table/$1/" "$ROOT/bench/click.sql" >"$4/click.sql"
    pgbench -n -M prepared -c "$2" -j "$(($2 < 2 ? $2 : 2))" -T "$3" -f "$4/click.sql" 2>"$4/err" \
        | awk -v clients="$2" '/^tps = / {print 1e6 * clients / $3; n = 1} END {exit !n}' || { cat "$4/err" >&2; return 1; }
}
