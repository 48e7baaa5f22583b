"""What a user does in the Dagster UI, found by what is written there."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LOCATION = "/locations/review_optimizer_dagster"
ENDED = re.compile(r"^(Success|Failure|Canceled)$")
BANNERS = re.compile(
    r"GraphQL error|unexpected error|An error occurred|Could not load|Error loading", re.IGNORECASE
)
_RUN_SECONDS = 200.0  # a run of a few hundred reviews; most of it is imports

# The colour that plots are drawn in is Dagster's: whatever is neither grey nor clear counts.
_INKED_COLUMNS = """
canvas => {
    const {width, height} = canvas;
    const {data} = canvas.getContext('2d').getImageData(0, 0, width, height);
    const inked = new Set();
    for (let at = 0; at < data.length; at += 4) {
        const [red, green, blue, alpha] = data.slice(at, at + 4);
        const spread = Math.max(red, green, blue) - Math.min(red, green, blue);
        if (alpha > 200 && spread > 100) inked.add((at / 4) % width);
    }
    return inked.size;
}
"""

_LEAF_TEXTS = """
drawing => Array.from(drawing.querySelectorAll('*'))
    .filter(each => each.children.length === 0)
    .map(each => each.textContent.trim())
"""


def expecting(subject: Any, seconds: float = 30.0) -> Any:
    """Playwright's assertions, which wait for what they assert. Imported late: it is optional."""
    from playwright.sync_api import expect

    expect.set_options(timeout=seconds * 1000)
    return expect(subject)


def drawn_as(name: str, shown: str) -> bool:
    """Whether an asset's box says its name, which is cut in the middle where it is long."""
    start, _, end = shown.partition("…")
    return name == shown or ("…" in shown and name.startswith(start) and name.endswith(end))


class DagsterUi:
    """The UI in one page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def open(self, path: str) -> None:
        """Go to a page of the UI."""
        self.page.goto(self.url + path)

    def banners(self) -> list[str]:
        """Error messages that the page shows."""
        shown = self.page.get_by_text(BANNERS)
        return [text for text in shown.all_inner_texts() if text.strip()]

    def expand_groups(self) -> None:
        """Show the assets of every group of the graph."""
        closed = self.page.get_by_role("img", name="unfold_more")
        closed.first.wait_for()
        # The menu is that of the canvas, which is where no group is.
        self.page.mouse.click(900, 250, button="right")
        self.page.get_by_role("menuitem", name="Expand all groups").click()
        expecting(closed).to_have_count(0)

    def graph_texts(self) -> list[str]:
        """Every text in the graph."""
        drawing = self.page.locator("svg", has_text=re.compile("ingestion"))
        texts: list[str] = drawing.first.evaluate(_LEAF_TEXTS)
        return [text for text in texts if text]

    def launch(self, day: date, button: str = "Materialize") -> str:
        """Materialize one day of what the page shows; ends on the run's page, returns its id."""
        self.page.get_by_role("button", name=button).first.click()
        dialog = self.page.get_by_role("dialog")
        box = dialog.get_by_role("textbox").first
        box.fill(day.isoformat())
        box.press("Enter")
        return self.follow(lambda: dialog.get_by_role("button", name="Launch 1 run").click())

    def follow(self, start: Callable[[], None]) -> str:
        """Start a run, and go where the message about it leads; returns the run's id."""
        start()
        told = self.page.get_by_role("region", name="Notifications")
        told.get_by_role("link", name="View").last.click()
        self.page.wait_for_url("**/runs/*")
        return self.run_id()

    def run_id(self) -> str:
        """The run whose page is shown."""
        found = re.search(r"/runs/([0-9a-f-]{36})", self.page.url)
        assert found, self.page.url
        return found.group(1)

    def run_status(self) -> str:
        """How the run that is shown ends, waited for."""
        status = self.page.get_by_text(ENDED).first
        status.wait_for(timeout=_RUN_SECONDS * 1000)
        return str(status.inner_text())

    def steps(self, heading: str) -> Locator:
        """The heading of one list of steps beside the run's bars, such as Errored."""
        return self.page.get_by_text(re.compile(rf"^{heading} \(\d+\)$"))

    def metadata(self, name: str) -> str:
        """The value of an entry of a partition's or an event's metadata."""
        row = self.page.get_by_role("row").filter(
            has=self.page.get_by_role("cell", name=name, exact=True)
        )
        return str(row.first.get_by_role("cell").nth(1).inner_text()).strip()

    def plot_name(self, label: str) -> Locator:
        """The name over a plot; the same word may stand elsewhere too."""
        return self.page.get_by_text(label, exact=True).locator("xpath=self::*[following::canvas]")

    def inked_columns(self, label: str) -> int:
        """How many columns of a plot have something drawn in them besides its grey frame."""
        plot = self.plot_name(label).first.locator("xpath=following::canvas[1]")
        plot.scroll_into_view_if_needed()
        return int(plot.evaluate(_INKED_COLUMNS))
