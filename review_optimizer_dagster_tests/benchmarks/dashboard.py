"""The dashboard of a large home: how long it takes to write, how large it is, how soon one sees it.

python -m review_optimizer_dagster_tests.benchmarks.dashboard [--days 365] [--tenants 50]
    [--reviews 100] [--requests 10] [--no-browser] [--chromium /usr/bin/chromium] [--json OUT]

Days, tenants and figures are made up, and marked simulated. `analytics.duckdb` holds 90 days of
what is kept one by one, as a run leaves it. The browser is a headless Chromium of this machine that
playwright drives: uv run --group browser.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.report.files import write_reports
from review_optimizer_dagster.report.page import build_page
from review_optimizer_dagster_tests.report import made_up

REPEATS: Final = 3
_READY: Final = 'body[data-ready="true"]'
_INSTALL: Final = "playwright is not installed: run it by `uv run --group browser python -m ...`"


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--reviews", type=int, default=100, help="of a tenant and day")
    parser.add_argument("--requests", type=int, default=10, help="of a tenant and day")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures: seconds, bytes; `browser` says what to install where it cannot be driven."""
    with tempfile.TemporaryDirectory(prefix="dashboard-") as folder:
        home = Home(Path(folder))
        tenants = [f"tenant-{number:03}" for number in range(options.tenants)]
        with made_up.warehouse(home).open() as connection:
            made_up.fill(
                connection,
                tenants,
                options.days,
                reviews=options.reviews,
                requests=options.requests,
            )
            made_up.publish(home, connection)
        build_page.cache_clear()
        began = time.perf_counter()
        build_page()
        page_seconds = time.perf_counter() - began
        written = [write_reports(home) for _ in range(REPEATS)]
        overview, of_day = written[-1].overview, written[-1].of_day
        return {
            "simulated": True,
            "days": options.days,
            "tenants": options.tenants,
            "analytics_bytes": (home.published / "analytics.duckdb").stat().st_size,
            "page_seconds": page_seconds,
            "write_seconds": [each.seconds for each in written],
            "overview": _sizes(overview),
            "of_day": _sizes(of_day),
            "browser": _INSTALL if options.no_browser else _seen(options, overview, tenants[-1]),
        }


def _sizes(path: Path) -> dict[str, int]:
    data = path.read_bytes()
    return {"bytes": len(data), "gzip_bytes": len(gzip.compress(data, 6))}


def _seen(options: argparse.Namespace, page: Path, tenant: str) -> dict[str, list[float]] | str:
    """Seconds until everything is drawn, and until it is drawn anew for one tenant."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return _INSTALL
    if not options.chromium.exists():
        return f"{options.chromium} is not there: give the path of a Chromium with --chromium"
    ready, filtered = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(options.chromium), args=["--no-sandbox"]
        )
        for _ in range(REPEATS):
            shown = browser.new_page(viewport={"width": 1400, "height": 1000})
            began = time.perf_counter()
            shown.goto(page.as_uri())
            shown.wait_for_selector(_READY, timeout=120_000)
            ready.append(time.perf_counter() - began)
            began = time.perf_counter()
            shown.select_option("select#tenant", tenant)
            shown.wait_for_selector(_READY, timeout=120_000)
            filtered.append(time.perf_counter() - began)
            shown.close()
        browser.close()
    return {"ready": ready, "filtered": filtered}


def show(console: Console, figures: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table(
        title=f"dashboard of {figures['days']:,} days and {figures['tenants']:,} tenants, made up",
        title_justify="left",
    )
    table.add_column("")
    table.add_column(f"median of {REPEATS} (least to most)", justify="right")
    table.add_row("page without data, once a version", f"{figures['page_seconds']:.2f} s")
    table.add_row("both files written", _spread(figures["write_seconds"]))
    for name, key in (("over all days", "overview"), ("of a day", "of_day")):
        size = figures[key]
        told = f"{size['bytes'] / 1e6:.2f} MB ({size['gzip_bytes'] / 1e6:.2f} MB gzip)"
        table.add_row(f"file {name}", told)
    if isinstance(figures["browser"], dict):
        table.add_row("until all is drawn", _spread(figures["browser"]["ready"]))
        table.add_row("until one tenant is shown", _spread(figures["browser"]["filtered"]))
    console.print(table)
    if isinstance(figures["browser"], str):
        console.print(f"in a browser: {figures['browser']}", markup=False)


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Measure, print the table, and write JSON where asked."""
    options = read_options()
    figures = measure(options)
    show(Console(width=110), figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
