"""The arithmetic of the benchmark `savings`, on texts and numbers small enough to check by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from review_optimizer_dagster.bounds import Rule, error_bound
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core import patterns
from review_optimizer_dagster.learning.classifier import Judged, OutOfFold
from review_optimizer_dagster.settings import PatternSettings
from review_optimizer_dagster_tests.benchmarks import (
    daily_feed,
    documents,
    first_seen,
    naive,
    savings,
)
from review_optimizer_dagster_tests.benchmarks.labelled import (
    benchmark_taxonomy,
    pooled_categories,
    read_labelled,
    sample_rows,
    with_content,
    with_majority_label,
)

GOOD, BAD = "good", "bad"


def rows(*texts: tuple[str, str], category: str = "Lamps", first: int = 0) -> pl.DataFrame:
    """ROWS of (text, label) pairs."""
    data = [
        (f"r{first + at}", category, None, text, label) for at, (text, label) in enumerate(texts)
    ]
    schema = dict.fromkeys(("review_id", "category", "title", "text", "label"), pl.String)
    return with_content(pl.DataFrame(data, schema, orient="row"))


def numbered(start: int, stop: int) -> pl.DataFrame:
    """ROWS that are each another text."""
    texts = [(f"lamp number {n} came", GOOD if n % 2 else BAD) for n in range(start, stop)]
    return rows(*texts, first=start)


class Scores:
    """A pattern whose scores say how often it is right; judges nothing."""

    fields = ("label",)
    version = "v1"

    def __init__(self, seed: int, size: int) -> None:
        labels, scores, right = drawn(seed, size)
        self.out_of_fold = {"label": OutOfFold(labels.tolist(), scores, right)}

    def judge(self, texts: Sequence[str]) -> Mapping[str, Judged]:
        raise AssertionError(f"certificates ask nothing anew: {texts}")


def drawn(seed: int, size: int) -> tuple[Any, Any, Any]:
    """Labels, scores and whether they are right: a score is the chance of that."""
    random = np.random.default_rng(seed)
    scores = (1 - 0.4 * random.random(size) ** 2).astype(np.float32)
    return random.choice([BAD, GOOD], size), scores, random.random(size) < scores


@pytest.mark.parametrize("rule", first_seen.RULES)
def test_simulated_certificates_are_those_of_the_pipeline(rule: Rule) -> None:
    """A thousand seeds are certified at once; each must get what the pipeline would give it."""
    size, budget, max_error = 1_500, 600, 0.08
    pattern = Scores(1, 2_000)
    labels, scores, right = drawn(2, size)
    traffic = first_seen.Traffic(labels, scores.astype(float), right)
    settings = PatternSettings(rule=rule, evidence=budget)
    found = first_seen.regions(traffic, pattern, max_error, settings, "uniform", grain=1)
    allowed = first_seen.most_errors(rule, max_error, settings.confidence, budget)
    random = np.random.default_rng(3)
    audits = first_seen.draw_audits(random, np.arange(size), budget, seeds=4)
    outcome = first_seen.serve(audits, size, found, rule, allowed)
    for seed, rows_of_seed in enumerate(audits):
        evidence = pl.DataFrame(
            {
                "identity": "i",
                "version": "v1",
                "field": "label",
                "content_key": [f"{at:06}" for at in rows_of_seed],
                "day": date(2026, 3, 4),
                "category": None,
                "label": labels[rows_of_seed],
                "score": scores[rows_of_seed].astype(float),
                "reference": "",
                "agrees": right[rows_of_seed],
                "draw": np.arange(budget) / budget,
                "live": False,
            },
            patterns.EVIDENCE,
        )
        certificates = patterns.certify(evidence, pattern, max_error, settings)
        for label, threshold in certificates.select("label", "threshold").iter_rows():
            reached = (labels == label) & (scores >= (np.inf if threshold is None else threshold))
            unaudited = reached & ~np.isin(np.arange(size), rows_of_seed)
            assert outcome[label].reached[seed] == reached.sum()
            assert outcome[label].served[seed] == unaudited.sum()
            assert outcome[label].wrong[seed] == (unaudited & ~right).sum()
    assert sum(seeds.reached.sum() for seeds in outcome.values()) > 0


def test_served_share_is_of_all_rows_that_were_not_audited() -> None:
    """The denominator decides the headline: abstentions and misjudged labels stay in it."""
    traffic = first_seen.Traffic(np.array([GOOD] * 10), np.ones(10), np.ones(10, dtype=bool))
    seeds = first_seen.Seeds(
        audited=np.array([4, 4]),
        served=np.array([3, 0]),
        wrong=np.array([1, 0]),
        reached=np.array([5, 0]),
        reached_wrong=np.array([1, 0]),
    )
    found = first_seen.figures({GOOD: seeds}, traffic, budget=4, max_error=0.25)
    assert found["n"] == 6
    assert found["served"] == pytest.approx((3 / 6 + 0) / 2)
    assert found["reached"] == pytest.approx((5 / 10 + 0) / 2)
    assert found["error"] == pytest.approx(1 / 3)
    assert found["broke_bound"] == 0.5
    assert found["broke_bound_of_all"] == 0.0  # 1 of 5
    assert found["abstained"] == 0.5


@pytest.mark.parametrize("rule", first_seen.RULES)
def test_most_errors_is_where_the_bound_passes(rule: Rule) -> None:
    """The table stands for the bound: one error more must not certify."""
    table = first_seen.most_errors(rule, 0.05, 0.95, 400)
    assert table[0] == -1
    for n in (59, 60, 93, 200, 400):
        errors = int(table[n])
        assert errors < 0 or error_bound(rule, errors, n, 0.95) <= 0.05
        assert error_bound(rule, errors + 1, n, 0.95) > 0.05


def test_targeted_audits_stay_where_scores_can_be_served() -> None:
    """An audit of a row that no certificate could reach decides nothing."""
    pattern = Scores(1, 2_000)
    labels, scores, right = drawn(2, 500)
    traffic = first_seen.Traffic(labels, scores.astype(float), right)
    settings = PatternSettings()
    found = first_seen.regions(traffic, pattern, 0.05, settings, "targeted")
    pool = first_seen.servable(found)
    assert 0 < len(pool) < 500
    least = {label: region.laxest for label, region in found.items()}
    assert all(scores[at] >= least[labels[at]] for at in pool)
    for region in found.values():
        assert all(threshold >= region.laxest for threshold in region.proposed(200))


def test_days_of_a_feed_deliver_earlier_days_again() -> None:
    """Re-deliveries come from feed days alone: from the archive they would flatter every arm."""
    plan = daily_feed.FeedPlan(archived=20, days=4, day_rows=10, redelivered=(0.5,))
    source = daily_feed.FeedSource.of(numbered(0, 30), numbered(100, 130), plan)
    days = daily_feed.feed_days(source, plan, 0.5)
    assert [day.height for day in days] == [10, 10, 10, 10]
    seen: set[str] = set()
    for number, day in enumerate(days):
        assert day["review_id"].n_unique() == day.height
        again = [review for review in day["review_id"] if review in seen]
        assert len(again) == (5 if number else 0)
        seen |= set(day["review_id"])
    assert not seen & set(source.archived["review_id"])


def test_no_fresh_text_was_archived() -> None:
    """A text that training has seen is no first-seen text, whatever its id."""
    plan = daily_feed.FeedPlan(archived=5, days=1, day_rows=20, redelivered=(0.0,))
    again = numbered(0, 10).with_columns(pl.col("review_id") + "-again")
    archive = pl.concat([numbered(0, 10), again])
    source = daily_feed.FeedSource.of(archive, numbered(5, 20), plan)
    assert source.archived["content_key"].n_unique() == source.archived.height == 5
    assert not set(source.archived["content_key"]) & set(source.fresh["content_key"])


def test_a_feed_that_outlasts_its_rows_gets_smaller_as_a_whole() -> None:
    """Where rows are few, every part shrinks alike, else an arm would end before it settles."""
    plan = daily_feed.FeedPlan()
    assert plan.within(100_000, 100_000) == plan
    small = plan.within(9_000, 5_000)
    assert small.archived / plan.archived == pytest.approx(small.day_rows / plan.day_rows, 0.01)
    assert small.archived + 0.9 * 7 * small.day_rows <= 14_000


def day(redelivered: float, number: int, **hits: tuple[int, int, int]) -> dict[str, Any]:
    """A day's row: by category n, hits, wrong."""
    cells = {
        name: {"n": n, "hits": hit, "labelled": n, "wrong": wrong}
        for name, (n, hit, wrong) in hits.items()
    }
    return {"redelivered": redelivered, "day": number, "by_category": cells}


def test_break_even_needs_every_category_on_every_settled_day() -> None:
    """The smallest share counts, none between two arms, and the first two days do not."""
    days = [
        day(0.3, 3, a=(200, 190, 3), b=(200, 189, 0)),
        day(0.5, 1, a=(200, 0, 0), b=(200, 0, 0)),
        day(0.5, 3, a=(200, 190, 3), b=(200, 195, 0)),
        day(0.5, 4, a=(200, 196, 0), b=(200, 195, 4)),
        day(0.7, 3, a=(200, 190, 3), b=(200, 190, 3)),
    ]
    assert daily_feed.break_even(days) == 0.7
    assert daily_feed.break_even(days, together=True) == 0.5
    assert daily_feed.break_even(days[:1]) is None
    worst = daily_feed.worst(days, 0.5)
    assert worst["accuracy_day"] == {"category": "b", "value": 0.98, "n": 200}
    assert worst["hit_rate_together"]["category"] == "a"


def test_hits_and_errors_are_of_all_requests() -> None:
    """What the model answered is right and no hit, and is stored for the next request."""
    requests = rows(
        ("great lamp, it works well", GOOD),
        ("great lamp, it works well!", GOOD),  # the ratio alone takes it
        ("great lamp, it works badly", BAD),  # the ratio alone takes it too
        ("great lamp, it works well", GOOD),
    )
    near = naive.NearTexts(requests.unique("content_key", maintain_order=True))
    empty = requests.clear()
    exact = naive.figures(naive.exact_only(empty, requests))
    assert (exact["hit_rate"], exact["error"]) == (0.25, 0.0)
    plain = naive.figures(naive.near_only(empty, requests, near, with_veto=False))
    assert (plain["hit_rate"], plain["error"]) == (0.75, 0.25)
    assert plain["hit_error"] == pytest.approx(1 / 3)
    vetoed = naive.near_only(empty, requests, near, with_veto=True)
    assert naive.figures(vetoed)["error"] == 0.0
    assert naive.by_class(vetoed)[BAD]["hit_rate"] == 0.0
    constant = naive.figures(naive.constant_class(requests, requests))
    assert (constant["hit_rate"], constant["error"]) == (1.0, 0.25)


def test_wrong_labels_of_similarity_are_counted_with_and_without_the_veto() -> None:
    """Each text is answered by the nearest other one: two that differ in meaning are two wrong."""
    texts = rows(
        ("please cancel my card", "cancel"),
        ("please activate my card", "activate"),
        ("please activate my cards", "activate"),
        ("what is the weather", "weather"),
    )
    found = documents.wrong_labels_of_similarity(texts, naive.NearTexts(texts))
    assert found["without_veto"]["hits"] == found["with_veto"]["hits"] == 2
    assert found["without_veto"]["wrong"] == 0
    two = texts.head(2)
    found = documents.wrong_labels_of_similarity(two, naive.NearTexts(two, min_ratio=0.8))
    assert (found["without_veto"]["hits"], found["without_veto"]["wrong"]) == (2, 2)
    assert found["with_veto"]["hits"] == 0


def test_gold_is_one_label_a_text() -> None:
    """Rows of one text with different stars cannot all be right; most rows decide."""
    found = with_majority_label(rows(("Fine", GOOD), ("fine", BAD), ("FINE", BAD), ("odd", GOOD)))
    assert found["label"].to_list() == [BAD, BAD, BAD, GOOD]
    even = with_majority_label(rows(("fine", GOOD), ("Fine", BAD)))
    assert even["label"].to_list() == [BAD, BAD]


def test_small_categories_are_pooled() -> None:
    """A category of a dozen rows would decide the break-even by chance."""
    many = pl.concat([numbered(0, 5), numbered(5, 7).with_columns(category=pl.lit("Rare"))])
    assert pooled_categories(many, 3) == {"Lamps": "Lamps", "Rare": "pooled"}


def test_a_home_is_written_as_the_settings_read_it(tmp_path: Path) -> None:
    """Labels with quotes and tables with truth values must survive the way through TOML."""
    texts = rows(("a", 'the "best" one'), ("b", "the worst"))
    settings: daily_feed.Settings = {
        "patterns": {"enabled": False},
        "tenant": {"max_error": 0.02},
    }
    home = daily_feed.BenchmarkHome.create(tmp_path / "home", texts, settings).home
    assert isinstance(home, Home)
    assert home.settings.patterns.enabled is False
    assert home.tenant(daily_feed.TENANT).max_error == 0.02
    assert home.taxonomy(daily_feed.TENANT) == benchmark_taxonomy(texts["label"])


def test_files_are_read_with_the_labels_of_a_taxonomy_that_knows_them(tmp_path: Path) -> None:
    """A renamed product is one class; rows without a label or a text are left out."""
    path = tmp_path / "complaints.jsonl"
    pl.DataFrame(
        {
            "review_id": ["1", "2", "3", "4"],
            "text": ["a", "b", "c", " "],
            "label": ["Credit reporting, repair, or other", "credit reporting", None, "mortgage"],
        }
    ).write_ndjson(path)
    found = read_labelled(path)
    assert found["label"].to_list() == ["credit reporting", "credit reporting"]
    assert found["category"].to_list() == ["unknown", "unknown"]


@pytest.mark.campaign
def test_without_files_the_sample_is_named_as_synthetic() -> None:
    """Nobody may take the figures of generated texts for those of people's own."""
    archive, traffic, name = savings.archive_and_traffic(savings.read_options([]))
    assert "SYNTHETIC" in name
    assert not set(archive["review_id"]) & set(traffic["review_id"])
    assert sample_rows(3, first=2)["review_id"].to_list() == archive["review_id"][2:5].to_list()
