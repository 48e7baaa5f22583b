"""The dashboard's files: the figures of the database, the verdict, and nothing that is fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.report import page as page_module
from review_optimizer_dagster.report.columns import decode, encode
from review_optimizer_dagster.report.files import Reports, write_reports
from review_optimizer_dagster.report.page import build_page, figure_specs, filled_page
from review_optimizer_dagster.storage.warehouse import Connection
from review_optimizer_dagster_tests.report import made_up
from review_optimizer_dagster_tests.report.made_up import LAST

Told = dict[str, Any]


class _Elements(HTMLParser):
    """Every element with its attributes, and the text of each script."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "script":
            self._script = attributes.get("id") or f"script {len(self.scripts)}"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data


def _parsed(path: Path) -> _Elements:
    parser = _Elements()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def _told(path: Path) -> Told:
    """The data of a page."""
    told: Told = json.loads(_parsed(path).scripts["data"])
    return told


def _rows(told: Told, table: str) -> list[Told]:
    """The rows of a table as the page reads them."""
    found = told["tables"][table]
    columns = {name: decode(column) for name, column in found["columns"].items()}
    return [{name: columns[name][i] for name in columns} for i in range(found["rows"])]


def _sql(home: Home, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    path = home.published / "analytics.duckdb"
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql, parameters).fetchall()


def _days(day: date) -> int:
    return (day - date(1970, 1, 1)).days


@pytest.fixture(autouse=True)
def _quick_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries take seconds to bundle, and no test here looks into them but one."""
    monkeypatch.setattr(page_module, "build_page", _build_without_libraries)


def _build_without_libraries() -> str:
    text = page_module._text("page.html")
    for name in ("CSP", "CSS", "FIGURES", "BUNDLE", "SCRIPT"):
        text = text.replace(f"%{name}%", "")
    return text


@pytest.fixture
def stored(home: Home) -> Iterator[Connection]:
    """A warehouse with three made-up days of two tenants, not published yet."""
    with made_up.warehouse(home).open() as connection:
        made_up.fill(connection)
        yield connection


@pytest.fixture
def reports(home: Home, stored: Connection) -> Callable[..., Reports]:
    """Publishes what is stored and writes the files."""

    def write(day: date | None = None) -> Reports:
        made_up.publish(home, stored)
        return write_reports(Home(home.folder), day)

    return write


def test_the_page_holds_the_figures_of_the_database(
    home: Home, reports: Callable[..., Reports]
) -> None:
    """A chart that says something else than SQL would be worse than none."""
    told = _told(reports().overview)
    assert told["tenants"] == ["acme", "bolt"]
    costs = {(row["who"], row["day"]): row for row in _rows(told, "costs")}
    expected = _sql(
        home, "SELECT tenant, day, reviews, hits, cost_usd, baseline_usd FROM daily_costs"
    )
    assert len(costs) == len(expected) == 6
    for tenant, day, count, hits, cost, baseline in expected:
        row = costs[tenant, _days(day)]
        assert (row["reviews"], row["hits"]) == (count, hits)
        assert round(row["cost_usd"] * 1e9) == round(cost * 1e9)  # to the nano-dollar
        assert row["baseline_usd"] == pytest.approx(baseline)
    levels = {(r["who"], r["day"], r["level"]): r["reviews"] for r in _rows(told, "levels")}
    assert levels == {
        (tenant, _days(day), level): n
        for tenant, day, level, n in _sql(
            home, "SELECT tenant, day, level, sum(reviews) FROM cache_levels GROUP BY ALL"
        )
    }
    service = {(r["who"], r["day"]): r["left_days"] for r in _rows(told, "service")}
    assert service == {
        (tenant, _days(day)): left
        for tenant, day, left in _sql(
            home, "SELECT tenant, day, left_days FROM error_budgets WHERE indicator = 'all'"
        )
    }


def test_an_analyst_who_has_the_file_open_changes_nothing(
    home: Home, stored: Connection, reports: Callable[..., Reports]
) -> None:
    """DuckDB would lend the file that was opened before, and refuse other settings for it."""
    reports()
    with duckdb.connect(str(home.published / "analytics.duckdb"), read_only=True):
        stored.execute("UPDATE cost_rollups SET reviews = 7 WHERE tenant = 'bolt'")
        told = _told(reports().overview)
    assert {row["reviews"] for row in _rows(told, "costs") if row["who"] == "bolt"} == {7}


def test_what_does_not_add_up_is_measured_over_all_tenants(
    home: Home, reports: Callable[..., Reports]
) -> None:
    """A percentile of all tenants is no mean of theirs, and a peak no sum."""
    told = _told(reports().of_day)
    found = {(r["who"], r["day"]): r for r in _rows(told, "latencies")}
    for tenant in ("", "bolt"):
        ((p95, n),) = _sql(
            home,
            "SELECT quantile_cont(latency_ms, 0.95), count(*) FROM request_latencies "
            "WHERE day = ? AND (tenant = ? OR ? = '')",
            LAST,
            tenant,
            tenant,
        )
        row = found[tenant, _days(LAST)]
        assert (row["p95_ms"], row["requests"]) == (pytest.approx(p95, abs=0.1), n)
    peaks = {row["who"]: row["peak"] for row in _rows(told, "batches") if row["day"] == _days(LAST)}
    assert peaks[""] > max(peaks["acme"], peaks["bolt"])
    flying = [row["flying"] for row in _rows(told, "in_flight") if row["who"] == ""]
    assert max(flying) == peaks[""]


def test_requests_one_by_one_are_in_the_file_of_a_day_alone(
    reports: Callable[..., Reports],
) -> None:
    """A year of them would make the page over days too large to open."""
    written = reports()
    assert "requests" not in _told(written.overview)["tables"]
    assert len(_rows(_told(written.of_day), "requests")) == 6  # 2 tenants, 3 each


def test_a_day_that_is_asked_for_ends_its_page(reports: Callable[..., Reports]) -> None:
    """The page of a past day must say what was known of it, not what came after."""
    before = LAST - timedelta(days=1)
    written = reports(before)
    told = _told(written.of_day)
    assert written.of_day.name == f"{before}.html"
    assert max(row["day"] for row in _rows(told, "costs")) == _days(before) == told["last"]
    assert _told(written.overview)["last"] == _days(LAST)


def test_simulated_answers_are_marked(home: Home, reports: Callable[..., Reports]) -> None:
    """Made-up money must not be taken for money."""
    told = _told(reports().overview)
    assert told["simulated"] is True
    assert told["mixed"] is False
    assert told["everyone"] == ["acme", "bolt"]
    assert _parsed(home.reports / "operations.html").elements.count(
        ("p", {"id": "simulated", "role": "note", "hidden": None})
    )


def test_simulated_and_real_money_are_never_added_up(home: Home) -> None:
    """Where a rehearsal stands beside real days, it has a name of its own and no part in sums."""
    with made_up.warehouse(home).open() as connection:
        made_up.fill(connection, ["acme"], simulated=True)
        made_up.fill(connection, ["acme", "bolt"], simulated=False)
        made_up.publish(home, connection)
    told = _told(write_reports(home).overview)
    assert told["tenants"] == ["acme", "acme (simulated)", "bolt"]
    assert told["everyone"] == ["acme", "bolt"]
    assert told["mixed"] is True
    rows = [row for row in _rows(told, "latencies") if row["day"] == _days(LAST)]
    ((real,),) = _sql(
        home, "SELECT count(*) FROM request_latencies WHERE day = ? AND NOT simulated", LAST
    )
    assert {row["who"]: row["requests"] for row in rows}[""] == real


def test_the_verdict_says_why_one_should_look(stored: Connection, home: Home) -> None:
    """An operator reads the reasons, each a link to its section, and nothing else."""
    stored.execute(
        "UPDATE gate_verdicts SET verdict = 'failed', detail = '80 of 100 right' "
        "WHERE tenant = 'acme' AND day = ?",
        [LAST],
    )
    stored.execute("UPDATE service_levels SET met = true, days_broken = 0, budget_left = 1")
    stored.execute(
        "UPDATE service_levels SET met = false, detail = 'took 99 s' "
        "WHERE tenant = 'bolt' AND indicator = 'run_seconds' AND day = ?",
        [LAST],
    )
    stored.execute("UPDATE budget_states SET spent_nanos = 10000000")
    stored.execute(
        "UPDATE budget_states SET spent_nanos = 80000000 WHERE tenant = 'bolt' AND day = ?", [LAST]
    )
    made_up.raise_alert(stored)
    drift = {"tenant": "acme", "signal": "length", "horizon": "day", "simulated": True}
    stored.append("drift_tests", pl.DataFrame([drift | {"alarm": True}]), day=LAST)
    made_up.publish(home, stored)
    written = write_reports(home)
    told = {(each.who, each.section): each for each in written.reasons}
    assert set(told) == {
        ("acme", "quality"), ("bolt", "service"), ("bolt", "money"), ("acme", "alerts"),
    }  # fmt: skip
    quality = [each.text for each in written.reasons if each.section == "quality"]
    assert quality == [
        "acme: the gate failed the day. 80 of 100 right",
        "acme: 1 signal drifted (length)",
    ]
    assert told["bolt", "service"].text == "bolt broke its promise of run duration: took 99 s"
    assert "80\xa0% of its budget" in told["bolt", "money"].text
    assert "over the threshold of 75\xa0%" in told["bolt", "money"].text
    assert [each.severity for each in written.reasons[:2]] == ["critical", "critical"]
    assert not written.is_fine
    sections = dict(_told(written.overview)["sections"])
    assert {each.section for each in written.reasons} <= set(sections)


def test_small_sums_and_shares_are_written_as_they_are(stored: Connection, home: Home) -> None:
    """`$0.00 of $0.00` says nothing, and a per cent sign is set one way wherever it comes from."""
    _all_well(stored)
    stored.execute(
        "UPDATE budget_states SET spent_nanos = 1234567, budget_nanos = 1500000 "
        "WHERE tenant = 'bolt' AND day = ?",
        [LAST],
    )
    stored.execute(
        "UPDATE spend_forecasts SET spent = 1234567, expected = 2600000, budget_nanos = 1500000 "
        "WHERE tenant = 'bolt'"
    )
    made_up.raise_alert(stored, message="3 of 4 right (75.00% to 90 %)")
    made_up.publish(home, stored)
    assert sorted(each.text for each in write_reports(home).reasons) == [
        "3 of 4 right (75.00\xa0% to 90\xa0%)",
        "bolt has used 82.3\xa0% of its budget for 2026-03: $0.00123 of $0.0015, over the "
        "threshold of 75\xa0%",
        "bolt is forecast to spend $0.0026 in 2026-03, more than its budget of $0.0015",
    ]


def test_alerts_about_a_simulated_month_are_in_the_log(
    stored: Connection, reports: Callable[..., Reports]
) -> None:
    """Their period names the ledger that they are counted in; the page has a banner for that."""
    for number, month in enumerate(("2026-02", "2026-03", "2026-04")):
        made_up.raise_alert(
            stored,
            alert_id=f"a-{number}",
            kind="budget",
            period=f"simulated:{month}",
            message=f"[simulated] the budget of simulated:{month} is spent",
        )
    written = reports()
    for path in (written.overview, written.of_day):
        rows = {row["period"]: row["message"] for row in _rows(_told(path), "alerts")}
        assert rows == {  # not what is about a month to come
            "2026-02": "[simulated] the budget of 2026-02 is spent",
            "2026-03": "[simulated] the budget of 2026-03 is spent",
        }


def test_what_failed_a_day_is_told_once_a_kind(
    stored: Connection, reports: Callable[..., Reports]
) -> None:
    """Sixty lines that say the same, one for each cache entry, say nothing."""
    cause = {"tenant": "acme", "taxonomy": "reviews", "kind": "entry"}
    causes = [cause | {"level": "l2", "wrong": 1, "n": 2, "source": f"entry {i}"} for i in range(3)]
    stored.append("gate_causes", pl.DataFrame(causes), day=LAST)
    (row,) = _rows(_told(reports().of_day), "causes")
    assert (row["causes"], row["wrong"], row["n"]) == (3, 3, 6)


def _all_well(stored: Connection) -> None:
    stored.execute("UPDATE service_levels SET met = true, days_broken = 0, budget_left = 1")
    stored.execute("UPDATE budget_states SET spent_nanos = 10000000")


def test_a_day_without_trouble_is_fine(stored: Connection, home: Home) -> None:
    """An alert of the day that is over, acknowledged, or of before, is no reason to look."""
    _all_well(stored)
    made_up.raise_alert(stored, alert_id="seen", state="acknowledged")
    made_up.raise_alert(stored, alert_id="back", recovers="gone", severity="info")
    made_up.raise_alert(stored, alert_id="gone")
    made_up.raise_alert(stored, alert_id="old", period="2026-03-02")
    made_up.publish(home, stored)
    written = write_reports(home)
    assert written.is_fine
    assert _told(written.overview)["older"] == [{"open": 1, "who": "acme"}]


def test_text_of_the_data_cannot_become_markup(stored: Connection, home: Home) -> None:
    """A category is whatever a tenant delivers: it must stay text."""
    evil = "</script><script>alert(1)</script><!-- & \u2028"
    stored.execute("UPDATE published_results SET category = ? WHERE category = 'Books'", [evil])
    stored.execute("UPDATE service_levels SET tenant = ? WHERE tenant = 'bolt'", [evil])
    stored.execute("UPDATE cost_rollups SET tenant = ? WHERE tenant = 'bolt'", [evil])
    made_up.publish(home, stored)
    written = write_reports(home)
    for path in (written.overview, written.of_day):
        told = _told(path)
        assert evil in {row["category"] for row in _rows(told, "categories")}
        assert evil in told["tenants"]
        text = path.read_text(encoding="utf-8")
        assert "alert(1)</script>" not in text
        assert text.count("<script") == 4  # data, figures, and the two that may run
    title = filled_page("<title>%TITLE%</title>%DATA%", "<b>%DATA%", {"a": 1})
    assert title == '<title>&lt;b&gt;%DATA%</title>{"a":1}'


def test_no_text_of_a_review_and_no_id_is_in_the_page(reports: Callable[..., Reports]) -> None:
    """The page is passed around: figures alone."""
    for path in (reports().overview, reports().of_day):
        text = path.read_text(encoding="utf-8")
        assert "acme-2026" not in text  # review and request ids
        assert "labels" not in _told(path)["tables"]


def test_the_same_data_gives_the_same_bytes(reports: Callable[..., Reports]) -> None:
    """Running a day again changes nothing that did not change."""
    first = reports()
    before = [path.read_bytes() for path in (first.overview, first.of_day)]
    stamps = [path.stat().st_mtime_ns for path in (first.overview, first.of_day)]
    again = reports()
    assert [path.read_bytes() for path in (again.overview, again.of_day)] == before
    assert [path.stat().st_mtime_ns for path in (again.overview, again.of_day)] == stamps


def test_the_page_is_drawn_up_once_a_version(
    home: Home, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries and specifications take seconds, which a run must not pay every day."""
    reports()
    (kept,) = home.reports.glob(".page-*.html")
    with monkeypatch.context() as patched:
        patched.setattr(page_module, "build_page", lambda: pytest.fail("drawn up again"))
        reports()
    monkeypatch.setattr(page_module, "installed_versions", lambda: {"altair": "another"})
    reports()
    (renewed,) = home.reports.glob(".page-*.html")
    assert renewed != kept


def test_the_real_page_runs_its_own_scripts_alone_and_fetches_nothing(tmp_path: Path) -> None:
    """Offline, and nothing that stands in the data could run even if it became markup."""
    import base64
    import hashlib

    path = tmp_path / "page.html"
    path.write_text(filled_page(build_page(), "title", {}), encoding="utf-8")
    found = _parsed(path)
    policy = next(
        attributes["content"]
        for tag, attributes in found.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    own = [text for name, text in found.scripts.items() if name not in ("data", "figures")]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in own]
    assert len(own) == 2
    assert digests == allowed
    for tag, attributes in found.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert not re.match(r"(?i)(https?:)?//", value), (tag, name, value)
        assert tag not in ("iframe", "object", "embed", "base", "img")
    style = page_module._text("page.css")
    assert "url(" not in style
    assert "@import" not in style
    assert "ast: true" in page_module.page_script()
    figures = json.loads(found.scripts["figures"])
    assert "http" not in json.dumps([figure["spec"] for figure in figures])
    assert len(path.read_bytes()) < 1_500_000


def test_every_chart_is_what_vega_lite_takes() -> None:
    """Specifications are drawn up without the schema's checks, which take seconds."""
    specs = figure_specs(validate=True)
    assert specs == figure_specs()
    script = page_module.page_script()
    for figure in specs:
        assert re.search(rf"^  {figure['name']}(\(|:)", script, re.MULTILINE), figure["name"]
        assert figure["sets"][0] == "rows"
        assert figure["empty"]
        assert figure["note"]


def test_the_page_says_how_high_a_chart_is() -> None:
    """Vega-Lite warns in the console of heights by steps, which cannot be fitted to a width."""
    for figure in figure_specs():
        assert "height" not in json.dumps(list(figure["spec"]))
        assert isinstance(figure["height"], int)


def test_axes_of_whole_numbers_have_whole_ticks() -> None:
    """There is no half request."""
    for figure in figure_specs():
        kinds = {name: kind for name, _, kind in figure["columns"]}
        layers = figure["spec"].get("layer", [figure["spec"]])
        axes = [layer["encoding"].get("y", {}) for layer in layers if "encoding" in layer]
        for y in axes:
            if kinds.get(y.get("field")) == "int" and y.get("stack") != "normalize":
                assert y["axis"]["tickMinStep"] == 1, figure["name"]
                assert y["axis"]["format"] == ",d", figure["name"]


@pytest.mark.parametrize(
    "values",
    [
        [], [None, None], ["a", "b", "a", "a", "a"], [1, 2, 3, 4, 9, 9], [0.5, None, 2.0],
        [7] * 40, ["x", None], [20000, 20001, 20002, 20000, 20001, 20002],
    ],
)  # fmt: skip
def test_columns_come_back_as_they_were(values: list[Any]) -> None:
    """The page decodes what this encodes."""
    encoded = encode(pl.Series(values))
    assert decode(json.loads(json.dumps(encoded))) == values


def test_without_the_extra_it_says_how_to_install_it(
    home: Home, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on without charts; the command says what to install."""
    version = metadata.version

    def missing(name: str) -> str:
        if name == "altair":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UserError, match="install the extra `ui`"):
        reports()
    assert not (home.reports / "operations.html").exists()


def test_without_data_it_says_to_run_first(home: Home) -> None:
    """No file, and a file without days, are mended the same way."""
    with pytest.raises(UserError, match="run `review-optimizer run` first"):
        write_reports(home)
    with made_up.warehouse(home).open() as connection:
        made_up.publish(home, connection)
    with pytest.raises(UserError, match="holds no day yet"):
        write_reports(home)


def test_a_file_of_an_earlier_version_says_to_run_once(
    home: Home, reports: Callable[..., Reports]
) -> None:
    """A view that is not there yet is no traceback."""
    reports()
    with duckdb.connect(str(home.published / "analytics.duckdb")) as connection:
        connection.execute("DROP VIEW budget_burn")
    with pytest.raises(UserError, match="written by an earlier version"):
        write_reports(home)


def test_a_day_that_is_not_there_is_named(reports: Callable[..., Reports]) -> None:
    """With the days that are."""
    with pytest.raises(UserError, match="nothing of 2025-01-01: it holds 3 days from 2026-03-02"):
        reports(date(2025, 1, 1))
