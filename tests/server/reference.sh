#!/usr/bin/env bash
# Proves: docs/reference.md is the page that scripts/reference.sh prints of this installation, and every function, type,
# view, table, column, setting and specification key has a description.
. "$(dirname "$0")/lib.sh"
root=$here/../..
reference() { "$root/scripts/reference.sh" "$@" || { echo "(reference.sh failed)"; return 1; }; }

expect "nothing is without a description" "" "$(reference missing)"
reference >"$work/reference.md"
if ! diff -u "$root/docs/reference.md" "$work/reference.md"; then give_up "docs/reference.md is another page: make reference"; fi
echo "ok: docs/reference.md is what the catalogue and the specifications say"
expect "prose ends at column 100" "" "$(LC_ALL=C.UTF-8 awk '!/^\|/ && length($0) > 100' "$work/reference.md")"

note "what has no description is named"
q "COMMENT ON FUNCTION coupon.clock() IS NULL; COMMENT ON COLUMN coupon.budget.spent IS NULL"
expect "a function and a column of a view" "coupon.budget.spent coupon.clock()" "$(reference missing | tr '\n' ' ' | sed 's/ $//')"
mkdir "$work/models"
cp "$root"/models/*.json "$work/models"
sed -i '0,/{/s//{ "new_key": 1,/' "$work/models/rank.json"
expect "a key" "key new_key of models/rank.json" "$(MODELS=$work/models reference missing | grep new_key)"
