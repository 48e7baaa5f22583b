-- Question: What did each tenant cost this month, against the baseline and the budget?
-- One row: a tenant (simulated money apart).
-- Read: saved_share is against one large model for every labelled review, cache_saved_share against
--   the same models without a cache. The month will end at expected_usd, between lower_usd and
--   upper_usd with 90 %. Budgets are null where a tenant has none for a month.
-- Parameters: month, such as 2026-11 (default: the newest month)
WITH chosen AS (
    SELECT coalesce((left(getvariable('month')::VARCHAR, 7) || '-01')::DATE, max(month)) AS month
    FROM monthly_costs),
forecast AS (
    SELECT * FROM spend_forecast
    QUALIFY row_number() OVER (PARTITION BY tenant, simulated, month ORDER BY day DESC) = 1)
SELECT m.month, m.tenant, m.simulated, max(m.days) AS days, sum(m.reviews)::BIGINT AS reviews,
    sum(m.hits) / nullif(sum(m.reviews), 0) AS hit_rate,
    sum(m.cost_usd) AS cost_usd, sum(m.baseline_usd) AS baseline_usd,
    1 - sum(m.cost_usd) / nullif(sum(m.baseline_usd), 0) AS saved_share,
    1 - sum(m.cost_usd) / nullif(sum(m.no_cache_usd), 0) AS cache_saved_share,
    any_value(f.budget_usd) AS budget_usd,
    sum(m.cost_usd) / nullif(any_value(f.budget_usd), 0) AS budget_used_share,
    any_value(f.expected_usd) AS expected_usd, any_value(f.lower_usd) AS lower_usd,
    any_value(f.upper_usd) AS upper_usd
FROM monthly_costs m JOIN chosen USING (month)
LEFT JOIN forecast f ON f.tenant = m.tenant AND f.simulated = m.simulated
    AND f.month = strftime(m.month, '%Y-%m')
GROUP BY m.month, m.tenant, m.simulated
ORDER BY cost_usd DESC, m.tenant;
