"""Service levels in the warehouse: what was published when, a day's figures, verdicts, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from review_optimizer_dagster.core.quality import Overall, overall
from review_optimizer_dagster.monitors.service import (
    ALL,
    INDICATORS,
    Figures,
    verdict,
    with_error_budgets,
)
from review_optimizer_dagster.settings import MIXED_INBOX
from review_optimizer_dagster.storage.summary import HIT_LEVELS
from review_optimizer_dagster.storage.warehouse import Connection

_PUBLICATIONS = pl.Schema(
    {
        "tenant": pl.String(),
        "simulated": pl.Boolean(),
        "arrived_at": pl.Datetime("us", "UTC"),
        "published_at": pl.Datetime("us", "UTC"),
        "run_id": pl.String(),
    }
)
Pair = tuple[str, bool]  # a tenant, and whether a simulator answered


@dataclass(frozen=True)
class Run:
    """The run that is going on."""

    run_id: str
    started_at: datetime


def published_pairs(connection: Connection, day: date) -> set[Pair]:
    """Whose rows of a day are published."""
    rows = connection.rows(
        "SELECT DISTINCT tenant, simulated FROM published_results WHERE day = ?", [day]
    )
    return {(str(tenant), bool(simulated)) for tenant, simulated in rows}


def note_publications(
    connection: Connection,
    day: date,
    arrived: Mapping[str, datetime],
    before: set[Pair],
    now: datetime,
    run_id: str,
) -> None:
    """Note what a run has just published of a day, where it is there for the first time.

    arrived: folder of the inbox to the arrival of its last file; before: `published_pairs` of
    before. A day that an earlier version published and did not note has no time. A folder that
    nothing was accepted from has nothing to wait for.
    """
    served = _served(connection, day)
    passed = {(tenant, simulated) for tenant, simulated, _, failed in served if not failed}
    mixed = {tenant for tenant, _, by_mixed, _ in served if by_mixed}
    simulated = any(each for _, each, _, _ in served)
    noted = _noted(connection, day)
    rows = []
    own = {tenant for tenant, *_ in served}
    others = {(name, simulated) for name in arrived if name not in {*own, MIXED_INBOX}}
    whole = {(MIXED_INBOX, simulated)} if MIXED_INBOX in arrived and (passed or not own) else set()
    for tenant, answered in sorted(passed | others | whole):
        folders = [tenant, *([MIXED_INBOX] if tenant in mixed else [])]
        times = [arrived[name] for name in folders if name in arrived]
        arrived_at = max(times, default=now)
        known = noted.get((tenant, answered))
        # What is older than before is no delivery: the newest file was taken away.
        if known is None or arrived_at > known:
            unknown = known is None and (tenant, answered) in before
            rows.append((tenant, answered, arrived_at, None if unknown else now, run_id))
    with connection.transaction():
        connection.append(
            "publications", pl.DataFrame(rows, schema=_PUBLICATIONS, orient="row"), day=day
        )
        # Until a run has published the whole day, the newest may be the one that does.
        connection.execute(
            "UPDATE publications SET run_id = $run WHERE day = $day AND run_seconds IS NULL "
            "AND published_at IS NOT NULL AND list_contains($tenants, tenant)",
            {"day": day, "run": run_id, "tenants": [tenant for tenant, _ in sorted(passed)]},
        )


def _served(connection: Connection, day: date) -> list[tuple[str, bool, bool, bool]]:
    """Tenants of a day: name, simulated, whether the mixed inbox has rows of it, gate failed."""
    rows = connection.rows(
        """
        SELECT tenant, coalesce(r.simulated, false), coalesce(w.mixed, false),
            coalesce(v.failed, true)
        FROM (
            SELECT tenant, bool_or(simulated) AS simulated FROM review_results
            WHERE day = $day GROUP BY tenant) r
        LEFT JOIN (
            SELECT tenant, bool_or(starts_with(file, $mixed)) AS mixed FROM raw_reviews
            WHERE day = $day GROUP BY tenant) w USING (tenant)
        LEFT JOIN (
            SELECT tenant, bool_or(verdict = 'failed') AS failed
            FROM gate_verdicts WHERE day = $day GROUP BY tenant) v USING (tenant)
        ORDER BY tenant
        """,
        {"day": day, "mixed": f"{MIXED_INBOX}/"},
    )
    return [(str(t), bool(simulated), bool(m), bool(failed)) for t, simulated, m, failed in rows]


def _noted(connection: Connection, day: date) -> dict[Pair, datetime]:
    """The newest arrival of a day that is noted."""
    rows = connection.frame(
        "SELECT tenant, simulated, max(arrived_at) AS arrived_at FROM publications "
        "WHERE day = ? GROUP BY ALL",
        [day],
    )
    return {(tenant, simulated): at for tenant, simulated, at in rows.iter_rows()}


def note_duration(connection: Connection, day: date, run: Run, now: datetime) -> None:
    """Note how long the run has taken for each tenant that it first published whole.

    A tenant with reviews that were kept back waits for the run that answers them. Once noted it
    stays: running again sends nothing and is no measure.
    """
    connection.execute(
        """
        UPDATE publications SET run_seconds = $seconds, run_reviews = (
            SELECT count(*) FROM review_results WHERE day = $day)
        WHERE day = $day AND run_id = $run AND run_seconds IS NULL AND tenant NOT IN (
            SELECT tenant FROM review_results WHERE day = $day AND status = 'deferred')
            AND published_at IS NOT NULL
        """,
        {"day": day, "run": run.run_id, "seconds": (now - run.started_at).total_seconds()},
    )


def day_figures(
    connection: Connection, day: date, arrived: Mapping[str, datetime], now: datetime
) -> list[Figures]:
    """What is known of each tenant of a day. arrived: as in `note_publications`."""
    counts = connection.frame(
        """
        SELECT tenant, coalesce(bool_or(simulated), false) AS simulated, count(*) AS reviews,
            count(*) FILTER (WHERE list_contains($hits, level)) AS hits,
            count(*) FILTER (WHERE status = 'labelled') AS labelled,
            count(*) FILTER (WHERE status = 'failed') AS failed
        FROM review_results WHERE day = $day GROUP BY tenant ORDER BY tenant
        """,
        {"day": day, "hits": list(HIT_LEVELS)},
    )
    costs: dict[Any, Any] = {
        (tenant, simulated): nanos
        for tenant, simulated, nanos in connection.rows(
            "SELECT tenant, simulated, sum(cost_nanos)::BIGINT FROM cost_rollups WHERE day = ? "
            "GROUP BY ALL",
            [day],
        )
    }
    latencies = _latencies(connection, day)
    accuracies = _accuracies(connection, day)
    mixed = {tenant: by_mixed for tenant, _, by_mixed, _ in _served(connection, day)}
    found = []
    for row in counts.rows(named=True):
        pair = row["tenant"], row["simulated"]
        folders = [row["tenant"], *([MIXED_INBOX] if mixed.get(row["tenant"]) else [])]
        times = [arrived[name] for name in folders if name in arrived]
        found.append(
            Figures(
                **row,
                cost_nanos=costs.get(pair),
                latencies_ms=latencies.get(pair, ()),
                accuracy=accuracies.get(row["tenant"]),
                **_publication(connection, day, pair, max(times, default=None), now),
            )
        )
    return found


def _publication(
    connection: Connection, day: date, pair: Pair, arrived_at: datetime | None, now: datetime
) -> dict[str, Any]:
    """The figures of a tenant's publications of a day, and of what still waits for one."""
    rows = connection.frame(
        "SELECT arrived_at, published_at, run_seconds, run_reviews FROM publications "
        "WHERE day = ? AND tenant = ? AND simulated = ? "
        "ORDER BY published_at NULLS FIRST, arrived_at",
        [day, *pair],
    ).rows()
    noted = [(arrived, at) for arrived, at, _, _ in rows if at is not None]
    timed = [(seconds, reviews) for _, _, seconds, reviews in rows if seconds is not None]
    waits = arrived_at is not None and all(arrived < arrived_at for arrived, *_ in rows)
    return {
        "published_after_hours": [_hours(at - arrived) for arrived, at in noted],
        "waiting_hours": _hours(now - arrived_at) if arrived_at is not None and waits else None,
        "run_seconds": timed[0][0] if timed else None,
        "run_reviews": timed[0][1] if timed else 0,
    }


def _hours(time: timedelta) -> float:
    return max(0.0, time.total_seconds() / 3_600)


def _latencies(connection: Connection, day: date) -> dict[Pair, list[float]]:
    """Response times of a day's requests that were waited for."""
    rows: list[Any] = connection.rows(
        "SELECT tenant, simulated, list(latency_ms ORDER BY latency_ms) FROM llm_requests "
        "WHERE day = ? AND coalesce(way, 'sync') = 'sync' AND latency_ms IS NOT NULL GROUP BY ALL",
        [day],
    )
    return {(tenant, bool(simulated)): times for tenant, simulated, times in rows}


def _accuracies(connection: Connection, day: date) -> dict[str, Overall]:
    verdicts = connection.frame("SELECT * EXCLUDE (day) FROM gate_verdicts WHERE day = ?", [day])
    return {str(tenant): overall(part) for (tenant,), part in verdicts.group_by("tenant")}


def replace_levels(connection: Connection, day: date, levels: pl.DataFrame) -> pl.DataFrame:
    """Store a day's levels (LEVELS), and renew the error budgets of it and of the days after it.

    Returns the day's rows as they are stored.
    """
    longest = int(
        str(
            connection.rows(
                "SELECT greatest(coalesce(max(window_days), 1), $days) FROM service_levels",
                {"days": max(levels["window_days"], default=1)},
            )[0][0]
        )
    )
    around = timedelta(days=longest)
    stored = connection.frame(
        "SELECT * FROM service_levels WHERE day > $day - $days::INTEGER "
        "AND day < $day + $days::INTEGER AND day <> $day",
        {"day": day, "days": longest},
    )
    own = levels.with_columns(day=pl.lit(day))
    rows = pl.concat([stored, own], how="diagonal_relaxed")
    renewed = with_error_budgets(rows, day).sort("day", "tenant", maintain_order=True)
    with connection.transaction():
        connection.execute(
            "DELETE FROM service_levels WHERE day >= $day AND day < $end",
            {"day": day, "end": day + around},
        )
        connection.append("service_levels", renewed)
    return renewed.filter(day=day)


def is_kept(connection: Connection) -> bool:
    """Whether the warehouse has these tables; one that is only read may be of an older version."""
    rows = connection.rows(
        "SELECT count(*) FROM duckdb_tables() "
        "WHERE table_name IN ('service_levels', 'publications')"
    )
    return rows == [(2,)]


def latest_levels(connection: Connection) -> list[dict[str, Any]]:
    """The newest day of each tenant's promise that can be judged, or that is promised no more."""
    rows: list[dict[str, Any]] = connection.frame(
        """
        SELECT * FROM service_levels
        WHERE (met IS NOT NULL OR target IS NULL) AND indicator <> ?
        QUALIFY row_number() OVER (PARTITION BY tenant, indicator, simulated ORDER BY day DESC) = 1
        ORDER BY tenant, simulated, indicator
        """,
        [ALL],
    ).rows(named=True)
    return rows


def latest_arrivals(
    connection: Connection, simulated: bool
) -> dict[tuple[date, str], datetime | None]:
    """The newest arrival that is published, by day and tenant (or MIXED_INBOX).

    None where the day was published by a version that noted no arrivals. What a simulator
    answered in a rehearsal is no publication of real answers, and the other way round.
    """
    rows = connection.frame(
        """
        WITH noted AS (FROM publications WHERE simulated = $simulated)
        SELECT day, tenant, max(arrived_at) AS arrived_at FROM noted GROUP BY ALL
        UNION ALL
        SELECT day, tenant, NULL FROM (
            SELECT DISTINCT day, tenant FROM published_results WHERE simulated = $simulated)
        ANTI JOIN noted USING (day, tenant)
        """,
        {"simulated": simulated},
    )
    return {(day, tenant): arrived_at for day, tenant, arrived_at in rows.iter_rows()}


def service_figures(connection: Connection, day: date) -> list[dict[str, Any]]:
    """A day's service levels by tenant, as `--json` writes them."""
    rows = connection.frame(
        "SELECT * FROM service_levels WHERE day = ? ORDER BY tenant, simulated", [day]
    )
    return [
        _tenant_levels(part.rows(named=True))
        for _, part in rows.group_by("tenant", "simulated", maintain_order=True)
    ]


def _tenant_levels(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_name = {row["indicator"]: row for row in rows}
    whole = by_name[ALL]
    return {
        "tenant": whole["tenant"],
        "simulated": whole["simulated"],
        "verdict": verdict(whole["met"]),
        "detail": whole["detail"],
        **_budget(whole),
        "levels": [
            {
                "indicator": name,
                "target": by_name[name]["target"],
                "value": by_name[name]["value"],
                "n": by_name[name]["n"],
                "verdict": "not promised"
                if by_name[name]["target"] is None
                else verdict(by_name[name]["met"]),
                "detail": by_name[name]["detail"],
                **_budget(by_name[name]),
            }
            for name in INDICATORS
        ],
    }


def _budget(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("days_judged", "days_broken", "budget_days", "budget_left", "burn")
    return {name: row[name] for name in names}
