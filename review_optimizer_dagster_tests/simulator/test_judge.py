"""The judges: a lexicon that reads, and a file of answers that knows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.simulator import judge as judge_module
from review_optimizer_dagster.simulator.judge import AnswersJudge, LexiconJudge
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy
from review_optimizer_dagster.text import redact

REVIEWS = load_taxonomy("reviews")
COMPLAINTS = load_taxonomy("complaints")


def fields(taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    return {field.name: field.labels for field in taxonomy.fields}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Excellent headset, sturdy and crisp. I recommend it.", ("positive", "good", "yes")),
        ("Flimsy, it broke on day two. I returned it.", ("negative", "poor", "no")),
        ("It does not work and I am not happy.", ("negative", "poor", "unclear")),
        ("No complaints. It never wobbles.", ("positive", "good", "unclear")),
        ("Not only sturdy, it is also beautiful.", ("positive", "good", "unclear")),
        (
            "The screen is sharp and I love it, but the battery is terrible and it broke.",
            ("mixed", "average", "unclear"),
        ),
        ("Would not recommend it to anyone.", ("negative", "unclear", "no")),
        ("It is a gift, still in the box, too early to say.", ("neutral", "unclear", "unclear")),
        (
            "An average lamp, nothing special, take it or leave it.",
            ("neutral", "average", "unclear"),
        ),
        ("Arrived on a Tuesday.", ("neutral", "unclear", "unclear")),
    ],
)
def test_reads_praise_complaint_and_negation(text: str, expected: tuple[str, str, str]) -> None:
    """The demo is only as good as these readings: sides, negation, both sides, no side."""
    assert LexiconJudge().judge(None, text, fields(REVIEWS)) == dict(
        zip(fields(REVIEWS), expected, strict=True)
    )


def test_the_title_counts() -> None:
    """Many reviews say what they think in the title alone."""
    judged = LexiconJudge().judge("Terrible", "It came on Monday.", fields(REVIEWS))
    assert judged is not None
    assert judged["sentiment"] == "negative"


@pytest.mark.parametrize(
    ("text", "product"),
    [
        ("Equifax shows an inquiry that I never made.", "credit reporting"),
        ("The debt collector calls every day and will not validate the debt.", "debt collection"),
        ("My escrow account and my mortgage payment are wrong.", "mortgage"),
        ("Navient lost my student loan papers.", "student loan"),
    ],
)
def test_reads_complaints_by_the_same_code(text: str, product: str) -> None:
    """The second taxonomy is another table, never another branch."""
    judged = LexiconJudge().judge(None, text, fields(COMPLAINTS))
    assert judged is not None
    assert judged["product"] == product
    assert judged["issue"] in COMPLAINTS.fields[1].labels


def test_a_field_without_lexicon_goes_by_the_labels_names() -> None:
    """A tenant's own taxonomy must get an answer too, if only a naive one."""
    judge = LexiconJudge()
    asked = {"topic": ("weather", "sport news", "cooking")}
    assert judge.judge(None, "Sport, sport, and then the weather.", asked) == {
        "topic": "sport news"
    }
    assert judge.judge("Cooking", "At home.", asked) == {"topic": "cooking"}
    assert judge.judge(None, "Nothing of the kind.", asked) == {"topic": "weather"}


def test_answers_only_with_labels_that_were_asked_for() -> None:
    """A tenant may narrow a label set; the lexicon's other labels are then no answer."""
    asked = {"sentiment": ("negative", "positive")}
    for text in ("Mixed feelings, love and hate.", "It came on Monday.", "Take it or leave it."):
        judged = LexiconJudge().judge(None, text, asked)
        assert judged is not None
        assert judged["sentiment"] in asked["sentiment"]


@pytest.mark.parametrize("taxonomy", [REVIEWS, COMPLAINTS], ids=lambda taxonomy: taxonomy.name)
def test_lexicons_name_only_labels_of_their_taxonomy(taxonomy: Taxonomy) -> None:
    """A misspelt label in a lexicon would never be answered, and nobody would notice."""
    lexicons, _ = judge_module._shipped()
    owners = [lexicon for lexicon in lexicons if taxonomy.main.name in lexicon.fields]
    assert len(owners) == 1
    for field in taxonomy.fields:
        rules = owners[0].fields[field.name]
        cued = {
            cue.label
            for cues in owners[0]._cues.values()
            for cue in cues
            if cue.field == field.name
        } - {""}
        ruled = {rule.label for rule in rules.rules} | {n for r in rules.rules for n in r.at_least}
        assert cued | ruled | {rules.default} | set(rules.flip) <= set(field.labels)
        assert cued | {rules.default} == set(field.labels)


def test_policy_is_short_and_stable() -> None:
    """It is part of every cached answer's identity, so it changes with the lexicon alone."""
    assert LexiconJudge().policy == LexiconJudge().policy
    assert LexiconJudge().policy.startswith("lexicon-")


def write_answers(path: Path, rows: list[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(judge: AnswersJudge, text: str, title: str | None = None) -> dict[str, str] | None:
    return judge.judge(title, text, fields(REVIEWS))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """200 texts of two labels."""
    labels = ("positive", "negative")
    rows = [{"text": f"Review number {n}.", "label": labels[n % 2]} for n in range(200)]
    return write_answers(tmp_path / "answers.jsonl", list(rows))


def test_answers_as_the_file_does(tmp_path: Path) -> None:
    """Gold labels stand in for the model: the file's word counts, whatever the text says."""
    path = write_answers(
        tmp_path / "a.jsonl",
        [
            {"text": "Simply perfect.", "label": "neg"},
            {"title": "Oh", "text": "Broken.", "label": "positive", "product_quality": "good"},
        ],
    )
    judge = AnswersJudge(path, REVIEWS, 0.0, 0)
    first, second = answer(judge, "Simply  PERFECT."), answer(judge, "Broken.", "Oh")
    assert first is not None
    assert second is not None
    assert first["sentiment"] == "negative"
    assert first["product_quality"] == "good"  # no column of its own: by the lexicon
    assert second["sentiment"] == "positive"
    assert second["product_quality"] == "good"  # the column, against the lexicon
    assert second["purchase_recommendation"] == "unclear"


def test_a_text_that_is_not_in_the_file_has_no_answer(many: Path) -> None:
    """Inventing one would let a wrong set-up pass for a measurement."""
    judge = AnswersJudge(many, REVIEWS, 0.0, 0)
    assert answer(judge, "Never seen.") is None
    assert answer(judge, "Review number 1.", "With a title") is None
    assert judge.judge(None, "Review number 1.", {"product": ("mortgage", "student loan")}) is None


def test_knows_redacted_texts(tmp_path: Path) -> None:
    """The client masks addresses and numbers before it sends; the file does not."""
    text = "Call me on 555-123-4567 or write to someone@example.com, it is great."
    path = write_answers(
        tmp_path / "a.jsonl",
        [{"text": text, "label": "negative"}, {"text": "Other.", "label": "positive"}],
    )
    assert redact(text) != text
    for rate, label in ((0.0, "negative"), (1.0, "positive")):
        judge = AnswersJudge(path, REVIEWS, rate, 0)
        for sent in (text, redact(text)):
            answered = answer(judge, sent)
            assert answered is not None
            assert answered["sentiment"] == label


def test_the_majority_decides_between_conflicting_labels(tmp_path: Path) -> None:
    """Real files label the same short text in several ways; ties go by the order of labels."""
    rows = [
        {"text": text, "label": label}
        for text, labels in {
            "Good.": ("negative", "positive", "negative"),
            "OK.": ("negative", "neutral"),
        }.items()
        for label in labels
    ]
    judge = AnswersJudge(write_answers(tmp_path / "a.jsonl", list(rows)), REVIEWS, 0.0, 0)
    answers = [answer(judge, "good."), answer(judge, "ok.")]
    assert [each and each["sentiment"] for each in answers] == ["negative", "neutral"]


def wrong(judge: AnswersJudge) -> set[int]:
    labels = ("positive", "negative")
    answers = {n: answer(judge, f"Review number {n}.") for n in range(200)}
    return {n for n, each in answers.items() if each and each["sentiment"] != labels[n % 2]}


def test_the_error_rate_is_exact_and_chosen_by_seed(many: Path) -> None:
    """2 % of 200 texts are 4, the same 4 each time, and among the 20 of a rate of 10 %."""
    few, more = (wrong(AnswersJudge(many, REVIEWS, rate, 1)) for rate in (0.02, 0.10))
    assert (len(few), len(more)) == (4, 20)
    assert few < more
    assert few == wrong(AnswersJudge(many, REVIEWS, 0.02, 1))
    assert few != wrong(AnswersJudge(many, REVIEWS, 0.02, 2))
    assert wrong(AnswersJudge(many, REVIEWS, 0.0, 1)) == set()
    assert len(wrong(AnswersJudge(many, REVIEWS, 1.0, 1))) == 200


def test_wrong_labels_are_labels_of_the_file(many: Path) -> None:
    """With a truth of two classes, a third label would be scored by a mapping, maybe as right."""
    judge = AnswersJudge(many, REVIEWS, 1.0, 1)
    answers = [answer(judge, f"Review number {n}.") for n in range(200)]
    assert Counter(each["sentiment"] for each in answers if each) == {
        "positive": 100,
        "negative": 100,
    }


def test_policy_tells_files_rates_and_seeds_apart(many: Path, tmp_path: Path) -> None:
    """Answers of another file, rate or seed must not be served from the cache."""
    other = write_answers(tmp_path / "b.jsonl", [{"text": "A.", "label": "positive"}])
    policies = [
        AnswersJudge(many, REVIEWS, 0.02, 1).policy,
        AnswersJudge(many, REVIEWS, 0.02, 2).policy,
        AnswersJudge(many, REVIEWS, 0.0, 1).policy,
        AnswersJudge(other, REVIEWS, 0.0, 1).policy,
    ]
    assert len(set(policies)) == 4
    assert policies[0] == AnswersJudge(many, REVIEWS, 0.02, 1).policy
    assert policies[0].startswith("answers-")
    assert policies[0].endswith("-0.02")


def test_rows_that_name_a_tenant_are_answers_too(tmp_path: Path) -> None:
    """A file with a tenant column answers for everybody."""
    path = write_answers(
        tmp_path / "a.jsonl",
        [
            {"text": "One.", "label": "positive", "tenant": "acme"},
            {"text": "Two.", "label": "negative"},
        ],
    )
    judge = AnswersJudge(path, REVIEWS, 0.0, 0)
    answers = [answer(judge, "One."), answer(judge, "Two.")]
    assert [each and each["sentiment"] for each in answers] == ["positive", "negative"]


def test_a_file_without_a_usable_label_is_refused(tmp_path: Path) -> None:
    """Better one sentence now than 5,000 reviews without an answer later."""
    unlabelled = write_answers(tmp_path / "a.jsonl", [{"text": "One."}])
    with pytest.raises(UserError, match=r"no text with a label of sentiment.*positive"):
        AnswersJudge(unlabelled, REVIEWS, 0.0, 0)
    single = write_answers(tmp_path / "b.jsonl", [{"text": "One.", "label": "positive"}])
    with pytest.raises(UserError, match="only one label"):
        AnswersJudge(single, REVIEWS, 0.1, 0)
