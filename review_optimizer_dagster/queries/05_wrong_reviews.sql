-- Question: Which reviews were labelled wrong, and why?
-- One row: a review that a truth contradicts, the newest first.
-- Read: differs says what was served and what is true, a field. level says where the labels came from,
--   source_key which entry or pattern they go back to: source_wrong of its source_judged reviews with
--   a truth are wrong. For all that is known of one of them, see 10_where_from.
-- Parameters: days (default: 28, up to the newest), tenant (default: all)
WITH sources AS (
    SELECT tenant, simulated, level, source_key, count(*) AS source_judged,
        count(*) FILTER (WHERE NOT correct) AS source_wrong
    FROM scored_reviews GROUP BY ALL),
wrong AS (
    SELECT *, unnest(json_keys(known)) AS field FROM wrong_reviews
    WHERE day > (SELECT last_day FROM about) - coalesce(getvariable('days')::INTEGER, 28)
        AND tenant = coalesce(getvariable('tenant'), tenant)),
fields AS (
    SELECT *, json_extract_string(labels, '$."' || field || '"') AS served,
        json_extract_string(known, '$."' || field || '"') AS truly
    FROM wrong)
SELECT f.day, f.tenant, f.simulated, f.review_id, f.category, f.level, d.name AS level_name,
    string_agg(field || ': ' || coalesce(served, 'nothing') || ', truly ' || truly, '; '
        ORDER BY field) FILTER (WHERE served IS DISTINCT FROM truly) AS differs,
    f.truth, f.source_key, any_value(s.source_wrong) AS source_wrong,
    any_value(s.source_judged) AS source_judged, f.request_id
FROM fields f JOIN dim_level d USING (level)
LEFT JOIN sources s USING (tenant, simulated, level, source_key)
GROUP BY f.day, f.tenant, f.simulated, f.review_id, f.category, f.level, d.name, f.truth,
    f.source_key, f.request_id
ORDER BY f.day DESC, f.tenant, f.review_id;
