"""What texts cost with no cache at all: tokens and dollars by model, way and form of the replies.

Exact counts of o200k_base where the group `tokens` is installed, else the estimate of tokens.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, TypeAlias

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.core.batching import STANDARD_TIER, Tier, plan_batches
from review_optimizer_dagster.core.costs import BASELINE_NANOS_PER_REVIEW
from review_optimizer_dagster.exchange.prompt import Asking, Form, as_json
from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.money.prices import (
    BATCH_TIER,
    DEFAULT_TIER,
    Price,
    load_prices,
    request_cost,
)
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.simulator.forms import Answer, read_form
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy
from review_optimizer_dagster.tokens import estimate_tokens
from review_optimizer_dagster_tests.benchmarks.asked import (
    DAY,
    MODEL,
    TENANT,
    distinct_rows,
    misses_of,
)

MODELS: Final = ("gpt-6-luna", "gpt-5.6-luna", "gpt-5.4-nano", "gpt-5.4-mini", "gpt-4o-mini")
WAYS: Final = {"sync": DEFAULT_TIER, "batch": BATCH_TIER}
FORMS: Final[tuple[Form, ...]] = ("labels", "codes")
AIM_NANOS: Final = 15_000_000  # $0.015 for the reviews of a day
RECHECK_SHARE: Final = 0.02
LEAST_PREFIX: Final = 1_024  # tokens; an endpoint caches no shorter one
CACHE_STEP: Final = 128  # tokens; longer ones are cached in steps of
FRAMING: Final = 11  # tokens that the chat format adds to two messages
Counter: TypeAlias = Callable[[str], int]


def exact_counter() -> Counter | None:
    """Counts tokens of o200k_base; None where the group `tokens` is not installed."""
    try:
        import bpe_openai
    except ImportError:
        return None
    encode = bpe_openai.get_encoding("o200k_base").encode_ordinary
    return lambda text: len(encode(text))


@dataclass(frozen=True)
class Spoken:
    """The requests of a form: their tokens, and how far the estimate is off."""

    form: Form
    prefix: int
    """Tokens of schema and system prompt, the same in every request."""
    prompts: Sequence[int]
    """All input tokens, a request."""
    replies: Sequence[int]
    """Output tokens, a request."""
    estimate_off: Mapping[str, float]
    """By part: the estimate of tokens.py over the exact count, less 1."""

    @property
    def cacheable(self) -> int:
        """Tokens of the prefix that an endpoint may cache; 0 where it is too short."""
        return self.prefix // CACHE_STEP * CACHE_STEP if self.prefix >= LEAST_PREFIX else 0


def spoken(rows: pl.DataFrame, taxonomy: Taxonomy, form: Form, count: Counter) -> Spoken:
    """Every request of the plan of these rows and the reply to it, counted.

    The replies are the lexicon's; other labels would be as long, nearly.
    """
    how, judge = Asking(taxonomy, form), LexiconJudge()
    tier = Tier(STANDARD_TIER, MODEL)
    misses = misses_of(rows, taxonomy, TENANT)
    plan = plan_batches(misses, lambda *_: how, [tier], BatchSettings(), DAY)
    texts = misses.select("identity", "content_key", "title", "text")
    whole = plan.join(texts, on=["identity", "content_key"], maintain_order="left")
    schema = as_json(how.response_format).decode()
    written = read_form(schema, how.system_prompt)
    fields = {field.name: list(field.labels) for field in taxonomy.fields}
    fixed = f"{schema}\n{how.system_prompt}"
    parts: dict[str, list[tuple[int, int]]] = {"prefix": [(count(fixed), estimate_tokens(fixed))]}
    parts |= {"documents": [], "replies": []}
    for batch in whole.partition_by("batch_id", maintain_order=True):
        asked = how.body(batch, MODEL, redact=True)["messages"][1]["content"]
        answers = [
            Answer(item, judge.judge(title, text, fields) or {})
            for item, title, text in batch.select("item_id", "title", "text").iter_rows()
        ]
        reply = written.encode(answers)
        parts["documents"].append((count(asked), estimate_tokens(asked)))
        parts["replies"].append((count(reply), written.count(reply)))
    prefix = parts["prefix"][0][0]
    return Spoken(
        form=form,
        prefix=prefix,
        prompts=[prefix + FRAMING + exact for exact, _ in parts["documents"]],
        replies=[exact for exact, _ in parts["replies"]],
        estimate_off={
            name: sum(rough for _, rough in found) / sum(exact for exact, _ in found) - 1
            for name, found in parts.items()
        },
    )


def cost_nanos(said: Spoken, price: Price, prompt_cache: bool) -> int:
    """Nano-dollars of the requests; with a prompt cache, each but the first finds the prefix."""
    total, cached = 0, said.cacheable if prompt_cache else 0
    for number, (prompt, reply) in enumerate(zip(said.prompts, said.replies, strict=True)):
        found, written = (cached, 0) if number else (0, cached)
        total += request_cost(price, Usage(prompt, found, reply, written))
    return total


def hit_rate_for(cost: int, aim: int, recheck_share: float = 0.0) -> float | None:
    """The hit rate at which the misses, and that share of the hits, cost no more than the aim.

    A miss is taken to cost the same however many there are. None where no hit rate will do.

    >>> hit_rate_for(100, 15), hit_rate_for(100, 15, 0.02)
    (0.85, 0.8673469387755102)
    """
    if cost <= aim:
        return 0.0
    rate = (1 - aim / cost) / (1 - recheck_share)
    return rate if rate <= 1 else None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens by form, dollars by model, way and form, and what hit rate the aim needs."""
    taxonomy, prices = load_taxonomy("reviews"), load_prices()
    today = datetime.now(UTC).date()
    exact = exact_counter()
    rows = distinct_rows(options.reviews, options.reviews_count)
    told = [spoken(rows, taxonomy, form, exact or estimate_tokens) for form in FORMS]
    costs = []
    for model in MODELS:
        for way, tier in WAYS.items():
            price = prices.check_model(model, today, tier)
            costs += [_cost_row(model, way, said, price, rows.height) for said in told]
    return {
        "reviews": rows.height,
        "counter": "o200k_base" if exact else "estimate of tokens.py",
        "priced_on": today.isoformat(),
        "baseline_nanos": BASELINE_NANOS_PER_REVIEW * rows.height,
        "aim_nanos": _aim(rows.height),
        "recheck_share": RECHECK_SHARE,
        "forms": [
            {
                "form": said.form,
                "requests": len(said.prompts),
                "prefix_tokens": said.prefix,
                "cacheable_tokens": said.cacheable,
                "prompt_tokens": sum(said.prompts),
                "completion_tokens": sum(said.replies),
                "estimate_off": dict(said.estimate_off) if exact else None,
            }
            for said in told
        ],
        "costs": costs,
    }


def _aim(reviews: int) -> int:
    """The aim of a day of 5,000 reviews, for as many as there are."""
    return AIM_NANOS * reviews // 5_000


def _cost_row(model: str, way: str, said: Spoken, price: Price, reviews: int) -> dict[str, Any]:
    plain, cached = cost_nanos(said, price, False), cost_nanos(said, price, True)
    baseline, aim = BASELINE_NANOS_PER_REVIEW * reviews, _aim(reviews)
    return {
        "model": model,
        "way": way,
        "form": said.form,
        "cost_nanos": plain,
        "cost_nanos_prompt_cache": cached,
        "of_baseline": plain / baseline,
        "hit_rate": hit_rate_for(plain, aim),
        "hit_rate_with_rechecks": hit_rate_for(plain, aim, RECHECK_SHARE),
        "recheck_nanos": round(plain * RECHECK_SHARE * (hit_rate_for(plain, aim) or 0.0)),
        "ends": price.ends and date.isoformat(price.ends),
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Tokens, dollars, and what is assumed."""
    reviews = figures["reviews"]
    tokens = Table(
        title=f"tokens of {reviews:,} different reviews, no cache, taxonomy `reviews`; counted by "
        f"{figures['counter']}",
        title_justify="left",
    )
    for column in ("replies", "requests", "input", "of it fixed, a request", "output", "a review"):
        tokens.add_column(column, justify="right" if column != "replies" else "left")
    tokens.add_column("estimate off by: fixed, documents, replies", justify="right")
    for form in figures["forms"]:
        a_review = (form["prompt_tokens"] + form["completion_tokens"]) / reviews
        off = form["estimate_off"]
        tokens.add_row(
            form["form"],
            str(form["requests"]),
            f"{form['prompt_tokens']:,}",
            f"{form['prefix_tokens']:,}",
            f"{form['completion_tokens']:,}",
            f"{a_review:.1f}",
            ", ".join(f"{value:+.1%}" for value in off.values()) if off else "-",
        )
    console.print(tokens)
    aim = figures["aim_nanos"] / 1e9
    table = Table(
        title=f"dollars for them, prices of {figures['priced_on']}; beside "
        f"${figures['baseline_nanos'] / 1e9:.2f} at $1.50 per 1,000",
        title_justify="left",
    )
    columns = ("model", "way", "replies", "$", "of that", "$, prompt cache", f"hits for ${aim:g}")
    for column in (*columns, "with rechecks", "rechecks add $"):
        table.add_column(column, justify="left" if column in columns[:3] else "right")
    for row in figures["costs"]:
        hits, audited = row["hit_rate"], row["hit_rate_with_rechecks"]
        table.add_row(
            row["model"],
            row["way"],
            row["form"],
            f"{row['cost_nanos'] / 1e9:.4f}",
            f"{row['of_baseline']:.2%}",
            f"{row['cost_nanos_prompt_cache'] / 1e9:.4f}",
            "-" if hits is None else f"{hits:.1%}",
            "no hit rate will do" if audited is None else f"{audited:.1%}",
            f"{row['recheck_nanos'] / 1e9:.4f}",
        )
    console.print(table)
    for form in figures["forms"]:
        short = f"reaches {LEAST_PREFIX:,}, so {form['cacheable_tokens']:,} of them are cached"
        if not form["cacheable_tokens"]:
            short = f"does not reach {LEAST_PREFIX:,}: nothing of it is cached"
        console.print(f"{form['form']}: the fixed part of {form['prefix_tokens']:,} tokens {short}")
    console.print(
        f"Assumed: {FRAMING} tokens of framing a request; the schema counts as its JSON; replies "
        "are compact JSON; no reasoning tokens; with a prompt cache every request but the first "
        "finds the fixed part there, in the Batch API too; hits are free; a miss costs the same "
        "however many there are (fewer misses make smaller batches, whose fixed part weighs more)."
        f" With rechecks: {figures['recheck_share']:.0%} of the hits are asked of the model too."
    )
