"""One alert an episode of drift, whichever process looks, and a recovery when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from review_optimizer_dagster.alerts.drift import drift_news
from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raise_news, raised
from review_optimizer_dagster.monitors.drift import TESTS
from review_optimizer_dagster.monitors.settings import DriftSettings
from review_optimizer_dagster.storage.journal import StateStore

FIRST = date(2026, 3, 2)
SETTINGS = DriftSettings()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    """An empty journal."""
    with closing(StateStore(tmp_path)) as opened:
        yield opened


def _tests(
    alarms: Sequence[bool | None],
    simulated: bool = False,
    new_normal: bool = False,
    signals: Sequence[str] = ("label:sentiment", "length"),
) -> pl.DataFrame:
    """The tests of days, of which some are alarmed; None: a day without any."""
    rows = [
        {
            "day": FIRST + timedelta(days=number),
            "tenant": "acme",
            "taxonomy": "reviews",
            "simulated": simulated,
            "category": "" if place else "Books",
            "signal": signal,
            "horizon": "day",
            "n": 500,
            "baseline_days": 28,
            "p_value": 1e-9 * (place + 1) if alarm else 0.5,
            "distance": 0.25 if alarm else 0.01,
            "alarm": alarm,
            "new_normal": new_normal,
        }
        for number, alarm in enumerate(alarms)
        if alarm is not None
        for place, signal in enumerate(signals)
    ]
    return pl.DataFrame(rows, {"day": pl.Date(), **TESTS}, orient="row")


def _told(state: StateStore, tests: pl.DataFrame, days: int, first: int = 0) -> list[Alert]:
    """Raise the news of days, one after the other; what was new."""
    found = []
    for number in range(first, days):
        day = FIRST + timedelta(days=number)
        seen = tests.filter(pl.col("day") <= day)
        found += raise_news(state, drift_news(seen, day, SETTINGS))
    return found


def test_an_episode_is_told_when_it_begins_and_when_it_ends(state: StateStore) -> None:
    """However many signals move, and however long: two messages."""
    tests = _tests([False, True, True, True, False, False])
    begun, over = _told(state, tests, 6)
    assert (begun.event, begun.period, begun.severity) == (
        "drift.detected",
        "2026-03-03",
        "warning",
    )
    assert "label:sentiment of Books (25.0% moved, p 1e-09), length of all" in begun.message
    assert "2 of 2 tests" in begun.message
    assert (over.event, over.period, over.recovers) == (
        "drift.recovered",
        "2026-03-06",
        begun.alert_id,
    )
    assert "none of 2 tests" in over.message


def test_looking_again_tells_nothing_again(state: StateStore) -> None:
    """A sensor looks every minute, and days are run again."""
    tests = _tests([True, False, True, True])
    assert len(_told(state, tests, 4)) == 3
    assert _told(state, tests, 4) == []
    assert _told(state, tests, 4, first=2) == []
    assert len(raised(state)) == 3


def test_another_episode_is_another_alert(state: StateStore) -> None:
    """The second is no repetition of the first."""
    told = _told(state, _tests([True, False, True, False]), 4)
    assert [each.event for each in told] == ["drift.detected", "drift.recovered"] * 2
    assert len({each.alert_id for each in told}) == 4


def test_a_day_without_tests_says_nothing(state: StateStore) -> None:
    """A holiday neither ends an episode nor begins it anew."""
    told = _told(state, _tests([True, None, True, None, False]), 5)
    assert [(each.event, each.period) for each in told] == [
        ("drift.detected", "2026-03-02"),
        ("drift.recovered", "2026-03-06"),
    ]


def test_what_has_become_normal_is_told_as_such(state: StateStore) -> None:
    """It has not gone away: whoever reads that it is over must not believe so."""
    tests = pl.concat([_tests([True]), _tests([None, False], new_normal=True)])
    _, over = _told(state, tests, 2)
    assert "compared with now" in over.message


def test_a_corrected_day_ends_its_own_episode(state: StateStore) -> None:
    """The delivery was wrong, is delivered anew, and the day is run again."""
    (begun,) = _told(state, _tests([True]), 1)
    (over,) = _told(state, _tests([False]), 1)
    assert over.recovers == begun.alert_id


def test_a_day_of_long_ago_ends_no_episode_of_now(state: StateStore) -> None:
    """A backfill of last month says nothing of this one."""
    _told(state, _tests([False, False, True]), 3)
    assert _told(state, _tests([False, False, True]), 2) == []


def test_a_rehearsal_is_an_episode_of_its_own(state: StateStore) -> None:
    """Drift of what a simulator answers must not hide what the model's answers do."""
    both = pl.concat([_tests([True]), _tests([True], simulated=True)])
    told = _told(state, both, 1)
    assert sorted(each.simulated for each in told) == [False, True]


def test_a_message_names_the_strongest_few(state: StateStore) -> None:
    """A chat shows a few lines; the tables have the rest."""
    (begun,) = _told(state, _tests([True], signals=[f"label:f{n}" for n in range(20)]), 1)
    assert begun.message.count("moved") == 6
    assert "and 14 more; 20 of 20 tests" in begun.message
