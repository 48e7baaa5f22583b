"""The demo's reviews: the same everywhere, as many as promised, and never twice by accident."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from rapidfuzz import fuzz, process

from review_optimizer_dagster.core.reviews import (
    Source,
    TenantRules,
    read_reviews,
)
from review_optimizer_dagster.settings import InputSettings
from review_optimizer_dagster.simulator import writer
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.sample import (
    SAMPLE,
    TENANTS,
    Sample,
    SampleReview,
    sample_day,
    write_sample,
)
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster.text import normalise

FIRST = date(2026, 1, 1)
EIGHTH = FIRST + timedelta(days=7)
TAXONOMY = load_taxonomy("reviews")
SHARES = {"Electronics": 1_500, "Books": 2_000, "Home & Garden": 1_500}


@cache
def frame(day: date) -> pl.DataFrame:
    return sample_day(day, FIRST)


@cache
def fresh(day: date, reviews: int = 2_000) -> list[SampleReview]:
    sample = Sample(FIRST, reviews, 7)
    return [sample.fresh(day, index) for index in range(sample.fresh_count(day))]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inbox with the files of the eighth day."""
    folder = tmp_path_factory.mktemp("inbox")
    write_sample(folder, EIGHTH, FIRST)
    return folder


@pytest.mark.parametrize("day", [FIRST, EIGHTH])
def test_a_day_has_the_promised_shares(day: date) -> None:
    """5,000 reviews, 30/40/30 % by category and 50/30/20 % by tenant, marked synthetic."""
    sample = frame(day)
    assert sample.schema == SAMPLE
    assert sample.height == 5_000
    assert Counter(sample["category"]) == SHARES
    assert Counter(sample["tenant"]) == dict(zip(TENANTS, (2_500, 1_500, 1_000), strict=True))
    assert sample.group_by("tenant", "category").len().height == 9
    assert sample["synthetic"].all()
    assert sample["review_id"].n_unique() == 5_000


def test_labels_and_lengths_are_varied() -> None:
    """Every label occurs; mixed and neutral opinions in about the shares of real feeds."""
    sample = frame(FIRST)
    sentiment = {label: count / sample.height for label, count in Counter(sample["label"]).items()}
    assert 0.07 < sentiment["mixed"] < 0.13
    assert 0.05 < sentiment["neutral"] < 0.11
    columns = TAXONOMY.truth_columns()
    for column, field in columns.items():
        assert set(sample[column]) == set(field.labels)
    words = sample["text"].str.split(" ").list.len()
    assert words.min() in range(12, 20)
    assert words.max() in range(140, 185)
    assert sample["title"].null_count() > 500
    assert set(sample["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_redelivers_reviews_of_the_seven_days_before() -> None:
    """60 % of a day from the eighth on, each the same in every column as when it was new."""
    earlier: dict[str, tuple[object, ...]] = {}
    for back in range(1, 8):
        day = EIGHTH - timedelta(days=back)
        earlier |= {row[0]: row for row in sample_day(day, FIRST, 600).iter_rows()}
    again = [row for row in sample_day(EIGHTH, FIRST, 600).iter_rows() if row[0] in earlier]
    assert len(again) == 360
    assert all(row == earlier[row[0]] for row in again)
    assert len({str(row[0])[:18] for row in again}) == 7
    assert Counter(row[2] for row in again) == {
        "Electronics": 108,
        "Books": 144,
        "Home & Garden": 108,
    }


def test_the_first_days_redeliver_less() -> None:
    """There is less to repeat: nothing on the first day, a seventh of the full share each day."""
    sample = Sample(FIRST, 5_000, 7)
    counts = [5_000 - sample.fresh_count(FIRST + timedelta(days=n)) for n in range(9)]
    assert counts[0] == 0
    assert counts[1] == 428
    assert counts == sorted(counts)
    assert counts[7] == counts[8] == 3_000


def test_no_text_comes_twice_by_accident() -> None:
    """Over ten days, texts that normalise the same are variants put there on purpose."""
    seen: dict[str, list[str]] = {}
    for back in range(10):
        for review in fresh(FIRST + timedelta(days=back), 1_000):
            seen.setdefault(normalise(None, review.text), []).append(review.kind)
    repeated = [kinds for kinds in seen.values() if len(kinds) > 1]
    assert all(kinds.count("variant") >= len(kinds) - 1 for kinds in repeated)


def test_a_review_does_not_repeat_itself() -> None:
    """People say a thing once: each aspect and template is drawn once, and then there is none."""
    _, drawn = Sample(FIRST, 5_000, 7)._start(FIRST, 0)
    aspects = drawn.product.aspects
    assert {drawn.unused(aspects) for _ in aspects} == set(aspects)
    assert drawn.unused(aspects) is None


def test_few_texts_are_alike_by_chance() -> None:
    """A cache that hits on the sample must hit on what was put there, not on the grammar."""
    texts = [review.text for review in fresh(FIRST) if review.kind == "plain"][:500]
    ratios = process.cdist(texts, texts, scorer=fuzz.ratio, score_cutoff=85, workers=1)
    alike = sum(1 for row in ratios if (row > 0).sum() > 1)
    assert alike / len(texts) < 0.01


def test_variants_and_hostile_twins_are_there() -> None:
    """About 3 % harmless variants; about 1 % that one word turns round, and their labels too."""
    day = FIRST + timedelta(days=1)
    kinds = Counter(review.kind for review in fresh(day))
    assert 0.02 < kinds["variant"] / len(fresh(day)) < 0.04
    assert 0.005 < kinds["flipped"] / len(fresh(day)) < 0.02
    before = {review.review_id[-5:]: review for review in fresh(FIRST)}
    for review in fresh(day):
        if review.kind == "flipped":
            twin = before[review.review_id[-5:]]
            words, others = review.text.split(), twin.text.split()
            assert sum(a != b for a, b in zip(words, others, strict=True)) == 1
            assert (review.tenant, review.product_id) == (twin.tenant, twin.product_id)
            assert review.labels["sentiment"] != twin.labels["sentiment"]


def test_a_small_feed_is_complete_too() -> None:
    """Tests and demos ask for a few reviews; the day is still full and its ids are unique."""
    for reviews in (0, 1, 50, 250):
        for offset in (0, 1, 9):
            sample = sample_day(FIRST + timedelta(days=offset), FIRST, reviews)
            assert sample.height == reviews
            assert sample["review_id"].n_unique() == reviews


def test_a_day_before_the_first_is_refused() -> None:
    """It would deliver reviews that no partition can hold."""
    with pytest.raises(ValueError, match="before the first day"):
        sample_day(FIRST - timedelta(days=1), FIRST)


def test_writes_the_same_bytes_in_every_process(inbox: Path, tmp_path: Path) -> None:
    """A second run of a partition must find the very same input."""
    mine = [inbox / tenant / str(EIGHTH) / "sample.jsonl.gz" for tenant in TENANTS]
    code = (
        "import sys, datetime, pathlib;"
        "from review_optimizer_dagster.simulator.sample import write_sample;"
        "write_sample(pathlib.Path(sys.argv[1]), datetime.date(2026, 1, 8),"
        " datetime.date(2026, 1, 1))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment)
    for path in mine:
        other = tmp_path / path.relative_to(inbox)
        assert path.read_bytes() == other.read_bytes()
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    rows = [
        json.loads(line)
        for path in mine
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert len(rows) == 5_000
    assert all(row["synthetic"] is True for row in rows)


def test_the_inbox_reads_every_review_with_its_truth(inbox: Path) -> None:
    """The sample goes the way of any other file: nothing of it may be quarantined."""
    path = inbox / TENANTS[0] / str(EIGHTH) / "sample.jsonl.gz"
    rules = TenantRules(TAXONOMY, {})
    source = Source(path, path.relative_to(inbox).as_posix(), TENANTS[0])
    chunks = list(read_reviews(source, lambda _tenant: rules, InputSettings()))
    reviews = pl.concat([chunk.reviews for chunk in chunks])
    assert reviews.height == 2_500
    assert sum(chunk.quarantined.height for chunk in chunks) == 0
    assert not any(chunk.unknown_truth for chunk in chunks)
    assert reviews["synthetic"].all()
    assert reviews["ts"].null_count() == 0
    names = {field.name for field in TAXONOMY.fields}
    assert all(set(json.loads(truth)) == names for truth in reviews["truth"])


def test_the_lexicon_judge_is_right_about_most_but_not_all() -> None:
    """The demo should pass its gate by merit; hard cases such as irony stay hard."""
    judge = LexiconJudge()
    asked = {field.name: field.labels for field in TAXONOMY.fields}
    reviews = fresh(FIRST)[:1_000]
    right = sum(judge.judge(each.title, each.text, asked) == each.labels for each in reviews)
    assert 0.96 < right / len(reviews) < 1.0


def test_the_grammar_names_only_what_exists() -> None:
    """A misspelt pool or label would show up only on the day that draws it."""
    grammar = writer.load_grammar()
    labels = {field.name: set(field.labels) for field in TAXONOMY.fields}
    for told in [o.labels for o in grammar.outcomes] + [
        x for p in grammar.pivots for x in p.labels
    ]:
        assert set(told) == set(labels)
        assert all(label in labels[field] for field, label in told.items())
    for category in grammar.categories:
        for outcome in set(map(id, grammar.outcomes)):
            found = next(each for each in grammar.outcomes if id(each) == outcome)
            pools = {name for names in (*found.core, *found.more) for name in names}
            assert pools - set(grammar.frames) <= set(category.pools)
            assert pools <= set(grammar.stages)
            assert found.title in category.pools
        for product in category.products:
            for kind, _ in product.aspects:
                assert set(category.predicates[kind]) == set(grammar.frames)
        known = set(category.pools) | {"product", "short", "a_product", "aspect", "predicate"}
        texts = [*category.pools.values(), *grammar.frames.values()]
        texts += [each for moods in category.predicates.values() for each in moods.values()]
        for templates in texts:
            for template in templates:
                assert slots(template) <= known


def slots(template: writer.Template) -> set[str]:
    found: set[str] = set()
    for part in template:
        if isinstance(part, writer.Slot):
            found.add(part.name)
        elif isinstance(part, writer.Choice):
            found |= {name for each in part.of for name in slots(each)}
    return found
