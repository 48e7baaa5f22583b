"""A sample worth labelling: which reviews people are asked about, and how likely each was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

import polars as pl

from review_optimizer_dagster import rechecks

UNSURE: Final = "unsure"
_OTHERS: Final = "(others)"
_PARTS: Final = ["class", "level", "category", "confidence"]
# Rechecks draw by the same numbers and change what they contradict: a sample that shared them
# would take such reviews more often than it says.
_OWN_DRAW: Final = "label|"

SAMPLE = pl.Schema(
    {"day": pl.Date()}
    | dict.fromkeys(("review_id", "content_key", "shown", "stratum"), pl.String())
    | {"stratum_texts": pl.Int64(), "stratum_reviews": pl.Int64()}
    | {"asked": pl.Float64(), "draw": pl.Float64()}
)


def allocation(sizes: Sequence[int], n: int) -> list[int]:
    """How many to draw of each stratum of these sizes, n in all (or all there are).

    Half of n goes in proportion to size, rounded up, the rest equally among strata: a mixture that
    bounds the weights, so that nothing weighs more than twice what it would in a simple random
    sample of n (Hesterberg, "Weighted average importance sampling and defensive mixture
    distributions", Technometrics 37 (1995), 185-194). Every stratum gets at least one. Needs at
    most n / 2 strata. Raises ValueError where there are more.

    >>> allocation([970, 20, 10], 100)
    [70, 20, 10]
    """
    total = sum(sizes)
    if n >= total:
        return list(sizes)
    if 2 * len(sizes) > n:
        raise ValueError(f"{len(sizes)} strata are too many for a sample of {n}")
    drawn = [-(-n * size // (2 * total)) for size in sizes]
    left = n - sum(drawn)
    while left > 0:
        open_strata = [at for at, size in enumerate(sizes) if drawn[at] < size]
        share, rest = divmod(left, len(open_strata))
        # The largest come first where it does not come out even.
        order = sorted(open_strata, key=lambda at: (-sizes[at], at))
        for place, at in enumerate(order):
            more = min(share + (place < rest), sizes[at] - drawn[at])
            drawn[at] += more
            left -= more
    return drawn


def _confidence() -> pl.Expr:
    """`unsure` by the model's own word, `known` where a score says nothing, else its tercile.

    Terciles are among the texts of one level whose score is under 1.
    """
    graded = pl.col("score") < 1.0
    rank = pl.when(graded).then(pl.col("score")).rank("average").over("level")
    share = rank / graded.sum().over("level")
    return (
        pl.when(pl.col("unsure").fill_null(False))
        .then(pl.lit(UNSURE))
        .when(graded.fill_null(False))
        .then(
            pl.when(share <= 1 / 3)
            .then(pl.lit("low"))
            .when(share <= 2 / 3)
            .then(pl.lit("middle"))
            .otherwise(pl.lit("high"))
        )
        .otherwise(pl.lit("known"))
    )


def _stratified(texts: pl.DataFrame, most: int) -> pl.DataFrame:
    """Add `stratum`, of at most so many, each as fine as that allows.

    As many of the largest categories as fit stay apart, the others are one; where not even that is
    enough, confidence, then level, then class are given up.
    """
    sizes = texts.group_by("category").len().sort(["len", "category"], descending=[True, False])
    categories = sizes["category"].to_list()
    for parts in (_PARTS, ["class", "level", "category"], ["class", "category"], ["category"]):
        fits = _most_categories(texts, parts, categories, most)
        if fits is not None:
            return texts.with_columns(stratum=_named(parts, categories[:fits]))
    return texts.with_columns(stratum=pl.lit(""))


def _named(parts: Sequence[str], categories: Sequence[str]) -> pl.Expr:
    kept = pl.col("category").is_in(list(categories))
    category = pl.when(kept).then("category").otherwise(pl.lit(_OTHERS))
    columns = [category if part == "category" else pl.col(part) for part in parts]
    return pl.concat_str(columns, separator=" | ")


def _most_categories(
    texts: pl.DataFrame, parts: Sequence[str], categories: Sequence[str], most: int
) -> int | None:
    """How many of the categories may stay apart with at most so many strata; None: not even 0."""

    def strata(kept: int) -> int:
        return texts.select(_named(parts, categories[:kept]).n_unique()).item() or 0

    if strata(0) > most:
        return None
    fits, too_many = 0, len(categories) + 1
    while too_many - fits > 1:  # each category that stays apart only adds strata
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if strata(middle) <= most else (fits, middle)
    return fits


def drawn(results: pl.DataFrame, field: str, n: int, seed: int = 0) -> pl.DataFrame:
    """Draw n texts of a tenant's results, and with them every review of the day that has one.

    results: day, review_id, content_key, category, level, repeat, labels (JSON), score, unsure;
    field: the taxonomy's main one. Those without labels are left out: there is nothing to judge.
    What is drawn is a text of a day, by the stratum of its first review (`shown`, which is the one
    that people see), without replacement: of each stratum those with the smallest permanent random
    numbers (Ohlsson, "Coordination of samples using permanent random numbers", 1995), so that a
    larger sample of the same results contains a smaller one. Every review of the text is in the
    sample with it, at the same probability `asked` = drawn / texts of the stratum, so that sums
    weighted by 1 / asked are unbiased for sums over reviews (Horvitz & Thompson, Journal of the
    American Statistical Association 47 (1952), 663-685). Reviews of one text are one draw, not
    several. Returns SAMPLE, the smallest number first.
    """
    labelled = results.filter(pl.col("labels").is_not_null()).with_columns(
        reviews=pl.len().over("day", "content_key")
    )
    texts = labelled.sort("day", "content_key", "repeat", "review_id").unique(
        ["day", "content_key"], keep="first", maintain_order=True
    )
    if texts.is_empty() or n < 1:
        return pl.DataFrame(schema=SAMPLE)
    answers = [json.loads(labels).get(field) for labels in texts["labels"]]
    texts = texts.with_columns(pl.Series("class", answers, dtype=pl.String).fill_null(""))
    texts = texts.with_columns(
        pl.col("category").fill_null(""), pl.col("level").fill_null(""), confidence=_confidence()
    )
    texts = _stratified(texts, max(n // 2, 1)).with_columns(draw=_draws(texts, seed))
    strata = (
        texts.group_by("stratum")
        .agg(stratum_texts=pl.len().cast(pl.Int64), stratum_reviews=pl.col("reviews").sum())
        .sort("stratum")
    )
    sizes = strata["stratum_texts"].to_list()
    takes = [min(n, sizes[0])] if len(sizes) == 1 else allocation(sizes, n)
    strata = strata.with_columns(take=pl.Series(takes, dtype=pl.Int64))
    chosen = (
        texts.join(strata, on="stratum")
        .filter(pl.col("draw").rank("ordinal").over("stratum") <= pl.col("take"))
        .with_columns(asked=pl.col("take") / pl.col("stratum_texts"), shown="review_id")
        .drop("review_id")
    )
    columns = ["shown", "stratum", "stratum_texts", "stratum_reviews", "asked", "draw"]
    return (
        labelled.select("day", "content_key", "review_id")
        .join(chosen.select("day", "content_key", *columns), on=["day", "content_key"])
        .select(pl.col(name).cast(dtype) for name, dtype in SAMPLE.items())
        .sort("draw", "day", "shown", "review_id")
    )


def _draws(texts: pl.DataFrame, seed: int) -> pl.Series:
    """The permanent random number of each text of its day, in the order of texts."""
    keys = texts.select(key=pl.lit(_OWN_DRAW) + pl.col("content_key"))["key"]
    days = texts["day"].to_list()
    numbers = [0.0] * texts.height
    for day in sorted(set(days)):
        rows = [row for row, each in enumerate(days) if each == day]
        for row, number in zip(rows, rechecks.draw(keys.gather(rows), day, seed), strict=True):
            numbers[row] = number
    return pl.Series("draw", numbers, dtype=pl.Float64)


def sample_id(tenant: str, sample: pl.DataFrame) -> str:
    """A name of a drawn sample: a digest of whom and what it asks, and of how likely that was."""
    facts = sample.select("day", "shown", "content_key", "asked").unique().sort(pl.all())
    text = repr((tenant, facts.rows()))
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
