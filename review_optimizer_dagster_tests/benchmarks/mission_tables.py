"""The tables that the benchmark `mission` prints; every figure with its n and its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from review_optimizer_dagster_tests.benchmarks.mission_costs import (
    PURPOSES,
    TARGET_NANOS,
    TOKENS,
    UNIT,
)

_HEADS: Final = ("taxonomy", "traffic", "re-delivered", "sent")
_LEFT: Final = {*_HEADS, "model", "priced as", ""}


def _table(title: str, columns: Sequence[str], caption: str = "") -> Table:
    table = Table(title=title, caption=caption or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in _LEFT else "right")
    return table


def _share(cell: Mapping[str, Any], places: int = 1) -> str:
    if cell["value"] is None:
        return "-"
    return f"{cell['value']:.{places}%} [{cell['lower']:.{places}%}, {cell['upper']:.{places}%}]"


def _usd(arm: Mapping[str, Any]) -> str:
    interval = arm["usd_per_5000_interval"]
    ends = f" [{max(0.0, interval[0]):.4f}, {interval[1]:.4f}]" if interval else ""
    return f"{arm['usd_per_5000']:.4f}{ends}"


def _rate(rate: float | None) -> str:
    return "none would do" if rate is None else f"{rate:.1%}"


def _head(arm: Mapping[str, Any]) -> tuple[str, ...]:
    return arm["taxonomy"], arm["traffic"], f"{arm['redelivered']:.0%}", arm["way"]


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """All tables, then whether each arm meets the target, and if not, why."""
    show_mission(console, figures)
    show_parts(console, figures["arms"])
    show_avoided(console, figures["arms"])
    show_models(console, figures["arms"])
    show_no_cache(console, figures)
    for arm in figures["arms"]:
        console.print(f"{', '.join(_head(arm))}: {arm['verdict']}")


def show_mission(console: Console, figures: Mapping[str, Any]) -> None:
    """A row an arm: what it costs, against the target and the baseline."""
    setup = figures["setup"]
    columns = (*_HEADS, "hits [95 %]", "accuracy [95 %]", "requests", "$ per 5,000 [95 %]")
    table = _table(
        f"{figures['texts']}; {setup['archived']:,} archived before day one, days 3 to "
        f"{setup['days']} of {setup['day_rows']:,}, max_error {setup['max_error']:g}; "
        f"target ${TARGET_NANOS / 1e9:g} per 5,000",
        (*columns, "times target", "of baseline", "no cache $", "hits needed", "n"),
        "Simulated money: the simulator's tokens at the price rows of "
        f"{setup['priced_on']}, rechecks included. [95 %] of $: Student's interval of the mean of "
        "the days, which share one archive; a last day is shorter where fresh reviews ran out. "
        "baseline: one request a review at $1.50 per 1,000. no cache: measured, the same days "
        "planned with every review asked. hits needed: for the target, at what a miss of the arm "
        "cost, hits rechecked as often. accuracy: of the main field; the simulator's lexicon "
        "gives the labels of the others.",
    )
    for arm in figures["arms"]:
        table.add_row(
            *_head(arm),
            _share(arm["hit_rate"]),
            _share(arm["accuracy"], 2),
            f"{arm['requests']:,}",
            _usd(arm),
            f"{arm['of_target']:.2f}",
            f"{arm['of_baseline']:.2%}",
            f"{arm['no_cache_usd_per_5000']:.4f}",
            _rate(arm["hit_rate_needed"]),
            f"{arm['reviews']:,}",
        )
    console.print(table)


def _by_arm(arms: Sequence[Mapping[str, Any]], title: str, caption: str) -> Table:
    """A table with a column an arm."""
    heads = [f"{arm['taxonomy']}\n{arm['redelivered']:.0%} {arm['way']}" for arm in arms]
    return _table(title, ("", *heads), caption)


def show_parts(console: Console, arms: Sequence[Mapping[str, Any]]) -> None:
    """Where the money went, by purpose and by kind of token: both add up to the cost."""
    table = _by_arm(
        arms,
        "where the money went: nano-dollars of the days together, which add up to the cost twice",
        "In brackets of the first part: requests and texts. The ledger says the same total. fixed "
        "prefix: schema and instructions, once a request; texts: documents and the JSON around "
        "them.",
    )
    for name in PURPOSES:
        parts = [arm["parts"][name] for arm in arms]
        told = [
            f"{sum(part['nanos'].values()):,}\n({part['requests']:,}; {part['texts']:,})"
            if part["requests"]
            else "0"
            for part in parts
        ]
        table.add_row(name, *told)
    table.add_section()
    for kind in TOKENS:
        sums = [sum(part["nanos"][kind] for part in arm["parts"].values()) for arm in arms]
        shares = [s / max(1, arm["cost_nanos"]) for s, arm in zip(sums, arms, strict=True)]
        cells = [f"{s:,} {share:4.0%}" if s else "0" for s, share in zip(sums, shares, strict=True)]
        table.add_row(kind, *cells)
    table.add_section()
    table.add_row("cost", *(f"{arm['cost_nanos']:,}" for arm in arms))
    table.add_row("reviews", *(f"{arm['reviews']:,}" for arm in arms))
    console.print(table)


def show_avoided(console: Console, arms: Sequence[Mapping[str, Any]]) -> None:
    """What hits avoided, by level."""
    table = _by_arm(
        arms,
        "what hits avoided by level: $ per 5,000 reviews, and hits of the days together",
        "By the ledger: each hit at the median of what a miss of its day was paid. The mean is "
        "higher, since a few texts are long.",
    )
    for level in sorted({level for arm in arms for level in arm["avoided"]}):
        cells = []
        for arm in arms:
            cell = arm["avoided"].get(level, {"hits": 0, "nanos": 0})
            usd = cell["nanos"] * UNIT / arm["reviews"] / 1e9
            cells.append(f"{usd:.4f} ({cell['hits']:,})")
        table.add_row(level, *cells)
    console.print(table)


def show_models(console: Console, arms: Sequence[Mapping[str, Any]]) -> None:
    """The same tokens at other models' prices."""
    table = _by_arm(
        arms,
        "the same tokens at the price rows of other models: $ per 5,000 (hit rate needed)",
        "Each arm at both price rows of a model, whichever way it was sent. The models' labels "
        "were not compared, and another tokenizer may count otherwise.",
    )
    names = [(row["model"], row["service_tier"]) for row in arms[0]["models"]]
    for model, tier in names:
        cells = []
        for arm in arms:
            (cell,) = (
                each
                for each in arm["models"]
                if (each["model"], each["service_tier"]) == (model, tier)
            )
            cells.append(f"{cell['usd_per_5000']:.4f} ({_rate(cell['hit_rate_needed'])})")
        table.add_row(f"{model}, {tier}", *cells)
    console.print(table)


def show_no_cache(console: Console, figures: Mapping[str, Any]) -> None:
    """What the same kind of traffic costs where every review is asked, counted and not estimated
    from hits."""
    rows = figures["no_cache"]
    first = rows[0]
    table = _table(
        f"no cache at all: the first {first['reviews']:,} fresh reviews, all asked; tokens "
        f"counted by {first['counter']}",
        ("taxonomy", "model", "requests", "fixed prefix", "sync, $ per 5,000", "batch"),
    )
    for row in rows:
        table.add_row(
            row["taxonomy"],
            row["model"],
            f"{row['requests']:,}",
            f"{row['prefix_tokens']:,} tokens",
            *(f"{row['usd_per_5000'][way]:.4f}" for way in ("sync", "batch")),
        )
    console.print(table)
