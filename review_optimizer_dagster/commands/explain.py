"""The command `review-optimizer explain`: where a review's labels came from."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_date, add_json
from review_optimizer_dagster.commands.json_output import write_json

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

_DESCRIPTION = """Says where a review's labels came from, down to the answer that they go back to:
level of the cache, source entry or pattern, score, threshold, versions, rechecks, money, gate."""
_EXAMPLES = """
review-optimizer explain r-1017
review-optimizer explain r-1017 --tenant acme --date 2026-11-20
review-optimizer explain r-1017 --json | jq .level
"""


def add_explain(commands: Any) -> None:
    """Add the command to a parser's."""
    explain = commands.add_parser(
        "explain",
        help="say where a review's labels came from",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    explain.add_argument("review_id", metavar="REVIEW_ID", help="the id that it was delivered with")
    explain.add_argument("--tenant", metavar="T", help="whose review, where several have the id")
    add_date(explain, "the last one that has it")
    add_json(explain, "every fact")


def explain_command(home: Home, options: argparse.Namespace) -> int:
    """Print where a review's labels came from, down to the answer that they go back to."""
    from review_optimizer_dagster.commands.explanation import explanation
    from review_optimizer_dagster.storage.explain import explain
    from review_optimizer_dagster.storage.warehouse import Warehouse

    warehouse = Warehouse(database=str(home.warehouse))
    with warehouse.open(read_only=True) as connection:
        facts = explain(connection, options.review_id, options.tenant, options.date)
    scores = _pattern_scores(home, facts)
    sys.stdout.write(explanation(facts, scores) + "\n")
    write_json(options.json, facts | {"pattern_scores": scores})
    return 0


def _pattern_scores(home: Home, facts: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """What the pattern that answered says of each field; empty where none did."""
    path = home.pattern_file(facts["pattern"][0]["version"]) if facts["pattern"] else None
    if path is None or not path.exists():
        return {}
    from review_optimizer_dagster.learning.stack import StackedClassifier, load_pattern
    from review_optimizer_dagster.text import normalise

    pattern, texts = load_pattern(path), [normalise(facts["title"], facts["text"])]
    if isinstance(pattern, StackedClassifier):
        from review_optimizer_dagster.defs.embedding import kept_only

        vectors = kept_only(home, pattern.embedder_name, facts["content_key"])
        judged = pattern.judge(texts, lambda _: vectors)
    else:
        judged = pattern.judge(texts)
    return {name: (each.labels[0], float(each.scores[0])) for name, each in judged.items()}
