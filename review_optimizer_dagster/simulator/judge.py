"""Who the endpoint asks for labels: a lexicon, or a file of known answers.

Judges know labels only as data: from the request, the lexicons and the answers file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.settings import InputSettings
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster.text import content_key, normalise, redact

Fields = Mapping[str, Sequence[str]]

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)*|[.,;:!?()\n]")
_ALTERNATIVES = re.compile(r"\(([^()]*)\)")


class Judge(Protocol):
    """Gives labels to a document. `policy` names the judge in the cache's identity."""

    @property
    def policy(self) -> str:
        """Name of what judges, as it stands in the identity of its answers."""
        ...

    def judge(self, title: str | None, text: str, fields: Fields) -> dict[str, str] | None:
        """Field to label for the fields asked; None where it has no answer."""
        ...


class Cue(NamedTuple):
    """A word or phrase that speaks for a label of a field."""

    words: tuple[str, ...]
    field: str
    label: str
    weight: float


@dataclass(frozen=True)
class Rule:
    """Where every label in `at_least` has its score and the scores are near, `label` is meant."""

    at_least: Mapping[str, float]
    balance: float
    label: str


@dataclass(frozen=True)
class FieldRules:
    """How the scores of a field become one label."""

    default: str
    least: float
    flip: Mapping[str, str]
    rules: tuple[Rule, ...]


def expand(pattern: str) -> Iterator[str]:
    """Every phrase that a pattern with alternatives stands for.

    >>> list(expand("(really |)like(d|)"))
    ['really liked', 'really like', 'liked', 'like']
    """
    parts = _ALTERNATIVES.split(pattern)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def tokenise(text: str) -> list[str]:
    """Words in lower case, and the punctuation that ends a clause.

    >>> tokenise("It's FINE, really.")
    ["it's", 'fine', ',', 'really', '.']
    """
    return _TOKEN.findall(text.lower().replace("\u2019", "'"))


class Lexicon:
    """One lexicon file: the cues of a taxonomy's fields, and how they are weighed."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.scope: int = data["negation"]["scope"]
        self.title_weight: float = data["title_weight"]
        self.most_times: int = data["most_times"]
        self.negations = _phrases(data["negation"]["words"])
        self.clause_ends = _phrases(data["negation"]["ends"])
        self.fields = {name: _field_rules(field) for name, field in data["fields"].items()}
        self._cues: dict[tuple[str, ...], list[Cue]] = defaultdict(list)
        ignored = [
            Cue(tuple(phrase.split()), name, "", 0.0)
            for phrase in _phrases(data["negation"]["ignored"])
            for name in self.fields
        ]
        for cue in itertools.chain(ignored, *map(_cues, data["fields"].items())):
            self._cues[cue.words].append(cue)
        self._lengths = _lengths(self._cues)

    def score(self, title: str | None, text: str) -> dict[str, dict[str, float]]:
        """Field to label to the summed weight of the cues that were found."""
        scores: dict[str, dict[str, float]] = {name: defaultdict(float) for name in self.fields}
        # By identity: hashing a cue's words every time takes longer than finding it.
        times: dict[int, int] = defaultdict(int)
        for part, factor in ((title or "", self.title_weight), (text, 1.0)):
            tokens = tokenise(part)
            negates = not self.negations.isdisjoint(tokens)
            spent: dict[str, set[int]] = {name: set() for name in self.fields}
            for position, cue in self._found(tokens):
                if len(cue.words) > 1:
                    spent[cue.field].update(range(position, position + len(cue.words)))
                times[id(cue)] += 1
                if times[id(cue)] > self.most_times or not cue.label:
                    continue
                negated = negates and self._negated(tokens, position, spent[cue.field])
                label = self.fields[cue.field].flip.get(cue.label) if negated else cue.label
                if label is not None:
                    scores[cue.field][label] += cue.weight * factor
        return scores

    def _negated(self, tokens: list[str], position: int, spent: set[int]) -> bool:
        """Whether a negation before a cue reaches it.

        One that is part of a longer cue ("not worth it") is spent: it has said all it says there.
        """
        for before in range(position - 1, max(-1, position - 1 - self.scope), -1):
            if tokens[before] in self.clause_ends:
                return False
            if tokens[before] in self.negations and before not in spent:
                return True
        return False

    def _found(self, tokens: list[str]) -> Iterator[tuple[int, Cue]]:
        """Where a cue begins, and the longest cue of each field there; cues do not overlap."""
        taken = dict.fromkeys(self.fields, 0)
        lengths, cues = self._lengths, self._cues
        following = [*tokens[1:], ""]
        # Half of all words begin no cue, so they must cost next to nothing.
        for position in [at for at, token in enumerate(tokens) if token in lengths]:
            by_next = lengths[tokens[position]]
            for length in by_next.get(following[position], by_next[""]):
                end = position + length
                for cue in cues.get(tuple(tokens[position:end]), ()):
                    if position >= taken[cue.field]:
                        taken[cue.field] = end
                        yield position, cue

    def decide(self, field: str, scores: Mapping[str, float], labels: Sequence[str]) -> str:
        """The label that the scores of a field mean, always one of `labels`."""
        field_rules = self.fields[field]
        for rule in field_rules.rules:
            sides = [scores.get(label, 0.0) for label in rule.at_least]
            enough = all(scores.get(name, 0.0) >= least for name, least in rule.at_least.items())
            if rule.label in labels and enough and min(sides) >= rule.balance * max(sides):
                return rule.label
        best = max(labels, key=lambda label: scores.get(label, 0.0))
        if scores.get(best, 0.0) >= field_rules.least:
            return best
        return field_rules.default if field_rules.default in labels else labels[0]


def _lengths(cues: Iterable[tuple[str, ...]]) -> dict[str, dict[str, list[int]]]:
    """First word to second word to how long such cues are, the longest first.

    The second word "" stands for any that no cue goes on with.
    """
    sizes: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for words in cues:
        sizes[words[0]][words[1] if len(words) > 1 else ""].add(len(words))
    return {
        first: {
            second: sorted(found | by_second[""], reverse=True)
            for second, found in [("", by_second[""]), *by_second.items()]
        }
        for first, by_second in sizes.items()
    }


def _phrases(patterns: Sequence[str]) -> frozenset[str]:
    return frozenset(phrase for pattern in patterns for phrase in expand(pattern))


def _field_rules(field: Mapping[str, Any]) -> FieldRules:
    rules = tuple(Rule(r["at_least"], r["balance"], r["label"]) for r in field.get("rules", ()))
    return FieldRules(field["default"], field["least"], field.get("flip", {}), rules)


def _cues(field: tuple[str, Mapping[str, Any]]) -> Iterator[Cue]:
    name, data = field
    for label, weights in data["cues"].items():
        for weight, patterns in weights.items():
            for phrase in sorted(_phrases(patterns)):
                yield Cue(tuple(tokenise(phrase)), name, label, float(weight))


@cache
def _shipped() -> tuple[tuple[Lexicon, ...], str]:
    """The lexicons of the package, and a digest of every word in them."""
    folder = resources.files("review_optimizer_dagster.simulator.lexicons")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    texts = [file.read_text(encoding="utf-8") for file in files]
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=4).hexdigest()
    return tuple(Lexicon(tomllib.loads(text)) for text in texts), digest


class LexiconJudge:
    """Scores words and phrases against the lexicon that knows the field.

    A field that no lexicon knows gets the label whose name's words stand most often in the text,
    else its first label.
    """

    def __init__(self) -> None:
        self._lexicons, digest = _shipped()
        self.policy = f"lexicon-{digest}"

    def judge(self, title: str | None, text: str, fields: Fields) -> dict[str, str] | None:
        """Field to label; never None."""
        found: dict[str, str] = {}
        for lexicon in self._lexicons:
            known = [name for name in fields if name in lexicon.fields]
            scores = lexicon.score(title, text) if known else {}
            found |= {name: lexicon.decide(name, scores[name], fields[name]) for name in known}
        return {
            name: found[name] if name in found else _named_label(title, text, labels)
            for name, labels in fields.items()
        }


def _named_label(title: str | None, text: str, labels: Sequence[str]) -> str:
    times = Counter(tokenise(f"{title or ''}\n{text}"))
    # max keeps the first of equals, so a text that names none gets the first label.
    return max(labels, key=lambda label: sum(times[word] for word in set(tokenise(label))))


class AnswersJudge:
    """Answers from a file of labelled texts, with a set share of wrong answers.

    Texts are known raw and redacted, as the client may send either. `error_rate` is the exact
    share of the file's distinct texts whose main field is answered wrong: those that come first
    when texts are ordered by a digest of seed and content. A text that is not in the file has no
    answer. Fields that the file has no column for are judged by the lexicon. `flipped` spoils a
    share of single categories' answers on top, in the same way; it stands for a model that goes
    wrong without a word, and so does not show in the policy.
    """

    def __init__(
        self,
        source: Path,
        taxonomy: Taxonomy,
        error_rate: float,
        seed: int,
        columns: Mapping[str, str] | None = None,
        flipped: Mapping[str, float] | None = None,
    ) -> None:
        """Read the file, by a tenant's column map where that fits it.

        Raises UserError where it holds no labelled text, or none of a category that is to be
        flipped.
        """
        self._lexicon = LexiconJudge()
        self._main = taxonomy.main.name
        votes = _read_votes(source, taxonomy, columns or {})
        if columns and not votes.truth:
            votes = _read_votes(source, taxonomy, {})
        self._answers = {key: _majority(counts, taxonomy) for key, counts in votes.truth.items()}
        if not self._answers:
            raise UserError(
                f"{source} holds no text with a label of {self._main}; "
                f"its label column needs one of: {', '.join(taxonomy.main.labels)}"
            )
        self._spoil(votes.canonical, taxonomy, error_rate, seed, source)
        for category, rate in (flipped or {}).items():
            of_category = {
                key: text
                for key, text in votes.canonical.items()
                if votes.category[text] == category
            }
            if not of_category:
                names = ", ".join(sorted({name or "(none)" for name in votes.category.values()}))
                raise UserError(f"{source} has no category {category!r}; it has: {names}")
            self._spoil(of_category, taxonomy, rate, seed, source)
        with source.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        digest = hashlib.blake2b(
            f"{content}:{seed}:{self._lexicon.policy}".encode(), digest_size=4
        ).hexdigest()
        self.policy = f"answers-{digest}-{error_rate:g}"

    def _spoil(
        self,
        canonical: Mapping[str, str],
        taxonomy: Taxonomy,
        error_rate: float,
        seed: int,
        source: Path,
    ) -> None:
        """Replace the main label of the chosen texts by another one that the file uses."""
        used = {labels[self._main] for labels in self._answers.values()}
        if error_rate > 0 and len(used) < 2:
            raise UserError(
                f"{source} has only one label, so no answer from it can be wrong; "
                "leave the error rate at 0"
            )

        def draw(key: str) -> int:
            return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode()).digest()[:8])

        texts = sorted(set(canonical.values()), key=draw)
        wrong = set(texts[: round(error_rate * len(texts))])
        for key, text in canonical.items():
            if text in wrong:
                right = self._answers[key][self._main]
                others = [x for x in taxonomy.main.labels if x in used and x != right]
                label = others[draw(f"label:{text}") % len(others)]
                self._answers[key] = self._answers[key] | {self._main: label}

    def judge(self, title: str | None, text: str, fields: Fields) -> dict[str, str] | None:
        """Field to label, or None for a text or a question that the file does not answer."""
        answer = self._answers.get(content_key(normalise(title, text)))
        if answer is None or answer[self._main] not in fields.get(self._main, ()):
            return None
        rest = {name: labels for name, labels in fields.items() if name not in answer}
        judged = (self._lexicon.judge(title, text, rest) or {}) if rest else {}
        return {name: answer.get(name) or judged[name] for name in fields}


class _Votes(NamedTuple):
    truth: Mapping[str, Mapping[str, Counter[str]]]  # content key -> field -> label -> rows
    canonical: Mapping[str, str]  # content key -> the key that stands for the same text
    category: Mapping[str, str | None]  # that key -> the category of its first row


def _read_votes(source: Path, taxonomy: Taxonomy, columns: Mapping[str, str]) -> _Votes:
    """Count the labels of every text in the file, under each key that a client may send it by."""
    truth: dict[str, dict[str, Counter[str]]] = {}
    canonical: dict[str, str] = {}
    categories: dict[str, str | None] = {}
    for raw, redacted, category, labels in _labelled_rows(source, taxonomy, columns):
        categories.setdefault(redacted, category)
        for key in {raw, redacted}:
            canonical[key] = redacted
            counts = truth.setdefault(key, defaultdict(Counter))
            for field, label in labels.items():
                counts[field][label] += 1
    return _Votes(truth, canonical, categories)


def _labelled_rows(
    source: Path, taxonomy: Taxonomy, columns: Mapping[str, str]
) -> Iterator[tuple[str, str, str | None, dict[str, str]]]:
    """Content key, that of the redacted text, category and true labels of each labelled row."""
    from review_optimizer_dagster.core.reviews import (
        Source,
        TenantRules,
        read_reviews,
    )

    rules = TenantRules(taxonomy, columns)
    # Whose texts they are is of no interest here: rows that name a tenant are read as theirs.
    for tenant in ("answers", None):
        of_others = False
        for chunk in read_reviews(
            Source(source, source.name, tenant), lambda _tenant: rules, InputSettings()
        ):
            of_others |= "other_tenant" in chunk.quarantined["reason"]
            wanted = ("content_key", "title", "text", "category", "truth")
            for raw, title, text, category, truth in chunk.reviews.select(wanted).iter_rows():
                labels = json.loads(truth)
                if taxonomy.main.name in labels:
                    masked = normalise(title and redact(title), redact(text))
                    yield raw, content_key(masked), category, labels
        if not of_others:
            return


def _majority(counts: Mapping[str, Counter[str]], taxonomy: Taxonomy) -> dict[str, str]:
    """The label most rows give, a field; of equals the one the taxonomy names first."""
    return {
        field.name: max(field.labels, key=lambda label: counts[field.name][label])
        for field in taxonomy.fields
        if field.name in counts
    }
