-- versions: what was trained stays while anything needs it, and goes away when nothing does.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
BEGIN;
-- Four that are the same but for their numbers: the first two have served long ago, then came a third and the fourth,
-- which serves.
CREATE TABLE made (n int, version bigint);
DO $$
DECLARE
    source bigint := (SELECT version FROM coupon.deployment ORDER BY id DESC LIMIT 1);
    made bigint;
BEGIN
    FOR n IN 1 .. 4 LOOP
        INSERT INTO coupon.version (digest, since, until, seed, threads, build) SELECT digest, since, until, seed,
            threads, build FROM coupon.version WHERE version = source RETURNING version INTO made;
        INSERT INTO coupon.model SELECT made, stage, segment, spec, card, weights, digest FROM coupon.model
            WHERE version = source;
        INSERT INTO made VALUES (n, made);
        PERFORM coupon.activate(made);
    END LOOP;
END
$$;
CREATE FUNCTION of(n int) RETURNS bigint LANGUAGE sql AS 'SELECT version FROM made m WHERE m.n = $1';
-- A refusal, with the numbers of this run left out.
CREATE FUNCTION refusal(statement text) RETURNS SETOF text
    LANGUAGE sql AS $$ SELECT regexp_replace(r, '(?<= version )\d+', 'N')
    FROM refused(statement) WITH ORDINALITY u(r, i) ORDER BY i $$;

-- By hand, nothing of a model or a version is changed or deleted, not by the owner either.
SELECT refusal('DELETE FROM coupon.model WHERE version = ' || of(1));
SELECT refusal('UPDATE coupon.model SET card = ''{}'' WHERE version = ' || of(1));
SELECT refusal('TRUNCATE coupon.model');
SELECT refusal('DELETE FROM coupon.version WHERE version = ' || of(1));
SELECT refusal('UPDATE coupon.version SET digest = ''x'' WHERE version = ' || of(1));
SELECT refusal('TRUNCATE coupon.version CASCADE');
-- A model is of a version that there is; so is a deployment.
SELECT refusal('INSERT INTO coupon.model SELECT 999999, stage, segment, spec, card, weights, digest FROM coupon.model WHERE version = ' || of(1));
SELECT refusal('INSERT INTO coupon.deployment (version, reason) VALUES (999999, ''test'')');

-- What serves stays, and what a roll-back would put back, and what a session of the last day runs with: with or without
-- the function.
SELECT refusal(format('SELECT coupon.drop_version(%s)', of(4)));
SELECT refusal(format('SELECT coupon.drop_version(%s)', of(3)));
INSERT INTO coupon.session (session, version, started_at, last_at, views, segment, ended, purchased)
    VALUES ('young', of(2), now() - interval '2 days', now() - interval '1 hour', 3, 0, false, false),
    ('old', of(1), now() - interval '3 days', now() - interval '2 days', 3, 0, false, false);
SELECT refusal(format('SELECT coupon.drop_version(%s)', of(2)));
SELECT refusal('UPDATE coupon.version SET dropped_at = now() WHERE version = ' || of(2));
SELECT refusal('SELECT coupon.drop_version(999999)');
SELECT refusal('SELECT coupon.drop_version(NULL)');

-- What nothing needs goes: its models, and the names of its segments. Its row stays, because deployments name it.
SELECT coupon.name_segment(1, 'gone', of(1));
SELECT coupon.drop_version(of(1));
SELECT count(*) AS models FROM coupon.model WHERE version = of(1);
SELECT count(*) AS names FROM coupon.segment_name WHERE version = of(1);
SELECT dropped_at = now() AS dropped FROM coupon.version WHERE version = of(1);
SELECT refusal(format('SELECT coupon.drop_version(%s)', of(1)));
-- It serves no more, by no way.
SELECT refusal(format('SELECT coupon.activate(%s)', of(1)));
SELECT refusal(format('INSERT INTO coupon.deployment (version, reason) VALUES (%s, ''test'')', of(1)));
SELECT refusal(format('SELECT coupon.export_model(%s)', of(1)));
-- A session that began with it is kept, and counted, and not scored; its click is no fault.
SELECT (SELECT count(*) FROM coupon.error_log) AS faults INTO TEMP before;
SELECT coupon.record_click('old') IS NULL AS no_coupon;
SELECT views, churn, (SELECT count(*) FROM coupon.error_log) - faults AS faults FROM coupon.session,
    before WHERE session = 'old';

-- Once the young session is over, its version goes too; the roll-back passes by what is gone.
UPDATE coupon.session SET last_at = now() - interval '2 days' WHERE session = 'young';
SELECT coupon.activate(of(4));
SELECT coupon.drop_version(of(2));
SELECT coupon.rollback() = of(3) AS the_third;
SELECT refusal(format('SELECT coupon.drop_version(%s)', of(3)));
SELECT coupon.rollback() NOT IN (of(1), of(2)) AS one_that_is_there;
-- What was dropped can come back as a new one.
SELECT coupon.import_model(coupon.export_model(of(4))) > 0 AS imported;

-- A version without its models, however they went, does not serve.
SET LOCAL session_replication_role = replica;
DELETE FROM coupon.model WHERE version = of(3);
SET LOCAL session_replication_role = origin;
SELECT refusal(format('SELECT coupon.activate(%s)', of(3)));
SELECT refusal(format('SELECT coupon.export_model(%s)', of(3)));
ROLLBACK;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
