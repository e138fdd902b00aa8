"""Prompt lists: sent as the file itself, or as one of a form; and read out again."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePath
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile

from diffusion_local import shapes
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.formats import format_of
from diffusion_local.messages import message
from diffusion_local.studio import Studio
from diffusion_local.web.api.fields import ListOptions, ListSettings
from diffusion_local.web.api.uploads import media_type

FORMATS = {
    "text/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
}
MEDIA = {"csv": "text/csv", "jsonl": "application/jsonl"}
BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY["schema"]}}}
BODY = {
    "requestBody": {
        "required": True,
        "description": "The list: its bytes with their media type, or a form with it as `file`, whose name then tells "
        "the format.",
        "content": {"text/plain": BINARY} | dict.fromkeys(FORMATS, BINARY) | {"multipart/form-data": FORM},
    }
}


def router(studio: Studio) -> APIRouter:
    lists = APIRouter(tags=["lists"])

    @lists.post("/lists", status_code=202, openapi_extra=BODY)
    async def submit_list(
        request: Request,
        options: Annotated[ListOptions, Query()],
        idempotency_key: Annotated[str | None, Header(description="sent twice it makes one batch")] = None,
    ) -> JSONResponse:
        """Put every picture of a list into the queue, as one batch behind everything that somebody waits for.

        The parameters that are fields of a picture hold for lines that say nothing.
        """
        source, form, name = await sent(request, options.format)
        options = options.model_copy(update={"format": form, "name": options.name or name})
        await anyio.to_thread.run_sync(studio.check_open)
        receipt = await anyio.to_thread.run_sync(
            lambda: studio.lists.submit(source, **given(options), idempotency_key=idempotency_key)
        )
        url = shapes.api_url(f"batches/{receipt.batch_id}")
        return JSONResponse(asdict(receipt) | {"status_url": url}, 202, headers={"Location": url})

    @lists.post("/lists/check", openapi_extra=BODY)
    async def check_list(request: Request, settings: Annotated[ListSettings, Query()]) -> shapes.Json:
        """What a list would make: pictures, models, seconds, bytes, prompts, bad lines. Nothing is enqueued."""
        source, form, _ = await sent(request, settings.format)
        settings = settings.model_copy(update={"format": form})
        return asdict(await anyio.to_thread.run_sync(lambda: studio.lists.check(source, **given(settings))))

    @lists.get("/batches/{batch_id}/export", response_class=StreamingResponse)
    def export_batch(batch_id: str, format: str = "csv") -> Response:
        """A batch with what became of its jobs, as a list (`csv` or `jsonl`) that can be sent again."""
        return download(studio.lists.export(batch_id, format), f"{batch_id}.{format}")

    @lists.get("/queue/export", response_class=StreamingResponse)
    def export_waiting(format: str = "csv") -> Response:
        """All that waits, as a list (`csv` or `jsonl`) that can be sent again."""
        return download(studio.lists.export(None, format), f"queue.{format}")

    return lists


def given(options: ListSettings) -> dict[str, Any]:
    return options.model_dump(exclude_none=True)


async def sent(request: Request, form: str) -> tuple[bytes, str, str]:
    """(a list's bytes, its format, the name of its file). Raises InvalidParams."""
    media = media_type(request)
    if media != "multipart/form-data":
        return await request.body(), form or FORMATS.get(media, "text"), ""
    async with request.form(max_files=1, max_fields=1) as fields:
        file = fields.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidParams("file", message("list_file"))
        path = PurePath(file.filename or "")
        return await file.read(), form or format_of(path.name), path.stem


def download(lines: Iterator[str], name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(lines, media_type=MEDIA[name.rpartition(".")[2]], headers=headers)
