"""A chat endpoint on loopback that does what a test tells it, and a small engine to ask it with."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import polars as pl

from review_optimizer_dagster.core.batching import MISSES, STANDARD_TIER, Tier, plan_batches
from review_optimizer_dagster.core.classifier import (
    Classified,
    Endpoint,
    Readout,
    classify,
    read_requests,
)
from review_optimizer_dagster.exchange.batch_quality import BatchWatch
from review_optimizer_dagster.exchange.prompt import Asking
from review_optimizer_dagster.exchange.transport import Clock
from review_optimizer_dagster.money.budgets import Budget, Spend, budget_version
from review_optimizer_dagster.money.prices import load_prices
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.taxonomies import load_taxonomy

DAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MODEL = "gpt-6-luna"
TAXONOMY = load_taxonomy("reviews")
KEY = "sk-not-a-key"


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    body: Mapping[str, Any]
    request_id: str

    @property
    def documents(self) -> list[dict[str, str]]:
        documents: list[dict[str, str]] = json.loads(self.body["messages"][1]["content"])[
            "documents"
        ]
        return documents

    @property
    def ids(self) -> list[str]:
        return [document["id"] for document in self.documents]


@dataclass(frozen=True)
class Answer:
    """What goes back: a status with body and headers, cut in the middle or dripping if asked to."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    drips: bool = False


Script: TypeAlias = Callable[[Asked], Answer]


def entry(item_id: str, **labels: str) -> dict[str, str]:
    """A valid answer for one document: the first label of each field, unless told otherwise."""
    return {"id": item_id} | {f.name: f.labels[0] for f in TAXONOMY.fields} | labels


def completion(content: str | None, **changes: Any) -> Answer:
    """A chat completion around a content; `usage`, `finish_reason`, ... can be changed."""
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": changes.pop("finish_reason", "stop"),
    }
    headers = changes.pop("headers", {})
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": f"{MODEL}-2026-08-01",
        "service_tier": "default",
        "choices": [choice],
        "usage": {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100},
    }
    return Answer(body=json.dumps(body | changes), headers=headers)


def entries(answers: Sequence[object], **changes: Any) -> Answer:
    """A chat completion with these answers."""
    return completion(json.dumps({"answers": answers}), **changes)


def good(asked: Asked) -> Answer:
    """Every document answered."""
    return entries([entry(item_id) for item_id in asked.ids])


def error(status: int, code: str = "", headers: Mapping[str, str] | None = None) -> Script:
    """An error response, as the API words it."""
    body = json.dumps({"error": {"message": "as the test wants it", "type": "x", "code": code}})
    return lambda _asked: Answer(status, body, headers or {})


class ScriptedEndpoint:
    """Answers the first requests by the script, in the order of arrival, and the others well."""

    def __init__(self, script: Sequence[Script] = (), otherwise: Script = good) -> None:
        self._script = list(script)
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.asked: list[Asked] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = endpoint._answer(Asked(body, str(self.headers.get("x-client-request-id"))))
                payload = answer.body.encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                if answer.cut:
                    self.close_connection = True
                    payload = payload[: len(payload) // 2]
                for start in range(len(payload)) if answer.drips else ():
                    self.wfile.write(payload[start : start + 1])
                    endpoint._closing.wait(0.05)
                if not answer.drips:
                    self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # quiet: cuts
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            script = self._script.pop(0) if self._script else self._otherwise
        return script(asked)

    def __enter__(self) -> ScriptedEndpoint:
        serve = {"poll_interval": 0.01}
        threading.Thread(target=self._server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class FakeTime:
    """A clock that only sleeping moves, at once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: self.seconds,
            now=lambda: NOON + timedelta(seconds=self.seconds),
            sleep=self._sleep,
        )


def misses(count: int, tenant: str = "acme", text: str = "It does what it says.") -> pl.DataFrame:
    """So many different texts of one tenant."""
    return pl.DataFrame(
        {
            "tenant": [tenant] * count,
            "taxonomy": [TAXONOMY.name] * count,
            "identity": [f"{tenant}|{TAXONOMY.identity}|real"] * count,
            "content_key": [f"{tenant}-{number:05}" for number in range(count)],
            "title": [None if number % 2 else "A title" for number in range(count)],
            "text": [f"{text} Number {number}." for number in range(count)],
            "purpose": ["classification"] * count,
        },
        schema=MISSES,
    )


def tier_of(settings: BatchSettings) -> Tier:
    """The one tier of an endpoint without a ladder."""
    return Tier(STANDARD_TIER, MODEL, max_reviews=settings.max_reviews)


def asking(name: str, _tier: Tier) -> Asking:
    """How the tests' endpoint is asked: labels are spelled."""
    assert name == TAXONOMY.name
    return Asking(TAXONOMY, "labels")


def batches(found: pl.DataFrame, settings: BatchSettings | None = None) -> pl.DataFrame:
    """The plan of these misses with their texts, as `classify` takes it."""
    settings = settings or BatchSettings()
    plan = plan_batches(found, asking, [tier_of(settings)], settings, DAY)
    texts = found.select("identity", "content_key", "title", "text")
    return plan.join(texts, on=["identity", "content_key"], maintain_order="left")


class Bench:
    """One home's journal and budgets, and an engine that asks an endpoint."""

    def __init__(self, folder: Path, base_url: str, budget_nanos: int = 10**12) -> None:
        self.journal = DayJournal(folder, DAY)
        self.state = StateStore(folder)
        self.base_url = base_url
        self.budget_nanos = budget_nanos
        self.time = FakeTime()
        self.progress: list[tuple[int, int]] = []
        self.asked: list[Asked] = []

    def budget(self, tenant: str) -> Budget:
        version = budget_version(self.state, tenant, self.budget_nanos, "month", NOON)
        return Budget(self.state, tenant, version)

    def spend(self, tenant: str = "acme") -> Spend:
        """Where a tenant's budget stands."""
        return self.budget(tenant).state(self.time.clock().now())

    def ask(
        self,
        plan: pl.DataFrame,
        *,
        generation: int = 1,
        by_batch: Sequence[str] = (),
        quality: BatchWatch | None = None,
        **limits: Any,
    ) -> Classified:
        given: dict[str, Any] = {"timeout_seconds": 10.0, "timeout_seconds_per_review": 0.0}
        given |= {"ladder": (tier_of(BatchSettings(max_reviews=500)),), "form": lambda _: "labels"}
        endpoint = Endpoint("openai", self.base_url, KEY, simulated=False, **(given | limits))
        texts = plan.select("identity", "content_key", "title", "text")
        return classify(
            plan.drop("title", "text"),
            lambda rows: rows.join(texts, on=["identity", "content_key"], maintain_order="left"),
            {TAXONOMY.name: TAXONOMY},
            endpoint,
            self.journal,
            generation,
            self.budget,
            load_prices(),
            by_batch=by_batch,
            quality=quality,
            progress=lambda done, total: self.progress.append((done, total)),
            clock=self.time.clock(),
        )

    def readout(self, generation: int = 1) -> Readout:
        taxonomies = {TAXONOMY.name: TAXONOMY}
        return read_requests(self.journal.requests(), taxonomies, load_prices(), generation)

    def close(self) -> None:
        self.journal.close()
        self.state.close()
