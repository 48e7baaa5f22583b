"""What a first and a second run of one partition must say, for .ci/run."""

import json
import sys
from pathlib import Path

first, again = (json.loads(Path(name).read_text()) for name in sys.argv[1:])

for summary in (first, again):
    hits = sum(summary["hits"].values())
    assert summary["reviews"] == 5_000, summary["reviews"]
    assert hits + summary["misses"] + summary["deferred"] == summary["reviews"]
    assert summary["misses"] == summary["labelled"] + summary["failed"]
    assert summary["simulated"] is True
    assert summary["accuracy"]["gate"] == "passed", summary["accuracy"]
    assert Path(summary["outputs"]["analytics"]).exists()

assert first["this_run"]["requests"] > 0
assert again["this_run"]["requests"] == 0, "the second run paid again"
assert again["cost_usd"] == first["cost_usd"]
print(f"first run {first['seconds']['total']} s, second {again['seconds']['total']} s")
