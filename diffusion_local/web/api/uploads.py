"""Files in requests: as the body itself, or in a form."""

import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote

import anyio.to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.options.table import PICTURES, RECORDS
from diffusion_local.options.validate import with_pictures
from diffusion_local.options.values import SOURCE_ID
from diffusion_local.studio import Studio
from diffusion_local.web.api.schemas import NewJobs

FORM_FIELD_BYTES = 1024 * 1024

#: The beginning of a data URL; quoted parameters may contain commas.
DATA_URL = re.compile(r"[\s\ufeff]*data:[^\n]{0,300}?;\s*base64\s*,", re.IGNORECASE)
SPACE_RUN = re.compile(r"[\s\ufeff]+")
URL_SAFE = str.maketrans("-_", "+/")


async def picture_of(request: Request) -> bytes:
    """The picture in a request: its body, or the file in its form. Raises InvalidParams."""
    if media_type(request) != "multipart/form-data":
        return await request.body()
    async with request.form(max_files=1, max_fields=1) as fields:
        file = fields.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidParams("file", message("picture_file"))
        return await file.read()


async def job_of(request: Request) -> BaseModel:
    """The body of a submit: JSON; or a form with that as ``job``, and with pictures under the names of their options.

    Several files under the name of an option that takes several pictures are appended to it, in order.
    """
    if media_type(request) != "multipart/form-data":
        return await anyio.to_thread.run_sync(validated, await request.body())
    several = {name: record for name, record in RECORDS.items() if record.pictures}
    most = len(PICTURES) + sum(record.most for record in several.values())
    async with request.form(max_files=most, max_fields=1, max_part_size=FORM_FIELD_BYTES) as fields:
        job = fields.get("job", "")
        body = validated(job if isinstance(job, str) else await job.read())
        for name in PICTURES:
            file = fields.get(name)
            if isinstance(file, UploadFile):
                setattr(body, name, await anyio.to_thread.run_sync(data_url, await file.read()))
        for name in several:
            files = [each for each in fields.getlist(name) if isinstance(each, UploadFile)]
            added = [{"image": await anyio.to_thread.run_sync(data_url, await each.read())} for each in files]
            if added:
                setattr(body, name, [*(getattr(body, name) or ()), *added])
        return body


def data_url(data: bytes) -> str:
    return f"data:image/*;base64,{base64.b64encode(data).decode()}"


def validated(data: str | bytes) -> BaseModel:
    try:
        return NewJobs.model_validate_json(data)
    except ValidationError as error:
        raise RequestValidationError([each | {"loc": ("body", *each["loc"])} for each in error.errors()]) from None


def kept_pictures(studio: Studio, options: dict[str, Any]) -> dict[str, Any]:
    """The options with pictures in the request stored and replaced by their ids."""

    def keep(name: str, text: str) -> str:
        return text if SOURCE_ID.fullmatch(text) else studio.sources.add(decoded(name, text), name).id

    return with_pictures(options, keep)


def media_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def decoded(field: str, text: str) -> bytes:
    """The bytes of a Base64 picture, with or without a data URL's prefix. Raises InvalidParams.

    White space is ignored: encoders break lines, and files end with a line end. The URL-safe alphabet, missing padding,
    and escapes such as ``%2B`` in a data URL are accepted. URLs are refused: fetching them on a caller's behalf would
    reach into the server's network.
    """
    if re.match(r"\s{0,100}[a-zA-Z][a-zA-Z0-9+.-]{0,30}://", text):
        raise InvalidParams(field, message("picture_itself"))
    prefix = DATA_URL.match(text)
    content = text[prefix.end() :] if prefix else text
    if prefix and "%" in content:
        content = unquote(content)
    content = SPACE_RUN.sub("", content).translate(URL_SAFE)
    try:
        return base64.b64decode(content + "=" * (-len(content) % 4), validate=True)
    except (binascii.Error, ValueError) as error:  # not white space, which was removed above
        raise InvalidParams(field, message("picture_base64", error=error)) from None
