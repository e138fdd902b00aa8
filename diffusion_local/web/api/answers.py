"""How the HTTP API answers beyond its JSON: entity tags, links to the next page, stored files in whole or in part."""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio
from fastapi import Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from diffusion_local import shapes
from diffusion_local.store.blobs import StoredFile

REVALIDATE = {"Cache-Control": "private, no-cache"}


def tagged(request: Request, content: dict[str, Any]) -> Response:
    """JSON with an ``ETag``; 304 without a body if the caller has it already (RFC 9110, section 13.1.2)."""
    tag = f'"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]}"'
    headers = REVALIDATE | {"ETag": tag}
    if known_already(request, tag):
        return Response(status_code=304, headers=headers)
    return JSONResponse(content, headers=headers)


def known_already(request: Request, tag: str) -> bool:
    """Whether ``If-None-Match`` names the tag."""
    known = [each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")]
    return tag in known or "*" in known


def paged(request: Request, name: str, items: list[Any], following: str | None) -> JSONResponse:
    """A page of a list: ``next`` is the cursor to give as ``before``, and the same as a link (RFC 8288)."""
    headers = dict(REVALIDATE)
    if following:
        url = request.url.include_query_params(before=following)
        path = shapes.root() + request.scope["path"]  # where a proxy serves us the two differ
        headers["Link"] = f'<{path}?{url.query}>; rel="next"'
    return JSONResponse({name: items, "next": following}, headers=headers)


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
