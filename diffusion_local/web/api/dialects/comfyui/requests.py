"""Parses requests of ComfyUI's clients: JSON with any media type, and forms with a picture."""

import json
from typing import Any

import anyio.to_thread
from fastapi import Request
from starlette.datastructures import UploadFile

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.serializers import Json
from diffusion_local.web.api.uploads import media_type

MOST_NESTED = 64
SHORT_ID = 100


async def json_of(request: Request, empty: bool = False) -> Json:
    """The body as a JSON object; its media type is ignored, because clients often send none. Raises InvalidParams."""
    data = await request.body()
    if empty and not data.strip():
        return {}
    return await anyio.to_thread.run_sync(parsed, data, "body")


def parsed(data: bytes | str, field: str) -> Json:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidParams(field, message("json_body")) from None
    if not isinstance(found, dict):
        raise InvalidParams(field, message("json_object"))
    if deeper(found, MOST_NESTED):
        raise InvalidParams(field, message("json_nested", most=MOST_NESTED))
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate can be neither stored nor sent back
        raise InvalidParams(field, message("half_character")) from None
    return found


def deeper(value: Any, most: int) -> bool:
    """Whether a value is nested deeper than ``most``; without recursion."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        if not level:
            return False
    return True


def text_of(body: Json, name: str) -> str:
    """A short text field of a body, "" if absent. Raises InvalidParams."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidParams(name, message("text"))
    if len(value) > SHORT_ID or not value.isprintable():
        raise InvalidParams(name, message("too_long", most=SHORT_ID, got=len(value)))
    return value


def ids_of(body: Json) -> list[str]:
    found = body.get("delete", [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidParams("delete", message("job_ids_list"))
    return found


async def form_of(request: Request) -> tuple[str, bytes, str]:
    """(name, bytes, original_ref) of an upload. Raises InvalidParams."""
    if media_type(request) != "multipart/form-data":
        raise InvalidParams("image", message("form_file"))
    async with request.form(max_files=1, max_fields=10) as form:
        file, reference = form.get("image"), form.get("original_ref", "")
        if not isinstance(file, UploadFile):
            raise InvalidParams("image", message("form_file"))
        name = (file.filename or "")[:SHORT_ID]
        return name if name.isprintable() else "", await file.read(), reference if isinstance(reference, str) else ""
