-- Question: Which categories or products turn negative?
-- One row: a tenant and category (or product), the largest change first.
-- Read: share is how many of the last days' reviews have the label, share_before how many of the four
--   weeks before them; z is the change over its chance error. Reviews of a day resemble each other:
--   take z under 3 for noise, and see 09_what_changed, which allows for that.
-- Parameters: field (default: sentiment), label (default: negative), part (category or product;
--   default: category), days (default: 7), least (reviews that each span must have; default: 30)
WITH spans AS (
    SELECT tenant, simulated, label,
        CASE WHEN getvariable('part') = 'product' THEN product_id ELSE category END AS part,
        day > (SELECT last_day FROM about) - coalesce(getvariable('days')::INTEGER, 7) AS is_recent
    FROM fact_labels
    WHERE field = coalesce(getvariable('field'), 'sentiment')
        AND day > (SELECT last_day FROM about) - coalesce(getvariable('days')::INTEGER, 7) - 28),
counts AS (
    SELECT tenant, simulated, part,
        count(*) FILTER (WHERE is_recent) AS n,
        count(*) FILTER (WHERE is_recent AND label = coalesce(getvariable('label'), 'negative')) AS k,
        count(*) FILTER (WHERE NOT is_recent) AS n_before,
        count(*) FILTER (
            WHERE NOT is_recent AND label = coalesce(getvariable('label'), 'negative')) AS k_before
    FROM spans WHERE part IS NOT NULL GROUP BY ALL)
SELECT tenant, simulated, part, n AS reviews, k / n AS share, n_before AS reviews_before,
    k_before / n_before AS share_before, k / n - k_before / n_before AS change,
    (k / n - k_before / n_before) / nullif(sqrt(
        (k + k_before) / (n + n_before) * (1 - (k + k_before) / (n + n_before))
        * (1 / n + 1 / n_before)), 0) AS z
FROM counts
WHERE least(n, n_before) >= greatest(1, coalesce(getvariable('least')::INTEGER, 30))
ORDER BY z DESC NULLS LAST, tenant, part;
