"""What must hold of learned patterns whatever the evidence: they never say more than it shows."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.bounds import Rule, error_bound
from review_optimizer_dagster.core.patterns import (
    EVIDENCE,
    JUDGEMENTS,
    POOLED,
    answer,
    certify,
)
from review_optimizer_dagster.learning.classifier import OutOfFold
from review_optimizer_dagster.settings import PatternSettings
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy
from review_optimizer_dagster_tests.core.test_patterns import ScriptedPattern

FIELDS = ("kind", "scent")
LABELS = ("rose", "iris")
CATEGORIES = ("a", "b", None)
FLOWERS = Taxonomy(
    name="flowers",
    version=1,
    document="note",
    instructions="Name the flower.",
    fields=tuple(LabelField(name=name, question="Which?", labels=LABELS) for name in FIELDS),
)
RULES: tuple[Rule, ...] = ("one-look", "anytime")

seeds = st.integers(0, 2**32 - 1)
rules = st.sampled_from(RULES)
errors = st.sampled_from([0.02, 0.1, 0.3, 0.8])
# Steps of 0.1: ties are what real, rounded scores are full of.
rounded = st.booleans()


def _scores(random: np.random.Generator, rows: int, round_them: bool) -> np.ndarray[Any, Any]:
    scores = random.random(rows)
    return (scores.round(1) if round_them else scores).astype(np.float32)


def _pattern(random: np.random.Generator, round_them: bool, version: str = "v1") -> ScriptedPattern:
    seen = {}
    for field in FIELDS:
        scores = _scores(random, 400, round_them)
        labels = random.choice(LABELS, 400).tolist()
        seen[field] = OutOfFold(labels, scores, random.random(400) > 0.3 * (1 - scores))
    return ScriptedPattern(seen, version)


def _judgements(random: np.random.Generator, round_them: bool) -> pl.DataFrame:
    rows = int(random.integers(1, 500))
    categories = [CATEGORIES[number] for number in random.integers(0, len(CATEGORIES), rows)]
    parts = [
        pl.DataFrame(
            {
                "identity": "i",
                "content_key": [str(number) for number in range(rows)],
                "category": categories,
                "version": "v1",
                "field": field,
                "label": random.choice(LABELS, rows).tolist(),
                "score": _scores(random, rows, round_them).astype(float),
            },
            schema=JUDGEMENTS,
        )
        for field in FIELDS
    ]
    return pl.concat(parts)


def _evidence(
    random: np.random.Generator, judged: pl.DataFrame, grade: float, live: bool = True
) -> pl.DataFrame:
    agrees = random.random(judged.height) > grade * (1 - judged["score"].to_numpy())
    reference = pl.when("agrees").then("label").otherwise(pl.lit("other"))
    return judged.with_columns(
        day=pl.lit(date(2026, 3, 1)),
        agrees=pl.Series(agrees),
        draw=pl.Series(random.random(judged.height)),
        live=pl.Series(live & (random.random(judged.height) < 0.5)),
    ).select(pl.all(), reference=reference)[EVIDENCE.names()]


def _settings(rule: Rule) -> PatternSettings:
    return PatternSettings(rule=rule, category_rows=100, evidence=400)


@settings(deadline=None, max_examples=15)
@given(seed=seeds, max_error=errors, rule=rules, round_them=rounded)
def test_the_order_of_rows_is_nothing(
    seed: int, max_error: float, rule: Rule, round_them: bool
) -> None:
    """Rows come from a database, in any order; what may be served must not hang on it."""
    random = np.random.default_rng(seed)
    pattern, judged = _pattern(random, round_them), _judgements(random, round_them)
    rows = _evidence(random, judged, 0.2)
    found = certify(rows, pattern, max_error, _settings(rule))
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=seed % 1_000)
    assert certify(shuffled, pattern, max_error, _settings(rule)).equals(found)
    mixed = found.sample(fraction=1.0, shuffle=True, seed=1)
    served = answer(judged, found, FLOWERS)
    assert answer(judged.reverse(), mixed, FLOWERS).equals(served)


@settings(deadline=None, max_examples=15)
@given(seed=seeds, max_error=errors, rule=rules, round_them=rounded)
def test_whatever_is_served_is_within_the_bound_that_was_asked(
    seed: int, max_error: float, rule: Rule, round_them: bool
) -> None:
    """A served region is one whose evidence, counted again, has an upper bound that low."""
    random = np.random.default_rng(seed)
    pattern, judged = _pattern(random, round_them), _judgements(random, round_them)
    rows = _evidence(random, judged, 0.2)
    found = certify(rows, pattern, max_error, _settings(rule))
    for row in found.filter(status="serving").iter_rows(named=True):
        region = rows.filter(pl.col("score") >= row["threshold"], field=row["field"])
        region = region.filter(label=row["label"])
        if row["category"] != POOLED:
            region = region.filter(category=row["category"])
            assert (region.height, (~region["agrees"]).sum()) == (row["n"], row["errors"])
        assert row["bound"] <= row["max_error"] == max_error / len(FIELDS)
        if rule == "one-look":
            assert row["bound"] == error_bound(rule, row["errors"], row["n"], 0.95)
    assert (answer(judged, found, FLOWERS)["bound"] <= max_error + 1e-12).all()


@settings(deadline=None, max_examples=15)
@given(seed=seeds, column=st.sampled_from(["identity", "version", "category"]))
def test_nothing_is_served_under_another_s_certificate(seed: int, column: str) -> None:
    """Not of another scope, another version, or another category's own."""
    random = np.random.default_rng(seed)
    pattern, judged = _pattern(random, False), _judgements(random, False)
    found = certify(_evidence(random, judged, 0.0), pattern, 0.8, _settings("one-look"))
    if column == "category":
        found = found.filter(pl.col("category") != POOLED)
    moved = judged.with_columns(pl.lit("elsewhere").alias(column))
    assert answer(moved, found, FLOWERS).is_empty()


@settings(deadline=None, max_examples=25)
@given(seed=seeds, max_error=errors, rule=rules, round_them=rounded)
def test_more_errors_never_serve_more(
    seed: int, max_error: float, rule: Rule, round_them: bool
) -> None:
    """In one group, a disagreement can only take something away."""
    random = np.random.default_rng(seed)
    pattern, judged = _pattern(random, round_them), _judgements(random, round_them)
    judged = judged.with_columns(category=pl.lit(None, pl.String))
    rows = _evidence(random, judged, 0.1, live=False)
    worse = rows.with_columns(
        agrees=pl.col("agrees") & pl.Series(random.random(rows.height) < random.random())
    )
    served, less = (
        answer(judged, certify(each, pattern, max_error, _settings(rule)), FLOWERS)
        for each in (rows, worse)
    )
    assert less.join(served, on=["identity", "content_key"], how="anti").is_empty()


@pytest.mark.parametrize("rule", RULES)
def test_no_error_at_all_can_never_be_shown(rule: Rule) -> None:
    """Whoever allows none asks the model every time, however good the evidence is."""
    random = np.random.default_rng(0)
    pattern, judged = _pattern(random, False), _judgements(random, False)
    found = certify(_evidence(random, judged, 0.0), pattern, 0.0, _settings(rule))
    assert set(found["status"]) == {"abstains"}
    assert (found["bound"] > 0.0).all()
