"""A sample worth labelling: every stratum, bounded weights, and sums that are unbiased."""

from __future__ import annotations

import json
from datetime import date, timedelta

import polars as pl
import pytest

from review_optimizer_dagster.truth.sample import allocation, drawn, sample_id
from review_optimizer_dagster_tests.conftest import DAY


def results(n: int, day: date = DAY, categories: int = 3, repeats: int = 0) -> pl.DataFrame:
    """A day's labelled results: one review in 20 is negative, every fourth a graded hit.

    The first `repeats` texts have a second review each.
    """
    numbers = [*range(n), *range(repeats)]
    graded = [number % 4 == 0 for number in numbers]
    labels = ["negative" if number % 20 == 0 else "positive" for number in numbers]
    return pl.DataFrame(
        {
            "day": [day] * len(numbers),
            "review_id": [f"r{row:05}" for row in range(len(numbers))],
            "content_key": [f"{number:032x}" for number in numbers],
            "category": [f"c{number % categories}" for number in numbers],
            "level": ["l3_near" if each else "model" for each in graded],
            "repeat": [row >= n for row in range(len(numbers))],
            "labels": [json.dumps({"sentiment": label}) for label in labels],
            "score": [
                0.9 + (number % 97) / 1000 if each else 1.0
                for number, each in zip(numbers, graded, strict=True)
            ],
            "unsure": [number % 50 == 1 for number in numbers],
        }
    )


@pytest.mark.parametrize("n", [2, 7, 40, 200, 999, 1_000, 5_000])
@pytest.mark.parametrize("sizes", [[1_000], [970, 20, 10], [996, 1, 1, 1, 1], [250] * 4])
def test_the_allocation_is_whole_covers_all_and_bounds_the_weights(
    sizes: list[int], n: int
) -> None:
    """A weight over twice that of a simple sample would let one label decide a day."""
    if 2 * len(sizes) > n:
        with pytest.raises(ValueError, match="too many"):
            allocation(sizes, n)
        return
    taken = allocation(sizes, n)
    assert sum(taken) == min(n, sum(sizes))
    assert all(1 <= take <= size for take, size in zip(taken, sizes, strict=True))
    most = 2 * sum(sizes) / min(n, sum(sizes))
    assert max(size / take for size, take in zip(sizes, taken, strict=True)) <= most


def test_a_rare_stratum_is_asked_about_more() -> None:
    """What is rare is what a simple random sample knows nothing of."""
    assert allocation([980, 20], 100)[1] == 20
    assert allocation([9_000, 1_000], 100) == [70, 30]


def test_strata_are_of_class_level_category_and_confidence() -> None:
    """Each of the four changes how likely a label is to be wrong."""
    strata = set(drawn(results(2_000), "sentiment", 400)["stratum"])
    parts = [set(each) for each in zip(*(name.split(" | ") for name in strata), strict=True)]
    assert parts == [
        {"negative", "positive"},
        {"model", "l3_near"},
        {"c0", "c1", "c2"},
        {"low", "middle", "high", "known", "unsure"},
    ]


@pytest.mark.parametrize(("n", "categories"), [(1, 40), (5, 40), (30, 40), (200, 300), (600, 40)])
def test_more_strata_than_can_be_asked_are_joined(n: int, categories: int) -> None:
    """A stratum of which nothing can be drawn would be missing from every estimate."""
    day = results(1_000, categories=categories)
    sample = drawn(day, "sentiment", n)
    strata = sample.unique("stratum")
    assert sample.height == n
    assert strata["stratum_texts"].sum() == 1_000
    assert strata.height <= max(n // 2, 1)
    assert sample.select((1 / pl.col("asked")).max()).item() <= 2 * 1_000 / n + 1e-9


def test_the_probabilities_of_all_strata_add_up() -> None:
    """Drawn / texts, so that the weights of a stratum's sample sum to its size, exactly."""
    sample = drawn(results(1_000), "sentiment", 120)
    sums = sample.group_by("stratum", "stratum_texts").agg(total=(1 / pl.col("asked")).sum())
    assert sums["total"].to_list() == pytest.approx(sums["stratum_texts"].to_list())


@pytest.mark.campaign
def test_weighted_shares_are_unbiased_and_unweighted_ones_are_not() -> None:
    """Over 300 seeds the weighted share of wrong reviews is the true one, repeats and all."""
    day = results(600, repeats=90)
    # Errors go with what is stratified by, and with being repeated, as they do in practice.
    wrong = day.select(
        "review_id",
        wrong=pl.col("labels").str.contains("negative")
        | (pl.col("level").eq("l3_near") & (pl.col("score") < 0.93))
        | (pl.col("content_key") < f"{30:032x}"),
    )
    true_share = wrong["wrong"].mean()
    assert isinstance(true_share, float)
    weighted, plain = [], []
    for seed in range(300):
        sample = drawn(day, "sentiment", 60, seed).join(wrong, on="review_id")
        total = sample.select((pl.col("wrong") / pl.col("asked")).sum()).item()
        weighted.append(total / day.height)
        plain.append(sample["wrong"].mean())
    spread = pl.Series(weighted).std()
    mean = pl.Series(weighted).mean()
    assert isinstance(spread, float)
    assert isinstance(mean, float)
    assert abs(mean - true_share) < 3 * spread / 300**0.5  # three standard errors of the mean
    assert abs(pl.Series(plain, dtype=pl.Float64).mean() - true_share) > 0.03  # type: ignore[operator]


def test_a_text_is_asked_about_once_and_stands_for_its_repeats() -> None:
    """Labelling the same text twice is waste, and all its reviews are as likely as it is."""
    sample = drawn(results(100, repeats=100), "sentiment", 40)
    shown = sample.filter(pl.col("review_id") == pl.col("shown"))
    assert shown.height == shown["content_key"].n_unique() == 40
    assert sample.height == 80
    assert sample.group_by("content_key").agg(pl.col("shown", "asked").n_unique())[
        "shown", "asked"
    ].unique().rows() == [(1, 1)]
    assert set(sample["shown"]) <= {f"r{row:05}" for row in range(100)}  # the first reviews


def test_the_same_results_give_the_same_sample_and_more_contains_less() -> None:
    """Asking for more must not throw away what was labelled."""
    day = results(1_000, categories=1)
    small, again = drawn(day, "sentiment", 100), drawn(day.reverse(), "sentiment", 100)
    assert small.equals(again)
    assert sample_id("acme", small) == sample_id("acme", again) != sample_id("globex", small)
    assert set(small["review_id"]) < set(drawn(day, "sentiment", 300)["review_id"])


def test_days_are_drawn_together_and_texts_by_day() -> None:
    """A span has one sample, in which the same text of two days is two texts."""
    span = pl.concat([results(200), results(200, DAY + timedelta(days=1))])
    sample = drawn(span, "sentiment", 100)
    assert sample.height == 100
    assert sample.unique("stratum")["stratum_texts"].sum() == 400
    assert set(sample["day"]) == {DAY, DAY + timedelta(days=1)}


def test_what_has_no_labels_is_not_asked_about() -> None:
    """There is nothing to be right or wrong."""
    day = results(100).with_columns(
        labels=pl.when(pl.col("review_id") < "r00060").then("labels"),
    )
    assert set(drawn(day, "sentiment", 500)["review_id"]) == {f"r{row:05}" for row in range(60)}
    assert drawn(day.head(0), "sentiment", 10).is_empty()
