"""The command `review-optimizer alerts`: what was raised, who has seen to it, and the channels."""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
import uuid
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_json, add_parser
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.alerts.channels import Channel
    from review_optimizer_dagster.alerts.rules import Alert
    from review_optimizer_dagster.alerts.store import Kept
    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.storage.journal import StateStore

_MOST_ROWS = 50
_STATES = ("raised", "delivered", "acknowledged")
_DESCRIPTION = """Lists what was raised: budgets, failed gates, contradicted answers, drift, service
levels. An alert is raised once, delivered to every channel that was owed it, and acknowledged."""
_EXAMPLES = """
review-optimizer alerts                      the newest that nobody has acknowledged
review-optimizer alerts --all --tenant acme --json alerts.json
review-optimizer alerts ack 3f9a 71c0 --by kim
review-optimizer alerts test --channel on-call
"""
_ACK_EXAMPLES = """
review-optimizer alerts ack 3f9a             by the beginning of its id
review-optimizer alerts ack 3f9a 71c0 --by kim
"""
_DELIVER_EXAMPLES = """
review-optimizer alerts deliver
review-optimizer alerts deliver --json
"""
_TEST_EXAMPLES = """
review-optimizer alerts test                 through every channel
review-optimizer alerts test --channel on-call
"""
_EXIT_CODES = {
    2: "something you can mend: no such alert, or a channel that did not take one",
}


def add_alerts(commands: Any) -> None:
    """Add the command and its own commands to a parser's."""
    alerts = commands.add_parser(
        "alerts",
        help="list alerts, acknowledge them, try their channels",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    alerts.add_argument("--tenant", metavar="T", help="of this tenant")
    alerts.add_argument("--state", choices=_STATES, help="in this state")
    alerts.add_argument("--kind", metavar="K", help="of this kind, such as budget or gate")
    alerts.add_argument(
        "--all", action="store_true", help=f"acknowledged ones too, and more than {_MOST_ROWS}"
    )
    add_json(alerts, "the listed alerts")
    actions = alerts.add_subparsers(dest="action", metavar="ACTION", title="actions")
    ack = add_parser(
        actions,
        "ack",
        help="note that somebody has seen to alerts",
        description="Notes who has seen to alerts; they are no longer listed without --all.",
        examples=_ACK_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    ack.add_argument("ids", nargs="+", metavar="ID", help="an id, or the beginning of one")
    ack.add_argument("--by", metavar="NAME", help="who (default: your account's name)")
    add_json(ack, "the acknowledged alerts", default=argparse.SUPPRESS)
    deliver = add_parser(
        actions,
        "deliver",
        help="retry now what is owed to channels, back-off or not",
        description="Sends what channels are still owed, without waiting for their next turn.",
        examples=_DELIVER_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    add_json(deliver, "how many were delivered", default=argparse.SUPPRESS)
    test = add_parser(
        actions,
        "test",
        help="send a test alert through the channels",
        description="Sends a made-up alert of kind `test` through the channels of tenants.toml.",
        examples=_TEST_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    test.add_argument("--channel", metavar="NAME", help="through this one alone")
    add_json(test, "which channels took it", default=argparse.SUPPRESS)


def alerts_command(home: Home, options: argparse.Namespace) -> int:
    """Do what the options of `add_alerts` say; returns the exit code."""
    if options.action == "test":
        return _test(home, options)
    if not (home.journal / "state").is_dir():
        sys.stdout.write("no alerts: nothing was run in this home yet\n")
        write_json(options.json, [])
        return 0
    if options.action == "deliver":
        return _deliver(home, options)
    if options.action == "ack":
        return _acknowledge(home, options)
    return _list(home, options)


def _list(home: Home, options: argparse.Namespace) -> int:
    def is_wanted(kept: Kept) -> bool:
        state_fits = kept.state == (options.state or kept.state)
        is_open = options.all or options.state or kept.state != "acknowledged"
        return (
            bool(state_fits and is_open)
            and kept.alert.tenant == (options.tenant or kept.alert.tenant)
            and kept.alert.kind == (options.kind or kept.alert.kind)
        )

    found = [kept for kept in reversed(_all(home)) if is_wanted(kept)]
    shown = found if options.all else found[:_MOST_ROWS]
    write_json(options.json, [as_row(kept) for kept in shown])
    _print_list(shown)
    if len(found) > len(shown):
        sys.stdout.write(f"and {len(found) - len(shown):,} older: --all shows them\n")
    return 0


def as_row(kept: Kept) -> dict[str, Any]:
    """An alert as `--json` writes it."""
    alert = kept.alert
    return {
        "alert_id": alert.alert_id,
        "event": alert.event,
        "state": kept.state,
        "tenant": alert.tenant,
        "kind": alert.kind,
        "period": alert.period,
        "threshold": alert.threshold,
        "version": alert.version,
        "severity": alert.severity,
        "simulated": alert.simulated,
        "message": alert.message,
        "value": alert.value,
        "limit": alert.limit,
        "recovers": alert.recovers,
        "raised_at": alert.raised_at.isoformat(),
        "delivered_at": _iso(kept.delivered_at),
        "acknowledged_at": _iso(kept.acknowledged_at),
        "acknowledged_by": kept.acknowledged_by,
        "deliveries": {
            name: {
                "attempts": each.attempts,
                "error": each.error,
                "delivered_at": _iso(each.delivered_at),
                "next_attempt_at": None
                if each.delivered_at is not None
                else _iso(each.next_attempt_at),
            }
            for name, each in kept.deliveries.items()
        },
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _print_list(shown: Sequence[Kept]) -> None:
    """Two lines an alert: a table would squeeze its message in a narrow terminal, or a pipe."""
    from rich.text import Text

    from review_optimizer_dagster.commands.consoles import console

    if not shown:
        sys.stdout.write("no alerts\n")
        return
    out = console()
    styles = {"info": "green", "warning": "yellow", "critical": "red"}
    for kept in shown:
        alert = kept.alert
        state: str = kept.state
        if errors := [f"{n}: {d.error}" for n, d in kept.deliveries.items() if d.error]:
            state += f" ({'; '.join(errors)})"
        mark = " (simulated)" if alert.simulated else ""
        head = Text(f"{alert.alert_id[:8]}  {alert.raised_at:%Y-%m-%d %H:%M}  {alert.tenant}  ")
        head.append(f"{alert.event}{mark}", style=styles[alert.severity])
        head.append(f"  {state}")
        # Plain text: no markup of what a message or a name holds.
        out.print(head, Text(f"    {alert.message}"), sep="\n", soft_wrap=True)


def _acknowledge(home: Home, options: argparse.Namespace) -> int:
    from review_optimizer_dagster.alerts.store import acknowledge

    known = [kept.alert for kept in _all(home)]
    names = [_named(known, prefix) for prefix in options.ids]
    who = options.by or getpass.getuser()
    with _state(home) as state:
        done = [acknowledge(state, name, who, _now()) for name in names]
    for kept in done:
        sys.stdout.write(f"{kept.alert.alert_id[:8]} acknowledged by {kept.acknowledged_by}\n")
    write_json(options.json, [as_row(kept) for kept in done])
    return 0


def _named(known: Sequence[Alert], prefix: str) -> str:
    found = [alert.alert_id for alert in known if prefix and alert.alert_id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    problem = "no alert has" if not found else f"{len(found)} alerts have"
    raise UserError(f"{problem} an id that begins with {prefix!r}: `alerts --all` lists them")


def _deliver(home: Home, options: argparse.Namespace) -> int:
    from review_optimizer_dagster.defs.alerting import deliver_alerts
    from review_optimizer_dagster.defs.resources import HomeFolder

    done = deliver_alerts(_log(), HomeFolder(folder=str(home.folder)), force=True)
    sys.stdout.write(f"delivered {done.delivered}, failed {done.failed}, owed {done.waiting}\n")
    write_json(
        options.json,
        {"delivered": done.delivered, "failed": done.failed, "owed": done.waiting}
        | {"errors": dict(done.errors or {})},
    )
    if done.failed:
        errors = "; ".join(f"{name}: {error}" for name, error in (done.errors or {}).items())
        raise UserError(f"not everything is delivered: {errors}")
    return 0


def _test(home: Home, options: argparse.Namespace) -> int:
    from review_optimizer_dagster.alerts.channels import channels_of

    name = options.channel
    channels = channels_of(home.settings.alerts, _log())
    chosen = [channel for channel in channels if name in (None, channel.name)]
    if not chosen:
        known = ", ".join(channel.name for channel in channels) or "(none)"
        raise UserError(f"no channel is named {name!r}; the names are: {known}")
    problems = {channel.name: _tried(channel) for channel in chosen}
    write_json(
        options.json, [{"channel": name, "error": error} for name, error in problems.items()]
    )
    if errors := [error for error in problems.values() if error]:
        raise UserError("; ".join(errors))
    return 0


def _tried(channel: Channel) -> str | None:
    from review_optimizer_dagster.alerts.channels import DeliveryError
    from review_optimizer_dagster.alerts.rules import Alert

    moment = _now()
    alert = Alert(
        alert_id=uuid.uuid4().hex,
        kind="test",
        tenant="test",
        period=f"{moment:%Y-%m-%d}",
        threshold=0,
        severity="info",
        message=f"this is a test of the channel {channel.name}; nothing has happened",
        raised_at=moment,
        value=0,
        limit=0,
    )
    try:
        channel.send(alert, moment)
    except DeliveryError as error:
        return f"{channel.name}: {error}"
    sys.stdout.write(f"{channel.name}: took the test {alert.alert_id[:8]}\n")
    return None


def _log() -> logging.Logger:
    """The log of the command: standard error."""
    log = logging.getLogger(__name__)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


def _now() -> datetime:
    return datetime.now(UTC)


def _all(home: Home) -> list[Kept]:
    from review_optimizer_dagster.alerts.store import kept_alerts

    with _state(home) as state:
        return kept_alerts(state)


def _state(home: Home) -> closing[StateStore]:
    from review_optimizer_dagster.storage.journal import StateStore

    return closing(StateStore(home.journal))
