"""OpenAI's images API: generations, edits and models, as the ``openai`` package calls them.

Beside OpenAI's own fields it takes our options of a picture by their names and by those of other tools, such as
``negative_prompt`` or ``steps``. What asks for something that is not there is passed over, and sizes and samplers that
the model lacks are fitted to it, each with a warning: in ``warnings`` of the answer and in its ``Warning`` header.

The package sends a request that timed out again, without a key. A caller that hung up before its answer and asks for
the same within UNANSWERED_SECONDS is therefore given the first request's pictures. The same wish after an answer makes
new pictures, unless the package marks it as a retry.
"""

import asyncio
import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import UploadFile

from diffusion_local import authority, serializers
from diffusion_local.domain import Kind, Receipt
from diffusion_local.errors import Conflict, InvalidParams, NotFound, UserError, echo
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import PICTURES
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases, adapted, in_shape, model_named, unknown
from diffusion_local.web.api.dialects.adapting import strict as is_strict
from diffusion_local.web.api.dialects.calls import (
    LONGEST,
    PerAccount,
    caller,
    encoded,
    outcome,
    refusing,
    why_not,
)
from diffusion_local.web.api.dialects.openai_stream import Shown, streamed, warned
from diffusion_local.web.api.dialects.pictures import opened, painted_where_clear
from diffusion_local.web.api.schemas import field_of
from diffusion_local.web.api.uploads import media_type
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.refusals import NEVER, headers_of, printable, sentence, status_of

UNANSWERED_SECONDS = 900
MOST_UNANSWERED = 256  # requests of one account
UNHEARD_SECONDS = 30
MOST_PICTURES = 10  # as OpenAI's own limit
SIZE = re.compile(r"(\d{1,5})\s*[xX×]\s*(\d{1,5})", re.ASCII)
RATIO = re.compile(r"\d{1,3}:\d{1,3}", re.ASCII)
NAMES = {"size": "size", "width": "size", "height": "size", "count": "n"}  # our fields, as callers know them
#: Fields that have no effect here, and the value of each that asks for nothing.
HARMLESS: dict[str, Any] = {
    "background": "auto",
    "input_fidelity": None,
    "metadata": None,
    "moderation": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "store": None,
    "style": None,
    "user": None,
}
#: Values that ask for nothing, beside those.
NOTHING_ASKED: dict[str, tuple[Any, ...]] = {"background": ("opaque",)}
#: Fields about the caller or the answer: passed over without a word.
SILENT = ("metadata", "moderation", "safety_identifier", "prompt_cache_key", "store", "user", "style", "input_fidelity")
#: Steps by quality, as a part of the model's default.
QUALITIES = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.0}
USUAL_QUALITIES = ("auto", "standard", "medium")
MOST_PARTIAL = 3  # as OpenAI's own limit
MOST_IMAGES = 16  # of an edit, as OpenAI's own limit
IMAGE = re.compile(r"image(\[\d{0,2}\])?")
FINAL_WORD = {"x-should-retry": "false"}  # the package would make the same failing job twice more


#: Options that this dialect has ways of its own for: the size, pictures as files of a form, and the kind by its route.
ITS_OWN = ("width", "height", "kind", *PICTURES)


def options_for(*kinds: Kind) -> dict[str, Any]:
    """A field for each option that applies to these kinds of work; in a form, a list is text."""
    found = [each for each in options_of(without=ITS_OWN) if set(kinds) & set(each.kinds)]
    return {each.name: text_or_more(*field_of(each, each.name, *each.spellings)) for each in found}


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
    quality: str | None = Field(None, description="low, medium or high: fewer or more steps than the model's default")
    stream: bool | None = Field(None, description="answer with server-sent events")
    partial_images: int | None = Field(None, ge=0, le=MOST_PARTIAL, description="previews in such a stream, 0 to 3")
    aspect_ratio: str | None = Field(
        None, validation_alias=AliasChoices("aspect_ratio", "aspectRatio"), description="such as 16:9, without a size"
    )
    fit: str | None = Field(None, description="strict refuses sizes and samplers that the model lacks")


#: The names under which callers give our options; a refusal tells the one that the request holds.
SPELLED: dict[str, tuple[str, ...]] = {each.name: (each.name, *each.spellings) for each in options_of(without=ITS_OWN)}
SPELLED |= {"width": ("size",), "height": ("size",), "count": ("n",)}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


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


KNOWN = sorted({*Edit.model_fields, *HARMLESS, *(name for names in SPELLED.values() for name in names)})
FILE = {"type": "string", "format": "binary"}
FORM = Edit.model_json_schema()
FORM["properties"] |= {"image": FILE, "mask": FILE}
FORM["required"] = ["image", "prompt"]
EDIT = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=refusing(refusal, SPELLED))
    unanswered: PerAccount[Pending] = PerAccount(MOST_UNANSWERED)
    aliases = Aliases.of(settings.model_aliases)

    def wish_of(body: OwnFields) -> Wish:
        return read(studio, settings, aliases, body)

    @api.post("/images/generations", responses=STREAMED)
    async def generate(
        body: Generation,
        request: Request,
        idempotency_key: Annotated[str | None, Header()] = None,
        retries: Annotated[str, Header(alias="x-stainless-retry-count", include_in_schema=False)] = "0",
    ) -> Response:
        """Make pictures and answer once they are there, as `b64_json` and `url`, or the one that `response_format` is.

        With `stream` the answer is server-sent events: `image_generation.partial_image`, then
        `image_generation.completed` for each picture."""
        wish = await anyio.to_thread.run_sync(wish_of, body)
        return await served(body, request, wish, idempotency_key, retries)

    @api.post("/images/edits", openapi_extra=EDIT, responses=STREAMED)
    async def edit(
        request: Request,
        idempotency_key: Annotated[str | None, Header()] = None,
        retries: Annotated[str, Header(alias="x-stainless-retry-count", include_in_schema=False)] = "0",
    ) -> Response:
        """Change a picture: a form with `image`, `prompt` and perhaps a `mask`, clear where it is painted anew.

        Of several pictures the first one is changed."""
        authority.check("sources.add")  # before the body is read
        fields, images, mask = await edit_form(request)
        body = validated(fields)

        def prepared() -> Wish:
            wish = wish_of(body)
            wish.options |= pictures_of(studio, images[0], mask)
            if len(images) > 1:
                wish.warnings.append(message("first_picture", count=len(images)))
            return wish

        wish = await anyio.to_thread.run_sync(prepared)
        return await served(body, request, wish, idempotency_key, retries, "image_edit")

    async def served(
        body: OwnFields,
        request: Request,
        wish: Wish,
        idempotency_key: str | None,
        retries: str,
        event: str = "image_generation",
    ) -> Response:
        """The pictures of a wish: of a call that was made before, where this one is the same sent again."""
        options = wish.options
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
        receipt = replace(receipt, warnings=[*wish.warnings, *receipt.warnings])
        if body.stream:
            pending.answered_at = time.monotonic()
            form, quality = form_of(body)
            shown = Shown(event, form, quality, body.partial_images or 0, body.quality, body.size)
            return streamed(studio, watch, receipt, shown)
        finished = await until_final(studio, watch, receipt.job_ids, LONGEST, request)
        if not finished or await request.is_disconnected():
            pending.left_at = time.monotonic()
            text = "It is not done yet, and goes on. Ask again."
            return problem(503, "server_error", text, headers={"Retry-After": "1"})
        pending.answered_at = time.monotonic()
        return await anyio.to_thread.run_sync(answer, studio, body, receipt)

    @api.post("/images/variations", status_code=501, include_in_schema=False)
    def variations() -> Response:
        """Says that it is not there."""
        text = "Variations are not supported: edit the picture, with a prompt."
        return problem(501, "invalid_request_error", text, code="not_supported", headers=FINAL_WORD)

    @api.get("/models")
    def models() -> Json:
        """The models, then the other names under which they can be asked for."""
        known = [each.id for each in studio.models()]
        return {"object": "list", "data": [model(each) for each in [*known, *aliases.listed]]}

    @api.get("/models/{model_id}")
    def one_model(model_id: str) -> Json:
        known = [each.id for each in studio.models()]
        if model_id not in known and aliases.get(model_id) is None:
            raise NotFound(message("no_model_named", model=echo(model_id)))
        return model(model_id)

    return api


async def edit_form(request: Request) -> tuple[dict[str, str], list[bytes], bytes | None]:
    """(fields, pictures, mask) of a form. Raises InvalidParams."""
    if media_type(request) != "multipart/form-data":
        raise InvalidParams("image", message("form_file"))
    async with request.form(max_files=MOST_IMAGES + 1, max_fields=50) as form:
        files = {name: [each for each in form.getlist(name) if isinstance(each, UploadFile)] for name in form}
        images = [each for name in files for each in files[name] if IMAGE.fullmatch(name)]
        if not 1 <= len(images) <= MOST_IMAGES:
            raise InvalidParams("image", message("some_pictures", most=MOST_IMAGES, got=len(images)))
        masks = files.get("mask", [])
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return fields, [await each.read() for each in images], await masks[0].read() if masks else None


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


@dataclass(slots=True)
class Wish:
    """Arguments of ``Studio.submit``, and what was adapted or passed over."""

    options: dict[str, Any]
    warnings: list[str]


def read(studio: Studio, settings: Settings, aliases: Aliases, body: OwnFields) -> Wish:
    """Raises InvalidParams."""
    strict = is_strict(body.fit, settings.fit)
    chosen, warnings = model_named(studio.models(), getattr(body, "model", None), aliases)
    warnings += extra_fields(body, strict)
    count = 1 if body.n is None else body.n
    if not 1 <= count <= MOST_PICTURES:
        raise InvalidParams("n", message("range", low=1, high=MOST_PICTURES, got=count))
    if body.response_format == "url" and body.output_format not in (None, "png"):
        warnings.append(message("passed_over", field="output_format", got=echo(body.output_format)))
    taken = [each.name for each in options_of(without=ITS_OWN)]
    options: dict[str, Any] = {name: getattr(body, name) for name in taken if name in type(body).model_fields}
    options |= {"prompt": body.prompt, "count": count, "model": chosen.id}
    if body.quality and body.quality not in USUAL_QUALITIES:
        if body.quality not in QUALITIES:
            raise InvalidParams(
                "quality", message("one_of", known=[*USUAL_QUALITIES, *QUALITIES], got=echo(body.quality))
            )
        if options.get("steps") is None:
            steps = max(1, round(chosen.defaults.steps * QUALITIES[body.quality]))
            options["steps"] = min(steps, chosen.limits.max_steps)
    options |= size_of(body, chosen)
    fitted = adapted(chosen, options, strict, NAMES)
    return Wish(fitted.options, warnings + fitted.warnings)


def size_of(body: OwnFields, chosen: Model) -> dict[str, int]:
    """Raises InvalidParams."""
    wanted = body.size if body.size and body.size != "auto" else body.aspect_ratio
    if not wanted or wanted == "auto":
        return {}
    if RATIO.fullmatch(wanted):
        width, height = in_shape(wanted, None, chosen)
        return {"width": width, "height": height}
    size = SIZE.fullmatch(wanted)
    if size is None:
        raise InvalidParams("size", message("size_or_auto", got=echo(wanted)))
    return {"width": int(size[1]), "height": int(size[2])}


def extra_fields(body: OwnFields, strict: bool) -> list[str]:
    """A warning for each field that has no effect. Raises InvalidParams for one that is probably misspelt, and for
    every unknown one where nothing may be passed over."""
    told = []
    for name, value in (body.model_extra or {}).items():
        if name not in HARMLESS:
            refusal = unknown(name, KNOWN)
            if strict or refusal.problem.id == "field_near":
                raise refusal
        elif value in (None, HARMLESS[name]) or name in SILENT or value in NOTHING_ASKED.get(name, ()):
            continue
        told.append(message("passed_over", field=name, got=echo(value)))
    return told


def form_of(body: OwnFields) -> tuple[str, int]:
    """(format of the answer's pictures, their quality)."""
    return body.output_format or "png", 90 if body.output_compression is None else body.output_compression


def answer(studio: Studio, body: OwnFields, receipt: Receipt) -> Response:
    made, missed = outcome(studio, receipt.job_ids)
    warnings = receipt.warnings + [f"A picture is missing: {why_not(job)}" for job in missed]
    if not made:
        failed = missed[0].failure
        status, code = (500, failed.kind) if failed else (409, "cancelled")
        return problem(status, "server_error", why_not(missed[0]), code=code, headers=FINAL_WORD)
    form, quality = form_of(body)
    data: list[Json] = []
    for job, image in made:
        told: Json = {"revised_prompt": job.params.prompt}
        if body.response_format != "url":
            told["b64_json"] = encoded(studio, image, form, quality)
        if body.response_format != "b64_json":
            told["url"] = serializers.public_url(image)
        data.append(told)
    width, height = made[0][1].width, made[0][1].height
    content: Json = {"created": int(time.time()), "data": data, "output_format": form, "size": f"{width}x{height}"}
    content |= {"warnings": warnings} if warnings else {}
    return JSONResponse(content, headers=NEVER | warned(warnings))


def model(model_id: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "diffusion-local"}


def refusal(request: Request, error: UserError) -> JSONResponse:
    status = 400 if isinstance(error, InvalidParams) else status_of(error)
    kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
    field = error.field if isinstance(error, InvalidParams) else None
    final = FINAL_WORD if isinstance(error, Conflict) else {}
    return problem(
        status, kind, sentence(request, error), printable(field or "") or None, error.code, headers_of(error) | final
    )


def problem(
    status: int, kind: str, message: str, param: str | None = None, code: str | None = None, headers: Any = None
) -> JSONResponse:
    told = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": told}, status, headers=headers)
