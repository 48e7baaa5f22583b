"""The operations dashboard: the last step of a run, and written where the gate stops the rest."""

import logging
from datetime import date

import dagster as dg

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.links import ALL_DAYS, report_url, reports_url
from review_optimizer_dagster.defs.metadata import table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, step
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.report.files import Reports, write_reports


def try_reports(log: logging.Logger, home: Home, day: date) -> Reports | str:
    """Write the dashboard of a day, or say why it cannot be: a run goes on without it."""
    try:
        return write_reports(home, day)
    except UserError as error:
        log.info("no dashboard: %s", error)
        return str(error)


@dg.asset(
    deps=["service_levels"],
    partitions_def=DAILY,
    group_name="service",
    kinds={"duckdb", "altair"},
    description="`reports/operations.html` over all days and `reports/<day>.html`: whether today "
    "is fine, and why not. Reads `published/analytics.duckdb`; needs the extra `ui`.",
)
def operations_dashboard(
    context: dg.AssetExecutionContext, home_folder: HomeFolder
) -> dg.MaterializeResult[None]:
    """Write both files; without the extra `ui`, say how to install it."""
    day, home = date.fromisoformat(context.partition_key), home_folder.home
    with step("operations_dashboard"):
        written = try_reports(context.log, home, day)
    if isinstance(written, str):
        return dg.MaterializeResult(metadata={"written": False, "problem": written})
    return dg.MaterializeResult(
        metadata={
            "written": True,
            "verdict": "fine" if written.is_fine else "look here",
            "overview": reports_url(home, ALL_DAYS),
            "overview_file": dg.MetadataValue.path(str(written.overview)),
            "day": report_url(home, day),
            "day_file": dg.MetadataValue.path(str(written.of_day)),
            "bytes": written.bytes_written,
            "seconds": round(written.seconds, 3),
            "simulated": written.simulated,
            "reasons": table(
                [
                    {"tenant": each.who, "section": each.section, "severity": each.severity}
                    | {"reason": each.text}
                    for each in written.reasons
                ]
            ),
        }
    )
