"""Charts of requests and alerts: Vega-Lite by Altair, the same whatever the data."""

from __future__ import annotations

from typing import Final

from review_optimizer_dagster.report.marks import (
    SERIES,
    SEVERITIES,
    SHAPES,
    Column,
    Drawing,
    counted,
    day_bars,
    log_grid,
    named_colour,
    over_days,
    time_axis,
    tips,
)

LATENCY: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "what", "text"),
    ("v", "milliseconds", "ms"),
    ("requests", "requests", "int"),
    ("slowdown", "seen over expected (median)", "number"),
]


def latency() -> Drawing:
    """Lines of median, p95 and the p95 that sizes predict."""
    import altair as alt

    y = alt.Y(
        "v:Q",
        title="response time (ms, log scale)",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format="~s", tickCount=5, gridColor=log_grid()),
    )
    return over_days(y, LATENCY)


HISTOGRAM: Final[list[Column]] = [
    ("name", "response time", "text"),
    ("v", "requests", "int"),
]


def histogram() -> Drawing:
    """Bars of requests, by response time."""
    import altair as alt

    return (
        alt.Chart(alt.NamedData("rows"))
        .mark_bar(color="var(--c1)", stroke="var(--panel)", strokeWidth=1)
        .encode(
            x=alt.X(
                "from:Q",
                title="response time (ms, log scale)",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(format="~s", tickCount=6),
            ),
            x2="to:Q",
            y=counted("requests"),
            y2=alt.value("height"),
            tooltip=tips(*HISTOGRAM),
        )
    )


SLOW: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "what", "text"),
    ("v", "requests", "int"),
    ("judged", "of so many with an expectation", "int"),
]


def slow() -> Drawing:
    """Bars of slow requests and of those inside a slow while."""
    names = ["slow", "inside a degradation"]
    return day_bars(
        counted("requests"), named_colour(names, ["var(--c2)", "var(--c4)"], None), SLOW
    )


EXPECTED: Final[list[Column]] = [
    ("sent", "sent", "moment"),
    ("tenant", "tenant", "text"),
    ("s", "what", "text"),
    ("expected", "expected (ms)", "ms"),
    ("v", "seen (ms)", "ms"),
    ("reviews", "reviews in it", "int"),
]


def expected() -> Drawing:
    """Points of response times against what the size of each request predicts."""
    import altair as alt

    names = ["as expected", "slow", "inside a degradation"]
    log = alt.Scale(type="log", nice=False, padding=14)
    axis = alt.Axis(format="~s", tickCount=5)
    points = (
        alt.Chart(alt.NamedData("rows"))
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            x=alt.X("expected:Q", title="expected by size (ms)", scale=log, axis=axis),
            y=alt.Y("v:Q", title="seen (ms)", scale=log, axis=axis),
            color=alt.Color(
                "s:N",
                scale=alt.Scale(domain=names, range=["var(--c1)", "var(--bad)", "var(--c4)"]),
                legend=alt.Legend(title=None),
            ),
            shape=alt.Shape(
                "s:N", scale=alt.Scale(domain=names, range=["circle", "cross", "triangle-up"])
            ),
            tooltip=tips(*EXPECTED),
        )
    )
    same = alt.Chart(alt.NamedData("lines")).mark_line(color="var(--muted)", strokeDash=[5, 4])
    return same.encode(x="y:Q", y=alt.Y("y:Q")) + points


SIZES: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "what", "text"),
    ("v", "reviews a request", "number"),
    ("requests", "requests", "int"),
]


def sizes() -> Drawing:
    """Lines of reviews a request: median and largest."""
    import altair as alt

    y = alt.Y("v:Q", title="reviews a request", scale=alt.Scale(zero=True, nice=True))
    return over_days(y, SIZES)


PEAK: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "what", "text"),
    ("v", "requests at once", "int"),
    ("requests", "requests that day", "int"),
]


def peaks() -> Drawing:
    """Lines of the most requests in flight at once."""
    return over_days(counted("requests in flight at once"), PEAK)


MEMORY: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("v", "highest share of memory in use", "share"),
]


def memory() -> Drawing:
    """Lines of the model server's memory, a day."""
    import altair as alt

    scale = alt.Scale(domain=[0, 1])
    y = alt.Y("v:Q", title="memory in use", axis=alt.Axis(format="%"), scale=scale)
    return over_days(y, MEMORY)


MOMENTS: Final[list[Column]] = [
    ("t", "time (UTC)", "moment"),
    ("v", "requests in flight", "int"),
]


def in_flight() -> Drawing:
    """A step line of requests in flight, over the day's time."""
    import altair as alt

    return (
        alt.Chart(alt.NamedData("rows"))
        .mark_area(
            interpolate="step-after", color="var(--c1)", opacity=0.35, line={"color": "var(--c1)"}
        )
        .encode(
            x=time_axis("time (UTC)"),
            y=counted("requests in flight"),
            tooltip=tips(*MOMENTS),
        )
    )


SENT: Final[list[Column]] = [
    ("t", "sent", "moment"),
    ("s", "tenant", "text"),
    ("v", "reviews in it", "int"),
    ("latency", "response time (ms)", "ms"),
    ("status", "status", "text"),
    ("memory", "memory in use", "share"),
]


def sent() -> Drawing:
    """Points of reviews a request, over the day's time."""
    import altair as alt

    return (
        alt.Chart(alt.NamedData("rows"))
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            x=time_axis(),
            y=counted("reviews in the request"),
            color=alt.Color("s:N", scale=alt.Scale(range=SERIES), sort=None).title(None),
            shape=alt.Shape("s:N", scale=alt.Scale(range=SHAPES), sort=None).title(None),
            tooltip=tips(*SENT),
        )
    )


MEMORY_NOW: Final[list[Column]] = [
    ("t", "sent", "moment"),
    ("s", "tenant", "text"),
    ("v", "memory in use", "share"),
]


def memory_now() -> Drawing:
    """A line of the model server's memory, over the day's time."""
    import altair as alt

    scale = alt.Scale(domain=[0, 1])
    return (
        alt.Chart(alt.NamedData("rows"))
        .mark_line(point=True, color="var(--c4)", strokeWidth=1.5)
        .encode(
            x=time_axis(),
            y=alt.Y("v:Q", title="memory in use", axis=alt.Axis(format="%"), scale=scale),
            tooltip=tips(*MEMORY_NOW),
        )
    )


RAISED: Final[list[Column]] = [
    ("t", "day it is about", "day"),
    ("s", "severity", "text"),
    ("v", "alerts", "int"),
]


def raised() -> Drawing:
    """Stacked bars of alerts, by severity."""
    colours = ["var(--bad)", "var(--warn)", "var(--c1)"]
    y = counted("alerts and recoveries")
    return day_bars(y, named_colour(SEVERITIES, colours, "severity"), RAISED)
