"""How a reply is to be written: read from the request's schema and prompt, then filled with labels.

Two forms: `labels` spells every label in an object a document; `codes` gives a pair of id and code
a document, with a legend of the codes in the system prompt.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from review_optimizer_dagster.tokens import PATTERN

UNSURE = "?"  # behind a code
NO_CODE = "-"  # stands for a label that has no code; no code holds it

_FIELD = re.compile(r"- ([^:]+): ")
_CODE = re.compile(r'  (\S+) = ("(?:[^"\\]|\\.)*")(?: \(.*\))?')


@dataclass(frozen=True)
class Answer:
    """What the model says of one document; the labels need not be of the set."""

    id: str
    labels: Mapping[str, str]
    unsure: bool = False


@dataclass(frozen=True)
class Form(ABC):
    """A form of reply: the fields with their labels, and how answers become text."""

    list_name: str
    fields: Mapping[str, Sequence[str]]
    permits_unsure: bool

    # Replies are so regular that the general pattern is several percent off. These are within 5 %
    # of o200k_base for either form.
    token: ClassVar[re.Pattern[str]]

    @abstractmethod
    def entry(self, answer: Answer) -> object:
        """One element of the reply's list."""

    def encode(self, answers: Iterable[Answer]) -> str:
        """The reply's text: compact JSON."""
        entries = [self.entry(answer) for answer in answers]
        return json.dumps({self.list_name: entries}, ensure_ascii=False, separators=(",", ":"))

    def count(self, content: str) -> int:
        """Tokens of a reply."""
        return len(self.token.findall(content))

    def cut(self, content: str, tokens: int) -> str:
        """The first so many tokens of a reply."""
        for number, found in enumerate(self.token.finditer(content), start=1):
            if number == tokens:
                return content[: found.end()]
        return content


@dataclass(frozen=True)
class LabelsForm(Form):
    """As `{"answers":[{"id":"1","sentiment":"positive","unsure":false}]}`."""

    token: ClassVar[re.Pattern[str]] = re.compile(rf'uns(?=ure":)|"\}},\{{"|{PATTERN}')

    def entry(self, answer: Answer) -> object:
        """An object with the id and a property a field."""
        unsure = {"unsure": answer.unsure} if self.permits_unsure else {}
        return {"id": answer.id, **answer.labels, **unsure}


@dataclass(frozen=True)
class CodesForm(Form):
    """As `{"answers":[["1","pgy"],["2","nuu?"]]}`."""

    codes: Mapping[str, Mapping[str, str]]  # field -> label -> code

    token: ClassVar[re.Pattern[str]] = re.compile(
        r'\w+(?=":)|[^\W\d_]{1,2}|\d{1,3}|\?"|[^\w\s?]{1,3}|[?_]+'
    )

    def entry(self, answer: Answer) -> object:
        """A pair: the id, and the codes of all fields in one word."""
        code = "".join(
            codes.get(answer.labels[field], NO_CODE * len(next(iter(codes.values()))))
            for field, codes in self.codes.items()
        )
        return [answer.id, code + UNSURE if answer.unsure else code]


@lru_cache(maxsize=64)
def read_form(schema: str, system: str) -> Form:
    """The form that a response_format (as JSON) and a system prompt ask for.

    Raises ValueError saying what is missing.
    """
    response_format = json.loads(schema)
    if not isinstance(response_format, dict) or response_format.get("type") != "json_schema":
        raise ValueError("'response_format' of type 'json_schema' is required")
    try:
        properties = response_format["json_schema"]["schema"]["properties"]
        list_name = next(key for key, value in properties.items() if value["type"] == "array")
        items = properties[list_name]["items"]
        if items.get("type") == "array":
            return _codes_form(list_name, items["items"]["enum"], system)
        fields = {key: list(v["enum"]) for key, v in items["properties"].items() if "enum" in v}
        unsure = items["properties"].get("unsure", {}).get("type") == "boolean"
    except (KeyError, TypeError, AttributeError, StopIteration):
        fields, list_name, unsure = {}, "", False
    if not fields or not all(fields.values()):
        raise ValueError("Invalid schema for response_format: no list of items with enums")
    return LabelsForm(list_name, fields, unsure)


def _codes_form(list_name: str, enum: Sequence[str], system: str) -> CodesForm:
    codes = {name: labels for name, labels in _legend(system).items() if labels}
    if not codes:
        raise ValueError("Invalid schema for response_format: the prompt holds no legend of codes")
    fields = {name: list(labels) for name, labels in codes.items()}
    permits_unsure = any(value.endswith(UNSURE) for value in enum)
    return CodesForm(list_name, fields, permits_unsure, codes)


def _legend(system: str) -> dict[str, dict[str, str]]:
    """Field -> label -> code, from lines `- NAME: QUESTION` and `  CODE = "LABEL" (MEANING)`."""
    fields: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    for line in system.splitlines():
        if field := _FIELD.match(line):
            labels = fields.setdefault(field[1], {})
        elif code := _CODE.fullmatch(line):
            labels[json.loads(code[2])] = code[1]
        else:
            labels = {}
    return fields
