"""Run the exported suites over the exported tables: needs great_expectations alone.

    python run_gate.py [FOLDER]

Exit code 0 where every tenant keeps the contract and no accuracy is below what was asked for; 1
otherwise. Of an accuracy that is not decided either way a line says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NUMBERS = ("score", "lower", "upper", "shared_upper")


def run(folder: Path) -> list[dict[str, Any]]:
    """What each table misses of its suite: table, expectation, column, severity, unexpected."""
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    source = context.data_sources.add_pandas("exported")
    batches = source.add_dataframe_asset("exported").add_batch_definition_whole_dataframe("whole")
    found = []
    for table in json.loads((folder / "tables.json").read_text(encoding="utf-8")):
        kept = json.loads((folder / table["suite"]).read_text(encoding="utf-8"))
        suite = gx.ExpectationSuite(name=kept["name"], expectations=kept["expectations"])
        lines = (folder / table["data"]).read_text(encoding="utf-8").splitlines()
        frame = pd.DataFrame([json.loads(line) for line in lines], columns=table["columns"])
        frame = frame.astype(object).where(frame.notna(), None)
        frame = frame.astype({name: float for name in NUMBERS if name in frame.columns})
        outcome = batches.get_batch({"dataframe": frame}).validate(
            suite, expectation_parameters=table["parameters"]
        )
        for each in outcome.results:
            if not each.success:
                config: Any = each.expectation_config
                found.append(
                    {
                        "table": table["data"],
                        "expectation": config.type,
                        "column": config.kwargs.get("column"),
                        "severity": str(getattr(config.severity, "value", config.severity)),
                        "unexpected": each.result.get("unexpected_count"),
                    }
                )
    return found


if __name__ == "__main__":
    missed = run(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
    for row in missed:
        print(json.dumps(row))  # noqa: T201 (a script of its own)
    critical = [row for row in missed if row["severity"] == "critical"]
    print(f"{len(critical)} critical, {len(missed) - len(critical)} others")  # noqa: T201
    sys.exit(bool(critical))
