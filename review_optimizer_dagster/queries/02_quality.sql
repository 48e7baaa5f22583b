-- Question: How good are the labels, and how sure is that?
-- One row: a tenant and taxonomy, on its newest judged day.
-- Read: with 90 % the accuracy of the day is between lower and upper; truth says what it was measured
--   against. standing_lower is the least accuracy over all days so far (95 %, at every look).
--   weak_parts are classes, categories and levels that are below what the tenant asks for.
-- Parameters: day (default: the newest day of each tenant)
SELECT q.day, q.tenant, q.taxonomy, q.simulated, q.verdict, q.truth, q.n, q.correct, q.accuracy,
    q.lower, q.upper, q.threshold, q.needed, q.standing_days, q.standing_texts, q.standing_lower,
    q.standing_upper, p.weak_parts
FROM daily_quality q
LEFT JOIN (
    SELECT day, tenant, taxonomy, truth,
        string_agg(dimension || ' ' || name, ', ' ORDER BY accuracy) AS weak_parts
    FROM accuracy_by_part WHERE below GROUP BY ALL) p USING (day, tenant, taxonomy, truth)
WHERE getvariable('day') IS NULL OR q.day = getvariable('day')::DATE
QUALIFY row_number() OVER (
    PARTITION BY q.tenant, q.taxonomy, q.simulated ORDER BY q.day DESC) = 1
ORDER BY q.accuracy NULLS FIRST, q.tenant, q.taxonomy;
