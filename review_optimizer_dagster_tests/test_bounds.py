"""The bounds hold as often as they say: whatever is served without being asked rests on them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import bdtr, rel_entr

from review_optimizer_dagster.bounds import (
    Certified,
    Rule,
    anytime_upper_bound,
    clopper_pearson,
    error_bound,
    fixed_sequence,
    intervals,
    log_evidence_below,
    lower_bound,
    passes,
    upper_bound,
    weighted_interval,
)

RUNS = 2_000


@pytest.mark.parametrize(("errors", "n"), [(0, 59), (1, 93), (5, 208), (10, 336), (20, 577)])
def test_the_smallest_samples_that_show_five_per_cent(errors: int, n: int) -> None:
    """Known sample sizes of the exact bound; one row fewer must not do."""
    assert upper_bound(errors, n) <= 0.05 < upper_bound(errors, n - 1)


@pytest.mark.parametrize(("errors", "n"), [(0, 1), (3, 40), (17, 300), (40, 41)])
def test_one_sided_bounds_leave_five_per_cent_in_their_tail(errors: int, n: int) -> None:
    """The definition: at the bound, a result this far off has a chance of exactly 5 %."""
    assert bdtr(errors, n, upper_bound(errors, n)) == pytest.approx(0.05)
    if errors:
        assert 1 - bdtr(errors - 1, n, lower_bound(errors, n)) == pytest.approx(0.05)


def test_bounds_at_the_ends() -> None:
    """Without evidence nothing is known, and nothing but errors excludes nothing."""
    for bound in (upper_bound, anytime_upper_bound):
        assert (bound(0, 0), bound(5, 5)) == (1.0, 1.0)
    assert (lower_bound(0, 0), lower_bound(0, 50)) == (0.0, 0.0)


def test_many_intervals_are_those_of_each() -> None:
    """Tables of accuracies take them all at once."""
    correct, n = np.array([0, 3, 10]), np.array([10, 10, 10])
    lower, upper = intervals(correct, n)
    each = [clopper_pearson(int(k), int(of)) for k, of in zip(correct, n, strict=True)]
    assert list(zip(lower, upper, strict=True)) == each


def test_equal_weights_are_the_exact_interval() -> None:
    """A simple random sample must not pay for what it does not need."""
    right = np.array([1.0] * 57 + [0.0] * 3)
    assert weighted_interval(np.full(60, 16.7), right) == clopper_pearson(57, 60)
    assert weighted_interval(np.array([]), np.array([])) == (0.0, 1.0)


@pytest.mark.parametrize(("wrong", "n"), [(0, 80), (2, 80), (15, 200)])
def test_a_weighted_end_is_where_the_divergence_reaches_the_evidence(wrong: int, n: int) -> None:
    """Of one class of weights the bound is Hoeffding's: n KL(seen || end) = log 20."""
    right = np.array([0.0] * wrong + [1.0] * (n - wrong))
    # A hair's difference of weights: the same bound to many digits, by the other way.
    weights = np.linspace(1.0, 1.0 + 1e-6, n)
    lower, upper = weighted_interval(weights, right)
    for seen, end in ((wrong / n, 1 - lower), (1 - wrong / n, upper)):
        if 0 < end < 1:
            gap = n * (rel_entr(seen, end) + rel_entr(1 - seen, 1 - end))
            assert gap == pytest.approx(np.log(20), rel=1e-3)
    assert lower <= clopper_pearson(n - wrong, n)[0] + 1e-6


def test_an_error_of_large_weight_weighs_more() -> None:
    """Half of a day in two labels: one of them wrong leaves little to be sure of."""
    weights = np.array([1.0] * 98 + [49.0] * 2)
    light, heavy = np.ones(100), np.ones(100)
    light[0], heavy[-1] = 0.0, 0.0
    assert weighted_interval(weights, heavy)[0] < weighted_interval(weights, light)[0] < 0.95
    assert weighted_interval(weights, heavy)[1] <= 1.0


@pytest.mark.campaign
def test_weighted_ends_hold_as_often_as_they_say() -> None:
    """Errors where the weights are: the worst place for them, and a bound must stand it."""
    rng = np.random.default_rng(3)
    weights = np.repeat([1.0, 2.0, 20.0], [120, 60, 6])
    chances = np.repeat([0.02, 0.03, 0.04], [120, 60, 6])
    true = float(weights @ (1 - chances)) / weights.sum()
    misses = np.zeros(2)
    for _ in range(400):
        right = (rng.random(len(weights)) >= chances).astype(float)
        lower, upper = weighted_interval(weights, right)
        misses += (lower > true, upper < true)
    assert (misses <= 0.05 * 400).all()


def test_the_ends_stand_texts_that_come_many_times() -> None:
    """Chances next to 1, where floats are short of digits and the worst case likes to be."""
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(60):
        times = np.minimum(rng.zipf(2.0, 200), 20).astype(float)
        right = (rng.random(200) < 0.97).astype(float)
        lower, upper = weighted_interval(times, right)
        misses += not lower <= 0.97 <= upper
    assert misses <= 6  # 10 % of the days


@pytest.mark.parametrize(("errors", "n", "share"), [(0, 30, 0.1), (4, 200, 0.05), (9, 90, 0.02)])
def test_the_evidence_is_the_mean_likelihood_ratio(errors: int, n: int, share: float) -> None:
    """The closed form against the integral that it stands for."""

    def ratio(q: float) -> float:
        return float((q / share) ** errors * ((1 - q) / (1 - share)) ** (n - errors) / share)

    expected, _ = quad(ratio, 0, share)
    found = log_evidence_below(np.array([errors]), np.array([n]), share)[0]
    assert np.exp(found) == pytest.approx(expected)


def test_evidence_of_large_samples_stays_finite_where_it_counts() -> None:
    """Likelihoods of a million rows underflow unless they are logarithms."""
    n = 1_000_000
    assert log_evidence_below(np.array([10_000]), np.array([n]), 0.05)[0] > 1_000
    assert log_evidence_below(np.array([200_000]), np.array([n]), 0.05)[0] < 0
    assert 0.0100 < anytime_upper_bound(10_000, n) < 0.0105


def test_the_anytime_bound_pays_for_the_looks() -> None:
    """It is wider than one look's, and shrinks towards the share all the same."""
    bounds = [anytime_upper_bound(n // 25, n) for n in (100, 400, 1_600, 6_400)]
    assert all(later < earlier for earlier, later in pairwise(bounds))
    assert all(
        error_bound("anytime", n // 25, n, 0.95) > error_bound("one-look", n // 25, n, 0.95) > 0.04
        for n in (100, 400, 1_600, 6_400)
    )


@pytest.mark.parametrize("rule", ["one-look", "anytime"])
def test_passing_is_a_bound_at_or_under_the_limit(rule: Rule) -> None:
    """The fast test and the reported bound must never tell different stories."""
    pairs = [(e, n) for n in (0, 1, 59, 93, 400) for e in range(0, min(n, 30) + 1, 3)]
    errors, n = np.array(pairs).T
    for limit in (0.01, 0.05, 0.5):
        told = [error_bound(rule, int(e), int(of), 0.95) <= limit for e, of in pairs]
        assert passes(rule, errors, n, limit, 0.95).tolist() == told
    assert not passes(rule, errors, n, 0.0, 0.95).any()


def _ever(rule: Rule, share: float, looks: int) -> int:
    """In how many runs a rule EVER says "below" while the true share is exactly that."""
    random = np.random.default_rng(20)
    errors = (random.random((RUNS, looks)) < share).cumsum(axis=1)
    seen, most = np.arange(1, looks + 1), int(errors.max())
    counts = np.minimum(np.arange(most + 1)[:, None], seen)
    table = passes(rule, counts, seen, share, 0.95)
    return int(table[errors, seen - 1].any(axis=1).sum())


@pytest.mark.parametrize("share", [0.015, 0.05, 0.2])
def test_the_anytime_rule_holds_at_all_looks_together(share: float) -> None:
    """Certificates are looked at every day; 2,000 runs with the true error exactly at the limit."""
    assert lower_bound(_ever("anytime", share, 1_500), RUNS) <= 0.05


def test_the_one_look_rule_does_not() -> None:
    """Why there are two rules, and that the simulation would notice."""
    assert _ever("one-look", 0.05, 1_500) > 0.15 * RUNS


LIMIT = 0.04


def _runs(graded: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores uniform in (0, 1), and which rows are wrong; rows by run.

    Graded: with chance 0.16 (1 - score), so that from t on 0.08 (1 - t) are. Else with the same
    chance everywhere, a hair over the limit: whatever is certified is too wrong.
    """
    random = np.random.default_rng(21)
    scores = random.random((RUNS, 1_200))
    chance = 0.16 * (1 - scores) if graded else LIMIT + 1e-6
    return scores, random.random(scores.shape) < chance


@pytest.mark.parametrize("graded", [True, False])
def test_a_fixed_sequence_seldom_certifies_what_is_too_wrong(graded: bool) -> None:
    """Thresholds chosen from other data, ten tests, one chance of 5 % in all; 2,000 runs."""
    scores, wrong = _runs(graded)
    random = np.random.default_rng(22)
    broke = certified = 0
    for run in range(RUNS):
        out_of_fold = random.random(300)
        thresholds = np.quantile(out_of_fold, np.arange(0.75, 0.25, -0.05)).tolist()
        found = fixed_sequence(thresholds, scores[run], wrong[run], LIMIT, "one-look", 0.95)
        certified += found is not None
        broke += found is not None and (not graded or 0.08 * (1 - found.threshold) > LIMIT)
    assert lower_bound(broke, RUNS) <= 0.05
    assert not graded or certified > 0.5 * RUNS


def test_testing_without_an_order_breaks_the_bound() -> None:
    """What the order is for: the laxest that passes by itself is too wrong more often."""
    scores, wrong = _runs(graded=False)
    broke = np.zeros(RUNS, dtype=bool)
    for threshold in np.arange(0.75, 0.25, -0.05):
        over = scores >= threshold
        errors = (over & wrong).sum(axis=1)
        broke |= passes("one-look", errors, over.sum(axis=1), LIMIT, 0.95)
    assert broke.sum() > 0.1 * RUNS


def test_the_sequence_stops_at_the_first_failure() -> None:
    """What passes after a failure passed by luck."""
    scores = np.repeat([0.9, 0.8, 0.7], [100, 20, 1_000])
    wrong = np.concatenate([np.zeros(100), np.ones(20), np.zeros(1_000)]).astype(bool)
    alone = fixed_sequence([0.7], scores, wrong, 0.05, "one-look", 0.95)
    assert alone == Certified(0.7, 1_120, 20, upper_bound(20, 1_120))
    ordered = fixed_sequence([0.9, 0.8, 0.7], scores, wrong, 0.05, "one-look", 0.95)
    assert ordered == Certified(0.9, 100, 0, upper_bound(0, 100))
    assert fixed_sequence([0.8, 0.9], scores, wrong, 0.05, "one-look", 0.95) is None
    assert fixed_sequence([], scores, wrong, 0.05, "one-look", 0.95) is None


def test_a_region_that_once_passed_for_all_time_stays() -> None:
    """A bound that holds at all looks holds later too; the order of the rows is that of time."""
    scores = np.full(230, 0.9)
    wrong = np.arange(230) >= 200
    early = fixed_sequence([0.5], scores, wrong, 0.05, "anytime", 0.95)
    assert early == Certified(0.5, 230, 30, anytime_upper_bound(0, 200))
    assert fixed_sequence([0.5], scores, wrong[::-1], 0.05, "anytime", 0.95) is None
    assert fixed_sequence([0.95], scores, wrong, 0.05, "anytime", 0.95) is None
