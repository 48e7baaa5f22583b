"""The figures of the last days, for the small charts that the UI shows beside a day's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TypeAlias

from review_optimizer_dagster.core.quality import overall
from review_optimizer_dagster.storage.summary import HIT_LEVELS
from review_optimizer_dagster.storage.warehouse import Connection

Series: TypeAlias = Mapping[date, float | None]


def _by_name(connection: Connection, sql: str, day: date, days: int) -> dict[str, Series]:
    """Each column after `day` as a series."""
    rows = connection.frame(sql, {"first": day - timedelta(days=days - 1), "last": day})
    return {
        name: dict(zip(rows["day"], rows[name], strict=True))
        for name in rows.columns
        if name != "day"
    }


def hit_rates(connection: Connection, day: date, days: int) -> dict[str, Series]:
    """Share of each day's reviews that each level answered, `all hits`, and `served` by any."""
    levels = ", ".join(
        f"count(*) FILTER (WHERE level = '{level}') / count(*) AS {level}" for level in HIT_LEVELS
    )
    names = ", ".join(f"'{level}'" for level in HIT_LEVELS)
    return _by_name(
        connection,
        f"""
        SELECT day, count(*) FILTER (WHERE level IN ({names})) / count(*) AS "all hits", {levels},
            count(*) FILTER (WHERE status = 'labelled') / count(*) AS served
        FROM review_results WHERE day BETWEEN $first AND $last GROUP BY day ORDER BY day
        """,  # noqa: S608 (our own names)
        day,
        days,
    )


def levels_seen(connection: Connection, day: date) -> list[str]:
    """The levels of the cache that have answered a review up to this day, in their order."""
    rows = connection.rows("SELECT DISTINCT level FROM cache_resolution WHERE day <= ?", [day])
    found = {level for (level,) in rows}
    return [level for level in HIT_LEVELS if level in found]


def costs(connection: Connection, day: date, days: int) -> dict[str, Series]:
    """Each day's `cost_usd`, `usd_per_1000` reviews, and `saving` beside the baseline."""
    return _by_name(
        connection,
        """
        SELECT day, sum(cost_nanos) / 1e9 AS cost_usd,
            sum(cost_nanos) / 1e6 / nullif(sum(reviews), 0) AS usd_per_1000,
            1 - sum(cost_nanos) / nullif(sum(baseline_nanos), 0) AS saving
        FROM cost_rollups WHERE day BETWEEN $first AND $last GROUP BY day ORDER BY day
        """,
        day,
        days,
    )


def latencies(connection: Connection, day: date, days: int) -> dict[str, Series]:
    """Response times of each day's requests that were waited for: `p50` and `p95`, in ms."""
    return _by_name(
        connection,
        """
        SELECT day, quantile_cont(latency_ms, 0.5) AS p50, quantile_cont(latency_ms, 0.95) AS p95
        FROM llm_requests
        WHERE day BETWEEN $first AND $last AND coalesce(way, 'sync') = 'sync'
            AND latency_ms IS NOT NULL
        GROUP BY day ORDER BY day
        """,
        day,
        days,
    )


def accuracies(connection: Connection, day: date, days: int) -> dict[str, Series]:
    """Each day's `accuracy` over all tenants, with the `lower` and `upper` end of its interval."""
    verdicts = connection.frame(
        "SELECT * FROM gate_verdicts WHERE day BETWEEN $first AND $last",
        {"first": day - timedelta(days=days - 1), "last": day},
    )
    found: dict[str, dict[date, float | None]] = {"accuracy": {}, "lower": {}, "upper": {}}
    for (each,), part in verdicts.group_by("day"):
        whole, at = overall(part.drop("day")), date.fromisoformat(str(each))
        found["accuracy"][at] = whole.correct / whole.n if whole.n else None
        found["lower"][at], found["upper"][at] = whole.lower, whole.upper
    return dict(found)


def error_bounds(connection: Connection, day: date, days: int) -> dict[str, Series]:
    """The largest bound of the error of a label that patterns give, a day; labels so `serving`."""
    return _by_name(
        connection,
        """
        SELECT day, max(bound) FILTER (WHERE status = 'serving') AS bound,
            count(*) FILTER (WHERE status = 'serving') AS serving
        FROM pattern_certificates WHERE day BETWEEN $first AND $last GROUP BY day ORDER BY day
        """,
        day,
        days,
    )


def promises(connection: Connection, day: date, days: int) -> dict[str, Series]:
    """How many promises each day was `met` and `broken`, over all tenants."""
    return _by_name(
        connection,
        """
        SELECT day, count(*) FILTER (WHERE met) AS met, count(*) FILTER (WHERE NOT met) AS broken
        FROM service_levels WHERE day BETWEEN $first AND $last AND indicator <> 'all'
        GROUP BY day ORDER BY day
        """,
        day,
        days,
    )
