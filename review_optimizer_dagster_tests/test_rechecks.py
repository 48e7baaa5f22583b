"""Which hits are rechecked, and what disagreement says of a level."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.bounds import lower_bound
from review_optimizer_dagster.rechecks import (
    LEVEL_ERRORS,
    distrusted,
    draw,
    drawn,
    judged,
    level_errors,
)
from review_optimizer_dagster.settings import RecheckSettings

DAY = date(2026, 3, 4)
SETTINGS = RecheckSettings(share=0.02, new_share=0.05, most_unaudited=0.01)


def texts(*rows: dict[str, Any]) -> pl.DataFrame:
    """Hits of one old, vetted entry each, among 1,000 reviews, unless told otherwise."""
    common = {
        "identity": "i",
        "source_key": None,
        "level": "l3_exact",
        "draw": 0.5,
        "least": None,
        "reviews": 1,
        "comes_again": False,
        "answered_before": True,
        "vetted": True,
        "entry_reviews": 0,
        "identity_reviews": 1_000,
    }
    filled = [common | {"source_key": f"s{number}"} | row for number, row in enumerate(rows)]
    return pl.DataFrame(filled, schema_overrides={"least": pl.Float64})


def asked(*rows: dict[str, Any]) -> list[tuple[float, bool]]:
    found = drawn(texts(*rows), SETTINGS)
    return found.select("asked", "audit").rows()


def test_the_draw_is_uniform_and_for_ever() -> None:
    """A recheck that was drawn once must be drawn again, and each text have the same chance."""
    keys = pl.Series([f"{number:032x}" for number in range(20_000)])
    draws = draw(keys, DAY, 0)
    assert draws.equals(draw(keys, DAY, 0))
    assert draws.is_between(0, 1, closed="left").all()
    for share in (0.02, 0.05, 0.5):
        drawn_share = (draws < share).mean()
        assert drawn_share == pytest.approx(share, abs=4 * (share / 20_000) ** 0.5)
    for other in (draw(keys, DAY + timedelta(days=1), 0), draw(keys, DAY, 1)):
        assert abs(pl.DataFrame([draws, other.alias("other")]).corr()["other"][0]) < 0.03


@pytest.mark.parametrize(
    ("row", "probability"),
    [
        ({}, 0.02),
        ({"answered_before": False}, 0.05),
        ({"comes_again": True}, 0.1),
        ({"least": 0.4}, 0.4),
        ({"least": 0.001}, 0.02),
        ({"least": 0.01, "answered_before": False}, 0.05),
        ({"least": 7.0}, 1.0),
        ({"level": None, "source_key": None}, 1.0),
    ],
)
def test_the_probability_goes_by_the_entry(row: dict[str, Any], probability: float) -> None:
    """New entries are asked more, and what a certificate needs comes on top; a miss is asked."""
    ((found, audit),) = asked(row)
    assert found == probability
    assert audit == (row.get("level", "hit") is not None and found > 0.5)


def test_a_hit_is_rechecked_where_its_draw_is_under_its_probability() -> None:
    """The one rule that makes every smaller sample part of the larger ones."""
    rows = [{"draw": 0.0199}, {"draw": 0.02}, {"draw": 0.0499, "answered_before": False}]
    assert [audit for _, audit in asked(*rows)] == [True, False, True]


def test_an_entry_that_would_answer_too_much_is_rechecked_once() -> None:
    """On the text with the smallest draw: any other choice would bias the random sample."""
    rows = [{"source_key": "s", "vetted": False, "draw": u, "reviews": 4} for u in (0.9, 0.3, 0.6)]
    assert asked(*rows) == [(0.02, False), (1.0, True), (0.02, False)]
    assert asked(*rows[:2], {"reviews": 4}) == [(0.02, False)] * 3, "8 of 1,000 is allowed"


@pytest.mark.parametrize(
    "spared",
    [
        {"vetted": True},
        {"level": "l3_pattern", "source_key": "pattern:1"},
        {"reviews": 10},
        {"reviews": 1, "identity_reviews": 3},
    ],
    ids=["vetted", "pattern", "exactly the share", "one review"],
)
def test_what_may_answer_much_unchecked(spared: dict[str, Any]) -> None:
    """A vetted entry, a certified pattern, and what is no large share: one review never is."""
    assert asked({"vetted": False, "reviews": 11}) == [(1.0, True)]
    assert asked({"vetted": False, "reviews": 11} | spared) == [(0.02, False)]


def test_what_an_entry_answered_in_earlier_runs_of_the_day_counts() -> None:
    """Late files come in small numbers; together they are a day."""
    assert asked({"vetted": False, "reviews": 2, "entry_reviews": 9}) == [(1.0, True)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 0.999), st.booleans(), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_the_chance_sample_never_depends_on_what_was_forced(
    rows: list[tuple[str, float, bool, bool]],
) -> None:
    """Thinned to the least probability, exactly the hits under it are left."""
    frame = texts(
        *(
            {"source_key": key, "draw": u, "answered_before": old, "vetted": vetted, "reviews": 20}
            for key, u, old, vetted in rows
        )
    )
    found = drawn(frame, SETTINGS)
    least = float(str(found["asked"].min()))
    sample = found.filter(pl.col("audit") & (pl.col("draw") < least))
    assert sample.height == found.filter(pl.col("draw") < least).height


@pytest.mark.parametrize(
    ("labels", "answer", "agrees"),
    [
        ('{"a": "x", "b": "y"}', '{"b": "y", "a": "x"}', True),
        ('{"a":"x","b":"y"}', '{"a": "x", "b": "z"}', False),
        ('{"a": "x"}', '{"a": "x", "b": "y"}', False),
    ],
)
def test_a_recheck_agrees_where_every_field_does(labels: str, answer: str, agrees: bool) -> None:
    """Written differently is the same; one field of two is not."""
    pair = pl.DataFrame({"labels": [labels], "answer": [answer]})
    assert judged(pair)["agrees"].to_list() == [agrees]


def sample(*rows: tuple[str, str, dict[str, str], dict[str, str]]) -> pl.DataFrame:
    """Audits: identity, level, what was served, what the model said."""
    pairs = [(json.dumps(served), json.dumps(told)) for *_, served, told in rows]
    return judged(
        pl.DataFrame(
            {
                "identity": [identity for identity, *_ in rows],
                "tenant": ["acme"] * len(rows),
                "taxonomy": ["t"] * len(rows),
                "level": [level for _, level, *_ in rows],
                "labels": [labels for labels, _ in pairs],
                "answer": [answer for _, answer in pairs],
            },
            schema_overrides=dict.fromkeys(("identity", "level", "labels", "answer"), pl.String),
        )
    )


def test_errors_are_counted_by_the_label_that_was_served() -> None:
    """What a reader of labels wants to know is how often a label that stands there is wrong."""
    good, bad = {"mood": "good", "topic": "x"}, {"mood": "bad", "topic": "x"}
    found = level_errors(
        sample(
            ("a|real", "l2", good, good),
            ("a|real", "l2", good, bad),
            ("a|real", "l2", bad, bad),
            ("a|simulated", "l2", bad, good),
        )
    )
    assert found.schema == LEVEL_ERRORS
    assert found.select("simulated", "class", "n", "disagreements").rows() == [
        (False, "", 3, 1),
        (False, "mood=bad", 1, 0),
        (False, "mood=good", 2, 1),
        (False, "topic=x", 3, 0),
        (True, "", 1, 1),
        (True, "mood=bad", 1, 1),
        (True, "topic=x", 1, 0),
    ]
    # The exact interval of 1 in 3, from a table of Clopper-Pearson limits.
    assert found.row(0)[-2:] == pytest.approx((0.01695, 0.86465), abs=1e-4)


def test_nothing_rechecked_is_no_error_and_no_row() -> None:
    """A day without rechecks must not look like a day without errors."""
    empty = sample()
    assert level_errors(empty).schema == LEVEL_ERRORS
    assert level_errors(empty).is_empty()


def near(level: str, wrong: int, n: int, identity: str = "i", same: bool = False) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "identity": [identity] * n,
            "content_key": [f"c{number}" for number in range(n)],
            "source_key": [f"c{number}" if same else "s" for number in range(n)],
            "level": [level] * n,
            "day": [DAY] * n,
            "agrees": [number >= wrong for number in range(n)],
        }
    )


def test_a_near_level_is_distrusted_where_it_is_too_wrong_beyond_doubt() -> None:
    """A few disagreements among few rechecks are chance; exact matches are never the reason."""
    allowed = {"i": 0.05, "j": 0.5}
    assert lower_bound(9, 60) > 0.05 > lower_bound(6, 60)
    found = distrusted(
        pl.concat(
            [
                near("l2", 9, 60),
                near("l3_near", 6, 60),
                near("l3_exact", 60, 60),
                near("l2", 60, 60, same=True),
                near("l3_near", 9, 60, "j"),
                near("l3_near", 60, 60, "nobody's"),
            ]
        ),
        allowed,
    )
    assert found.drop("lower").rows() == [("i", "l2", 60, 9, DAY, 0.05)]
    assert found["lower"].to_list() == [lower_bound(9, 60)]
    assert distrusted(near("l2", 1, 1).clear(), allowed).is_empty()
