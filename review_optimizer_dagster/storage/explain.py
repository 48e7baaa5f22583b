"""Where a review's labels came from: read back from what every step left, for one review."""

from __future__ import annotations

from datetime import date
from typing import Any

import polars as pl

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.warehouse import Connection

_REVIEW = """
SELECT r.day, r.tenant, r.taxonomy, r.review_id, r.category, r.title, r.text, r.file, r.line,
    r.content_key, c.identity, c.repeat, c.level AS cache_level, c.source_key, c.score, c.bound,
    c.near_score, c.veto, c.asked, c.draw, c.audit, c.withdrawn_level, c.withdrawn_source,
    c.withdrawn_labels, c.resolved_at, s.status, s.level, s.labels, s.model, s.request_id, s.reason,
    s.simulated, s.truth, v.verdict, v.detail AS verdict_detail,
    p.review_id IS NOT NULL AS published
FROM raw_reviews r
LEFT JOIN cache_resolution c USING (day, tenant, review_id)
LEFT JOIN review_results s USING (day, tenant, review_id)
LEFT JOIN gate_verdicts v ON v.day = r.day AND v.tenant = r.tenant AND v.taxonomy = r.taxonomy
LEFT JOIN published_results p ON p.day = r.day AND p.tenant = r.tenant AND p.review_id = r.review_id
WHERE r.review_id = $review AND ($tenant IS NULL OR r.tenant = $tenant)
    AND ($day IS NULL OR r.day = $day)
ORDER BY r.day DESC, r.tenant
"""

# Each of these is asked about one review; the parameters are columns of the row above.
_FACTS = {
    "source": """
        SELECT a.day, a.tenant, a.review_id, a.category, a.labels, a.model, a.request_id, a.text,
            a.verified, w.day AS withdrawn_on
        FROM review_archive a
        LEFT JOIN withdrawn_entries w USING (identity, content_key, request_id)
        WHERE a.identity = $identity AND a.content_key = $source_key AND a.day <= $day
        ORDER BY a.day DESC LIMIT 1
        """,
    "rechecks": """
        SELECT day, tenant, review_id, level, labels, answer, agrees, asked, draw, request_id
        FROM audits WHERE identity = $identity AND source_key = $source_key ORDER BY day, review_id
        """,
    "own_rechecks": """
        SELECT day, level, labels, answer, agrees, asked, draw, request_id FROM audits
        WHERE identity = $identity AND content_key = $content_key AND day = $day
        """,
    "ledger": """
        SELECT kind, level, model, request_id, cost_nanos, avoided_nanos, booked_at
        FROM ledger_entries WHERE day = $day AND tenant = $tenant AND review_id = $review_id
        ORDER BY booked_at, entry_id
        """,
    "attempts": """
        SELECT q.attempt, q.tier, q.model_requested AS model, q.way, q.status, q.request_id,
            q.request_id = b.request_id AND b.unsure AS unsure
        FROM ledger_entries l JOIN llm_requests q USING (day, request_id)
        LEFT JOIN batch_classifications b ON b.day = l.day AND b.content_key = l.content_key
            AND b.identity = $identity
        WHERE l.day = $day AND l.tenant = $tenant AND l.review_id = $review_id
            AND q.tier IS NOT NULL
        ORDER BY q.sent_at, q.request_id
        """,
    "pattern": """
        SELECT day, version, rows, archived, seconds, trained_at FROM pattern_versions
        WHERE identity = $identity AND 'pattern:' || version = $source_key
        """,
    "certificates": """
        SELECT c.day, c.field, c.label, c.category, c.threshold, c.n, c.errors, c.bound,
            c.max_error, c.rule, c.status
        FROM pattern_certificates c
        WHERE c.identity = $identity AND 'pattern:' || c.version = $source_key AND c.day = (
            SELECT max(day) FROM pattern_certificates
            WHERE identity = $identity AND day < $day)
        ORDER BY c.field, c.label, c.category
        """,
}


def explain(
    connection: Connection, review_id: str, tenant: str | None, day: date | None
) -> dict[str, Any]:
    """Everything that is stored about where a review's labels came from.

    Without a day the latest delivery counts. Returns the columns of the review, and under the
    names of the questions above their rows. Raises UserError where no such review was delivered,
    or where several tenants have one and none is named.
    """
    found = connection.frame(_REVIEW, {"review": review_id, "tenant": tenant, "day": day})
    if found.is_empty():
        where = "".join([f" of {tenant}" if tenant else "", f" on {day}" if day else " on any day"])
        raise UserError(
            f"no review {review_id!r}{where} is in the warehouse: quarantined rows are listed by "
            "the run's summary and in quarantined_reviews"
        )
    latest = found.filter(pl.col("day") == found["day"].max())
    if latest["tenant"].n_unique() > 1:
        names = ", ".join(latest["tenant"].unique().sort())
        raise UserError(f"several tenants have a review {review_id!r}: name one of {names}")
    review = latest.row(0, named=True)
    review["source_key"] = review["source_key"] or review["withdrawn_source"]
    facts = {}
    for name, sql in _FACTS.items():
        used = {key: value for key, value in review.items() if f"${key}" in sql}
        facts[name] = connection.frame(sql, used).rows(named=True)
    return review | facts
