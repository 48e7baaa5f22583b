-- The warehouse: one row of comment a table. Deduplication is by anti-join, never by an index.

CREATE TABLE IF NOT EXISTS raw_reviews (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, content_key VARCHAR,
    category VARCHAR, product_id VARCHAR, title VARCHAR, text VARCHAR, rating DOUBLE,
    ts TIMESTAMPTZ, truth VARCHAR, synthetic BOOLEAN, file VARCHAR, line BIGINT
);
COMMENT ON TABLE raw_reviews IS 'An accepted review of one day of delivery.';
COMMENT ON COLUMN raw_reviews.day IS 'UTC day of delivery.';
COMMENT ON COLUMN raw_reviews.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN raw_reviews.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN raw_reviews.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN raw_reviews.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN raw_reviews.category IS 'Category as delivered; unknown where the file gave none.';
COMMENT ON COLUMN raw_reviews.product_id IS 'Id of the product as delivered; null where the file gave none.';
COMMENT ON COLUMN raw_reviews.title IS 'Title as delivered; null where there is none.';
COMMENT ON COLUMN raw_reviews.text IS 'Text as delivered; nothing is masked here, [input] redact masks what is sent.';
COMMENT ON COLUMN raw_reviews.rating IS 'Star rating as delivered; null where there is none.';
COMMENT ON COLUMN raw_reviews.ts IS 'When the review was written (UTC), as delivered; null where the file does not say.';
COMMENT ON COLUMN raw_reviews.truth IS 'True labels that came with the delivery: JSON, field to label; {} where none did.';
COMMENT ON COLUMN raw_reviews.synthetic IS 'True for generated text, such as the built-in sample.';
COMMENT ON COLUMN raw_reviews.file IS 'File of delivery, under inbox/.';
COMMENT ON COLUMN raw_reviews.line IS 'Line or row of it, from 1.';

CREATE TABLE IF NOT EXISTS quarantined_reviews (
    day DATE, tenant VARCHAR, file VARCHAR, line BIGINT, review_id VARCHAR,
    reason VARCHAR, detail VARCHAR, excerpt VARCHAR
);
COMMENT ON TABLE quarantined_reviews IS 'A row of input that was not accepted, and why.';
COMMENT ON COLUMN quarantined_reviews.day IS 'UTC day of delivery.';
COMMENT ON COLUMN quarantined_reviews.tenant IS 'Whose delivery; null where a row of the mixed inbox names no tenant.';
COMMENT ON COLUMN quarantined_reviews.file IS 'File of delivery, under inbox/.';
COMMENT ON COLUMN quarantined_reviews.line IS 'Line or row of it, from 1; null where the file as a whole could not be read.';
COMMENT ON COLUMN quarantined_reviews.review_id IS 'Id that the row gave; null where it had none that could be read.';
COMMENT ON COLUMN quarantined_reviews.reason IS 'Code of what is wrong: empty_text, over_long, wrong_type, encoding, broken_csv, broken_json, unknown_layout, id_conflict, duplicate_row, ...';
COMMENT ON COLUMN quarantined_reviews.detail IS 'The same in words.';
COMMENT ON COLUMN quarantined_reviews.excerpt IS 'Beginning of the row, personal data masked; null where the row was refused for its id.';

CREATE TABLE IF NOT EXISTS cache_resolution (
    day DATE, tenant VARCHAR, review_id VARCHAR, identity VARCHAR, content_key VARCHAR,
    repeat BOOLEAN, level VARCHAR, labels VARCHAR, source_key VARCHAR, score DOUBLE,
    near_score DOUBLE, veto VARCHAR, resolved_at TIMESTAMPTZ
);
-- How likely the review was asked of the model, its random number, whether it was rechecked, and
-- what a recheck took back.
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS bound DOUBLE;
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS asked DOUBLE;
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS draw DOUBLE;
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS audit BOOLEAN;
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS withdrawn_level VARCHAR;
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS withdrawn_source VARCHAR;
ALTER TABLE cache_resolution ADD COLUMN IF NOT EXISTS withdrawn_labels VARCHAR;
COMMENT ON TABLE cache_resolution IS
    'What the cache said of a review when its partition was first run; level is null for a miss.';
COMMENT ON COLUMN cache_resolution.day IS 'UTC day of delivery.';
COMMENT ON COLUMN cache_resolution.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN cache_resolution.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN cache_resolution.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN cache_resolution.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN cache_resolution.repeat IS 'True for a review whose text another one of the day has, which is asked for both.';
COMMENT ON COLUMN cache_resolution.level IS 'Cache level that answered: l1, l2, l3_exact, l3_near or l3_pattern; l1 for a repeat; null for a miss.';
COMMENT ON COLUMN cache_resolution.labels IS 'What the cache answered: JSON, field to label; null for a miss and for its repeats.';
COMMENT ON COLUMN cache_resolution.source_key IS 'content_key of the entry that answered, or pattern:VERSION; null for a miss.';
COMMENT ON COLUMN cache_resolution.score IS 'How alike the texts are, or how sure the pattern is, 0 to 1; 1 for the same text; null for a miss.';
COMMENT ON COLUMN cache_resolution.near_score IS 'Similarity of the most similar text over the threshold, 0 to 1, whether it answered or not; null where there was none.';
COMMENT ON COLUMN cache_resolution.veto IS 'Why the most similar text that was refused was refused, as kind: word; null where none was.';
COMMENT ON COLUMN cache_resolution.resolved_at IS 'When the cache was asked (UTC).';
COMMENT ON COLUMN cache_resolution.bound IS 'Of a pattern''s hit: upper bound of the chance that it is wrong, by its certificates; else null.';
COMMENT ON COLUMN cache_resolution.asked IS 'Probability with which the review was asked of the model, 0 to 1; 1 for a miss; null for a repeat.';
COMMENT ON COLUMN cache_resolution.draw IS 'Its random number of the day, 0 to 1, made of the text; a hit is rechecked where draw < asked; null for a repeat.';
COMMENT ON COLUMN cache_resolution.audit IS 'True for a hit that is rechecked: asked of the model all the same.';
COMMENT ON COLUMN cache_resolution.withdrawn_level IS 'Level of an answer that was taken back since (by a recheck, or a failed gate); null where none was.';
COMMENT ON COLUMN cache_resolution.withdrawn_source IS 'source_key of that answer.';
COMMENT ON COLUMN cache_resolution.withdrawn_labels IS 'Labels of that answer: JSON, field to label.';

CREATE TABLE IF NOT EXISTS batch_plan (
    day DATE, batch_id VARCHAR, position BIGINT, item_id VARCHAR, tenant VARCHAR,
    taxonomy VARCHAR, identity VARCHAR, content_key VARCHAR, tier VARCHAR, complexity DOUBLE,
    tokens BIGINT
);
-- classification, audit: a hit that is asked of the model all the same, or reference.
ALTER TABLE batch_plan ADD COLUMN IF NOT EXISTS purpose VARCHAR;
COMMENT ON TABLE batch_plan IS 'A text that the model is asked about, and its place in a batch.';
COMMENT ON COLUMN batch_plan.day IS 'UTC day of delivery.';
COMMENT ON COLUMN batch_plan.batch_id IS 'The batch that the text travels in.';
COMMENT ON COLUMN batch_plan.position IS 'Place in its batch, from 1.';
COMMENT ON COLUMN batch_plan.item_id IS 'Name of the document in the prompt.';
COMMENT ON COLUMN batch_plan.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN batch_plan.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN batch_plan.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN batch_plan.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN batch_plan.tier IS 'Step of the ladder of models that is asked first.';
COMMENT ON COLUMN batch_plan.complexity IS 'How hard the text is to label, 0 (easy) to 1.';
COMMENT ON COLUMN batch_plan.tokens IS 'Estimated input tokens of the document.';
COMMENT ON COLUMN batch_plan.purpose IS 'classification (a miss), audit (a hit that is rechecked) or reference (a recheck by the reference model).';

CREATE TABLE IF NOT EXISTS batch_classifications (
    day DATE, tenant VARCHAR, identity VARCHAR, content_key VARCHAR, status VARCHAR,
    labels VARCHAR, model VARCHAR, request_id VARCHAR, reason VARCHAR, attempts BIGINT
);
ALTER TABLE batch_classifications ADD COLUMN IF NOT EXISTS tier VARCHAR;
ALTER TABLE batch_classifications ADD COLUMN IF NOT EXISTS unsure BOOLEAN;
ALTER TABLE batch_classifications ADD COLUMN IF NOT EXISTS next_tier VARCHAR;
COMMENT ON TABLE batch_classifications IS
    'What came of asking the model about a text: labelled, failed or deferred.';
COMMENT ON COLUMN batch_classifications.day IS 'UTC day of delivery.';
COMMENT ON COLUMN batch_classifications.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN batch_classifications.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN batch_classifications.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN batch_classifications.status IS 'labelled; failed: no valid answer; deferred: kept back for a later run.';
COMMENT ON COLUMN batch_classifications.labels IS 'What the model answered: JSON, field to label; null unless labelled.';
COMMENT ON COLUMN batch_classifications.model IS 'Model that answered, as its reply names it; null unless labelled.';
COMMENT ON COLUMN batch_classifications.request_id IS 'Request that was answered, as in llm_requests; null unless labelled.';
COMMENT ON COLUMN batch_classifications.reason IS 'Why failed (missing, duplicate, wrong_label, or an error in words) or deferred (budget, batch: an open job of the Batch API, quality: a paused tier); null where labelled.';
COMMENT ON COLUMN batch_classifications.attempts IS 'Requests that asked about the text.';
COMMENT ON COLUMN batch_classifications.tier IS 'Step of the ladder of the model that answered; null unless labelled.';
COMMENT ON COLUMN batch_classifications.unsure IS 'True where the model said that it is not sure, and no better one knew better.';
COMMENT ON COLUMN batch_classifications.next_tier IS 'Step of the ladder that is still to be asked; null where the answer is final.';

CREATE TABLE IF NOT EXISTS llm_requests (
    day DATE, request_id VARCHAR, generation BIGINT, batch_id VARCHAR, attempt BIGINT,
    kind VARCHAR, tenant VARCHAR, taxonomy VARCHAR, identity VARCHAR, engine VARCHAR,
    simulated BOOLEAN, model_requested VARCHAR, model VARCHAR, service_tier VARCHAR,
    reviews BIGINT, answered BIGINT, status VARCHAR, http_status BIGINT, error VARCHAR,
    prompt_tokens BIGINT, cached_tokens BIGINT, completion_tokens BIGINT, cost_nanos BIGINT,
    held_nanos BIGINT, sent_at TIMESTAMPTZ, latency_ms DOUBLE
);
-- sync, or batch: the Batch API; the model's step in the ladder, and what went on to the next one.
ALTER TABLE llm_requests ADD COLUMN IF NOT EXISTS way VARCHAR;
ALTER TABLE llm_requests ADD COLUMN IF NOT EXISTS tier VARCHAR;
ALTER TABLE llm_requests ADD COLUMN IF NOT EXISTS escalated BIGINT;
ALTER TABLE llm_requests ADD COLUMN IF NOT EXISTS cache_write_tokens BIGINT;
-- Share of the model server's memory in use when the request was sent, and who said so.
ALTER TABLE llm_requests ADD COLUMN IF NOT EXISTS memory_share DOUBLE;
ALTER TABLE llm_requests ADD COLUMN IF NOT EXISTS memory_source VARCHAR;
COMMENT ON TABLE llm_requests IS 'An attempt: one request to the model, with what it cost.';
COMMENT ON COLUMN llm_requests.day IS 'UTC day of delivery of the texts asked about.';
COMMENT ON COLUMN llm_requests.request_id IS 'Id of the request, unique.';
COMMENT ON COLUMN llm_requests.generation IS '1; higher where --reclassify paid for the day again.';
COMMENT ON COLUMN llm_requests.batch_id IS 'Batch of batch_plan that it asked about, or a part of; null for embeddings.';
COMMENT ON COLUMN llm_requests.attempt IS 'Which attempt at its texts it is, from 1.';
COMMENT ON COLUMN llm_requests.kind IS 'classification, audit (a recheck of hits), reference (by the reference model) or embedding.';
COMMENT ON COLUMN llm_requests.tenant IS 'Who is billed.';
COMMENT ON COLUMN llm_requests.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN llm_requests.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN llm_requests.engine IS 'Engine that was asked: openai, simulator or local.';
COMMENT ON COLUMN llm_requests.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN llm_requests.model_requested IS 'Model that was asked for.';
COMMENT ON COLUMN llm_requests.model IS 'Model that the reply names; null where there was no reply.';
COMMENT ON COLUMN llm_requests.service_tier IS 'Service tier that the reply names, batch for the Batch API; null where there was no reply.';
COMMENT ON COLUMN llm_requests.reviews IS 'Texts in the request.';
COMMENT ON COLUMN llm_requests.answered IS 'Of these, with a valid answer.';
COMMENT ON COLUMN llm_requests.status IS 'ok, partial (some answers are of no use), invalid (all are), http_error, timeout, connection, unknown (no outcome), pending (in a job of the Batch API), or expired, cancelled, rejected, lost: how a job ended without an answer.';
COMMENT ON COLUMN llm_requests.http_status IS 'Status of the HTTP reply; null where there was none.';
COMMENT ON COLUMN llm_requests.error IS 'What went wrong, in words; null where all went well.';
COMMENT ON COLUMN llm_requests.prompt_tokens IS 'Input tokens, cached ones included; 0 where the reply states none.';
COMMENT ON COLUMN llm_requests.cached_tokens IS 'Of these, billed at the cached price.';
COMMENT ON COLUMN llm_requests.completion_tokens IS 'Output tokens; 0 where the reply states none.';
COMMENT ON COLUMN llm_requests.cost_nanos IS 'Cost in nano-dollars by the price row of that day; 0 where the cost is not known.';
COMMENT ON COLUMN llm_requests.held_nanos IS 'Worst case in nano-dollars where the outcome, and so the cost, is unknown; else 0. No part of the cost.';
COMMENT ON COLUMN llm_requests.sent_at IS 'When it was sent (UTC).';
COMMENT ON COLUMN llm_requests.latency_ms IS 'Milliseconds until the whole answer was there, or until it failed; null where no outcome is known, and for the Batch API.';
COMMENT ON COLUMN llm_requests.way IS 'sync: one by one; batch: through the Batch API.';
COMMENT ON COLUMN llm_requests.tier IS 'Step of the ladder of models; null for embeddings.';
COMMENT ON COLUMN llm_requests.escalated IS 'Texts that went on to the next step: their answer was of no use, or in doubt.';
COMMENT ON COLUMN llm_requests.cache_write_tokens IS 'Input tokens billed at the price of writing them to the prompt cache.';
COMMENT ON COLUMN llm_requests.memory_share IS 'Share of the model server''s memory in use when it was sent, 0 to 1; null where it is not watched.';
COMMENT ON COLUMN llm_requests.memory_source IS 'Who said so: address of the server''s metrics, llamacpp:slots or nvml; null where it is not watched.';

CREATE TABLE IF NOT EXISTS request_latencies (
    day DATE, request_id VARCHAR, tenant VARCHAR, model VARCHAR, tier VARCHAR, simulated BOOLEAN,
    sent_at TIMESTAMPTZ, reviews BIGINT, fresh_tokens BIGINT, completion_tokens BIGINT,
    latency_ms DOUBLE, baseline_requests BIGINT, expected_ms DOUBLE, z DOUBLE, slow BOOLEAN,
    degraded BOOLEAN
);
COMMENT ON TABLE request_latencies IS
    'An answered request, one by one, with the response time that its size predicts.';
COMMENT ON COLUMN request_latencies.day IS 'UTC day of delivery of the texts asked about.';
COMMENT ON COLUMN request_latencies.request_id IS 'The request, as in llm_requests.';
COMMENT ON COLUMN request_latencies.tenant IS 'Who is billed.';
COMMENT ON COLUMN request_latencies.model IS 'Model that was asked for.';
COMMENT ON COLUMN request_latencies.tier IS 'Step of the ladder of models, the cheapest first.';
COMMENT ON COLUMN request_latencies.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN request_latencies.sent_at IS 'When it was sent (UTC).';
COMMENT ON COLUMN request_latencies.reviews IS 'Texts in it.';
COMMENT ON COLUMN request_latencies.fresh_tokens IS 'Input tokens that no prompt cache held.';
COMMENT ON COLUMN request_latencies.completion_tokens IS 'Output tokens.';
COMMENT ON COLUMN request_latencies.latency_ms IS 'Milliseconds until the whole answer was there.';
COMMENT ON COLUMN request_latencies.baseline_requests IS 'Earlier requests that the expectation rests on; 0: there is none, and no verdict.';
COMMENT ON COLUMN request_latencies.expected_ms IS 'Median milliseconds of a request of this size; null: no verdict.';
COMMENT ON COLUMN request_latencies.z IS 'Robust z-score: 1 is a spread (1.4826 MAD of the log residuals) slower than the median; null: no verdict.';
COMMENT ON COLUMN request_latencies.slow IS 'True where z is over latency.slow_z: this request alone was slow.';
COMMENT ON COLUMN request_latencies.degraded IS 'True where it was sent inside an episode: the model was slow for everybody.';

-- A row a day that an episode went on, as it stood at the end of that day.
CREATE TABLE IF NOT EXISTS latency_episodes (
    day DATE, model VARCHAR, tier VARCHAR, simulated BOOLEAN, started DATE, number BIGINT,
    onset_at TIMESTAMPTZ, raised_at TIMESTAMPTZ, requests BIGINT, slowdown DOUBLE,
    tenants VARCHAR[], ended_at TIMESTAMPTZ, "end" VARCHAR
);
COMMENT ON TABLE latency_episodes IS
    'A day of an episode in which a model answered more slowly than the size of requests predicts.';
COMMENT ON COLUMN latency_episodes.day IS 'UTC day of delivery that it went on; it has a row for each.';
COMMENT ON COLUMN latency_episodes.model IS 'Model that was asked for.';
COMMENT ON COLUMN latency_episodes.tier IS 'Step of the ladder of models, the cheapest first.';
COMMENT ON COLUMN latency_episodes.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN latency_episodes.started IS 'UTC day of delivery whose requests raised it.';
COMMENT ON COLUMN latency_episodes.number IS 'Of the episodes of the model and tier that started on that day, from 1.';
COMMENT ON COLUMN latency_episodes.onset_at IS 'Estimate of when it began (UTC).';
COMMENT ON COLUMN latency_episodes.raised_at IS 'When the request was sent that raised it (UTC).';
COMMENT ON COLUMN latency_episodes.requests IS 'Judged requests inside it so far.';
COMMENT ON COLUMN latency_episodes.slowdown IS 'Geometric mean of response time over expected time in it.';
COMMENT ON COLUMN latency_episodes.tenants IS 'Whose requests were sent in it.';
COMMENT ON COLUMN latency_episodes.ended_at IS 'When the first request after it was sent (UTC); null while it goes on, or with a new normal.';
COMMENT ON COLUMN latency_episodes."end" IS 'recovered, or new normal (it lasted, and is what is expected now); null while it goes on.';

-- What the next day begins with: the sums and the episode that goes on, as JSON.
CREATE TABLE IF NOT EXISTS latency_watches (
    day DATE, model VARCHAR, tier VARCHAR, simulated BOOLEAN, watch JSON
);
COMMENT ON TABLE latency_watches IS
    'What is remembered of the response times of a model and tier at the end of a day.';
COMMENT ON COLUMN latency_watches.day IS 'UTC day of delivery at whose end it is remembered.';
COMMENT ON COLUMN latency_watches.model IS 'Model that was asked for.';
COMMENT ON COLUMN latency_watches.tier IS 'Step of the ladder of models, the cheapest first.';
COMMENT ON COLUMN latency_watches.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN latency_watches.watch IS 'The sums of the change detector and the episode that goes on, as JSON; the next day begins with them.';

CREATE TABLE IF NOT EXISTS ledger_entries (
    day DATE, entry_id VARCHAR, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR,
    content_key VARCHAR, kind VARCHAR, request_id VARCHAR, level VARCHAR, model VARCHAR,
    simulated BOOLEAN, cost_nanos BIGINT, avoided_nanos BIGINT, avoided_rule VARCHAR,
    booked_at TIMESTAMPTZ
);
-- Whose cache it met, what of, from whom a hit's answer was, what it corrects, when and by whom.
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS scope VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS category VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS purpose VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS generation BIGINT;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS tier VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS service_tier VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS source_tenant VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS corrects VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS note VARCHAR;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS incurred_at TIMESTAMPTZ;
ALTER TABLE ledger_entries ADD COLUMN IF NOT EXISTS booked_by VARCHAR;
COMMENT ON TABLE ledger_entries IS
    'Append-only: a review''s share of an attempt, what a hit avoided, or a correction of either.';
COMMENT ON COLUMN ledger_entries.day IS 'UTC day of delivery that it is booked to.';
COMMENT ON COLUMN ledger_entries.entry_id IS 'Digest of what it is for: the same thing is never booked twice.';
COMMENT ON COLUMN ledger_entries.tenant IS 'Who is billed.';
COMMENT ON COLUMN ledger_entries.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN ledger_entries.review_id IS 'Review that bears it; null where it is no review''s (any more).';
COMMENT ON COLUMN ledger_entries.content_key IS 'Key of the text that it is for; null where it is about none.';
COMMENT ON COLUMN ledger_entries.kind IS 'classification, audit (a recheck), reference (by the reference model), embedding: a share of a paid request; hit, repeat: what was not paid; correction; refund, adjustment: booked by hand.';
COMMENT ON COLUMN ledger_entries.request_id IS 'Request that it is a share of, as in llm_requests; null for hits, and where it is about none.';
COMMENT ON COLUMN ledger_entries.level IS 'model: paid; else the cache level that answered; null: booked by hand.';
COMMENT ON COLUMN ledger_entries.model IS 'Model that answered; of a repeat, the one that answered the first review of its text; null on other hits, and where no request is concerned.';
COMMENT ON COLUMN ledger_entries.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN ledger_entries.cost_nanos IS 'Nano-dollars paid; 0 for hits, negative where money came back. They add up to llm_requests.cost_nanos, but for what was booked by hand.';
COMMENT ON COLUMN ledger_entries.avoided_nanos IS 'Estimate in nano-dollars of what a hit would have cost; 0 for what was paid; negative where a hit is taken back.';
COMMENT ON COLUMN ledger_entries.avoided_rule IS 'How that was estimated: median_paid (of the answers of that day), median_earlier (of the days before) or baseline; null on what was paid.';
COMMENT ON COLUMN ledger_entries.booked_at IS 'When it was booked (UTC).';
COMMENT ON COLUMN ledger_entries.scope IS 'Whose cache the review met: the tenant''s own, or its pool''s.';
COMMENT ON COLUMN ledger_entries.category IS 'Category as delivered; null where the review has left the day.';
COMMENT ON COLUMN ledger_entries.purpose IS 'The kind; of a correction, that of the entry it corrects. Null in entries of old versions: the kind.';
COMMENT ON COLUMN ledger_entries.generation IS 'Of its request: above 1 where --reclassify paid again; null where it has no request.';
COMMENT ON COLUMN ledger_entries.tier IS 'Step of the ladder of models; null on hits and embeddings.';
COMMENT ON COLUMN ledger_entries.service_tier IS 'Service tier that was billed, batch for the Batch API; null on hits.';
COMMENT ON COLUMN ledger_entries.source_tenant IS 'Of a hit: who had paid for the answer; null where a pattern gave it, and on what was paid.';
COMMENT ON COLUMN ledger_entries.corrects IS 'entry_id of the entry that it corrects; null where it corrects none.';
COMMENT ON COLUMN ledger_entries.note IS 'Why, or the reference that it was booked under; null where there is nothing to say.';
COMMENT ON COLUMN ledger_entries.incurred_at IS 'When the request was sent, or the hit booked (UTC).';
COMMENT ON COLUMN ledger_entries.booked_by IS 'Id of the run, or whoever booked it by hand.';

CREATE TABLE IF NOT EXISTS cost_rollups (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, reviews BIGINT, hits BIGINT,
    misses BIGINT, deferred BIGINT, cost_nanos BIGINT, avoided_nanos BIGINT,
    baseline_nanos BIGINT, saving DOUBLE, cost_per_1000_nanos BIGINT, requests BIGINT,
    held_nanos BIGINT
);
-- What of the cost the rechecks of hits and the audits by a reference model took.
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS audit_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS embedding_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS repaid_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS manual_nanos BIGINT;
-- What it would have cost without a cache, and what was saved of that.
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS no_cache_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS saving_no_cache DOUBLE;
COMMENT ON TABLE cost_rollups IS 'A tenant, taxonomy and day: reviews, spend and the baseline.';
COMMENT ON COLUMN cost_rollups.day IS 'UTC day of delivery.';
COMMENT ON COLUMN cost_rollups.tenant IS 'Who is billed.';
COMMENT ON COLUMN cost_rollups.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN cost_rollups.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN cost_rollups.reviews IS 'Accepted reviews: hits + misses + deferred.';
COMMENT ON COLUMN cost_rollups.hits IS 'Reviews answered without the model, repeats included.';
COMMENT ON COLUMN cost_rollups.misses IS 'Reviews that went to the model: labelled or failed.';
COMMENT ON COLUMN cost_rollups.deferred IS 'Reviews kept back by a spent budget, a paused tier or an open job of the Batch API.';
COMMENT ON COLUMN cost_rollups.cost_nanos IS 'Nano-dollars paid, refunds and corrections included.';
COMMENT ON COLUMN cost_rollups.avoided_nanos IS 'Estimate in nano-dollars of what the hits would have cost.';
COMMENT ON COLUMN cost_rollups.baseline_nanos IS 'Nano-dollars of one large model for every labelled review, 1,500,000 each.';
COMMENT ON COLUMN cost_rollups.saving IS '1 - cost / baseline; null where nothing was labelled. Not additive.';
COMMENT ON COLUMN cost_rollups.cost_per_1000_nanos IS 'Nano-dollars per 1,000 labelled reviews; null where nothing was labelled. Not additive.';
COMMENT ON COLUMN cost_rollups.requests IS 'Requests sent to the model, retries included.';
COMMENT ON COLUMN cost_rollups.held_nanos IS 'Worst case in nano-dollars of requests whose outcome is unknown; no part of the cost.';
COMMENT ON COLUMN cost_rollups.audit_nanos IS 'Of the cost, that of rechecking hits and asking the reference model.';
COMMENT ON COLUMN cost_rollups.embedding_nanos IS 'Of the cost, that of embedding texts for the learned patterns.';
COMMENT ON COLUMN cost_rollups.repaid_nanos IS 'Of the cost, that of texts that had been paid for before (--reclassify).';
COMMENT ON COLUMN cost_rollups.manual_nanos IS 'Of the cost, refunds and adjustments booked by hand; negative where money came back.';
COMMENT ON COLUMN cost_rollups.no_cache_nanos IS 'Estimate in nano-dollars of the cost without a cache.';
COMMENT ON COLUMN cost_rollups.saving_no_cache IS '1 - cost / no_cache; null where that is 0. Not additive.';

CREATE TABLE IF NOT EXISTS spend_forecasts (
    day DATE, tenant VARCHAR, simulated BOOLEAN, month VARCHAR, days_known BIGINT,
    days_left BIGINT, days_used BIGINT, spent BIGINT, expected BIGINT, lower BIGINT, upper BIGINT,
    budget_nanos BIGINT
);
COMMENT ON TABLE spend_forecasts IS
    'What a tenant''s month will have cost when it ends, as a day''s run saw it; nano-dollars.';
COMMENT ON COLUMN spend_forecasts.day IS 'UTC day of delivery that it was made on.';
COMMENT ON COLUMN spend_forecasts.tenant IS 'Who is billed.';
COMMENT ON COLUMN spend_forecasts.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN spend_forecasts.month IS 'The month, YYYY-MM.';
COMMENT ON COLUMN spend_forecasts.days_known IS 'Days of the month up to that one.';
COMMENT ON COLUMN spend_forecasts.days_left IS 'Days of it that are to come.';
COMMENT ON COLUMN spend_forecasts.days_used IS 'Days, of the last 28, that the expectation rests on.';
COMMENT ON COLUMN spend_forecasts.spent IS 'Nano-dollars of the days that are known.';
COMMENT ON COLUMN spend_forecasts.expected IS 'Nano-dollars expected of the whole month.';
COMMENT ON COLUMN spend_forecasts.lower IS 'Lower end of the 90 % prediction interval, in nano-dollars; null for fewer than 3 days.';
COMMENT ON COLUMN spend_forecasts.upper IS 'Upper end of it.';
COMMENT ON COLUMN spend_forecasts.budget_nanos IS 'The tenant''s budget in nano-dollars, where it is for a month; else null.';

-- Kept as the run that summed the day saw it, until the day's cost or the budget is another: running
-- an old day again must not move the spend of today into it.
CREATE TABLE IF NOT EXISTS budget_states (
    day DATE, tenant VARCHAR, simulated BOOLEAN, period VARCHAR, version BIGINT,
    budget_nanos BIGINT, spent_nanos BIGINT, held_nanos BIGINT, thresholds BIGINT[],
    day_nanos BIGINT, seen_at TIMESTAMPTZ
);
COMMENT ON TABLE budget_states IS
    'Where a tenant''s budget stood when a day''s run had summed its cost; nano-dollars.';
COMMENT ON COLUMN budget_states.day IS 'UTC day of delivery whose run saw it.';
COMMENT ON COLUMN budget_states.tenant IS 'Whose budget.';
COMMENT ON COLUMN budget_states.simulated IS 'True where it is of simulated money, which is counted apart.';
COMMENT ON COLUMN budget_states.period IS 'UTC month (YYYY-MM) or day (YYYY-MM-DD) of sending that the budget is for.';
COMMENT ON COLUMN budget_states.version IS 'Version of the budget, from 1: another amount or period is another.';
COMMENT ON COLUMN budget_states.budget_nanos IS 'The budget in nano-dollars.';
COMMENT ON COLUMN budget_states.spent_nanos IS 'Nano-dollars spent of it by then, whatever day of delivery for. A state: not additive over days.';
COMMENT ON COLUMN budget_states.held_nanos IS 'Worst case, in nano-dollars, of requests whose cost was not known by then. Not additive over days.';
COMMENT ON COLUMN budget_states.thresholds IS 'Per cent of the budget at which an alert is raised, ascending.';
COMMENT ON COLUMN budget_states.day_nanos IS 'What the day of delivery itself had cost by then, in nano-dollars: the row is kept while that and the budget stay the same.';
COMMENT ON COLUMN budget_states.seen_at IS 'When the run looked (UTC).';

CREATE TABLE IF NOT EXISTS review_results (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, identity VARCHAR,
    content_key VARCHAR, category VARCHAR, product_id VARCHAR, rating DOUBLE, ts TIMESTAMPTZ,
    status VARCHAR, level VARCHAR, repeat BOOLEAN, labels VARCHAR, source_key VARCHAR,
    score DOUBLE, request_id VARCHAR, model VARCHAR, reason VARCHAR, simulated BOOLEAN,
    synthetic BOOLEAN, truth VARCHAR
);
-- What the reference model said of it, where it was asked, and how likely that was.
ALTER TABLE review_results ADD COLUMN IF NOT EXISTS reference VARCHAR;
ALTER TABLE review_results ADD COLUMN IF NOT EXISTS reference_asked DOUBLE;
-- Who said what is true, human or delivered, and how likely the review came into a label sample.
ALTER TABLE review_results ADD COLUMN IF NOT EXISTS truth_origin VARCHAR;
ALTER TABLE review_results ADD COLUMN IF NOT EXISTS label_asked DOUBLE;
COMMENT ON TABLE review_results IS 'An accepted review with its labels and where they came from.';
COMMENT ON COLUMN review_results.day IS 'UTC day of delivery.';
COMMENT ON COLUMN review_results.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN review_results.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN review_results.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN review_results.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN review_results.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN review_results.category IS 'Category as delivered; unknown where the file gave none.';
COMMENT ON COLUMN review_results.product_id IS 'Id of the product as delivered; null where the file gave none.';
COMMENT ON COLUMN review_results.rating IS 'Star rating as delivered; null where there is none.';
COMMENT ON COLUMN review_results.ts IS 'When the review was written (UTC), as delivered; null where the file does not say.';
COMMENT ON COLUMN review_results.status IS 'labelled; failed: no valid answer; deferred: kept back for a later run.';
COMMENT ON COLUMN review_results.level IS 'l1, l2, l3_exact, l3_near, l3_pattern: the cache level that answered; model: the model itself; none: no label.';
COMMENT ON COLUMN review_results.repeat IS 'True for a review whose text another one of the day has, which was asked for both.';
COMMENT ON COLUMN review_results.labels IS 'JSON, field to label; null unless labelled.';
COMMENT ON COLUMN review_results.source_key IS 'content_key of the entry that the labels go back to (its own where the model answered), or pattern:VERSION; null unless labelled.';
COMMENT ON COLUMN review_results.score IS 'How alike the texts are, or how sure the pattern is, 0 to 1; 1 for the model and the same text; null unless labelled.';
COMMENT ON COLUMN review_results.request_id IS 'Request in which the model answered it, or the first review of its text, as in llm_requests; null for what the cache answered.';
COMMENT ON COLUMN review_results.model IS 'Model that answered in it, as its reply names it; null for what the cache answered.';
COMMENT ON COLUMN review_results.reason IS 'Why it is failed or deferred, see batch_classifications; null where labelled.';
COMMENT ON COLUMN review_results.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN review_results.synthetic IS 'True for generated text, such as the built-in sample.';
COMMENT ON COLUMN review_results.truth IS 'True labels, human ones over delivered ones: JSON, field to label; {} where nothing is known.';
COMMENT ON COLUMN review_results.reference IS 'What the reference model said: JSON, field to label; null where it was not asked, or has not answered.';
COMMENT ON COLUMN review_results.reference_asked IS 'Probability with which the reference model was asked; null where it was not drawn.';
COMMENT ON COLUMN review_results.truth_origin IS 'human (a label file, for any field) or delivered; null where nothing is known.';
COMMENT ON COLUMN review_results.label_asked IS 'Probability of its place in a label sample; null where it is in none.';

CREATE TABLE IF NOT EXISTS gate_verdicts (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, verdict VARCHAR, truth VARCHAR, n BIGINT,
    correct BIGINT, lower DOUBLE, upper DOUBLE, threshold DOUBLE, needed BIGINT,
    contract BOOLEAN, detail VARCHAR
);
-- Different texts, the weighted share, truths without labels, whether simulated; all days together,
-- by bounds that hold at every look.
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS uncovered BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS goal DOUBLE;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS texts BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS accuracy DOUBLE;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS simulated BOOLEAN;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS standing_days BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS standing_texts BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS standing_correct BIGINT;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS standing_lower DOUBLE;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS standing_upper DOUBLE;
ALTER TABLE gate_verdicts ADD COLUMN IF NOT EXISTS standing_verdict VARCHAR;
COMMENT ON TABLE gate_verdicts IS 'The gate''s verdict of a day, tenant and taxonomy.';
COMMENT ON COLUMN gate_verdicts.day IS 'UTC day of delivery.';
COMMENT ON COLUMN gate_verdicts.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN gate_verdicts.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN gate_verdicts.verdict IS 'passed: published and verified; inconclusive: published, not verified; failed: not published.';
COMMENT ON COLUMN gate_verdicts.truth IS 'What it was measured against: labels (true ones), audits (the reference model), stars (weak, never decides) or none.';
COMMENT ON COLUMN gate_verdicts.n IS 'Reviews with a truth and a label.';
COMMENT ON COLUMN gate_verdicts.correct IS 'Of these, right in every field that has a truth.';
COMMENT ON COLUMN gate_verdicts.lower IS 'Lower end of the two-sided 90 % interval of the accuracy, 0 to 1; null without a truth.';
COMMENT ON COLUMN gate_verdicts.upper IS 'Upper end of it.';
COMMENT ON COLUMN gate_verdicts.threshold IS 'Accuracy that the tenant asks for, 0 to 1.';
COMMENT ON COLUMN gate_verdicts.needed IS 'Labels in all that would decide an inconclusive day at the observed rate; null where it is decided, or no number would.';
COMMENT ON COLUMN gate_verdicts.contract IS 'True where rows, keys and label sets were as promised.';
COMMENT ON COLUMN gate_verdicts.detail IS 'The verdict in a sentence.';
COMMENT ON COLUMN gate_verdicts.uncovered IS 'Reviews with a true label that have no labels: failed or deferred.';
COMMENT ON COLUMN gate_verdicts.goal IS 'Accuracy that the tenant strives for, 0 to 1; it decides nothing.';
COMMENT ON COLUMN gate_verdicts.texts IS 'Different texts among the n: what the interval counts.';
COMMENT ON COLUMN gate_verdicts.accuracy IS 'Share that is right, 0 to 1; weighted where the labels are of a stratified sample; null without a truth. Not additive.';
COMMENT ON COLUMN gate_verdicts.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN gate_verdicts.standing_days IS 'Days up to this one that have a truth of this kind.';
COMMENT ON COLUMN gate_verdicts.standing_texts IS 'Different texts of these days, each counted once.';
COMMENT ON COLUMN gate_verdicts.standing_correct IS 'Of these, right.';
COMMENT ON COLUMN gate_verdicts.standing_lower IS 'Lower bound of the accuracy over all days that holds at every look at once (95 %); null where there is none.';
COMMENT ON COLUMN gate_verdicts.standing_upper IS 'Upper bound of it, likewise.';
COMMENT ON COLUMN gate_verdicts.standing_verdict IS 'passed, failed or inconclusive by these two; null where there are none.';

CREATE TABLE IF NOT EXISTS accuracy_cells (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, truth VARCHAR,
    dimension VARCHAR, name VARCHAR, n BIGINT, texts BIGINT, correct BIGINT, accuracy DOUBLE,
    lower DOUBLE, upper DOUBLE, shared_upper DOUBLE, below BOOLEAN
);
COMMENT ON TABLE accuracy_cells IS
    'Accuracy of a tenant-day and of its parts, by each kind of truth, with its interval.';
COMMENT ON COLUMN accuracy_cells.day IS 'UTC day of delivery.';
COMMENT ON COLUMN accuracy_cells.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN accuracy_cells.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN accuracy_cells.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN accuracy_cells.truth IS 'labels: true labels; audits: the reference model; stars: ratings, a weak truth; reference: the reference model itself, by true labels.';
COMMENT ON COLUMN accuracy_cells.dimension IS 'all (the day as a whole), field, class (by its true label), category, level, or origin of the true labels (human, delivered).';
COMMENT ON COLUMN accuracy_cells.name IS 'Which one; a class as field=label; empty for the whole.';
COMMENT ON COLUMN accuracy_cells.n IS 'Reviews with a truth and a label; of a field or class, labels of that field.';
COMMENT ON COLUMN accuracy_cells.texts IS 'Different texts among them: what the interval counts.';
COMMENT ON COLUMN accuracy_cells.correct IS 'Of the n, right.';
COMMENT ON COLUMN accuracy_cells.accuracy IS 'Share that is right, 0 to 1; weighted where the labels are of a stratified sample. Not additive.';
COMMENT ON COLUMN accuracy_cells.lower IS 'Lower end of the two-sided 90 % interval.';
COMMENT ON COLUMN accuracy_cells.upper IS 'Upper end of it.';
COMMENT ON COLUMN accuracy_cells.shared_upper IS 'Upper end that holds for all classes, categories and levels of the day at once (95 %); of other dimensions, upper.';
COMMENT ON COLUMN accuracy_cells.below IS 'True where shared_upper is under the accuracy that the tenant asks for; of classes, categories and levels by labels or audits alone.';

CREATE TABLE IF NOT EXISTS scored_reviews (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, truth VARCHAR,
    review_id VARCHAR, identity VARCHAR, content_key VARCHAR, category VARCHAR, level VARCHAR,
    source_key VARCHAR, request_id VARCHAR, labels VARCHAR, known VARCHAR, correct BOOLEAN,
    weight DOUBLE, uniform BOOLEAN
);
COMMENT ON TABLE scored_reviews IS
    'A labelled review with a truth that decides, what was served, and whether it was right.';
COMMENT ON COLUMN scored_reviews.day IS 'UTC day of delivery.';
COMMENT ON COLUMN scored_reviews.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN scored_reviews.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN scored_reviews.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN scored_reviews.truth IS 'labels (true ones) or audits (the reference model).';
COMMENT ON COLUMN scored_reviews.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN scored_reviews.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN scored_reviews.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN scored_reviews.category IS 'Category as delivered; unknown where the file gave none.';
COMMENT ON COLUMN scored_reviews.level IS 'l1, l2, l3_exact, l3_near, l3_pattern: the cache level that answered; model: the model itself; none: no label.';
COMMENT ON COLUMN scored_reviews.source_key IS 'content_key of the entry that the labels go back to, or pattern:VERSION.';
COMMENT ON COLUMN scored_reviews.request_id IS 'Request that the model gave them in, as in llm_requests; null for what the cache answered.';
COMMENT ON COLUMN scored_reviews.labels IS 'What was served: JSON, field to label.';
COMMENT ON COLUMN scored_reviews.known IS 'The truth: JSON, field to label.';
COMMENT ON COLUMN scored_reviews.correct IS 'True where every field that has a truth is right.';
COMMENT ON COLUMN scored_reviews.weight IS 'Reviews that it stands for: 1, or more where the labels are of a stratified sample.';
COMMENT ON COLUMN scored_reviews.uniform IS 'True where it is in a uniform sample of the day''s texts, and so counts for all days together.';

CREATE TABLE IF NOT EXISTS gate_causes (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, kind VARCHAR, identity VARCHAR, level VARCHAR,
    source VARCHAR, field VARCHAR, label VARCHAR, category VARCHAR, wrong BIGINT, n BIGINT,
    reviews BIGINT
);
COMMENT ON TABLE gate_causes IS
    'What a failed tenant-day came from: an entry, a pattern''s label, or answers of the model.';
COMMENT ON COLUMN gate_causes.day IS 'UTC day of delivery.';
COMMENT ON COLUMN gate_causes.tenant IS 'Whose day failed.';
COMMENT ON COLUMN gate_causes.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN gate_causes.kind IS 'entry (of the cache), pattern (one label of it) or model.';
COMMENT ON COLUMN gate_causes.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN gate_causes.level IS 'Of an entry: the level that it answered at; else null.';
COMMENT ON COLUMN gate_causes.source IS 'Key of the entry, pattern:VERSION, or name of the model.';
COMMENT ON COLUMN gate_causes.field IS 'Of a pattern: field of the label; else null.';
COMMENT ON COLUMN gate_causes.label IS 'Of a pattern: label that it gave wrongly; else null.';
COMMENT ON COLUMN gate_causes.category IS 'Of a model: where it answered badly; null for single answers.';
COMMENT ON COLUMN gate_causes.wrong IS 'Reviews that a truth contradicts.';
COMMENT ON COLUMN gate_causes.n IS 'Reviews with a truth that it answered.';
COMMENT ON COLUMN gate_causes.reviews IS 'All that it answered on the day.';

CREATE TABLE IF NOT EXISTS asked_anew (
    day DATE, tenant VARCHAR, identity VARCHAR, content_key VARCHAR, noted_at TIMESTAMPTZ,
    applied_at TIMESTAMPTZ
);
COMMENT ON TABLE asked_anew IS
    'A text of a failed tenant-day that the next run of the day asks the model about, once.';
COMMENT ON COLUMN asked_anew.day IS 'UTC day of delivery that failed.';
COMMENT ON COLUMN asked_anew.tenant IS 'Whose day failed.';
COMMENT ON COLUMN asked_anew.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN asked_anew.content_key IS 'Key of the text.';
COMMENT ON COLUMN asked_anew.noted_at IS 'When the gate said so (UTC).';
COMMENT ON COLUMN asked_anew.applied_at IS 'When a run took its answer back to ask anew (UTC); null until then.';

CREATE TABLE IF NOT EXISTS condemned_patterns (
    day DATE, identity VARCHAR, version VARCHAR, field VARCHAR, label VARCHAR, n BIGINT,
    errors BIGINT
);
COMMENT ON TABLE condemned_patterns IS
    'A label that a pattern no longer gives, since the gate failed a day for it.';
COMMENT ON COLUMN condemned_patterns.day IS 'UTC day of delivery that the gate failed for it.';
COMMENT ON COLUMN condemned_patterns.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN condemned_patterns.version IS 'Digest of the pattern.';
COMMENT ON COLUMN condemned_patterns.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN condemned_patterns.label IS 'Label that it no longer gives.';
COMMENT ON COLUMN condemned_patterns.n IS 'Reviews with a truth that it gave the label to.';
COMMENT ON COLUMN condemned_patterns.errors IS 'Of these, wrong.';

CREATE TABLE IF NOT EXISTS reference_audits (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, identity VARCHAR, content_key VARCHAR,
    reference_identity VARCHAR, labels VARCHAR, model VARCHAR, request_id VARCHAR, asked DOUBLE
);
COMMENT ON TABLE reference_audits IS
    'A text that a stronger model was asked about too; labels is null while it has not answered.';
COMMENT ON COLUMN reference_audits.day IS 'UTC day of delivery.';
COMMENT ON COLUMN reference_audits.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN reference_audits.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN reference_audits.identity IS 'What the served answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated.';
COMMENT ON COLUMN reference_audits.content_key IS 'Key of the text.';
COMMENT ON COLUMN reference_audits.reference_identity IS 'The same of the reference model''s answer.';
COMMENT ON COLUMN reference_audits.labels IS 'What the reference model said: JSON, field to label; null while it has not answered.';
COMMENT ON COLUMN reference_audits.model IS 'Model that answered; null while none has.';
COMMENT ON COLUMN reference_audits.request_id IS 'Request that was answered, as in llm_requests; null while none was.';
COMMENT ON COLUMN reference_audits.asked IS 'Probability with which the text was drawn, 0 to 1.';

CREATE TABLE IF NOT EXISTS published_results (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, category VARCHAR,
    product_id VARCHAR, rating DOUBLE, ts TIMESTAMPTZ, status VARCHAR, level VARCHAR,
    repeat BOOLEAN, labels VARCHAR, score DOUBLE, model VARCHAR, reason VARCHAR,
    verified BOOLEAN, simulated BOOLEAN, synthetic BOOLEAN, cost_nanos BIGINT,
    content_key VARCHAR
);
-- Where the labels go back to.
ALTER TABLE published_results ADD COLUMN IF NOT EXISTS source_key VARCHAR;
ALTER TABLE published_results ADD COLUMN IF NOT EXISTS request_id VARCHAR;
COMMENT ON TABLE published_results IS 'A review that the gate let through, as analysts see it.';
COMMENT ON COLUMN published_results.day IS 'UTC day of delivery.';
COMMENT ON COLUMN published_results.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN published_results.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN published_results.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN published_results.category IS 'Category as delivered; unknown where the file gave none.';
COMMENT ON COLUMN published_results.product_id IS 'Id of the product as delivered; null where the file gave none.';
COMMENT ON COLUMN published_results.rating IS 'Star rating as delivered; null where there is none.';
COMMENT ON COLUMN published_results.ts IS 'When the review was written (UTC), as delivered; null where the file does not say.';
COMMENT ON COLUMN published_results.status IS 'labelled; failed: no valid answer; deferred: kept back for a later run.';
COMMENT ON COLUMN published_results.level IS 'l1, l2, l3_exact, l3_near, l3_pattern: the cache level that answered; model: the model itself; none: no label.';
COMMENT ON COLUMN published_results.repeat IS 'True for a review whose text another one of the day has, which was asked for both.';
COMMENT ON COLUMN published_results.labels IS 'JSON, field to label; null unless labelled. fact_labels has them as rows.';
COMMENT ON COLUMN published_results.score IS 'How alike the texts are, or how sure the pattern is, 0 to 1; 1 for the model and the same text; null unless labelled.';
COMMENT ON COLUMN published_results.model IS 'Model that answered it, or the first review of its text, as its reply names it; null for what the cache answered.';
COMMENT ON COLUMN published_results.reason IS 'Why it is failed or deferred: missing, duplicate, wrong_label, budget, batch, quality, or an error in words; null where labelled.';
COMMENT ON COLUMN published_results.verified IS 'True where the gate passed the day; false where it could not decide, for a category that is below the threshold beyond doubt, and where a truth contradicts the labels.';
COMMENT ON COLUMN published_results.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN published_results.synthetic IS 'True for generated text, such as the built-in sample.';
COMMENT ON COLUMN published_results.cost_nanos IS 'Nano-dollars booked to the review on its day when it was published: its share of requests, rechecks and corrections.';
COMMENT ON COLUMN published_results.content_key IS 'Key of the normalised text; null in rows of old versions.';
COMMENT ON COLUMN published_results.source_key IS 'content_key of the entry that the labels go back to (its own where the model answered), or pattern:VERSION; null unless labelled, and in rows of old versions.';
COMMENT ON COLUMN published_results.request_id IS 'Request in which the model answered it, or the first review of its text, as in llm_requests; null for what the cache answered, and in rows of old versions.';

-- A delivery is known by the arrival of its last file. Published again, it keeps its first time; a
-- later file of the day is a delivery of its own. published_at is null where it was not noted.
CREATE TABLE IF NOT EXISTS publications (
    day DATE, tenant VARCHAR, simulated BOOLEAN, arrived_at TIMESTAMPTZ,
    published_at TIMESTAMPTZ, run_id VARCHAR, run_seconds DOUBLE, run_reviews BIGINT
);
COMMENT ON TABLE publications IS
    'When a tenant''s delivery of a day arrived, was first published, and how long that run took.';
COMMENT ON COLUMN publications.day IS 'UTC day of delivery.';
COMMENT ON COLUMN publications.tenant IS 'Whose delivery; _mixed: files whose rows name their tenant, as a whole.';
COMMENT ON COLUMN publications.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN publications.arrived_at IS 'When the last file of the delivery arrived (UTC).';
COMMENT ON COLUMN publications.published_at IS 'When it was first published (UTC); null where an old version did not note it.';
COMMENT ON COLUMN publications.run_id IS 'Run that published it.';
COMMENT ON COLUMN publications.run_seconds IS 'Seconds that the run took that first published the day with no review kept back; null until one has.';
COMMENT ON COLUMN publications.run_reviews IS 'Reviews of all tenants in that run.';

-- indicator is all for the day''s own verdict; its target and value are counts of promises.
CREATE TABLE IF NOT EXISTS service_levels (
    day DATE, tenant VARCHAR, indicator VARCHAR, target DOUBLE, value DOUBLE, n BIGINT,
    met BOOLEAN, detail VARCHAR, objective DOUBLE, window_days BIGINT, days_judged BIGINT,
    days_broken BIGINT, budget_days DOUBLE, budget_left DOUBLE, burn DOUBLE, simulated BOOLEAN
);
COMMENT ON TABLE service_levels IS
    'What a tenant was promised of a day, what it got, and the error budget left by then.';
COMMENT ON COLUMN service_levels.day IS 'UTC day of delivery.';
COMMENT ON COLUMN service_levels.tenant IS 'To whom it was promised.';
COMMENT ON COLUMN service_levels.indicator IS 'run_seconds, freshness_hours, latency_p95_ms, hit_rate, accuracy, usd_per_1000 or failed_share, each in its unit (shares from 0 to 1); all: the day''s own verdict.';
COMMENT ON COLUMN service_levels.target IS 'What was promised: at most, but at least for hit_rate and accuracy; of all, the promises that can be judged; null: not promised.';
COMMENT ON COLUMN service_levels.value IS 'What it was; of all, the promises that were met; null: nothing was measured.';
COMMENT ON COLUMN service_levels.n IS 'What the value rests on: reviews, requests, labels or deliveries; of all, promises.';
COMMENT ON COLUMN service_levels.met IS 'Whether the promise was kept; null: it cannot be said, or was not promised.';
COMMENT ON COLUMN service_levels.detail IS 'The same in words.';
COMMENT ON COLUMN service_levels.objective IS 'Share of days that are to keep the promise, 0 to 1.';
COMMENT ON COLUMN service_levels.window_days IS 'Days of the window of the error budget.';
COMMENT ON COLUMN service_levels.days_judged IS 'Days of the window up to this one that could be judged. Not additive.';
COMMENT ON COLUMN service_levels.days_broken IS 'Of these, the broken ones. Not additive.';
COMMENT ON COLUMN service_levels.budget_days IS 'Days of the whole window that may be broken: (1 - objective) x window_days.';
COMMENT ON COLUMN service_levels.budget_left IS 'budget_days - days_broken; negative where more is spent than there was.';
COMMENT ON COLUMN service_levels.burn IS 'Share of judged days that were broken over the share that may be; null where no day was judged.';
COMMENT ON COLUMN service_levels.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';

CREATE TABLE IF NOT EXISTS review_archive (
    identity VARCHAR, content_key VARCHAR, day DATE, tenant VARCHAR, review_id VARCHAR,
    category VARCHAR, text VARCHAR, labels VARCHAR, model VARCHAR, request_id VARCHAR,
    verified BOOLEAN
);
ALTER TABLE review_archive ADD COLUMN IF NOT EXISTS asked DOUBLE;
ALTER TABLE review_archive ADD COLUMN IF NOT EXISTS draw DOUBLE;
COMMENT ON TABLE review_archive IS
    'L3: a text that the model answered itself, or a human corrected, on a day that the gate let through.';
COMMENT ON COLUMN review_archive.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN review_archive.content_key IS 'Key of the normalised text: the entry answers what has the same.';
COMMENT ON COLUMN review_archive.day IS 'UTC day of delivery that it was answered on; it answers from that day on.';
COMMENT ON COLUMN review_archive.tenant IS 'Whose review it was, and who paid for the answer.';
COMMENT ON COLUMN review_archive.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN review_archive.category IS 'Category as delivered; unknown where the file gave none.';
COMMENT ON COLUMN review_archive.text IS 'The normalised text.';
COMMENT ON COLUMN review_archive.labels IS 'JSON, field to label.';
COMMENT ON COLUMN review_archive.model IS 'Model that answered; human where true labels have corrected it.';
COMMENT ON COLUMN review_archive.request_id IS 'Request that was answered, as in llm_requests.';
COMMENT ON COLUMN review_archive.verified IS 'True where the gate passed that day; false where it could not decide.';
COMMENT ON COLUMN review_archive.asked IS 'Probability with which the text was asked of the model, 0 to 1; 1 for a miss.';
COMMENT ON COLUMN review_archive.draw IS 'Its random number of the day, 0 to 1.';

CREATE TABLE IF NOT EXISTS audits (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, identity VARCHAR,
    content_key VARCHAR, category VARCHAR, level VARCHAR, source_key VARCHAR, score DOUBLE,
    labels VARCHAR, answer VARCHAR, agrees BOOLEAN, asked DOUBLE, draw DOUBLE, request_id VARCHAR
);
COMMENT ON TABLE audits IS 'A hit that was asked of the model too, and whether the two agree.';
COMMENT ON COLUMN audits.day IS 'UTC day of delivery.';
COMMENT ON COLUMN audits.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN audits.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN audits.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN audits.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN audits.content_key IS 'Key of the normalised text: reviews with the same text have the same key.';
COMMENT ON COLUMN audits.category IS 'Category as delivered; unknown where the file gave none.';
COMMENT ON COLUMN audits.level IS 'Cache level that answered: l1, l2, l3_exact, l3_near or l3_pattern.';
COMMENT ON COLUMN audits.source_key IS 'content_key of the entry that answered, or pattern:VERSION.';
COMMENT ON COLUMN audits.score IS 'How alike the texts are, or how sure the pattern is, 0 to 1.';
COMMENT ON COLUMN audits.labels IS 'What the cache answered: JSON, field to label.';
COMMENT ON COLUMN audits.answer IS 'What the model answered: JSON, field to label.';
COMMENT ON COLUMN audits.agrees IS 'True where the two are the same in every field.';
COMMENT ON COLUMN audits.asked IS 'Probability with which the hit was rechecked, 0 to 1.';
COMMENT ON COLUMN audits.draw IS 'Its random number of the day, 0 to 1.';
COMMENT ON COLUMN audits.request_id IS 'Request that the model answered in, as in llm_requests.';

CREATE TABLE IF NOT EXISTS withdrawn_entries (
    day DATE, identity VARCHAR, content_key VARCHAR, request_id VARCHAR, level VARCHAR,
    tenant VARCHAR, review_id VARCHAR, audit_request_id VARCHAR
);
COMMENT ON TABLE withdrawn_entries IS
    'An archived answer that a recheck contradicted: it and what came from it answer nothing more.';
COMMENT ON COLUMN withdrawn_entries.day IS 'UTC day of delivery whose recheck, or failed gate, contradicted it.';
COMMENT ON COLUMN withdrawn_entries.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN withdrawn_entries.content_key IS 'Key of the entry''s text.';
COMMENT ON COLUMN withdrawn_entries.request_id IS 'Request that had given the answer, as in llm_requests.';
COMMENT ON COLUMN withdrawn_entries.level IS 'Cache level that it had answered at.';
COMMENT ON COLUMN withdrawn_entries.tenant IS 'Whose review showed it: the rechecked one''s, or whose day failed.';
COMMENT ON COLUMN withdrawn_entries.review_id IS 'The review: the rechecked one, or, where a day failed, the one that the entry is of.';
COMMENT ON COLUMN withdrawn_entries.audit_request_id IS 'Request of the recheck; null where the gate failed a day for it.';

CREATE TABLE IF NOT EXISTS level_errors (
    day DATE, identity VARCHAR, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN,
    level VARCHAR, class VARCHAR, n BIGINT, disagreements BIGINT, lower DOUBLE, upper DOUBLE,
    window_days BIGINT
);
COMMENT ON TABLE level_errors IS
    'How often rechecks contradicted a cache level in the days up to this one, a class.';
COMMENT ON COLUMN level_errors.day IS 'Last UTC day of delivery of the rechecks counted.';
COMMENT ON COLUMN level_errors.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN level_errors.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN level_errors.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN level_errors.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN level_errors.level IS 'Cache level: l1, l2, l3_exact, l3_near or l3_pattern.';
COMMENT ON COLUMN level_errors.class IS 'Label that was served, as field=label; empty: the whole review, right in every field.';
COMMENT ON COLUMN level_errors.n IS 'Hits in the random sample of rechecks of the window. Not additive over days: windows overlap.';
COMMENT ON COLUMN level_errors.disagreements IS 'Of these, the model gave another label. Not additive over days.';
COMMENT ON COLUMN level_errors.lower IS 'Lower end of the exact two-sided 90 % interval of the share, 0 to 1.';
COMMENT ON COLUMN level_errors.upper IS 'Upper end of it.';
COMMENT ON COLUMN level_errors.window_days IS 'How many days of rechecks are counted, up to that day.';

CREATE TABLE IF NOT EXISTS pattern_versions (
    day DATE, identity VARCHAR, version VARCHAR, taxonomy VARCHAR, rows BIGINT, archived BIGINT,
    semantic VARCHAR, file VARCHAR, seconds DOUBLE, cost_nanos BIGINT, trained_at TIMESTAMPTZ
);
COMMENT ON TABLE pattern_versions IS
    'A learned pattern: the day whose archive it was trained on, its file, and what it took.';
COMMENT ON COLUMN pattern_versions.day IS 'UTC day of delivery up to which the archive was learned from.';
COMMENT ON COLUMN pattern_versions.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN pattern_versions.version IS 'Digest of the pattern.';
COMMENT ON COLUMN pattern_versions.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN pattern_versions.rows IS 'Texts that it was trained on.';
COMMENT ON COLUMN pattern_versions.archived IS 'Texts of its scope in the archive when it was trained, those held out included.';
COMMENT ON COLUMN pattern_versions.semantic IS 'Name of the embedder of its second stage; none where it has no second stage.';
COMMENT ON COLUMN pattern_versions.file IS 'File of the pattern, noted by old versions only; else null.';
COMMENT ON COLUMN pattern_versions.seconds IS 'How long training took, in seconds.';
COMMENT ON COLUMN pattern_versions.cost_nanos IS 'Nano-dollars that the embeddings of the training cost.';
COMMENT ON COLUMN pattern_versions.trained_at IS 'When it was trained (UTC).';

CREATE TABLE IF NOT EXISTS pattern_evidence (
    identity VARCHAR, version VARCHAR, field VARCHAR, content_key VARCHAR, day DATE,
    category VARCHAR, label VARCHAR, score DOUBLE, reference VARCHAR, agrees BOOLEAN,
    draw DOUBLE, live BOOLEAN
);
COMMENT ON TABLE pattern_evidence IS
    'What a pattern says of a text it was not trained on, beside the model''s or a human''s label.';
COMMENT ON COLUMN pattern_evidence.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN pattern_evidence.version IS 'Digest of the pattern.';
COMMENT ON COLUMN pattern_evidence.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN pattern_evidence.content_key IS 'Key of the text.';
COMMENT ON COLUMN pattern_evidence.day IS 'UTC day of delivery of the label that it is compared with.';
COMMENT ON COLUMN pattern_evidence.category IS 'Category as delivered; null where it is not known.';
COMMENT ON COLUMN pattern_evidence.label IS 'Label that the pattern gives.';
COMMENT ON COLUMN pattern_evidence.score IS 'How sure it is, 0 to 1.';
COMMENT ON COLUMN pattern_evidence.reference IS 'The model''s label, or a human''s where that contradicts it.';
COMMENT ON COLUMN pattern_evidence.agrees IS 'True where the two are the same.';
COMMENT ON COLUMN pattern_evidence.draw IS 'Random number of the text on its day, 0 to 1.';
COMMENT ON COLUMN pattern_evidence.live IS 'True where it was drawn after the pattern first answered.';

CREATE TABLE IF NOT EXISTS pattern_certificates (
    day DATE, identity VARCHAR, version VARCHAR, field VARCHAR, label VARCHAR, category VARCHAR,
    threshold DOUBLE, n BIGINT, errors BIGINT, bound DOUBLE, max_error DOUBLE, rule VARCHAR,
    status VARCHAR
);
COMMENT ON TABLE pattern_certificates IS
    'The score from which a pattern may answer a label, and the bound of its error there.';
COMMENT ON COLUMN pattern_certificates.day IS 'UTC day of delivery whose evidence it rests on; the days after it are answered by it.';
COMMENT ON COLUMN pattern_certificates.identity IS 'What an answer holds for: scope|taxonomy|prompt|model|normaliser|real or simulated. Nothing of one identity answers another.';
COMMENT ON COLUMN pattern_certificates.version IS 'Digest of the pattern.';
COMMENT ON COLUMN pattern_certificates.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN pattern_certificates.label IS 'Label that the pattern would give.';
COMMENT ON COLUMN pattern_certificates.category IS 'Category with a certificate of its own; empty: all others, pooled.';
COMMENT ON COLUMN pattern_certificates.threshold IS 'Least confidence that is served, 0 to 1; null unless serving.';
COMMENT ON COLUMN pattern_certificates.n IS 'Answers of the model (or a human) that it was compared with from there on.';
COMMENT ON COLUMN pattern_certificates.errors IS 'Of these, other labels.';
COMMENT ON COLUMN pattern_certificates.bound IS 'One-sided upper bound of the error share by the rule; a lower bound where it was cut out or switched off.';
COMMENT ON COLUMN pattern_certificates.max_error IS 'Largest error share that is allowed in this field, 0 to 1.';
COMMENT ON COLUMN pattern_certificates.rule IS 'one-look: Clopper-Pearson; anytime: holds at every look at once.';
COMMENT ON COLUMN pattern_certificates.status IS 'serving; abstains: not shown to be right; cut out: a category that contradicts the pool; switched off: recent rechecks contradict it, or the gate failed a day for it.';

CREATE TABLE IF NOT EXISTS batch_samples (
    day DATE, request_id VARCHAR, tenant VARCHAR, taxonomy VARCHAR, tier VARCHAR, model VARCHAR,
    simulated BOOLEAN, reviews BIGINT, n BIGINT, correct BIGINT, lower DOUBLE, upper DOUBLE,
    confidence DOUBLE, threshold DOUBLE, goal DOUBLE, verdict VARCHAR
);
COMMENT ON TABLE batch_samples IS
    'A large batch, and how many of a random sample of its labels are right.';
COMMENT ON COLUMN batch_samples.day IS 'UTC day of delivery.';
COMMENT ON COLUMN batch_samples.request_id IS 'The request, as in llm_requests.';
COMMENT ON COLUMN batch_samples.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN batch_samples.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN batch_samples.tier IS 'Step of the ladder of models, the cheapest first.';
COMMENT ON COLUMN batch_samples.model IS 'Model that answered.';
COMMENT ON COLUMN batch_samples.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN batch_samples.reviews IS 'Reviews that the request asked about.';
COMMENT ON COLUMN batch_samples.n IS 'Of these, answered, with a truth, and in the sample.';
COMMENT ON COLUMN batch_samples.correct IS 'Of the sample, right in every field that has a truth.';
COMMENT ON COLUMN batch_samples.lower IS 'Lower end of the exact interval of the accuracy, 0 to 1; null where too few have a truth.';
COMMENT ON COLUMN batch_samples.upper IS 'Upper end of it.';
COMMENT ON COLUMN batch_samples.confidence IS 'Confidence of each end by itself: the batches of a tenant share a level of 5 %.';
COMMENT ON COLUMN batch_samples.threshold IS 'Accuracy that the tenant asks for, 0 to 1: below it beyond doubt, the tier is paused.';
COMMENT ON COLUMN batch_samples.goal IS 'Accuracy that the tenant strives for, 0 to 1; it decides nothing.';
COMMENT ON COLUMN batch_samples.verdict IS 'below, undecided, pass, or unsampled where too few have a truth.';

CREATE TABLE IF NOT EXISTS daily_profiles (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, category VARCHAR,
    signal VARCHAR, bucket VARCHAR, reviews BIGINT
);
COMMENT ON TABLE daily_profiles IS
    'What a day''s reviews are like, as counts a signal and bucket; category empty: all of them.';
COMMENT ON COLUMN daily_profiles.day IS 'UTC day of delivery.';
COMMENT ON COLUMN daily_profiles.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN daily_profiles.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN daily_profiles.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN daily_profiles.category IS 'Category as delivered, (none) where it is empty; empty: all of them together.';
COMMENT ON COLUMN daily_profiles.signal IS 'label:FIELD, length, language, vocabulary, level, audit or category.';
COMMENT ON COLUMN daily_profiles.bucket IS 'Label, span of characters, language code, number of a hashed word, level, agrees or disagrees, or category.';
COMMENT ON COLUMN daily_profiles.reviews IS 'Reviews in the bucket; rechecks, of audit. Not additive over signals or categories: the empty category counts all, the others are those with enough reviews.';

CREATE TABLE IF NOT EXISTS drift_tests (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, category VARCHAR,
    signal VARCHAR, horizon VARCHAR, n BIGINT, baseline_n BIGINT, baseline_days BIGINT,
    baseline_from DATE, baseline_to DATE, df BIGINT, statistic DOUBLE, dispersion DOUBLE,
    p_value DOUBLE, p_adjusted DOUBLE, distance DOUBLE, alarm BOOLEAN, new_normal BOOLEAN
);
COMMENT ON TABLE drift_tests IS
    'Whether a day''s profile differs from those before it, a signal, category and horizon.';
COMMENT ON COLUMN drift_tests.day IS 'UTC day of delivery.';
COMMENT ON COLUMN drift_tests.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN drift_tests.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN drift_tests.simulated IS 'True where a simulator answered: nothing is real, and no money was spent.';
COMMENT ON COLUMN drift_tests.category IS 'Category as delivered, (none) where it is empty; empty: all of them together.';
COMMENT ON COLUMN drift_tests.signal IS 'What is compared: label:FIELD, length, language, vocabulary, level, audit, category or new category.';
COMMENT ON COLUMN drift_tests.horizon IS 'day: that day alone; week: it and the six before it together.';
COMMENT ON COLUMN drift_tests.n IS 'Reviews compared; rechecks, of audit.';
COMMENT ON COLUMN drift_tests.baseline_n IS 'Reviews of the days it is compared with.';
COMMENT ON COLUMN drift_tests.baseline_days IS 'How many days these are.';
COMMENT ON COLUMN drift_tests.baseline_from IS 'The first of them.';
COMMENT ON COLUMN drift_tests.baseline_to IS 'The last of them.';
COMMENT ON COLUMN drift_tests.df IS 'Degrees of freedom; 0 where everything is in one bucket.';
COMMENT ON COLUMN drift_tests.statistic IS 'F; of a rare bucket, how many times more frequent it is.';
COMMENT ON COLUMN drift_tests.dispersion IS 'How many times more the days before differ than independent reviews would; at least 1.';
COMMENT ON COLUMN drift_tests.p_value IS 'Chance of such a difference or a larger one without drift.';
COMMENT ON COLUMN drift_tests.p_adjusted IS 'The same, allowing for the number of tests of the day and tenant (Holm).';
COMMENT ON COLUMN drift_tests.distance IS 'Share of reviews that would have to move to another bucket for the mixes to be the same, 0 to 1.';
COMMENT ON COLUMN drift_tests.alarm IS 'True where it counts as drift.';
COMMENT ON COLUMN drift_tests.new_normal IS 'True where the days before begin with drift that went on for so long that it is normal now.';

-- A vector depends on the embedder's name and the text alone, so identities may share it. No text
-- leaves its scope by it: it is found only by the key of the same text.
CREATE TABLE IF NOT EXISTS text_embeddings (embedder VARCHAR, content_key VARCHAR, vector FLOAT[]);
COMMENT ON TABLE text_embeddings IS
    'What an embedder made of a text, so that nothing is embedded, or paid for, twice.';
COMMENT ON COLUMN text_embeddings.embedder IS 'Name of the embedder, with all that decides the vectors.';
COMMENT ON COLUMN text_embeddings.content_key IS 'Key of the text.';
COMMENT ON COLUMN text_embeddings.vector IS 'The vector, as long as the embedder makes them.';

CREATE TABLE IF NOT EXISTS alerts (
    alert_id VARCHAR, kind VARCHAR, tenant VARCHAR, period VARCHAR, threshold BIGINT,
    severity VARCHAR, message VARCHAR, raised_at TIMESTAMPTZ, value BIGINT, "limit" BIGINT
);
-- raised, delivered (to every channel that was owed it) or acknowledged; the version of the limit;
-- the alert that a recovery ends; and how far each channel is.
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS state VARCHAR;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS version BIGINT;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS simulated BOOLEAN;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS recovers VARCHAR;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS delivered_at TIMESTAMPTZ;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS acknowledged_at TIMESTAMPTZ;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS acknowledged_by VARCHAR;
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS deliveries JSON;
COMMENT ON TABLE alerts IS 'An alert, copied from the journal by each run.';
COMMENT ON COLUMN alerts.alert_id IS 'The same in every channel; webhooks carry it as webhook-id.';
COMMENT ON COLUMN alerts.kind IS 'budget, gate, quality, latency, drift, service, recheck or pattern.';
COMMENT ON COLUMN alerts.tenant IS 'Whom it is about.';
COMMENT ON COLUMN alerts.period IS 'UTC month (YYYY-MM) or day (YYYY-MM-DD) that it is about.';
COMMENT ON COLUMN alerts.threshold IS 'Per cent of the limit; of a recovery, the highest that is over.';
COMMENT ON COLUMN alerts.severity IS 'info (recoveries), warning or critical.';
COMMENT ON COLUMN alerts.message IS 'What happened, in words.';
COMMENT ON COLUMN alerts.raised_at IS 'When it was raised (UTC).';
COMMENT ON COLUMN alerts.value IS 'What it was: nano-dollars of a budget, millionths of an accuracy, error or service level, reviews that an entry answered, milliseconds of a response time.';
COMMENT ON COLUMN alerts."limit" IS 'What it was measured against, in the same unit.';
COMMENT ON COLUMN alerts.state IS 'raised, delivered (to every channel that was owed it), or acknowledged.';
COMMENT ON COLUMN alerts.version IS 'Version of the budget, from 1; 0 where limits have none.';
COMMENT ON COLUMN alerts.simulated IS 'True where it is about simulated money or answers.';
COMMENT ON COLUMN alerts.recovers IS 'alert_id of the alert that is over; null where this is no recovery.';
COMMENT ON COLUMN alerts.delivered_at IS 'When the last channel had it (UTC); null until then.';
COMMENT ON COLUMN alerts.acknowledged_at IS 'When somebody saw to it (UTC); null until then.';
COMMENT ON COLUMN alerts.acknowledged_by IS 'Who did; null until then.';
COMMENT ON COLUMN alerts.deliveries IS 'JSON: name of each channel that is owed it to attempts, error, next_attempt_at and delivered_at.';

-- Day is the day of delivery that a judgement is about; null: every delivery of the review.
CREATE TABLE IF NOT EXISTS human_labels (
    tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, day DATE, field VARCHAR, label VARCHAR,
    labeller VARCHAR, labelled_at TIMESTAMPTZ, origin VARCHAR, file VARCHAR, line BIGINT
);
COMMENT ON TABLE human_labels IS
    'What a person says is the right label of a review, a field; every judgement is kept.';
COMMENT ON COLUMN human_labels.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN human_labels.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN human_labels.review_id IS 'The review.';
COMMENT ON COLUMN human_labels.day IS 'UTC day of the delivery that it is about; null: every delivery of the review.';
COMMENT ON COLUMN human_labels.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN human_labels.label IS 'What the labeller says is right.';
COMMENT ON COLUMN human_labels.labeller IS 'Who said so: by the row, else the folder, else the name of the file.';
COMMENT ON COLUMN human_labels.labelled_at IS 'When (UTC): by the row, else the time of change of the file.';
COMMENT ON COLUMN human_labels.origin IS 'file, or table of a DuckDB database.';
COMMENT ON COLUMN human_labels.file IS 'Where it stands, under labels/; a table follows its database behind //.';
COMMENT ON COLUMN human_labels.line IS 'Line or row there, from 1.';

CREATE TABLE IF NOT EXISTS quarantined_labels (
    tenant VARCHAR, file VARCHAR, line BIGINT, review_id VARCHAR, reason VARCHAR, detail VARCHAR
);
COMMENT ON TABLE quarantined_labels IS 'A row, or cell, of a label file that means nothing, and why.';
COMMENT ON COLUMN quarantined_labels.tenant IS 'Whose label file.';
COMMENT ON COLUMN quarantined_labels.file IS 'Where it stands, under labels/; a table follows its database behind //.';
COMMENT ON COLUMN quarantined_labels.line IS 'Line or row there, from 1; null where the file as a whole means nothing.';
COMMENT ON COLUMN quarantined_labels.review_id IS 'Review that the row names; null where it names none.';
COMMENT ON COLUMN quarantined_labels.reason IS 'Code of what is wrong: unknown_review (nobody has delivered it yet), no_review_id, two_labels, no_label_column, unknown_label, ...';
COMMENT ON COLUMN quarantined_labels.detail IS 'The same in words.';

-- The digest is of size, time of change and what the file was read by; a file is read anew when it
-- is another.
CREATE TABLE IF NOT EXISTS label_files (
    tenant VARCHAR, file VARCHAR, digest VARCHAR, judgements BIGINT, quarantined BIGINT,
    read_at TIMESTAMPTZ
);
COMMENT ON TABLE label_files IS 'A label file that was read, and as it was then.';
COMMENT ON COLUMN label_files.tenant IS 'Whose label file.';
COMMENT ON COLUMN label_files.file IS 'Where it stands, under labels/.';
COMMENT ON COLUMN label_files.digest IS 'Digest of its size, time of change, and what it was read by; empty: read at every look.';
COMMENT ON COLUMN label_files.judgements IS 'Judgements that were read of it.';
COMMENT ON COLUMN label_files.quarantined IS 'Rows or cells of it that mean nothing.';
COMMENT ON COLUMN label_files.read_at IS 'When it was last read (UTC).';

CREATE TABLE IF NOT EXISTS resolved_labels (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, field VARCHAR, label VARCHAR,
    status VARCHAR, labellers BIGINT, votes BIGINT, newest_at TIMESTAMPTZ
);
COMMENT ON TABLE resolved_labels IS
    'What human labels say of a review of a day together: settled, or disputed and so no truth.';
COMMENT ON COLUMN resolved_labels.day IS 'UTC day of delivery.';
COMMENT ON COLUMN resolved_labels.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN resolved_labels.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN resolved_labels.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN resolved_labels.field IS 'Field of the taxonomy.';
COMMENT ON COLUMN resolved_labels.label IS 'What human labels come to by the tenant''s label_rule; null where disputed.';
COMMENT ON COLUMN resolved_labels.status IS 'settled; disputed: a tie, and so no truth.';
COMMENT ON COLUMN resolved_labels.labellers IS 'How many people labelled it.';
COMMENT ON COLUMN resolved_labels.votes IS 'How many of them, of those that count, gave the label.';
COMMENT ON COLUMN resolved_labels.newest_at IS 'When the last of them did (UTC).';

CREATE TABLE IF NOT EXISTS label_samples (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, content_key VARCHAR,
    shown VARCHAR, stratum VARCHAR, stratum_texts BIGINT, stratum_reviews BIGINT, asked DOUBLE,
    draw DOUBLE, drawn_at TIMESTAMPTZ, sample_id VARCHAR
);
COMMENT ON TABLE label_samples IS
    'A review whose text was drawn to be labelled; shown is the review that stands for the text.';
COMMENT ON COLUMN label_samples.day IS 'UTC day of delivery.';
COMMENT ON COLUMN label_samples.tenant IS 'Whose reviews these are, and who is billed.';
COMMENT ON COLUMN label_samples.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN label_samples.review_id IS 'Id of the review, unique within a day and tenant; gen-... where the file gave none.';
COMMENT ON COLUMN label_samples.content_key IS 'Key of the text that was drawn.';
COMMENT ON COLUMN label_samples.shown IS 'review_id of the review that people see for the text; its own in the row that stands for it.';
COMMENT ON COLUMN label_samples.stratum IS 'Label of the main field | level | category | confidence when it was drawn, as fine as the sample allows.';
COMMENT ON COLUMN label_samples.stratum_texts IS 'Different texts in the stratum, of all days drawn together.';
COMMENT ON COLUMN label_samples.stratum_reviews IS 'Reviews that have one of them.';
COMMENT ON COLUMN label_samples.asked IS 'Probability with which the text was drawn, 0 to 1.';
COMMENT ON COLUMN label_samples.draw IS 'Its random number, 0 to 1; those with the smallest of a stratum are drawn.';
COMMENT ON COLUMN label_samples.drawn_at IS 'When it was drawn (UTC).';
COMMENT ON COLUMN label_samples.sample_id IS 'Which sample; days that were drawn together have the same.';

-- The taxonomies as they were when a day was last published.
CREATE TABLE IF NOT EXISTS taxonomy_labels (
    taxonomy VARCHAR, field VARCHAR, field_order BIGINT, question VARCHAR, label VARCHAR,
    label_order BIGINT, definition VARCHAR
);
COMMENT ON TABLE taxonomy_labels IS 'A label that a field of a taxonomy may have.';
COMMENT ON COLUMN taxonomy_labels.taxonomy IS 'Name of the taxonomy: the kind of document, its fields and their labels.';
COMMENT ON COLUMN taxonomy_labels.field IS 'Field of the taxonomy: one question asked of every document.';
COMMENT ON COLUMN taxonomy_labels.field_order IS 'Place of the field in the taxonomy, from 1; the first is the main one.';
COMMENT ON COLUMN taxonomy_labels.question IS 'What the model is asked.';
COMMENT ON COLUMN taxonomy_labels.label IS 'One of its labels.';
COMMENT ON COLUMN taxonomy_labels.label_order IS 'Place of the label in the field, from 1.';
COMMENT ON COLUMN taxonomy_labels.definition IS 'What the label means; null where the taxonomy does not say.';

-- Filled where analysts read them: in published/analytics.duckdb.
CREATE TABLE IF NOT EXISTS about (
    schema_version BIGINT, written_at TIMESTAMP, window_days BIGINT, first_day DATE, last_day DATE
);
COMMENT ON TABLE about IS 'One row: what this file holds, and since when.';
COMMENT ON COLUMN about.schema_version IS 'Raised when a published name goes away or means something else; new names do not raise it.';
COMMENT ON COLUMN about.written_at IS 'When the file was written (UTC).';
COMMENT ON COLUMN about.window_days IS 'Days of the large tables that the file holds: [service] analytics_days.';
COMMENT ON COLUMN about.first_day IS 'First UTC day of delivery of the published reviews in the file; null where there are none.';
COMMENT ON COLUMN about.last_day IS 'Last UTC day of delivery of the published reviews in the file.';

CREATE TABLE IF NOT EXISTS catalog (
    name VARCHAR, kind VARCHAR, topic VARCHAR, days VARCHAR, one_row VARCHAR, joins VARCHAR,
    comment VARCHAR
);
COMMENT ON TABLE catalog IS 'A table or view that analysts may read: begin here.';
COMMENT ON COLUMN catalog.name IS 'Name of the table or view.';
COMMENT ON COLUMN catalog.kind IS 'dimension, fact, view or table; start with dimensions and facts.';
COMMENT ON COLUMN catalog.topic IS 'reviews, money, quality, cache, requests, drift, service, alerts, labelling or catalog.';
COMMENT ON COLUMN catalog.days IS 'all: every day; window: the last days, as about.window_days says; none: it has no days.';
COMMENT ON COLUMN catalog.one_row IS 'What one row is.';
COMMENT ON COLUMN catalog.joins IS 'Of a fact: the dimensions that it joins to, and by which columns; else null.';
COMMENT ON COLUMN catalog.comment IS 'What it is for: the comment of the table or view.';

CREATE TABLE IF NOT EXISTS catalog_columns (
    name VARCHAR, column_name VARCHAR, position BIGINT, data_type VARCHAR, comment VARCHAR
);
COMMENT ON TABLE catalog_columns IS 'A column of a table or view that analysts may read.';
COMMENT ON COLUMN catalog_columns.name IS 'Name of the table or view.';
COMMENT ON COLUMN catalog_columns.column_name IS 'Name of the column.';
COMMENT ON COLUMN catalog_columns.position IS 'Place of the column, from 1.';
COMMENT ON COLUMN catalog_columns.data_type IS 'Its type in DuckDB.';
COMMENT ON COLUMN catalog_columns.comment IS 'What it holds, and in which unit.';
