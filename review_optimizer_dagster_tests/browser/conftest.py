"""One home with a few days of three tenants, one UI over it, one Chromium: shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from review_optimizer_dagster_tests.browser.dagster_ui import DagsterUi
from review_optimizer_dagster_tests.browser.machine import UiProcess, find_chromium
from review_optimizer_dagster_tests.conftest import deliver, reviews

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

    from review_optimizer_dagster.config import Home

SHOTS_VARIABLE = "REVIEW_OPTIMIZER_SCREENSHOTS"
# Names outside this machine do not resolve: what asks for one fails, and is seen to.
_CHROMIUM_OPTIONS = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",)
_LOOPBACK = ("127.0.0.1", "localhost")
_PATIENCE_SECONDS = 30.0  # for one thing to appear; machines of CI are slow
_REVIEWS = {"acme": (60, 120), "globex": (40, 80), "initech": (40, 60)}  # new a day, all of a day

SETTINGS = """\
first_day = {first_day}
[engine]
name = "simulator"
[tenants.acme]
[tenants.globex]
{globex}
[tenants.initech]
budget_usd = 0.0015
"""


@dataclass(frozen=True)
class Days:
    """What was delivered when: recent days, since the UI's plots and dialogs begin with these."""

    first: date

    @property
    def history(self) -> list[date]:
        """Days that were run before the UI came up."""
        return [self.first + timedelta(days=number) for number in range(3)]

    @property
    def waiting(self) -> date:
        """A day that nobody has run yet."""
        return self.first + timedelta(days=3)

    @property
    def failing(self) -> date:
        """A day whose labels contradict every answer, of every tenant that delivered."""
        return self.first + timedelta(days=4)

    @property
    def broken(self) -> date:
        """A day whose run meets a mistake that the user can mend."""
        return self.first + timedelta(days=5)


@dataclass
class Seen:
    """What a page asked for and said, in order."""

    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    @property
    def outside(self) -> list[str]:
        """Addresses of other machines that were asked for."""
        split = [(url, urlsplit(url)) for url in self.requests]
        return [
            url
            for url, parts in split
            if parts.scheme not in ("data", "blob", "file") and parts.hostname not in _LOOPBACK
        ]


@dataclass
class Shots:
    """Where screenshots go, and the last one that was made."""

    folder: Path
    last: Path | None = None

    def __call__(self, page: Page, name: str, *, whole: bool = False) -> Path:
        """Keep what the page looks like; whole: with what is below the window."""
        path = self.folder / f"{name}.png"
        page.screenshot(path=str(path), full_page=whole)
        self.last = path
        return path


_SHOTS = pytest.StashKey[Shots]()


@pytest.fixture(scope="session")
def shots(pytestconfig: pytest.Config) -> Shots:
    """The folder of screenshots, which is kept: CI takes it as an artefact."""
    named = os.environ.get(SHOTS_VARIABLE)
    folder = Path(named or tempfile.mkdtemp(prefix="review-optimizer-screenshots-"))
    folder.mkdir(parents=True, exist_ok=True)
    return pytestconfig.stash.setdefault(_SHOTS, Shots(folder))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say where the screenshots are, whether or not all went well."""
    if _SHOTS in config.stash:
        terminalreporter.write_line(f"screenshots: {config.stash[_SHOTS].folder}")


@pytest.fixture(scope="session")
def days() -> Days:
    """The days of this session."""
    return Days(datetime.now(UTC).date() - timedelta(days=7))


def write_settings(home: Home, days: Days, globex: str = "") -> None:
    """Write the home's tenants.toml; globex: more keys of that tenant."""
    text = SETTINGS.format(first_day=days.first - timedelta(days=7), globex=globex)
    home.tenants_file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Iterator[Home]:
    """A real home with its history run, and what the tests will run delivered."""
    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.defs.execution import run_day

    folder = tmp_path_factory.mktemp("browser") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVIEW_OPTIMIZER_HOME", str(folder))
        patch.setenv("DAGSTER_HOME", str(folder / "dagster"))
        folder.mkdir(exist_ok=True)
        home = Home(folder)
        write_settings(home, days)
        for number, day in enumerate((*days.history, days.waiting, days.failing, days.broken)):
            for tenant, (new, all_of_them) in _REVIEWS.items():
                rows = reviews(number * new, number * new + all_of_them)
                if day == days.failing:
                    rows = [row | {"label": "neutral"} for row in rows]
                    if tenant == "initech":
                        continue  # whose budget may leave nothing to judge
                deliver(home, rows, day, tenant)
        home.claim()
        for day in days.history:
            outcome = run_day(home, day, {"latency_seconds": 0.0})
            assert outcome.problem is None, outcome.problem
        yield home


@pytest.fixture(scope="session")
def ui_process(served_home: Home, shots: Shots) -> Iterator[UiProcess]:
    """`review-optimizer ui` over the home, for as long as the tests run."""
    process = UiProcess(served_home, shots.folder / "ui.log")
    ended_well = True
    try:
        process.wait_until_served()
        yield process
    finally:
        ended_well = process.stop()
    assert ended_well, f"the UI does not end when it is interrupted; its log:\n{process.tail()}"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable; fails at once where that or playwright is missing."""
    if importlib.util.find_spec("playwright") is None:
        pytest.fail(
            "playwright is not installed: uv run --group browser pytest -m browser -n 0",
            pytrace=False,
        )
    return find_chromium()


@pytest.fixture(scope="session")
def browser(chromium: str, served_home: Home) -> Iterator[Browser]:
    """A headless Chromium. The home comes first: Dagster cannot run beside playwright's loop."""
    from playwright.sync_api import sync_playwright

    assert served_home.warehouse.exists()
    # Chromium refuses to be sandboxed for root, as whom containers run.
    options = [*_CHROMIUM_OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=options)
        yield started
        started.close()


@pytest.fixture
def seen() -> Seen:
    """What the test's page asks for and says."""
    return Seen()


@pytest.fixture
def page(browser: Browser, seen: Seen, shots: Shots) -> Iterator[Page]:
    """A page of its own, as a new user has it; fails the test where anything left the machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(_PATIENCE_SECONDS * 1000)
    context.on("request", lambda request: seen.requests.append(request.url))

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.console.append(f"{message.type}: {message.text}")

    context.on("console", note)
    opened = context.new_page()
    shots.last = None
    yield opened
    context.close()
    assert not seen.outside, f"asked of other machines: {sorted(set(seen.outside))}"


@pytest.fixture
def dagster(page: Page, ui_process: UiProcess) -> DagsterUi:
    """The Dagster UI in the test's page."""
    return DagsterUi(page, ui_process.url)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with each failure what the page looked like, and what the UI wrote last."""
    report = yield
    used: dict[str, Any] = getattr(item, "funcargs", {})
    if report.failed and "shots" in used:
        shots, page = used["shots"], used.get("page")
        if page is not None and not page.is_closed():
            shots(page, "failed-" + re.sub(r"\W+", "-", item.name).strip("-"))
        report.sections.append(("last screenshot", str(shots.last)))
    if report.failed and "ui_process" in used:
        report.sections.append(("end of the UI's log", used["ui_process"].tail()))
    return report
