#!/usr/bin/env bash
# Proves: CREATE EXTENSION refuses a database that is not UTF-8 with a sentence that says what to do, and leaves nothing
# there; a shop in UTF-8 takes clicks with all it can hold, whatever encoding the client speaks.
. "$(dirname "$0")/lib.sh"
other=${PGDATABASE}_other
trap 'PGDATABASE=postgres; dropdb --if-exists --force "$other" 2>/dev/null; rm -rf "$work"' EXIT

for encoding in LATIN1 SQL_ASCII; do
    dropdb --if-exists --force "$other" 2>/dev/null
    createdb --encoding="$encoding" --locale=C --template=template0 "$other"
    said=$(PGDATABASE=$other psql -XAtq -c "CREATE EXTENSION coupon_ext" 2>&1 || true)
    case $said in
        *"coupon_ext needs a database with encoding UTF8; this one has $encoding"*HINT:*"ENCODING 'UTF8'"*) echo "ok: $encoding is refused, with a hint" ;;
        *) give_up "$encoding: $said" ;;
    esac
    PGDATABASE=$other expect_error "$encoding: by its SQLSTATE" 0A000 "CREATE EXTENSION coupon_ext"
    PGDATABASE=$other expect "nothing is left" "0 0" "$(PGDATABASE=$other q "SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'coupon_ext'), (SELECT count(*) FROM pg_namespace WHERE nspname = 'coupon')" | tr '|' ' ')"
done

note "a client of another encoding"
PGCLIENTENCODING=LATIN1 psql -XAtq -v ON_ERROR_STOP=1 -c "$(printf "INSERT INTO click VALUES ('latin-1', now(), 'view', 'schuh-f\xfcr', 'stra\xdfe', 20)")"
expect "its click is counted" 1 "$(views latin-1)"
expect "and read as it was meant" "schuh-für" "$(q "SELECT page FROM coupon.session_events('latin-1')")"
expect "no fault" 0 "$(faults)"
