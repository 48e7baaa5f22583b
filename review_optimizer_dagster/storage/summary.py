"""The figures of a partition, as the command prints them and `--json` writes them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, cast

from review_optimizer_dagster.core.quality import overall, percentiles
from review_optimizer_dagster.money.amounts import usd
from review_optimizer_dagster.storage.audits import reference_counts
from review_optimizer_dagster.storage.rechecks import audit_counts
from review_optimizer_dagster.storage.warehouse import Connection

HIT_LEVELS = ("l1", "l2", "l3_exact", "l3_near", "l3_pattern")


def partition_figures(connection: Connection, day: date, since: datetime) -> dict[str, Any]:
    """What the tables say of a day; `this_run` is what was sent from `since` on."""
    results = _one(
        connection,
        """
        SELECT count(*) AS reviews,
            count(DISTINCT (identity, content_key)) AS "unique",
            count(*) FILTER (WHERE repeat AND status = 'labelled') AS repeats,
            count(*) FILTER (WHERE level IN ('model', 'none') AND status <> 'deferred') AS misses,
            count(*) FILTER (WHERE level = 'model') AS labelled,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'deferred') AS deferred,
            coalesce(bool_or(simulated), false) AS simulated
        FROM review_results WHERE day = ?
        """,
        day,
    )
    rows = connection.rows(
        "SELECT level, count(*) FROM review_results WHERE day = ? GROUP BY level", [day]
    )
    answered = {str(level): int(str(count)) for level, count in rows}
    hits = {level: answered.get(level, 0) for level in HIT_LEVELS}
    llm, latency = _request_figures(connection, day)
    this_run = connection.rows(
        "SELECT count(*), coalesce(sum(cost_nanos), 0)::BIGINT FROM llm_requests "
        "WHERE day = ? AND sent_at >= ?",
        [day, since],
    )
    ((sent, sent_nanos),) = this_run
    money = _one(
        connection,
        """
        SELECT coalesce(sum(cost_nanos), 0)::BIGINT AS cost,
            coalesce(sum(held_nanos), 0)::BIGINT AS held,
            coalesce(sum(baseline_nanos), 0)::BIGINT AS baseline
        FROM cost_rollups WHERE day = ?
        """,
        day,
    )
    audits = audit_counts(connection, day)
    put_off = connection.rows(
        "SELECT coalesce(reason, 'budget'), count(*) FROM review_results "
        "WHERE day = ? AND status = 'deferred' GROUP BY ALL ORDER BY ALL",
        [day],
    )
    simulated = results.pop("simulated")
    reviews = results["reviews"]
    return {
        "partition": day.isoformat(),
        "simulated": simulated,
        "reviews": reviews,
        "quarantined": connection.count("quarantined_reviews", day),
        "unique": results["unique"],
        "hits": hits,
        **{key: results[key] for key in ("repeats", "misses", "labelled", "failed", "deferred")},
        "deferred_by": {str(reason): count for reason, count in put_off},
        "audits": audits["audits"],
        "audits_disagreed": audits["audits_disagreed"],
        "audit_cost_usd": usd(audits["cost_nanos"]),
        "reference_audits": reference_counts(connection, day),
        "hit_rate": round(sum(hits.values()) / reviews, 6) if reviews else None,
        "this_run": {"requests": sent, "cost_usd": usd(int(str(sent_nanos)))},
        "llm": llm,
        "cost_usd": usd(money["cost"]),
        "held_usd": usd(money["held"]),
        "baseline_usd": usd(money["baseline"]),
        "reduction": (
            round(1 - money["cost"] / money["baseline"], 6) if money["baseline"] else None
        ),
        "accuracy": _accuracy(connection, day, None),
        "latency_ms": latency,
    }


def _request_figures(connection: Connection, day: date) -> tuple[dict[str, Any], dict[str, Any]]:
    """Counts and tokens of the day's requests, and their response times (exact nearest rank)."""
    llm = _one(
        connection,
        """
        SELECT count(DISTINCT batch_id) AS batches, count(*) AS requests,
            count(*) FILTER (WHERE attempt > 1) AS retries,
            count(*) FILTER (WHERE status NOT IN ('ok', 'partial', 'unknown', 'pending')) AS failed,
            count(*) FILTER (WHERE status = 'unknown') AS unknown,
            count(*) FILTER (WHERE status = 'pending') AS pending,
            coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens,
            coalesce(sum(cached_tokens), 0)::BIGINT AS cached_tokens,
            coalesce(sum(completion_tokens), 0)::BIGINT AS completion_tokens
        FROM llm_requests WHERE day = ?
        """,
        day,
    )
    llm["tiers"] = _tier_figures(connection, day)
    latencies = connection.rows("SELECT latency_ms FROM llm_requests WHERE day = ?", [day])
    latency = percentiles(cast("float | None", each) for (each,) in latencies)._asdict()
    return llm, latency


def _tier_figures(connection: Connection, day: date) -> dict[str, dict[str, Any]]:
    """What each step of the ladder of models was asked, what it passed on, and what it cost.

    `share` is its part of the texts that the model answered.
    """
    rows = connection.frame(
        """
        SELECT tier, max(model_requested) AS model, count(*) AS requests,
            sum(reviews)::BIGINT AS asked,
            sum(escalated)::BIGINT AS escalated, sum(cost_nanos)::BIGINT AS cost_nanos
        FROM llm_requests WHERE day = ? AND tier IS NOT NULL AND kind <> 'reference'
        GROUP BY tier ORDER BY cost_nanos, tier
        """,
        [day],
    ).rows(named=True)
    counts = connection.rows(
        "SELECT tier, count(*) FROM batch_classifications "
        "WHERE day = ? AND status = 'labelled' GROUP BY tier",
        [day],
    )
    answers = {str(tier): int(str(count)) for tier, count in counts}
    labelled = sum(answers.values())
    return {
        row["tier"]: {
            "model": row["model"],
            "requests": row["requests"],
            "asked": row["asked"],
            "answered": answers.get(row["tier"], 0),
            "escalated": row["escalated"],
            "share": round(answers.get(row["tier"], 0) / labelled, 6) if labelled else None,
            "cost_usd": usd(row["cost_nanos"]),
        }
        for row in rows
    }


def tenant_figures(connection: Connection, day: date) -> dict[str, dict[str, Any]]:
    """Cost, reviews and accuracy of each tenant of a day."""
    rows = connection.rows(
        "SELECT tenant, sum(cost_nanos)::BIGINT, sum(reviews)::BIGINT FROM cost_rollups "
        "WHERE day = ? GROUP BY tenant ORDER BY tenant",
        [day],
    )
    return {
        str(tenant): {
            "cost_usd": usd(int(str(cost))),
            "reviews": reviews,
            "accuracy": _accuracy(connection, day, str(tenant)),
        }
        for tenant, cost, reviews in rows
    }


def gate_details(connection: Connection, day: date) -> list[str]:
    """What the gate says of each tenant of a day, in a sentence."""
    rows = connection.rows(
        "SELECT tenant, verdict, detail FROM gate_verdicts WHERE day = ? ORDER BY tenant", [day]
    )
    return [f"{tenant} {verdict}: {detail}" for tenant, verdict, detail in rows]


def _accuracy(connection: Connection, day: date, tenant: str | None) -> dict[str, Any] | None:
    """The gate's figures of one tenant, or of all of them with the worst verdict."""
    verdicts = connection.frame(
        "SELECT * EXCLUDE (day) FROM gate_verdicts "
        "WHERE day = $day AND ($tenant IS NULL OR tenant = $tenant) ORDER BY tenant, taxonomy",
        {"day": day, "tenant": tenant},
    )
    if verdicts.is_empty():
        return None
    reached = overall(verdicts)
    return {
        **{key: getattr(reached, key) for key in ("truth", "n", "correct", "lower", "upper")},
        "gate": reached.verdict,
    }


def _one(connection: Connection, sql: str, day: date) -> dict[str, Any]:
    """The single row of a query over one day, by column name."""
    return connection.frame(sql, [day]).row(0, named=True)
