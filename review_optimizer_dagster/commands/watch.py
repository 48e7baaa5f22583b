"""The command `review-optimizer watch`: a run that goes on, live, from any other process."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from review_optimizer_dagster.commands.command_line import add_date, add_json, parse_seconds
from review_optimizer_dagster.commands.failures import is_reader_gone
from review_optimizer_dagster.commands.json_output import (
    STANDARD_OUTPUT,
    standard_output,
    write_line,
)
from review_optimizer_dagster.commands.steps import duration
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

    from review_optimizer_dagster.config import Home

_DESCRIPTION = """Shows a run that goes on, whoever began it: the command, the UI, a schedule or a
sensor. It reads the journal, the counters and Dagster's events, never the warehouse, and holds
nothing up. Without a run it waits for one."""
_EXAMPLES = """
review-optimizer watch                            until the run that goes on has ended
review-optimizer watch --date today --follow      then wait for the next one, until Ctrl-C
review-optimizer watch --once --json              one look, for a script
review-optimizer watch --interval 5 | tee run.log
"""
_EXIT_CODES = {
    0: "the run ended well; with --once also: it goes on, or none was ever run. Ctrl-C, too",
    1: "the gate failed a tenant's day of the run",
    3: "the run broke, was cancelled, or its process is gone",
}
_ENDS = {"gate_failed": 1, "failed": 3, "dead": 3, "canceled": 3}
_GOING = ("queued", "running")
_LEAST_INTERVAL = 0.2
_TERMINAL_SECONDS, _PIPED_SECONDS = 1.0, 10.0
_NARROW = 70
_LAST_ALERTS = 5
_STYLES = {
    "running": "bold green",
    "succeeded": "bold green",
    "queued": "bold",
    "gate_failed": "bold red",
    "failed": "bold red",
    "dead": "bold red",
    "canceled": "bold yellow",
}


class Look(Protocol):
    """Sees the run as `run_watch.Watcher.look` does."""

    def look(self, now: datetime) -> dict[str, Any] | None:
        """A snapshot; None where nothing was run yet."""


def add_watch(commands: Any) -> None:
    """Add the command to a parser's."""
    watch = commands.add_parser(
        "watch",
        help="show a run live, from another terminal",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    add_date(watch, "of whichever run goes on")
    watch.add_argument("--once", action="store_true", help="look once, and end")
    watch.add_argument(
        "--follow", action="store_true", help="when a run has ended, wait for the next one"
    )
    watch.add_argument(
        "--interval",
        type=parse_seconds,
        metavar="S",
        help=f"seconds between two looks, {_LEAST_INTERVAL} or more (default "
        f"{_TERMINAL_SECONDS:g}; in a pipe {_PIPED_SECONDS:g})",
    )
    add_json(watch, "each look, a line each,")


def watch_command(home: Home, options: argparse.Namespace) -> int:
    """Do what the options of `add_watch` say; returns the exit code."""
    from review_optimizer_dagster.commands.consoles import is_terminal
    from review_optimizer_dagster.commands.run_watch import Watcher
    from review_optimizer_dagster.defs.run_events import RunEvents

    if options.once and options.follow:
        raise UserError("--once looks once and --follow does not end: give one of the two")
    if options.interval is not None and options.interval < _LEAST_INTERVAL:
        raise UserError(f"--interval {options.interval:g} is less than {_LEAST_INTERVAL} s")
    live = is_terminal() and options.json != STANDARD_OUTPUT
    interval = options.interval or (_TERMINAL_SECONDS if live else _PIPED_SECONDS)
    if options.json is not None and options.json != STANDARD_OUTPUT:
        options.json.write_text("", encoding="utf-8")
    with closing(RunEvents(home)) as events, _screen(live, options.json) as screen:
        try:
            watcher = Watcher(home, events, options.date)
            return watch(watcher, screen, interval, once=options.once, follow=options.follow)
        except KeyboardInterrupt:
            return 0


def watch(look: Look, screen: Screen, interval: float, *, once: bool, follow: bool) -> int:
    """Look again and again until the run has ended; returns the exit code."""
    known: str | None = None  # the last run that was seen to have ended
    is_first = True
    while not is_reader_gone(standard_output()):
        seen = look.look(datetime.now(UTC))
        is_going = seen is not None and seen["state"] in _GOING
        has_ended = seen is not None and not is_going and seen["run_id"] != known
        if seen is not None and (is_going or (has_ended and not is_first) or once):
            screen.show(seen)
        else:
            screen.wait(seen, once)
        if once:
            return 0 if seen is None else _ENDS.get(seen["state"], 0)
        if seen is not None and has_ended:
            if not is_first and not follow:
                return _ENDS.get(seen["state"], 0)
            known = seen["run_id"]
        is_first = False
        time.sleep(interval)
    return 0


class Screen:
    """Where looks are shown: a terminal that is drawn anew, or lines in a pipe; and as JSON."""

    def __init__(self, live: Live | None, target: Path | None) -> None:
        self._live, self._target = live, target
        self._waits_for: object = self  # nothing yet

    def show(self, seen: Mapping[str, Any]) -> None:
        """Show a run."""
        self._waits_for = self
        if self._target is not None:
            write_line(self._target, seen)
        if self._live is not None:
            self._live.update(panel(seen, self._live.console.width), refresh=True)
        else:
            self._say(line(seen))

    def wait(self, last: Mapping[str, Any] | None, is_over: bool) -> None:
        """Say, once, that no run goes on, and how the last one ended; is_over: nobody waits."""
        run = last and last["run_id"]
        if run == self._waits_for:
            return
        self._waits_for = run
        if self._target is not None:
            write_line(self._target, {"at": _now(), "state": "waiting", "last": last})
        told = "nothing was run in this home yet" if last is None else "no run goes on"
        told += "" if is_over else "; waiting for a run (Ctrl-C ends)"
        told += "" if last is None else f"\nlast: {line(last)}"
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(told), refresh=True)
        else:
            self._say(told)

    def _say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


@contextmanager
def _screen(live: bool, target: Path | None) -> Iterator[Screen]:
    if not live:
        yield Screen(None, target)
        return
    from rich.live import Live

    from review_optimizer_dagster.commands.consoles import console

    with Live(console=console(), auto_refresh=False, vertical_overflow="crop") as shown:
        yield Screen(shown, target)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def line(seen: Mapping[str, Any]) -> str:
    """A run at one moment, in one line of plain text."""
    going = seen["state"] in _GOING
    parts = [f"{_clock(seen['at'] if going else seen['ended_at'] or seen['at'])} {seen['day']}"]
    if seen["state"] == "running":
        parts[0] += f" {seen['step']['title'] if seen['step'] else 'starting'}"
        parts.append(f"step {_step_number(seen)}")
    else:
        took = f" after {duration(seen['seconds'])}" if seen["seconds"] is not None else ""
        parts[0] += f" {seen['state'].replace('_', ' ')}{took}"
        parts += [seen["problem"]] if seen["problem"] else []
    if seen["hits"] and not going:
        parts.append(_hit_rate(seen["hits"]))
    if seen["texts"]["asked"]:
        parts.append(_texts(seen["texts"], going))
    if going and seen["requests"]["in_flight"]:
        parts.append(f"{seen['requests']['in_flight']} in flight")
    if seen["requests"]["errors"]:
        parts.append(f"{seen['requests']['errors']:,} requests failed")
    if seen["requests"]["sent"]:
        parts.append(f"${seen['cost_usd']}")
    if seen["alerts"]:
        parts.append(f"{len(seen['alerts'])} alerts")
    return ", ".join(parts) + (" (simulated)" if seen["simulated"] else "")


def panel(seen: Mapping[str, Any], width: int) -> RenderableType:
    """A run at one moment, for a terminal of so many columns."""
    from rich.console import Group
    from rich.text import Text

    head = Text(f"{seen['day']}  ", style="bold")
    head.append(seen["state"].replace("_", " "), style=_STYLES[seen["state"]])
    if seen["seconds"] is not None:
        head.append(f"  {duration(seen['seconds'])}", style="")
    if width >= _NARROW:
        head.append(f"  run {seen['run_id'][:8]}, {seen['job']}", style="dim")
    notes = [Text(seen["problem"], style="red")] if seen["problem"] else []
    if seen["simulated"]:
        notes.append(Text("SIMULATED: no model was asked, no money spent", style="yellow"))
    return Group(head, *notes, _facts(seen, width), *_alerts(seen["alerts"]))


def _facts(seen: Mapping[str, Any], width: int) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    bar = max(8, min(40, width - 30))
    steps, texts = seen["steps"], seen["texts"]
    if seen["step"]:
        took = duration(seen["step"]["seconds"])
        grid.add_row("step", f"{_step_number(seen)}  {seen['step']['title']}, {took}")
    if steps["total"]:
        grid.add_row("", ProgressBar(total=steps["total"], completed=steps["done"], width=bar))
    if seen["hits"]:
        levels = ", ".join(f"{name} {count:,}" for name, count in seen["hits"].items() if count)
        grid.add_row("cache", f"{_hit_rate(seen['hits'])}: {levels}")
    if texts["asked"]:
        grid.add_row("model", _texts(texts, seen["state"] in _GOING))
        grid.add_row("", ProgressBar(total=texts["asked"], completed=texts["answered"], width=bar))
    _add_requests(grid, seen)
    if seen["requests"]["sent"]:
        grid.add_row("cost", f"${seen['cost_usd']}")
    for each in seen["budgets"]:
        grid.add_row("budget", _budget(each))
    return grid


def _add_requests(grid: Table, seen: Mapping[str, Any]) -> None:
    requests, lately = seen["requests"], seen["requests"]["last_minute"]
    if not requests["sent"]:
        return
    open_ones = "of unknown outcome" if seen["state"] == "dead" else "in flight"
    told = f"{requests['sent']:,} sent, {requests['in_flight']:,} {open_ones}, "
    told += f"{requests['retries']:,} retries, {requests['errors']:,} failed"
    grid.add_row("requests", told)
    if lately["answered"]:
        sizes, times = lately["batch_sizes"], lately["latency_ms"]
        told = f"{lately['answered']:,} answered; batches of {sizes['least']} to {sizes['most']} "
        told += f"(median {sizes['median']})"
        if times["p50"] is not None:
            told += f"; p50 {times['p50']:,.0f} ms, p95 {times['p95']:,.0f} ms"
        grid.add_row("last minute", told)
    if seen["memory"] is not None:
        share, source = seen["memory"]["share"], seen["memory"]["source"]
        grid.add_row("memory", f"{100 * share:.0f} % of the model server's ({source})")


def _budget(each: Mapping[str, Any]) -> str:
    """How much of a budget is gone, with the marks that it has passed."""
    marks = " ".join(f"[{mark} %]" for mark in each["marks"])
    book = " simulated" if each["simulated"] else ""
    return (
        (
            f"{each['tenant']} {each['period']}{book}: {100 * each['used']:.2f} % of "
            f"${float(each['budget_usd']):,.2f} {marks}"
        )
        .rstrip()
        .replace("[", "\\[")
    )


def _alerts(alerts: list[Mapping[str, Any]]) -> Iterator[RenderableType]:
    from rich.text import Text

    styles = {"info": "green", "warning": "yellow", "critical": "red"}
    for each in alerts[-_LAST_ALERTS:]:
        yield Text(f"alert: {each['message']}", style=styles.get(each["severity"], ""))
    if len(alerts) > _LAST_ALERTS:
        yield Text(f"and {len(alerts) - _LAST_ALERTS} alerts before: `review-optimizer alerts`")


def _step_number(seen: Mapping[str, Any]) -> str:
    steps = seen["steps"]
    return f"{min(steps['done'] + 1, steps['total'])} of {steps['total']}"


def _hit_rate(hits: Mapping[str, int]) -> str:
    total = sum(hits.values())
    return f"{100 * (total - hits.get('miss', 0)) / total:.1f} % hits" if total else "no reviews"


def _texts(texts: Mapping[str, Any], going: bool) -> str:
    told = f"{texts['answered']:,} of {texts['asked']:,} texts answered"
    if going and texts["per_second"] and texts["answered"] < texts["asked"]:
        left = duration(texts["remaining_seconds"])
        told += f", {texts['per_second']:,.1f} reviews/s, {left} left"
    return told


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%H:%M:%S}"
