#!/usr/bin/env bash
# Proves: a mark says that a session missed a click, and no more of them than needed; whatever cannot be rebuilt keeps
# nobody waiting; a session whose log was shortened stays as it is and is never scored again; marks and faults are found
# by coupon.forget, and no text of either holds a value of a row.
. "$(dirname "$0")/lib.sh"
marks() { q "SELECT count(*) FROM coupon.missed_click WHERE session LIKE '$1%'"; }
sweep() { q "SELECT rebuilt FROM coupon.maintain($1)"; }

note "as few as needed"
play few- 1 3
q "INSERT INTO coupon.missed_click (session, reason) VALUES ('few-1', 'test')"
play few- 1 50
expect "fifty clicks of a marked session add none" 1 "$(marks few-)"
expect "it stays as it was" 3 "$(views few-)"
sweep 100 >/dev/null
expect "until it is rebuilt" "53 0" "$(views few-) $(marks few-)"

note "who cannot be rebuilt keeps nobody waiting"
play zz- 1 4
q "INSERT INTO coupon.missed_click (session, reason) SELECT 'AAA' || i, 'gone' FROM generate_series(1, 5) i; INSERT INTO coupon.missed_click (session, reason) VALUES ('zz-1', 'test')"
sweep 5 >/dev/null
expect "a mark of neither a row nor a log goes" 0 "$(marks AAA)"
sweep 5 >/dev/null
expect "and the next is reached" "0 4" "$(marks zz-) $(views zz-)"
# A transaction that holds many marked sessions, first in the order.
play held- 6 4
q "INSERT INTO coupon.missed_click (session, reason) SELECT 'held-' || i, 'test' FROM generate_series(1, 6) i; INSERT INTO coupon.missed_click (session, reason) VALUES ('zz-1', 'test')"
psql -XAtq -c "BEGIN; UPDATE coupon.session SET customer = customer WHERE session LIKE 'held-%'; SELECT pg_sleep(60)" >/dev/null 2>&1 &
holder=$!
until [ "$(q "SELECT count(*) FROM pg_stat_activity WHERE $ours AND query LIKE '%held-\\%%' AND wait_event = 'PgSleep'")" = 1 ]; do sleep 0.05; done
sweep 6 >/dev/null
sweep 6 >/dev/null
expect "those that are held come after the others" "6 0" "$(marks held-) $(marks zz-)"
q "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $ours AND query LIKE '%held-\\%%' AND wait_event = 'PgSleep'" >/dev/null
wait $holder || true
sweep 100 >/dev/null
expect "and are rebuilt in their turn" "0 24" "$(marks held-) $(views held-)"

note "a log that was shortened"
q "CREATE TABLE hit (session text, at timestamptz, category text) PARTITION BY RANGE (at); CREATE TABLE hit_old PARTITION OF hit FOR VALUES FROM ('2000-01-01') TO ('2026-02-01');
   CREATE TABLE hit_new PARTITION OF hit FOR VALUES FROM ('2026-02-01') TO ('2100-01-01'); SELECT coupon.watch('hit', '{\"session\": \"session\", \"at\": \"at\", \"category\": \"category\"}')" >/dev/null
q "INSERT INTO hit SELECT s, timestamptz '2026-01-31 23:58:00+00' + i * interval '30 seconds', 'c1' FROM generate_series(1, 8) i, unnest('{part-1,part-2,part-3}'::text[]) s"
expect "sessions over midnight" 24 "$(views part-)"
expect_true "are scored" "SELECT churn_probability('part-1') IS NOT NULL"
q "UPDATE coupon.session SET state = NULL WHERE session = 'part-3'; INSERT INTO coupon.missed_click (session, reason) VALUES ('part-1', 'test'); ALTER TABLE hit DETACH PARTITION hit_old"
sweep 100 >/dev/null
expect "what was counted stays" "8 8 8" "$(q "SELECT string_agg(views::text, ' ' ORDER BY session) FROM coupon.session WHERE session LIKE 'part-%'")"
expect "it is marked so, and says why" "f|the log no longer holds its beginning" \
    "$(q "SELECT rebuildable, reason FROM coupon.missed_click WHERE session = 'part-1'")"
expect_true "it is never scored" "SELECT churn_probability('part-1') IS NULL"
expect_true "nor is anything issued" "SELECT issue_coupon('part-1') IS NULL"
expect "coupon.explain_decision says why" "f|the log no longer holds its beginning, so it cannot be rebuilt and is never scored again" "$(q "SELECT holds, detail FROM coupon.explain_decision('part-1') WHERE condition = 'no click was missed'")"
q "INSERT INTO hit VALUES ('part-1', '2026-02-01 00:10:00+00', 'c1'), ('part-3', '2026-02-01 00:10:00+00', 'c1')"
expect "a further click adds no mark" 1 "$(marks part-1)"
sweep 100 >/dev/null
expect "one whose state was freed and that comes back: the same" "f|the log no longer holds its beginning" \
    "$(q "SELECT rebuildable, reason FROM coupon.missed_click WHERE session = 'part-3'")"
expect "one that missed nothing goes on" 8 "$(views part-2)"
play next- 1 2
q "INSERT INTO coupon.missed_click (session, reason) VALUES ('next-1', 'test')"
expect "they are passed by" 1 "$(sweep 1)"
q "ALTER TABLE hit ATTACH PARTITION hit_old FOR VALUES FROM ('2000-01-01') TO ('2026-02-01'); UPDATE coupon.missed_click SET rebuildable = true"
sweep 100 >/dev/null
expect "once the log is whole again, and somebody says so" "9 0" "$(views part-1) $(marks part-)"
q "DELETE FROM hit WHERE ctid IN (SELECT ctid FROM hit WHERE session = 'part-2' AND at > '2026-02-01' LIMIT 1) AND session = 'part-2'; INSERT INTO coupon.missed_click (session, reason) VALUES ('part-2', 'test')"
sweep 100 >/dev/null
expect "rows that were deleted from its middle" "f|the log no longer holds all its clicks" \
    "$(q "SELECT rebuildable, reason FROM coupon.missed_click WHERE session = 'part-2'")"

note "while clicks go on"
cat >"$work/click.sql" <<'SQL'
\set s random(1, 12)
INSERT INTO click VALUES ('busy-' || :s, now(), 'view', 'p' || :s, 'c' || :s % 5, 20);
SQL
cat >"$work/mark.sql" <<'SQL'
\set s random(1, 12)
INSERT INTO coupon.missed_click (session, reason) VALUES ('busy-' || :s, 'test');
SELECT rebuilt FROM coupon.maintain(20);
SQL
pgbench -n -c 2 -t 150 -f "$work/mark.sql" >"$work/pgbench.marks" 2>&1 &
marker=$!
clients 6 250 "$work/click.sql"
wait $marker || { cat "$work/pgbench.marks"; give_up "marking failed"; }
tries=0
until [ "$(marks busy-)" = 0 ]; do [ $((++tries)) -lt 20 ] || give_up "marks are left"; sweep 100 >/dev/null; done
expect "every click of 1,500 is counted once" "" "$(q "SELECT s.session, s.views, c.n FROM coupon.session s JOIN (SELECT session, count(*) AS n FROM click GROUP BY 1) c USING (session) WHERE s.session LIKE 'busy-%' AND s.views <> c.n")"

note "forgetting"
q "SELECT coupon.record_click('shared-1', customer => 'anna'); SELECT coupon.record_click('alone-1')" >/dev/null
psql -XAtq -c "BEGIN; UPDATE coupon.session SET views = views WHERE session IN ('shared-1', 'alone-1'); SELECT pg_sleep(60)" >/dev/null 2>&1 &
holder=$!
until [ "$(q "SELECT count(*) FROM pg_stat_activity WHERE $ours AND query LIKE '%alone-1%' AND wait_event = 'PgSleep'")" = 1 ]; do sleep 0.05; done
q "SELECT coupon.record_click('shared-1', customer => 'carla'); SELECT coupon.record_click('alone-1', customer => 'carla')" >/dev/null 2>&1
q "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $ours AND query LIKE '%alone-1%' AND wait_event = 'PgSleep'" >/dev/null
wait $holder || true
expect "a mark knows whose click was missed" "alone-1|carla shared-1|carla" \
    "$(echo $(q "SELECT session, customer FROM coupon.missed_click WHERE customer IS NOT NULL ORDER BY 1"))"
q "DELETE FROM coupon.click WHERE customer = 'carla'; SELECT coupon.forget('carla')" >/dev/null
expect "a session that is known by its mark alone is forgotten" "0 0" "$(marks alone-) $(views alone-)"
expect "another's stays marked, without her" "1|" \
    "$(q "SELECT count(*), max(customer) FROM coupon.missed_click WHERE session = 'shared-1'")"

note "no value of a row in any text"
q "CREATE FUNCTION strict() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.customer LIKE ''Mary%'' THEN PERFORM NEW.customer::int; END IF; RETURN NEW; END';
   CREATE TRIGGER strict BEFORE INSERT OR UPDATE ON coupon.session FOR EACH ROW EXECUTE FUNCTION strict(); ALTER TABLE coupon.session ADD CHECK (customer <> 'Smith, John (VIP)')" >/dev/null
q "SELECT coupon.record_click('s 1', customer => 'Mary [x] Jones')" >/dev/null 2>"$work/said"
sleep 1.1
q "SELECT coupon.record_click('s 2', customer => 'Smith, John (VIP)')" >/dev/null 2>>"$work/said"
expect_true "both are told" "SELECT count(*) >= 2 FROM coupon.error_log WHERE sqlstate IN ('22P02', '23514')"
expect "without their names" 0 "$(q "SELECT count(*) FROM coupon.error_log WHERE concat_ws(' ', message, detail, hint) ~ 'Mary|Jones|Smith|VIP'")"
expect "in the marks' reasons neither" 0 "$(q "SELECT count(*) FROM coupon.missed_click WHERE reason ~ 'Mary|Jones|Smith|VIP'")"
expect "nor in what the client was told" "" "$(grep -E 'Mary|Jones|Smith|VIP' "$work/said" || true)"
q "DROP TRIGGER strict ON coupon.session; SELECT coupon.forget('Mary [x] Jones'), coupon.forget('Smith, John (VIP)')" >/dev/null
amcheck
