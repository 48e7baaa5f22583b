"""The ladder of models: who begins, what goes up, how far, and what is left when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.core.batching import Tier, plan_batches
from review_optimizer_dagster.core.classifier import still_asked
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster_tests.scripted_endpoint import (
    DAY,
    MODEL,
    TAXONOMY,
    Answer,
    Asked,
    Bench,
    Script,
    ScriptedEndpoint,
    asking,
    entries,
    entry,
    misses,
)

BIG = "gpt-5.4-mini"
LADDER = (Tier("cheap", MODEL, max_complexity=0.3), Tier("strong", BIG))
TENS = BatchSettings(min_reviews=10, max_reviews=10)
OTHER = TAXONOMY.main.labels[1]


def planned(found: pl.DataFrame) -> pl.DataFrame:
    """The plan of these misses over the ladder, with texts."""
    plan = plan_batches(found, asking, LADDER, TENS, DAY)
    texts = found.select("identity", "content_key", "title", "text")
    return plan.join(texts, on=["identity", "content_key"], maintain_order="left")


def by_model(cheap: Script, strong: Script) -> Script:
    """Each model answers by its own script."""
    return lambda asked: (strong if asked.body["model"] == BIG else cheap)(asked)


def sure(asked: Asked, **labels: str) -> Answer:
    return entries([entry(i, **labels) for i in asked.ids], model=asked.body["model"])


def better(asked: Asked) -> Answer:
    """What the strong model says: another label than the cheap one's."""
    return sure(asked, **{TAXONOMY.main.name: OTHER})


def unsure_of(*positions: int) -> Script:
    """Sure of all but the documents at these positions of the batch."""

    def answer(asked: Asked) -> Answer:
        told: list[dict[str, Any]] = [entry(i) | {"unsure": False} for i in asked.ids]
        for position in positions:
            told[position]["unsure"] = True
        return entries(told, model=asked.body["model"])

    return answer


def ran(folder: Path, script: Script, count: int = 10, **limits: Any) -> Bench:
    """A run over the ladder against that script; closed, but readable."""
    with ScriptedEndpoint(otherwise=script) as endpoint:
        made = Bench(folder, endpoint.base_url)
        made.asked = endpoint.asked
        made.ask(planned(misses(count)), ladder=LADDER, **limits)
    return made


def test_complexity_decides_who_begins(tmp_path: Path) -> None:
    """Easy reviews cost a tenth where the cheap model reads them."""
    hard = "Although the HDMI firmware isn't 64GB, the escrow was not disputed, however. " * 9
    easy = misses(30)
    found = easy.with_columns(
        text=pl.when(pl.int_range(30) < 10).then(pl.lit(hard)).otherwise("text")
    )
    plan = planned(found)
    assert dict(plan.group_by("tier").len().iter_rows()) == {"cheap": 20, "strong": 10}
    assert plan.filter(pl.col("complexity") <= 0.3)["tier"].unique().to_list() == ["cheap"]
    assert plan.group_by("batch_id").agg(pl.col("tier").n_unique())["tier"].max() == 1
    with ScriptedEndpoint(otherwise=lambda asked: sure(asked)) as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        made.ask(plan, ladder=LADDER)
        answers = made.readout().answers
        made.close()
    assert dict(answers.group_by("tier").len().iter_rows()) == {"cheap": 20, "strong": 10}
    assert {asked.body["model"] for asked in endpoint.asked} == {MODEL, BIG}


def test_what_a_model_is_not_sure_of_is_asked_of_the_next(tmp_path: Path) -> None:
    """Two of ten, no more: the better model's answer is the one that counts."""
    made = ran(tmp_path, by_model(unsure_of(2, 5), better))
    readout = made.readout()
    assert [len(asked.ids) for asked in made.asked] == [10, 2]
    counts = dict(readout.answers.group_by("tier").len().iter_rows())
    assert counts == {"cheap": 8, "strong": 2}
    strong = readout.answers.filter(tier="strong")
    assert all(OTHER in labels for labels in strong["labels"])
    assert not readout.answers["unsure"].any()
    assert readout.requests["escalated"].to_list() == [2, 0]
    assert readout.requests["tier"].to_list() == ["cheap", "strong"]
    shares = readout.shares.group_by("request_id").agg(pl.col("cost_nanos").sum())
    assert shares["cost_nanos"].sum() == readout.requests["cost_nanos"].sum()
    made.close()


def test_only_a_share_of_a_batch_goes_up(tmp_path: Path) -> None:
    """A model that doubts everything must not make every review dear."""
    made = ran(tmp_path, by_model(unsure_of(*range(10)), better), max_escalated=0.3)
    answers = made.readout().answers
    assert [len(asked.ids) for asked in made.asked] == [10, 3]
    assert answers.filter(tier="strong").height == 3
    assert answers.filter("unsure").height == 7  # told, and marked
    assert answers["next_tier"].null_count() == 10
    made.close()


@pytest.mark.parametrize(
    "useless",
    [
        lambda asked: entries([entry(i) for i in asked.ids[1:]], model=MODEL),
        lambda asked: entries(
            [entry(i, product_quality="superb") if i == asked.ids[0] else entry(i)
             for i in asked.ids], model=MODEL,
        ),
        lambda _: entries([], model=MODEL),
    ],
)  # fmt: skip
def test_what_a_model_cannot_answer_goes_up_after_two_tries(
    tmp_path: Path, useless: Script
) -> None:
    """Asking the same model a fifth time is no better than asking it twice."""
    made = ran(tmp_path, by_model(useless, better), max_escalated=1.0)
    answers = made.readout().answers
    assert answers["status"].to_list() == ["labelled"] * 10
    assert answers.filter(tier="strong").height >= 1
    cheap = made.readout().requests.filter(tier="cheap")
    assert cheap["attempt"].max() == 2
    made.close()


def test_errors_of_the_endpoint_are_no_reason_to_pay_more(tmp_path: Path) -> None:
    """A busy server says nothing about the model's judgement."""
    broken = Answer(503, '{"error": {"message": "busy"}}')
    made = ran(tmp_path, by_model(lambda _: broken, better), max_attempts=3)
    readout = made.readout()
    assert readout.requests["tier"].unique().to_list() == ["cheap"]
    assert readout.answers["status"].to_list() == ["failed"] * 10
    made.close()


def test_a_doubtful_answer_is_better_than_none(tmp_path: Path) -> None:
    """The next tier may be down; what the first one said stays, marked as unsure."""
    broken = Answer(500, '{"error": {"message": "down"}}')
    made = ran(tmp_path, by_model(unsure_of(0, 1), lambda _: broken), max_attempts=2)
    answers = made.readout().answers
    assert answers["status"].to_list() == ["labelled"] * 10
    assert answers.filter("unsure").height == 2
    assert answers["next_tier"].null_count() == 10  # given up: not for ever due
    before = len(made.asked)
    assert before == 3
    made.close()


def test_a_killed_run_goes_on_with_the_better_model(tmp_path: Path) -> None:
    """What was to go up and did not is asked of the next tier, not of the first one again."""
    script = by_model(unsure_of(2, 5), better)
    made = ran(tmp_path, script)
    cheap, strong = made.journal.requests()
    made.close()
    with ScriptedEndpoint(otherwise=script) as endpoint:
        later = Bench(tmp_path / "later", endpoint.base_url)
        outcome = cheap.pop("outcome")
        later.journal.intend(cheap)
        later.journal.settle(cheap["request_id"], outcome)
        due = later.readout().answers.filter(pl.col("next_tier").is_not_null())
        assert due["next_tier"].to_list() == ["strong"] * 2
        assert set(due["status"]) == {"labelled"}
        plan = planned(misses(10))
        assert set(still_asked(plan, later.readout().answers)["tier"]) == {"strong"}
        later.ask(plan, ladder=LADDER)
        assert [asked.body["model"] for asked in endpoint.asked] == [BIG]
        assert sorted(endpoint.asked[0].ids) == sorted(i for i, *_ in strong["items"])
        counts = dict(later.readout().answers.group_by("tier").len().iter_rows())
        assert counts == {"cheap": 8, "strong": 2}
        later.ask(plan, ladder=LADDER)
        assert len(endpoint.asked) == 1
        later.close()
