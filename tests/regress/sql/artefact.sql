-- artefact: a version as bytes. What is imported is what was exported, to the bit; what is not whole is refused and
-- leaves nothing.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

CREATE TABLE counted AS SELECT count(*) AS versions FROM coupon.version;
CREATE TABLE artefact AS SELECT version, coupon.export_model(version) AS bytes FROM coupon.deployment
    ORDER BY id DESC LIMIT 1;
SELECT bytes = coupon.export_model(version) AS the_same_again, length(bytes) BETWEEN 10000 AND 10000000 AS sane,
    position('"__metadata__"'::bytea IN bytes) = 10 AS safetensors FROM artefact;
-- Every stored version can be exported.
SELECT count(*) > 0 AS versions, bool_and(length(coupon.export_model(version)) > 10000) AS exported FROM coupon.version;

-- A version that is here is not stored again: the first of that digest is it.
SELECT coupon.import_model(bytes) = (SELECT min(v.version) FROM coupon.version v JOIN coupon.version o USING (digest)
    WHERE o.version = a.version) AS the_first_of_its_digest FROM artefact a;

-- Elsewhere it is new: rows equal, nothing activated, every prediction the same.
CREATE VIEW said AS
    SELECT 'churn ' || segment || ' ' || n AS about,
        churn_probability(segment, (SELECT array_agg((timestamptz '2026-02-02' + i * interval '13 s', 'view',
        'product', 'dresses', NULL, 20 * i, NULL)::coupon.page_view) FROM generate_series(1, n) i)) AS value
    FROM generate_series(0, 3) segment, generate_series(1, 30) n
    UNION ALL SELECT 'rank ' || c.customer || ' ' || r.category,
        r.score FROM (SELECT customer FROM coupon.customer ORDER BY customer LIMIT 50) c,
        rank_categories(c.customer, NULL, 1000) r
    UNION ALL SELECT 'segment ' || customer, assign_segment(customer) FROM coupon.customer;
BEGIN;
CREATE TEMP TABLE before AS SELECT * FROM said;
CREATE TEMP TABLE was AS SELECT since, until, seed, threads, build, digest FROM coupon.version
    JOIN artefact USING (version);
CREATE TEMP TABLE rows AS SELECT stage, segment, spec, card, weights, m.digest FROM coupon.model m
    JOIN artefact USING (version);
-- As if it had never been here: no version has its digest.
SELECT count(*) AS deployments INTO TEMP deployments FROM coupon.deployment;
SET LOCAL session_replication_role = replica;
UPDATE coupon.version SET digest = 'another' || version;
SET LOCAL session_replication_role = origin;
CREATE TEMP TABLE imported AS SELECT coupon.import_model(bytes) AS version, bytes FROM artefact;
SELECT i.version > max(v.version) FILTER (WHERE v.version <> i.version) AS a_new_one FROM imported i, coupon.version v
    GROUP BY i.version;
SELECT (SELECT count(*) FROM coupon.deployment) = deployments AS not_activated FROM deployments;
SELECT count(*) AS differ FROM (SELECT since, until, seed, threads, build, digest FROM coupon.version
    JOIN imported USING (version) EXCEPT TABLE was) d;
SELECT (SELECT count(*) FROM rows) AS rows, count(*) AS differ
    FROM (TABLE rows EXCEPT SELECT stage, segment, spec, card, weights, m.digest FROM coupon.model m
    JOIN imported USING (version)) d;
SELECT coupon.export_model(version) = bytes AS exported_again_the_same FROM imported;
SELECT coupon.import_model(bytes) = version AS not_stored_twice FROM imported;
SELECT coupon.activate(version) FROM imported;
SELECT count(*) > 200 AS hundreds, count(*) FILTER (WHERE s.value IS DISTINCT FROM b.value) AS differ,
    max(abs(s.value - b.value)) AS largest_difference FROM before b FULL JOIN said s USING (about);
SELECT coupon.refresh_segments('2026-02-01') AS customers;
SELECT count(*) FILTER (WHERE s.value IS DISTINCT FROM b.value) AS differ FROM before b FULL JOIN said s USING (about);
ROLLBACK;

-- Names that people gave to segments stay behind: they may change, an artefact may not.
BEGIN;
SELECT coupon.name_segment(1, 'stays here', version) FROM artefact;
SELECT coupon.export_model(version) = bytes AS the_same FROM artefact;
ROLLBACK;

-- What is refused, and why.
CREATE FUNCTION import(bytes bytea) RETURNS SETOF text
    LANGUAGE sql AS $$ SELECT refused(format('SELECT coupon.import_model(%L)', bytes)) $$;
SELECT import('hello');
SELECT import('');
SELECT import(substr(bytes, 1, length(bytes) - 1)) FROM artefact;
SELECT import(bytes || '\x00') FROM artefact;
SELECT import(set_byte(bytes, length(bytes) - 9, get_byte(bytes, length(bytes) - 9) # 1)) FROM artefact;
-- Every byte of the manifest counts, what only people read included.
SELECT import(overlay(bytes PLACING '"seed":8' FROM position('"seed":' IN bytes))) FROM (SELECT bytes FROM artefact) a
    WHERE position('"seed":0' IN bytes) > 0;
SELECT import(overlay(bytes PLACING '2' FROM position('format'::bytea IN bytes) + 9)) FROM artefact;
SELECT refused('SELECT coupon.import_model(NULL)');
SELECT refused('SELECT coupon.export_model(NULL)');
SELECT refused('SELECT coupon.export_model(1000000)');
-- Stored rows that are no more what they were do not leave.
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE coupon.model m SET weights = set_byte(weights, length(weights) - 5, 1) FROM artefact a
    WHERE m.version = a.version AND stage = 'rank';
SET LOCAL session_replication_role = origin;
SELECT refused(format('SELECT coupon.export_model(%s)',
    version)) ~ '^(XX001 corrupt model: version \d+ is not what its digest says|hint:)' AS refused FROM artefact;
-- ... and are not taken for the version that comes.
SELECT coupon.import_model(bytes) <> version AS stored_beside FROM artefact;
ROLLBACK;
SELECT count(*) - (SELECT versions FROM counted) AS stored FROM coupon.version;

DROP TABLE counted;
DROP VIEW said;
DROP TABLE artefact;
DROP FUNCTION import(bytea);

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
