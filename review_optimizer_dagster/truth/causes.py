"""What a failed day comes from: the cache entries, pattern labels and model answers to blame."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from review_optimizer_dagster.bounds import clopper_pearson, lower_bound
from review_optimizer_dagster.taxonomies import Taxonomy, parse_labels
from review_optimizer_dagster.truth.scores import Truth, score_fields, score_reviews, truths_of

ENTRY, PATTERN, MODEL = "entry", "pattern", "model"
_NAMED_ENTRIES = 2  # in a sentence; `gate_causes` has them all

CAUSES = pl.Schema(
    {
        "kind": pl.String(),  # ENTRY, PATTERN or MODEL
        "identity": pl.String(),
        "level": pl.String(),  # of an entry: one of the levels that it answered at
        "source": pl.String(),  # key of the entry, `pattern:VERSION`, or the model's name
        "field": pl.String(),  # of a pattern: the label that it gave wrongly
        "label": pl.String(),
        "category": pl.String(),  # of a model: where it answers badly; null: single answers
        "wrong": pl.Int64(),
        "n": pl.Int64(),  # reviews with a truth that it answered
        "reviews": pl.Int64(),  # all that it answered on the day
    }
)


class Blame(NamedTuple):
    """What is to blame for a failed day, and which of its texts are to be asked anew."""

    causes: pl.DataFrame
    """CAUSES, those with most wrong answers first."""
    texts: pl.DataFrame
    """identity, content_key, each once."""

    def __str__(self) -> str:
        entries = self.causes.filter(kind=ENTRY)
        causes = self.causes
        together = []
        if entries.height > _NAMED_ENTRIES:  # their keys say nothing to a reader
            causes = causes.filter(pl.col("kind") != ENTRY)
            wrong, n = int(entries["wrong"].sum()), int(entries["n"].sum())
            together = [f"{entries.height:,} cache entries ({wrong:,} of {n:,} wrong)"]
        named = [_sentence(row) for row in causes.head(5).iter_rows(named=True)] + together
        more = causes.height - len(named) + len(together)
        return "; ".join([*named, *([f"and {more:,} more"] if more > 0 else [])])


def blame(
    results: pl.DataFrame, taxonomy: Taxonomy, truth: Truth, threshold: float, max_error: float
) -> Blame:
    """Find what a failed tenant-day comes from.

    results: RESULTS of the tenant and taxonomy; truth: the kind that the gate went by; max_error:
    the largest share of wrong answers that a pattern is allowed. Whatever a truth contradicts is
    to blame itself: the entry that gave it, or the single answer of the model. Beyond that a
    pattern's label is where its errors are over max_error by a one-sided 95 % bound, and all of
    the model's answers in a category are where their accuracy is under the threshold by one. Where
    nothing is beyond doubt, the pattern's label with most wrong answers is.
    """
    known = truths_of(results, taxonomy, truth)
    fields = score_fields(results, taxonomy, known, truth).select("row", "field", "correct")
    reviews = score_reviews(score_fields(results, taxonomy, known, truth))
    rows = (
        results.with_row_index("row")
        .with_columns(pl.col("row").cast(pl.Int64), from_model=pl.col("request_id").is_not_null())
        .filter(pl.col("status") == "labelled")
        .join(reviews.select("row", "correct"), on="row", how="left")
    )
    cached = rows.filter(~pl.col("from_model"))
    found = [
        _entries(cached.filter(pl.col("level") != "l3_pattern")),
        _patterns(cached.filter(pl.col("level") == "l3_pattern"), fields, max_error),
        _model(rows.filter("from_model"), threshold),
    ]
    causes = pl.concat([each.causes for each in found]).sort(
        "wrong", "kind", "source", "label", descending=[True, False, False, False]
    )
    texts = pl.concat([each.texts for each in found]).unique().sort("identity", "content_key")
    return Blame(causes, texts)


def _entries(rows: pl.DataFrame) -> Blame:
    by = ["identity", "source_key"]
    counts = (
        rows.group_by(by)
        .agg(
            level=pl.col("level").min(),
            wrong=(~pl.col("correct")).sum().cast(pl.Int64),
            n=pl.col("correct").count().cast(pl.Int64),
            reviews=pl.len().cast(pl.Int64),
        )
        .filter(pl.col("wrong") > 0)
    )
    return _blame(
        counts.with_columns(kind=pl.lit(ENTRY), source=pl.col("source_key")),
        rows.join(counts, on=by, how="semi"),
    )


def _patterns(rows: pl.DataFrame, fields: pl.DataFrame, max_error: float) -> Blame:
    served = [
        (row, field, label)
        for row, labels in rows.select("row", "labels").iter_rows()
        for field, label in parse_labels(labels).items()
    ]
    schema = {"row": pl.Int64, "field": pl.String, "label": pl.String}
    given = (
        pl.DataFrame(served, schema=schema, orient="row")
        .join(rows.drop("correct"), on="row")
        .join(fields, on=["row", "field"], how="left")
    )
    by = ["identity", "source_key", "field", "label"]
    counts = (
        given.group_by(by)
        .agg(
            wrong=(~pl.col("correct")).sum().cast(pl.Int64),
            n=pl.col("correct").count().cast(pl.Int64),
            reviews=pl.len().cast(pl.Int64),
        )
        .filter(pl.col("wrong") > 0)
        .sort("wrong", *by, descending=[True, *[False] * len(by)])
    )
    beyond_doubt = [
        lower_bound(wrong, n) > max_error for wrong, n in counts.select("wrong", "n").iter_rows()
    ]
    to_blame = counts.filter(pl.Series(beyond_doubt, dtype=pl.Boolean))
    if to_blame.is_empty():
        to_blame = counts.head(1)
    return _blame(
        to_blame.with_columns(kind=pl.lit(PATTERN), source=pl.col("source_key")),
        given.join(to_blame, on=by, how="semi"),
    )


def _model(rows: pl.DataFrame, threshold: float) -> Blame:
    by = ["identity", "model", "category"]
    counts = rows.group_by(by).agg(
        wrong=(~pl.col("correct")).sum().cast(pl.Int64),
        n=pl.col("correct").count().cast(pl.Int64),
        reviews=pl.len().cast(pl.Int64),
    )
    is_below = [
        n > 0 and clopper_pearson(n - wrong, n)[1] < threshold
        for wrong, n in counts.select("wrong", "n").iter_rows()
    ]
    bad = counts.filter(pl.Series(is_below, dtype=pl.Boolean))
    in_bad = rows.join(bad, on=by, how="semi", nulls_equal=True)
    single = rows.join(bad, on=by, how="anti", nulls_equal=True).filter(~pl.col("correct"))
    alone = single.group_by("identity", "model").agg(
        wrong=pl.len().cast(pl.Int64), n=pl.len().cast(pl.Int64), reviews=pl.len().cast(pl.Int64)
    )
    causes = pl.concat([bad, alone], how="diagonal_relaxed").with_columns(
        kind=pl.lit(MODEL), source=pl.col("model")
    )
    return _blame(causes, pl.concat([in_bad, single]))


def _blame(causes: pl.DataFrame, rows: pl.DataFrame) -> Blame:
    missing = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in CAUSES.items()
        if name not in causes.columns
    ]
    whole = causes.with_columns(missing).select(CAUSES.names()).cast(CAUSES)
    return Blame(whole, rows.select("identity", "content_key").unique())


def _sentence(row: dict[str, object]) -> str:
    counted = f"{row['wrong']:,} of {row['n']:,} wrong"
    if row["kind"] == ENTRY:
        return f"cache entry {row['source']} ({row['level']}, {counted})"
    if row["kind"] == PATTERN:
        return f"{row['source']} for {row['field']}={row['label']} ({counted})"
    if row["category"] is None:
        return f"single answers of {row['source']} ({row['wrong']:,})"
    return f"{row['source']} in {row['category'] or '(no category)'} ({counted})"
