"""The daily job from the inbox to the published files, as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.simulator import sample
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

Run = Callable[..., dict[str, Any]]
NEXT_DAY = DAY + timedelta(days=1)
TABLES = ("review_results", "ledger_entries", "llm_requests", "cache_resolution", "review_archive")


def contents(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that running again must not change."""
    return {name: query(home, f"FROM {name} ORDER BY ALL").rows() for name in TABLES}


def counted_once(home: Home, summary: dict[str, Any]) -> None:
    """The summary is a contract: hits + misses + deferred = reviews, misses = labelled + failed.

    Which of an id's two texts is right cannot be known; the same row twice is one review.
    """
    assert summary["problem"] is None
    hits = sum(summary["hits"].values())
    assert summary["reviews"] == 37
    assert hits + summary["misses"] + summary["deferred"] == summary["reviews"]
    assert summary["misses"] == summary["labelled"] + summary["failed"] == 32
    assert summary["repeats"] == summary["hits"]["l1"] == 5
    assert summary["simulated"] is True
    assert summary["accuracy"]["n"] == 37
    found = query(home, "SELECT review_id, reason FROM quarantined_reviews ORDER BY ALL").rows()
    assert found == [("r41", "duplicate_row"), ("r42", "id_conflict"), ("r42", "id_conflict")]


def billed_in_full(home: Home) -> None:
    """What the reviews bear is what was paid, to the nano-dollar."""
    ((booked,),) = query(home, "SELECT sum(cost_nanos)::BIGINT FROM ledger_entries").rows()
    ((paid,),) = query(home, "SELECT sum(cost_nanos)::BIGINT FROM llm_requests").rows()
    assert booked == paid > 0
    ((entries,),) = query(home, "SELECT count(*) FROM ledger_entries").rows()
    assert entries == 37


def explained_and_open(home: Home, run: Callable[[], dict[str, Any]]) -> None:
    """The published database explains itself, and opens while a run goes on."""
    path = str(home.published / "analytics.duckdb")
    with duckdb.connect(path, read_only=True) as analytics:
        bare = analytics.execute(
            "SELECT view_name, column_name FROM duckdb_views() v JOIN duckdb_columns() c "
            "ON c.table_name = v.view_name AND c.database_name = v.database_name "
            "WHERE NOT v.internal AND c.comment IS NULL"
        ).fetchall()
        assert bare == []
        mix = analytics.execute("SELECT sum(reviews) FROM label_mix")
        assert mix.fetchall() == [(3 * 37,)]
        assert run()["problem"] is None


def _analytics_rows(path: Any) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute("FROM published_results ORDER BY ALL").fetchall()


@pytest.mark.timeout(300)  # five runs; cores that others use too make them long
def test_a_day_is_counted_billed_and_published_once_however_often_it_runs(
    home: Home, run_day: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that was paid for is never paid for again, and its files are derived again.

    A second delivery of the day costs only what is new in it; what is paid for again on purpose
    has both payments in the ledger; an empty day of a demo home is a sample; and a home that holds
    demo data is refused to real tenants before anything is read.
    """
    rows = [*reviews(0, 30), *reviews(0, 5, review_id=None)]
    rows += [*reviews(40, 43), *reviews(41, 42), *reviews(42, 43, text="something else entirely")]
    deliver(home, rows)
    first = run_day()
    counted_once(home, first)
    billed_in_full(home)
    assert first["this_run"]["requests"] > 0

    before = contents(home)
    parquet = home.published / "published_results" / f"{DAY}.parquet"
    analytics = home.published / "analytics.duckdb"
    bytes_before, rows_before = parquet.read_bytes(), _analytics_rows(analytics)
    parquet.unlink()
    analytics.unlink()
    second = run_day()
    assert second["this_run"] == {"requests": 0, "cost_usd": "0.000000000"}
    assert contents(home) == before
    assert second["cost_usd"] == first["cost_usd"]
    assert parquet.read_bytes() == bytes_before
    assert _analytics_rows(analytics) == rows_before

    def small(inbox: Path, day: date, _first: date) -> None:
        assert inbox == home.inbox
        deliver(home, reviews(100, 120), day, tenant="sample")

    monkeypatch.setattr(sample, "write_sample", small)
    explained_and_open(home, lambda: run_day(NEXT_DAY))
    assert query(home, "FROM review_results").filter(day=NEXT_DAY).height == 20

    paid_again = run_day(reclassify=True)
    assert paid_again["this_run"]["requests"] > 0
    assert float(paid_again["cost_usd"]) == pytest.approx(2 * float(first["cost_usd"]), rel=0.01)
    assert paid_again["reviews"] == 37

    deliver(home, [*rows, *reviews(50, 55)])
    late = run_day()
    assert late["reviews"] == 42
    assert query(home, "FROM llm_requests").filter(day=DAY)["reviews"].sum() == 2 * 32 + 5

    home.tenants_file.write_text('[engine]\nname = "simulator"\n[tenants.acme]\n')
    assert "demo data" in run_day()["problem"]


@pytest.mark.campaign
def test_a_later_day_is_answered_from_an_earlier_one_and_never_the_reverse(
    home: Home, run_day: Run
) -> None:
    """Level by level upwards: L3 the first time, then L2, then L1; and time goes one way."""
    levels = []
    for offset in range(4):
        deliver(home, reviews(0, 12), DAY + timedelta(days=offset))
    for offset in (1, 2, 3):
        summary = run_day(DAY + timedelta(days=offset))
        levels.append({level for level, count in summary["hits"].items() if count})
    assert levels == [set(), {"l3_exact"}, {"l2"}]
    earlier = run_day(DAY)
    assert earlier["misses"] == 12
    deliver(home, reviews(0, 12), DAY + timedelta(days=4))
    assert run_day(DAY + timedelta(days=4))["hits"]["l1"] == 12


@pytest.mark.campaign
def test_a_failed_tenant_is_not_published_and_the_others_go_on(home: Home, run_day: Run) -> None:
    """One tenant's bad day must not hold up the rest, and its spend is real all the same."""
    wrong = [row | {"label": "neutral"} for row in reviews(0, 80)]
    deliver(home, wrong, tenant="bad")
    deliver(home, reviews(100, 180), tenant="good")
    summary = run_day()
    assert summary["accuracy"]["gate"] == "failed"
    assert summary["by_tenant"]["good"]["accuracy"]["gate"] == "passed"
    assert query(home, "SELECT DISTINCT tenant FROM published_results").rows() == [("good",)]
    assert query(home, "SELECT DISTINCT tenant FROM review_archive").rows() == [("good",)]
    spent = query(home, "SELECT tenant FROM cost_rollups WHERE cost_nanos > 0 ORDER BY 1")
    assert spent["tenant"].to_list() == ["bad", "good"]
    kinds = [alert["kind"] for alert in summary["alerts"] if alert["tenant"] == "bad"]
    assert kinds.count("gate") == 1
    assert set(kinds) == {"gate", "quality", "service"}


@pytest.mark.campaign
def test_where_every_tenant_failed_nothing_is_published(home: Home, run_day: Run) -> None:
    """The gate blocks: no label leaves, and analysts see the verdict and what it cost."""
    deliver(home, [row | {"label": "neutral"} for row in reviews(0, 80)])
    summary = run_day()
    assert summary["gate_blocked"] is True
    assert summary["accuracy"]["gate"] == "failed"
    assert float(summary["cost_usd"]) > 0
    page = (home.reports / "operations.html").read_text(encoding="utf-8")
    assert "acme: the gate failed the day." in page
    assert "acme broke its promise of accuracy" in page
    with duckdb.connect(str(home.published / "analytics.duckdb"), read_only=True) as analytics:
        assert analytics.execute("SELECT count(*) FROM published_results").fetchall() == [(0,)]
        assert analytics.execute("SELECT verdict FROM daily_quality").fetchall() == [("failed",)]
        assert analytics.execute("SELECT cost_usd > 0 FROM daily_costs").fetchall() == [(True,)]
        # The last step is not reached, and what was promised is judged all the same.
        judged = analytics.execute(
            "SELECT indicator, verdict FROM service_levels_daily "
            "WHERE indicator IN ('accuracy', 'freshness_hours', 'run_seconds') ORDER BY ALL"
        )
        assert judged.fetchall() == [
            ("accuracy", "broken"), ("freshness_hours", "unknown"), ("run_seconds", "unknown"),
        ]  # fmt: skip
        cost = analytics.execute(
            "SELECT value > 0 FROM service_levels_daily WHERE indicator = 'usd_per_1000'"
        )
        assert cost.fetchall() == [(True,)]
    assert {alert["kind"] for alert in summary["alerts"]} >= {"gate", "service"}


@pytest.mark.campaign
def test_an_inbox_without_files_is_an_empty_day_in_a_real_home(home: Home, run_day: Run) -> None:
    """Nothing is ever generated for real tenants."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text('[engine]\nname = "simulator"\n[tenants.acme]\n')
    summary = run_day()
    assert summary["problem"] is None
    assert summary["reviews"] == 0
    assert summary["accuracy"] is None


@pytest.mark.campaign
def test_a_spent_budget_defers_and_a_larger_one_takes_up_the_rest(home: Home, run_day: Run) -> None:
    """At 100 % nothing more is sent, nothing is lost, and the alert says what to do."""
    home.folder.mkdir(parents=True)
    settings = '[engine]\nname = "simulator"\n[tenants.acme]\nbudget_usd = {}\n'
    home.tenants_file.write_text(settings.format("0.001"))
    deliver(home, reviews(0, 150))
    first = run_day()
    assert first["deferred"] > 0
    assert first["misses"] + first["deferred"] == 150
    home.tenants_file.write_text(settings.format("5.0"))
    second = run_day()
    assert second["deferred"] == 0
    assert second["labelled"] == 150
    ((asked,),) = query(home, "SELECT sum(answered)::BIGINT FROM llm_requests").rows()
    assert asked == 150


@pytest.mark.campaign
def test_complaints_run_by_the_same_command(home: Home, run_day: Run) -> None:
    """No code knows a label's name: another taxonomy is another TOML file."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(
        '[engine]\nname = "simulator"\n[tenants.bank]\ntaxonomy = "complaints"\n'
    )
    rows = [
        {
            "review_id": str(number),
            "category": "complaint",
            "text": f"The debt collector called about debt {number} that I do not owe.",
            "label": "Debt collection",
        }
        for number in range(12)
    ]
    deliver(home, rows, tenant="bank")
    summary = run_day()
    labels = query(home, "SELECT labels FROM published_results")["labels"]
    assert summary["accuracy"]["correct"] == 12
    assert set(json.loads(labels[0])) == {"product", "issue"}


@pytest.mark.campaign
def test_nothing_crosses_tenants_but_a_pool_that_they_joined(home: Home, run_day: Run) -> None:
    """The same text of two tenants is paid for twice, unless both joined one pool."""
    home.folder.mkdir(parents=True)
    head = '[engine]\nname = "simulator"\n'
    home.tenants_file.write_text(head + "[tenants.one]\n[tenants.two]\n")
    for tenant in ("one", "two"):
        deliver(home, reviews(0, 10), tenant=tenant)
        deliver(home, reviews(20, 30), DAY + timedelta(days=1), tenant=tenant)
    assert run_day()["misses"] == 20
    home.tenants_file.write_text(
        head + '[tenants.one]\npool = "both"\n[tenants.two]\npool = "both"\n'
    )
    shared = run_day(DAY + timedelta(days=1))
    assert shared["misses"] == 10
    assert shared["hits"]["l1"] == 10


def test_a_missing_key_is_an_error_that_names_the_variable(
    home: Home, run_day: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a silent fall-back to the simulator."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    deliver(home, reviews(0, 3))
    outcome = run_day(name="openai")
    assert outcome["mendable"] is True
    assert "OPENAI_API_KEY" in outcome["problem"]


@pytest.mark.campaign
def test_wrong_answers_at_a_rate_are_found_by_the_gate(
    home: Home, run_day: Run, tmp_path: Any
) -> None:
    """The gate finds the rate of errors that the simulator was told to make."""
    rows = reviews(0, 400)
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    deliver(home, rows)
    summary = run_day(answers=str(gold), answer_error=0.1)
    accuracy = summary["accuracy"]
    assert accuracy["gate"] == "failed"
    assert accuracy["lower"] < 0.9 < accuracy["upper"]


def test_sample_days_refer_to_each_other() -> None:
    """A demo day holds re-deliveries of earlier days, so that the cache has something to show."""
    from review_optimizer_dagster.simulator.sample import sample_day

    first = date(2026, 1, 1)
    days = [sample_day(first + timedelta(days=offset), first, 200) for offset in (0, 1, 2)]
    earlier = pl.concat(days[:2])["review_id"]
    assert days[2]["review_id"].is_in(earlier.implode()).any()
