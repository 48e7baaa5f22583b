"""Where the UI's links to dashboards lead."""

from __future__ import annotations

from datetime import date
from urllib.parse import urljoin

import dagster as dg

from review_optimizer_dagster.config import Home

ALL_DAYS = "operations.html"


def reports_url(home: Home, page: str) -> dg.UrlMetadataValue:
    """A page of the reports folder, as `review-optimizer ui` serves it."""
    base = home.settings.reports.url
    return dg.MetadataValue.url(urljoin(base if base.endswith("/") else f"{base}/", page))


def report_url(home: Home, day: date) -> dg.UrlMetadataValue:
    """The dashboard of a day."""
    return reports_url(home, f"{day.isoformat()}.html")
