"""The tables that the benchmark `savings` prints; every figure with its n and its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def _table(title: str, columns: Sequence[str], caption: str = "") -> Table:
    table = Table(title=title, caption=caption or None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    if interval is None:
        return f"{value:.1%}"
    # Two places where one would show a bound as 0.0 %.
    places = 1 if value >= 0.1 else 2
    return f"{value:.{places}%} ({interval[0]:.{places}%} to {interval[1]:.{places}%})"


def _of(figures: Mapping[str, Any], name: str) -> str:
    return _share(figures[name], figures.get(f"{name}_interval"))


def show_first_seen(console: Console, figures: Mapping[str, Any]) -> None:
    """Certified serving by `max_error`, way of auditing and rule, then the naive ways."""
    columns = ("stage", "max_error", "drawn", "audits", "rule", "served of un-audited")
    table = _table(
        f"first-seen traffic: {figures['texts']}",
        (*columns, "reached of all", "error of served", "broke it", "... of all", "abstained", "n"),
        "served: of all traffic rows that were not audited; reached: of all traffic rows, audited "
        "or not. In brackets the middle 95 % of the seeds. broke it: seeds whose error of served "
        "rows is over max_error; of all: whose error of reached rows, audited or not, is; both "
        "with the exact 95 % interval.",
    )
    for max_error, found in figures["first_seen"].items():
        for arm in found["arms"]:
            table.add_row(
                arm["stage"],
                max_error,
                arm["drawing"],
                f"{arm['audits']:,}",
                arm["rule"],
                _of(arm, "served"),
                f"{arm['reached']:.1%}",
                _of(arm, "error"),
                _of(arm, "broke_bound"),
                _of(arm, "broke_bound_of_all"),
                f"{arm['abstained']:.1%}",
                f"{arm['n']:,} x {arm['seeds']:,}",
            )
    classes = _table(
        "the headline of each max_error by predicted class (uniform audits, one look)",
        ("max_error", "class", "served of un-audited", "error of served", "broke it", "... of all"),
    )
    for max_error, found in figures["first_seen"].items():
        for label, cell in found["by_class"].items():
            shares = ("served", "error", "broke_bound", "broke_bound_of_all")
            classes.add_row(max_error, label, *(_of(cell, name) for name in shares))
    console.print(classes)
    console.print(table)
    show_ways(console, "the same traffic, the naive ways", figures["baselines"])
    stages = _table(
        "what the pattern takes", ("stage", "trained on", "train s", "judge s", "accuracy", "note")
    )
    for stage in figures["first_seen_stages"]:
        accuracy = stage["accuracy"]
        stages.add_row(
            stage["stage"],
            f"{stage['rows']:,}",
            f"{stage['train_seconds']:.1f}",
            f"{stage['judge_seconds']:.1f}",
            _share(accuracy["value"], (accuracy["lower"], accuracy["upper"])),
            stage["note"],
        )
    console.print(stages)


def show_second_stage(console: Console, second_stage: Mapping[str, Any]) -> None:
    """What the second stage adds, and what it takes."""
    table = _table(
        "what the second stage adds, of 5,000 first-seen reviews",
        ("max_error", "more served", "embedded", "seconds of one core", "saved $"),
    )
    for max_error, cell in second_stage.items():
        seconds, usd = cell["seconds"], cell.get("saved_usd")
        table.add_row(
            max_error,
            f"{cell['more_served']:,.0f}",
            f"{cell['embedded']:,.0f}",
            "-" if seconds is None else f"{seconds:.0f}",
            "-" if usd is None else f"{usd:.4f}",
        )
    console.print(table)


def show_ways(console: Console, title: str, ways: Mapping[str, Mapping[str, Any]]) -> None:
    """Hits and errors of several ways of doing the same work."""
    classes = sorted({label for way in ways.values() for label in way.get("by_class", {})})
    table = _table(
        title,
        (
            "way",
            "hit rate",
            "error of all",
            "error of hits",
            *(f"{c}: hit, error" for c in classes),
            "n",
        ),
    )
    for name, way in ways.items():
        cells = [way.get("by_class", {}).get(label) for label in classes]
        shown = [f"{cell['hit_rate']:.1%}, {cell['error']:.2%}" if cell else "-" for cell in cells]
        hit_error = _of(way, "hit_error") if "hit_error" in way else "-"
        table.add_row(
            name, _of(way, "hit_rate"), _of(way, "error"), hit_error, *shown, f"{way['n']:,}"
        )
    console.print(table)


def show_stream(console: Console, stream: Mapping[str, Any]) -> None:
    """The stream as we serve it, with each level off, and the naive ways."""
    shuffles = enumerate(stream["other_shuffles"], start=1)
    ways = {
        "this cache, set for a cold start": stream,
        **{f"the same, shuffle {number}": found for number, found in shuffles},
        "this cache, default settings": stream["default_settings"],
        **{f"cold start, {name}": found for name, found in stream["levels_off"].items()},
        **stream["baselines"],
        "a published verified cache, on such a stream": stream["published"],
    }
    title = f"duplicate-heavy stream: {stream['texts']}, first {stream['n']:,}"
    show_ways(console, title, ways)
    if "all" in stream:
        ways = {"this cache, default settings": stream["all"], **stream["all"]["baselines"]}
        show_ways(console, "the same stream, all of it", ways)


def show_documents(console: Console, documents: Mapping[str, Any]) -> None:
    """What patterns serve of other kinds of documents, and what similarity gets wrong."""
    if not documents:
        return
    columns = ("file", "labels", "archive / traffic", "accuracy", "constant class is wrong")
    table = _table(
        "other documents: share served of un-audited, error of served (one-look; half audited)",
        (*columns, *(f"max_error {e}" for e in next(iter(documents.values()))["served"])),
    )
    near = _table(
        "each text answered from the nearest other text at ratio >= 85",
        ("file", "texts", "hits", "wrong, no veto", "hits with veto", "wrong with veto"),
    )
    for name, found in documents.items():
        accuracy = found["accuracy"]
        served = [
            f"{_of(arm['one-look'], 'served')}\n{_of(arm['one-look'], 'error')}"
            for arm in found["served"].values()
        ]
        table.add_row(
            name,
            str(found["labels"]),
            f"{found['archive']:,} / {found['traffic']:,}",
            _share(accuracy["value"], (accuracy["lower"], accuracy["upper"])),
            f"{found['constant_class_error']:.1%}",
            *served,
        )
        similarity = found["similarity"]
        cells = []
        for way in ("without_veto", "with_veto"):
            hits = similarity[way]
            cells += [f"{hits['hits']:,}", f"{hits['wrong']:,}: {_of(hits, 'hit_error')}"]
        near.add_row(name, f"{similarity['texts']:,}", *cells)
    console.print(table)
    console.print(near)


def show_daily_feed(console: Console, figures: Mapping[str, Any]) -> None:
    """A row a day and arm, the worst category of each arm, and where it breaks even."""
    setup = figures["daily_feed_setup"]
    columns = ("re-delivered", "day", "hit rate", "exact only", "accuracy", "$ / 5,000", "saved")
    table = _table(
        f"daily feed: {figures['texts']}; {setup['archived']:,} archived before day one, "
        f"max_error {setup['max_error']:g}",
        (*columns, "audits ($)", "trained (s)", "s", "n"),
        "saved: of the baseline of one request a review at $1.50 per 1,000, by the pipeline's own "
        "ledger, audits and training included; simulated money.",
    )
    for day in figures["daily_feed"]:
        table.add_row(
            f"{day['redelivered']:.0%}",
            str(day["day"]),
            _of(day, "hit_rate"),
            f"{day['exact_only_hit_rate']:.1%}",
            _of(day, "accuracy"),
            f"{day['usd_per_5000']:.4f}",
            f"{day['reduction']:.2%}" if day["reduction"] is not None else "-",
            f"{day['audits']:,} ({day['audits_usd']:.4f})",
            f"{day['trained']} ({day['training_seconds']:.1f})",
            f"{day['seconds']:.0f}",
            f"{day['n']:,}",
        )
    console.print(table)
    categories = _table(
        "daily feed by category, third day on",
        ("re-delivered", "category", "hit rate", "accuracy", "n"),
    )
    for cell in figures["daily_feed_categories"]:
        categories.add_row(
            f"{cell['redelivered']:.0%}",
            cell["category"],
            _of(cell, "hit_rate"),
            _of(cell, "accuracy"),
            f"{cell['n']:,}",
        )
    console.print(categories)
    for worst in figures["daily_feed_worst"]:
        said = ", ".join(
            f"{name.replace('_', ' ')} {cell['value']:.1%} ({cell['category']}, n {cell['n']:,})"
            for name, cell in worst.items()
            if name != "redelivered"
        )
        console.print(f"{worst['redelivered']:.0%} re-delivered, worst category: {said}")
    console.print(
        f"break-even: {_arm(figures['break_even_redelivered'])} with every category on every day "
        f"from the third on; {_arm(figures['break_even_redelivered_days_together'])} with those "
        "days together"
    )


def _arm(redelivered: float | None) -> str:
    return "no arm" if redelivered is None else f"{redelivered:.0%} re-delivered"
