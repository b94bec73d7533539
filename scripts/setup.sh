#!/usr/bin/env bash
# Installs what is missing to build and test the extension, and says so; does nothing where nothing is missing.
. "$(dirname "$0")/common.sh"

# --- Debian packages -------------------------------------------------------------------------------------------------
packages=()
need() { case " ${packages[*]-} " in *" $1 "*) ;; *) packages+=("$1") ;; esac; }

have cc && have make || need build-essential
have pkg-config || need pkg-config
! have apt-get || [ -f /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates # cargo downloads over TLS
python3 -c 'import ensurepip' 2>/dev/null || need python3-venv # pgspot
have clang || need clang # bindgen asks it where the C headers are
[ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null \
    || compgen -G '/usr/lib*/*/libclang*.so*' >/dev/null || need libclang-dev
if [ -x "$PG_CONFIG" ] && "$PG_CONFIG" --version | grep -q '^PostgreSQL 15'; then
    [ -x "$("$PG_CONFIG" --bindir)/initdb" ] || need postgresql-15
    [ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ] && [ -x "$(pg_test_dir)/regress/pg_regress" ] \
        && [ -x "$(pg_test_dir)/isolation/pg_isolation_regress" ] || need postgresql-server-dev-15
else
    need postgresql-15
    need postgresql-server-dev-15
fi

if [ ${#packages[@]} -gt 0 ]; then
    have apt-get || die "missing: ${packages[*]}" "these are Debian's package names; this machine has no apt-get: install them its own way"
    root=()
    if [ "$(id -u)" != 0 ]; then
        have sudo || die "missing: ${packages[*]}" "installing them needs root or sudo: apt-get install ${packages[*]}"
        root=(sudo)
    fi
    say "installing Debian packages: ${packages[*]}"
    apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
    apt update || say "apt-get update failed; trying with the lists that are here"

    # Without this the package makes a default cluster and starts it on port 5432. For this installation only.
    no_cluster=/etc/postgresql-common/createcluster.d/zz_coupon_ext.conf
    if [[ " ${packages[*]} " == *" postgresql-15 "* ]]; then
        "${root[@]}" mkdir -p "${no_cluster%/*}"
        echo 'create_main_cluster = false' | "${root[@]}" tee "$no_cluster" >/dev/null
        trap '"${root[@]}" rm -f "$no_cluster"' EXIT
    fi
    log=$(mktemp)
    if ! apt install -y --no-install-recommends "${packages[@]}" >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        die "apt-get could not install: ${packages[*]}" "PostgreSQL 15 is in Debian 12 (bookworm); elsewhere add the repository apt.postgresql.org"
    fi
    rm -f "$log"
    [ -x "$PG_CONFIG" ] || PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
fi
use_postgres

# --- Rust ------------------------------------------------------------------------------------------------------------
have cargo || die "no cargo: the Rust toolchain is missing" "install it from https://rustup.rs"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rust=$(rustc --version | cut -d ' ' -f 2)
[ "$(printf '%s\n' "$wanted" "$rust" | sort -V | head -n 1)" = "$wanted" ] \
    || die "rustc $rust is too old; $wanted or later is needed" "run: rustup update stable"
for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || die "cargo $component is missing" "run: rustup component add rustfmt clippy"
done

# --- cargo-pgrx ------------------------------------------------------------------------------------------------------
if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX_VERSION" ]; then
    say "installing cargo-pgrx $PGRX_VERSION (a few minutes)"
    cargo install --quiet --locked cargo-pgrx --version "=$PGRX_VERSION"
fi
known=$(cargo pgrx info pg-config 15 2>/dev/null || true)
if [ ! -x "$known" ] || [ "$("$known" --bindir)" != "$("$PG_CONFIG" --bindir)" ]; then
    say "telling cargo-pgrx where PostgreSQL 15 is: $PG_CONFIG"
    cargo pgrx init --pg15 "$PG_CONFIG"
fi
