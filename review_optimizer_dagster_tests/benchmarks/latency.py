"""Latency alarms: how soon a slower model is found and what is told falsely, beside thresholds.

python -m review_optimizer_dagster_tests.benchmarks.latency [--steps 300] [--quiet 200]
    [--length 5000] [--earlier 1000] [--seed 0] [--json OUT]

Requests are made up: batches of 10 to 500 reviews (log-uniform), latency = 400 ms + 0.02 ms a token
in + 6 ms a token out, times lognormal noise (sigma 0.3). Every stream has a baseline of its own.
Ours is what the run calls, with its default settings. The plain ways are two thresholds on
milliseconds: each request's latency, and the 95th percentile of the last 100. They are calibrated
on streams of another seed to the false alarms that ours is set to; nothing is fitted to the streams
that are reported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.monitors.latency import Judged, judge
from review_optimizer_dagster.monitors.settings import LatencySettings
from review_optimizer_dagster_tests.monitors.made_up import (
    DAY,
    GROUP,
    START,
    Array,
    noise,
    requests,
    sizes,
    typical_ms,
)

STEPS: Final = (1.2, 1.5, 2.0)
BEFORE: Final = 200  # quiet requests before a step
AFTER: Final = 500  # requests in which it may be found
LAST: Final = 100  # requests that the percentile is of
SLOW_FACTOR: Final = 5.0
BUCKETS: Final = ((10, 50), (50, 200), (200, 501))
CALIBRATION, QUIET, STEP, SINGLE = 1, 2, 3, 4  # parts of the seed
SETTINGS: Final = LatencySettings()
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Stream:
    """Requests of one endpoint and day, and what came before them."""

    rows: pl.DataFrame
    earlier: pl.DataFrame

    @property
    def latency_ms(self) -> Array:
        """Of the rows."""
        return self.rows["latency_ms"].to_numpy()

    def judged(self) -> Judged:
        """What the run says of it."""
        return judge(self.rows, self.earlier, {}, SETTINGS, DAY)


def made(
    seed: Sequence[int],
    length: int,
    earlier: int,
    tail: float | None = None,
    step: float = 1.0,
    correlation: float = 0.0,
) -> Stream:
    """A stream of its seed; its requests are `step` times as long from number BEFORE on."""
    rng = np.random.default_rng(seed)
    parts = []
    for n, factor in ((earlier, 1.0), (length, step)):
        reviews, fresh, written = sizes(rng, n)
        factors = np.where(np.arange(n) < BEFORE, 1.0, factor)
        latency = typical_ms(fresh, written) * noise(rng, n, tail=tail, correlation=correlation)
        latency *= factors
        parts.append((reviews, fresh, written, latency))
    past = requests(*parts[0], first=-earlier, day=DAY, degraded=False)
    return Stream(requests(*parts[1]), past)


def rolling_p95(latency_ms: Array) -> Array:
    """The 95th percentile of the last LAST requests, from the first that has as many."""
    windows = np.lib.stride_tricks.sliding_window_view(latency_ms, LAST)
    percentiles: Array = np.quantile(windows, 0.95, axis=1)
    return percentiles


def crossings(values: Array, limit: float) -> int:
    """How often values rise over a limit; a while over it counts once."""
    over = values > limit
    return int(over[:1].sum() + (over[1:] & ~over[:-1]).sum())


Statistic = Callable[[Array], Array]
PLAIN: Final[Mapping[str, Statistic]] = {
    "a fixed threshold": lambda latency: latency,
    f"p95 of the last {LAST}": rolling_p95,
}


def calibrated(statistics: Sequence[Array], wanted: float) -> float:
    """The least limit that calibration streams rise over at most `wanted` times, all together."""
    low, high = 0.0, max(float(values.max()) for values in statistics)
    for _ in range(40):
        middle = (low + high) / 2
        # Far down everything is over the limit, and so rises over it only once.
        mostly = sum(float((values > middle).mean()) for values in statistics) / len(statistics)
        alarms = sum(crossings(values, middle) for values in statistics)
        low, high = (middle, high) if alarms > wanted or mostly > 0.2 else (low, middle)
    return high


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of a Poisson mean (Garwood, Biometrika 28, 1936)."""
    from scipy.stats import chi2

    tail = (1 - CONFIDENCE) / 2
    lower = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    return lower, float(chi2.ppf(1 - tail, 2 * count + 2)) / 2


def false_alarms(options: argparse.Namespace, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Alarms of quiet streams: with a small baseline, a heavier tail, and alike neighbours too."""
    found = []
    for name, earlier, tail, correlation in (
        ("lognormal", options.earlier, None, 0.0),
        ("lognormal, baseline of 100", 100, None, 0.0),
        ("heavy tail (log-Student, 4 df)", options.earlier, 4.0, 0.0),
        ("neighbours alike (AR 0.3)", options.earlier, None, 0.3),
    ):
        counts = dict.fromkeys(("ours", *PLAIN), 0)
        for number in range(options.quiet):
            key = (options.seed, QUIET, number)
            stream = made(key, options.length, earlier, tail, correlation=correlation)
            counts["ours"] += len(stream.judged().episodes.get(GROUP, ()))
            for plain, statistic in PLAIN.items():
                counts[plain] += crossings(statistic(stream.latency_ms), limits[plain])
        n = options.quiet * options.length
        for way, count in counts.items():
            lower, upper = (1_000 * end / n for end in poisson_interval(count))
            row = {"streams": name, "way": way, "requests": n, "alarms": count}
            found.append(row | {"a_1000": 1_000 * count / n, "lower": lower, "upper": upper})
    return found


def delays(options: argparse.Namespace, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Requests from a step until it is found; streams with an alarm before it are left out."""
    found = []
    for step in STEPS:
        at: dict[str, list[float | None]] = {way: [] for way in ("ours", *PLAIN)}
        for number in range(options.steps):
            key = (options.seed, STEP, round(100 * step), number)
            stream = made(key, BEFORE + AFTER, options.earlier, step=step)
            episodes = stream.judged().episodes.get(GROUP, ())
            raised = [round((each.raised_at - START).total_seconds()) for each in episodes]
            at["ours"] += _delay(raised)
            for plain, statistic in PLAIN.items():
                values = statistic(stream.latency_ms)
                begins = np.flatnonzero(values > limits[plain]) + BEFORE + AFTER - len(values)
                at[plain] += _delay(begins.tolist())
        for way, each in at.items():
            seen = [delay for delay in each if delay is not None]
            lower, upper = clopper_pearson(len(seen), len(each), CONFIDENCE)
            waited = sorted(delay if delay is not None else np.inf for delay in each)
            row = {"step": step, "way": way, "streams": len(each), "found": len(seen)}
            ends = {"lower": lower, "upper": upper}
            found.append(row | ends | {"median": _rank(waited, 0.5), "p90": _rank(waited, 0.9)})
    return found


def _delay(alarms: Sequence[int]) -> Iterator[float | None]:
    """Requests until the first alarm, None where there is none; nothing where it came before."""
    if not alarms:
        yield None
    elif alarms[0] >= BEFORE:
        yield float(alarms[0] - BEFORE + 1)


def _rank(ascending: Sequence[float], share: float) -> float | None:
    """The value that this share of all does not exceed; None where it was never found."""
    value = ascending[max(0, int(np.ceil(share * len(ascending))) - 1)]
    return None if np.isinf(value) else float(value)


def singles(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Single requests by size: the share told slow of quiet ones, and of those that are.

    Both ways flag one in a hundred of the calibration streams; then ours with its default.
    """
    parts = [
        _sized(made((options.seed, CALIBRATION, n), *_shape(options)))
        for n in range(max(1, options.quiet // 10))
    ]
    calibration = pl.concat(parts)
    z_limit, ms_limit = (float(calibration[name].quantile(0.99)) for name in ("z", "latency_ms"))  # type: ignore[arg-type]  # never empty
    ways = {
        "z, one in a hundred": pl.col("z") > z_limit,
        "a fixed threshold, one in a hundred": pl.col("latency_ms") > ms_limit,
        f"z over {SETTINGS.slow_z:g}, the default": pl.col("z") > SETTINGS.slow_z,
    }
    found = []
    for kind, factor in (("quiet", 1.0), (f"{SLOW_FACTOR:g} times as long", SLOW_FACTOR)):
        rows = pl.concat(
            [
                _sized(made((options.seed, SINGLE, n), *_shape(options)), factor)
                for n in range(max(1, options.quiet // 5))
            ]
        )
        for least, most in BUCKETS:
            bucket = rows.filter(pl.col("reviews") >= least, pl.col("reviews") < most)
            for way, told in ways.items():
                n, flagged = bucket.height, bucket.filter(told).height
                lower, upper = clopper_pearson(flagged, n, CONFIDENCE)
                row = {"requests": kind, "reviews": f"{least} to {most - 1}", "way": way, "n": n}
                found.append(row | {"told": flagged / n, "lower": lower, "upper": upper})
    return found


def _shape(options: argparse.Namespace) -> tuple[int, int]:
    return options.length, options.earlier


def _sized(stream: Stream, factor: float = 1.0) -> pl.DataFrame:
    """Each request by itself: reviews, latency_ms and z, had it taken `factor` times as long."""
    alone = Stream(
        stream.rows.with_columns(latency_ms=pl.col("latency_ms") * factor), stream.earlier
    )
    known = alone.judged().latencies.filter(pl.col("z").is_not_null())
    return known.select("reviews", "latency_ms", "z")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, with sample sizes."""
    began = time.perf_counter()
    streams = [
        made((options.seed, CALIBRATION, n), options.length, options.earlier).latency_ms
        for n in range(options.quiet)
    ]
    wanted = SETTINGS.false_alarms_per_1000 * options.quiet * options.length / 1_000
    limits = {
        name: calibrated([statistic(each) for each in streams], wanted)
        for name, statistic in PLAIN.items()
    }
    return {
        "seed": options.seed,
        "wanted_a_1000": SETTINGS.false_alarms_per_1000,
        "limits_ms": limits,
        "false_alarms": false_alarms(options, limits),
        "delays": delays(options, limits),
        "singles": singles(options),
        "seconds": time.perf_counter() - began,
    }


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """The tables."""
    alarms = Table(title=f"False alarms a 1,000 requests (set to {figures['wanted_a_1000']:g})")
    for name in ("streams", "way", "requests", "alarms", "a 1,000", "95 % interval"):
        alarms.add_column(name)
    for row in figures["false_alarms"]:
        interval = f"{row['lower']:.3f} to {row['upper']:.3f}"
        cells = (row["streams"], row["way"], f"{row['requests']:,}", f"{row['alarms']:,}")
        alarms.add_row(*cells, f"{row['a_1000']:.3f}", interval)
    steps = Table(title=f"Requests until a lasting step is found (of the {AFTER} after it)")
    for name in ("step", "way", "streams", "found", "95 % interval", "median", "90th pct"):
        steps.add_column(name)
    for row in figures["delays"]:
        share = f"{row['found'] / row['streams']:.1%}"
        interval = f"{row['lower']:.1%} to {row['upper']:.1%}"
        waited = [
            f"over {AFTER}" if row[key] is None else f"{row[key]:.0f}" for key in ("median", "p90")
        ]
        step = f"+{100 * (row['step'] - 1):.0f} %"
        steps.add_row(step, row["way"], f"{row['streams']:,}", share, interval, *waited)
    single = Table(title="Single requests told slow")
    for name in ("requests", "reviews", "way", "n", "told", "95 % interval"):
        single.add_column(name)
    for row in figures["singles"]:
        interval = f"{row['lower']:.3%} to {row['upper']:.3%}"
        cells = (row["requests"], row["reviews"], row["way"], f"{row['n']:,}")
        single.add_row(*cells, f"{row['told']:.3%}", interval)
    for table in (alarms, steps, single):
        console.print(table)
    limits = ", ".join(f"{name}: {ms:,.0f} ms" for name, ms in figures["limits_ms"].items())
    console.print(f"Limits: {limits}. {figures['seconds']:,.0f} s.")


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300, help="streams of each step")
    parser.add_argument("--quiet", type=int, default=200, help="quiet streams, and for calibration")
    parser.add_argument("--length", type=int, default=5_000, help="requests of a quiet stream")
    parser.add_argument("--earlier", type=int, default=1_000, help="requests of a baseline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print the tables, and write JSON where asked."""
    options = read_options()
    figures = measure(options)
    show(Console(width=120), figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
