"""Days of a feed through the real pipeline: what part of a day must be re-delivered to reach 95 %.

Every arm starts from the same archive; fresh texts are ones that no pattern was trained on before
they came.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import polars as pl

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.simulator import judge
from review_optimizer_dagster.simulator.judge import AnswersJudge, Judge
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster_tests.benchmarks.labelled import (
    POOLED,
    Share,
    benchmark_taxonomy,
    pooled_categories,
    shuffled,
    taxonomy_toml,
    with_majority_label,
)

if TYPE_CHECKING:
    from review_optimizer_dagster.storage.warehouse import Connection

FIRST_DAY: Final = date(2026, 3, 1)
TENANT: Final = "feed"
HITS: Final = ("l1", "l2", "l3_exact", "l3_near", "l3_pattern")
LEAST_HITS: Final = 0.95
LEAST_ACCURACY: Final = 0.985
SETTLED_DAY: Final = 3  # from this day of the feed on, every category must have its hits
POOLED_UNDER: Final = 1_000
Settings = Mapping[str, Mapping[str, object]]  # tables of tenants.toml
_DELIVERED: Final = ["review_id", "category", "title", "text", "label"]


@dataclass(frozen=True)
class FeedPlan:
    """How long a feed is and how much of it comes again; rows are reviews."""

    archived: int = 11_000
    days: int = 7
    day_rows: int = 5_000
    redelivered: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 0.9)
    max_error: float = 0.03
    seed: int = 0

    def within(self, archive_rows: int, traffic_rows: int) -> FeedPlan:
        """The same plan, all of it smaller by one factor where the rows do not last.

        The archive may give no more than half its rows to the days before the feed.
        """
        share = min(
            1.0,
            (archive_rows / 2) / self.archived,
            (archive_rows + traffic_rows) / (self.archived + 0.9 * self.days * self.day_rows),
        )
        if share == 1.0:
            return self
        return FeedPlan(
            int(self.archived * share),
            self.days,
            int(self.day_rows * share),
            self.redelivered,
            self.max_error,
            self.seed,
        )


@dataclass(frozen=True)
class FeedSource:
    """Rows (ROWS) archived before day one, and the fresh ones in the order they are taken up."""

    archived: pl.DataFrame
    fresh: pl.DataFrame

    @classmethod
    def of(cls, archive: pl.DataFrame, traffic: pl.DataFrame, plan: FeedPlan) -> FeedSource:
        """Draw the archived rows, one a text; fresh are the traffic, then the rest of the archive.

        No fresh text is one of the archived; of the rest of the archive each text comes once.
        """
        texts = shuffled(archive, plan.seed).unique("content_key", maintain_order=True)
        archived, rest = texts.head(plan.archived), texts.slice(plan.archived)
        first = shuffled(traffic, plan.seed).join(archived, on="content_key", how="anti")
        rest = rest.join(first, on="content_key", how="anti")
        return cls(archived, pl.concat([first, rest.select(first.columns)]))


def feed_days(source: FeedSource, plan: FeedPlan, redelivered: float) -> list[pl.DataFrame]:
    """The days of an arm: each a shuffled frame of fresh rows and rows of earlier feed days.

    The first day is fresh; a day is shorter where the fresh rows have run out. An arm's fresh rows
    are shuffled as a whole: were the archive's to come last, its categories would be new on the
    last days, and hardly any of their rows re-delivered.
    """
    again = int(plan.day_rows * redelivered)
    needed = plan.days * plan.day_rows - (plan.days - 1) * again
    fresh = shuffled(source.fresh.head(needed), plan.seed)
    days: list[pl.DataFrame] = []
    used = 0
    for number in range(plan.days):
        new = fresh.slice(used, plan.day_rows - (again if number else 0))
        used += new.height
        share = redelivered if number else 0.0
        earlier = fresh.head(used - new.height)
        # As large a part of a day that is short of fresh rows.
        old = shuffled(earlier, plan.seed + number).head(round(new.height * share / (1 - share)))
        days.append(shuffled(pl.concat([new, old]), plan.seed + number))
    return [day for day in days if day.height]


class BenchmarkHome:
    """A home whose one tenant's reviews the simulator labels from gold; runs days in-process."""

    def __init__(
        self, folder: Path, answers: Path, judges: dict[str, Judge], taxonomy: Taxonomy
    ) -> None:
        self.home = Home(folder)
        self.taxonomy = taxonomy
        self._answers = answers
        self._judges = judges

    @classmethod
    def create(
        cls,
        folder: Path,
        rows: pl.DataFrame,
        settings: Settings,
        shipped: Taxonomy | None = None,
    ) -> BenchmarkHome:
        """Write tenants.toml, the taxonomy of the rows' labels and the file of gold answers.

        settings: further tables of tenants.toml; `tenant` holds keys of the one tenant. shipped:
        asked in place of the rows' own taxonomy; the rows' labels are those of its main field, and
        the simulator's lexicon judges its other fields.
        """
        taxonomy = shipped or benchmark_taxonomy(rows["label"])
        (folder / "taxonomies").mkdir(parents=True)
        if shipped is None:
            file = folder / "taxonomies" / f"{taxonomy.name}.toml"
            file.write_text(taxonomy_toml(taxonomy), encoding="utf-8")
        text = tenants_toml(taxonomy, settings)
        (folder / "tenants.toml").write_text(text, encoding="utf-8")
        answers = folder.with_name("answers.parquet")
        rows.select(_DELIVERED).write_parquet(answers)
        return cls(folder, answers, {}, taxonomy)

    def copied(self, folder: Path, settings: Settings | None = None) -> BenchmarkHome:
        """The same home, with all that it has learned, in another place.

        settings: as `create` takes them, in place of those that it was made with.
        """
        shutil.copytree(self.home.folder, folder)
        if settings is not None:
            text = tenants_toml(self.taxonomy, settings)
            (folder / "tenants.toml").write_text(text, encoding="utf-8")
        return BenchmarkHome(folder, self._answers, self._judges, self.taxonomy)

    def _judge(self, source: Path, *rest: Any, **options: Any) -> Judge:
        """The judge of an answers file, read once: a day would else read all of it twice."""
        key = f"{source}|{options.get('flipped')}"
        if key not in self._judges:
            self._judges[key] = AnswersJudge(source, *rest, **options)
        return self._judges[key]

    def run(
        self, day: date, rows: pl.DataFrame | None, flips: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Deliver the rows on a day and run its partition; returns the run's summary.

        rows: None runs it again as it was delivered; flips: category to the share of its answers
        that the simulator gives wrong. Raises RuntimeError where a step broke.
        """
        from dagster import DagsterInstance

        from review_optimizer_dagster.definitions import definitions_of
        from review_optimizer_dagster.defs import execution

        if rows is not None:
            inbox = self.home.inbox / TENANT / day.isoformat()
            inbox.mkdir(parents=True)
            rows.select(_DELIVERED).write_parquet(inbox / "reviews.parquet")
        config: dict[str, Any] = {"name": "simulator", "answers": str(self._answers)}
        config |= {"latency_seconds": 0.0, "flips": dict(flips or {})}
        job = definitions_of(self.home).resolve_job_def("daily_reviews")
        with (
            mock.patch.object(judge, "AnswersJudge", self._judge),
            DagsterInstance.ephemeral() as instance,
        ):
            outcome = execution.run_partition(instance, job, day, config)
        if outcome.problem is not None:
            raise RuntimeError(f"{day}: {outcome.problem}")
        return execution.summarise(Home(self.home.folder), day, "simulator", outcome)

    @contextmanager
    def open(self) -> Iterator[Connection]:
        """The home's warehouse."""
        from review_optimizer_dagster.storage.warehouse import Warehouse

        with Warehouse(database=str(self.home.warehouse)).open() as connection:
            yield connection


def tenants_toml(taxonomy: Taxonomy, settings: Settings) -> str:
    """tenants.toml with one tenant; `settings` are its tables, `tenant` that of the tenant."""
    tables = {
        "engine": {"name": "simulator"},
        **{name: table for name, table in settings.items() if name != "tenant"},
        f"tenants.{TENANT}": {
            "taxonomy": taxonomy.name,
            "budget_usd": 1_000.0,
            # Gold labels answer, so the model makes no mistakes of its own.
            "model_error": 0.0,
            **settings.get("tenant", {}),
        },
    }
    lines = [f"first_day = {FIRST_DAY.isoformat()}"]
    for name, table in tables.items():
        lines.append(f"[{name}]")
        # A JSON string, number or truth value is TOML.
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


_RESULTS: Final = """
    SELECT category, level, status, labels, truth, content_key
    FROM review_results WHERE day = ? ORDER BY review_id
"""
_MONEY: Final = """
    SELECT coalesce(sum(cost_nanos), 0)::BIGINT AS cost_nanos,
        coalesce(sum(baseline_nanos), 0)::BIGINT AS baseline_nanos
    FROM cost_rollups WHERE day = ?
"""
_AUDITS: Final = """
    SELECT count(*) AS entries, coalesce(sum(cost_nanos), 0)::BIGINT AS cost_nanos
    FROM ledger_entries WHERE day = ? AND kind = 'audit'
"""
_TRAINING: Final = """
    SELECT count(*) AS trained, coalesce(sum(seconds), 0.0) AS seconds,
        coalesce(sum(cost_nanos), 0)::BIGINT AS cost_nanos
    FROM pattern_versions WHERE day = ?
"""


def day_results(connection: Connection, day: date, field: str = "label") -> pl.DataFrame:
    """What the pipeline said of each review of a day: category, level, content_key, label (gold),
    hit, right.

    `right` is null where there is no label: such a review is neither a hit nor wrong. field: of
    the taxonomy, the one whose labels the gold is.
    """

    def label(column: str) -> pl.Expr:
        return pl.col(column).str.json_path_match(f"$.{field}")

    return connection.frame(_RESULTS, [day]).select(
        "category",
        "level",
        "content_key",
        label=label("truth"),
        hit=pl.col("level").is_in(HITS),
        right=label("labels") == label("truth"),
    )


def day_figures(
    connection: Connection,
    day: date,
    names: Mapping[str, str],
    seen: pl.Series,
    field: str = "label",
) -> dict[str, Any]:
    """A day's figures, over all and by category, with what it cost.

    names: category to the name it is reported under; seen: content keys known before the day,
    from which the exact-only cache beside it answers; field: as `day_results` takes it.
    """
    results = day_results(connection, day, field).with_columns(
        pl.col("category").replace_strict(names, default=POOLED)
    )
    exact = (
        results["content_key"].is_in(seen.implode()) | ~results["content_key"].is_first_distinct()
    )
    money, audits, training = (
        connection.frame(sql, [day]).row(0, named=True) for sql in (_MONEY, _AUDITS, _TRAINING)
    )
    cost = money["cost_nanos"] + training["cost_nanos"]
    by_category = {
        str(name): accuracy_and_hits(part)
        for (name,), part in results.sort("category").group_by("category", maintain_order=True)
    }
    return {
        **accuracy_and_hits(results),
        "levels": dict(results.group_by("level").len().sort("level").iter_rows()),
        "exact_only_hit_rate": Share(int(exact.sum()), results.height).value,
        "cost_usd": cost / 1e9,
        "usd_per_5000": cost / 1e9 / max(1, results.height) * 5_000,
        "baseline_usd": money["baseline_nanos"] / 1e9,
        "reduction": 1 - cost / money["baseline_nanos"] if money["baseline_nanos"] else None,
        "audits": audits["entries"],
        "audits_usd": audits["cost_nanos"] / 1e9,
        "trained": training["trained"],
        "training_seconds": training["seconds"],
        "training_usd": training["cost_nanos"] / 1e9,
        "by_category": by_category,
    }


def accuracy_and_hits(results: pl.DataFrame) -> dict[str, Any]:
    """hit_rate, accuracy (of the labelled) and that of the hits, each with its exact interval."""
    labelled = results.filter(pl.col("right").is_not_null())
    hits = labelled.filter("hit")
    shares = {
        "hit_rate": Share(hits.height, results.height),
        "accuracy": Share(int(labelled["right"].sum()), labelled.height),
        "hit_accuracy": Share(int(hits["right"].sum()), hits.height),
    }
    figures: dict[str, Any] = {"n": results.height}
    for name, share in shares.items():
        figures |= {name: share.value, f"{name}_interval": share.interval()}
    return figures | {
        "hits": hits.height,
        "labelled": labelled.height,
        "wrong": labelled.filter(~pl.col("right")).height,
    }


def run_arm(
    warm: BenchmarkHome,
    source: FeedSource,
    plan: FeedPlan,
    redelivered: float,
    folder: Path,
    settings: Settings | None = None,
    look: Callable[[Connection, date], dict[str, Any]] = lambda *_: {},
) -> list[dict[str, Any]]:
    """Run the days of one arm in a copy of the warmed home; a row of figures a day.

    settings: as `BenchmarkHome.copied` takes them; look: what else a row holds of its day.
    """
    arm = warm.copied(folder, settings)
    days = feed_days(source, plan, redelivered)
    names = pooled_categories(pl.concat(days).unique("review_id"), POOLED_UNDER)
    seen = source.archived["content_key"]
    rows = []
    for number, delivered in enumerate(days, start=1):
        day = FIRST_DAY + timedelta(days=number)
        began = time.perf_counter()
        arm.run(day, delivered)
        with arm.open() as connection:
            figures = day_figures(connection, day, names, seen, arm.taxonomy.main.name)
            figures |= look(connection, day)
        seconds = time.perf_counter() - began
        rows.append({"redelivered": redelivered, "day": number, "seconds": seconds, **figures})
        seen = pl.concat([seen, delivered["content_key"]]).unique()
    return rows


def rows_and_source(
    archive: pl.DataFrame, traffic: pl.DataFrame, plan: FeedPlan
) -> tuple[pl.DataFrame, FeedSource]:
    """All rows with one gold label a text, and what the days of every arm are made of."""
    rows = with_majority_label(pl.concat([archive, traffic]))
    gold = rows.select("review_id", "label")
    archive, traffic = (
        part.drop("label").join(gold, on="review_id", maintain_order="left").select(rows.columns)
        for part in (archive, traffic)
    )
    return rows, FeedSource.of(archive, traffic, plan)


def daily_feed(
    archive: pl.DataFrame, traffic: pl.DataFrame, plan: FeedPlan, note: Callable[[str], None]
) -> dict[str, Any]:
    """Run every arm; returns JSON: `daily_feed`, `break_even_redelivered`, `daily_feed_setup`."""
    plan = plan.within(archive.height, traffic.height)
    rows, source = rows_and_source(archive, traffic, plan)
    days: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"tenant": {"max_error": plan.max_error}}
        warm = BenchmarkHome.create(Path(folder) / "warm", rows, settings)
        note(f"archiving {source.archived.height:,} reviews before day one")
        warm.run(FIRST_DAY, source.archived)
        with warm.open() as connection:
            before = day_figures(connection, FIRST_DAY, {}, pl.Series([], dtype=pl.String))
        for redelivered in plan.redelivered:
            note(f"{redelivered:.0%} re-delivered")
            place = Path(folder) / "arm"
            days += run_arm(warm, source, plan, redelivered, place)
            shutil.rmtree(place)
    return {
        "daily_feed": days,
        "daily_feed_categories": [
            cell for share in plan.redelivered for cell in settled_categories(days, share)
        ],
        "daily_feed_worst": [worst(days, share) for share in plan.redelivered],
        "break_even_redelivered": break_even(days),
        "break_even_redelivered_days_together": break_even(days, together=True),
        "daily_feed_setup": {
            "archived": source.archived.height,
            "fresh": source.fresh.height,
            "day_rows": plan.day_rows,
            "max_error": plan.max_error,
            "before_usd": before["cost_usd"],
            "before_training_seconds": before["training_seconds"],
        },
    }


def _settled(days: Sequence[Mapping[str, Any]], redelivered: float, together: bool) -> pl.DataFrame:
    """hits, n, wrong, labelled of each category and day from the third on, or of those days."""
    rows = [
        {
            "day": each["day"],
            "category": name,
            **{k: cell[k] for k in ("n", "hits", "labelled", "wrong")},
        }
        for each in days
        if each["redelivered"] == redelivered and each["day"] >= SETTLED_DAY
        for name, cell in each["by_category"].items()
    ]
    frame = pl.DataFrame(rows)
    if together and rows:
        frame = frame.group_by("category").agg(pl.col("n", "hits", "labelled", "wrong").sum())
    return frame


def settled_categories(
    days: Sequence[Mapping[str, Any]], redelivered: float
) -> list[dict[str, Any]]:
    """hit_rate and accuracy of each category of an arm, from the third day on in all."""
    cells = _settled(days, redelivered, together=True)
    found = []
    for cell in cells.sort("category").iter_rows(named=True) if cells.height else []:
        hits = Share(cell["hits"], cell["n"])
        right = Share(cell["labelled"] - cell["wrong"], cell["labelled"])
        row = {"redelivered": redelivered, "category": cell["category"], "n": cell["n"]}
        row |= {"hit_rate": hits.value, "hit_rate_interval": hits.interval()}
        found.append(row | {"accuracy": right.value, "accuracy_interval": right.interval()})
    return found


def break_even(days: Sequence[Mapping[str, Any]], together: bool = False) -> float | None:
    """The smallest re-delivered share that was run and reached hits and accuracy, or None.

    Reached: every category, on every day from the third on (or over all those days `together`),
    has 95 % hits at 98.5 % accuracy.
    """
    for redelivered in sorted({each["redelivered"] for each in days}):
        cells = _settled(days, redelivered, together)
        if (
            cells.height
            and cells.select(
                (
                    (pl.col("hits") >= LEAST_HITS * pl.col("n"))
                    & (pl.col("wrong") <= (1 - LEAST_ACCURACY) * pl.col("labelled"))
                ).all()
            ).item()
        ):
            return float(redelivered)
    return None


def worst(days: Sequence[Mapping[str, Any]], redelivered: float) -> dict[str, Any]:
    """What the worst category of an arm reached from the third day on, a day and in all."""
    found: dict[str, Any] = {"redelivered": redelivered}
    for name, together in (("day", False), ("together", True)):
        cells = _settled(days, redelivered, together)
        if cells.is_empty():
            continue
        rates = cells.with_columns(
            hit_rate=pl.col("hits") / pl.col("n"),
            accuracy=1 - pl.col("wrong") / pl.col("labelled"),
        )
        for figure in ("hit_rate", "accuracy"):
            lowest = rates.sort(figure, "category").row(0, named=True)
            found[f"{figure}_{name}"] = {
                "category": lowest["category"],
                "value": lowest[figure],
                "n": lowest["n"],
            }
    return found
