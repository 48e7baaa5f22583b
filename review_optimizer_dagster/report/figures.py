"""The figures of the dashboard in their order: what each is called, says, and is drawn by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from review_optimizer_dagster.report import charts, traffic
from review_optimizer_dagster.report.marks import Column

SECTIONS: Final = {
    "service": "Today against promise",
    "money": "Money",
    "cache": "Cache",
    "quality": "Quality",
    "latency": "Response times",
    "batches": "Batches, concurrency and memory",
    "alerts": "Alerts",
}


@dataclass(frozen=True)
class Figure:
    """A chart of the page: its words, and the columns of the table of the same numbers."""

    name: str
    section: str
    title: str
    note: str
    """How to read it."""
    empty: str
    """What stands there where there is nothing to draw."""
    columns: Sequence[Column]
    draw: Callable[[], Any]
    only: Literal["", "day", "days"] = ""
    """The file it is in: that of a day, that over days, or both."""
    height: int = 240
    """Pixels of the plot; 0: as many as its rows need. The page sets it."""


FIGURES: Final[Sequence[Figure]] = (
    Figure(
        "allowance",
        "service",
        "How near to its limits",
        "Each promise of the day: left of the line it was kept with room to spare, right of it it "
        "was broken. Failures are shares of what was allowed, times are shares of the limit. The "
        "tenant nearest to a limit is named, or how many are beyond it.",
        "nothing was promised, or nothing could be judged",
        charts.ALLOWANCE,
        charts.allowance,
        height=0,
    ),
    Figure(
        "budget_left",
        "service",
        "Error budget left",
        "Days that may still break a promise, as a share of those that may in the window. Below "
        "0 % more were broken than promised.",
        "no error budget yet: no day was judged",
        charts.LEFT,
        charts.budget_left,
        height=240,
    ),
    Figure(
        "burn",
        "service",
        "Burn rate",
        "How fast the error budget is used: at 1 it lasts exactly the window.",
        "no burn rate yet: no day was judged",
        charts.BURN,
        charts.burn,
    ),
    Figure(
        "budget",
        "money",
        "Budget used",
        "Spend as a share of the budget, by the day of delivery whose run saw it; dashed lines "
        "are the alert thresholds, diamonds the forecast for the end of the month with its 90 % "
        "interval.",
        "no budget state was kept yet: it is from the next run on",
        charts.BUDGET,
        charts.budget,
        height=270,
    ),
    Figure(
        "spend",
        "money",
        "Spend a day",
        "What was paid for the reviews of each day of delivery.",
        "nothing was spent",
        charts.SPEND,
        charts.spend,
        height=270,
    ),
    Figure(
        "savings",
        "money",
        "Savings",
        "What a day cost, what it would have cost without a cache (estimated), and what one large "
        "model would have cost for every labelled review.",
        "nothing was spent or saved",
        charts.SAVINGS,
        charts.savings,
    ),
    Figure(
        "tiers",
        "money",
        "Model tiers",
        "Texts that each step of the ladder of models was asked about; what it passed on to the "
        "next step and what it cost is in the table below and at each bar.",
        "no model was asked",
        charts.TIERS,
        charts.tiers,
    ),
    Figure(
        "levels",
        "cache",
        "Who answered",
        "Published reviews by the cache level that answered them; model: asked and paid for.",
        "nothing is published of these days",
        charts.HITS,
        charts.levels,
        height=270,
    ),
    Figure(
        "categories",
        "cache",
        "Hit rate by category",
        "Share of the published reviews of a category that no model was asked about.",
        "nothing is published of these days",
        charts.CATEGORY,
        charts.categories,
        height=270,
    ),
    Figure(
        "served",
        "cache",
        "Served share against error",
        "Each level: the share of reviews that it served, and how often random rechecks "
        "contradicted it, with the 90 % interval. The line is what learned patterns are allowed.",
        "no hit was rechecked yet",
        charts.SERVED,
        charts.served,
        height=300,
    ),
    Figure(
        "bounds",
        "cache",
        "Learned patterns against their limit",
        "The 95 % upper bound of each label's error where its pattern answers, and the limit "
        "(upright mark). Left of the mark it may serve.",
        "no pattern has been learned yet",
        charts.BOUNDS,
        charts.bounds,
        height=0,
    ),
    Figure(
        "accuracy",
        "quality",
        "Accuracy",
        "Share of the reviews with a truth that are right in every field, with the 90 % interval; "
        "dashed: the threshold of the gate, dotted: the goal.",
        "no review has a truth to be measured against",
        charts.ACCURACY,
        charts.accuracy,
        height=300,
    ),
    Figure(
        "parts",
        "quality",
        "Where it is weakest",
        "Classes, categories, levels and fields of the day with the lowest accuracy.",
        "no part of the day has a truth to be measured against",
        charts.PARTS,
        charts.parts,
        height=0,
    ),
    Figure(
        "drift",
        "quality",
        "Drift",
        "Signals of a day whose mix differs from the days before beyond doubt.",
        "nothing drifted",
        charts.DRIFT,
        charts.drift,
        only="days",
        height=200,
    ),
    Figure(
        "latency",
        "latency",
        "Response times over days",
        "Median, 95th and 99th percentile of the answered requests, and the median that the size "
        "of the requests predicts.",
        "no request was answered",
        traffic.LATENCY,
        traffic.latency,
        height=270,
    ),
    Figure(
        "histogram",
        "latency",
        "Distribution on the day",
        "Requests by response time; each bar is a quarter of a doubling.",
        "no request was answered on this day",
        traffic.HISTOGRAM,
        traffic.histogram,
        height=270,
    ),
    Figure(
        "expected",
        "latency",
        "Expected against seen",
        "Each request: what its size predicts and what it took. On the line they are the same.",
        "no request of the day has an expectation yet: too few were answered before",
        traffic.EXPECTED,
        traffic.expected,
        only="day",
        height=300,
    ),
    Figure(
        "slow",
        "latency",
        "Slow requests",
        "Single requests far slower than their size predicts, and requests inside a degradation.",
        "no request was slow",
        traffic.SLOW,
        traffic.slow,
        height=200,
    ),
    Figure(
        "sizes",
        "batches",
        "Batch sizes",
        "Reviews a request: the mean of a day and the largest.",
        "no request was sent",
        traffic.SIZES,
        traffic.sizes,
    ),
    Figure(
        "peaks",
        "batches",
        "Concurrency",
        "Most requests in flight at the same time, from when each was sent and how long it took.",
        "no request was sent",
        traffic.PEAK,
        traffic.peaks,
    ),
    Figure(
        "in_flight",
        "batches",
        "Requests in flight on the day",
        "From when each was sent and how long it took.",
        "no request was sent on this day",
        traffic.MOMENTS,
        traffic.in_flight,
        only="day",
    ),
    Figure(
        "sent",
        "batches",
        "Batch sizes on the day",
        "Each request by the time of sending.",
        "no request was sent on this day",
        traffic.SENT,
        traffic.sent,
        only="day",
    ),
    Figure(
        "memory",
        "batches",
        "Memory of the model's server",
        "Highest share of the GPU or KV-cache memory in use when a request was sent.",
        "no memory is watched: set engine.metrics_url, or run the model on this machine",
        traffic.MEMORY,
        traffic.memory,
        only="days",
    ),
    Figure(
        "memory_now",
        "batches",
        "Memory of the model's server on the day",
        "Share of the GPU or KV-cache memory in use when each request was sent.",
        "no memory is watched: set engine.metrics_url, or run the model on this machine",
        traffic.MEMORY_NOW,
        traffic.memory_now,
        only="day",
    ),
    Figure(
        "raised",
        "alerts",
        "Alerts by day",
        "By the day that they are about; info: something is over. Alerts about a whole month are "
        "in the log alone.",
        "no alert is about one of these days",
        traffic.RAISED,
        traffic.raised,
        only="days",
        height=180,
    ),
)
