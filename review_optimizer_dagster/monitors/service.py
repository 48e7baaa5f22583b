"""Service levels: what a tenant was promised of a day, what it got, and the error budget left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import polars as pl

from review_optimizer_dagster.core.quality import Overall, percentiles, target_seconds
from review_optimizer_dagster.monitors.settings import ServiceSettings
from review_optimizer_dagster.settings import TenantSettings

Indicator: TypeAlias = Literal[
    "run_seconds",
    "freshness_hours",
    "latency_p95_ms",
    "hit_rate",
    "accuracy",
    "usd_per_1000",
    "failed_share",
]
INDICATORS: Final[tuple[Indicator, ...]] = get_args(Indicator)
ALL: Final = "all"  # the row of a day's own verdict, over its indicators

LEVELS: Final = pl.Schema(
    {
        "tenant": pl.String(),
        "indicator": pl.String(),  # one of INDICATORS, or ALL
        "target": pl.Float64(),  # null: not promised
        "value": pl.Float64(),  # null: nothing was measured
        "n": pl.Int64(),  # what the value rests on
        "met": pl.Boolean(),  # null: cannot be said, or not promised
        "detail": pl.String(),
        "objective": pl.Float64(),
        "window_days": pl.Int64(),
        "simulated": pl.Boolean(),
    }
)
BUDGETS: Final = pl.Schema(
    {
        "days_judged": pl.Int64(),
        "days_broken": pl.Int64(),
        "budget_days": pl.Float64(),
        "budget_left": pl.Float64(),
        "burn": pl.Float64(),
    }
)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_KEY: Final = ["tenant", "indicator", "simulated"]


@dataclass(frozen=True)
class Promises:
    """What a tenant was promised, in the units of the indicators; None where nothing was."""

    targets: Mapping[Indicator, float | None]
    objective: float
    window_days: int


def promises(service: ServiceSettings, tenant: TenantSettings) -> Promises:
    """The promises of a tenant, with those that it has by default."""
    levels = tenant.service

    def number(value: float | Literal[False] | None, default: float | None = None) -> float | None:
        return default if value is None else None if value is False else float(value)

    latency = number(levels.p95_latency_seconds)
    return Promises(
        targets={
            # The Batch API may take a day, and the run waits for it.
            "run_seconds": number(
                levels.run_seconds, service.target_seconds if tenant.send == "sync" else None
            ),
            "freshness_hours": number(levels.freshness_hours),
            "latency_p95_ms": None if latency is None else 1_000 * latency,
            "hit_rate": number(levels.hit_rate),
            "accuracy": number(levels.accuracy, tenant.min_accuracy),
            "usd_per_1000": number(levels.usd_per_1000),
            "failed_share": number(levels.failed_share),
        },
        objective=levels.objective,
        window_days=service.window_days,
    )


@dataclass(frozen=True)
class Figures:
    """What is known of a tenant's day. Counts are reviews, money is nano-dollars."""

    tenant: str
    simulated: bool
    reviews: int
    hits: int
    labelled: int
    failed: int
    cost_nanos: int | None = None
    """None where no rollup was written yet."""
    latencies_ms: Sequence[float] = ()
    """Of its own requests, one by one; the Batch API has none."""
    accuracy: Overall | None = None
    """The gate's; None where it has not judged."""
    published_after_hours: Sequence[float] = ()
    """From arrival to first publication, a delivery of the day."""
    waiting_hours: float | None = None
    """Since the arrival of files that are not published; None where all are."""
    run_seconds: float | None = None
    """Of the run that first published the day with no review kept back; None without one."""
    run_reviews: int = 0
    """Reviews of all tenants in that run."""


class Level(NamedTuple):
    """One indicator of a tenant's day."""

    indicator: str
    target: float | None
    value: float | None
    n: int
    met: bool | None
    """None: it cannot be said, or was not promised; the day does not count."""
    detail: str


def judge(figures: Figures, promised: Promises, service: ServiceSettings) -> list[Level]:
    """Hold a tenant's day against what was promised: a Level an indicator, then the day's verdict.

    An accuracy is a sample's, so it is met where the lower end of the gate's interval (90 %,
    Clopper and Pearson, Biometrika 1934) reaches the target, broken where the upper end is below
    it, and cannot be said in between. Shares count the whole day and are compared as they are.
    The day is broken where any is, met where all that can be said are, else it cannot be said.
    """
    target = promised.targets
    levels = [
        _run_seconds(figures, target["run_seconds"], service),
        _freshness(figures, target["freshness_hours"]),
        _latency(figures, target["latency_p95_ms"]),
        _hit_rate(figures, target["hit_rate"]),
        _accuracy(figures, target["accuracy"]),
        _cost(figures, target["usd_per_1000"]),
        _failed(figures, target["failed_share"]),
    ]
    return [*levels, _day(levels)]


def _level(
    indicator: Indicator, target: float | None, value: float | None, n: int, detail: str
) -> Level:
    """A figure that may not exceed its target."""
    met = None if target is None or value is None else value <= target
    return Level(indicator, target, value, n, met, _with_promise(target, detail))


def _with_promise(target: float | None, detail: str) -> str:
    return f"{detail}; not promised" if target is None else detail


def _run_seconds(figures: Figures, promised: float | None, service: ServiceSettings) -> Level:
    seconds, reviews = figures.run_seconds, figures.run_reviews
    target = promised
    if promised is not None:
        own = service.model_copy(update={"target_seconds": promised})
        target = target_seconds(reviews if seconds is not None else figures.reviews, own)
    if seconds is None:
        return _level("run_seconds", target, None, 0, "no run has published the whole day yet")
    allowed = "" if target is None else f", {target:g} s promised"
    detail = f"the run that first published it took {seconds:.1f} s for {reviews:,} reviews"
    return _level("run_seconds", target, seconds, reviews, detail + allowed)


def _freshness(figures: Figures, target: float | None) -> Level:
    done, waiting = figures.published_after_hours, figures.waiting_hours
    value, n = max(done, default=None), len(done)
    allowed = "" if target is None else f", {target:g} h promised"
    if waiting is not None:
        detail = f"files that arrived {waiting:.1f} h ago are not published{allowed}"
        worst = max(waiting, value or 0.0)
        # Waiting cannot keep a promise, it can only break it.
        met = False if target is not None and worst > target else None
        return Level("freshness_hours", target, worst, n, met, _with_promise(target, detail))
    if value is None:
        return _level("freshness_hours", target, None, 0, "when it was published was not noted")
    detail = f"published {value:.1f} h after the last file arrived{allowed}"
    return _level("freshness_hours", target, value, n, detail)


def _latency(figures: Figures, target: float | None) -> Level:
    n, p95 = len(figures.latencies_ms), percentiles(figures.latencies_ms).p95
    if p95 is None:
        return _level("latency_p95_ms", target, None, 0, "no request was sent and waited for")
    allowed = "" if target is None else f", {target:,.0f} ms promised"
    return _level(
        "latency_p95_ms", target, p95, n, f"95 % of {n:,} requests took {p95:,.0f} ms{allowed}"
    )


def _hit_rate(figures: Figures, target: float | None) -> Level:
    hits, n = figures.hits, figures.reviews
    value = hits / n if n else None
    met = None if target is None or value is None else value >= target
    detail = f"{hits:,} of {n:,} reviews answered without the model"
    if target is not None:
        detail += f", {_percent(target)} promised"
    return Level("hit_rate", target, value, n, met, _with_promise(target, detail))


def _accuracy(figures: Figures, target: float | None) -> Level:
    known = figures.accuracy
    if known is None or not known.n or known.lower is None or known.upper is None:
        return _level("accuracy", target, None, 0, "no labelled review has a truth")
    value, met = known.correct / known.n, None
    detail = (
        f"{known.correct:,} of {known.n:,} right, 90 % interval {_percent(known.lower)} to "
        f"{_percent(known.upper)}"
    )
    if known.truth != "labels":
        detail += ", by stars, which never decide"
    elif target is not None:
        met = True if known.lower >= target else False if known.upper < target else None
    if target is not None:
        detail += f", {_percent(target)} promised"
    return Level("accuracy", target, value, known.n, met, _with_promise(target, detail))


def _cost(figures: Figures, target: float | None) -> Level:
    n = figures.labelled
    if figures.cost_nanos is None or not n:
        detail = "nothing was labelled" if not n else "the day's costs are not summed yet"
        return _level("usd_per_1000", target, None, n, detail)
    value = figures.cost_nanos / n * 1_000 / 1e9
    allowed = "" if target is None else f", ${target:g} promised"
    detail = f"${value:.6f} per 1,000 of {n:,} labelled reviews{allowed}"
    return _level("usd_per_1000", target, value, n, detail)


def _failed(figures: Figures, target: float | None) -> Level:
    failed, n = figures.failed, figures.reviews
    allowed = "" if target is None else f", at most {_percent(target)} promised"
    detail = f"{failed:,} of {n:,} reviews failed{allowed}"
    return _level("failed_share", target, failed / n if n else None, n, detail)


def _day(levels: Sequence[Level]) -> Level:
    promised = [each for each in levels if each.target is not None]
    said = [each for each in promised if each.met is not None]
    broken = [each.indicator for each in said if not each.met]
    met = None if not said else not broken
    detail = (
        f"broken: {', '.join(broken)}"
        if broken
        else f"{len(said)} of {len(promised)} promises can be judged"
        + (", all are met" if said else "")
    )
    # Its target and value are counts: promises that can be judged, and those that are met.
    return Level(ALL, float(len(said)), float(len(said) - len(broken)), len(promised), met, detail)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def level_rows(
    judged: Mapping[tuple[str, bool], Sequence[Level]], promised: Mapping[str, Promises]
) -> pl.DataFrame:
    """Levels by tenant and whether they are simulated, as a frame of LEVELS."""
    rows = [
        {
            "tenant": tenant,
            **level._asdict(),
            "objective": promised[tenant].objective,
            "window_days": promised[tenant].window_days,
            "simulated": simulated,
        }
        for (tenant, simulated), levels in judged.items()
        for level in levels
    ]
    return pl.DataFrame(rows, schema=LEVELS)


def with_error_budgets(rows: pl.DataFrame, since: date) -> pl.DataFrame:
    """Add BUDGETS to the rows (LEVELS and `day`) of a day and those after it.

    rows: all of the windows that end on those days. The budget of an objective is the days of the
    window that may be broken: (1 - objective) x window_days. It is that of the whole window from
    its first day on (Beyer et al., The Site Reliability Workbook, 2018, chapters 2 and 5): a
    service that began yesterday has not spent a month's budget by one bad day, and days that
    nobody delivered or that cannot be judged break nothing. `burn` is the burn rate of chapter 5,
    the share of judged days that were broken over the share that may be: at 1 the budget lasts
    exactly the window, null where no day was judged.
    """
    ends = rows.filter(pl.col("day") >= since)
    days = rows.select(*_KEY, "met", past="day").filter(pl.col("met").is_not_null())
    counts = (
        ends.select(*_KEY, "day", "window_days")
        .join(days, on=_KEY)
        .filter(
            pl.col("past") <= pl.col("day"),
            pl.col("past") > pl.col("day") - pl.duration(days="window_days"),
        )
        .group_by(*_KEY, "day")
        .agg(
            days_judged=pl.len().cast(pl.Int64),
            days_broken=(~pl.col("met")).sum().cast(pl.Int64),
        )
    )
    allowed = 1 - pl.col("objective")
    return (
        ends.drop(BUDGETS.names(), strict=False)
        .join(counts, on=[*_KEY, "day"], how="left", maintain_order="left")
        .with_columns(pl.col("days_judged", "days_broken").fill_null(0))
        # What is a round number of days for a person is one in the table.
        .with_columns(budget_days=(allowed * pl.col("window_days")).round(9))
        .with_columns(
            budget_left=(pl.col("budget_days") - pl.col("days_broken")).round(9),
            burn=pl.when(pl.col("days_judged") > 0).then(
                (pl.col("days_broken") / pl.col("days_judged") / allowed).round(9)
            ),
        )
    )


def verdict(met: bool | None) -> str:
    """A verdict as people read it.

    >>> [verdict(True), verdict(False), verdict(None)]
    ['met', 'broken', 'unknown']
    """
    return "unknown" if met is None else "met" if met else "broken"


@dataclass(frozen=True)
class Overdue:
    """Deliveries of a tenant that are not published although they should be."""

    tenant: str
    days: Sequence[date]
    """Of delivery, oldest first."""
    hours: float
    """Since the arrival of the one that waits longest."""
    target: float


def overdue(
    arrived: Mapping[tuple[date, str], datetime],
    published: Mapping[tuple[date, str], datetime | None],
    targets: Mapping[str, float],
    now: datetime,
) -> list[Overdue]:
    """Who has deliveries that wait for their publication longer than was promised.

    arrived: day and tenant to the arrival of the last file; published: to the newest arrival that
    is published, None where that was not noted; targets: tenant to hours, of those that count.
    """
    waiting: dict[str, list[tuple[date, float]]] = {}
    for (day, tenant), at in sorted(arrived.items()):
        if tenant not in targets:
            continue
        hours = (now - at).total_seconds() / 3_600
        known = published.get((day, tenant), _NEVER)
        if hours > targets[tenant] and known is not None and known < at:
            waiting.setdefault(tenant, []).append((day, hours))
    return [
        Overdue(tenant, [day for day, _ in late], max(hours for _, hours in late), targets[tenant])
        for tenant, late in waiting.items()
    ]
