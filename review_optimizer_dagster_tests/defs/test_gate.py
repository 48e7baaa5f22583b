"""A failed day: what is stopped, what is named and switched off, what a second run asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from review_optimizer_dagster.cli import main
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import automation
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

Run = Callable[..., dict[str, Any]]
NEXT = DAY + timedelta(days=1)


def _look(home: Home) -> str | None:
    """What the sensor says."""
    said = automation.quality_alerts(
        dg.build_sensor_context(),
        home_folder=HomeFolder(folder=str(home.folder)),
        warehouse=Warehouse(database=str(home.warehouse)),
    )
    assert isinstance(said, dg.SkipReason)
    return said.skip_message


def _write_gold(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.campaign
def test_a_poisoned_category_is_named_stopped_and_asked_anew(
    home: Home, run_day: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the day leaves; the second run asks that category alone, and only once."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text('[engine]\nname = "simulator"\n[tenants.acme]\n')
    rows = reviews(0, 90) + reviews(100, 140, category="Books")
    answers = _write_gold(tmp_path / "gold.jsonl", rows)
    deliver(home, rows)
    failed = run_day(answers=answers, flips={"Books": 0.5})
    assert failed["accuracy"]["gate"] == "failed"
    assert query(home, "SELECT kind, source, category, wrong, n FROM gate_causes").rows() == [
        ("model", "gpt-6-luna", "Books", 20, 40)
    ]
    assert query(home, "SELECT * FROM published_results").is_empty()
    assert query(home, "SELECT * FROM review_archive").is_empty()
    (told,) = [alert for alert in failed["alerts"] if alert["kind"] == "gate"]
    assert "gpt-6-luna in Books (20 of 40 wrong)" in told["message"]
    assert "ask 40 texts anew" in told["message"]

    assert _look(home) == "no news of quality"
    shutil.rmtree(home.journal / "state")  # as if the run had ended before it could tell
    assert _look(home) == "raised: acme 2026-03-04, acme 2026-03-04"

    with pytest.raises(SystemExit) as ended:
        main(["gate", "--date", DAY.isoformat(), "--json", str(tmp_path / "gate.json")])
    assert ended.value.code == 1
    shown = json.loads((tmp_path / "gate.json").read_text())
    assert [row["category"] for row in shown["wrong"]] == ["Books"] * 20
    assert "To blame: gpt-6-luna in Books" in " ".join(capsys.readouterr().out.split())

    again = run_day(answers=answers)
    assert again["accuracy"]["gate"] == "passed"
    asked = query(
        home,
        "SELECT sum(reviews) AS n FROM llm_requests WHERE sent_at > "
        "(SELECT max(noted_at) FROM asked_anew)",
    )
    assert asked["n"][0] == 40
    assert [a["kind"] for a in again["alerts"] if a["kind"] == "gate"] == ["gate"]
    assert query(home, "SELECT count(*) AS n FROM published_results")["n"][0] == 130
    assert query(home, "SELECT * FROM asked_anew WHERE applied_at IS NULL").is_empty()
    assert run_day(answers=answers)["this_run"]["requests"] == 0


@pytest.mark.campaign
def test_a_wrong_entry_answers_no_more_and_a_reference_audits_the_day(
    home: Home, run_day: Run, tmp_path: Path
) -> None:
    """The first day's answers are wrong where nobody could know; the second day's labels tell."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(
        '[engine]\nname = "simulator"\n[audits]\nreference_model = "gpt-5.6-luna"\nreviews = 4\n'
        "[rechecks]\nshare = 0.000001\nnew_share = 0.000001\nmost_unaudited = 1.0\n"
        "[tenants.acme]\n"
    )
    rows = reviews(0, 60)
    answers = _write_gold(tmp_path / "gold.jsonl", rows)
    deliver(home, [{k: v for k, v in row.items() if k != "label"} for row in rows])
    first = run_day(answers=answers, flips={"Lamps": 0.3})
    assert first["accuracy"]["truth"] == "audits"
    assert first["reference_audits"]["answered"] == 4
    booked = query(
        home,
        "SELECT count(*) AS entries, sum(cost_nanos)::BIGINT AS cost, count(review_id) AS known "
        "FROM ledger_entries WHERE purpose = 'reference'",
    ).row(0)
    requests = "SELECT sum(cost_nanos)::BIGINT AS cost FROM llm_requests WHERE kind = 'reference'"
    assert booked == (4, query(home, requests)["cost"][0], 4)
    assert run_day(answers=answers, flips={"Lamps": 0.3})["this_run"]["requests"] == 0

    contradicted = 4 - first["accuracy"]["correct"]
    deliver(home, rows, NEXT)
    failed = run_day(NEXT, answers=answers)
    assert failed["accuracy"]["gate"] == "failed"
    # What the reference model contradicted on the first day was never archived.
    wrong = failed["accuracy"]["n"] - failed["accuracy"]["correct"]
    assert wrong == 18 - contradicted
    causes = query(home, "SELECT kind, wrong FROM gate_causes").rows()
    assert causes == [("entry", 1)] * wrong
    assert query(home, "SELECT count(*) AS n FROM withdrawn_entries")["n"][0] == wrong
    again = run_day(NEXT, answers=answers)
    assert (again["accuracy"]["gate"], again["misses"]) == ("passed", 18)
    assert again["hits"]["l3_exact"] + again["hits"]["l1"] == 42


@pytest.mark.campaign
def test_what_people_correct_is_archived_as_they_say_and_no_recheck_takes_it_back(
    home: Home, run_day: Run, tmp_path: Path
) -> None:
    """The model repeats its error on every recheck; the day after is served right all the same."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(
        '[engine]\nname = "simulator"\n[rechecks]\nshare = 1.0\nnew_share = 1.0\n[tenants.acme]\n'
    )
    rows = reviews(0, 60)
    answers = _write_gold(tmp_path / "gold.jsonl", rows)
    deliver(home, rows)
    first = run_day(answers=answers, flips={"Lamps": 0.05})
    assert (first["accuracy"]["gate"], first["accuracy"]["correct"]) == ("inconclusive", 57)
    published = "SELECT count(*) FILTER (WHERE verified) AS n FROM published_results"
    assert query(home, published)["n"][0] == 0
    corrected = query(
        home,
        "SELECT count(*) AS n, bool_and(a.labels ->> 'sentiment' = r.truth ->> 'sentiment') AS ok "
        "FROM review_archive a JOIN raw_reviews r USING (day, tenant, review_id) "
        "WHERE model = 'human'",
    )
    assert corrected.row(0) == (3, True)
    deliver(home, rows, NEXT)
    second = run_day(NEXT, answers=answers, flips={"Lamps": 0.05})
    assert (second["audits"], second["audits_disagreed"]) == (60, 3)
    assert (second["misses"], second["accuracy"]["correct"]) == (0, 60)
    assert query(home, "SELECT * FROM withdrawn_entries").is_empty()


@pytest.mark.campaign
def test_the_sensor_tells_a_condition_once_though_a_later_day_ended_it(
    home: Home, run_day: Run, tmp_path: Path
) -> None:
    """Looking back at the bad day each minute must not raise it anew after each recovery."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text('[engine]\nname = "simulator"\n[tenants.acme]\n')
    rows = reviews(0, 200) + reviews(200, 214, category="Books")
    answers = _write_gold(tmp_path / "gold.jsonl", rows)
    deliver(home, rows)
    first = run_day(answers=answers, flips={"Books": 0.6})
    assert [a["kind"] for a in first["alerts"] if a["kind"] == "quality"] == ["quality"]
    more = reviews(300, 400)
    deliver(home, more, NEXT)
    second = run_day(NEXT, answers=_write_gold(tmp_path / "more.jsonl", more))
    assert [a["kind"] for a in second["alerts"] if a["kind"] == "quality"] == ["quality"]
    assert [_look(home), _look(home)] == ["no news of quality"] * 2
