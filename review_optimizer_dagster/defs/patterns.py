"""What the archive teaches: learned patterns, their evidence and their certificates."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.alerts.rules import pattern_alert
from review_optimizer_dagster.config import CacheSettings, Home
from review_optimizer_dagster.core import patterns
from review_optimizer_dagster.core.cache import ENTRIES, ReviewCache
from review_optimizer_dagster.defs.alerting import note_alerts
from review_optimizer_dagster.defs.metadata import share, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, step, utc_now
from review_optimizer_dagster.learning.classifier import TextClassifier
from review_optimizer_dagster.storage import learning, partition
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.taxonomies import Taxonomy


@dataclass(frozen=True)
class Scope:
    """Whose answers one pattern learns from, and how often it may be wrong."""

    identity: str
    tenants: tuple[str, ...]
    taxonomy: Taxonomy
    max_error: float


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


def answer_misses(
    connection: Connection, day: date, home: Home, scope: Scope, texts: pl.DataFrame
) -> pl.DataFrame:
    """What a scope's pattern answers, under the certificates as of the day.

    texts: identity, content_key, category, text (normalised). Returns ANSWERED, and `least`: how
    likely an answer is to be asked of the model all the same, at least.
    """
    certificates = learning.certificates(connection, day, scope.identity)
    serving = certificates.filter(status="serving")
    path = home.pattern_file(str(serving["version"][0])) if serving.height else None
    # Without its file the model answers, and the step that trains finds it gone and trains anew.
    if path is None or not path.exists() or texts.is_empty():
        return patterns.ANSWERED.to_frame().with_columns(least=pl.lit(None, pl.Float64))
    classifier = TextClassifier.load(path)
    judged = patterns.judge(classifier, scope.identity, texts)
    known = learning.evidence_size(connection, scope.identity, classifier.version)
    missing = max(0, home.settings.patterns.evidence - known)
    return patterns.answer(judged, certificates, scope.taxonomy).with_columns(
        least=pl.lit(min(1.0, missing / texts.height))
    )


def learn(
    connection: Connection, day: date, home: Home, scope: Scope
) -> dict[str, str | int | float]:
    """Train where it is due, take up new evidence, certify; returns what the UI shows of it."""
    known = learning.references(connection, day, scope.identity, scope.taxonomy.ttl_days)
    current = learning.newest_version(connection, day, scope.identity)
    if current is not None and not home.pattern_file(current.version).exists():
        current = None
    trained_on = current.archived if current else None
    if patterns.due(known.height, trained_on, home.settings.patterns):
        current = train(connection, day, home, scope, known)
    if current is None:
        return _shown(scope, known, None, patterns.EVIDENCE.to_frame(), Counter())
    classifier = TextClassifier.load(home.pattern_file(current.version))
    evidence = take_evidence(connection, home, scope, classifier, known, current.day)
    certificates = patterns.certify(evidence, classifier, scope.max_error, home.settings.patterns)
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
        "evidence": evidence["content_key"].n_unique(),
        "agreement": share(int(evidence["agrees"].sum()), evidence.height),
        **{status: statuses[status] for status in patterns.STATUSES},
    }


def training_rows(known: pl.DataFrame, home: Home) -> pl.DataFrame:
    """The newest references that are not held out, at most `max_rows`."""
    settings = home.settings.patterns
    free = known.filter(~patterns.is_holdout(known["content_key"], settings.holdout))
    return free.sort("day", "content_key").tail(settings.max_rows)


def train(
    connection: Connection, day: date, home: Home, scope: Scope, known: pl.DataFrame
) -> learning.Version:
    """Train on what is not held out, and keep the weights and what it took."""
    began = time.perf_counter()
    rows = learning.with_texts(connection, scope.identity, training_rows(known, home))
    rows = patterns.with_references(rows, scope.taxonomy)
    classifier = patterns.train(rows, scope.taxonomy, home.settings.patterns)
    home.pattern_file(classifier.version).parent.mkdir(parents=True, exist_ok=True)
    classifier.save(home.pattern_file(classifier.version))
    version = learning.Version(
        day=day,
        version=classifier.version,
        rows=rows.height,
        archived=known.height,
        seconds=round(time.perf_counter() - began, 3),
    )
    learning.add_version(connection, scope.identity, scope.taxonomy.identity, version, utc_now())
    return version


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
    connection: Connection,
    home: Home,
    scope: Scope,
    classifier: TextClassifier,
    known: pl.DataFrame,
    trained: date,
) -> pl.DataFrame:
    """All evidence of a version that still stands (EVIDENCE); what is new is judged and stored.

    Evidence is what was held out of every training, and what was answered after this one.
    """
    held_out = patterns.is_holdout(known["content_key"], home.settings.patterns.holdout)
    fair = known.filter(pl.col("fair") & (held_out | (pl.col("day") > trained)))
    stored = learning.known_evidence(connection, scope.identity, classifier.version)
    new = fair.join(stored, on="content_key", how="anti")
    if stored.height:  # what is early and not stored was refused when the version was new
        new = new.filter(pl.col("day") > trained)
    new = learning.with_texts(connection, scope.identity, new)
    early = new.filter(pl.col("day") <= trained)
    if early.height:
        rows = training_rows(known.filter(pl.col("day") <= trained), home)
        rows = learning.with_texts(connection, scope.identity, rows)
        near = answered_before(early, rows, scope.identity, home.settings.cache)
        new = pl.concat([early.filter(~near), new.filter(pl.col("day") > trained)])
    judged = patterns.judge(classifier, scope.identity, new)
    references = patterns.with_references(new, scope.taxonomy)
    found = patterns.evidence(judged, references.with_columns(live=pl.col("day") > trained))
    learning.add_evidence(connection, found)
    standing = fair.select("content_key")
    return pl.concat([stored, found]).join(standing, on="content_key", how="semi")


@dg.asset(
    deps=["review_archive"],
    partitions_def=DAILY,
    group_name="archive",
    kinds={"scikitlearn", "duckdb"},
    pool="warehouse",
    description="`pattern_certificates`: a row is a label that a learned pattern may give from a "
    "certain confidence on, with the bound of its error there; without one it abstains. Trained "
    "anew when the archive has grown; `pattern_versions` has a row a training.",
)
def category_patterns(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Learn from what the day added, and certify anew what may be served tomorrow."""
    day = date.fromisoformat(context.partition_key)
    home = home_folder.home
    if not home.settings.patterns.enabled:
        return dg.MaterializeResult(metadata={"enabled": False})
    with step("category_patterns"), warehouse.open() as connection:
        identities = learning.identities(connection, day)
        learnt = [learn(connection, day, home, scope) for scope in scopes(home, identities)]
        stopped = learning.switched_off(connection, day)
        due = [pattern_alert(row["tenant"], day, row) for row in stopped.rows(named=True)]
        note_alerts(context.log, home_folder, connection, due)
        certificates = partition.of_day(connection, "pattern_certificates", day)
        seconds = learning.training_seconds(connection, day)
    return dg.MaterializeResult(
        metadata={
            "training_seconds": seconds,
            "serving": certificates.filter(status="serving").height,
            "scopes": table(learnt),
            "certificates": table(certificates.drop("identity").head(200).rows(named=True)),
        }
    )
