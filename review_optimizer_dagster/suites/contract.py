"""What holds of every row of results, whatever the labels: keys, sets, ranges, references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from review_optimizer_dagster.suites.validator import Failure, Validator, expectations
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy, parse_labels

STATUSES = ("labelled", "failed", "deferred")
LEVELS = ("l1", "l2", "l3_exact", "l3_near", "l3_pattern", "model", "none")
REQUIRED = ("tenant", "taxonomy", "review_id", "content_key", "status", "level", "simulated")

REFERENCES = pl.Schema(
    {
        "tenant": pl.String(),
        "review_id": pl.String(),
        "in_raw": pl.Boolean(),  # an accepted review of the day has this id and this text
        "in_ledger": pl.Boolean(),  # its request is booked, or what the hit avoided
    }
)


@dataclass(frozen=True)
class ContractResult:
    """Whether a tenant's results keep the contract, and what breaks it."""

    success: bool
    failures: tuple[Failure, ...]


def contract_suite(taxonomy: Taxonomy) -> Any:
    """The suite of a taxonomy's results, for the table that `contract_columns` makes of them.

    Its parameters `accepted` (reviews), `tenants` (the one name) and `scopes` (the one that may
    answer the tenant) are given when it is validated. An empty table would pass every column
    expectation, and null every set: hence the row count and the not-null expectations.
    """
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.row_conditions import Column

    expect = expectations()
    labelled = Column("status") == "labelled"
    unlabelled = Column("status") != "labelled"
    sets: dict[str, Any] = {
        "tenant": {"$PARAMETER": "tenants"},
        "scope": {"$PARAMETER": "scopes"},
        "taxonomy": [taxonomy.name],
        "status": list(STATUSES),
        "level": list(LEVELS),
        "in_raw": [True],
        **{label_column(field): list(field.labels) for field in taxonomy.fields},
    }
    whole_when_labelled = ("score", *map(label_column, taxonomy.fields))
    found = [
        expect.ExpectTableRowCountToEqual(value={"$PARAMETER": "accepted"}),
        *(expect.ExpectColumnValuesToNotBeNull(column=column) for column in REQUIRED),
        *(
            expect.ExpectColumnValuesToBeInSet(column=column, value_set=values)
            for column, values in sets.items()
        ),
        *(
            expect.ExpectColumnValuesToNotBeNull(column=column, row_condition=labelled)
            for column in whole_when_labelled
        ),
        expect.ExpectColumnValuesToBeInSet(
            column="in_ledger", value_set=[True], row_condition=labelled
        ),
        expect.ExpectColumnValuesToBeNull(column="labels", row_condition=unlabelled),
        expect.ExpectColumnValuesToNotBeInSet(
            column="level", value_set=["none"], row_condition=labelled
        ),
        expect.ExpectColumnValuesToBeUnique(column="review_id"),
        expect.ExpectColumnUniqueValueCountToBeBetween(column="simulated", max_value=1),
        expect.ExpectColumnValuesToBeBetween(column="score", min_value=0, max_value=1),
    ]
    return ExpectationSuite(name=f"contract of {taxonomy.identity}", expectations=found)


def label_column(field: LabelField) -> str:
    """The column that a field's labels have in the table."""
    return f"label_{field.name}"


def contract_columns(
    results: pl.DataFrame, references: pl.DataFrame, taxonomy: Taxonomy
) -> dict[str, list[Any]]:
    """The columns that the contract is about, the labels exploded into one a field.

    results: RESULTS; references: REFERENCES of them. A review that references do not know is in
    neither the raw reviews nor the ledger.
    """
    known = results.select("tenant", "review_id").join(
        references.unique(["tenant", "review_id"]),
        on=["tenant", "review_id"],
        how="left",
        maintain_order="left",
    )
    columns = {name: results[name].to_list() for name in (*REQUIRED, "score", "labels")}
    columns |= {name: known[name].fill_null(False).to_list() for name in ("in_raw", "in_ledger")}
    columns["scope"] = results["identity"].str.split("|").list.first().to_list()
    answers = [parse_labels(text) for text in results["labels"]]
    for field in taxonomy.fields:
        columns[label_column(field)] = [answer.get(field.name) for answer in answers]
    return columns


def validate_contract(
    validator: Validator,
    results: pl.DataFrame,
    references: pl.DataFrame,
    taxonomy: Taxonomy,
    *,
    tenant: str,
    scope: str,
    accepted: int,
) -> ContractResult:
    """Whether a tenant's results (RESULTS) are whole, well formed, and its own.

    references: REFERENCES of them; scope: the tenant or pool whose answers it may get; accepted:
    how many reviews of the tenant the partition took in.
    """
    failures = validator.failures(
        contract_suite(taxonomy),
        contract_columns(results, references, taxonomy),
        {"accepted": accepted, "tenants": [tenant], "scopes": [scope]},
        numbers=("score",),
        ids="review_id",
    )
    return ContractResult(success=not failures, failures=failures)
