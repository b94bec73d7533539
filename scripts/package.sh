#!/usr/bin/env bash
# Builds a release and packs it: target/coupon_ext-VERSION-pg15-ARCH.tar.gz, to be unpacked at / by root.
. "$(dirname "$0")/common.sh"
use_postgres

# A release keeps cargo-pgrx's own linker flags, hence its own folder: the development build stays as it is.
unset CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND
out=$TARGET/package
version=$(sed -n '0,/^version = "\(.*\)"/s//\1/p' Cargo.toml)
say "building $EXTENSION $version"
rm -rf "$out/root"
CARGO_TARGET_DIR=$out/build cargo pgrx package --pg-config "$PG_CONFIG" --out-dir "$out/root" </dev/null

doc=$out/root/usr/share/doc/$EXTENSION
mkdir -p "$doc"
cp -r docs "$doc/"
for file in LICENSE README.md CHANGELOG.md; do [ ! -f "$file" ] || cp "$file" "$doc/"; done
tar=$TARGET/$EXTENSION-$version-pg15-$(uname -m).tar.gz
# Files only: unpacking must not touch the folders that are there.
(cd "$out/root" && find usr -type f | sort) | tar -C "$out/root" --owner=root --group=root -czf "$tar" -T -
say "packed:"
tar -tzf "$tar" >&2
say "install with: tar -C / -xzf ${tar#"$ROOT"/}   then, in a database: CREATE EXTENSION $EXTENSION;"
