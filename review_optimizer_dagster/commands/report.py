"""`review-optimizer report`: write the operations dashboard now, from what is published."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_date, add_json
from review_optimizer_dagster.commands.json_output import write_json

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.report.files import Reports

_DESCRIPTION = """Writes reports/operations.html over all days and reports/DAY.html, each one file
that needs no network, from published/analytics.duckdb. Every run writes them too."""
_EXAMPLES = """
review-optimizer report                       the newest day, and the file over all days
review-optimizer report --open                the same, in your browser
review-optimizer report --date 2026-11-20 --json report.json
"""
_MOST_REASONS = 12  # in the terminal; the page and --json have them all


def add_report(commands: Any) -> None:
    """Add the command to a parser's."""
    report = commands.add_parser(
        "report",
        help="write the operations dashboard as HTML",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    add_date(report, "the newest that was run")
    add_json(report, "the verdict, its reasons and the paths")
    report.add_argument(
        "--open", action="store_true", help="open the page over all days in your browser"
    )


def report_command(home: Home, options: argparse.Namespace) -> int:
    """Write both files and say what they are. Returns the exit code."""
    from review_optimizer_dagster.report.files import write_reports

    written = write_reports(home, options.date)
    sys.stdout.write(_told(written))
    write_json(options.json, as_json(written))
    if options.open:
        import webbrowser

        page = written.overview if options.date is None else written.of_day
        if not webbrowser.open(page.as_uri()):
            sys.stdout.write(f"no browser found; open {page} in one\n")
    return 0


def as_json(written: Reports) -> dict[str, Any]:
    """What `--json` writes."""
    return {
        "day": written.day.isoformat(),
        "verdict": "fine" if written.is_fine else "look here",
        "simulated": written.simulated,
        "reasons": [
            {
                "tenant": each.who,
                "section": each.section,
                "severity": each.severity,
                "reason": each.text,
            }
            for each in written.reasons
        ],
        "files": {"overview": str(written.overview), "day": str(written.of_day)},
        "bytes": written.bytes_written,
        "seconds": round(written.seconds, 3),
    }


def _told(written: Reports) -> str:
    mark = "  SIMULATED ANSWERS" if written.simulated else ""
    lines = [f"{written.day}: {'fine' if written.is_fine else 'look here'}{mark}"]
    lines += [f"  {each.severity}: {each.text}" for each in written.reasons[:_MOST_REASONS]]
    if (more := len(written.reasons) - _MOST_REASONS) > 0:
        lines.append(f"  and {more} more, in the page")
    lines += [f"all days: {written.overview}", f"the day:  {written.of_day}"]
    return "\n".join(lines) + "\n"
