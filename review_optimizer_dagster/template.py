"""Every key of tenants.toml, explained by the settings: as `init` writes it, and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from review_optimizer_dagster.alerts.settings import AlertSettings, ChannelSettings
from review_optimizer_dagster.settings import (
    EngineSettings,
    Settings,
    TenantSettings,
    TierSettings,
)

_HEADER = """\
# review-optimizer: who the tenants are, and how their reviews are answered.
# Every key has a default, shown behind its #; remove the # to change it.
# The key of the model's endpoint is never written here: it comes from the environment.
"""

_FIRST_TENANT = """
# A ladder of models in place of [engine] model is a table a step, the cheapest first, such as
# `[[engine.tiers]]` with name, model and max_complexity, then one with name and model alone.

# One table a tenant; its reviews arrive in inbox/NAME/YYYY-MM-DD/.
[tenants.acme]
"""


# Not in the form of a commented key, since those stand for defaults.
_CHANNELS = """\
# Tables such as these two come in place of that line, so that the log is told only if it is among
# them. `review-optimizer alerts test` tries each. None is owed what was raised before it was there.
#   [[alerts.channels]]
#   name = "on-call"
#   kind = "webhook"
#   url_env = "ALERTS_URL"
#   secret_env = "ALERTS_SECRET"
#   least = "warning"
#
#   [[alerts.channels]]
#   name = "chat"
#   kind = "slack"
#   url_env = "CHAT_URL"
#   tenants = ["acme"]
# Their keys:
"""


def commented_settings() -> str:
    """A tenants.toml that explains every key; made from the settings, so it cannot go stale."""
    parts = [_HEADER]
    tables: list[tuple[str, type[BaseModel]]] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            tables.append((name, field.annotation))
        elif name != "tenants":
            parts.append(_commented_key(name, field))
    for name, model in tables:
        parts.append(f"\n# {(model.__doc__ or '').strip()}\n[{name}]\n")
        parts += [_commented_key(key, field) for key, field in model.model_fields.items()]
        if model is AlertSettings:
            parts.append(_channel_tables())
    parts.append(_FIRST_TENANT)
    tables = []
    for key, field in TenantSettings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            tables.append((key, field.annotation))
        else:
            parts.append(_commented_key(key, field))
    # Tables of a tenant come last, since its own keys would be theirs behind them.
    for key, model in tables:
        parts.append(f"\n# {(model.__doc__ or '').strip()}\n[tenants.acme.{key}]\n")
        parts += [_commented_key(name, each) for name, each in model.model_fields.items()]
    return "".join(parts)


def settings_reference() -> str:
    """Every key with its default and meaning, a Markdown table a table of tenants.toml."""
    return "\n".join(
        f"**`{heading}`** {meaning}\n\n| key | default | |\n| --- | --- | --- |\n"
        + "".join(_reference_row(name, field) for name, field in keys.items())
        for heading, meaning, keys in _tables()
    )


def _tables() -> Iterator[tuple[str, str, dict[str, FieldInfo]]]:
    """Heading, meaning and plain keys of every table, those without one first."""

    def parts(model: type[BaseModel]) -> tuple[dict[str, FieldInfo], dict[str, type[BaseModel]]]:
        tables = {
            name: field.annotation
            for name, field in model.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        }
        return {k: f for k, f in model.model_fields.items() if k not in tables}, tables

    def meaning(model: type[BaseModel]) -> str:
        return " ".join((model.__doc__ or "").partition(": ")[2].split())

    keys, tables = parts(Settings)
    del keys["tenants"]
    yield "at the top", "of the file.", keys
    for name, model in tables.items():
        yield f"[{name}]", meaning(model), parts(model)[0]
        if model is EngineSettings:
            yield "[[engine.tiers]]", meaning(TierSettings), parts(TierSettings)[0]
        if model is AlertSettings:
            yield "[[alerts.channels]]", meaning(ChannelSettings), parts(ChannelSettings)[0]
    keys, tables = parts(TenantSettings)
    yield "[tenants.NAME]", meaning(TenantSettings), keys
    for name, model in tables.items():
        yield f"[tenants.NAME.{name}]", meaning(model), parts(model)[0]


def _reference_row(name: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "required"
    else:
        value = field.get_default(call_default_factory=True)
        default = "" if value is None else f"`{_toml(value)}`"
    text = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {default} | {text} |\n"


def _channel_tables() -> str:
    """How channels are written: the last of their section, since a table ends where one begins."""
    keys = "".join(
        f"#   {name}: {field.description}\n" for name, field in ChannelSettings.model_fields.items()
    )
    return f"{_CHANNELS}{keys}"


def _commented_key(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    return f"# {field.description}\n# {name} = {_toml(default)}\n"


def _toml(value: object) -> str:
    if value is None:
        return '""  (none)'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | date):
        return value.isoformat() if isinstance(value, date) else str(value)
    if isinstance(value, BaseModel):
        return _toml(value.model_dump(exclude_defaults=True))
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
    return json.dumps(str(value))
