"""The web application: routes for pictures, the APIs for programs, and gradio's page mounted below them."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.middleware.cors import CORSMiddleware

from diffusion_local import __version__, shapes
from diffusion_local.domain import Image, State
from diffusion_local.errors import NotFound
from diffusion_local.settings import Settings, assets
from diffusion_local.studio import Studio
from diffusion_local.web import docs, probes, refusals
from diffusion_local.web.api import http
from diffusion_local.web.api.dialects import DIALECTS
from diffusion_local.web.api.limits import BodyLimit
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.guard import Guard
from diffusion_local.web.refusals import NEVER
from diffusion_local.web.ui import page

T = TypeVar("T", bound=Callable[..., Any])

#: A picture's bytes never change; only whoever asked may keep them.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
#: A transparent pixel, for a running job that has no preview yet: a page would show a broken picture otherwise.
NOTHING = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
ICONS = {"mark.svg": "image/svg+xml"}


def create_app(studio: Studio, settings: Settings) -> FastAPI:
    app = FastAPI(title="diffusion-local", version=__version__, docs_url=None, redoc_url=None)
    # Allows no other origin; that it is there turns off gradio's own, which mirrors any origin back.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, settings=settings)
    refusals.add(app, settings)
    app.state.watch = watch = Watch(studio)
    add_routes(app, studio)
    probes.add(app, studio, settings)
    docs.add(app)
    app.include_router(http.router(studio, watch))
    for dialect in DIALECTS:
        app.include_router(dialect.router(studio, watch))
    return page.mount(app, studio)


def add_routes(app: FastAPI, studio: Studio) -> None:
    @readable(app, "/images/{image_id}.png")
    def picture(image_id: str, download: bool = False) -> FileResponse:
        """A picture's PNG, byte for byte as it was saved, recipe included."""
        path = studio.picture_file(image_id)
        name = download_name(studio.image(image_id)) if download else None
        return FileResponse(path, media_type="image/png", headers=FOREVER, filename=name)

    @readable(app, "/thumbnails/{image_id}.webp")
    def thumbnail(image_id: str) -> FileResponse:
        return FileResponse(studio.thumbnail_file(image_id), media_type="image/webp", headers=FOREVER)

    @readable(app, "/previews/{job_id}.webp")
    def preview(job_id: str) -> Response:
        """The newest preview of a running job. One asked for just after the end gets the picture's thumbnail."""
        job = studio.job(job_id)
        try:
            # Read at once, not streamed: the worker may replace the file at any moment.
            return Response(studio.preview_file(job_id).read_bytes(), media_type="image/webp", headers=NEVER)
        except (NotFound, FileNotFoundError):
            image = studio.images_of([job]).get(job_id) if job.state is State.DONE else None
            if image:
                return RedirectResponse(shapes.thumbnail_url(image.id), headers=NEVER)
            return Response(NOTHING, media_type="image/gif", headers=NEVER)

    @readable(app, "/assets/icons/{name}")
    def icon(name: str) -> FileResponse:
        if name not in ICONS:
            raise NotFound(f"There is no icon {name!r}.")
        return FileResponse(
            assets() / "icons" / name, media_type=ICONS[name], headers={"Cache-Control": "max-age=86400"}
        )


def readable(app: FastAPI, path: str) -> Callable[[T], T]:
    """A file's route: GET, and HEAD, which needs no line of its own in the documentation."""

    def add(endpoint: T) -> T:
        app.get(path, tags=["files"], response_class=FileResponse)(endpoint)
        app.head(path, include_in_schema=False)(endpoint)
        return endpoint

    return add


def download_name(image: Image) -> str:
    """A file name people can find again: the prompt's first words and the seed."""
    words = re.sub(r"[^\w]+", "-", image.params.prompt.lower())[:50].strip("-_")
    return f"{words or 'picture'}-{image.params.seed}.png"
