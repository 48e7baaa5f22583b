"""What a run looks like in a terminal or a pipe: its progress, then its summary."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextvars import Token
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from review_optimizer_dagster.commands.consoles import console, is_terminal, table
from review_optimizer_dagster.commands.steps import duration, title
from review_optimizer_dagster.defs.resources import Listener, listener
from review_optimizer_dagster.money.amounts import usd

if TYPE_CHECKING:
    from review_optimizer_dagster.money.budgets import Spend

_MOST_REASONS = 5  # of quarantined rows; the table has them all
LINE_SECONDS = 4.0  # between two lines in a pipe
_RATE_SECONDS = 60.0  # that the rate is measured over


class RunProgress(Listener):
    """How far a run is, what it has spent, and how long the model still takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: list[tuple[float, int]] = []  # when, and how many texts were answered
        self._first: dict[str, int] = {}
        self._last: dict[str, Spend] = {}
        self.steps = 0
        self.begun = 0
        self.now = "starting"
        self.done = 0
        self.total = 0

    def begin(self, steps: int) -> None:
        """Note how many steps there are."""
        self.steps = steps

    def step(self, name: str) -> None:
        """Note the next step."""
        self.begun += 1
        self.now = title(name)
        self._looks = [(self._clock(), 0)]

    def texts(self, done: int, total: int) -> None:
        """Note how many texts have an answer."""
        now = self._clock()
        if done < self.done:
            self._looks = [(now, 0)]  # another round, with a count of its own
        self.done, self.total = done, total
        recent = [each for each in self._looks if each[0] > now - _RATE_SECONDS]
        self._looks = [*(recent or self._looks[-1:]), (now, done)]

    def spend(self, spend: Spend) -> None:
        """Note where a tenant's budget stands."""
        self._first.setdefault(spend.tenant, spend.spent)
        self._last[spend.tenant] = spend

    @property
    def is_asking(self) -> bool:
        """Whether the model has texts to answer."""
        return 0 < self.done < self.total

    @property
    def rate(self) -> float | None:
        """Reviews a second of late; None before two looks."""
        if len(self._looks) < 2:
            return None
        (since, before), (until, after) = self._looks[0], self._looks[-1]
        return (after - before) / (until - since) if until > since else None

    @property
    def remaining(self) -> float | None:
        """Seconds until the model has answered everything, at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None

    @property
    def money(self) -> str:
        """What the run has spent, and the budget that is used most; empty before it spends."""
        if not self._last:
            return ""
        spent = sum(each.spent - self._first[name] for name, each in self._last.items())
        most = max(self._last.values(), key=lambda each: each.spent / max(1, each.amount))
        used = 100 * most.spent / max(1, most.amount)
        return f"${usd(spent)[:-3]}; {most.tenant} has used {used:.1f} % of its budget"

    def line(self) -> str:
        """All of it in one line."""
        told = f"step {self.begun} of {self.steps}: {self.now}" if self.begun else self.now
        if self.is_asking:
            told += f", {self.done:,} of {self.total:,} texts"
            if self.rate and self.remaining is not None:
                told += f", {self.rate:,.1f} reviews/s, {duration(self.remaining)} left"
        if self.money and (self.is_asking or self.done):
            told += f", {self.money}"
        return told


class _Rate(ProgressColumn):
    """Reviews a second."""

    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate")
        return Text("" if rate is None else f"{rate:,.1f}/s")


class RunDisplay(RunProgress):
    """A run's progress on standard error: drawn anew in a terminal, in a pipe a line at times."""

    def __init__(self, day: date) -> None:
        super().__init__()
        self._day = day
        self._token: Token[Listener] | None = None
        self._texts: TaskID | None = None
        self._said = ""
        self._ended = threading.Event()
        self._progress = _progress() if is_terminal(stderr=True) else None
        self._steps = (
            None if self._progress is None else self._progress.add_task(f"{day}: starting", total=1)
        )
        self._speaker = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> RunDisplay:
        self._token = listener.set(self)
        if self._progress is not None:
            self._progress.start()
        else:
            self._speaker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._progress is not None:
            self._progress.stop()
        else:
            self._speaker.join()
        if self._token is not None:
            listener.reset(self._token)

    def step(self, name: str) -> None:
        """Move to the next step."""
        super().step(name)
        if self._progress is not None and self._steps is not None:
            self._progress.update(
                self._steps,
                description=f"{self._day}: {self.now}",
                completed=self.begun - 1,
                total=max(self.steps, self.begun),
            )

    def texts(self, done: int, total: int) -> None:
        """Show how many texts have an answer."""
        super().texts(done, total)
        if self._progress is None:
            return
        if self._texts is None:
            self._texts = self._progress.add_task("texts answered", total=total)
        self._progress.update(
            self._texts,
            completed=done,
            total=total,
            rate=self.rate,
            description=f"texts answered, {self.money}" if self.money else "texts answered",
        )

    def say(self) -> None:
        """Print a line, where there is something new to tell."""
        told = f"{self._day}: {self.line()}"
        if told != self._said:
            self._said = told
            sys.stderr.write(told + "\n")
            sys.stderr.flush()

    def _speak(self) -> None:
        self.say()
        while not self._ended.wait(LINE_SECONDS):
            self.say()


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=console(stderr=True),
        transient=True,
        expand=True,
    )


def print_problem(problem: str) -> None:
    """Say on standard error what went wrong."""
    console(stderr=True).print(
        f"review-optimizer: {problem}", style="red", markup=False, soft_wrap=True
    )


def print_summary(summary: dict[str, Any]) -> None:
    """The run's summary as tables."""
    out = console()
    heading = f"{summary['partition']}  engine {summary['engine']}"
    if summary["simulated"]:
        heading += "  [yellow]SIMULATED ANSWERS[/]"
    figures = Table(title=heading, show_header=False, title_justify="left")
    figures.add_column(style="bold", overflow="fold")
    figures.add_column(justify="right", overflow="fold")
    for name, value in _summary_rows(summary):
        figures.add_row(name, value)
    out.print(figures)
    if summary["by_tenant"]:
        out.print(_tenant_table(summary["by_tenant"]))
    if summary["service"]:
        out.print(_service_table(summary["service"]))
    for row in summary["quarantine"][:_MOST_REASONS]:
        line = "" if row["first_line"] is None else f" from line {row['first_line']}"
        out.print(
            f"quarantined: {row['rows']:,} of {row['file']}{line}: {row['reason']}: "
            f"{row['detail']}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    for alert in summary["alerts"]:
        out.print(f"alert: {alert['message']}", style="yellow", markup=False, soft_wrap=True)
    if summary["accuracy"] is not None and summary["accuracy"]["gate"] == "failed":
        out.print("[red]The gate failed; what failed is not published:[/]")
        for detail in summary["gate_details"]:
            out.print(f"  {detail}", markup=False, soft_wrap=True)
    for who, name in (("analysts", "analytics"), ("dashboard", "dashboard")):
        if Path(path := summary["outputs"][name]).exists():
            out.print(f"{who}: {path}", soft_wrap=True, markup=False)


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
    right = ("reviews", "cost", "budget used")
    made = table("tenant", *right, "accuracy, 90 % interval, gate", title="by tenant", right=right)
    for tenant, row in tenants.items():
        made.add_row(
            tenant,
            f"{row['reviews']:,}",
            f"${row['cost_usd']}",
            _percent(row["budget_used"]),
            accuracy_text(row["accuracy"]),
        )
    return made


def _service_table(tenants: list[dict[str, Any]]) -> Table:
    """A row a tenant: the day's verdict, what it breaks or leaves open, and the error budget."""
    made = table(
        *("tenant", "day", "error budget left", "broken", "cannot be said"),
        title="service levels",
        right=("error budget left",),
    )
    for row in tenants:
        by = {
            verdict: [each for each in row["levels"] if each["verdict"] == verdict]
            for verdict in ("broken", "unknown")
        }
        made.add_row(
            row["tenant"],
            row["verdict"],
            f"{row['budget_left']:.3g} of {row['budget_days']:.3g} days",
            "\n".join(f"{each['indicator']}: {each['detail']}" for each in by["broken"]),
            ", ".join(each["indicator"] for each in by["unknown"]),
        )
    return made


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _latency(latency: dict[str, float | None]) -> str:
    if latency["p50"] is None:
        return ""
    return " / ".join(f"{latency[key]:,.0f}" for key in ("p50", "p95", "p99")) + " ms"
