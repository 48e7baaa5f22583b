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
-- classification, audit: a hit that is asked of the model all the same, or reference.
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

CREATE TABLE IF NOT EXISTS request_latencies (
    day DATE, request_id VARCHAR, tenant VARCHAR, model VARCHAR, tier VARCHAR, simulated BOOLEAN,
    sent_at TIMESTAMPTZ, reviews BIGINT, fresh_tokens BIGINT, completion_tokens BIGINT,
    latency_ms DOUBLE, baseline_requests BIGINT, expected_ms DOUBLE, z DOUBLE, slow BOOLEAN,
    degraded BOOLEAN
);
COMMENT ON TABLE request_latencies IS
    'An answered request, one by one, with the response time that its size predicts.';

-- A row a day that an episode went on, as it stood at the end of that day.
CREATE TABLE IF NOT EXISTS latency_episodes (
    day DATE, model VARCHAR, tier VARCHAR, simulated BOOLEAN, started DATE, number BIGINT,
    onset_at TIMESTAMPTZ, raised_at TIMESTAMPTZ, requests BIGINT, slowdown DOUBLE,
    tenants VARCHAR[], ended_at TIMESTAMPTZ, "end" VARCHAR
);
COMMENT ON TABLE latency_episodes IS
    'A day of an episode in which a model answered more slowly than the size of requests predicts.';

-- What the next day begins with: the sums and the episode that goes on, as JSON.
CREATE TABLE IF NOT EXISTS latency_watches (
    day DATE, model VARCHAR, tier VARCHAR, simulated BOOLEAN, watch JSON
);
COMMENT ON TABLE latency_watches IS
    'What is remembered of the response times of a model and tier at the end of a day.';

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
-- What of the cost the rechecks of hits and the audits by a reference model took.
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

-- Kept as the run that summed the day saw it, until the day's cost or the budget is another: running
-- an old day again must not move the spend of today into it.
CREATE TABLE IF NOT EXISTS budget_states (
    day DATE, tenant VARCHAR, simulated BOOLEAN, period VARCHAR, version BIGINT,
    budget_nanos BIGINT, spent_nanos BIGINT, held_nanos BIGINT, thresholds BIGINT[],
    day_nanos BIGINT, seen_at TIMESTAMPTZ
);
COMMENT ON TABLE budget_states IS
    'Where a tenant''s budget stood when a day''s run had summed its cost; nano-dollars.';

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

CREATE TABLE IF NOT EXISTS accuracy_cells (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, truth VARCHAR,
    dimension VARCHAR, name VARCHAR, n BIGINT, texts BIGINT, correct BIGINT, accuracy DOUBLE,
    lower DOUBLE, upper DOUBLE, shared_upper DOUBLE, below BOOLEAN
);
COMMENT ON TABLE accuracy_cells IS
    'Accuracy of a tenant-day and of its parts, by each kind of truth, with its interval.';

CREATE TABLE IF NOT EXISTS scored_reviews (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, simulated BOOLEAN, truth VARCHAR,
    review_id VARCHAR, identity VARCHAR, content_key VARCHAR, category VARCHAR, level VARCHAR,
    source_key VARCHAR, request_id VARCHAR, labels VARCHAR, known VARCHAR, correct BOOLEAN,
    weight DOUBLE, uniform BOOLEAN
);
COMMENT ON TABLE scored_reviews IS
    'A labelled review with a truth that decides, what was served, and whether it was right.';

CREATE TABLE IF NOT EXISTS gate_causes (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, kind VARCHAR, identity VARCHAR, level VARCHAR,
    source VARCHAR, field VARCHAR, label VARCHAR, category VARCHAR, wrong BIGINT, n BIGINT,
    reviews BIGINT
);
COMMENT ON TABLE gate_causes IS
    'What a failed tenant-day came from: an entry, a pattern''s label, or answers of the model.';

CREATE TABLE IF NOT EXISTS asked_anew (
    day DATE, tenant VARCHAR, identity VARCHAR, content_key VARCHAR, noted_at TIMESTAMPTZ,
    applied_at TIMESTAMPTZ
);
COMMENT ON TABLE asked_anew IS
    'A text of a failed tenant-day that the next run of the day asks the model about, once.';

CREATE TABLE IF NOT EXISTS condemned_patterns (
    day DATE, identity VARCHAR, version VARCHAR, field VARCHAR, label VARCHAR, n BIGINT,
    errors BIGINT
);
COMMENT ON TABLE condemned_patterns IS
    'A label that a pattern no longer gives, since the gate failed a day for it.';

CREATE TABLE IF NOT EXISTS reference_audits (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, identity VARCHAR, content_key VARCHAR,
    reference_identity VARCHAR, labels VARCHAR, model VARCHAR, request_id VARCHAR, asked DOUBLE
);
COMMENT ON TABLE reference_audits IS
    'A text that a stronger model was asked about too; labels is null while it has not answered.';

CREATE TABLE IF NOT EXISTS published_results (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, category VARCHAR,
    product_id VARCHAR, rating DOUBLE, ts TIMESTAMPTZ, status VARCHAR, level VARCHAR,
    repeat BOOLEAN, labels VARCHAR, score DOUBLE, model VARCHAR, reason VARCHAR,
    verified BOOLEAN, simulated BOOLEAN, synthetic BOOLEAN, cost_nanos BIGINT,
    content_key VARCHAR
);
COMMENT ON TABLE published_results IS 'A review that the gate let through, as analysts see it.';

-- A delivery is known by the arrival of its last file. Published again, it keeps its first time; a
-- later file of the day is a delivery of its own. published_at is null where it was not noted.
CREATE TABLE IF NOT EXISTS publications (
    day DATE, tenant VARCHAR, simulated BOOLEAN, arrived_at TIMESTAMPTZ,
    published_at TIMESTAMPTZ, run_id VARCHAR, run_seconds DOUBLE, run_reviews BIGINT
);
COMMENT ON TABLE publications IS
    'When a tenant''s delivery of a day arrived, was first published, and how long that run took.';

-- indicator is all for the day''s own verdict; its target and value are counts of promises.
CREATE TABLE IF NOT EXISTS service_levels (
    day DATE, tenant VARCHAR, indicator VARCHAR, target DOUBLE, value DOUBLE, n BIGINT,
    met BOOLEAN, detail VARCHAR, objective DOUBLE, window_days BIGINT, days_judged BIGINT,
    days_broken BIGINT, budget_days DOUBLE, budget_left DOUBLE, burn DOUBLE, simulated BOOLEAN
);
COMMENT ON TABLE service_levels IS
    'What a tenant was promised of a day, what it got, and the error budget left by then.';

CREATE TABLE IF NOT EXISTS review_archive (
    identity VARCHAR, content_key VARCHAR, day DATE, tenant VARCHAR, review_id VARCHAR,
    category VARCHAR, text VARCHAR, labels VARCHAR, model VARCHAR, request_id VARCHAR,
    verified BOOLEAN
);
ALTER TABLE review_archive ADD COLUMN IF NOT EXISTS asked DOUBLE;
ALTER TABLE review_archive ADD COLUMN IF NOT EXISTS draw DOUBLE;
COMMENT ON TABLE review_archive IS
    'L3: a text that the model answered itself, or a human corrected, on a day that the gate let through.';

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

CREATE TABLE IF NOT EXISTS batch_samples (
    day DATE, request_id VARCHAR, tenant VARCHAR, taxonomy VARCHAR, tier VARCHAR, model VARCHAR,
    simulated BOOLEAN, reviews BIGINT, n BIGINT, correct BIGINT, lower DOUBLE, upper DOUBLE,
    confidence DOUBLE, threshold DOUBLE, goal DOUBLE, verdict VARCHAR
);
COMMENT ON TABLE batch_samples IS
    'A large batch, and how many of a random sample of its labels are right.';

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

-- Day is the day of delivery that a judgement is about; null: every delivery of the review.
CREATE TABLE IF NOT EXISTS human_labels (
    tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, day DATE, field VARCHAR, label VARCHAR,
    labeller VARCHAR, labelled_at TIMESTAMPTZ, origin VARCHAR, file VARCHAR, line BIGINT
);
COMMENT ON TABLE human_labels IS
    'What a person says is the right label of a review, a field; every judgement is kept.';

CREATE TABLE IF NOT EXISTS quarantined_labels (
    tenant VARCHAR, file VARCHAR, line BIGINT, review_id VARCHAR, reason VARCHAR, detail VARCHAR
);
COMMENT ON TABLE quarantined_labels IS 'A row, or cell, of a label file that means nothing, and why.';

-- The digest is of size, time of change and what the file was read by; a file is read anew when it
-- is another.
CREATE TABLE IF NOT EXISTS label_files (
    tenant VARCHAR, file VARCHAR, digest VARCHAR, judgements BIGINT, quarantined BIGINT,
    read_at TIMESTAMPTZ
);
COMMENT ON TABLE label_files IS 'A label file that was read, and as it was then.';

CREATE TABLE IF NOT EXISTS resolved_labels (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, field VARCHAR, label VARCHAR,
    status VARCHAR, labellers BIGINT, votes BIGINT, newest_at TIMESTAMPTZ
);
COMMENT ON TABLE resolved_labels IS
    'What human labels say of a review of a day together: settled, or disputed and so no truth.';

CREATE TABLE IF NOT EXISTS label_samples (
    day DATE, tenant VARCHAR, taxonomy VARCHAR, review_id VARCHAR, content_key VARCHAR,
    shown VARCHAR, stratum VARCHAR, stratum_texts BIGINT, stratum_reviews BIGINT, asked DOUBLE,
    draw DOUBLE, drawn_at TIMESTAMPTZ, sample_id VARCHAR
);
COMMENT ON TABLE label_samples IS
    'A review whose text was drawn to be labelled; shown is the review that stands for the text.';
