"""How wrong a share may be: exact binomial bounds, for the gate's accuracy and the certificates.

Two rules bound an error share from above. `one-look` is exact for evidence that is looked at once;
`anytime` holds at every look at once, however often evidence is added, and needs more of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Rule: TypeAlias = Literal["one-look", "anytime"]
Array: TypeAlias = "np.ndarray[Any, Any]"

_HALVINGS = 50  # of the unit interval: bounds are exact to 1e-15
_EXACT = 1e-8  # relative, of what a weighted bound is found by
_MOST_TILT = 500.0  # beyond it a chance is 0, and its exponential no float


def clopper_pearson(correct: float, n: int, confidence: float = 0.90) -> tuple[float, float]:
    """The exact two-sided interval of a share, (0, 1) for n = 0.

    Each end is by itself a one-sided bound of confidence (1 + confidence) / 2. Clopper & Pearson,
    "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
    26 (1934), 404-413; by quantiles of the beta distribution.
    """
    import numpy as np

    lower, upper = intervals(np.array([correct]), np.array([n]), confidence)
    return float(lower[0]), float(upper[0])


def intervals(correct: Array, n: Array, confidence: float = 0.90) -> tuple[Array, Array]:
    """`clopper_pearson` of many shares at once: the lower ends, the upper ends."""
    import numpy as np
    from scipy.special import betaincinv

    tail, wrong = (1 - confidence) / 2, n - correct
    # The beta quantile has no value where one of its counts is 0; the bound is 0 or 1 there.
    lower = betaincinv(np.maximum(correct, 1e-9), wrong + 1, tail)
    upper = betaincinv(correct + 1, np.maximum(wrong, 1e-9), 1 - tail)
    return np.where(correct > 0, lower, 0.0), np.where(wrong > 0, upper, 1.0)


def weighted_interval(
    weights: Array, right: Array, confidence: float = 0.90
) -> tuple[float, float]:
    """The two-sided interval of a weighted share, (0, 1) without units; each end is one-sided.

    weights: of each independent unit (a text), what it stands for, above 0; right: float, how much
    of it is right, 0 to 1. Where all weigh the same and each is right or wrong, this is
    `clopper_pearson` of the counts, which holds for units of unlike chances as well (Hoeffding, "On
    the distribution of the number of successes in independent trials", Annals of Mathematical
    Statistics 27 (1956), 713-721). Otherwise each end is a Chernoff bound, at its worst over how
    the wrong may lie among the weights; sampling without replacement only makes it safer.
    """
    import numpy as np

    if not len(weights):
        return 0.0, 1.0
    if np.allclose(weights, weights[0], rtol=1e-9) and bool(np.isin(right, (0, 1)).all()):
        return clopper_pearson(round(float(right.sum())), len(weights), confidence)
    classes, place, counts = np.unique(weights, return_inverse=True, return_counts=True)
    steps = classes / float((classes * counts).sum())
    share = float((steps * np.bincount(place, right, minlength=len(classes))).sum())
    evidence = -math.log((1 - confidence) / 2)
    return (
        1.0 - _chernoff_upper(1.0 - share, steps, counts, evidence),
        _chernoff_upper(share, steps, counts, evidence),
    )


def _chernoff_upper(share: float, steps: Array, counts: Array, evidence: float) -> float:
    """The largest mean of a weighted sum under which a sum of `share` is not yet too unlikely.

    steps: what a unit of each class adds to the sum at most; counts: its units. For chances p,
    P(sum <= share) <= exp(-evidence) where the sum over units of KL(q || p) reaches `evidence` for
    every q of the sum seen: Hoeffding, "Probability inequalities for sums of bounded random
    variables", JASA 58 (1963), 13-30. Jointly convex in p and q, so that the worst p of a mean is
    where Lagrange's conditions hold: logit q = logit p - tilt * step, (p - q) / (p (1 - p)) =
    level * step.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import rel_entr

    if share >= 1.0 - 1e-12:
        return 1.0
    mass = steps * counts  # adds up to 1
    if share <= 1e-12:  # the limit of an endless tilt: no q is above 0

        def short_at(log_level: float) -> float:
            gap = np.maximum(0.0, log_level + np.log(steps))
            return float((counts * gap).sum()) - evidence

        least = -math.log(float(steps.max()))
        most = evidence / float(counts.sum()) - math.log(float(steps.min()))
        level = math.exp(brentq(short_at, least, most, xtol=_EXACT))
        return float((mass * np.maximum(0.0, 1 - 1 / (level * steps))).sum())

    def chances(tilt: float) -> tuple[Array, Array]:
        """The worst p whose tilted q have the sum that was seen."""
        turn = np.minimum(tilt * steps, _MOST_TILT)
        drop = -np.expm1(-turn)

        def at(log_level: float) -> tuple[Array, Array]:
            p = np.clip(1 / drop - np.exp(-log_level) / steps, 0.0, 1.0)
            kept = p * np.exp(-turn)
            return p, kept / (kept + (1 - p))  # exactly 1 where p is

        ends = np.log(np.min(drop / steps)), np.log(np.max(np.expm1(turn) / steps))

        def excess(log_level: float) -> float:
            return float(mass @ at(log_level)[1]) - share

        return at(brentq(excess, *ends, xtol=_EXACT))

    def short_of(tilt: float) -> float:
        p, q = chances(tilt)
        return float((counts * (rel_entr(q, p) + rel_entr(1 - q, 1 - p))).sum()) - evidence

    low = high = 1e-3 / float(steps.max())
    while short_of(high) < 0 and high * float(steps.min()) < _MOST_TILT:
        low, high = high, 4.0 * high
    if short_of(high) < 0:
        return 1.0  # nearer to it than floats tell
    return float(mass @ chances(brentq(short_of, low, high, xtol=_EXACT * high))[0])


def upper_bound(errors: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of an error share; 1.0 for n = 0.

    >>> round(upper_bound(0, 59), 4)
    0.0495
    """
    return clopper_pearson(errors, n, 2 * confidence - 1)[1]


def lower_bound(errors: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound of an error share; 0.0 for n = 0."""
    return clopper_pearson(errors, n, 2 * confidence - 1)[0]


def anytime_upper_bound(errors: int, n: int, confidence: float = 0.95) -> float:
    """Upper bound of an error share that holds at every n at once; 1.0 for n = 0.

    The smallest share against which the evidence reaches 1 / (1 - confidence), see
    `log_evidence_below`; Ville, "Étude critique de la notion de collectif" (1939).
    """
    import numpy as np

    return float(anytime_upper_bounds(np.array([errors]), np.array([n]), confidence)[0])


def error_bound(rule: Rule, errors: int, n: int, confidence: float) -> float:
    """The one-sided upper bound of an error share by a rule, from the counts as they stand."""
    if rule == "one-look":
        return upper_bound(errors, n, confidence)
    return anytime_upper_bound(errors, n, confidence)


def log_evidence_below(errors: Array, n: Array, share: float | Array) -> Array:
    """Logarithm of the evidence (an e-value) that an error share is below `share`, in (0, 1).

    The likelihood ratio of q to `share`, averaged over q uniform on (0, share): a Beta(1, 1)
    mixture truncated to what the hypothesis excludes. While the true share is `share` or more it
    is a non-negative supermartingale that starts at 1, so the chance that it EVER reaches
    1 / alpha is at most alpha. Uniform, since q / share then has one distribution for every share,
    which makes the evidence grow with `share`: the bounds are one interval. Robbins, "Statistical
    methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41
    (1970), 1397-1409; Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
    betting", JRSS B 86 (2024), 1-27.
    """
    import numpy as np
    from scipy.special import betainc, betaln

    right = n - errors
    # The incomplete beta underflows only far above `share`, where minus infinity is as good.
    with np.errstate(divide="ignore"):
        averaged = betaln(errors + 1, right + 1) + np.log(betainc(errors + 1, right + 1, share))
    evidence: Array = averaged - (errors + 1) * np.log(share) - right * np.log1p(-share)
    return evidence


def passes(rule: Rule, errors: Array, n: Array, max_error: float, confidence: float) -> Array:
    """Whether `error_bound` is at or under `max_error`, of many counts at once."""
    import numpy as np
    from scipy.special import betainc

    if not 0.0 < max_error < 1.0:
        return np.full(np.shape(n), max_error >= 1.0)
    if rule == "one-look":
        right = n - errors  # the chance of so few errors is that of so many right, by a beta
        tail = betainc(np.maximum(right, 1e-9), errors + 1, 1 - max_error)
        passed: Array = (tail <= 1 - confidence) & (right > 0)
        return passed
    reached: Array = log_evidence_below(errors, n, max_error) >= -np.log1p(-confidence)
    return reached


def anytime_upper_bounds(errors: Array, n: Array, confidence: float) -> Array:
    """`anytime_upper_bound` of many counts at once."""
    import numpy as np

    lower, upper = np.zeros(len(n)), np.ones(len(n))
    for _ in range(_HALVINGS):
        middle = (lower + upper) / 2
        enough = log_evidence_below(errors, n, middle) >= -np.log1p(-confidence)
        lower, upper = np.where(enough, lower, middle), np.where(enough, middle, upper)
    return np.where(n > errors, upper, 1.0)


@dataclass(frozen=True)
class Certified:
    """A region (scores at or over the threshold) whose error share is bounded, and by what."""

    threshold: float
    n: int
    errors: int
    bound: float


def fixed_sequence(
    thresholds: Sequence[float],
    scores: Array,
    wrong: Array,
    max_error: float,
    rule: Rule,
    confidence: float,
) -> Certified | None:
    """The last of the thresholds, tested in their order, that passed before the first failed.

    scores: float, wrong: bool, of the same rows. The thresholds and their order must not depend on
    `wrong`; then the chance that any region certified has an error share over `max_error` is at
    most 1 - confidence, without a correction for their number: Maurer, Hothorn & Lehmacher,
    "Multiple comparisons in drug clinical trials and preclinical assays" (1995); Bauer, "Multiple
    testing in clinical trials", Statistics in Medicine 10 (1991), 871-890; for risk control
    Angelopoulos et al., "Learn then test" (2021). By the rule `anytime` the order of the rows is
    that in which they were seen, and a region that once passed has passed: its bound is the least
    that it ever had.
    """
    bound_of: Callable[[Array, float], float] = (
        _bound_now if rule == "one-look" else _least_bound_ever
    )
    last: Certified | None = None
    for threshold in thresholds:
        region = wrong[scores >= threshold].astype(int)
        bound = bound_of(region, confidence)
        if bound > max_error:
            break
        last = Certified(float(threshold), len(region), int(region.sum()), bound)
    return last


def _bound_now(wrong: Array, confidence: float) -> float:
    return upper_bound(int(wrong.sum()), len(wrong), confidence)


def _least_bound_ever(wrong: Array, confidence: float) -> float:
    import numpy as np

    if not len(wrong):
        return 1.0
    # Every right row lowers the bound, so it is least just before an error or at the end.
    ends = np.union1d(np.flatnonzero(wrong), [len(wrong)])
    errors = np.concatenate([[0], np.cumsum(wrong)])[ends]
    return float(anytime_upper_bounds(errors, ends, confidence).min())
