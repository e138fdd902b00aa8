"""Stored files as answers, in whole or in part."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import anyio
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from diffusion_local.gallery.blobs import StoredFile


class StoredResponse(FileResponse):
    """A stored file, or the ranges of it that are asked for, whether or not it lies in a folder of this machine.

    Raises FileNotFoundError if it is not there.
    """

    def __init__(
        self,
        file: StoredFile,
        media_type: str,
        headers: Mapping[str, str],
        name: str | None = None,
        status_code: int = 200,  # FastAPI reads it here
    ) -> None:
        stat, path = file.stat(), file.local_path
        status = cast(os.stat_result, SimpleNamespace(st_size=stat.size, st_mtime=stat.modified))
        super().__init__(path or file.key, status_code, headers, media_type, filename=name, stat_result=status)
        self._file = file
        self._local = path is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._local:  # a server that sends files by their paths has none here
            extensions = {k: v for k, v in scope.get("extensions", {}).items() if k != "http.response.pathsend"}
            scope = {**scope, "extensions": extensions}
        await super().__call__(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[anyio.AsyncFile[bytes]]:
        """Where FileResponse opens its path."""
        file = anyio.wrap_file(await anyio.to_thread.run_sync(self._file.open))
        try:
            yield file
        finally:
            with anyio.CancelScope(shield=True):  # close it even if the transfer is cancelled
                await file.aclose()
