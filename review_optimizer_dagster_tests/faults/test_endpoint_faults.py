"""What an endpoint, a network or a killed process can do to a run, on a real loopback server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange import run, transport
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster_tests.scripted_endpoint import (
    DAY,
    KEY,
    MODEL,
    NOON,
    TAXONOMY,
    Answer,
    Asked,
    Bench,
    FakeTime,
    Script,
    ScriptedEndpoint,
    batches,
    completion,
    entries,
    entry,
    error,
    good,
    misses,
)

ONE_BATCH = BatchSettings(min_reviews=12, max_reviews=12)
TWELVE = [str(number) for number in range(1, 13)]


@contextmanager
def bench(
    folder: Path, *script: Script, otherwise: Script = good, **kwargs: int
) -> Iterator[Bench]:
    """An engine against an endpoint with that script."""
    with ScriptedEndpoint(script, otherwise) as endpoint:
        made = Bench(folder, endpoint.base_url, **kwargs)
        made.asked = endpoint.asked
        try:
            yield made
        finally:
            made.close()


def statuses(made: Bench) -> list[str]:
    """The status of every request; the clock stands still, so the attempts give the order."""
    return made.readout().requests.sort("attempt")["status"].to_list()


def check_books(made: Bench) -> None:
    """Everything labelled once, shares equal costs, and nothing reserved but what is held."""
    readout = made.readout()
    assert readout.answers["status"].to_list() == ["labelled"] * 12
    shares = dict(readout.shares.group_by("request_id").agg(pl.col("cost_nanos").sum()).iter_rows())
    costs = dict(readout.requests.select("request_id", "cost_nanos").iter_rows())
    assert {request_id: shares.get(request_id, 0) for request_id in costs} == costs
    assert made.spend().spent == sum(costs.values())
    assert made.spend().reserved == readout.requests["held_nanos"].sum()


def without(*missing: str) -> Script:
    return lambda asked: entries([entry(i) for i in asked.ids if i not in missing])


def with_extra(*extra: dict[str, str]) -> Script:
    return lambda asked: entries([entry(i) for i in asked.ids] + list(extra))


def replaced(item_id: str, **labels: str) -> Script:
    return lambda asked: entries(
        [entry(i, **labels) if i == item_id else entry(i) for i in asked.ids]
    )


OTHER = TAXONOMY.main.labels[1]
TWINS = json.dumps({"answers": [entry("1")]}).replace(
    '"sentiment": ', f'"{TAXONOMY.main.name}": "{OTHER}", "sentiment": '
)


@pytest.mark.parametrize(
    ("script", "status", "asked_again"),
    [
        pytest.param(without("3", "7"), "partial", ["3", "7"], id="missing ids"),
        pytest.param(with_extra(entry("4")), "partial", ["4"], id="an id twice, the same labels"),
        pytest.param(
            with_extra(entry("4", **{TAXONOMY.main.name: OTHER})),
            "partial",
            ["4"],
            id="an id twice, other labels",
        ),
        pytest.param(with_extra(entry("99"), {"id": ""}), "ok", [], id="unknown ids"),
        pytest.param(replaced("5", product_quality="superb"), "partial", ["5"], id="wrong label"),
        pytest.param(
            lambda asked: entries([entry(i) | {"id": int(i)} for i in asked.ids]),
            "invalid",
            TWELVE,
            id="ids of another type",
        ),
        pytest.param(lambda _: completion(TWINS), "invalid", TWELVE, id="a key twice"),
        pytest.param(
            lambda asked: entries([*map(entry, asked.ids[:6]), {"id": "7"}, None, [], "8"]),
            "partial",
            TWELVE[6:],
            id="entries that are none",
        ),
        pytest.param(lambda _: completion("{}"), "invalid", TWELVE, id="no answers"),
        pytest.param(lambda _: Answer(body="<html>"), "invalid", TWELVE, id="HTML with 200"),
        pytest.param(lambda _: Answer(body='{"choices": ['), "invalid", TWELVE, id="broken JSON"),
        pytest.param(lambda _: Answer(body=""), "invalid", TWELVE, id="empty body"),
        pytest.param(lambda _: Answer(body="[" * 9_999), "invalid", TWELVE, id="deep JSON"),
        pytest.param(lambda _: completion(None), "invalid", TWELVE, id="no content"),
        pytest.param(error(500), "http_error", TWELVE, id="500"),
        pytest.param(error(503), "http_error", TWELVE, id="503"),
        pytest.param(error(429, headers={"retry-after-ms": "20"}), "http_error", TWELVE, id="429"),
        pytest.param(lambda _: Answer(body="{}" * 50, cut=True), "connection", TWELVE, id="cut"),
    ],
)
def test_only_what_has_no_valid_answer_is_asked_again(
    tmp_path: Path, script: Script, status: str, asked_again: Sequence[str]
) -> None:
    """A fault must cost no review, and must never be mended by a guess."""
    with bench(tmp_path, script) as made:
        made.ask(batches(misses(12), ONE_BATCH))
        later = made.asked[1:]
        assert sorted((i for asked in later for i in asked.ids), key=int) == list(asked_again)
        assert statuses(made) == [status] + ["ok"] * len(later)
        assert len({asked.request_id for asked in made.asked}) == len(made.asked)
        assert made.progress[-1] == (12, 12)
        check_books(made)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lambda _: completion('{"answers": [', finish_reason="length"), id="truncated"),
        pytest.param(lambda _: completion(None, refusal="I will not."), id="refused"),
        pytest.param(lambda _: completion(None, finish_reason="content_filter"), id="filtered"),
        pytest.param(error(400, "context_length_exceeded"), id="too long"),
    ],
)
def test_a_batch_that_is_too_much_is_split(tmp_path: Path, script: Script) -> None:
    """Asking for the same again would be cut off or refused again."""
    with bench(tmp_path, script) as made:
        made.ask(batches(misses(12), ONE_BATCH))
        assert [len(asked.ids) for asked in made.asked] == [12, 6, 6]
        check_books(made)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (lambda _: completion(None, refusal="No."), "refused"),
        (error(400, "who_knows"), "HTTP 400 who_knows as the test wants it"),
    ],
)
def test_one_poisoned_text_takes_no_other_with_it(
    tmp_path: Path, refusal: Script, reason: str
) -> None:
    """A text that the model refuses must end alone, whatever batch it came in."""

    def refuses_seven(asked: Asked) -> Answer:
        poisoned = any(" 7." in document["text"] for document in asked.documents)
        return refusal(asked) if poisoned else good(asked)

    with bench(tmp_path, otherwise=refuses_seven) as made:
        made.ask(batches(misses(100), BatchSettings(min_reviews=100, max_reviews=100)))
        failed = made.readout().answers.filter(pl.col("status") == "failed")
        assert failed.select("content_key", "reason", "attempts").rows() == [
            ("acme-00007", reason, 5)
        ]


@pytest.mark.parametrize(
    ("headers", "slept"),
    [
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": format_datetime(NOON.replace(second=9), usegmt=True)}, 9.0),
        ({"retry-after": "soon", "retry-after-ms": "nan"}, None),
    ],
)
def test_the_endpoint_says_how_long_to_wait(
    tmp_path: Path, headers: dict[str, str], slept: float | None
) -> None:
    """Milliseconds win over seconds, seconds over a date; nonsense falls back to the back-off."""
    with bench(tmp_path, error(429, headers=headers)) as made:
        made.ask(batches(misses(12), ONE_BATCH))
        assert sum(made.time.slept) == (
            pytest.approx(slept) if slept else pytest.approx(0.44, abs=0.07)
        )
        check_books(made)


def test_an_exhausted_limit_is_waited_for(tmp_path: Path) -> None:
    """Nothing remains: the next request would only be refused."""
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}

    def last_one(asked: Asked) -> Answer:
        return entries([entry(i) for i in asked.ids], headers=used_up)

    with bench(tmp_path, last_one) as made:
        made.ask(batches(misses(24), ONE_BATCH), in_flight=1)
        assert made.time.slept == [60.0]  # the longest pause; a limit refills bit by bit


def test_an_over_long_wait_ends_the_run(tmp_path: Path) -> None:
    """A run that sleeps for an hour is worse than one that says when to come back."""
    with (
        bench(tmp_path, error(429, headers={"retry-after": "3600"})) as made,
        pytest.raises(UserError, match=r"left alone for 3600 s.*run again"),
    ):
        made.ask(batches(misses(12), ONE_BATCH))


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (401, "invalid_api_key", "api_key_env"),
        (403, "", "may not use it"),
        (404, "model_not_found", r"\[engine\]"),
        (429, "insufficient_quota", "no credit left"),
    ],
)
def test_what_only_a_person_can_mend_ends_the_run(
    tmp_path: Path, status: int, code: str, told: str
) -> None:
    """Retrying costs time or money; what came before stays paid for and used."""
    plan = batches(misses(36), ONE_BATCH)
    with bench(tmp_path, good, otherwise=error(status, code)) as made:
        with pytest.raises(UserError, match=told):
            made.ask(plan, in_flight=1)
        assert statuses(made) == ["ok", "http_error"]
        assert made.readout().answers.height == 12
        assert made.spend().reserved == 0


def test_a_key_is_not_repeated_by_an_error(tmp_path: Path) -> None:
    """Some servers echo the key that they refuse; it must reach neither journal nor terminal."""
    echo = Answer(401, json.dumps({"error": {"message": f"no such key {KEY}"}}))
    with bench(tmp_path, lambda _: echo) as made:
        with pytest.raises(UserError) as raised:
            made.ask(batches(misses(12), ONE_BATCH))
        assert KEY not in str(raised.value)
        assert KEY not in str(made.journal.requests())


def test_a_request_that_the_endpoint_never_accepts_ends_the_run(tmp_path: Path) -> None:
    """A model without json_schema refuses everything; splitting would ask thousands of times."""
    with bench(tmp_path, otherwise=error(400, "unsupported_parameter")) as made:
        with pytest.raises(UserError, match="refuses every request"):
            made.ask(batches(misses(120), ONE_BATCH))
        # Eight in flight, and one more for each refusal before the one that tells.
        assert len(made.asked) <= 8 + run.UNEXPLAINED_REFUSALS - 1


def test_a_timeout_may_have_been_paid_for(tmp_path: Path) -> None:
    """The endpoint may answer, and bill, after we have left: its worst case stays reserved."""
    released = threading.Event()

    def too_late(asked: Asked) -> Answer:
        released.wait(5)
        return good(asked)

    with bench(tmp_path, too_late) as made:
        made.ask(batches(misses(12), ONE_BATCH), timeout_seconds=0.2)
        released.set()
        assert statuses(made) == ["timeout", "ok"]
        assert made.readout().requests["held_nanos"][0] > 0
        check_books(made)


def test_a_larger_batch_is_given_more_time(tmp_path: Path) -> None:
    """A hundred answers take longer to write than one; the time-out must know it."""
    asked: list[tuple[int, float]] = []
    real = transport.send_once

    async def noting(client: Any, body: Any, name: str, seconds: float, *rest: Any) -> Any:
        asked.append((len(Asked(body, name).ids), seconds))
        return await real(client, body, name, seconds, *rest)

    with bench(tmp_path) as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "send_once", noting)
        limits: dict[str, Any] = {"timeout_seconds": 3.0, "timeout_seconds_per_review": 0.5}
        made.ask(batches(misses(12), ONE_BATCH), **limits)
        made.ask(batches(misses(3, "beta"), ONE_BATCH), **limits)
    assert asked == [(12, 9.0), (3, 4.5)]


def test_a_reply_that_drips_for_ever_is_left(tmp_path: Path) -> None:
    """Every single read is in time, the whole is not."""
    with bench(tmp_path, lambda _: Answer(body="x" * 50, drips=True)) as made:
        made.ask(batches(misses(12), ONE_BATCH), timeout_seconds=0.3)
        assert statuses(made) == ["timeout", "ok"]


def test_nobody_listens(tmp_path: Path) -> None:
    """A refused connection sent nothing, so nothing is held; the reviews are reported failed."""
    with ScriptedEndpoint() as gone:
        base_url = gone.base_url
    made = Bench(tmp_path, base_url)
    made.ask(batches(misses(12), ONE_BATCH), max_attempts=3)
    readout = made.readout()
    made.close()
    assert readout.requests["status"].to_list() == ["connection"] * 3
    assert readout.requests["held_nanos"].sum() == made.spend().reserved == 0
    assert readout.answers["status"].to_list() == ["failed"] * 12
    assert readout.answers["reason"].unique().to_list() == ["ConnectError"]
    assert len(made.time.slept) == 2  # a back-off before each further attempt


def test_an_endpoint_that_is_down_is_left_alone(tmp_path: Path) -> None:
    """Thousands of requests to a dead server help nobody; a later run finds every review."""
    plan = batches(misses(1_200), ONE_BATCH)
    with bench(tmp_path, *[good] * 3, otherwise=error(500)) as made:
        ran = made.ask(plan)
        readout = made.readout()
        labelled = readout.answers.filter(status="labelled")
        assert labelled.height == 36
        assert len(made.asked) < 40  # of 500 that five attempts a batch would be
        assert ran.unsent["status"].unique().to_list() == ["failed"]
        assert ran.unsent["reason"].str.starts_with("circuit open: HTTP 500").all()
        gave_up = readout.answers.filter(status="failed")
        assert labelled.height + gave_up.height + ran.unsent.height == 1_200
        assert made.progress[-1] == (1_200, 1_200)
    with ScriptedEndpoint() as endpoint:
        again = Bench(tmp_path, endpoint.base_url)
        assert again.ask(plan).unsent.is_empty()
        assert again.readout().answers["status"].to_list() == ["labelled"] * 1_200
        again.close()


def test_a_response_without_usage_is_held_and_marked(tmp_path: Path) -> None:
    """Its cost is not known, and not nothing."""
    with bench(tmp_path, lambda asked: entries([entry(i) for i in asked.ids], usage=None)) as made:
        made.ask(batches(misses(12), ONE_BATCH))
        (row,) = made.readout().requests.rows(named=True)
        assert (row["status"], row["cost_nanos"], row["error"]) == ("ok", 0, "no usage")
        assert row["held_nanos"] > 0
        check_books(made)


def test_the_cost_is_that_of_the_model_that_answered(tmp_path: Path) -> None:
    """A gateway may answer with another model than asked, at another price."""
    with bench(
        tmp_path, lambda asked: entries([entry(i) for i in asked.ids], model="gpt-4o")
    ) as made:
        made.ask(batches(misses(12), ONE_BATCH))
        (row,) = made.readout().requests.rows(named=True)
        assert (row["model_requested"], row["model"]) == (MODEL, "gpt-4o")
        assert row["cost_nanos"] == 1_000 * 2_500 + 100 * 10_000


def test_attempts_are_limited_and_a_later_run_tries_again(tmp_path: Path) -> None:
    """A review that cannot be labelled is reported, not lost, and the next run asks for it."""
    plan = batches(misses(12), ONE_BATCH)
    with bench(tmp_path, *[without("3")] * 2) as made:
        made.ask(plan, max_attempts=2)
        failed = made.readout().answers.filter(pl.col("status") == "failed")
        assert failed.select("reason", "attempts").rows() == [("missing", 2)]
        made.ask(plan, max_attempts=2)
        assert [len(asked.ids) for asked in made.asked] == [12, 1, 1]
        check_books(made)


def test_a_budget_that_is_too_small_sends_nothing(tmp_path: Path) -> None:
    """Not one review fits: all are deferred, and nothing is spent."""
    with bench(tmp_path, budget_nanos=100) as made:
        ran = made.ask(batches(misses(600), ONE_BATCH))
        assert ran.unsent.select("status", "reason").unique().rows() == [("deferred", "budget")]
        assert ran.unsent.height == 600
        assert made.asked == []
        assert made.progress[-1] == (600, 600)
        # One review that does not fit is enough to know; the others are not tried one by one.
        assert len(made.progress) < 60


def test_a_budget_is_used_to_its_end_and_not_over(tmp_path: Path) -> None:
    """Batches shrink to what is left; other tenants go on."""
    both = pl.concat([batches(misses(60), ONE_BATCH), batches(misses(12, "beta"), ONE_BATCH)])
    with bench(tmp_path, budget_nanos=2_000_000) as made:
        ran = made.ask(both)
        labelled = made.readout().answers.filter(pl.col("status") == "labelled")
        assert labelled.filter(pl.col("tenant") == "beta").height == 12
        mine = labelled.filter(pl.col("tenant") == "acme")
        assert 0 < mine.height < 60
        assert mine.height + ran.unsent.height == 60
        assert made.spend().spent <= 2_000_000
        assert made.spend().reserved == 0
        assert min(len(asked.ids) for asked in made.asked) < 12


class _OthersSettle(FakeTime):
    """After some waiting, another process's request costs almost nothing after all."""

    def __init__(self, made: Bench) -> None:
        super().__init__()
        self._made, self._left = made, 3

    async def _sleep(self, seconds: float) -> None:
        await super()._sleep(seconds)
        self._left -= 1
        if self._left == 0:
            self._made.budget("acme").settle("theirs", 1, NOON)


def test_money_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    """Eight requests elsewhere hold ten times what they cost: giving up would waste the budget."""
    with bench(tmp_path, budget_nanos=10_000_000) as made:
        made.time = _OthersSettle(made)
        assert made.budget("acme").reserve("theirs", 9_990_000, NOON)
        ran = made.ask(batches(misses(12), ONE_BATCH))
        assert ran.unsent.is_empty()
        assert made.time.slept


def test_money_that_never_comes_free_is_not_waited_for_long(tmp_path: Path) -> None:
    """Another process may have been killed, and its reservation stands for two days."""
    with bench(tmp_path, budget_nanos=10_000_000) as made:
        assert made.budget("acme").reserve("theirs", 9_990_000, NOON)
        ran = made.ask(batches(misses(12), ONE_BATCH))
        assert ran.unsent["status"].to_list() == ["deferred"] * 12
        assert 55 <= sum(made.time.slept) <= 65
        # What is held for unknown outcomes of long ago is not waited for at all.
        made.time.slept.clear()
        made.time.seconds = 600.0
        made.ask(batches(misses(12), ONE_BATCH))
        assert made.time.slept == []


def test_a_run_after_the_answers_came_sends_nothing(tmp_path: Path) -> None:
    """The process may die between the outcome and its use: the journal has all that is needed."""
    plan = batches(misses(36), ONE_BATCH)
    with bench(tmp_path) as made:
        made.ask(plan)
        before = made.readout()
        made.ask(plan)
        assert len(made.asked) == 3
        after = made.readout()
        assert after.answers.equals(before.answers)
        assert after.requests.equals(before.requests)
        made.ask(plan, generation=2)  # paid again on purpose
        assert len(made.asked) == 6
        assert made.readout().requests["cost_nanos"].sum() == 2 * before.shares["cost_nanos"].sum()


_CHILD = """
import sys
from pathlib import Path
from review_optimizer_dagster_tests.faults.test_endpoint_faults import ONE_BATCH
from review_optimizer_dagster_tests.scripted_endpoint import Bench, batches, misses
Bench(Path(sys.argv[1]), sys.argv[2]).ask(batches(misses(120), ONE_BATCH))
"""


def test_a_killed_run_is_taken_up_where_its_journal_ends(tmp_path: Path) -> None:
    """SIGKILL in the middle: every paid response is used, none is asked for again."""
    stuck, released = threading.Semaphore(0), threading.Event()

    def never(asked: Asked) -> Answer:
        stuck.release()
        released.wait(20)
        return good(asked)

    with ScriptedEndpoint([good] * 5 + [never] * 99) as endpoint:
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path), endpoint.base_url])
        for _ in range(4):
            assert stuck.acquire(timeout=20)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        released.set()
        made = Bench(tmp_path, endpoint.base_url)
        paid = made.readout()
        assert paid.answers.height == 60
        lost = paid.requests.filter(pl.col("status") == "unknown")
        assert lost["held_nanos"].sum() == made.spend().reserved > 0
        endpoint._script.clear()
        answered = set(paid.answers["content_key"])
        before = len(endpoint.asked)
        made.ask(batches(misses(120), ONE_BATCH))
        readout = made.readout()
        made.close()
    again = Counter(
        "acme-" + re.findall(r"Number (\d+)", document["text"])[0].zfill(5)
        for asked in endpoint.asked[before:]
        for document in asked.documents
    )
    assert set(again.values()) == {1}
    assert not answered & set(again)
    assert readout.answers["status"].to_list() == ["labelled"] * 120
    assert readout.requests["status"].value_counts(sort=True).rows() == [
        ("ok", 10),
        ("unknown", lost.height),
    ]
    assert len({asked.request_id for asked in endpoint.asked}) == len(endpoint.asked)
    assert str(DAY) in readout.requests["request_id"][0]


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_run_takes_in_what_it_has_paid_for(tmp_path: Path, number: int) -> None:
    """Nothing new is sent, what is in flight reaches the journal, and the next run goes on."""
    stuck, released = threading.Semaphore(0), threading.Event()

    def slow(asked: Asked) -> Answer:
        stuck.release()
        released.wait(20)
        return good(asked)

    with ScriptedEndpoint([good] * 4 + [slow] * 99) as endpoint:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path), endpoint.base_url],
            stderr=subprocess.DEVNULL,
        )
        for _ in range(6):
            assert stuck.acquire(timeout=20)
        asked = len(endpoint.asked)
        os.kill(child.pid, number)
        threading.Timer(0.3, released.set).start()
        assert child.wait(timeout=30) != 0
        made = Bench(tmp_path, endpoint.base_url)
        requests = made.readout().requests
        assert set(requests["status"]) == {"ok"}
        assert requests.height == len(endpoint.asked) <= asked
        assert made.spend().reserved == 0
        made.ask(batches(misses(120), ONE_BATCH))
        assert made.readout().answers["status"].to_list() == ["labelled"] * 120
        assert made.readout().requests.height == 10
        made.close()


def test_the_last_batch_is_shared_when_it_is_asked_again(tmp_path: Path) -> None:
    """Places would stand idle while one batch of a hundred is written once more; 503 left four."""
    plan = batches(misses(100), BatchSettings(min_reviews=100, max_reviews=100))
    with bench(tmp_path, error(503)) as made:
        made.ask(plan)
        assert [len(asked.ids) for asked in made.asked] == [100, 25, 25, 25, 25]
        assert made.readout().answers["status"].to_list() == ["labelled"] * 100
