"""Charts of text: what a sparkline and a table of the last days say."""

from datetime import date, timedelta

from review_optimizer_dagster.defs import charts

DAY = date(2026, 3, 14)


def test_a_sparkline_has_a_character_a_day_and_shows_gaps() -> None:
    """A day without figures must not look like a day of nothing."""
    assert charts.sparkline([0.0, None, 0.5, 1.0, float("nan")]) == "▁·▅█·"
    assert charts.sparkline([None, None]) == "··"
    assert charts.sparkline([3.0, 3.0]) == "▅▅"
    assert charts.sparkline([-9.0, 99.0], least=0.0, most=1.0) == "▁█"


def test_the_table_ends_with_the_day_and_leaves_out_what_is_unknown() -> None:
    """The day's own value stands beside the range of the days before it."""
    values = {DAY - timedelta(days=back): 0.5 + back / 100 for back in range(20)}
    shown = charts.history(
        DAY,
        {
            "hit rate": (values, charts.percent),
            "gone today": ({DAY - timedelta(days=1): 0.25}, charts.percent),
            "never": ({}, charts.percent),
        },
    ).md_str
    assert shown is not None
    assert "50.0\xa0%" in shown  # a line that breaks there is hard to read
    lines = shown.replace("\xa0", " ").splitlines()
    assert lines[0] == "| 14 days | to 2026-03-14 |"
    assert lines[2:4] == ["| hit rate | █▇▇▆▆▅▅▄▄▃▃▂▂▁ 50.0 % |", "| | 50.0 % to 63.0 % |"]
    assert lines[4:] == ["| gone today | ············▅· - |", "| | 25.0 % to 25.0 % |"]


def test_the_ui_shows_the_largest_chart_without_a_click() -> None:
    """It puts longer markdown behind a button; seven lines are the most that a step writes."""
    values = {DAY - timedelta(days=back): 0.5 + back / 100 for back in range(14)}
    series = {f"l3_pattern {number}": (values, charts.percent) for number in range(7)}
    assert len(charts.history(DAY, series).md_str or "") < charts.MOST_CHARACTERS
    assert charts.history(DAY, {}).md_str == "no figures yet"
