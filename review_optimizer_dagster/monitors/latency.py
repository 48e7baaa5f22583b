"""Whether requests took longer than their size predicts: one by one, and for a while; pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import polars as pl

from review_optimizer_dagster.monitors.settings import LatencySettings

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

SPREAD_FLOOR: Final = 0.1  # log units: an endpoint as steady as a clock is not watched for 5 %
CLIP: Final = 3.0  # z that counts in the sum: no single request may raise an alert
REFERENCE: Final = 0.5  # Page's k: half of the shift, in spreads, that is found the soonest
SIZE_MARGIN: Final = 1.25  # sizes beyond those of the baseline by more have no verdict
_MAD_TO_SIGMA: Final = 1.4826  # of a normal distribution
_HUBER: Final = 1.345  # 95 % efficient where residuals are normal
_ROUNDS: Final = 20
_LEAST_MS: Final = 0.001  # logarithms need more than 0
_OVERSHOOT: Final = 1.166  # Siegmund's correction for looking once a request, two ends of it
_ANSWERED: Final = ("ok", "partial", "invalid")  # with a whole answer, so with a time that says it

REQUEST_LATENCIES: Final = pl.Schema(
    {
        "request_id": pl.String(),
        "tenant": pl.String(),
        "model": pl.String(),  # that was asked for
        "tier": pl.String(),
        "simulated": pl.Boolean(),
        "sent_at": pl.Datetime("us", "UTC"),
        "reviews": pl.Int64(),
        "fresh_tokens": pl.Int64(),  # of the prompt, those that no prompt cache held
        "completion_tokens": pl.Int64(),
        "latency_ms": pl.Float64(),
        "baseline_requests": pl.Int64(),  # that the expectation rests on; 0: none, no verdict
        "expected_ms": pl.Float64(),  # median for a request of this size; null: no verdict
        "z": pl.Float64(),
        "slow": pl.Boolean(),
        "degraded": pl.Boolean(),  # sent while the model was slow for everybody
    }
)
SIZED: Final = REQUEST_LATENCIES.names()[:10]


class Group(NamedTuple):
    """Whose response times are comparable."""

    model: str
    tier: str
    simulated: bool


@dataclass(frozen=True)
class Baseline:
    """What a request of a size took before, and how much requests differ from it."""

    coefficients: tuple[float, float, float]
    """Milliseconds: of any request, a fresh token of the prompt, a token of the completion."""
    spread: float
    """1.4826 MAD of the log residuals, at least SPREAD_FLOOR."""
    mean: float
    """Of the clipped z of the requests it was fitted on."""
    deviation: float
    """Standard deviation of their sums, a request: at least 1, more where neighbours are alike."""
    requests: int
    fresh: tuple[float, float]
    """Least and most fresh tokens of the prompt that were seen."""
    written: tuple[float, float]
    """Least and most tokens of a completion that were seen."""

    def expected_ms(self, fresh: Array, written: Array) -> Array:
        """The median latency of requests of these sizes; NaN for sizes that are unlike any seen."""
        import numpy as np

        known = np.ones(len(fresh), dtype=bool)
        for sizes, (least, most) in ((fresh, self.fresh), (written, self.written)):
            known &= (sizes * SIZE_MARGIN >= least) & (sizes <= most * SIZE_MARGIN)
        predicted: Array = _design(fresh, written) @ np.array(self.coefficients)
        return np.where(known & (predicted > 0), predicted, np.nan)

    def z(self, latency_ms: Array, expected_ms: Array) -> Array:
        """The robust z-score of the log residual: 0 is the median, 1 a spread slower."""
        import numpy as np

        z: Array = np.log(latency_ms / expected_ms) / self.spread
        return z

    def scores(self, z: Array) -> Array:
        """Clipped and standardised, so that sums of quiet requests behave as if independent."""
        import numpy as np

        scores: Array = (np.clip(z, -CLIP, CLIP) - self.mean) / self.deviation
        return scores


@dataclass(frozen=True)
class Episode:
    """A while in which the requests of a group took longer than their size predicts."""

    started: date
    """Day (of delivery) whose requests raised it."""
    number: int
    """Of the group's episodes that started on that day, from 1."""
    onset_at: datetime
    """When the first of its requests was sent, by Page's estimate."""
    raised_at: datetime
    """When the request was sent that raised it."""
    requests: int = 0
    log_sum: float = 0.0
    """Sum of log(latency / expected) over them."""
    tenants: tuple[str, ...] = ()
    """That sent a request in it, in order."""
    ended_at: datetime | None = None
    """When the first request after it was sent; None while it goes on, or with a new normal."""
    end: Literal["recovered", "new normal"] | None = None

    @property
    def slowdown(self) -> float:
        """Geometric mean of latency over expected latency."""
        return math.exp(self.log_sum / self.requests) if self.requests else 1.0


@dataclass(frozen=True)
class Watch:
    """What is remembered of a group from one day to the next."""

    rising: float = 0.0
    """The sum that raises an episode."""
    falling: float = 0.0
    """The sum that ends it."""
    onset_at: datetime | None = None
    """Since when the rising sum has not been 0."""
    level_sum: float = 0.0
    """Scores since then, and while the falling sum was last 0."""
    level_n: int = 0
    doubt_sum: float = 0.0
    """Scores since the falling sum was last 0: no longer the episode's, if it recovers."""
    doubt_n: int = 0
    episode: Episode | None = None
    """That goes on."""
    baseline_from: date | None = None
    """First day of the new normal, if there was one: what is older is no baseline."""
    accepted_until: date | None = None
    """Day from which requests inside an episode are no baseline again."""


@dataclass(frozen=True)
class Judged:
    """What a day's requests came to."""

    latencies: pl.DataFrame
    """REQUEST_LATENCIES."""
    watches: Mapping[Group, Watch]
    """Of the groups that have requests, or an episode that went on."""
    episodes: Mapping[Group, Sequence[Episode]] = field(default_factory=dict)
    """That the day saw, in order, as they stand at its end."""

    @property
    def is_quiet(self) -> bool:
        """Whether no request of the day was sent while a model was slow."""
        return not self.latencies["degraded"].any()


def nothing_judged() -> Judged:
    """What comes of no request at all."""
    return Judged(REQUEST_LATENCIES.to_frame(), {})


def in_order_answered(requests: pl.DataFrame, given_up: datetime) -> pl.DataFrame:
    """The requests (REQUESTS) that were sent before the first that is still under way.

    They are a beginning of the day, so that they are judged as they will be with the rest of it. A
    request without an outcome that was sent before `given_up` will have none.
    """
    under_way = requests.filter(
        pl.col("status") == "unknown",
        pl.col("way").fill_null("sync") == "sync",
        pl.col("sent_at") >= given_up,
    )
    first = under_way["sent_at"].min()
    return requests if first is None else requests.filter(pl.col("sent_at") < first)


def sized(requests: pl.DataFrame) -> pl.DataFrame:
    """The requests (REQUESTS) whose latency says something: SIZED, in the order they were sent.

    Left out: embeddings, jobs of the Batch API, and what has no whole answer. A time-out is told as
    a failure; how long it would have taken is not known.
    """
    return (
        requests.filter(
            pl.col("tier").is_not_null(),
            pl.col("way").fill_null("sync") == "sync",
            pl.col("status").is_in(_ANSWERED),
            pl.col("latency_ms") > 0,
            pl.col("completion_tokens") > 0,
        )
        .with_columns(
            model=pl.col("model_requested"),
            fresh_tokens=(pl.col("prompt_tokens") - pl.col("cached_tokens").fill_null(0)).clip(0),
        )
        .select(SIZED)
        .sort("sent_at", "request_id")
    )


def fit_baseline(earlier: pl.DataFrame, min_requests: int) -> Baseline | None:
    """What requests of a group took, from earlier ones (SIZED); None for fewer than min_requests.

    latency = a + b * fresh tokens + c * completion tokens, none of them negative, by the log
    residuals: Gauss and Newton's steps, each request with Huber's weight (Huber, "Robust estimation
    of a location parameter", Annals of Mathematical Statistics 35 (1964), 73-101; Holland & Welsch,
    "Robust regression using iteratively reweighted least-squares", Communications in Statistics A6
    (1977), 813-827). The coefficients are then scaled so that the median log residual is 0.
    """
    if earlier.height < min_requests:
        return None
    import numpy as np

    fresh = earlier["fresh_tokens"].to_numpy().astype(float)
    written = earlier["completion_tokens"].to_numpy().astype(float)
    latency = earlier["latency_ms"].to_numpy()
    design = _design(fresh, written)
    coefficients = _non_negative(design, latency, 1 / latency**2)
    for _ in range(_ROUNDS):
        fitted = np.maximum(design @ coefficients, _LEAST_MS)
        residuals = np.log(latency / fitted)
        far = np.abs(residuals) / (_HUBER * _spread(residuals - np.median(residuals)))
        weights = 1 / (np.maximum(far, 1) * fitted**2)
        # log(y / f) = (y' - f) / f where y' = f (1 + log(y / f)): the fit is linear in y'.
        before, coefficients = (
            coefficients,
            _non_negative(design, fitted * (1 + residuals), weights),
        )
        if np.allclose(before, coefficients, rtol=1e-4, atol=0.0):
            break
    residuals = np.log(latency / np.maximum(design @ coefficients, _LEAST_MS))
    centre = float(np.median(residuals))
    spread = _spread(residuals - centre)
    clipped = np.clip((residuals - centre) / spread, -CLIP, CLIP)
    a, b, c = (float(value) for value in coefficients * math.exp(centre))
    return Baseline(
        coefficients=(a, b, c),
        spread=spread,
        mean=float(clipped.mean()),
        deviation=max(1.0, float(clipped.std())) * _likeness(clipped),
        requests=earlier.height,
        fresh=(float(fresh.min()), float(fresh.max())),
        written=(float(written.min()), float(written.max())),
    )


def _likeness(scores: Array) -> float:
    """By how much sums of these spread more than if neighbours had nothing to do with each other.

    sqrt((1 + r) / (1 - r)) of the first autocorrelation r, as of an AR(1): Johnson & Bagshaw, "The
    effect of serial correlation on the performance of CUSUM tests", Technometrics 16 (1974),
    103-112. Requests that share a queue are slow together, and no alarm for it.
    """
    import numpy as np

    centred = scores - scores.mean()
    power = float(centred @ centred)
    r = float(np.clip(centred[1:] @ centred[:-1] / power, 0.0, 0.95)) if power else 0.0
    return math.sqrt((1 + r) / (1 - r))


def _design(fresh: Array, written: Array) -> Array:
    import numpy as np

    return np.column_stack([np.ones(len(fresh)), fresh, written])


def _spread(residuals: Array) -> float:
    import numpy as np

    return max(SPREAD_FLOOR, _MAD_TO_SIGMA * float(np.median(np.abs(residuals))))


_SUBSETS: Final = ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,))


def _non_negative(design: Array, target: Array, weights: Array) -> Array:
    """Weighted least squares with no coefficient under 0, exact: the best of the seven subsets.

    At the solution the coefficients that are not 0 are an unconstrained one (Karush, Kuhn, Tucker).
    """
    import numpy as np

    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)  # or tokens would drown the constant
    scaled = design / scale
    gram, moments = scaled.T @ (weights[:, None] * scaled), scaled.T @ (weights * target)
    best, explained = np.zeros(3), -1.0
    for subset in map(list, _SUBSETS):
        solution = np.linalg.lstsq(gram[np.ix_(subset, subset)], moments[subset], rcond=1e-10)[0]
        gain = float(moments[subset] @ solution)
        # By more than rounding, so that of columns that say the same the larger subset stays.
        if (solution >= 0).all() and gain > explained * (1 + 1e-12):
            best = np.zeros(3)
            best[subset], explained = solution, gain
    found: Array = best / scale
    return found


@lru_cache(maxsize=256)
def decision_limit(reference: float, run_length: float) -> float:
    """The sum h that a quiet CUSUM with this k passes once in `run_length` requests on average.

    Siegmund's approximation, (exp(2 k b) - 2 k b - 1) / (2 k^2) with b = h + 1.166, solved for h by
    halving: Siegmund, "Sequential Analysis" (1985), for independent normal scores.

    >>> round(decision_limit(0.5, 938), 2)
    5.0
    """
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        x = 2 * reference * (middle + _OVERSHOOT)
        too_soon = (math.exp(x) - x - 1) / (2 * reference**2) < run_length
        low, high = (middle, high) if too_soon else (low, middle)
    return high


class _Sums:
    """Page's one-sided CUSUM of a group, and its mirror image while an episode goes on.

    Page, "Continuous inspection schemes", Biometrika 41 (1954), 100-115. The reference value is
    raised by a standard error of the baseline's mean, 1 / sqrt(n): a baseline of few requests must
    not raise an alert for its own error. An episode ends by the sum of (r - score), r half of its
    own level: at most k, at least k / 2.
    """

    def __init__(self, watch: Watch, settings: LatencySettings, day: date, baseline: int) -> None:
        self.watch = watch
        self.ended: list[Episode] = []
        self._day = day
        self._run_length = 1_000 / settings.false_alarms_per_1000
        self._reference = REFERENCE + 1 / math.sqrt(max(baseline, 1))
        self._limit = decision_limit(REFERENCE, self._run_length)
        self._number = 0

    def add(self, score: float, sent_at: datetime) -> Literal["begun", "recovered"] | None:
        """Take a request into account; says what it changed."""
        if self.watch.episode is None:
            return "begun" if self._rise(score, sent_at) else None
        return "recovered" if self._fall(score) else None

    def end(self, ended_at: datetime) -> None:
        """The episode is over, since a request that was sent then."""
        episode = self.watch.episode
        if episode is not None:
            self.ended.append(replace(episode, ended_at=ended_at, end="recovered"))
        kept = self.watch
        self.watch = Watch(baseline_from=kept.baseline_from, accepted_until=kept.accepted_until)

    def _rise(self, score: float, sent_at: datetime) -> bool:
        watch = self.watch
        rising = max(0.0, watch.rising + score - self._reference)
        if rising == 0.0:
            if watch.level_n:
                self.watch = replace(watch, rising=0.0, onset_at=None, level_sum=0.0, level_n=0)
            return False
        self.watch = watch = replace(
            watch,
            rising=rising,
            onset_at=watch.onset_at or sent_at,
            level_sum=watch.level_sum + score,
            level_n=watch.level_n + 1,
        )
        if rising <= self._limit:
            return False
        self._number += 1
        began = Episode(self._day, self._number, watch.onset_at or sent_at, sent_at)
        self.watch = replace(watch, rising=0.0, falling=0.0, episode=began)
        return True

    def _fall(self, score: float) -> bool:
        watch = self.watch
        level = watch.level_sum / max(watch.level_n, 1)
        half = round(min(REFERENCE, max(REFERENCE / 2, level / 2)), 2)
        falling = max(0.0, watch.falling + half - score)
        doubted, n = watch.doubt_sum + score, watch.doubt_n + 1
        if falling == 0.0:
            self.watch = replace(
                watch,
                falling=0.0,
                level_sum=watch.level_sum + doubted,
                level_n=watch.level_n + n,
                doubt_sum=0.0,
                doubt_n=0,
            )
            return False
        self.watch = replace(watch, falling=falling, doubt_sum=doubted, doubt_n=n)
        return falling > decision_limit(half, self._run_length)


def judge(
    requests: pl.DataFrame,
    earlier: pl.DataFrame,
    watches: Mapping[Group, Watch],
    settings: LatencySettings,
    day: date,
) -> Judged:
    """Judge a day's requests (SIZED) by earlier ones: SIZED with `day` and `degraded`.

    earlier: of the window's days before this one. watches: as the last day before left them. The
    same of the same, and a beginning of the day's requests is judged as it will be with the rest.
    """
    going_on = [group for group, watch in watches.items() if watch.episode is not None]
    groups = sorted({*_groups(requests), *going_on})
    parts, kept, episodes = [], {}, {}
    for group in groups:
        watch, closed = _after_new_normal(watches.get(group, Watch()), settings, day)
        rows, past = _of(requests, group), _past(_of(earlier, group), watch)
        baseline = fit_baseline(past, settings.min_requests)
        part, sums = _judge_group(rows, baseline, watch, settings, day)
        parts.append(part)
        kept[group] = sums.watch
        now = [] if sums.watch.episode is None else [sums.watch.episode]
        if seen := [*closed, *sums.ended, *now]:
            episodes[group] = seen
    latencies = pl.concat([REQUEST_LATENCIES.to_frame(), *parts])
    return Judged(latencies.sort("sent_at", "request_id"), kept, episodes)


def _groups(frame: pl.DataFrame) -> Iterable[Group]:
    return (Group(*row) for row in frame.select("model", "tier", "simulated").unique().iter_rows())


def _of(frame: pl.DataFrame, group: Group) -> pl.DataFrame:
    return frame.filter(
        pl.col("model") == group.model,
        pl.col("tier") == group.tier,
        pl.col("simulated") == group.simulated,
    )


def _past(earlier: pl.DataFrame, watch: Watch) -> pl.DataFrame:
    """What of the earlier requests is a baseline: none of an episode that is no new normal."""
    if watch.baseline_from is None:
        return earlier.filter(~pl.col("degraded"))
    accepted = pl.col("day") < watch.accepted_until
    return earlier.filter((pl.col("day") >= watch.baseline_from) & (accepted == pl.col("degraded")))


def _after_new_normal(
    watch: Watch, settings: LatencySettings, day: date
) -> tuple[Watch, list[Episode]]:
    """What lasted is what is to be expected: the episode ends, and is the baseline from now on."""
    episode = watch.episode
    if episode is None or day - episode.started < timedelta(days=settings.new_normal_days):
        return watch, []
    fresh = Watch(baseline_from=episode.started, accepted_until=day)
    return fresh, [replace(episode, end="new normal")]


def _judge_group(
    rows: pl.DataFrame,
    baseline: Baseline | None,
    watch: Watch,
    settings: LatencySettings,
    day: date,
) -> tuple[pl.DataFrame, _Sums]:
    """The requests of one group, in order, with their verdicts; and what is remembered."""
    n = baseline.requests if baseline else 0
    sums = _Sums(watch, settings, day, n)
    if baseline is None or rows.is_empty():
        in_episode = watch.episode is not None
        nothing = pl.lit(None, dtype=pl.Float64)
        rows = rows.with_columns(
            baseline_requests=pl.lit(n, dtype=pl.Int64),
            expected_ms=nothing,
            z=nothing,
            slow=pl.lit(value=False),
            degraded=pl.lit(value=in_episode),
        )
        return rows.select(REQUEST_LATENCIES.names()), sums
    expected = baseline.expected_ms(
        rows["fresh_tokens"].to_numpy().astype(float),
        rows["completion_tokens"].to_numpy().astype(float),
    )
    z = baseline.z(rows["latency_ms"].to_numpy(), expected)
    degraded = _follow(rows, baseline.scores(z).tolist(), (z * baseline.spread).tolist(), sums)
    judged = rows.with_columns(
        baseline_requests=pl.lit(n, dtype=pl.Int64),
        expected_ms=pl.Series(expected, nan_to_null=True),
        z=pl.Series(z, nan_to_null=True),
        slow=pl.Series(z > settings.slow_z),
        degraded=pl.Series(degraded, dtype=pl.Boolean),
    )
    return judged.select(REQUEST_LATENCIES.names()), sums


def _follow(
    rows: pl.DataFrame, scores: Sequence[float], residuals: Sequence[float], sums: _Sums
) -> list[bool]:
    """Which of a group's requests were sent inside an episode; the sums are carried on.

    An episode reaches back to its onset, and ends before the requests that ended it, as far as they
    are of this day. Each episode is given its requests.
    """
    times, tenants = rows["sent_at"].to_list(), rows["tenant"].to_list()
    inside = [sums.watch.episode is not None] * len(times)
    onset = 0  # of the rising sum
    doubt = 0  # first request since the falling sum was last 0
    counted = 0  # requests before this one are in the episode's figures

    def count(until: int) -> None:
        """Give the episode its requests of the day."""
        episode = sums.watch.episode
        if episode is None:
            return
        part = range(counted, until)
        known = [residuals[at] for at in part if not math.isnan(residuals[at])]
        named = {*episode.tenants, *(tenants[at] for at in part)}
        told = replace(
            episode,
            requests=episode.requests + len(known),
            log_sum=episode.log_sum + sum(known),
            tenants=tuple(sorted(named)),
        )
        sums.watch = replace(sums.watch, episode=told)

    for at, score in enumerate(scores):
        if math.isnan(score):
            continue
        change = sums.add(score, times[at])
        if change == "begun":
            inside[onset:] = [True] * (len(times) - onset)
            counted, doubt = onset, at + 1
        elif change == "recovered":
            count(doubt)
            inside[doubt:] = [False] * (len(times) - doubt)
            sums.end(times[doubt])
            onset = at + 1
        elif sums.watch.episode is None and sums.watch.onset_at is None:
            onset = at + 1
        elif sums.watch.episode is not None and sums.watch.doubt_n == 0:
            doubt = at + 1
    count(len(times))
    return inside


def as_json(watch: Watch) -> str:
    """A watch as JSON; numbers exactly, times in ISO 8601."""
    return json.dumps(asdict(watch), default=lambda moment: moment.isoformat())


def from_json(text: str) -> Watch:
    """The watch that `as_json` wrote."""
    held = json.loads(text)
    _read(held, ("onset_at",), datetime.fromisoformat)
    _read(held, ("baseline_from", "accepted_until"), date.fromisoformat)
    if episode := held["episode"]:
        _read(episode, ("onset_at", "raised_at", "ended_at"), datetime.fromisoformat)
        _read(episode, ("started",), date.fromisoformat)
        held["episode"] = Episode(**episode | {"tenants": tuple(episode["tenants"])})
    return Watch(**held)


def _read(held: dict[str, Any], names: Iterable[str], read: Callable[[str], object]) -> None:
    held |= {name: read(held[name]) for name in names if held[name] is not None}
