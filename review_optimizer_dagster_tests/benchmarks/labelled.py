"""What the benchmark `savings` starts from: labelled texts, a taxonomy of their labels, shares."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.simulator.sample import Sample
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy, load_taxonomy
from review_optimizer_dagster.text import content_key, normalise

ROWS: Final = pl.Schema(
    dict.fromkeys(
        ("review_id", "category", "title", "text", "label", "content_key", "content"), pl.String()
    )
)
UNKNOWN: Final = "unknown"  # category of a row that has none
POOLED: Final = "pooled"  # categories with too few rows to be reported by themselves
CONFIDENCE: Final = 0.95  # of the two-sided intervals that are printed

_SAMPLE_FIRST_DAY: Final = date(2026, 1, 1)
_SAMPLE_DAY: Final = 4_000
_SAMPLE_SEED: Final = 11


@dataclass(frozen=True)
class Share:
    """A count of a total, with the exact two-sided interval of the share."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share, or None of nothing."""
        return self.count / self.total if self.total else None

    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval (Clopper & Pearson, 1934)."""
        return clopper_pearson(self.count, self.total, CONFIDENCE)

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        lower, upper = self.interval()
        return f"{self.value:.1%} ({lower:.1%} to {upper:.1%})"

    def as_json(self) -> dict[str, Any]:
        """value, lower, upper, count and total."""
        lower, upper = self.interval()
        return {
            "value": self.value,
            "lower": lower,
            "upper": upper,
            "count": self.count,
            "total": self.total,
        }


def with_content(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the normalised text, `content`, and its key."""
    texts = [normalise(title, text) for title, text in rows.select("title", "text").iter_rows()]
    keys = [content_key(text) for text in texts]
    return rows.with_columns(
        content_key=pl.Series(keys, dtype=pl.String), content=pl.Series(texts, dtype=pl.String)
    )


def read_labelled(path: Path) -> pl.DataFrame:
    """The labelled rows of a Parquet, CSV or JSONL file: ROWS, and `part` where the file has it.

    Columns: review_id, text, label; category and title may be missing. Where a shipped taxonomy
    knows every label of the file, by its name or an alias, the labels are spelled as there.
    """
    match path.suffix:
        case ".parquet":
            rows = pl.read_parquet(path)
        case ".csv":
            rows = pl.read_csv(path)
        case _:
            rows = pl.read_ndjson(path)
    rows = rows.filter(pl.col("label").is_not_null(), pl.col("text").str.strip_chars() != "")
    for name in ("title", "category"):
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name))
    rows = rows.with_columns(
        pl.col("review_id", "category", "label").cast(pl.String),
    ).with_columns(pl.col("category").fill_null(UNKNOWN))
    rows = _spelled(rows)
    part = ["part"] if "part" in rows.columns else []
    kept = with_content(rows).filter(pl.col("content") != "")
    return kept.select(*ROWS.names(), *part)


def _spelled(rows: pl.DataFrame) -> pl.DataFrame:
    """One spelling a label: a regulator renames a product, and it stays one class."""
    labels = rows["label"].unique().to_list()
    for name in ("complaints", "reviews"):
        spelled = {label: load_taxonomy(name).main.parse_truth(label) for label in labels}
        if all(spelled.values()):
            return rows.with_columns(pl.col("label").replace(spelled))
    return rows


def sample_rows(rows: int, first: int = 0) -> pl.DataFrame:
    """Fresh reviews of the built-in sample, from the `first` on: ROWS. Synthetic texts."""
    main = load_taxonomy("reviews").main.name
    sample = Sample(_SAMPLE_FIRST_DAY, _SAMPLE_DAY, _SAMPLE_SEED)
    found: list[tuple[str, str, str | None, str, str]] = []
    day = _SAMPLE_FIRST_DAY
    while len(found) < first + rows:
        for index in range(sample.fresh_count(day)):
            review = sample.fresh(day, index)
            label = review.labels[main]
            found.append((review.review_id, review.category, review.title, review.text, label))
        day += timedelta(days=1)
    frame = pl.DataFrame(found[first : first + rows], ROWS.names()[:5], orient="row")
    return with_content(frame.with_columns(pl.col("title").cast(pl.String))).select(ROWS.names())


def benchmark_taxonomy(labels: Iterable[str]) -> Taxonomy:
    """A taxonomy of one closed field, `label`: the labels that a file has, in their order."""
    field = LabelField(name="label", question="Which label?", labels=tuple(sorted(set(labels))))
    return Taxonomy(
        name="benchmark",
        version=1,
        document="document",
        instructions="Label every document once and give no explanation.",
        fields=(field,),
    )


def taxonomy_toml(taxonomy: Taxonomy) -> str:
    """The taxonomy as a file of a home's `taxonomies` folder."""
    # A JSON string or list of strings is TOML.
    head = taxonomy.model_dump(mode="json", include={"name", "version", "document", "instructions"})
    lines = [f"{name} = {json.dumps(value)}" for name, value in head.items()]
    for field in taxonomy.fields:
        lines.append("[[fields]]")
        shown = {"name": field.name, "question": field.question, "labels": list(field.labels)}
        lines += [f"{name} = {json.dumps(value)}" for name, value in shown.items()]
    return "\n".join(lines) + "\n"


def with_majority_label(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the label that most rows of the same text have; of equals the first by name."""
    majority = (
        rows.group_by("content_key", "label")
        .len()
        .sort("len", "label", descending=[True, False])
        .group_by("content_key", maintain_order=True)
        .agg(pl.col("label").first())
    )
    return (
        rows.drop("label")
        .join(majority, on="content_key", maintain_order="left")
        .select(rows.columns)
    )


def pooled_categories(rows: pl.DataFrame, least: int) -> dict[str, str]:
    """Category to the name it is reported under: its own from `least` rows on, else POOLED."""
    counts = rows.group_by("category").len().iter_rows()
    return {name: name if count >= least else POOLED for name, count in counts}


def shuffled(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The rows in a random order that the seed alone decides."""
    return rows.sort("review_id").sample(fraction=1.0, shuffle=True, seed=seed)
