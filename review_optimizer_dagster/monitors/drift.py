"""Whether a day's reviews differ from the days before by more than those differ from each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import polars as pl

from review_optimizer_dagster.monitors.profile import KEY, NO_ANSWER
from review_optimizer_dagster.monitors.settings import DriftSettings

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
Horizon: TypeAlias = Literal["day", "week"]

NEW_CATEGORY: Final = "new category"  # the signal that is told from the mix of categories
DAYS_A_YEAR: Final = 365.0
WEEK: Final = 7
_LEAST_WEEK: Final = 4  # days of a week that tell of it
_LEAST_EXPECTED: Final = 5.0  # of a bucket (Cochran, "The chi-square test", 1952); rarer are pooled
_LEAST_AUDITS: Final = 20
_MOST_MEMORY: Final = 0.95  # a correlation of days over which their sum has no bound to speak of
_SERIES: Final = KEY[:3]

TESTS: Final = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy"), pl.String())
    | {"simulated": pl.Boolean()}
    | dict.fromkeys(("category", "signal", "horizon"), pl.String())
    | dict.fromkeys(("n", "baseline_n", "baseline_days"), pl.Int64())
    | dict.fromkeys(("baseline_from", "baseline_to"), pl.Date())
    | {"df": pl.Int64()}
    | dict.fromkeys(("statistic", "dispersion", "p_value", "p_adjusted", "distance"), pl.Float64())
    | {"alarm": pl.Boolean(), "new_normal": pl.Boolean()}
)
ALARMS: Final = pl.Schema(
    {"day": pl.Date()} | {name: TESTS[name] for name in (*KEY, "horizon", "alarm")}
)


@dataclass(frozen=True)
class Comparison:
    """One set of counts beside those of the baseline's days."""

    statistic: float
    """F: the chi-square over its degrees of freedom and the dispersion; 0 where nothing is told."""
    df: int
    dispersion: float
    """How much more the baseline's days differ than independent reviews would; at least 1."""
    p_value: float
    distance: float
    """Total variation: the share of reviews that would have to move to another bucket, 0 to 1."""


def compare(counts: Array, baseline: Array, together: int = 1) -> Comparison:
    """Test whether counts (buckets) come from the same mix as the baseline's (days, buckets).

    together: how many days in a row the counts are of.

    Pearson's chi-square of homogeneity over its degrees of freedom, divided by the dispersion that
    the baseline's days show among themselves (quasi-likelihood: McCullagh & Nelder, "Generalized
    Linear Models", 1989, 4.5), is compared with an F distribution. Where few directions carry that
    dispersion, days differ by more than F says; its degrees of freedom are then those of a scaled
    chi-square with the mean and variance of the baseline's days (Satterthwaite, "An approximate
    distribution of estimates of variance components", 1946), never more than the buckets have.
    Buckets with an expected count under 5 are one; where even that is rare, and for a bucket that
    is new altogether, an exact test of two Poisson counts (Przyborowski & Wilenski, "Homogeneity
    of results in testing samples from Poisson series", 1940) takes its place, and the two share
    the level. Several days together vary by more than as many independent ones where a day is like
    the day before: see `_memory`.
    """
    import numpy as np

    total = baseline.sum(axis=0)
    n, baseline_n = counts.sum(), total.sum()
    distance = 0.5 * float(np.abs(counts / n - total / baseline_n).sum())
    expected = min(n, baseline_n) * (counts + total) / (n + baseline_n)
    rare = expected < _LEAST_EXPECTED
    rare_today, rare_days = float(counts[rare].sum()), baseline[:, rare].sum(axis=1)
    common, days = counts[~rare], baseline[:, ~rare]
    if rare.any() and expected[rare].sum() >= _LEAST_EXPECTED:
        common, days = np.append(common, rare_today), np.column_stack([days, rare_days])
        rare_today = 0.0
    found = [] if len(common) < 2 else [_homogeneity(common, days, together)]
    if rare_today:
        sizes = baseline.sum(axis=1)
        found.append(_rare(rare_today, float(n), rare_days, sizes, together))
    if not found:
        return Comparison(0.0, 0, 1.0, 1.0, distance)
    statistic, df, dispersion, p_value = min(found, key=lambda each: each[3])
    return Comparison(statistic, df, dispersion, min(1.0, len(found) * p_value), distance)


def _homogeneity(counts: Array, days: Array, together: int) -> tuple[float, int, float, float]:
    """F, its degrees of freedom, the dispersion and the p-value; every bucket is frequent."""
    import numpy as np
    from scipy.special import fdtrc

    total, df = days.sum(axis=0), len(counts) - 1
    n, baseline_n = counts.sum(), total.sum()
    shares = (counts + total) / (n + baseline_n)
    chi_square = float(
        ((counts - n * shares) ** 2 / (n * shares)).sum()
        + ((total - baseline_n * shares) ** 2 / (baseline_n * shares)).sum()
    )
    residuals = _residuals(days)
    by_day = (residuals**2).sum(axis=1)
    dispersion = float(by_day.sum()) / ((len(days) - 1) * df)
    directions = float(df)
    if dispersion > 1.0 and (variance := float(np.var(by_day, ddof=1))) > 0.0:
        directions = min(directions, max(1.0, 2 * float(by_day.mean()) ** 2 / variance))
    more, worth = _memory(residuals, directions, together)
    dispersion = max(1.0, dispersion) * more
    statistic = chi_square / (df * dispersion)
    p_value = float(fdtrc(directions, directions * max(1.0, worth - 1), statistic))
    return statistic, df, dispersion, p_value


def _residuals(days: Array) -> Array:
    """How far each count of each day is from the average mix (Pearson's residuals)."""
    import numpy as np

    total, sizes = days.sum(axis=0), days.sum(axis=1, keepdims=True)
    expected = sizes * (total / total.sum())
    far = days - expected
    residuals: Array = np.divide(far, np.sqrt(expected), out=np.zeros_like(far), where=expected > 0)
    return residuals


def _memory(residuals: Array, directions: float, together: int) -> tuple[float, float]:
    """What days that are like the day before do to the sum of some, and to what is known of them.

    Returns by how much more a sum of `together` days varies than one of independent days, and how
    many independent days tell as much of the dispersion as these (Bayley & Hammersley, "The
    effective number of independent observations in an autocorrelated time series", 1946), for a
    correlation that falls geometrically. It is estimated a standard error too high, and without
    the bias of a short series (Marriott & Pope, "Bias in the estimation of autocorrelations",
    1954), since the days are few: what is taken for memory makes the test slower, not wrong.
    """
    count = len(residuals)
    squares = float((residuals**2).sum())
    if together == 1 or not squares:
        return 1.0, float(count)
    lagged = float((residuals[1:] * residuals[:-1]).sum()) / squares * count / (count - 1)
    error = ((1 - min(1.0, lagged**2)) / (count * directions)) ** 0.5
    memory = min(_MOST_MEMORY, max(0.0, lagged + (1 + 3 * lagged) / count + error))
    more = 1 + 2 * sum((1 - lag / together) * memory**lag for lag in range(1, together))
    return more, count * (1 - memory**2) / (1 + memory**2)


def _rare(
    count: float, n: float, days: Array, sizes: Array, together: int
) -> tuple[float, int, float, float]:
    """The exact test that a rare bucket has become more frequent, as `_homogeneity` returns it."""
    import numpy as np
    from scipy.special import betainc

    before, baseline_n = float(days.sum()), float(sizes.sum())
    dispersion = 1.0
    if before:
        residuals = _residuals(np.column_stack([days, sizes - days]))
        more, _ = _memory(residuals, 1.0, together)
        dispersion = max(1.0, float((residuals**2).sum()) / (len(days) - 1)) * more
    share = n / (n + baseline_n)
    p_value = float(betainc(count / dispersion, before / dispersion + 1, share))
    statistic = count / (n * max(before, 1.0) / baseline_n)
    return statistic, 1, dispersion, p_value


@dataclass(frozen=True)
class _Counts:
    """A signal of a category: counts by day (rows, ascending) and bucket (columns)."""

    days: list[date]
    buckets: list[str]
    counts: Array

    def rows(self, wanted: Sequence[date]) -> Array:
        places = {day: place for place, day in enumerate(self.days)}
        return self.counts[[places[day] for day in wanted]]


@dataclass(frozen=True)
class _Normal:
    """Which earlier days of a signal may stand for what is normal."""

    days: list[date]
    is_new: bool
    """Whether they begin with an episode that went on for so long that it became the normal."""
    goes_on: str
    """The horizon that was alarmed on the last day with a test; '' where none was, or where that
    day is normal since."""


def judge(
    profiles: pl.DataFrame, alarms: pl.DataFrame, day: date, settings: DriftSettings
) -> pl.DataFrame:
    """Test every signal of a day: TESTS, one row a category, signal and horizon.

    profiles: `day` and PROFILES, of the day and the `days_needed` before it; alarms: ALARMS of the
    days before. Two horizons: the `day`, and the `week` up to it together, for slow drift; each
    against the `window_days` before it. Days in which the signal was alarmed are left out of the
    baseline, and of the week where the day alone had shown it; `new_normal_days` of them in a row
    are a new baseline. All tests of a tenant and taxonomy on a day share the level
    `false_alarms_per_year` / 365 (Holm, "A simple sequentially rejective multiple test procedure",
    1979), so that any alarm of a day without drift has that chance. While an episode goes on, what
    was alarmed the day before needs no more than that level by itself. A mix that is further by
    less than `min_distance` is no alarm, nor are more hits or fewer contradicted ones.
    """
    found = []
    today = profiles.filter(pl.col("day") == day)
    for series in today.select(*_SERIES).unique().sort(*_SERIES).iter_rows(named=True):
        own = profiles.filter(**series)
        rows = list(_tests(own, alarms.filter(**series), day, settings))
        found += [series | row for row in _decided(rows, settings)]
    return pl.DataFrame(found, TESTS, orient="row")


def days_needed(settings: DriftSettings) -> int:
    """How many days before one its tests look back."""
    return settings.window_days + WEEK + settings.new_normal_days


def _tests(
    profiles: pl.DataFrame, alarms: pl.DataFrame, day: date, settings: DriftSettings
) -> Iterator[dict[str, Any]]:
    known = _tested_days(alarms)
    for (category, signal), counts in _counted(profiles, day):
        names = (signal, NEW_CATEGORY) if signal == "category" else (signal,)
        for name in names:
            tested = known.get((category, name), {})
            normal = _normal(counts.days, tested, day, settings.new_normal_days)
            for horizon in ("day", "week"):
                row = _test(name, horizon, counts, tested, normal, day, settings)
                if row is not None:
                    yield {"category": category, "signal": name, "horizon": horizon} | row


def _test(
    signal: str,
    horizon: str,
    counts: _Counts,
    tested: Mapping[date, str],
    normal: _Normal,
    day: date,
    settings: DriftSettings,
) -> dict[str, Any] | None:
    """One test, but for what depends on the others; None where there is too little to tell."""
    start = day if horizon == "day" else day - timedelta(days=WEEK - 1)
    recent = [
        each
        for each in counts.days
        if start <= each <= day and (each == day or tested.get(each) != "day")
    ]
    since = start - timedelta(days=settings.window_days)
    baseline = [each for each in normal.days if since <= each < start]
    least = _LEAST_AUDITS if signal == "audit" else settings.min_reviews
    table = counts.rows(recent).sum(axis=0)
    if len(baseline) < settings.min_days or table.sum() < least:
        return None
    # Where the days alone showed drift, a day too small to be tested alone cannot say it is over.
    is_small = normal.goes_on == "day" and counts.rows([day]).sum() < least
    if horizon == "week" and (len(recent) < _LEAST_WEEK or is_small):
        return None
    days = counts.rows(baseline)
    if signal == NEW_CATEGORY:
        table, days = _by_novelty(table, days)
    result = compare(table, days, len(recent))
    return {
        "n": int(table.sum()),
        "baseline_n": int(days.sum()),
        "baseline_days": len(baseline),
        "baseline_from": baseline[0],
        "baseline_to": baseline[-1],
        "df": result.df,
        "statistic": result.statistic,
        "dispersion": result.dispersion,
        "p_value": result.p_value,
        "distance": result.distance,
        "new_normal": normal.is_new,
        "goes_on": normal.goes_on,
        "worse": _is_worse(signal, counts.buckets, table, days.sum(axis=0)),
    }


def _decided(rows: list[dict[str, Any]], settings: DriftSettings) -> list[dict[str, Any]]:
    """The tests of a series with their adjusted p-values (Holm) and whether they are alarms."""
    alpha = settings.false_alarms_per_year / DAYS_A_YEAR
    decided, adjusted = [], 0.0
    for rank, row in enumerate(sorted(rows, key=lambda each: float(each["p_value"]))):
        adjusted = max(adjusted, min(1.0, (len(rows) - rank) * row["p_value"]))
        is_sure = adjusted <= alpha or (row["goes_on"] != "" and row["p_value"] <= alpha)
        is_drift = is_sure and row["worse"] and row["distance"] >= settings.min_distance
        kept = {name: value for name, value in row.items() if name in TESTS}
        decided.append(kept | {"p_adjusted": adjusted, "alarm": is_drift})
    return decided


def _normal(
    days: Sequence[date], tested: Mapping[date, str], day: date, new_normal_days: int
) -> _Normal:
    """What of the days before is normal.

    tested: the days before on which there was a test, to the horizon that was alarmed: `day` where
    the day alone showed it, `week` where only the week did, or ''. A day without a test, for want
    of reviews, neither goes on with an episode nor ends it.
    """
    before = [each for each in days if each < day]
    runs: list[list[date]] = [[]]
    for each in before:
        if tested.get(each):
            runs[-1].append(each)
        elif each in tested and runs[-1]:
            runs.append([])
    alarmed = {each for run in runs for each in run}
    long = [run for run in runs if len(run) >= new_normal_days]
    if not long:
        normal = [each for each in before if each not in alarmed]
        return _Normal(normal, False, tested[runs[-1][-1]] if runs[-1] else "")
    blocks = len(long[-1]) // new_normal_days
    block = long[-1][(blocks - 1) * new_normal_days : blocks * new_normal_days]
    alarmed -= set(block)
    normal = [each for each in before if each >= block[0] and each not in alarmed]
    goes_on = bool(runs[-1]) and runs[-1][-1] in alarmed
    return _Normal(normal, True, tested[runs[-1][-1]] if goes_on else "")


def _by_novelty(counts: Array, days: Array) -> tuple[Array, Array]:
    """Reviews of known and of new categories: of a baseline's day, those that no other one has."""
    import numpy as np

    total = days.sum(axis=0)
    new, new_days = counts[total == 0].sum(), np.where(days == total, days, 0).sum(axis=1)
    sizes = days.sum(axis=1)
    return np.array([counts.sum() - new, new]), np.column_stack([sizes - new_days, new_days])


def _is_worse(signal: str, buckets: Sequence[str], counts: Array, baseline: Array) -> bool:
    """Whether a difference is for the worse, where only that matters; any is, of other signals.

    An archive that grows answers more from day to day.
    """
    if signal == "level":
        bad = [name in ("model", NO_ANSWER) for name in buckets]
    elif signal == "audit":
        bad = [name == "disagrees" for name in buckets]
    elif signal == NEW_CATEGORY:
        bad = [False, True]
    else:
        return True
    share, before = counts[bad].sum() / counts.sum(), baseline[bad].sum() / baseline.sum()
    return bool(share > before)


def _counted(profiles: pl.DataFrame, day: date) -> Iterator[tuple[tuple[str, str], _Counts]]:
    """Each category and signal that the day has, and its counts of all days."""
    import numpy as np

    keys = ["category", "signal"]
    todays = profiles.filter(pl.col("day") == day).select(keys).unique()
    wanted = profiles.join(todays, on=keys, how="semi").sort(*keys, "day", "bucket")
    names = wanted["bucket"].unique().sort().to_list()
    # Numbers all at once: a frame for each of a hundred signals would take as long as the tests.
    code = pl.col("bucket").rank("dense") - 1
    days, buckets, reviews = (
        wanted.select(column).to_series().to_numpy()
        for column in (pl.col("day").to_physical(), code, "reviews")
    )
    start = 0
    for category, signal, rows in (
        wanted.group_by(keys, maintain_order=True).len("rows").iter_rows()
    ):
        part = slice(start, start + rows)
        start += rows
        own_days, at_day = np.unique(days[part], return_inverse=True)
        own_buckets, at_bucket = np.unique(buckets[part], return_inverse=True)
        counts = np.zeros((len(own_days), len(own_buckets)))
        counts[at_day, at_bucket] = reviews[part]
        dates = [date.fromordinal(_EPOCH + int(each)) for each in own_days]
        yield (category, signal), _Counts(dates, [names[each] for each in own_buckets], counts)


_EPOCH: Final = date(1970, 1, 1).toordinal()


def _tested_days(alarms: pl.DataFrame) -> dict[tuple[str, str], dict[date, str]]:
    """Category and signal to their days with a test, and what was alarmed: `day`, `week` or ''."""
    found: dict[tuple[str, str], dict[date, str]] = {}
    rows = alarms.select("day", "category", "signal", "horizon", "alarm")
    for day, category, signal, horizon, alarm in rows.iter_rows():
        days = found.setdefault((category, signal), {})
        if alarm and days.get(day) != "day":
            days[day] = horizon
        days.setdefault(day, "")
    return found


def shares(profiles: pl.DataFrame, alarmed: pl.DataFrame, day: date, most: int = 5) -> pl.DataFrame:
    """What moved most, of each signal and category that is alarmed: buckets and their shares.

    profiles: as `judge` takes them; alarmed: rows of TESTS. Returns tenant, taxonomy, category,
    signal, bucket, share (of the day, or of its week where only that is alarmed) and
    baseline_share, at most so many buckets a signal. The baseline is all of its span here, the
    days that the test leaves out too.
    """
    tested = alarmed.sort("horizon").unique(KEY, keep="first", maintain_order=True)
    back = pl.when(pl.col("horizon") == "day").then(0).otherwise(WEEK - 1)
    spans = tested.select(
        *KEY,
        "baseline_from",
        "baseline_to",
        since=pl.lit(day) - pl.duration(days=back),
    ).with_columns(signal=pl.col("signal").replace(NEW_CATEGORY, "category"))
    counts = profiles.join(spans.unique(KEY), on=KEY, how="inner")
    recent = pl.col("day").is_between("since", day)
    before = pl.col("day").is_between("baseline_from", "baseline_to")
    count = pl.col("reviews")
    return (
        counts.group_by(*KEY, "bucket")
        .agg(recent=count.filter(recent).sum(), before=count.filter(before).sum())
        .with_columns(
            share=pl.col("recent") / pl.col("recent").sum().over(KEY),
            baseline_share=pl.col("before") / pl.col("before").sum().over(KEY),
        )
        .with_columns(moved=(pl.col("share") - pl.col("baseline_share")).abs())
        .sort(*KEY, "moved", "bucket", descending=[*(False for _ in KEY), True, False])
        .group_by(KEY, maintain_order=True)
        .head(most)
        .select("tenant", "taxonomy", "category", "signal", "bucket", "share", "baseline_share")
    )


def strongest(tests: pl.DataFrame) -> pl.DataFrame:
    """Alarmed tests, the strongest first: by p-value, then by distance."""
    keys = ["p_value", "distance", "category", "signal", "horizon"]
    return tests.filter("alarm").sort(keys, descending=[False, True, False, False, True])
