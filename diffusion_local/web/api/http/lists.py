"""Prompt lists, sent as the body or as a file in a form."""

from pathlib import PurePath
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from diffusion_local import serializers
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.list_formats import format_of
from diffusion_local.lists.plan import ListCheck
from diffusion_local.lists.service import ListReceipt
from diffusion_local.messages import message
from diffusion_local.operations import answers, registry
from diffusion_local.operations.operation import Operation
from diffusion_local.operations.registry import ARGUMENT_MEANINGS, OPERATIONS
from diffusion_local.studio import Studio
from diffusion_local.web.api.http.derived import accepted_response
from diffusion_local.web.api.schemas import ACCEPTED, BINARY, FILE_FORM, ListOptions, ListSettings, schema
from diffusion_local.web.api.uploads import media_type

FORMAT_BY_TYPE = {
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
}
BODY = {
    "requestBody": {
        "required": True,
        "description": "The list: its bytes with their media type, or a form with it as `file`, whose name then tells "
        "the format.",
        "content": {"text/plain": BINARY} | dict.fromkeys(FORMAT_BY_TYPE, BINARY) | {"multipart/form-data": FILE_FORM},
    }
}


def router(studio: Studio) -> APIRouter:
    lists = APIRouter(tags=["lists"])
    submit, check = OPERATIONS["lists.submit"], OPERATIONS["lists.check"]
    accepted_as: dict[int | str, dict[str, Any]] = {202: {"model": ACCEPTED[ListReceipt]}}
    checked_as: dict[int | str, dict[str, Any]] = {200: {"model": schema(ListCheck)}}

    @lists.post("/lists", status_code=202, openapi_extra=BODY, responses=accepted_as, response_model=None)
    async def submit_list(
        request: Request,
        options: Annotated[ListOptions, Query()],  # type: ignore[valid-type]
        idempotency_key: Annotated[str | None, Header(description=ARGUMENT_MEANINGS["idempotency_key"])] = None,
    ) -> JSONResponse:
        """Enqueue all pictures of a list as one batch, behind all interactive jobs.

        Parameters that are fields of a picture are defaults for lines without a value of their own.
        """
        values, name = await arguments_of(request, options)
        values |= {"idempotency_key": idempotency_key, "name": values["name"] or name}
        receipt = await anyio.to_thread.run_sync(call, studio, submit, values)
        return await anyio.to_thread.run_sync(accepted_response, studio, receipt)

    @lists.post("/lists/check", openapi_extra=BODY, responses=checked_as, response_model=None)
    async def check_list(
        request: Request,
        settings: Annotated[ListSettings, Query()],  # type: ignore[valid-type]
    ) -> serializers.Json:
        """Check a list without enqueuing it: number of pictures, models, seconds, bytes, prompts, bad lines."""
        values, _ = await arguments_of(request, settings)
        return answers.as_json(studio, await anyio.to_thread.run_sync(call, studio, check, values))

    return lists


def call(studio: Studio, operation: Operation, values: dict[str, Any]) -> Any:
    return registry.call(studio, operation, registry.method_arguments(values, registry.arguments(operation)))


async def arguments_of(request: Request, options: BaseModel) -> tuple[dict[str, Any], str]:
    """(the arguments, the name of the list's file)."""
    values = options.model_dump()
    content, form, name = await file_of(request, values["format"])
    return values | {"content": content, "format": form}, name


async def file_of(request: Request, form: str) -> tuple[bytes, str, str]:
    """(a list's bytes, its format, the name of its file). Raises InvalidParams."""
    media = media_type(request)
    if media != "multipart/form-data":
        return await request.body(), form or FORMAT_BY_TYPE.get(media, "text"), ""
    async with request.form(max_files=1, max_fields=1) as fields:
        file = fields.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidParams("file", message("list_file"))
        path = PurePath(file.filename or "")
        return await file.read(), form or format_of(path.name), path.stem
