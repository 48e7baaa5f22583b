"""What drift is told from: a day's reviews, profiles of days, and what their tests said."""

from __future__ import annotations

from datetime import date

import polars as pl

from review_optimizer_dagster.monitors.drift import ALARMS, TESTS
from review_optimizer_dagster.monitors.profile import AUDITS, PROFILES, REVIEWS
from review_optimizer_dagster.storage.warehouse import Connection

_NO_CATEGORY = "(none)"


def reviews(connection: Connection, day: date) -> pl.DataFrame:
    """The day's results with their texts: REVIEWS, in the order of their ids."""
    return connection.frame(
        """
        SELECT tenant, r.taxonomy, r.simulated, review_id,
            coalesce(nullif(r.category, ''), $none) AS category, r.level, r.labels, t.title, t.text
        FROM review_results r JOIN raw_reviews t USING (day, tenant, review_id)
        WHERE r.day = $day ORDER BY tenant, review_id
        """,
        {"day": day, "none": _NO_CATEGORY},
    ).select(pl.col(name).cast(dtype) for name, dtype in REVIEWS.items())


def audits(connection: Connection, day: date) -> pl.DataFrame:
    """The day's rechecks: AUDITS."""
    return connection.frame(
        """
        SELECT tenant, taxonomy, ends_with(identity, '|simulated') AS simulated,
            coalesce(nullif(category, ''), $none) AS category, agrees
        FROM audits WHERE day = $day
        """,
        {"day": day, "none": _NO_CATEGORY},
    ).select(pl.col(name).cast(dtype) for name, dtype in AUDITS.items())


def replace_profiles(connection: Connection, day: date, profiles: pl.DataFrame) -> None:
    """Keep the day's PROFILES in place of those that it had."""
    with connection.transaction():
        connection.replace("daily_profiles", profiles, day)


def replace_tests(connection: Connection, day: date, tests: pl.DataFrame) -> None:
    """Keep the day's TESTS in place of those that it had."""
    with connection.transaction():
        connection.replace("drift_tests", tests, day)


def profiles(connection: Connection, day: date, days: int) -> pl.DataFrame:
    """`day` and PROFILES of a day and of so many before it, of the tenants that the day has."""
    return connection.frame(
        """
        SELECT * FROM daily_profiles
        SEMI JOIN (
            SELECT tenant, taxonomy, simulated FROM daily_profiles WHERE day = $day) today
            USING (tenant, taxonomy, simulated)
        WHERE day <= $day AND day >= $day - to_days($days::INTEGER)
        ORDER BY ALL
        """,
        {"day": day, "days": days},
    ).select(pl.col("day"), *(pl.col(name).cast(dtype) for name, dtype in PROFILES.items()))


def alarms(connection: Connection, day: date, days: int) -> pl.DataFrame:
    """What the tests of so many days before a day said: ALARMS."""
    names = ", ".join(ALARMS)
    return connection.frame(
        f"SELECT {names} FROM drift_tests "  # noqa: S608 (our own names)
        "WHERE day < $day AND day >= $day - to_days($days::INTEGER) ORDER BY ALL",
        {"day": day, "days": days},
    )


def tests(connection: Connection, day: date, days: int) -> pl.DataFrame:
    """`day` and TESTS of a day and of so many before it."""
    return connection.frame(
        "SELECT * FROM drift_tests WHERE day <= $day AND day >= $day - to_days($days::INTEGER) "
        "ORDER BY ALL",
        {"day": day, "days": days},
    ).select("day", *TESTS.names())


def newest_days(connection: Connection, most: int) -> list[date]:
    """The last days that have tests, ascending; none where the warehouse is of an older version."""
    known = connection.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'drift_tests'")
    if not known:
        return []
    rows = connection.rows("SELECT DISTINCT day FROM drift_tests ORDER BY day DESC LIMIT ?", [most])
    return sorted(day for (day,) in rows if isinstance(day, date))
