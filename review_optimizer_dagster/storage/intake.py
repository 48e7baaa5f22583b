"""The first step's SQL: what the reader accepted becomes the partition's raw reviews."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from review_optimizer_dagster.core.reviews import QUARANTINE, REVIEWS, Chunk
from review_optimizer_dagster.storage.warehouse import Connection

# Texts stay where they are: ids are settled on the keys alone, however large the delivery.
# An input without ids gets one from content and occurrence, so that reading the same files again
# gives the same ids. Those of files that have left the inbox are counted again with the others.
_SETTLE_IDS = """
CREATE OR REPLACE TEMP TABLE keys AS
WITH delivered AS (
    SELECT tenant, review_id, content_key, file, line,
        coalesce(starts_with(review_id, 'gen-' || content_key || '-'), true) AS generated
    FROM raw_reviews WHERE day = $day)
SELECT tenant, content_key, file, line, CASE WHEN generated THEN
    'gen-' || content_key || '-' || row_number() OVER (
        PARTITION BY tenant, content_key, generated ORDER BY file, line)
    ELSE review_id END AS review_id
FROM delivered
"""

_STORE_IDS = """
UPDATE raw_reviews SET review_id = keys.review_id FROM keys
WHERE day = $day AND raw_reviews.file = keys.file AND raw_reviews.line = keys.line
    AND raw_reviews.review_id IS DISTINCT FROM keys.review_id
"""

# Which of two texts under one id is right cannot be known, so neither is taken; of the same row
# delivered twice the first is. The conflicts that stand in the quarantine here are of files that
# have left the inbox: they stay as their rows do, so that reading again changes nothing.
_REFUSE = """
CREATE OR REPLACE TEMP TABLE refused AS
WITH counted AS (
    SELECT *, count(DISTINCT content_key) OVER (PARTITION BY tenant, review_id) > 1
            OR (tenant, review_id) IN (
                SELECT (tenant, review_id) FROM quarantined_reviews
                WHERE day = $day AND reason = 'id_conflict') AS disputed,
        row_number() OVER (PARTITION BY tenant, review_id ORDER BY file, line) AS occurrence
    FROM keys)
SELECT *, CASE WHEN disputed THEN 'id_conflict' ELSE 'duplicate_row' END AS reason
FROM counted WHERE disputed OR occurrence > 1
"""

_QUARANTINE_REFUSED = """
INSERT INTO quarantined_reviews
SELECT $day, tenant, file, line, review_id, reason, CASE WHEN disputed
    THEN 'the id stands more than once in this partition with different text; '
        || 'none of them was taken'
    ELSE 'the same id and text were delivered before in this partition; the first was taken'
    END, NULL
FROM refused
"""

_DROP_REFUSED = """
DELETE FROM raw_reviews WHERE day = $day AND (file, line) IN (SELECT (file, line) FROM refused)
"""


_TABLES = ("raw_reviews", "quarantined_reviews")


@dataclass(frozen=True)
class Intake:
    """What one read of the inbox left in the partition."""

    accepted: int
    quarantined: int
    files: int
    unknown_truth: dict[str, int]


def replace_deliveries(
    connection: Connection, day: date, chunks: Iterable[Chunk], files: Sequence[str]
) -> Intake:
    """Replace the day's raw and quarantined reviews of these files by what `chunks` holds.

    Rows of files that have left the inbox stay: what was delivered was delivered. Chunks are
    written as they come, so that no file is held in memory.
    """
    unknown_truth: dict[str, int] = {}
    # Staged with a commit a chunk: DuckDB keeps what one transaction appends in memory, all of it.
    for table in _TABLES:
        connection.execute(f"CREATE OR REPLACE TABLE staged_{table} AS FROM {table} LIMIT 0")
    for chunk in chunks:
        connection.append("staged_raw_reviews", chunk.reviews.select(list(REVIEWS)), day=day)
        connection.append(
            "staged_quarantined_reviews", chunk.quarantined.select(list(QUARANTINE)), day=day
        )
        for value, rows in chunk.unknown_truth.items():
            unknown_truth[value] = unknown_truth.get(value, 0) + rows
    with connection.transaction():
        for table in _TABLES:
            connection.execute(
                f"DELETE FROM {table} WHERE day = $day AND list_contains($files, file)",  # noqa: S608 (our own names)
                {"day": day, "files": list(files)},
            )
            connection.execute(f"INSERT INTO {table} FROM staged_{table}")
            connection.execute(f"DROP TABLE staged_{table}")
        connection.execute(_SETTLE_IDS, {"day": day})
        for step in (_REFUSE, _STORE_IDS, _QUARANTINE_REFUSED, _DROP_REFUSED):
            connection.execute(step, {"day": day})
        connection.execute("DROP TABLE keys")
        connection.execute("DROP TABLE refused")
    accepted = connection.count("raw_reviews", day)
    quarantined = connection.count("quarantined_reviews", day)
    return Intake(accepted, quarantined, len(files), unknown_truth)
