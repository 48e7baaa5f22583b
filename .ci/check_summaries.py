"""What two runs of one partition and one of the next day must say, for .ci/run."""

import json
import sys
from pathlib import Path

first, again, following = (json.loads(Path(name).read_text()) for name in sys.argv[1:])

for summary in (first, again, following):
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
assert following["hits"]["l3_pattern"] > 0, following["hits"]
assert following["audits"] > 0
print(f"first run {first['seconds']['total']} s, second {again['seconds']['total']} s")
