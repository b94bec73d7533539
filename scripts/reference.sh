#!/usr/bin/env bash
# Prints docs/reference.md from a database with the extension and its storage (PGHOST, PGDATABASE … name it), from
# models/*.json, and from scripts/reference.tsv, which holds the meaning of each key.
#
#   reference.sh            the page
#   reference.sh missing    only the names that have no description: nothing where all is well
#
# MODELS names another folder of specifications.
. "$(dirname "$0")/common.sh"
use_postgres

models=${MODELS:-models}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in "$models"/*.json; do
    # One line a file: stage, and its JSON without line breaks.
    printf '%s\t%s\n' "$(basename "$file" .json)" "$(tr -d '\n\r\t' <"$file" | sed 's/\\/\\\\/g')"
done >"$work/specifications.tsv"
cp scripts/reference.tsv "$work/meanings.tsv"
# psql substitutes no variables in \copy: it reads the files from its own folder.
sql=$PWD/scripts/reference.sql
cd "$work"
psql -XAtq -v ON_ERROR_STOP=1 -v what="${1:-page}" -f "$sql" >page
# Prose ends at column 100, and so do lists of arguments. Tables do not break.
sed 's/[ \t]*$//' page | LC_ALL=C.UTF-8 awk '
    /^```/ { code = !code; print; next }
    /^[|#]/ || length($0) <= 100 { print; next }
    { line = ""; space = code ? ", " : " "
      n = split($0, words, space)
      for (i = 1; i <= n; i++) {
          word = words[i] (i < n && code ? "," : "")
          if (line == "") line = word
          else if (length(line) + 1 + length(word) <= 100) line = line " " word
          else { print line; line = (code ? "        " : "") word }
      }
      print line }'
