"""Charts of promises, money, cache and quality: Vega-Lite by Altair, the same whatever the data."""

from __future__ import annotations

from typing import Any, Final

from review_optimizer_dagster.report.marks import (
    LEVEL_COLOURS,
    LEVELS,
    SERIES,
    SHAPES,
    STATUSES,
    VERDICTS,
    Column,
    Drawing,
    counted,
    day_axis,
    day_bars,
    level_line,
    level_lines,
    log_grid,
    named_colour,
    over_days,
    series_colour,
    tips,
)

ALLOWANCE: Final[list[Column]] = [
    ("tenant", "tenant", "text"),
    ("promise", "promise", "text"),
    ("s", "verdict", "text"),
    ("target_text", "promised", "text"),
    ("value_text", "was", "text"),
    ("v", "of what was allowed", "share"),
]


def allowance() -> Drawing:
    """Points of each promise on a line of what was allowed, by verdict."""
    import altair as alt

    shapes = ["circle", "cross", "diamond"]
    colours = ["var(--ok)", "var(--bad)", "var(--muted)"]
    legend = alt.Legend(title=None, symbolSize=110)
    more = "datum.value >= 2 ? '≥ ' + datum.label : datum.label"
    base = alt.Chart(alt.NamedData("rows")).encode(
        x=alt.X(
            "shown:Q",
            title="share of what was allowed",
            # A little more than from 0 to 2: no point is cut by the edge.
            scale=alt.Scale(domain=[-0.06, 2.06], nice=False, clamp=True),
            axis=alt.Axis(
                format="%", values=[0, 0.5, 1, 1.5, 2], labelExpr=more, labelOverlap="greedy"
            ),
        ),
        y=alt.Y("promise:N", title=None, sort=None),
        yOffset=alt.YOffset("tenant:N", sort=None),
    )
    points = base.mark_point(filled=True, size=alt.ExprRef("area"), opacity=0.95).encode(
        color=alt.Color("s:N", scale=alt.Scale(domain=VERDICTS, range=colours), legend=legend),
        shape=alt.Shape("s:N", scale=alt.Scale(domain=VERDICTS, range=shapes), legend=legend),
        tooltip=tips(*ALLOWANCE),
    )
    rule = alt.Chart(alt.InlineData([{"x": 1}])).mark_rule(
        color="var(--bad)", strokeDash=[5, 4], strokeWidth=1.5
    )
    left = "datum.shown > 1.4"
    names = base.mark_text(
        fontSize=11, fill="var(--muted)", stroke="var(--panel)", strokeWidth=3, baseline="middle",
        align=alt.ExprRef(f"{left} ? 'right' : 'left'"), dx=alt.ExprRef(f"{left} ? -10 : 10"),
    )  # fmt: skip
    return rule.encode(x="x:Q") + points + names.encode(text="label:N")


LEFT: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("left", "days left", "number"),
    ("budget", "days in the budget", "number"),
    ("v", "left of it", "share"),
    ("verdict", "that day", "text"),
]


def budget_left() -> Drawing:
    """Lines of the error budget left, by tenant."""
    import altair as alt

    y = alt.Y("v:Q", title="error budget left", axis=alt.Axis(format="%"))
    return level_line(0, "var(--bad)") + over_days(y, LEFT)


BURN: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("v", "burn rate", "number"),
    ("verdict", "that day", "text"),
]


def burn() -> Drawing:
    """Lines of the burn rate, by tenant."""
    import altair as alt

    y = alt.Y(
        "v:Q", title="burn rate (1 = lasts the window)", scale=alt.Scale(zero=True, nice=True)
    )
    return level_line(1, "var(--bad)") + over_days(y, BURN)


SPEND: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("v", "spent", "usd"),
    ("reviews", "reviews", "int"),
    ("per_1000", "per 1,000 reviews", "usd"),
]


def spend() -> Drawing:
    """Stacked bars of a day's spend, by tenant."""
    import altair as alt

    y = alt.Y("v:Q", title="spent a day (US $)", stack="zero", axis=alt.Axis(format="$~r"))
    return day_bars(y, series_colour(), SPEND, order=alt.Order("place:Q"))


BUDGET: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("v", "used", "share"),
    ("spent", "spent", "usd"),
    ("held", "held", "usd"),
    ("budget", "budget", "usd"),
    ("period", "period", "text"),
    ("what", "", "text"),
]


def budget() -> Drawing:
    """Lines of budget used, with alert thresholds, and the forecast with its interval."""
    import altair as alt

    scale = alt.Scale(domain=[0, alt.ExprRef("ceiling")], nice=False)
    y = alt.Y("v:Q", title="share of the budget", axis=alt.Axis(format="%"), scale=scale)
    own = over_days(y, BUDGET)
    forecast = alt.Chart(alt.NamedData("forecast"))
    stroke = alt.Stroke("colour:N", scale=None, legend=None)
    reach = forecast.mark_rule(strokeWidth=2.5, opacity=0.75, clip=True).encode(
        x=day_axis(), y="lower:Q", y2="upper:Q", stroke=stroke
    )
    shown = alt.Y("shown:Q", scale=scale)
    ends = forecast.mark_point(shape="diamond", size=80, filled=False, strokeWidth=2).encode(
        x=day_axis(), y=shown, stroke=stroke, tooltip=tips(*BUDGET)
    )
    beyond = forecast.mark_text(
        align="right", dx=-9, fontSize=11, fill="var(--muted)", stroke="var(--panel)", strokeWidth=3
    ).encode(x=day_axis(), y=shown, text="beyond:N")
    return level_lines() + own + reach + ends + beyond


SAVINGS: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "what", "text"),
    ("v", "a day", "usd"),
    ("saved", "saved against it", "share"),
]


def savings() -> Drawing:
    """Lines of cost, of cost without a cache and of the baseline, on a logarithmic scale."""
    import altair as alt

    y = alt.Y(
        "v:Q",
        title="US $ a day (log scale)",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format="$~r", tickCount=5, gridColor=log_grid()),
    )
    return over_days(y, SAVINGS)


TIERS: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tier", "text"),
    ("model", "model", "text"),
    ("v", "texts asked", "int"),
    ("passed_on", "passed on", "int"),
    ("passed_share", "passed on of asked", "share"),
    ("cost", "cost", "usd"),
    ("requests", "requests", "int"),
]


def tiers() -> Drawing:
    """Stacked bars of texts asked, by step of the ladder."""
    y = counted("texts asked a day", stack="zero")
    return day_bars(y, series_colour(), TIERS)


HITS: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "level", "text"),
    ("v", "reviews", "int"),
    ("share", "share of the day", "share"),
]


def levels() -> Drawing:
    """Stacked bars of reviews, by the level that answered."""
    import altair as alt

    y = alt.Y("v:Q", title="share of published reviews", stack="normalize").axis(format="%")
    colour = named_colour(LEVELS, LEVEL_COLOURS, None)
    return day_bars(y, colour, HITS, order=alt.Order("place:Q"))


CATEGORY: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "category", "text"),
    ("v", "hit rate", "share"),
    ("hits", "hits", "int"),
    ("reviews", "reviews", "int"),
]


def categories() -> Drawing:
    """Lines of the hit rate, by category."""
    import altair as alt

    y = alt.Y("v:Q", title="hit rate", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    return over_days(y, CATEGORY)


SERVED: Final[list[Column]] = [
    ("tenant", "tenant", "text"),
    ("s", "level", "text"),
    ("served", "served of all reviews", "share"),
    ("v", "contradicted by rechecks", "share"),
    ("lower", "90 % interval from", "share"),
    ("upper", "to", "share"),
    ("n", "rechecks", "int"),
    ("wrong", "of them contradicted", "int"),
    ("max_error", "allowed (learned patterns)", "share"),
]


def served() -> Drawing:
    """Points of what a level serves against how often it is contradicted, with intervals."""
    import altair as alt

    base = alt.Chart(alt.NamedData("rows")).encode(
        x=alt.X(
            "served:Q",
            title="share of the reviews that the level served",
            axis=alt.Axis(format="%", tickCount=6),
            scale=alt.Scale(domainMin=0, zero=True, padding=14),
        ),
        color=alt.Color(
            "s:N",
            scale=alt.Scale(domain=LEVELS[:5], range=LEVEL_COLOURS[:5]),
            legend=alt.Legend(title=None),
        ),
    )
    y: dict[str, Any] = {
        "title": "error share (square-root scale)",
        "axis": alt.Axis(format="~%", values=alt.ExprRef("marks"), labelOverlap="greedy"),
        "scale": alt.Scale(type="sqrt", domain=[0, alt.ExprRef("top")], nice=False, clamp=True),
    }
    reach = base.mark_rule(strokeWidth=2.5, opacity=0.8, clip=True).encode(
        y=alt.Y("lower:Q", **y), y2="upper:Q", tooltip=tips(*SERVED)
    )
    points = base.mark_point(filled=True, size=120, opacity=1).encode(
        y=alt.Y("v:Q", **y),
        shape=alt.Shape("s:N", scale=alt.Scale(domain=LEVELS[:5], range=SHAPES[:5])),
        tooltip=tips(*SERVED),
    )
    return level_lines() + reach + points


BOUNDS: Final[list[Column]] = [
    ("name", "label", "text"),
    ("s", "status", "text"),
    ("v", "bound of its error (95 %)", "share"),
    ("max_error", "allowed", "share"),
    ("n", "compared", "int"),
    ("errors", "of them other labels", "int"),
    ("threshold", "least confidence", "number"),
]


def bounds() -> Drawing:
    """Bars of each pattern's error bound beside what is allowed."""
    import altair as alt

    colours = ["var(--ok)", "var(--muted)", "var(--warn)", "var(--bad)"]
    base = alt.Chart(alt.NamedData("rows")).encode(y=alt.Y("name:N", title=None, sort=None))
    x = alt.X(
        "v:Q",
        title="upper bound of its error",
        scale=alt.Scale(type="sqrt", domainMin=0),
        axis=alt.Axis(format="~%", tickCount=5, labelOverlap="greedy"),
    )
    legend = alt.Legend(title=None)
    points = base.mark_point(filled=True, size=100, opacity=1).encode(
        x=x,
        color=alt.Color("s:N", scale=alt.Scale(domain=STATUSES, range=colours), legend=legend),
        shape=alt.Shape("s:N", scale=alt.Scale(domain=STATUSES, range=SHAPES[:4]), legend=legend),
        tooltip=tips(*BOUNDS),
    )
    ticks = base.mark_tick(color="var(--bad)", thickness=2, size=16).encode(x="max_error:Q")
    return ticks + points


ACCURACY: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("v", "accuracy", "share"),
    ("lower", "90 % interval from", "share"),
    ("upper", "to", "share"),
    ("n", "reviews with a truth", "int"),
    ("truth", "measured by", "text"),
    ("verdict", "gate", "text"),
]


def accuracy() -> Drawing:
    """Lines of accuracy with intervals, threshold and goal."""
    import altair as alt

    scale = alt.Scale(domain=[alt.ExprRef("low"), alt.ExprRef("high")], nice=False, zero=False)
    y = alt.Y("v:Q", title="accuracy", axis=alt.Axis(format="~%"), scale=scale)
    rows = alt.Chart(alt.NamedData("rows"))
    band = rows.mark_rule(
        strokeWidth=alt.ExprRef("points > 0 ? 5 : 2"), opacity=0.3, clip=True
    ).encode(
        x=day_axis(),
        y="lower:Q",
        y2="upper:Q",
        stroke=alt.Stroke("colour:N", scale=None, legend=None),
        tooltip=tips(*ACCURACY),
    )
    return level_lines() + band + over_days(y, ACCURACY)


PARTS: Final[list[Column]] = [
    ("name", "part", "text"),
    ("s", "kind", "text"),
    ("v", "accuracy", "share"),
    ("lower", "90 % interval from", "share"),
    ("upper", "to", "share"),
    ("n", "reviews with a truth", "int"),
    ("below_text", "below the threshold beyond doubt", "text"),
]


def parts() -> Drawing:
    """Intervals of the parts of a day, the lowest first."""
    import altair as alt

    kinds = ["class", "category", "level", "field"]
    base = alt.Chart(alt.NamedData("rows")).encode(
        y=alt.Y("name:N", title=None, sort=None),
        color=alt.Color(
            "s:N", scale=alt.Scale(domain=kinds, range=SERIES[:4]), legend=alt.Legend(title=None)
        ),
    )
    scale = alt.Scale(zero=False, nice=True)
    axis = alt.Axis(format="~%", tickCount=5, labelOverlap="greedy")
    reach = base.mark_rule(strokeWidth=2.5, opacity=0.7).encode(
        x=alt.X("lower:Q", title="accuracy, 90 % interval", scale=scale, axis=axis),
        x2="upper:Q",
        tooltip=tips(*PARTS),
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        x="v:Q",
        shape=alt.Shape("s:N", scale=alt.Scale(domain=kinds, range=SHAPES[:4])),
        tooltip=tips(*PARTS),
    )
    rule = alt.Chart(alt.NamedData("lines")).mark_rule(
        color="var(--bad)", strokeDash=[5, 4], strokeWidth=1.5
    )
    return rule.encode(x="y:Q") + reach + points


DRIFT: Final[list[Column]] = [
    ("t", "day", "day"),
    ("s", "tenant", "text"),
    ("v", "signals that drifted", "int"),
    ("tests", "compared", "int"),
]


def drift() -> Drawing:
    """Bars of drifting signals, by tenant."""
    return day_bars(counted("signals that drifted"), series_colour(), DRIFT)
