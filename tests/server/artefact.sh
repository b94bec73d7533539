#!/usr/bin/env bash
# Proves: a version trained in one database serves in another that never saw its log: exported and imported as a file by
# plain clients, it says the same to the bit, knows no customer until they are refreshed, and is exported again as it
# came.
. "$(dirname "$0")/lib.sh"
here_db=$PGDATABASE
other=${here_db}_other
trap 'dropdb --if-exists --force "$other" 2>/dev/null; rm -rf "$work"' EXIT
there() { PGDATABASE=$other "$@"; }

version=$(q "SELECT version FROM coupon.deployment ORDER BY id DESC LIMIT 1")
says="SELECT n, s, churn_probability(s, (SELECT array_agg((timestamptz '2026-02-02' + i * interval '17 s', 'view', 'p' || i % 7, 'c' || i % 5, NULL, 20, NULL)::coupon.page_view)
    FROM generate_series(1, n) i)) FROM generate_series(1, 40) n, generate_series(0, 3) s ORDER BY 1, 2"
ranks="SELECT * FROM rank_categories(NULL, NULL, 1000)"

note "by file"
q "SELECT encode(coupon.export_model($version), 'base64')" | base64 -d >"$work/model"
[ "$(wc -c <"$work/model")" -gt 10000 ] || give_up "no file"
dropdb --if-exists --force "$other" 2>/dev/null
createdb "$other"
there q "CREATE EXTENSION coupon_ext" >/dev/null
# A client's file, which the server need not read.
import() {
    psql -XAtq -v ON_ERROR_STOP=1 -v VERBOSITY=sqlstate <<SQL
\\set model \`base64 -w0 $1\`
SELECT coupon.import_model(decode(:'model', 'base64'));
SQL
}
new=$(there import "$work/model")
expect "it does not serve yet" 0 "$(there q "SELECT count(*) FROM coupon.deployment")"
expect "imported again it is the same version" "$new" "$(there import "$work/model")"
expect "exported there it is the same file" "$(sha256sum <"$work/model" | cut -c1-64)" \
    "$(there q "SELECT encode(sha256(coupon.export_model($new)), 'hex')")"

note "what it says"
there q "SELECT coupon.activate($new)" >/dev/null
expect "160 probabilities, to the bit" "$(q "$says" | sha256sum)" "$(there q "$says" | sha256sum)"
expect "the ranking of a stranger, to the bit" "$(q "$ranks" | sha256sum)" "$(there q "$ranks" | sha256sum)"
expect_true "they are more than one" "SELECT count(DISTINCT p) > 20 FROM ($says) s (n, s, p)"

note "a shop whose customers it does not know"
there q "CREATE TABLE click (session text, customer text, at timestamptz, kind text, page text, category text, price numeric);
    SELECT coupon.watch('click', '{\"session\": \"session\", \"customer\": \"customer\", \"at\": \"at\", \"kind\": \"kind\", \"page\": \"page\", \"category\": \"category\", \"price\": \"price\"}');
    SELECT coupon.go_live('default')" >/dev/null
there q "INSERT INTO click SELECT 'old-' || i, 'customer-' || i, now() - interval '2 days', 'view', 'p1', 'c1', 20 FROM generate_series(1, 50) i" >/dev/null
for view in 1 2 3 4 5 6; do
    there q "INSERT INTO click SELECT 'a-' || i, 'customer-' || i, now(), 'view', 'p' || $view, 'c' || i % 5, 20 FROM generate_series(1, 50) i"
done
expect "they are in no segment" "0 50" "$(there q "SELECT max(segment) || ' ' || count(*) FROM coupon.session WHERE session LIKE 'a-%'")"
expect "and are scored" "50" "$(there q "SELECT count(*) FROM coupon.session WHERE session LIKE 'a-%' AND churn > 0 AND churn < 1 AND version = $new")"
expect "refreshed, everybody has a segment" "50 50" \
    "$(there q "SELECT coupon.refresh_segments() || ' ' || (SELECT count(*) FROM generate_series(1, 50) i WHERE assign_segment('customer-' || i) > 0)" | tail -n 1)"
there q "INSERT INTO click VALUES ('b-1', 'customer-1', now(), 'view', 'p1', 'c1', 20)"
expect "and a session begins with it" t "$(there q "SELECT segment = assign_segment('customer-1') AND segment > 0 FROM coupon.session WHERE session = 'b-1'")"
expect "without a fault" 0 "$(there faults)"

note "what does not arrive whole"
count=$(there q "SELECT count(*) || ' ' || (SELECT count(*) FROM coupon.model) FROM coupon.version")
head -c 20000 "$work/model" >"$work/part"
expect "a part is refused" "ERROR:  22023" "$(there import "$work/part" 2>&1 | grep -o 'ERROR: .*' || true)"
{ head -c 20000 "$work/model"; printf '\377\377\377\377'; tail -c +20005 "$work/model"; } >"$work/changed"
expect "a changed file is refused" "ERROR:  XX001" "$(there import "$work/changed" 2>&1 | grep -o 'ERROR: .*' || true)"
expect "nothing was stored" "$count" "$(there q "SELECT count(*) || ' ' || (SELECT count(*) FROM coupon.model) FROM coupon.version")"

note "two at once"
dropdb --if-exists --force "${other}2" 2>/dev/null
createdb "${other}2" -T template0
trap 'dropdb --if-exists --force "$other" 2>/dev/null; dropdb --if-exists --force "${other}2" 2>/dev/null; rm -rf "$work"' EXIT
other=${other}2
there q "CREATE EXTENSION coupon_ext; SELECT coupon.create_storage()" >/dev/null
there import "$work/model" >"$work/first" &
first=$!
there import "$work/model" >"$work/second"
wait $first
expect "both name one version" "$(cat "$work/first")" "$(cat "$work/second")"
expect "which is stored once" 1 "$(there q "SELECT count(*) FROM coupon.version")"
