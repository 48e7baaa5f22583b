-- The warehouse: one row of comment a table. Deduplication is by anti-join, never by an index.

CREATE TABLE IF NOT EXISTS raw_reviews (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, content_key VARCHAR,
    category VARCHAR, product_id VARCHAR, title VARCHAR, text VARCHAR, rating DOUBLE,
    ts TIMESTAMPTZ, truth VARCHAR, synthetic BOOLEAN, file VARCHAR, line BIGINT
);
COMMENT ON TABLE raw_reviews IS 'An accepted review of one day of delivery.';

CREATE TABLE IF NOT EXISTS quarantined_reviews (
    day DATE, tenant VARCHAR, file VARCHAR, line BIGINT, review_id VARCHAR,
    reason VARCHAR, detail VARCHAR, excerpt VARCHAR
);
COMMENT ON TABLE quarantined_reviews IS 'A row of input that was not accepted, and why.';

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

CREATE TABLE IF NOT EXISTS batch_plan (
    day DATE, batch_id VARCHAR, position BIGINT, item_id VARCHAR, tenant VARCHAR,
    taxonomy VARCHAR, identity VARCHAR, content_key VARCHAR, tier VARCHAR, complexity DOUBLE,
    tokens BIGINT
);
-- classification, or audit: a hit that is asked of the model all the same.
ALTER TABLE batch_plan ADD COLUMN IF NOT EXISTS purpose VARCHAR;
COMMENT ON TABLE batch_plan IS 'A text that the model is asked about, and its place in a batch.';

CREATE TABLE IF NOT EXISTS batch_classifications (
    day DATE, tenant VARCHAR, identity VARCHAR, content_key VARCHAR, status VARCHAR,
    labels VARCHAR, model VARCHAR, request_id VARCHAR, reason VARCHAR, attempts BIGINT
);
ALTER TABLE batch_classifications ADD COLUMN IF NOT EXISTS tier VARCHAR;
ALTER TABLE batch_classifications ADD COLUMN IF NOT EXISTS unsure BOOLEAN;
ALTER TABLE batch_classifications ADD COLUMN IF NOT EXISTS next_tier VARCHAR;
COMMENT ON TABLE batch_classifications IS
    'What came of asking the model about a text: labelled, failed or deferred.';

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

CREATE TABLE IF NOT EXISTS cost_rollups (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, reviews BIGINT, hits BIGINT,
    misses BIGINT, deferred BIGINT, cost_nanos BIGINT, avoided_nanos BIGINT,
    baseline_nanos BIGINT, saving DOUBLE, cost_per_1000_nanos BIGINT, requests BIGINT,
    held_nanos BIGINT
);
-- What of the cost the rechecks of hits took.
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS audit_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS embedding_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS repaid_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS manual_nanos BIGINT;
-- What it would have cost without a cache, and what was saved of that.
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS no_cache_nanos BIGINT;
ALTER TABLE cost_rollups ADD COLUMN IF NOT EXISTS saving_no_cache DOUBLE;
COMMENT ON TABLE cost_rollups IS 'A tenant, taxonomy and day: reviews, spend and the baseline.';

CREATE TABLE IF NOT EXISTS spend_forecasts (
    day DATE, tenant VARCHAR, simulated BOOLEAN, month VARCHAR, days_known BIGINT,
    days_left BIGINT, days_used BIGINT, spent BIGINT, expected BIGINT, lower BIGINT, upper BIGINT,
    budget_nanos BIGINT
);
COMMENT ON TABLE spend_forecasts IS
    'What a tenant''s month will have cost when it ends, as a day''s run saw it; nano-dollars.';

CREATE TABLE IF NOT EXISTS review_results (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, identity VARCHAR,
    content_key VARCHAR, category VARCHAR, product_id VARCHAR, rating DOUBLE, ts TIMESTAMPTZ,
    status VARCHAR, level VARCHAR, repeat BOOLEAN, labels VARCHAR, source_key VARCHAR,
    score DOUBLE, request_id VARCHAR, model VARCHAR, reason VARCHAR, simulated BOOLEAN,
    synthetic BOOLEAN, truth VARCHAR
);
COMMENT ON TABLE review_results IS 'An accepted review with its labels and where they came from.';

CREATE TABLE IF NOT EXISTS gate_verdicts (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, verdict VARCHAR, truth VARCHAR, n BIGINT,
    correct BIGINT, lower DOUBLE, upper DOUBLE, threshold DOUBLE, needed BIGINT,
    contract BOOLEAN, detail VARCHAR
);
COMMENT ON TABLE gate_verdicts IS 'The gate''s verdict of a day, tenant and taxonomy.';

CREATE TABLE IF NOT EXISTS published_results (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, category VARCHAR,
    product_id VARCHAR, rating DOUBLE, ts TIMESTAMPTZ, status VARCHAR, level VARCHAR,
    repeat BOOLEAN, labels VARCHAR, score DOUBLE, model VARCHAR, reason VARCHAR,
    verified BOOLEAN, simulated BOOLEAN, synthetic BOOLEAN, cost_nanos BIGINT,
    content_key VARCHAR
);
COMMENT ON TABLE published_results IS 'A review that the gate let through, as analysts see it.';

CREATE TABLE IF NOT EXISTS review_archive (
    identity VARCHAR, content_key VARCHAR, day DATE, tenant VARCHAR, review_id VARCHAR,
    category VARCHAR, text VARCHAR, labels VARCHAR, model VARCHAR, request_id VARCHAR,
    verified BOOLEAN
);
ALTER TABLE review_archive ADD COLUMN IF NOT EXISTS asked DOUBLE;
ALTER TABLE review_archive ADD COLUMN IF NOT EXISTS draw DOUBLE;
COMMENT ON TABLE review_archive IS
    'L3: a text that the model answered itself, on a tenant-day that the gate let through.';

CREATE TABLE IF NOT EXISTS audits (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, identity VARCHAR,
    content_key VARCHAR, category VARCHAR, level VARCHAR, source_key VARCHAR, score DOUBLE,
    labels VARCHAR, answer VARCHAR, agrees BOOLEAN, asked DOUBLE, draw DOUBLE, request_id VARCHAR
);
COMMENT ON TABLE audits IS 'A hit that was asked of the model too, and whether the two agree.';

CREATE TABLE IF NOT EXISTS withdrawn_entries (
    day DATE, identity VARCHAR, content_key VARCHAR, request_id VARCHAR, level VARCHAR,
    tenant VARCHAR, review_id VARCHAR, audit_request_id VARCHAR
);
COMMENT ON TABLE withdrawn_entries IS
    'An archived answer that a recheck contradicted: it and what came from it answer nothing more.';

CREATE TABLE IF NOT EXISTS level_errors (
    day DATE, identity VARCHAR, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN,
    level VARCHAR, class VARCHAR, n BIGINT, disagreements BIGINT, lower DOUBLE, upper DOUBLE,
    window_days BIGINT
);
COMMENT ON TABLE level_errors IS
    'How often rechecks contradicted a cache level in the days up to this one, a class.';

CREATE TABLE IF NOT EXISTS pattern_versions (
    day DATE, identity VARCHAR, version VARCHAR, taxonomy VARCHAR, rows BIGINT, archived BIGINT,
    semantic VARCHAR, file VARCHAR, seconds DOUBLE, cost_nanos BIGINT, trained_at TIMESTAMPTZ
);
COMMENT ON TABLE pattern_versions IS
    'A learned pattern: the day whose archive it was trained on, its file, and what it took.';

CREATE TABLE IF NOT EXISTS pattern_evidence (
    identity VARCHAR, version VARCHAR, field VARCHAR, content_key VARCHAR, day DATE,
    category VARCHAR, label VARCHAR, score DOUBLE, reference VARCHAR, agrees BOOLEAN,
    draw DOUBLE, live BOOLEAN
);
COMMENT ON TABLE pattern_evidence IS
    'What a pattern says of a text it was not trained on, beside the model''s or a human''s label.';

CREATE TABLE IF NOT EXISTS pattern_certificates (
    day DATE, identity VARCHAR, version VARCHAR, field VARCHAR, label VARCHAR, category VARCHAR,
    threshold DOUBLE, n BIGINT, errors BIGINT, bound DOUBLE, max_error DOUBLE, rule VARCHAR,
    status VARCHAR
);
COMMENT ON TABLE pattern_certificates IS
    'The score from which a pattern may answer a label, and the bound of its error there.';

CREATE TABLE IF NOT EXISTS daily_profiles (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, category VARCHAR,
    signal VARCHAR, bucket VARCHAR, reviews BIGINT
);
COMMENT ON TABLE daily_profiles IS
    'What a day''s reviews are like, as counts a signal and bucket; category empty: all of them.';

CREATE TABLE IF NOT EXISTS drift_tests (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, category VARCHAR,
    signal VARCHAR, horizon VARCHAR, n BIGINT, baseline_n BIGINT, baseline_days BIGINT,
    baseline_from DATE, baseline_to DATE, df BIGINT, statistic DOUBLE, dispersion DOUBLE,
    p_value DOUBLE, p_adjusted DOUBLE, distance DOUBLE, alarm BOOLEAN, new_normal BOOLEAN
);
COMMENT ON TABLE drift_tests IS
    'Whether a day''s profile differs from those before it, a signal, category and horizon.';

-- A vector depends on the embedder's name and the text alone, so identities may share it. No text
-- leaves its scope by it: it is found only by the key of the same text.
CREATE TABLE IF NOT EXISTS text_embeddings (embedder VARCHAR, content_key VARCHAR, vector FLOAT[]);
COMMENT ON TABLE text_embeddings IS
    'What an embedder made of a text, so that nothing is embedded, or paid for, twice.';

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
