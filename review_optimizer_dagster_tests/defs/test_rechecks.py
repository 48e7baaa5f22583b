"""Rechecks in the daily job: what they find, what they take back, and what they cost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from dagster import DagsterInstance

from review_optimizer_dagster.commands.terminal import print_summary
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import classification
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews, runner

Run = Callable[..., dict[str, Any]]
SECOND, THIRD, FOURTH = (DAY + timedelta(days=days) for days in (1, 2, 3))
TENANTS = "[tenants.acme]\n"
NONE, ALL = "[rechecks]\nshare = 1e-9\nnew_share = 1e-9\n", "[rechecks]\nshare = 1\nnew_share = 1\n"
_SPOIL = """
UPDATE review_archive SET labels = CASE WHEN labels LIKE '%positive%'
    THEN replace(labels, 'positive', 'negative') ELSE replace(labels, 'negative', 'positive') END
WHERE """
TABLES = (
    "cache_resolution", "batch_plan", "batch_classifications", "llm_requests", "ledger_entries",
    "review_results", "review_archive", "audits", "withdrawn_entries", "level_errors", "alerts",
)  # fmt: skip


def configure(home: Home, rechecks: str = ALL, tenants: str = TENANTS, more: str = "") -> None:
    """A real home whose engine is the simulator."""
    home.folder.mkdir(parents=True, exist_ok=True)
    head = '[engine]\nname = "simulator"\n'
    home.tenants_file.write_text(head + rechecks + more + tenants, encoding="utf-8")


@pytest.fixture(scope="session")
def first_day(tmp_path_factory: pytest.TempPathFactory, shared_instance: DagsterInstance) -> Path:
    """The folder of a home whose first day, reviews 0 to 19, was answered.

    Without hits there is nothing to recheck, so the settings of rechecks play no part in it.
    """
    made = Home(tmp_path_factory.mktemp("first") / "home")
    configure(made)
    deliver(made, reviews(0, 20))
    assert runner(made, shared_instance)()["labelled"] == 20
    return made.folder


@pytest.fixture
def answered(home: Home, first_day: Path) -> Home:
    """A home of the test's own after that day."""
    shutil.copytree(first_day, home.folder)
    return home


def spoil(home: Home, only: str) -> None:
    """Make archived answers wrong, so that the model contradicts what comes from them."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        connection.execute(_SPOIL + only)


def of_day(home: Home, table: str, day: date) -> pl.DataFrame:
    """A table's rows of one day."""
    return query(home, f"FROM {table} ORDER BY ALL").filter(day=day)


def asked(home: Home, day: date) -> dict[str, int]:
    """How many texts the day's requests of each kind asked about."""
    requests = of_day(home, "llm_requests", day)
    return dict(requests.group_by("kind").agg(pl.col("reviews").sum()).iter_rows())


def variants(number: int, *words: str) -> list[dict[str, Any]]:
    """Reviews that are like review `number`, and not the same."""
    (row,) = reviews(number, number + 1)
    return [
        row | {"review_id": f"{row['review_id']}-{word}", "text": row["text"].replace("this", word)}
        for word in words
    ]


def counted_once(summary: dict[str, Any]) -> None:
    """What the summary promises of every partition."""
    hits = sum(summary["hits"].values())
    assert hits + summary["misses"] + summary["deferred"] == summary["reviews"]
    assert summary["misses"] == summary["labelled"] + summary["failed"]


def changes_nothing(home: Home, run_day: Run, day: date) -> None:
    """Running again draws, pays and takes back nothing."""
    before = contents(home)
    again = run_day(day)
    assert again["this_run"]["requests"] == 0
    assert again["alerts"] == []
    assert contents(home) == before


def contents(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that running again must not change."""
    return {name: query(home, f"FROM {name} ORDER BY ALL").rows() for name in TABLES}


@pytest.mark.campaign
def test_a_hit_that_the_model_confirms_stays_a_hit(answered: Home, run_day: Run) -> None:
    """A recheck costs money and is booked as such; nothing else of the hit changes."""
    home = answered
    deliver(home, reviews(0, 20), SECOND)
    summary = run_day(SECOND)
    counted_once(summary)
    assert (summary["hits"]["l3_exact"], summary["misses"]) == (20, 0)
    assert (summary["audits"], summary["audits_disagreed"]) == (20, 0)
    assert float(summary["audit_cost_usd"]) == float(summary["cost_usd"]) > 0
    assert summary["baseline_usd"] == "0.030000000"
    entries = (
        of_day(home, "ledger_entries", SECOND)
        .group_by("kind")
        .agg(pl.col("review_id").n_unique(), pl.len(), avoided=pl.col("avoided_nanos").sum() > 0)
    )
    assert sorted(entries.rows()) == [("audit", 20, 20, False), ("hit", 20, 20, True)]
    sums = query(
        home,
        "SELECT (SELECT sum(cost_nanos) FROM ledger_entries) = sum(cost_nanos), "
        "(SELECT sum(cost_nanos) FROM cost_rollups) = sum(cost_nanos), "
        "(SELECT sum(audit_nanos) FROM cost_rollups) = sum(cost_nanos) FILTER (kind = 'audit') "
        "FROM llm_requests",
    )
    assert sums.rows() == [(True, True, True)]
    assert asked(home, SECOND) == {"audit": 20}


@pytest.mark.campaign
def test_what_the_model_said_to_a_recheck_is_archived(home: Home, run_day: Run) -> None:
    """It is an answer of the model like any other; a hit that was not asked is no answer."""
    configure(home, "[rechecks]\nshare = 0.5\nnew_share = 0.5\n")
    for day in (DAY, SECOND):
        deliver(home, reviews(0, 40), day)
    run_day()
    audits = run_day(SECOND)["audits"]
    assert 5 < audits < 35
    rows = query(home, "SELECT day, count(*), min(asked), max(draw) FROM review_archive GROUP BY 1")
    first, second = sorted(rows.rows())
    assert first[:3] == (DAY, 40, 1.0)
    assert second[:3] == (SECOND, audits, 0.5)
    assert second[3] < 0.5
    requests = query(home, "SELECT request_id FROM llm_requests WHERE kind = 'audit'")
    archived = of_day(home, "review_archive", SECOND)
    assert set(archived["request_id"]) == set(requests["request_id"])


@pytest.mark.campaign
def test_a_contradicted_answer_is_taken_back_for_good(home: Home, run_day: Run) -> None:
    """The wrong label does not go out, its repeats follow, and later days never see it again."""
    configure(home)
    for day in (DAY, SECOND, THIRD):
        deliver(home, [*reviews(0, 20), *reviews(0, 1, review_id="again")], day)
    run_day()
    spoil(home, "review_id IN ('again', 'r1')")
    summary = run_day(SECOND)
    counted_once(summary)
    assert (summary["audits"], summary["audits_disagreed"]) == (20, 2)
    assert (summary["hits"]["l3_exact"], summary["hits"]["l1"], summary["misses"]) == (18, 1, 2)
    assert summary["accuracy"]["correct"] == 21
    # The first review of a text and its repeat were answered by L1, since it came twice before.
    taken_back = query(
        home,
        "SELECT review_id, repeat, level, labels, withdrawn_level, withdrawn_labels LIKE "
        "'%negative%' FROM cache_resolution WHERE withdrawn_level IS NOT NULL ORDER BY ALL",
    )
    assert taken_back.rows() == [
        ("again", False, None, None, "l1", True),
        ("r0", True, "l1", None, "l1", True),
        ("r1", False, None, None, "l3_exact", False),
    ]
    entries = query(
        home,
        "SELECT day, review_id FROM review_archive "
        "SEMI JOIN withdrawn_entries USING (identity, content_key, request_id) ORDER BY ALL",
    )
    assert entries.rows() == [(DAY, "again"), (DAY, "r1")]
    alerts = [alert for alert in summary["alerts"] if alert["kind"] == "recheck"]
    assert len(alerts) == 2
    assert all("0 reviews of earlier days" in alert["message"] for alert in alerts)
    third = run_day(THIRD)
    assert third["accuracy"]["correct"] == 21
    assert (third["misses"], third["audits_disagreed"]) == (0, 0)


@pytest.mark.campaign
def test_all_that_came_from_a_wrong_entry_is_asked_anew(answered: Home, run_day: Run) -> None:
    """One recheck speaks for all that the entry answered, what was published earlier too.

    A day that was rechecked so is as finished as any other.
    """
    home = answered
    configure(home, NONE)
    deliver(home, [*variants(4, "that"), *reviews(30, 60)], SECOND)
    deliver(home, [*variants(4, "our", "my", "the"), *reviews(61, 81)], THIRD)
    spoil(home, "review_id = 'r4'")
    assert run_day(SECOND)["audits"] == 0
    summary = run_day(THIRD)
    counted_once(summary)
    assert (summary["audits"], summary["audits_disagreed"]) == (1, 1)
    assert (sum(summary["hits"].values()), summary["misses"]) == (0, 23)
    assert summary["accuracy"]["correct"] == 23
    assert asked(home, THIRD) == {"audit": 1, "classification": 22}
    (alert,) = [alert for alert in summary["alerts"] if alert["kind"] == "recheck"]
    assert "1 reviews of earlier days" in alert["message"]
    assert query(home, "SELECT day, level FROM withdrawn_entries").rows() == [(THIRD, "l2")]
    changes_nothing(home, run_day, THIRD)


@pytest.mark.parametrize(
    ("step", "call"),
    [("judge", 1), ("send", 2), ("judge", 2), ("report_rechecks", 1)],
)
@pytest.mark.campaign
def test_a_run_that_ends_between_the_rounds_is_completed_by_the_next(
    answered: Home, run_day: Run, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    """Wherever it ends, nothing is paid twice and nothing that was taken back is forgotten."""
    home = answered
    configure(home, NONE)
    deliver(home, [*variants(4, "my", "our", "the"), *reviews(30, 50)], SECOND)
    spoil(home, "review_id = 'r4'")
    real, calls = getattr(classification, step), []

    def breaking(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("killed")
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(classification, step, breaking)
        assert "killed" in run_day(SECOND)["problem"]
    summary = run_day(SECOND)
    counted_once(summary)
    assert (summary["audits"], summary["audits_disagreed"], summary["misses"]) == (1, 1, 23)
    assert asked(home, SECOND) == {"audit": 1, "classification": 22}
    assert summary["accuracy"]["correct"] == 23
    raised = query(home, "SELECT count(*) FROM alerts WHERE kind = 'recheck'")
    assert raised.rows() == [(1,)]
    changes_nothing(home, run_day, SECOND)


@pytest.mark.campaign
def test_a_late_file_is_rechecked_by_itself(answered: Home, run_day: Run) -> None:
    """What was judged stays judged, and an entry that was taken back answers no later file."""
    home = answered
    deliver(home, reviews(0, 10), SECOND)
    spoil(home, "review_id = 'r4'")
    assert run_day(SECOND)["audits"] == 10
    deliver(home, [*reviews(0, 20), *variants(4, "our")], SECOND)
    summary = run_day(SECOND)
    counted_once(summary)
    assert (summary["audits"], summary["audits_disagreed"]) == (21, 1)
    assert summary["accuracy"]["correct"] == 21
    assert query(home, "SELECT count(*) FROM withdrawn_entries").rows() == [(1,)]


@pytest.mark.campaign
def test_reclassifying_asks_everything_and_rechecks_nothing(answered: Home, run_day: Run) -> None:
    """Without hits there is nothing to recheck; what was found before stays found."""
    home = answered
    deliver(home, reviews(0, 10), SECOND)
    spoil(home, "review_id = 'r4'")
    assert run_day(SECOND)["audits"] == 10
    summary = run_day(SECOND, reclassify=True)
    counted_once(summary)
    assert (summary["misses"], summary["audits"]) == (10, 0)
    assert query(home, "SELECT count(*) FROM withdrawn_entries").rows() == [(1,)]
    assert query(home, "SELECT max(asked) FROM review_archive").rows() == [(1.0,)]


@pytest.mark.campaign
def test_no_entry_answers_a_large_share_of_a_day_unchecked(answered: Home, run_day: Run) -> None:
    """A popular wrong answer would spoil a whole day; one recheck with agreement is enough."""
    home = answered
    configure(home, NONE + "most_unaudited = 0.2\n")
    popular = [row for word in ("a", "b", "c") for row in reviews(4, 5, review_id=word)]
    for day in (SECOND, THIRD):
        deliver(home, [*popular, *reviews(30, 40, tenant=None)], day)
    summary = run_day(SECOND)
    assert (summary["audits"], summary["audits_disagreed"]) == (1, 0)
    drawn = query(home, "SELECT asked FROM cache_resolution WHERE audit")
    assert drawn.rows() == [(1.0,)]
    assert run_day(THIRD)["audits"] == 0


@pytest.mark.campaign
def test_a_spent_budget_leaves_hits_as_they_are(home: Home, run_day: Run) -> None:
    """Rechecks are a wish, not a debt: nobody waits for one, and a larger budget takes it up."""
    tenants = '[tenants.acme]\nbudget_usd = {}\nbudget_period = "month"\n'
    configure(home, tenants=tenants.format("5.0"))
    for day in (DAY, SECOND):
        deliver(home, reviews(0, 20), day)
    run_day()
    configure(home, tenants=tenants.format("0.000001"))
    summary = run_day(SECOND)
    counted_once(summary)
    assert (summary["hits"]["l3_exact"], summary["deferred"], summary["audits"]) == (20, 0, 0)
    assert of_day(home, "batch_classifications", SECOND).is_empty()
    configure(home, tenants=tenants.format("5.0"))
    assert run_day(SECOND)["audits"] == 20


@pytest.mark.campaign
def test_a_recheck_of_one_scope_touches_no_other(home: Home, run_day: Run) -> None:
    """Two tenants with the same texts have two entries, and a wrong one is wrong for one."""
    configure(home, tenants="[tenants.one]\n[tenants.two]\n")
    for tenant in ("one", "two"):
        for day in (DAY, SECOND):
            deliver(home, reviews(0, 10), day, tenant=tenant)
    run_day()
    spoil(home, "tenant = 'one'")
    summary = run_day(SECOND)
    counted_once(summary)
    assert (summary["audits"], summary["audits_disagreed"]) == (20, 10)
    found = query(home, "SELECT tenant, agrees, count(*) FROM audits GROUP BY ALL ORDER BY ALL")
    assert found.rows() == [("one", False, 10), ("two", True, 10)]
    gone = query(home, "SELECT DISTINCT split_part(identity, '|', 1) FROM withdrawn_entries")
    assert gone.rows() == [("one",)]
    rechecks = [alert for alert in summary["alerts"] if alert["kind"] == "recheck"]
    assert {alert["tenant"] for alert in rechecks} == {"one"}
    kept = of_day(home, "review_results", SECOND).filter(level="l3_exact")
    assert kept["tenant"].to_list() == ["two"] * 10


@pytest.mark.campaign
def test_a_pool_shares_what_a_recheck_found(home: Home, run_day: Run) -> None:
    """Tenants that joined one pool share its wrong answers, and are told of them each."""
    pool = '[tenants.one]\npool = "both"\n[tenants.two]\npool = "both"\n'
    configure(home, NONE, tenants=pool)
    deliver(home, reviews(0, 5), tenant="one")
    deliver(home, [*variants(4, "our"), *reviews(30, 50)], SECOND, tenant="two")
    deliver(home, [*variants(4, "my", "the")], THIRD, tenant="one")
    run_day()
    spoil(home, "review_id = 'r4'")
    assert run_day(SECOND)["audits"] == 0
    assert run_day(THIRD)["audits_disagreed"] == 1
    told = query(home, "SELECT tenant, value FROM alerts WHERE kind = 'recheck' ORDER BY 1")
    assert told.rows() == [("one", 0), ("two", 1)]


@pytest.mark.campaign
def test_simulated_rechecks_say_nothing_of_real_answers(
    home: Home, run_day: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo that agrees with itself must not vouch for a paid model, nor take its answers back."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key-at-all")
    many = [row for word in ("a", "b", "c") for row in reviews(4, 5, review_id=word)]
    with Simulator(LexiconJudge(), latency_seconds=0.0) as endpoint:
        configure(home, NONE)
        text = home.tenants_file.read_text()
        url = f'base_url = "{endpoint.base_url}"\n'
        home.tenants_file.write_text(text.replace("[engine]\n", "[engine]\n" + url))
        deliver(home, reviews(0, 10))
        for day in (SECOND, THIRD, FOURTH):
            deliver(home, many, day)
        run_day(name="openai")
        run_day(DAY + timedelta(days=-1))
        assert run_day(SECOND)["misses"] == 1, "a simulated run was answered by real answers"
        assert run_day(THIRD)["audits"] == 1
        spoil(home, "identity LIKE '%simulated'")
        real = run_day(FOURTH, name="openai")
    # The simulated entry was vetted on the third day, which counts for nothing here.
    assert (real["hits"]["l3_exact"], real["audits"], real["audits_disagreed"]) == (1, 1, 0)
    kinds = query(home, "SELECT simulated, identity LIKE '%real' FROM level_errors").unique()
    assert sorted(kinds.rows()) == [(False, True), (True, False)]
    assert query(home, "FROM withdrawn_entries").is_empty()


@pytest.mark.campaign
def test_a_tenant_that_fails_its_gate_archives_no_recheck(home: Home, run_day: Run) -> None:
    """Only validated answers enter L3, whoever asked for them."""
    configure(home, tenants="[tenants.bad]\n[tenants.good]\n")
    wrong = [row | {"label": "neutral"} for row in reviews(0, 80)]
    for tenant, second in (("bad", wrong), ("good", reviews(0, 80))):
        deliver(home, reviews(0, 80), tenant=tenant)
        deliver(home, second, SECOND, tenant=tenant)
    run_day()
    summary = run_day(SECOND)
    assert (summary["accuracy"]["gate"], summary["audits"]) == ("failed", 160)
    assert of_day(home, "review_archive", SECOND)["tenant"].to_list() == ["good"] * 80


@pytest.mark.campaign
def test_a_near_level_that_is_wrong_too_often_is_switched_off(home: Home, run_day: Run) -> None:
    """Taking entries back one by one is not enough where similarity itself does not hold."""
    configure(home, more="[cache]\nwindow_days = 3\n")
    deliver(home, reviews(0, 60))
    for offset, start in enumerate((0, 20, 40, 50), 1):
        rows = [row for number in range(start, start + 10) for row in variants(number, "our")]
        deliver(home, rows, DAY + timedelta(days=offset))
    run_day()
    spoil(home, "review_id < 'r2'")
    first = run_day(SECOND)
    assert 0 < first["audits_disagreed"] <= first["audits"] == 10
    rechecks = [alert for alert in first["alerts"] if alert["kind"] == "recheck"]
    stopped = [alert for alert in rechecks if alert["severity"] == "critical"]
    assert len(stopped) == 1
    assert "l3_near" in stopped[0]["message"]
    for day in (THIRD, FOURTH):
        off = run_day(day)
        assert (sum(off["hits"].values()), off["misses"]) == (0, 10)
        assert not [alert for alert in off["alerts"] if alert["kind"] == "recheck"]
    # The rechecks that spoke against it have left the window: it may show again what it can.
    assert run_day(DAY + timedelta(days=4))["hits"]["l3_near"] == 10


@pytest.mark.campaign
def test_an_answer_does_not_outlive_its_taxonomy(home: Home, run_day: Run) -> None:
    """`ttl_days` counts from the day on which the model answered, not from the last hit."""
    configure(home, NONE)
    from review_optimizer_dagster import taxonomies

    text = (Path(taxonomies.__file__).parent / "reviews.toml").read_text(encoding="utf-8")
    (home.folder / "taxonomies").mkdir()
    (home.folder / "taxonomies" / "reviews.toml").write_text("ttl_days = 2\n" + text)
    for offset in range(4):
        deliver(home, reviews(0, 10), DAY + timedelta(days=offset))
    missed = [run_day(DAY + timedelta(days=offset))["misses"] for offset in range(4)]
    assert missed == [10, 0, 0, 10]


@pytest.mark.campaign
def test_what_rechecks_found_is_shown_and_running_again_changes_nothing(
    answered: Home, run_day: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The live error a tenant, level and class, with its sample size and exact interval.

    Whoever pays for rechecks wants to see what they found, in the terminal too; and a day that
    was rechecked is as finished as any other.
    """
    home = answered
    deliver(home, reviews(0, 20), SECOND)
    spoil(home, "review_id = 'r4'")
    summary = run_day(SECOND)
    print_summary(summary)
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "rechecked" in line)
    assert f"20 / 1 / ${summary['audit_cost_usd']}" in line
    with duckdb.connect(str(home.published / "analytics.duckdb"), read_only=True) as analytics:
        rows = analytics.execute(
            "SELECT class, n, disagreements, round(lower, 4), round(upper, 4) FROM cache_errors "
            "WHERE day = ? AND level = 'l3_exact' AND tenant = 'acme' AND simulated "
            "AND (class = '' OR class LIKE 'sentiment=%') ORDER BY class",
            [SECOND],
        ).fetchall()
        levels = analytics.execute(
            "SELECT category, level, reviews FROM cache_levels WHERE day = ? ORDER BY level",
            [SECOND],
        ).fetchall()
    assert rows == [
        ("", 20, 1, 0.0026, 0.2161),
        ("sentiment=negative", 11, 1, 0.0047, 0.3644),
        ("sentiment=positive", 9, 0, 0.0, 0.2831),
    ]
    assert levels == [("Lamps", "l3_exact", 19), ("Lamps", "model", 1)]
    changes_nothing(home, run_day, SECOND)
