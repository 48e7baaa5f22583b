"""The suites elsewhere: written, run by a script that knows nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from review_optimizer_dagster.suites.export import Exported, export
from review_optimizer_dagster.suites.run_exported import run
from review_optimizer_dagster.truth.accuracy import measure
from review_optimizer_dagster_tests.truth.test_accuracy import TAXONOMY, results


def _tenant(name: str, wrong: int, accepted: int = 100) -> Exported:
    rows = results(*[{"known": "light"}] * wrong, *[{"known": "dark"}] * (100 - wrong))
    rows = rows.with_columns(tenant=pl.lit(name), score=pl.lit(1.0))
    rows = rows.with_columns(identity=pl.lit(f"{name}|i"))
    references = rows.select("tenant", "review_id").with_columns(
        in_raw=pl.lit(True), in_ledger=pl.lit(True)
    )
    cells = measure(rows, TAXONOMY, 0.95)["labels"].cells
    return Exported(name, TAXONOMY, rows, references, cells, accepted, name, 0.95)


def test_the_exported_suites_say_what_the_gate_said(tmp_path: Path) -> None:
    """One good day, one that failed, one whose rows were lost, one that is not decided."""
    tenants = [_tenant("good", 0), _tenant("bad", 20), _tenant("lost", 0, 101), _tenant("few", 4)]
    files = export(tmp_path, "2026-03-04", tenants)
    assert all(path.is_file() for path in files)
    missed = run(tmp_path)
    critical = {row["table"] for row in missed if row["severity"] == "critical"}
    assert critical == {"data/bad_accuracy.jsonl", "data/lost_contract_notes.jsonl"}
    undecided = {row["table"] for row in missed if row["severity"] == "warning"}
    assert undecided == {"data/bad_accuracy.jsonl", "data/few_accuracy.jsonl"}
    kept = json.loads((tmp_path / "expectations" / "accuracy.json").read_text())
    assert kept["name"] == "accuracy"
    # Reviews are named by their ids alone.
    assert "text" not in (tmp_path / "data" / "good_contract_notes.jsonl").read_text()


@pytest.mark.campaign
def test_the_script_runs_by_itself(tmp_path: Path) -> None:
    """Another project has Great Expectations, and nothing of this one."""
    export(tmp_path, "2026-03-04", [_tenant("bad", 20)])
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "run_gate.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"GX_ANALYTICS_ENABLED": "false", "PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    assert "1 critical" in done.stdout
    assert "review_optimizer_dagster" not in (tmp_path / "run_gate.py").read_text()
