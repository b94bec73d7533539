-- Training all stages, and which version serves.
CREATE FUNCTION coupon_internal.run_training(stages text, since timestamptz, until timestamptz, spec jsonb, seed bigint)
    RETURNS SETOF coupon.training_step
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'run_training_wrapper';
COMMENT ON FUNCTION coupon_internal.run_training(text, timestamptz, timestamptz, jsonb, bigint) IS 'What coupon.train, train_churn and train_ranking call';

CREATE FUNCTION coupon.train(since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT now(),
    spec jsonb DEFAULT '{}', seed bigint DEFAULT 0) RETURNS SETOF coupon.training_step
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM coupon_internal.run_training(''all'', coalesce($1, ''-infinity''), coalesce($2, now()),
    coalesce($3, ''{}''), coalesce($4, 0))';
COMMENT ON FUNCTION coupon.train(timestamptz, timestamptz, jsonb, bigint) IS 'Trains segments, churn, ranking and thresholds on the log in [since, until) and activates the result if it passes the gate';

CREATE FUNCTION coupon.train_churn(since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT now(),
    spec jsonb DEFAULT '{}', seed bigint DEFAULT 0) RETURNS SETOF coupon.training_step
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM coupon_internal.run_training(''churn'', coalesce($1, ''-infinity''), coalesce($2, now()),
    coalesce($3, ''{}''), coalesce($4, 0))';
COMMENT ON FUNCTION coupon.train_churn(timestamptz, timestamptz, jsonb, bigint) IS 'Trains the churn models on the active version''s segments into a new version, a row per segment and epoch';

CREATE FUNCTION coupon.train_ranking(since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT now(),
    spec jsonb DEFAULT '{}', seed bigint DEFAULT 0) RETURNS SETOF coupon.training_step
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM coupon_internal.run_training(''ranking'', coalesce($1, ''-infinity''), coalesce($2, now()),
    coalesce($3, ''{}''), coalesce($4, 0))';
COMMENT ON FUNCTION coupon.train_ranking(timestamptz, timestamptz, jsonb, bigint) IS 'Trains the recommender into a new version; segments and churn are taken over from the active one';

CREATE FUNCTION coupon.activate(version bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM coupon_internal.require_storage();
    IF NOT EXISTS (SELECT FROM coupon.version v WHERE v.version = activate.version AND v.dropped_at IS NULL) THEN
        RAISE EXCEPTION 'there is no version %', version USING ERRCODE = 'undefined_object',
            HINT = 'SELECT version, at FROM coupon.version WHERE dropped_at IS NULL shows what there is.';
    ELSIF NOT EXISTS (SELECT FROM coupon.model m WHERE m.version = activate.version) THEN
        RAISE EXCEPTION 'version % has no models', version USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Train one, or import it again: SELECT coupon.import_model(artefact).';
    END IF;
    INSERT INTO coupon.deployment (version, reason) VALUES (activate.version, 'activated');
END
$$;
COMMENT ON FUNCTION coupon.activate(bigint) IS 'Makes a version serve new sessions; running ones finish with theirs';

CREATE FUNCTION coupon.rollback() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    active record;
    earlier record;
BEGIN
    PERFORM coupon_internal.require_storage();
    SELECT d.version, coalesce(d.restores, d.id) AS place INTO active
    FROM coupon.deployment d ORDER BY d.id DESC LIMIT 1;
    -- What served before that place in history; going back twice goes back two steps.
    SELECT d.version, d.id INTO earlier FROM coupon.deployment d
    WHERE d.id < active.place AND d.restores IS NULL AND d.version <> active.version
        AND EXISTS (SELECT FROM coupon.model m WHERE m.version = d.version) ORDER BY d.id DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no earlier version to roll back to'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'SELECT * FROM coupon.deployment shows which versions have served.';
    END IF;
    INSERT INTO coupon.deployment (version, reason, restores)
    VALUES (earlier.version, format('rolled back from %s', active.version), earlier.id);
    RETURN earlier.version;
END
$$;
COMMENT ON FUNCTION coupon.rollback() IS 'Makes the version that served before the active one serve again; returns it';

CREATE FUNCTION coupon.export_model(version bigint) RETURNS bytea
LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'export_model_wrapper';
COMMENT ON FUNCTION coupon.export_model(bigint) IS 'A version as one file (safetensors) for coupon.import_model() on another server; the same version always gives the same bytes';

CREATE FUNCTION coupon.import_model(artefact bytea) RETURNS bigint
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'import_model_wrapper';
COMMENT ON FUNCTION coupon.import_model(bytea) IS 'Stores what coupon.export_model() gave and returns its version here, which serves once coupon.activate() says so; a version that is here already is not stored again';
