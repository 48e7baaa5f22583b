"""What the learned patterns read and leave: references, versions, evidence, certificates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, datetime

import polars as pl

from review_optimizer_dagster.core.cache import valid_since
from review_optimizer_dagster.core.patterns import CERTIFICATES, EVIDENCE, NO_EMBEDDER
from review_optimizer_dagster.storage.warehouse import Connection

# Texts that no earlier level answered: what a pattern is asked about, and may be judged by.
_POPULATION = "NOT repeat AND coalesce(withdrawn_level, level, 'l3_pattern') = 'l3_pattern'"


@dataclass(frozen=True)
class Version:
    """A trained pattern, as `pattern_versions` has it."""

    day: date
    version: str
    rows: int
    """That it was trained on."""
    archived: int
    """Of its scope when it was trained, with what was held out."""
    seconds: float
    semantic: str
    """The embedder's name; NO_EMBEDDER where there is no second stage."""
    cost_nanos: int
    """What the embeddings of the training cost."""


def identities(connection: Connection, day: date) -> dict[str, str]:
    """The identity under which each tenant's reviews of a day were resolved."""
    rows = connection.rows(
        "SELECT DISTINCT tenant, identity FROM cache_resolution WHERE day = ? ORDER BY tenant",
        [day],
    )
    return {str(tenant): str(identity) for tenant, identity in rows}


def references(
    connection: Connection, day: date, identity: str, ttl_days: int | None
) -> pl.DataFrame:
    """What the model or a human said of an identity's texts, as the archive stood on a day.

    Returns content_key, day, tenant, category, labels (JSON, the model's), truth (JSON, a human's:
    label files stand over what was delivered), draw, and `fair`: whether no earlier level could
    answer the text and it is in the day's chance sample, so that a pattern may be judged by it. One
    row a text: the last fair one, else the last.
    """
    return connection.frame(
        f"""
        WITH population AS (
            SELECT day, content_key, coalesce(draw, 0.0) AS draw, coalesce(asked, 1.0) AS asked
            FROM cache_resolution
            WHERE identity = $identity AND day <= $day AND {_POPULATION}),
        least AS (SELECT day, min(asked) AS least FROM population GROUP BY day),
        human AS (
            SELECT day, tenant, review_id, json_group_object(field, label) AS labels
            FROM resolved_labels GROUP BY ALL)
        SELECT a.content_key, a.day, a.tenant, a.category, a.labels,
            CASE WHEN h.labels IS NULL THEN coalesce(r.truth, '{{}}')
                ELSE json_merge_patch(coalesce(r.truth, '{{}}'), h.labels)::VARCHAR END AS truth,
            coalesce(p.draw, 0.0) AS draw,
            p.content_key IS NOT NULL AND p.draw < l.least AS fair
        FROM review_archive a
        ANTI JOIN withdrawn_entries w USING (identity, content_key, request_id)
        LEFT JOIN raw_reviews r
            ON r.day = a.day AND r.tenant = a.tenant AND r.review_id = a.review_id
                AND r.content_key = a.content_key
        LEFT JOIN human h
            ON h.day = a.day AND h.tenant = a.tenant AND h.review_id = r.review_id
        LEFT JOIN population p ON p.day = a.day AND p.content_key = a.content_key
        LEFT JOIN least l ON l.day = a.day
        WHERE a.identity = $identity AND a.day <= $day AND a.day >= $since
        QUALIFY row_number() OVER (
            PARTITION BY a.content_key ORDER BY fair DESC, a.day DESC) = 1
        ORDER BY a.content_key
        """,  # noqa: S608 (our own names)
        {"identity": identity, "day": day, "since": valid_since(day, ttl_days)},
    )


def with_texts(connection: Connection, identity: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The same rows (content_key, ...) in the same order, with each text (normalised)."""
    keys = rows.select("content_key").unique()
    with connection.view("wanted", keys):
        texts = connection.frame(
            "SELECT content_key, min(text) AS text FROM review_archive "
            "SEMI JOIN wanted USING (content_key) WHERE identity = $identity GROUP BY content_key",
            {"identity": identity},
        )
    return rows.join(texts, on="content_key", how="left", maintain_order="left")


def newest_version(
    connection: Connection, day: date, identity: str, semantic: str
) -> Version | None:
    """The pattern of an identity as it stood on a day; one of another embedder does not count."""
    rows = connection.frame(
        "SELECT day, version, rows, archived, seconds, coalesce(semantic, $none) AS semantic, "
        "coalesce(cost_nanos, 0) AS cost_nanos FROM pattern_versions "
        "WHERE identity = $identity AND day <= $day AND coalesce(semantic, $none) = $semantic "
        "ORDER BY day DESC, trained_at DESC LIMIT 1",
        {"identity": identity, "day": day, "semantic": semantic, "none": NO_EMBEDDER},
    )
    return Version(**rows.row(0, named=True)) if rows.height else None


def add_version(
    connection: Connection, identity: str, taxonomy: str, version: Version, trained_at: datetime
) -> None:
    """Record a trained pattern; the same one trained again replaces its row."""
    row = asdict(version) | {"identity": identity, "taxonomy": taxonomy, "trained_at": trained_at}
    with connection.transaction():
        connection.execute(
            "DELETE FROM pattern_versions WHERE identity = $identity AND version = $version",
            {"identity": identity, "version": version.version},
        )
        connection.append("pattern_versions", pl.DataFrame([row]))


def vectors(connection: Connection, embedder: str, texts: pl.DataFrame) -> pl.DataFrame:
    """The kept vectors of texts (content_key): content_key, vector."""
    with connection.view("wanted", texts.select("content_key").unique()):
        return connection.frame(
            "SELECT content_key, vector FROM text_embeddings SEMI JOIN wanted USING (content_key) "
            "WHERE embedder = $embedder",
            {"embedder": embedder},
        )


def add_vectors(connection: Connection, embedder: str, made: pl.DataFrame) -> int:
    """Keep vectors (content_key, vector) that are not kept yet; returns how many were new."""
    known = vectors(connection, embedder, made).select("content_key")
    new = made.join(known, on="content_key", how="anti")
    return connection.append("text_embeddings", new, embedder=embedder)


def training_seconds(connection: Connection, day: date) -> float:
    """How long the patterns that were trained on a day took."""
    rows = connection.rows(
        "SELECT coalesce(sum(seconds), 0.0) FROM pattern_versions WHERE day = ?", [day]
    )
    return float(str(rows[0][0]))


def known_evidence(connection: Connection, identity: str, version: str) -> pl.DataFrame:
    """What is stored of a version's evidence (EVIDENCE)."""
    return connection.frame(
        "SELECT * FROM pattern_evidence WHERE identity = $identity AND version = $version "
        "ORDER BY field, content_key",
        {"identity": identity, "version": version},
    ).select(EVIDENCE.names())


def add_evidence(connection: Connection, rows: pl.DataFrame) -> int:
    """Append what a version said of further texts (EVIDENCE)."""
    return connection.append("pattern_evidence", rows)


def evidence_size(connection: Connection, identity: str, version: str) -> int:
    """How many texts stand as evidence of a version."""
    rows = connection.rows(
        "SELECT count(DISTINCT content_key) FROM pattern_evidence "
        "WHERE identity = ? AND version = ?",
        [identity, version],
    )
    return int(str(rows[0][0]))


def replace_certificates(
    connection: Connection, day: date, identity: str, certificates: pl.DataFrame
) -> None:
    """Make these (CERTIFICATES) an identity's certificates of a day."""
    with connection.transaction():
        connection.execute(
            "DELETE FROM pattern_certificates WHERE day = $day AND identity = $identity",
            {"day": day, "identity": identity},
        )
        connection.append("pattern_certificates", certificates, day=day)
        # The evidence does not know of the failed day, whose answers were not archived.
        connection.execute(
            """
            UPDATE pattern_certificates SET status = 'switched off'
            WHERE day = $day AND identity = $identity AND status = 'serving'
                AND (identity, version, field, label) IN (
                    SELECT (identity, version, field, label) FROM condemned_patterns
                    WHERE day <= $day)
            """,
            {"day": day, "identity": identity},
        )


def certificates(connection: Connection, day: date, identity: str) -> pl.DataFrame:
    """An identity's CERTIFICATES as they stood on a day: those of the last day that has any.

    A label that the gate has failed a day for is switched off, until there is another version.
    """
    return connection.frame(
        """
        SELECT c.* REPLACE (
            CASE WHEN c.status = 'serving' AND k.label IS NOT NULL THEN 'switched off'
                ELSE c.status END AS status)
        FROM pattern_certificates c
        LEFT JOIN (
            SELECT DISTINCT identity, version, field, label FROM condemned_patterns
            WHERE day <= $day) k USING (identity, version, field, label)
        WHERE identity = $identity AND c.day = (
            SELECT max(day) FROM pattern_certificates WHERE identity = $identity AND day <= $day)
        ORDER BY field, label, category
        """,
        {"identity": identity, "day": day},
    ).select(CERTIFICATES.names())


def switched_off(connection: Connection, day: date) -> pl.DataFrame:
    """The certificates that live evidence has switched off on a day, with the scope's tenants.

    What the gate failed a day for is told by its own alert.
    """
    return connection.frame(
        """
        SELECT t.tenant, c.* EXCLUDE (day) FROM pattern_certificates c
        JOIN (SELECT DISTINCT identity, tenant FROM cache_resolution WHERE day = $day) t
            USING (identity)
        WHERE c.day = $day AND c.status = 'switched off'
            AND (c.identity, c.version, c.field, c.label) NOT IN (
                SELECT (identity, version, field, label) FROM condemned_patterns WHERE day <= $day)
        ORDER BY t.tenant, c.field, c.label, c.category
        """,
        {"day": day},
    )
