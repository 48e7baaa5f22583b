"""Where deliveries arrive: which files are a day's, whose they are, how the command adds one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.inbox import day_files, deliver, delivered_days
from review_optimizer_dagster_tests.conftest import DAY

ROW = '{"review_id": "1", "category": "Lamps", "text": "Fine."}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's own file, anywhere."""
    path = tmp_path / "my reviews.jsonl"
    path.write_text(ROW)
    return path


def _tenants(home: Home, *names: str) -> Home:
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text("".join(f"[tenants.{name}]\n" for name in names))
    return home


def _put(home: Home, where: str, content: str = ROW) -> Path:
    path = home.inbox / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_in_a_demo_home_a_file_needs_no_tenant(home: Home, file: Path) -> None:
    """The first thing that anyone tries: a file, and no settings at all."""
    target = deliver(home, file, DAY, None)
    assert target == home.inbox / "default" / DAY.isoformat() / "my reviews.jsonl"
    assert target.read_text() == ROW
    assert file.exists()


def test_in_a_demo_home_any_tenant_may_be_named(home: Home, file: Path) -> None:
    """Trying two tenants out must not need a tenants.toml."""
    assert deliver(home, file, DAY, "bolt-2").parent.parent.name == "bolt-2"


def test_the_only_tenant_need_not_be_named(home: Home, file: Path) -> None:
    """There is no other whose it could be."""
    target = deliver(_tenants(home, "acme"), file, DAY, None)
    assert target.parent.parent.name == "acme"


def test_with_several_tenants_the_rows_name_theirs(home: Home, file: Path) -> None:
    """A guess would bill the wrong one: the mixed inbox asks each row."""
    _tenants(home, "acme", "bolt")
    assert deliver(home, file, DAY, None).parent.parent.name == "_mixed"
    assert deliver(home, file, DAY, "bolt").parent.parent.name == "bolt"
    assert [source.tenant for source in day_files(home.inbox, DAY)] == [None, "bolt"]


@pytest.mark.parametrize("tenant", ["cobra", "Acme", "../acme", "_mixed", ""])
def test_a_tenant_that_is_not_configured_is_refused(home: Home, file: Path, tenant: str) -> None:
    """A typing error must not open an inbox that nobody pays for, or leave the inbox at all."""
    _tenants(home, "acme", "bolt")
    with pytest.raises(UserError, match=r"no tenant"):
        deliver(home, file, DAY, tenant)
    assert not home.inbox.exists()


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_file_that_is_not_there_is_refused(home: Home, tmp_path: Path, name: str) -> None:
    """The message names the path, and nothing is created on the way."""
    with pytest.raises(UserError, match="is no file") as caught:
        deliver(home, tmp_path / name, DAY, None)
    assert str(tmp_path / name) in str(caught.value)
    assert not home.inbox.exists()


@pytest.mark.parametrize("name", [".reviews.jsonl", "reviews.jsonl.part", "reviews.tmp"])
def test_a_file_whose_name_the_inbox_does_not_read_is_refused(
    home: Home, tmp_path: Path, name: str
) -> None:
    """Copied in, it would be passed over without a word, and the demo's sample taken instead."""
    path = tmp_path / name
    path.write_text(ROW)
    with pytest.raises(UserError, match="rename it"):
        deliver(home, path, DAY, None)


def test_another_file_of_the_same_name_is_refused(home: Home, file: Path) -> None:
    """Replacing it would take reviews from the day that were paid for and published."""
    target = deliver(home, file, DAY, "acme")
    before = target.read_text()
    assert deliver(home, file, DAY, "acme") == target
    file.write_text(ROW * 2)
    with pytest.raises(UserError, match="another file of that name"):
        deliver(home, file, DAY, "acme")
    assert target.read_text() == before
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_lies_in_the_inbox_already_may_be_named(home: Home) -> None:
    """`--reviews` with the path in the inbox must not empty the file by copying it onto itself."""
    path = _put(home, f"acme/{DAY}/reviews.jsonl")
    assert deliver(home, path, DAY, "acme") == path
    assert path.read_text() == ROW


def test_hidden_and_unfinished_files_are_not_read(home: Home) -> None:
    """Copying tools write under such a name and rename at the end."""
    for name in (".hidden.jsonl", "a.jsonl.tmp", "b.part", "c.csv.partial", "d.crdownload"):
        _put(home, f"acme/{DAY}/{name}")
    (home.inbox / "acme" / DAY.isoformat() / "folder.jsonl").mkdir()
    assert day_files(home.inbox, DAY) == []
    assert delivered_days(home.inbox) == {}
    _put(home, f"acme/{DAY}/whole.jsonl")
    assert [source.file for source in day_files(home.inbox, DAY)] == [f"acme/{DAY}/whole.jsonl"]
    assert list(delivered_days(home.inbox)) == [DAY]


def test_files_come_in_the_order_of_tenant_and_name(home: Home) -> None:
    """Ids of reviews without one follow this order, so it must not be the file system's."""
    for where in ("bolt/{}/a.csv", "acme/{}/z.csv", "acme/{}/b.csv", "_mixed/{}/m.csv"):
        _put(home, where.format(DAY))
    _put(home, f"acme/{DAY + timedelta(days=1)}/other-day.csv")
    assert [(source.tenant, source.path.name) for source in day_files(home.inbox, DAY)] == [
        (None, "m.csv"),
        ("acme", "b.csv"),
        ("acme", "z.csv"),
        ("bolt", "a.csv"),
    ]


@pytest.mark.parametrize("name", ["Acme", "a b", "acme.old", "_other", "-acme", "ä"])
def test_a_folder_that_is_no_tenants_is_not_passed_over(home: Home, name: str) -> None:
    """Somebody delivered there: the reader gets the files, and refuses their rows by name."""
    _put(home, f"{name}/{DAY}/reviews.jsonl")
    (source,) = day_files(home.inbox, DAY)
    assert source.tenant == name
    with pytest.raises(UserError, match="no tenant's name") as caught:
        home.tenant(name)
    assert name in str(caught.value)
    assert day_files(home.inbox, DAY + timedelta(days=1)) == []


def test_an_inbox_that_is_not_there_is_empty(home: Home) -> None:
    """A new home has no inbox before the first delivery."""
    assert day_files(home.inbox, DAY) == []
    assert delivered_days(home.inbox) == {}


def test_the_digest_of_a_day_follows_its_files(home: Home) -> None:
    """The sensor knows by it whether there is something to do: name, size, time of change."""
    path = _put(home, f"acme/{DAY}/a.jsonl")
    digests = [delivered_days(home.inbox)[DAY].digest]
    _put(home, f"bolt/{DAY + timedelta(days=1)}/a.jsonl")
    assert delivered_days(home.inbox)[DAY].digest == digests[0]
    path.write_text(ROW * 2)
    digests.append(delivered_days(home.inbox)[DAY].digest)
    path.rename(path.with_name("b.jsonl"))
    digests.append(delivered_days(home.inbox)[DAY].digest)
    assert len(set(digests)) == 3
