"""Texts that a reference model is asked about too: the day's draw, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from review_optimizer_dagster.money.amounts import usd
from review_optimizer_dagster.storage.warehouse import Connection


def texts_of_day(connection: Connection, day: date) -> pl.DataFrame:
    """Every different text of a day: tenant, taxonomy, identity, content_key."""
    return connection.frame(
        """
        SELECT c.tenant, r.taxonomy, c.identity, c.content_key
        FROM cache_resolution c JOIN raw_reviews r USING (day, tenant, review_id)
        WHERE c.day = ? AND NOT c.repeat ORDER BY c.tenant, c.content_key
        """,
        [day],
    )


def with_texts(connection: Connection, day: date, plan: pl.DataFrame) -> pl.DataFrame:
    """Rows of a plan (PLAN) with title and text, in their order, whatever their identity."""
    numbered = plan.drop("title", "text", strict=False).with_row_index("place")
    with connection.view("wanted", numbered):
        return connection.frame(
            """
            SELECT w.* EXCLUDE (place), r.title, r.text FROM wanted w
            JOIN raw_reviews r ON r.day = $day AND r.tenant = w.tenant
                AND r.content_key = w.content_key
            QUALIFY row_number() OVER (PARTITION BY w.place ORDER BY r.review_id) = 1
            ORDER BY w.place
            """,
            {"day": day},
        )


def replace_audits(connection: Connection, day: date, drawn: pl.DataFrame) -> None:
    """Keep the day's draw (columns of reference_audits) in place of the one before."""
    with connection.transaction():
        connection.replace("reference_audits", drawn, day)


def audited_identities(connection: Connection, day: date) -> Mapping[str, str]:
    """The identity of the reference model's answers to the one that they are about."""
    rows = connection.rows(
        "SELECT DISTINCT reference_identity, identity FROM reference_audits WHERE day = ?", [day]
    )
    return {str(reference): str(identity) for reference, identity in rows}


def reference_counts(connection: Connection, day: date) -> dict[str, object]:
    """A day's audits by a reference model: texts asked, answered, and the cost in dollars."""
    rows = connection.rows(
        """
        SELECT (SELECT count(*) FROM reference_audits WHERE day = $day),
            (SELECT count(labels) FROM reference_audits WHERE day = $day),
            (SELECT coalesce(sum(cost_nanos), 0)::BIGINT FROM llm_requests
                WHERE day = $day AND kind = 'reference')
        """,
        {"day": day},
    )
    asked, answered, cost = (int(str(value)) for value in rows[0])
    return {"asked": asked, "answered": answered, "cost_usd": usd(cost)}
