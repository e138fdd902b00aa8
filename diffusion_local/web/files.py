"""Routes for pictures, icons and other stored files, with entity tags and ranges (RFC 9110, sections 13 and 14)."""

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from diffusion_local import serializers
from diffusion_local.domain import Image, State
from diffusion_local.errors import NotFound, echo
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.image_formats import TYPE_BY_SUFFIX
from diffusion_local.messages import message
from diffusion_local.paths import assets
from diffusion_local.studio import Studio
from diffusion_local.web.api.http_headers import known_already
from diffusion_local.web.error_responses import NOT_CACHED

#: A picture's bytes never change; only private caches may keep them.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
#: A transparent GIF of one pixel for a running job without a preview; a page would show an error as a broken picture.
EMPTY_GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
#: The page's typeface, for Latin script; other scripts fall back to the system's fonts.
FONT = "inter.woff2"
#: The page's typeface, for Latin script; other scripts fall back to the system's fonts.
FONT = "inter.woff2"
ICONS = {
    "mark.svg": "image/svg+xml",
    "mark-192.png": "image/png",
    "mark-512.png": "image/png",
    "app.webmanifest": "application/manifest+json",
    "styles.webp": "image/webp",
    "example-apple.webp": "image/webp",
    "example-heart.webp": "image/webp",
    "example-star.webp": "image/webp",
    "example-tree.webp": "image/webp",
}


class StoredResponse(FileResponse):
    """The response with a stored file, or the requested ranges of it; the file may be on remote storage.

    Raises FileNotFoundError if the file does not exist.
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
        if not self._local:  # there is no path that the server could send by itself
            extensions = {k: v for k, v in scope.get("extensions", {}).items() if k != "http.response.pathsend"}
            scope = {**scope, "extensions": extensions}
        await super().__call__(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[anyio.AsyncFile[bytes]]:
        """Open the stored file; overrides the method with which FileResponse opens its path."""
        file = anyio.wrap_file(await anyio.to_thread.run_sync(self._file.open))
        try:
            yield file
        finally:
            with anyio.CancelScope(shield=True):  # close it even if the transfer is cancelled
                await file.aclose()


T = TypeVar("T", bound=Callable[..., Any])


def add(app: FastAPI, studio: Studio) -> None:
    @readable(app, "/images/{image_id}.{suffix}")
    def picture(request: Request, image_id: str, suffix: str, download: bool = False) -> Response:
        """A picture's file, byte for byte as it was saved, recipe included. Its suffix is that of its `url`; `.png`
        redirects to it.
        """
        image = studio.image(image_id)
        file = studio.picture_file(image_id)
        if f".{suffix}" != image.suffix:
            if suffix != "png":
                raise NotFound(message("kept_as", image=echo(image_id), format=image.suffix))
            query = "?download=1" if download else ""
            return RedirectResponse(serializers.file_url(image) + query, headers=NOT_CACHED)
        return cached_response(request, file, TYPE_BY_SUFFIX[image.suffix], download_name(image) if download else None)

    @readable(app, "/thumbnails/{image_id}.webp")
    def thumbnail(request: Request, image_id: str) -> Response:
        return cached_response(request, studio.thumbnail_file(image_id), "image/webp")

    @readable(app, "/sources/{source_id}.png")
    def source(request: Request, source_id: str) -> Response:
        """A stored source picture."""
        return cached_response(request, studio.sources.file(source_id), "image/png")

    @readable(app, "/previews/{job_id}.webp")
    def preview(job_id: str) -> Response:
        """The newest preview of a running job; just after its end, the picture's thumbnail."""
        job = studio.job(job_id)
        try:
            # Read at once, not streamed: the worker may replace the file at any moment.
            return Response(studio.preview_file(job_id).read_bytes(), media_type="image/webp", headers=NOT_CACHED)
        except (NotFound, FileNotFoundError):
            image = studio.images_of([job]).get(job_id) if job.state is State.DONE else None
            if image:
                return RedirectResponse(serializers.thumbnail_url(image.id), headers=NOT_CACHED)
            return Response(EMPTY_GIF, media_type="image/gif", headers=NOT_CACHED)

    @readable(app, "/model-previews/{folder}/{name}")
    def model_preview(folder: str, name: str) -> FileResponse:
        """The preview picture beside a model's or adapter's file; ``folder``: models, loras and so on."""
        file = studio.library.preview(folder, name)
        return FileResponse(
            file, media_type=TYPE_BY_SUFFIX[file.suffix.lower()], headers={"Cache-Control": "private, max-age=60"}
        )

    @readable(app, "/assets/icons/{name}")
    def icon(name: str) -> FileResponse:
        if name not in ICONS:
            raise NotFound(message("no_icon", name=echo(name)))
        return FileResponse(
            assets() / "icons" / name, media_type=ICONS[name], headers={"Cache-Control": "max-age=86400"}
        )

    @readable(app, "/assets/fonts/{name}")
    def font(name: str) -> FileResponse:
        if name != FONT:
            raise NotFound(message("no_font", name=echo(name)))
        return FileResponse(
            assets() / "fonts" / FONT, media_type="font/woff2", headers={"Cache-Control": "max-age=604800"}
        )


def readable(app: FastAPI, path: str) -> Callable[[T], T]:
    """Decorator: add a GET route for a file, and a HEAD route that the API documentation leaves out."""

    def add(endpoint: T) -> T:
        app.get(path, tags=["files"], response_class=FileResponse)(endpoint)
        app.head(path, include_in_schema=False)(endpoint)
        return endpoint

    return add


def cached_response(request: Request, file: StoredFile, media_type: str, name: str | None = None) -> Response:
    """The response for an immutable file: 304 if the client has it cached, 206 for a requested range."""
    answer = StoredResponse(file, media_type, FOREVER, name)
    if known_already(request, answer.headers["ETag"]):
        return Response(status_code=304, headers=FOREVER | {"ETag": answer.headers["ETag"]})
    return answer


def download_name(image: Image) -> str:
    """A recognisable file name: the first words of the prompt, and the seed."""
    words = re.sub(r"[^\w]+", "-", image.params.prompt.lower())[:50].strip("-_")
    return f"{words or 'picture'}-{image.params.seed}{image.suffix}"
