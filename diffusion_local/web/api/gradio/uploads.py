"""Files uploaded for a Gradio call (``handle_file``); only their uploader can name or read them.

A file is stored under a random name in ``tmp/uploads`` of the home until it is used or exceeds MAX_AGE. Uploads of an
earlier process are deleted at startup. The client gets ``uploads/<id>`` as path, which is no path on the machine.
"""

import asyncio
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from diffusion_local import actor, authority
from diffusion_local.errors import InvalidParams, LimitReached, NotFound, QueueBlocked
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.web.error_responses import NOT_CACHED, error_response

MAX_AGE = 900.0  # seconds after which an unused file is deleted
MAX_FILES = 32  # per account at once
MAX_PICTURES = 4  # bytes per account at once, as a multiple of the size limit of a picture
FORM_OVERHEAD = 100_000  # overhead of a form around its files
UPLOAD_PATH = re.compile(r"uploads/([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Upload:
    """``at`` is a monotonic time in seconds."""

    owner: str
    bytes: int
    at: float


class Uploads:
    """The uploads of one process. Methods may be called from any thread."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = settings.max_source_mb * 1_000_000
        self._folder = settings.uploads
        self._reserve = settings.disk_reserve_mb * 1_000_000
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, Upload] = {}
        self._coming: dict[str, list[int]] = {}  # owner: bytes of each upload in progress
        shutil.rmtree(self._folder.parent, ignore_errors=True)  # with everything that Gradio stored there

    @contextmanager
    def room(self, owner: str, size: int) -> Iterator[None]:
        """Reserve ``size`` bytes while an upload is received. Raises LimitReached and QueueBlocked."""
        self.expire()
        with self._lock:
            own = [each.bytes for each in self._known.values() if each.owner == owner] + self._coming.get(owner, [])
            if len(own) >= MAX_FILES or sum(own) + size > MAX_PICTURES * self.max_bytes:
                raise LimitReached(
                    message(
                        "uploads_most",
                        most=MAX_FILES,
                        size=MAX_PICTURES * self.max_bytes // 10**6,
                        minutes=MAX_AGE // 60,
                    ),
                    retry_after=60,
                )
            self._coming.setdefault(owner, []).append(size)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free - size < self._reserve:
                raise QueueBlocked(message("upload_room"))
            yield
        finally:
            with self._lock:
                self._coming[owner].remove(size)
                if not self._coming[owner]:
                    del self._coming[owner]

    def keep(self, owner: str, file: IO[bytes]) -> str:
        """Store a file; returns the path under which its owner can refer to it."""
        upload_id = secrets.token_hex(16)
        path = self._folder / upload_id
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                shutil.copyfileobj(file, target, 1024 * 1024)
                size = target.tell()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._known[upload_id] = Upload(owner, size, self._clock())
        return f"uploads/{upload_id}"

    def file(self, path: object, owner: str) -> Path:
        """The file of an upload. Raises NotFound, also for another owner's."""
        self.expire()
        match = UPLOAD_PATH.fullmatch(path) if isinstance(path, str) else None
        upload = self._known.get(match[1]) if match else None
        if match is None or upload is None or upload.owner != owner:
            raise NotFound(message('no_upload'))  # fmt: skip
        return self._folder / match[1]

    def take(self, path: object, owner: str) -> bytes:
        """Read an upload and delete it. Raises NotFound."""
        file = self.file(path, owner)
        try:
            return file.read_bytes()
        except FileNotFoundError:
            raise NotFound(message("upload_used")) from None
        finally:
            self._delete([file.name])

    def expire(self) -> None:
        """Delete files that were not used in time."""
        now = self._clock()
        with self._lock:
            old = [name for name, each in self._known.items() if now - each.at >= MAX_AGE]
        self._delete(old)

    def _delete(self, names: list[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
            with self._lock:
                self._known.pop(name, None)


class TooLarge(Exception):
    """The body exceeds the limit."""


def add(app: FastAPI, uploads: Uploads) -> None:
    """Add routes that replace Gradio's own, which do not check who owns an upload."""

    @app.post("/gradio_api/upload", include_in_schema=False, response_model=None)
    async def upload(request: Request) -> list[str] | JSONResponse:
        """Store the files of a form, together at most as large as one picture; returns their paths for FileData."""
        authority.check("sources.add")  # before the body is read
        who = actor.current()
        most = uploads.max_bytes + FORM_OVERHEAD
        length = request.headers.get("content-length", "")
        size = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else most
        if size > most:
            return too_large(uploads)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise InvalidParams("files", message("form_files"))
        with uploads.room(who.name, size):
            try:
                bounded = Request(request.scope, at_most(request.receive, most))
                async with bounded.form(max_files=MAX_FILES, max_fields=1) as form:
                    files = [each.file for each in form.getlist("files") if isinstance(each, UploadFile)]
                    if not files:
                        raise InvalidParams("files", message("files_named"))
                    paths = [await anyio.to_thread.run_sync(uploads.keep, who.name, file) for file in files]
            except TooLarge:
                return too_large(uploads)
        asyncio.get_running_loop().call_later(MAX_AGE + 1, uploads.expire)
        return paths

    async def download(path: str) -> FileResponse:
        """Return an upload to its uploader. Raises NotFound for any other caller."""
        file = uploads.file(path, actor.current().name)
        return FileResponse(file, media_type="application/octet-stream", filename="upload", headers=NOT_CACHED)

    app.get("/gradio_api/file={path:path}", include_in_schema=False)(download)
    app.head("/gradio_api/file={path:path}", include_in_schema=False)(download)


def too_large(uploads: Uploads) -> JSONResponse:
    text = message("files_size", most=uploads.max_bytes // 10**6)
    return error_response(413, "content_too_large", text)


def at_most(receive: Receive, most: int) -> Receive:
    """The same stream, raising TooLarge after ``most`` bytes."""
    got = 0

    async def bounded() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise TooLarge
        return message

    return bounded
