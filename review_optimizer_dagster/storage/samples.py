"""What is known of a day's texts while they are asked about, and the samples of its batches."""

from __future__ import annotations

from datetime import date

from review_optimizer_dagster.storage.warehouse import Connection


def known_truths(
    connection: Connection, day: date, tenant: str, taxonomy: str
) -> list[tuple[str, str]]:
    """content_key and truth (JSON) of a tenant's texts of a day that came with one.

    Where several reviews have the same text, the first one's, by review_id.
    """
    rows = connection.rows(
        """
        SELECT content_key, arg_min(truth, review_id) FROM raw_reviews
        WHERE day = ? AND tenant = ? AND taxonomy = ? AND coalesce(truth, '{}') <> '{}'
        GROUP BY content_key ORDER BY content_key
        """,
        [day, tenant, taxonomy],
    )
    return [(str(key), str(truth)) for key, truth in rows]
