"""How misses are sent, as the daily job does it: ladder, Batch API, caps, memory, ended models."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import automation
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.errors import ConfigError
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

Run = Callable[..., dict[str, Any]]
LADDER = """
[[engine.tiers]]
name = "cheap"
model = "gpt-6-luna"
[[engine.tiers]]
name = "strong"
model = "gpt-5.4-mini"
"""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key-at-all")


def configure(home: Home, simulator: Simulator, engine: str = "", tenants: str = "") -> None:
    """A real home whose endpoint is this simulator."""
    home.folder.mkdir(parents=True, exist_ok=True)
    text = f'[engine]\nbase_url = "{simulator.base_url}"\n{engine}\n'
    home.tenants_file.write_text(text + (tenants or "[tenants.acme]\n"))


def _look(home: Home) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of the sensor that watches the jobs of the Batch API."""
    found = automation.batch_results(home_folder=HomeFolder(folder=str(home.folder)))
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


@pytest.mark.campaign
def test_a_tenant_that_sends_by_batch_gets_its_answers_later_at_half_the_price(
    home: Home, run_day: Run
) -> None:
    """Other tenants do not wait; a sensor asks for the run that collects; nothing is paid twice."""
    hours = [0.0]

    def clock() -> float:
        return datetime.now(UTC).timestamp() + 3_600 * hours[0]

    with Simulator(
        LexiconJudge(), latency_seconds=0.0, batch_seconds=7_200.0, clock=clock
    ) as simulator:
        tenants = '[tenants.acme]\n[tenants.patient]\nsend = "batch"\n'
        configure(home, simulator, "batch_wait_seconds = 0", tenants)
        deliver(home, reviews(0, 40))
        deliver(home, reviews(0, 40), tenant="patient")
        first = run_day(name="openai")
        assert (first["labelled"], first["deferred"], first["failed"]) == (40, 40, 0)
        assert first["deferred_by"] == {"batch": 40}
        assert first["by_tenant"]["patient"]["cost_usd"] == "0.000000000"
        waiting = _look(home)
        assert isinstance(waiting, dg.SkipReason)
        assert "1 jobs" in str(waiting.skip_message)
        hours[0] = 3.0
        found = _look(home)
        assert isinstance(found, dg.SensorResult)
        (request,) = found.run_requests or []
        assert request.partition_key == DAY.isoformat()
        second = run_day(name="openai")
        assert (second["labelled"], second["deferred"]) == (80, 0)
        assert second["this_run"]["requests"] == 0  # what was sent before was collected
        assert isinstance(_look(home), dg.SkipReason)
        third = run_day(name="openai")
        assert third["problem"] is None
        assert third["cost_usd"] == second["cost_usd"]
        billed = [row for row in simulator.billed if row.http_status == 200]
    assert sorted({row.way for row in billed}) == ["batch", "sync"]
    costs = dict(query(home, "SELECT way, sum(cost_nanos) FROM llm_requests GROUP BY way").rows())
    assert costs["batch"] == pytest.approx(costs["sync"] / 2, abs=len(billed))
    labels = "SELECT review_id, labels FROM review_results WHERE tenant = '{}' ORDER BY ALL"
    mine, theirs = (query(home, labels.format(name)).rows() for name in ("patient", "acme"))
    assert mine == theirs


@pytest.mark.campaign
def test_a_waiting_job_is_not_sent_again_and_the_sensor_says_when_it_cannot_see_it(
    home: Home, run_day: Run
) -> None:
    """Whoever presses the button while a job is under way must not pay for a second one.

    An endpoint that is away is no reason to break, and none to start runs.
    """
    with Simulator(LexiconJudge(), latency_seconds=0.0, batch_seconds=7_200.0) as simulator:
        configure(home, simulator, "batch_wait_seconds = 0", '[tenants.acme]\nsend = "batch"\n')
        deliver(home, reviews(0, 12))
        assert run_day(name="openai")["deferred"] == 12
        deliver(home, reviews(0, 30))
        assert run_day(name="openai")["deferred"] == 30
    asked = query(home, "SELECT status, sum(reviews)::INT FROM llm_requests GROUP BY status")
    assert asked.rows() == [("pending", 30)]
    away = _look(home)
    assert isinstance(away, dg.SkipReason)
    assert "127.0.0.1" in str(away.skip_message)


@pytest.mark.campaign
def test_a_ladder_is_reported_step_by_step(home: Home, run_day: Run) -> None:
    """What each model was asked, passed on and cost, in the summary and for analysts."""
    with Simulator(LexiconJudge(), latency_seconds=0.0, unsure_rate=0.3) as simulator:
        configure(home, simulator, LADDER)
        deliver(home, reviews(0, 60))
        summary = run_day(name="openai")
    tiers = summary["llm"]["tiers"]
    assert list(tiers) == ["cheap", "strong"]
    assert tiers["cheap"]["asked"] == 60
    assert 0 < tiers["cheap"]["escalated"] == tiers["strong"]["asked"] <= 12
    assert tiers["cheap"]["answered"] + tiers["strong"]["answered"] == summary["labelled"] == 60
    assert tiers["strong"]["model"] == "gpt-5.4-mini"
    total = sum(float(tier["cost_usd"]) for tier in tiers.values())
    assert total == pytest.approx(float(summary["cost_usd"]))
    models = query(home, "SELECT DISTINCT split_part(identity, '|', 4) FROM review_results").rows()
    assert "gpt-6-luna:none<=1+gpt-5.4-mini:none@" in str(models)


@pytest.mark.campaign
def test_the_measured_cap_of_a_model_holds(home: Home, run_day: Run) -> None:
    """More in one request than was shown to be good would be labels nobody has tested."""
    with Simulator(LexiconJudge(), latency_seconds=0.0) as simulator:
        configure(home, simulator)
        home.batch_caps_file.write_text(
            '[[caps]]\nmodel = "gpt-6-luna"\nmax_reviews = 7\ntexts = 400\nagreement = 0.99\n'
            "lower = 0.985\nmeasured_on = 2026-11-01\n"
        )
        deliver(home, reviews(0, 60))
        run_day(name="openai")
    assert query(home, "SELECT max(reviews) FROM llm_requests").rows() == [(7,)]
    home.batch_caps_file.write_text('[[caps]]\nmodel = "gpt-6-luna"\nmax_reviews = 900\n')
    with pytest.raises(ConfigError, match=r"batch_caps\.toml: caps\.0\.max_reviews"):
        Home(home.folder).batch_cap("gpt-6-luna")


@pytest.mark.campaign
def test_readings_of_the_servers_memory_stand_beside_each_request(home: Home, run_day: Run) -> None:
    """Over 80 % the batches become smaller, and an analyst can see why."""
    with Simulator(LexiconJudge(), latency_seconds=0.05, kv_cache_usage=0.93) as simulator:
        metrics = simulator.base_url.removesuffix("/v1") + "/metrics"
        configure(home, simulator, f'metrics_url = "{metrics}"\nin_flight = 4')
        deliver(home, reviews(0, 600))
        assert run_day(name="openai")["labelled"] == 600
    rows = query(home, "FROM llm_requests WHERE memory_share IS NOT NULL")
    assert set(rows["memory_source"]) == {"vllm:kv_cache_usage_perc"}
    assert set(rows["memory_share"]) == {0.93}
    assert max(rows["reviews"]) <= 50


def test_a_model_past_its_end_is_refused_at_load(home: Home) -> None:
    """Before anything is read or sent, with the model's name, its last day, and where it stands."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text('[engine]\nmodel = "gpt-4.1-nano"\n[tenants.acme]\n')
    with pytest.raises(ConfigError, match=r"engine\.model.*'gpt-4\.1-nano' ended on 2026-10-23"):
        _ = Home(home.folder).settings
    home.tenants_file.write_text(LADDER.replace("gpt-5.4-mini", "gpt-0"))
    with pytest.raises(ConfigError, match=r"engine\.tiers\.1\.model.*no price for model 'gpt-0'"):
        _ = Home(home.folder).settings


def test_a_ladder_that_falls_is_refused(home: Home) -> None:
    """The cheapest model comes first, or routing would make no sense."""
    home.folder.mkdir(parents=True)
    falling = LADDER.replace('"cheap"\n', '"cheap"\nmax_complexity = 0.6\n') + (
        '[[engine.tiers]]\nname = "mid"\nmodel = "gpt-5.4-nano"\n'
    )
    falling = falling.replace('"strong"\n', '"strong"\nmax_complexity = 0.4\n')
    home.tenants_file.write_text(falling)
    with pytest.raises(ConfigError, match="max_complexity must ascend"):
        _ = Home(home.folder).settings
