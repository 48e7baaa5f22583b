-- Question: What changed?
-- One row: a tenant, category and signal that drifted, the largest change first; no rows: nothing did.
-- Read: on days_in_alarm days up to last_day it differed from the weeks before by more than those
--   differ from each other. distance is the share of reviews that moved, on last_day; bucket is what
--   moved most, from share_before to share. Category null: all of them together.
-- Parameters: days (default: 28, up to the newest), tenant (default: all)
WITH alarms AS (
    SELECT * FROM drift_signals
    WHERE alarm AND day > (SELECT max(day) FROM drift_signals)
            - coalesce(getvariable('days')::INTEGER, 28)
        AND tenant = coalesce(getvariable('tenant'), tenant)),
counts AS (
    SELECT tenant, taxonomy, category, signal, simulated, min(day) AS first_day,
        max(day) AS last_day, count(DISTINCT day) AS days_in_alarm
    FROM alarms GROUP BY ALL),
newest AS (
    SELECT * FROM alarms
    QUALIFY row_number() OVER (
        PARTITION BY tenant, taxonomy, category, signal, simulated
        ORDER BY day DESC, distance DESC) = 1),
mixes AS (
    SELECT a.tenant, a.taxonomy, a.category, a.signal, a.simulated, m.bucket,
        sum(m.reviews) FILTER (WHERE m.day = a.day) AS k,
        sum(m.reviews) FILTER (WHERE m.day BETWEEN a.baseline_from AND a.baseline_to) AS k_before
    FROM newest a JOIN daily_mix m ON m.tenant = a.tenant AND m.taxonomy = a.taxonomy
        AND m.category IS NOT DISTINCT FROM a.category AND m.signal = a.signal
        AND m.simulated = a.simulated
        AND (m.day = a.day OR m.day BETWEEN a.baseline_from AND a.baseline_to)
    GROUP BY ALL),
shares AS (
    SELECT *, coalesce(k, 0) / sum(k) OVER parts AS share,
        coalesce(k_before, 0) / sum(k_before) OVER parts AS share_before
    FROM mixes WINDOW parts AS (PARTITION BY tenant, taxonomy, category, signal, simulated)),
moved AS (
    SELECT * FROM shares
    QUALIFY row_number() OVER (PARTITION BY tenant, taxonomy, category, signal, simulated
        ORDER BY abs(share - share_before) DESC, bucket) = 1)
SELECT n.tenant, n.taxonomy, n.simulated, n.category, n.signal, c.first_day, c.last_day,
    c.days_in_alarm, n.reviews, n.distance, n.p_adjusted, s.bucket, s.share_before, s.share
FROM newest n
JOIN counts c ON c.tenant = n.tenant AND c.taxonomy = n.taxonomy AND c.simulated = n.simulated
    AND c.category IS NOT DISTINCT FROM n.category AND c.signal = n.signal
LEFT JOIN moved s ON s.tenant = n.tenant AND s.taxonomy = n.taxonomy AND s.simulated = n.simulated
    AND s.category IS NOT DISTINCT FROM n.category AND s.signal = n.signal
ORDER BY n.distance DESC, n.tenant, n.category NULLS FIRST, n.signal;
