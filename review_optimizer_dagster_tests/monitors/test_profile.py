"""What a day's reviews are counted by: every review once a signal, and nothing of its text kept."""

from __future__ import annotations

import json

import polars as pl

from review_optimizer_dagster.monitors.profile import (
    AUDITS,
    OTHERS,
    PROFILES,
    REVIEWS,
    VOCABULARY_BUCKETS,
    profile,
)

TEXT = "I love this lamp, it is excellent and works great."


def _reviews(count: int, **columns: object) -> pl.DataFrame:
    row = {
        "tenant": "acme",
        "taxonomy": "reviews",
        "simulated": False,
        "category": "Lamps",
        "level": "model",
        "labels": json.dumps({"sentiment": "positive", "aspect": "quality"}),
        "title": None,
        "text": TEXT,
    } | columns
    rows = [row | {"review_id": f"r{number}"} for number in range(count)]
    return pl.DataFrame(rows, REVIEWS, orient="row")


def _counts(profiles: pl.DataFrame, signal: str, category: str = "") -> dict[str, int]:
    own = profiles.filter(signal=signal, category=category)
    return dict(own.select("bucket", "reviews").iter_rows())


def test_every_review_counts_once_a_signal() -> None:
    """Counts that are not independent would make every day look like drift."""
    found = profile(_reviews(150), AUDITS.to_frame(), 100)
    assert found.schema == PROFILES
    for category in ("", "Lamps"):
        for signal in ("label:sentiment", "label:aspect", "length", "language", "level"):
            assert len(_counts(found, signal, category)) == 1, signal
        for signal in found.filter(category=category)["signal"].unique():
            assert sum(_counts(found, signal, category).values()) == 150, signal
    assert _counts(found, "label:sentiment") == {"positive": 150}
    assert _counts(found, "length") == {"to 64": 150}
    assert _counts(found, "language") == {"en": 150}
    assert _counts(found, "category") == {"Lamps": 150}
    assert _counts(found, "category", "Lamps") == {}


def test_each_review_draws_a_word_of_its_own() -> None:
    """Repeats of one text must not all have the same word, nor other ones in another run."""
    one = profile(_reviews(300), AUDITS.to_frame(), 100)
    buckets = _counts(one, "vocabulary")
    words = {"love", "this", "lamp", "excellent", "works", "great"}
    assert 1 < len(buckets) <= len(words)
    assert all(int(bucket) < VOCABULARY_BUCKETS for bucket in buckets)
    assert one.equals(profile(_reviews(300).reverse(), AUDITS.to_frame(), 100))


def test_no_text_is_kept() -> None:
    """Profiles are published; reviews hold personal data."""
    found = profile(_reviews(120, text="Zanzibar Zanzibar", title="Quixotic"), AUDITS.to_frame(), 1)
    assert not any(
        word in str(value).lower()
        for row in found.iter_rows()
        for value in row
        for word in ("zanzibar", "quixotic")
    )


def test_small_categories_are_counted_among_all_alone() -> None:
    """A profile of three reviews says nothing, and a thousand of them cost time."""
    both = pl.concat([_reviews(100), _reviews(99, category="Rugs")])
    found = profile(both, AUDITS.to_frame(), 100)
    assert set(found["category"]) == {"", "Lamps"}
    assert _counts(found, "category") == {"Lamps": 100, "Rugs": 99}


def test_a_day_of_a_thousand_categories_names_the_largest() -> None:
    """Some tenants put a product's number there."""
    many = pl.concat([_reviews(2), *(_reviews(1, category=f"c{n:04d}") for n in range(1_000))])
    found = _counts(profile(many, AUDITS.to_frame(), 100), "category")
    assert sum(found.values()) == 1_002
    assert (len(found), found["Lamps"], found[OTHERS]) == (301, 2, 701)


def test_reviews_without_a_label_count_but_for_labels() -> None:
    """A day whose budget is spent is no change of the label mix."""
    failed = _reviews(20, labels=None, level="none")
    found = profile(
        pl.concat([_reviews(100), failed.with_columns(review_id="review_id")]),
        AUDITS.to_frame(),
        100,
    )
    assert _counts(found, "label:sentiment") == {"positive": 100}
    assert _counts(found, "level") == {"model": 100, "none": 20}
    assert sum(_counts(found, "length").values()) == 120


def test_tenants_and_simulated_answers_stay_apart() -> None:
    """A rehearsal with the simulator says nothing of what a model answers."""
    rows = [_reviews(10), _reviews(20, tenant="bolt"), _reviews(30, simulated=True)]
    found = profile(pl.concat(rows), AUDITS.to_frame(), 100).filter(signal="level")
    sizes = found.select("tenant", "simulated", "reviews").rows()
    assert sizes == [("acme", False, 10), ("acme", True, 30), ("bolt", False, 20)]


def test_rechecks_are_counted_by_what_they_say() -> None:
    """How many of them disagree is a signal, of hits that the labels say nothing about."""
    audits = pl.DataFrame(
        {"agrees": [True, True, False]}, {"agrees": pl.Boolean}
    ).select(
        pl.lit("acme").alias("tenant"), pl.lit("reviews").alias("taxonomy"),
        pl.lit(False).alias("simulated"), pl.lit("Lamps").alias("category"), "agrees",
    )  # fmt: skip
    found = profile(_reviews(120), audits, 100)
    assert _counts(found, "audit") == {"agrees": 2, "disagrees": 1}


def test_nothing_comes_of_nothing() -> None:
    """A day without reviews has no profile."""
    assert profile(REVIEWS.to_frame(), AUDITS.to_frame(), 100).is_empty()
