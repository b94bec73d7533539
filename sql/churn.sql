-- churn: the probability that a session ends without a purchase.
CREATE FUNCTION @extschema@.churn_probability(session text) RETURNS float8
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('coupon.session') IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT s.churn FROM coupon.session s WHERE s.session = $1
            AND NOT EXISTS (SELECT FROM coupon.missed_click g WHERE g.session = $1));
END
$$;
COMMENT ON FUNCTION @extschema@.churn_probability(text) IS 'Of a live session, after its last click, from its stored state; NULL when it is unknown, began before there was a model, or missed a click';

CREATE FUNCTION @extschema@.churn_probability(segment int, page_views coupon.page_view[]) RETURNS float8
LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'churn_of_views_wrapper';
COMMENT ON FUNCTION @extschema@.churn_probability(int, coupon.page_view[]) IS 'Of any array of page views under the active version: the same routine as live, from the start; segment 0 = unknown';

CREATE FUNCTION coupon.evaluate_churn(since timestamptz, until timestamptz)
    RETURNS TABLE (population text, model text, segment int, sessions bigint, predictions bigint, buyers bigint,
        base_rate float8, auroc float8, auprc float8, brier float8, log_loss float8, ece float8, slope float8,
        intercept float8, accuracy float8, majority float8)
LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'evaluate_churn_wrapper';
COMMENT ON FUNCTION coupon.evaluate_churn(timestamptz, timestamptz) IS 'Judges the active version on the closed sessions of any window: the rows of coupon.model_metrics, with the networks that serve';
