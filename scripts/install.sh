#!/usr/bin/env bash
# Builds the extension (release) and installs it into PostgreSQL 15's folders; seconds when nothing changed.
. "$(dirname "$0")/common.sh"
use_postgres

# PostgreSQL 15 looks for extensions in its own folders only, and those belong to root.
sudo=()
if [ ! -w "$("$PG_CONFIG" --pkglibdir)" ]; then
    have sudo || die "$("$PG_CONFIG" --pkglibdir) is not writable" "run as root, or install sudo"
    sudo=(--sudo)
fi
say "building $EXTENSION and installing it into $("$PG_CONFIG" --pkglibdir)"
cargo pgrx install --release --pg-config "$PG_CONFIG" "${sudo[@]}" </dev/null
