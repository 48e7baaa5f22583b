"""What the archive teaches: learned patterns, their evidence and their certificates."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeAlias

import dagster as dg
import polars as pl
from pydantic import Field

from review_optimizer_dagster.alerts.rules import pattern_alert
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core import patterns
from review_optimizer_dagster.core.cache import ENTRIES, ReviewCache
from review_optimizer_dagster.defs import charts
from review_optimizer_dagster.defs.alerting import note_alerts
from review_optimizer_dagster.defs.embedding import (
    KeptEmbeddings,
    Maker,
    PaidMaker,
    Purpose,
    maker_of,
)
from review_optimizer_dagster.defs.metadata import figures, rows_of_day, share, table, usd
from review_optimizer_dagster.defs.money import book_late
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import Engine, HomeFolder, step, utc_now
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.learning.classifier import TextClassifier
from review_optimizer_dagster.learning.stack import StackedClassifier, load_pattern
from review_optimizer_dagster.settings import CacheSettings
from review_optimizer_dagster.storage import history, learning, partition
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.taxonomies import Taxonomy

Trained: TypeAlias = TextClassifier | StackedClassifier
RETRAIN = "retrain"  # the job that trains anew


_SHOWN = (
    "field", "label", "category", "status", "threshold", "n", "errors", "bound",
)  # fmt: skip
_SHOWN_SCOPES = (
    "scope", "archived", "trained", "trained_on", "training_usd", "evidence", "agreement",
    "serving",
)  # fmt: skip


@dataclass(frozen=True)
class Scope:
    """Whose answers one pattern learns from, and how often it may be wrong."""

    identity: str
    tenants: tuple[str, ...]
    taxonomy: Taxonomy
    max_error: float


class PatternsConfig(dg.Config):
    """When patterns are trained, and whose."""

    train: Literal["as_the_job", "when_due", "anew"] = Field(
        default="as_the_job",
        description="`when_due`: where the archive has grown enough since the last training. "
        "`anew`: also where it has not, as long as it has patterns.min_rows answers. "
        "`as_the_job`: anew in the job `retrain`, when due in every other.",
    )
    tenant: str = Field(
        default="",
        description="Train anew only the pattern that this tenant is answered by; one that a pool "
        "shares is trained for all of its tenants. Empty: every pattern of the day.",
    )

    def trains_anew(self, scope: Scope, job: str) -> bool:
        """Whether the pattern of a scope is asked for in a job."""
        return self._is_anew(job) and self.tenant in {"", *scope.tenants}

    def check(self, home: Home, job: str) -> None:
        """Refuse a tenant that is none, or one whose pattern nobody asks for. Raises UserError."""
        if self.tenant and not self._is_anew(job):
            raise UserError("tenant says whose pattern is trained anew: set train to anew too")
        if self.tenant:
            home.tenant(self.tenant)

    def _is_anew(self, job: str) -> bool:
        return self.train == "anew" or (self.train == "as_the_job" and job == RETRAIN)


def scopes(home: Home, identities: Mapping[str, str]) -> list[Scope]:
    """The scopes of the tenants (tenant to identity), each with the least error a member allows."""
    found = []
    for identity in sorted(set(identities.values())):
        tenants = tuple(sorted(name for name, own in identities.items() if own == identity))
        pool = home.tenant(tenants[0]).pool
        members = {name for name, own in home.settings.tenants.items() if pool and own.pool == pool}
        allowed = min(home.tenant(name).max_error for name in members | set(tenants))
        found.append(Scope(identity, tenants, home.taxonomy(tenants[0]), allowed))
    return found


@dataclass(frozen=True)
class Held:
    """What a scope's pattern may answer on a day, as the warehouse has it."""

    scope: Scope
    certificates: pl.DataFrame
    known: int
    """Texts that stand as its evidence."""


def patterns_held(
    connection: Connection, day: date, home: Home, identities: Mapping[str, str]
) -> list[Held]:
    """What the patterns of these tenants' scopes (tenant to identity) may answer on a day."""
    if not home.settings.patterns.enabled:
        return []
    found = []
    for scope in scopes(home, identities):
        certificates = learning.certificates(connection, day, scope.identity)
        serving = certificates.filter(status="serving")["version"]
        known = (
            learning.evidence_size(connection, scope.identity, serving[0]) if len(serving) else 0
        )
        found.append(Held(scope, certificates, known))
    return found


def loaded(home: Home, version: str, embedder: str) -> Trained | None:
    """The pattern of a version; None where its file is gone, or it is of another embedder.

    Without it the model answers, and the step that trains finds it gone and trains anew.
    """
    path = home.pattern_file(version)
    pattern = load_pattern(path) if path.exists() else None
    own = pattern.embedder_name if isinstance(pattern, StackedClassifier) else patterns.NO_EMBEDDER
    return pattern if own == embedder else None


def answer_misses(
    warehouse: Warehouse, home: Home, held: Held, texts: pl.DataFrame, maker: Maker | None
) -> pl.DataFrame:
    """What a scope's pattern answers, under its certificates; the warehouse is closed meanwhile.

    texts: tenant, identity, content_key, category, text (normalised). Returns ANSWERED, and
    `least`: how likely an answer is to be asked of the model all the same, at least.
    """
    scope, serving = held.scope, held.certificates.filter(status="serving")
    pattern = None
    if serving.height and texts.height:
        pattern = loaded(home, str(serving["version"][0]), embedder_of(maker))
    if pattern is None:
        return patterns.ANSWERED.to_frame().with_columns(least=pl.lit(None, pl.Float64))
    embeddings = embeddings_for(warehouse, scope, maker, "resolution")
    judged = patterns.judge(pattern, scope.identity, texts, embeddings)
    missing = max(0, home.settings.patterns.evidence - held.known)
    return patterns.answer(judged, held.certificates, scope.taxonomy).with_columns(
        least=pl.lit(min(1.0, missing / texts.height))
    )


def embedder_of(maker: Maker | None) -> str:
    """The embedder that patterns must have been trained with to be used."""
    return maker.name if maker else patterns.NO_EMBEDDER


def embeddings_for(
    warehouse: Warehouse, scope: Scope, maker: Maker | None, cause: str
) -> KeptEmbeddings | None:
    """The embeddings of a scope's texts; None where patterns have no second stage."""
    purpose = Purpose(scope.identity, scope.taxonomy.name, cause)
    return KeptEmbeddings(maker, warehouse, purpose) if maker else None


def learn(
    warehouse: Warehouse,
    day: date,
    home: Home,
    scope: Scope,
    maker: Maker | None,
    anew: bool = False,
) -> dict[str, str | int | float]:
    """Train where it is due, take up new evidence, certify; returns what the UI shows of it.

    anew: train although the archive has not grown enough, as long as it has enough to learn from.

    The warehouse is read, closed while a pattern is trained or judges, and written at the end.
    """
    settings = home.settings.patterns
    with warehouse.open() as connection:
        known = learning.references(connection, day, scope.identity, scope.taxonomy.ttl_days)
        current = learning.newest_version(connection, day, scope.identity, embedder_of(maker))
        pattern = loaded(home, current.version, embedder_of(maker)) if current else None
        is_due = patterns.due(
            known.height, current.archived if pattern and current and not anew else None, settings
        )
        rows = with_training_texts(connection, home, scope, known) if is_due else known.clear()
    if is_due:
        current, pattern = train(warehouse, day, home, scope, rows, known.height, maker)
    if current is None or pattern is None:
        return _shown(scope, known, None, patterns.EVIDENCE.to_frame(), Counter())
    evidence = take_evidence(warehouse, home, scope, pattern, known, current.day, maker)
    certificates = patterns.certify(evidence, pattern, scope.max_error, settings)
    with warehouse.open() as connection:
        learning.replace_certificates(connection, day, scope.identity, certificates)
    return _shown(scope, known, current, evidence, Counter(certificates["status"]))


def _shown(
    scope: Scope,
    known: pl.DataFrame,
    current: learning.Version | None,
    evidence: pl.DataFrame,
    statuses: Counter[str],
) -> dict[str, str | int | float]:
    return {
        "scope": scope.identity.partition("|")[0],
        "taxonomy": scope.taxonomy.identity,
        "archived": known.height,
        "version": current.version if current else "",
        "trained": str(current.day) if current else "",
        "trained_on": current.rows if current else 0,
        "embedder": current.semantic if current else "",
        "training_usd": usd(current.cost_nanos) if current else 0.0,
        "evidence": evidence["content_key"].n_unique(),
        "agreement": share(int(evidence["agrees"].sum()), evidence.height),
        **{status: statuses[status] for status in patterns.STATUSES},
    }


def with_training_texts(
    connection: Connection, home: Home, scope: Scope, known: pl.DataFrame
) -> pl.DataFrame:
    """The newest references that are not held out, at most `max_rows`, with their texts."""
    settings = home.settings.patterns
    free = known.filter(~patterns.is_holdout(known["content_key"], settings.holdout))
    newest = free.sort("day", "content_key").tail(settings.max_rows)
    return learning.with_texts(connection, scope.identity, newest)


def train(
    warehouse: Warehouse,
    day: date,
    home: Home,
    scope: Scope,
    rows: pl.DataFrame,
    archived: int,
    maker: Maker | None,
) -> tuple[learning.Version, Trained]:
    """Train on these rows (as `with_training_texts` gives them); keep weights and what it took."""
    began = time.perf_counter()
    settings = home.settings.patterns
    rows = patterns.with_references(rows, scope.taxonomy)
    # Of one day and scope, trainings are told apart by the size of the archive.
    embeddings = embeddings_for(warehouse, scope, maker, f"training on {archived} answers")
    pattern: Trained = (
        patterns.train_stacked(rows, scope.taxonomy, settings, embeddings)
        if embeddings
        else patterns.train(rows, scope.taxonomy, settings)
    )
    home.pattern_file(pattern.version).parent.mkdir(parents=True, exist_ok=True)
    pattern.save(home.pattern_file(pattern.version))
    version = learning.Version(
        day=day,
        version=pattern.version,
        rows=rows.height,
        archived=archived,
        seconds=round(time.perf_counter() - began, 3),
        semantic=embedder_of(maker),
        cost_nanos=embeddings.maker.cost(embeddings.purpose) if embeddings else 0,
    )
    with warehouse.open() as connection:
        learning.add_version(
            connection, scope.identity, scope.taxonomy.identity, version, utc_now()
        )
    return version, pattern


class _TrainedOn:
    """The training rows as an archive: what near matching would have found among them."""

    def __init__(self, entries: pl.DataFrame) -> None:
        self._entries = entries

    def exact(self, contents: pl.DataFrame) -> pl.DataFrame:
        return self._entries.join(contents, on=["identity", "content_key"], how="semi")

    def near(self, identity: str, limit: int) -> pl.DataFrame:
        return self._entries.filter(identity=identity).head(limit)


def answered_before(
    texts: pl.DataFrame, training: pl.DataFrame, identity: str, settings: CacheSettings
) -> pl.Series:
    """Which texts the near level would have answered from the training rows.

    A pattern is never asked about those, so they must not make it look better than it is.
    texts, training: content_key, text, labels, day.
    """
    entries = training.select(
        identity=pl.lit(identity),
        content_key="content_key",
        source_key="content_key",
        text="text",
        labels="labels",
        score=pl.lit(1.0),
        day="day",
    ).select(ENTRIES.names())
    nothing = ENTRIES.to_frame()
    cache = ReviewCache(settings, nothing, nothing, _TrainedOn(entries))
    contents = texts.select(pl.lit(identity).alias("identity"), "content_key", "text")
    return cache.resolve(contents)["level"].is_not_null()


def take_evidence(
    warehouse: Warehouse,
    home: Home,
    scope: Scope,
    pattern: Trained,
    known: pl.DataFrame,
    trained: date,
    maker: Maker | None,
) -> pl.DataFrame:
    """All evidence of a version that still stands (EVIDENCE); what is new is judged and stored.

    Evidence is what was held out of every training, and what was answered after this one.
    """
    held_out = patterns.is_holdout(known["content_key"], home.settings.patterns.holdout)
    fair = known.filter(pl.col("fair") & (held_out | (pl.col("day") > trained)))
    late, early = pl.col("day") > trained, pl.col("day") <= trained
    with warehouse.open() as connection:
        stored = learning.known_evidence(connection, scope.identity, pattern.version)
        new = fair.join(stored, on="content_key", how="anti")
        if stored.height:  # what is early and not stored was refused when the version was new
            new = new.filter(late)
        new = learning.with_texts(connection, scope.identity, new)
        is_first = not new.filter(early).is_empty()
        before = known.filter(early) if is_first else known.clear()
        rows = with_training_texts(connection, home, scope, before)
    if is_first:
        near = answered_before(new.filter(early), rows, scope.identity, home.settings.cache)
        new = pl.concat([new.filter(early).filter(~near), new.filter(late)])
    embeddings = embeddings_for(warehouse, scope, maker, "evidence")
    judged = patterns.judge(pattern, scope.identity, new, embeddings)
    references = patterns.with_references(new, scope.taxonomy)
    found = patterns.evidence(judged, references.with_columns(live=late))
    with warehouse.open() as connection:
        learning.add_evidence(connection, found)
    standing = fair.select("content_key")
    return pl.concat([stored, found]).join(standing, on="content_key", how="semi")


@dg.asset(
    deps=["review_archive"],
    partitions_def=DAILY,
    group_name="archive",
    kinds={"scikitlearn", "duckdb"},
    pool="warehouse",
    description="A row is a label that a learned pattern may give from a certain confidence on, "
    "with the bound of its error there; without one it abstains. In `pattern_certificates`; "
    "trained anew when the archive has grown, and `pattern_versions` has a row a training.",
)
def category_patterns(
    context: dg.AssetExecutionContext,
    config: PatternsConfig,
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
) -> dg.MaterializeResult[None]:
    """Learn from what the day added, and certify anew what may be served tomorrow."""
    day = date.fromisoformat(context.partition_key)
    home = home_folder.home
    if not home.settings.patterns.enabled:
        return dg.MaterializeResult(metadata={"enabled": False})
    with step("category_patterns"), home_folder.journal(day) as journal, journal.lock():
        config.check(home, context.job_name)
        maker = maker_of(home_folder, engine, journal)
        with warehouse.open() as connection:
            identities = learning.identities(connection, day)
        learnt = [
            learn(warehouse, day, home, scope, maker, config.trains_anew(scope, context.job_name))
            for scope in scopes(home, identities)
        ]
        with warehouse.open() as connection:
            if isinstance(maker, PaidMaker) and maker.has_sent:
                book_late(context.log, home_folder, connection, journal, context.run_id)
            stopped = learning.switched_off(connection, day)
            due = [pattern_alert(row["tenant"], day, row) for row in stopped.rows(named=True)]
            note_alerts(context.log, home_folder, connection, due)
            certificates = partition.of_day(connection, "pattern_certificates", day)
            seconds = learning.training_seconds(connection, day)
            past = history.error_bounds(connection, day, charts.DAYS)
    return dg.MaterializeResult(
        metadata={
            **rows_of_day(certificates.height),
            **figures(
                training_seconds=seconds,
                error_bound=past["bound"].get(day),
                training_usd=sum(float(row["training_usd"]) for row in learnt),
            ),
            "serving": certificates.filter(status="serving").height,
            "last_days": charts.history(
                day,
                {
                    "serving": (past["serving"], "{:,.0f}".format),
                    "error bound": (past["bound"], charts.percent),
                },
            ),
            "scopes": table([{name: row[name] for name in _SHOWN_SCOPES} for row in learnt]),
            "certificates": table(
                certificates.with_columns(scope=pl.col("identity").str.split("|").list.first())
                .select("scope", *_SHOWN)
                .sort("scope", *_SHOWN[:3])
                .head(200)
                .rows(named=True)
            ),
        }
    )
