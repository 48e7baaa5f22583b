"""Writes a day's suites and tables so that other users of Great Expectations can run them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from review_optimizer_dagster.suites.accuracy import accuracy_columns, accuracy_suite
from review_optimizer_dagster.suites.contract import contract_columns, contract_suite
from review_optimizer_dagster.taxonomies import Taxonomy

_README = """\
What was asked of the results of {day}, as Great Expectations suites, and of which tables.

- `expectations/`: the suites, as a file context keeps them: copy them into its `expectations/`.
- `data/`: JSON Lines, one table a tenant and suite; no text of a review is in them.
- `tables.json`: which suite a table is for, and the parameters that it is validated with.
- `run_gate.py`: runs all of them; needs `great_expectations` alone.
"""


class Exported(NamedTuple):
    """A tenant's tables of a day."""

    tenant: str
    taxonomy: Taxonomy
    results: pl.DataFrame
    """RESULTS."""
    references: pl.DataFrame
    """REFERENCES of them."""
    cells: pl.DataFrame
    """CELLS by the truth that decides; empty where none does."""
    accepted: int
    scope: str
    threshold: float


def export(folder: Path, day: str, tenants: Sequence[Exported]) -> list[Path]:
    """Write suites, tables and the script that runs them; returns the files."""
    for name in ("expectations", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    written, tables = [], []
    for each in tenants:
        suites: list[tuple[str, Any, Mapping[str, list[Any]], Mapping[str, Any]]] = [
            (
                f"contract_{each.taxonomy.name}",
                contract_suite(each.taxonomy),
                contract_columns(each.results, each.references, each.taxonomy),
                {"accepted": each.accepted, "tenants": [each.tenant], "scopes": [each.scope]},
            )
        ]
        if each.cells.height:
            threshold = {"threshold": each.threshold}
            suites.append(("accuracy", accuracy_suite(), accuracy_columns(each.cells), threshold))
        for name, suite, columns, parameters in suites:
            suite_file = folder / "expectations" / f"{name}.json"
            data_file = folder / "data" / f"{each.tenant}_{name}.jsonl"
            kept = suite.to_json_dict()
            suite_file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            rows = zip(*columns.values(), strict=True)
            lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            data_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            tables.append(
                {
                    "tenant": each.tenant,
                    "suite": str(suite_file.relative_to(folder)),
                    "data": str(data_file.relative_to(folder)),
                    "columns": list(columns),
                    "parameters": parameters,
                }
            )
            written += [suite_file, data_file]
    script = resources.files(__package__).joinpath("run_exported.py").read_text(encoding="utf-8")
    for name, text in (
        ("tables.json", json.dumps(tables, indent=2) + "\n"),
        ("run_gate.py", script),
        ("README.md", _README.format(day=day)),
    ):
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return sorted(set(written))
