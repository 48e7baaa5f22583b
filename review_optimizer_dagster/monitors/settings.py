"""What is watched from day to day, and what is promised: tables of tenants.toml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _only_false(value: object) -> object:
    if value is not False:  # 0 == False, and "none may fail" is a promise
        raise ValueError("must be a number, or false for no promise")
    return value


# Strict, so that `true` is no number; `false` takes a promise back.
_Positive = Annotated[float, Field(gt=0, strict=True)]
_Share = Annotated[float, Field(ge=0, le=1, strict=True)]
_Withdrawn = Annotated[Literal[False], BeforeValidator(_only_false)]


class DriftSettings(_Table):
    """`[drift]`: days whose reviews differ from those of the days before."""

    enabled: bool = Field(default=True, description="Whether days are profiled and compared.")
    window_days: int = Field(
        default=28, ge=7, le=366, description="Days before that a day is compared with."
    )
    min_days: int = Field(
        default=7, ge=3, le=366, description="Fewest of them; before, nothing is said of drift."
    )
    min_reviews: int = Field(
        default=100,
        ge=20,
        description="Fewest reviews of a tenant's day, and of a category to be looked at alone.",
    )
    min_distance: float = Field(
        default=0.02,
        ge=0.0,
        lt=1.0,
        description="Least share of reviews that must have moved, for tenants so large that every "
        "difference is certain.",
    )
    false_alarms_per_year: float = Field(
        default=1.0,
        gt=0.0,
        le=36.5,
        description="False alarms that a tenant without drift may have in a year, all signals "
        "together.",
    )
    new_normal_days: int = Field(
        default=7,
        ge=3,
        le=90,
        description="Days in a row after which what has drifted is what days are compared with.",
    )

    @model_validator(mode="after")
    def _window_holds_its_least(self) -> DriftSettings:
        if self.min_days > self.window_days:
            raise ValueError("min_days is larger than window_days")
        return self


class LatencySettings(_Table):
    """`[latency]`: when response times are not what the size of a request predicts."""

    enabled: bool = Field(default=True, description="Whether response times are judged.")
    window_days: int = Field(
        default=28, ge=1, description="Days before a day whose requests say what is to be expected."
    )
    min_requests: int = Field(
        default=100,
        ge=30,
        description="Fewest earlier requests of a model and tier; with fewer nothing is judged.",
    )
    slow_z: float = Field(
        default=4.0, ge=2.0, description="Robust z-score over which a single request is slow."
    )
    false_alarms_per_1000: float = Field(
        default=0.1,
        gt=0.0,
        le=10.0,
        description="False alarms, while nothing is the matter, for each 1,000 requests.",
    )
    new_normal_days: int = Field(
        default=7,
        ge=1,
        description="Days after which slower response times are what is to be expected.",
    )


class ServiceLevels(_Table):
    """`[tenants.NAME.service]`: what is promised to a tenant; `false` promises nothing."""

    run_seconds: _Positive | _Withdrawn | None = Field(
        default=None,
        description="Longest run for each started 5,000 reviews; by default that of [service] "
        "target_seconds, and none where `send` is batch. `false`, here and below, takes a promise "
        "back: the figure is shown and not judged.",
    )
    freshness_hours: _Positive | _Withdrawn = Field(
        default=26.0,
        description="Most hours from the arrival of a day's last file to its publication; the "
        "schedule alone, at 01:15 UTC, takes up to 25.25 for what arrives in the first hour.",
    )
    p95_latency_seconds: _Positive | _Withdrawn = Field(
        default=60.0,
        description="Response time that 95 % of a day's requests may not exceed; those of the "
        "Batch API do not count.",
    )
    hit_rate: _Share | _Withdrawn | None = Field(
        default=None,
        description="Least share of reviews answered without the model; by default not promised, "
        "since it depends on what is delivered.",
    )
    accuracy: _Share | _Withdrawn | None = Field(
        default=None,
        description="Accuracy that the gate's interval is held against; by default min_accuracy.",
    )
    usd_per_1000: _Positive | _Withdrawn = Field(
        default=0.015,
        description="Most dollars for 1,000 labelled reviews; the default is 99 % under the "
        "one-model baseline of $1.50.",
    )
    failed_share: _Share | _Withdrawn = Field(
        default=0.01, description="Largest share of reviews that end without labels as failed."
    )
    objective: float = Field(
        default=0.95,
        gt=0.0,
        lt=1.0,
        description="Share of days that keep a promise; the rest is its error budget.",
    )


class ServiceSettings(_Table):
    """`[service]`: what was promised."""

    target_seconds: float = Field(
        default=30.0, gt=0, description="Longest run for each started 5,000 reviews."
    )
    analytics_days: int = Field(
        default=90, ge=1, description="Days that analytics.duckdb holds; Parquet holds them all."
    )
    window_days: int = Field(
        default=30,
        ge=1,
        le=366,
        description="Days that an error budget is for.",
    )
