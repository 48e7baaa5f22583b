"""What the answers cost, after the classifier: prices, budgets, and the ledger of who owes what.

Money is an integer of nano-dollars everywhere; a price is nano-dollars per million tokens.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from review_optimizer_dagster import tables
from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.exchange.reply import Reply, Usage
from review_optimizer_dagster.tables import load_table

JSON: TypeAlias = Any  # what json.dumps takes

TOKENS_PER_PRICE = 1_000_000
DEFAULT_TIER, BATCH_TIER = "default", "batch"  # service tiers of the price rows
BASELINE_NANOS_PER_REVIEW = 1_500_000  # $1.50 per 1,000 reviews: one request a review, no cache
DATED_NAME = re.compile(r"-\d{4}-\d{2}-\d{2}$|-\d{8}$")

LEDGER = pl.Schema(
    {
        "entry_id": pl.String(),
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "review_id": pl.String(),  # null: paid for, but the review is no longer in the partition
        "content_key": pl.String(),
        "kind": pl.String(),  # the request's ('audit': of a hit; 'embedding'), 'hit' or 'repeat'
        "request_id": pl.String(),
        "level": pl.String(),
        "model": pl.String(),
        "simulated": pl.Boolean(),
        "cost_nanos": pl.Int64(),
        "avoided_nanos": pl.Int64(),
        "avoided_rule": pl.String(),  # 'median_paid' or 'baseline'; null on a paid entry
        "booked_at": pl.Datetime("us", "UTC"),
    }
)

ROLLUP = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "simulated": pl.Boolean(),
        "reviews": pl.Int64(),
        "hits": pl.Int64(),
        "misses": pl.Int64(),
        "deferred": pl.Int64(),
        "cost_nanos": pl.Int64(),
        "audit_nanos": pl.Int64(),  # of the cost, that of rechecking hits
        "avoided_nanos": pl.Int64(),
        "baseline_nanos": pl.Int64(),
        "saving": pl.Float64(),  # 1 - cost / baseline; null without labels
        "cost_per_1000_nanos": pl.Int64(),  # of labelled reviews; null without any
    }
)


_ROLLUP_SUMS = [
    "reviews", "hits", "misses", "deferred", "cost_nanos", "audit_nanos", "avoided_nanos",
]  # fmt: skip

# Of a labelled review. A repeat is answered by its leading review, and counts as a hit of L1.
_IS_HIT = pl.col("repeat") | (pl.col("level") != "model")


class UnknownPrice(UserError):  # noqa: N818 (the name says what is missing)
    """No price row fits; nothing may be sent."""


class ModelEnded(UserError):  # noqa: N818 (the name says what happened)
    """The provider no longer answers for the model; nothing may be sent."""


@dataclass(frozen=True)
class Price:
    """One dated row: nano-dollars per million tokens, for the days valid_from to valid_to."""

    model: str
    service_tier: str
    valid_from: date
    valid_to: date | None
    input: int
    cached_input: int
    cache_write: int
    output: int
    ends: date | None

    def covers(self, day: date) -> bool:
        """Whether the row holds on a day (both its ends are inside)."""
        return self.valid_from <= day and (self.valid_to is None or day <= self.valid_to)


class _PriceRow(BaseModel):
    """A row as prices.toml has it: USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    service_tier: str = Field(default="default", min_length=1)
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

    def price(self, model: str, service_tier: str, day: date) -> Price:
        """The row that holds for a model, tier and day.

        A dated name such as gpt-6-luna-2026-08-01 goes by rows of its own where it has some, else
        by those of gpt-6-luna. Raises UnknownPrice with model, tier, date and file.
        """
        name = model if model in self._rows else DATED_NAME.sub("", model)
        for row in self._rows.get(name, ()):
            if row.service_tier == service_tier and row.covers(day):
                return row
        raise UnknownPrice(
            f"no price for model {model!r}, service tier {service_tier!r} on {day}: "
            f"add a [[prices]] row to {self._file}"
        )

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
    return (one.model, one.service_tier) == (other.model, other.service_tier)


def _refuse_overlaps(placed: Sequence[_PlacedPrice]) -> None:
    def order(row: _PlacedPrice) -> tuple[str, str, date]:
        return row.price.model, row.price.service_tier, row.price.valid_from

    for earlier, later in pairwise(sorted(placed, key=order)):
        if _same_kind(earlier.price, later.price) and earlier.price.covers(later.price.valid_from):
            one, other = sorted((earlier, later), key=placed.index)
            raise ConfigError(
                other.path,
                f"prices row {other.row}",
                f"has the same model {other.price.model!r}, service tier "
                f"{other.price.service_tier!r} and days as row {one.row} of {one.path.name}: "
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


def reply_cost(record: Mapping[str, Any], reply: Reply, prices: PriceTable) -> int:
    """Nano-dollars of a request of the journal, by the model and tier that its response names.

    What went through the Batch API is billed as such, whatever tier its body names.
    """
    if reply.usage is None:
        return 0
    day = datetime.fromisoformat(record["sent_at"]).date()
    asked_tier = record.get("service_tier", DEFAULT_TIER)
    named_tier = reply.service_tier or asked_tier
    tier = asked_tier if asked_tier == BATCH_TIER else named_tier
    return request_cost(prices.price(reply.model or record["model"], tier, day), reply.usage)


def worst_case(price: Price, input_tokens: int, max_output_tokens: int) -> int:
    """The most a request can cost, in nano-dollars: every input token at the dearest input price.

    `input_tokens` must itself be an upper bound; rounded up.
    """
    if input_tokens < 0 or max_output_tokens < 0:
        raise ValueError(f"token counts must not be negative: {input_tokens}, {max_output_tokens}")
    dearest = max(price.input, price.cached_input, price.cache_write)
    scaled = input_tokens * dearest + max_output_tokens * price.output
    return -(-scaled // TOKENS_PER_PRICE)


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """Shares of a total in proportion to weights, by largest remainder; they add up to the total.

    Ties go to the earlier position; weights that are all zero share equally. Raises ValueError for
    a negative total or weight, or a total with nobody to bear it.

    >>> allocate(100, [1, 1, 1])
    [34, 33, 33]
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError("a total and its weights must not be negative")
    if not weights:
        if total:
            raise ValueError(f"{total} nano-dollars and nobody to bear them")
        return []
    whole = sum(weights)
    bases = list(weights) if whole else [1] * len(weights)
    whole = whole or len(weights)
    shares, remainders = zip(*(divmod(total * base, whole) for base in bases), strict=True)
    by_remainder = sorted(range(len(bases)), key=lambda position: -remainders[position])
    lucky = set(by_remainder[: total - sum(shares)])
    return [share + (position in lucky) for position, share in enumerate(shares)]


class State(Protocol):
    """Durable JSON values by key, safe across threads and processes."""

    def get(self, key: str) -> JSON | None:
        """The value, or None."""

    def add(self, key: str, value: JSON) -> bool:
        """Store a value under a new key; False, and no change, where the key is there already."""

    def update(self, key: str, change: Callable[[JSON | None], JSON]) -> JSON:
        """Replace a value by `change(value)` in one atomic step, and return the new value."""

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with a prefix."""


def period_key(period: Literal["day", "month"], now: datetime) -> str:
    """The UTC period that a moment falls in: `2026-11-22` or `2026-11`.

    Raises ValueError for a moment without a time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"a moment needs a time zone: {now}")
    return now.astimezone(UTC).strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


class Budget:
    """What a tenant may spend in one period: reserved before a request, settled after it.

    The counters are one value, `{"spent": nanos, "reserved": {request_id: nanos}}`, changed only
    inside `State.update`, so requests that run at the same time cannot spend the same money.
    """

    def __init__(self, state: State, tenant: str, amount_nanos: int, period_key: str) -> None:
        self.tenant = tenant
        self.amount_nanos = amount_nanos
        self.period_key = period_key
        self._state = state
        self._key = f"budget:{tenant}:{period_key}"

    def reserve(self, request_id: str, nanos: int) -> bool:
        """Set money aside for a request; False, and nothing set aside, where it does not fit.

        A request that is reserved already keeps its reservation.
        """
        if nanos < 0:
            raise ValueError(f"a reservation must not be negative: {nanos}")

        def change(value: JSON | None) -> JSON:
            spent, reserved = _counters(value)
            fits = spent + sum(reserved.values()) + nanos <= self.amount_nanos
            if request_id not in reserved and fits:
                reserved[request_id] = nanos
            return {"spent": spent, "reserved": reserved}

        return request_id in self._state.update(self._key, change)["reserved"]

    def settle(self, request_id: str, nanos: int) -> None:
        """Turn a request's reservation into what it cost; 0 releases it.

        A request without a reservation (settled already, or unknown) changes nothing.
        """
        if nanos < 0:
            raise ValueError(f"a cost must not be negative: {nanos}")

        def change(value: JSON | None) -> JSON:
            spent, reserved = _counters(value)
            if reserved.pop(request_id, None) is not None:
                spent += nanos
            return {"spent": spent, "reserved": reserved}

        self._state.update(self._key, change)

    def spent(self) -> int:
        """Nano-dollars settled so far."""
        return _counters(self._state.get(self._key))[0]

    def reserved(self) -> int:
        """Nano-dollars set aside for requests whose outcome is not known yet."""
        return sum(_counters(self._state.get(self._key))[1].values())


def _counters(value: JSON | None) -> tuple[int, dict[str, int]]:
    """Spent and reserved, as a copy: the stored value is not ours to change in place."""
    return (value["spent"], dict(value["reserved"])) if value else (0, {})


def _entry_id(*parts: str) -> str:
    return hashlib.blake2b("|".join(parts).encode(), digest_size=16).hexdigest()


def paid_entries(
    shares: pl.DataFrame, requests: pl.DataFrame, results: pl.DataFrame
) -> pl.DataFrame:
    """Ledger rows of what was paid: one a review and attempt. Returns LEDGER.

    shares: request_id, identity, content_key, tenant, cost_nanos; requests: REQUESTS; results:
    RESULTS. A text that was asked once for several reviews of a tenant is borne by its leading
    review (repeat is false, then the smallest review_id); without one, review_id is null and the
    money is booked all the same. Raises ValueError where the shares of a request do not add up to
    what it cost, so that the ledger always sums to the requests.
    """
    _refuse_gaps(shares, requests)
    content = ["tenant", "identity", "content_key"]
    leaders = (
        results.sort("repeat", "review_id")
        .unique(content, keep="first", maintain_order=True)
        .select(*content, "review_id")
    )
    facts = requests.select(
        "request_id",
        "taxonomy",
        "kind",
        "simulated",
        model=pl.coalesce("model", "model_requested"),
        booked_at="sent_at",
    )
    entries = (
        shares.join(facts, on="request_id")
        .join(leaders, on=content, how="left")
        .sort("booked_at", "request_id", "content_key")
    )
    keys = entries.select("request_id", "content_key", "kind").iter_rows()
    return _as_ledger(
        entries.with_columns(
            entry_id=pl.Series([_entry_id(*key) for key in keys], dtype=pl.String),
            level=pl.lit("model"),
            avoided_nanos=pl.lit(0),
            avoided_rule=pl.lit(None),
        )
    )


def _refuse_gaps(shares: pl.DataFrame, requests: pl.DataFrame) -> None:
    """Raise ValueError unless every request is shared out in full, and nothing else is."""
    shared = shares.group_by("request_id").agg(shared=pl.col("cost_nanos").sum())
    wrong = (
        requests.select("request_id", "cost_nanos")
        .join(shared, on="request_id", how="full", coalesce=True)
        .filter(
            pl.col("cost_nanos").is_null() | (pl.col("cost_nanos") != pl.col("shared").fill_null(0))
        )
        .sort("request_id")
    )
    for request_id, cost, share in wrong.iter_rows():
        raise ValueError(f"request {request_id} cost {cost} nano-dollars, its shares are {share}")


def hit_entries(
    results: pl.DataFrame, shares: pl.DataFrame, day: date, booked_at: datetime
) -> pl.DataFrame:
    """Ledger rows of what was not paid: a cache hit or a repeat costs 0. Returns LEDGER.

    `avoided_nanos` is an estimate, its rule in `avoided_rule`. 'median_paid': the (lower) median of
    what the answering request took for a review that the model labelled in this partition, among
    those of the same tenant and identity (taxonomy, prompt and model policy). 'baseline': the
    baseline price a review, where the model labelled none. Entry ids come from the day and the
    review, so a second run of the partition books nothing new.
    """
    labelled = results.filter(pl.col("status") == "labelled")
    answer = ["tenant", "identity", "content_key", "request_id"]
    medians = (
        labelled.filter(pl.col("level") == "model", ~pl.col("repeat"))
        .join(shares.select(*answer, "cost_nanos"), on=answer)
        .group_by("tenant", "identity")
        .agg(median=pl.col("cost_nanos").quantile(0.5, "lower").cast(pl.Int64))
    )
    hits = (
        labelled.filter(_IS_HIT)
        .join(medians, on=["tenant", "identity"], how="left")
        .sort("tenant", "taxonomy", "review_id")
    )
    keys = hits.select("tenant", "taxonomy", "review_id").iter_rows()
    estimated = pl.col("median").is_not_null()
    return _as_ledger(
        hits.with_columns(
            entry_id=pl.Series([_entry_id(str(day), *key) for key in keys], dtype=pl.String),
            kind=pl.when("repeat").then(pl.lit("repeat")).otherwise(pl.lit("hit")),
            request_id=pl.lit(None),
            cost_nanos=pl.lit(0),
            avoided_nanos=pl.col("median").fill_null(BASELINE_NANOS_PER_REVIEW),
            avoided_rule=pl.when(estimated)
            .then(pl.lit("median_paid"))
            .otherwise(pl.lit("baseline")),
            booked_at=pl.lit(booked_at),
        )
    )


def _as_ledger(entries: pl.DataFrame) -> pl.DataFrame:
    return entries.select(pl.col(name).cast(dtype) for name, dtype in LEDGER.items())


def rollup(ledger: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    """Sums of a partition for each tenant and taxonomy, simulated money apart. Returns ROLLUP.

    ledger: LEDGER; results: RESULTS. hits + misses + deferred = reviews; misses are those that the
    model labelled or failed on. A rechecked hit is a hit; what its recheck cost is part of the
    cost. The baseline is what the reviews that have labels would have cost
    one request at a time: a review that nobody answered saved nothing.
    """
    by = ["tenant", "taxonomy", "simulated"]
    deferred = pl.col("status") == "deferred"
    hit = (pl.col("status") == "labelled") & _IS_HIT
    counts = results.group_by(by).agg(
        reviews=pl.len(),
        hits=hit.sum(),
        misses=(~hit & ~deferred).sum(),
        deferred=deferred.sum(),
        answered=(pl.col("status") == "labelled").sum(),
    )
    sums = ledger.group_by(by).agg(
        pl.col("cost_nanos", "avoided_nanos").sum(),
        audit_nanos=pl.col("cost_nanos").filter(pl.col("kind") == "audit").sum(),
    )
    answered, cost = pl.col("answered"), pl.col("cost_nanos")
    return (
        counts.join(sums, on=by, how="full", coalesce=True)
        .with_columns(pl.col([*_ROLLUP_SUMS, "answered"]).fill_null(0).cast(pl.Int64))
        .with_columns(baseline_nanos=answered * BASELINE_NANOS_PER_REVIEW)
        .with_columns(
            saving=pl.when(answered > 0).then(1 - cost / pl.col("baseline_nanos")),
            cost_per_1000_nanos=pl.when(answered > 0).then(
                (cost * 1_000 + answered // 2) // answered
            ),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in ROLLUP.items())
        .sort(by)
    )
