"""Where the state lives: $REVIEW_OPTIMIZER_HOME, and the settings that stand in it."""

from __future__ import annotations

import json
import os
import re
import tomllib
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from review_optimizer_dagster.batch_caps import measured_cap
from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.settings import (
    INPUT_FIELDS,
    TENANT_NAME,
    EngineSettings,
    Settings,
    TenantSettings,
)
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy

HOME_VARIABLE = "REVIEW_OPTIMIZER_HOME"
HOME_FORMAT = 1
"""Of what stands in a home; raised where a version before could not read it. 1 is not written."""


class Home:
    """The state folder: paths, and the settings that stand in it.

    A home without a tenants.toml is a demo: the simulator answers, any tenant is known with
    default settings, and a day without files is filled from the built-in sample.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @classmethod
    def from_environment(cls) -> Home:
        """`$REVIEW_OPTIMIZER_HOME`, else `.review_optimizer/` in the current folder."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or ".review_optimizer"))

    def __repr__(self) -> str:
        return f"Home({str(self.folder)!r})"

    @property
    def tenants_file(self) -> Path:
        """The settings; a home without them is a demo."""
        return self.folder / "tenants.toml"

    @property
    def inbox(self) -> Path:
        """Where deliveries arrive: `inbox/<tenant>/<day>/`."""
        return self.folder / "inbox"

    @property
    def labels(self) -> Path:
        """Where tenants drop in human labels: `labels/<tenant>/`."""
        return self.folder / "labels"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file of which one process is the writer."""
        return self.folder / "warehouse.duckdb"

    @property
    def journal(self) -> Path:
        """Paid responses, live budgets and states of alerts."""
        return self.folder / "journal"

    @property
    def published(self) -> Path:
        """What analysts open."""
        return self.folder / "published"

    @property
    def reports(self) -> Path:
        """Where dashboards and statements are written."""
        return self.folder / "reports"

    def pattern_file(self, version: str) -> Path:
        """Where the weights of a learned pattern are."""
        return self.folder / "patterns" / f"{version}.npz"

    @property
    def prices_file(self) -> Path:
        """Price rows of the user's own."""
        return self.folder / "prices.toml"

    @property
    def batch_caps_file(self) -> Path:
        """The largest batches that were measured to be good, by model."""
        return self.folder / "batch_caps.toml"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME of the command and the UI: runs, schedules, sensors."""
        return self.folder / "dagster"

    @property
    def is_demo(self) -> bool:
        """Whether the simulator answers and days fill themselves: there is no tenants.toml."""
        return not self.tenants_file.exists()

    @cached_property
    def settings(self) -> Settings:
        """The validated settings; defaults in a demo home.

        Raises ConfigError with file and key.
        """
        if self.is_demo:
            return Settings(engine=EngineSettings(name="simulator"))
        try:
            data = tomllib.loads(self.tenants_file.read_text(encoding="utf-8"))
            settings = Settings.model_validate(data)
        except OSError as error:
            raise ConfigError(self.tenants_file, "", f"cannot be read: {error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(self.tenants_file, "", f"is not valid TOML: {error}") from error
        except ValidationError as error:
            raise ConfigError.of(self.tenants_file, error) from error
        self._check_models(settings)
        for name, tenant in settings.tenants.items():
            try:
                taxonomy = load_taxonomy(tenant.taxonomy, self.folder / "taxonomies")
            except ConfigError as error:
                raise ConfigError(
                    self.tenants_file, f"tenants.{name}.taxonomy", f"cannot be used: {error}"
                ) from error
            known = (*INPUT_FIELDS, *taxonomy.truth_columns())
            if unknown := next((key for key in tenant.columns if key not in known), None):
                raise ConfigError(
                    self.tenants_file,
                    f"tenants.{name}.columns.{unknown}",
                    f"is not valid: no column has this name; the names are: {', '.join(known)}",
                )
        return settings

    def _check_models(self, settings: Settings) -> None:
        """Refuse a model that its provider has ended; raises ConfigError with name and date."""
        from review_optimizer_dagster.money.prices import load_prices

        if settings.engine.name != "openai":
            return
        prices, today = load_prices(self.prices_file), datetime.now(UTC).date()
        asked = {
            f"engine.tiers.{number}.model" if settings.engine.tiers else "engine.model": tier.model
            for number, tier in enumerate(settings.engine.ladder)
        }
        if settings.audits.reference_model is not None:
            asked["audits.reference_model"] = settings.audits.reference_model
        for key, model in asked.items():
            try:
                prices.check_model(model, today)
            except UserError as error:
                raise ConfigError(self.tenants_file, key, f"cannot be asked: {error}") from error

    def batch_cap(self, model: str) -> int | None:
        """The largest batch that was measured to be as good as single requests, for a model.

        Raises ConfigError where batch_caps.toml is not valid.
        """
        return measured_cap(self.batch_caps_file, model)

    def tenant(self, name: str) -> TenantSettings:
        """Settings of a tenant; defaults for any name in a demo home.

        Raises UserError for a tenant that tenants.toml does not have, or a name none could have.
        """
        if not re.match(TENANT_NAME, name):
            raise UserError(
                f"{name!r} is no tenant's name: lower case letters, digits, - and _, please"
            )
        if (found := self.settings.tenants.get(name)) is not None:
            return found
        if self.is_demo:
            return TenantSettings()
        raise UserError(
            f"{name!r} is no tenant of {self.tenants_file}; add [tenants.{name}] there, "
            f"or choose one of: {', '.join(sorted(self.settings.tenants)) or '(none yet)'}"
        )

    def taxonomy(self, tenant: str) -> Taxonomy:
        """The taxonomy of a tenant; `taxonomies/NAME.toml` in the home wins over a shipped one."""
        return load_taxonomy(self.tenant(tenant).taxonomy, self.folder / "taxonomies")

    def claim(self) -> None:
        """Mark the home as demo or real on first use, and refuse to mix the two.

        Raises UserError where demo data would meet a tenants.toml, or the other way round.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be made ({error.strerror}): set {HOME_VARIABLE} to a folder "
                "that can be written"
            ) from error
        kind = "demo" if self.is_demo else "real"
        marker = self.folder / "home.json"
        if not marker.exists():
            known = {"kind": kind} | ({"format": HOME_FORMAT} if HOME_FORMAT > 1 else {})
            marker.write_text(json.dumps(known) + "\n", encoding="utf-8")
            return
        self.check_format()
        claimed = self._marker()["kind"]
        if claimed != kind:
            missing = "has lost its tenants.toml: put it back"
            mixed = "holds demo data and must not be mixed with real tenants: remove tenants.toml"
            problem = mixed if claimed == "demo" else missing
            raise UserError(
                f"{self.folder} {problem}, or set {HOME_VARIABLE} to another, empty folder"
            )

    def check_format(self) -> None:
        """Raise UserError where a newer version has written to the home: it is not ours to read."""
        written = self._marker().get("format", 1)
        if written > HOME_FORMAT:
            raise UserError(
                f"{self.folder} has format {written} and this version reads {HOME_FORMAT}: a newer "
                f"review-optimizer wrote it; upgrade, or set {HOME_VARIABLE} to another folder"
            )

    def _marker(self) -> dict[str, Any]:
        """What home.json says. Raises UserError where it is not what was written there."""
        marker = self.folder / "home.json"
        if not marker.exists():
            return {}
        try:
            found: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
            return found | {"kind": found["kind"], "format": int(found.get("format", 1))}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f'{marker} is not valid: write {{"kind": "demo"}} or {{"kind": "real"}} into it, '
                "whichever the home is"
            ) from error
