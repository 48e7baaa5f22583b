"""How a sample review is put into words: templates, the grammar, and the writer using them."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

CELLS = 100  # tenants and categories repeat after so many reviews

_PART = re.compile(r"[{}|]|<[^<>]+>|[^{}|<]+")
_NUMBER = re.compile(r"<(\d+)-(\d+)>")

Template = tuple[Any, ...]  # of str, Slot, Number and Choice; the type is recursive


class Slot(NamedTuple):
    """A pool, or a part of the row, by name."""

    name: str


class Number(NamedTuple):
    """A whole number between two bounds."""

    low: int
    high: int


class Choice(NamedTuple):
    """One of several templates."""

    of: tuple[Template, ...]


def parse_template(text: str) -> Template:
    """Read a template.

    >>> parse_template("a {big|<size>} box of <2-9>")
    ('a ', Choice(of=(('big',), (Slot(name='size'),))), ' box of ', Number(low=2, high=9))
    """
    stack: list[list[list[Any]]] = [[[]]]
    for piece in _PART.findall(text):
        if piece == "{":
            stack.append([[]])
        elif piece == "}":
            stack[-2][-1].append(Choice(tuple(tuple(each) for each in stack.pop())))
        elif piece == "|":
            stack[-1].append([])
        elif number := _NUMBER.fullmatch(piece):
            stack[-1][-1].append(Number(int(number[1]), int(number[2])))
        elif piece.startswith("<"):
            stack[-1][-1].append(Slot(piece[1:-1]))
        else:
            stack[-1][-1].append(piece)
    return tuple(stack[0][0])


@dataclass(frozen=True)
class Product:
    """Something that is reviewed; aspects are pairs of class and name."""

    product_id: str
    name: str
    short: str
    aspects: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Outcome:
    """What a review is going to say, and with it its true labels."""

    labels: Mapping[str, str]
    stars: Sequence[int]
    title: str
    core: Sequence[Sequence[str]]
    more: Sequence[Sequence[str]]
    longest: int  # words from which on nothing is added


@dataclass(frozen=True)
class Pivot:
    """A sentence that one of two words turns round, and what either means."""

    text: Template
    words: Sequence[str]
    stars: Sequence[Sequence[int]]
    labels: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Category:
    """The words of one category; pools include the shared ones."""

    name: str
    products: tuple[Product, ...]
    pools: Mapping[str, Sequence[Template]]
    predicates: Mapping[str, Mapping[str, Sequence[Template]]]  # class -> mood -> templates


@dataclass(frozen=True)
class Grammar:
    """All of `grammar/*.toml`, read and parsed."""

    categories: tuple[Category, ...]
    cells: tuple[tuple[str, Category], ...]  # tenant and category of an index modulo CELLS
    lengths: tuple[tuple[int, int], ...]  # words, a hundred entries
    outcomes: tuple[Outcome, ...]  # a thousand entries or so, by their shares
    pivots: tuple[Pivot, ...]
    frames: Mapping[str, Sequence[Template]]
    stages: Mapping[str, int]  # pool to its place in a review
    rules: Mapping[str, Any]  # shared.toml as it stands


def _templates(pools: Mapping[str, Sequence[str]]) -> dict[str, tuple[Template, ...]]:
    return {name: tuple(map(parse_template, texts)) for name, texts in pools.items()}


def _repeated(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        yield from [row] * row["share"]


def _read(name: str) -> dict[str, Any]:
    folder = resources.files("review_optimizer_dagster.simulator.grammar")
    return tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))


def _category(data: Mapping[str, Any], shared: Mapping[str, Any]) -> Category:
    products = tuple(
        Product(
            f"{data['code']}-{number:03d}",
            product["name"],
            product["short"],
            tuple((kind, name) for kind, names in product["aspects"].items() for name in names),
        )
        for number, product in enumerate(data["products"], start=1)
    )
    predicates = {kind: _templates(moods) for kind, moods in data["classes"].items()}
    return Category(data["name"], products, _templates(shared["pools"] | data["pools"]), predicates)


@cache
def load_grammar() -> Grammar:
    """The grammar of the sample's reviews, from its TOML files."""
    shared = _read("shared")
    files = [_read(name) for name in shared["categories"]]
    categories = [_category(data, shared) for data in files]
    by_name = {category.name: category for category in categories}
    columns = [by_name[row["name"]] for row in _repeated(files)]
    tenants = [row["name"] for row in _repeated(shared["tenants"])]
    # A stride that shares no factor with CELLS mixes them from the first few reviews on.
    mixed = [index * 37 % CELLS for index in range(CELLS)]
    return Grammar(
        categories=tuple(categories),
        cells=tuple((tenants[i // 10 * 10], columns[i % 10 * 10]) for i in mixed),
        lengths=tuple(map(_bounds, _repeated(shared["lengths"]))),
        outcomes=tuple(_outcome(row, shared) for row in _repeated(shared["outcomes"])),
        pivots=tuple(
            Pivot(parse_template(row["text"]), row["words"], row["stars"], row["labels"])
            for row in shared["pivots"]
        ),
        frames=_templates(shared["frames"]),
        stages={name: place for place, names in enumerate(shared["stages"]) for name in names},
        rules=shared,
    )


def _outcome(row: Mapping[str, Any], shared: Mapping[str, Any]) -> Outcome:
    core = [names.split() for names in row["core"]]
    more = [names.split() for names in row["more"]]
    longest = row.get("longest", max(high for _, high in map(_bounds, shared["lengths"])))
    return Outcome(row["labels"], row["stars"], row["title"], core, more, longest)


def _bounds(length: Mapping[str, Any]) -> tuple[int, int]:
    low, high = length["words"]
    return low, high


class Writer:
    """Writes one review: draws sentences until it is long enough, then orders them."""

    def __init__(self, rng: random.Random, grammar: Grammar, category: Category) -> None:
        self.random = rng.random
        self.rng = rng
        self.grammar = grammar
        self.category = category
        self.product = self.pick(category.products)
        article = "an" if self.product.name[0] in "aeiou" else "a"
        self.context = {
            "product": self.product.name,
            "short": self.product.short,
            "a_product": f"{article} {self.product.name}",
        }
        self.sentences: list[tuple[int, float, str]] = []
        self.words = 0
        self.used: set[int] = set()
        self.times: Counter[str] = Counter()

    def pick(self, items: Sequence[Any]) -> Any:
        """One of the items, by the seeded random numbers."""
        return items[int(self.random() * len(items))]

    def render(self, template: Template) -> str:
        """A template with its places filled."""
        text = []
        for part in template:
            if isinstance(part, str):
                text.append(part)
            elif isinstance(part, Slot):
                known = self.context.get(part.name)
                pools = self.category.pools
                text.append(self.render(self.pick(pools[part.name])) if known is None else known)
            elif isinstance(part, Number):
                text.append(str(part.low + int(self.random() * (part.high - part.low + 1))))
            else:
                text.append(self.render(self.pick(part.of)))
        return "".join(text)

    def unused(self, items: Sequence[Any]) -> Any:
        """One that this review has not used yet, or None."""
        # By identity: the grammar's items live as long as the process, and hash slowly.
        left = [item for item in items if id(item) not in self.used]
        if not left:
            return None
        item = self.pick(left)
        self.used.add(id(item))
        return item

    def add(self, name: str) -> None:
        """Add a sentence of that pool, unless the review has it or the pool is used up."""
        if self.times[name] >= self.grammar.rules["most_times"].get(name, 1):
            return
        self.times[name] += 1
        mood = self.grammar.frames.get(name)
        template = self.unused(self.category.pools[name]) if mood is None else self._aspect(name)
        if template is not None:
            self.say(name, template)

    def _aspect(self, mood: str) -> Template | None:
        """A frame for an aspect of the product that the review has not spoken of."""
        found = self.unused(self.product.aspects)
        if found is None:
            return None
        kind, aspect = found
        predicate = self.unused(self.category.predicates[kind][mood])
        if predicate is None:
            return None
        self.context |= {"aspect": aspect, "predicate": self.render(predicate)}
        frames = self.grammar.frames[mood]
        return self.unused(frames) or self.pick(frames)  # type: ignore[no-any-return]  # Templates

    def say(self, name: str, template: Template) -> None:
        """Add a sentence at its stage of the review."""
        sentence = self.render(template).strip()
        end = "!" if self.random() < 0.06 else "."
        self.sentences.append(
            (self.grammar.stages[name], self.random(), sentence[:1].upper() + sentence[1:] + end)
        )
        self.words += sentence.count(" ") + 1

    def fill(self, outcome: Outcome) -> None:
        """Say a core of the outcome, then more until the drawn length is reached."""
        low, high = self.pick(self.grammar.lengths)
        target = min(low + int(self.random() * (high - low + 1)), outcome.longest)
        for name in self.pick(outcome.core):
            self.add(name)
        for _ in range(60):  # pools run dry; a review may stay shorter than drawn
            if self.words >= target:
                break
            for name in self.pick(outcome.more):
                self.add(name)

    @property
    def text(self) -> str:
        """The sentences in the order of their stages."""
        return " ".join(sentence for _, _, sentence in sorted(self.sentences))

    def title(self, pool: str) -> str | None:
        """A title from a pool; None as often as real reviews have none."""
        if self.random() < self.grammar.rules["untitled"]:
            return None
        title = self.render(self.pick(self.category.pools[pool])).strip()
        return title[:1].upper() + title[1:] or None
