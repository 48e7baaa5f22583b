"""Whether large batches are right: a sample of each is judged against the truth as it comes in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import polars as pl

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.exchange.prompt import Json
from review_optimizer_dagster.exchange.reply import EMBEDDING, Reply, escalated, read_reply
from review_optimizer_dagster.taxonomies import Taxonomy, truth_classes

Verdict: TypeAlias = Literal["below", "undecided", "pass", "unsampled"]  # worst first
Scope: TypeAlias = tuple[str, str, str]  # tenant, identity, tier
TruthSource: TypeAlias = Callable[[str, str], Iterable[tuple[str, str]]]
"""Of a tenant and taxonomy: content_key and truth (a JSON object, field to label) of each text."""

LEVEL = 0.05
"""The chance that a tenant's tier is paused on a day although its accuracy is the threshold."""
FEWEST = 5  # reviews with a truth; of fewer nothing is said

SAMPLES = pl.Schema(
    {
        "request_id": pl.String(),
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "tier": pl.String(),
        "model": pl.String(),
        "simulated": pl.Boolean(),
        "reviews": pl.Int64(),  # that the request asked about
        "n": pl.Int64(),  # sampled: answered, and with a truth
        "correct": pl.Int64(),  # of these, right in every field that has a truth
        "lower": pl.Float64(),  # null where unsampled
        "upper": pl.Float64(),
        "confidence": pl.Float64(),  # of each end by itself
        "threshold": pl.Float64(),
        "goal": pl.Float64(),
        "verdict": pl.String(),
    }
)


@dataclass(frozen=True)
class SampleRules:
    """Which replies are sampled, and how many of their reviews."""

    above: int = 100
    """Replies to more reviews than this."""
    reviews: int = 60


class Goals(NamedTuple):
    """What a tenant asks for; the goal decides nothing."""

    threshold: float
    goal: float


class Decision(NamedTuple):
    """A verdict, and the interval that it rests on (None where there is none)."""

    verdict: Verdict
    lower: float | None
    upper: float | None
    confidence: float


def decide(correct: int, n: int, threshold: float, batches: int = 1) -> Decision:
    """Whether so many right of a sample are below the threshold beyond doubt.

    batches: how many such batches share `LEVEL`, so that each end of the interval is an exact
    one-sided bound of confidence 1 - LEVEL / batches (Bonferroni; Clopper & Pearson 1934). By
    Boole's inequality a tier of exactly the threshold is then paused by any of them with a chance
    of at most LEVEL. A plain share of 60 under 0.95 would pause a tier of accuracy 0.96 at every
    fourth to fifth batch.
    """
    confidence = 1 - LEVEL / max(1, batches)
    if n < FEWEST:
        return Decision("unsampled", None, None, confidence)
    lower, upper = clopper_pearson(correct, n, 2 * confidence - 1)
    verdict: Verdict = "undecided"
    if upper < threshold:
        verdict = "below"
    elif lower >= threshold:
        verdict = "pass"
    return Decision(verdict, lower, upper, confidence)


@dataclass(frozen=True)
class BatchSample:
    """What a sample of one reply says of its tier."""

    request_id: str
    tenant: str
    taxonomy: str
    identity: str
    tier: str
    model: str
    simulated: bool
    reviews: int
    n: int
    correct: int
    decision: Decision
    goals: Goals

    @property
    def scope(self) -> Scope:
        """Whom a pause concerns."""
        return self.tenant, self.identity, self.tier


@dataclass(frozen=True)
class Truths:
    """What is known of a tenant's texts, and the classes that it shows."""

    labels: Mapping[str, Mapping[str, str]]
    """By content_key: field to label."""
    classes: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, taxonomy: Taxonomy, known: Iterable[tuple[str, str]]) -> Truths:
        """From content_key and JSON; a truth of no field of the taxonomy is none."""
        parsed: dict[str, dict[str, str]] = {}  # few differ, and all of a kind are one object
        labels = {}
        for key, text in known:
            if text not in parsed:
                parsed[text] = taxonomy.truth_of(text)
            if parsed[text]:
                labels[key] = parsed[text]
        return cls(labels, truth_classes(parsed.values()))


def is_large(record: Json, rules: SampleRules) -> bool:
    """Whether a request's reply is sampled, if it is read."""
    return len(record["items"]) > rules.above and record["kind"] != EMBEDDING


def sampled(
    record: Json, reply: Reply, taxonomy: Taxonomy, truths: Truths, goals: Goals, rules: SampleRules
) -> BatchSample:
    """Judge a random sample of a reply that was read; pure.

    Drawn among the answered reviews that have a truth, by a digest of request_id and content_key,
    so that it does not depend on their order. Reviews that go on to the next tier are left out:
    this answer of theirs does not count.
    """
    moved = set(escalated(record, reply))
    answers = {
        key: reply.labels[item_id]
        for item_id, key, _ in record["items"]
        if item_id in reply.labels and item_id not in moved and key in truths.labels
    }
    name = record["request_id"]
    chosen = sorted(answers, key=lambda key: _draw(name, key))[: rules.reviews]
    fields = {field.name: field for field in taxonomy.fields}
    correct = sum(
        all(
            fields[each].agrees(answers[key].get(each, ""), label, truths.classes[each])
            for each, label in truths.labels[key].items()
        )
        for key in chosen
    )
    decision = decide(correct, len(chosen), goals.threshold, record.get("large_batches") or 1)
    facts = {each: record[each] for each in ("tenant", "taxonomy", "identity", "simulated")}
    return BatchSample(
        request_id=name,
        tier=str(record.get("tier")),
        model=reply.model or record["model"],
        reviews=len(record["items"]),
        n=len(chosen),
        correct=correct,
        decision=decision,
        goals=goals,
        **facts,
    )


def _draw(request_id: str, content_key: str) -> bytes:
    return hashlib.blake2b(f"{request_id}|{content_key}".encode(), digest_size=8).digest()


class Sampler:
    """Samples replies against a source of truth, which it asks once a tenant and taxonomy."""

    def __init__(
        self,
        rules: SampleRules,
        taxonomies: Mapping[str, Taxonomy],
        truth: TruthSource,
        goals: Callable[[str], Goals],
    ) -> None:
        """taxonomies: by name; goals: a tenant's."""
        self.rules = rules
        self._taxonomies = taxonomies
        self._truth = truth
        self._goals = goals
        self._truths: dict[tuple[str, str], Truths] = {}

    def sample(self, record: Json, reply: Reply) -> BatchSample | None:
        """What a sample of a reply says; None where it is not large, or was not read."""
        taxonomy = self._taxonomies.get(record["taxonomy"])
        if not is_large(record, self.rules) or not reply.was_read or taxonomy is None:
            return None
        key = record["tenant"], record["taxonomy"]
        if key not in self._truths:
            self._truths[key] = Truths.of(taxonomy, self._truth(*key))
        goals = self._goals(record["tenant"])
        return sampled(record, reply, taxonomy, self._truths[key], goals, self.rules)

    def table(self, records: Iterable[Json]) -> pl.DataFrame:
        """The samples of a journal's records: SAMPLES, by request_id."""
        found = [
            sample
            for record in records
            if is_large(record, self.rules) and (sample := self.sample(record, read_reply(record)))
        ]
        rows = [_row(sample) for sample in sorted(found, key=lambda each: each.request_id)]
        return pl.DataFrame(rows, SAMPLES, orient="row")


def _row(sample: BatchSample) -> tuple[object, ...]:
    of = sample.decision
    values = vars(sample) | {"lower": of.lower, "upper": of.upper, "confidence": of.confidence}
    values |= {"verdict": of.verdict, "threshold": sample.goals.threshold}
    values |= {"goal": sample.goals.goal}
    return tuple(values[name] for name in SAMPLES)


def _nobody(_: BatchSample) -> None:
    pass


class BatchWatch:
    """Watches a run's replies, and knows which tiers are paused for whom.

    Everything is called from the run's one event loop.
    """

    def __init__(
        self,
        sampler: Sampler,
        paused: Iterable[Scope] = (),
        judged: Iterable[str] = (),
        tell: Callable[[BatchSample], None] = _nobody,
    ) -> None:
        """paused: what is paused already; judged: request ids that were told as below before.

        tell: given each sample that is below and was not told before, ahead of the pause.
        """
        self._sampler = sampler
        self._paused = set(paused)
        self._judged = set(judged)
        self._tell = tell
        self._planned: Counter[tuple[str, str]] = Counter()
        self._asked: set[tuple[str, str]] = set()
        self.counts: Counter[Verdict] = Counter()
        """Replies that were sampled, by verdict; `unsampled`: too few of them had a truth."""

    def plan(self, plan: pl.DataFrame) -> None:
        """Count the large batches of a plan (PLAN): they share the level of a tenant's day."""
        keys = plan.select("tenant", "identity").unique().iter_rows()
        self._asked = {(tenant, identity) for tenant, identity in keys}
        sizes = plan.group_by("tenant", "identity", "batch_id", "tier").len()
        large = sizes.filter(pl.col("len") > self._sampler.rules.above)
        counts = large.group_by("tenant", "identity").len().iter_rows()
        self._planned = Counter({(tenant, identity): n for tenant, identity, n in counts})

    def planned(self, tenant: str, identity: str) -> int:
        """How many large batches share the level, 1 at least; kept with each request."""
        return max(1, self._planned[tenant, identity])

    @property
    def has_paused(self) -> bool:
        """Whether any tier is paused for anybody."""
        return bool(self._paused)

    def is_paused(self, tenant: str, identity: str, tier: str) -> bool:
        """Whether nothing more of a tenant's identity is sent to a tier."""
        return (tenant, identity, tier) in self._paused

    def saw(self, record: Json, reply: Reply) -> None:
        """Sample a reply, and pause its tier where that is below."""
        if (sample := self._sampler.sample(record, reply)) is None:
            return
        self.counts[sample.decision.verdict] += 1
        self._judge(sample)

    def catch_up(self, records: Iterable[Json]) -> Iterator[Json]:
        """Pass a journal's records on, and judge those that a killed run had no time to judge.

        One that was judged before pauses nothing again: it may have been resumed since. What was
        asked under another identity than the plan's says nothing of this one.
        """
        for record in records:
            is_new = record["request_id"] not in self._judged and record["outcome"] is not None
            is_new = is_new and (record["tenant"], record["identity"]) in self._asked
            if is_new and is_large(record, self._sampler.rules):
                sample = self._sampler.sample(record, read_reply(record))
                if sample is not None:
                    self._judge(sample)
            yield record

    def _judge(self, sample: BatchSample) -> None:
        if sample.decision.verdict == "below" and sample.request_id not in self._judged:
            self._tell(sample)
            self._judged.add(sample.request_id)
            self._paused.add(sample.scope)
