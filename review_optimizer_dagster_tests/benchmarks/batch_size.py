"""How large a batch may be before the labels suffer: sizes against single requests, same texts.

python -m review_optimizer_dagster_tests.benchmarks.batch_size [--reviews FILE] [--texts N]
    [--sizes 1,5,10,20,50,100] [--engine simulator|local|openai] [--base-url URL] [--model NAME]
    [--api-key-env NAME] [--tolerance 0.02] [--save HOME] [--json OUT]

Single requests are asked twice: what they change themselves is the model's own noise. A size is
good where the lower end of its agreement's 95 % interval is no more than the tolerance and that
noise (the lower end of its interval) below 1. The sizes are tested upwards to the first that is
not good (a fixed sequence, so that many sizes make no false promise likelier); the cap is the last
good one. --save writes it where the planner of a home finds it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.batch_caps import BatchCap
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.batching import STANDARD_TIER, Tier
from review_optimizer_dagster.core.classifier import Endpoint
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.prompt import Form, reply_form
from review_optimizer_dagster.money.prices import UnknownPrice, load_prices
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.simulator.judge import Fields, LexiconJudge
from review_optimizer_dagster.simulator.protocol import Reply, Request
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy
from review_optimizer_dagster_tests.benchmarks.asked import (
    MODEL,
    Asker,
    distinct_rows,
    endpoint_of,
    misses_of,
)
from review_optimizer_dagster_tests.benchmarks.labelled import Share, benchmark_taxonomy

SIZES: Final = "1,5,10,20,50,100"
TAIL: Final = 0.025  # on each side of a 95 % interval
LOCAL_IN_FLIGHT: Final = 2
LOCAL_SECONDS_PER_REVIEW: Final = 20.0
OWN_LABELS: Final = "labels"  # in place of a taxonomy's name: one field, the labels of the file
_TEXT: Final = ["identity", "content_key"]


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--reviews", type=Path, help="a file of labelled reviews (else the built-in sample)")
    add("--texts", type=int, default=400, help="different texts, each asked in every size")
    add("--sizes", default=SIZES, help="reviews a batch; 1 is always measured, twice")
    add("--engine", choices=["simulator", "local", "openai"], default="simulator")
    add("--base-url", default="https://api.openai.com/v1", help="openai: the endpoint")
    add("--model", default=MODEL, help="openai: the model")
    add("--api-key-env", default="OPENAI_API_KEY", help="openai: variable that holds the key")
    add("--taxonomy", default="reviews", help=f"a shipped one, or `{OWN_LABELS}`: the file's own")
    add("--form", choices=["auto", "labels"], default="auto", help="of the replies")
    add("--in-flight", type=int, default=8)
    add("--tolerance", type=float, default=0.02, help="disagreement on top of the model's own")
    add("--position-errors", type=float, default=0.0, metavar="RATE")
    add("--latency", type=float, default=0.05, help="simulator: seconds of a request")
    add("--seconds-per-token", type=float, default=0.001, help="simulator: of the answer, on top")
    add("--save", type=Path, metavar="HOME", help="append the cap to HOME/batch_caps.toml")
    add("--json", type=Path)
    options = parser.parse_args(arguments)
    options.sizes = sorted({1, *(int(size) for size in options.sizes.split(","))})
    if not 1 <= options.sizes[0] <= options.sizes[-1] <= 500:
        parser.error("--sizes are between 1 and 500")
    if options.save and options.engine == "simulator":
        parser.error("--save is for a model's cap, and the simulator is no model")
    return options


# --- who is asked -----------------------------------------------------------------------------


class ForgetfulJudge(LexiconJudge):
    """Errs the more the later a document stands in its request: at place 100 at the full rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate
        self._request = threading.local()

    def begin(self) -> None:
        """A request comes, in this thread."""
        self._request.place = 0

    def judge(self, title: str | None, text: str, fields: Fields) -> dict[str, str] | None:
        """As LexiconJudge, or with another label of the first field."""
        labels = super().judge(title, text, fields) or {}
        place = self._request.place
        self._request.place += 1
        draw = zlib.crc32(f"{place}|{text}".encode()) / 2**32
        if draw < self._rate * place / 100:
            name, choices = next(iter(fields.items()))
            labels[name] = choices[(list(choices).index(labels[name]) + 1) % len(choices)]
        return labels


class ForgetfulSimulator(Simulator):
    """A simulator whose judge knows where a request begins."""

    def answer(self, request: Request) -> Reply:
        assert isinstance(self.judge, ForgetfulJudge)
        self.judge.begin()
        return super().answer(request)


@contextmanager
def engine(options: argparse.Namespace, taxonomy: Taxonomy) -> Iterator[Endpoint]:
    """Whom the options name, ready to be asked."""
    form: Form = "labels" if options.engine == "local" else reply_form(taxonomy, options.form)
    if options.engine == "local":
        from review_optimizer_dagster.local_model import LocalModel

        with LocalModel() as local:
            yield endpoint_of(
                local.base_url,
                form,
                name="local",
                ladder=(Tier(STANDARD_TIER, LocalModel.model),),
                in_flight=LOCAL_IN_FLIGHT,
                timeout_seconds_per_review=LOCAL_SECONDS_PER_REVIEW,
            )
    elif options.engine == "openai":
        key = os.environ.get(options.api_key_env)
        if not key:
            raise UserError(f"the environment variable {options.api_key_env} is not set")
        yield endpoint_of(
            options.base_url,
            form,
            api_key=key,
            ladder=(Tier(STANDARD_TIER, options.model),),
            in_flight=options.in_flight,
            simulated=False,
        )
    else:
        simulator = ForgetfulSimulator(
            ForgetfulJudge(options.position_errors),
            latency_seconds=options.latency,
            seconds_per_token=options.seconds_per_token,
            tokens_per_minute=10**9,
            requests_per_minute=10**6,
        )
        with simulator:
            yield endpoint_of(simulator.base_url, form, in_flight=options.in_flight)


def free_prices(folder: Path, model: str) -> Path | None:
    """A price file for a model that has no price, such as one on this machine; else None."""
    try:
        load_prices().price(model, "default", datetime.now(UTC).date())
    except UnknownPrice:
        path = folder / "prices.toml"
        row = f"[[prices]]\nmodel = {json.dumps(model)}\nvalid_from = {date(2026, 1, 1)}\n"
        path.write_text(row + "input = 0\noutput = 0\n", encoding="utf-8")
        return path
    return None


# --- one size ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """All texts asked in batches of one size."""

    size: int
    labels: Mapping[str, str]
    """Content key to its labels, as JSON; texts without an answer are left out."""
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_nanos: int | None
    """None for a model that has no price."""
    seconds: float


def asked_in(
    size: int, misses: pl.DataFrame, taxonomy: Taxonomy, endpoint: Endpoint, seed: int
) -> Arm:
    """Ask all texts in batches of this size; seed: of who stands where.

    Raises UserError where the endpoint makes the run stop.
    """
    sizes = BatchSettings(min_reviews=size, max_reviews=size, max_input_tokens=200_000, seed=seed)
    (tier,) = endpoint.ladder
    endpoint = replace(endpoint, ladder=(replace(tier, max_reviews=size),))
    with tempfile.TemporaryDirectory() as folder, Asker(Path(folder), taxonomy) as asker:
        free = free_prices(Path(folder), tier.model)
        asker.prices = load_prices(free)
        ran = asker.ask(misses, endpoint, sizes)
        if ran.stopped:
            raise UserError(ran.stopped)
        readout = asker.readout()
    labelled = readout.answers.filter(pl.col("status") == "labelled")
    sums = readout.requests.select("prompt_tokens", "completion_tokens", "cost_nanos").sum().row(0)
    return Arm(
        size=size,
        labels=dict(labelled.select("content_key", "labels").iter_rows()),
        requests=readout.requests.height,
        prompt_tokens=sums[0],
        completion_tokens=sums[1],
        cost_nanos=None if free else sums[2],
        seconds=ran.seconds,
    )


# --- judging ----------------------------------------------------------------------------------


def agreement(arm: Arm, single: Arm) -> Share:
    """How many texts that a single request labelled have all the same labels."""
    same = sum(1 for key, labels in single.labels.items() if arm.labels.get(key) == labels)
    return Share(same, len(single.labels))


def is_good(found: Share, noise: Share, tolerance: float) -> bool:
    """Whether a size is as good as single requests, but for the tolerance and the own noise.

    Both by the end of the interval that is against it: each errs in at most 2.5 % of cases.
    """
    return found.interval()[0] >= 1 - tolerance - noise.interval()[0]


def cap_of(sizes: Sequence[int], good: Mapping[int, bool]) -> int:
    """The largest size of which all sizes up to it are good; 1 is.

    >>> cap_of([1, 5, 10, 20], {5: True, 10: False, 20: True})
    5
    """
    cap = 1
    for size in sizes:
        if size > 1 and not good[size]:
            break
        cap = size
    return cap


def texts_needed(tolerance: float) -> int:
    """Fewest texts of which flawless agreement is enough.

    >>> texts_needed(0.02)
    183
    """
    return math.ceil(math.log(TAIL) / math.log1p(-tolerance))


def accuracy(arm: Arm, truth: Mapping[str, str], taxonomy: Taxonomy) -> Share | None:
    """Right main labels of the texts whose truth is known; None where none is."""
    classes = frozenset(truth.values())
    right = sum(
        1
        for key, label in truth.items()
        if key in arm.labels
        and taxonomy.main.agrees(json.loads(arm.labels[key])[taxonomy.main.name], label, classes)
    )
    return Share(right, len(truth)) if truth else None


def truths(rows: pl.DataFrame, taxonomy: Taxonomy) -> dict[str, str]:
    """Content key to the true label of the main field, where the file has one that is known."""
    pairs = rows.select("content_key", "label").iter_rows()
    found = {key: taxonomy.main.parse_truth(label) for key, label in pairs}
    return {key: label for key, label in found.items() if label is not None}


def save_cap(home: Path, cap: BatchCap) -> None:
    """Append a [[caps]] table to the home's batch_caps.toml."""
    lines = ["[[caps]]"]
    for name, value in cap.model_dump().items():
        lines.append(f"{name} = {value if isinstance(value, date) else json.dumps(value)}")
    path = Home(home).batch_caps_file
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """Every size, single requests twice, and the cap."""
    rows = distinct_rows(options.reviews, options.texts)
    own = options.taxonomy == OWN_LABELS
    taxonomy = benchmark_taxonomy(rows["label"]) if own else load_taxonomy(options.taxonomy)
    misses, truth = misses_of(rows, taxonomy), truths(rows, taxonomy)
    with engine(options, taxonomy) as endpoint:

        def ask(size: int, seed: int) -> Arm:
            arm = asked_in(size, misses, taxonomy, endpoint, seed)
            note(f"size {size}: {len(arm.labels):,} texts labelled in {arm.seconds:.1f} s")
            return arm

        single, again = ask(1, seed=0), ask(1, seed=1)
        arms = [ask(size, seed=0) for size in options.sizes if size > 1]
        model = endpoint.ladder[0].model
    if not single.labels:
        raise UserError(f"{model} labelled none of the texts")
    repeated = agreement(again, single)
    noise = Share(repeated.total - repeated.count, repeated.total)
    agreements = {arm.size: agreement(arm, single) for arm in arms}
    good = {size: is_good(found, noise, options.tolerance) for size, found in agreements.items()}
    cap = cap_of(options.sizes, good)

    def row(arm: Arm, name: str, same: Share | None, is_good_: bool | None) -> dict[str, Any]:
        right = accuracy(arm, truth, taxonomy)
        return {
            "name": name,
            "size": arm.size,
            "labelled": len(arm.labels),
            "agreement": same and same.as_json(),
            "good": is_good_,
            "accuracy": right and right.as_json(),
            "requests": arm.requests,
            "prompt_tokens": arm.prompt_tokens,
            "completion_tokens": arm.completion_tokens,
            "cost_nanos": arm.cost_nanos,
            "seconds": arm.seconds,
        }

    return {
        "engine": options.engine,
        "model": model,
        "taxonomy": taxonomy.name,
        "texts": misses.height,
        "tolerance": options.tolerance,
        "texts_needed": texts_needed(options.tolerance),
        "noise": noise.as_json(),
        "cap": cap,
        "cap_agreement": (agreements.get(cap) or repeated).as_json(),
        "sizes": [
            row(single, "1", None, None),
            row(again, "1, again", repeated, None),
            *(row(arm, str(arm.size), agreements[arm.size], good[arm.size]) for arm in arms),
        ],
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    """A line a size, and the cap."""
    texts = figures["texts"]
    table = Table(
        title=f"batch size: {figures['engine']}, {figures['model']}, taxonomy "
        f"{figures['taxonomy']}, the same {texts:,} texts in every size",
        title_justify="left",
        caption="agreement: of all labels of a text with those of its single request, exact 95 % "
        "interval; a text without an answer agrees with none. Accuracy: of the main field.",
    )
    columns = ("reviews a batch", "agreement", "good", "accuracy", "labelled", "requests")
    for name in (*columns, "tokens a review", "$ a 1,000", "s a review"):
        table.add_column(name, justify="left" if name == "reviews a batch" else "right")
    for row in figures["sizes"]:
        cost = row["cost_nanos"]
        table.add_row(
            row["name"],
            _share(row["agreement"]),
            "-" if row["good"] is None else "yes" if row["good"] else "no",
            _share(row["accuracy"]),
            f"{row['labelled']:,}",
            f"{row['requests']:,}",
            f"{(row['prompt_tokens'] + row['completion_tokens']) / texts:.1f}",
            "-" if cost is None else f"{cost / texts / 1e6:.5f}",
            f"{row['seconds'] / texts:.4f}",
        )
    console.print(table)
    noise = figures["noise"]
    console.print(
        f"single requests differ from themselves in {_share(noise)}; good: the lower end of the "
        f"agreement is at least {1 - figures['tolerance'] - noise['lower']:.4f}"
    )
    if texts < figures["texts_needed"]:
        console.print(
            f"{texts:,} texts cannot show it: a tolerance of {figures['tolerance']:g} needs "
            f"{figures['texts_needed']:,}, all of them in agreement"
        )
    console.print(f"cap: {figures['cap']}, the largest size up to which every size is good")


def _share(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else str(Share(found["count"], found["total"]))


def main() -> None:
    """Measure, print a table, save the cap where asked, and write JSON where asked."""
    options = read_options()
    console, began = Console(width=170), time.perf_counter()

    def note(text: str) -> None:
        console.print(f"[dim]{time.perf_counter() - began:6.0f} s  {text}[/dim]")

    try:
        figures = measure(options, note)
    except UserError as error:
        raise SystemExit(f"batch_size: {error}") from error
    show(figures, console)
    if options.save:
        found = figures["cap_agreement"]
        cap = BatchCap(
            model=figures["model"],
            max_reviews=figures["cap"],
            texts=found["total"],
            agreement=found["value"],
            lower=found["lower"],
            measured_on=datetime.now(UTC).date(),
        )
        save_cap(options.save, cap)
        console.print(f"saved to {Home(options.save).batch_caps_file}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
