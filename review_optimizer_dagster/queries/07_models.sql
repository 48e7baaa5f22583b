-- Question: What did each step of the ladder of models cost, how fast was it, and when slow?
-- One row: a step of the ladder and model, the cheapest first; embeddings have no step.
-- Read: usd_per_1000 is per 1,000 valid answers. Response times are of requests that were answered one
--   by one. slow_share is of requests that took much longer than their size predicts; worst_day is the
--   day with the largest median of response time over what was expected (worst_slowdown; 1 is as ever).
-- Parameters: days (default: 28, up to the newest), tenant (default: all)
WITH requests AS (
    SELECT * FROM fact_requests
    WHERE day > (SELECT max(day) FROM fact_requests) - coalesce(getvariable('days')::INTEGER, 28)
        AND tenant = coalesce(getvariable('tenant'), tenant)),
days AS (
    SELECT tier, model, simulated, day, median(latency_ms / expected_ms) AS slowdown
    FROM requests WHERE expected_ms > 0 GROUP BY ALL),
worst AS (
    SELECT tier, model, simulated, arg_max(day, slowdown) AS worst_day,
        max(slowdown) AS worst_slowdown
    FROM days GROUP BY ALL)
SELECT r.tier, r.model, r.simulated, sum(r.requests)::BIGINT AS requests,
    sum(r.reviews_asked)::BIGINT AS asked, sum(r.reviews_answered)::BIGINT AS answered,
    sum(r.reviews_escalated)::BIGINT AS escalated, sum(r.cost_usd) AS cost_usd,
    sum(r.cost_usd) / nullif(sum(sum(r.cost_usd)) OVER (PARTITION BY r.simulated), 0) AS cost_share,
    1000 * sum(r.cost_usd) / nullif(sum(r.reviews_answered), 0) AS usd_per_1000,
    quantile_cont(r.latency_ms, 0.5) FILTER (WHERE r.status IN ('ok', 'partial', 'invalid'))
        AS latency_p50_ms,
    quantile_cont(r.latency_ms, 0.95) FILTER (WHERE r.status IN ('ok', 'partial', 'invalid'))
        AS latency_p95_ms,
    sum(r.slow) / nullif(sum(r.latency_judged), 0) AS slow_share, w.worst_day, w.worst_slowdown
FROM requests r
LEFT JOIN worst w ON w.tier IS NOT DISTINCT FROM r.tier AND w.model = r.model
    AND w.simulated = r.simulated
GROUP BY r.tier, r.model, r.simulated, w.worst_day, w.worst_slowdown
ORDER BY usd_per_1000 NULLS LAST, r.tier, r.model;
