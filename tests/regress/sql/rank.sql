-- rank: categories by hybrid score, beside plain SQL: history and running session are shares that SQL can count.
-- needs: visited
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET client_min_messages = warning;

-- For every customer: ranks in order, shares that sum to 1, and the formula.
CREATE TABLE ranked AS SELECT c.customer, r.*, c.categories, c.lines FROM coupon.customer c CROSS
    JOIN LATERAL rank_categories(c.customer, NULL, 1000) r;
SELECT count(DISTINCT customer) = (SELECT count(*) FROM coupon.customer) AS everybody,
    count(*) = count(DISTINCT customer) * count(DISTINCT category) AS every_category,
    count(*) = count(DISTINCT (customer, rank)) AND min(rank) = 1 AND max(rank) = count(DISTINCT category) AS numbered,
    count(*) FILTER (WHERE abs(score - ((1 - alpha) * collaborative + alpha * content)) > 1e-12) AS formula,
        count(*) FILTER (WHERE alpha < 0 OR alpha > 1) AS alpha,
    count(*) FILTER (WHERE least(score, collaborative, content) < 0) AS negative FROM ranked;
SELECT count(*) AS out_of_order FROM (SELECT score, category, lag(score) OVER w AS before,
    lag(category) OVER w AS category_before FROM ranked WINDOW w AS (PARTITION BY customer ORDER BY rank)) r
WHERE score > before OR score = before AND category COLLATE "C" < category_before COLLATE "C";
SELECT count(*) FILTER (WHERE abs(score - 1) > 1e-9) AS scores,
    count(*) FILTER (WHERE abs(collaborative - 1) > 1e-9) AS collaborative,
    count(*) FILTER (WHERE abs(content - 1) > 1e-9) AS content
FROM (SELECT sum(score) AS score, sum(collaborative) AS collaborative, sum(content) AS content FROM ranked
    GROUP BY customer) s;
SELECT count(*) AS segments_with_two_alphas
    FROM (SELECT FROM ranked GROUP BY assign_segment(customer) HAVING count(DISTINCT alpha) > 1) s;
-- The candidates are the shop's categories: fewer than the 256 that are kept.
SELECT count(*) FILTER (WHERE r.category IS NULL OR c.category IS NULL) AS differ
    FROM (SELECT DISTINCT category FROM ranked) r FULL
    JOIN (SELECT DISTINCT category FROM coupon.click WHERE category IS NOT NULL
    AND at < '2026-02-01') c USING (category);

-- Content of a customer with a history and no session: the shares of the order lines.
SELECT count(DISTINCT r.customer) > 20 AS dozens,
    count(*) FILTER (WHERE abs(r.content - coalesce(l.n, 0) / t.total) > 1e-9) AS differ
FROM ranked r CROSS JOIN LATERAL (SELECT sum(n) AS total FROM unnest(r.lines) n) t LEFT
    JOIN LATERAL (SELECT n FROM unnest(r.categories, r.lines) u(category, n) WHERE u.category = r.category) l ON true
WHERE cardinality(r.lines) > 0;
-- Collaborative never recommends by itself alone: where all lines are in one category, that category has no part in it.
SELECT count(*) AS recommended_by_itself FROM ranked WHERE cardinality(lines) = 1 AND category = categories[1]
    AND collaborative > 0
    AND EXISTS (SELECT FROM ranked o WHERE o.customer = ranked.customer AND o.category <> ranked.category
        AND o.collaborative > 0)
    AND collaborative <> (SELECT p.collaborative FROM rank_categories(NULL, NULL, 1000) p
        WHERE p.category = ranked.category);
-- Without a history everybody of a segment gets its popularity, in both parts.
SELECT count(*) FILTER (WHERE content <> collaborative) AS parts_differ,
    count(DISTINCT (assign_segment(customer), category, score))
    = count(DISTINCT (assign_segment(customer), category)) AS same_for_all
FROM ranked WHERE cardinality(lines) = 0;

-- A running session: an anonymous visitor's content is what the session looked at, the latest weighing most (a half, a
-- quarter, …).
CREATE FUNCTION looked_at(session text) RETURNS TABLE (category text, share float8) LANGUAGE sql AS $$
    WITH v AS (SELECT category, row_number() OVER (ORDER BY n DESC) AS back
        FROM (SELECT e.category, e.kind, row_number() OVER () AS n FROM coupon.session_events(looked_at.session) e) e
               WHERE category IS NOT NULL AND kind NOT IN ('checkout', 'purchase'))
    SELECT category, sum(0.5 ^ back) / sum(sum(0.5 ^ back)) OVER () FROM v GROUP BY category
$$;
SELECT count(DISTINCT session) > 20 AS dozens, max(abs(r.content - coalesce(l.share, 0))) < 1e-6 AS alike
FROM (SELECT session FROM coupon.session s WHERE version = 2 AND customer IS NULL AND NOT ended AND views BETWEEN 3
    AND 30 AND EXISTS (SELECT FROM looked_at(s.session)) ORDER BY session LIMIT 40) s
CROSS JOIN LATERAL rank_categories(NULL, s.session, 1000) r LEFT
    JOIN LATERAL (SELECT share FROM looked_at(s.session) l WHERE l.category = r.category) l ON true;
-- With a history both are mixed, by one weight for all.
WITH m AS (SELECT s.session, r.category, r.content, h.content AS history, coalesce(l.share, 0) AS share
    FROM (SELECT s.session, s.customer FROM coupon.session s JOIN coupon.customer c USING (customer)
        WHERE s.version = 2 AND cardinality(c.lines) > 0 AND views > 2 AND EXISTS (SELECT FROM looked_at(s.session))
        ORDER BY 1 LIMIT 20) s
    CROSS JOIN LATERAL rank_categories(s.customer, s.session, 1000) r
        JOIN LATERAL rank_categories(s.customer, NULL, 1000) h USING (category) LEFT
        JOIN LATERAL (SELECT share FROM looked_at(s.session) l WHERE l.category = r.category) l ON true),
w AS (SELECT (content - history) / (share - history) AS w FROM m WHERE abs(share - history) > 0.05)
SELECT count(*) > 20 AS dozens, max(w) - min(w) < 1e-4 AS one_weight, min(w) BETWEEN 0 AND 1 AS a_share FROM w;
-- A session without views of a category, one that is unknown and one of another version say nothing.
SELECT count(*) AS differ FROM (SELECT * FROM rank_categories(NULL, 'nobody') EXCEPT SELECT *
    FROM rank_categories(NULL)) d;
SELECT count(*) AS differ FROM (SELECT r.* FROM coupon.session s, rank_categories(NULL, s.session) r
    WHERE s.version IS NULL AND s.session = (SELECT min(session) FROM coupon.session WHERE version IS NULL)
    EXCEPT SELECT * FROM rank_categories(NULL)) d;

-- k, NULL and unknown arguments.
SELECT count(*) AS ten FROM rank_categories('nobody');
SELECT count(*) AS ten FROM rank_categories('nobody', NULL, NULL);
SELECT count(*) AS three FROM rank_categories(NULL, NULL, 3);
SELECT count(*) AS none FROM rank_categories('nobody', NULL, 0);
SELECT refused('SELECT * FROM rank_categories(''nobody'', NULL, -1)');
SELECT count(*) AS differ FROM (SELECT * FROM rank_categories('nobody') EXCEPT SELECT * FROM rank_categories(NULL)) d;
SELECT count(*) AS first_k_of_all FROM (SELECT * FROM rank_categories(NULL, NULL, 3) EXCEPT SELECT *
    FROM rank_categories(NULL, NULL, 1000) WHERE rank <= 3) d;
DROP TABLE ranked;

-- What this story left in the log of faults: nothing.
SELECT sqlstate, message FROM coupon.error_log;
