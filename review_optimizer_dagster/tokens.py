"""How many tokens a text has, nearly: the planner, the budget and the simulator count alike.

A leaf: it knows nothing of models. The pattern stands in for the tokenizers of OpenAI's models,
which come with megabytes of tables: over 1,500 product reviews it counts 1.1 % more than
`o200k_base`, over 300 complaints 1.6 % more, over a batch's JSON 2 % less.
"""

from __future__ import annotations

import re

import polars as pl

# Words in pieces of nine letters, numbers in groups of three, runs of punctuation, line breaks;
# Chinese, Japanese and Korean signs one by one. A single space belongs to the word behind it. One
# pattern for Python and for polars, whose regular expressions have no look-around.
_SIGNS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
PATTERN = rf"[^\W\d_{_SIGNS}]{{1,9}}|[{_SIGNS}]|\d{{1,3}}|[^\w\s]{{1,4}}|_+|\n+| {{2,}}"

_TOKEN = re.compile(PATTERN)


def estimate_tokens(text: str) -> int:
    """Estimated tokens of a text; an estimate, not a bound.

    >>> estimate_tokens("Works as described.")
    4
    """
    return sum(1 for _ in _TOKEN.finditer(text))


def estimated_tokens(text: pl.Expr) -> pl.Expr:
    """`estimate_tokens` of a column of texts (Int64)."""
    return text.str.count_matches(PATTERN).cast(pl.Int64)
