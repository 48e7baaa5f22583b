"""Short codes in place of labels: what is asked, and that a reply is decoded or refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from review_optimizer_dagster.exchange.prompt import (
    MOST_CODES,
    Asking,
    label_codes,
    reply_form,
)
from review_optimizer_dagster.exchange.reply import read_reply
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy, load_taxonomy
from review_optimizer_dagster_tests.core.test_classifier import record
from review_optimizer_dagster_tests.scripted_endpoint import TAXONOMY, completion

CODES = Asking(TAXONOMY, "codes", asks_unsure=True)


def taxonomy_of(*counts: int) -> Taxonomy:
    """Fields with so many labels."""
    fields = tuple(
        LabelField(
            name=f"field{number}",
            question="Which?",
            labels=tuple(f"label {number} {label}" for label in range(count)),
        )
        for number, count in enumerate(counts)
    )
    return Taxonomy(name="t", version=1, document="text", instructions="Label.", fields=fields)


def read(pairs: object, **changes: Any) -> Any:
    """What a reply of the codes form says about documents 1, 2 and 3."""
    codes = {name: list(each) for name, each in CODES.codes.items()}
    answer = completion(json.dumps({"answers": pairs}))
    return read_reply(record("r", ["a", "b", "c"], answer, codes=codes, **changes))


def code_of(**labels: str) -> str:
    by_label = {n: {label: c for c, label in each.items()} for n, each in CODES.codes.items()}
    return "".join(
        by_label[name][labels.get(name, next(iter(by_label[name])))] for name in CODES.codes
    )


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=800, unique=True))
def test_every_label_has_a_code_of_its_own_and_all_are_of_one_length(labels: list[str]) -> None:
    """Codes stand behind each other without a mark between them."""
    codes = label_codes(labels)
    assert list(codes.values()) == labels
    assert len({len(code) for code in codes}) == 1
    assert all(code.isascii() and code.isalpha() and code.islower() for code in codes)


def test_the_prompt_tells_every_code_and_the_schema_allows_nothing_else() -> None:
    """A model can only use a code that it was told, and a strict schema holds it to them."""
    codes = {name: list(each) for name, each in CODES.codes.items()}
    for name, each in CODES.codes.items():
        for code, label in each.items():
            assert f"  {code} = {json.dumps(label)}" in CODES.system_prompt, name
    schema = CODES.response_format["json_schema"]["schema"]
    enum = schema["properties"]["answers"]["items"]["items"]["enum"]
    joint = {"".join(parts) for parts in itertools.product(*codes.values())}
    ids = {str(number) for number in range(1, 101)}
    assert set(enum) == ids | joint | {f"{code}?" for code in joint}
    assert len(enum) == len(set(enum))
    plain = Asking(TAXONOMY, "codes").response_format["json_schema"]["schema"]
    assert not any("?" in value for value in str(plain).split("'"))


@pytest.mark.parametrize(
    ("counts", "form"),
    [
        ((4, 4, 3), "codes"),
        ((2,), "codes"),
        ((15, 15), "codes"),
        ((MOST_CODES + 1,), "labels"),  # a schema may hold only so many values
        ((77, 4), "labels"),
    ],
)
def test_codes_are_used_where_they_fit_and_save(counts: tuple[int, ...], form: str) -> None:
    """Output is what an answer takes its time for, and is paid for most."""
    assert reply_form(taxonomy_of(*counts), "auto") == form
    assert reply_form(taxonomy_of(*counts), "labels") == "labels"
    if form == "codes":
        asking = Asking(taxonomy_of(*counts), "codes", True, 500)
        enum = asking.response_format["json_schema"]["schema"]["properties"]["answers"]
        assert len(enum["items"]["items"]["enum"]) <= 1_000


def test_shipped_taxonomies_are_asked_in_codes() -> None:
    """Both have fields enough for labels to be long."""
    for name in ("reviews", "complaints"):
        taxonomy = load_taxonomy(name)
        assert reply_form(taxonomy, "auto") == "codes"
        short, spelled = (Asking(taxonomy, form).answer_tokens for form in ("codes", "labels"))
        assert short < spelled / 2


def test_codes_are_decoded_field_by_field() -> None:
    """The labels are those that the code stands for, in the order of the questions."""
    last = {field.name: field.labels[-1] for field in TAXONOMY.fields}
    reply = read([["1", code_of()], ["2", code_of(**last)], ["3", code_of() + "?"]])
    first = {field.name: field.labels[0] for field in TAXONOMY.fields}
    assert reply.labels == {"1": first, "2": last, "3": first}
    assert (reply.status, reply.unsure, dict(reply.faults)) == ("ok", {"3"}, {})


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        (["2", "zzz"], "wrong_label"),
        (["2", code_of() + "x"], "wrong_label"),
        (["2", code_of()[:-1]], "wrong_label"),
        (["2", code_of() + "??"], "wrong_label"),
        (["2", ""], "wrong_label"),
        (["2"], "wrong_label"),
        (["2", code_of(), code_of()], "wrong_label"),
        (["2", 7], "wrong_label"),
        ([2, code_of()], "missing"),
        ([code_of(), "2"], "missing"),
        ([], "missing"),
        ("2" + code_of(), "missing"),
        ({"id": "2", "code": code_of()}, "missing"),
        (["9", code_of()], "missing"),
        (["1", code_of()], "missing"),
    ],
)
def test_a_pair_that_is_none_answers_nothing(second: object, fault: str) -> None:
    """Nothing is guessed, and the neighbours' answers stand unless their id came twice."""
    reply = read([["1", code_of()], second, ["3", code_of()]])
    assert reply.faults["2"] == fault
    assert "3" in reply.labels
    assert ("1" in reply.labels) is (second != ["1", code_of()])
