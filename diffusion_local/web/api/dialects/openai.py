"""OpenAI's images API: generations, edits and models, as the ``openai`` package calls them.

Beside OpenAI's own fields it takes our options of a picture by their names, such as ``negative`` or ``steps``.

The package sends a request that timed out again, without a key. A caller that hung up before its answer and asks for
the same within UNANSWERED_SECONDS is therefore given the first request's pictures. The same wish after an answer makes
new pictures, unless the package marks it as a retry.
"""

import asyncio
import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import UploadFile

from diffusion_local import authority, serializers
from diffusion_local.domain import Kind, Receipt
from diffusion_local.errors import Conflict, InvalidParams, NotFound, UserError, echo
from diffusion_local.messages import message
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import PICTURES
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import (
    LONGEST,
    PerAccount,
    caller,
    encoded,
    neutral,
    outcome,
    refusing,
    why_not,
)
from diffusion_local.web.api.dialects.pictures import opened, painted_where_clear
from diffusion_local.web.api.schemas import field_of
from diffusion_local.web.api.uploads import media_type
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.refusals import NEVER, headers_of, printable, sentence, status_of

UNANSWERED_SECONDS = 900
MOST_UNANSWERED = 256  # requests of one account
UNHEARD_SECONDS = 30
MOST_PICTURES = 10  # as OpenAI's own limit
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
PARAMS = {"width": "size", "height": "size", "count": "n"}  # our fields, as callers of this dialect know them
#: What asks for nothing that we could not do.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": ("auto", "opaque"),
    "partial_images": (0,),
    "quality": ("auto", "standard"),
    "stream": (False,),
    "style": ("natural", "vivid"),
    "input_fidelity": ("low", "high"),
}
ABOUT_THE_CALLER = {"moderation", "user"}
FINAL_WORD = {"x-should-retry": "false"}  # the package would make the same failing job twice more


#: Options that this dialect has ways of its own for: the size, pictures as files of a form, and the kind by its route.
ITS_OWN = ("width", "height", "kind", *PICTURES)


def options_for(*kinds: Kind) -> dict[str, Any]:
    """A field for each option that applies to these kinds of work; in a form, a list is text."""
    found = [each for each in options_of(without=ITS_OWN) if set(kinds) & set(each.kinds)]
    return {each.name: text_or_more(*field_of(each)) for each in found}


def text_or_more(taken: Any, field: Any) -> tuple[Any, Any]:
    return (taken | str if get_origin(get_args(taken)[0]) is list else taken), field


class OwnFields(BaseModel):
    """OpenAI's own fields."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    n: int | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of jpeg and webp")


Generation: Any = create_model("Generation", __base__=OwnFields, **options_for(Kind.TXT2IMG))
Edit: Any = create_model(
    "Edit",
    __base__=Generation,
    __doc__="The fields of the form, beside `image` and `mask`.",
    **options_for(Kind.IMG2IMG, Kind.INPAINT),
)


@dataclass(slots=True)
class Pending:
    """A request, and since when it is answered, or its caller gone."""

    submitted: asyncio.Task[Receipt]
    left_at: float | None = None
    answered_at: float | None = None

    def belongs_to(self, retry: bool) -> bool:
        """Whether a caller that asks for the same now is the one that asked then.

        The package says which calls are retries; its time may have run out while the answer was on its way.
        """
        now = time.monotonic()
        if self.answered_at is not None:
            return retry and now - self.answered_at < UNHEARD_SECONDS
        return retry or (self.left_at is not None and now - self.left_at < UNANSWERED_SECONDS)


FILE = {"type": "string", "format": "binary"}
FORM = Edit.model_json_schema()
FORM["properties"] |= {"image": FILE, "mask": FILE}
FORM["required"] = ["image", "prompt"]
EDIT = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=refusing(refusal))
    unanswered: PerAccount[Pending] = PerAccount(MOST_UNANSWERED)

    @api.post("/images/generations")
    async def generate(
        body: Generation,
        request: Request,
        idempotency_key: Annotated[str | None, Header()] = None,
        retries: Annotated[str, Header(alias="x-stainless-retry-count", include_in_schema=False)] = "0",
    ) -> Response:
        """Make pictures and answer once they are there, as `b64_json` (default) or `url`."""
        return await served(body, request, read(body), idempotency_key, retries)

    @api.post("/images/edits", openapi_extra=EDIT)
    async def edit(
        request: Request,
        idempotency_key: Annotated[str | None, Header()] = None,
        retries: Annotated[str, Header(alias="x-stainless-retry-count", include_in_schema=False)] = "0",
    ) -> Response:
        """Change a picture: a form with `image`, `prompt` and perhaps a `mask`, clear where it is painted anew."""
        authority.check("sources.add")  # before the body is read
        fields, image, mask = await edit_form(request)
        body = validated(fields)
        options = await anyio.to_thread.run_sync(lambda: read(body) | pictures_of(studio, image, mask))
        return await served(body, request, options, idempotency_key, retries)

    async def served(
        body: OwnFields, request: Request, options: dict[str, Any], idempotency_key: str | None, retries: str
    ) -> Response:
        """The pictures of these options: of a call that was made before, where this one is the same sent again."""
        if idempotency_key:
            options["idempotency_key"] = f"openai:{idempotency_key}"
        pictures = [options.get(name) for name in ("source", "mask")]
        told = json.dumps([body.model_dump(), pictures])
        key = hashlib.sha256(f"{caller(request)}{told}".encode()).hexdigest()
        pending = unanswered[key]
        if pending is None or not pending.belongs_to(retry=retries.strip("0") != ""):
            submit = anyio.to_thread.run_sync(lambda: studio.submit(**options))
            pending = unanswered[key] = Pending(asyncio.create_task(submit))
        pending.left_at = None
        try:
            receipt = await pending.submitted
        except Exception:
            unanswered.pop(key)
            raise
        finished = await until_final(studio, watch, receipt.job_ids, LONGEST, request)
        if not finished or await request.is_disconnected():
            pending.left_at = time.monotonic()
            text = "It is not done yet, and goes on. Ask again."
            return problem(503, "server_error", text, headers={"Retry-After": "1"})
        pending.answered_at = time.monotonic()
        return await anyio.to_thread.run_sync(answer, studio, request, body, receipt)

    @api.post("/images/variations", status_code=501, include_in_schema=False)
    def variations() -> Response:
        """Says that it is not there."""
        text = "Variations are not supported: edit the picture, with a prompt."
        return problem(501, "invalid_request_error", text, code="not_supported", headers=FINAL_WORD)

    @api.get("/models")
    def models() -> Json:
        return {"object": "list", "data": [model(each.id) for each in studio.models()]}

    @api.get("/models/{model_id}")
    def one_model(model_id: str) -> Json:
        for each in studio.models():
            if each.id == model_id:
                return model(each.id)
        raise NotFound(message("no_model_named", model=echo(model_id)))

    return api


async def edit_form(request: Request) -> tuple[dict[str, str], bytes, bytes | None]:
    """(fields, picture, mask) of a form. Raises InvalidParams."""
    if media_type(request) != "multipart/form-data":
        raise InvalidParams("image", message("form_file"))
    async with request.form(max_files=MOST_PICTURES, max_fields=50) as form:
        files = {name: [each for each in form.getlist(name) if isinstance(each, UploadFile)] for name in form}
        images = files.get("image", []) + files.get("image[]", [])
        if len(images) != 1:
            raise InvalidParams("image", message("one_picture", got=len(images)))
        masks = files.get("mask", [])
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return fields, await images[0].read(), await masks[0].read() if masks else None


def validated(fields: dict[str, str]) -> OwnFields:
    try:
        return cast(OwnFields, Edit.model_validate(fields))
    except ValidationError as error:
        raise RequestValidationError([each | {"loc": ("body", *each["loc"])} for each in error.errors()]) from None


def pictures_of(studio: Studio, image: bytes, mask: bytes | None) -> dict[str, Any]:
    """What is clear in the mask, or without one in the picture, is painted anew. Raises InvalidParams."""
    source = studio.sources.add(image, "image").id
    found: dict[str, Any] = {"source": source}
    with opened(studio.sources, mask or image, "mask" if mask else "image") as picture:
        painted = painted_where_clear(picture)
    if mask and not painted:
        raise InvalidParams("mask", message("mask_clear"))
    if not painted:
        return found | {"kind": "img2img"}
    return found | {"kind": "inpaint", "mask": studio.sources.add(painted, "mask").id}


def read(body: OwnFields) -> dict[str, Any]:
    """Arguments of ``Studio.submit``. Raises InvalidParams."""
    given = body.model_extra or {}
    neutral(given, NEUTRAL)
    for name in given:
        if name not in NEUTRAL and name not in ABOUT_THE_CALLER:
            raise InvalidParams(name, message("field_unknown"))
    count = 1 if body.n is None else body.n
    if not 1 <= count <= MOST_PICTURES:
        raise InvalidParams("n", message("range", low=1, high=MOST_PICTURES, got=count))
    if body.response_format == "url" and body.output_format not in (None, "png"):
        raise InvalidParams("output_format", message("png_by_url"))
    options: dict[str, Any] = {"prompt": body.prompt, "count": count}
    if body.size and body.size != "auto":
        size = SIZE.fullmatch(body.size)
        if size is None:
            raise InvalidParams("size", message("size_or_auto", got=echo(body.size)))
        options |= {"width": int(size[1]), "height": int(size[2])}
    taken = [each.name for each in options_of(without=ITS_OWN)]
    return options | {name: getattr(body, name) for name in taken if name in type(body).model_fields}


def answer(studio: Studio, request: Request, body: OwnFields, receipt: Receipt) -> Response:
    made, missed = outcome(studio, receipt.job_ids)
    warnings = receipt.warnings + [f"A picture is missing: {why_not(job)}" for job in missed]
    if not made:
        failed = missed[0].failure
        status, code = (500, failed.kind) if failed else (409, "cancelled")
        return problem(status, "server_error", why_not(missed[0]), code=code, headers=FINAL_WORD)
    form, quality = body.output_format or "png", 90 if body.output_compression is None else body.output_compression
    if body.response_format == "url":
        data = [{"url": serializers.public_url(image)} for _, image in made]
    else:
        data = [{"b64_json": encoded(studio, image, form, quality)} for _, image in made]
    told: Json = {"created": int(time.time()), "data": data, "output_format": form}
    return JSONResponse(told | ({"warnings": warnings} if warnings else {}), headers=NEVER)


def model(model_id: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "diffusion-local"}


def refusal(request: Request, error: UserError) -> JSONResponse:
    status = 400 if isinstance(error, InvalidParams) else status_of(error)
    kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
    field = PARAMS.get(error.field, error.field) if isinstance(error, InvalidParams) else None
    final = FINAL_WORD if isinstance(error, Conflict) else {}
    return problem(
        status, kind, sentence(request, error), printable(field or "") or None, error.code, headers_of(error) | final
    )


def problem(
    status: int, kind: str, message: str, param: str | None = None, code: str | None = None, headers: Any = None
) -> JSONResponse:
    told = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": told}, status, headers=headers)
