"""The id of a review that a learned pattern answered, for .ci/run."""

import os
from pathlib import Path

import duckdb

warehouse = Path(os.environ["REVIEW_OPTIMIZER_HOME"]) / "warehouse.duckdb"
with duckdb.connect(str(warehouse), read_only=True) as connection:
    found = connection.execute(
        "SELECT review_id FROM review_results WHERE level = 'l3_pattern' ORDER BY ALL LIMIT 1"
    ).fetchall()
print(found[0][0])
