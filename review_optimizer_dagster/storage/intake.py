"""The first step's SQL: what the reader accepted becomes the partition's raw reviews."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from review_optimizer_dagster.core.reviews import QUARANTINE, REVIEWS, Chunk
from review_optimizer_dagster.storage.warehouse import Connection

# An input without ids gets one from content and occurrence, so that reading the same files again
# gives the same ids.
_ASSIGN_IDS = """
CREATE OR REPLACE TEMP TABLE identified AS
SELECT * REPLACE (coalesce(review_id, 'gen-' || content_key || '-' || row_number() OVER (
    PARTITION BY tenant, content_key, review_id IS NULL ORDER BY file, line)) AS review_id)
FROM incoming
"""

# Which of two texts under one id is right cannot be known, so neither is taken.
_FIND_CONFLICTS = """
CREATE OR REPLACE TEMP TABLE conflicts AS
SELECT tenant, review_id FROM identified
GROUP BY ALL HAVING count(DISTINCT content_key) > 1
"""

_QUARANTINE_CONFLICTS = """
INSERT INTO quarantined_reviews
SELECT $day, tenant, file, line, review_id, 'id_conflict',
    'the id stands more than once in this partition with different text; none of them was taken',
    NULL
FROM identified SEMI JOIN conflicts USING (tenant, review_id)
"""

_RANK_DUPLICATES = """
CREATE OR REPLACE TEMP TABLE ranked AS
SELECT *, row_number() OVER (PARTITION BY tenant, review_id ORDER BY file, line) AS occurrence
FROM identified ANTI JOIN conflicts USING (tenant, review_id)
"""

_QUARANTINE_DUPLICATES = """
INSERT INTO quarantined_reviews
SELECT $day, tenant, file, line, review_id, 'duplicate_row',
    'the same id and text were delivered before in this partition; the first one was taken', NULL
FROM ranked WHERE occurrence > 1
"""


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
    with connection.transaction():
        connection.execute(
            "DELETE FROM quarantined_reviews WHERE day = $day AND list_contains($files, file)",
            {"day": day, "files": list(files)},
        )
        columns = ", ".join(REVIEWS)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE incoming AS SELECT {columns} FROM raw_reviews "  # noqa: S608 (our own names)
            "WHERE day = $day AND NOT list_contains($files, file)",
            {"day": day, "files": list(files)},
        )
        for chunk in chunks:
            connection.append("incoming", chunk.reviews.select(list(REVIEWS)))
            connection.append(
                "quarantined_reviews", chunk.quarantined.select(list(QUARANTINE)), day=day
            )
            for value, rows in chunk.unknown_truth.items():
                unknown_truth[value] = unknown_truth.get(value, 0) + rows
        for step in (_ASSIGN_IDS, _FIND_CONFLICTS, _RANK_DUPLICATES):
            connection.execute(step)
        for step in (_QUARANTINE_CONFLICTS, _QUARANTINE_DUPLICATES):
            connection.execute(step, {"day": day})
        connection.execute("DELETE FROM raw_reviews WHERE day = $day", {"day": day})
        connection.execute(
            f"INSERT INTO raw_reviews (day, {columns}) "  # noqa: S608 (our own names)
            f"SELECT $day, {columns} FROM ranked WHERE occurrence = 1 "
            "ORDER BY tenant, review_id",
            {"day": day},
        )
        for table in ("incoming", "identified", "conflicts", "ranked"):
            connection.execute(f"DROP TABLE {table}")
    accepted = connection.count("raw_reviews", day)
    quarantined = connection.count("quarantined_reviews", day)
    return Intake(accepted, quarantined, len(files), unknown_truth)
