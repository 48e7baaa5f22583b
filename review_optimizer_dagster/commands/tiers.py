"""The command `review-optimizer tiers`: the ladder of models, what of it is paused, resuming."""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_json, add_parser
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.exchange.tier_pauses import TierPause

_DESCRIPTION = """Shows the ladder of models, the cheapest first, and what of it is paused for which
tenant, since its answers to large batches were worse than to single ones."""
_EXAMPLES = """
review-optimizer tiers                             the ladder, and what is paused and why
review-optimizer tiers --json tiers.json           the same, with pauses that were lifted
review-optimizer tiers resume --tenant acme        ask every tier again for acme
"""
_RESUME_EXAMPLES = """
review-optimizer tiers resume --tenant acme
review-optimizer tiers resume --tenant acme --tier cheap --by kim
"""
_EXIT_CODES = {2: "something you can mend: nothing of that name is paused"}


def add_tiers(commands: Any) -> None:
    """Add the command and its own command to a parser's."""
    tiers = commands.add_parser(
        "tiers",
        help="list the ladder of models and what is paused of it, and resume it",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    add_json(tiers, "the ladder and its pauses")
    actions = tiers.add_subparsers(dest="action", metavar="ACTION", title="actions")
    resume = add_parser(
        actions,
        "resume",
        help="ask a paused tier again from the next run on",
        description="Lifts the pauses of a tenant's tiers, and notes who did.",
        examples=_RESUME_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    add_json(resume, "what was resumed", default=argparse.SUPPRESS)
    resume.add_argument("--tenant", metavar="T", required=True, help="for this tenant")
    resume.add_argument("--tier", metavar="NAME", help="this tier alone")
    resume.add_argument("--by", metavar="NAME", help="who (default: your account's name)")


def tiers_command(home: Home, options: argparse.Namespace) -> int:
    """Do what the options of `add_tiers` say; returns the exit code."""
    if options.action == "resume":
        return _resume(home, options)
    pauses = _pauses(home)
    write_json(options.json, _as_json(home, pauses))
    _print(home, [pause for pause in pauses if pause.is_paused])
    return 0


def _pauses(home: Home) -> list[TierPause]:
    if not (home.journal / "state").is_dir():
        return []  # nothing was run: looking must not make a home
    from review_optimizer_dagster.exchange.tier_pauses import all_pauses
    from review_optimizer_dagster.storage.journal import StateStore

    with closing(StateStore(home.journal)) as state:
        return all_pauses(state)


def _as_json(home: Home, pauses: Sequence[TierPause]) -> dict[str, Any]:
    ladder = [
        {"name": tier.name, "model": tier.model, "max_complexity": tier.max_complexity}
        for tier in home.settings.engine.ladder
    ]
    rows = [pause.as_row() | {"paused": pause.is_paused} for pause in pauses]
    return {"engine": home.settings.engine.name, "ladder": ladder, "pauses": rows}


def _print(home: Home, paused: Sequence[TierPause]) -> None:
    """Two lines a pause: a table would squeeze its reason in a narrow terminal, or a pipe."""
    from rich.text import Text

    from review_optimizer_dagster.commands.consoles import console

    out = console()
    for number, tier in enumerate(home.settings.engine.ladder, start=1):
        names = sorted({pause.tenant for pause in paused if pause.tier == tier.name})
        line = Text(f"{number}. {tier.name}  {tier.model}")
        if names:
            line.append(f"  paused for {', '.join(names)}", style="red")
        out.print(line, soft_wrap=True)
    for pause in paused:
        mark = " (simulated)" if pause.simulated else ""
        head = Text(f"{pause.since:%Y-%m-%d %H:%M}  {pause.tenant}  {pause.taxonomy}  {pause.tier}")
        head.append(f"  paused{mark}", style="red")
        why = Text(f"    {pause.reason}; request {pause.request_id}")
        out.print(head, why, sep="\n", soft_wrap=True)
    if not paused:
        sys.stdout.write("nothing is paused\n")


def _resume(home: Home, options: argparse.Namespace) -> int:
    tenant, tier, who = options.tenant, options.tier, options.by or getpass.getuser()
    wanted = [
        pause
        for pause in _pauses(home)
        if pause.is_paused and pause.tenant == tenant and tier in (None, pause.tier)
    ]
    if not wanted:
        what = f"no tier {tier}" if tier else "no tier"
        raise UserError(f"{what} is paused for {tenant!r}: `review-optimizer tiers` lists them")
    from review_optimizer_dagster.alerts.tiers import quality_recovery
    from review_optimizer_dagster.defs.alerting import note_alerts
    from review_optimizer_dagster.defs.resources import HomeFolder
    from review_optimizer_dagster.exchange.tier_pauses import lift
    from review_optimizer_dagster.storage.journal import StateStore

    now = datetime.now(UTC)
    news = [quality_recovery(pause, who, now) for pause in wanted]
    note_alerts(logging.getLogger(__name__), HomeFolder(folder=str(home.folder)), None, news)
    with closing(StateStore(home.journal)) as state:
        for pause in wanted:
            lift(state, pause.scope, who, now)
            sys.stdout.write(
                f"{pause.tenant}, {pause.taxonomy}: tier {pause.tier} is asked again from the next "
                "run on; run the days that have deferred reviews again\n"
            )
    rows = [pause.as_row() | {"paused": False, "lifted_by": who} for pause in wanted]
    write_json(options.json, rows)
    return 0
