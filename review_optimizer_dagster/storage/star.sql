-- The star that analysts begin with: dimensions and facts over the published tables, no second copy.
-- Keys have the same plain names everywhere (day, tenant, category, model, level; taxonomy, field and
-- label together) and are never null in a fact. Types are plain, so that every client reads them;
-- moments are UTC without a zone, whatever the client's own is.

CREATE OR REPLACE VIEW {out}.dim_day AS
WITH delivered AS (
    SELECT day, count(DISTINCT tenant) AS tenants, sum(reviews)::BIGINT AS reviews,
        bool_or(simulated) AS has_simulated
    FROM {out}.cost_rollups WHERE reviews > 0 GROUP BY day),
span AS (
    SELECT min(first) AS first, max(last) AS last FROM (
        SELECT min(day) AS first, max(day) AS last FROM {out}.cost_rollups
        UNION ALL SELECT min(day), max(day) FROM {out}.published_results
        UNION ALL SELECT min(day), max(day) FROM {out}.ledger_entries
        UNION ALL SELECT min(day), max(day) FROM {out}.llm_requests)),
days AS (SELECT unnest(generate_series(first, last, INTERVAL 1 DAY))::DATE AS day FROM span)
SELECT day, date_trunc('week', day)::DATE AS week_start, strftime(day, '%G-W%V') AS iso_week,
    date_trunc('month', day)::DATE AS month, year(day) || '-Q' || quarter(day) AS quarter,
    year(day)::BIGINT AS year, dayname(day) AS weekday, isodow(day)::BIGINT AS weekday_number,
    isodow(day) > 5 AS is_weekend, d.day IS NOT NULL AS has_deliveries,
    coalesce(d.tenants, 0)::BIGINT AS tenants, coalesce(d.reviews, 0)::BIGINT AS reviews,
    coalesce(d.has_simulated, false) AS has_simulated,
    coalesce(day BETWEEN a.first_day AND a.last_day, false) AS in_window
FROM days LEFT JOIN delivered d USING (day)
LEFT JOIN {out}.about a ON true;
COMMENT ON VIEW {out}.dim_day IS 'One row a calendar day, from the first to the last that the file knows of, those without a delivery included.';
COMMENT ON COLUMN {out}.dim_day.day IS 'UTC day of delivery: the key.';
COMMENT ON COLUMN {out}.dim_day.week_start IS 'Monday of its week.';
COMMENT ON COLUMN {out}.dim_day.iso_week IS 'Its ISO week, such as 2026-W47.';
COMMENT ON COLUMN {out}.dim_day.month IS 'First day of its month.';
COMMENT ON COLUMN {out}.dim_day.quarter IS 'Its quarter, such as 2026-Q4.';
COMMENT ON COLUMN {out}.dim_day.year IS 'Its year.';
COMMENT ON COLUMN {out}.dim_day.weekday IS 'Monday to Sunday.';
COMMENT ON COLUMN {out}.dim_day.weekday_number IS '1 (Monday) to 7 (Sunday).';
COMMENT ON COLUMN {out}.dim_day.is_weekend IS 'True for Saturday and Sunday.';
COMMENT ON COLUMN {out}.dim_day.has_deliveries IS 'True where a tenant delivered reviews that were accepted.';
COMMENT ON COLUMN {out}.dim_day.tenants IS 'Tenants that did. Not additive.';
COMMENT ON COLUMN {out}.dim_day.reviews IS 'Accepted reviews of all tenants. Additive.';
COMMENT ON COLUMN {out}.dim_day.has_simulated IS 'True where a simulator answered any of them.';
COMMENT ON COLUMN {out}.dim_day.in_window IS 'True where the facts of the large tables hold the day: see about.';

CREATE OR REPLACE VIEW {out}.dim_tenant AS
WITH known AS (
    SELECT tenant FROM {out}.cost_rollups UNION SELECT tenant FROM {out}.published_results
    UNION SELECT tenant FROM {out}.ledger_entries UNION SELECT tenant FROM {out}.llm_requests),
days AS (
    SELECT tenant, min(day) AS first_day, max(day) AS last_day,
        count(DISTINCT day) AS delivery_days,
        string_agg(DISTINCT taxonomy, ', ' ORDER BY taxonomy) AS taxonomies,
        bool_or(simulated) AS has_simulated, bool_or(NOT simulated) AS has_real
    FROM {out}.cost_rollups WHERE reviews > 0 GROUP BY tenant),
scopes AS (
    SELECT tenant, arg_max(scope, day) AS scope FROM {out}.ledger_entries GROUP BY tenant),
asked AS (
    SELECT tenant, arg_max(threshold, day) AS min_accuracy FROM {out}.gate_verdicts GROUP BY tenant),
budgets AS (
    SELECT tenant, arg_max_null(budget_nanos, day) / 1e9 AS monthly_budget_usd
    FROM {out}.spend_forecasts GROUP BY tenant),
promised AS (
    SELECT tenant, string_agg(indicator || CASE WHEN indicator IN ('hit_rate', 'accuracy')
            THEN ' >= ' ELSE ' <= ' END || target, ', ' ORDER BY indicator) AS promises
    FROM {out}.service_levels SEMI JOIN (
        SELECT tenant, max(day) AS day FROM {out}.service_levels GROUP BY tenant) USING (tenant, day)
    WHERE target IS NOT NULL AND indicator <> 'all' GROUP BY tenant)
SELECT tenant, coalesce(scope, tenant) AS scope, coalesce(scope <> tenant, false) AS in_pool,
    first_day, last_day, coalesce(delivery_days, 0)::BIGINT AS delivery_days, taxonomies,
    coalesce(has_simulated, false) AS has_simulated, coalesce(has_real, false) AS has_real,
    min_accuracy, monthly_budget_usd, promises
FROM known LEFT JOIN days USING (tenant) LEFT JOIN scopes USING (tenant)
LEFT JOIN asked USING (tenant) LEFT JOIN budgets USING (tenant) LEFT JOIN promised USING (tenant)
WHERE tenant IS NOT NULL;
COMMENT ON VIEW {out}.dim_tenant IS 'One row a tenant, with what is known of it at its last day.';
COMMENT ON COLUMN {out}.dim_tenant.tenant IS 'Name of the tenant: the key.';
COMMENT ON COLUMN {out}.dim_tenant.scope IS 'Whose cache its reviews meet: its pool, or the tenant itself.';
COMMENT ON COLUMN {out}.dim_tenant.in_pool IS 'True where that is a pool that it shares with others.';
COMMENT ON COLUMN {out}.dim_tenant.first_day IS 'First UTC day with a delivery of it, of all days; null where there is none.';
COMMENT ON COLUMN {out}.dim_tenant.last_day IS 'Last UTC day with a delivery of it.';
COMMENT ON COLUMN {out}.dim_tenant.delivery_days IS 'Days with a delivery of it. Not additive.';
COMMENT ON COLUMN {out}.dim_tenant.taxonomies IS 'Kinds of document that it delivered, separated by commas.';
COMMENT ON COLUMN {out}.dim_tenant.has_simulated IS 'True where a simulator answered on any day.';
COMMENT ON COLUMN {out}.dim_tenant.has_real IS 'True where a real model answered on any day.';
COMMENT ON COLUMN {out}.dim_tenant.min_accuracy IS 'Accuracy that it asks for, 0 to 1; null where no day of the window was judged.';
COMMENT ON COLUMN {out}.dim_tenant.monthly_budget_usd IS 'Its budget in US dollars, where that is for a month; else null.';
COMMENT ON COLUMN {out}.dim_tenant.promises IS 'What it was promised of its last day, as indicator and target; service_levels_daily has the days; null where nothing was.';

CREATE OR REPLACE VIEW {out}.dim_category AS
WITH published AS (
    SELECT coalesce(nullif(category, ''), '(none)') AS category, min(day) AS first_day,
        max(day) AS last_day, count(DISTINCT tenant) AS tenants, count(*) AS reviews
    FROM {out}.published_results GROUP BY ALL),
known AS (
    SELECT category FROM published
    UNION SELECT coalesce(nullif(category, ''), '(none)') FROM {out}.ledger_entries
    UNION SELECT '(none)')
SELECT category, first_day, last_day, coalesce(tenants, 0)::BIGINT AS tenants,
    coalesce(reviews, 0)::BIGINT AS reviews
FROM known LEFT JOIN published USING (category);
COMMENT ON VIEW {out}.dim_category IS 'One row a category that reviews were delivered under, and (none).';
COMMENT ON COLUMN {out}.dim_category.category IS 'Category as delivered: the key; (none): no category is known.';
COMMENT ON COLUMN {out}.dim_category.first_day IS 'First UTC day of delivery with a published review of it, in the window; null where there is none.';
COMMENT ON COLUMN {out}.dim_category.last_day IS 'Last such day.';
COMMENT ON COLUMN {out}.dim_category.tenants IS 'Tenants that have one. Not additive.';
COMMENT ON COLUMN {out}.dim_category.reviews IS 'Published reviews of it, in the window. Additive.';

CREATE OR REPLACE VIEW {out}.dim_model AS
WITH requests AS (
    SELECT coalesce(model, model_requested, '(none)') AS model, arg_max(tier, day) AS tier,
        string_agg(DISTINCT kind, ', ' ORDER BY kind) AS kinds, min(day) AS first_day,
        max(day) AS last_day, count(*) AS requests, bool_or(simulated) AS has_simulated
    FROM {out}.llm_requests GROUP BY ALL),
known AS (
    SELECT model FROM requests
    UNION SELECT coalesce(model, '(none)') FROM {out}.ledger_entries
    UNION SELECT coalesce(model, '(none)') FROM {out}.published_results
    UNION SELECT '(none)')
SELECT model, tier, kinds, first_day, last_day, coalesce(requests, 0)::BIGINT AS requests,
    coalesce(has_simulated, false) AS has_simulated
FROM known LEFT JOIN requests USING (model);
COMMENT ON VIEW {out}.dim_model IS 'One row a model that was asked or answered, and (none).';
COMMENT ON COLUMN {out}.dim_model.model IS 'Name of the model, as its replies give it: the key; (none): no model was concerned.';
COMMENT ON COLUMN {out}.dim_model.tier IS 'Step of the ladder of models that it last stood on; null for embeddings, and where no request is in the window.';
COMMENT ON COLUMN {out}.dim_model.kinds IS 'What it was asked for: classification, audit, reference, embedding.';
COMMENT ON COLUMN {out}.dim_model.first_day IS 'First UTC day of delivery with a request to it, in the window; null where there is none.';
COMMENT ON COLUMN {out}.dim_model.last_day IS 'Last such day.';
COMMENT ON COLUMN {out}.dim_model.requests IS 'Requests to it, in the window. Additive.';
COMMENT ON COLUMN {out}.dim_model.has_simulated IS 'True where a simulator stood for it in any of them.';

CREATE OR REPLACE VIEW {out}.dim_level AS
SELECT * FROM (VALUES
    ('l1', 1::BIGINT, 'same text, again', 'The same text as another review of the day has, or as one of those used last.', true),
    ('l2', 2, 'same or similar text, much used', 'One of the answers used most, to the same text or to one so similar that no changed word matters.', true),
    ('l3_exact', 3, 'same text, archive', 'The archived answer to the same text.', true),
    ('l3_near', 4, 'similar text, archive', 'The archived answer to a text so similar that no changed word matters.', true),
    ('l3_pattern', 5, 'learned pattern', 'A pattern learned from the archive, where its error is bounded.', true),
    ('model', 6, 'model', 'A language model answered, and was paid for.', false),
    ('none', 7, 'no label', 'The review has no label: it failed, or was deferred.', false),
    ('booked', 8, 'booked by hand', 'No answer: money that was booked by hand, in fact_ledger alone.', false)
) levels(level, level_order, name, meaning, is_hit);
COMMENT ON VIEW {out}.dim_level IS 'One row a place where labels come from: the levels of the cache in the order they are asked, then the model.';
COMMENT ON COLUMN {out}.dim_level.level IS 'Code of the level: the key.';
COMMENT ON COLUMN {out}.dim_level.level_order IS 'Order in which they are asked.';
COMMENT ON COLUMN {out}.dim_level.name IS 'Short name.';
COMMENT ON COLUMN {out}.dim_level.meaning IS 'What it means.';
COMMENT ON COLUMN {out}.dim_level.is_hit IS 'True where the cache answered, and no model was paid.';

CREATE OR REPLACE VIEW {out}.dim_label AS
WITH given AS (
    SELECT taxonomy, field, label, min(day) AS first_day, max(day) AS last_day, count(*) AS reviews
    FROM {out}.published_labels GROUP BY ALL)
SELECT taxonomy, field, label, t.field_order, t.label_order,
    coalesce(t.field_order = 1, false) AS is_main_field, t.question, t.definition,
    t.label IS NOT NULL AS in_use, first_day, last_day, coalesce(reviews, 0)::BIGINT AS reviews
FROM {out}.taxonomy_labels t FULL JOIN given USING (taxonomy, field, label);
COMMENT ON VIEW {out}.dim_label IS 'One row a taxonomy, field and label: those of the taxonomies in use, and those that were given in the window.';
COMMENT ON COLUMN {out}.dim_label.taxonomy IS 'Name of the taxonomy; with field and label, the key.';
COMMENT ON COLUMN {out}.dim_label.field IS 'Field of the taxonomy: one question asked of every document.';
COMMENT ON COLUMN {out}.dim_label.label IS 'The label.';
COMMENT ON COLUMN {out}.dim_label.field_order IS 'Place of the field in the taxonomy, from 1; null where it is in use no more.';
COMMENT ON COLUMN {out}.dim_label.label_order IS 'Place of the label in the field, from 1, to sort by; null where it is in use no more.';
COMMENT ON COLUMN {out}.dim_label.is_main_field IS 'True for the first field of the taxonomy, such as sentiment.';
COMMENT ON COLUMN {out}.dim_label.question IS 'What the model is asked.';
COMMENT ON COLUMN {out}.dim_label.definition IS 'What the label means; null where the taxonomy does not say.';
COMMENT ON COLUMN {out}.dim_label.in_use IS 'False for a label that the taxonomy has no more.';
COMMENT ON COLUMN {out}.dim_label.first_day IS 'First UTC day of delivery that it was given on, in the window; null where it was not.';
COMMENT ON COLUMN {out}.dim_label.last_day IS 'Last such day.';
COMMENT ON COLUMN {out}.dim_label.reviews IS 'Published reviews with it, in the window. Additive over the labels of one field.';

CREATE OR REPLACE VIEW {out}.fact_reviews AS
SELECT p.day, p.tenant, p.taxonomy, coalesce(nullif(p.category, ''), '(none)') AS category,
    coalesce(p.level, 'none') AS level, coalesce(p.model, '(none)') AS model,
    p.review_id, p.product_id, p.content_key, p.source_key, p.request_id,
    make_timestamp(epoch_us(p.ts)) AS reviewed_at, p.rating, p.status, p.reason, p.repeat,
    p.verified, p.simulated, p.synthetic, p.score, s.truth,
    1::BIGINT AS reviews,
    (p.status = 'labelled')::BIGINT AS labelled,
    (p.status = 'failed')::BIGINT AS failed,
    (p.status = 'deferred')::BIGINT AS deferred,
    (p.status = 'labelled' AND (p.repeat OR p.level <> 'model'))::BIGINT AS hits,
    (p.status = 'labelled' AND p.verified)::BIGINT AS verified_labelled,
    (s.correct IS NOT NULL)::BIGINT AS judged,
    coalesce(s.correct, false)::BIGINT AS correct,
    (s.correct IS NOT NULL AND NOT s.correct)::BIGINT AS wrong,
    p.cost_nanos / 1e9 AS cost_usd
FROM {out}.published_results p
LEFT JOIN {out}.scored_reviews s USING (day, tenant, taxonomy, review_id);
COMMENT ON VIEW {out}.fact_reviews IS 'One row a published review, with what happened to it; the window of days in about.';
COMMENT ON COLUMN {out}.fact_reviews.day IS 'UTC day of delivery; joins dim_day.';
COMMENT ON COLUMN {out}.fact_reviews.tenant IS 'Whose review, and who is billed; joins dim_tenant.';
COMMENT ON COLUMN {out}.fact_reviews.taxonomy IS 'Name of the taxonomy: the kind of document; joins dim_label.';
COMMENT ON COLUMN {out}.fact_reviews.category IS 'Category as delivered, (none) where there is none; joins dim_category.';
COMMENT ON COLUMN {out}.fact_reviews.level IS 'Where the labels came from; joins dim_level.';
COMMENT ON COLUMN {out}.fact_reviews.model IS 'Model that answered it, or the first review of its text, (none) for other hits; joins dim_model.';
COMMENT ON COLUMN {out}.fact_reviews.review_id IS 'Id of the review, unique within a day and tenant.';
COMMENT ON COLUMN {out}.fact_reviews.product_id IS 'Id of the product as delivered; null where the file gave none.';
COMMENT ON COLUMN {out}.fact_reviews.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN {out}.fact_reviews.source_key IS 'content_key of the entry that the labels go back to (its own where the model answered), or pattern:VERSION; null unless labelled.';
COMMENT ON COLUMN {out}.fact_reviews.request_id IS 'Request in which the model answered it, or the first review of its text; joins fact_requests; null for what the cache answered.';
COMMENT ON COLUMN {out}.fact_reviews.reviewed_at IS 'When the review was written (UTC), as delivered; null where the file does not say.';
COMMENT ON COLUMN {out}.fact_reviews.rating IS 'Star rating as delivered; null where there is none.';
COMMENT ON COLUMN {out}.fact_reviews.status IS 'labelled; failed: no valid answer; deferred: kept back for a later run.';
COMMENT ON COLUMN {out}.fact_reviews.reason IS 'Why it is failed or deferred; null where labelled.';
COMMENT ON COLUMN {out}.fact_reviews.repeat IS 'True for a review whose text another one of the day has, which was asked for both.';
COMMENT ON COLUMN {out}.fact_reviews.verified IS 'True where the gate passed the day, and nothing speaks against the labels.';
COMMENT ON COLUMN {out}.fact_reviews.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN {out}.fact_reviews.synthetic IS 'True for generated text, such as the built-in sample.';
COMMENT ON COLUMN {out}.fact_reviews.score IS 'How alike the texts are, or how sure the pattern is, 0 to 1. Not additive.';
COMMENT ON COLUMN {out}.fact_reviews.truth IS 'What it was judged by: labels (true ones) or audits (the reference model); null where it was not judged.';
COMMENT ON COLUMN {out}.fact_reviews.reviews IS '1. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.labelled IS '1 where it has labels, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.failed IS '1 where it failed, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.deferred IS '1 where it was deferred, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.hits IS '1 where it was answered without the model, repeats included, else 0. Additive; hits / reviews is the hit rate.';
COMMENT ON COLUMN {out}.fact_reviews.verified_labelled IS '1 where it has labels that are verified, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.judged IS '1 where a truth is known, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.correct IS '1 where it was judged right in every field that has a truth, else 0. Additive; where labels are of a stratified sample, daily_quality has the weighted share.';
COMMENT ON COLUMN {out}.fact_reviews.wrong IS '1 where a truth contradicts it, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_reviews.cost_usd IS 'US dollars booked to it on its day: its share of requests, rechecks and corrections. Additive.';

CREATE OR REPLACE VIEW {out}.fact_labels AS
SELECT l.day, l.tenant, l.taxonomy, coalesce(nullif(l.category, ''), '(none)') AS category,
    l.level, l.field, l.label, l.review_id, l.product_id, l.rating, l.verified, l.simulated,
    json_extract_string(s.known, '$."' || l.field || '"') AS known_label, 1::BIGINT AS labels
FROM (
    SELECT * EXCLUDE (labels, parsed), unnest(map_keys(parsed)) AS field,
        unnest(map_values(parsed)) AS label
    FROM (
        SELECT day, tenant, taxonomy, category, level, review_id, product_id, rating, verified,
            simulated, labels, from_json(labels, '"MAP(VARCHAR, VARCHAR)"') AS parsed
        FROM {out}.published_results WHERE labels IS NOT NULL)) l
LEFT JOIN {out}.scored_reviews s USING (day, tenant, taxonomy, review_id);
COMMENT ON VIEW {out}.fact_labels IS 'One row a published review and field of its taxonomy; the window of days in about.';
COMMENT ON COLUMN {out}.fact_labels.day IS 'UTC day of delivery; joins dim_day.';
COMMENT ON COLUMN {out}.fact_labels.tenant IS 'Whose review, and who is billed; joins dim_tenant.';
COMMENT ON COLUMN {out}.fact_labels.taxonomy IS 'Name of the taxonomy; with field and label, joins dim_label.';
COMMENT ON COLUMN {out}.fact_labels.category IS 'Category as delivered, (none) where there is none; joins dim_category.';
COMMENT ON COLUMN {out}.fact_labels.level IS 'Where the labels came from; joins dim_level.';
COMMENT ON COLUMN {out}.fact_labels.field IS 'Field of the taxonomy, e.g. sentiment; with taxonomy and label, joins dim_label.';
COMMENT ON COLUMN {out}.fact_labels.label IS 'Its label.';
COMMENT ON COLUMN {out}.fact_labels.review_id IS 'Id of the review; with day and tenant, joins fact_reviews.';
COMMENT ON COLUMN {out}.fact_labels.product_id IS 'Id of the product as delivered; null where the file gave none.';
COMMENT ON COLUMN {out}.fact_labels.rating IS 'Star rating as delivered; null where there is none.';
COMMENT ON COLUMN {out}.fact_labels.verified IS 'True where the gate passed the day, and nothing speaks against the labels.';
COMMENT ON COLUMN {out}.fact_labels.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN {out}.fact_labels.known_label IS 'The true label of the field; null where none is known. A truth of fewer classes agrees with several labels: accuracy_by_part counts right.';
COMMENT ON COLUMN {out}.fact_labels.labels IS '1. Additive; of one field, it counts reviews.';

CREATE OR REPLACE VIEW {out}.fact_requests AS
SELECT r.day, r.tenant, coalesce(r.model, r.model_requested, '(none)') AS model, r.taxonomy,
    r.request_id, r.batch_id, r.attempt, r.generation, r.kind, r.tier, r.way, r.service_tier,
    r.engine, r.model_requested, r.status, r.http_status, r.error, r.simulated,
    make_timestamp(epoch_us(r.sent_at)) AS sent_at,
    make_timestamp(epoch_us(r.sent_at) // 3600000000 * 3600000000) AS sent_hour,
    1::BIGINT AS requests, r.reviews AS reviews_asked, r.answered AS reviews_answered,
    r.escalated AS reviews_escalated, r.prompt_tokens, r.cached_tokens, r.cache_write_tokens,
    r.completion_tokens, r.cost_nanos / 1e9 AS cost_usd, r.held_nanos / 1e9 AS held_usd,
    r.latency_ms, l.expected_ms, (l.expected_ms IS NOT NULL)::BIGINT AS latency_judged,
    coalesce(l.slow, false)::BIGINT AS slow, coalesce(l.degraded, false)::BIGINT AS degraded
FROM {out}.llm_requests r LEFT JOIN {out}.request_latencies l USING (day, request_id);
COMMENT ON VIEW {out}.fact_requests IS 'One row an attempt: one request to a model; the window of days in about.';
COMMENT ON COLUMN {out}.fact_requests.day IS 'UTC day of delivery of the texts asked about; joins dim_day.';
COMMENT ON COLUMN {out}.fact_requests.tenant IS 'Who is billed; joins dim_tenant.';
COMMENT ON COLUMN {out}.fact_requests.model IS 'Model that the reply names, else the one that was asked for; joins dim_model.';
COMMENT ON COLUMN {out}.fact_requests.taxonomy IS 'Name of the taxonomy: the kind of document.';
COMMENT ON COLUMN {out}.fact_requests.request_id IS 'Id of the request, unique.';
COMMENT ON COLUMN {out}.fact_requests.batch_id IS 'Batch that it asked about, or a part of; null for embeddings.';
COMMENT ON COLUMN {out}.fact_requests.attempt IS 'Which attempt at its texts it is, from 1.';
COMMENT ON COLUMN {out}.fact_requests.generation IS '1; higher where --reclassify paid for the day again.';
COMMENT ON COLUMN {out}.fact_requests.kind IS 'classification, audit (a recheck of hits), reference (by the reference model) or embedding.';
COMMENT ON COLUMN {out}.fact_requests.tier IS 'Step of the ladder of models; null for embeddings.';
COMMENT ON COLUMN {out}.fact_requests.way IS 'sync: one by one; batch: through the Batch API.';
COMMENT ON COLUMN {out}.fact_requests.service_tier IS 'Service tier that the reply names, batch for the Batch API; null where there was no reply.';
COMMENT ON COLUMN {out}.fact_requests.engine IS 'Engine that was asked: openai, simulator or local.';
COMMENT ON COLUMN {out}.fact_requests.model_requested IS 'Model that was asked for.';
COMMENT ON COLUMN {out}.fact_requests.status IS 'ok, partial, invalid, http_error, timeout, connection, unknown (no outcome), pending (in a job of the Batch API), or how a job ended without an answer.';
COMMENT ON COLUMN {out}.fact_requests.http_status IS 'Status of the HTTP reply; null where there was none.';
COMMENT ON COLUMN {out}.fact_requests.error IS 'What went wrong, in words; null where all went well.';
COMMENT ON COLUMN {out}.fact_requests.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN {out}.fact_requests.sent_at IS 'When it was sent (UTC).';
COMMENT ON COLUMN {out}.fact_requests.sent_hour IS 'Hour of that (UTC).';
COMMENT ON COLUMN {out}.fact_requests.requests IS '1. Additive.';
COMMENT ON COLUMN {out}.fact_requests.reviews_asked IS 'Texts in it. Additive; a text that is asked again counts again.';
COMMENT ON COLUMN {out}.fact_requests.reviews_answered IS 'Of these, with a valid answer. Additive.';
COMMENT ON COLUMN {out}.fact_requests.reviews_escalated IS 'Of these, those that went on to the next step of the ladder. Additive.';
COMMENT ON COLUMN {out}.fact_requests.prompt_tokens IS 'Input tokens, cached ones included. Additive.';
COMMENT ON COLUMN {out}.fact_requests.cached_tokens IS 'Of these, billed at the cached price. Additive.';
COMMENT ON COLUMN {out}.fact_requests.cache_write_tokens IS 'Input tokens billed at the price of writing them to the prompt cache. Additive.';
COMMENT ON COLUMN {out}.fact_requests.completion_tokens IS 'Output tokens. Additive.';
COMMENT ON COLUMN {out}.fact_requests.cost_usd IS 'Cost in US dollars. Additive.';
COMMENT ON COLUMN {out}.fact_requests.held_usd IS 'Worst case in US dollars where the outcome is unknown, else 0; no part of the cost. Additive.';
COMMENT ON COLUMN {out}.fact_requests.latency_ms IS 'Milliseconds until it was answered, or failed; null for the Batch API. Not additive: take quantiles.';
COMMENT ON COLUMN {out}.fact_requests.expected_ms IS 'Median milliseconds of a request of its size; null: no verdict. Not additive.';
COMMENT ON COLUMN {out}.fact_requests.latency_judged IS '1 where there is such an expectation, else 0. Additive.';
COMMENT ON COLUMN {out}.fact_requests.slow IS '1 where it alone was slow, else 0. Additive; of latency_judged.';
COMMENT ON COLUMN {out}.fact_requests.degraded IS '1 where it was sent while the model was slow for everybody, else 0. Additive.';

CREATE OR REPLACE VIEW {out}.fact_ledger AS
SELECT day, tenant, taxonomy, coalesce(nullif(category, ''), '(none)') AS category,
    coalesce(level, 'booked') AS level, coalesce(model, '(none)') AS model, entry_id, review_id,
    request_id, kind, coalesce(purpose, kind) AS purpose, tier, service_tier, scope, source_tenant,
    avoided_rule, corrects, note, booked_by, simulated,
    make_timestamp(epoch_us(incurred_at)) AS incurred_at,
    make_timestamp(epoch_us(booked_at)) AS booked_at,
    1::BIGINT AS entries, cost_nanos / 1e9 AS cost_usd, avoided_nanos / 1e9 AS avoided_usd
FROM {out}.ledger_entries;
COMMENT ON VIEW {out}.fact_ledger IS 'One row an entry of the ledger: a review''s share of a request, a hit, or a correction; the window of days in about.';
COMMENT ON COLUMN {out}.fact_ledger.day IS 'UTC day of delivery that it is booked to; joins dim_day.';
COMMENT ON COLUMN {out}.fact_ledger.tenant IS 'Who is billed; joins dim_tenant.';
COMMENT ON COLUMN {out}.fact_ledger.taxonomy IS 'Name of the taxonomy: the kind of document.';
COMMENT ON COLUMN {out}.fact_ledger.category IS 'Category as delivered, (none) where the review has left the day or none is concerned; joins dim_category.';
COMMENT ON COLUMN {out}.fact_ledger.level IS 'model: paid; else the cache level that answered; booked: by hand; joins dim_level.';
COMMENT ON COLUMN {out}.fact_ledger.model IS 'Model that answered, (none) for hits and where no request is concerned; joins dim_model.';
COMMENT ON COLUMN {out}.fact_ledger.entry_id IS 'Digest of what it is for, unique.';
COMMENT ON COLUMN {out}.fact_ledger.review_id IS 'Review that bears it; with day and tenant, joins fact_reviews; null where it is no review''s.';
COMMENT ON COLUMN {out}.fact_ledger.request_id IS 'Request that it is a share of; joins fact_requests; null for hits.';
COMMENT ON COLUMN {out}.fact_ledger.kind IS 'classification, audit, reference, embedding: paid; hit, repeat: not paid; correction; refund, adjustment: booked by hand.';
COMMENT ON COLUMN {out}.fact_ledger.purpose IS 'The kind; of a correction, that of the entry it corrects.';
COMMENT ON COLUMN {out}.fact_ledger.tier IS 'Step of the ladder of models; null on hits and embeddings.';
COMMENT ON COLUMN {out}.fact_ledger.service_tier IS 'Service tier that was billed, batch for the Batch API; null on hits.';
COMMENT ON COLUMN {out}.fact_ledger.scope IS 'Whose cache the review met: the tenant''s own, or its pool''s.';
COMMENT ON COLUMN {out}.fact_ledger.source_tenant IS 'Of a hit: who had paid for the answer; else null.';
COMMENT ON COLUMN {out}.fact_ledger.avoided_rule IS 'How avoided_usd was estimated: median_paid, median_earlier or baseline; null on what was paid.';
COMMENT ON COLUMN {out}.fact_ledger.corrects IS 'entry_id of the entry that it corrects; null where it corrects none.';
COMMENT ON COLUMN {out}.fact_ledger.note IS 'Why, or the reference that it was booked under.';
COMMENT ON COLUMN {out}.fact_ledger.booked_by IS 'Id of the run, or whoever booked it by hand.';
COMMENT ON COLUMN {out}.fact_ledger.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN {out}.fact_ledger.incurred_at IS 'When the request was sent, or the hit booked (UTC).';
COMMENT ON COLUMN {out}.fact_ledger.booked_at IS 'When it was booked (UTC).';
COMMENT ON COLUMN {out}.fact_ledger.entries IS '1, corrections included. Additive; it counts entries, not reviews.';
COMMENT ON COLUMN {out}.fact_ledger.cost_usd IS 'US dollars paid; 0 for hits, negative where money came back. Additive.';
COMMENT ON COLUMN {out}.fact_ledger.avoided_usd IS 'Estimate in US dollars of what a hit would have cost; negative where it is taken back. Additive.';

CREATE OR REPLACE VIEW {out}.fact_daily AS
SELECT day, tenant, taxonomy, simulated, v.verdict,
    CASE WHEN v.verdict IS NULL THEN NULL ELSE v.verdict <> 'failed' END AS let_through,
    c.reviews, c.hits, c.misses, c.deferred, (c.baseline_nanos // 1500000)::BIGINT AS labelled,
    (c.reviews - c.deferred - c.baseline_nanos // 1500000)::BIGINT AS failed,
    v.n AS judged, v.correct, v.texts AS judged_texts, c.requests,
    c.cost_nanos / 1e9 AS cost_usd, c.audit_nanos / 1e9 AS audit_usd,
    coalesce(c.embedding_nanos, 0) / 1e9 AS embedding_usd, c.held_nanos / 1e9 AS held_usd,
    c.avoided_nanos / 1e9 AS avoided_usd, c.no_cache_nanos / 1e9 AS no_cache_usd,
    c.baseline_nanos / 1e9 AS baseline_usd
FROM {out}.cost_rollups c
LEFT JOIN (
    SELECT day, tenant, taxonomy, verdict, n, correct, texts FROM {out}.gate_verdicts) v
    USING (day, tenant, taxonomy);
COMMENT ON VIEW {out}.fact_daily IS 'One row a tenant, taxonomy and day: what was delivered, answered, spent and judged; all days.';
COMMENT ON COLUMN {out}.fact_daily.day IS 'UTC day of delivery; joins dim_day.';
COMMENT ON COLUMN {out}.fact_daily.tenant IS 'Whose review, and who is billed; joins dim_tenant.';
COMMENT ON COLUMN {out}.fact_daily.taxonomy IS 'Name of the taxonomy: the kind of document.';
COMMENT ON COLUMN {out}.fact_daily.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN {out}.fact_daily.verdict IS 'The gate''s: passed, inconclusive (published, not verified) or failed (not published); null before the window.';
COMMENT ON COLUMN {out}.fact_daily.let_through IS 'True where it was published; null before the window.';
COMMENT ON COLUMN {out}.fact_daily.reviews IS 'Accepted reviews: hits + misses + deferred. Additive.';
COMMENT ON COLUMN {out}.fact_daily.hits IS 'Reviews answered without the model, repeats included. Additive; hits / reviews is the hit rate.';
COMMENT ON COLUMN {out}.fact_daily.misses IS 'Reviews that went to the model: labelled or failed. Additive.';
COMMENT ON COLUMN {out}.fact_daily.deferred IS 'Reviews kept back for a later run. Additive.';
COMMENT ON COLUMN {out}.fact_daily.labelled IS 'Reviews with labels. Additive; 1000 * cost_usd / labelled is the cost per 1,000.';
COMMENT ON COLUMN {out}.fact_daily.failed IS 'Reviews without a valid answer. Additive.';
COMMENT ON COLUMN {out}.fact_daily.judged IS 'Reviews with a truth and a label; null before the window. Additive over tenants; over days a text may come again.';
COMMENT ON COLUMN {out}.fact_daily.correct IS 'Of these, right. Additive, likewise. The share is unweighted, and an interval may not be summed: see daily_quality.';
COMMENT ON COLUMN {out}.fact_daily.judged_texts IS 'Different texts among the judged. Not additive over days.';
COMMENT ON COLUMN {out}.fact_daily.requests IS 'Requests sent to the model, retries included. Additive.';
COMMENT ON COLUMN {out}.fact_daily.cost_usd IS 'US dollars paid, refunds and corrections included. Additive.';
COMMENT ON COLUMN {out}.fact_daily.audit_usd IS 'Of it, what rechecking hits and asking the reference model cost. Additive.';
COMMENT ON COLUMN {out}.fact_daily.embedding_usd IS 'Of it, what embedding texts for the learned patterns cost. Additive.';
COMMENT ON COLUMN {out}.fact_daily.held_usd IS 'Worst case of requests whose outcome is unknown; no part of the cost. Additive.';
COMMENT ON COLUMN {out}.fact_daily.avoided_usd IS 'Estimate of what the hits would have cost. Additive.';
COMMENT ON COLUMN {out}.fact_daily.no_cache_usd IS 'Estimate of the cost without a cache. Additive; 1 - cost_usd / no_cache_usd of the sums is the saving.';
COMMENT ON COLUMN {out}.fact_daily.baseline_usd IS 'One large model for every labelled review at $1.50 per 1,000. Additive; 1 - cost_usd / baseline_usd of the sums is the saving.';
