"""How fast the cache answers, how much of brute force it finds, and how it grows with the archive.

python -m review_optimizer_dagster_tests.benchmarks.cache [--reviews FILE] [--archive FILE]
    [--traffic FILE] [--queries N] [--sizes N,N,N] [--json OUT]

Everything runs on one core, beside the naive way in the same run: rapidfuzz's extractOne over all
entries, for a sample of the queries. L1, L2 and L3 are full as far as the texts reach; L3 is the
real DuckDB archive in a temporary home. A file without `part` is split: half is archived, half is
traffic. Growth is measured in a process of its own for each size, real texts first, then variants
of them. Without --reviews the built-in sample stands in for real texts, scaled down.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import polars as pl
from rapidfuzz import fuzz, process
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.core import patterns
from review_optimizer_dagster.core.cache import CONTENTS, ENTRIES, ReviewCache
from review_optimizer_dagster.matching.index import NearIndex
from review_optimizer_dagster.settings import CacheSettings, PatternSettings
from review_optimizer_dagster.storage.partition import WarehouseArchive
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster.text import content_key, normalise
from review_optimizer_dagster_tests.benchmarks.labelled import (
    Share,
    benchmark_taxonomy,
    sample_rows,
)

MODULE: Final = "review_optimizer_dagster_tests.benchmarks.cache"
IDENTITY: Final = "benchmark"
DAY: Final = date(2026, 1, 2)
RUNS: Final = 5  # of a resolution that is timed
BRUTE_FORCE: Final = 40  # queries
SINGLE: Final = 1_000  # look-ups a level
EDITS: Final = ("letters", "slips", "words", "tail")
PAIRS: Final = 4_000  # generated, for the recall
BUDGET: Final = 20.0  # seconds for comparing queries with every entry, for the recall
CHUNK: Final = 50_000  # entries stored at a time
MAX_ERROR: Final = 0.05


@dataclass(frozen=True)
class Texts:
    """What is archived and what is asked: content_key, text, label (or null), category; unique."""

    archive: pl.DataFrame
    traffic: pl.DataFrame
    source: str


# --- texts ----------------------------------------------------------------------------------------


def read_texts(path: Path) -> pl.DataFrame:
    """Texts of a Parquet, CSV or JSONL file, normalised, each once, and `part` where it has one."""
    match path.suffix:
        case ".parquet":
            rows = pl.read_parquet(path)
        case ".csv":
            rows = pl.read_csv(path)
        case _:
            rows = pl.read_ndjson(path)
    for name in ("title", "category", "label"):
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name))
    texts = [normalise(title, text) for title, text in rows.select("title", "text").iter_rows()]
    rows = rows.with_columns(
        pl.col("category", "label").cast(pl.String),
        text=pl.Series(texts, dtype=pl.String),
        content_key=pl.Series([content_key(text) for text in texts], dtype=pl.String),
    )
    part = ["part"] if "part" in rows.columns else []
    return rows.filter(pl.col("text") != "").select(
        "content_key", "text", "label", "category", *part
    )


def load(options: argparse.Namespace) -> Texts:
    """The archive and the traffic that the options name; the traffic holds nothing archived."""
    if options.archive and options.traffic:
        archive, traffic = read_texts(options.archive), read_texts(options.traffic)
        source = f"{options.archive.name}, {options.traffic.name}"
    elif options.reviews:
        rows, source = read_texts(options.reviews), options.reviews.name
        if "part" in rows.columns:
            archive = rows.filter(pl.col("part") == "archive")
            traffic = rows.filter(pl.col("part") != "archive")
        else:
            rows = (
                rows.unique("content_key")
                .sort("content_key")
                .sample(fraction=1.0, shuffle=True, seed=1)
            )
            archive, traffic = rows[: rows.height // 2], rows[rows.height // 2 :]
    else:
        rows = sample_rows(9_000).with_columns(text="content")
        archive, traffic = rows[:7_000], rows[7_000:]
        source = "built-in sample (synthetic texts, scaled down)"
    columns = ["content_key", "text", "label", "category"]
    # Labelled texts first, so that every size of the archive trains what it can.
    archive = archive.select(columns).unique("content_key", keep="first", maintain_order=True)
    traffic = traffic.select(columns).unique("content_key", keep="first", maintain_order=True)
    traffic = traffic.join(archive, on="content_key", how="anti", maintain_order="left")
    spare = traffic[options.queries :]  # real texts fill the archive before variants do
    return Texts(pl.concat([archive, spare]), traffic[: options.queries], source)


def changed(text: str, kind: str, share: float, words: Sequence[str], rng: random.Random) -> str:
    """The text with about a share of it changed: letters, slips in words, other words, a tail."""
    old = text.split(" ")
    match kind:
        case "letters":
            return "".join(
                rng.choice(["", rng.choice("etaoin "), letter + rng.choice("etaoin ")])
                if rng.random() < share
                else letter
                for letter in text
            )
        case "slips":
            return " ".join(_slipped(w, rng) if rng.random() < 6 * share else w for w in old)
        case "words":
            return " ".join(rng.choice(words) if rng.random() < 1.3 * share else w for w in old)
        case _:
            return " ".join([*old, *rng.choices(words, k=round(2 * share * len(old)))])


def _slipped(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    at = rng.randrange(1, len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return rng.choice([swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]])


def varied(texts: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Endless variants of texts: sentences in another order, one word of another text, a number."""
    for number in count():
        text = texts[number % len(texts)]
        sentences = text.split(". ")
        rng.shuffle(sentences)
        guest = rng.choice(texts).partition(" ")[0]
        yield f"{'. '.join(sentences)} {guest} {number}"


# --- measuring ------------------------------------------------------------------------------------


def one_core() -> None:
    """Pin this process, its threads and its children to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def timed(work: Callable[[], object], runs: int = RUNS) -> dict[str, list[float]]:
    """Wall and processor seconds of each run."""
    seconds: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        seconds["cpu"].append(time.process_time() - cpu)
        seconds["wall"].append(time.perf_counter() - wall)
    return seconds


def rate(rows: int, seconds: Sequence[float]) -> dict[str, float]:
    """Rows a second: of the median run, of the slowest and of the fastest."""
    return {
        "median": rows / statistics.median(seconds),
        "lower": rows / max(seconds),
        "upper": rows / min(seconds),
        "n": len(seconds),
    }


def tail(millis: Sequence[float], quantile: float = 0.99) -> dict[str, float]:
    """A quantile with its 95 % interval by order statistics (binomial ranks)."""
    from scipy.stats import binom

    ordered, n = sorted(millis), len(millis)
    low, high = (int(binom.ppf(p, n, quantile)) for p in (0.025, 0.975))
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[min(n - 1, math.ceil(quantile * n) - 1)],
        "lower": ordered[max(0, low - 1)],
        "upper": ordered[min(n - 1, high)],
        "n": n,
    }


def peak_mb() -> float:
    """Peak resident megabytes of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at what the parent had when it forked
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def as_entries(texts: pl.DataFrame) -> pl.DataFrame:
    """Model answers (ENTRIES) of texts; the gold label stands in for the model's."""
    given = [json.dumps({"label": label} if label else {}) for label in texts["label"]]
    return texts.select(
        "content_key",
        "text",
        identity=pl.lit(IDENTITY),
        source_key="content_key",
        labels=pl.Series(given, dtype=pl.String),
        score=pl.lit(1.0),
        day=pl.lit(date(2026, 1, 1)),
    ).select(ENTRIES.names())


def asked(texts: pl.DataFrame) -> pl.DataFrame:
    """CONTENTS of texts."""
    return texts.select("content_key", "text", identity=pl.lit(IDENTITY)).select(CONTENTS.names())


def store(home: Path, entries: pl.DataFrame) -> None:
    """Archive model answers in the warehouse of a home."""
    with Warehouse(database=str(home / "warehouse.duckdb")).open() as connection:
        for part in entries.iter_slices(CHUNK):
            rows = part.select("identity", "content_key", "text", "labels", "day")
            connection.append("review_archive", rows)


@contextmanager
def warehouse_cache(home: Path, l1: pl.DataFrame, l2: pl.DataFrame) -> Iterator[ReviewCache]:
    """A cache over the archive of a home."""
    settings = CacheSettings()
    with Warehouse(database=str(home / "warehouse.duckdb")).open(read_only=True) as connection:
        connection.execute("SET threads = 1")
        archive = WarehouseArchive(connection, DAY, settings.window_days)
        yield ReviewCache(settings, l1, l2, archive)


# --- what is reported -----------------------------------------------------------------------------


def speed(texts: Texts, entries: pl.DataFrame, home: Path) -> dict[str, Any]:
    """Reviews a second of a set, with and without patterns, and p99 of single look-ups."""
    settings = CacheSettings()
    contents = asked(texts.traffic)
    l1 = entries[: settings.l1_entries]
    l2 = entries[settings.l1_entries :][: settings.l2_entries]
    with warehouse_cache(home, l1, l2) as cache:
        first = timed(lambda: cache.resolve(contents), 1)  # builds the index
        full = timed(lambda: cache.resolve(contents))
        found = cache.resolve(contents)
        singles = {
            "l1": single(cache, l1, "l1"),
            "l2": single(cache, near_variants(l2), "l2"),
            "l3_exact": single(cache, entries[-SINGLE:], "l3_exact"),
            "l3": single(cache, near_variants(entries[-SINGLE:]), "l3_near"),
        }
        judged = with_patterns(cache, texts, entries)
    levels = found["level"].fill_null("miss").value_counts().sort("level").rows()
    return {
        "held": {"l1": l1.height, "l2": l2.height, "l3": entries.height},
        "first_s": first["wall"][0],
        "without": {kind: rate(contents.height, seconds) for kind, seconds in full.items()},
        "with": judged,
        "levels": dict(levels),
        "single": singles,
    }


def near_variants(entries: pl.DataFrame) -> pl.DataFrame:
    """The entries' texts with a mark at the end, under another key: near hits."""
    return entries.with_columns(
        content_key=pl.col("content_key") + "-near", text=pl.col("text") + " !"
    )


def single(cache: ReviewCache, texts: pl.DataFrame, level: str) -> dict[str, Any]:
    """Milliseconds of look-ups of one text each; only those that the level answered count."""
    millis: dict[str, list[float]] = {"wall": [], "cpu": []}
    for row in texts.head(SINGLE).select(CONTENTS.names()).iter_slices(1):
        wall, cpu = time.perf_counter(), time.process_time()
        found = cache.resolve(row)
        used, passed = time.process_time() - cpu, time.perf_counter() - wall
        if found["level"].item() == level:
            millis["wall"].append(passed * 1_000)
            millis["cpu"].append(used * 1_000)
    return {clock: tail(values) for clock, values in millis.items()}


def with_patterns(cache: ReviewCache, texts: Texts, entries: pl.DataFrame) -> dict[str, Any] | None:
    """Reviews a second when a learned pattern judges what the levels missed.

    Trained on the labelled archive but for its hold-out, which certifies it at MAX_ERROR; None
    where too few texts carry a label.
    """
    settings = PatternSettings()
    known = entries.join(texts.archive.select("content_key", "category", "label"), on="content_key")
    known = known.filter(pl.col("label").is_not_null())
    if known.height < settings.min_rows:
        return None
    taxonomy = benchmark_taxonomy(known["label"].unique())
    held = patterns.is_holdout(known["content_key"], settings.holdout)
    began = time.perf_counter()
    classifier = patterns.train(
        known.filter(~held).select("content_key", "text", "labels"), taxonomy, settings
    )
    trained = time.perf_counter() - began
    judgements = patterns.judge(classifier, IDENTITY, known.filter(held))
    references = known.filter(held).with_columns(
        draw=pl.int_range(pl.len()) / pl.len(), live=pl.lit(False)
    )
    evidence = patterns.evidence(judgements, references)
    certificates = patterns.certify(evidence, classifier, MAX_ERROR, settings)
    return {
        "train_s": trained,
        "trained_on": int((~held).sum()),
        "evidence": evidence.height,
        **_judged(cache, texts.traffic, classifier, certificates, taxonomy),
    }


def _judged(
    cache: ReviewCache,
    traffic: pl.DataFrame,
    classifier: patterns.Pattern,
    certificates: pl.DataFrame,
    taxonomy: Taxonomy,
) -> dict[str, Any]:
    contents = asked(traffic)
    keys = ["identity", "content_key"]
    served = 0

    def work() -> None:
        nonlocal served
        missed = cache.resolve(contents).filter(pl.col("level").is_null()).select(keys)
        rest = traffic.with_columns(identity=pl.lit(IDENTITY)).join(missed, on=keys, how="semi")
        judgements = patterns.judge(classifier, IDENTITY, rest)
        served = patterns.answer(judgements, certificates, taxonomy).height

    seconds = timed(work)
    return {"served": served} | {
        kind: rate(contents.height, runs) for kind, runs in seconds.items()
    }


def brute_force(texts: Texts, entries: pl.DataFrame) -> dict[str, Any]:
    """Reviews a second when every entry is compared: with the cut-off at 85, and without one."""
    held = entries["text"].to_list()
    queries = texts.traffic["text"].to_list()[:: max(1, texts.traffic.height // BRUTE_FORCE)]
    queries = queries[:BRUTE_FORCE]

    def compare(cutoff: float) -> None:
        for query in queries:
            process.extractOne(query, held, scorer=fuzz.ratio, score_cutoff=cutoff)

    figures: dict[str, Any] = {}
    for kind, cutoff in (("plain", 0.0), ("cutoff", 85.0)):
        run = timed(partial(compare, cutoff), 1)
        figures[kind] = {clock: len(queries) / run[clock][0] for clock in run}
        figures[kind]["n"] = len(queries)
    return figures


def recall(texts: Texts, entries: pl.DataFrame) -> dict[str, Share]:
    """How many pairs at ratio 85 to 95 the index finds: generated ones, and those in the file.

    The file's own are what brute force finds for as many queries as BUDGET allows.
    """
    held = entries["text"].to_list()
    index = NearIndex(held, 0.85)
    rng = random.Random(4)  # noqa: S311  (edits are drawn, no secret is made)
    vocabulary = [word for text in held[:2_000] for word in text.split()]
    pairs: list[tuple[str, int, str]] = []
    for number in range(40 * PAIRS):
        kind, entry = EDITS[number % len(EDITS)], rng.randrange(len(held))
        text = changed(held[entry], kind, rng.uniform(0.01, 0.2), vocabulary, rng)
        if len(pairs) < PAIRS and 85 <= fuzz.ratio(text, held[entry]) <= 95:
            pairs.append((text, entry, kind))
    found = {(p.query, p.entry) for p in index.search([text for text, _, _ in pairs])}
    hits = [(kind, (at, entry) in found) for at, (_, entry, kind) in enumerate(pairs)]
    queries = texts.traffic["text"].to_list()
    compared, own = _own_pairs(queries, held)
    near = {(p.query, p.entry) for p in index.search(queries[:compared])}
    by_edit = {kind: [hit for of, hit in hits if of == kind] for kind in EDITS}
    return {
        "generated": Share(sum(hit for _, hit in hits), len(hits)),
        **{f"generated, {kind}": Share(sum(of), len(of)) for kind, of in by_edit.items()},
        f"the file's own, {compared:,} queries": Share(len(own & near), len(own)),
    }


def _own_pairs(queries: Sequence[str], held: Sequence[str]) -> tuple[int, set[tuple[int, int]]]:
    """How many queries were compared with all entries, and their pairs at ratio 85 to 95."""
    import numpy as np

    found: set[tuple[int, int]] = set()
    began, done = time.perf_counter(), 0
    while done < len(queries) and time.perf_counter() - began < BUDGET:
        part = queries[done : done + 20]
        ratios = process.cdist(part, held, scorer=fuzz.ratio, score_cutoff=85, dtype=np.float32)
        for query, entry in np.argwhere((ratios >= 85) & (ratios <= 95)).tolist():
            found.add((done + query, entry))
        done += len(part)
    return done, found


# --- growth ---------------------------------------------------------------------------------------


def fill(home: Path, entries: pl.DataFrame, size: int) -> None:
    """Archive so many entries: the real ones first, then variants of them."""
    store(home, entries.head(size))
    texts = entries["text"].to_list()
    variants = varied(texts, random.Random(6))  # noqa: S311  (variants, no secret)
    missing = size - entries.height
    while missing > 0:
        part = list(islice(variants, min(CHUNK, missing)))
        frame = pl.DataFrame({"text": part, "label": None, "category": None})
        keys = pl.Series([content_key(text) for text in part])
        store(home, as_entries(frame.with_columns(content_key=keys)))
        missing -= len(part)


def growth(texts: Texts, entries: pl.DataFrame, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds and peak megabytes of a new process that resolves the traffic, a size each."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            fill(home, entries, size)
            texts.traffic.write_parquet(home / "traffic.parquet")
            command = [sys.executable, "-m", MODULE, "--resolve-in", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            stored = (home / "warehouse.duckdb").stat().st_size / 2**20
            figures = json.loads(done.stdout)
            rows.append({"entries": size, **figures, "disk_mb": stored})
    return rows


def resolve_in(home: Path) -> None:
    """Resolve traffic.parquet over the archive of a home; prints seconds, mb and the parts of both.

    A process of its own, so that the peak of its memory is that of resolving.
    """
    contents = asked(pl.read_parquet(home / "traffic.parquet"))
    before = peak_mb()
    nothing = ENTRIES.to_frame()
    with warehouse_cache(home, nothing, nothing) as cache:
        cold = timed(lambda: cache.resolve(contents), 1)
        warm = timed(lambda: cache.resolve(contents), 1)
    figures = {
        "seconds": cold["wall"][0],
        "mb": peak_mb(),
        "cpu_s": cold["cpu"][0],
        "warm_s": warm["wall"][0],
        "mb_before": before,
    }
    sys.stdout.write(json.dumps(figures))


# --- the command ----------------------------------------------------------------------------------


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=Path, help="a file with text (else the sample)")
    parser.add_argument("--archive", type=Path, help="what is archived, beside --traffic")
    parser.add_argument("--traffic", type=Path, help="what is asked, beside --archive")
    parser.add_argument("--queries", type=int, default=5_000, help="reviews that are asked")
    parser.add_argument("--sizes", help="archived entries to grow to, with commas between")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resolve-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    one_core()
    if options.resolve_in:
        resolve_in(options.resolve_in)
        return
    if bool(options.archive) != bool(options.traffic):
        parser.error("--archive and --traffic go together")
    texts = load(options)
    real = bool(options.reviews or options.archive)
    sizes = options.sizes or ("5000,50000,500000" if real else "1000,5000,20000")
    everything = as_entries(texts.archive)
    entries = everything.head(CacheSettings().l3_near_entries)
    with tempfile.TemporaryDirectory() as folder:
        store(Path(folder), entries)
        fast = speed(texts, entries, Path(folder))
    brute = brute_force(texts, entries)
    shares = recall(texts, entries)
    grown = growth(texts, everything, [int(size) for size in sizes.split(",")])
    figures = summary(texts, fast, brute, shares, grown)
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def summary(
    texts: Texts,
    fast: dict[str, Any],
    brute: dict[str, Any],
    shares: dict[str, Share],
    grown: list[dict[str, Any]],
) -> dict[str, Any]:
    """The figures that the benchmark is known by, and all that they come from under `details`."""
    whole = [share for name, share in shares.items() if not name.startswith("generated,")]
    pairs = sum(share.total for share in whole)
    shown = {name: share.as_json() for name, share in shares.items() if share.total}
    return {
        "source": texts.source,
        "reviews": texts.traffic.height,
        "reviews_per_s": {
            "without_patterns": fast["without"]["wall"]["median"],
            "with_patterns": fast["with"] and fast["with"]["wall"]["median"],
            "brute_force": brute["plain"]["wall"],
        },
        "recall": sum(share.count for share in whole) / pairs,
        "recall_pairs": pairs,
        "p99_ms": {level: fast["single"][level]["wall"]["p99"] for level in ("l1", "l2", "l3")},
        "growth": grown,
        "details": {"speed": fast, "brute_force": brute, "recall": shown},
    }


def show(figures: dict[str, Any]) -> None:
    """The figures as tables, with sample sizes and intervals."""
    fast, brute = figures["details"]["speed"], figures["details"]["brute_force"]
    held = ", ".join(f"{level.upper()} {n:,}" for level, n in fast["held"].items())
    table = Table(title=f"cache: {figures['source']}; {held} entries; one core")
    for column in ("figure", "value", "interval", "n"):
        table.add_column(column, justify="left" if column == "figure" else "right")

    def rates(name: str, clocks: dict[str, Any]) -> None:
        for clock in ("wall", "cpu"):
            of = clocks[clock]
            low_high = f"{of['lower']:,.0f} to {of['upper']:,.0f}"
            runs = f"{of['n']} runs of {figures['reviews']:,}"
            table.add_row(f"{name}, {clock} clock", f"{of['median']:,.0f}/s", low_high, runs)

    rates("without patterns", fast["without"])
    if fast["with"]:
        served = fast["with"]["served"] / figures["reviews"]
        rates(f"with patterns (they serve {served:.0%} at {MAX_ERROR})", fast["with"])
    table.add_row(
        "first set, with reading L3 and building the index", f"{fast['first_s']:.2f} s", "", "1"
    )
    for kind, name in (("plain", "every entry compared"), ("cutoff", "the same, cut off at 85")):
        of = brute[kind]
        times = fast["without"]["cpu"]["median"] / of["cpu"]
        table.add_row(
            f"brute force, {name}",
            f"{of['wall']:.1f}/s",
            f"cache: {times:,.0f} times",
            str(of["n"]),
        )
    for level, clocks in fast["single"].items():
        for clock, of in clocks.items():
            interval = f"{of['lower']:.2f} to {of['upper']:.2f}"
            name = f"one text, {level}: p99, {clock} (p50 {of['p50']:.2f})"
            table.add_row(name, f"{of['p99']:.2f} ms", interval, str(of["n"]))
    for name, of in figures["details"]["recall"].items():
        interval = f"{of['lower']:.2%} to {of['upper']:.2%}"
        table.add_row(f"recall, {name}", f"{of['value']:.2%}", interval, f"{of['total']:,}")
    Console().print(table)
    grown = Table(title=f"growth: a new process resolves {figures['reviews']:,} reviews")
    for column in ("archived", "seconds", "again", "peak MB", "of it before", "disk MB"):
        grown.add_column(column, justify="right")
    for row in figures["growth"]:
        grown.add_row(
            f"{row['entries']:,}", f"{row['seconds']:.2f}", f"{row['warm_s']:.2f}",
            f"{row['mb']:.0f}", f"{row['mb_before']:.0f}", f"{row['disk_mb']:.0f}",
        )  # fmt: skip
    Console().print(grown)


if __name__ == "__main__":
    main()
