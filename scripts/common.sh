# shellcheck shell=bash
# Sourced by every script: where things are, how to say something, how to become the user that runs the servers.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
TARGET=$ROOT/target
EXTENSION=coupon_ext
PGRX_VERSION=0.18.1
cd "$ROOT"

say() { printf '==> %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# A shell without a login has not read cargo's profile.
have cargo || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

# Debian keeps every major version's programs in its own folder; the ones in /usr/bin are wrappers that may pick another.
if [ -z "${PG_CONFIG:-}" ]; then
    PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
    [ -x "$PG_CONFIG" ] || PG_CONFIG=$(command -v pg_config || true)
fi
# Call before using PostgreSQL's programs: puts them first in PATH.
use_postgres() {
    [ -x "$PG_CONFIG" ] || die "PostgreSQL 15 is not installed (no pg_config)" "run: make setup"
    case $("$PG_CONFIG" --version) in
        "PostgreSQL 15"*) ;;
        *) die "$PG_CONFIG belongs to $("$PG_CONFIG" --version); PostgreSQL 15 is needed" "set PG_CONFIG=/path/to/pg_config of version 15" ;;
    esac
    PATH=$("$PG_CONFIG" --bindir):$PATH
    export PG_CONFIG PATH
}
# The folder of pg_regress and isolation/pg_isolation_regress.
pg_test_dir() { echo "$(dirname "$("$PG_CONFIG" --pgxs)")/../test"; }

# PostgreSQL refuses to run as root. Servers run as user postgres then, from a folder that this user can enter.
if [ "$(id -u)" = 0 ]; then
    SERVER_USER=postgres
    as_server() (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/ "$@")
else
    SERVER_USER=$(id -un)
    as_server() (cd / && exec "$@")
fi

# Dependencies are compiled once for `cargo build` and `cargo pgrx install` only if both use the same linker flags.
# The flag that cargo-pgrx would add keeps a section that this platform's linker keeps anyway; `make package` has it.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1
# Backtraces of caught panics would fill the server's log and slow the tests.
unset RUST_BACKTRACE
