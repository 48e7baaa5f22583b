"""The two forms of reply: labels spelled out, and codes with a legend in the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.simulator.forms import Answer, CodesForm, Form, LabelsForm
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.tokens import estimate_tokens
from review_optimizer_dagster_tests.simulator.asking import (
    CODES,
    TEXTS,
    answers,
    ask,
    body,
    codes_body,
    codes_schema,
    schema,
    strict,
)

MANY = {str(number): f"Review number {number}: great sound." for number in range(1, 201)}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(LexiconJudge(), latency_seconds=0.0) as running:
        yield running


def unsure_body(texts: dict[str, str] = TEXTS) -> dict[str, Any]:
    """The labels form, with the property that says whether the model is sure."""
    item = schema()["json_schema"]["schema"]["properties"]["answers"]["items"]
    properties = {**item["properties"], "unsure": {"type": "boolean"}}
    wanted = {**item, "properties": properties, "required": [*item["required"], "unsure"]}
    return body(texts, response_format=strict("answers", wanted))


def test_codes_say_what_the_judge_said(simulator: Simulator) -> None:
    """A code is worth nothing unless it stands for the label that would have been spelled."""
    fields = {name: list(codes.values()) for name, codes in CODES.items()}
    spelled, coded = ask(simulator, body(response_format=schema(fields)), codes_body(TEXTS))
    decoded = [
        {
            "id": entry[0],
            **{
                name: codes[letter]
                for (name, codes), letter in zip(CODES.items(), entry[1], strict=True)
            },
        }
        for entry in answers(coded)
    ]
    assert decoded == answers(spelled)
    assert [entry[0] for entry in answers(coded)] == ["1", "2"]


def test_a_label_may_hold_what_json_escapes(simulator: Simulator) -> None:
    """Labels come from a user's taxonomy; a quote in one must not end it."""
    system = '- size: Which?\n  aa = "5\\" (five) inches" (small)\n  ab = "wide"'
    asked = body({"1": "five inches"}, system, response_format=codes_schema())
    [response] = ask(simulator, asked)
    assert answers(response) == [["1", "aa"]]


def test_codes_without_a_legend_are_refused(simulator: Simulator) -> None:
    """Without the legend nobody could say what a code means, and a guess would be paid for."""
    [error] = ask(simulator, body(TEXTS, "- sentiment: Which?", response_format=codes_schema()))
    assert isinstance(error, openai.BadRequestError)
    assert "legend" in str(error)


def test_unsure_is_said_of_the_same_texts_in_both_forms() -> None:
    """Escalation is tested with a known share, and the label beside it stays the judge's."""
    unsure: list[set[str]] = []
    with Simulator(LexiconJudge(), latency_seconds=0.0, unsure_rate=0.2, seed=3) as doubting:
        spelled, coded, certain = ask(
            doubting, unsure_body(MANY), codes_body(MANY, unsure=True), codes_body(MANY)
        )
    unsure.append({entry["id"] for entry in answers(spelled) if entry["unsure"]})
    unsure.append({entry[0] for entry in answers(coded) if entry[1].endswith("?")})
    assert unsure[0] == unsure[1]
    assert 25 <= len(unsure[0]) <= 55
    assert {entry[1].rstrip("?") for entry in answers(coded)} == {"pu"}
    assert {entry[1] for entry in answers(certain)} == {"pu"}
    with Simulator(LexiconJudge(), latency_seconds=0.0, unsure_rate=0.2, seed=4) as other:
        [again] = ask(other, unsure_body(MANY))
    assert {entry["id"] for entry in answers(again) if entry["unsure"]} != unsure[0]


def test_never_unsure_unless_told(simulator: Simulator) -> None:
    """The property must be there all the same, since the schema requires it."""
    [response] = ask(simulator, unsure_body())
    assert [entry["unsure"] for entry in answers(response)] == [False, False]
    with pytest.raises(UserError, match=r"unsure_rate is 1\.5"):
        Simulator(LexiconJudge(), unsure_rate=1.5)


ROWS = [
    ("positive", "good", "yes"),
    ("negative", "poor", "no"),
    ("mixed", "good", "unclear"),
    ("neutral", "unclear", "unclear"),
    ("positive", "good", "yes"),
    ("negative", "unclear", "no"),
    ("positive", "average", "yes"),
    ("mixed", "poor", "no"),
]
NAMES = ("sentiment", "product_quality", "purchase_recommendation")
LETTERS = (
    {"positive": "p", "neutral": "n", "negative": "e", "mixed": "m"},
    {"good": "g", "average": "a", "poor": "p", "unclear": "u"},
    {"yes": "y", "no": "n", "unclear": "u"},
)


def long_reply(coded: bool, unsure: bool) -> tuple[Form, str]:
    """A reply to a hundred documents."""
    fields = {name: list(codes) for name, codes in zip(NAMES, LETTERS, strict=True)}
    codes = dict(zip(NAMES, LETTERS, strict=True))
    form: Form = (
        CodesForm("answers", fields, unsure, codes)
        if coded
        else LabelsForm("answers", fields, unsure)
    )
    said = (
        Answer(str(n), dict(zip(NAMES, ROWS[n % 8], strict=True)), unsure and n % 4 == 0)
        for n in range(1, 101)
    )
    return form, form.encode(said)


@pytest.mark.parametrize(
    ("coded", "unsure", "measured"),
    [(True, False, 592), (True, True, 617), (False, False, 2156), (False, True, 2656)],
)
def test_counts_replies_as_the_real_tokenizer_does(
    coded: bool, unsure: bool, measured: int
) -> None:
    """Output is the dear part of a bill; `measured` is o200k_base's count of these very texts."""
    form, content = long_reply(coded, unsure)
    assert abs(form.count(content) - measured) <= 0.05 * measured


@pytest.mark.parametrize("coded", [True, False])
def test_cuts_at_exactly_the_limit(coded: bool) -> None:
    """A truncated answer is paid for up to the limit, and is the beginning of the whole one."""
    form, content = long_reply(coded, unsure=True)
    for tokens in (1, 2, 50, 333):
        cut = form.cut(content, tokens)
        assert content.startswith(cut)
        assert len(cut) < len(content)
        assert len(form.cut(content, tokens + 1)) > len(cut)
    assert form.cut(content, 10_000) == content


def test_a_coded_reply_is_cut_too(simulator: Simulator) -> None:
    """finish_reason and usage must agree with the text."""
    whole, cut = ask(simulator, codes_body(MANY), codes_body(MANY, max_completion_tokens=100))
    choice = cut.parse().choices[0]
    assert choice.finish_reason == "length"
    assert cut.parse().usage.completion_tokens == 100
    assert whole.parse().choices[0].message.content.startswith(choice.message.content)


def test_the_schema_is_part_of_the_prompt(simulator: Simulator) -> None:
    """Providers bill it, and for codes it is most of a short prompt."""
    few, many = ask(
        simulator,
        codes_body(TEXTS),
        codes_body(TEXTS, response_format=codes_schema(500)),
    )
    grown = many.parse().usage.prompt_tokens - few.parse().usage.prompt_tokens
    texts = [json.dumps(codes_schema(n), separators=(",", ":")) for n in (2, 500)]
    assert grown == estimate_tokens(texts[1]) - estimate_tokens(texts[0]) > 900
