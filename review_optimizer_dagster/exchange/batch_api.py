"""The slow way to send, at half the price: the Batch API.

Requests become lines of a file; the file becomes a job that ends within a day; its lines come back
in any order, each with the response that a single request would have had. A job is in the journal
before it is submitted and carries its own id as metadata, so that a run which dies in between
finds it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.prompt import Json
from review_optimizer_dagster.exchange.reply import read_reply
from review_optimizer_dagster.exchange.transport import no_outcome, response_outcome
from review_optimizer_dagster.money.prices import BATCH_TIER

if TYPE_CHECKING:
    from openai import APIStatusError

    from review_optimizer_dagster.exchange.run import Run, Work

PATH = "/v1/chat/completions"
WINDOW = "24h"
JOB_KEY = "review_optimizer_job"  # of a job's metadata
MOST_LINES = 50_000  # that the API takes in a file
MOST_BYTES = 90_000_000  # half of what it takes: a file is in memory while it is uploaded
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
FIRST_POLL_SECONDS = 0.25
LONGEST_POLL_SECONDS = 30.0
CALL_SECONDS = 60.0
UPLOAD_SECONDS = 600.0
DOWNLOAD_SECONDS = 120.0
LOOKS_FOR_LOST = 3  # at the list of jobs, for one whose creation got no answer
# How a line without a response ended, as `Reply.status` names it; none of these is charged.
_UNCHARGED = {"batch_expired": "expired", "batch_cancelled": "cancelled"}


class BatchJobs:
    """The open jobs of a run: submits them, looks at them, and hands their lines on."""

    def __init__(self, run: Run, client: Any, jobs: list[Json]) -> None:
        """jobs: those that an earlier run left open."""
        self._run, self._client = run, client
        self._open = {job["job_id"]: job for job in jobs}
        self._works: dict[str, Work] = {}  # by request_id
        self._records: dict[str, Json] = {}
        wanted = {name for job in jobs for name in job["request_ids"]}
        for record in run.journal.requests() if wanted else ():
            if record["request_id"] in wanted and record["outcome"] is None:
                self._records[record["request_id"]] = record

    def items(self) -> pl.DataFrame:
        """tenant, identity and content_key of what open jobs will answer."""
        keys = [
            (record["tenant"], record["identity"], content_key)
            for record in self._records.values()
            for _, content_key, _ in record["items"]
        ]
        schema = dict.fromkeys(("tenant", "identity", "content_key"), pl.String)
        return pl.DataFrame(keys, schema, orient="row")

    async def begin(self, waiting: pl.DataFrame, new: pl.DataFrame) -> None:
        """Take up what earlier jobs left, and submit the new texts.

        waiting: PLAN rows that open jobs are asked about; new: those of tenants that send so.
        """
        from review_optimizer_dagster.exchange.run import Work

        for name, record in self._records.items():
            asked = pl.DataFrame(
                [(record["identity"], key, item_id) for item_id, key, _ in record["items"]],
                {"identity": pl.String, "content_key": pl.String, "item_id": pl.String},
                orient="row",
            )
            rows = waiting.drop("item_id").join(asked, on=["identity", "content_key"])
            step = self._run.endpoint.step(record["tier"])
            left, useless = record["attempts_left"], record["useless_before"]
            self._works[name] = Work(
                rows.select(waiting.columns), step, record["attempt"], left, useless
            )
        self._run.for_batch += self._run.new_works(new)
        await self._submit_all()

    async def finish(self) -> None:
        """Wait for the jobs and use what they bring, as long as a run may wait for them."""
        run, pause = self._run, FIRST_POLL_SECONDS
        until = run.clock.monotonic() + run.endpoint.batch_wait_seconds
        while self._open and not run.stop:
            if await self._look_at_all():
                pause = FIRST_POLL_SECONDS
                await self._submit_all()
                continue
            if run.clock.monotonic() + pause > until:
                break
            await run.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)
        for job in self._open.values():
            for name in job["request_ids"]:
                if name in self._works and not run.stop:
                    run.put_off(self._works[name].rows, "deferred", "batch", 1)

    # --- submitting ---------------------------------------------------------------------------

    async def _submit_all(self) -> None:
        """Make jobs of the works that wait for it: one model a job, within the API's limits."""
        run = self._run
        run.leave_paused()
        while run.for_batch and not run.stop:
            step = run.for_batch[0].step
            records: list[Json] = []
            lines: list[bytes] = []
            size = 0
            held: list[Work] = []
            while run.for_batch and len(lines) < MOST_LINES and size < MOST_BYTES:
                work = run.for_batch.pop(0)
                if work.step != step:
                    held.append(work)
                    continue
                if "text" not in work.rows.columns:
                    work = replace(work, rows=run.texts(work.rows))
                if (admitted := run.admitted(work, BATCH_TIER)) is None:
                    continue
                body, record = admitted
                self._works[record["request_id"]] = replace(
                    work, rows=work.rows.drop("title", "text")
                )
                records.append(record)
                lines.append(_line(record["request_id"], body))
                size += len(lines[-1])
            run.for_batch = held + run.for_batch
            if records:
                await self._submit(records, lines, run.endpoint.ladder[step].model)

    async def _submit(self, records: list[Json], lines: list[bytes], model: str) -> None:
        run = self._run
        names = [record["request_id"] for record in records]
        digest = hashlib.blake2b("|".join(names).encode(), digest_size=12).hexdigest()
        job: Json = {"job_id": f"{run.journal.day}-{digest}", "request_ids": names}
        job |= {"model": model, "remote_id": None, "status": "intended"}
        job |= {"created_at": run.clock.now().isoformat()}
        self._records |= {record["request_id"]: record for record in records}
        run.journal.intend_job(job, records)
        self._open[job["job_id"]] = job
        name = (f"{job['job_id']}.jsonl", b"".join(lines))
        upload = self._client.files.create(file=name, purpose="batch")
        file = await self._call(upload, UPLOAD_SECONDS, submits=True)
        if not _has_id(file):
            return
        creation = self._client.batches.create(
            input_file_id=file.id,
            endpoint=PATH,
            completion_window=WINDOW,
            metadata={JOB_KEY: job["job_id"]},
        )
        remote = await self._call(creation, submits=True)
        if _has_id(remote):  # else its fate is looked up by its metadata
            self._note(job, remote_id=remote.id, status="submitted")

    async def _call(
        self, call: Awaitable[Any], seconds: float = CALL_SECONDS, *, submits: bool = False
    ) -> Any:
        """What a call about jobs brought; None where it brought nothing that can be used now.

        Raises NotFoundError, unless the call was to submit something: then nothing can be.
        """
        from openai import APIStatusError, NotFoundError, OpenAIError

        try:
            async with asyncio.timeout(seconds):  # the client's own is for one read
                return await call
        except APIStatusError as error:
            if isinstance(error, NotFoundError) and not submits:
                raise
            self._refused(error, submits)
        except (OpenAIError, TimeoutError):
            return None
        except (ValueError, AttributeError, TypeError):
            return None  # a 200 whose body is none that the client knows: it is asked again
        return None

    def _refused(self, error: APIStatusError, submits: bool) -> None:
        """Stop the run where another call would meet the same."""
        run, status = self._run, error.status_code
        said = f"{run.endpoint.base_url}: HTTP {status}: {error.message[:300]}"
        if status in (401, 402, 403):
            run.stop = f"{said}: check the key in the variable that [engine] api_key_env names"
        elif submits and status in (404, 405, 501):
            run.stop = f'{said}: this endpoint has no Batch API: set send = "sync" for its tenants'
        elif submits and status < 500 and status not in (408, 409, 429):
            run.stop = f"{said}: the Batch API refuses the job"

    # --- collecting ---------------------------------------------------------------------------

    async def _look_at_all(self) -> bool:
        """Look at every open job once; whether one ended."""
        ended = False
        for job in list(self._open.values()):
            remote = await self._remote(job)
            outcomes: dict[str, Json] | None = None
            if job["status"] == "lost":
                outcomes = {}
            elif remote is not None and remote.status in ENDED:
                outcomes = await self._outcomes(job, remote)
            if outcomes is not None:
                self._end(job, outcomes)
                ended = True
        return ended

    async def _remote(self, job: Json) -> Any:
        """The endpoint's view of a job; None where it cannot be had, now or (`lost`) ever."""
        from openai import NotFoundError

        if job["remote_id"] is None:
            return await self._found(job)
        try:
            remote = await self._call(self._client.batches.retrieve(job["remote_id"]))
        except NotFoundError:
            job["status"] = "lost"
            return None
        return remote if _has_id(remote) and isinstance(remote.status, str) else None

    async def _found(self, job: Json) -> Any:
        """A job that is only known by its metadata, out of the endpoint's list of jobs."""

        async def listed() -> list[Any]:
            return [remote async for remote in self._client.batches.list(limit=100)]

        remotes = await self._call(listed())
        for remote in remotes or ():
            if (remote.metadata or {}).get(JOB_KEY) == job["job_id"]:
                self._note(job, remote_id=remote.id, status="submitted")
                return remote
        if remotes is not None:
            # Not in the list: it was never made, unless its creation is still on the way.
            job["looks"] = job.get("looks", 0) + 1
            if job["looks"] >= LOOKS_FOR_LOST:
                job["status"] = "lost"
        return None

    async def _outcomes(self, job: Json, remote: Any) -> dict[str, Json] | None:
        """Raw outcomes by request_id, from the output and the error file of a job.

        None where a file cannot be had now, or only a part of it: it is fetched again.
        """
        now = self._run.clock.now()
        if remote.status == "failed":
            errors = remote.errors.data if remote.errors and remote.errors.data else []
            said = "; ".join(f"{e.code}: {e.message}" for e in errors)[:300] or "no reason given"
            return dict.fromkeys(job["request_ids"], no_outcome("rejected", said, False, now))
        found: dict[str, Json] = {}
        for file_id in (remote.output_file_id, remote.error_file_id):
            entries = await self._entries(file_id) if file_id else []
            if entries is None:
                return None
            for entry in entries:
                if entry.get("custom_id") in self._works:
                    found[entry["custom_id"]] = self._outcome(entry, now)
        return found

    async def _entries(self, file_id: str) -> list[Json] | None:
        """The lines of a file; none of one that is gone, None where it cannot be had whole."""
        from openai import NotFoundError

        try:
            content = await self._call(self._client.files.content(file_id), DOWNLOAD_SECONDS)
        except NotFoundError:
            return []
        text = getattr(content, "text", None)
        if not isinstance(text, str):
            return None
        try:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return None
        return entries if all(isinstance(entry, dict) for entry in entries) else None

    def _outcome(self, entry: Json, now: datetime) -> Json:
        response, problem = entry.get("response"), entry.get("error")
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            body = json.dumps(response.get("body"), ensure_ascii=False)
            headers = {"x-request-id": str(response.get("request_id"))}
            key = self._run.endpoint.api_key
            return response_outcome(response["status_code"], body, headers, key, now)
        problem = problem if isinstance(problem, dict) else {}
        code = str(problem.get("code"))
        status = _UNCHARGED.get(code, "rejected")
        return no_outcome(status, str(problem.get("message") or code)[:300], False, now)

    def _end(self, job: Json, outcomes: Mapping[str, Json]) -> None:
        """Keep what a job brought, then use it.

        A line that never came back may have been charged, unless the job was never made.
        """
        run, now = self._run, self._run.clock.now()
        was_made = job["remote_id"] is not None
        lost = no_outcome("lost", "not in the files of its job", was_made, now)
        if not was_made:
            lost = no_outcome("lost", "its job was never made", False, now)
        names = [name for name in job["request_ids"] if name in self._works]
        settled = {name: outcomes.get(name, lost) for name in names}
        run.journal.settle_job(job | {"status": "ended"}, settled)
        del self._open[job["job_id"]]
        for name, outcome in settled.items():
            record = self._records.pop(name) | {"outcome": outcome}
            work = self._works.pop(name)
            # A text whose review was taken out meanwhile is paid for all the same.
            if not work.rows.is_empty():
                run.conclude(work, record, read_reply(record))

    def _note(self, job: Json, **changes: object) -> None:
        job |= changes
        self._run.journal.update_job(job)


def _has_id(answer: Any) -> bool:
    """Whether an answer is an object of the API: an HTML page with status 200 comes as a text."""
    return isinstance(getattr(answer, "id", None), str)


def _line(name: str, body: Json) -> bytes:
    line = {"custom_id": name, "method": "POST", "url": PATH, "body": body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def open_job_states(base_url: str, api_key: str, jobs: list[Json]) -> dict[str, str]:
    """The endpoint's status of each submitted job, by job_id; for a sensor, which only looks.

    Raises UserError where the endpoint cannot be asked.
    """
    from openai import OpenAI, OpenAIError

    states = {}
    with OpenAI(base_url=base_url, api_key=api_key, max_retries=1, timeout=10) as client:
        for job in jobs:
            try:
                states[job["job_id"]] = str(client.batches.retrieve(job["remote_id"]).status)
            except OpenAIError as error:
                raise UserError(f"{base_url}: {error}") from error
    return states
