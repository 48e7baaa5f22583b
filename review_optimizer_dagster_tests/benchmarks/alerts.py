"""Random spend histories on the real state, and a receiver that fails half the time.

At half of the settlements a process of its own looks at the spend and is killed before a write of
the state that is drawn by lot; another looks again. What must come of it is told by a model that
shares no code with the alerts. Then everything that was raised is delivered to a receiver on
loopback that fails half the time, each pass by a new process.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.alerts.channels import Channel, channels_of
from review_optimizer_dagster.alerts.outbox import deliver_due
from review_optimizer_dagster.alerts.settings import AlertSettings
from review_optimizer_dagster.alerts.store import OUTBOX, complete_all, kept_alerts
from review_optimizer_dagster.money.budgets import JSON, Spend
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster_tests.alerts.histories import (
    History,
    Model,
    Process,
    keys_of,
    recoveries_of,
)
from review_optimizer_dagster_tests.alerts.receiver import SECRET, Receiver, serving

KILLED: Final = 9
STEPS: Final = 40
TIMEOUT_SECONDS: Final = 0.3
LONGEST_PASSES: Final = 1_000
FAILING: Final = 0.5


@dataclass
class Figures:
    """What the histories and their delivery came to."""

    histories: int = 0
    kills: int = 0
    """Processes that ended between two writes of the state."""
    reached: int = 0
    """Thresholds, by the model."""
    raised: int = 0
    missed: int = 0
    doubled: int = 0
    recoveries_due: int = 0
    recoveries_raised: int = 0
    recoveries_wrong: int = 0
    """Missing, doubled, or not due."""
    sent: int = 0
    """Alerts that were owed to the receiver."""
    processes: int = 0
    """That delivered, one after the other."""
    attempts: int = 0
    received: int = 0
    """Alerts that it got at least once."""
    duplicates: int = 0
    wrong_ids: int = 0
    wrong_signatures: int = 0

    @property
    def is_right(self) -> bool:
        """Whether nothing is missing, doubled or forged."""
        wrong = self.missed + self.doubled + self.recoveries_wrong
        return not (wrong + self.wrong_ids + self.wrong_signatures) and self.sent == self.received


class DyingState:
    """A real state whose process ends, without a word, before a write that is drawn by lot."""

    def __init__(self, folder: Path, dies_at: int | None) -> None:
        self._store = StateStore(folder)
        self._left = dies_at

    def get(self, key: str) -> JSON | None:
        """As StateStore."""
        return self._store.get(key)

    def add(self, key: str, value: JSON) -> bool:
        """As StateStore, if the process lives."""
        self._count()
        return self._store.add(key, value)

    def update(self, key: str, change: Callable[[JSON | None], JSON]) -> JSON:
        """As StateStore, if the process lives."""
        self._count()
        return self._store.update(key, change)

    def keys(self, prefix: str) -> list[str]:
        """As StateStore."""
        return self._store.keys(prefix)

    def _count(self) -> None:
        if self._left is not None:
            if self._left == 0:
                os._exit(KILLED)
            self._left -= 1


def hooked() -> list[Channel]:
    """The webhook that everything is owed to."""
    hook = {
        "name": "hook",
        "kind": "webhook",
        "url_env": "HOOK_URL",
        "secret_env": "HOOK_SECRET",
        "timeout_seconds": TIMEOUT_SECONDS,
    }
    log = logging.getLogger("silent")
    log.disabled = True
    return channels_of(AlertSettings.model_validate({"channels": [hook]}), log)


def killing(folder: Path, seed: int, kills: list[int]) -> Callable[[Process, Spend], None]:
    """Shows a spend to a process that is killed; how each ended is kept in `kills`."""
    draw = random.Random(seed)  # noqa: S311 (no secret)

    def look(process: Process, spend: Spend, dies_at: int) -> None:
        state = DyingState(folder, dies_at)
        Process(state, process.budgets, process.clock, process.channels).watch(spend)
        os._exit(0)  # nothing of the parent's may run in the child

    def killed(process: Process, spend: Spend) -> None:
        child = multiprocessing.get_context("fork").Process(
            target=look, args=(process, spend, draw.randrange(6))
        )
        child.start()
        child.join()
        if child.exitcode not in (0, KILLED):
            raise RuntimeError(f"a process broke with exit code {child.exitcode}")
        kills.append(int(child.exitcode == KILLED))

    return killed


def played(folder: Path, seed: int) -> tuple[int, Model]:
    """Play a history; how many processes were killed in it, and what should have come of it."""
    kills: list[int] = []
    with closing(StateStore(folder)) as state:
        history = History(seed, state, hooked(), killing(folder, seed, kills))
        history.play(STEPS)
        complete_all(state)
    return sum(kills), history.model


def compare(figures: Figures, folder: Path, model: Model) -> None:
    """Add what a history's state holds beside what the model says."""
    with closing(StateStore(folder)) as state:
        alerts = [kept.alert for kept in kept_alerts(state)]
    found = Counter(keys_of(alerts))
    wanted = Counter(model.due)
    figures.reached += wanted.total()
    figures.raised += found.total()
    figures.missed += (wanted - found).total()
    figures.doubled += (found - wanted).total()
    told, over = Counter(recoveries_of(alerts)), Counter(model.recovered)
    figures.recoveries_due += over.total()
    figures.recoveries_raised += told.total()
    figures.recoveries_wrong += (told - over).total() + (over - told).total()


def one_pass(folders: Sequence[Path], moment: datetime, pipe: Connection) -> None:
    """Try what is due of every history, and say whether anything is left."""
    log = logging.getLogger("silent")
    log.disabled = True
    left = []
    for folder in folders:
        with closing(StateStore(folder)) as state:
            deliver_due(state, hooked(), lambda: moment, log)
            if state.get(OUTBOX):
                left.append(folder)
    pipe.send(left)


def deliver(figures: Figures, folders: Sequence[Path], seed: int) -> None:
    """Deliver all that is owed, each pass by a new process an hour later."""
    os.environ["HOOK_SECRET"] = SECRET
    moment, left = datetime(2027, 6, 1, tzinfo=UTC), list(folders)
    with serving(Receiver(failing=FAILING, seed=seed)) as receiver:
        os.environ["HOOK_URL"] = receiver.url
        while left and figures.processes < LONGEST_PASSES:
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=one_pass, args=(left, moment, theirs)
            )
            process.start()
            theirs.close()
            left = ours.recv()
            process.join()
            figures.processes += 1
            moment += timedelta(hours=1, minutes=1)
    names = set()
    for folder in folders:
        with closing(StateStore(folder)) as state:
            names |= {kept.alert.alert_id for kept in kept_alerts(state)}
            owed = [each for kept in kept_alerts(state) for each in kept.deliveries]
        figures.sent += len(owed)
    figures.attempts = len(receiver.requests)
    figures.received = sum(receiver.received[name] > 0 for name in receiver.received)
    figures.duplicates = sum(receiver.received.values()) - len(receiver.received)
    figures.wrong_ids = receiver.wrong_ids + len(set(receiver.received) - names)
    figures.wrong_signatures = receiver.wrong_signatures


def measure(histories: int, seed: int, folder: Path) -> Figures:
    """Play and deliver so many histories in a folder."""
    figures, folders = Figures(histories=histories), []
    for number in range(histories):
        own = folder / str(number)
        folders.append(own)
        kills, model = played(own, seed + number)
        figures.kills += kills
        compare(figures, own, model)
    deliver(figures, folders, seed)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and fail where anything is missing, doubled or forged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.histories, options.seed, Path(folder))
    table = Table("what", "figure", title="alerts", title_justify="left")
    for name, value in asdict(figures).items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")
    if not figures.is_right:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
