"""The benchmark of drift at a small size: it measures what it says it does."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from review_optimizer_dagster_tests.benchmarks import drift
from review_optimizer_dagster_tests.benchmarks.labelled import sample_rows


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Synthetic reviews."""
    return sample_rows(300)


def test_both_halves_at_a_small_size(
    rows: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of everything is caught at once; the naive monitors are shown beside ours."""
    monkeypatch.setattr(drift, "WARM_UP", 8)
    monkeypatch.setattr(drift, "LONGEST", 1)
    monkeypatch.setattr(drift, "SHARES", (1.0, 0.5))
    rows.with_columns(part=pl.lit("bench")).write_parquet(tmp_path / "reviews.parquet")
    texts = [f"Clause {number} of the agreement shall survive termination." for number in range(40)]
    pl.DataFrame(
        {"review_id": [f"d{n}" for n in range(40)], "text": texts, "label": ["a", "b"] * 20}
    ).write_parquet(tmp_path / "clauses.parquet")
    out = tmp_path / "figures.json"
    arguments = [
        *("--reviews", str(tmp_path / "reviews.parquet"), "--part", "bench"),
        *("--documents", str(tmp_path / "clauses.parquet"), "--json", str(out)),
        *("--weeks", "1", "--seeds", "1", "--reviews-a-day", "150"),
    ]
    drift.main(arguments)
    figures = json.loads(out.read_text())
    for calm in figures["quiet"].values():
        assert calm["days"] == 7
        assert {"monitor", "chi_square", "psi"} <= set(calm)
    all_of_it = figures["caught"]["clauses 100%"]
    assert (all_of_it["caught"], all_of_it["worst_day"]) == (1, 1)
    assert set(drift.CHANGES) == {"one label", "shortened", "Spanish"}


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_quiet_days_vary_as_they_are_said_to(rows: pl.DataFrame, memory: float) -> None:
    """Days that were all alike would make any monitor look good."""
    feed = drift.Feed(rows.head(20), 100, np.random.default_rng(3), memory)
    shares = np.array([feed.mix("any", [1, 1], 1_000_000)[0] for _ in range(500)]) / 1_000_000
    assert shares.std() == pytest.approx(0.035, rel=0.2)
    far = shares - shares.mean()
    assert (far[1:] * far[:-1]).sum() / (far**2).sum() == pytest.approx(memory, abs=0.15)


def test_weekends_have_fewer_reviews(rows: pl.DataFrame) -> None:
    """A day of another size is no drift either."""
    feed = drift.Feed(rows.head(20), 400, np.random.default_rng(3))
    sizes = [feed.day(date(2026, 3, 2 + number)).height for number in range(7)]
    assert max(sizes[5:]) < min(sizes[:5])


def test_the_exact_interval_of_a_count() -> None:
    """No false alarm in so many weeks is no proof that there never is one."""
    assert drift.poisson_interval(0) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert drift.poisson_interval(10) == pytest.approx((4.795, 18.39), abs=1e-2)
