"""The gate's verdicts as the UI shows them: in words first, then what fails and what is to blame.

The UI sorts a check's metadata by name, and its pane has room for tables of about 700 pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import dagster as dg
import polars as pl

from review_optimizer_dagster.core.quality import Gate, overall
from review_optimizer_dagster.defs.metadata import failing, measured, table
from review_optimizer_dagster.defs.publishing import accuracy, accuracy_chart
from review_optimizer_dagster.storage import history
from review_optimizer_dagster.text import redact

_MOST_CELLS: Final = 200  # of a dimension; `accuracy_cells` has them all
_MOST_TEXT: Final = 60
_KEY: Final = 8  # characters of a key that tell it from others; the query finds the whole


@dataclass(frozen=True)
class Shown:
    """What the check shows beside the verdicts."""

    day: date
    wrong: pl.DataFrame
    """The first reviews whose labels a truth contradicts."""
    causes: pl.DataFrame
    """What failed tenant-days come from."""
    past: Mapping[str, history.Series]
    """`history.accuracies`."""


def quality_result(judged: Gate, verdicts: pl.DataFrame, about: Shown) -> dg.AssetCheckResult:
    """The verdicts as one check: it blocks where no tenant is left to publish."""
    failed = verdicts.filter(pl.col("verdict") == "failed")
    nothing_left = 0 < failed.height == verdicts.height
    day = overall(verdicts)
    wrong = judged.scores.filter(~pl.col("correct")).height
    below = judged.cells.filter("below")
    of_day = f"WHERE day = '{about.day}'"
    return dg.AssetCheckResult(
        check_name="quality_gate",
        asset_key="review_results",
        passed=failed.is_empty(),
        severity=dg.AssetCheckSeverity.ERROR if nothing_left else dg.AssetCheckSeverity.WARN,
        description="; ".join(
            f"{row['tenant']}: {row['verdict']} ({row['detail']})"
            for row in verdicts.rows(named=True)
        ),
        metadata={
            **accuracy(about.past, about.day),
            "by_tenant": table([_verdict(row) for row in verdicts.rows(named=True)]),
            **failing(
                "failing_parts",
                _frame([_part(row) for row in below.iter_rows(named=True)]),
                f"FROM accuracy_cells {of_day} AND below",
            ),
            **failing(
                "failing_reviews",
                _frame([_review(row) for row in about.wrong.iter_rows(named=True)]),
                f"FROM scored_reviews {of_day} AND NOT correct",
                wrong,
            ),
            "labels": day.n,
            "last_days": accuracy_chart(about.past, about.day),
            **{f"parts_by_{name}": _parts(judged, name) for name in ("class", "category", "level")},
            **failing(
                "to_blame",
                _frame([_cause(row) for row in about.causes.iter_rows(named=True)]),
                f"FROM gate_causes {of_day}",
            ),
            "truth": day.truth,
        },
    )


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)


def _verdict(row: Mapping[str, Any]) -> dict[str, Any]:
    all_days = row["standing_verdict"] or "not known"
    days = f" ({row['standing_days']} days)" if row["standing_days"] else ""
    return {
        "tenant": row["tenant"],
        "verdict": row["verdict"],
        "accuracy": _measured(row),
        "asked": f"{100 * row['threshold']:.1f} %",
        "n": row["n"],
        "truth": row["truth"],
        "with_earlier_days": f"{all_days}{days}",
    }


def _measured(row: Mapping[str, Any]) -> str:
    return measured(row["accuracy"], row["lower"], row["upper"])


def _part(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tenant": row["tenant"],
        "part": f"{row['dimension']} {row['name']}",
        "truth": row["truth"],
        "n": row["n"],
        "accuracy": _measured(row),
    }


def _parts(judged: Gate, dimension: str) -> dg.MetadataValue[Any]:
    rows = judged.cells.filter(dimension=dimension).head(_MOST_CELLS)
    return table(
        [
            {
                "tenant": row["tenant"],
                "name": row["name"],
                "truth": row["truth"],
                "n": row["n"],
                "accuracy": _measured(row) + (" below" if row["below"] else ""),
            }
            for row in rows.iter_rows(named=True)
        ]
    )


def _review(row: Mapping[str, Any]) -> dict[str, Any]:
    text = redact(str(row["text"] or ""))  # Dagster keeps what is shown, for ever
    return {
        "tenant": row["tenant"],
        "review_id": row["review_id"],
        "category": row["category"],
        "level": row["level"],
        "wrong": wrong_fields(row["labels"], row["known"]),
        "text": text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…",
    }


def wrong_fields(given: str | None, known: str | None) -> str:
    """The fields that a truth contradicts, as `field: given -> true`.

    given, known: labels as JSON; a field that only one of them has is not compared.

    >>> wrong_fields('{"kind": "bug", "tone": "cross"}', '{"kind": "idea", "tone": "cross"}')
    'kind: bug -> idea'
    """
    labels, truth = (json.loads(each) if each else {} for each in (given, known))
    return ", ".join(
        f"{name}: {labels[name]} -> {label}"
        for name, label in truth.items()
        if label is not None and name in labels and labels[name] != label
    )


def _cause(row: Mapping[str, Any]) -> dict[str, Any]:
    source = str(row["source"])
    if row["kind"] == "model":
        what = f"{source} in {row['category'] or '(no category)'}"
        what = what if row["category"] is not None else f"single answers of {source}"
    elif row["kind"] == "pattern":
        what = f"{source.partition(':')[2][:_KEY]} for {row['field']}={row['label']}"
    else:
        what = f"{source[:_KEY]} at {row['level']}"
    return {
        "tenant": row["tenant"],
        "kind": row["kind"],
        "what": what,
        "wrong": f"{row['wrong']:,} of {row['n']:,}",
        "answered": row["reviews"],
    }
