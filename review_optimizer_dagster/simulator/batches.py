"""The Batch API: files of requests that are answered some time later, or not.

Nothing runs in the background: what has become of a batch is worked out from the clock whenever
somebody looks.
"""

from __future__ import annotations

import json
import random
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.simulator.files import Files, StoredFile
from review_optimizer_dagster.simulator.protocol import (
    BilledRequest,
    Json,
    Reply,
    Request,
    invalid,
    parse_object,
)

MOST_LINES = 50_000
MOST_ERRORS = 100  # that a failed batch lists
WINDOW = "24h"
WINDOW_SECONDS = 86_400
ENDPOINTS = ("/v1/chat/completions",)
FATES = ("completed", "failed", "expired", "cancelled", "stuck")
ENDED = ("failed", "completed", "expired", "cancelled")

# Where in its course, 0 to 1, a batch is validated, and where its lines are done.
VALIDATED = 0.1
ANSWERED = 0.9
CANCELLING = 0.1  # of the course: how long a cancellation takes
A_POLL = 0.5  # of the course of a batch that takes no time

_UNDONE = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": (
        "batch_cancelled",
        "This batch was cancelled before this request could be executed.",
    ),
}


@dataclass(frozen=True)
class Course:
    """What becomes of a batch: how long it takes in all, how it ends, and how much is done then.

    `done_share` is the share of lines that are answered by the time it expires, is cancelled or
    gets stuck.
    """

    seconds: float
    fate: str
    done_share: float

    def __post_init__(self) -> None:
        if self.fate not in FATES:
            raise UserError(f"batch_fate is {self.fate!r}, but must be one of {', '.join(FATES)}")
        if not 0.0 <= self.done_share <= 1.0:
            raise UserError(f"batch_done_share is {self.done_share}, but must be between 0 and 1")
        if not self.seconds >= 0.0:
            raise UserError(f"batch_seconds is {self.seconds}, but must be 0 or more")

    def status(self, progress: float) -> str:
        """The status at a point of the course, where nobody cancels it."""
        if progress < VALIDATED:
            return "validating"
        if self.fate == "failed":
            return "failed"
        if progress < ANSWERED or self.fate == "stuck":
            return "in_progress"
        if progress < 1.0:
            before_the_end = {"completed": "finalizing", "cancelled": "cancelling"}
            return before_the_end.get(self.fate, "in_progress")
        return self.fate

    def share_done(self, progress: float) -> float:
        """The share of lines that are answered at a point of the course."""
        most = 1.0 if self.fate == "completed" else self.done_share
        return most * min(1.0, max(0.0, (progress - VALIDATED) / (ANSWERED - VALIDATED)))


class Line(NamedTuple):
    """A request of a batch."""

    custom_id: str
    body: Json


@dataclass
class _Batch:
    id: str
    asked: Json  # what the client sent
    course: Course
    created: float
    lines: list[Line]  # in the order in which they are answered
    errors: list[Json]
    replies: list[tuple[Line, Reply]] = field(default_factory=list)
    polls: int = 0
    cancelled_at: tuple[float, int] | None = None  # the time, and the polls until then
    output: str | None = None
    error_file: str | None = None

    def status(self, now: float) -> str:
        """The status at a time."""
        natural = self.course.status(self._progress(now))
        if natural == "failed" or self.cancelled_at is None:
            return natural
        at, polls = self.cancelled_at
        return (
            "cancelled"
            if self._passed(now - at, self.polls - polls) >= CANCELLING
            else ("cancelling")
        )

    def wanted(self, now: float) -> int:
        """How many lines are answered by a time."""
        if self.errors:
            return 0
        share = self.course.share_done(self._progress(now))
        if self.cancelled_at is not None:
            share = self.course.done_share
        return max(len(self.replies), round(share * len(self.lines)))

    def time(self, progress: float) -> int:
        """When a point of the course is reached, in seconds since 1970."""
        return int(self.created + progress * self.course.seconds)

    def _progress(self, now: float) -> float:
        return self._passed(now - self.created, self.polls)

    def _passed(self, seconds: float, polls: int) -> float:
        # Without time, looking is what moves it on: a client must not miss the states between.
        return seconds / self.course.seconds if self.course.seconds else polls * A_POLL


class Batches:
    """Every batch; `answer` gives the reply to a line, and books it."""

    def __init__(
        self,
        files: Files,
        answer: Callable[[Line], Reply],
        course: Callable[[], Course],
        clock: Callable[[], float],
        seed: int,
    ) -> None:
        self._files = files
        self._answer = answer
        self._course = course
        self._clock = clock
        self._seed = seed
        self._batches: list[_Batch] = []
        self._lock = threading.RLock()

    def create(self, request: Request) -> Reply:
        """POST /v1/batches."""
        asked = parse_object(request.raw)
        file = self._input(asked)
        lines, errors = read_lines(file, asked["endpoint"])
        course = self._course()
        if course.fate == "failed" and not errors:
            errors = [_error("batch_failed", "The batch could not be validated.", None)]
        if errors:
            course = Course(course.seconds, "failed", course.done_share)
        with self._lock:
            # The order of the answers is made up, not a secret.
            random.Random(f"{self._seed}:{len(self._batches)}").shuffle(lines)  # noqa: S311
            batch = _Batch(f"batch_{uuid.uuid4().hex}", asked, course, self._clock(), lines, errors)
            self._batches.append(batch)
            return Reply(200, self._body(batch))

    def get(self, request: Request) -> Reply:
        """GET /v1/batches/{id}."""
        with self._lock:
            batch = self._asked(request)
            self._look(batch)
            return Reply(200, self._body(batch))

    def page(self, request: Request) -> Reply:
        """GET /v1/batches: the newest first."""
        limit = request.query.get("limit", "20")
        if not limit.isdecimal() or not 1 <= int(limit) <= 100:
            raise invalid("'limit' must be between 1 and 100", "limit")
        with self._lock:
            found = self._batches[::-1]
            after = request.query.get("after")
            if after is not None:
                ids = [batch.id for batch in found]
                if after not in ids:
                    raise invalid(f"No batch found with id '{after}'.", "after")
                found = found[ids.index(after) + 1 :]
            page = found[: int(limit)]
            for batch in page:
                self._look(batch)
            data = [self._body(batch) for batch in page]
        ends: Json = {
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(found) > len(page),
        }
        return Reply(200, {"object": "list", "data": data, **ends})

    def cancel(self, request: Request) -> Reply:
        """POST /v1/batches/{id}/cancel."""
        with self._lock:
            batch = self._asked(request)
            self.advance(batch)
            status = batch.status(self._clock())
            if status in ENDED:
                message = f"Cannot cancel a batch with status '{status}'."
                raise invalid(message, status=409)
            if batch.cancelled_at is None:
                batch.cancelled_at = (self._clock(), batch.polls)
            self.advance(batch)
            return Reply(200, self._body(batch))

    def advance_all(self) -> None:
        """Answer and book what is due by now."""
        with self._lock:
            for batch in self._batches:
                self.advance(batch)

    def advance(self, batch: _Batch) -> None:
        """Answer the lines that are due, and write the files of a batch that has ended."""
        now = self._clock()
        for line in batch.lines[len(batch.replies) : batch.wanted(now)]:
            batch.replies.append((line, self._answer(line)))
        status = batch.status(now)
        if status in ENDED and status != "failed" and not (batch.output or batch.error_file):
            self._write(batch, status)

    def _look(self, batch: _Batch) -> None:
        batch.polls += 1
        self.advance(batch)

    def _write(self, batch: _Batch, status: str) -> None:
        good: list[str] = []
        bad: list[str] = []
        for number, line in enumerate(batch.lines):
            entry: Json = {
                "id": f"batch_req_{batch.id[-8:]}{number:08x}",
                "custom_id": line.custom_id,
                "response": None,
                "error": None,
            }
            if number < len(batch.replies):
                reply = batch.replies[number][1]
                entry["response"] = {
                    "status_code": reply.status,
                    "request_id": f"req_{batch.id[-8:]}{number:024x}",
                    "body": reply.body,
                }
            else:
                code, message = _UNDONE[status]
                entry["error"] = {"code": code, "message": message}
            done = entry["response"] is not None and reply.status < 400
            (good if done else bad).append(json.dumps(entry))
        batch.output = self._save(batch, "output", good)
        batch.error_file = self._save(batch, "error", bad)

    def _save(self, batch: _Batch, kind: str, lines: list[str]) -> str | None:
        if not lines:
            return None
        content = "".join(f"{line}\n" for line in lines).encode()
        return self._files.add(f"{batch.id}_{kind}.jsonl", "batch_output", content).id

    def _input(self, asked: Json) -> StoredFile:
        """The file that a batch is to be made of. Raises RefusedError (400)."""
        if asked.get("endpoint") not in ENDPOINTS:
            message = f"Invalid value for 'endpoint': supported are {', '.join(ENDPOINTS)}."
            raise invalid(message, "endpoint")
        if asked.get("completion_window") != WINDOW:
            raise invalid(f"'completion_window' must be {WINDOW!r}", "completion_window")
        if not _is_metadata(asked.get("metadata")):
            message = "'metadata' is at most 16 strings of 512 letters, with keys of 64"
            raise invalid(message, "metadata")
        file = self._files.find(str(asked.get("input_file_id")))
        if file is None or file.purpose != "batch":
            message = f"No such file of purpose batch: {asked.get('input_file_id')}"
            raise invalid(message, "input_file_id")
        return file

    def _asked(self, request: Request) -> _Batch:
        batch_id = request.path.split("/")[3]
        for batch in self._batches:
            if batch.id == batch_id:
                return batch
        raise invalid(f"No batch found with id '{batch_id}'.", status=404)

    def _body(self, batch: _Batch) -> Json:
        """The batch object as OpenAI shapes it."""
        now = self._clock()
        status = batch.status(now)
        counts = _counts(batch, status)
        rows = [reply.billed for _, reply in batch.replies if reply.billed]
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.asked["endpoint"],
            "model": batch.lines[0].body["model"] if batch.lines else None,
            "errors": {"object": "list", "data": batch.errors} if status == "failed" else None,
            "input_file_id": batch.asked["input_file_id"],
            "completion_window": WINDOW,
            "status": status,
            "output_file_id": batch.output,
            "error_file_id": batch.error_file,
            "created_at": int(batch.created),
            "expires_at": int(batch.created) + WINDOW_SECONDS,
            **_times(batch, status),
            "request_counts": counts,
            "usage": _usage(rows) if status in ENDED else None,
            "metadata": batch.asked.get("metadata"),
        }


def read_lines(file: StoredFile, endpoint: str) -> tuple[list[Line], list[Json]]:
    """The requests of an input file, or the errors for which it is refused."""
    raw = [line for line in re.split(rb"\r?\n", file.content) if line.strip()]
    if not raw:
        return [], [_error("empty_file", "The batch file holds no request.", None)]
    if len(raw) > MOST_LINES:
        message = f"The batch holds {len(raw)} requests, but may hold {MOST_LINES} at most."
        return [], [_error("too_many_tasks", message, None)]
    lines: list[Line] = []
    errors: list[Json] = []
    seen: set[str] = set()
    model: object = None
    for number, text in enumerate(raw, start=1):
        line, problem = _read_line(text, endpoint)
        if line is not None:
            model = model or line.body.get("model")
            if line.custom_id in seen:
                problem = ("duplicate_custom_id", "The custom_id is used twice.", "custom_id")
            elif line.body.get("model") != model:
                problem = ("model_mismatch", "All lines must ask the same model.", "body.model")
            seen.add(line.custom_id)
            lines.append(line)
        if problem is not None:
            code, message, param = problem
            errors.append(_error(code, message, number, param))
    return lines, errors[:MOST_ERRORS]


Problem = tuple[str, str, "str | None"]  # code, message, parameter


def _read_line(text: bytes, endpoint: str) -> tuple[Line | None, Problem | None]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        return None, ("invalid_json_line", "This line is not parseable as valid JSON.", None)
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if not isinstance(line.get(name), kind) or not line[name]:
            message = f"Missing required parameter: '{name}'."
            return None, ("missing_required_parameter", message, name)
    if line["method"] != "POST":
        return None, ("invalid_method", "The method must be POST.", "method")
    if line["url"] != endpoint:
        message = "The URL does not match the batch's endpoint."
        return None, ("url_mismatch", message, "url")
    return Line(line["custom_id"], line["body"]), None


def _error(code: str, message: str, line: int | None, param: str | None = None) -> Json:
    return {"code": code, "message": message, "line": line, "param": param}


def _is_metadata(metadata: object) -> bool:
    if metadata is None:
        return True
    return (
        isinstance(metadata, dict)
        and len(metadata) <= 16
        and all(
            len(key) <= 64 and isinstance(value, str) and len(value) <= 512
            for key, value in metadata.items()
        )
    )


def _counts(batch: _Batch, status: str) -> Json:
    """Requests by what became of them; those that were never executed have failed."""
    total = 0 if status == "validating" or batch.errors else len(batch.lines)
    completed = sum(1 for _, reply in batch.replies if reply.status < 400)
    failed = len(batch.replies) - completed
    if status in ENDED:
        failed = total - completed
    return {"total": total, "completed": completed, "failed": failed}


def _times(batch: _Batch, status: str) -> Json:
    """When each state was reached; None for those that were not."""
    reached: Json = dict.fromkeys(
        f"{name}_at" for name in ("in_progress", "finalizing", "cancelling", *ENDED)
    )
    if status == "failed":
        return reached | {"failed_at": batch.time(VALIDATED)}
    if status != "validating":
        reached["in_progress_at"] = batch.time(VALIDATED)
    if status in ("finalizing", "completed"):
        reached["finalizing_at"] = batch.time(ANSWERED)
    if status in ("completed", "expired"):
        reached[f"{status}_at"] = batch.time(1.0)
    if status in ("cancelling", "cancelled"):
        at = batch.time(ANSWERED) if batch.cancelled_at is None else int(batch.cancelled_at[0])
        reached["cancelling_at"] = at
        if status == "cancelled":
            reached["cancelled_at"] = int(at + CANCELLING * batch.course.seconds)
    return reached


def _usage(rows: list[BilledRequest]) -> Json:
    """The tokens of a batch in all."""
    prompt, completion = (
        sum(row.prompt_tokens for row in rows),
        sum(row.completion_tokens for row in rows),
    )
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": sum(row.cached_tokens for row in rows)},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
