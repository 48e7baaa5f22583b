"""When a day counts as drift: how often without any, how soon with it, and how an episode ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from review_optimizer_dagster.monitors.drift import (
    ALARMS,
    NEW_CATEGORY,
    TESTS,
    compare,
    days_needed,
    judge,
    shares,
    strongest,
)
from review_optimizer_dagster.monitors.profile import PROFILES
from review_optimizer_dagster.monitors.settings import DriftSettings

FIRST = date(2026, 3, 2)
SETTINGS = DriftSettings()
Mix = Mapping[str, int]
EVEN: Mix = {"negative": 250, "positive": 250}
BAD: Mix = {"negative": 350, "positive": 150}
SERIES = {"tenant": "acme", "taxonomy": "reviews", "simulated": False}


def _jitter(mix: Mix, number: int) -> Mix:
    """The mix as a day has it: a few reviews more of one bucket, fewer of another."""
    names = sorted(mix)
    shift = (number * 7) % 11 - 5
    moved = dict(mix)
    if len(names) > 1:
        moved[names[0]] += shift
        moved[names[-1]] -= shift
    return moved


def _profiles(days: Sequence[tuple[date, Mix]], signal: str, category: str = "") -> pl.DataFrame:
    rows = [
        SERIES | {"day": day, "category": category, "signal": signal, "bucket": name, "reviews": n}
        for day, mix in days
        for name, n in mix.items()
        if n
    ]
    return pl.DataFrame(rows, {"day": pl.Date(), **PROFILES}, orient="row")


def _watched(
    mixes: Sequence[Mix],
    signal: str = "label:sentiment",
    settings: DriftSettings = SETTINGS,
    category: str = "",
) -> list[pl.DataFrame]:
    """Judge one day after the other, as the pipeline does; the tests of each day."""
    days = [(FIRST + timedelta(days=n), _jitter(mix, n)) for n, mix in enumerate(mixes)]
    profiles = _profiles(days, signal, category)
    known = [ALARMS.to_frame()]
    found = []
    for day, _ in days:
        since = day - timedelta(days=days_needed(settings))
        seen = profiles.filter(pl.col("day").is_between(since, day))
        tests = judge(seen, pl.concat(known), day, settings)
        found.append(tests)
        known.append(tests.select(pl.lit(day).alias("day"), *ALARMS.names()[1:]))
    return found


def _alarms(found: Sequence[pl.DataFrame]) -> list[int]:
    """The numbers of the days with an alarm."""
    return [number for number, tests in enumerate(found) if tests["alarm"].any()]


def _draws(
    generator: np.random.Generator, shares: Any, days: int, n: int, spread: float
) -> np.ndarray[Any, Any]:
    """Days whose mix varies about these shares."""
    mixes = generator.dirichlet(np.array(shares) * spread, size=days)
    return np.array([generator.multinomial(n, mix) for mix in mixes], dtype=float)


@pytest.mark.parametrize("spread", [1e9, 200.0])
@pytest.mark.parametrize("buckets", [2, 10, 32])
def test_days_that_vary_anyway_are_told_no_more_often_than_the_level_says(
    buckets: int, spread: float
) -> None:
    """A chi-square of independent reviews would call half of the varying days drift."""
    generator = np.random.default_rng([buckets, int(spread)])
    mix = generator.dirichlet(np.full(buckets, 5.0))
    values = []
    for _ in range(400):
        days = _draws(generator, mix, 29, 1_000, spread)
        values.append(compare(days[0], days[1:]).p_value)
    assert np.mean(np.array(values) < 0.05) < 0.05 + 3 * 0.011
    assert np.mean(np.array(values) < 0.001) <= 2 / 400


def test_where_one_direction_varies_its_own_variation_is_what_counts() -> None:
    """One product's sale moves one bucket of ten: spread over nine it would look small."""
    generator, values = np.random.default_rng(5), []
    for _ in range(400):
        first = generator.beta(60, 60, size=29)
        days = np.array(
            [generator.multinomial(1_000, [one, *([(1 - one) / 9] * 9)]) for one in first],
            dtype=float,
        )
        values.append(compare(days[0], days[1:]).p_value)
    assert np.mean(np.array(values) < 0.001) <= 4 / 400


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_weeks_of_days_that_are_like_the_day_before_vary_by_more(memory: float) -> None:
    """Seven days in one mood are one day's evidence, not seven days'."""
    generator, values = np.random.default_rng(11), []
    for _ in range(400):
        mood, logits = generator.normal(), []
        for _ in range(35):
            mood = memory * mood + (1 - memory**2) ** 0.5 * generator.normal()
            logits.append(0.2 * mood)
        positive = generator.binomial(1_000, 1 / (1 + np.exp(-np.array(logits))))
        days = np.column_stack([1_000 - positive, positive]).astype(float)
        values.append(compare(days[28:].sum(axis=0), days[:28], 7).p_value)
    assert np.mean(np.array(values) < 0.001) <= 4 / 400


def test_a_moved_mix_is_told_and_how_far() -> None:
    """Distance is the share of reviews in the wrong bucket."""
    days = np.tile([500.0, 500.0], (28, 1))
    result = compare(np.array([600.0, 400.0]), days)
    assert result.p_value < 1e-5
    assert result.distance == pytest.approx(0.1)
    assert result.dispersion == 1.0
    assert compare(np.array([500.0, 500.0]), days).p_value == pytest.approx(1.0)


def test_the_same_difference_is_nothing_where_days_differ_as_much() -> None:
    """What is drift for a steady tenant is a Tuesday for another."""
    swings = np.array([[500.0 + 100 * (-1) ** n, 500.0 - 100 * (-1) ** n] for n in range(28)])
    result = compare(np.array([600.0, 400.0]), swings)
    assert result.dispersion > 10
    assert result.p_value > 0.05


def test_a_bucket_that_is_new_is_told_exactly() -> None:
    """A language that was never there has no expected count, and no chi-square."""
    days = np.tile([1_000.0, 0.0], (28, 1))
    assert compare(np.array([970.0, 30.0]), days).p_value < 1e-6
    assert compare(np.array([999.0, 1.0]), days).p_value > 0.01


def test_rare_buckets_that_come_in_bursts_are_allowed_theirs() -> None:
    """Ten reviews of one sender are one event, not ten."""
    days = np.array([[1_000.0, 10.0 * (n % 14 == 0)] for n in range(28)])
    assert compare(np.array([990.0, 10.0]), days).p_value > 0.01


def test_a_single_bucket_tells_nothing() -> None:
    """Everything in one language, then and now."""
    result = compare(np.array([500.0]), np.full((28, 1), 400.0))
    assert (result.p_value, result.df, result.distance) == (1.0, 0, 0.0)


def test_a_change_is_caught_on_its_day_and_becomes_the_normal_after_a_week() -> None:
    """Told while it is news; not for ever, and not absorbed before anybody has seen it."""
    found = _watched([EVEN] * 30 + [BAD] * 12)
    assert _alarms(found) == [30, 31, 32, 33, 34, 35, 36]
    assert not found[36]["new_normal"].any()
    after = found[37].filter(horizon="day")
    assert after["new_normal"].all()
    assert after["baseline_from"].to_list() == [FIRST + timedelta(days=30)]
    assert after["baseline_days"].to_list() == [7]


def test_going_back_after_the_new_normal_is_drift_again() -> None:
    """The old mix is as unexpected then as the new one was."""
    assert _alarms(_watched([EVEN] * 30 + [BAD] * 10 + [EVEN] * 9)) == [
        *range(30, 37),
        *range(40, 47),
    ]


def test_days_of_drift_are_no_part_of_what_later_days_are_compared_with() -> None:
    """Absorbed, three odd days would hide the fourth."""
    found = _watched([EVEN] * 30 + [BAD] * 3 + [EVEN] * 5 + [BAD])
    assert _alarms(found) == [30, 31, 32, 38]
    last = found[38].filter(horizon="day").row(0, named=True)
    assert last["baseline_days"] == 28 - 3
    assert last["dispersion"] == 1.0


def test_one_odd_day_does_not_make_its_week_odd() -> None:
    """The day has told of it; six more days of the same alarm tell nothing."""
    awful: Mix = {"negative": 490, "positive": 10}
    assert _alarms(_watched([EVEN] * 40 + [awful] + [EVEN] * 8)) == [40]


def test_slow_drift_is_caught_by_the_week() -> None:
    """Too little for any day, and too much for seven of them."""
    slightly: Mix = {"negative": 274, "positive": 226}
    found = _watched([EVEN] * 40 + [slightly] * 7)
    alarmed = pl.concat([tests.filter("alarm") for tests in found])
    assert alarmed.height > 0
    assert set(alarmed["horizon"]) == {"week"}
    assert min(_alarms(found)) > 40


def test_the_first_week_has_nothing_to_be_compared_with() -> None:
    """Day one passes, and so does a tenant with ten reviews."""
    found = _watched([EVEN] * 8)
    assert [tests.height for tests in found] == [0] * 7 + [1]
    assert found[0].schema == TESTS
    few: Mix = {"negative": 6, "positive": 6}
    assert [tests.height for tests in _watched([few] * 20)] == [0] * 20


def test_days_with_few_reviews_neither_end_an_episode_nor_stretch_it() -> None:
    """A holiday in the middle of it is no news."""
    few: Mix = {"negative": 40, "positive": 40}
    found = _watched([EVEN] * 30 + [BAD] * 3 + [few] + [BAD] * 6)
    assert _alarms(found) == [30, 31, 32, 34, 35, 36, 37]


@pytest.mark.parametrize(
    ("signal", "better", "worse"),
    [
        ("level", {"l1": 350, "model": 150}, {"l1": 150, "model": 350}),
        ("audit", {"agrees": 350, "disagrees": 150}, {"agrees": 150, "disagrees": 350}),
    ],
)
def test_what_gets_better_is_no_drift(signal: str, better: Mix, worse: Mix) -> None:
    """A growing archive answers more every day; only what it loses needs a look."""
    even = dict.fromkeys(better, 250)
    assert _alarms(_watched([even] * 20 + [better], signal)) == []
    assert _alarms(_watched([even] * 20 + [worse], signal)) == [20]


def test_fewer_rechecks_than_reviews_are_enough() -> None:
    """A day has some dozens of them."""
    mix: Mix = {"agrees": 45, "disagrees": 5}
    broken: Mix = {"agrees": 15, "disagrees": 35}
    assert _alarms(_watched([mix] * 20 + [broken], "audit")) == [20]


def test_a_category_that_nobody_knows_is_told_as_such() -> None:
    """An importer that renames a category changes nothing else."""
    known: Mix = {"Books": 300, "Lamps": 200}
    renamed: Mix = {"Books": 300, "Lamps": 0, "Lighting": 200}
    found = _watched([known] * 20 + [renamed], "category")
    signals = set(found[-1].filter("alarm")["signal"])
    assert signals == {"category", NEW_CATEGORY}


def test_categories_that_come_and_go_are_what_is_normal() -> None:
    """Where every day has a new one of its own, another one is no drift."""
    days: list[Mix] = [{"Books": 460, f"c{number}": 40} for number in range(25)]
    assert _alarms(_watched(days, "category")) == []


def test_a_certain_but_tiny_difference_is_no_alarm() -> None:
    """With a million reviews a day, a tenth of a per cent is beyond doubt, and beside the point."""
    large: Mix = {"negative": 500_000, "positive": 500_000}
    slightly: Mix = {"negative": 510_000, "positive": 490_000}
    found = _watched([large] * 20 + [slightly])
    assert found[-1]["p_adjusted"].min() < 1e-9  # type: ignore[operator]
    assert _alarms(found) == []
    strict = DriftSettings(min_distance=0.0)
    assert 20 in _alarms(_watched([large] * 20 + [slightly], settings=strict))


def test_the_tests_of_a_day_share_its_level() -> None:
    """Fifty categories have fifty chances of a false alarm; one that is alone has one."""
    days = [(FIRST + timedelta(days=n), _jitter(EVEN, n)) for n in range(20)]
    today: Mix = {"negative": 300, "positive": 200}  # p of 1 in 3,000 by itself
    day = FIRST + timedelta(days=20)
    parts = [
        _profiles([*days, (day, today if n == 0 else EVEN)], "length", f"{n}") for n in range(50)
    ]
    alone = judge(parts[0], ALARMS.to_frame(), day, SETTINGS).filter(horizon="day")
    among = judge(pl.concat(parts), ALARMS.to_frame(), day, SETTINGS).filter(
        horizon="day", category="0"
    )
    assert alone["alarm"].to_list() == [True]
    assert among["alarm"].to_list() == [False]
    assert among["p_value"].to_list() == alone["p_value"].to_list()
    assert among["p_adjusted"].item() == pytest.approx(100 * alone["p_value"].item())


def test_what_was_alarmed_needs_less_to_go_on() -> None:
    """An episode must not end, and be told again, for a day that is nearly as odd."""
    nearly: Mix = {"negative": 300, "positive": 200}
    days = [(FIRST + timedelta(days=n), _jitter(EVEN, n)) for n in range(21)]
    quiet = [
        _profiles([*days, (FIRST + timedelta(days=21), EVEN)], "length", f"{n}") for n in range(20)
    ]
    profiles = pl.concat(
        [*quiet, _profiles([*days, (FIRST + timedelta(days=21), nearly)], "label:x")]
    )
    before = SERIES | {
        "day": FIRST + timedelta(days=20),
        "category": "",
        "signal": "label:x",
        "horizon": "day",
        "alarm": True,
    }
    day = FIRST + timedelta(days=21)
    for alarms, alarmed in (
        (ALARMS.to_frame(), False),
        (pl.DataFrame([before], ALARMS, orient="row"), True),
    ):
        tests = judge(profiles, alarms, day, SETTINGS).filter(signal="label:x", horizon="day")
        assert tests["alarm"].to_list() == [alarmed]


def test_simulated_days_are_compared_with_simulated_ones() -> None:
    """A rehearsal answers otherwise than the model, and is no drift of it."""
    days = [(FIRST + timedelta(days=n), EVEN) for n in range(20)]
    day = FIRST + timedelta(days=20)
    simulated = _profiles([(day, BAD)], "label:x").with_columns(simulated=pl.lit(True))
    profiles = pl.concat([_profiles([*days, (day, EVEN)], "label:x"), simulated])
    tests = judge(profiles, ALARMS.to_frame(), day, SETTINGS)
    assert tests["simulated"].unique().to_list() == [False]
    assert not tests["alarm"].any()


def test_the_same_profiles_give_the_same_tests_in_any_order() -> None:
    """A day that is run again must not change what was said of it."""
    days = [(FIRST + timedelta(days=n), _jitter(EVEN, n)) for n in range(20)]
    profiles = pl.concat(
        [_profiles([*days, (FIRST + timedelta(days=20), BAD)], f"label:{n}") for n in range(4)]
    )
    day = FIRST + timedelta(days=20)
    one = judge(profiles, ALARMS.to_frame(), day, SETTINGS)
    two = judge(
        profiles.sample(fraction=1.0, shuffle=True, seed=3), ALARMS.to_frame(), day, SETTINGS
    )
    assert one.equals(two)


def test_what_moved_is_shown_beside_what_was_normal() -> None:
    """Whoever gets the alert wants to see what changed, not a p-value."""
    days = [(FIRST + timedelta(days=n), EVEN) for n in range(20)]
    day = FIRST + timedelta(days=20)
    profiles = _profiles([*days, (day, BAD)], "label:sentiment")
    alarmed = strongest(judge(profiles, ALARMS.to_frame(), day, SETTINGS))
    moved = shares(profiles, alarmed, day).select("bucket", "share", "baseline_share").rows()
    assert sorted(moved) == [("negative", 0.7, 0.5), ("positive", pytest.approx(0.3), 0.5)]
