"""Memory and time of planning and classifying as the misses grow: is it linear, does it stay small?

python -m review_optimizer_dagster_tests.benchmarks.scale [--sizes 5000,50000,500000]
    [--reviews FILE] [--endpoint canned|simulator] [--json OUT]

Each size runs in a process of its own, twice: with all texts in memory, and with the texts in
DuckDB, loaded a slice at a time as a run of the command does. Answers come from another process
with no latency; the canned endpoint reads a request and answers from a table, because the
simulator, which counts tokens and judges, takes longer for a request than the engine does.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import duckdb
import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.exchange.prompt import Asking, reply_form
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.storage.warehouse import Connection
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.benchmarks.asked import (
    MODEL,
    Asker,
    Child,
    DigestJudge,
    SimulatorProcess,
    distinct_rows,
    endpoint_of,
    misses_of,
)

TextsIn: TypeAlias = Literal["memory", "duckdb"]

SIZES: Final = "5000,50000,500000"
DIFFERENT: Final = 5_000  # texts that are repeated with a number behind them
IN_FLIGHT: Final = 8
TAXONOMY: Final = load_taxonomy("reviews")
READ_BYTES: Final = 2**20
_TEXT: Final = ["identity", "content_key"]
_WANTED: Final = """
    SELECT w.* EXCLUDE (place), t.title, t.text FROM wanted w JOIN texts t USING (content_key)
    ORDER BY w.place
"""


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--sizes", default=SIZES, help="misses of each run")
    add("--reviews", type=Path, help="a file of reviews (else the built-in sample)")
    add("--endpoint", choices=["canned", "simulator"], default="canned", help="who answers")
    add("--json", type=Path)
    options = parser.parse_args(arguments)
    options.sizes = [int(size) for size in options.sizes.split(",")]
    return options


# --- who answers ------------------------------------------------------------------------------


def canned_reply(count: int) -> bytes:
    """A whole HTTP response that gives so many documents their labels."""
    how = Asking(TAXONOMY, reply_form(TAXONOMY, "auto"))
    code = "".join(next(iter(codes)) for codes in how.codes.values())
    answers = [[str(number), code] for number in range(1, count + 1)]
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "service_tier": "default",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": json.dumps({"answers": answers}, separators=(",", ":")),
                    },
                }
            ],
            "usage": {"prompt_tokens": 1_000, "completion_tokens": 6 * count},
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: each request gets as many answers as it has ids."""
    replies: dict[int, bytes] = {}
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            # Documents are JSON inside of a JSON string, so their quotes are escaped.
            count = (await reader.readexactly(size)).count(b'{\\"id\\": ')
            if count not in replies:
                replies[count] = canned_reply(count)
            writer.write(replies[count])
            await writer.drain()
    writer.close()


def serve_canned(pipe: Pipe) -> None:
    """The child process: answers until the other end of the pipe is closed."""

    async def serve() -> None:
        server = await asyncio.start_server(_answer_all, "127.0.0.1", 0, limit=READ_BYTES)
        port = server.sockets[0].getsockname()[1]
        pipe.send(f"http://127.0.0.1:{port}/v1")
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), ended.set)
        await ended.wait()

    asyncio.run(serve())


# --- texts ------------------------------------------------------------------------------------


def store_texts(path: Path, rows: pl.DataFrame, count: int) -> None:
    """So many different texts (content_key, title, text) into a DuckDB file.

    rows: what is repeated, with a number behind every repetition.
    """
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE texts (content_key VARCHAR, title VARCHAR, text VARCHAR)")
        for turn in range(math.ceil(count / rows.height)):
            part = rows.head(count - turn * rows.height).select(
                pl.format("{}-{}", "content_key", pl.lit(turn)).alias("content_key"),
                "title",
                pl.format("{} ({})", "text", pl.lit(turn)).alias("text"),
            )
            file = path.with_suffix(".parquet")
            part.write_parquet(file)
            connection.execute("INSERT INTO texts SELECT * FROM read_parquet(?)", [str(file)])
            file.unlink()


def stored_texts(path: Path, plan: pl.DataFrame) -> pl.DataFrame:
    """Rows of a plan with their texts from the file, in their order."""
    numbered = plan.with_row_index("place")
    with duckdb.connect(str(path), read_only=True) as raw:
        connection = Connection(raw)
        with connection.view("wanted", numbered):
            return connection.frame(_WANTED)


def all_texts(path: Path) -> pl.DataFrame:
    """content_key, title and text of the file."""
    with duckdb.connect(str(path), read_only=True) as raw:
        return Connection(raw).frame("SELECT content_key, title, text FROM texts")


# --- one size ---------------------------------------------------------------------------------


def peak_mb() -> float:
    """The most memory that this process had resident, since it began or forgot.

    Not `ru_maxrss`, which a child inherits from whoever started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let the peak begin anew, from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def classify_in_child(
    pipe: Pipe, path: Path, base_url: str, texts_in: TextsIn, folder: Path
) -> None:
    """Plan and classify the texts of a file; sends what it took."""
    importlib.import_module("openai")  # as long to import as thousands of texts take
    forget_peak()
    started = peak_mb()
    endpoint = endpoint_of(base_url, reply_form(TAXONOMY, "auto"), in_flight=IN_FLIGHT)
    misses = misses_of(all_texts(path), TAXONOMY)
    loaded = peak_mb()
    with Asker(folder, TAXONOMY) as asker:
        began = time.perf_counter()
        plan = asker.planned(misses, endpoint, BatchSettings())
        plan_seconds, planned = time.perf_counter() - began, peak_mb()
        if texts_in == "duckdb":
            texts, size = partial(stored_texts, path), misses.height
            misses = misses.clear()
        else:
            held, size = misses.select(*_TEXT, "title", "text"), misses.height
            texts = partial(pl.DataFrame.join, other=held, on=_TEXT, maintain_order="left")
        forget_peak()
        ran = asker.classified(plan, endpoint, texts)
        classified = peak_mb()
        began = time.perf_counter()
        readout = asker.readout()
        read_seconds = time.perf_counter() - began
    labelled = readout.answers.filter(pl.col("status") == "labelled").height
    pipe.send(
        {
            "misses": size,
            "texts_in": texts_in,
            "labelled": labelled,
            "requests": readout.requests.height,
            "plan_s": plan_seconds,
            "classify_s": ran.seconds,
            "read_s": read_seconds,
            "seconds": plan_seconds + ran.seconds,
            "cpu_s": ran.cpu_seconds,
            "started_mb": started,
            "loaded_mb": loaded,
            "planned_mb": planned,
            "classified_mb": classified,
            "peak_mb": max(planned, classified, peak_mb()),
        }
    )


def measured(path: Path, base_url: str, texts_in: TextsIn) -> dict[str, Any]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        child = Child(classify_in_child, path, base_url, texts_in, Path(folder), patience=None)
        found: dict[str, Any] = child.first
        child.close()
    size = found["misses"]
    return found | {
        "seconds_per_1000": 1_000 * found["seconds"] / size,
        "mb_per_1000": 1_000 * (found["peak_mb"] - found["started_mb"]) / size,
    }


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The power of the size that the time grows with: least squares on logarithms.

    >>> exponent([1, 10, 100], [2.0, 20.0, 200.0])
    1.0
    """
    if len(set(sizes)) < 2:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return round(rise / sum((a - middle_x) ** 2 for a in x), 6)


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Every size with the texts in memory and in DuckDB."""
    rows = distinct_rows(options.reviews, min(DIFFERENT, max(options.sizes)))
    found: list[dict[str, Any]] = []
    ways: tuple[TextsIn, ...] = ("memory", "duckdb")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "texts.duckdb"
            store_texts(path, rows, size)
            for texts_in in ways:
                if options.endpoint == "canned":
                    served_by = Child(serve_canned)
                    found.append(measured(path, served_by.first, texts_in))
                    served_by.close()
                else:
                    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}
                    with SimulatorProcess(DigestJudge(), latency_seconds=0.0, **limits) as server:
                        found.append(measured(path, server.base_url, texts_in))
                console.print(f"[dim]{size:,}, texts in {texts_in}: done[/dim]")
    return {
        "endpoint": options.endpoint,
        "in_flight": IN_FLIGHT,
        "cores": os.cpu_count(),
        "rows": found,
        "exponents": {
            texts_in: exponent(
                [row["misses"] for row in found if row["texts_in"] == texts_in],
                [row["seconds"] for row in found if row["texts_in"] == texts_in],
            )
            for texts_in in ways
        },
    }


_COLUMNS: Final = (
    "texts in", "misses", "labelled", "requests", "seconds", "of it plan", "read s", "CPU s",
    "s a 1,000", "loaded MB", "plan MB", "classify MB", "MB a 1,000",
)  # fmt: skip


def show(figures: Mapping[str, Any], console: Console) -> None:
    """A line a run, and how time grows."""
    table = Table(
        title=f"plan and classify, {figures['in_flight']} in flight, no latency, "
        f"{figures['endpoint']} endpoint in another process, {figures['cores']} cores; n = 1 each",
        title_justify="left",
        caption="seconds: planning and classifying, without the import of openai; read: what the "
        "journal says, once more. MB: the most that was resident, with all texts loaded, while "
        "planning (which needs them), and while classifying; a 1,000: over what the process had "
        "before it loaded a text.",
    )
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "texts in" else "right")
    for row in figures["rows"]:
        table.add_row(
            row["texts_in"],
            f"{row['misses']:,}",
            f"{row['labelled']:,}",
            f"{row['requests']:,}",
            f"{row['seconds']:.1f}",
            f"{row['plan_s']:.1f}",
            f"{row['read_s']:.1f}",
            f"{row['cpu_s']:.1f}",
            f"{row['seconds_per_1000']:.3f}",
            f"{row['loaded_mb']:.0f}",
            f"{row['planned_mb']:.0f}",
            f"{row['classified_mb']:.0f}",
            f"{row['mb_per_1000']:.2f}",
        )
    console.print(table)
    for texts_in, power in figures["exponents"].items():
        if power is not None:
            console.print(f"texts in {texts_in}: seconds grow with the misses to the {power:.3f}")


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    options = read_options()
    console = Console(width=150)
    figures = measure(options, console)
    show(figures, console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
