"""What a run looks like in a terminal: progress while it goes on, its summary at the end."""

from __future__ import annotations

from contextvars import Token
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from review_optimizer_dagster.defs.resources import Listener, listener

_MOST_REASONS = 5  # of quarantined rows; the table has them all
_STEPS = 13  # assets and checks of the daily job, each announced once


class RunDisplay(Listener):
    """A progress bar on standard error: the steps, and the texts that the model is asked about."""

    def __init__(self, day: date) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._steps = self._progress.add_task(f"{day}: starting", total=_STEPS)
        self._day = day
        self._texts: TaskID | None = None
        self._begun = 0
        self._token: Token[Listener] | None = None

    def __enter__(self) -> RunDisplay:
        self._token = listener.set(self)
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._token is not None:
            listener.reset(self._token)

    def step(self, name: str) -> None:
        """Move to the next step."""
        self._progress.update(
            self._steps, description=f"{self._day}: {name}", completed=self._begun
        )
        self._begun += 1

    def texts(self, done: int, total: int) -> None:
        """Show how many texts have an answer."""
        if self._texts is None:
            self._texts = self._progress.add_task("texts answered by the model", total=total)
        self._progress.update(self._texts, completed=done, total=total)


def print_problem(problem: str) -> None:
    """Say on standard error what went wrong."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"review-optimizer: {problem}", style="red", markup=False
    )


def print_summary(summary: dict[str, Any]) -> None:
    """The run's summary as tables."""
    console = Console(highlight=False)
    title = f"{summary['partition']}  engine {summary['engine']}"
    if summary["simulated"]:
        title += "  [yellow]SIMULATED ANSWERS[/]"
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in _summary_rows(summary):
        table.add_row(name, value)
    console.print(table)
    if summary["by_tenant"]:
        console.print(_tenant_table(summary["by_tenant"]))
    if summary["service"]:
        console.print(_service_table(summary["service"]))
    for row in summary["quarantine"][:_MOST_REASONS]:
        line = "" if row["first_line"] is None else f" from line {row['first_line']}"
        console.print(
            f"quarantined: {row['rows']:,} of {row['file']}{line}: {row['reason']}: "
            f"{row['detail']}",
            style="yellow",
            markup=False,
        )
    for alert in summary["alerts"]:
        console.print(f"alert: {alert['message']}", style="yellow", markup=False)
    if summary["accuracy"] is not None and summary["accuracy"]["gate"] == "failed":
        console.print("[red]The gate failed; what failed is not published:[/]")
        for detail in summary["gate_details"]:
            console.print(f"  {detail}", markup=False)
    if Path(summary["outputs"]["analytics"]).exists():
        console.print(f"analysts: {summary['outputs']['analytics']}", soft_wrap=True, markup=False)


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    hits, llm, seconds = summary["hits"], summary["llm"], summary["seconds"]
    rows = [
        ("reviews", f"{summary['reviews']:,}"),
        ("quarantined", f"{summary['quarantined']:,}"),
        ("hit rate", _percent(summary["hit_rate"])),
        *((f"  {level}", f"{count:,}") for level, count in hits.items() if count),
        ("  of these repeats in the day", f"{summary['repeats']:,}"),
        ("misses: labelled / failed", f"{summary['labelled']:,} / {summary['failed']:,}"),
        ("hits rechecked / contradicted / cost", _rechecks(summary)),
        ("deferred by a spent budget", f"{summary['deferred_by'].get('budget', 0):,}"),
        ("deferred by a paused tier", _if_any(summary["deferred_by"].get("quality", 0))),
        ("waiting for the Batch API", _if_any(summary["deferred_by"].get("batch", 0))),
        (
            "batches / requests / retries",
            f"{llm['batches']:,} / {llm['requests']:,} / {llm['retries']:,}",
        ),
        (
            "tokens in (cached) / out",
            f"{llm['prompt_tokens']:,} ({llm['cached_tokens']:,}) / {llm['completion_tokens']:,}",
        ),
        *_tier_rows(llm["tiers"]),
        ("cost", f"${summary['cost_usd']}"),
        ("  of this run", f"${summary['this_run']['cost_usd']}"),
        (
            f"  held for {llm['unknown']:,} requests of unknown outcome",
            f"${summary['held_usd']}" if llm["unknown"] else "",
        ),
        (
            f"  reserved for {llm['pending']:,} requests in jobs of the Batch API",
            f"${summary['held_usd']}" if llm["pending"] else "",
        ),
        ("one-model baseline", f"${summary['baseline_usd']}"),
        ("reduction", _percent(summary["reduction"])),
        ("accuracy", accuracy_text(summary["accuracy"])),
        ("response time p50 / p95 / p99", _latency(summary["latency_ms"])),
        (
            "seconds: total (cache, classify, gate)",
            f"{seconds['total']:.1f} ({seconds['cache']:.1f}, {seconds['classify']:.1f}, "
            f"{seconds['gate']:.1f})",
        ),
        (
            f"promised {summary['sla']['target_seconds']:g} s",
            "kept" if summary["sla"]["met"] else "BROKEN",
        ),
    ]
    return [row for row in rows if row[1]]


def _if_any(count: int) -> str:
    return f"{count:,}" if count else ""


def _tier_rows(tiers: dict[str, Any]) -> list[tuple[str, str]]:
    """A row a step of the ladder, where there is more than one."""
    if len(tiers) < 2:
        return []
    return [
        (
            f"  {name} ({tier['model']}): answered / passed on / cost",
            f"{_percent(tier['share'])} / {tier['escalated']:,} / ${tier['cost_usd']}",
        )
        for name, tier in tiers.items()
    ]


def _rechecks(summary: dict[str, Any]) -> str:
    counts = f"{summary['audits']:,} / {summary['audits_disagreed']:,}"
    return f"{counts} / ${summary['audit_cost_usd']}" if any(summary["hits"].values()) else ""


def accuracy_text(accuracy: dict[str, Any] | None) -> str:
    """Accuracy, its interval, sample size and verdict in one line."""
    if accuracy is None:
        return "not judged"
    if not accuracy["n"]:
        return f"no truth to measure against, {accuracy['gate']}"
    return (
        f"{_percent(accuracy['correct'] / accuracy['n'])} "
        f"[{_percent(accuracy['lower'])}, {_percent(accuracy['upper'])}] "
        f"of {accuracy['n']:,} by {accuracy['truth']}: {accuracy['gate']}"
    )


def _tenant_table(tenants: dict[str, Any]) -> Table:
    table = Table(title="by tenant", title_justify="left")
    for name in ("tenant", "reviews", "cost", "budget used", "accuracy, 90 % interval, gate"):
        right = name in ("reviews", "cost", "budget used")
        table.add_column(name, justify="right" if right else "left")
    for tenant, row in tenants.items():
        table.add_row(
            tenant,
            f"{row['reviews']:,}",
            f"${row['cost_usd']}",
            _percent(row["budget_used"]),
            accuracy_text(row["accuracy"]),
        )
    return table


def _service_table(tenants: list[dict[str, Any]]) -> Table:
    """A row a tenant: the day's verdict, what it breaks or leaves open, and the error budget."""
    table = Table(title="service levels", title_justify="left")
    for name in ("tenant", "day", "error budget left", "broken", "cannot be said"):
        table.add_column(name, justify="right" if name == "error budget left" else "left")
    for row in tenants:
        by = {
            verdict: [each for each in row["levels"] if each["verdict"] == verdict]
            for verdict in ("broken", "unknown")
        }
        table.add_row(
            row["tenant"],
            row["verdict"],
            f"{row['budget_left']:.3g} of {row['budget_days']:.3g} days",
            "\n".join(f"{each['indicator']}: {each['detail']}" for each in by["broken"]),
            ", ".join(each["indicator"] for each in by["unknown"]),
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _latency(latency: dict[str, float | None]) -> str:
    if latency["p50"] is None:
        return ""
    return " / ".join(f"{latency[key]:,.0f}" for key in ("p50", "p95", "p99")) + " ms"
