"""How fast the engine asks: beside one request a review, and beside what no schedule could beat.

python -m review_optimizer_dagster_tests.benchmarks.engine [--reviews FILE] [--reviews-count N]
    [--naive N] [--runs N] [--latency S] [--seconds-per-token S] [--sigma X] [--in-flight N]
    [--day | --costs] [--json OUT]

The simulator is a process of its own and takes `latency + seconds-per-token * tokens` for an
answer, times a lognormal factor. --day measures the mission's day as whole processes instead,
--costs what texts cost with no cache at all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.exchange.prompt import Asking, Form, reply_form
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy
from review_optimizer_dagster_tests.benchmarks.asked import (
    KEY,
    MODEL,
    Asker,
    DigestJudge,
    Met,
    SimulatorProcess,
    distinct_rows,
    endpoint_of,
    misses_of,
)

MINUTE: Final = 60.0
AMPLE: Final = {"requests_per_minute": 100_000, "tokens_per_minute": 1_000_000_000}
ERROR_RATE: Final = 0.05
ERRORS: Final = {"rate_limit_seconds": ERROR_RATE / 2, "rate_limit_ms": ERROR_RATE / 2}
SLOWED: Final = 2.0  # a limit that binds: it takes so many times what the latencies take
BUSY: Final = 0.8  # of a core: from here on the process itself may be what is waited for
CONFIDENCE: Final = 0.95


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--reviews", type=Path, help="a file of reviews (else the built-in sample)")
    add("--reviews-count", type=int, default=5_000, help="different reviews that are asked about")
    add("--naive", type=int, default=100, help="of these are asked one by one, for the naive way")
    add("--runs", type=int, default=1, help="runs of the engine at full speed; the median counts")
    add("--latency", type=float, default=0.5, help="seconds of a request")
    add("--seconds-per-token", type=float, default=0.01, help="of the answer, on top")
    add("--sigma", type=float, default=0.3, help="spread of that time (lognormal)")
    add("--in-flight", type=int, default=8, help="most requests at once")
    add("--day", action="store_true", help="measure a day that is nearly all re-delivered instead")
    add("--costs", action="store_true", help="price tokens with no cache instead")
    add("--json", type=Path)
    return parser.parse_args(arguments)


# --- what no schedule could beat --------------------------------------------------------------


@dataclass(frozen=True)
class Ideal:
    """Lower bounds of the time that these requests take, in seconds."""

    latency: float
    """All latencies over the places in flight, or the longest one."""
    tokens: float
    """The limit of tokens, from a full bucket on, and the shortest latency behind it."""
    requests: float
    """The same of the limit of requests."""

    @property
    def seconds(self) -> float:
        """No schedule of these requests ends sooner."""
        return max(self.latency, self.tokens, self.requests)

    @property
    def binds(self) -> str:
        """What bounds it."""
        return max(("latency", "tokens", "requests"), key=lambda name: float(getattr(self, name)))


def ideal(
    met: Sequence[Met], in_flight: int, requests_per_minute: int, tokens_per_minute: int
) -> Ideal:
    """The bounds for the requests that a simulator let in.

    A bucket begins full and refills evenly, so the last request cannot be let in before what all
    took is there. What answers took beyond their admission is booked when they end: that of the
    requests in flight beside the last one may come after it.
    """
    served = [each for each in met if each.seconds is not None]
    if not served:
        return Ideal(0.0, 0.0, 0.0)
    seconds = [each.seconds or 0.0 for each in served]
    beyond = sorted((max(0, each.used - each.tokens) for each in served), reverse=True)
    taken = sum(each.tokens for each in served) + sum(beyond[in_flight:])

    def refilled(amount: float, per_minute: int) -> float:
        return max(0.0, amount - per_minute) * MINUTE / per_minute + min(seconds)

    return Ideal(
        max(sum(seconds) / in_flight, max(seconds)),
        refilled(taken, tokens_per_minute),
        refilled(len(served), requests_per_minute),
    )


def ideal_of_largest(
    texts: int, cap: int, answer_tokens: float, options: argparse.Namespace
) -> float:
    """Seconds for the fewest requests that the cap allows, by the mean of the latency model.

    answer_tokens: of one text.
    """
    requests = math.ceil(texts / cap)
    factor = math.exp(options.sigma**2 / 2)  # the mean of the lognormal factor
    alone = options.latency + options.seconds_per_token * answer_tokens * min(cap, texts)
    total = options.latency * requests + options.seconds_per_token * answer_tokens * texts
    return factor * float(max(total / options.in_flight, alone))


# --- measuring --------------------------------------------------------------------------------


def simulator(options: argparse.Namespace, **settings: Any) -> SimulatorProcess:
    """A simulator with the latency of the options."""
    latency = {
        "latency_seconds": options.latency,
        "seconds_per_token": options.seconds_per_token,
        "sigma": options.sigma,
    }
    return SimulatorProcess(DigestJudge(), **latency, **(AMPLE | settings))


def one_by_one(
    rows: pl.DataFrame, taxonomy: Taxonomy, form: Form, options: argparse.Namespace
) -> dict[str, Any]:
    """Each row a request of its own, one after the other, scaled to all reviews.

    The interval is that of the mean, by Student's t.
    """
    from openai import OpenAI
    from scipy.special import stdtrit

    how, seconds = Asking(taxonomy, form), []
    with (
        simulator(options) as endpoint,
        OpenAI(base_url=endpoint.base_url, api_key=KEY, max_retries=0) as client,
    ):
        client.models.list()  # the connection is up
        for batch in rows.with_columns(item_id=pl.lit("1")).iter_slices(1):
            began = time.perf_counter()
            body = how.body(batch, MODEL, redact=True)
            client.post("/chat/completions", body=body, cast_to=object)
            seconds.append(time.perf_counter() - began)
    n, mean = len(seconds), statistics.fmean(seconds)
    spread = statistics.stdev(seconds) if n > 1 else 0.0
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * spread / math.sqrt(n) if n > 1 else 0.0
    total = options.reviews_count
    return {
        "form": form,
        "asked": n,
        "seconds": mean * total,
        "lower": (mean - half) * total,
        "upper": (mean + half) * total,
    }


def engine_run(
    name: str,
    misses: pl.DataFrame,
    taxonomy: Taxonomy,
    options: argparse.Namespace,
    in_flight: int,
    **settings: Any,
) -> dict[str, Any]:
    """One run of the engine in a new folder, beside the ideal of the requests that it sent."""
    limits = {key: settings.get(key, AMPLE[key]) for key in AMPLE}
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        simulator(options, **settings) as served_by,
        Asker(Path(folder), taxonomy) as asker,
    ):
        form = reply_form(taxonomy, "auto")
        endpoint = endpoint_of(served_by.base_url, form, in_flight=in_flight)
        ran = asker.ask(misses, endpoint, BatchSettings())
        served, readout = served_by.served(), asker.readout()
    bound = ideal(served.met, in_flight, **limits)
    labelled = readout.answers.filter(pl.col("status") == "labelled").height
    seconds = ran.plan_seconds + ran.seconds
    completion = sum(row.completion_tokens for row in served.billed)
    return {
        "name": name,
        "in_flight": in_flight,
        "form": form,
        **limits,
        "error_rate": sum(settings.get("faults", {}).values()),
        "reviews": misses.height,
        "labelled": labelled,
        "requests": readout.requests.height,
        "refused": sum(1 for each in served.met if each.seconds is None),
        "errors": sum(1 for each in served.met if each.fault is not None),
        "seconds": seconds,
        "plan_seconds": ran.plan_seconds,
        "ideal_s": bound.seconds,
        "ideal_binds": bound.binds,
        "to_ideal": seconds / bound.seconds,
        "latency_s": bound.latency,
        "tokens_taken": sum(e.tokens for e in served.met if e.seconds is not None),
        "answer_tokens": completion / max(1, labelled),
        "engine_cpu_s": ran.cpu_seconds,
        "simulator_cpu_s": served.cpu_seconds,
        "load": load,
        "busy": max(ran.cpu_seconds, served.cpu_seconds) > BUSY * seconds,
    }


def limit_that_binds(tokens: int, latency_seconds: float) -> int:
    """Tokens a minute at which the limit takes SLOWED times what the latencies take.

    From a full bucket of L the seconds are (tokens - L) * 60 / L.
    """
    return math.ceil(tokens / (1 + SLOWED * latency_seconds / MINUTE))


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """The naive ways, the engine at full speed, with fewer in flight, with limits, with errors."""
    taxonomy = load_taxonomy("reviews")
    rows = distinct_rows(options.reviews, options.reviews_count)
    misses, naive = misses_of(rows, taxonomy), rows.head(options.naive)
    note(f"{misses.height:,} different reviews; one by one: {naive.height}")
    ways: tuple[Form, ...] = ("labels", "codes")
    sequential = [one_by_one(naive, taxonomy, form, options) for form in ways]

    def run(name: str, in_flight: int = options.in_flight, **settings: Any) -> dict[str, Any]:
        note(name)
        return engine_run(name, misses, taxonomy, options, in_flight, **settings)

    runs = [run(f"engine, {options.in_flight} in flight") for _ in range(options.runs)]
    main = sorted(runs, key=lambda found: found["seconds"])[len(runs) // 2]
    tokens = limit_that_binds(main["tokens_taken"], main["latency_s"])
    limited = {"tokens_per_minute": tokens}
    variants = [
        run("half as many in flight", max(1, options.in_flight // 2)),
        run("tokens a minute that bind", **limited),
        run(f"{ERROR_RATE:.0%} random 429s", faults=ERRORS),
        run(f"both: the limit and {ERROR_RATE:.0%} 429s", faults=ERRORS, **limited),
    ]
    largest = ideal_of_largest(
        misses.height, BatchSettings().max_reviews, main["answer_tokens"], options
    )
    return {
        "reviews": misses.height,
        "sequential_s": sequential[0]["seconds"],
        "engine_s": main["seconds"],
        "speedup": sequential[0]["seconds"] / main["seconds"],
        "speedup_same_form": sequential[1]["seconds"] / main["seconds"],
        "ideal_s": main["ideal_s"],
        "to_ideal": main["to_ideal"],
        "ideal_largest_s": largest,
        "to_ideal_largest": main["seconds"] / largest,
        "sequential": sequential,
        "runs": runs,
        "variants": variants,
        "cores": os.cpu_count(),
    }


# --- showing ----------------------------------------------------------------------------------


def show(figures: Mapping[str, Any], options: argparse.Namespace, console: Console) -> None:
    """The figures as two tables, and what they rest on."""
    model = f"{options.latency:g} s + {1000 * options.seconds_per_token:g} ms a token"
    naive = Table(
        title=f"one request a review, one after the other: {model}, sigma {options.sigma:g}",
        title_justify="left",
    )
    for column in ("replies", "asked", f"seconds for {figures['reviews']:,}", "95 % interval"):
        naive.add_column(column, justify="right" if column != "replies" else "left")
    for way in figures["sequential"]:
        interval = f"{way['lower']:,.0f} to {way['upper']:,.0f}"
        naive.add_row(way["form"], str(way["asked"]), f"{way['seconds']:,.0f} (scaled)", interval)
    console.print(naive)
    table = Table(
        title="the engine, planning and journal included",
        title_justify="left",
        caption="ideal: no schedule of the requests that were sent is faster, with these latencies "
        "and limits. refused: by the limits. CPU: of the engine's and the simulator's process.",
    )
    columns = ("run", "s", "ideal s", "bound by", "to ideal", "labelled", "requests", "refused")
    for column in (*columns, "errors", "CPU s", "load before"):
        table.add_column(column, justify="left" if column in ("run", "bound by") else "right")
    for run in [*figures["runs"], *figures["variants"]]:
        table.add_row(
            run["name"],
            f"{run['seconds']:.1f}",
            f"{run['ideal_s']:.1f}",
            run["ideal_binds"],
            f"{run['to_ideal']:.3f}",
            f"{run['labelled']:,}",
            str(run["requests"]),
            str(run["refused"]),
            str(run["errors"]),
            f"{run['engine_cpu_s']:.1f} + {run['simulator_cpu_s']:.1f}",
            f"{run['load']:.1f}",
        )
    console.print(table)
    console.print(
        f"{figures['speedup']:.1f} times one by one with labels spelled, "
        f"{figures['speedup_same_form']:.1f} times one by one with the same replies; "
        f"{figures['to_ideal_largest']:.3f} of the {figures['ideal_largest_s']:.1f} s that the "
        "fewest requests would take by the mean of the latency model"
    )
    for run in [*figures["runs"], *figures["variants"]]:
        if run["busy"]:
            console.print(f"{run['name']}: a process was busy most of the time; the cores limit it")


def main() -> None:
    """Measure, print tables, and write JSON where asked."""
    options = read_options()
    console, began = Console(width=170), time.perf_counter()

    def note(text: str) -> None:
        console.print(f"[dim]{time.perf_counter() - began:6.0f} s  {text}[/dim]")

    if options.day:
        import review_optimizer_dagster_tests.benchmarks.engine_day as day

        figures = day.measure(options, note)
        day.show(figures, console)
    elif options.costs:
        import review_optimizer_dagster_tests.benchmarks.engine_costs as costs

        figures = costs.measure(options)
        costs.show(figures, console)
    else:
        figures = measure(options, note)
        show(figures, options, console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
