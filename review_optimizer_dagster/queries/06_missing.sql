-- Question: What is missing, or not verified?
-- One row: a day and tenant where anything is, the newest first.
-- Read: not_published are accepted reviews of a day that the gate failed. Of what is published, failed
--   and deferred have no labels (deferred comes with a later run), not_verified have labels that the
--   gate cannot vouch for. quarantined are rows of input that could not be read. why names the reasons.
-- Parameters: days (default: 28, up to the newest), tenant (default: all)
WITH since AS (
    SELECT max(day) - coalesce(getvariable('days')::INTEGER, 28) AS day FROM dim_day),
published AS (
    SELECT day, tenant, sum(reviews)::BIGINT AS published, sum(failed)::BIGINT AS failed,
        sum(deferred)::BIGINT AS deferred,
        sum(labelled - verified_labelled)::BIGINT AS not_verified,
        string_agg(DISTINCT reason, ', ' ORDER BY reason) AS reasons
    FROM fact_reviews GROUP BY ALL),
delivered AS (
    SELECT day, tenant, bool_or(simulated) AS simulated, sum(reviews)::BIGINT AS reviews,
        string_agg(DISTINCT verdict, ', ' ORDER BY verdict) AS verdict
    FROM fact_daily WHERE reviews > 0 GROUP BY ALL),
refused AS (
    SELECT day, coalesce(tenant, '(unknown)') AS tenant, count(*) AS quarantined,
        string_agg(DISTINCT reason, ', ' ORDER BY reason) AS reasons
    FROM quarantined_reviews GROUP BY ALL)
SELECT day, tenant, d.simulated, d.verdict, coalesce(d.reviews, 0) AS reviews,
    greatest(0, coalesce(d.reviews, 0) - coalesce(p.published, 0)) AS not_published,
    coalesce(p.failed, 0) AS failed, coalesce(p.deferred, 0) AS deferred,
    coalesce(p.not_verified, 0) AS not_verified, coalesce(r.quarantined, 0) AS quarantined,
    concat_ws(', ', p.reasons, r.reasons) AS why
FROM delivered d FULL JOIN published p USING (day, tenant) FULL JOIN refused r USING (day, tenant)
WHERE day > (SELECT since.day FROM since) AND tenant = coalesce(getvariable('tenant'), tenant)
    AND (coalesce(d.reviews, 0) > coalesce(p.published, 0) OR p.failed > 0 OR p.deferred > 0
        OR p.not_verified > 0 OR r.quarantined > 0)
ORDER BY day DESC, tenant;
