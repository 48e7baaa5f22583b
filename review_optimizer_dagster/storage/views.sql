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
COMMENT ON COLUMN {out}.daily_costs.audit_usd IS 'Of it, what rechecking hits and asking the reference model cost.';
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
COMMENT ON COLUMN {out}.monthly_costs.audit_usd IS 'Of it, what rechecking hits and asking the reference model cost.';
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
COMMENT ON COLUMN {out}.spend.model IS 'Model that answered; of a repeat, the one that answered the first review of its text; null on other hits.';
COMMENT ON COLUMN {out}.spend.tier IS 'Step of the ladder of models; null on hits and embeddings.';
COMMENT ON COLUMN {out}.spend.service_tier IS 'Service tier that was billed, batch: the Batch API; null on hits.';
COMMENT ON COLUMN {out}.spend.purpose IS 'classification, audit (a hit that was rechecked), reference (an audit by the reference model), embedding, hit, repeat, refund or adjustment; a correction counts as what it corrects.';
COMMENT ON COLUMN {out}.spend.simulated IS 'True where a simulator answered: no money was spent.';
COMMENT ON COLUMN {out}.spend.entries IS 'Entries of the ledger, corrections included.';
COMMENT ON COLUMN {out}.spend.reviews IS 'Different reviews among them.';
COMMENT ON COLUMN {out}.spend.cost_usd IS 'What was paid.';
COMMENT ON COLUMN {out}.spend.avoided_usd IS 'Estimate of what the hits would have cost.';
COMMENT ON COLUMN {out}.spend.usd_per_1000 IS 'Cost per 1,000 of these reviews.';

CREATE OR REPLACE VIEW {out}.spend_by_hour AS
SELECT day, hour, tenant, simulated, count(*) AS requests,
    sum(cost_nanos) / 1e9 AS cost_usd,
    sum(sum(cost_nanos)) OVER (PARTITION BY day, tenant, simulated ORDER BY hour) / 1e9
        AS so_far_usd
FROM (
    -- Of UTC, whatever the reader's own time zone is.
    SELECT *, to_timestamp(epoch_us(sent_at) // 3600000000 * 3600) AS hour FROM {out}.llm_requests)
GROUP BY day, hour, tenant, simulated;
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

CREATE OR REPLACE VIEW {out}.budget_burn AS
WITH periods AS (
    SELECT *, length(period) = 10 AS is_day,
        CASE WHEN length(period) = 10 THEN period::DATE ELSE (period || '-01')::DATE END AS starts
    FROM {out}.budget_states),
bounds AS (
    SELECT *, CASE WHEN is_day THEN starts + INTERVAL 1 DAY ELSE starts + INTERVAL 1 MONTH END
        AS ends
    FROM periods),
gone AS (
    SELECT *, least(1.0, greatest(0.0,
        date_diff('second', starts::TIMESTAMP, seen_at AT TIME ZONE 'UTC')
        / date_diff('second', starts::TIMESTAMP, ends))) AS gone_share
    FROM bounds)
SELECT day, tenant, simulated, period, version,
    budget_nanos / 1e9 AS budget_usd,
    spent_nanos / 1e9 AS spent_usd,
    held_nanos / 1e9 AS held_usd,
    (budget_nanos - spent_nanos - held_nanos) / 1e9 AS left_usd,
    spent_nanos / nullif(budget_nanos, 0) AS used_share,
    gone_share,
    spent_nanos / nullif(budget_nanos, 0) / nullif(gone_share, 0) AS projected_share,
    thresholds,
    list_max(list_filter(thresholds, lambda each: spent_nanos * 100 >= budget_nanos * each))
        AS reached,
    seen_at
FROM gone;
COMMENT ON VIEW {out}.budget_burn IS 'How much of a tenant''s budget was used when each day had run, and where that pace leads; all days.';
COMMENT ON COLUMN {out}.budget_burn.day IS 'UTC day of delivery whose run saw it.';
COMMENT ON COLUMN {out}.budget_burn.tenant IS 'Whose budget.';
COMMENT ON COLUMN {out}.budget_burn.simulated IS 'True where it is of simulated money, which is counted apart.';
COMMENT ON COLUMN {out}.budget_burn.period IS 'UTC month (YYYY-MM) or day (YYYY-MM-DD) of sending that the budget is for.';
COMMENT ON COLUMN {out}.budget_burn.version IS 'Version of the budget, from 1: another amount or period is another.';
COMMENT ON COLUMN {out}.budget_burn.budget_usd IS 'The budget in US dollars.';
COMMENT ON COLUMN {out}.budget_burn.spent_usd IS 'Spent of it by then, whatever day of delivery it was for.';
COMMENT ON COLUMN {out}.budget_burn.held_usd IS 'Worst case of requests whose cost was not known by then.';
COMMENT ON COLUMN {out}.budget_burn.left_usd IS 'budget_usd less spent_usd and held_usd.';
COMMENT ON COLUMN {out}.budget_burn.used_share IS 'spent_usd / budget_usd; null where the budget is 0.';
COMMENT ON COLUMN {out}.budget_burn.gone_share IS 'Share of the period that was over by then, 0 to 1.';
COMMENT ON COLUMN {out}.budget_burn.projected_share IS 'used_share / gone_share: what will be used of the budget at the pace so far.';
COMMENT ON COLUMN {out}.budget_burn.thresholds IS 'Per cent of the budget that the tenant is alerted at, in their order.';
COMMENT ON COLUMN {out}.budget_burn.reached IS 'The highest of them that spend has reached; null where none is.';
COMMENT ON COLUMN {out}.budget_burn.seen_at IS 'When it was looked at (UTC): the end of the day''s sums.';

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
COMMENT ON COLUMN {out}.pattern_bounds.status IS 'serving; abstains: not shown to be right; cut out: a category that contradicts the pool; switched off: recent rechecks contradict it, or the gate failed a day for it.';
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
COMMENT ON COLUMN {out}.published_labels.verified IS 'True where the gate passed the day; false where it could not decide, for a category that is below the threshold beyond doubt, and where a truth contradicts the labels.';
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
SELECT day, tenant, taxonomy, verdict, truth, n, correct,
    coalesce(accuracy, correct / nullif(n, 0)) AS accuracy, lower, upper, threshold, needed,
    contract, detail, texts, uncovered, goal, simulated, standing_days, standing_texts, standing_correct,
    standing_lower, standing_upper, standing_verdict
FROM {out}.gate_verdicts;
COMMENT ON VIEW {out}.daily_quality IS 'Accuracy of a day, tenant and taxonomy with its 90 % interval, the gate''s verdict, and all days together.';
COMMENT ON COLUMN {out}.daily_quality.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.daily_quality.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.daily_quality.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.daily_quality.verdict IS 'passed, failed or inconclusive.';
COMMENT ON COLUMN {out}.daily_quality.truth IS 'What it was measured against: labels (true ones), audits (the reference model), stars (weak) or none.';
COMMENT ON COLUMN {out}.daily_quality.n IS 'Reviews with a truth and a label.';
COMMENT ON COLUMN {out}.daily_quality.correct IS 'Of these, right in every field that has a truth.';
COMMENT ON COLUMN {out}.daily_quality.accuracy IS 'correct / n; weighted where the labels are of a stratified sample.';
COMMENT ON COLUMN {out}.daily_quality.lower IS 'Lower end of the two-sided 90 % interval; each end is a one-sided 95 % bound.';
COMMENT ON COLUMN {out}.daily_quality.upper IS 'Upper end of it.';
COMMENT ON COLUMN {out}.daily_quality.threshold IS 'Accuracy that the tenant asks for.';
COMMENT ON COLUMN {out}.daily_quality.needed IS 'Labels that would decide an inconclusive day at the observed rate.';
COMMENT ON COLUMN {out}.daily_quality.contract IS 'Whether rows, keys and label sets were as promised.';
COMMENT ON COLUMN {out}.daily_quality.detail IS 'The verdict in a sentence.';
COMMENT ON COLUMN {out}.daily_quality.texts IS 'Different texts among the n: what the interval counts.';
COMMENT ON COLUMN {out}.daily_quality.uncovered IS 'Reviews with a true label that have no labels: failed or deferred.';
COMMENT ON COLUMN {out}.daily_quality.goal IS 'Accuracy that the tenant strives for; it decides nothing.';
COMMENT ON COLUMN {out}.daily_quality.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.daily_quality.standing_days IS 'Days up to this one that have a truth of this kind.';
COMMENT ON COLUMN {out}.daily_quality.standing_texts IS 'Different texts of these days, each counted once.';
COMMENT ON COLUMN {out}.daily_quality.standing_correct IS 'Of these, right.';
COMMENT ON COLUMN {out}.daily_quality.standing_lower IS 'Lower bound of the accuracy over all days that holds at every look at once (95 %).';
COMMENT ON COLUMN {out}.daily_quality.standing_upper IS 'Upper bound of it, likewise.';
COMMENT ON COLUMN {out}.daily_quality.standing_verdict IS 'passed, failed or inconclusive by these two.';

CREATE OR REPLACE VIEW {out}.accuracy_by_part AS
SELECT day, tenant, taxonomy, simulated, truth, dimension, name, n, texts, correct, accuracy,
    lower, upper, shared_upper, below
FROM {out}.accuracy_cells;
COMMENT ON VIEW {out}.accuracy_by_part IS 'Accuracy of a day and of its fields, classes, categories and levels, by each kind of truth.';
COMMENT ON COLUMN {out}.accuracy_by_part.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.accuracy_by_part.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.accuracy_by_part.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.accuracy_by_part.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.accuracy_by_part.truth IS 'labels: true labels; audits: the reference model; stars: ratings, a weak truth; reference: the reference model itself, by true labels.';
COMMENT ON COLUMN {out}.accuracy_by_part.dimension IS 'all (the day as a whole), field, class (by its true label), category, level, or origin of the true labels (human, delivered).';
COMMENT ON COLUMN {out}.accuracy_by_part.name IS 'Which one; a class as field=label; empty for the whole.';
COMMENT ON COLUMN {out}.accuracy_by_part.n IS 'Reviews with a truth and a label; of a field or class, labels of that field.';
COMMENT ON COLUMN {out}.accuracy_by_part.texts IS 'Different texts among them: what the interval counts.';
COMMENT ON COLUMN {out}.accuracy_by_part.correct IS 'Of the n, right.';
COMMENT ON COLUMN {out}.accuracy_by_part.accuracy IS 'Share that is right, 0 to 1; weighted where the labels are of a stratified sample.';
COMMENT ON COLUMN {out}.accuracy_by_part.lower IS 'Lower end of the two-sided 90 % interval.';
COMMENT ON COLUMN {out}.accuracy_by_part.upper IS 'Upper end of it.';
COMMENT ON COLUMN {out}.accuracy_by_part.shared_upper IS 'Upper end that holds for all classes, categories and levels of the day at once (95 %).';
COMMENT ON COLUMN {out}.accuracy_by_part.below IS 'True where shared_upper is under the accuracy that the tenant asks for.';

CREATE OR REPLACE VIEW {out}.wrong_reviews AS
SELECT day, tenant, taxonomy, simulated, truth, review_id, category, level, source_key, request_id,
    labels, known
FROM {out}.scored_reviews WHERE NOT correct;
COMMENT ON VIEW {out}.wrong_reviews IS 'Reviews whose labels a truth contradicts, with where the labels came from.';
COMMENT ON COLUMN {out}.wrong_reviews.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.wrong_reviews.tenant IS 'Whose review.';
COMMENT ON COLUMN {out}.wrong_reviews.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.wrong_reviews.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.wrong_reviews.truth IS 'labels (true ones) or audits (the reference model).';
COMMENT ON COLUMN {out}.wrong_reviews.review_id IS 'Id of the review, unique in a day and tenant.';
COMMENT ON COLUMN {out}.wrong_reviews.category IS 'Category as delivered.';
COMMENT ON COLUMN {out}.wrong_reviews.level IS 'Where the labels came from.';
COMMENT ON COLUMN {out}.wrong_reviews.source_key IS 'Cache entry or pattern that they go back to.';
COMMENT ON COLUMN {out}.wrong_reviews.request_id IS 'Request that the model gave them in; null for what the cache answered.';
COMMENT ON COLUMN {out}.wrong_reviews.labels IS 'What was served: JSON, field to label.';
COMMENT ON COLUMN {out}.wrong_reviews.known IS 'The truth: JSON, field to label.';

CREATE OR REPLACE VIEW {out}.failure_causes AS
SELECT day, tenant, taxonomy, kind, level, source, field, label, category, wrong, n, reviews
FROM {out}.gate_causes;
COMMENT ON VIEW {out}.failure_causes IS 'What a tenant-day that the gate failed came from; these answer nothing more, or were asked anew.';
COMMENT ON COLUMN {out}.failure_causes.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.failure_causes.tenant IS 'Whose day failed.';
COMMENT ON COLUMN {out}.failure_causes.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.failure_causes.kind IS 'entry (of the cache), pattern (one label of it) or model.';
COMMENT ON COLUMN {out}.failure_causes.level IS 'Of an entry: the level it answered at.';
COMMENT ON COLUMN {out}.failure_causes.source IS 'Key of the entry, version of the pattern, or name of the model.';
COMMENT ON COLUMN {out}.failure_causes.field IS 'Of a pattern: the field of the label.';
COMMENT ON COLUMN {out}.failure_causes.label IS 'Of a pattern: the label that it gave wrongly.';
COMMENT ON COLUMN {out}.failure_causes.category IS 'Of a model: where it answered badly; null for single answers.';
COMMENT ON COLUMN {out}.failure_causes.wrong IS 'Reviews that a truth contradicts.';
COMMENT ON COLUMN {out}.failure_causes.n IS 'Reviews with a truth that it answered.';
COMMENT ON COLUMN {out}.failure_causes.reviews IS 'All that it answered on the day.';

CREATE OR REPLACE VIEW {out}.label_judgements AS
SELECT tenant, taxonomy, review_id, day, field, label, labeller, labelled_at, origin, file, line
FROM {out}.human_labels;
COMMENT ON VIEW {out}.label_judgements IS 'What each labeller said of each review, a field; every judgement that is kept, all days.';
COMMENT ON COLUMN {out}.label_judgements.tenant IS 'Whose review.';
COMMENT ON COLUMN {out}.label_judgements.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.label_judgements.review_id IS 'The review.';
COMMENT ON COLUMN {out}.label_judgements.day IS 'UTC day of the delivery that it is about; null: every delivery of the review.';
COMMENT ON COLUMN {out}.label_judgements.field IS 'Question.';
COMMENT ON COLUMN {out}.label_judgements.label IS 'What the labeller says is right.';
COMMENT ON COLUMN {out}.label_judgements.labeller IS 'Who said so: by the row, else the folder, else the name of the file.';
COMMENT ON COLUMN {out}.label_judgements.labelled_at IS 'When: by the row, else the time of change of the file.';
COMMENT ON COLUMN {out}.label_judgements.origin IS 'file, or table of a DuckDB database.';
COMMENT ON COLUMN {out}.label_judgements.file IS 'Where it stands, under labels/; a table follows its database behind //.';
COMMENT ON COLUMN {out}.label_judgements.line IS 'Line or row there.';

CREATE OR REPLACE VIEW {out}.disputed_labels AS
SELECT r.day, r.tenant, r.taxonomy, r.review_id, r.field, r.labellers, r.newest_at,
    (SELECT string_agg(DISTINCT h.label, ', ' ORDER BY h.label) FROM {out}.human_labels h
        WHERE h.tenant = r.tenant AND h.taxonomy = r.taxonomy AND h.field = r.field
            AND h.review_id = r.review_id AND (h.day IS NULL OR h.day = r.day)) AS labels
FROM {out}.resolved_labels r WHERE r.status = 'disputed';
COMMENT ON VIEW {out}.disputed_labels IS 'Labels that people do not agree on, which are no truth until they do.';
COMMENT ON COLUMN {out}.disputed_labels.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.disputed_labels.tenant IS 'Whose review.';
COMMENT ON COLUMN {out}.disputed_labels.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.disputed_labels.review_id IS 'The review.';
COMMENT ON COLUMN {out}.disputed_labels.field IS 'Question.';
COMMENT ON COLUMN {out}.disputed_labels.labellers IS 'How many people labelled it.';
COMMENT ON COLUMN {out}.disputed_labels.newest_at IS 'When the last of them did.';
COMMENT ON COLUMN {out}.disputed_labels.labels IS 'What they said, older judgements of theirs included; null where the label was given to another review of the same text.';

CREATE OR REPLACE VIEW {out}.labeller_agreement AS
WITH newest AS (
    SELECT tenant, taxonomy, review_id, day, field, labeller, label FROM {out}.human_labels
    QUALIFY row_number() OVER (PARTITION BY tenant, taxonomy, review_id, day, field, labeller
        ORDER BY labelled_at DESC, file DESC, line DESC) = 1)
SELECT tenant, taxonomy, field, a.labeller AS labeller, b.labeller AS other_labeller,
    count(*) AS pairs, count(*) FILTER (WHERE a.label = b.label) AS agreeing,
    count(*) FILTER (WHERE a.label = b.label) / count(*) AS agreement_share
FROM newest a JOIN newest b USING (tenant, taxonomy, review_id, field)
WHERE a.labeller < b.labeller AND (a.day = b.day OR a.day IS NULL OR b.day IS NULL)
GROUP BY tenant, taxonomy, field, a.labeller, b.labeller;
COMMENT ON VIEW {out}.labeller_agreement IS 'How often two labellers say the same of a review, a field, by the newest of each; all days.';
COMMENT ON COLUMN {out}.labeller_agreement.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.labeller_agreement.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.labeller_agreement.field IS 'Question.';
COMMENT ON COLUMN {out}.labeller_agreement.labeller IS 'One labeller.';
COMMENT ON COLUMN {out}.labeller_agreement.other_labeller IS 'The other.';
COMMENT ON COLUMN {out}.labeller_agreement.pairs IS 'Reviews that both labelled.';
COMMENT ON COLUMN {out}.labeller_agreement.agreeing IS 'Of these, with the same label.';
COMMENT ON COLUMN {out}.labeller_agreement.agreement_share IS 'agreeing / pairs, 0 to 1; chance agreement is not taken out.';

CREATE OR REPLACE VIEW {out}.label_progress AS
SELECT s.day, s.tenant, s.taxonomy, s.sample_id, s.stratum,
    any_value(s.stratum_texts) AS texts, any_value(s.stratum_reviews) AS reviews,
    count(*) AS drawn, count(*) FILTER (WHERE EXISTS (
        FROM {out}.human_labels h WHERE h.tenant = s.tenant AND h.taxonomy = s.taxonomy
            AND h.review_id = s.review_id AND (h.day IS NULL OR h.day = s.day))) AS labelled,
    any_value(s.asked) AS asked
FROM {out}.label_samples s WHERE s.review_id = s.shown
GROUP BY s.day, s.tenant, s.taxonomy, s.sample_id, s.stratum;
COMMENT ON VIEW {out}.label_progress IS 'How far people are with each sample that was drawn to be labelled, a stratum.';
COMMENT ON COLUMN {out}.label_progress.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.label_progress.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.label_progress.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.label_progress.sample_id IS 'Which sample; days that were drawn together have the same.';
COMMENT ON COLUMN {out}.label_progress.stratum IS 'Label of the main field, level, category and confidence when it was drawn.';
COMMENT ON COLUMN {out}.label_progress.texts IS 'Different texts in the stratum, of all days drawn together.';
COMMENT ON COLUMN {out}.label_progress.reviews IS 'Reviews that have one of them.';
COMMENT ON COLUMN {out}.label_progress.drawn IS 'Texts of this day that people were asked about.';
COMMENT ON COLUMN {out}.label_progress.labelled IS 'Of these, with a judgement of any field.';
COMMENT ON COLUMN {out}.label_progress.asked IS 'Probability with which each text of the stratum was drawn.';

CREATE OR REPLACE VIEW {out}.batch_quality AS
SELECT day, tenant, taxonomy, tier, model, request_id, reviews, n, correct,
    correct / nullif(n, 0) AS accuracy, lower, upper, confidence, threshold, goal, verdict,
    simulated
FROM {out}.batch_samples;
COMMENT ON VIEW {out}.batch_quality IS 'A large batch: how many of a random sample of its answers are right, and what that says.';
COMMENT ON COLUMN {out}.batch_quality.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.batch_quality.tenant IS 'Whose reviews.';
COMMENT ON COLUMN {out}.batch_quality.taxonomy IS 'Kind of document.';
COMMENT ON COLUMN {out}.batch_quality.tier IS 'Step of the ladder of models.';
COMMENT ON COLUMN {out}.batch_quality.model IS 'Model that answered.';
COMMENT ON COLUMN {out}.batch_quality.request_id IS 'The request, as in llm_requests.';
COMMENT ON COLUMN {out}.batch_quality.reviews IS 'Reviews that it asked about.';
COMMENT ON COLUMN {out}.batch_quality.n IS 'Of these, answered, with a truth, and in the sample.';
COMMENT ON COLUMN {out}.batch_quality.correct IS 'Of the sample, right in every field that has a truth.';
COMMENT ON COLUMN {out}.batch_quality.accuracy IS 'correct / n.';
COMMENT ON COLUMN {out}.batch_quality.lower IS 'Lower end of the exact interval; null where too few have a truth.';
COMMENT ON COLUMN {out}.batch_quality.upper IS 'Upper end of it.';
COMMENT ON COLUMN {out}.batch_quality.confidence IS 'Confidence of each end by itself: the batches of a tenant share a level of 5 %.';
COMMENT ON COLUMN {out}.batch_quality.threshold IS 'Accuracy that the tenant asks for: below it beyond doubt, the tier is paused.';
COMMENT ON COLUMN {out}.batch_quality.goal IS 'Accuracy that the tenant aims at; decides nothing.';
COMMENT ON COLUMN {out}.batch_quality.verdict IS 'below, undecided, pass, or unsampled where too few have a truth.';
COMMENT ON COLUMN {out}.batch_quality.simulated IS 'True where a simulator answered.';

CREATE OR REPLACE VIEW {out}.service_levels_daily AS
SELECT day, tenant, simulated, indicator,
    CASE WHEN target IS NULL THEN 'not promised' WHEN met IS NULL THEN 'unknown'
        WHEN met THEN 'met' ELSE 'broken' END AS verdict,
    target, value, n, detail
FROM {out}.service_levels;
COMMENT ON VIEW {out}.service_levels_daily IS 'What a tenant was promised of a day and what it got; all days.';
COMMENT ON COLUMN {out}.service_levels_daily.day IS 'UTC day of delivery.';
COMMENT ON COLUMN {out}.service_levels_daily.tenant IS 'To whom it was promised.';
COMMENT ON COLUMN {out}.service_levels_daily.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.service_levels_daily.indicator IS 'run_seconds, freshness_hours, latency_p95_ms, hit_rate, accuracy, usd_per_1000 or failed_share, each in its unit (shares from 0 to 1); all: the day itself.';
COMMENT ON COLUMN {out}.service_levels_daily.verdict IS 'met, broken, unknown (it cannot be said, and the day does not count) or not promised. The day is broken where any promise is.';
COMMENT ON COLUMN {out}.service_levels_daily.target IS 'What was promised: at most, but at least for hit_rate and accuracy; of all, the promises that can be judged.';
COMMENT ON COLUMN {out}.service_levels_daily.value IS 'What it was; of all, the promises that were met.';
COMMENT ON COLUMN {out}.service_levels_daily.n IS 'What the value rests on: reviews, requests, labels or deliveries; of all, promises.';
COMMENT ON COLUMN {out}.service_levels_daily.detail IS 'The same in words.';

CREATE OR REPLACE VIEW {out}.error_budgets AS
SELECT day, tenant, simulated, indicator, objective, window_days, days_judged, days_broken,
    budget_days, budget_left AS left_days, burn AS burn_rate
FROM {out}.service_levels WHERE target IS NOT NULL;
COMMENT ON VIEW {out}.error_budgets IS 'How many days may break a promise, and how many still may, as seen on each day.';
COMMENT ON COLUMN {out}.error_budgets.day IS 'Last day of the window.';
COMMENT ON COLUMN {out}.error_budgets.tenant IS 'To whom it was promised.';
COMMENT ON COLUMN {out}.error_budgets.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.error_budgets.indicator IS 'As in service_levels_daily; all: days that broke any promise.';
COMMENT ON COLUMN {out}.error_budgets.objective IS 'Share of days that are to keep it.';
COMMENT ON COLUMN {out}.error_budgets.window_days IS 'Days of the window.';
COMMENT ON COLUMN {out}.error_budgets.days_judged IS 'Days of the window that could be judged.';
COMMENT ON COLUMN {out}.error_budgets.days_broken IS 'Of these, the broken ones.';
COMMENT ON COLUMN {out}.error_budgets.budget_days IS 'Days of the whole window that may be broken: (1 - objective) x window_days.';
COMMENT ON COLUMN {out}.error_budgets.left_days IS 'budget_days - days_broken; negative where more is spent than there was.';
COMMENT ON COLUMN {out}.error_budgets.burn_rate IS 'Share of judged days that were broken over the share that may be: at 1 the budget lasts exactly the window; null where no day was judged.';

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

CREATE OR REPLACE VIEW {out}.request_latency AS
SELECT day, tenant, model, tier, simulated, count(*) AS requests, count(expected_ms) AS judged,
    quantile_cont(latency_ms, 0.5) AS latency_p50_ms,
    quantile_cont(latency_ms, 0.95) AS latency_p95_ms,
    quantile_cont(expected_ms, 0.5) AS expected_p50_ms,
    quantile_cont(expected_ms, 0.95) AS expected_p95_ms,
    exp(median(ln(latency_ms / expected_ms))) AS slowdown,
    count(*) FILTER (WHERE slow) AS slow,
    count(*) FILTER (WHERE slow) / nullif(count(expected_ms), 0) AS slow_share,
    count(*) FILTER (WHERE degraded) AS degraded
FROM {out}.request_latencies
GROUP BY day, tenant, model, tier, simulated;
COMMENT ON VIEW {out}.request_latency IS 'Response times beside what the size of the requests predicts, a day, tenant and model.';
COMMENT ON COLUMN {out}.request_latency.day IS 'UTC day of delivery of the reviews asked about.';
COMMENT ON COLUMN {out}.request_latency.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.request_latency.model IS 'Model that was asked for.';
COMMENT ON COLUMN {out}.request_latency.tier IS 'Step of the ladder of models.';
COMMENT ON COLUMN {out}.request_latency.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.request_latency.requests IS 'Answered requests, without those of the Batch API and embeddings.';
COMMENT ON COLUMN {out}.request_latency.judged IS 'Of them, those with an expectation: enough earlier requests, and of sizes like it.';
COMMENT ON COLUMN {out}.request_latency.latency_p50_ms IS 'Median response time in milliseconds.';
COMMENT ON COLUMN {out}.request_latency.latency_p95_ms IS '95th percentile of it.';
COMMENT ON COLUMN {out}.request_latency.expected_p50_ms IS 'Median of what was expected, in milliseconds; null where nothing was.';
COMMENT ON COLUMN {out}.request_latency.expected_p95_ms IS '95th percentile of it: larger where batches were large.';
COMMENT ON COLUMN {out}.request_latency.slowdown IS 'Median of response time over expected time; 1 is as ever.';
COMMENT ON COLUMN {out}.request_latency.slow IS 'Single requests whose robust z-score is over latency.slow_z.';
COMMENT ON COLUMN {out}.request_latency.slow_share IS 'Share of the judged requests, 0 to 1.';
COMMENT ON COLUMN {out}.request_latency.degraded IS 'Requests that were sent inside an episode.';

CREATE OR REPLACE VIEW {out}.slow_requests AS
SELECT day, request_id, tenant, model, tier, simulated, sent_at, reviews, fresh_tokens,
    completion_tokens, latency_ms, expected_ms, z, degraded
FROM {out}.request_latencies WHERE slow
ORDER BY day DESC, z DESC;
COMMENT ON VIEW {out}.slow_requests IS 'Single requests that took much longer than their size predicts.';
COMMENT ON COLUMN {out}.slow_requests.day IS 'UTC day of delivery of the reviews asked about.';
COMMENT ON COLUMN {out}.slow_requests.request_id IS 'The request, as in llm_requests.';
COMMENT ON COLUMN {out}.slow_requests.tenant IS 'Who is billed.';
COMMENT ON COLUMN {out}.slow_requests.model IS 'Model that was asked for.';
COMMENT ON COLUMN {out}.slow_requests.tier IS 'Step of the ladder of models.';
COMMENT ON COLUMN {out}.slow_requests.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.slow_requests.sent_at IS 'When it was sent.';
COMMENT ON COLUMN {out}.slow_requests.reviews IS 'Texts in it.';
COMMENT ON COLUMN {out}.slow_requests.fresh_tokens IS 'Input tokens that no prompt cache held.';
COMMENT ON COLUMN {out}.slow_requests.completion_tokens IS 'Output tokens.';
COMMENT ON COLUMN {out}.slow_requests.latency_ms IS 'Response time in milliseconds.';
COMMENT ON COLUMN {out}.slow_requests.expected_ms IS 'Median response time of requests of this size.';
COMMENT ON COLUMN {out}.slow_requests.z IS 'Robust z-score: 1 is a spread (1.4826 MAD of the log residuals) slower than the median.';
COMMENT ON COLUMN {out}.slow_requests.degraded IS 'Whether it was sent inside an episode.';

CREATE OR REPLACE VIEW {out}.degradations AS
SELECT started, number, model, tier, simulated, onset_at, raised_at, requests, slowdown, tenants,
    day AS last_day, ended_at, coalesce("end", 'goes on') AS state
FROM {out}.latency_episodes
QUALIFY row_number() OVER (
    PARTITION BY started, number, model, tier, simulated ORDER BY day DESC) = 1;
COMMENT ON VIEW {out}.degradations IS 'Episodes in which a model answered more slowly than the size of requests predicts.';
COMMENT ON COLUMN {out}.degradations.started IS 'UTC day of delivery whose requests raised it.';
COMMENT ON COLUMN {out}.degradations.number IS 'Of those that started on that day, from 1.';
COMMENT ON COLUMN {out}.degradations.model IS 'Model that was asked for.';
COMMENT ON COLUMN {out}.degradations.tier IS 'Step of the ladder of models.';
COMMENT ON COLUMN {out}.degradations.simulated IS 'True where a simulator answered.';
COMMENT ON COLUMN {out}.degradations.onset_at IS 'Estimate of when it began.';
COMMENT ON COLUMN {out}.degradations.raised_at IS 'When the request was sent that raised the alert.';
COMMENT ON COLUMN {out}.degradations.requests IS 'Judged requests inside it.';
COMMENT ON COLUMN {out}.degradations.slowdown IS 'Geometric mean of response time over expected time in it.';
COMMENT ON COLUMN {out}.degradations.tenants IS 'Whose requests were sent in it.';
COMMENT ON COLUMN {out}.degradations.last_day IS 'Last day of delivery that it was seen on.';
COMMENT ON COLUMN {out}.degradations.ended_at IS 'When the first request after it was sent; null while it goes on, or with a new normal.';
COMMENT ON COLUMN {out}.degradations.state IS 'goes on, recovered, or new normal: it lasted, and is what is expected now.';

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
COMMENT ON COLUMN {out}.alert_log.kind IS 'budget, gate, quality, latency, drift, service, recheck or pattern.';
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
