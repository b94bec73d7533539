-- rank: the categories a visitor is most likely to want.
CREATE FUNCTION @extschema@.rank_categories(customer text, session text DEFAULT NULL, k int DEFAULT 10)
    RETURNS TABLE (rank int, category text, score float8, collaborative float8, content float8, alpha float8)
LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rank_categories_wrapper';
COMMENT ON FUNCTION @extschema@.rank_categories(text, text, int) IS 'Categories by hybrid score, (1 - alpha) * collaborative + alpha * content; a NULL customer is anonymous';

