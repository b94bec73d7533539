-- Tuning: the churn specification's numbers, searched by Bayesian optimisation.
CREATE TYPE coupon.trial AS (
    study text, trial int, spec jsonb, loss float8, auroc float8, epochs int, seconds float8, best boolean, note text);
COMMENT ON TYPE coupon.trial IS 'One specification tried: what it gave on the validation window, and whether it was the best of its study so far';

CREATE FUNCTION coupon_internal.run_tuning(trials int, since timestamptz, until timestamptz, spec jsonb, seed bigint)
    RETURNS SETOF coupon.trial
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'run_tuning_wrapper';
COMMENT ON FUNCTION coupon_internal.run_tuning(int, timestamptz, timestamptz, jsonb, bigint) IS 'What coupon.tune_churn calls';

CREATE FUNCTION coupon.tune_churn(trials int DEFAULT 20, since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT now(),
    spec jsonb DEFAULT '{}', seed bigint DEFAULT 0) RETURNS SETOF coupon.trial
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM coupon_internal.run_tuning(coalesce($1, 20), coalesce($2, ''-infinity''), coalesce($3, now()),
    coalesce($4, ''{}''), coalesce($5, 0))';
COMMENT ON FUNCTION coupon.tune_churn(int, timestamptz, timestamptz, jsonb, bigint) IS 'Tries so many specifications of the churn model on the log in [since, until), a row a trial, after the stored trials of the same log, specification and seed';

-- A procedure, because a function's trials are all of one transaction: a cancelled night would lose them.
CREATE PROCEDURE coupon.tune(trials int DEFAULT 20, since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT now(),
    spec jsonb DEFAULT '{}', seed bigint DEFAULT 0)
LANGUAGE plpgsql AS $$
DECLARE
    tried coupon.trial;
BEGIN
    -- now() moves with every commit; the study is of one window.
    until := coalesce(until, pg_catalog.now());
    FOR i IN 1..coalesce(trials, 20) LOOP
        SELECT * INTO tried FROM coupon.tune_churn(1, since, until, spec, seed);
        EXIT WHEN tried.trial IS NULL;
        COMMIT;
        RAISE NOTICE 'coupon_ext: trial %: log loss %, %', tried.trial, coalesce(tried.loss::pg_catalog.text, tried.note),
            tried.spec OPERATOR(pg_catalog.->) 'churn';
    END LOOP;
END
$$;
COMMENT ON PROCEDURE coupon.tune(int, timestamptz, timestamptz, jsonb, bigint) IS 'coupon.tune_churn with a commit after every trial: what a cancelled night has finished is kept, and the next call goes on after it';
