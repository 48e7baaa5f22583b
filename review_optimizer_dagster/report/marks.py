"""The marks that charts of the dashboard share: axes of days, series, bars, rules, tooltips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    import altair as alt

Kind: TypeAlias = Literal["text", "day", "moment", "int", "number", "share", "usd", "ms"]
Drawing: TypeAlias = Any  # alt.Chart or alt.LayerChart: imported where they are drawn
Column: TypeAlias = tuple[str, str, Kind]  # field of the rows, heading, how it is written

# CSS variables: the theme changes them, and nothing is drawn anew.
SERIES: Final = [f"var(--c{number})" for number in range(1, 9)]
_DASHES: Final = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [4, 4], [1, 3], [12, 3, 3, 3]]
SHAPES: Final = [
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke", "arrow",
]  # fmt: skip
LEVELS: Final = ["l1", "l2", "l3_exact", "l3_near", "l3_pattern", "model", "none"]
LEVEL_COLOURS: Final = [
    "var(--c5)", "var(--c1)", "var(--c3)", "var(--c6)", "var(--c4)", "var(--c2)", "var(--c7)",
]  # fmt: skip
VERDICTS: Final = ["met", "broken", "unknown"]
STATUSES: Final = ["serving", "abstains", "cut out", "switched off"]
SEVERITIES: Final = ["critical", "warning", "info"]
SHARE: Final = ".1%"
DAY: Final = "%d %b %Y"


def day_axis() -> Any:
    """The axis of days: from the first to the last of the page, the same in every chart."""
    import altair as alt

    domain = [alt.ExprRef("first"), alt.ExprRef("last")]
    return alt.X(
        "t:T",
        title="day of delivery (UTC)",
        scale=alt.Scale(type="utc", domain=domain, nice=False),
        axis=alt.Axis(format="%d %b", labelOverlap="greedy", tickCount=alt.ExprRef("ticks")),
    )


def series(title: str | None = None) -> dict[str, Any]:
    """Series are told apart by colour, dashes and the shape of points."""
    import altair as alt

    legend = alt.Legend(title=title, symbolType="stroke", symbolSize=180, symbolStrokeWidth=2.5)
    return {
        "color": alt.Color("s:N", scale=alt.Scale(range=SERIES), sort=None, legend=legend),
        "strokeDash": alt.StrokeDash(
            "s:N", scale=alt.Scale(range=_DASHES), sort=None, legend=legend
        ),
    }


def tips(*columns: Column) -> list[alt.Tooltip]:
    """Tooltips of a table's columns."""
    import altair as alt

    formats = {"int": ",", "number": ",.3~f", "share": ".2%", "usd": "$,.6~f", "ms": ",.0f"}
    # Days and moments come as text too: Vega would write them in the reader's own time zone.
    return [
        alt.Tooltip(f"{field}:Q", title=heading, format=formats[kind])
        if kind in formats
        else alt.Tooltip(f"{field}{'' if kind == 'text' else '_text'}:N", title=heading)
        for field, heading, kind in columns
    ]


def counted(title: str, **encoded: Any) -> alt.Y:
    """The axis of whole numbers: no tick stands between two of them."""
    import altair as alt

    axis = alt.Axis(tickMinStep=1, format=",d")
    return alt.Y("v:Q", title=title, axis=axis, scale=alt.Scale(zero=True, nice=True), **encoded)


def level_line(value: float, colour: str) -> Drawing:
    """A dashed line at a value."""
    import altair as alt

    return (
        alt.Chart(alt.InlineData([{"y": value}]))
        .mark_rule(color=colour, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(y="y:Q")
    )


def over_days(
    y: alt.Y, columns: Sequence[Column], legend: str | None = None, **encoded: Any
) -> Drawing:
    """A line a series over days, with points that can be pointed at.

    A row's `w` and `size` are the pixels of its line and the area of its point: the page draws what
    would be hidden below another line wider than that.
    """
    import altair as alt

    base = alt.Chart(alt.NamedData("rows")).encode(x=day_axis(), y=y, **series(legend), **encoded)
    points = base.mark_point(filled=True, opacity=1).encode(
        shape=alt.Shape("s:N", scale=alt.Scale(range=SHAPES), sort=None, legend=None),
        size=alt.Size("size:Q", scale=None, legend=None),
        tooltip=tips(*columns),
    )
    line = base.mark_line(interpolate="linear").encode(
        strokeWidth=alt.StrokeWidth("w:Q", scale=None, legend=None)
    )
    return line + points


def day_bars(y: alt.Y, colour: alt.Color, columns: Sequence[Column], **encoded: Any) -> Drawing:
    """Stacked bars, one a day."""
    import altair as alt

    return (
        alt.Chart(alt.NamedData("rows"))
        .mark_bar(
            width=alt.ExprRef("max(1, min(46, 0.72 * width * 86400000 / (last - first)))"),
            stroke="var(--panel)",
            strokeWidth=alt.ExprRef("last - first > 60 * 86400000 ? 0 : 0.8"),
        )
        .encode(x=day_axis(), y=y, color=colour, tooltip=tips(*columns), **encoded)
    )


def series_colour(title: str | None = None) -> alt.Color:
    """The colour of a tenant, as the page has ranked them."""
    import altair as alt

    return alt.Color(
        "s:N",
        scale=alt.Scale(range=SERIES),
        sort=None,
        legend=alt.Legend(title=title, symbolType="square"),
    )


def named_colour(names: Sequence[str], colours: Sequence[str], title: str | None) -> alt.Color:
    """Colours of names that are always the same."""
    import altair as alt

    scale = alt.Scale(domain=list(names), range=list(colours))
    return alt.Color("s:N", scale=scale, legend=alt.Legend(title=title, symbolType="square"))


def time_axis(title: str = "time of sending (UTC)") -> Any:
    """The axis of a day's time."""
    import altair as alt

    axis = alt.Axis(format="%H:%M:%S", tickCount=6, labelOverlap="greedy")
    return alt.X("t:T", title=title, scale=alt.Scale(type="utc", nice=False), axis=axis)


def level_lines(dy: int = -6) -> Drawing:
    """Dashed lines at the values `y` of the data set `lines`, with their names: thresholds.

    Colours are conditions and no scale: a scale of its own would be one more legend.
    """
    import altair as alt

    lines = alt.Chart(alt.NamedData("lines")).encode(y="y:Q")
    is_goal, is_limit = "datum.kind == 'goal'", "datum.kind == 'limit'"
    rules = lines.mark_rule(
        strokeWidth=1.5,
        stroke=alt.ExprRef(f"{is_goal} ? 'var(--ok)' : {is_limit} ? 'var(--bad)' : 'var(--warn)'"),
    ).encode(
        strokeDash=alt.StrokeDashValue([5, 4], condition={"test": is_goal, "value": [2, 3]}),
    )
    # The panel's colour around the letters keeps them apart from what they lie on.
    names = lines.mark_text(
        align="left", dx=4, dy=dy, fontSize=11, fill="var(--muted)", stroke="var(--panel)",
        strokeWidth=3,
    )  # fmt: skip
    return rules + names.encode(x=alt.value(0), text="name:N")


def log_grid() -> Any:
    """Grid lines of a logarithmic axis at 1, 2 and 5 of each decade alone."""
    mantissa = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    test = f"indexof([1, 2, 5, 10], {mantissa}) >= 0"
    return {"condition": {"test": test, "value": "var(--grid)"}, "value": "transparent"}
