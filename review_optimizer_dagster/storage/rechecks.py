"""What rechecks read and leave: the history of entries, audits, what they took back."""

from __future__ import annotations

from datetime import date

import polars as pl

from review_optimizer_dagster import rechecks
from review_optimizer_dagster.storage.partition import HUMAN
from review_optimizer_dagster.storage.warehouse import Connection


def entry_history(
    connection: Connection, day: date, reviews: pl.DataFrame, resolution: pl.DataFrame
) -> pl.DataFrame:
    """What the draw of rechecks needs to know of each text and of the entry that answers it.

    reviews: rows of `unresolved`; resolution: identity, content_key, source_key, ... of their
    texts. Returns the resolution with reviews, comes_again, answered_before, vetted, entry_reviews
    and identity_reviews, as `rechecks.drawn` takes them. An entry that was taken back begins anew.
    """
    with connection.view("reviews", reviews), connection.view("resolution", resolution):
        return connection.frame(
            """
            WITH today AS (SELECT * FROM cache_resolution WHERE day = $day),
            asked AS (SELECT DISTINCT identity, source_key FROM resolution),
            patterned AS (
                SELECT DISTINCT identity, content_key FROM cache_resolution
                WHERE day < $day AND level = $pattern),
            begun AS (
                SELECT identity, content_key AS source_key, max(day) AS begun
                FROM withdrawn_entries WHERE day <= $day GROUP BY ALL),
            answered AS (
                SELECT DISTINCT identity, source_key
                FROM cache_resolution c SEMI JOIN asked USING (identity, source_key)
                LEFT JOIN begun USING (identity, source_key)
                WHERE c.day < $day AND NOT c.repeat AND c.labels IS NOT NULL
                    AND (begun IS NULL OR c.day > begun)),
            vetted AS (
                SELECT DISTINCT identity, source_key FROM audits a
                LEFT JOIN begun USING (identity, source_key)
                WHERE a.agrees AND a.day <= $day AND (begun IS NULL OR a.day > begun)),
            served AS (
                SELECT identity, source_key, count(*) AS reviews FROM today
                WHERE labels IS NOT NULL GROUP BY ALL),
            identities AS (
                SELECT identity, count(*) AS reviews FROM (
                    SELECT identity FROM today UNION ALL SELECT identity FROM reviews)
                GROUP BY ALL),
            texts AS (
                SELECT identity, content_key, count(*) AS reviews FROM reviews GROUP BY ALL)
            SELECT r.*, t.reviews, i.reviews AS identity_reviews,
                coalesce(s.reviews, 0) AS entry_reviews,
                (r.identity, r.source_key) IN (
                    SELECT (identity, source_key) FROM answered) AS answered_before,
                coalesce(r.level = $pattern, false) AND (r.identity, r.content_key) IN (
                    SELECT (identity, content_key) FROM patterned) AS comes_again,
                (r.identity, r.source_key) IN (
                    SELECT (identity, source_key) FROM vetted) AS vetted
            FROM resolution r
            JOIN texts t USING (identity, content_key)
            JOIN identities i USING (identity)
            LEFT JOIN served s USING (identity, source_key)
            ORDER BY r.identity, r.content_key
            """,
            {"day": day, "pattern": rechecks.PATTERN},
        )


def judge(connection: Connection, day: date, answers: pl.DataFrame) -> pl.DataFrame:
    """Compare rechecked hits of a day with the model's answers (ANSWERS), each recheck once.

    A disagreement takes the answer back, and with it the entry that it came from: the entry's
    archived answers up to this day, and every other review of the day that it answered, which
    become misses. A pattern is no entry: it is judged by its certificates. An answer that a human
    has corrected stands. Returns the texts that
    were taken back now: identity, content_key. All or nothing, and nothing where called again.
    """
    with connection.transaction():
        _forget_gone(connection, day)
        new = rechecks.judged(_answered(connection, day, answers))
        connection.append("audits", new, day=day)
        contradicted = _by_the_model(connection, new.filter(~pl.col("agrees")))
        with connection.view("contradicted", contradicted):
            _withdraw_entries(connection, day)
            return _withdraw_answers(connection, day)


def _forget_gone(connection: Connection, day: date) -> None:
    """Drop the audits of reviews that are no longer resolved as they were."""
    connection.execute(
        """
        DELETE FROM audits WHERE day = $day
            AND (tenant, review_id, identity, content_key) NOT IN (
                SELECT (tenant, review_id, identity, content_key) FROM cache_resolution
                WHERE day = $day AND audit)
        """,
        {"day": day},
    )


def _answered(connection: Connection, day: date, answers: pl.DataFrame) -> pl.DataFrame:
    """Rechecks with an answer that were not judged yet: the columns of audits but agrees.

    Also of hits that were taken back before their own recheck had an answer: leaving them out
    would spoil the sample.
    """
    labelled = answers.filter(pl.col("status") == "labelled")
    with connection.view("answers", labelled):
        return connection.frame(
            """
            SELECT c.tenant, r.taxonomy, c.review_id, c.identity, c.content_key, r.category,
                coalesce(c.level, c.withdrawn_level) AS level,
                coalesce(c.source_key, c.withdrawn_source) AS source_key, c.score,
                coalesce(c.labels, c.withdrawn_labels) AS labels, a.labels AS answer,
                c.asked, c.draw, a.request_id
            FROM cache_resolution c
            JOIN raw_reviews r USING (day, tenant, review_id)
            JOIN answers a ON a.identity = c.identity AND a.content_key = c.content_key
            WHERE c.day = $day AND c.audit AND (c.tenant, c.review_id) NOT IN (
                SELECT (tenant, review_id) FROM audits WHERE day = $day)
            ORDER BY c.identity, c.content_key
            """,
            {"day": day},
        )


def _by_the_model(connection: Connection, contradicted: pl.DataFrame) -> pl.DataFrame:
    """Those whose entry is the model's own: it has no say against a human."""
    with connection.view("disagreeing", contradicted.select("identity", "source_key").unique()):
        human = connection.frame(
            """
            SELECT DISTINCT a.identity, a.content_key AS source_key FROM review_archive a
            JOIN disagreeing d ON d.identity = a.identity AND d.source_key = a.content_key
            WHERE a.model = $human
            """,
            {"human": HUMAN},
        )
    return contradicted.join(human, on=["identity", "source_key"], how="anti")


def _withdraw_entries(connection: Connection, day: date) -> None:
    connection.execute(
        """
        INSERT INTO withdrawn_entries BY NAME
        SELECT $day AS day, a.identity, a.content_key, a.request_id, c.level, c.tenant,
            c.review_id, c.request_id AS audit_request_id
        FROM contradicted c
        JOIN review_archive a ON a.identity = c.identity AND a.content_key = c.source_key
        WHERE a.day <= $day AND c.level <> $pattern
            AND (a.identity, a.content_key, a.request_id) NOT IN (
                SELECT (identity, content_key, request_id) FROM withdrawn_entries)
        QUALIFY row_number() OVER (
            PARTITION BY a.identity, a.content_key, a.request_id
            ORDER BY c.tenant, c.review_id) = 1
        """,
        {"day": day, "pattern": rechecks.PATTERN},
    )


def _withdraw_answers(connection: Connection, day: date) -> pl.DataFrame:
    """Make misses of what the contradicted entries answered; their repeats follow them."""
    taken_back = connection.frame(
        """
        SELECT DISTINCT identity, content_key FROM cache_resolution
        WHERE day = $day AND NOT repeat AND labels IS NOT NULL AND (
            (identity, content_key) IN (SELECT (identity, content_key) FROM contradicted)
            OR (identity, source_key) IN (
                SELECT (identity, source_key) FROM contradicted WHERE level <> $pattern))
        ORDER BY identity, content_key
        """,
        {"day": day, "pattern": rechecks.PATTERN},
    )
    with connection.view("taken_back", taken_back):
        connection.execute(
            """
            UPDATE cache_resolution SET
                withdrawn_level = level, withdrawn_source = source_key, withdrawn_labels = labels,
                level = CASE WHEN repeat THEN 'l1' END, labels = NULL,
                source_key = CASE WHEN repeat THEN content_key END,
                score = CASE WHEN repeat THEN 1.0 END
            WHERE day = $day AND labels IS NOT NULL
                AND (identity, content_key) IN (SELECT (identity, content_key) FROM taken_back)
            """,
            {"day": day},
        )
    return taken_back


def chance_sample(connection: Connection, day: date, window_days: int) -> pl.DataFrame:
    """The audits of the days up to this one that are a uniform sample of the hits of their day.

    Each day, identity and level is thinned to the least probability that any of its hits had, so
    that all of them count alike. Columns of audits.
    """
    return connection.frame(
        """
        WITH least AS (
            SELECT day, identity, coalesce(withdrawn_level, level) AS level, min(asked) AS least
            FROM cache_resolution
            WHERE NOT repeat AND coalesce(withdrawn_level, level) IS NOT NULL
                AND day <= $day AND day > $day - to_days($window::INTEGER)
            GROUP BY ALL)
        SELECT a.* FROM audits a JOIN least USING (day, identity, level)
        WHERE a.draw < least ORDER BY a.day, a.identity, a.content_key
        """,
        {"day": day, "window": window_days},
    )


def contradictions(connection: Connection, day: date) -> pl.DataFrame:
    """The entries that rechecks of a day contradicted, a tenant that they concern.

    Those whose review was rechecked, and those that the entry answered before. Returns tenant,
    identity, source_key, level, rechecks (that disagreed) and answered (reviews of the tenant on
    earlier days that have the entry's labels).
    """
    return connection.frame(
        """
        WITH entries AS (
            SELECT identity, source_key, min(level) AS level, count(*) AS rechecks
            FROM audits WHERE day = $day AND NOT agrees AND level <> $pattern GROUP BY ALL),
        earlier AS (
            SELECT tenant, identity, source_key, count(*) AS answered
            FROM cache_resolution c SEMI JOIN entries USING (identity, source_key)
            WHERE c.day < $day AND c.labels IS NOT NULL GROUP BY ALL),
        concerned AS (
            SELECT tenant, identity, source_key FROM audits WHERE day = $day AND NOT agrees
            UNION SELECT tenant, identity, source_key FROM earlier)
        SELECT tenant, identity, source_key, level, rechecks, coalesce(answered, 0) AS answered
        FROM concerned JOIN entries USING (identity, source_key)
        LEFT JOIN earlier USING (tenant, identity, source_key)
        ORDER BY ALL
        """,
        {"day": day, "pattern": rechecks.PATTERN},
    )


def audit_counts(connection: Connection, day: date) -> dict[str, int]:
    """A day's audits: how many, how many disagreed, and what they cost (nano-dollars)."""
    rows = connection.rows(
        """
        SELECT count(*), count(*) FILTER (WHERE NOT agrees), (
            SELECT coalesce(sum(cost_nanos), 0)::BIGINT FROM ledger_entries
            WHERE day = $day AND kind = 'audit')
        FROM audits WHERE day = $day
        """,
        {"day": day},
    )
    names = ("audits", "audits_disagreed", "cost_nanos")
    return {name: int(str(value)) for name, value in zip(names, rows[0], strict=True)}
