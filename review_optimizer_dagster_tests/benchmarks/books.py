"""The other set of books: what an endpoint's record says that a journal's requests came to.

Priced from the price rows alone, by nothing that the ledger uses, in integer nano-dollars.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import polars as pl

from review_optimizer_dagster import tables
from review_optimizer_dagster.core.classifier import Readout
from review_optimizer_dagster.core.costs import LEDGER, Posting, paid_entries
from review_optimizer_dagster.exchange.reply import read_reply
from review_optimizer_dagster.simulator.endpoint import Route
from review_optimizer_dagster.simulator.faults import FAULTS, Fault, FaultRates
from review_optimizer_dagster.simulator.judge import Judge
from review_optimizer_dagster.simulator.protocol import BilledRequest, Delivery, Reply, Request
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.taxonomies import Taxonomy

_NANOS_A_DOLLAR = 10**9
_MILLION = 10**6


@cache
def _rows() -> Mapping[tuple[str, str], list[tuple[int, Mapping[str, int]]]]:
    """Nano-dollars per million tokens, by model and tier, of the prices that still hold.

    Each with the input tokens above which it holds, the largest first.
    """
    text = (resources.files(tables) / "prices.toml").read_text(encoding="utf-8")
    found: defaultdict[tuple[str, str], list[tuple[int, Mapping[str, int]]]] = defaultdict(list)
    for row in tomllib.loads(text, parse_float=Decimal)["prices"]:
        if "valid_to" in row:
            continue
        nanos = {
            name: int(Decimal(row[name]) * _NANOS_A_DOLLAR)
            for name in ("input", "cached_input", "cache_write", "output")
            if name in row
        }
        found[row["model"], row.get("service_tier", "default")].append(
            (row.get("context_above", 0), nanos)
        )
    for bands in found.values():
        bands.sort(key=lambda band: -band[0])
    return found


def priced(billed: BilledRequest) -> int:
    """Nano-dollars of a row of the record, rounded half up."""
    if not billed.prompt_tokens and not billed.completion_tokens:
        return 0
    tier = "batch" if billed.way == "batch" else billed.service_tier or "default"
    bands = _rows()[billed.model, tier]
    price = next(nanos for above, nanos in bands if billed.prompt_tokens > above)
    plain = billed.prompt_tokens - billed.cached_tokens - billed.cache_write_tokens
    scaled = plain * price["input"] + billed.completion_tokens * price["output"]
    scaled += billed.cached_tokens * price.get("cached_input", price["input"])
    scaled += billed.cache_write_tokens * price.get("cache_write", price["input"])
    whole, rest = divmod(scaled, _MILLION)
    return whole + (2 * rest >= _MILLION)


class _Counted(FaultRates):
    """Rates that tell which faults were drawn from them."""

    def __init__(self, rates: FaultRates, drawn: Counter[str]) -> None:
        super().__init__({})
        self._of = rates
        self._drawn = drawn

    def pick(self, share: float) -> Fault | None:
        fault = self._of.pick(share)
        if fault is not None:
            self._drawn[fault.name] += 1
        return fault


class WatchedSimulator(Simulator):
    """Also keeps when it was asked, what the calls met, and which lines of jobs were fetched."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked_at: list[float] = []
        self.call_faults: Counter[str] = Counter()
        self.fetched: set[str] = set()

    def answer(self, request: Request) -> Reply:
        self.asked_at.append(time.monotonic())
        reply = super().answer(request)
        if request.path.endswith("/content") and reply.status == 200:
            self._note_lines(reply)
        return reply

    def _disturbed(self, request: Request, route: Route) -> Reply:
        return super()._disturbed(
            request, route._replace(rates=_Counted(route.rates, self.call_faults))
        )

    def _note_lines(self, reply: Reply) -> None:
        """Keep the names of a file's lines, if all of it goes out as it is."""
        if reply.delivery is not Delivery.WHOLE:
            return
        with suppress(ValueError, KeyError, TypeError):
            lines = [json.loads(line) for line in reply.content().splitlines()]
            self.fetched |= {line["custom_id"] for line in lines}

    @property
    def record(self) -> list[Entry]:
        """Its rows, with whether the client was given each."""
        return [Entry(row, is_readable(row, self.fetched)) for row in self.billed]


class Entry(NamedTuple):
    """A row of an endpoint's record, and whether the client could read what it is billed for."""

    billed: BilledRequest
    readable: bool


def is_readable(billed: BilledRequest, fetched: Container[str | None]) -> bool:
    """Whether the client was given the whole answer, and in it what it is billed for.

    fetched: names of the lines of jobs that were handed out.
    """
    fault = FAULTS[billed.fault] if billed.fault else None
    arrived = billed.delivered and (billed.way == "sync" or billed.client_request_id in fetched)
    return arrived and (fault is None or fault.states_usage)


@dataclass(frozen=True)
class Books:
    """The ledger beside the endpoint's record; nano-dollars."""

    requests: int
    met: int
    """Requests that met a fault."""
    booked: int
    """In the ledger."""
    billed: int
    """By the record, of the answers that the client could read whole."""
    differing: int
    """Requests whose cost is not to the nano-dollar what the record says; must be 0."""
    held: int
    """Set aside for requests of which the client does not know what they cost."""
    billed_unread: int
    """By the record, of the answers that it could not read."""
    uncovered: int
    """Requests for which less is set aside than the record says; must be 0."""
    unknown: int
    """Requests that ended without any outcome."""

    @property
    def agrees(self) -> bool:
        """Whether both sets of books say the same."""
        return self.booked == self.billed and not self.differing and not self.uncovered


def compare(readout: Readout, record: Iterable[Entry], ledger_nanos: int) -> Books:
    """The books of a journal beside those of the endpoints that it asked.

    A row of the record that no request of the journal asked for counts as differing. What went
    out to a client that was killed before it could keep the answer counts as not read.
    """
    unknown = set(readout.requests.filter(pl.col("status") == "unknown")["request_id"])
    read: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    met = 0
    for row, readable in record:
        met += row.fault is not None
        is_read = readable and row.client_request_id not in unknown
        (read if is_read else unread)[str(row.client_request_id)] += priced(row)
    ours = {
        name: (cost, held)
        for name, cost, held in readout.requests.select(
            "request_id", "cost_nanos", "held_nanos"
        ).iter_rows()
    }
    names = set(ours) | set(read) | set(unread)
    return Books(
        requests=len(ours),
        met=met,
        booked=ledger_nanos,
        billed=read.total(),
        differing=sum(1 for name in names if ours.get(name, (-1, 0))[0] != read[name]),
        held=sum(held for _, held in ours.values()),
        billed_unread=unread.total(),
        uncovered=sum(1 for name in names if ours.get(name, (0, -1))[1] < unread[name]),
        unknown=len(unknown),
    )


def ledger_of(readout: Readout) -> int:
    """Nano-dollars of the ledger's rows for a journal, a review for each text."""
    keys = readout.shares.select("tenant", "identity", "content_key").unique()
    results = keys.with_columns(review_id=pl.col("content_key"), repeat=pl.lit(False))
    results = results.with_columns(category=pl.lit(None, pl.String))
    posting = Posting(datetime.now(UTC), "books")
    entries = paid_entries(readout.shares, readout.requests, results, LEDGER.to_frame(), posting)
    return int(entries["cost_nanos"].sum())


def doubled(requests: Sequence[Mapping[str, Any]], record: Iterable[Entry]) -> int:
    """Texts with two valid answers, or asked again after they had one.

    requests: of the journal. An answer is valid where the engine read it so, and where the
    endpoint's record knows of no fault and the client has it: what the engine refuses for no
    reason counts as well.
    """
    flawless = {row.client_request_id for row, _ in record if row.fault is None}
    answered: defaultdict[str, list[str]] = defaultdict(list)
    for request in requests:
        outcome = request["outcome"]
        arrived = outcome is not None and outcome["http_status"] == 200
        labels = read_reply(dict(request)).labels
        for item_id, key, _ in request["items"]:
            if item_id in labels or (arrived and request["request_id"] in flawless):
                answered[key].append(outcome["received_at"])
    again = {
        key
        for request in requests
        for _, key, _ in request["items"]
        if any(moment < request["sent_at"] for moment in answered.get(key, ()))
    }
    return len(again | {key for key, moments in answered.items() if len(moments) > 1})


def wrong(
    labelled: Iterable[tuple[str | None, str, Mapping[str, str]]], judge: Judge, taxonomy: Taxonomy
) -> int:
    """How many labels (title, text, field to label) are not those that the judge gives."""
    fields = {field.name: list(field.labels) for field in taxonomy.fields}
    return sum(1 for title, text, labels in labelled if labels != judge.judge(title, text, fields))
