"""Label samples in the warehouse: what may be drawn, what was, and how far people are with it."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl

from review_optimizer_dagster.storage.warehouse import Connection

_SPAN = "tenant = $tenant AND taxonomy = $taxonomy AND day BETWEEN $first AND $last"


def _span(tenant: str, taxonomy: str, first: date, last: date) -> dict[str, object]:
    return {"tenant": tenant, "taxonomy": taxonomy, "first": first, "last": last}


def last_day(connection: Connection, tenant: str, taxonomy: str) -> date | None:
    """The newest day that has results of a tenant."""
    rows = connection.rows(
        "SELECT max(day) FROM review_results WHERE tenant = ? AND taxonomy = ?", [tenant, taxonomy]
    )
    day = rows[0][0]
    return day if isinstance(day, date) else None


def sampled_days(
    connection: Connection, tenant: str, taxonomy: str, first: date, last: date
) -> dict[date, int]:
    """The days of a span that have a label sample, and how many texts it asks about."""
    rows = connection.rows(
        f"SELECT day, count(DISTINCT content_key) FROM label_samples WHERE {_SPAN} "  # noqa: S608
        "GROUP BY day ORDER BY day",
        _span(tenant, taxonomy, first, last),
    )
    return {day: int(str(texts)) for day, texts in rows if isinstance(day, date)}


def labelled_results(
    connection: Connection, tenant: str, taxonomy: str, first: date, last: date
) -> pl.DataFrame:
    """What `sample.drawn` draws from: a tenant's labelled reviews of a span of days."""
    return connection.frame(
        f"""
        SELECT r.day, r.review_id, r.content_key, r.category, r.level, r.repeat, r.labels, r.score,
            coalesce(a.unsure, false) AND r.level = 'model' AS unsure
        FROM (SELECT * FROM review_results WHERE {_SPAN} AND status = 'labelled') r
        LEFT JOIN batch_classifications a USING (day, identity, content_key)
        ORDER BY r.day, r.review_id
        """,  # noqa: S608 (our own names)
        _span(tenant, taxonomy, first, last),
    )


def keep_sample(
    connection: Connection,
    tenant: str,
    taxonomy: str,
    days: list[date],
    sample: pl.DataFrame,
    sample_id: str,
    now: datetime,
) -> None:
    """Put a drawn sample (SAMPLE) in the place of what these days had."""
    with connection.transaction():
        connection.execute(
            "DELETE FROM label_samples WHERE tenant = $tenant AND taxonomy = $taxonomy "
            "AND list_contains($days, day)",
            {"tenant": tenant, "taxonomy": taxonomy, "days": days},
        )
        connection.append(
            "label_samples",
            sample,
            tenant=tenant,
            taxonomy=taxonomy,
            drawn_at=now,
            sample_id=sample_id,
        )


def questions(
    connection: Connection, tenant: str, taxonomy: str, first: date, last: date
) -> pl.DataFrame:
    """The reviews of the kept samples that people are shown, in the order of their numbers.

    Returns review_id, day, category, title, text and labels, which are what the system said.
    """
    return connection.frame(
        f"""
        SELECT r.review_id, r.day, r.category, r.title, r.text, v.labels
        FROM (SELECT * FROM label_samples WHERE {_SPAN} AND review_id = shown) s
        JOIN raw_reviews r USING (day, tenant, review_id, content_key)
        LEFT JOIN review_results v USING (day, tenant, review_id)
        ORDER BY s.draw, r.day, r.review_id
        """,  # noqa: S608 (our own names)
        _span(tenant, taxonomy, first, last),
    )


def strata(
    connection: Connection, tenant: str, taxonomy: str, first: date, last: date
) -> pl.DataFrame:
    """The kept samples by stratum.

    Columns: sample_id, stratum, stratum_texts, stratum_reviews, drawn, reviews (that have a drawn
    text) and asked.
    """
    return connection.frame(
        f"""
        SELECT sample_id, stratum, any_value(stratum_texts) AS stratum_texts,
            any_value(stratum_reviews) AS stratum_reviews,
            count(DISTINCT (day, content_key)) AS drawn, count(*) AS reviews,
            any_value(asked) AS asked
        FROM label_samples WHERE {_SPAN} GROUP BY sample_id, stratum ORDER BY ALL
        """,  # noqa: S608 (our own names)
        _span(tenant, taxonomy, first, last),
    )


def progress(connection: Connection, tenant: str, taxonomy: str) -> pl.DataFrame:
    """How far people are with each day's sample: day, texts, labelled, missing."""
    return connection.frame(
        """
        SELECT s.day, count(*) AS texts, count(h.review_id) AS labelled,
            count(*) - count(h.review_id) AS missing
        FROM label_samples s
        LEFT JOIN (
            SELECT DISTINCT tenant, taxonomy, review_id, s.day
            FROM human_labels h JOIN label_samples s USING (tenant, taxonomy, review_id)
            WHERE h.day IS NULL OR h.day = s.day) h USING (tenant, taxonomy, review_id, day)
        WHERE s.tenant = $tenant AND s.taxonomy = $taxonomy AND s.review_id = s.shown
        GROUP BY s.day ORDER BY s.day
        """,
        {"tenant": tenant, "taxonomy": taxonomy},
    )


def refusals(connection: Connection, tenant: str, file: str) -> pl.DataFrame:
    """Why rows of a label file mean nothing: line, review_id, reason, detail."""
    return connection.frame(
        "SELECT line, review_id, reason, detail FROM quarantined_labels "
        "WHERE tenant = $tenant AND (file = $file OR starts_with(file, $file || '//')) "
        "ORDER BY line, reason",
        {"tenant": tenant, "file": file},
    )


def disputes(connection: Connection, tenant: str, days: list[date]) -> pl.DataFrame:
    """What labellers do not agree on, of these days: day, review_id, field, labellers."""
    return connection.frame(
        "SELECT day, review_id, field, labellers FROM resolved_labels "
        "WHERE tenant = $tenant AND status = 'disputed' AND list_contains($days, day) "
        "ORDER BY ALL",
        {"tenant": tenant, "days": days},
    )


def judgements_of(connection: Connection, file: str) -> tuple[int, int]:
    """How many judgements a file has, and of how many reviews."""
    ((judgements, reviews),) = connection.rows(
        "SELECT count(*), count(DISTINCT review_id) FROM human_labels "
        "WHERE file = $file OR starts_with(file, $file || '//')",
        {"file": file},
    )
    return int(str(judgements)), int(str(reviews))
