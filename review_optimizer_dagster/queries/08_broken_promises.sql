-- Question: Which promises were broken?
-- One row: a tenant and promise; those with the least error budget left first.
-- Read: of days_judged days, days_broken did not keep it; last_broken says when last, value_then and
--   target_then by how much, and detail in words. left_days may still be broken in the window of
--   window_days; below 0, more was spent than there was. Indicator all: days that broke any promise.
-- Parameters: days (default: 28, up to the newest), tenant (default: all), kept (true: show those
--   that were never broken too; default: false)
WITH levels AS (
    SELECT * FROM service_levels_daily
    WHERE day > (SELECT max(day) FROM service_levels_daily)
            - coalesce(getvariable('days')::INTEGER, 28)
        AND tenant = coalesce(getvariable('tenant'), tenant) AND verdict <> 'not promised'),
counts AS (
    SELECT tenant, simulated, indicator,
        count(*) FILTER (WHERE verdict IN ('met', 'broken')) AS days_judged,
        count(*) FILTER (WHERE verdict = 'broken') AS days_broken,
        max(day) FILTER (WHERE verdict = 'broken') AS last_broken
    FROM levels GROUP BY ALL),
budgets AS (
    SELECT * FROM error_budgets
    QUALIFY row_number() OVER (PARTITION BY tenant, simulated, indicator ORDER BY day DESC) = 1)
SELECT c.tenant, c.simulated, c.indicator, c.days_judged, c.days_broken, c.last_broken,
    l.value AS value_then, l.target AS target_then, b.window_days, b.budget_days, b.left_days,
    b.burn_rate, l.detail
FROM counts c
LEFT JOIN levels l ON l.tenant = c.tenant AND l.simulated = c.simulated
    AND l.indicator = c.indicator AND l.day = c.last_broken
LEFT JOIN budgets b ON b.tenant = c.tenant AND b.simulated = c.simulated
    AND b.indicator = c.indicator
WHERE c.days_broken > 0 OR coalesce(getvariable('kept')::BOOLEAN, false)
ORDER BY b.left_days NULLS LAST, c.tenant, c.indicator;
