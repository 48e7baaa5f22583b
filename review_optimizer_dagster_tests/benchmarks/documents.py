"""Other kinds of documents: what patterns serve there, and the wrong labels of plain similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from review_optimizer_dagster.settings import PatternSettings
from review_optimizer_dagster_tests.benchmarks import first_seen
from review_optimizer_dagster_tests.benchmarks.labelled import (
    Share,
    read_labelled,
    shuffled,
    with_majority_label,
)
from review_optimizer_dagster_tests.benchmarks.naive import NearTexts


def wrong_labels_of_similarity(rows: pl.DataFrame, near: NearTexts) -> dict[str, Any]:
    """Every text of the file answered from the nearest other text of it, with and without veto.

    rows: ROWS, one a text. Returns hits, and how many of them carry the wrong label.
    """
    gold: Mapping[str, str] = dict(rows.select("content_key", "label").iter_rows())
    found: dict[str, Any] = {"texts": rows.height}
    for name, with_veto in (("without_veto", False), ("with_veto", True)):
        answered = [
            gold[key] == gold[candidates[0]]
            for key in rows["content_key"]
            if (candidates := near.candidates(key, with_veto))
        ]
        wrong = Share(answered.count(False), len(answered))
        found[name] = {
            "hits": len(answered),
            "wrong": wrong.count,
            "hit_error": wrong.value,
            "hit_error_interval": wrong.interval(),
        }
    return found


def documents(path: Path, max_errors: Sequence[float], seeds: int, seed: int) -> dict[str, Any]:
    """Random halves of a file's texts, archive and traffic; half of the traffic is audited.

    A text counts once: its repeats would be exact hits. Returns JSON: what is served and how wrong
    at each `max_error`, over `seeds` draws of the audits, beside the constant class and plain
    similarity.
    """
    read = read_labelled(path)
    rows = with_majority_label(read).unique("content_key", maintain_order=True)
    rows = shuffled(rows, seed)
    archive, traffic = rows.head(rows.height // 2), rows.slice(rows.height // 2)
    stage = first_seen.Stage.trained(archive, traffic, PatternSettings())
    audits = traffic.height // 2
    most = traffic["label"].value_counts()["count"].max()
    return {
        "rows": read.height,
        "texts": rows.height,
        "labels": rows["label"].n_unique(),
        "archive": archive.height,
        "traffic": traffic.height,
        "accuracy": Share(int(stage.traffic.right.sum()), traffic.height).as_json(),
        "constant_class_error": 1 - int(str(most)) / traffic.height,
        "served": {
            f"{max_error:g}": {
                rule: stage.certified(max_error, rule, "uniform", audits, seeds)
                for rule in first_seen.RULES
            }
            for max_error in max_errors
        },
        "similarity": wrong_labels_of_similarity(rows, NearTexts(rows)),
    }
