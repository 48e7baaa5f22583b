"""The benchmark of the dashboard runs, at a size that is over soon and without a browser."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from review_optimizer_dagster.report import page
from review_optimizer_dagster_tests.benchmarks import dashboard


@pytest.mark.campaign
def test_it_measures_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and times of both files; without a browser it says what to install."""

    class SmallPage:
        def __call__(self) -> str:
            return "<title>%TITLE%</title>%DATA%"

        def cache_clear(self) -> None:
            """Nothing is kept."""

    small = SmallPage()
    monkeypatch.setattr(page, "build_page", small)
    monkeypatch.setattr(dashboard, "build_page", small)
    arguments = ["--days", "3", "--tenants", "2", "--reviews", "5", "--requests", "2"]
    figures = dashboard.measure(dashboard.read_options([*arguments, "--no-browser"]))
    assert figures["simulated"] is True
    assert figures["overview"]["bytes"] > figures["overview"]["gzip_bytes"] > 500
    assert len(figures["write_seconds"]) == dashboard.REPEATS
    shown = StringIO()
    dashboard.show(Console(file=shown, width=110), figures)
    assert "3 days and 2 tenants" in shown.getvalue()
    assert "--group browser" in shown.getvalue()
