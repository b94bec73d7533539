-- train: one version covers all stages, is switched atomically, is the same for the same input, and leaves nothing when
-- refused.
-- needs: shop
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;
SET coupon_ext.threads = 2;

-- What a training is refused for, before it costs anything.
CREATE FUNCTION training(spec jsonb, until timestamptz DEFAULT '2026-02-01', stages text DEFAULT 'train')
    RETURNS SETOF text LANGUAGE sql
    AS $$ SELECT refused(format('SELECT * FROM coupon.%I(until => %L, spec => %L)', stages, until, spec)) $$;
SELECT training('{"churns": {}}');
SELECT training('[]');
SELECT training('{"churn": {"epoch": 1}}');
SELECT training('{"churn": []}');
SELECT training('{"churn": {"epochs": 0}}');
SELECT training('{"churn": {"epochs": "many"}}');
SELECT training('{"churn": {"dropout": 2}}');
SELECT training('{"churn": {"hidden": 100000}}');
SELECT training('{"sessions": {"max_view": 3}}');
SELECT training('{"sessions": {"windows": [0.5, 0.1, 0.1]}}');
SELECT training('{"segment": {"clusters": 3}}');
SELECT training('{"segment": {"max_clusters": 0}}');
SELECT training('{"rank": {"alpha": 1}}');
SELECT training('{"rank": {"decay": 7}}');
SELECT training('{"issue": {"eta": 0.1}}');
SELECT training('{"issue": {"targets": [0.2, 0.1]}}');
SELECT training('{}', '2026-01-01');
SELECT training('{}', '-infinity');
SELECT r FROM training('{}', stages => 'train_churn') r LIMIT 1;
SELECT r FROM training('{}', stages => 'train_ranking') r LIMIT 1;
SET coupon_ext.training_memory = '16MB';
SELECT left(r, 5) AS sqlstate, r LIKE '%memory%' OR r LIKE '%Train on a shorter window%' AS says_why
    FROM training('{"sessions": {"session_timeout": 60}}') r LIMIT 1;
RESET coupon_ext.training_memory;
SELECT (SELECT count(*) FROM coupon.version) AS versions, (SELECT count(*) FROM coupon.model) AS stages,
    (SELECT count(*) FROM coupon.deployment) AS deployments,
    (SELECT count(*) FROM coupon.customer) AS customers;

-- The version that setup/trained.sql makes for other files, without a refit: its card is of what serves. What it
-- returns is what it did.
CREATE TABLE trained AS SELECT * FROM coupon.train(until => '2026-02-01',
    spec => '{"churn": {"epochs": 1, "refit": false}}');
SELECT DISTINCT version FROM trained;
SELECT stage, count(*) > 0 AS told FROM trained GROUP BY stage ORDER BY stage;
SELECT note ~ '^version 1 is active' AS active FROM trained WHERE stage = 'deploy';
SELECT step, loss > 0 AND loss < 2 AS loss, tune_loss > 0 AND tune_loss < 2 AS tune_loss, auroc BETWEEN 0.2
    AND 1 AS auroc, auprc BETWEEN 0 AND 1 AS auprc,
    accuracy BETWEEN 0.5 AND 1 AS accuracy, seconds > 0 AS seconds FROM trained WHERE stage = 'churn' AND segment = 0
        AND step IS NOT NULL ORDER BY step;
SELECT version, since, until, seed, threads, length(digest) AS digest, by = session_user AS by FROM coupon.version;
SELECT stage, array_agg(segment ORDER BY segment) AS segments, bool_and(length(digest) = 64) AS digests,
    bool_and(spec <> '{}') AS specs, bool_and(card IS NOT NULL) AS cards,
    bool_or(length(weights) > 0) AS weights FROM coupon.model GROUP BY stage ORDER BY stage;
SELECT version, reason <> '' AS with_a_reason, by = session_user AS by FROM coupon.deployment;
SELECT (spec ->> 'epochs')::int AS epochs, (spec ->> 'hidden')::int AS hidden FROM coupon.model WHERE stage = 'churn'
    AND segment = 0;
-- Every customer with an event before the day training ended has a row.
SELECT count(*) > 100 AS hundreds, count(*) = (SELECT count(DISTINCT customer) FROM coupon.click
    WHERE customer IS NOT NULL) AS everybody, min(as_of) = '2026-02-01' AND max(as_of) = '2026-02-01' AS as_of
FROM coupon.customer;
SELECT issue_coupon('nobody') IS NULL AS no_coupon_and_no_warning;

-- Same log, specification and seed: the same digest, stage by stage, and the gate lets its equal pass. Another seed:
-- another model.
SELECT note ~ '^version 2 is active' AS active
    FROM coupon.train(until => '2026-02-01', spec => '{"churn": {"epochs": 1, "refit": false}}') WHERE stage = 'deploy';
SELECT count(DISTINCT digest) AS digests FROM coupon.version;
SELECT stage, segment, count(DISTINCT digest) AS digests FROM coupon.model GROUP BY 1, 2 ORDER BY 1, 2;
BEGIN;
DO $$ BEGIN PERFORM coupon.train(until => '2026-02-01', spec => '{"churn": {"epochs": 1, "refit": false}}',
    seed => 5); END $$;
SELECT stage, segment, count(DISTINCT digest) AS digests FROM coupon.model WHERE stage = 'churn' AND segment = 0
    GROUP BY 1, 2;
ROLLBACK;
BEGIN;
SET LOCAL coupon_ext.threads = 1;
DO $$ BEGIN PERFORM coupon.train_churn(until => '2026-02-01',
    spec => '{"churn": {"epochs": 1, "refit": false}}'); END $$;
SELECT threads, count(DISTINCT digest) AS digests FROM coupon.version GROUP BY threads ORDER BY threads;
ROLLBACK;

-- The refit, the default: what serves is trained once more on all windows; card, thresholds and gate are of the
-- training before it.
BEGIN;
SELECT stage, segment, step, loss > 0 AS loss, tune_loss > 0 AS tune_loss,
    note FROM coupon.train_churn(until => '2026-02-01', spec => '{"churn": {"epochs": 1, "min_sessions": 1000000}}')
WHERE step IS NOT NULL;
SELECT max(version) AS refitted FROM coupon.version \gset
SELECT stage, count(DISTINCT weights) AS weights, count(DISTINCT digest) AS digests FROM coupon.model
    WHERE version IN (2, :refitted) AND stage IN ('churn', 'judged', 'issue') AND segment = 0 GROUP BY 1 ORDER BY 1;
SELECT count(*) > 0 AS rows, count(*) = count(*) FILTER (WHERE a = b) AS same_card
    FROM (SELECT jsonb_array_elements(m.card -> 'judge') AS a FROM coupon.model m WHERE version = 2 AND stage = 'churn'
    AND segment = 0) o
FULL JOIN (SELECT jsonb_array_elements(m.card -> 'judge') AS b FROM coupon.model m WHERE version = :refitted
    AND stage = 'churn' AND segment = 0) n ON a = b;
SELECT refit, segment, count(*) AS epochs FROM coupon.training_history WHERE version = :refitted GROUP BY 1,
    2 ORDER BY 1, 2;
SELECT count(*) > 0 AS segments, bool_or(used) AS used FROM coupon.segment_models WHERE version = :refitted;
SELECT note ~ '^version \d+ is active' AS active
    FROM coupon.train(until => '2026-02-01', spec => '{"churn": {"epochs": 1}}', seed => 5) WHERE stage = 'deploy';
SELECT note ~ '^version \d+ is active' AS active FROM coupon.train_ranking(until => '2026-02-01')
    WHERE stage = 'deploy';
SELECT stage, count(*) AS versions, count(DISTINCT digest) AS digests FROM coupon.model WHERE version > :refitted
    AND stage IN ('churn', 'judged') AND segment = 0 GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- Daily: from yesterday's network. One of other layers begins anew, and says so.
BEGIN;
SELECT stage, note FROM coupon.train_churn(until => '2026-02-01',
    spec => '{"churn": {"epochs": 1, "warm_start": true}}') WHERE note ~ 'warm start';
SELECT stage, note FROM coupon.train_churn(until => '2026-02-01',
    spec => '{"churn": {"epochs": 1, "warm_start": true, "hidden": 16}}') WHERE note ~ 'warm start';
ROLLBACK;

-- The gate: new and active version on the same judge sessions, of which there must be enough. An equal passes.
CREATE FUNCTION challenge(churn text) RETURNS TABLE (difference numeric, accepted boolean, told boolean,
    deployed boolean) LANGUAGE plpgsql AS $$
DECLARE
    step coupon.training_step;
BEGIN
    SELECT * INTO step FROM coupon.train(until => '2026-02-01',
        spec => format('{"sessions": {"windows": [0.3, 0.1, 0.6]}, "churn": %s}', churn)::jsonb) t
        WHERE t.stage = 'deploy';
    RETURN QUERY SELECT round((m.card -> 'gate' ->> 'difference')::numeric, 6),
        (m.card -> 'gate' ->> 'accepted')::boolean,
        step.note ~ 'is active', EXISTS (SELECT FROM coupon.deployment d WHERE d.version = step.version)
    FROM coupon.model m WHERE m.version = step.version AND m.stage = 'churn' AND m.segment = 0;
END
$$;
BEGIN;
SET LOCAL client_min_messages = error;
-- Nothing serves yet: nothing to compare with.
DELETE FROM coupon.deployment;
SELECT difference IS NULL AS first, accepted, told, deployed FROM challenge('{"epochs": 3}');
SELECT difference = 0 AS no_difference, accepted, told, deployed FROM challenge('{"epochs": 3}');
-- A worse one is saved and does not serve.
SELECT difference > 0 AS worse, accepted, told, deployed FROM challenge('{"epochs": 1, "learning_rate": 0.000001}');
SELECT (SELECT max(version) FROM coupon.version) - (SELECT version FROM coupon.deployment
    ORDER BY id DESC LIMIT 1) AS versions_saved_only;
ROLLBACK;

-- A stage trained alone takes the others over by digest.
CREATE FUNCTION taken_over(version bigint) RETURNS TABLE (stage text, taken_over boolean) LANGUAGE sql AS $$
    SELECT m.stage, bool_and(EXISTS (SELECT FROM coupon.model o
        WHERE o.version = (SELECT min(version) FROM coupon.version) AND o.stage = m.stage AND o.segment = m.segment
        AND o.digest = m.digest))
    FROM coupon.model m WHERE m.version = taken_over.version GROUP BY m.stage ORDER BY m.stage
$$;
BEGIN;
SELECT max(version) AS version FROM coupon.train_ranking(until => '2026-02-01',
    spec => '{"rank": {"decay": 0.25}}') \gset
SELECT * FROM taken_over(:version);
SELECT (SELECT version FROM coupon.deployment ORDER BY id DESC LIMIT 1) = :version AS active;
ROLLBACK;
BEGIN;
SELECT max(version) AS version FROM coupon.train_churn(until => '2026-02-01', spec => '{"churn": {"epochs": 1}}',
    seed => 9) \gset
SELECT * FROM taken_over(:version);
ROLLBACK;
BEGIN;
SELECT max(version) AS version FROM coupon.train(until => '2026-02-01',
    spec => '{"churn": {"epochs": 1}, "segment": {"max_clusters": 2}}', seed => 9) \gset
SELECT * FROM taken_over(:version);
ROLLBACK;

-- Which version serves: the newest deployment. Rolling back is one more: it makes the version serve that served before.
SELECT refused('SELECT coupon.activate(99)');
SELECT refused('SELECT coupon.activate(NULL)');
SELECT coupon.rollback();
SELECT version, reason ~ '^rolled back from 2' AS says_so FROM coupon.deployment ORDER BY id DESC LIMIT 1;
SELECT refused('SELECT coupon.rollback()');
SELECT coupon.activate(2);
SELECT version, reason FROM coupon.deployment ORDER BY id DESC LIMIT 1;
-- ... not the version with the number before: after 1, 2 and 1 again, 2 served before.
BEGIN;
SELECT coupon.activate(1);
SELECT coupon.rollback();
SELECT version FROM coupon.deployment ORDER BY id DESC LIMIT 1;
ROLLBACK;
-- A roll-back of the transaction is one too.
BEGIN;
SELECT coupon.activate(1);
SELECT detail ~ 'version 1 is active' AS seen_inside FROM coupon.explain_decision('nobody')
    WHERE condition = 'a model is active';
ROLLBACK;
SELECT detail ~ 'version 2 is active' AS undone FROM coupon.explain_decision('nobody') WHERE condition = 'a model is active';
-- Weights that were damaged are refused with a hint, and the click is kept.
BEGIN;
SET LOCAL client_min_messages = error;
INSERT INTO coupon.version (digest, since, until, seed, threads, build) SELECT 'damaged', since, until, seed, threads,
    build FROM coupon.version WHERE version = 2 RETURNING version AS damaged \gset
INSERT INTO coupon.model SELECT :damaged, stage, segment, spec, card,
    CASE stage WHEN 'rank' THEN substr(weights, 1, 40) ELSE weights END, digest FROM coupon.model WHERE version = 2;
SELECT coupon.activate(:damaged);
SELECT left(r, 5) AS sqlstate, r LIKE '%corrupt%' AS says_so FROM refused('SELECT * FROM rank_categories(NULL)') r
    LIMIT 1;
INSERT INTO coupon.click (session, at, kind) VALUES ('damaged', '2026-02-01', 'view');
SELECT count(*) AS clicks_kept FROM coupon.click WHERE session = 'damaged';
SELECT sqlstate, message LIKE '%corrupt%' AS says_so FROM coupon.error_log;
ROLLBACK;

-- A small log has no churn model, says so, and its campaign, which asks one, finds nobody eligible.
BEGIN;
SELECT stage, regexp_replace(note, '\d+', 'N', 'g') AS note
    FROM coupon.train(until => '2026-01-07', spec => '{"churn": {"epochs": 1}}') WHERE note LIKE '%no churn model%'
    OR stage = 'deploy';
SELECT count(*) FILTER (WHERE stage = 'churn') AS churn_models, array_agg(DISTINCT stage ORDER BY stage) AS stages
    FROM coupon.model WHERE version = (SELECT max(version) FROM coupon.version);
SELECT count(*) AS accuracy_rows FROM coupon.model_metrics WHERE version = (SELECT max(version) FROM coupon.version);
SELECT churn_probability(0, ARRAY[('2026-01-07', 'view', 'p', 'c', NULL, 1,
    NULL)]::coupon.page_view[]) IS NULL AS nothing_to_tell;
SELECT refused($$SELECT * FROM coupon.evaluate_churn('-infinity', '2026-01-20')$$);
SET LOCAL coupon_ext.mock_clock = '2026-01-28 12:00:00+00';
INSERT INTO coupon.click (session, at, kind) SELECT 'coin',
    '2026-01-28 11:59:00+00'::timestamptz + i * interval '1 second', 'view' FROM generate_series(1, 2) i;
SELECT campaign, condition, regexp_replace(regexp_replace(detail, '[\d.]+ %', 'N %'), 'version \d+',
    'version N') AS detail FROM coupon.explain_decision('coin') WHERE condition IN ('a model is active', 'arm', 'drawn')
    ORDER BY step;
SELECT count(*) AS customers_ranked_without_a_churn_model FROM rank_categories(NULL, NULL, 1);
ROLLBACK;
-- NULL is the default: from the first click, until now, with no overrides, seed 0.
BEGIN;
SELECT count(*) > 0 AS trained FROM coupon.train(NULL, NULL, '{"churn": {"epochs": 1}}', NULL);
SELECT since, until = now() AS until_now, seed FROM coupon.version ORDER BY version DESC LIMIT 1;
ROLLBACK;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
