"""`review-optimizer report`, the asset, and what a run keeps of budgets for them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from review_optimizer_dagster.cli import main
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.reporting import operations_dashboard
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.report import page as page_module
from review_optimizer_dagster.storage import ledger
from review_optimizer_dagster_tests.report import made_up
from review_optimizer_dagster_tests.report.made_up import LAST


@pytest.fixture(autouse=True)
def _quick_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "build_page", lambda: "<title>%TITLE%</title>%DATA%")


@pytest.fixture
def published(home: Home) -> Home:
    """A home with three made-up days, published."""
    with made_up.warehouse(home).open() as connection:
        made_up.fill(connection)
        connection.execute("UPDATE service_levels SET met = true, budget_left = 1")
        connection.execute("UPDATE budget_states SET spent_nanos = 1")
        made_up.publish(home, connection)
    return home


def _leave(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(str(left.value.code))


def test_the_command_writes_both_files_and_says_where(
    published: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line is the verdict; JSON says the same."""
    out = tmp_path / "report.json"
    assert _leave(["report", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{LAST}: fine  SIMULATED ANSWERS\n")
    overview, of_day = published.reports / "operations.html", published.reports / f"{LAST}.html"
    assert str(overview) in told
    assert str(of_day) in told
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["verdict"] == "fine"
    assert found["reasons"] == []
    assert found["files"] == {"overview": str(overview), "day": str(of_day)}
    assert found["bytes"] == overview.stat().st_size + of_day.stat().st_size


def test_what_there_is_to_look_at_is_in_the_terminal_too(
    published: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over ssh there is no browser."""
    with made_up.warehouse(published).open() as connection:
        made_up.raise_alert(connection)
        made_up.publish(published, connection)
    out = tmp_path / "report.json"
    assert _leave(["report", "--date", str(LAST), "--json", str(out)]) == 0
    assert "look here" in (told := capsys.readouterr().out)
    assert "warning: a recheck contradicts" in told
    (reason,) = json.loads(out.read_text(encoding="utf-8"))["reasons"]
    assert (reason["tenant"], reason["section"]) == ("acme", "alerts")


def test_open_shows_the_page_of_what_was_asked_for(
    published: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A day that is named is what one wants to see; without a browser the path is said."""
    import webbrowser

    opened: list[str] = []

    def browse(url: str) -> bool:
        opened.append(url)
        return False

    monkeypatch.setattr(webbrowser, "open", browse)
    assert _leave(["report", "--open"]) == 0
    assert _leave(["report", "--open", "--date", str(LAST)]) == 0
    names = ["operations.html", f"{LAST}.html"]
    assert opened == [(published.reports / name).as_uri() for name in names]
    assert "no browser found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "run `review-optimizer run` first"),
        (["report", "--json", "/nowhere/out.json"], "its folder does not exist"),
    ],
)
def test_what_the_user_can_mend_is_said(
    home: Home, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and no traceback."""
    assert _leave(arguments) == 2
    assert said in capsys.readouterr().err
    assert not home.reports.exists()


def _materialized(home: Home) -> dict[str, Any]:
    context = dg.build_asset_context(partition_key=LAST.isoformat())
    result = operations_dashboard(context, home_folder=HomeFolder(folder=str(home.folder)))
    assert isinstance(result, dg.MaterializeResult)
    return dict(result.metadata or {})


def test_the_asset_says_what_it_wrote(published: Home) -> None:
    """Links, paths, bytes and the verdict, for the UI."""
    told = _materialized(published)
    assert told["written"] is True
    assert told["verdict"] == "fine"
    assert told["overview"].url == "http://127.0.0.1:3001/operations.html"
    assert told["overview_file"].value == str(published.reports / "operations.html")
    assert told["bytes"] > 0


def test_a_run_goes_on_without_the_extra(published: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are no reason to fail a day; the command fails, and says what to install."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    told = _materialized(published)
    assert told["written"] is False
    assert "install the extra `ui`" in told["problem"]
    assert _leave(["report"]) == 2


def test_altair_is_not_loaded_by_the_definitions() -> None:
    """It takes a second, and only the first page of a version needs it."""
    import subprocess

    code = (
        "import sys, review_optimizer_dagster.definitions, review_optimizer_dagster.cli\n"
        "sys.exit(any(name in sys.modules for name in ('altair', 'vl_convert')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _state(spent: int, day_nanos: int, version: int = 1, **columns: Any) -> pl.DataFrame:
    row = {
        "tenant": "acme", "simulated": False, "period": "2026-03", "version": version,
        "budget_nanos": 1_000, "spent_nanos": spent, "held_nanos": 0, "thresholds": [50, 75, 90],
        "day_nanos": day_nanos, "seen_at": datetime(2026, 3, 5, 1, tzinfo=UTC),
    }  # fmt: skip
    return pl.DataFrame([row | columns], schema=ledger.BUDGET_STATES)


def test_a_day_that_is_run_again_keeps_where_its_budget_stood(home: Home) -> None:
    """Else the spend of later days would move into it."""
    with made_up.warehouse(home).open() as connection:

        def spent() -> list[Any]:
            return connection.rows("SELECT spent_nanos, thresholds FROM budget_states")

        ledger.replace_budget_states(connection, LAST, _state(100, 10))
        later = datetime(2026, 4, 9, tzinfo=UTC)
        again = _state(900, 10, period="2026-04", seen_at=later, held_nanos=5)
        ledger.replace_budget_states(connection, LAST, again)
        assert spent() == [(100, [50, 75, 90])]
        ledger.replace_budget_states(connection, LAST, _state(900, 10, thresholds=[80]))
        assert spent() == [(100, [80])]  # the lines are those that alert now
        ledger.replace_budget_states(connection, LAST, _state(130, 12))
        assert spent() == [(130, [50, 75, 90])]  # the day itself cost more
        ledger.replace_budget_states(connection, LAST, _state(900, 12, version=2))
        assert spent() == [(900, [50, 75, 90])]  # another budget


def test_the_view_of_budgets_says_where_the_pace_leads(home: Home) -> None:
    """A month and a day are gone to another share at the same moment."""
    with made_up.warehouse(home).open() as connection:
        noon = datetime(2026, 3, 16, 12, tzinfo=UTC)  # half of March
        month = _state(600, 10, seen_at=noon)
        daily = _state(600, 10, tenant="bolt", period="2026-03-16", seen_at=noon)
        late = _state(600, 10, tenant="corp", period="2026-02", seen_at=noon + timedelta(days=1))
        ledger.replace_budget_states(connection, LAST, pl.concat([month, daily, late]))
        made_up.publish(home, connection)
        connection.execute(f"ATTACH '{home.published / 'analytics.duckdb'}' AS out (READ_ONLY)")
        rows = connection.rows(
            "SELECT tenant, used_share, gone_share, projected_share, reached, left_usd * 1e9 "
            "FROM out.budget_burn ORDER BY tenant"
        )
    assert rows == [
        ("acme", 0.6, 0.5, 1.2, 50, 400.0),
        ("bolt", 0.6, 0.5, 1.2, 50, 400.0),
        ("corp", 0.6, 1.0, 0.6, 50, 400.0),
    ]
