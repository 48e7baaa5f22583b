"""What 5,000 reviews cost against the target of $0.015, and where each cent of it went.

python -m review_optimizer_dagster_tests.benchmarks.mission [--reviews FILE]
    [--redelivered SHARES] [--max-error E] [--days N] [--day-rows N] [--json OUT]

Days of the daily feed of `savings`, one by one and through the Batch API of the simulator, whose
gold labels stand in for the model. Tokens are the simulator's, prices the dated rows. Without
--reviews the texts are those of the built-in sample, which are SYNTHETIC and far easier than
people's own: their figures say nothing of real traffic.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from rich.console import Console

from review_optimizer_dagster.core.costs import BASELINE_NANOS_PER_REVIEW
from review_optimizer_dagster.exchange.prompt import reply_form
from review_optimizer_dagster.money.prices import BATCH_TIER, DEFAULT_TIER, PriceTable, load_prices
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy
from review_optimizer_dagster.tokens import estimate_tokens
from review_optimizer_dagster_tests.benchmarks import mission_costs as costs
from review_optimizer_dagster_tests.benchmarks.labelled import Share, benchmark_taxonomy
from review_optimizer_dagster_tests.benchmarks.mission_costs import TARGET_NANOS, UNIT, DayMoney

if TYPE_CHECKING:
    from review_optimizer_dagster_tests.benchmarks.daily_feed import (
        BenchmarkHome,
        FeedPlan,
        FeedSource,
        Settings,
    )

MODELS: Final = ("gpt-6-luna", "gpt-5.6-luna", "gpt-5.4-nano", "gpt-4o-mini")  # the first is asked
WAYS: Final = ("sync", "batch")
SHIPPED: Final = "reviews"  # the taxonomy of three fields that is measured beside the benchmark's
BASELINE_NANOS: Final = BASELINE_NANOS_PER_REVIEW * UNIT
Note = Callable[[str], None]


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--reviews", type=Path, help="a file with the parts archive and bench")
    parser.add_argument(
        "--redelivered",
        default="0,0.3,0.5,0.7,0.9",
        help="shares of a day that come again; 0 is first-seen traffic",
    )
    parser.add_argument("--max-error", type=float, default=0.03)
    parser.add_argument("--days", type=int, default=7, help="days of the feed; two more settle it")
    parser.add_argument("--day-rows", type=int, default=UNIT, help="reviews of a day")
    parser.add_argument("--json", type=Path)
    parser.set_defaults(archive=None, traffic=None)  # of `savings`, whose files are read alike
    options = parser.parse_args(arguments)
    options.redelivered = tuple(float(share) for share in options.redelivered.split(","))
    if not all(0 <= share < 1 for share in options.redelivered):
        parser.error("--redelivered takes shares of at least 0 and under 1")
    if options.days < 3:
        parser.error("--days must be 3 or more: the first two days are not measured")
    return options


@dataclass(frozen=True)
class Arm:
    """One feed: how much of it comes again, how it is sent, and what is asked."""

    taxonomy: Taxonomy
    redelivered: float
    way: str

    @property
    def traffic(self) -> str:
        """Which of the mission's two kinds of traffic it is."""
        return "daily feed" if self.redelivered else "first-seen"


def arms_of(
    redelivered: Sequence[float], asked: Taxonomy, shipped: Taxonomy | None
) -> list[list[Arm]]:
    """The arms, those together that start from one archive.

    The shipped taxonomy is asked one by one only: the Batch API changes its price, not its hits.
    """
    ways = [Arm(asked, share, way) for share in redelivered for way in WAYS]
    if shipped is None:
        return [ways]
    return [ways, [Arm(shipped, share, "sync") for share in redelivered]]


def fits(shipped: Taxonomy, labels: pl.Series) -> bool:
    """Whether the gold labels are those of the shipped taxonomy's main field."""
    return set(labels.unique()) <= set(shipped.main.labels)


def run_arms(
    archive: pl.DataFrame, traffic: pl.DataFrame, plan: FeedPlan, note: Note
) -> dict[str, Any]:
    """Run every arm through the pipeline; returns JSON: `arms`, `no_cache`, `setup`.

    Raises BooksDiffer where the ledger and the requests' tokens do not say the same.
    """
    from review_optimizer_dagster_tests.benchmarks.daily_feed import rows_and_source

    plan = plan.within(archive.height, traffic.height)
    rows, source = rows_and_source(archive, traffic, plan)
    asked, shipped = benchmark_taxonomy(rows["label"]), load_taxonomy(SHIPPED)
    third = shipped if fits(shipped, rows["label"]) else None
    if third is None:
        note(f"taxonomy {SHIPPED}: not measured, since the labels are not those of its main field")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for group in arms_of(plan.redelivered, asked, third):
            place = Path(folder) / group[0].taxonomy.name
            found += _run_group(group, rows, source, plan, place, note)
    return {
        "arms": found,
        "no_cache": no_cache(source.fresh, [each for each in (asked, third) if each]),
        "setup": {
            "archived": source.archived.height,
            "days": plan.days,
            "day_rows": plan.day_rows,
            "max_error": plan.max_error,
            "priced_on": datetime.now(UTC).date().isoformat(),
        },
    }


def _run_group(
    group: Sequence[Arm],
    rows: pl.DataFrame,
    source: FeedSource,
    plan: FeedPlan,
    place: Path,
    note: Note,
) -> list[dict[str, Any]]:
    """The arms of one taxonomy, all from the same archived reviews."""
    from review_optimizer_dagster_tests.benchmarks.daily_feed import (
        FIRST_DAY,
        SETTLED_DAY,
        BenchmarkHome,
        feed_days,
    )

    taxonomy, prices = group[0].taxonomy, load_prices()
    shipped = taxonomy if taxonomy.name == SHIPPED else None
    place.mkdir()
    warm = BenchmarkHome.create(place / "warm", rows, _settings(plan, "sync"), shipped)
    note(f"{taxonomy.name}: archiving {source.archived.height:,} reviews before day one")
    warm.run(FIRST_DAY, source.archived)
    found = []
    for arm in group:
        name = f"{taxonomy.name}: {arm.redelivered:.0%} re-delivered, {arm.way}"
        note(name)
        days = _run_days(warm, source, plan, arm, place / "arm", prices)
        found.append(arm_figures(arm, days, prices))
        note(f"{name}: {found[-1]['verdict']}")
    note(f"{taxonomy.name}: counting the same days with every review asked")
    for share in dict.fromkeys(arm.redelivered for arm in group):
        asked = every_review_asked(feed_days(source, plan, share)[SETTLED_DAY - 1 :], taxonomy)
        for figures in found:
            if figures["redelivered"] == share:
                figures["no_cache_usd_per_5000"] = asked[figures["way"]]
    return found


def _settings(plan: FeedPlan, way: str) -> Settings:
    return {"tenant": {"max_error": plan.max_error, "send": way}}


def _run_days(
    warm: BenchmarkHome,
    source: FeedSource,
    plan: FeedPlan,
    arm: Arm,
    folder: Path,
    prices: PriceTable,
) -> list[dict[str, Any]]:
    """The settled days of an arm, each with its `money`."""
    from review_optimizer_dagster_tests.benchmarks.daily_feed import SETTLED_DAY, run_arm

    settings = _settings(plan, arm.way)
    days = run_arm(
        warm,
        source,
        plan,
        arm.redelivered,
        folder,
        settings,
        lambda connection, day: {"money": DayMoney.read(connection, day, prices)},
    )
    shutil.rmtree(folder)
    return [day for day in days if day["day"] >= SETTLED_DAY]


def arm_figures(arm: Arm, days: Sequence[Mapping[str, Any]], prices: PriceTable) -> dict[str, Any]:
    """Everything that is told of an arm. days: rows of `run_arm` with `money`, the settled ones."""
    money: list[DayMoney] = [day["money"] for day in days]
    sent = [each for day in money for each in day.sent]
    reviews, hits = (sum(day[name] for day in days) for name in ("n", "hits"))
    labelled, wrong = (sum(day[name] for day in days) for name in ("labelled", "wrong"))
    cost = sum(day.cost_nanos for day in money)
    parts = costs.where_it_went(sent, prices, costs.fixed_tokens(arm.taxonomy))
    told = sum(sum(part["nanos"].values()) for part in parts.values())
    if told != cost:
        raise costs.BooksDiffer(f"the parts come to {told:,} nano-dollars, the cost is {cost:,}")
    needs = costs.needed(sent, prices, hits, reviews)
    found: dict[str, Any] = {
        "traffic": arm.traffic,
        "taxonomy": arm.taxonomy.name,
        "redelivered": arm.redelivered,
        "way": arm.way,
        "reviews": reviews,
        "days": len(days),
        "hit_rate": Share(hits, reviews).as_json(),
        "accuracy": Share(labelled - wrong, labelled).as_json(),
        "requests": len(sent),
        "cost_nanos": cost,
        **_per_unit(days, [day.cost_nanos for day in money]),
        "parts": parts,
        "avoided": _avoided(money),
        "miss_unit_nanos": needs.miss_unit,
        "recheck_unit_nanos": needs.recheck_unit,
        "hit_rate_needed": needs.rate,
        "hit_rate_needed_without_rechecks": needs.rate_without_rechecks,
        "models": [
            _at_model(model, tier, days, prices, hits)
            for model in MODELS
            for tier in (DEFAULT_TIER, BATCH_TIER)
        ],
        "by_day": [
            {
                "day": day["day"],
                "reviews": day["n"],
                "hits": day["hits"],
                "cost_nanos": day["money"].cost_nanos,
                "seconds": day["seconds"],
            }
            for day in days
        ],
    }
    return found | {"verdict": verdict(found)}


def _per_unit(days: Sequence[Mapping[str, Any]], nanos: Sequence[int]) -> dict[str, Any]:
    """$ per 5,000 of these days, its interval over the days, and against target and baseline."""
    reviews = [day["n"] for day in days]
    unit = sum(nanos) * UNIT / sum(reviews)
    each = [cost * UNIT / n for cost, n in zip(nanos, reviews, strict=True)]
    interval = costs.mean_interval(each)
    return {
        "usd_per_5000": unit / 1e9,
        "usd_per_5000_interval": [end / 1e9 for end in interval] if interval else None,
        "usd_per_5000_range": [min(each) / 1e9, max(each) / 1e9],
        "of_target": unit / TARGET_NANOS,
        "of_baseline": unit / BASELINE_NANOS,
    }


def _avoided(money: Sequence[DayMoney]) -> dict[str, dict[str, Any]]:
    """What hits avoided by level, as the ledger estimates it."""
    hits: Counter[str] = Counter()
    nanos: Counter[str] = Counter()
    for day in money:
        for row in day.avoided:
            hits[row["level"]] += row["hits"]
            nanos[row["level"]] += row["nanos"]
    return {level: {"hits": hits[level], "nanos": nanos[level]} for level in sorted(hits)}


def _at_model(
    model: str, tier: str, days: Sequence[Mapping[str, Any]], prices: PriceTable, hits: int
) -> dict[str, Any]:
    """The recorded tokens at a model's prices, and what hit rate the target needs there."""
    other = costs.repriced(model, tier)
    told = [[other(each) for each in day["money"].sent] for day in days]
    nanos = [sum(costs.cost_of(each, prices) for each in sent) for sent in told]
    reviews = sum(day["n"] for day in days)
    needs = costs.needed((each for sent in told for each in sent), prices, hits, reviews)
    return {
        "model": model,
        "service_tier": tier,
        **_per_unit(days, nanos),
        "hit_rate_needed": needs.rate,
    }


def verdict(arm: Mapping[str, Any]) -> str:
    """Whether an arm meets the target, and if not, what it is that costs too much."""
    cost, needs = arm["usd_per_5000"], arm["hit_rate_needed"]
    scale = UNIT / arm["reviews"] / 1e9
    parts = {name: sum(part["nanos"].values()) * scale for name, part in arm["parts"].items()}
    texts = sum(part["nanos"][costs.TEXTS] for part in arm["parts"].values()) * scale
    largest = max(parts, key=lambda name: parts[name])
    learned = arm["avoided"].get("l3_pattern", {"hits": 0})["hits"] / arm["reviews"]
    said = (
        f"${cost:.4f} is {arm['of_target']:.2f} times the target at {arm['hit_rate']['value']:.1%} "
        f"hits, {learned:.1%} by learned patterns: {largest} ${parts[largest]:.4f}, "
        f"rechecks ${parts[costs.RECHECKS]:.4f}; of all, the texts themselves ${texts:.4f}"
    )
    if arm["of_target"] <= 1:
        return f"met: {said}"
    rechecks = arm["recheck_unit_nanos"] / 1e9
    if needs is None:
        return f"MISSED: {said}; no hit rate would do: 5,000 hits take ${rechecks:.4f} of rechecks"
    return f"MISSED: {said}; {needs:.1%} hits would do (5,000 of them take ${rechecks:.4f})"


def every_review_asked(days: Sequence[pl.DataFrame], taxonomy: Taxonomy) -> dict[str, float]:
    """What these days cost per 5,000 reviews with every one asked, by way: no cache, no recheck.

    Planned as the pipeline plans, and counted by the estimate that the simulator counts by. A text
    that stands twice in a day is planned once and priced as often as it stands.
    """
    from review_optimizer_dagster_tests.benchmarks import engine_costs

    nanos: Counter[str] = Counter()
    prices, today = load_prices(), datetime.now(UTC).date()
    for day in days:
        rows = day.unique("content_key", maintain_order=True)
        said = engine_costs.spoken(rows, taxonomy, reply_form(taxonomy, "auto"), estimate_tokens)
        for way, tier in engine_costs.WAYS.items():
            price = prices.check_model(MODELS[0], today, tier)
            cost = engine_costs.cost_nanos(said, price, prompt_cache=True)
            nanos[way] += round(cost * day.height / rows.height)
    reviews = sum(day.height for day in days)
    return {way: total * UNIT / reviews / 1e9 for way, total in nanos.items()}


def no_cache(fresh: pl.DataFrame, taxonomies: Sequence[Taxonomy]) -> list[dict[str, Any]]:
    """What first-seen reviews cost where every one is asked, by taxonomy and model.

    Counted by o200k_base where the group `tokens` is installed, else by the simulator's estimate.
    """
    from review_optimizer_dagster_tests.benchmarks import engine_costs

    exact, prices = engine_costs.exact_counter(), load_prices()
    today = datetime.now(UTC).date()
    rows = fresh.unique("content_key", maintain_order=True).head(UNIT)
    found = []
    for taxonomy in taxonomies:
        form = reply_form(taxonomy, "auto")
        said = engine_costs.spoken(rows, taxonomy, form, exact or estimate_tokens)
        for model in MODELS:
            usd = {}
            for way, tier in engine_costs.WAYS.items():
                price = prices.check_model(model, today, tier)
                nanos = engine_costs.cost_nanos(said, price, prompt_cache=True)
                usd[way] = nanos * UNIT / rows.height / 1e9
            found.append(
                {
                    "taxonomy": taxonomy.name,
                    "model": model,
                    "reviews": rows.height,
                    "requests": len(said.prompts),
                    "counter": "o200k_base" if exact else "the simulator's estimate",
                    "prefix_tokens": said.prefix,
                    "usd_per_5000": usd,
                }
            )
    return found


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The figures of every arm, and what texts they are of."""
    from review_optimizer_dagster_tests.benchmarks import savings
    from review_optimizer_dagster_tests.benchmarks.daily_feed import FeedPlan

    began = time.perf_counter()

    def note(text: str) -> None:
        console.print(f"[dim]{time.perf_counter() - began:6.0f} s  {text}[/dim]")

    archive, traffic, texts = savings.archive_and_traffic(options)
    note(f"{archive.height:,} archived and {traffic.height:,} traffic rows: {texts}")
    plan = FeedPlan(
        days=options.days,
        day_rows=options.day_rows,
        redelivered=options.redelivered,
        max_error=options.max_error,
    )
    return {"texts": texts, **run_arms(archive, traffic, plan, note)}


def main() -> None:
    """Measure, print the tables, and write JSON where asked."""
    options = read_options()
    # Read when the definitions and great_expectations are imported: a user's home stays untouched.
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    from review_optimizer_dagster_tests.benchmarks import mission_tables

    console = Console(width=190)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REVIEW_OPTIMIZER_HOME"] = folder
        figures = measure(options, console)
    mission_tables.show(console, figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
