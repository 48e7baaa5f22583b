"""What a request costs: dated price rows by model, service tier and size of the prompt.

Money is an integer of nano-dollars; a price is nano-dollars per million tokens.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from review_optimizer_dagster import tables
from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.tables import load_table

TOKENS_PER_PRICE = 1_000_000
DEFAULT_TIER, BATCH_TIER = "default", "batch"  # service tiers of the price rows
DATED_NAME = re.compile(r"-\d{4}-\d{2}-\d{2}$|-\d{8}$")


class UnknownPrice(UserError):  # noqa: N818 (the name says what is missing)
    """No price row fits; nothing may be sent."""


class ModelEnded(UserError):  # noqa: N818 (the name says what happened)
    """The provider no longer answers for the model; nothing may be sent."""


@dataclass(frozen=True)
class Price:
    """One dated row: nano-dollars per million tokens, for the days valid_from to valid_to."""

    model: str
    service_tier: str
    context_above: int
    """The row holds for requests of more input tokens than this, all their tokens."""
    valid_from: date
    valid_to: date | None
    input: int
    cached_input: int
    cache_write: int
    output: int
    ends: date | None

    @property
    def least_tokens(self) -> int:
        """The smallest prompt that the row holds for."""
        return self.context_above + 1 if self.context_above else 0

    def covers(self, day: date) -> bool:
        """Whether the row holds on a day (both its ends are inside)."""
        return self.valid_from <= day and (self.valid_to is None or day <= self.valid_to)


class _PriceRow(BaseModel):
    """A row as prices.toml has it: USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    service_tier: str = Field(default="default", min_length=1)
    context_above: int = Field(default=0, ge=0)
    valid_from: date
    valid_to: date | None = None
    input: Decimal = Field(ge=0, max_digits=15, decimal_places=9)
    cached_input: Decimal | None = Field(default=None, ge=0, max_digits=15, decimal_places=9)
    cache_write: Decimal | None = Field(default=None, ge=0, max_digits=15, decimal_places=9)
    output: Decimal = Field(ge=0, max_digits=15, decimal_places=9)
    ends: date | None = None

    @model_validator(mode="after")
    def _dates_ascend(self) -> _PriceRow:
        if self.valid_to is not None and self.valid_to < self.valid_from:
            raise ValueError("valid_to is before valid_from")
        return self

    def price(self) -> Price:
        def nanos(usd: Decimal | None) -> int:
            return int((self.input if usd is None else usd) * 1_000_000_000)

        return Price(
            model=self.model,
            service_tier=self.service_tier,
            context_above=self.context_above,
            valid_from=self.valid_from,
            valid_to=self.valid_to,
            input=nanos(self.input),
            cached_input=nanos(self.cached_input),
            cache_write=nanos(self.cache_write),
            output=nanos(self.output),
            ends=self.ends,
        )


class PriceTable:
    """The dated price rows, asked by model, service tier and day (UTC, of sending)."""

    def __init__(self, prices: Sequence[Price], file: Path) -> None:
        """`file` is where a user adds what is missing; errors name it."""
        self._file = file
        self._rows: dict[str, list[Price]] = {}
        for price in prices:
            self._rows.setdefault(price.model, []).append(price)

    def bands(self, model: str, service_tier: str, day: date) -> list[Price]:
        """The rows that hold for a model, tier and day, those for small requests first.

        A dated name such as gpt-6-luna-2026-08-01 goes by rows of its own where it has some, else
        by those of gpt-6-luna. Raises UnknownPrice with model, tier, date and file, where there is
        none or none that holds for requests of any size.
        """
        name = model if model in self._rows else DATED_NAME.sub("", model)
        found = [
            row
            for row in self._rows.get(name, ())
            if row.service_tier == service_tier and row.covers(day)
        ]
        found.sort(key=lambda row: row.context_above)
        if not found or found[0].context_above:
            raise UnknownPrice(
                f"no price for model {model!r}, service tier {service_tier!r} on {day}: "
                f"add a [[prices]] row to {self._file}"
            )
        return found

    def price(self, model: str, service_tier: str, day: date, prompt_tokens: int = 0) -> Price:
        """The row of a request with so many input tokens, cached ones included.

        A larger prompt may make all tokens of the request dearer. Raises UnknownPrice.
        """
        rows = self.bands(model, service_tier, day)
        return next(row for row in reversed(rows) if prompt_tokens >= row.least_tokens)

    def check_model(self, model: str, day: date, service_tier: str = DEFAULT_TIER) -> Price:
        """The price of a model that may be asked on that day; called before anything is sent.

        Raises UnknownPrice, or ModelEnded with the model's name and last day.
        """
        price = self.price(model, service_tier, day)
        if price.ends is not None and day > price.ends:
            raise ModelEnded(
                f"model {model!r} ended on {price.ends}: choose another in [engine] of tenants.toml"
            )
        return price

    def worst_case(
        self, model: str, service_tier: str, day: date, input_tokens: int, most_output: int
    ) -> int:
        """The most a request can cost, in nano-dollars, whatever band its prompt falls in.

        `input_tokens` must itself be an upper bound: a smaller prompt may be in a dearer band.
        """
        return max(
            worst_case(row, input_tokens, most_output)
            for row in self.bands(model, service_tier, day)
            if input_tokens >= row.least_tokens
        )


class _PlacedPrice(NamedTuple):
    path: Path
    row: int  # 1-based, in its file
    price: Price


def load_prices(extra: Path | None = None) -> PriceTable:
    """The shipped rows (tables/prices.toml) and, where the file exists, the home's own.

    A shipped row without valid_to is closed on the day before a row of the home begins.
    Raises ConfigError with file and row: not valid, or two rows for the same model, tier and day.
    """
    shipped = Path(str(resources.files(tables))) / "prices.toml"
    placed = _read_rows(shipped, load_table("prices"))
    if extra is not None and extra.exists():
        own = _read_rows(extra, _read_toml(extra))
        placed = [_closed(row, own) for row in placed] + own
    _refuse_overlaps(placed)
    return PriceTable([row.price for row in placed], extra or shipped)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, "", f"is not valid TOML: {error}") from error


def _read_rows(path: Path, data: Mapping[str, Any]) -> list[_PlacedPrice]:
    rows = data.get("prices")
    if set(data) - {"prices"} or not isinstance(rows, list):
        raise ConfigError(path, "", "must hold [[prices]] rows and nothing else")
    placed = []
    for number, row in enumerate(rows, 1):
        try:
            placed.append(_PlacedPrice(path, number, _PriceRow.model_validate(row).price()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(["prices row " + str(number), *(str(part) for part in first["loc"])])
            raise ConfigError(path, key, f"is not valid: {first['msg']}") from error
    return placed


def _closed(row: _PlacedPrice, own: Sequence[_PlacedPrice]) -> _PlacedPrice:
    """A shipped open row, ended where the home's next row of its model and tier begins."""
    starts = [
        other.price.valid_from
        for other in own
        if _same_kind(row.price, other.price) and other.price.valid_from > row.price.valid_from
    ]
    if row.price.valid_to is not None or not starts:
        return row
    return row._replace(price=replace(row.price, valid_to=min(starts) - timedelta(days=1)))


def _same_kind(one: Price, other: Price) -> bool:
    return _kind(one) == _kind(other)


def _kind(price: Price) -> tuple[str, str, int]:
    return price.model, price.service_tier, price.context_above


def _refuse_overlaps(placed: Sequence[_PlacedPrice]) -> None:
    def order(row: _PlacedPrice) -> tuple[tuple[str, str, int], date]:
        return _kind(row.price), row.price.valid_from

    for earlier, later in pairwise(sorted(placed, key=order)):
        if _same_kind(earlier.price, later.price) and earlier.price.covers(later.price.valid_from):
            one, other = sorted((earlier, later), key=placed.index)
            raise ConfigError(
                other.path,
                f"prices row {other.row}",
                f"has the same model {other.price.model!r}, service tier "
                f"{other.price.service_tier!r}, context_above {other.price.context_above} and "
                f"days as row {one.row} of {one.path.name}: "
                "end one with valid_to, or begin the other later",
            )


def request_cost(price: Price, usage: Usage) -> int:
    """Nano-dollars of one request, rounded once, half up."""
    plain = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    scaled = (
        plain * price.input
        + usage.cached_tokens * price.cached_input
        + usage.cache_write_tokens * price.cache_write
        + usage.completion_tokens * price.output
    )
    return (scaled + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE


def worst_case(price: Price, input_tokens: int, max_output_tokens: int) -> int:
    """The most a request can cost, in nano-dollars: every input token at the dearest input price.

    `input_tokens` must itself be an upper bound; rounded up.
    """
    if input_tokens < 0 or max_output_tokens < 0:
        raise ValueError(f"token counts must not be negative: {input_tokens}, {max_output_tokens}")
    dearest = max(price.input, price.cached_input, price.cache_write)
    scaled = input_tokens * dearest + max_output_tokens * price.output
    return -(-scaled // TOKENS_PER_PRICE)
