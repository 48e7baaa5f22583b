"""One day's rows, as each step of the flow reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

import polars as pl

from review_optimizer_dagster.core.batching import PLAN
from review_optimizer_dagster.core.cache import ENTRIES, POLICIES, USAGE, valid_since
from review_optimizer_dagster.core.quality import RESULTS
from review_optimizer_dagster.storage.labels import resolved_truth
from review_optimizer_dagster.storage.warehouse import Connection

HUMAN = "human"  # who gave an archived answer that true labels have corrected


def tenants(connection: Connection, day: date) -> list[str]:
    """The tenants that delivered something on a day, in order."""
    rows = connection.rows(
        "SELECT DISTINCT tenant FROM raw_reviews WHERE day = ? ORDER BY tenant", [day]
    )
    return [str(tenant) for (tenant,) in rows]


def delivered(connection: Connection, day: date) -> pl.DataFrame:
    """What each tenant delivered on a day: tenant, taxonomy, reviews, with_truth, synthetic."""
    return connection.frame(
        "SELECT tenant, taxonomy, count(*) AS reviews, "
        "count(*) FILTER (WHERE truth <> '{}') AS with_truth, bool_or(synthetic) AS synthetic "
        "FROM raw_reviews WHERE day = ? GROUP BY ALL ORDER BY tenant",
        [day],
    )


def quarantine_reasons(connection: Connection, day: date) -> pl.DataFrame:
    """Why rows of a day were not accepted: file, reason, rows, first_line, detail of one."""
    return connection.frame(
        "SELECT tenant, file, reason, count(*) AS rows, min(line) AS first_line, "
        "min(detail) AS detail FROM quarantined_reviews WHERE day = ? "
        "GROUP BY ALL ORDER BY rows DESC, file, reason LIMIT 100",
        [day],
    )


def _identity_frame(identities: Mapping[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"tenant": list(identities), "identity": list(identities.values())},
        schema={"tenant": pl.String, "identity": pl.String},
    )


def drop_stale_resolution(
    connection: Connection, day: date, identities: Mapping[str, str], everything: bool
) -> None:
    """Forget resolutions whose review, text or identity is no longer what it was, or all of them.

    A text whose first review is gone is forgotten whole, so that its repeats find a new first.
    """
    if everything:
        connection.execute("DELETE FROM cache_resolution WHERE day = ?", [day])
    with connection.view("identities", _identity_frame(identities)):
        connection.execute(
            """
            DELETE FROM cache_resolution WHERE day = $day AND
            (tenant, review_id, identity, content_key) NOT IN (
                SELECT (r.tenant, r.review_id, i.identity, r.content_key)
                FROM raw_reviews r JOIN identities i USING (tenant) WHERE r.day = $day)
            """,
            {"day": day},
        )
    connection.execute(
        """
        DELETE FROM cache_resolution WHERE day = $day AND (identity, content_key) NOT IN (
            SELECT (identity, content_key) FROM cache_resolution
            WHERE day = $day AND NOT repeat)
        """,
        {"day": day},
    )


def unresolved(connection: Connection, day: date, identities: Mapping[str, str]) -> pl.DataFrame:
    """Reviews of the day without a resolution.

    Returns tenant, review_id, identity, content_key, category, title, text, and `known`: whether
    another review of the day with the same text has one.
    """
    with connection.view("identities", _identity_frame(identities)):
        return connection.frame(
            """
            WITH stored AS (SELECT * FROM cache_resolution WHERE day = $day)
            SELECT r.tenant, r.review_id, i.identity, r.content_key, r.category, r.title, r.text,
                (i.identity, r.content_key) IN (
                    SELECT (identity, content_key) FROM stored) AS known
            FROM raw_reviews r JOIN identities i USING (tenant)
            WHERE r.day = $day AND (r.tenant, r.review_id) NOT IN (
                SELECT (tenant, review_id) FROM stored)
            ORDER BY r.tenant, r.review_id
            """,
            {"day": day},
        )


def store_resolution(
    connection: Connection,
    day: date,
    reviews: pl.DataFrame,
    resolution: pl.DataFrame,
    resolved_at: datetime,
) -> int:
    """Store what the cache said of each of these reviews; returns how many there are.

    reviews: rows of `unresolved`; resolution: RESOLUTION of their texts that were not known, with
    bound, asked, draw and audit. The first review of a text (by tenant and id) has the cache's
    answer, and is rechecked where that is; the others repeat it, and count as hits of L1 whether
    the cache or the model answers the first.
    """
    with connection.view("reviews", reviews), connection.view("resolution", resolution):
        connection.execute(
            """
            INSERT INTO cache_resolution BY NAME
            WITH texts AS (
                SELECT identity, content_key, level, labels, source_key, score, near_score, veto
                FROM cache_resolution WHERE day = $day AND NOT repeat
                UNION ALL BY NAME SELECT * FROM resolution),
            ranked AS (
                SELECT tenant, review_id, identity, content_key, known OR row_number() OVER (
                    PARTITION BY identity, content_key ORDER BY tenant, review_id) > 1 AS repeat
                FROM reviews)
            SELECT $day AS day, r.tenant, r.review_id, identity, content_key, r.repeat,
                CASE WHEN r.repeat THEN 'l1' ELSE t.level END AS level, t.labels,
                CASE WHEN r.repeat THEN coalesce(t.source_key, content_key) ELSE t.source_key END
                    AS source_key,
                CASE WHEN r.repeat THEN coalesce(t.score, 1.0) ELSE t.score END AS score,
                t.near_score, t.veto, $resolved_at AS resolved_at,
                CASE WHEN NOT r.repeat THEN t.bound END AS bound,
                CASE WHEN NOT r.repeat THEN t.asked END AS asked,
                CASE WHEN NOT r.repeat THEN t.draw END AS draw,
                NOT r.repeat AND t.audit AS audit
            FROM ranked r JOIN texts t USING (identity, content_key)
            """,
            {"day": day, "resolved_at": resolved_at},
        )
    return reviews.height


def resolution_counts(connection: Connection, day: date) -> dict[str, int]:
    """How many reviews of a day each level answered; `miss` for none.

    A repeat of a missed text counts as l1, as it will be answered with it.
    """
    rows = connection.rows(
        "SELECT coalesce(level, 'miss'), count(*) FROM cache_resolution WHERE day = ? "
        "GROUP BY ALL ORDER BY ALL",
        [day],
    )
    return {str(level): int(str(reviews)) for level, reviews in rows}


def cache_usage(connection: Connection, day: date, window_days: int) -> pl.DataFrame:
    """Hits of the days before, on tenant-days that the gate let through: columns of USAGE."""
    return connection.frame(
        """
        SELECT identity, content_key, source_key, level, min(score) AS score,
            count(*)::BIGINT AS times, day
        FROM cache_resolution SEMI JOIN (
            SELECT day, tenant FROM gate_verdicts WHERE verdict <> 'failed') USING (day, tenant)
        WHERE level IS NOT NULL AND day < $day AND day >= $day - to_days($window::INTEGER)
        GROUP BY identity, content_key, source_key, level, day
        """,
        {"day": day, "window": window_days},
    ).select(list(USAGE))


_ARCHIVE_COLUMNS = (
    "identity, content_key, content_key AS source_key, text, labels, 1.0::DOUBLE AS score, day"
)
# What may answer on a day: given by then, not taken back by a recheck, and not too old.
_NEAR_RANK = ", ".join(
    f"{column} {'DESC' if larger else 'ASC'}" for column, larger in POLICIES["l3_near"].rank
)
_STANDING = """
    SELECT a.* FROM review_archive a
    ANTI JOIN withdrawn_entries USING (identity, content_key, request_id)
    LEFT JOIN expiry USING (identity)
    WHERE a.day <= $day AND (expiry.since IS NULL OR a.day >= expiry.since)
"""


class WarehouseArchive:
    """L3 over `review_archive`, as it stood for a day: no later answer is ever seen."""

    def __init__(
        self,
        connection: Connection,
        day: date,
        window_days: int,
        ttl_days: Mapping[str, int | None] | None = None,
    ) -> None:
        """`ttl_days`: identity to the days that its answers hold; for ever where none is given."""
        self._connection = connection
        self._day = day
        self._window_days = window_days
        since = {name: valid_since(day, days) for name, days in (ttl_days or {}).items()}
        self._expiry = pl.DataFrame(
            {"identity": list(since), "since": list(since.values())},
            schema={"identity": pl.String, "since": pl.Date},
        )

    def exact(self, contents: pl.DataFrame) -> pl.DataFrame:
        """Entries of exactly these identity and content_key pairs; the newest of each."""
        keys = contents.select("identity", "content_key").unique()
        with self._connection.view("asked", keys), self._connection.view("expiry", self._expiry):
            return self._connection.frame(
                f"""
                WITH standing AS ({_STANDING})
                SELECT {_ARCHIVE_COLUMNS} FROM standing
                SEMI JOIN asked USING (identity, content_key)
                QUALIFY row_number() OVER (
                    PARTITION BY identity, content_key ORDER BY day DESC) = 1
                """,  # noqa: S608 (our own names)
                {"day": self._day},
            ).select(list(ENTRIES))

    def near(self, identity: str, limit: int) -> pl.DataFrame:
        """The most useful entries of an identity, as the level's policy ranks them."""
        # Keys are ranked before any text is read: an archive may be ten times what is indexed.
        with self._connection.view("expiry", self._expiry):
            return self._connection.frame(
                f"""
                WITH hits AS (
                    SELECT source_key AS content_key, count(*) AS times FROM cache_resolution
                    WHERE identity = $identity AND level IS NOT NULL
                        AND day < $day AND day >= $day - to_days($window::INTEGER)
                    GROUP BY source_key),
                standing AS ({_STANDING}),
                best AS (
                    SELECT content_key, max(day) AS day, coalesce(any_value(times), 0) AS times
                    FROM standing LEFT JOIN hits USING (content_key)
                    WHERE identity = $identity GROUP BY content_key
                    ORDER BY {_NEAR_RANK} LIMIT $limit)
                SELECT {_ARCHIVE_COLUMNS}, times FROM standing JOIN best USING (content_key, day)
                WHERE identity = $identity ORDER BY {_NEAR_RANK}
                """,  # noqa: S608 (our own names)
                {
                    "identity": identity,
                    "day": self._day,
                    "window": self._window_days,
                    "limit": limit,
                },
            ).select(list(ENTRIES))


def unanswered(connection: Connection, day: date) -> pl.DataFrame:
    """Texts of the day that the cache missed, or that are rechecked: columns of MISSES."""
    return connection.frame(
        """
        SELECT r.tenant, r.taxonomy, c.identity, c.content_key, r.title, r.text,
            CASE WHEN c.level IS NULL THEN 'classification' ELSE 'audit' END AS purpose
        FROM cache_resolution c JOIN raw_reviews r USING (day, tenant, review_id)
        WHERE c.day = ? AND NOT c.repeat AND (c.level IS NULL OR c.audit)
        ORDER BY r.tenant, c.content_key
        """,
        [day],
    )


def planned(connection: Connection, day: date) -> pl.DataFrame:
    """The batch plan: PLAN rows whose answer is still wanted.

    Rechecks come last, so that a short budget goes to what has no answer at all.
    """
    return connection.frame(
        """
        SELECT p.* EXCLUDE (day)
        FROM batch_plan p
        JOIN cache_resolution c USING (day, tenant, identity, content_key)
        WHERE p.day = ? AND NOT c.repeat AND (c.level IS NULL OR c.audit)
        ORDER BY p.purpose = 'audit', p.batch_id, p.position
        """,
        [day],
    ).select(PLAN.names())


def with_texts(connection: Connection, day: date, plan: pl.DataFrame) -> pl.DataFrame:
    """Rows of the day's plan with title and text, in their order."""
    numbered = plan.drop("title", "text", strict=False).with_row_index("place")
    with connection.view("wanted", numbered):
        return connection.frame(
            """
            SELECT w.* EXCLUDE (place), r.title, r.text
            FROM wanted w
            JOIN cache_resolution c USING (tenant, identity, content_key)
            JOIN raw_reviews r ON r.day = c.day AND r.tenant = c.tenant
                AND r.review_id = c.review_id
            WHERE c.day = ? AND NOT c.repeat ORDER BY w.place
            """,
            [day],
        )


def replace_plan(connection: Connection, day: date, plan: pl.DataFrame) -> None:
    """Plan these texts (anew); the plan of texts that were answered stays as it was."""
    with connection.transaction():
        with connection.view("plan", plan.select("identity", "content_key")):
            connection.execute(
                "DELETE FROM batch_plan WHERE day = $day AND ((identity, content_key) IN "
                "(SELECT (identity, content_key) FROM plan) OR (identity, content_key) NOT IN "
                "(SELECT (identity, content_key) FROM cache_resolution WHERE day = $day))",
                {"day": day},
            )
        connection.append("batch_plan", plan, day=day)


def assembled_results(connection: Connection, day: date) -> pl.DataFrame:
    """Every accepted review of the day with its labels and where they came from: RESULTS.

    A repeat of a text that the cache missed shares what the model said of it: where there is no
    answer, it is failed or deferred as its first review is, and no hit. Its truth is what the
    delivery and human labels say of it, as `labels.settle` left them.
    """
    truth = resolved_truth(connection, day)
    with connection.view("known_truth", truth):
        return _assembled(connection, day)


def _assembled(connection: Connection, day: date) -> pl.DataFrame:
    return connection.frame(
        """
        SELECT r.tenant, r.taxonomy, r.review_id, c.identity, r.content_key, r.category,
            r.product_id, r.rating, r.ts,
            CASE WHEN c.labels IS NOT NULL THEN 'labelled' ELSE coalesce(a.status, 'failed') END
                AS status,
            CASE WHEN c.labels IS NOT NULL THEN c.level
                WHEN a.status IS DISTINCT FROM 'labelled' THEN 'none'
                WHEN c.repeat THEN 'l1' ELSE 'model' END AS level,
            c.repeat, coalesce(c.labels, a.labels) AS labels,
            f.labels AS reference, f.asked AS reference_asked,
            coalesce(c.source_key, CASE WHEN a.status = 'labelled' THEN r.content_key END)
                AS source_key,
            coalesce(c.score, CASE WHEN a.status = 'labelled' THEN 1.0 END) AS score,
            a.request_id, a.model, a.reason, ends_with(c.identity, '|simulated') AS simulated,
            r.synthetic, t.truth, t.truth_origin, s.asked AS label_asked
        FROM raw_reviews r
        JOIN cache_resolution c USING (day, tenant, review_id)
        JOIN known_truth t USING (tenant, review_id)
        LEFT JOIN label_samples s ON s.day = r.day AND s.tenant = r.tenant
            AND s.taxonomy = r.taxonomy AND s.review_id = r.review_id
            AND s.content_key = r.content_key
        LEFT JOIN (SELECT * FROM batch_classifications WHERE day = $day) a
            ON a.identity = c.identity AND a.content_key = c.content_key AND c.labels IS NULL
        LEFT JOIN (SELECT * FROM reference_audits WHERE day = $day) f
            ON f.identity = c.identity AND f.content_key = c.content_key
        WHERE r.day = $day ORDER BY r.tenant, r.review_id
        """,
        {"day": day},
    ).select(pl.col(name).cast(dtype) for name, dtype in RESULTS.items())


def accepted_counts(connection: Connection, day: date) -> dict[tuple[str, str], int]:
    """Accepted reviews of a day by tenant and taxonomy."""
    rows = connection.rows(
        "SELECT tenant, taxonomy, count(*) FROM raw_reviews WHERE day = ? GROUP BY ALL", [day]
    )
    return {(str(tenant), str(name)): int(str(reviews)) for tenant, name, reviews in rows}


def of_day(connection: Connection, table: str, day: date) -> pl.DataFrame:
    """A table's rows of one day, without the day."""
    return connection.frame(
        f"SELECT * EXCLUDE (day) FROM {table} WHERE day = ?",  # noqa: S608 (our own names)
        [day],
    )


def published_levels(connection: Connection, day: date) -> pl.DataFrame:
    """How many published reviews of a day each level answered, by tenant."""
    return connection.frame(
        "SELECT tenant, level, count(*) AS reviews FROM published_results WHERE day = ? "
        "GROUP BY ALL ORDER BY ALL",
        [day],
    )


def is_blocked(connection: Connection, day: date) -> bool:
    """Whether the gate lets nothing of a day through, as far as it has judged it."""
    rows = connection.rows(
        "SELECT coalesce(bool_or(NOT contract) OR bool_and(verdict = 'failed'), false) "
        "FROM gate_verdicts WHERE day = ?",
        [day],
    )
    return bool(rows[0][0])


def archive_answers(connection: Connection, day: date, texts: pl.DataFrame) -> int:
    """Replace what a day added to L3.

    texts: identity, content_key, text (normalised). What the model itself said, of misses and of
    rechecked hits, is archived on tenant-days that the gate let through; derived answers never are,
    nor is one that the reference model contradicts, or of a category that is below the threshold
    beyond doubt. What true labels contradict is archived as they say (model is HUMAN): left out, it
    would be missing among the evidence that patterns are judged by.
    """
    with connection.transaction(), connection.view("texts", texts):
        connection.execute("DELETE FROM review_archive WHERE day = ?", [day])
        connection.execute(
            """
            INSERT INTO review_archive BY NAME
            WITH wrong AS (
                SELECT identity, content_key, request_id, min(truth) AS truth, min(known) AS known
                FROM scored_reviews WHERE day = $day AND NOT correct AND request_id IS NOT NULL
                GROUP BY identity, content_key, request_id)
            SELECT c.identity, c.content_key, c.day, c.tenant, c.review_id, r.category, t.text,
                CASE WHEN w.known IS NULL THEN a.labels
                    ELSE json_merge_patch(a.labels, w.known)::VARCHAR END AS labels,
                CASE WHEN w.known IS NULL THEN a.model ELSE $human END AS model, a.request_id,
                v.verdict = 'passed' AS verified, c.asked, c.draw
            FROM cache_resolution c
            JOIN raw_reviews r USING (day, tenant, review_id)
            JOIN gate_verdicts v USING (day, tenant, taxonomy)
            JOIN batch_classifications a ON a.day = c.day AND a.identity = c.identity
                AND a.content_key = c.content_key
            JOIN texts t ON t.identity = c.identity AND t.content_key = c.content_key
            LEFT JOIN wrong w ON w.identity = c.identity AND w.content_key = c.content_key
                AND w.request_id = a.request_id
            WHERE c.day = $day AND NOT c.repeat AND a.status = 'labelled' AND v.verdict <> 'failed'
                AND w.truth IS DISTINCT FROM 'audits'
                AND (c.tenant, r.taxonomy, coalesce(r.category, '')) NOT IN (
                    SELECT (tenant, taxonomy, name) FROM accuracy_cells
                    WHERE day = $day AND dimension = 'category' AND below)
            ORDER BY c.identity, c.content_key
            """,
            {"day": day, "human": HUMAN},
        )
    return connection.count("review_archive", day)


def archive_size(connection: Connection) -> int:
    """How many entries L3 has."""
    return int(str(connection.rows("SELECT count(*) FROM review_archive")[0][0]))


def model_answered_texts(connection: Connection, day: date) -> pl.DataFrame:
    """Texts that the model answered on a day: identity, content_key, category, title, text."""
    return connection.frame(
        """
        SELECT c.identity, c.content_key, r.category, r.title, r.text
        FROM cache_resolution c
        JOIN raw_reviews r USING (day, tenant, review_id)
        JOIN batch_classifications a ON a.day = c.day AND a.identity = c.identity
            AND a.content_key = c.content_key
        WHERE c.day = ? AND NOT c.repeat AND a.status = 'labelled'
        """,
        [day],
    )
