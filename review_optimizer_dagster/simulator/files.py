"""The endpoint's files: what a client uploads for a batch, and what the batch leaves."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from review_optimizer_dagster.simulator.protocol import Json, Reply, Request, invalid

MOST_BATCH_BYTES = 200_000_000
PURPOSES = ("batch",)


@dataclass(frozen=True)
class StoredFile:
    """A file; `created` is in seconds since 1970."""

    id: str
    name: str
    purpose: str
    content: bytes
    created: float

    def body(self) -> Json:
        """The file object as OpenAI shapes it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": int(self.created),
            "expires_at": None,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """Every file by its id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._files: dict[str, StoredFile] = {}
        self._lock = threading.Lock()

    def add(self, name: str, purpose: str, content: bytes) -> StoredFile:
        """Keep a file."""
        file = StoredFile(f"file-{uuid.uuid4().hex}", name, purpose, content, self._clock())
        with self._lock:
            self._files[file.id] = file
        return file

    def find(self, file_id: str) -> StoredFile | None:
        """The file of that id, if it is there."""
        with self._lock:
            return self._files.get(file_id)

    def upload(self, request: Request) -> Reply:
        """POST /v1/files."""
        purpose, name, content = _form(request)
        if purpose not in PURPOSES:
            raise invalid(f"Invalid purpose {purpose!r}: use one of {PURPOSES}.", "purpose")
        if not name.endswith(".jsonl"):
            raise invalid("Invalid file format for Batch API. Must be .jsonl", "file")
        if not content:
            raise invalid("The file is empty.", "file")
        if len(content) > MOST_BATCH_BYTES:
            message = f"The file is larger than {MOST_BATCH_BYTES} bytes."
            raise invalid(message, "file", status=413)
        return Reply(200, self.add(name, purpose, content).body())

    def get(self, request: Request) -> Reply:
        """GET /v1/files/{id}."""
        return Reply(200, self._asked(request).body())

    def content(self, request: Request) -> Reply:
        """GET /v1/files/{id}/content."""
        return Reply(200, self._asked(request).content, content_type="application/octet-stream")

    def delete(self, request: Request) -> Reply:
        """DELETE /v1/files/{id}."""
        file = self._asked(request)
        with self._lock:
            self._files.pop(file.id, None)
        return Reply(200, {"id": file.id, "object": "file", "deleted": True})

    def _asked(self, request: Request) -> StoredFile:
        file_id = request.path.split("/")[3]
        file = self.find(file_id)
        if file is None:
            raise invalid(f"No such File object: {file_id}", "id", status=404)
        return file


def _form(request: Request) -> tuple[str, str, bytes]:
    """Purpose, file name and content of a multipart form.

    Raises RefusedError (400) where a part is missing.
    """
    kind = request.headers.get("content-type", "")
    boundary = re.search(r'boundary="?([^";,]+)', kind)
    if not kind.startswith("multipart/form-data") or boundary is None:
        raise invalid("A file is uploaded as multipart/form-data with a boundary.")
    parts: dict[str, tuple[str, bytes]] = {}
    # Every part stands between a line break with the boundary and the next such.
    for part in (b"\r\n" + request.raw).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        said = head.decode(errors="replace")
        name = re.search(r'[; ]name="([^"]*)"', said)
        file_name = re.search(r'filename="([^"]*)"', said)
        if name:
            parts[name[1]] = (file_name[1] if file_name else "", content)
    for wanted in ("purpose", "file"):
        if wanted not in parts:
            raise invalid(f"'{wanted}' is a required property", wanted)
    return parts["purpose"][1].decode(errors="replace"), *parts["file"]
