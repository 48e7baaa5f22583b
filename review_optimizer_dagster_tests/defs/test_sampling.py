"""A day whose batches come back wrong: what the run leaves, and what lifts a pause."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import UTC, datetime

import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.alerts.store import kept_alerts
from review_optimizer_dagster.alerts.tiers import quality_alert
from review_optimizer_dagster.cli import build_parser
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.defs.sampling import quality_watch
from review_optimizer_dagster.exchange.batch_quality import BatchSample, Goals, decide
from review_optimizer_dagster.exchange.tier_pauses import OUTLIVED, all_pauses, lift, note_pause
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster_tests.conftest import DAY, Runner, deliver, query, reviews

SETTINGS = """
[engine]
name = "simulator"
in_flight = 1
[batches]
max_reviews = 30
sample_above = 20
[patterns]
enabled = false
[tenants.acme]
"""
BAD = {"gpt-6-luna": 0.6}
SCHEMA = {"tenant": pl.String, "taxonomy": pl.String, "identity": pl.String}
SAMPLE = BatchSample(
    "2026-03-04-a", "acme", "reviews", "acme|reviews@1|real", "standard", "gpt-6-luna", False,
    200, 60, 40, decide(40, 60, 0.95), Goals(0.95, 0.99),
)  # fmt: skip


def _alerts(home: Home) -> list[str]:
    with closing(StateStore(home.journal)) as state:
        return [kept.alert.event for kept in kept_alerts(state)]


@pytest.mark.campaign
def test_a_bad_day_stops_early_and_says_so(home: Home, run_day: Runner) -> None:
    """One batch is asked; the pause outlives the run, and running again changes nothing."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(SETTINGS)
    deliver(home, reviews(0, 120))
    first = run_day(model_errors=BAD)
    assert first["llm"]["requests"] == 1
    assert first["deferred_by"] == {"quality": 96}
    assert first["alerts"][0]["kind"] == "quality"
    samples = query(home, "SELECT * FROM batch_samples")
    row = samples.row(0, named=True)
    assert (row["day"], row["tier"], row["verdict"]) == (DAY, "standard", "below")
    assert (row["reviews"], row["n"], row["simulated"]) == (24, 24, True)
    truth = query(
        home,
        "SELECT count(*) FILTER (labels ->> 'sentiment' = truth ->> 'sentiment') AS right "
        "FROM review_results WHERE status = 'labelled'",
    )
    assert row["correct"] == truth["right"].item()
    with closing(StateStore(home.journal)) as state:
        (pause,) = all_pauses(state)
    assert pause.is_paused
    assert pause.request_id == row["request_id"]
    again = run_day(model_errors=BAD)
    # The gate failed the day: the bad batch's reviews are asked anew, once the tier may be.
    assert again["llm"]["requests"] == 1
    assert again["deferred_by"] == {"quality": 120}
    assert query(home, "SELECT * FROM batch_samples").equals(samples)
    # That of the tier, and that of all days together.
    assert _alerts(home).count("quality.below_threshold") == 2
    assert "gate.recovered" not in _alerts(home)


def test_another_identity_is_not_paused(home: Home) -> None:
    """A new prompt or model begins anew, and the alert of the old one is over."""
    folder, log = HomeFolder(folder=str(home.folder)), logging.getLogger(__name__)
    warehouse = Warehouse(database=str(home.warehouse))
    now = datetime(2026, 3, 5, tzinfo=UTC)
    with closing(StateStore(home.journal)) as state:
        note_pause(state, SAMPLE, "wrong", now)

        def paused(identity: str, simulated: bool = False) -> bool:
            plan = pl.DataFrame([("acme", "reviews", identity)], SCHEMA, orient="row")
            with quality_watch(folder, warehouse, state, DAY, plan, {}, simulated, log) as watch:
                return watch.is_paused(*SAMPLE.scope)

        assert paused(SAMPLE.identity)
        assert paused("acme|reviews@1|simulated", simulated=True)  # says nothing of the real one
        assert paused(SAMPLE.identity)
        assert not paused("acme|reviews@2|real")
        (pause,) = all_pauses(state)
        assert pause.lifted_by == OUTLIVED
        assert not paused(SAMPLE.identity)


def _command(*arguments: object) -> int:
    return cli._dispatch(build_parser().parse_args(["tiers", *map(str, arguments)]))


def test_the_command_lists_and_resumes(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """What is paused, why, and its recovery; a name that is not paused is refused."""
    assert _command() == 0
    assert "nothing is paused" in capsys.readouterr().out
    assert not home.journal.exists()
    now = datetime(2026, 3, 5, tzinfo=UTC)
    folder, log = HomeFolder(folder=str(home.folder)), logging.getLogger(__name__)
    with closing(StateStore(home.journal)) as state:
        from review_optimizer_dagster.defs.alerting import note_alerts

        note_alerts(log, folder, None, [quality_alert(SAMPLE, DAY, now)])
        note_pause(state, SAMPLE, "40 of 60", now)
    assert _command("--json", home.folder / "tiers.json") == 0
    shown = capsys.readouterr().out
    assert "standard  gpt-6-luna  paused for acme" in shown
    assert "40 of 60; request 2026-03-04-a" in shown
    assert '"paused": true' in (home.folder / "tiers.json").read_text()
    assert _command("resume", "--tenant", "bolt") == 2
    assert _command("resume", "--tenant", "acme", "--tier", "strong") == 2
    assert _alerts(home) == ["quality.below_threshold"]
    assert _command("resume", "--tenant", "acme", "--by", "kim") == 0
    assert sorted(_alerts(home)) == ["quality.below_threshold", "quality.recovered"]
    assert _command("resume", "--tenant", "acme") == 2
    with closing(StateStore(home.journal)) as state:
        (pause,) = all_pauses(state)
        assert (pause.is_paused, pause.lifted_by) == (False, "kim")


def test_a_pause_is_kept_once(home: Home) -> None:
    """A second bad batch in flight is known, and a new one after a resumption pauses again."""
    from dataclasses import replace

    now, later = datetime(2026, 3, 5, tzinfo=UTC), datetime(2026, 3, 6, tzinfo=UTC)
    second, third = (replace(SAMPLE, request_id=name) for name in ("b", "c"))
    with closing(StateStore(home.journal)) as state:
        note_pause(state, SAMPLE, "wrong", now)
        kept = note_pause(state, second, "wrong too", later)
        assert (kept.since, kept.request_id, kept.reason) == (now, SAMPLE.request_id, "wrong")
        assert kept.requests == (SAMPLE.request_id, "b")
        lift(state, kept.scope, "kim", later)
        lift(state, kept.scope, "lee", later)
        assert all_pauses(state)[0].lifted_by == "kim"
        anew = note_pause(state, third, "again", later)
        assert (anew.is_paused, anew.request_id) == (True, "c")
        assert anew.requests == (SAMPLE.request_id, "b", "c")
