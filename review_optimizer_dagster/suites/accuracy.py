"""What is expected of measured accuracy: of a day as a whole, and of its parts."""

from __future__ import annotations

from typing import Any

import polars as pl

from review_optimizer_dagster.suites.validator import Failure, Validator, expectations

WHOLE = "all"  # the dimension of the row that decides


def accuracy_suite() -> Any:
    """The suite of a table of cells against its parameter `threshold`.

    A row is a cell (a day as a whole, a class, a category, a level): dimension, name, lower and
    upper end of its accuracy, and shared_upper, the end that holds for all parts at once. A whole
    whose upper end is below the threshold is critical, one whose lower end is leaves the day
    undecided; a part whose shared upper end is below is told, and decides nothing.
    """
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.row_conditions import Column

    expect = expectations()
    whole, parts = Column("dimension") == WHOLE, Column("dimension") != WHOLE
    at_least = {"min_value": {"$PARAMETER": "threshold"}}
    limits = (
        ("upper", "critical", whole),
        ("lower", "warning", whole),
        ("shared_upper", "info", parts),
    )
    found = [
        expect.ExpectColumnValuesToBeInSet(column="wholes", value_set=[1]),
        *(
            expect.ExpectColumnValuesToBeBetween(
                column=column, severity=severity, row_condition=rows, **at_least
            )
            for column, severity, rows in limits
        ),
    ]
    return ExpectationSuite(name="accuracy", expectations=found)


def validate_accuracy(
    validator: Validator, cells: pl.DataFrame, threshold: float
) -> tuple[Failure, ...]:
    """What a day's cells (dimension, name, lower, upper, shared_upper) miss of the threshold."""
    numbers = ("lower", "upper", "shared_upper")
    columns = accuracy_columns(cells)
    asked = {"threshold": threshold}
    return validator.failures(accuracy_suite(), columns, asked, numbers=numbers, ids="name")


def accuracy_columns(cells: pl.DataFrame) -> dict[str, list[Any]]:
    """The columns that the suite is about; `wholes` is how many rows are the day as a whole."""
    columns = {name: cells[name].to_list() for name in ("dimension", "name")}
    columns |= {name: cells[name].to_list() for name in ("lower", "upper", "shared_upper")}
    return columns | {"wholes": [columns["dimension"].count(WHOLE)] * cells.height}
