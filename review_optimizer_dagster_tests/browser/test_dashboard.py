"""The dashboard as its readers have it: a file, offline, by tenant, by keyboard, on a phone."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from review_optimizer_dagster_tests.browser.conftest import Seen, Shots
from review_optimizer_dagster_tests.browser.dagster_ui import expecting
from review_optimizer_dagster_tests.browser.machine import UiProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from review_optimizer_dagster.config import Home

pytestmark = [pytest.mark.browser, pytest.mark.timeout(480)]

SECTIONS = ("service", "money", "cache", "quality", "latency", "batches", "alerts")
PHONE: Any = {"width": 390, "height": 844}
DESKTOP: Any = {"width": 1400, "height": 1000}
_MOST_TABS = 60  # to everything that the keyboard must reach before the first chart's numbers
_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_FOCUSED = """
() => {
    const at = document.activeElement;
    return at.id ? `${at.tagName.toLowerCase()}#${at.id}` : at.tagName.toLowerCase();
}
"""
# The impact that axe gives what keeps people out.
_GRAVE = ("serious", "critical")


def _drawn(page: Page) -> None:
    """Wait until the page says that everything is drawn."""
    expecting(page.locator("body"), 60).to_have_attribute("data-ready", "true")


@contextmanager
def _offline(page: Page, seen: Seen) -> Iterator[None]:
    """Cut the page off, and see afterwards that it missed nothing and said nothing."""
    page.context.set_offline(True)
    yield
    asked = [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not asked
    assert not seen.console


@pytest.fixture
def address(served_home: Home) -> str:
    """Where the dashboard of all days is, as a file."""
    path = served_home.reports / "operations.html"
    assert path.exists(), "a run leaves no dashboard"
    return path.as_uri()


@pytest.fixture
def dashboard(page: Page, seen: Seen, address: str) -> Iterator[Page]:
    """The dashboard of all days, opened from its file, offline, and drawn."""
    with _offline(page, seen):
        page.goto(address)
        _drawn(page)
        yield page


def _of_the_last_day(home: Home, tenant: str) -> tuple[int, float, float]:
    """reviews, share of hits and dollars of the newest day, as analysts read them."""
    path = home.published / "analytics.duckdb"
    with duckdb.connect(str(path), read_only=True) as connection:
        row = connection.execute(
            "SELECT sum(reviews)::BIGINT, sum(hits) / sum(reviews), sum(cost_usd)::DOUBLE "
            "FROM daily_costs WHERE day = (SELECT max(day) FROM daily_costs) "
            "AND (tenant = $tenant OR $tenant = '')",
            {"tenant": tenant},
        ).fetchone()
    assert row is not None
    reviews, hit_rate, cost = row
    return int(reviews), float(hit_rate), float(cost)


def _tile(page: Page, name: str) -> float:
    """The number of one of the figures at the top."""
    term = page.get_by_role("term").filter(has_text=re.compile(f"^{name}$"))
    text = str(term.locator("xpath=following-sibling::dd[1]").inner_text())
    found = re.search(r"\d[\d,.]*", text)
    assert found, f"{name} is {text!r}"
    return float(found.group().replace(",", ""))


def test_it_shows_every_section_and_says_that_it_is_simulated(
    dashboard: Page, shots: Shots
) -> None:
    """Nobody may take made-up figures for real ones; each chart says in words what it shows."""
    shots(dashboard, "20-dashboard-top")
    shots(dashboard, "21-dashboard-whole", whole=True)
    expecting(dashboard.locator("#simulated")).to_be_visible()
    expecting(dashboard.locator("#simulated")).to_contain_text(re.compile("simulat", re.IGNORECASE))
    for name in SECTIONS:
        expecting(dashboard.locator(f"section#{name}")).to_be_visible()
    figures = dashboard.locator("figure")
    assert figures.count() >= len(SECTIONS)
    for figure in figures.all():
        assert figure.locator("figcaption").inner_text().strip()
    assert not dashboard.get_by_text(re.compile(r"\b(NaN|undefined|null|Infinity)\b")).all()


def test_the_tenant_filter_shows_what_the_database_has(
    dashboard: Page, served_home: Home, shots: Shots
) -> None:
    """Each tenant's figures are those of analytics.duckdb, and so are those of all together."""
    chosen = dashboard.get_by_label("Tenant", exact=True)
    values = chosen.locator("option").evaluate_all("all => all.map(each => each.value)")
    assert values[0] == ""
    assert {"acme", "globex"} <= set(values)
    for tenant in ("acme", "globex", ""):
        chosen.select_option(tenant)
        _drawn(dashboard)
        reviews, hit_rate, cost = _of_the_last_day(served_home, tenant)
        assert _tile(dashboard, "Reviews") == reviews, tenant
        assert _tile(dashboard, "Hit rate") == pytest.approx(100 * hit_rate, abs=0.01), tenant
        assert _tile(dashboard, "Spent") == pytest.approx(cost, rel=0.01, abs=1e-6), tenant
        if tenant:
            shots(dashboard, f"22-dashboard-{tenant}")
            others = {"acme", "globex", "initech"} - {tenant}
            for cell in dashboard.locator("#money").get_by_role("cell").all_inner_texts():
                assert cell not in others


def test_it_lists_the_alerts_of_the_database(dashboard: Page, served_home: Home) -> None:
    """Who looks at the page instead of a pager must not miss a budget that is used up."""
    path = served_home.published / "analytics.duckdb"
    with duckdb.connect(str(path), read_only=True) as connection:
        raised = connection.execute(
            "SELECT DISTINCT tenant, kind FROM alert_log ORDER BY ALL LIMIT 20"
        ).fetchall()
    assert ("initech", "budget") in raised
    rows = dashboard.locator("#alerts").get_by_role("row")
    for tenant, kind in raised:
        named = rows.filter(has=dashboard.get_by_role("cell", name=tenant, exact=True))
        about = named.filter(has=dashboard.get_by_role("cell", name=kind, exact=True))
        assert about.count(), f"no row for {kind} of {tenant}"


def test_the_theme_can_be_changed(dashboard: Page, shots: Shots) -> None:
    """Light and dark are two backgrounds, and the choice is one press away."""
    background = "() => getComputedStyle(document.body).backgroundColor"
    before = dashboard.evaluate(background)
    dashboard.locator("button#theme").click()
    expecting(dashboard.locator("body")).not_to_have_css("background-color", before)
    shots(dashboard, "23-dashboard-dark", whole=True)
    dashboard.locator("button#theme").click()
    expecting(dashboard.locator("body")).to_have_css("background-color", before)


@pytest.mark.parametrize("name", ["operations.html", "day"])
def test_it_fits_a_phone(
    page: Page, seen: Seen, served_home: Home, shots: Shots, name: str
) -> None:
    """Nothing has to be pushed sideways but wide tables, each in a frame of its own."""
    if name == "day":
        name = max(path.name for path in served_home.reports.glob("20*.html"))
    page.set_viewport_size(PHONE)
    with _offline(page, seen):
        page.goto((served_home.reports / name).as_uri())
        _drawn(page)
        kind = "day" if name[0].isdigit() else "all"
        shots(page, f"24-phone-{kind}-top")
        shots(page, f"25-phone-{kind}-whole", whole=True)
        assert page.evaluate(_WIDER) <= 0


def test_everything_is_reached_by_keyboard(dashboard: Page, shots: Shots) -> None:
    """Tab goes to the filter, the theme and the numbers of a chart, and the keys work there."""
    reached: list[str] = []
    for _ in range(_MOST_TABS):
        dashboard.keyboard.press("Tab")
        reached.append(dashboard.evaluate(_FOCUSED))
        if reached[-1] == "select#tenant":
            shots(dashboard, "26-focus-on-the-filter")
            dashboard.keyboard.press("a")  # as everywhere: the option that begins so
            _drawn(dashboard)
        if reached[-1] == "button#theme":
            before = dashboard.evaluate("getComputedStyle(document.body).backgroundColor")
            dashboard.keyboard.press("Enter")
            expecting(dashboard.locator("body")).not_to_have_css("background-color", before)
        if reached[-1] == "summary":
            dashboard.keyboard.press("Enter")
            break
    assert {"select#tenant", "button#theme", "summary"} <= set(reached)
    expecting(dashboard.locator("details[open]").first).to_be_visible()
    expecting(dashboard.locator("details[open] table").first).to_be_visible()
    shots(dashboard, "27-numbers-of-a-chart")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_grave(
    browser: Browser, address: str, scheme: Any, size: Any, shots: Shots
) -> None:
    """Contrast, names, roles and landmarks hold in both themes, as the system asks for them."""
    from axe_playwright_python.sync_playwright import Axe

    # Its script comes into the page, which the page's own policy would forbid.
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    try:
        opened = context.new_page()
        opened.goto(address)
        _drawn(opened)
        shots(opened, f"28-{scheme}-{size['width']}")
        violations = Axe().run(opened).response["violations"]
    finally:
        context.close()
    grave = [
        f"{each['id']} ({each['impact']}), {len(each['nodes'])} times: {each['help']}: "
        + " | ".join(node["html"][:120] for node in each["nodes"][:3])
        for each in violations
        if each["impact"] in _GRAVE
    ]
    assert not grave, "\n".join(grave)


def test_it_is_served_beside_the_ui(
    page: Page, seen: Seen, ui_process: UiProcess, served_home: Home, address: str
) -> None:
    """Links in the UI lead to the same page, on loopback; it asks for nothing but itself."""
    url = f"{ui_process.reports_url}operations.html"
    with urllib.request.urlopen(url, timeout=10) as served:  # noqa: S310 (loopback)
        assert served.read() == (served_home.reports / "operations.html").read_bytes()
    assert address.startswith("file:")
    page.goto(url)
    _drawn(page)
    assert [each for each in seen.requests if each.startswith("http")] == [url]
    assert not seen.console
