-- tune: a row a trial, stored with its transaction; a later call of the same study goes on; what is best can be trained
-- as it stands.
-- needs: trained
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
SET coupon_ext.threads = 2;

-- What a tuning is refused for, before it costs anything.
CREATE FUNCTION tuning(spec jsonb, trials int DEFAULT 1, until timestamptz DEFAULT '2026-02-01') RETURNS SETOF text
    LANGUAGE sql
    AS $$ SELECT refused(format('SELECT * FROM coupon.tune_churn(%L, until => %L, spec => %L)', trials, until,
        spec)) $$;
SELECT tuning('{}', 0);
SELECT tuning('{}', 1001);
SELECT tuning('[]');
SELECT tuning('{"tunes": {}}');
SELECT tuning('{"tune": []}');
SELECT tuning('{"tune": {"epoch": 1}}');
SELECT tuning('{"tune": {"epochs": 0}}');
SELECT tuning('{"tune": {"space": {"width": {"low": 1, "high": 2}}}}');
SELECT tuning('{"tune": {"space": {"hidden": {"low": 64, "high": 32}}}}');
SELECT tuning('{"tune": {"space": {"hidden": {"low": 8.5}}}}');
SELECT tuning('{"tune": {"space": {"kernel": {"high": 9}}}}');
SELECT tuning('{"tune": {"space": {"hidden": {"steps": 9}}}}');
SELECT tuning('{"churn": {"hiden": 64}}');
SELECT tuning('{"churn": {"hidden": 256, "layers": 4}}');
SELECT tuning('{}', until => '2026-01-01');
SELECT tuning('{}', until => '2026-01-07');
SELECT count(*) AS nothing_stored FROM coupon.tuning;

-- Small networks, two epochs: these tests ask what holds, not how good it is.
CREATE FUNCTION tried(trials int, seed bigint DEFAULT 0, more jsonb DEFAULT '{}') RETURNS SETOF coupon.trial
    LANGUAGE sql
    AS $$ SELECT * FROM coupon.tune_churn(trials, until => '2026-02-01', seed => seed,
        spec => more || '{"tune": {"epochs": 2, "initial": 2, "space": {"feed_forward": null, "kernel": null,
        "hidden": {"low": 4, "high": 12}, "max_length": {"low": 5, "high": 30}}}}') $$;

BEGIN;
CREATE TEMP TABLE whole AS SELECT * FROM tried(4);
SELECT trial, (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(spec -> 'churn') k) AS keys,
    loss > 0 AND loss < 1 AS loss, auroc BETWEEN 0 AND 1 AS auroc, epochs, seconds > 0 AS seconds,
    best = (loss = min(loss) OVER (ORDER BY trial)) AS best, note FROM whole ORDER BY trial;
-- The first is the specification as it stands, inside the space; no two are the same.
SELECT spec FROM whole WHERE trial = 1;
SELECT count(DISTINCT spec) AS specs, count(DISTINCT study) AS studies, max(length(study)) AS digest FROM whole;
-- What is returned is what is stored.
SELECT count(*) AS stored FROM whole w JOIN coupon.tuning t USING (study, trial, spec, loss, auroc, epochs, seconds)
    WHERE t.note IS NULL AND t.by = session_user AND t.until = '2026-02-01' AND t.seed = 0;
CREATE TABLE kept AS SELECT trial, spec, loss, auroc, best FROM whole;
-- An aborted transaction takes its trials along.
SAVEPOINT earlier;
DELETE FROM coupon.tuning;
CREATE TABLE parts AS SELECT * FROM tried(3);
INSERT INTO parts SELECT * FROM tried(1);
-- Two calls ask and find what one did, to the last bit.
SELECT count(*) AS rows, bool_and(p.spec = k.spec AND p.loss = k.loss AND p.auroc = k.auroc
    AND p.best = k.best) AS the_same FROM parts p JOIN kept k USING (trial);
ROLLBACK TO earlier;
SELECT count(*) AS rolled_back_to FROM coupon.tuning;
-- Another seed, another specification: another study. The specification of other stages is not looked at, and handed
-- on.
SELECT trial, study = (SELECT min(study) FROM whole) AS same FROM tried(1, seed => 1);
SELECT trial, study = (SELECT min(study) FROM whole) AS same FROM tried(1, more => '{"churn": {"batch": 64}}');
SELECT trial, study = (SELECT min(study) FROM whole) AS same, spec - 'churn' AS rest
    FROM tried(1, more => '{"rank": {"decay": 0.25}}');
SELECT spec -> 'churn' -> 'batch' AS handed_on FROM coupon.tuning WHERE spec -> 'churn' ? 'batch';
-- A study with a hole is not gone on with.
DELETE FROM coupon.tuning WHERE trial = 2;
SELECT regexp_replace(r, '[0-9a-f]{64}', 'DIGEST') AS refused FROM refused('SELECT * FROM tried(1)') r;
ROLLBACK;

-- The best of each study, as training takes it.
BEGIN;
SELECT count(*) FROM tried(3);
INSERT INTO coupon.tuning (study, trial, since, until, seed, spec, epochs, seconds, note) SELECT study, 4, since,
    until, seed, spec, 0, 1, 'failed' FROM coupon.tuning WHERE trial = 1;
SELECT trials, failed, b.loss = (SELECT min(loss) FROM coupon.tuning) AS smallest, b.spec = t.spec AS its_spec,
    b.at = (SELECT max(at) FROM coupon.tuning) AS at
FROM coupon.best_trial b JOIN coupon.tuning t USING (study, trial);
SELECT count(*) > 0 AS trained FROM coupon.train_churn(until => '2026-02-01',
    spec => (SELECT jsonb_set(spec, '{churn,epochs}', '1') FROM coupon.best_trial ORDER BY at DESC LIMIT 1));
SELECT m.spec @> (b.spec -> 'churn') - '{dropout,epochs}'::text[] AS with_its_values FROM coupon.model m,
    coupon.best_trial b WHERE m.version = (SELECT max(version) FROM coupon.version) AND m.stage = 'churn'
    AND m.segment = 0;
ROLLBACK;

-- A space of two points ends after two trials.
SELECT trial, spec, loss > 0 AS loss, note
    FROM coupon.tune_churn(5, until => '2026-02-01', spec => '{"tune": {"epochs": 1, "space": {"dropout": null,
    "feed_forward": null, "kernel": null, "learning_rate": null,
    "hidden": null, "max_length": null, "layers": {"low": 1, "high": 2}}}, "churn": {"hidden": 4}}') ORDER BY trial;
DELETE FROM coupon.tuning;

-- The procedure commits each trial, which a function cannot, and so needs a transaction of its own.
CALL coupon.tune(2, until => '2026-02-01',
    spec => '{"tune": {"epochs": 1, "space": {"hidden": {"low": 4, "high": 12}}}}');
SELECT trial, count(*) OVER () AS trials, xmin::text = lag(xmin::text) OVER (ORDER BY trial) AS of_one_transaction
    FROM coupon.tuning ORDER BY trial;
BEGIN;
CALL coupon.tune(1, until => '2026-02-01',
    spec => '{"tune": {"epochs": 1, "space": {"hidden": {"low": 4, "high": 12}}}}');
ROLLBACK;
SELECT count(*) AS trials FROM coupon.tuning;
DELETE FROM coupon.tuning;

-- Nobody tunes without being granted it.
SELECT has_function_privilege('pg_monitor', 'coupon.tune_churn(int, timestamptz, timestamptz, jsonb, bigint)',
    'EXECUTE') AS tune_churn,
    has_function_privilege('pg_monitor', 'coupon.tune(int, timestamptz, timestamptz, jsonb, bigint)',
        'EXECUTE') AS tune,
    has_function_privilege('pg_monitor', 'coupon_internal.run_tuning(int, timestamptz, timestamptz, jsonb, bigint)',
        'EXECUTE') AS run_tuning;

DROP FUNCTION tried, tuning;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
