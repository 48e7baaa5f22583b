"""How wrong a share may be: exact binomial bounds, for the gate's accuracy and the certificates.

Two rules bound an error share from above. `one-look` is exact for evidence that is looked at once;
`anytime` holds at every look at once, however often evidence is added, and needs more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Rule: TypeAlias = Literal["one-look", "anytime"]
Array: TypeAlias = "np.ndarray[Any, Any]"

_HALVINGS = 50  # of the unit interval: bounds are exact to 1e-15


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

    return float(_anytime_upper_bounds(np.array([errors]), np.array([n]), confidence)[0])


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


def _anytime_upper_bounds(errors: Array, n: Array, confidence: float) -> Array:
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
    return float(_anytime_upper_bounds(errors, ends, confidence).min())
