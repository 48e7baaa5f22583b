"""The daily job with a real model and no key: the small one of the extra `local`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster_tests.conftest import deliver, query, reviews

Run = Callable[..., dict[str, Any]]

TAXONOMY = """
name = "moods"
version = 1
document = "review"
instructions = "You label customer reviews of products."
[[fields]]
name = "sentiment"
question = "Is the reviewer satisfied?"
labels = ["positive", "negative"]
"""
SETTINGS = """
[engine]
name = "local"
[tenants.acme]
taxonomy = "moods"
"""


@pytest.mark.local
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the extra `local`")
def test_a_few_dozen_reviews_are_labelled_by_a_real_model(home: Home, run_day: Run) -> None:
    """Nothing is simulated, nothing is paid, and most of what it says is right."""
    (home.folder / "taxonomies").mkdir(parents=True)
    (home.folder / "taxonomies" / "moods.toml").write_text(TAXONOMY)
    home.tenants_file.write_text(SETTINGS)
    deliver(home, reviews(0, 36))
    summary = run_day()
    assert summary["problem"] is None
    assert (summary["labelled"], summary["failed"], summary["simulated"]) == (36, 0, False)
    assert summary["cost_usd"] == "0.000000000"
    assert summary["accuracy"]["correct"] >= 24  # chance would be 18
    asked = query(home, "SELECT DISTINCT engine, tier, model, simulated FROM llm_requests").rows()
    assert asked == [("local", "local", "smollm2-135m-instruct", False)]
    again = run_day()
    assert again["this_run"]["requests"] == 0
