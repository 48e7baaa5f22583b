"""Where deliveries arrive: `inbox/<tenant>/<day>/`, and `inbox/_mixed/<day>/` for many tenants."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.reviews import Source
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.settings import MIXED_INBOX

# A file that is still being written has such a name, by the habit of most tools.
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload")


def day_files(inbox: Path, day: date) -> list[Source]:
    """The day's delivered files, in order of tenant and name; hidden and unfinished ones not."""
    found = []
    for folder in sorted(inbox.glob(f"*/{day.isoformat()}")):
        tenant = folder.parent.name
        for path in sorted(folder.iterdir()):
            if path.is_file() and not unfinished(path):
                name = path.relative_to(inbox).as_posix()
                found.append(
                    Source(path=path, file=name, tenant=None if tenant == MIXED_INBOX else tenant)
                )
    return found


@dataclass(frozen=True)
class Delivery:
    """A day's files: a digest of their names, sizes and times of change, and the last change."""

    digest: str
    changed_at: datetime


def delivered_days(inbox: Path) -> dict[date, Delivery]:
    """Each day that has files. Folders whose name is no day are left alone."""
    days: dict[date, list[str]] = {}
    changed: dict[date, float] = {}
    for path in sorted(inbox.glob("*/*/*")):
        if not path.is_file() or unfinished(path):
            continue
        try:
            day = date.fromisoformat(path.parent.name)
        except ValueError:
            continue
        if day.isoformat() != path.parent.name:
            continue  # 20260304 and 2026-W10-3 are dates too, but `day_files` would not look there
        stat = path.stat()
        name = path.relative_to(inbox).as_posix()
        days.setdefault(day, []).append(f"{name}|{stat.st_size}|{stat.st_mtime_ns}")
        changed[day] = max(changed.get(day, 0.0), stat.st_mtime)
    return {
        day: Delivery(
            digest=hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest(),
            changed_at=datetime.fromtimestamp(changed[day], UTC),
        )
        for day, lines in days.items()
    }


def arrivals(inbox: Path, day: date | None = None) -> dict[tuple[date, str], datetime]:
    """When the last file of a day arrived in a folder of the inbox, by day and folder's name.

    day: this one alone. The folder is a tenant's, or MIXED_INBOX. A file arrives when it was last
    changed, as `delivered_days` sees it.
    """
    found: dict[tuple[date, str], float] = {}
    for path in inbox.glob(f"*/{'*' if day is None else day.isoformat()}/*"):
        try:
            delivered = date.fromisoformat(path.parent.name)
        except ValueError:
            continue
        if delivered.isoformat() != path.parent.name or unfinished(path) or not path.is_file():
            continue
        key = delivered, path.parent.parent.name
        found[key] = max(found.get(key, 0.0), path.stat().st_mtime)
    return {key: datetime.fromtimestamp(moment, UTC) for key, moment in found.items()}


def day_arrivals(inbox: Path, day: date) -> dict[str, datetime]:
    """`arrivals` of one day, by folder's name."""
    return {folder: at for (_, folder), at in arrivals(inbox, day).items()}


def deliver(home: Home, file: Path, day: date, tenant: str | None) -> Path:
    """Copy a file into the inbox, whole or not at all; returns where it lies.

    Without a tenant it goes to the home's only tenant, or, where there are more, to the mixed
    inbox, whose rows name their tenant. Raises UserError for a file that is not there or that the
    inbox would not read, and for an unknown tenant.
    """
    if not file.is_file():
        raise UserError(f"{file} is no file: give --reviews the path of a file that can be read")
    if unfinished(file):
        raise UserError(
            f"{file} has the name of a hidden or unfinished file, and the inbox leaves those "
            "alone: rename it"
        )
    if tenant is None:
        known = sorted(home.settings.tenants)
        tenant = known[0] if len(known) == 1 else "default" if home.is_demo else MIXED_INBOX
    else:
        home.tenant(tenant)
    folder = home.inbox / tenant / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if target.exists():
        if filecmp.cmp(file, target, shallow=False):
            return target
        raise UserError(
            f"{target} is another file of that name: give yours a name of its own to add to the "
            "day, or remove that one first to replace what it delivered"
        )
    partial = folder / f".{file.name}.part"
    shutil.copyfile(file, partial)
    partial.replace(target)
    return target


def unfinished(path: Path) -> bool:
    """Whether a file is hidden, or still being written, by its name."""
    return path.name.startswith(".") or path.name.endswith(_UNFINISHED)
