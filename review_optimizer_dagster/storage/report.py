"""What the dashboard shows, read from published/analytics.duckdb beside whatever runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.warehouse import Connection

EVERYONE: Final = ""  # the tenant of rows over all of them
_OF_A_DAY: Final = ("in_flight", "requests")  # only in the file of a day

# Simulated and real money are never added up. Where a home has both, simulated rows get a name of
# their own, and everyone is the real ones.
_MIXED: Final = "CASE WHEN simulated THEN tenant || ' (simulated)' ELSE tenant END AS who"
_PLAIN: Final = "tenant AS who"
_EVERYONE: Final = f"'{EVERYONE}' AS who"


@dataclass(frozen=True)
class Span:
    """The days that a page shows, and whom it shows: `everyone` is what all tenants are."""

    first: date
    last: date
    tenants: tuple[str, ...]
    everyone: tuple[str, ...]
    simulated: bool
    """Whether any of it was answered by a simulator."""
    mixed: bool
    """Whether a part was, and a part was not: then simulated rows have names of their own."""


@contextmanager
def open_analytics(path: Path) -> Iterator[Connection]:
    """A connection to analytics.duckdb that only reads, in UTC; a run may replace the file.

    Raises UserError where there is none, or where an earlier version wrote it.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist yet: run `review-optimizer run` first")
    # Attached to a database of its own: a connection by the same path would share the file that
    # somebody in this process opened before a run replaced it.
    raw = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        raw.execute("SET TimeZone = 'UTC'")
        quoted = str(path).replace("'", "''")
        raw.execute(f"ATTACH '{quoted}' AS analytics (READ_ONLY)")
        raw.execute("USE analytics")
        yield Connection(raw)
    except duckdb.IOException as error:
        raise UserError(f"{path} cannot be opened: {error}") from error
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise UserError(
            f"{path} was written by an earlier version: run `review-optimizer run` once"
        ) from error
    finally:
        raw.close()


def known_days(connection: Connection) -> list[date]:
    """Every day that was judged or summed, the oldest first."""
    rows: list[Any] = connection.rows(
        "SELECT day FROM cost_rollups UNION SELECT day FROM service_levels "
        "UNION SELECT day FROM gate_verdicts ORDER BY day"
    )
    return [day for (day,) in rows]


def read_span(connection: Connection, first: date, last: date) -> Span:
    """Whom a page over these days shows."""
    rows: list[Any] = connection.rows(
        """
        SELECT DISTINCT tenant, coalesce(simulated, false) AS simulated FROM (
            SELECT tenant, simulated, day FROM cost_rollups
            UNION ALL SELECT tenant, simulated, day FROM service_levels
            UNION ALL SELECT tenant, simulated, day FROM gate_verdicts)
        WHERE day BETWEEN $first AND $last ORDER BY ALL
        """,
        {"first": first, "last": last},
    )
    mixed = len({simulated for _, simulated in rows}) > 1
    named = [(f"{tenant} (simulated)" if mixed and made else tenant, made) for tenant, made in rows]
    everyone = tuple(name for name, simulated in named if not (mixed and simulated))
    simulated = any(made for _, made in rows)
    return Span(first, last, tuple(name for name, _ in named), everyone, simulated, mixed)


def read_tables(
    connection: Connection, span: Span, *, requests: bool = False
) -> dict[str, pl.DataFrame]:
    """What a page shows: a frame a table, with the tenant as `who` (EVERYONE: all together).

    requests: with those of the last day, one by one. Shares are 0 to 1, money is dollars, moments
    are UTC.
    """
    parameters = {"first": span.first, "last": span.last}
    own, real = (_MIXED, "NOT coalesce(simulated, false)") if span.mixed else (_PLAIN, "true")

    def read(sql: str, who: str, whom: str) -> pl.DataFrame:
        sql = sql.replace("{who}", who).replace("{whom}", whom)
        used = {name: value for name, value in parameters.items() if f"${name}" in sql}
        # The order of rows is no chance: the same data is the same file.
        return connection.frame(f"SELECT * FROM ({sql}) ORDER BY ALL", used)  # noqa: S608

    tables = {}
    for name, sql in _queries().items():
        if name in _OF_A_DAY and not requests:
            continue
        tables[name] = read(sql, own, "true")
        if "{whom}" in sql:
            tables[name] = pl.concat([read(sql, _EVERYONE, real), tables[name]])
    return tables


def _queries() -> dict[str, str]:
    """The queries of dashboard.sql by name."""
    text = resources.files(__package__).joinpath("dashboard.sql").read_text(encoding="utf-8")
    parts = text.split("-- name: ")[1:]
    return {
        name.strip(): sql.rpartition(";")[0]
        for name, _, sql in (part.partition("\n") for part in parts)
    }


def context_days(last: date, days: int) -> date:
    """The first of so many days up to one."""
    return last - timedelta(days=days - 1)
