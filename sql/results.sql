-- results: the views that say whether it worked.
CREATE FUNCTION coupon_internal.compute_growth(issued_conversion float8, not_issued_conversion float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT $1 / nullif($2, 0) - 1';
COMMENT ON FUNCTION coupon_internal.compute_growth(float8, float8) IS 'Conversion growth: issued over not issued, minus 1 (Seo & Yoo 2022)';

CREATE FUNCTION coupon_internal.compute_estimated_sales(issue_rate float8, growth float8, discount float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT 100 * $1 * (1 + $2) * (1 - $3) + 100 * (1 - $1)';
COMMENT ON FUNCTION coupon_internal.compute_estimated_sales(float8, float8, float8) IS 'Sales index, 100 = without coupons; issue_rate is the share of customers given a coupon, discount a fraction (Seo & Yoo 2022)';

CREATE FUNCTION coupon_internal.list_views() RETURNS name[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '{preprocessing,model_metrics,reliability,roc,segment_models,training_history,segments,segment_cells,segment_variables,
        elbow,segment_changes,segment_statistics,conversion_by_scenario,estimated_sales,budget,best_trial,access}'::name[]
$$;
COMMENT ON FUNCTION coupon_internal.list_views() IS 'The views of results, in the order in which they are made';

-- Dropped and made again, so that a column can change its place or type; grants are kept.
CREATE FUNCTION coupon_internal.create_views() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names CONSTANT name[] := coupon_internal.list_views();
    name text;
    grants text[] := ARRAY(
        SELECT format('GRANT %s ON coupon.%I TO %s%s', a.privilege_type, c.relname,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.relnamespace = 'coupon'::regnamespace AND c.relkind = 'v' AND c.relname = ANY (names)
            AND a.grantee <> c.relowner);
BEGIN
    -- The last one first: a view may read an earlier one.
    FOR name IN SELECT n FROM unnest(names) WITH ORDINALITY u(n, i) ORDER BY i DESC LOOP
        IF to_regclass('coupon.' || name) IS NOT NULL THEN
            EXECUTE format('DROP VIEW coupon.%I', name);
        END IF;
    END LOOP;

    CREATE VIEW coupon.preprocessing AS
    SELECT m.version, r.n::int AS step, r.rule ->> 'rule' AS rule,
        CASE WHEN r.n <= 3 THEN 'every view' ELSE 'truncated' END AS population,
        (r.rule ->> 'sessions_removed')::bigint AS sessions_removed, (r.rule ->> 'views_removed')::bigint AS views_removed,
        (r.rule ->> 'sessions_left')::bigint AS sessions_left, (r.rule ->> 'views_left')::bigint AS views_left
    FROM coupon.model m
    CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'rules') WITH ORDINALITY r(rule, n) WHERE m.stage = 'sessions';
    COMMENT ON VIEW coupon.preprocessing IS 'What each preprocessing rule removed from the training log, by version, in the order of application';
    COMMENT ON COLUMN coupon.preprocessing.version IS 'The trained version';
    COMMENT ON COLUMN coupon.preprocessing.step IS 'Order of application, from 1';
    COMMENT ON COLUMN coupon.preprocessing.rule IS 'What the rule takes out';
    COMMENT ON COLUMN coupon.preprocessing.sessions_removed IS 'Sessions the rule took out whole';
    COMMENT ON COLUMN coupon.preprocessing.views_removed IS 'Page views the rule took out, those of removed sessions included';
    COMMENT ON COLUMN coupon.preprocessing.sessions_left IS 'Sessions after this rule';
    COMMENT ON COLUMN coupon.preprocessing.views_left IS 'Page views after this rule';
    COMMENT ON COLUMN coupon.preprocessing.population IS 'The first rules hold for every model; the last two make the truncated population, which the papers evaluate';

    CREATE VIEW coupon.model_metrics AS
    SELECT m.version, r.row ->> 'population' AS population, r.row ->> 'model' AS model,
        (r.row ->> 'segment')::int AS segment, (r.row ->> 'sessions')::bigint AS sessions,
        (r.row ->> 'n')::bigint AS predictions, (r.row ->> 'buyers')::bigint AS buyers,
        (r.row ->> 'base_rate')::float8 AS base_rate, (r.row ->> 'auroc')::float8 AS auroc,
        (r.row ->> 'auprc')::float8 AS auprc, (r.row ->> 'brier')::float8 AS brier,
        (r.row ->> 'log_loss')::float8 AS log_loss, (r.row ->> 'ece')::float8 AS ece,
        (r.row ->> 'slope')::float8 AS slope, (r.row ->> 'intercept')::float8 AS intercept,
        (r.row ->> 'accuracy')::float8 AS accuracy, (r.row ->> 'majority')::float8 AS majority
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'test') r(row)
    WHERE m.stage = 'churn' AND m.segment = 0;
    COMMENT ON VIEW coupon.model_metrics IS 'How well each version predicted on its test window before it was refitted on all windows: what serves has seen those sessions since; AUPRC is of purchase';
    COMMENT ON COLUMN coupon.model_metrics.version IS 'The trained version';
    COMMENT ON COLUMN coupon.model_metrics.population IS 'truncated: the last three views of a session hidden; live: every view of complete sessions; view_2, view_5, view_10: after that view, of the sessions that reach it';
    COMMENT ON COLUMN coupon.model_metrics.model IS 'final: each session by the network that serves it; pooled: one model for everybody; own: each segment by its own network where one was trained, whether it serves or not';
    COMMENT ON COLUMN coupon.model_metrics.segment IS 'Only the sessions of this segment (0 = anonymous); NULL: all';
    COMMENT ON COLUMN coupon.model_metrics.sessions IS 'Sessions of the test window in this population';
    COMMENT ON COLUMN coupon.model_metrics.predictions IS 'Scored views: one a session, but live one a view';
    COMMENT ON COLUMN coupon.model_metrics.buyers IS 'Of the predictions, those in sessions with a purchase';
    COMMENT ON COLUMN coupon.model_metrics.base_rate IS 'Share of the predictions, by weight, that are in sessions with a purchase';
    COMMENT ON COLUMN coupon.model_metrics.auroc IS 'Area under the ROC curve; NULL where only one class was seen';
    COMMENT ON COLUMN coupon.model_metrics.auprc IS 'Average precision of predicting a purchase, to be read beside base_rate; NULL where only one class was seen';
    COMMENT ON COLUMN coupon.model_metrics.brier IS 'Mean squared error of the probability';
    COMMENT ON COLUMN coupon.model_metrics.log_loss IS 'Mean negative log likelihood, in nats';
    COMMENT ON COLUMN coupon.model_metrics.ece IS 'Expected calibration error, ten bins of equal mass';
    COMMENT ON COLUMN coupon.model_metrics.slope IS 'Calibration slope, outcome on logit: 1 is perfect, below 1 the probabilities are too extreme; NULL where there is no finite one';
    COMMENT ON COLUMN coupon.model_metrics.intercept IS 'Calibration in the large, with slope 1, in logits: 0 is perfect, above 0 more sessions left than was said; NULL where only one class was seen';
    COMMENT ON COLUMN coupon.model_metrics.accuracy IS 'Share classified rightly at probability one half; read it beside majority';
    COMMENT ON COLUMN coupon.model_metrics.majority IS 'Accuracy of always saying that the session ends without a purchase, or always with one, whichever is better';

    CREATE VIEW coupon.reliability AS
    SELECT m.version, r.row ->> 'population' AS population, (r.row ->> 'bin')::int AS bin,
        (r.row ->> 'predictions')::bigint AS predictions, (r.row ->> 'predicted')::float8 AS predicted,
        (r.row ->> 'observed')::float8 AS observed, (r.row ->> 'lower')::float8 AS lower,
        (r.row ->> 'upper')::float8 AS upper
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'reliability') r(row)
    WHERE m.stage = 'churn' AND m.segment = 0;
    COMMENT ON VIEW coupon.reliability IS 'Reliability curve of model final of coupon.model_metrics, on the test window: observed against predicted churn in ten bins of equal mass';
    COMMENT ON COLUMN coupon.reliability.version IS 'The trained version';
    COMMENT ON COLUMN coupon.reliability.population IS 'As in coupon.model_metrics';
    COMMENT ON COLUMN coupon.reliability.bin IS 'From 1, the lowest probabilities of churn, to 10';
    COMMENT ON COLUMN coupon.reliability.predictions IS 'Scored views in the bin';
    COMMENT ON COLUMN coupon.reliability.predicted IS 'Their mean probability of churn';
    COMMENT ON COLUMN coupon.reliability.observed IS 'Share of them in sessions that ended without a purchase';
    COMMENT ON COLUMN coupon.reliability.lower IS 'Lower end of Wilson''s 95 % interval of observed, which counts sessions, not views';
    COMMENT ON COLUMN coupon.reliability.upper IS 'Its upper end';

    CREATE VIEW coupon.roc AS
    SELECT m.version, r.row ->> 'population' AS population, (r.row ->> 'threshold')::float8 AS threshold,
        (r.row ->> 'false_positive_rate')::float8 AS false_positive_rate,
        (r.row ->> 'true_positive_rate')::float8 AS true_positive_rate
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'roc') r(row)
    WHERE m.stage = 'churn' AND m.segment = 0;
    COMMENT ON VIEW coupon.roc IS 'ROC curve of model final of coupon.model_metrics, on the test window: at most 100 points a population, from (0, 0) to (1, 1)';
    COMMENT ON COLUMN coupon.roc.version IS 'The trained version';
    COMMENT ON COLUMN coupon.roc.population IS 'As in coupon.model_metrics';
    COMMENT ON COLUMN coupon.roc.threshold IS 'A session is called a leaver where its probability of churn is at least this; at 1 none is';
    COMMENT ON COLUMN coupon.roc.false_positive_rate IS 'Share of buyers that are called leavers';
    COMMENT ON COLUMN coupon.roc.true_positive_rate IS 'Share of leavers that are called leavers';

    CREATE VIEW coupon.segment_models AS
    SELECT m.version, (r.row ->> 'segment')::int AS segment, (r.row ->> 'sessions')::bigint AS sessions,
        (r.row ->> 'buyers')::bigint AS buyers, (r.row ->> 'compared')::bigint AS compared,
        (r.row ->> 'own_log_loss')::float8 AS own_log_loss, (r.row ->> 'pooled_log_loss')::float8 AS pooled_log_loss,
        (r.row ->> 'difference')::float8 AS difference, (r.row ->> 'standard_error')::float8 AS standard_error,
        (r.row ->> 'used')::boolean AS used
    FROM coupon.model m
    CROSS JOIN LATERAL jsonb_array_elements(coalesce(m.card #> '{refit,segments}', m.card -> 'segments')) r(row)
    WHERE m.stage = 'churn' AND m.segment = 0;
    COMMENT ON VIEW coupon.segment_models IS 'Each segment''s own network against the pooled one on tune (after a refit, its tune: the newest sessions), and which of them serves';
    COMMENT ON COLUMN coupon.segment_models.version IS 'The trained version';
    COMMENT ON COLUMN coupon.segment_models.segment IS 'Segment number, from 1';
    COMMENT ON COLUMN coupon.segment_models.sessions IS 'Sessions of the segment that the own network was to learn from';
    COMMENT ON COLUMN coupon.segment_models.buyers IS 'Of these, sessions with a purchase';
    COMMENT ON COLUMN coupon.segment_models.compared IS 'Sessions of tune on which the two were compared';
    COMMENT ON COLUMN coupon.segment_models.own_log_loss IS 'Mean log loss a session of tune by the segment''s own network; NULL where too little was there to train one';
    COMMENT ON COLUMN coupon.segment_models.pooled_log_loss IS 'The same by the pooled network with the segment''s calibrator';
    COMMENT ON COLUMN coupon.segment_models.difference IS 'Own minus pooled; below zero the own network is better';
    COMMENT ON COLUMN coupon.segment_models.standard_error IS 'Paired standard error of the difference';
    COMMENT ON COLUMN coupon.segment_models.used IS 'Whether the own network serves: better by more than one standard error';

    CREATE VIEW coupon.training_history AS
    SELECT m.version, t.refit, (r.row ->> 'segment')::int AS segment, (r.row ->> 'epoch')::int AS epoch,
        (r.row ->> 'train_loss')::float8 AS train_log_loss, (r.row ->> 'validation_loss')::float8 AS validation_log_loss,
        (r.row #>> '{validation,auroc}')::float8 AS validation_auroc, (r.row #>> '{validation,auprc}')::float8 AS validation_auprc,
        (r.row ->> 'best')::boolean AS best
    FROM coupon.model m
    CROSS JOIN LATERAL (VALUES (false, m.card -> 'epochs'), (true, m.card #> '{refit,epochs}')) t(refit, epochs)
    CROSS JOIN LATERAL jsonb_array_elements(t.epochs) r(row)
    WHERE m.stage = 'churn' AND m.segment = 0;
    COMMENT ON VIEW coupon.training_history IS 'How each network was trained, epoch by epoch';
    COMMENT ON COLUMN coupon.training_history.version IS 'The trained version';
    COMMENT ON COLUMN coupon.training_history.refit IS 'false: the training that was evaluated; true: the one after it, on all windows, that serves';
    COMMENT ON COLUMN coupon.training_history.segment IS 'Whose network; 0 = the pooled one';
    COMMENT ON COLUMN coupon.training_history.epoch IS 'From 1';
    COMMENT ON COLUMN coupon.training_history.train_log_loss IS 'Mean log loss of the sessions learned from while they were trained on, in nats';
    COMMENT ON COLUMN coupon.training_history.validation_log_loss IS 'Mean log loss of the validation window after the epoch, before calibration; NULL where that has nothing of the segment';
    COMMENT ON COLUMN coupon.training_history.validation_auroc IS 'Area under the ROC curve on the validation window';
    COMMENT ON COLUMN coupon.training_history.validation_auprc IS 'Average precision of purchase on the validation window';
    COMMENT ON COLUMN coupon.training_history.best IS 'Whether the log loss on tune was the lowest so far; the weights of the last such epoch are kept';

    CREATE VIEW coupon.segments AS
    SELECT m.version, (g.row ->> 'group')::int AS segment, coalesce(n.name, g.row ->> 'name') AS name,
        (g.row ->> 'cells')::int AS cells, (g.row ->> 'customers')::bigint AS customers,
        (g.row ->> 'sessions')::bigint AS sessions, (g.row ->> 'buyers')::bigint AS buyers,
        (g.row ->> 'churn_rate')::float8 AS churn_rate, (g.row ->> 'test_sessions')::bigint AS test_sessions,
        (g.row ->> 'test_buyers')::bigint AS test_buyers, (g.row ->> 'test_churn_rate')::float8 AS test_churn_rate
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'groups') g(row)
    LEFT JOIN coupon.segment_name n ON n.version = m.version AND n.segment = (g.row ->> 'group')::int
    WHERE m.stage = 'segment';
    COMMENT ON VIEW coupon.segments IS 'The segments of each version with their sessions and churn rates, as-of assignment: made on the training window, checked on the test window';
    COMMENT ON COLUMN coupon.segments.version IS 'The trained version';
    COMMENT ON COLUMN coupon.segments.segment IS 'Segment number, from 1; 1 is the most likely to leave';
    COMMENT ON COLUMN coupon.segments.name IS 'Made from mean spending and visits beside all customers, or given by coupon.name_segment()';
    COMMENT ON COLUMN coupon.segments.cells IS 'Cells that were joined into the segment';
    COMMENT ON COLUMN coupon.segments.customers IS 'Customers in the segment in the snapshot that the clusters were found on';
    COMMENT ON COLUMN coupon.segments.sessions IS 'Sessions of the fit window whose customer was in the segment at the start of their day';
    COMMENT ON COLUMN coupon.segments.buyers IS 'Of these, sessions with a purchase';
    COMMENT ON COLUMN coupon.segments.churn_rate IS 'Share of these sessions that ended without a purchase';
    COMMENT ON COLUMN coupon.segments.test_sessions IS 'Sessions of the test window, which nothing was chosen on';
    COMMENT ON COLUMN coupon.segments.test_buyers IS 'Of these, sessions with a purchase';
    COMMENT ON COLUMN coupon.segments.test_churn_rate IS 'Share of these that ended without a purchase; NULL where there is none';

    CREATE VIEW coupon.segment_cells AS
    SELECT m.version, (c.row ->> 'cell')::int AS cell, (c.row #>> '{clusters,spending}')::int AS spending,
        (c.row #>> '{clusters,behaviour}')::int AS behaviour, (c.row #>> '{clusters,recency}')::int AS recency,
        (c.row #>> '{clusters,frequency}')::int AS frequency, (c.row #>> '{clusters,monetary}')::int AS monetary,
        (c.row ->> 'group')::int AS segment, s.name, (c.row ->> 'sessions')::bigint AS sessions,
        (c.row ->> 'buyers')::bigint AS buyers, (c.row ->> 'churn_rate')::float8 AS churn_rate,
        (c.row ->> 'test_sessions')::bigint AS test_sessions, (c.row ->> 'test_buyers')::bigint AS test_buyers,
        (c.row ->> 'test_churn_rate')::float8 AS test_churn_rate
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'cells') c(row)
    JOIN coupon.segments s ON s.version = m.version AND s.segment = (c.row ->> 'group')::int
    WHERE m.stage = 'segment';
    COMMENT ON VIEW coupon.segment_cells IS 'The cells of each version, which segment each was joined into, and what was counted in it';
    COMMENT ON COLUMN coupon.segment_cells.version IS 'The trained version';
    COMMENT ON COLUMN coupon.segment_cells.cell IS 'Cell number, from 1';
    COMMENT ON COLUMN coupon.segment_cells.spending IS 'Cluster of the spending dimension, from 1, the lowest first; NULL under another method, as are the next four';
    COMMENT ON COLUMN coupon.segment_cells.behaviour IS 'Cluster of the behaviour dimension';
    COMMENT ON COLUMN coupon.segment_cells.recency IS 'Fifth by days since the last purchase, 1 = the most recent';
    COMMENT ON COLUMN coupon.segment_cells.frequency IS 'Fifth by number of orders, 1 = the fewest';
    COMMENT ON COLUMN coupon.segment_cells.monetary IS 'Fifth by money spent, 1 = the least';
    COMMENT ON COLUMN coupon.segment_cells.segment IS 'The segment it belongs to; a cell without sessions has that of its nearest neighbour';
    COMMENT ON COLUMN coupon.segment_cells.name IS 'The name of that segment';
    COMMENT ON COLUMN coupon.segment_cells.sessions IS 'Sessions of the fit window whose customer was in the cell at the start of their day';
    COMMENT ON COLUMN coupon.segment_cells.buyers IS 'Of these, sessions with a purchase';
    COMMENT ON COLUMN coupon.segment_cells.churn_rate IS 'Share of these sessions that ended without a purchase; NULL where there is none';
    COMMENT ON COLUMN coupon.segment_cells.test_sessions IS 'Sessions of the test window';
    COMMENT ON COLUMN coupon.segment_cells.test_buyers IS 'Of these, sessions with a purchase';
    COMMENT ON COLUMN coupon.segment_cells.test_churn_rate IS 'Share of these that ended without a purchase; NULL where there is none';

    CREATE VIEW coupon.segment_variables AS
    SELECT m.version, v.row ->> 'dimension' AS dimension, v.row ->> 'variable' AS variable,
        v.row ->> 'expression' AS expression, (v.row ->> 'log')::boolean AS log, (v.row ->> 'low')::float8 AS low,
        (v.row ->> 'high')::float8 AS high, (v.row ->> 'mean')::float8 AS mean, (v.row ->> 'std')::float8 AS std,
        CASE jsonb_typeof(v.row -> 'edges') WHEN 'array' THEN
            ARRAY(SELECT e::float8 FROM jsonb_array_elements_text(v.row -> 'edges') e) END AS edges
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'variables') v(row) WHERE m.stage = 'segment';
    COMMENT ON VIEW coupon.segment_variables IS 'The variables of each version''s segments and the scale on which distances are measured';
    COMMENT ON COLUMN coupon.segment_variables.version IS 'The trained version';
    COMMENT ON COLUMN coupon.segment_variables.dimension IS 'spending, behaviour; recency, frequency, monetary';
    COMMENT ON COLUMN coupon.segment_variables.variable IS 'Name of the variable';
    COMMENT ON COLUMN coupon.segment_variables.expression IS 'What defines it; NULL for the six of the method';
    COMMENT ON COLUMN coupon.segment_variables.log IS 'Whether ln(1 + x) is taken, after clipping';
    COMMENT ON COLUMN coupon.segment_variables.low IS 'Smaller values count as this; NULL where none is clipped';
    COMMENT ON COLUMN coupon.segment_variables.high IS 'Larger values count as this; NULL where none is clipped';
    COMMENT ON COLUMN coupon.segment_variables.mean IS 'Mean on that scale, which standardising subtracts; NULL for fifths';
    COMMENT ON COLUMN coupon.segment_variables.std IS 'Standard deviation on that scale, by which it divides; 1 where nothing varies';
    COMMENT ON COLUMN coupon.segment_variables.edges IS 'What separates the fifths, in ascending order; NULL under other methods';

    CREATE VIEW coupon.elbow AS
    SELECT m.version, e.row ->> 'dimension' AS dimension, (e.row ->> 'k')::int AS k,
        (e.row ->> 'inertia')::float8 AS inertia, (e.row ->> 'silhouette')::float8 AS silhouette,
        (e.row ->> 'chosen')::boolean AS chosen, e.row ->> 'reason' AS reason
    FROM coupon.model m CROSS JOIN LATERAL jsonb_array_elements(m.card -> 'elbow') e(row) WHERE m.stage = 'segment';
    COMMENT ON VIEW coupon.elbow IS 'How well 1, 2, … clusters fit in each dimension, and which number was chosen';
    COMMENT ON COLUMN coupon.elbow.version IS 'The trained version';
    COMMENT ON COLUMN coupon.elbow.dimension IS 'spending or behaviour';
    COMMENT ON COLUMN coupon.elbow.k IS 'Number of clusters';
    COMMENT ON COLUMN coupon.elbow.inertia IS 'Sum of squared distances to the nearest centre, in standard deviations';
    COMMENT ON COLUMN coupon.elbow.silhouette IS 'Mean silhouette of at most 1,000 customers, from -1 to 1; NULL for one cluster; a second opinion that decides nothing';
    COMMENT ON COLUMN coupon.elbow.chosen IS 'Whether this number of clusters was taken';
    COMMENT ON COLUMN coupon.elbow.reason IS 'How far the inertia lies below the straight line from the first to the last: the furthest is the elbow';

    CREATE VIEW coupon.segment_changes AS
    SELECT c.customer, c.version, c.previous_segment AS from_segment, f.name AS from_name, c.segment AS to_segment,
        t.name AS to_name, c.moved_at AS at
    FROM coupon.customer c
    JOIN coupon.segments f ON f.version = c.version AND f.segment = c.previous_segment
    JOIN coupon.segments t ON t.version = c.version AND t.segment = c.segment;
    COMMENT ON VIEW coupon.segment_changes IS 'Customers whose segment changed between two refreshes under the same version, with their last move';
    COMMENT ON COLUMN coupon.segment_changes.customer IS 'The customer';
    COMMENT ON COLUMN coupon.segment_changes.version IS 'The version whose segments these are; a new version begins anew';
    COMMENT ON COLUMN coupon.segment_changes.from_segment IS 'The segment before';
    COMMENT ON COLUMN coupon.segment_changes.from_name IS 'Its name';
    COMMENT ON COLUMN coupon.segment_changes.to_segment IS 'The segment since';
    COMMENT ON COLUMN coupon.segment_changes.to_name IS 'Its name';
    COMMENT ON COLUMN coupon.segment_changes.at IS 'The day of the refresh that moved the customer';

    CREATE VIEW coupon.segment_statistics AS
    SELECT s.segment, v.variable, count(*) AS customers, avg(v.value) AS mean, stddev_samp(v.value) AS std,
        min(v.value) AS min, percentile_cont(0.25) WITHIN GROUP (ORDER BY v.value) AS p25,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY v.value) AS p50,
        percentile_cont(0.75) WITHIN GROUP (ORDER BY v.value) AS p75, max(v.value) AS max
    FROM coupon.customer c
    CROSS JOIN LATERAL (SELECT @extschema@.assign_segment(c.customer)) s(segment)
    CROSS JOIN LATERAL (VALUES ('spending_last_month', c.spending_last_month), ('average_payment', c.average_payment),
        ('items_per_purchase', c.items_per_purchase), ('searches_last_month', c.searches_last_month),
        ('stay_per_session', c.stay_per_session), ('visits_last_month', c.visits_last_month)
        UNION ALL SELECT key, value::float8 FROM jsonb_each_text(c.variables)) v(variable, value)
    GROUP BY s.segment, v.variable;
    COMMENT ON VIEW coupon.segment_statistics IS 'Distribution of the six loyalty variables, and of those that the specification defines, within each segment of the active version (Seo & Yoo 2022, table 6)';
    COMMENT ON COLUMN coupon.segment_statistics.segment IS 'Segment number under the active version; 0 = not known to it';
    COMMENT ON COLUMN coupon.segment_statistics.customers IS 'Customers in the segment';
    COMMENT ON COLUMN coupon.segment_statistics.mean IS 'Mean';
    COMMENT ON COLUMN coupon.segment_statistics.std IS 'Sample standard deviation';
    COMMENT ON COLUMN coupon.segment_statistics.min IS 'Smallest value';
    COMMENT ON COLUMN coupon.segment_statistics.p25 IS 'First quartile';
    COMMENT ON COLUMN coupon.segment_statistics.p75 IS 'Third quartile';
    COMMENT ON COLUMN coupon.segment_statistics.max IS 'Largest value';
    COMMENT ON COLUMN coupon.segment_statistics.variable IS 'Money in the shop''s currency, stay in seconds, the rest counts; over the window, 30 days by default';
    COMMENT ON COLUMN coupon.segment_statistics.p50 IS 'Median';

    CREATE VIEW coupon.conversion_by_scenario AS
    SELECT a.campaign, a.arm AS scenario, a.segments, a.policy <> 'random' AS churn_model,
        a.ranking = 'personal' AS personalised, coalesce(r.issued, 0) AS issued, r.issued_conversion,
        coalesce(r.not_issued, 0) AS not_issued, r.not_issued_conversion,
        coupon_internal.compute_growth(r.issued_conversion, r.not_issued_conversion) AS growth,
        r.issued::float8 / nullif(r.issued + r.not_issued, 0) AS issue_rate, false AS causal
    FROM coupon.arm a LEFT JOIN (
        SELECT c.campaign, g.arms[coupon.draw_arm(c.salt, g.shares, s.session)] AS arm,
            count(d.session) AS issued,
            avg(s.purchased::int) FILTER (WHERE d.session IS NOT NULL)::float8 AS issued_conversion,
            count(*) FILTER (WHERE d.session IS NULL) AS not_issued,
            avg(s.purchased::int) FILTER (WHERE d.session IS NULL)::float8 AS not_issued_conversion
        FROM coupon.campaign c
        CROSS JOIN LATERAL (SELECT array_agg(x.arm ORDER BY x.arm COLLATE "C") AS arms,
            array_agg(x.share ORDER BY x.arm COLLATE "C") AS shares
            FROM coupon.arm x WHERE x.campaign = c.campaign) g
        JOIN coupon.session s ON s.started_at >= c.live_since
        LEFT JOIN coupon.decision d ON d.session = s.session AND d.campaign = c.campaign AND d.outcome = 'issued'
        GROUP BY 1, 2) r USING (campaign, arm);
    COMMENT ON VIEW coupon.conversion_by_scenario IS 'Conversion of sessions given a coupon beside the others, by scenario, since the campaign went live (Seo & Yoo 2022, table 4)';
    COMMENT ON COLUMN coupon.conversion_by_scenario.campaign IS 'The campaign';
    COMMENT ON COLUMN coupon.conversion_by_scenario.scenario IS 'The arm of the campaign';
    COMMENT ON COLUMN coupon.conversion_by_scenario.segments IS 'Whether the session''s segment chose the churn model';
    COMMENT ON COLUMN coupon.conversion_by_scenario.churn_model IS 'Whether a churn model chose the sessions, or a coin';
    COMMENT ON COLUMN coupon.conversion_by_scenario.personalised IS 'Whether the category was chosen for the visitor, or is the best seller';
    COMMENT ON COLUMN coupon.conversion_by_scenario.issued IS 'Sessions of the arm that were issued a coupon';
    COMMENT ON COLUMN coupon.conversion_by_scenario.issued_conversion IS 'Share of them with a purchase';
    COMMENT ON COLUMN coupon.conversion_by_scenario.not_issued IS 'All other sessions of the arm since the campaign went live';
    COMMENT ON COLUMN coupon.conversion_by_scenario.not_issued_conversion IS 'Share of them with a purchase';
    COMMENT ON COLUMN coupon.conversion_by_scenario.issue_rate IS 'issued over all sessions of the arm';
    COMMENT ON COLUMN coupon.conversion_by_scenario.causal IS 'Always false: coupons go to chosen sessions, so this comparison is the papers'', not an effect';
    COMMENT ON COLUMN coupon.conversion_by_scenario.growth IS 'issued_conversion / not_issued_conversion - 1';

    CREATE VIEW coupon.estimated_sales AS
    SELECT v.campaign, v.scenario, v.issue_rate, v.growth, c.discount,
        CASE c.unit WHEN 'percent' THEN coupon_internal.compute_estimated_sales(v.issue_rate, v.growth, c.discount::float8 / 100) END
        AS sales, v.causal
    FROM coupon.conversion_by_scenario v JOIN coupon.campaign c USING (campaign);
    COMMENT ON VIEW coupon.estimated_sales IS 'Estimated sales index by scenario, 100 = without coupons (Seo & Yoo 2022, table 5)';
    COMMENT ON COLUMN coupon.estimated_sales.campaign IS 'The campaign';
    COMMENT ON COLUMN coupon.estimated_sales.scenario IS 'The arm of the campaign';
    COMMENT ON COLUMN coupon.estimated_sales.growth IS 'Conversion growth, issued over not issued, minus 1';
    COMMENT ON COLUMN coupon.estimated_sales.discount IS 'Discount, in percent or in money';
    COMMENT ON COLUMN coupon.estimated_sales.sales IS '100 * issue_rate * (1 + growth) * (1 - discount) + 100 * (1 - issue_rate); NULL where the discount is money';
    COMMENT ON COLUMN coupon.estimated_sales.causal IS 'Always false, as in conversion_by_scenario';
    COMMENT ON COLUMN coupon.estimated_sales.issue_rate IS 'Share of sessions given a coupon';

    CREATE VIEW coupon.budget AS
    SELECT c.campaign, s.unit, s.day, coalesce(p.granted, s.granted) AS granted, coalesce(p.available, s.granted) AS available,
        coalesce(k.reserved_amount, 0) AS reserved_amount, CASE s.unit WHEN 'coupons' THEN coalesce(k.coupons, 0) + coalesce(t.issued, 0)
            ELSE coalesce(k.spent, 0) + coalesce(t.spent, 0) END AS spent,
        CASE s.unit WHEN 'money' THEN c.currency END AS currency
    FROM coupon.campaign c
    CROSS JOIN LATERAL (VALUES ('money', NULL::date, c.budget), ('coupons', NULL, c.coupons),
        ('money', coupon_internal.get_budget_date(c.time_zone), c.budget_day),
        ('coupons', coupon_internal.get_budget_date(c.time_zone), c.coupons_day)) s(unit, day, granted)
    LEFT JOIN LATERAL (SELECT sum(u.amount) AS available, max(u.granted) AS granted FROM coupon.budget_bucket u
        WHERE u.campaign = c.campaign AND u.unit = s.unit AND u.day = coalesce(s.day, '-infinity')
        HAVING bool_or(u.is_marker)) p ON true
    LEFT JOIN LATERAL (SELECT count(*) AS coupons, CASE s.unit WHEN 'money' THEN sum(u.reserved_amount) END AS reserved_amount,
            sum(u.discount_amount) FILTER (WHERE u.state = 'redeemed') AS spent FROM coupon.coupon u
        WHERE u.campaign = c.campaign AND (s.day IS NULL OR u.budget_day = s.day)) k ON true
    LEFT JOIN LATERAL (SELECT sum(u.issued) AS issued, sum(u.spent) AS spent FROM coupon.archived_total u
        WHERE u.campaign = c.campaign AND (s.day IS NULL OR u.day = s.day)) t ON true
    WHERE s.granted IS NOT NULL;
    COMMENT ON VIEW coupon.budget IS 'The state of every budget of a campaign: granted = available + reserved_amount + spent, at every instant';
    COMMENT ON COLUMN coupon.budget.campaign IS 'The campaign';
    COMMENT ON COLUMN coupon.budget.unit IS 'money, or the number of coupons';
    COMMENT ON COLUMN coupon.budget.day IS 'Today in the campaign''s time zone; NULL: the whole campaign';
    COMMENT ON COLUMN coupon.budget.granted IS 'The budget';
    COMMENT ON COLUMN coupon.budget.available IS 'What can still be given';
    COMMENT ON COLUMN coupon.budget.reserved_amount IS 'Worst case of the coupons that are out';
    COMMENT ON COLUMN coupon.budget.spent IS 'Taken off orders; or coupons issued';
    COMMENT ON COLUMN coupon.budget.currency IS 'Currency of money';

    CREATE VIEW coupon.best_trial AS
    SELECT t.study, t.trials, t.failed, t.at, b.trial, b.spec, b.loss, b.auroc, b.since, b.until, b.seed
    FROM (SELECT study, count(*) AS trials, count(*) FILTER (WHERE loss IS NULL) AS failed, max(at) AS at
        FROM coupon.tuning GROUP BY study) t
    CROSS JOIN LATERAL (SELECT * FROM coupon.tuning u WHERE u.study = t.study AND u.loss IS NOT NULL
        ORDER BY u.loss, u.trial LIMIT 1) b;
    COMMENT ON VIEW coupon.best_trial IS 'The trial of each study with the smallest log loss; coupon.train takes its spec';
    COMMENT ON COLUMN coupon.best_trial.study IS 'The study';
    COMMENT ON COLUMN coupon.best_trial.trials IS 'Its trials so far';
    COMMENT ON COLUMN coupon.best_trial.failed IS 'Those of them that gave no loss';
    COMMENT ON COLUMN coupon.best_trial.at IS 'When its last trial ended';
    COMMENT ON COLUMN coupon.best_trial.trial IS 'The best trial''s number';
    COMMENT ON COLUMN coupon.best_trial.spec IS 'Its specification, as coupon.train takes it';
    COMMENT ON COLUMN coupon.best_trial.loss IS 'Its log loss on the validation window, which chose it: coupon.model_metrics evaluates what is trained with it';
    COMMENT ON COLUMN coupon.best_trial.auroc IS 'Its area under the ROC curve on the validation window';
    COMMENT ON COLUMN coupon.best_trial.since IS 'Start of the log it was tried on';
    COMMENT ON COLUMN coupon.best_trial.until IS 'End of the log it was tried on';
    COMMENT ON COLUMN coupon.best_trial.seed IS 'Its seed';

    CREATE VIEW coupon.access AS
    SELECT coalesce(r.rolname::text, g.role) AS role, g.access, g.granted_by, g.at, p.problem IS NULL AS holds, p.problem
    FROM coupon.role_access g CROSS JOIN pg_control_system() c
    LEFT JOIN pg_roles r ON CASE WHEN g.cluster = c.system_identifier THEN r.oid = g.number ELSE r.rolname = g.role END
    CROSS JOIN LATERAL (SELECT coalesce(coupon_internal.list_missing_rights(r.oid, g.access), '{}') AS missing) m
    CROSS JOIN LATERAL (SELECT CASE WHEN r.oid IS NULL THEN 'the role does not exist'
        WHEN m.missing <> '{}' THEN format('%s of its rights are missing: %s', cardinality(m.missing),
            array_to_string(m.missing[1:3], ', ') || CASE WHEN cardinality(m.missing) > 3 THEN ', …' ELSE '' END) END) p(problem);
    COMMENT ON VIEW coupon.access IS 'Who may do what: every access that coupon.grant_access() gave, and whether the catalogue still says so';
    COMMENT ON COLUMN coupon.access.role IS 'The role, by its present name';
    COMMENT ON COLUMN coupon.access.access IS 'operator, marketer, application or analyst';
    COMMENT ON COLUMN coupon.access.granted_by IS 'The role that was logged in';
    COMMENT ON COLUMN coupon.access.at IS 'When';
    COMMENT ON COLUMN coupon.access.holds IS 'Whether the role has all the rights, whoever gave them';
    COMMENT ON COLUMN coupon.access.problem IS 'What is missing; SELECT coupon.create_storage() grants it again, coupon.revoke_access(NULL) forgets roles that are gone';

    FOREACH name IN ARRAY grants LOOP
        EXECUTE name;
    END LOOP;
END
$$;
COMMENT ON FUNCTION coupon_internal.create_views() IS 'Makes the views of results again, with their grants; called by create_storage';
