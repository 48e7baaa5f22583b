"""What there is to look at on a day, in words: failed gates, broken promises, alerts, budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final, Literal

import polars as pl

from review_optimizer_dagster.report.words import dollars, percent, spaced

INDICATORS: Final[Mapping[str, str]] = {
    "run_seconds": "run duration",
    "freshness_hours": "freshness",
    "latency_p95_ms": "response time (p95)",
    "hit_rate": "hit rate",
    "accuracy": "accuracy",
    "usd_per_1000": "cost per 1,000",
    "failed_share": "failed share",
}
_SAID_ELSEWHERE: Final = ("gate", "service", "budget", "drift")  # kinds with reasons of their own


@dataclass(frozen=True)
class Reason:
    """Something to look at: whom it is about, and the section that shows it."""

    who: str
    section: str
    severity: Literal["critical", "warning"]
    group: str
    """Reasons of one group are told together where they are many."""
    text: str
    many: str
    """What such a group is, after its number: `tenants broke run duration`."""


def reasons(tables: Mapping[str, pl.DataFrame], day: date) -> list[Reason]:
    """What there is to look at on a day, the worst first; empty where all is well.

    tables: as `storage.report.read_tables` reads them, up to that day.
    """
    found = [
        *_gates(tables["gate"].rows(named=True)),
        *_promises(tables["promises"].rows(named=True)),
        *_error_budgets(tables["promises"].rows(named=True)),
        *_budgets(tables, day),
        *_alerts(tables["alerts"].rows(named=True), day),
        *_drift(tables["drift"]),
        *_degradations(tables["degradations"].rows(named=True), day),
        *_kept_back(tables["costs"], day),
    ]
    told = (replace(reason, text=spaced(reason.text)) for reason in found)
    return sorted(told, key=lambda reason: reason.severity != "critical")


def older_alerts(alerts: pl.DataFrame, day: date) -> pl.DataFrame:
    """Alerts of before that are neither over nor acknowledged: `who` and `open`, a row each."""
    older = pl.col("is_open") & (pl.col("severity") != "info") & ~_about(day)
    return alerts.filter(older).group_by("who").agg(open=pl.len()).sort("who")


def _about(day: date) -> pl.Expr:
    """Whether an alert is about a day, or the month that it is in."""
    return pl.col("period").str.slice(0, 10).is_in([day.isoformat(), day.strftime("%Y-%m")])


def _gates(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reason]:
    for row in rows:
        if row["verdict"] == "failed":
            text = f"{row['who']}: the gate failed the day. {row['detail']}"
            yield Reason(row["who"], "quality", "critical", "gate", text, "tenants failed the gate")


def _promises(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reason]:
    for row in rows:
        if row["verdict"] != "broken" or row["indicator"] == "all":
            continue
        name = INDICATORS.get(row["indicator"], row["indicator"])
        text = f"{row['who']} broke its promise of {name}: {row['detail']}"
        group = f"promise {row['indicator']}"
        yield Reason(row["who"], "service", "critical", group, text, f"tenants broke {name}")


def _error_budgets(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reason]:
    for row in rows:
        if row["indicator"] == "all" and row["left_days"] is not None and row["left_days"] < 0:
            text = (
                f"{row['who']} has no error budget left: {row['days_broken']} of "
                f"{row['days_judged']} judged days broke a promise, {row['budget_days']:.3g} may"
            )
            many = "tenants have no error budget left"
            yield Reason(row["who"], "service", "warning", "error budget", text, many)


def _budgets(tables: Mapping[str, pl.DataFrame], day: date) -> Iterator[Reason]:
    for row in tables["budgets"].filter(day=day).rows(named=True):
        used = row["spent_usd"] / row["budget_usd"] if row["budget_usd"] else 0.0
        levels = [int(each) for each in row["thresholds"].split(",") if each]
        reached = max((each for each in (*levels, 100) if 100 * used >= each), default=None)
        if reached is None:
            continue
        text = (
            f"{row['who']} has used {percent(used)} of its budget for {row['period']}: "
            f"{dollars(row['spent_usd'])} of {dollars(row['budget_usd'])}, over the threshold of "
            f"{percent(reached / 100)}"
        )
        severity: Literal["critical", "warning"] = "critical" if used >= 1 else "warning"
        yield Reason(row["who"], "money", severity, "budget", text, "budgets are over a threshold")
    for row in tables["forecasts"].filter(day=day).rows(named=True):
        budget, expected = row["budget_usd"], row["expected_usd"]
        if budget and expected is not None and expected > budget > row["spent_usd"]:
            text = (
                f"{row['who']} is forecast to spend {dollars(expected)} in {row['month']}, more "
                f"than its budget of {dollars(budget)}"
            )
            many = "tenants are forecast to spend more than their budgets"
            yield Reason(row["who"], "money", "warning", "forecast", text, many)


def _alerts(rows: Sequence[Mapping[str, Any]], day: date) -> Iterator[Reason]:
    periods = (day.isoformat(), day.strftime("%Y-%m"))
    for row in rows:
        own = row["kind"] not in _SAID_ELSEWHERE and row["period"][:10] in periods
        if own and row["is_open"] and row["severity"] != "info":
            severity: Literal["critical", "warning"] = (
                "critical" if row["severity"] == "critical" else "warning"
            )
            many = f"{row['kind']} alerts are open"
            group = f"alert {row['kind']}"
            yield Reason(row["who"], "alerts", severity, group, row["message"], many)


def _drift(rows: pl.DataFrame) -> Iterator[Reason]:
    counts = rows.group_by("who").agg(pl.len(), pl.col("signal").unique().sort())
    for who, n, signals in counts.sort("who").iter_rows():
        named = ", ".join(signals[:3]) + (", ..." if len(signals) > 3 else "")
        text = f"{who}: {n} {'signal' if n == 1 else 'signals'} drifted ({named})"
        yield Reason(who, "quality", "warning", "drift", text, "tenants have drift")


def _degradations(rows: Sequence[Mapping[str, Any]], day: date) -> Iterator[Reason]:
    for row in rows:
        if row["last_day"] == day and row["state"] == "goes on":
            text = (
                f"{row['model']} answers {row['who']} {row['slowdown']:.1f} times more slowly "
                "than the size of requests predicts"
            )
            many = "tenants get slower answers than expected"
            yield Reason(row["who"], "latency", "warning", "latency", text, many)


def _kept_back(costs: pl.DataFrame, day: date) -> Iterator[Reason]:
    for who, deferred in costs.filter(pl.col("deferred") > 0, day=day)["who", "deferred"].rows():
        text = f"{who}: {deferred:,} reviews were kept back and have no label yet"
        many = "tenants have reviews that were kept back"
        yield Reason(who, "service", "warning", "deferred", text, many)
