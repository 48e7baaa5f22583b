"""Runs suites over tables of columns: Great Expectations in memory, and what it says in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

EXAMPLES = 5


class Failure(NamedTuple):
    """An expectation that the results did not meet."""

    expectation: str
    column: str | None
    severity: str  # 'critical' fails the gate, 'warning' leaves it inconclusive
    unexpected: int | None  # rows, where the expectation counts rows
    examples: tuple[str, ...]  # at most EXAMPLES, as `review_id: value`

    def __str__(self) -> str:
        where = f" on {self.column}" if self.column else ""
        count = "" if self.unexpected is None else f": {self.unexpected:,} rows"
        shown = f" ({'; '.join(self.examples)})" if self.examples else ""
        return f"{self.expectation}{where}{count}{shown}"


def expectations() -> Any:
    """Great Expectations' module of expectations."""
    # By name: the package re-exports its expectations in a way that a type checker does not see.
    return import_module("great_expectations.expectations")


class Validator:
    """Great Expectations in memory: no files, no network, no progress bars; one for a whole day."""

    def __init__(self) -> None:
        from great_expectations import get_context
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = get_context(mode="ephemeral")
        context.enable_analytics(False)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_pandas("results")
        asset = source.add_dataframe_asset("results")
        self._table = asset.add_batch_definition_whole_dataframe("results")

    def failures(
        self,
        suite: Any,
        columns: Mapping[str, Sequence[Any]],
        parameters: Mapping[str, Any],
        numbers: Sequence[str] = (),
        ids: str | None = None,
    ) -> tuple[Failure, ...]:
        """What a table of columns breaks of a suite; `ids` is the column that names a row.

        `numbers` are the columns of floats; the others keep their Python values.
        """
        import pandas as pd

        # Object columns: pandas would otherwise pick string types that want pyarrow.
        frame = pd.DataFrame(dict(columns), dtype=object).astype(dict.fromkeys(numbers, float))
        batch, given = self._table.get_batch({"dataframe": frame}), dict(parameters)
        # Listing and naming what is wrong takes longer than the verdict, and mostly nothing is.
        quick = batch.validate(suite, result_format="BOOLEAN_ONLY", expectation_parameters=given)
        broken = {_key(each.expectation_config) for each in quick.results if not each.success}
        if not broken:
            return ()
        outcome = batch.validate(_only(suite, broken), expectation_parameters=given)
        names = columns[ids] if ids else None
        return tuple(_failure(each, names) for each in outcome.results if not each.success)


def _key(config: Any) -> tuple[str, str | None]:
    """What tells the expectations of one of our suites apart."""
    return config.type, config.kwargs.get("column")


def _only(suite: Any, wanted: set[tuple[str, str | None]]) -> Any:
    """A suite of those expectations of another one."""
    from great_expectations import ExpectationSuite

    chosen = [each for each in suite.expectations if _key(each.configuration) in wanted]
    return ExpectationSuite(name=suite.name, expectations=chosen)


def _failure(outcome: Any, names: Sequence[Any] | None) -> Failure:
    config, result = outcome.expectation_config, outcome.result
    values = result.get("partial_unexpected_list", [])[:EXAMPLES]
    rows = result.get("partial_unexpected_index_list") or []
    if "observed_value" in result:
        examples = [f"observed {result['observed_value']}"]
    elif names is not None and len(rows) >= len(values):
        pairs = zip(rows, values, strict=False)
        examples = [f"{names[row]}: {str(value)[:60]}" for row, value in pairs]
    else:
        examples = [str(value)[:60] for value in values]
    unexpected = result.get("unexpected_count")
    return Failure(
        expectation=config.type,
        column=config.kwargs.get("column"),
        severity=str(getattr(config.severity, "value", config.severity)),
        unexpected=None if unexpected is None else int(unexpected),
        examples=tuple(examples),
    )
