"""The web application: plain routes for pictures and health, and gradio's page and API mounted below them."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.middleware.cors import CORSMiddleware

from diffusion_local import __version__, shapes
from diffusion_local.domain import Image, State
from diffusion_local.errors import Conflict, DatabaseProblem, InvalidParams, NotFound, QueueFull, UserError
from diffusion_local.settings import Settings, assets
from diffusion_local.studio import Studio
from diffusion_local.web.guard import Guard
from diffusion_local.web.ui import page

STATUS: dict[type[UserError], int] = {
    NotFound: 404,
    Conflict: 409,
    InvalidParams: 422,
    QueueFull: 429,
    DatabaseProblem: 503,
}
#: A picture's bytes never change; only whoever asked may keep them.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
NEVER = {"Cache-Control": "no-store"}
#: A transparent pixel, for a running job that has no preview yet: a page would show a broken picture otherwise.
NOTHING = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
READ = ["GET", "HEAD"]
ICONS = {"mark.svg": "image/svg+xml"}


def create_app(studio: Studio, settings: Settings) -> FastAPI:
    app = FastAPI(title="diffusion-local", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    # Allows no other origin; that it is there turns off gradio's own, which mirrors any origin back.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Guard, settings=settings)
    add_errors(app, settings)
    add_routes(app, studio)
    return page.mount(app, studio)


def add_errors(app: FastAPI, settings: Settings) -> None:
    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        told = {"code": error.code, "message": error.message.replace(str(settings.home), "home")}
        if isinstance(error, InvalidParams):
            told["field"] = error.field
        return JSONResponse({"error": told}, STATUS.get(type(error), 400), headers=NEVER)


def add_routes(app: FastAPI, studio: Studio) -> None:
    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        """Whether the server answers and can read its database."""
        return {"status": "ok", "version": __version__, "revision": studio.revision()}

    @app.api_route("/images/{image_id}.png", methods=READ)
    def picture(image_id: str, download: bool = False) -> FileResponse:
        """A picture's PNG, byte for byte as it was saved, recipe included."""
        path = studio.picture_file(image_id)
        name = download_name(studio.image(image_id)) if download else None
        return FileResponse(path, media_type="image/png", headers=FOREVER, filename=name)

    @app.api_route("/thumbnails/{image_id}.webp", methods=READ)
    def thumbnail(image_id: str) -> FileResponse:
        return FileResponse(studio.thumbnail_file(image_id), media_type="image/webp", headers=FOREVER)

    @app.api_route("/previews/{job_id}.webp", methods=READ)
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

    @app.api_route("/assets/icons/{name}", methods=READ)
    def icon(name: str) -> FileResponse:
        if name not in ICONS:
            raise NotFound(f"There is no icon {name!r}.")
        return FileResponse(
            assets() / "icons" / name, media_type=ICONS[name], headers={"Cache-Control": "max-age=86400"}
        )


def download_name(image: Image) -> str:
    """A file name people can find again: the prompt's first words and the seed."""
    words = re.sub(r"[^\w]+", "-", image.params.prompt.lower())[:50].strip("-_")
    return f"{words or 'picture'}-{image.params.seed}.png"
