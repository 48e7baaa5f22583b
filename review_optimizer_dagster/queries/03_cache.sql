-- Question: What share was served from the cache, by which level, and how wrong is each level?
-- One row: a tenant and level.
-- Read: shares of a tenant add up to 1. rechecked counts hits that were asked of the model at random,
--   contradicted those that it answered otherwise; with 90 % the level errs between error_lower and
--   error_upper. Null: none was rechecked (the model is not rechecked: 02_quality).
-- Parameters: days (default: 28, up to the newest), tenant (default: all)
WITH served AS (
    SELECT tenant, simulated, level, sum(reviews)::BIGINT AS reviews, sum(cost_usd) AS cost_usd
    FROM fact_reviews
    WHERE day > (SELECT last_day FROM about) - coalesce(getvariable('days')::INTEGER, 28)
        AND tenant = coalesce(getvariable('tenant'), tenant)
    GROUP BY ALL),
errors AS (
    SELECT * FROM cache_errors WHERE class = ''
    QUALIFY row_number() OVER (
        PARTITION BY tenant, simulated, level ORDER BY day DESC, n DESC, identity) = 1)
SELECT s.tenant, s.simulated, s.level, d.name, s.reviews,
    s.reviews / sum(s.reviews) OVER (PARTITION BY s.tenant, s.simulated) AS share,
    s.cost_usd, e.n AS rechecked, e.disagreements AS contradicted, e.share AS error_share,
    e.lower AS error_lower, e.upper AS error_upper
FROM served s JOIN dim_level d USING (level)
LEFT JOIN errors e USING (tenant, simulated, level)
ORDER BY s.tenant, s.simulated, d.level_order;
