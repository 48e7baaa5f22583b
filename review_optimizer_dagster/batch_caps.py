"""batch_caps.toml: how many reviews a model labels at once as well as alone, as measured."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from review_optimizer_dagster.errors import ConfigError


class BatchCap(BaseModel):
    """`[[caps]]`: what the benchmark batch_size found for a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="The model that was asked.")
    max_reviews: int = Field(ge=1, le=500, description="Largest batch that is as good as single.")
    texts: int = Field(ge=1, description="Texts that were asked both ways.")
    agreement: float = Field(ge=0, le=1, description="Share that got the same labels.")
    lower: float = Field(ge=0, le=1, description="Lower end of its exact 95 % interval.")
    measured_on: date = Field(description="UTC day of the measurement.")


class BatchCaps(BaseModel):
    """batch_caps.toml: the newest table of a model, the last one, counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caps: tuple[BatchCap, ...] = Field(default=(), description="One table a measurement.")


def measured_cap(path: Path, model: str) -> int | None:
    """The largest batch of a model that its file, where there is one, has a [[caps]] table for.

    Raises ConfigError where the file is not valid.
    """
    if not path.exists():
        return None
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        caps = BatchCaps.model_validate(data).caps
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, "", f"is not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError.of(path, error) from error
    return next((cap.max_reviews for cap in reversed(caps) if cap.model == model), None)
