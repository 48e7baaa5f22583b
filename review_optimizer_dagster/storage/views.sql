-- What analysts query in published/analytics.duckdb. Every view and column is commented;
-- money is in nano-dollars (1e-9 US dollar) in tables and in dollars in views.

CREATE OR REPLACE VIEW {out}.daily_costs AS
SELECT day, tenant, taxonomy, simulated, reviews, hits, misses, deferred, requests,
    cost_nanos / 1e9 AS cost_usd,
    audit_nanos / 1e9 AS audit_usd,
    coalesce(embedding_nanos, 0) / 1e9 AS embedding_usd,
    coalesce(repaid_nanos, 0) / 1e9 AS repaid_usd,
    coalesce(manual_nanos, 0) / 1e9 AS manual_usd,
    held_nanos / 1e9 AS held_usd,
    avoided_nanos / 1e9 AS avoided_usd,
    no_cache_nanos / 1e9 AS no_cache_usd,
    baseline_nanos / 1e9 AS baseline_usd,
    saving AS saving_share,
    saving_no_cache AS no_cache_saving_share,
    cost_per_1000_nanos / 1e9 AS usd_per_1000
FROM {out}.cost_rollups;
COMMENT ON VIEW {out}.daily_costs IS 'Spend of a tenant, taxonomy and day beside the one-model baseline; all days.';
COMMENT ON COLUMN {out}.daily_costs.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.daily_costs.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.daily_costs.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.daily_costs.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.daily_costs.reviews IS 'Accepted reviews.';
COMMENT ON COLUMN {out}.daily_costs.hits IS 'Reviews answered without the model, repeats included.';
COMMENT ON COLUMN {out}.daily_costs.misses IS 'Reviews that went to the model: labelled or failed.';
COMMENT ON COLUMN {out}.daily_costs.deferred IS 'Reviews kept back by a spent budget or an open job of the Batch API.';
COMMENT ON COLUMN {out}.daily_costs.requests IS 'Requests sent to the model, retries included.';
COMMENT ON COLUMN {out}.daily_costs.cost_usd IS 'What was paid, refunds and corrections included, in US dollars.';
COMMENT ON COLUMN {out}.daily_costs.audit_usd IS 'Of it, what rechecking hits cost.';
COMMENT ON COLUMN {out}.daily_costs.embedding_usd IS 'Of it, what embedding texts for the learned patterns cost.';
COMMENT ON COLUMN {out}.daily_costs.repaid_usd IS 'Of it, what was paid again on purpose (--reclassify) for texts that had been paid for.';
COMMENT ON COLUMN {out}.daily_costs.manual_usd IS 'Of it, refunds and adjustments booked by hand; negative where money came back.';
COMMENT ON COLUMN {out}.daily_costs.held_usd IS 'Worst case of requests whose outcome is unknown; no part of the cost.';
COMMENT ON COLUMN {out}.daily_costs.avoided_usd IS 'Estimate of what the hits would have cost: avoided_rule in ledger_entries says how.';
COMMENT ON COLUMN {out}.daily_costs.no_cache_usd IS 'Estimate of the cost without a cache: what answering the misses cost, and what the hits avoided.';
COMMENT ON COLUMN {out}.daily_costs.baseline_usd IS 'One large model for every labelled review at $1.50 per 1,000.';
COMMENT ON COLUMN {out}.daily_costs.saving_share IS 'Share of the baseline that was saved; null where nothing was labelled.';
COMMENT ON COLUMN {out}.daily_costs.no_cache_saving_share IS 'Share of no_cache_usd that was saved; null where that is 0.';
COMMENT ON COLUMN {out}.daily_costs.usd_per_1000 IS 'Cost per 1,000 labelled reviews.';

CREATE OR REPLACE VIEW {out}.monthly_costs AS
SELECT date_trunc('month', day)::DATE AS month, tenant, taxonomy, simulated,
    count(DISTINCT day) AS days, sum(reviews)::BIGINT AS reviews, sum(hits)::BIGINT AS hits,
    sum(misses)::BIGINT AS misses, sum(deferred)::BIGINT AS deferred,
    sum(requests)::BIGINT AS requests,
    sum(cost_nanos) / 1e9 AS cost_usd,
    sum(audit_nanos) / 1e9 AS audit_usd,
    sum(coalesce(embedding_nanos, 0)) / 1e9 AS embedding_usd,
    sum(coalesce(repaid_nanos, 0)) / 1e9 AS repaid_usd,
    sum(coalesce(manual_nanos, 0)) / 1e9 AS manual_usd,
    sum(held_nanos) / 1e9 AS held_usd,
    sum(avoided_nanos) / 1e9 AS avoided_usd,
    sum(no_cache_nanos) / 1e9 AS no_cache_usd,
    sum(baseline_nanos) / 1e9 AS baseline_usd,
    1 - sum(cost_nanos) / nullif(sum(baseline_nanos), 0) AS saving_share,
    1 - sum(cost_nanos) / nullif(sum(no_cache_nanos), 0) AS no_cache_saving_share,
    sum(cost_nanos) / 1e9 / nullif(sum(baseline_nanos) / 1500000, 0) * 1000 AS usd_per_1000
FROM {out}.cost_rollups
GROUP BY date_trunc('month', day), tenant, taxonomy, simulated;
COMMENT ON VIEW {out}.monthly_costs IS 'The same of a month of delivery: what `review-optimizer statement` adds up to; all months.';
COMMENT ON COLUMN {out}.monthly_costs.month IS 'First day of the month of delivery (UTC).';
COMMENT ON COLUMN {out}.monthly_costs.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.monthly_costs.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.monthly_costs.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.monthly_costs.days IS 'Days with a delivery.';
COMMENT ON COLUMN {out}.monthly_costs.reviews IS 'Accepted reviews.';
COMMENT ON COLUMN {out}.monthly_costs.hits IS 'Reviews answered without the model, repeats included.';
COMMENT ON COLUMN {out}.monthly_costs.misses IS 'Reviews that went to the model: labelled or failed.';
COMMENT ON COLUMN {out}.monthly_costs.deferred IS 'Reviews kept back by a spent budget or an open job of the Batch API.';
COMMENT ON COLUMN {out}.monthly_costs.requests IS 'Requests sent to the model, retries included.';
COMMENT ON COLUMN {out}.monthly_costs.cost_usd IS 'What was paid, refunds and corrections included, in US dollars.';
COMMENT ON COLUMN {out}.monthly_costs.audit_usd IS 'Of it, what rechecking hits cost.';
COMMENT ON COLUMN {out}.monthly_costs.embedding_usd IS 'Of it, what embedding texts for the learned patterns cost.';
COMMENT ON COLUMN {out}.monthly_costs.repaid_usd IS 'Of it, what was paid again on purpose (--reclassify) for texts that had been paid for.';
COMMENT ON COLUMN {out}.monthly_costs.manual_usd IS 'Of it, refunds and adjustments booked by hand; negative where money came back.';
COMMENT ON COLUMN {out}.monthly_costs.held_usd IS 'Worst case of requests whose outcome is unknown; no part of the cost.';
COMMENT ON COLUMN {out}.monthly_costs.avoided_usd IS 'Estimate of what the hits would have cost: avoided_rule in ledger_entries says how.';
COMMENT ON COLUMN {out}.monthly_costs.no_cache_usd IS 'Estimate of the cost without a cache: what answering the misses cost, and what the hits avoided.';
COMMENT ON COLUMN {out}.monthly_costs.baseline_usd IS 'One large model for every labelled review at $1.50 per 1,000.';
COMMENT ON COLUMN {out}.monthly_costs.saving_share IS 'Share of the baseline that was saved; null where nothing was labelled.';
COMMENT ON COLUMN {out}.monthly_costs.no_cache_saving_share IS 'Share of no_cache_usd that was saved; null where that is 0.';
COMMENT ON COLUMN {out}.monthly_costs.usd_per_1000 IS 'Cost per 1,000 labelled reviews.';

CREATE OR REPLACE VIEW {out}.spend AS
SELECT day, date_trunc('month', day)::DATE AS month, tenant, taxonomy, category, level, model, tier,
    service_tier, coalesce(purpose, kind) AS purpose, simulated,
    count(*) AS entries, count(DISTINCT review_id) AS reviews,
    sum(cost_nanos) / 1e9 AS cost_usd, sum(avoided_nanos) / 1e9 AS avoided_usd,
    sum(cost_nanos) / 1e9 / nullif(count(DISTINCT review_id), 0) * 1000 AS usd_per_1000
FROM {out}.ledger_entries
GROUP BY day, tenant, taxonomy, category, level, model, tier, service_tier,
    coalesce(purpose, kind), simulated;
COMMENT ON VIEW {out}.spend IS 'The ledger summed by everything that one may ask for: group it further.';
COMMENT ON COLUMN {out}.spend.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.spend.month IS 'First day of its month.';
COMMENT ON COLUMN {out}.spend.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.spend.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.spend.category IS 'Category as delivered; null where the review has left the day.';
COMMENT ON COLUMN {out}.spend.level IS 'model: paid; else the cache level that answered; null: booked by hand.';
COMMENT ON COLUMN {out}.spend.model IS 'Model that answered, or whose answer a hit was.';
COMMENT ON COLUMN {out}.spend.tier IS 'Step of the ladder of models; null on hits and embeddings.';
COMMENT ON COLUMN {out}.spend.service_tier IS 'Service tier that was billed, batch: the Batch API; null on hits.';
COMMENT ON COLUMN {out}.spend.purpose IS 'classification, audit (a hit that was rechecked), embedding, hit, repeat, refund or adjustment; a correction counts as what it corrects.';
COMMENT ON COLUMN {out}.spend.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.spend.entries IS 'Entries of the ledger, corrections included.';
COMMENT ON COLUMN {out}.spend.reviews IS 'Different reviews among them.';
COMMENT ON COLUMN {out}.spend.cost_usd IS 'What was paid.';
COMMENT ON COLUMN {out}.spend.avoided_usd IS 'Estimate of what the hits would have cost.';
COMMENT ON COLUMN {out}.spend.usd_per_1000 IS 'Cost per 1,000 of these reviews.';

CREATE OR REPLACE VIEW {out}.spend_by_hour AS
SELECT day, date_trunc('hour', sent_at) AS hour, tenant, simulated, count(*) AS requests,
    sum(cost_nanos) / 1e9 AS cost_usd,
    sum(sum(cost_nanos)) OVER (
        PARTITION BY day, tenant, simulated ORDER BY date_trunc('hour', sent_at)) / 1e9
        AS so_far_usd
FROM {out}.llm_requests
GROUP BY day, date_trunc('hour', sent_at), tenant, simulated;
COMMENT ON VIEW {out}.spend_by_hour IS 'When the money of a day was spent.';
COMMENT ON COLUMN {out}.spend_by_hour.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.spend_by_hour.hour IS 'Hour of sending (UTC).';
COMMENT ON COLUMN {out}.spend_by_hour.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.spend_by_hour.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.spend_by_hour.requests IS 'Requests sent in that hour.';
COMMENT ON COLUMN {out}.spend_by_hour.cost_usd IS 'What they cost.';
COMMENT ON COLUMN {out}.spend_by_hour.so_far_usd IS 'What the day''s requests had cost by the end of that hour.';

CREATE OR REPLACE VIEW {out}.spend_forecast AS
SELECT day, month, tenant, simulated, days_known, days_left, days_used, spent / 1e9 AS spent_usd,
    expected / 1e9 AS expected_usd, lower / 1e9 AS lower_usd, upper / 1e9 AS upper_usd,
    budget_nanos / 1e9 AS budget_usd, expected / nullif(budget_nanos, 0) AS budget_share
FROM {out}.spend_forecasts;
COMMENT ON VIEW {out}.spend_forecast IS 'What a tenant''s month will have cost when it ends, as seen on each day.';
COMMENT ON COLUMN {out}.spend_forecast.day IS 'UTC day of delivery that it was made on.';
COMMENT ON COLUMN {out}.spend_forecast.month IS 'The month, YYYY-MM.';
COMMENT ON COLUMN {out}.spend_forecast.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.spend_forecast.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.spend_forecast.days_known IS 'Days of the month up to that one.';
COMMENT ON COLUMN {out}.spend_forecast.days_left IS 'Days of it that are to come.';
COMMENT ON COLUMN {out}.spend_forecast.days_used IS 'Days, of the last 28, that the expectation rests on.';
COMMENT ON COLUMN {out}.spend_forecast.spent_usd IS 'Cost of the days that are known.';
COMMENT ON COLUMN {out}.spend_forecast.expected_usd IS 'Expected cost of the whole month.';
COMMENT ON COLUMN {out}.spend_forecast.lower_usd IS 'Lower end of the 90 % prediction interval; null for fewer than 3 days.';
COMMENT ON COLUMN {out}.spend_forecast.upper_usd IS 'Upper end of it.';
COMMENT ON COLUMN {out}.spend_forecast.budget_usd IS 'The tenant''s budget, where it is for a month.';
COMMENT ON COLUMN {out}.spend_forecast.budget_share IS 'expected_usd / budget_usd.';

CREATE OR REPLACE VIEW {out}.pool_savings AS
WITH hits AS (
    SELECT day, scope AS pool, tenant, source_tenant, simulated,
        CASE WHEN kind = 'correction' THEN -1 ELSE 1 END AS one, avoided_nanos
    FROM {out}.ledger_entries
    WHERE purpose IN ('hit', 'repeat') AND scope <> tenant),
members AS (
    SELECT day, pool, tenant, simulated,
        sum(one) FILTER (WHERE source_tenant = tenant) AS own_hits,
        sum(one) FILTER (WHERE source_tenant <> tenant) AS borrowed_hits,
        sum(one) FILTER (WHERE source_tenant IS NULL) AS pattern_hits,
        sum(avoided_nanos) FILTER (WHERE source_tenant <> tenant) AS borrowed_nanos,
        sum(avoided_nanos) FILTER (WHERE source_tenant IS NULL) AS pattern_nanos
    FROM hits GROUP BY ALL),
lenders AS (
    SELECT day, pool, source_tenant AS tenant, simulated, sum(one) AS lent_hits,
        sum(avoided_nanos) AS lent_nanos
    FROM hits WHERE source_tenant <> tenant GROUP BY ALL)
SELECT day, pool, tenant, simulated,
    coalesce(own_hits, 0)::BIGINT AS own_hits,
    coalesce(borrowed_hits, 0)::BIGINT AS borrowed_hits,
    coalesce(pattern_hits, 0)::BIGINT AS pattern_hits,
    coalesce(lent_hits, 0)::BIGINT AS lent_hits,
    coalesce(borrowed_nanos, 0) / 1e9 AS borrowed_usd,
    coalesce(pattern_nanos, 0) / 1e9 AS pattern_usd,
    coalesce(lent_nanos, 0) / 1e9 AS lent_usd
FROM members FULL JOIN lenders USING (day, pool, tenant, simulated);
COMMENT ON VIEW {out}.pool_savings IS 'What the members of a pool saved by answers that another member had paid for.';
COMMENT ON COLUMN {out}.pool_savings.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.pool_savings.pool IS 'The pool that the tenants joined.';
COMMENT ON COLUMN {out}.pool_savings.tenant IS 'Its member.';
COMMENT ON COLUMN {out}.pool_savings.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.pool_savings.own_hits IS 'Hits on answers that the tenant had paid for itself.';
COMMENT ON COLUMN {out}.pool_savings.borrowed_hits IS 'Hits on answers that another member had paid for.';
COMMENT ON COLUMN {out}.pool_savings.pattern_hits IS 'Hits of a pattern that learned from the answers of all members.';
COMMENT ON COLUMN {out}.pool_savings.lent_hits IS 'Hits of other members on answers that this tenant had paid for.';
COMMENT ON COLUMN {out}.pool_savings.borrowed_usd IS 'Estimate of what the borrowed hits would have cost the tenant.';
COMMENT ON COLUMN {out}.pool_savings.pattern_usd IS 'The same of the pattern''s hits.';
COMMENT ON COLUMN {out}.pool_savings.lent_usd IS 'Estimate of what the lent hits would have cost the others.';

CREATE OR REPLACE VIEW {out}.ledger_corrections AS
SELECT day, booked_at, booked_by, tenant, kind, purpose, review_id, request_id, corrects, note,
    cost_nanos / 1e9 AS cost_usd, avoided_nanos / 1e9 AS avoided_usd, simulated
FROM {out}.ledger_entries WHERE kind IN ('correction', 'refund', 'adjustment');
COMMENT ON VIEW {out}.ledger_corrections IS 'Every entry that changed what was booked before, and why.';
COMMENT ON COLUMN {out}.ledger_corrections.day IS 'UTC day of delivery that it is booked to.';
COMMENT ON COLUMN {out}.ledger_corrections.booked_at IS 'When it was booked (UTC).';
COMMENT ON COLUMN {out}.ledger_corrections.booked_by IS 'The run, or whoever booked it by hand.';
COMMENT ON COLUMN {out}.ledger_corrections.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.ledger_corrections.kind IS 'correction: made by a run; refund or adjustment: booked by hand.';
COMMENT ON COLUMN {out}.ledger_corrections.purpose IS 'What the corrected entry was for; else the kind.';
COMMENT ON COLUMN {out}.ledger_corrections.review_id IS 'Whose share it is; null where it is no review''s.';
COMMENT ON COLUMN {out}.ledger_corrections.request_id IS 'The request that it is about; null where it is about none.';
COMMENT ON COLUMN {out}.ledger_corrections.corrects IS 'entry_id of the corrected entry; null where it was booked by hand.';
COMMENT ON COLUMN {out}.ledger_corrections.note IS 'Why, or the reference that it was booked under.';
COMMENT ON COLUMN {out}.ledger_corrections.cost_usd IS 'What it adds to the cost; negative where money came back.';
COMMENT ON COLUMN {out}.ledger_corrections.avoided_usd IS 'What it adds to the estimate of avoided cost.';
COMMENT ON COLUMN {out}.ledger_corrections.simulated IS 'True where a simulator answered: no money was spent.';

CREATE OR REPLACE VIEW {out}.cache_levels AS
SELECT day, tenant, taxonomy, category, level, simulated,
    count(*) AS reviews,
    count(*) / sum(count(*)) OVER (
        PARTITION BY day, tenant, taxonomy, category, simulated) AS share,
    count(*) FILTER (WHERE repeat) AS repeats
FROM {out}.published_results
GROUP BY day, tenant, taxonomy, category, level, simulated;
COMMENT ON VIEW {out}.cache_levels IS 'Which level answered how many published reviews, a category.';
COMMENT ON COLUMN {out}.cache_levels.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.cache_levels.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.cache_levels.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.cache_levels.category IS 'Category as delivered.';
COMMENT ON COLUMN {out}.cache_levels.level IS 'l1, l2, l3_exact, l3_near, l3_pattern: cache levels; model: the model itself; none: no label.';
COMMENT ON COLUMN {out}.cache_levels.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.cache_levels.reviews IS 'Published reviews.';
COMMENT ON COLUMN {out}.cache_levels.share IS 'Share of the reviews of that day, tenant, taxonomy and category, 0 to 1.';
COMMENT ON COLUMN {out}.cache_levels.repeats IS 'Of these, repeats of another review of the same day.';

CREATE OR REPLACE VIEW {out}.cache_errors AS
SELECT day, window_days, tenant, taxonomy, simulated, identity, level, class, n, disagreements,
    disagreements / nullif(n, 0) AS share, lower, upper
FROM {out}.level_errors;
COMMENT ON VIEW {out}.cache_errors IS 'How often the model contradicted a cache level when its hits were rechecked at random.';
COMMENT ON COLUMN {out}.cache_errors.day IS 'Last UTC day of the rechecks counted.';
COMMENT ON COLUMN {out}.cache_errors.window_days IS 'How many days of rechecks are counted, up to that day.';
COMMENT ON COLUMN {out}.cache_errors.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.cache_errors.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.cache_errors.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.cache_errors.identity IS 'What the answers hold for: scope, taxonomy, prompt, model, normaliser.';
COMMENT ON COLUMN {out}.cache_errors.level IS 'Cache level: l1, l2, l3_exact, l3_near or l3_pattern.';
COMMENT ON COLUMN {out}.cache_errors.class IS 'Label that was served, as field=label; empty: the whole review, right in every field.';
COMMENT ON COLUMN {out}.cache_errors.n IS 'Hits in the random sample of rechecks.';
COMMENT ON COLUMN {out}.cache_errors.disagreements IS 'Of these, the model gave another label.';
COMMENT ON COLUMN {out}.cache_errors.share IS 'disagreements / n.';
COMMENT ON COLUMN {out}.cache_errors.lower IS 'Lower end of the exact two-sided 90 % interval of the share.';
COMMENT ON COLUMN {out}.cache_errors.upper IS 'Upper end of it.';

CREATE OR REPLACE VIEW {out}.pattern_bounds AS
SELECT day, split_part(identity, '|', 1) AS scope, ends_with(identity, '|simulated') AS simulated,
    version, field, label, nullif(category, '') AS category, status, threshold, n, errors, bound,
    max_error, rule
FROM {out}.pattern_certificates;
COMMENT ON VIEW {out}.pattern_bounds IS 'What a learned pattern may answer, and the proof: one row a label and group of categories.';
COMMENT ON COLUMN {out}.pattern_bounds.day IS 'UTC day whose evidence it rests on; the days after it are answered by it.';
COMMENT ON COLUMN {out}.pattern_bounds.scope IS 'Tenant or pool whose answers it learned from, and answers.';
COMMENT ON COLUMN {out}.pattern_bounds.simulated IS 'True where a simulator gave the answers.';
COMMENT ON COLUMN {out}.pattern_bounds.version IS 'Digest of the pattern.';
COMMENT ON COLUMN {out}.pattern_bounds.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN {out}.pattern_bounds.label IS 'Label that the pattern would give.';
COMMENT ON COLUMN {out}.pattern_bounds.category IS 'Category with a certificate of its own; null: all others, pooled.';
COMMENT ON COLUMN {out}.pattern_bounds.status IS 'serving; abstains: not shown to be right; cut out: a category that contradicts the pool; switched off: recent rechecks contradict it.';
COMMENT ON COLUMN {out}.pattern_bounds.threshold IS 'Least confidence that is served, 0 to 1; null unless serving.';
COMMENT ON COLUMN {out}.pattern_bounds.n IS 'Answers of the model (or a human) that it was compared with from there on.';
COMMENT ON COLUMN {out}.pattern_bounds.errors IS 'Of these, other labels.';
COMMENT ON COLUMN {out}.pattern_bounds.bound IS 'One-sided upper bound of the error share by the rule; a lower bound where it was cut out or switched off.';
COMMENT ON COLUMN {out}.pattern_bounds.max_error IS 'Largest error share that is allowed in this field.';
COMMENT ON COLUMN {out}.pattern_bounds.rule IS 'one-look: Clopper-Pearson; anytime: holds at every look at once.';

CREATE OR REPLACE VIEW {out}.published_labels AS
SELECT day, tenant, taxonomy, category, review_id,
    unnest(map_keys(parsed)) AS field,
    unnest(map_values(parsed)) AS label,
    level, verified, simulated
FROM (
    SELECT *, from_json(labels, '"MAP(VARCHAR, VARCHAR)"') AS parsed
    FROM {out}.published_results WHERE labels IS NOT NULL
);
COMMENT ON VIEW {out}.published_labels IS 'One row a published review and field of its taxonomy.';
COMMENT ON COLUMN {out}.published_labels.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.published_labels.tenant IS 'Whose review.';
COMMENT ON COLUMN {out}.published_labels.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.published_labels.category IS 'Category as delivered.';
COMMENT ON COLUMN {out}.published_labels.review_id IS 'Id of the review, unique in a day and tenant.';
COMMENT ON COLUMN {out}.published_labels.field IS 'Field of the taxonomy, e.g. sentiment.';
COMMENT ON COLUMN {out}.published_labels.label IS 'Its label.';
COMMENT ON COLUMN {out}.published_labels.level IS 'Where the label came from.';
COMMENT ON COLUMN {out}.published_labels.verified IS 'True where the gate passed the day; false where it could not decide.';
COMMENT ON COLUMN {out}.published_labels.simulated IS 'True where a simulator answered.';

CREATE OR REPLACE VIEW {out}.label_mix AS
SELECT day, tenant, taxonomy, category, field, label, simulated, count(*) AS reviews,
    count(*) / sum(count(*)) OVER (
        PARTITION BY day, tenant, taxonomy, category, field, simulated) AS share
FROM {out}.published_labels
GROUP BY day, tenant, taxonomy, category, field, label, simulated;
COMMENT ON VIEW {out}.label_mix IS 'How often each label was given, a category and day.';
COMMENT ON COLUMN {out}.label_mix.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.label_mix.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.label_mix.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.label_mix.category IS 'Category as delivered.';
COMMENT ON COLUMN {out}.label_mix.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN {out}.label_mix.label IS 'Label.';
COMMENT ON COLUMN {out}.label_mix.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.label_mix.reviews IS 'Published reviews with this label.';
COMMENT ON COLUMN {out}.label_mix.share IS 'Share within day, tenant, category and field, 0 to 1.';

CREATE OR REPLACE VIEW {out}.daily_quality AS
SELECT day, tenant, taxonomy, verdict, truth, n, correct, correct / nullif(n, 0) AS accuracy,
    lower, upper, threshold, needed, contract, detail
FROM {out}.gate_verdicts;
COMMENT ON VIEW {out}.daily_quality IS 'Accuracy of a day, tenant and taxonomy with its exact 90 % interval, and the gate''s verdict.';
COMMENT ON COLUMN {out}.daily_quality.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.daily_quality.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.daily_quality.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.daily_quality.verdict IS 'passed, failed or inconclusive.';
COMMENT ON COLUMN {out}.daily_quality.truth IS 'What it was measured against: labels, stars (weak) or none.';
COMMENT ON COLUMN {out}.daily_quality.n IS 'Reviews with a truth and a label.';
COMMENT ON COLUMN {out}.daily_quality.correct IS 'Of these, right in every field that has a truth.';
COMMENT ON COLUMN {out}.daily_quality.accuracy IS 'correct / n.';
COMMENT ON COLUMN {out}.daily_quality.lower IS 'Lower end of the exact two-sided 90 % interval.';
COMMENT ON COLUMN {out}.daily_quality.upper IS 'Upper end of it.';
COMMENT ON COLUMN {out}.daily_quality.threshold IS 'Accuracy that the tenant asks for.';
COMMENT ON COLUMN {out}.daily_quality.needed IS 'Labels that would decide an inconclusive day at the observed rate.';
COMMENT ON COLUMN {out}.daily_quality.contract IS 'Whether rows, keys and label sets were as promised.';
COMMENT ON COLUMN {out}.daily_quality.detail IS 'The verdict in a sentence.';

CREATE OR REPLACE VIEW {out}.model_requests AS
SELECT day, tenant, coalesce(model, model_requested) AS model, tier, way, service_tier, status,
    simulated, count(*) AS requests, sum(reviews)::BIGINT AS reviews_asked,
    sum(answered)::BIGINT AS reviews_answered,
    sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(cached_tokens)::BIGINT AS cached_tokens,
    sum(cache_write_tokens)::BIGINT AS cache_write_tokens,
    sum(completion_tokens)::BIGINT AS completion_tokens, sum(cost_nanos) / 1e9 AS cost_usd,
    quantile_cont(latency_ms, 0.5) AS latency_p50_ms,
    quantile_cont(latency_ms, 0.95) AS latency_p95_ms, max(memory_share) AS memory_share
FROM {out}.llm_requests
GROUP BY day, tenant, coalesce(model, model_requested), tier, way, service_tier, status, simulated;
COMMENT ON VIEW {out}.model_requests IS 'Requests to the model, a day, tenant, model and outcome.';
COMMENT ON COLUMN {out}.model_requests.day IS 'UTC day of delivery of the reviews asked about.';
COMMENT ON COLUMN {out}.model_requests.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.model_requests.model IS 'Model that answered, as its reply names it.';
COMMENT ON COLUMN {out}.model_requests.tier IS 'Step of the ladder of models; null for embeddings.';
COMMENT ON COLUMN {out}.model_requests.way IS 'sync: one by one; batch: through the Batch API, at half the price.';
COMMENT ON COLUMN {out}.model_requests.service_tier IS 'Service tier that the reply names.';
COMMENT ON COLUMN {out}.model_requests.status IS 'ok, partial, invalid, http_error, timeout, connection, unknown (no outcome), pending (in a job of the Batch API), or how a job ended without an answer: expired, cancelled, rejected, lost.';
COMMENT ON COLUMN {out}.model_requests.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.model_requests.requests IS 'Attempts.';
COMMENT ON COLUMN {out}.model_requests.reviews_asked IS 'Texts in these requests.';
COMMENT ON COLUMN {out}.model_requests.reviews_answered IS 'Texts that got a valid answer.';
COMMENT ON COLUMN {out}.model_requests.prompt_tokens IS 'Input tokens, cached ones included.';
COMMENT ON COLUMN {out}.model_requests.cached_tokens IS 'Input tokens billed at the cached price.';
COMMENT ON COLUMN {out}.model_requests.cache_write_tokens IS 'Input tokens billed at the price of writing them to the prompt cache.';
COMMENT ON COLUMN {out}.model_requests.completion_tokens IS 'Output tokens.';
COMMENT ON COLUMN {out}.model_requests.cost_usd IS 'Cost in US dollars.';
COMMENT ON COLUMN {out}.model_requests.latency_p50_ms IS 'Median response time in milliseconds.';
COMMENT ON COLUMN {out}.model_requests.latency_p95_ms IS '95th percentile of it.';
COMMENT ON COLUMN {out}.model_requests.memory_share IS 'Highest share of the model server''s memory in use when one was sent, 0 to 1; null where it is not watched.';

CREATE OR REPLACE VIEW {out}.tier_costs AS
SELECT day, tenant, tier, model_requested AS model, simulated, count(*) AS requests,
    sum(reviews)::BIGINT AS reviews_asked, sum(answered)::BIGINT AS reviews_answered,
    sum(escalated)::BIGINT AS reviews_escalated,
    sum(reviews) / sum(sum(reviews)) OVER (PARTITION BY day, tenant, simulated) AS asked_share,
    sum(cost_nanos) / 1e9 AS cost_usd,
    sum(cost_nanos) / nullif(sum(sum(cost_nanos)) OVER (
        PARTITION BY day, tenant, simulated), 0) AS cost_share
FROM {out}.llm_requests WHERE tier IS NOT NULL
GROUP BY day, tenant, tier, model_requested, simulated;
COMMENT ON VIEW {out}.tier_costs IS 'What each step of the ladder of models was asked, passed on and cost, a day and tenant.';
COMMENT ON COLUMN {out}.tier_costs.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.tier_costs.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.tier_costs.tier IS 'Step of the ladder, the cheapest model first.';
COMMENT ON COLUMN {out}.tier_costs.model IS 'Model that was asked for.';
COMMENT ON COLUMN {out}.tier_costs.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.tier_costs.requests IS 'Attempts.';
COMMENT ON COLUMN {out}.tier_costs.reviews_asked IS 'Texts in these requests.';
COMMENT ON COLUMN {out}.tier_costs.reviews_answered IS 'Texts that got a valid answer, doubtful ones included.';
COMMENT ON COLUMN {out}.tier_costs.reviews_escalated IS 'Texts that went on to the next step: no use, or in doubt.';
COMMENT ON COLUMN {out}.tier_costs.asked_share IS 'Share of the texts asked, 0 to 1.';
COMMENT ON COLUMN {out}.tier_costs.cost_usd IS 'Cost in US dollars.';
COMMENT ON COLUMN {out}.tier_costs.cost_share IS 'Share of the cost, 0 to 1; null where nothing was paid.';

CREATE OR REPLACE VIEW {out}.drift_signals AS
SELECT day, tenant, taxonomy, nullif(category, '') AS category, signal, horizon, simulated, alarm,
    n AS reviews, distance, p_value, p_adjusted, statistic, df, dispersion, baseline_n,
    baseline_days, baseline_from, baseline_to, new_normal
FROM {out}.drift_tests
ORDER BY day DESC, alarm DESC, p_value, distance DESC, tenant, taxonomy, category, signal;
COMMENT ON VIEW {out}.drift_signals IS 'What was compared with the days before, the alarms first, and how sure it is that it differs.';
COMMENT ON COLUMN {out}.drift_signals.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.drift_signals.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.drift_signals.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.drift_signals.category IS 'Category as delivered; null for all of them together.';
COMMENT ON COLUMN {out}.drift_signals.signal IS 'What is compared: label:FIELD, length, language, vocabulary, level, audit, category or new category.';
COMMENT ON COLUMN {out}.drift_signals.horizon IS 'day: that day alone; week: it and the six before it together.';
COMMENT ON COLUMN {out}.drift_signals.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.drift_signals.alarm IS 'Whether it counts as drift.';
COMMENT ON COLUMN {out}.drift_signals.reviews IS 'Reviews compared; rechecks, of audit.';
COMMENT ON COLUMN {out}.drift_signals.distance IS 'Share of reviews that would have to move to another bucket for the mixes to be the same, 0 to 1.';
COMMENT ON COLUMN {out}.drift_signals.p_value IS 'Chance of such a difference or a larger one without drift.';
COMMENT ON COLUMN {out}.drift_signals.p_adjusted IS 'The same, allowing for the number of tests of the day and tenant (Holm).';
COMMENT ON COLUMN {out}.drift_signals.statistic IS 'F; of a rare bucket, how many times more frequent it is.';
COMMENT ON COLUMN {out}.drift_signals.df IS 'Degrees of freedom; 0 where everything is in one bucket.';
COMMENT ON COLUMN {out}.drift_signals.dispersion IS 'How many times more the days before differ than independent reviews would.';
COMMENT ON COLUMN {out}.drift_signals.baseline_n IS 'Reviews of the days it is compared with.';
COMMENT ON COLUMN {out}.drift_signals.baseline_days IS 'How many days these are.';
COMMENT ON COLUMN {out}.drift_signals.baseline_from IS 'The first of them.';
COMMENT ON COLUMN {out}.drift_signals.baseline_to IS 'The last of them.';
COMMENT ON COLUMN {out}.drift_signals.new_normal IS 'True where they begin with drift that went on for so long that it is normal now.';

CREATE OR REPLACE VIEW {out}.daily_mix AS
SELECT day, tenant, taxonomy, nullif(category, '') AS category, signal, bucket, simulated, reviews,
    reviews / sum(reviews) OVER (
        PARTITION BY day, tenant, taxonomy, category, signal, simulated) AS share
FROM {out}.daily_profiles;
COMMENT ON VIEW {out}.daily_mix IS 'How a day''s reviews are distributed over the buckets of a signal: what drift is told from.';
COMMENT ON COLUMN {out}.daily_mix.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.daily_mix.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.daily_mix.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.daily_mix.category IS 'Category as delivered; null for all of them together.';
COMMENT ON COLUMN {out}.daily_mix.signal IS 'label:FIELD, length, language, vocabulary, level, audit or category.';
COMMENT ON COLUMN {out}.daily_mix.bucket IS 'Label, span of characters, language code, number of a hashed word, level, agrees or disagrees, or category.';
COMMENT ON COLUMN {out}.daily_mix.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.daily_mix.reviews IS 'Reviews in the bucket; rechecks, of audit.';
COMMENT ON COLUMN {out}.daily_mix.share IS 'Share of the signal''s reviews of that day and category, 0 to 1.';

CREATE OR REPLACE VIEW {out}.alert_log AS
SELECT raised_at, tenant, kind, period, severity, threshold, version, simulated,
    recovers IS NOT NULL AS recovery, state, message,
    CASE WHEN kind = 'budget' THEN value / 1e9 END AS spent_usd,
    CASE WHEN kind = 'budget' THEN "limit" / 1e9 END AS budget_usd,
    delivered_at, acknowledged_at, acknowledged_by,
    list_sort(map_keys(channels)) AS channels,
    list_sum(list_transform(map_values(channels), lambda each: each.attempts))::BIGINT AS attempts,
    alert_id, recovers
FROM (
    SELECT *, from_json(deliveries, '"MAP(VARCHAR, STRUCT(attempts BIGINT))"') AS channels
    FROM {out}.alerts)
ORDER BY raised_at DESC, alert_id;
COMMENT ON VIEW {out}.alert_log IS 'Alerts and recoveries, the newest first, as of the last run.';
COMMENT ON COLUMN {out}.alert_log.raised_at IS 'When it was raised.';
COMMENT ON COLUMN {out}.alert_log.tenant IS 'Whom it is about.';
COMMENT ON COLUMN {out}.alert_log.kind IS 'budget, gate, recheck, pattern or drift.';
COMMENT ON COLUMN {out}.alert_log.period IS 'UTC month or day that it is about.';
COMMENT ON COLUMN {out}.alert_log.severity IS 'info (recoveries), warning or critical.';
COMMENT ON COLUMN {out}.alert_log.threshold IS 'Per cent of the limit; of a recovery, the highest that is over.';
COMMENT ON COLUMN {out}.alert_log.version IS 'Version of the budget, from 1; 0 where limits have none.';
COMMENT ON COLUMN {out}.alert_log.simulated IS 'True where it is about simulated money.';
COMMENT ON COLUMN {out}.alert_log.recovery IS 'True where it says that something is over.';
COMMENT ON COLUMN {out}.alert_log.state IS 'raised, delivered (to every channel that was owed it), or acknowledged.';
COMMENT ON COLUMN {out}.alert_log.message IS 'What happened, in words.';
COMMENT ON COLUMN {out}.alert_log.spent_usd IS 'Spend in US dollars when it was raised; null but for budgets.';
COMMENT ON COLUMN {out}.alert_log.budget_usd IS 'The budget in US dollars; null but for budgets.';
COMMENT ON COLUMN {out}.alert_log.delivered_at IS 'When the last channel had it; null until then.';
COMMENT ON COLUMN {out}.alert_log.acknowledged_at IS 'When somebody saw to it; null until then.';
COMMENT ON COLUMN {out}.alert_log.acknowledged_by IS 'Who did.';
COMMENT ON COLUMN {out}.alert_log.channels IS 'Names of the channels that it was owed to.';
COMMENT ON COLUMN {out}.alert_log.attempts IS 'Attempts to deliver it, of all channels.';
COMMENT ON COLUMN {out}.alert_log.alert_id IS 'The same in every channel; webhooks carry it as webhook-id.';
COMMENT ON COLUMN {out}.alert_log.recovers IS 'The alert that is over; null where this is no recovery.';
