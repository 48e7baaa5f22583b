"""What is known of a day's texts while they are asked about, and the samples of its batches."""

from __future__ import annotations

from datetime import date

from review_optimizer_dagster.storage.warehouse import Connection


def known_truths(
    connection: Connection, day: date, tenant: str, identity: str
) -> list[tuple[str, str]]:
    """content_key and truth (JSON) of a tenant's texts of a day that came with one.

    Where several reviews have the same text, the first one's, by review_id.
    """
    rows = connection.rows(
        """
        SELECT c.content_key, arg_min(r.truth, r.review_id)
        FROM cache_resolution c JOIN raw_reviews r USING (day, tenant, review_id)
        WHERE c.day = ? AND c.tenant = ? AND c.identity = ? AND coalesce(r.truth, '{}') <> '{}'
        GROUP BY c.content_key ORDER BY c.content_key
        """,
        [day, tenant, identity],
    )
    return [(str(key), str(truth)) for key, truth in rows]
