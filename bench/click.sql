-- pgbench: one click of one of 10,000 sessions. bench/run.sh puts the watched or the plain table's name for :table.
\set s random(1, 10000)
INSERT INTO :table (session, at, kind, page, category, price) VALUES ('s' || :s, now(), 'view', 'p' || :s % 50, 'c' || :s % 5, 19.90);
