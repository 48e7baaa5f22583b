"""Response times: a big batch is no anomaly, a slow small one is, and a slow while is told once."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from review_optimizer_dagster.core.classifier import REQUESTS
from review_optimizer_dagster.monitors.latency import (
    REQUEST_LATENCIES,
    SIZE_MARGIN,
    Episode,
    Group,
    Judged,
    Watch,
    as_json,
    decision_limit,
    fit_baseline,
    from_json,
    in_order_answered,
    judge,
    sized,
)
from review_optimizer_dagster.monitors.settings import LatencySettings
from review_optimizer_dagster_tests.monitors.made_up import (
    DAY,
    FIXED_MS,
    FRESH_MS,
    GROUP,
    START,
    WRITTEN_MS,
    earlier,
    requests,
    sizes,
    stream,
    typical_ms,
)

SETTINGS = LatencySettings()


def _judge(
    rows: pl.DataFrame,
    past: pl.DataFrame | None = None,
    watch: Watch | None = None,
    day: date = DAY,
    **settings: Any,
) -> Judged:
    past = earlier(1) if past is None else past
    watches = {} if watch is None else {GROUP: watch}
    return judge(rows, past, watches, LatencySettings(**settings), day)


def _one(reviews: int, factor: float) -> pl.DataFrame:
    """One request of so many reviews, so many times as long as typical."""
    fresh, written = np.array([400 + 55 * reviews]), np.array([5 + 6 * reviews])
    return requests(np.array([reviews]), fresh, written, factor * typical_ms(fresh, written))


def test_latency_is_learned_from_sizes_in_spite_of_slow_requests() -> None:
    """A tenth of the requests hung for a minute; what the others say must not be moved by them."""
    rng = np.random.default_rng(3)
    _, _, written = sizes(rng, 600)
    fresh = rng.integers(500, 40_000, 600)  # apart from the completions, so that each is known
    latency = typical_ms(fresh, written) * np.exp(rng.normal(0, 0.05, 600))
    latency[::10] += 60_000
    fitted = fit_baseline(requests(written, fresh, written, latency), 100)
    assert fitted is not None
    known = pytest.approx((FIXED_MS, FRESH_MS, WRITTEN_MS), rel=0.15)
    assert fitted.coefficients == known
    expected = fitted.expected_ms(fresh.astype(float), written.astype(float))
    assert np.abs(np.log(expected / typical_ms(fresh, written))).max() < 0.05


def test_no_coefficient_is_negative() -> None:
    """Longer prompts happened to be answered sooner: a very long one takes no less than 0."""
    rng = np.random.default_rng(4)
    fresh, written = rng.integers(100, 5_000, 300), rng.integers(50, 60, 300)
    latency = 5_000 - 0.5 * fresh + rng.normal(0, 50, 300)
    fitted = fit_baseline(requests(written, fresh, written, latency), 100)
    assert fitted is not None
    assert min(fitted.coefficients) >= 0
    assert fitted.coefficients[1] == 0


def test_a_steady_endpoint_is_not_held_to_its_steadiness() -> None:
    """A spread of almost nothing would make every hiccup of some milliseconds an anomaly."""
    rng = np.random.default_rng(5)
    reviews, fresh, written = sizes(rng, 200)
    past = requests(
        reviews, fresh, written, typical_ms(fresh, written), day=DAY - timedelta(1), degraded=False
    )
    judged = _judge(stream(6, (1, 1.0)).head(0).vstack(_one(50, 1.1)), past)
    assert judged.latencies["z"].item() == pytest.approx(0.95, abs=0.1)


@pytest.mark.parametrize(
    ("reviews", "factor", "slow"),
    [(500, 1.0, False), (500, 2.0, False), (10, 1.0, False), (10, 5.0, True), (500, 5.0, True)],
)
def test_slow_is_meant_for_its_size(reviews: int, factor: float, slow: bool) -> None:
    """Ten reviews in 2.5 seconds are slow, five hundred in 19 are not."""
    judged = _judge(_one(reviews, factor))
    assert judged.latencies["slow"].to_list() == [slow]
    expected = judged.latencies["expected_ms"].item()
    assert judged.latencies["latency_ms"].item() / expected == pytest.approx(factor, rel=0.1)
    assert judged.is_quiet


def test_without_enough_earlier_requests_there_is_no_verdict() -> None:
    """The first day of a home, a new model: nothing is known, so nothing is said."""
    for past in (earlier(1).head(0), earlier(1, 99)):
        judged = _judge(stream(2, (50, 3.0)), past)
        assert judged.latencies["expected_ms"].null_count() == 50
        assert not judged.latencies["slow"].any()
        assert judged.is_quiet
    assert not _judge(stream(2, (50, 3.0)), earlier(1, 100)).is_quiet


def test_another_model_tier_or_simulator_is_no_baseline() -> None:
    """A large model takes longer; a simulator takes what it is told to."""
    others: list[dict[str, Any]] = [{"model": "gpt-6"}, {"tier": "large"}, {"simulated": True}]
    for other in others:
        judged = _judge(stream(2, (50, 3.0), **other))
        assert judged.latencies["expected_ms"].null_count() == 50
    mixed = pl.concat([stream(2, (50, 3.0), **each) for each in others] + [stream(3, (9, 1.0))])
    assert _judge(mixed).latencies["expected_ms"].null_count() == 150


def test_sizes_unlike_any_before_have_no_verdict() -> None:
    """Where only batches of one size were seen, nobody knows what part of it was fixed."""
    fresh, written = np.full(200, 5_900), np.full(200, 605)
    latency = typical_ms(fresh, written) * np.exp(np.random.default_rng(7).normal(0, 0.1, 200))
    past = requests(written, fresh, written, latency, day=DAY - timedelta(1), degraded=False)
    rows = pl.concat([_one(reviews, 1.0) for reviews in (10, 90, 100, 110, 500)])
    known = _judge(rows, past).latencies["expected_ms"].is_not_null().to_list()
    assert known == [False, True, True, True, False]
    assert SIZE_MARGIN < 2


def test_a_quiet_day_raises_nothing() -> None:
    """What is false is set by the run length, one in 10,000 requests; these are 3,000."""
    judged = _judge(stream(8, (3_000, 1.0)))
    assert judged.is_quiet
    assert judged.episodes == {}


@pytest.mark.parametrize(("factor", "within"), [(1.2, 120), (1.5, 30), (2.0, 12)])
def test_a_lasting_slowdown_is_one_episode_and_its_end_is_told(factor: float, within: int) -> None:
    """One alert an episode, however long it goes on; and it is over when it is over."""
    judged = _judge(stream(9, (300, 1.0), (400, factor), (300, 1.0)))
    (episode,) = judged.episodes[GROUP]
    assert 300 <= (episode.raised_at - START).total_seconds() < 300 + within
    assert 280 <= (episode.onset_at - START).total_seconds() <= 300 + within
    assert episode.ended_at is not None
    assert 670 <= (episode.ended_at - START).total_seconds() < 720
    assert episode.end == "recovered"
    assert episode.slowdown == pytest.approx(factor, rel=0.12)
    inside = judged.latencies["degraded"].arg_true()
    first = int((episode.onset_at - START).total_seconds())
    last = int((episode.ended_at - START).total_seconds()) - 1
    assert (inside.min(), inside.max(), len(inside)) == (first, last, last - first + 1)
    assert episode.requests == len(inside)
    assert judged.watches[GROUP].episode is None


def test_no_single_request_raises_an_alert() -> None:
    """Two requests that hung for ten minutes are two slow requests."""
    rows = stream(10, (200, 1.0))
    hung = pl.when(pl.col("request_id").is_in(["r0000100", "r0000101"])).then(6e5)
    judged = _judge(rows.with_columns(latency_ms=hung.otherwise("latency_ms")))
    assert judged.latencies["slow"].sum() == 2
    assert judged.is_quiet


def test_two_slow_whiles_of_a_day_are_two_episodes() -> None:
    """The second must not hide behind the first; ids rest on the day and the number."""
    judged = _judge(stream(11, (200, 1.0), (60, 2.0), (200, 1.0), (60, 2.0), (100, 1.0)))
    first, second = judged.episodes[GROUP]
    assert [(each.started, each.number) for each in (first, second)] == [(DAY, 1), (DAY, 2)]
    assert first.ended_at is not None
    assert first.ended_at < second.onset_at
    assert [each.end for each in (first, second)] == ["recovered"] * 2


def test_days_are_one_stream() -> None:
    """Cut anywhere, it gives the same episode: a few requests a day must be able to add up."""
    whole = stream(12, (60, 1.0), (60, 1.6))
    (one,) = _judge(whole).episodes[GROUP]
    raised = int((one.raised_at - START).total_seconds())
    for cut in (30, raised - 2, raised + 1):
        before = _judge(whole.head(cut), day=DAY - timedelta(days=1))
        watch = from_json(as_json(before.watches[GROUP]))
        assert watch == before.watches[GROUP]
        after = _judge(whole.tail(120 - cut), watch=watch)
        (episode,) = after.episodes[GROUP]
        assert (episode.onset_at, episode.raised_at) == (one.onset_at, one.raised_at)
        assert episode.started == (DAY if cut <= raised else DAY - timedelta(days=1))
        if cut > raised:
            assert episode.requests == one.requests
            assert episode.slowdown == pytest.approx(one.slowdown)


def test_a_beginning_of_a_day_is_judged_as_with_the_rest() -> None:
    """A sensor that looks while the run goes on must tell what the run will tell."""
    whole = stream(13, (100, 1.0), (100, 1.8))
    complete = _judge(whole)
    partial = _judge(whole.head(150))
    assert partial.latencies.drop("degraded").equals(complete.latencies.head(150).drop("degraded"))
    (so_far,), (one,) = partial.episodes[GROUP], complete.episodes[GROUP]
    assert (so_far.started, so_far.number) == (one.started, one.number)
    assert so_far.raised_at == one.raised_at


def _day_after(past: pl.DataFrame, judged: Judged, day: date) -> pl.DataFrame:
    """Earlier requests, with a day that was judged."""
    rows = judged.latencies.select(past.drop("day").columns).with_columns(day=pl.lit(day))
    return pl.concat([past, rows.select(past.columns)])


def test_what_is_slow_does_not_become_the_baseline_unless_it_lasts() -> None:
    """A baseline that learned the slow day would find the next slow day quiet."""
    past, watch, seen = earlier(1), Watch(), []
    for number in range(4):
        day = DAY + timedelta(days=number)
        quiet = 60 if number == 0 else 0
        stretches = ((quiet, 1.0), (150 - quiet, 1.5))
        rows = stream(20 + number, *stretches, first=number * 1_000)
        judged = _judge(rows, past, watch, day, new_normal_days=3)
        watch, past = judged.watches[GROUP], _day_after(past, judged, day)
        seen.append([(each.started, each.end) for each in judged.episodes.get(GROUP, ())])
        baseline = judged.latencies["baseline_requests"].max()
        if number < 3:
            assert not judged.is_quiet
            assert isinstance(baseline, int)
            assert 500 <= baseline < 580
    assert seen == [[(DAY, None)]] * 3 + [[(DAY, "new normal")]]
    assert judged.is_quiet
    assert 370 <= judged.latencies["baseline_requests"].item(0) <= 395  # the slow ones alone
    assert judged.latencies["z"].median() == pytest.approx(0.0, abs=0.3)
    slower = _judge(stream(30, (150, 2.4), first=9_000), past, watch, DAY + timedelta(days=4))
    assert [each.end for each in slower.episodes[GROUP]] == [None]


def test_an_episode_outlives_a_day_without_requests() -> None:
    """Nothing was sent, so nothing has recovered; and it becomes normal all the same."""
    going_on = _judge(stream(14, (100, 2.0))).watches[GROUP]
    nothing = REQUEST_LATENCIES.to_frame().select(earlier(1).drop("day", "degraded").columns)
    next_day = _judge(nothing, watch=going_on, day=DAY + timedelta(days=1))
    assert next_day.watches[GROUP] == going_on
    assert [each.end for each in next_day.episodes[GROUP]] == [None]
    later = _judge(nothing, watch=going_on, day=DAY + timedelta(days=SETTINGS.new_normal_days))
    assert [each.end for each in later.episodes[GROUP]] == ["new normal"]
    assert later.watches[GROUP] == Watch(
        baseline_from=DAY, accepted_until=DAY + timedelta(days=SETTINGS.new_normal_days)
    )
    assert _judge(nothing).watches == {}


def test_fewer_false_alarms_take_more_evidence() -> None:
    """The limit follows from the run length; Siegmund's figure for k = 0.5, h = 5 is about 940."""
    limits = [decision_limit(0.5, 1_000 / rate) for rate in (10.0, 1.0, 0.1)]
    assert limits == sorted(limits)
    assert decision_limit(0.5, 938) == pytest.approx(5.0, abs=0.01)
    strict = _judge(stream(15, (100, 1.0), (300, 1.3)), false_alarms_per_1000=0.001)
    usual = _judge(stream(15, (100, 1.0), (300, 1.3)))
    assert strict.episodes[GROUP][0].raised_at > usual.episodes[GROUP][0].raised_at


def _request(request_id: str, **columns: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(REQUESTS.names())
    row |= {"request_id": request_id, "tier": "standard", "way": "sync", "status": "ok"}
    row |= {"tenant": "acme", "model_requested": "m", "model": "m-2026", "simulated": False}
    row |= {"prompt_tokens": 900, "cached_tokens": 600, "completion_tokens": 60, "sent_at": START}
    return row | {"latency_ms": 500.0} | columns


def test_only_whole_answers_that_were_waited_for_count() -> None:
    """A job of the Batch API takes hours, an error milliseconds: neither tells a model's pace."""
    rows = [
        _request("b", sent_at=START + timedelta(seconds=1)),
        _request("a", status="partial", way=None),
        _request("job", way="batch"),
        _request("embedding", tier=None),
        _request("error", status="http_error"),
        _request("timeout", status="timeout"),
        _request("unknown", status="unknown", latency_ms=None),
        _request("unused", completion_tokens=0),
    ]
    found = sized(pl.DataFrame(rows, schema=REQUESTS))
    assert found["request_id"].to_list() == ["a", "b"]
    assert found.select("model", "fresh_tokens").row(0) == ("m", 300)


def test_what_is_under_way_cuts_the_day_short() -> None:
    """Requests overtake one another: without the slow one in its place, the order is another."""
    rows = [
        _request("a"),
        _request("dead", status="unknown", sent_at=START + timedelta(seconds=1)),
        _request("b", sent_at=START + timedelta(minutes=30)),
        _request("open", status="unknown", sent_at=START + timedelta(minutes=31)),
        _request("c", sent_at=START + timedelta(minutes=32)),
    ]
    frame = pl.DataFrame(rows, schema=REQUESTS)
    now = START + timedelta(minutes=33)
    cut = in_order_answered(frame, now - timedelta(minutes=15))
    assert cut["request_id"].to_list() == ["a", "dead", "b"]
    assert in_order_answered(frame.head(3), now - timedelta(minutes=15)).height == 3


def test_an_episode_survives_as_json() -> None:
    """The next day begins with it; a float that was rounded would be another sum."""
    episode = Episode(DAY, 2, START, START, 3, 0.1 + 0.2, ("acme", "bolt"), START, "recovered")
    watch = Watch(1 / 3, 0.0, START, 0.1, 3, 0.0, 0, episode, DAY, DAY + timedelta(days=1))
    assert from_json(as_json(watch)) == watch
    assert from_json(as_json(Watch())) == Watch()


def test_groups_are_told_apart() -> None:
    """A slow large model says nothing of the small one."""
    large = GROUP._replace(tier="large")
    past = pl.concat([earlier(1), earlier(2).with_columns(tier=pl.lit("large"))])
    rows = pl.concat([stream(3, (100, 1.0)), stream(4, (100, 2.0), tier="large")])
    judged = _judge(rows, past)
    assert list(judged.episodes) == [large]
    assert set(judged.latencies.filter("degraded")["tier"]) == {"large"}
    assert set(judged.watches) == {GROUP, large} == {Group(*GROUP), Group(*large)}
