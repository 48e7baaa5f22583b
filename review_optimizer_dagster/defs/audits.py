"""Audits by a reference model: a stronger one is asked about a random part of each day's texts."""

from collections.abc import Mapping
from datetime import date

import polars as pl

from review_optimizer_dagster import rechecks
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.batching import Tier
from review_optimizer_dagster.core.classifier import Readout
from review_optimizer_dagster.core.costs import REFERENCE
from review_optimizer_dagster.defs.resources import Engine
from review_optimizer_dagster.settings import AuditSettings
from review_optimizer_dagster.storage import audits
from review_optimizer_dagster.storage.warehouse import Connection
from review_optimizer_dagster.taxonomies import Taxonomy

_TEXT = ["identity", "content_key"]
_DRAWN = ["tenant", "taxonomy", *_TEXT, "reference_identity", "asked"]


class ReferenceEngine(Engine):
    """The engine of a run, asking the reference model in place of the ladder.

    A simulated one knows every answer: what the simulator is told to get wrong is the model's.
    """

    @classmethod
    def beside(cls, engine: Engine) -> "ReferenceEngine":
        """The same endpoint as an engine's."""
        same = {name: getattr(engine, name) for name in Engine.model_fields}
        return cls(**same | {"answer_error": 0.0, "flips": {}, "reclassify": False})

    def ladder(self, home: Home) -> tuple[Tier, ...]:
        """The reference model alone."""
        model = home.settings.audits.reference_model or ""
        most = home.batch_cap(model) or home.settings.batches.max_reviews
        return (Tier(REFERENCE, model, 1.0, most, home.settings.engine.effort(model)),)


def reference_of(engine: Engine, home: Home) -> ReferenceEngine | None:
    """Who audits a run; None where no model is named, or the engine is this machine's own."""
    if home.settings.audits.reference_model is None or engine.resolved(home) == "local":
        return None
    return ReferenceEngine.beside(engine)


def drawn_texts(texts: pl.DataFrame, day: date, settings: AuditSettings) -> pl.DataFrame:
    """The texts that are audited: of each tenant those with the smallest random numbers of the day.

    texts: tenant, taxonomy, identity, content_key, each once. Adds `asked`, the chance that each
    had. The numbers are permanent, so that a day that is run again draws the same.
    """
    seed = settings.seed
    draw = rechecks.draw("reference|" + texts["content_key"], day, seed)
    of_tenant = pl.len().over("tenant")
    return (
        texts.with_columns(draw=draw)
        .with_columns(
            place=pl.col("draw").rank("ordinal").over("tenant"),
            asked=(pl.lit(settings.reviews) / of_tenant).clip(upper_bound=1.0),
        )
        .filter(pl.col("place") <= settings.reviews)
        .drop("draw", "place")
    )


def due_audits(
    connection: Connection,
    day: date,
    home: Home,
    reference: ReferenceEngine,
    taxonomies: Mapping[str, Taxonomy],
) -> pl.DataFrame:
    """The day's draw: tenant, taxonomy, identity, content_key, reference_identity, asked."""
    drawn = drawn_texts(audits.texts_of_day(connection, day), day, home.settings.audits)
    judge = reference.judge(home, taxonomies) if reference.simulated(home) else None
    tenants = drawn["tenant"].unique().sort().to_list()
    own = reference.identities(home, tenants, judge) if tenants else {}
    names = pl.Series([own[tenant] for tenant in drawn["tenant"]], dtype=pl.String)
    return drawn.with_columns(reference_identity=names).select(_DRAWN)


def answered(drawn: pl.DataFrame, paid: Readout) -> pl.DataFrame:
    """The draw with what the reference model said: rows of reference_audits."""
    said = paid.answers.filter(pl.col("status") == "labelled").select(
        "content_key", "labels", "model", "request_id", reference_identity="identity"
    )
    on = ["reference_identity", "content_key"]
    return drawn.join(said, on=on, how="left", maintain_order="left")


def as_booked(shares: pl.DataFrame, identities: Mapping[str, str]) -> pl.DataFrame:
    """Cost shares (SHARES) of audits under the identity of the reviews that they are about."""
    if not identities:
        return shares
    return shares.with_columns(pl.col("identity").replace(dict(identities)))
