"""Where the money of days went: every request's cost in parts that add up to the nano-dollar.

The parts come from the tokens of `llm_requests` and the price rows; the ledger is only the check.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl

from review_optimizer_dagster.core.costs import allocate
from review_optimizer_dagster.exchange.prompt import Asking, reply_form
from review_optimizer_dagster.exchange.reply import EMBEDDING, Usage
from review_optimizer_dagster.money.prices import DEFAULT_TIER, Price, PriceTable, request_cost
from review_optimizer_dagster.simulator.protocol import ChatRequest
from review_optimizer_dagster.taxonomies import Taxonomy

if TYPE_CHECKING:
    from review_optimizer_dagster.storage.warehouse import Connection

UNIT: Final = 5_000  # reviews that costs are told for
TARGET_NANOS: Final = 15_000_000  # $0.015 for them
CONFIDENCE: Final = 0.95  # two-sided, of the mean over the days

FIRST, RETRIES, ESCALATIONS = "first attempts", "retries", "escalations"
RECHECKS, EMBEDDINGS, NOTHING = "rechecks of hits", "embeddings", "paid, answered nothing"
PURPOSES: Final = (FIRST, RETRIES, ESCALATIONS, RECHECKS, EMBEDDINGS, NOTHING)
PREFIX, TEXTS, CACHED, WRITES, OUTPUT = (
    "input: fixed prefix",
    "input: texts",
    "input: cached",
    "input: cache writes",
    "output",
)
TOKENS: Final = (PREFIX, TEXTS, CACHED, WRITES, OUTPUT)

_REQUESTS: Final = """
    SELECT request_id, kind, batch_id, attempt, tier, coalesce(model, model_requested) AS model,
        coalesce(service_tier, ?) AS service_tier, reviews, answered, prompt_tokens, cached_tokens,
        coalesce(cache_write_tokens, 0) AS cache_write_tokens, completion_tokens, cost_nanos,
        sent_at
    FROM llm_requests WHERE day = ? ORDER BY sent_at, request_id
"""
_LEDGER: Final = """
    SELECT coalesce(sum(cost_nanos), 0)::BIGINT AS nanos FROM ledger_entries WHERE day = ?
"""
_AVOIDED: Final = """
    SELECT CASE WHEN kind = 'repeat' THEN 'repeat of the day' ELSE level END AS level,
        coalesce(avoided_rule, '-') AS rule, count(*) AS hits,
        coalesce(sum(avoided_nanos), 0)::BIGINT AS nanos
    FROM ledger_entries WHERE day = ? AND kind IN ('hit', 'repeat')
    GROUP BY ALL ORDER BY ALL
"""


class BooksDiffer(SystemExit):
    """The ledger does not say what the requests' tokens cost; no figure can be trusted."""


class Sent(NamedTuple):
    """A request, what it was for, and its tokens."""

    purpose: str
    model: str
    service_tier: str
    sent_on: date
    texts: int
    answered: int
    usage: Usage


@dataclass(frozen=True)
class DayMoney:
    """The requests of a day's partition, and what its hits avoided by the ledger's own rule."""

    day: date
    sent: Sequence[Sent]
    cost_nanos: int
    avoided: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, connection: Connection, day: date, prices: PriceTable) -> DayMoney:
        """Read a day and check it. Raises BooksDiffer."""
        rows = connection.frame(_REQUESTS, [DEFAULT_TIER, day])
        (ledger,) = connection.frame(_LEDGER, [day])["nanos"]
        sent = _checked(rows, prices, day)
        booked = int(rows["cost_nanos"].sum())
        if booked != ledger:
            raise BooksDiffer(
                f"{day}: the requests cost {booked:,} nano-dollars, the ledger says {ledger:,}: "
                "nothing is printed"
            )
        return cls(day, sent, booked, connection.frame(_AVOIDED, [day]).rows(named=True))


def _checked(rows: pl.DataFrame, prices: PriceTable, day: date) -> list[Sent]:
    """The requests, each of which must cost what its tokens do by its price row."""
    rows = rows.with_columns(
        sent_on=pl.col("sent_at").dt.convert_time_zone("UTC").dt.date(),
        began=pl.col("tier").first().over("batch_id", order_by="sent_at"),
    )
    found = []
    for row in rows.iter_rows(named=True):
        usage = Usage(
            row["prompt_tokens"],
            row["cached_tokens"],
            row["completion_tokens"],
            row["cache_write_tokens"],
        )
        sent = Sent(
            purpose_of(row),
            row["model"],
            row["service_tier"],
            row["sent_on"],
            row["reviews"],
            row["answered"],
            usage,
        )
        if (cost := cost_of(sent, prices)) != row["cost_nanos"]:
            raise BooksDiffer(
                f"{day}: request {row['request_id']} was booked at {row['cost_nanos']:,} "
                f"nano-dollars, its tokens cost {cost:,}: nothing is printed"
            )
        found.append(sent)
    return found


def purpose_of(row: Mapping[str, Any]) -> str:
    """What a request was for; each has one purpose, so that the parts add up.

    row: kind, cost_nanos, answered, attempt, tier, and `began`, the tier its batch was sent to
    first. What answered nothing counts as that, whatever it was for; a recheck that is asked again
    stays a recheck.
    """
    if row["kind"] == EMBEDDING:
        return EMBEDDINGS
    if row["cost_nanos"] and not row["answered"]:
        return NOTHING
    if row["kind"] == "audit":
        return RECHECKS
    if row["tier"] != row["began"]:
        return ESCALATIONS
    return RETRIES if row["attempt"] > 1 else FIRST


def price_of(sent: Sent, prices: PriceTable) -> Price:
    """The row that a request is priced by."""
    return prices.price(sent.model, sent.service_tier, sent.sent_on, sent.usage.prompt_tokens)


def cost_of(sent: Sent, prices: PriceTable) -> int:
    """Nano-dollars of a request; one without tokens costs nothing, whatever its model."""
    if not sent.usage.prompt_tokens and not sent.usage.completion_tokens:
        return 0
    return request_cost(price_of(sent, prices), sent.usage)


def parted(usage: Usage, price: Price, fixed: int) -> dict[str, int]:
    """A request's cost by kind of token; the parts add up to it exactly.

    fixed: tokens of schema and system prompt. What is read from a prompt cache or written to it is
    part of them, since they come first. The rounding goes to the parts with the largest rests.
    """
    plain = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    prefix = min(plain, max(0, fixed - usage.cached_tokens - usage.cache_write_tokens))
    weights = [
        prefix * price.input,
        (plain - prefix) * price.input,
        usage.cached_tokens * price.cached_input,
        usage.cache_write_tokens * price.cache_write,
        usage.completion_tokens * price.output,
    ]
    return dict(zip(TOKENS, allocate(request_cost(price, usage), weights), strict=True))


def fixed_tokens(taxonomy: Taxonomy) -> int:
    """Tokens of the schema and system prompt, as the simulator counts them in every request."""
    asking = Asking(taxonomy, reply_form(taxonomy, "auto"))
    nothing = pl.DataFrame(schema=dict.fromkeys(("item_id", "title", "text"), pl.String))
    return ChatRequest.read(asking.body(nothing, "any", redact=False)).prefix_tokens


def where_it_went(sent: Iterable[Sent], prices: PriceTable, fixed: int) -> dict[str, Any]:
    """By purpose: requests, texts and nano-dollars by kind of token; all of it adds up."""
    nanos: defaultdict[str, Counter[str]] = defaultdict(Counter)
    requests: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for each in sent:
        requests[each.purpose] += 1
        texts[each.purpose] += each.texts
        if cost_of(each, prices):
            own = 0 if each.purpose == EMBEDDINGS else fixed
            nanos[each.purpose].update(parted(each.usage, price_of(each, prices), own))
    return {
        name: {
            "requests": requests[name],
            "texts": texts[name],
            "nanos": {kind: nanos[name][kind] for kind in TOKENS},
        }
        for name in PURPOSES
    }


def repriced(model: str, service_tier: str | None = None) -> Callable[[Sent], Sent]:
    """The same tokens asked of another model; service_tier: that of each request, where None.

    Embeddings stay what they were: no model of this list makes them.
    """

    def other(sent: Sent) -> Sent:
        if sent.purpose == EMBEDDINGS:
            return sent
        return sent._replace(model=model, service_tier=service_tier or sent.service_tier)

    return other


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of days; None of fewer than two.

    It takes days for independent draws. Days of one feed share an archive, so it says how much
    they differ from each other, and no more.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stdev(values)
    half /= len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


@dataclass(frozen=True)
class Needed:
    """What hits cost and save in an arm, and how many of them the target needs."""

    miss_unit: float
    """Nano-dollars of 5,000 misses, with all that was asked again for them."""
    recheck_unit: float
    """Nano-dollars of the rechecks among 5,000 hits."""

    @property
    def rate(self) -> float | None:
        """The hit rate at which 5,000 reviews cost the target, hits rechecked as they were.

        A miss is taken to cost the same however many there are. None where no rate will do.

        >>> Needed(100e6, 0.0).rate, Needed(100e6, 5e6).rate, Needed(100e6, 20e6).rate
        (0.85, 0.8947368421052632, None)
        """
        if self.miss_unit <= TARGET_NANOS:
            return 0.0
        if self.recheck_unit > TARGET_NANOS:
            return None
        return (self.miss_unit - TARGET_NANOS) / (self.miss_unit - self.recheck_unit)

    @property
    def rate_without_rechecks(self) -> float:
        """The same, were no hit ever rechecked."""
        return max(0.0, 1 - TARGET_NANOS / self.miss_unit) if self.miss_unit else 0.0


def needed(sent: Iterable[Sent], prices: PriceTable, hits: int, reviews: int) -> Needed:
    """What the target needs, at the prices of these requests."""
    recheck = miss = 0
    for each in sent:
        if each.purpose == RECHECKS:
            recheck += cost_of(each, prices)
        else:
            miss += cost_of(each, prices)
    misses = reviews - hits
    return Needed(
        miss_unit=miss * UNIT / misses if misses else 0.0,
        recheck_unit=recheck * UNIT / hits if hits else 0.0,
    )
