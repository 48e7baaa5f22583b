"""Large batches are sampled as they come in: what is decided, what is paused, and what that keeps
from being sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.core.batching import Tier, plan_batches
from review_optimizer_dagster.core.classifier import Classified, Endpoint
from review_optimizer_dagster.exchange.batch_quality import (
    FEWEST,
    BatchSample,
    BatchWatch,
    Goals,
    Sampler,
    SampleRules,
    Scope,
    decide,
)
from review_optimizer_dagster.exchange.run import Run, Work
from review_optimizer_dagster.money.prices import load_prices
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster_tests.scripted_endpoint import (
    DAY,
    MODEL,
    NOON,
    TAXONOMY,
    Answer,
    Asked,
    Bench,
    FakeTime,
    ScriptedEndpoint,
    asking,
    entries,
    entry,
    error,
    misses,
)

BIG = "gpt-5.4-mini"
CHEAP = Tier("cheap", MODEL, max_complexity=0.9, max_reviews=30)
LADDER = (CHEAP, Tier("strong", BIG, max_reviews=30))
ALONE = (CHEAP,)
THIRTIES = BatchSettings(min_reviews=30, max_reviews=30)
MAIN = TAXONOMY.main.name
RIGHT, WRONG = TAXONOMY.main.labels[:2]
RULES = SampleRules(above=20, reviews=30)


def planned(count: int, ladder: Sequence[Tier], tenant: str = "acme") -> pl.DataFrame:
    found = misses(count, tenant)
    plan = plan_batches(found, asking, ladder, THIRTIES, DAY)
    texts = found.select("identity", "content_key", "title", "text")
    return plan.join(texts, on=["identity", "content_key"], maintain_order="left")


def all_known(plan: pl.DataFrame) -> Callable[[str, str], list[tuple[str, str]]]:
    """A truth of every text: the first label of the main field."""

    def truth(tenant: str, _taxonomy: str) -> list[tuple[str, str]]:
        own = plan.filter(pl.col("tenant") == tenant)
        return [(key, json.dumps({MAIN: RIGHT})) for key in own["content_key"]]

    return truth


def watching(
    plan: pl.DataFrame,
    told: list[BatchSample],
    truth: Callable[[str, str], Iterable[tuple[str, str]]] | None = None,
    **known: Any,
) -> BatchWatch:
    sampler = Sampler(
        RULES, {TAXONOMY.name: TAXONOMY}, truth or all_known(plan), lambda _: Goals(0.95, 0.99)
    )
    return BatchWatch(sampler, tell=told.append, **known)


def wrong_by(*models: str) -> Callable[[Asked], Answer]:
    """These models answer everything wrong, others all right."""

    def answer(asked: Asked) -> Answer:
        label = WRONG if asked.body["model"] in models else RIGHT
        told = [entry(i, **{MAIN: label}) for i in asked.ids]
        return entries(told, model=asked.body["model"])

    return answer


class Ran:
    """One home, asked as often as a test wants to."""

    def __init__(self, folder: Path, url: str, asked: list[Asked]) -> None:
        self.bench = Bench(folder, url)
        self.asked, self.told = asked, list[BatchSample]()

    def ask(
        self, plan: pl.DataFrame, ladder: Sequence[Tier], *, by_batch: Sequence[str] = (), **of: Any
    ) -> Classified:
        self.watch = watching(plan, self.told, **of)
        limits: dict[str, Any] = {"ladder": tuple(ladder), "in_flight": 1}
        return self.bench.ask(plan, quality=self.watch, by_batch=by_batch, **limits)

    @property
    def models(self) -> list[str]:
        return [asked.body["model"] for asked in self.asked]


@contextmanager
def bench(folder: Path, script: Callable[[Asked], Answer]) -> Iterator[Ran]:
    with ScriptedEndpoint(otherwise=script) as endpoint:
        ran = Ran(folder, endpoint.base_url, endpoint.asked)
        try:
            yield ran
        finally:
            ran.bench.close()


def test_only_what_is_beyond_doubt_is_below() -> None:
    """57 of 60 is 0.95 and 56 less, but a tier of 0.96 gives that often: neither pauses it."""
    assert decide(56, 60, 0.95).verdict == "undecided"
    assert decide(48, 60, 0.95).verdict == "below"
    assert decide(60, 60, 0.95).verdict == "pass"
    for correct in range(61):
        for batches in (1, 24, 500):
            found = decide(correct, 60, 0.95, batches)
            ends = clopper_pearson(correct, 60, 1 - 2 * 0.05 / batches)
            assert (found.lower, found.upper) == pytest.approx(ends)
            assert (found.verdict == "below") == (ends[1] < 0.95)


def test_too_few_with_a_truth_decide_nothing() -> None:
    """Four wrong answers of four are no sample of two hundred."""
    assert decide(0, FEWEST - 1, 0.95).verdict == "unsampled"
    assert decide(0, FEWEST, 0.95).verdict == "below"


@pytest.mark.parametrize("batches", [1, 20, 100])
def test_the_level_of_a_day_is_shared(batches: int) -> None:
    """Exactly: a tier of the threshold's accuracy is paused on 5 % of the days at most."""
    from scipy.special import bdtr

    worst = max(c for c in range(61) if decide(c, 60, 0.95, batches).verdict == "below")
    a_batch = float(bdtr(worst, 60, 0.95))
    assert 1 - (1 - a_batch) ** batches <= 0.05
    # One more right answer would be too many: the bound is not wasted.
    assert float(bdtr(worst + 1, 60, 0.95)) * batches > 0.05


def test_a_bad_tier_is_left_to_the_next_one(tmp_path: Path) -> None:
    """One batch is paid for in vain, not six."""
    plan = planned(180, LADDER)
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        done = ran.ask(plan, LADDER)
        answers = ran.bench.readout().answers
        assert ran.models == [MODEL] + [BIG] * 5
        assert done.unsent.is_empty()
        assert dict(answers.group_by("tier").len().iter_rows()) == {"cheap": 30, "strong": 150}
        (sample,) = ran.told
        assert (sample.tier, sample.n, sample.correct, sample.reviews) == ("cheap", 30, 0, 30)
        assert sample.decision.confidence == pytest.approx(1 - 0.05 / 6)
        assert ran.watch.counts == {"below": 1, "undecided": 5}


def test_without_a_next_tier_the_rest_is_deferred(tmp_path: Path) -> None:
    """Nothing is sent that would come back wrong; the reason says why."""
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        done = ran.ask(planned(180, ALONE), ALONE)
        assert ran.models == [MODEL]
        assert done.unsent.height == 150
        assert done.unsent.select("status", "reason").unique().rows() == [("deferred", "quality")]
        assert ran.bench.progress[-1] == (180, 180)


def test_every_tier_may_be_paused(tmp_path: Path) -> None:
    """A ladder that is bad from top to bottom costs one batch a step."""
    with bench(tmp_path, wrong_by(MODEL, BIG)) as ran:
        done = ran.ask(planned(180, LADDER), LADDER)
        assert ran.models == [MODEL, BIG]
        assert done.unsent.height == 120
        assert [sample.tier for sample in ran.told] == ["cheap", "strong"]


def test_works_of_another_tenant_go_on(tmp_path: Path) -> None:
    """What acme's truth says of a model says nothing of bolt's."""
    mine, theirs = planned(90, ALONE), planned(90, ALONE, "bolt")
    plan = pl.concat([mine, theirs])
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        done = ran.ask(plan, ALONE, truth=all_known(mine))
        assert done.unsent["tenant"].unique().to_list() == ["acme"]
        answers = ran.bench.readout().answers
        assert answers.filter(tenant="bolt", status="labelled").height == 90
        assert ran.watch.counts["unsampled"] == 3


def test_what_is_in_flight_ends(tmp_path: Path) -> None:
    """Three batches were sent when the first came back: they are paid for, and count."""
    plan = planned(180, ALONE)
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        watch = watching(plan, ran.told)
        done = ran.bench.ask(plan, quality=watch, ladder=ALONE, in_flight=3)
        readout = ran.bench.readout()
        assert readout.requests.height == 3
        assert readout.answers.filter(status="labelled").height == 90
        assert done.unsent.height == 90
        assert len(ran.told) == 3  # each is known, so that none pauses again after a resumption
        assert ran.bench.spend().reserved == 0


def test_a_later_run_begins_with_what_was_paused(tmp_path: Path) -> None:
    """And what was resumed is not paused again by the batch that had paused it."""
    plan, scopes = planned(180, ALONE), list[Scope]()
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        ran.ask(plan, ALONE)
        (first,) = ran.told
        scopes.append(first.scope)
        again = ran.ask(plan, ALONE, paused=scopes, judged=[first.request_id])
        assert (ran.models, again.unsent.height) == ([MODEL], 150)
        resumed = ran.ask(plan, ALONE, judged=[first.request_id])
        assert (ran.models, resumed.unsent.height) == ([MODEL] * 2, 120)
        assert ran.told[0].request_id == first.request_id
        assert len(ran.told) == 2


def test_a_run_that_was_killed_before_it_told_is_made_up_for(tmp_path: Path) -> None:
    """The answer was durable, the pause was not: the next run judges it before it sends."""
    plan = planned(180, ALONE)

    def dies(_: BatchSample) -> None:
        raise KeyboardInterrupt

    with bench(tmp_path, wrong_by(MODEL)) as ran:
        watch = BatchWatch(watching(plan, [])._sampler, tell=dies)
        with pytest.raises(KeyboardInterrupt):
            ran.bench.ask(plan, quality=watch, ladder=ALONE, in_flight=1)
        assert ran.bench.readout().requests["status"].to_list() == ["ok"]
        done = ran.ask(plan, ALONE)
        assert ran.models == [MODEL]
        assert len(ran.told) == 1
        assert done.unsent.height == 150


def test_what_another_identity_was_asked_is_past(tmp_path: Path) -> None:
    """Bad answers to an old prompt do not pause the new one, though nobody was told of them."""
    plan = planned(60, ALONE)
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        ran.bench.ask(plan, ladder=ALONE, in_flight=1)
        new = plan.with_columns(identity=pl.lit("acme|new"))
        watch = watching(new, ran.told)
        watch.plan(new)
        assert len(list(watch.catch_up(ran.bench.journal.requests()))) == 2
        assert not ran.told
        watch.plan(plan)
        assert len(list(watch.catch_up(ran.bench.journal.requests()))) == 2
        assert len(ran.told) == 2


def test_good_and_small_and_unknown_batches_pause_nothing(tmp_path: Path) -> None:
    """Right answers, batches that are not large, and those without a truth."""
    plan = planned(90, ALONE)
    with bench(tmp_path / "good", wrong_by()) as ran:
        assert ran.ask(plan, ALONE).unsent.is_empty()
        assert not ran.told
    with bench(tmp_path / "small", wrong_by(MODEL)) as ran:
        tens = plan_batches(misses(20), asking, ALONE, THIRTIES, DAY)
        small = plan.join(tens.select("content_key"), on="content_key", how="semi")
        ran.ask(small.with_columns(batch_id=pl.lit("one")), ALONE)
        assert sum(ran.watch.counts.values()) == 0
    with bench(tmp_path / "unknown", wrong_by(MODEL)) as ran:
        ran.ask(plan, ALONE, truth=lambda *_: [])
        assert ran.watch.counts == {"unsampled": 3}


def test_the_table_comes_from_the_journal_alone(tmp_path: Path) -> None:
    """Read again, in any order: the same samples, with the level that they were decided at."""
    plan = planned(180, LADDER)
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        ran.ask(plan, LADDER)
        records = list(ran.bench.journal.requests())
        tables = [
            watching(plan, [])._sampler.table(order) for order in (records, reversed(records))
        ]
        assert tables[0].equals(tables[1])
        below = tables[0].filter(verdict="below")
        assert below.select("tier", "n", "correct", "threshold", "goal").rows() == [
            ("cheap", 30, 0, 0.95, 0.99)
        ]
        assert below["confidence"].item() == pytest.approx(1 - 0.05 / 6)
        assert tables[0].height == 6


def test_a_sample_is_drawn_of_what_has_a_truth(tmp_path: Path) -> None:
    """Never more than asked for, and another one for another request."""
    plan = planned(60, ALONE)
    half = plan["content_key"].to_list()[::2]
    with bench(tmp_path, wrong_by()) as ran:
        known = [(key, json.dumps({MAIN: RIGHT})) for key in half]
        ran.ask(plan, ALONE, truth=lambda *_: known)
        sampler = watching(plan, [], truth=lambda *_: known)._sampler
        sampler.rules = SampleRules(above=20, reviews=10)
        few = sampler.table(ran.bench.journal.requests())
        assert few["n"].to_list() == [10, 10]
        sampler.rules = SampleRules(above=20, reviews=30)
        assert sum(sampler.table(ran.bench.journal.requests())["n"]) == len(half)


def test_a_truth_of_fewer_classes_judges_as_the_gate_does(tmp_path: Path) -> None:
    """`mixed` is negative where the truth only knows good and bad."""
    plan = planned(30, ALONE)
    keys = plan["content_key"].to_list()

    def truth(*_: str) -> list[tuple[str, str]]:
        labels = ["positive" if n == 0 else "negative" for n in range(len(keys))]
        return [(key, json.dumps({MAIN: label})) for key, label in zip(keys, labels, strict=True)]

    def mixed(asked: Asked) -> Answer:
        return entries([entry(i, **{MAIN: "mixed"}) for i in asked.ids])

    with bench(tmp_path, mixed) as ran:
        ran.ask(plan, ALONE, truth=truth)
        table = watching(plan, [], truth=truth)._sampler.table(ran.bench.journal.requests())
        assert table.select("n", "correct").rows() == [(30, 29)]


def test_what_waits_to_be_asked_again_leaves_too(tmp_path: Path) -> None:
    """A batch that met an error is asked of the next tier, in the size that this one takes."""
    ladder = (CHEAP, Tier("strong", BIG, max_reviews=16))
    plan = planned(90, ladder)

    def script(asked: Asked) -> Answer:
        first = len(ran.asked) == 1
        return error(500)(asked) if first else wrong_by(MODEL)(asked)

    with bench(tmp_path, script) as ran:
        done = ran.ask(plan, ladder)
        assert ran.models == [MODEL, MODEL] + [BIG] * 4
        assert [len(asked.ids) for asked in ran.asked] == [30, 30, 15, 15, 15, 15]
        assert done.unsent.is_empty()
        answers = ran.bench.readout().answers
        assert dict(answers.group_by("tier").len().iter_rows()) == {"cheap": 30, "strong": 60}


def test_a_work_leaves_every_queue(tmp_path: Path) -> None:
    """Ready, waiting for its time, or for a job of the Batch API: none is sent to a paused tier."""
    plan = planned(120, LADDER)
    made = Bench(tmp_path, "http://127.0.0.1:9/v1")
    endpoint = Endpoint(
        "openai", made.base_url, "none", LADDER, simulated=False, form=lambda _: "labels"
    )
    scope = ("acme", str(plan["identity"][0]), "cheap")
    run = Run(
        {TAXONOMY.name: TAXONOMY}, endpoint, made.journal, 1, 0, made.budget, load_prices(), True,
        0, made.time.clock(), lambda *_: None, 120, lambda rows: rows, frozenset(),
        watching(plan, [], paused=[scope]),
    )  # fmt: skip
    ready, later, job, other = run.new_works(plan)
    run._ready[0].append(ready)
    run._later = [(9.0, 0, later), (8.0, 1, Work(other.rows, 1, 1, 4))]
    run.for_batch = [job]
    run.leave_paused()
    assert not run._ready[0]
    assert [
        work.rows.equals(own.rows)
        for work, own in zip(run._ready[1], (ready, later, job), strict=True)
    ] == [True] * 3
    assert [work.step for *_, work in run._later] == [1]
    assert run.for_batch == []
    made.close()


def test_what_goes_up_in_doubt_is_no_error(tmp_path: Path) -> None:
    """A model that says it is not sure, and is asked over, must not be paused for it."""
    plan = planned(30, LADDER)

    def unsure(asked: Asked) -> Answer:
        if asked.body["model"] == BIG:
            return wrong_by()(asked)
        told: list[dict[str, Any]] = [entry(i) | {"unsure": False} for i in asked.ids]
        for each in told[:6]:
            each |= {MAIN: WRONG, "unsure": True}
        return entries(told, model=MODEL)

    with bench(tmp_path, unsure) as ran:
        ran.ask(plan, LADDER)
        table = watching(plan, [])._sampler.table(ran.bench.journal.requests())
        assert table.select("n", "correct").rows() == [(24, 24)]
        assert not ran.told


@pytest.mark.parametrize("in_flight", [1, 4])
def test_only_what_was_sent_depends_on_the_order(tmp_path: Path, in_flight: int) -> None:
    """However many are in flight, a request is judged alike, and every text is answered once."""
    plan = planned(180, LADDER)
    with bench(tmp_path, wrong_by(MODEL)) as ran:
        watch = watching(plan, ran.told)
        ran.bench.ask(plan, quality=watch, ladder=LADDER, in_flight=in_flight)
        readout = ran.bench.readout()
        assert readout.answers.filter(status="labelled").height == 180
        assert readout.requests.height == 6
        table = watching(plan, [])._sampler.table(ran.bench.journal.requests())
        assert set(table.filter(tier="cheap")["verdict"]) == {"below"}
        assert {s.request_id for s in ran.told} == set(table.filter(tier="cheap")["request_id"])


def test_jobs_of_the_batch_api_are_sampled_when_they_end(tmp_path: Path) -> None:
    """A whole job is sent at once; what would go there after it, goes on or is deferred."""
    plan, time = planned(180, LADDER), FakeTime()
    told: list[BatchSample] = []
    options: dict[str, Any] = {"clock": lambda: NOON.timestamp() + time.seconds}
    options |= {"latency_seconds": 0.0, "wrong_rates": {MODEL: 1.0}}
    with Simulator(LexiconJudge(), **options) as simulator:
        made = Bench(tmp_path, simulator.base_url)
        made.time = time
        right = [
            (key, json.dumps({MAIN: LexiconJudge().judge(title, text, fields())[MAIN]}))  # type: ignore[index]
            for key, title, text in plan.select("content_key", "title", "text").iter_rows()
        ]
        watch = watching(plan, told, truth=lambda *_: right)
        made.ask(plan, quality=watch, ladder=LADDER, by_batch=["acme"])
        assert watch.counts == {"below": 6}
        more = planned(240, LADDER)
        watch = watching(more, told, paused={told[0].scope}, judged=[s.request_id for s in told])
        made.ask(more, quality=watch, ladder=LADDER, by_batch=["acme"])
        answers = made.readout().answers
        assert dict(answers.group_by("tier").len().iter_rows()) == {"cheap": 180, "strong": 60}
        watch = watching(planned(300, ALONE), told, paused={told[0].scope})
        done = made.ask(planned(300, ALONE), quality=watch, ladder=ALONE, by_batch=["acme"])
        assert set(done.unsent["reason"]) == {"quality"}
        assert made.spend().reserved == 0
        made.close()


def fields() -> dict[str, Sequence[str]]:
    return {field.name: field.labels for field in TAXONOMY.fields}
