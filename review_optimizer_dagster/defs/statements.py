"""The job `statement`: what tenants owe for a month, as files and as a table."""

import calendar
import json
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.links import reports_url
from review_optimizer_dagster.defs.metadata import table
from review_optimizer_dagster.defs.resources import HomeFolder, step, utc_now
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.money.statement import as_json, with_dollars
from review_optimizer_dagster.storage import statement as stored
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

FOLDER = "statements"


class StatementConfig(dg.Config):
    """Whose statement, and of which month."""

    month: str = Field(
        default="",
        description="Month of delivery, YYYY-MM (UTC). Empty: of each tenant the last one that has "
        "an entry in the ledger.",
    )
    tenant: str = Field(
        default="", description="Whose statement. Empty: one of every tenant with an entry."
    )

    @property
    def first_day(self) -> date | None:
        """The month's first day; None where none is named. Raises UserError where it is none."""
        if not self.month:
            return None
        try:
            return datetime.strptime(self.month, "%Y-%m").date()
        except ValueError as error:
            raise UserError(f"month {self.month!r} is no month such as 2026-11") from error


def tenants_billed(connection: Connection, config: StatementConfig) -> list[str]:
    """Whose statements are asked for. Raises UserError where the ledger has none of them."""
    known = stored.billed_tenants(connection)
    if not config.tenant and known:
        return known
    if config.tenant in known:
        return [config.tenant]
    raise UserError(
        f"{config.tenant or 'nobody'!r} has no entry in the ledger; tenants that have: "
        f"{', '.join(known) or 'none'}"
    )


def write_statement(
    connection: Connection, home: Home, tenant: str, month: date | None
) -> dict[str, Any]:
    """Write a tenant's statement as `reports/statements/TENANT-YYYY-MM.json` and its lines as .csv.

    month: its first day; None is the last that the tenant has an entry in. Returns the statement
    as `review-optimizer statement --json` writes it, with `file`, the name of both without ending.
    """
    first = (month or stored.last_day(connection, tenant) or utc_now().date()).replace(day=1)
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    found = stored.read_statement(connection, tenant, first, last, datetime.now(UTC))
    told = as_json(tenant, first, None, found)
    folder = home.reports / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{tenant}-{told['month']}"
    with_dollars(found["lines"]).write_csv(folder / f"{name}.csv")
    text = json.dumps(told, indent=2, default=str) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return told | {"file": name}


def shown(told: dict[str, Any]) -> list[dict[str, Any]]:
    """A statement's rows of the table: one of real and one of simulated money, where there is."""
    books = told["books"] or {"none": {}}
    checks = {row["simulated"]: row for row in told["checks"]}
    rows = []
    for name, book in books.items():
        check = checks.get(name == "simulated", {})
        rows.append(
            {
                "tenant": told["tenant"],
                "month": told["month"],
                "money": name,
                "reviews": book.get("reviews", 0),
                "entries": book.get("entries", 0),
                "cost_usd": book.get("cost_usd", "0"),
                "avoided_usd": book.get("avoided_usd", "0"),
                "ledger_usd": check.get("ledger_usd", "0"),
                "requests_usd": check.get("requests_usd", "0"),
                "by_hand_usd": check.get("by_hand_usd", "0"),
                "daily_sums_usd": check.get("rollups_usd", "0"),
                "books_agree": told["reconciles"],
            }
        )
    return rows


@dg.op(
    description="Writes each statement to reports/statements/, and shows them as a table. It fails "
    "where ledger, requests and daily sums of the month do not say the same.",
    out=dg.Out(dg.Nothing),
    pool="warehouse",
)
def write_statements(
    context: dg.OpExecutionContext,
    config: StatementConfig,
    home_folder: HomeFolder,
    warehouse: Warehouse,
) -> None:
    """Write what is asked for; the files are there also where the books differ."""
    home = home_folder.home
    with step("statement"), warehouse.open() as connection:
        month = config.first_day
        written = [
            write_statement(connection, home, tenant, month)
            for tenant in tenants_billed(connection, config)
        ]
    metadata: dict[str, Any] = {
        "statements": table([row for told in written for row in shown(told)]),
        "folder": dg.MetadataValue.path(str(home.reports / FOLDER)),
        **{told["file"]: reports_url(home, f"{FOLDER}/{told['file']}.json") for told in written},
    }
    differing = [told["file"] for told in written if not told["reconciles"]]
    if differing:
        raise dg.Failure(
            f"the books differ: {', '.join(differing)}. Run the month's days again (job backfill).",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


@dg.job(
    executor_def=dg.in_process_executor,
    description="What tenants owe for a month of delivery, as `review-optimizer statement` says "
    "it: files in reports/statements/ and a table. It fails where the books differ.",
)
def statement() -> None:
    """Statements of a month."""
    write_statements()
