"""`[alerts]` of tenants.toml: who is told of what, and through what."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

ChannelKind: TypeAlias = Literal["log", "webhook", "slack"]

_VARIABLE = r"^[A-Z][A-Z0-9_]*$"
_NEEDS: dict[ChannelKind, tuple[str, ...]] = {
    "log": (),
    "webhook": ("url_env", "secret_env"),
    "slack": ("url_env",),
}


class ChannelSettings(BaseModel):
    """`[[alerts.channels]]`: one way that alerts go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Name of the channel in reports."
    )
    kind: ChannelKind = Field(
        description="`log`; `webhook`, signed as Standard Webhooks 1.0 says; or `slack`, the JSON "
        "of its incoming webhooks, which others take too."
    )
    url_env: str | None = Field(
        default=None,
        pattern=_VARIABLE,
        description="Environment variable that holds the address, which may be a secret: https, "
        "or http on this machine.",
    )
    secret_env: str | None = Field(
        default=None,
        pattern=_VARIABLE,
        description="Environment variable that holds the secret a webhook is signed with, "
        "`whsec_` and base64 or plain.",
    )
    least: Literal["info", "warning", "critical"] = Field(
        default="info", description="Least severity that goes this way; recoveries are info."
    )
    tenants: tuple[str, ...] = Field(
        default=(), description="Tenants whose alerts go this way; empty: all."
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=20, description="Longest that an attempt waits for an answer."
    )

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ChannelSettings:
        for key in ("url_env", "secret_env"):
            is_set, needed = getattr(self, key) is not None, key in _NEEDS[self.kind]
            if needed and not is_set:
                raise ValueError(f"{key}: a channel of kind {self.kind!r} needs it")
            if is_set and not needed:
                raise ValueError(f"{key}: a channel of kind {self.kind!r} has no use for it")
        return self


class AlertSettings(BaseModel):
    """`[alerts]`: where alerts and recoveries go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[ChannelSettings, ...] = Field(
        default=(ChannelSettings(name="log", kind="log"),),
        description="Where alerts go, a table a channel.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> AlertSettings:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError("channels: two have the same name")
        return self

    def check_tenants(self, known: Collection[str]) -> None:
        """Refuse a channel for a tenant that there is not; raises ValueError with the key."""
        for number, channel in enumerate(self.channels):
            if unknown := next((name for name in channel.tenants if name not in known), None):
                raise ValueError(f"alerts.channels.{number}.tenants: {unknown!r} is no tenant")
