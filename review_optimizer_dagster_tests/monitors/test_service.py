"""Service levels: what meets a promise, what breaks it, what cannot be said; and what it costs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.service import overdue_news, service_news
from review_optimizer_dagster.alerts.store import raise_news
from review_optimizer_dagster.core.quality import Overall
from review_optimizer_dagster.monitors.service import (
    ALL,
    INDICATORS,
    LEVELS,
    Figures,
    Level,
    judge,
    overdue,
    promises,
    verdict,
    with_error_budgets,
)
from review_optimizer_dagster.monitors.settings import ServiceLevels, ServiceSettings
from review_optimizer_dagster.settings import TenantSettings
from review_optimizer_dagster_tests.memory_state import MemoryState

DAY = date(2026, 3, 4)
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
SERVICE = ServiceSettings()
GOOD = Figures(
    tenant="acme",
    simulated=False,
    reviews=1_000,
    hits=400,
    labelled=995,
    failed=5,
    cost_nanos=9_950_000,  # a cent for 1,000
    latencies_ms=[100.0] * 19 + [90_000.0],
    accuracy=Overall("labels", 1_000, 970, 0.96, 0.98, "passed"),
    published_after_hours=[2.0],
    run_seconds=29.0,
    run_reviews=5_000,
)


def _judged(figures: Figures, **levels: Any) -> dict[str, Level]:
    tenant = TenantSettings(service=ServiceLevels.model_validate(levels))
    return {each.indicator: each for each in judge(figures, promises(SERVICE, tenant), SERVICE)}


def test_a_good_day_keeps_every_default_promise_and_hit_rate_is_none() -> None:
    """Whoever delivers only new texts has no hits: nobody can promise them by default."""
    found = _judged(GOOD)
    assert list(found) == [*INDICATORS, ALL]
    assert {name: each.met for name, each in found.items()} == {
        name: None if name == "hit_rate" else True for name in found
    }
    assert found["hit_rate"].value == 0.4
    assert "not promised" in found["hit_rate"].detail
    assert (found[ALL].value, found[ALL].target, found[ALL].n) == (6, 6, 6)


@pytest.mark.parametrize(
    ("name", "changed", "value"),
    [
        ("run_seconds", {"run_seconds": 30.1}, 30.1),
        ("freshness_hours", {"published_after_hours": [2.0, 26.1]}, 26.1),
        # 95 of 100 may be quick: the 19th of 20 decides, and now it is slow.
        ("latency_p95_ms", {"latencies_ms": [100.0] * 18 + [60_001.0, 90_000.0]}, 60_001.0),
        ("accuracy", {"accuracy": Overall("labels", 1_000, 900, 0.88, 0.92, "failed")}, 0.9),
        ("usd_per_1000", {"cost_nanos": 14_935_000}, 0.01501005),
        ("failed_share", {"failed": 11, "labelled": 989}, 0.011),
    ],
)
def test_each_promise_can_be_broken_alone(name: str, changed: dict[str, Any], value: float) -> None:
    """A promise that nothing breaks would be none."""
    found = _judged(replace(GOOD, **changed))
    assert [each for each in INDICATORS if found[each].met is False] == [name]
    assert found[name].value == pytest.approx(value, rel=1e-6)
    assert found[ALL].met is False
    assert found[ALL].detail == f"broken: {name}"


def test_a_promised_hit_rate_is_a_least_share() -> None:
    """It is the one share, beside accuracy, of which more is better."""
    assert _judged(GOOD, hit_rate=0.4)["hit_rate"].met is True
    assert _judged(GOOD, hit_rate=0.41)["hit_rate"].met is False


@pytest.mark.parametrize(
    ("known", "met"),
    [
        (Overall("labels", 100, 95, 0.95, 0.98, "passed"), True),
        (Overall("labels", 100, 95, 0.90, 0.98, "inconclusive"), None),
        (Overall("labels", 100, 95, 0.90, 0.95, "inconclusive"), None),
        (Overall("labels", 100, 90, 0.85, 0.949, "failed"), False),
        (Overall("stars", 900, 400, 0.40, 0.50, "inconclusive"), None),
        (Overall("none", 0, 0, None, None, "inconclusive"), None),
        (None, None),
    ],
)
def test_an_accuracy_is_judged_by_its_interval(known: Overall | None, met: bool | None) -> None:
    """A small sample must break no promise, nor keep one; stars never decide."""
    assert _judged(replace(GOOD, accuracy=known))["accuracy"].met is met


def test_the_accuracy_asked_for_is_the_gates_unless_another_is_promised() -> None:
    """A gate may let through what a contract does not."""
    assert _judged(GOOD)["accuracy"].target == TenantSettings().min_accuracy
    assert _judged(GOOD, accuracy=0.985)["accuracy"].met is False


def test_the_duration_scales_with_each_started_5000_reviews_of_the_run() -> None:
    """All tenants share the run, so that its reviews count, not those of the tenant."""
    longer = replace(GOOD, run_seconds=59.0, run_reviews=5_001)
    assert _judged(longer)["run_seconds"].target == 60.0
    assert _judged(longer, run_seconds=20)["run_seconds"].target == 40.0
    assert _judged(longer, run_seconds=20)["run_seconds"].met is False
    later = replace(longer, reviews=20_000)  # delivered after that run: no part of it
    assert _judged(later)["run_seconds"].target == 60.0


def test_what_was_not_measured_is_not_judged() -> None:
    """A day without requests has no response time; it is neither good nor bad."""
    empty = Figures("acme", False, reviews=10, hits=10, labelled=0, failed=0)
    found = _judged(empty)
    unsaid = {name for name in INDICATORS if found[name].met is None}
    assert unsaid == set(INDICATORS) - {"failed_share"}
    assert found[ALL].met is True
    assert found[ALL].detail == "1 of 6 promises can be judged, all are met"
    assert _judged(empty, failed_share=False)[ALL].met is None


def test_waiting_can_break_freshness_and_never_keep_it() -> None:
    """A day that its gate stopped is not fresh because it was young when it was judged."""
    young = replace(GOOD, published_after_hours=[], waiting_hours=3.0)
    assert _judged(young)["freshness_hours"].met is None
    assert _judged(replace(young, waiting_hours=27.0))["freshness_hours"].met is False
    # A late file waits beside what was published in time; what was late stays late.
    beside = replace(GOOD, published_after_hours=[30.0], waiting_hours=1.0)
    assert _judged(beside)["freshness_hours"].met is False
    assert _judged(beside)["freshness_hours"].value == 30.0


def test_false_takes_a_promise_back_and_zero_is_one() -> None:
    """TOML has no null; and 0 == False in Python, but `none may fail` is a hard promise."""
    failed = _judged(GOOD, failed_share=False)["failed_share"]
    assert (failed.target, failed.met, failed.value) == (None, None, 0.005)
    assert _judged(GOOD, failed_share=0)["failed_share"].met is False
    off = dict.fromkeys(set(ServiceLevels.model_fields) - {"objective"}, False)
    found = _judged(GOOD, **off)
    assert {each.target for name, each in found.items() if name != ALL} == {None}
    assert verdict(found[ALL].met) == "unknown"
    for wrong in ({"failed_share": True}, {"run_seconds": 0}, {"accuracy": 95}):
        with pytest.raises(ValidationError):
            ServiceLevels.model_validate(wrong)


def test_a_tenant_of_the_batch_api_is_promised_no_duration_unless_told() -> None:
    """Its run may wait for a job as long as it likes."""
    batch = TenantSettings(send="batch")
    assert promises(SERVICE, batch).targets["run_seconds"] is None
    told = batch.model_copy(update={"service": ServiceLevels(run_seconds=700.0)})
    assert promises(SERVICE, told).targets["run_seconds"] == 700.0


def _history(
    days: Mapping[int, bool | None], objective: float = 0.9, window: int = 10, **own: Any
) -> pl.DataFrame:
    rows = [
        {
            "day": DAY + timedelta(days=number), "tenant": "acme", "indicator": "accuracy",
            "target": 0.95, "value": 0.5, "n": 10, "met": met, "detail": "so it was",
            "objective": objective, "window_days": window, "simulated": False,
        } | own
        for number, met in days.items()
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=LEVELS.to_python() | {"day": pl.Date})


def _by_hand(days: Mapping[int, bool | None], at: int, window: int) -> tuple[int, int]:
    seen = [met for number, met in days.items() if at - window < number <= at and met is not None]
    return len(seen), seen.count(False)


def test_error_budgets_agree_with_counting_by_hand() -> None:
    """Over random histories with gaps, days that cannot be said, and another tenant beside."""
    draw = random.Random(20260304)  # noqa: S311 (no secret)
    for _ in range(20):
        window = draw.choice([1, 3, 10])
        days = {n: draw.choice([True, True, False, None]) for n in draw.sample(range(25), 15)}
        rows = pl.concat(
            [
                _history(days, window=window),
                _history(dict.fromkeys(range(25), False), window=window, tenant="bolt"),
                _history(dict.fromkeys(range(25), False), window=window, simulated=True),
            ]
        )
        since = draw.randrange(25)
        found = with_error_budgets(rows, DAY + timedelta(days=since))
        own = found.filter(pl.col("simulated").not_(), tenant="acme")
        got = {
            (row["day"] - DAY).days: (row["days_judged"], row["days_broken"])
            for row in own.rows(named=True)
        }
        assert got == {n: _by_hand(days, n, window) for n in days if n >= since}
        left = own["budget_days"] - own["days_broken"]
        assert own["budget_left"].to_list() == pytest.approx(left.to_list())


def test_a_budget_is_that_of_the_whole_window_from_its_first_day_on() -> None:
    """One bad day of a service that began yesterday has not spent a month's budget."""
    row = with_error_budgets(_history({0: False}, 0.95, 30), DAY).row(0, named=True)
    assert (row["budget_days"], row["budget_left"], row["burn"]) == (1.5, 0.5, 20.0)
    last = with_error_budgets(_history(dict.fromkeys(range(20), True) | {20: False}, 0.95), DAY)
    assert last["burn"][-1] == 2.0  # 1 of 10 days broken, 1 of 20 allowed
    unknown = with_error_budgets(_history({0: None}), DAY).row(0, named=True)
    assert (unknown["days_judged"], unknown["burn"], unknown["budget_left"]) == (0, None, 1.0)


def _told(state: MemoryState, days: Mapping[int, bool | None], **own: Any) -> list[Alert]:
    """What is raised where the days up to the last of these are known."""
    rows = with_error_budgets(_history(days, 0.9, 20, **own), DAY)
    judged = rows.filter(pl.col("met").is_not_null() | pl.col("target").is_null())
    latest = judged.sort("day").tail(1).rows(named=True)
    return raise_news(state, service_news(latest, NOW))


def test_an_episode_is_told_once_turns_critical_with_its_budget_and_recovers() -> None:
    """A promise that is broken every day would else be an alert a day, which nobody reads."""
    state = MemoryState()
    days: dict[int, bool | None] = {0: True}
    assert _told(state, days) == []
    (first,) = _told(state, days := days | {1: False})
    assert (first.event, first.severity, first.period) == (
        "service.broken", "warning", "2026-03-05",
    )  # fmt: skip
    assert "error budget of 2 days in 20 has 1 left" in first.message
    assert _told(state, days) == []
    (second,) = _told(state, days := days | {2: False})
    assert second.severity == "critical"
    assert "is spent" in second.message
    days = days | {3: False, 4: None}
    assert _told(state, days) == []
    (over,) = _told(state, days := days | {5: True})
    assert (over.event, over.severity, over.period) == (
        "service.recovered", "info", "2026-03-09",
    )  # fmt: skip
    assert _told(state, days) == []
    (again,) = _told(state, days | {6: False})
    assert again.alert_id not in {first.alert_id, second.alert_id}


def test_simulated_and_real_promises_have_episodes_of_their_own() -> None:
    """A rehearsal must neither raise a real alert nor end one."""
    state = MemoryState()
    (real,) = _told(state, {0: False})
    (simulated,) = _told(state, {0: False}, simulated=True)
    assert (real.simulated, simulated.simulated) == (False, True)
    (over,) = _told(state, {0: False, 1: True}, simulated=True)
    assert over.recovers == simulated.alert_id
    assert over.simulated


def test_a_day_that_is_mended_by_running_it_again_recovers() -> None:
    """The day itself counts, not only later ones."""
    state = MemoryState()
    (broken,) = _told(state, {0: False})
    (over,) = _told(state, {0: True})
    assert (over.recovers, over.period) == (broken.alert_id, DAY.isoformat())


def test_a_promise_that_is_taken_back_is_over() -> None:
    """Nothing would ever keep it again, so that its alert would stay open for good."""
    state = MemoryState()
    _told(state, {0: False})
    (over,) = _told(state, {1: None}, target=None)
    assert "no longer promised" in over.message


def test_deliveries_are_overdue_until_that_very_file_is_published() -> None:
    """What was published before a late file came says nothing of it."""
    came = datetime(2026, 3, 5, 6, tzinfo=UTC)
    arrived = {(DAY, "acme"): came, (DAY + timedelta(days=1), "acme"): NOW - timedelta(hours=1)}
    hours = {"acme": 24.0}
    (late,) = overdue(arrived, {}, hours, NOW)
    assert (late.days, late.hours) == ([DAY], 30.0)
    before = came - timedelta(seconds=1)
    assert overdue(arrived, {(DAY, "acme"): before}, hours, NOW) == [late]
    assert overdue(arrived, {(DAY, "acme"): came}, hours, NOW) == []
    assert overdue(arrived, {(DAY, "acme"): None}, hours, NOW) == []  # an older version's day
    assert overdue(arrived, {}, {"acme": 30.0}, NOW) == []
    assert overdue(arrived, {}, {"bolt": 1.0}, NOW) == []

    state = MemoryState()
    (told,) = raise_news(state, overdue_news([late], ["acme", "bolt"], False, NOW))
    assert (told.tenant, told.period) == ("acme", DAY.isoformat())
    assert "30.0 h ago and 24 h are promised" in told.message
    assert raise_news(state, overdue_news([late], ["acme"], False, NOW)) == []
    (over,) = raise_news(state, overdue_news([], ["acme"], False, NOW))
    assert over.recovers == told.alert_id
