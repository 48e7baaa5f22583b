"""What the gate reads and leaves: references, scores, all days together, and what failed a day."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

import polars as pl

from review_optimizer_dagster.storage.warehouse import Connection
from review_optimizer_dagster.suites.contract import REFERENCES
from review_optimizer_dagster.truth.causes import PATTERN, Blame


def references(connection: Connection, day: date) -> pl.DataFrame:
    """Whether each review of a day's results is in the raw reviews and in the ledger: REFERENCES.

    In the ledger: the request that answered it is booked to its tenant, or, of a hit, the cost
    that it avoided and that no correction has taken back.
    """
    return connection.frame(
        """
        WITH ledger AS (SELECT * FROM ledger_entries WHERE day = $day),
        paid AS (SELECT DISTINCT tenant, request_id FROM ledger WHERE request_id IS NOT NULL),
        hits AS (
            SELECT DISTINCT tenant, review_id FROM ledger
            WHERE kind IN ('hit', 'repeat') AND entry_id NOT IN (
                SELECT corrects FROM ledger WHERE corrects IS NOT NULL))
        SELECT v.tenant, v.review_id, r.review_id IS NOT NULL AS in_raw,
            CASE WHEN v.level = 'model' THEN (v.tenant, v.request_id) IN (
                    SELECT (tenant, request_id) FROM paid)
                ELSE (v.tenant, v.review_id) IN (SELECT (tenant, review_id) FROM hits) END
                AS in_ledger
        FROM (SELECT * FROM review_results WHERE day = $day) v
        LEFT JOIN (SELECT * FROM raw_reviews WHERE day = $day) r
            ON r.tenant = v.tenant AND r.review_id = v.review_id AND r.content_key = v.content_key
        """,
        {"day": day},
    ).select(REFERENCES.names())


def standing_counts(
    connection: Connection, day: date, tenant: str, taxonomy: str, truth: str, simulated: bool
) -> tuple[int, int, int]:
    """Days, different texts and right ones among them, up to a day, by one kind of truth.

    A text counts once, on the first day it was scored: the same text again is no new evidence.
    """
    rows = connection.rows(
        """
        SELECT count(DISTINCT day), count(*), count(*) FILTER (WHERE correct) FROM (
            SELECT day, content_key, bool_and(correct) AS correct FROM scored_reviews
            WHERE day <= $day AND tenant = $tenant AND taxonomy = $taxonomy AND truth = $truth
                AND simulated = $simulated AND uniform
            GROUP BY day, content_key
            QUALIFY row_number() OVER (PARTITION BY content_key ORDER BY day) = 1)
        """,
        {
            "day": day,
            "tenant": tenant,
            "taxonomy": taxonomy,
            "truth": truth,
            "simulated": simulated,
        },
    )
    days, texts, correct = (int(str(value)) for value in rows[0])
    return days, texts, correct


class BadSince(NamedTuple):
    """The first of the days in a row, up to one, on which a condition held; that one, if none."""

    parts: date
    standing: date


def bad_since(
    connection: Connection, day: date, tenant: str, taxonomy: str, simulated: bool
) -> BadSince:
    """Since when parts of a tenant's days are below, and since when all days together are.

    Days that nothing is known of do not end a row of days.
    """
    rows = connection.rows(
        """
        WITH judged AS (
            SELECT v.day, v.standing_verdict = 'failed' AS standing,
                v.verdict <> 'failed' AND v.day IN (
                    SELECT c.day FROM accuracy_cells c
                    WHERE c.below AND c.tenant = $tenant AND c.taxonomy = $taxonomy
                        AND c.truth = v.truth) AS parts
            FROM gate_verdicts v
            WHERE v.day <= $day AND v.tenant = $tenant AND v.taxonomy = $taxonomy
                AND v.simulated = $simulated AND v.truth IN ('labels', 'audits'))
        SELECT min(day) FILTER (WHERE parts AND day > coalesce((
                SELECT max(day) FROM judged WHERE NOT parts), DATE '0001-01-01')),
            min(day) FILTER (WHERE standing AND day > coalesce((
                SELECT max(day) FROM judged WHERE NOT standing), DATE '0001-01-01'))
        FROM judged
        """,
        {"day": day, "tenant": tenant, "taxonomy": taxonomy, "simulated": simulated},
    )
    parts, standing = (each if isinstance(each, date) else day for each in rows[0])
    return BadSince(parts, standing)


def judged_days(connection: Connection, most: int) -> list[date]:
    """The last days that were judged, ascending; none where the warehouse is of before."""
    if not connection.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'accuracy_cells'"):
        return []
    rows = connection.rows(
        "SELECT DISTINCT day FROM gate_verdicts ORDER BY day DESC LIMIT ?", [most]
    )
    return sorted(day for (day,) in rows if isinstance(day, date))


def wrong_reviews(connection: Connection, day: date, limit: int = 50) -> pl.DataFrame:
    """Reviews of a day whose labels a truth contradicts, with their text, at most `limit`."""
    return connection.frame(
        """
        SELECT s.tenant, s.truth, s.review_id, s.category, s.level, s.source_key, s.labels, s.known,
            left(r.text, 120) AS text
        FROM scored_reviews s JOIN raw_reviews r USING (day, tenant, review_id)
        WHERE s.day = $day AND NOT s.correct ORDER BY s.tenant, s.review_id LIMIT $limit
        """,
        {"day": day, "limit": limit},
    )


def replace_blame(
    connection: Connection, day: date, tenant: str, taxonomy: str, blame: Blame, now: datetime
) -> int:
    """Keep what a failed tenant-day comes from; entries and pattern labels answer nothing more.

    A text is asked anew once: where the day fails again, only `--reclassify` asks again. Returns
    how many texts of the tenant are due.
    """
    connection.replace(
        "gate_causes",
        blame.causes.with_columns(tenant=pl.lit(tenant), taxonomy=pl.lit(taxonomy)),
        day,
        [tenant],
    )
    with (
        connection.view("blamed", blame.causes),
        connection.view("texts", blame.texts),
    ):
        connection.execute(
            """
            INSERT INTO asked_anew BY NAME
            SELECT $day AS day, $tenant AS tenant, identity, content_key, $now AS noted_at
            FROM texts WHERE (identity, content_key) NOT IN (
                SELECT (identity, content_key) FROM asked_anew WHERE day = $day)
            """,
            {"day": day, "tenant": tenant, "now": now},
        )
        connection.execute(
            """
            INSERT INTO withdrawn_entries BY NAME
            SELECT $day AS day, a.identity, a.content_key, a.request_id, c.level,
                $tenant AS tenant, a.review_id
            FROM blamed c
            JOIN review_archive a ON a.identity = c.identity AND a.content_key = c.source
            WHERE c.kind = 'entry' AND a.day <= $day
                AND (a.identity, a.content_key, a.request_id) NOT IN (
                    SELECT (identity, content_key, request_id) FROM withdrawn_entries)
            """,
            {"day": day, "tenant": tenant},
        )
        connection.execute(
            """
            INSERT INTO condemned_patterns BY NAME
            SELECT $day AS day, identity, split_part(source, ':', 2) AS version, field, label,
                n, wrong AS errors
            FROM blamed WHERE kind = $pattern
                AND (identity, split_part(source, ':', 2), field, label) NOT IN (
                    SELECT (identity, version, field, label) FROM condemned_patterns)
            """,
            {"day": day, "pattern": PATTERN},
        )
    due = connection.rows(
        "SELECT count(*) FROM asked_anew WHERE day = ? AND tenant = ? AND applied_at IS NULL",
        [day, tenant],
    )
    return int(str(due[0][0]))


def due_anew(connection: Connection, day: date) -> pl.DataFrame:
    """Texts that the next run of a day asks anew: identity, content_key."""
    return connection.frame(
        "SELECT DISTINCT identity, content_key FROM asked_anew "
        "WHERE day = ? AND applied_at IS NULL ORDER BY ALL",
        [day],
    )


def take_back(connection: Connection, day: date, now: datetime) -> None:
    """Make misses of the cached answers that are due to be asked anew; their repeats follow."""
    with connection.transaction():
        connection.execute(
            """
            UPDATE cache_resolution SET
                withdrawn_level = level, withdrawn_source = source_key, withdrawn_labels = labels,
                level = CASE WHEN repeat THEN 'l1' END, labels = NULL,
                source_key = CASE WHEN repeat THEN content_key END,
                score = CASE WHEN repeat THEN 1.0 END
            WHERE day = $day AND labels IS NOT NULL AND (identity, content_key) IN (
                SELECT (identity, content_key) FROM asked_anew
                WHERE day = $day AND applied_at IS NULL)
            """,
            {"day": day},
        )
        connection.execute(
            "UPDATE asked_anew SET applied_at = $now WHERE day = $day AND applied_at IS NULL",
            {"day": day, "now": now},
        )
