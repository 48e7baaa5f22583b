"""The Dagster UI as a user goes through it: graph, runs, plots, gate, alerts, re-execution."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from review_optimizer_dagster_tests.browser.conftest import Days, Seen, Shots, write_settings
from review_optimizer_dagster_tests.browser.dagster_ui import (
    LOCATION,
    DagsterUi,
    drawn_as,
    expecting,
)
from review_optimizer_dagster_tests.conftest import query

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

pytestmark = [pytest.mark.browser, pytest.mark.timeout(480)]

JOB = f"{LOCATION}/jobs/daily_reviews"
# Asset and the numbers of its metadata that it plots over the days.
PLOTTED = [
    ("cache_resolution", ("hit_rate", "hit_rate_l3_exact", "reviews", "miss")),
    ("cost_rollups", ("cost_usd", "usd_per_1000", "saving", "avoided_usd")),
    ("batch_classifications", ("requests", "labelled")),
    ("service_levels", ("met", "broken")),
]
# Asset, and lines of the small chart in its metadata `last_days`.
CHARTED = [("cost_rollups", ("cost", "saving")), ("review_results", ("served", "l3_exact"))]
_BARS = re.compile("[▁▂▃▄▅▆▇█]")


def test_the_graph_shows_every_asset_and_nothing_covers_it(
    dagster: DagsterUi, served_home: Home, shots: Shots, seen: Seen
) -> None:
    """What a new user sees first: no sign-up, no error, and the assets that there are."""
    from review_optimizer_dagster.definitions import definitions_of

    assets = definitions_of(served_home).resolve_all_asset_specs()
    dagster.open("/")
    dagster.page.get_by_role("link", name="Lineage").click()
    dagster.expand_groups()
    expecting(dagster.page.get_by_text("raw_reviews").first).to_be_visible()
    shots(dagster.page, "01-graph")
    texts = dagster.graph_texts()
    missing = [
        spec.key.to_user_string()
        for spec in assets
        if not any(drawn_as(spec.key.path[-1], text) for text in texts)
    ]
    assert not missing, f"{missing} are not among {texts}"
    expecting(dagster.page.get_by_role("dialog")).to_have_count(0)
    assert not dagster.banners()
    assert not [line for line in seen.console if line.startswith("error")]


def test_a_day_is_materialized(
    dagster: DagsterUi, served_home: Home, days: Days, shots: Shots
) -> None:
    """From the job's page to figures that the database has too."""
    dagster.open(JOB)
    dagster.page.get_by_role("button", name="Materialize all").wait_for()
    shots(dagster.page, "02-job")
    run_id = dagster.launch(days.waiting, "Materialize all")
    assert dagster.run_status() == "Success"
    shots(dagster.page, "03-run-succeeded")
    expecting(dagster.steps("Errored")).to_have_text("Errored (0)")

    day = days.waiting.isoformat()
    ((reviews, hits),) = query(
        served_home,
        "SELECT count(*), count(*) FILTER (level IS NOT NULL AND level <> 'miss') "  # noqa: S608
        f"FROM cache_resolution WHERE day = DATE '{day}'",
    ).rows()
    assert reviews == 260
    dagster.open(f"/assets/cache_resolution?view=partitions&partition={day}")
    expecting(dagster.page.get_by_role("cell", name="hit_rate", exact=True)).to_be_visible()
    shots(dagster.page, "04-asset-of-the-day")
    expecting(dagster.page.get_by_role("link", name=run_id[:8])).to_be_visible()
    assert dagster.metadata("reviews") == str(reviews)
    assert float(dagster.metadata("hit_rate")) == pytest.approx(hits / reviews, abs=1e-4)


@pytest.mark.parametrize(("asset", "labels"), PLOTTED, ids=[asset for asset, _ in PLOTTED])
def test_metadata_is_plotted_over_the_days(
    dagster: DagsterUi, shots: Shots, asset: str, labels: tuple[str, ...]
) -> None:
    """A line from the first day to the last, for each number that is worth watching."""
    dagster.open(f"/assets/{asset}")
    dagster.page.get_by_role("button", name="Plots").click()
    for label in labels:
        expecting(dagster.plot_name(label).first).to_be_visible()
    shots(dagster.page, f"05-plots-{asset}")
    for label in labels:
        assert dagster.inked_columns(label) > 20, f"{label} has no line"


@pytest.mark.parametrize(("asset", "lines"), CHARTED, ids=[asset for asset, _ in CHARTED])
def test_small_charts_stand_in_the_metadata(
    dagster: DagsterUi, shots: Shots, asset: str, lines: tuple[str, ...]
) -> None:
    """The course of the last days is there without a press on anything."""
    dagster.open(f"/assets/{asset}")
    chart = dagster.page.get_by_role("row", name="last_days").first
    for line in lines:
        drawn = chart.get_by_role("row", name=line).first
        expecting(drawn).to_contain_text(_BARS)
    chart.scroll_into_view_if_needed()
    shots(dagster.page, f"17-chart-{asset}")


def test_a_failed_gate_shows_the_rows_that_fail(
    dagster: DagsterUi, served_home: Home, days: Days, shots: Shots
) -> None:
    """Red where it failed, with ids to look up; and what comes after it did not happen."""
    dagster.open(JOB)
    run_id = dagster.launch(days.failing, "Materialize all")
    assert dagster.run_status() == "Failure"
    expecting(dagster.steps("Errored")).to_have_text("Errored (1)")
    shots(dagster.page, "06-run-stopped-by-the-gate")
    day = days.failing.isoformat()

    dagster.open("/assets/review_results?view=checks&checkDetail=quality_gate")
    expecting(dagster.page.get_by_text("Failed", exact=True).first).to_be_visible()
    expecting(dagster.page.get_by_role("row", name="failing_reviews").first).to_be_visible()
    shots(dagster.page, "07-failed-check")
    failing = dagster.page.get_by_role("row", name="failing_reviews").first
    failing.scroll_into_view_if_needed()
    shots(dagster.page, "08-failing-rows")
    ids = re.findall(r"\br\d+\b", failing.inner_text())
    known = query(
        served_home,
        f"SELECT review_id FROM review_results WHERE day = DATE '{day}'",  # noqa: S608
    )
    assert ids
    assert set(ids) <= set(known["review_id"])

    published = query(
        served_home,
        f"SELECT count(*) FROM published_results WHERE day = DATE '{day}'",  # noqa: S608
    )
    assert published.item() == 0
    dagster.open(f"/assets/published_results?view=partitions&partition={day}")
    told = dagster.page.get_by_text("did not materialize this asset")
    expecting(told).to_contain_text(run_id[:8])
    shots(dagster.page, "09-not-published")


def test_a_budget_alert_is_raised_by_its_sensor(
    dagster: DagsterUi, served_home: Home, days: Days, shots: Shots
) -> None:
    """Somebody lowers a budget below what is spent; the sensor says so, and the table keeps it."""
    write_settings(served_home, days, "budget_usd = 0.001")
    page = dagster.page
    dagster.open("/automation")
    sensor = page.get_by_role("link", name="budget_alerts")
    expecting(sensor).to_contain_text("Standard sensor")
    expecting(page.get_by_role("link", name="yesterday")).to_contain_text("01:15 AM UTC")
    shots(page, "10-automation")
    switch = sensor.locator("xpath=following::label[1]")
    switch.locator("svg").click()
    expecting(switch.locator("input")).to_be_checked()
    sensor.click()
    tick = page.get_by_role("button", name="0 runs requested").last
    expecting(tick, 90).to_be_visible()
    shots(page, "11-sensor")
    tick.click()
    expecting(page.get_by_text("raised: globex 50 %")).to_be_visible()
    shots(page, "12-tick-with-the-alert")
    page.keyboard.press("Escape")

    # Alerts of sensors come into the table with the next step that has the warehouse.
    dagster.open("/assets/cost_rollups")
    dagster.launch(days.history[-1])
    assert dagster.run_status() == "Success"
    alerts = query(
        served_home,
        "SELECT DISTINCT threshold FROM alerts WHERE kind = 'budget' AND tenant = 'globex'",
    )
    assert set(alerts["threshold"]) == {50, 75, 90, 100}
    write_settings(served_home, days)  # so that later runs have money


def test_the_launchpad_explains_its_fields(dagster: DagsterUi, shots: Shots) -> None:
    """Whoever starts a run by hand reads what each field does, and gets no error for defaults."""
    from review_optimizer_dagster.defs.resources import Engine

    dagster.open(f"{JOB}/playground")
    page = dagster.page
    expecting(page.get_by_text("No errors")).to_be_visible()
    expecting(page.get_by_text("Who answers what the cache cannot, in this run.")).to_be_visible()
    page.get_by_text("answer_error").first.click()  # what stands under the cursor is explained
    explained = page.locator("code").last
    expecting(explained).to_contain_text("Simulator only")
    shots(page, "13-launchpad")
    shown = " ".join(explained.inner_text().split())
    for name, field in Engine.model_fields.items():
        assert field.description
        assert " ".join(field.description.split()) in shown, name


def test_every_job_schedule_and_sensor_is_listed(
    dagster: DagsterUi, served_home: Home, shots: Shots
) -> None:
    """Whatever can be started or switched on is found where a user looks for it."""
    from review_optimizer_dagster.definitions import definitions_of

    repository = definitions_of(served_home).get_repository_def()
    dagster.open("/jobs")
    for job in repository.get_all_jobs():
        if not job.name.startswith("__"):
            expecting(dagster.page.get_by_role("link", name=job.name).first).to_be_visible()
    shots(dagster.page, "18-jobs")
    dagster.open("/automation")
    names = [each.name for each in repository.schedule_defs]
    names += [each.name for each in repository.sensor_defs]
    for name in names:
        expecting(dagster.page.get_by_role("link", name=name).first).to_be_visible()
    assert not dagster.banners()


def test_a_run_goes_on_from_where_it_broke(
    dagster: DagsterUi, served_home: Home, days: Days, shots: Shots
) -> None:
    """A mistake in a file stops a step, with its name and line; mended, only the rest is run."""
    prices = served_home.prices_file
    prices.write_text("this is no TOML\n", encoding="utf-8")
    page = dagster.page
    try:
        dagster.open(JOB)
        broken = dagster.launch(days.broken, "Materialize all")
        assert dagster.run_status() == "Failure"
    finally:
        prices.unlink()
    expecting(dagster.steps("Errored")).to_have_text("Errored (1)")
    expecting(page.get_by_text(f"{prices} is not valid TOML").first).to_be_visible()
    shots(page, "14-run-broken")
    page.get_by_role("button", name="Re-execute").locator("xpath=following::button[1]").click()
    page.get_by_role("menuitem", name="From failure").first.wait_for()
    shots(page, "15-re-execute-from-failure")
    page.get_by_role("menuitem", name=re.compile("From failure$")).click()
    page.wait_for_url(lambda url: "/runs/" in url and broken not in url)
    assert dagster.run_id() != broken
    assert dagster.run_status() == "Success"
    shots(page, "16-re-executed")
    expecting(page.get_by_text("Re-executions (1)")).to_be_visible()
    expecting(page.get_by_text(re.compile("^deliveries$"))).to_have_count(0)  # it had succeeded
    day = days.broken.isoformat()
    published = query(
        served_home,
        f"SELECT count(*) FROM published_results WHERE day = DATE '{day}'",  # noqa: S608
    )
    assert published.item() > 0
