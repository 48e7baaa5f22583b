"""`review-optimizer report`: write the operations dashboard now, from what is published."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.report.files import Reports

REPORT_EXAMPLES = """examples:
  review-optimizer report                       the newest day, and the file over all days
  review-optimizer report --open                the same, in your browser
  review-optimizer report --date 2026-11-20 --json report.json
"""
_MOST_REASONS = 12  # in the terminal; the page and --json have them all


def add_report(commands: Any) -> None:
    """The command and its options."""
    report = commands.add_parser(
        "report",
        help="write the operations dashboard as HTML",
        description="Writes reports/operations.html over all days and reports/DAY.html, each one "
        "file that needs no network, from published/analytics.duckdb. Every run writes them too.",
        epilog=REPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "--date",
        type=date.fromisoformat,
        metavar="D",
        help="UTC day of delivery, YYYY-MM-DD (default: the newest that was run)",
    )
    report.add_argument(
        "--json", type=Path, metavar="OUT", help="write the verdict and the paths here"
    )
    report.add_argument(
        "--open", action="store_true", help="open the page over all days in your browser"
    )


def report_command(home: Home, options: argparse.Namespace) -> int:
    """Write both files and say what they are. Returns the exit code."""
    from review_optimizer_dagster.report.files import write_reports

    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: its folder does not exist")
    written = write_reports(home, options.date)
    sys.stdout.write(_told(written))
    if options.json is not None:
        text = json.dumps(as_json(written), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
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
