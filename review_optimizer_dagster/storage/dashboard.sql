-- What the dashboard reads from analytics.duckdb: a query a table, under its name.
-- {who} is the name a row is shown under, {whom} which rows count; a query with {whom} is read
-- twice: for each tenant, and for all of them together, since quantiles and peaks do not add up.
-- $first and $last are the days of the page.

-- name: costs
SELECT {who}, day, sum(reviews)::BIGINT AS reviews, sum(hits)::BIGINT AS hits,
    sum(deferred)::BIGINT AS deferred, sum(cost_usd) AS cost_usd,
    sum(no_cache_usd) AS no_cache_usd, sum(baseline_usd) AS baseline_usd
FROM daily_costs WHERE day BETWEEN $first AND $last GROUP BY ALL;

-- name: budgets
SELECT {who}, day, period, budget_usd, spent_usd, held_usd, gone_share,
    array_to_string(thresholds, ',') AS thresholds
FROM budget_burn WHERE day BETWEEN $first AND $last;

-- name: forecasts
SELECT {who}, day, month, spent_usd, expected_usd, lower_usd, upper_usd, budget_usd
FROM spend_forecast WHERE day BETWEEN $first AND $last
QUALIFY row_number() OVER (PARTITION BY who ORDER BY day DESC) = 1;

-- name: promises
SELECT {who}, indicator, verdict, target, value, n, detail,
    left_days, budget_days, burn_rate, days_broken, days_judged
FROM service_levels_daily LEFT JOIN error_budgets
    USING (day, tenant, simulated, indicator)
WHERE day = $last;

-- name: service
SELECT {who}, day, d.verdict, left_days, budget_days, burn_rate
FROM service_levels_daily d JOIN error_budgets USING (day, tenant, simulated, indicator)
WHERE indicator = 'all' AND day BETWEEN $first AND $last;

-- name: levels
SELECT {who}, day, level, sum(reviews)::BIGINT AS reviews
FROM cache_levels WHERE day BETWEEN $first AND $last GROUP BY ALL;

-- name: categories
WITH counted AS (
    SELECT {who}, day, coalesce(category, 'none') AS category, reviews,
        CASE WHEN level NOT IN ('model', 'none') THEN reviews ELSE 0 END AS hits
    FROM cache_levels WHERE day BETWEEN $first AND $last AND {whom}),
ranked AS (
    SELECT who, category, row_number() OVER (PARTITION BY who ORDER BY reviews DESC, category)
        AS place
    FROM (SELECT who, category, sum(reviews) AS reviews FROM counted GROUP BY who, category)),
named AS (
    SELECT who, day, reviews, hits,
        CASE WHEN place <= 6 THEN category ELSE 'other categories' END AS category
    FROM counted JOIN ranked USING (who, category))
SELECT who, day, category, sum(reviews)::BIGINT AS reviews, sum(hits)::BIGINT AS hits
FROM named GROUP BY who, day, category;

-- The share that a level served is of the same days as its rechecks.
-- name: errors
WITH newest AS (
    SELECT *, {who} FROM cache_errors WHERE class = '' AND day <= $last
    QUALIFY row_number() OVER (PARTITION BY who, level ORDER BY day DESC, n DESC) = 1),
served AS (
    SELECT who, l.level, sum(l.reviews) AS reviews
    FROM newest n JOIN cache_levels l
        ON l.tenant = n.tenant AND l.simulated = n.simulated AND l.level = n.level
        AND l.day > n.day - n.window_days::INTEGER AND l.day <= n.day
    GROUP BY ALL),
whole AS (
    SELECT who, n.level, sum(l.reviews) AS reviews
    FROM newest n JOIN cache_levels l
        ON l.tenant = n.tenant AND l.simulated = n.simulated
        AND l.day > n.day - n.window_days::INTEGER AND l.day <= n.day
    GROUP BY ALL)
SELECT n.who, n.level, n.day, n.window_days, n.n, n.disagreements,
    n.disagreements / nullif(n.n, 0) AS error_share, n.lower, n.upper,
    coalesce(s.reviews, 0) / w.reviews AS served_share
FROM newest n JOIN whole w USING (who, level) LEFT JOIN served s USING (who, level);

-- name: bounds
WITH members AS (
    SELECT DISTINCT scope, tenant FROM ledger_entries WHERE scope <> tenant),
newest AS (
    SELECT * FROM pattern_bounds WHERE day <= $last
    QUALIFY rank() OVER (PARTITION BY scope, simulated ORDER BY day DESC) = 1),
named AS (
    SELECT n.*, coalesce(m.tenant, n.scope) AS tenant
    FROM newest n LEFT JOIN members m USING (scope))
SELECT {who}, scope, field, label, coalesce(category, 'all categories') AS category, status,
    threshold, n, errors, bound, max_error
FROM named;

-- name: quality
SELECT {who}, day, verdict, truth, n, correct, coalesce(texts, n) AS texts, accuracy,
    CASE WHEN n > 0 THEN lower END AS lower, CASE WHEN n > 0 THEN upper END AS upper,
    threshold, goal, standing_lower
FROM daily_quality WHERE day BETWEEN $first AND $last
QUALIFY row_number() OVER (PARTITION BY who, day ORDER BY n DESC, taxonomy) = 1;

-- name: gate
SELECT {who}, taxonomy, verdict, detail FROM daily_quality WHERE day = $last;

-- name: parts
SELECT {who}, p.dimension, p.name, p.n, p.correct, p.accuracy, p.lower, p.upper, p.below,
    q.threshold
FROM accuracy_by_part p SEMI JOIN daily_quality g
    ON g.day = p.day AND g.tenant = p.tenant AND g.taxonomy = p.taxonomy
    AND g.truth = p.truth
JOIN (SELECT day, tenant, taxonomy, threshold FROM daily_quality) q
    USING (day, tenant, taxonomy)
WHERE p.day = $last AND p.dimension IN ('field', 'class', 'category', 'level') AND p.n > 0;

-- name: causes
SELECT {who}, f.kind, coalesce(f.level, '') AS level, coalesce(f.field, '') AS field,
    coalesce(f.label, '') AS label, coalesce(f.category, '') AS category,
    count(*) AS causes, sum(f.wrong)::BIGINT AS wrong, sum(f.n)::BIGINT AS n
FROM failure_causes f JOIN daily_quality q USING (day, tenant, taxonomy)
WHERE f.day = $last GROUP BY ALL;

-- name: drift
SELECT {who}, category, signal, horizon, reviews, distance, p_adjusted
FROM drift_signals WHERE day = $last AND alarm;

-- name: drift_days
SELECT {who}, day, count(*) AS tests, count(*) FILTER (WHERE alarm) AS alarms
FROM drift_signals WHERE day BETWEEN $first AND $last GROUP BY ALL;

-- name: tiers
SELECT {who}, day, tier, model, sum(requests)::BIGINT AS requests,
    sum(reviews_asked)::BIGINT AS asked, sum(reviews_escalated)::BIGINT AS passed_on,
    sum(cost_usd) AS cost_usd
FROM tier_costs WHERE day BETWEEN $first AND $last GROUP BY ALL;

-- name: slow
SELECT {who}, day, model, tier, sent_at, reviews, latency_ms, expected_ms, z, degraded
FROM slow_requests WHERE day BETWEEN greatest($first, $last - 29) AND $last
ORDER BY day DESC, z DESC LIMIT 100;

-- name: degradations
WITH each_one AS (
    SELECT * EXCLUDE (tenants), unnest(tenants) AS tenant FROM degradations
    WHERE last_day BETWEEN $first AND $last AND started <= $last)
SELECT {who}, started, model, tier, onset_at, ended_at, requests, slowdown, state, last_day
FROM each_one;

-- Alerts about simulated money have the period of their own ledger: simulated:2026-11. A month is
-- compared with the month of the last day.
-- name: alerts
WITH told AS (
    SELECT * REPLACE (
        regexp_replace(period, '^simulated:', '') AS period,
        regexp_replace(message, '\bsimulated:(\d)', '\1', 'g') AS message)
    FROM alert_log)
SELECT {who}, raised_at, kind, period, severity, threshold, recovery, state, message,
    NOT recovery AND state <> 'acknowledged' AND alert_id NOT IN (
        SELECT recovers FROM alert_log WHERE recovers IS NOT NULL) AS is_open
FROM told
WHERE left(period, 10) <= left($last::VARCHAR, length(period))
ORDER BY raised_at DESC, alert_id LIMIT 300;

-- name: latencies
SELECT who, day, count(*) AS requests, quantile_cont(latency_ms, 0.5) AS p50_ms,
    quantile_cont(latency_ms, 0.95) AS p95_ms, quantile_cont(latency_ms, 0.99) AS p99_ms,
    quantile_cont(expected_ms, 0.5) AS expected_ms,
    exp(median(ln(latency_ms / expected_ms))) AS slowdown,
    count(expected_ms) AS judged, count(*) FILTER (WHERE slow) AS slow,
    count(*) FILTER (WHERE degraded) AS degraded
FROM (
    SELECT {who}, * EXCLUDE (tenant) FROM request_latencies
    WHERE day BETWEEN $first AND $last AND latency_ms > 0 AND {whom})
GROUP BY ALL;

-- name: batches
WITH sent AS (
    SELECT {who}, day, reviews, memory_share, sent_at, coalesce(way, 'sync') AS way,
        sent_at + to_microseconds((latency_ms * 1000)::BIGINT) AS ended_at
    FROM llm_requests
    WHERE day BETWEEN $first AND $last AND kind IS DISTINCT FROM 'embedding' AND {whom}),
changes AS (
    SELECT who, day, sent_at AS moment, 1 AS change FROM sent
    WHERE way = 'sync' AND ended_at IS NOT NULL
    UNION ALL
    SELECT who, day, ended_at, -1 FROM sent WHERE way = 'sync' AND ended_at IS NOT NULL),
flying AS (
    SELECT who, day, sum(change) OVER (
        PARTITION BY who, day ORDER BY moment, change ROWS UNBOUNDED PRECEDING) AS flying
    FROM changes),
peaks AS (SELECT who, day, max(flying)::BIGINT AS peak FROM flying GROUP BY ALL),
sizes AS (
    SELECT who, day, count(*) AS requests, avg(reviews) AS mean_reviews,
        max(reviews) AS most_reviews, max(memory_share) AS memory_share
    FROM sent GROUP BY ALL)
SELECT who, day, requests, mean_reviews, most_reviews, peak, memory_share
FROM sizes LEFT JOIN peaks USING (who, day);

-- name: histogram
SELECT who, floor(4 * log2(latency_ms))::BIGINT AS bucket, count(*) AS requests
FROM (
    SELECT {who}, latency_ms FROM request_latencies
    WHERE day = $last AND latency_ms > 0 AND {whom})
GROUP BY ALL;

-- name: in_flight
WITH sent AS (
    SELECT {who}, sent_at, sent_at + to_microseconds((latency_ms * 1000)::BIGINT) AS ended_at
    FROM llm_requests WHERE day = $last AND latency_ms > 0 AND coalesce(way, 'sync') = 'sync'
        AND kind IS DISTINCT FROM 'embedding' AND {whom}),
changes AS (
    SELECT who, sent_at AS moment, 1 AS change FROM sent
    UNION ALL SELECT who, ended_at, -1 FROM sent),
flying AS (
    SELECT who, moment, sum(change) OVER (
        PARTITION BY who ORDER BY moment, change ROWS UNBOUNDED PRECEDING) AS flying
    FROM changes),
spans AS (
    SELECT min(moment) AS begins,
        greatest(1, date_diff('microsecond', min(moment), max(moment)) // 240) AS micros
    FROM flying)
SELECT who, begins + to_microseconds(
    micros * (date_diff('microsecond', begins, moment) // micros)) AS moment,
    max(flying)::BIGINT AS flying
FROM flying, spans GROUP BY ALL;

-- name: requests
SELECT {who}, q.sent_at, q.reviews, q.latency_ms, q.status, q.tier, q.memory_share,
    l.expected_ms, coalesce(l.slow, false) AS slow, coalesce(l.degraded, false) AS degraded
FROM (FROM llm_requests WHERE day = $last AND kind IS DISTINCT FROM 'embedding'
    AND latency_ms > 0 AND coalesce(way, 'sync') = 'sync') q
LEFT JOIN (SELECT request_id, expected_ms, slow, degraded FROM request_latencies
    WHERE day = $last) l USING (request_id)
ORDER BY coalesce(l.slow, false) DESC, md5(q.request_id) LIMIT 4000;
