-- Question: Where did this review's labels come from?
-- One row: a step of its history, in order.
-- Read: what it was labelled, which level answered and how like the source is, where the source's own
--   answer came from (in the window of days), the request that was paid, what it was judged by, what
--   people said, and each entry of the ledger. `review-optimizer explain` shows the text too.
-- Parameters: review_id, tenant, day (default: the newest wrong review, else the newest hit)
WITH chosen AS (
    SELECT * FROM fact_reviews
    WHERE review_id = coalesce(getvariable('review_id'), review_id)
        AND tenant = coalesce(getvariable('tenant'), tenant)
        AND day = coalesce(getvariable('day')::DATE, day)
    ORDER BY wrong DESC, hits DESC, day DESC, tenant, review_id LIMIT 1),
source AS (
    SELECT s.* FROM fact_reviews s JOIN chosen c
        ON s.content_key = c.source_key AND s.taxonomy = c.taxonomy AND s.simulated = c.simulated
    WHERE s.request_id IS NOT NULL AND s.day <= c.day AND c.level <> 'model'
    ORDER BY s.tenant = c.tenant DESC, s.day DESC, s.repeat, s.review_id LIMIT 1),
paid AS (
    SELECT * FROM fact_requests WHERE request_id IN (
        SELECT coalesce(c.request_id, s.request_id) FROM chosen c LEFT JOIN source s ON true))
SELECT step, what, day, tenant, review_id, detail, cost_usd FROM (
    SELECT 1 AS step, 'published' AS what, c.day, c.tenant, c.review_id,
        concat_ws('; ', c.status, p.labels, c.reason,
            CASE WHEN c.verified THEN 'verified' ELSE 'not verified' END,
            CASE WHEN c.simulated THEN 'simulated' END) AS detail, c.cost_usd
    FROM chosen c JOIN published_results p USING (day, tenant, taxonomy, review_id)
    UNION ALL
    SELECT 2, 'answered by', c.day, c.tenant, c.review_id,
        concat_ws('; ', c.level || ', ' || d.name, d.meaning, 'score ' || round(c.score, 4),
            'source ' || c.source_key), NULL
    FROM chosen c JOIN dim_level d USING (level)
    UNION ALL
    SELECT 3, 'source', s.day, s.tenant, s.review_id,
        'the model answered this text; request ' || s.request_id, NULL FROM source s
    UNION ALL
    SELECT 3, 'source', b.day, c.tenant, c.review_id, 'pattern ' || b.version || ': '
        || b.field || ' = ' || b.label || ', at most ' || round(100 * b.bound, 3) || ' % wrong by '
        || b.errors || ' of ' || b.n || ' answers', NULL
    FROM chosen c
    JOIN published_labels l USING (day, tenant, taxonomy, review_id)
    JOIN pattern_bounds b ON c.source_key = 'pattern:' || b.version AND b.field = l.field
        AND b.label = l.label AND b.status = 'serving' AND b.day < c.day
        AND (b.category IS NULL OR b.category = c.category)
    QUALIFY row_number() OVER (PARTITION BY l.field
        ORDER BY b.day DESC, b.category NULLS LAST) = 1
    UNION ALL
    SELECT 4, 'request', r.day, r.tenant, NULL, concat_ws('; ', r.request_id, r.model,
        'step ' || r.tier, r.kind, r.reviews_asked || ' texts', r.status, 'sent ' || r.sent_at,
        round(r.latency_ms)::BIGINT || ' ms'), r.cost_usd FROM paid r
    UNION ALL
    SELECT 5, CASE WHEN s.correct THEN 'judged right' ELSE 'judged wrong' END, s.day, s.tenant,
        s.review_id, 'by ' || s.truth || ': ' || s.known, NULL
    FROM chosen c JOIN scored_reviews s USING (day, tenant, taxonomy, review_id)
    UNION ALL
    SELECT 6, 'said by people', coalesce(j.day, c.day), c.tenant, c.review_id,
        j.labeller || ': ' || j.field || ' = ' || j.label || ' (' || j.file || ')', NULL
    FROM chosen c JOIN label_judgements j ON j.tenant = c.tenant AND j.review_id = c.review_id
        AND (j.day IS NULL OR j.day = c.day)
    UNION ALL
    SELECT 7, 'booked', l.day, l.tenant, l.review_id, concat_ws('; ', l.kind,
        CASE WHEN l.avoided_usd <> 0 THEN 'avoided $' || l.avoided_usd
            || ' (' || l.avoided_rule || ')' END,
        'answer paid for by ' || l.source_tenant, l.request_id, l.note), l.cost_usd
    FROM chosen c JOIN fact_ledger l USING (day, tenant, review_id)) steps
ORDER BY step, day, detail;
