"""Taxonomies: one TOML file a kind of document; what the model is asked and which labels exist."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from review_optimizer_dagster.errors import ConfigError


class LabelField(BaseModel):
    """One question asked of every document, with its closed set of labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the field and column.")
    question: str = Field(min_length=1, description="What the model is asked.")
    labels: tuple[str, ...] = Field(min_length=2, description="The closed set of labels.")
    definitions: Mapping[str, str] = Field(
        default_factory=dict, description="What a label means, for the prompt; label to sentence."
    )
    truth_column: str | None = Field(
        default=None,
        description="Input column that holds the true label; the main field reads `label`.",
    )
    truth_aliases: Mapping[str, str] = Field(
        default_factory=dict,
        description="Other spellings of a true label, in any case, to a label.",
    )
    coarse: Mapping[str, str] = Field(
        default_factory=dict,
        description="For a truth of fewer classes: label to the class that stands for it there.",
    )
    stars: Mapping[str, str] = Field(
        default_factory=dict, description="Weak truth: star rating (1-5) to label."
    )

    @model_validator(mode="after")
    def _labels_exist(self) -> LabelField:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"field {self.name}: a label stands twice")
        for key, used in (
            ("definitions", self.definitions.keys()),
            ("truth_aliases", self.truth_aliases.values()),
            ("coarse", self.coarse.keys()),
            ("coarse", self.coarse.values()),
            ("stars", self.stars.values()),
        ):
            if unknown := sorted(set(used) - set(self.labels)):
                raise ValueError(f"field {self.name}: {key} names unknown labels {unknown}")
        return self

    def parse_truth(self, value: object) -> str | None:
        """The label that an input's truth value means, or None where it means none.

        Exact labels win, then aliases; both without regard to case and outer space.
        """
        spelled = str(value).strip().lower()
        by_lower = {label.lower(): label for label in self.labels}
        aliases = {alias.lower(): label for alias, label in self.truth_aliases.items()}
        return by_lower.get(spelled) or aliases.get(spelled)

    def agrees(self, answer: str, truth: str, truth_classes: frozenset[str]) -> bool:
        """Whether an answer is right, given the classes that the truth knows at all.

        A truth that only ever says what `coarse` maps to (positive and negative, say) cannot judge
        the other labels: an answer that it has no class for is then mapped first.
        """
        if answer == truth:
            return True
        if answer in truth_classes or not truth_classes <= frozenset(self.coarse.values()):
            return False
        return self.coarse.get(answer) == truth


class Taxonomy(BaseModel):
    """A kind of document: its fields, the first of them the main one, and the prompt's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1, description="Raised by hand when the meaning of a label changes.")
    document: str = Field(description="What one document is called in the prompt, e.g. `review`.")
    instructions: str = Field(min_length=1, description="The static part of the prompt.")
    fields: tuple[LabelField, ...] = Field(min_length=1)
    ttl_days: int | None = Field(
        default=None, ge=1, description="Days that an archived answer holds; for ever without."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Taxonomy:
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError("two fields have the same name")
        if "id" in names:
            raise ValueError("a field must not be named id: answers are keyed by it")
        return self

    @property
    def main(self) -> LabelField:
        """The field that an input's `label` column is the truth of."""
        return self.fields[0]

    @cached_property
    def identity(self) -> str:
        """Name, version and a digest of the label sets: `reviews@1.3f2a9c04`."""
        sets = repr([(field.name, field.labels) for field in self.fields])
        return f"{self.name}@{self.version}.{_digest(sets)}"

    @cached_property
    def prompt_identity(self) -> str:
        """A digest of every word of the taxonomy that goes into the prompt."""
        words = repr(
            (
                self.document,
                self.instructions,
                [(f.name, f.question, sorted(f.definitions.items())) for f in self.fields],
            )
        )
        return _digest(words)

    def truth_of(self, text: str | None) -> dict[str, str]:
        """Field to true label of a JSON object, as a review carries its truth.

        What is no field of this taxonomy, or no text, is left out; so is all of what is no object.
        """
        names, value = {field.name for field in self.fields}, parse_labels(text)
        return {k: v for k, v in value.items() if k in names and isinstance(v, str)}

    def truth_columns(self) -> dict[str, LabelField]:
        """Input column to the field whose truth it holds."""
        columns = {field.truth_column or field.name: field for field in self.fields[1:]}
        return {self.main.truth_column or "label": self.main} | columns


def parse_labels(text: str | None) -> dict[str, Any]:
    """The object in a JSON column, field to label; empty where it holds none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def truth_classes(truths: Iterable[Mapping[str, str]]) -> dict[str, frozenset[str]]:
    """Field to the classes that these truths (field to label) know at all, see `agrees`."""
    found: dict[str, set[str]] = {}
    for truth in truths:
        for name, label in truth.items():
            found.setdefault(name, set()).add(label)
    return {name: frozenset(labels) for name, labels in found.items()}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def read_taxonomy(path: Path) -> Taxonomy:
    """Read one taxonomy file.

    Raises ConfigError with the file and the key where it is not valid.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Taxonomy.model_validate(data)
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, "", f"is not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError.of(path, error) from error


@lru_cache(maxsize=32)
def load_taxonomy(name: str, folder: Path | None = None) -> Taxonomy:
    """The taxonomy of that name: `folder/NAME.toml` where it exists, else the shipped one.

    Raises ConfigError with the names that exist.
    """
    shipped = Path(str(resources.files(__name__)))
    places = [place for place in (folder, shipped) if place is not None]
    for place in places:
        if (path := place / f"{name}.toml").is_file():
            taxonomy = read_taxonomy(path)
            if taxonomy.name != name:
                raise ConfigError(path, "name", f"is {taxonomy.name!r}, but the file is {name!r}")
            return taxonomy
    known = sorted({path.stem for place in places for path in place.glob("*.toml")})
    raise ConfigError(places[0], name, f"is no taxonomy; there are {', '.join(known)}")
