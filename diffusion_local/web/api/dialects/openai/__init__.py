"""OpenAI's images API: generations, edits and models, as the ``openai`` package calls them.

Besides OpenAI's own fields, it accepts the options of a picture under our names and those of other tools, such as
``negative_prompt`` or ``steps``. Fields without effect here are ignored, and unsupported sizes and samplers are adapted
to the model, each with a warning in ``warnings`` of the response and in its ``Warning`` header.

After a time-out the package sends the request again, without an idempotency key. A caller that disconnected before the
response and repeats its request within UNANSWERED_SECONDS therefore gets the pictures of the first one. The same
request after a response makes new pictures, unless the package marks it as a retry.
"""

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import authority, serializers
from diffusion_local.domain import Receipt
from diffusion_local.errors import Conflict, InvalidParams, NotFound, UserError, echo
from diffusion_local.messages import message
from diffusion_local.options.table import PICTURES, RECORDS
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.calls import (
    CALL_SECONDS,
    PerAccount,
    base64_picture,
    caller,
    ended_jobs,
    error_route,
    error_sentences,
    why_not,
)
from diffusion_local.web.api.dialects.openai.event_stream import StreamOptions, stream_response, warning_header
from diffusion_local.web.api.dialects.openai.reading import (
    EDIT,
    SPELLED,
    Generation,
    OpenAIRequest,
    OwnFields,
    edit_form,
    form_of,
    pictures_of,
    translate,
    validated,
)
from diffusion_local.web.api.uploads import kept_pictures
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.error_responses import NOT_CACHED, headers_of, printable, status_of

UNANSWERED_SECONDS = 900
MOST_UNANSWERED = 256  # requests per account
UNHEARD_SECONDS = 30
FINAL_WORD = {"x-should-retry": "false"}  # otherwise the package would retry the failed job twice
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@dataclass(slots=True)
class Pending:
    """A request, and when it was answered or its caller disconnected."""

    submitted: asyncio.Task[Receipt]
    left_at: float | None = None
    answered_at: float | None = None

    def belongs_to(self, retry: bool) -> bool:
        """Whether an identical later request is a retry of this one. The package marks retries; its time may have run
        out while the response was on its way.
        """
        now = time.monotonic()
        if self.answered_at is not None:
            return retry and now - self.answered_at < UNHEARD_SECONDS
        return retry or (self.left_at is not None and now - self.left_at < UNANSWERED_SECONDS)


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=error_route(openai_error, SPELLED))
    unanswered: PerAccount[Pending] = PerAccount(MOST_UNANSWERED)
    aliases = Aliases.parse(settings.model_aliases)

    def read(body: OwnFields) -> OpenAIRequest:
        return translate(studio, settings, aliases, body)

    @api.post("/images/generations", responses=STREAMED)
    async def generate(
        body: Generation,
        request: Request,
        idempotency_key: Annotated[str | None, Header()] = None,
        retries: Annotated[str, Header(alias="x-stainless-retry-count", include_in_schema=False)] = "0",
    ) -> Response:
        """Make pictures and respond when they are done, as `b64_json` and `url`, or as `response_format` says. With
        `stream` the response is server-sent events: `image_generation.partial_image`, then `image_generation.completed`
        for each picture.
        """
        request_read = await anyio.to_thread.run_sync(read, body)
        return await served(body, request, request_read, idempotency_key, retries)

    @api.post("/images/edits", openapi_extra=EDIT, responses=STREAMED)
    async def edit(
        request: Request,
        idempotency_key: Annotated[str | None, Header()] = None,
        retries: Annotated[str, Header(alias="x-stainless-retry-count", include_in_schema=False)] = "0",
    ) -> Response:
        """Change a picture: a form with `image`, `prompt` and optionally a `mask`, transparent where it is repainted.
        Models that read reference pictures (FLUX Kontext, Qwen-Image-Edit, FLUX.2) get all pictures; any other model
        changes the first one.
        """
        authority.check("sources.add")  # before the body is read
        fields, images, mask = await edit_form(request)
        body = validated(fields)

        def prepared() -> OpenAIRequest:
            translated = read(body)
            translated.options |= pictures_of(
                studio, translated.architecture, images, mask, bool(translated.options.get("outpaint"))
            )
            if len(images) > 1 and not translated.options.get("references"):
                translated.warnings.append(message("first_picture", count=len(images)))
            return translated

        translated = await anyio.to_thread.run_sync(prepared)
        return await served(body, request, translated, idempotency_key, retries, "image_edit")

    async def served(
        body: OwnFields,
        request: Request,
        translated: OpenAIRequest,
        idempotency_key: str | None,
        retries: str,
        event: str = "image_generation",
    ) -> Response:
        """The pictures of a request, or of the earlier call that it retries."""
        options = translated.options
        if idempotency_key:
            options["idempotency_key"] = f"openai:{idempotency_key}"
        pictures = [options.get(name) for name in (*PICTURES, *RECORDS)]
        fingerprint = json.dumps([body.model_dump(), pictures])
        key = hashlib.sha256(f"{caller(request)}{fingerprint}".encode()).hexdigest()
        pending = unanswered[key]
        if pending is None or not pending.belongs_to(retry=retries.strip("0") != ""):
            submit = anyio.to_thread.run_sync(lambda: studio.submit(**kept_pictures(studio, options)))
            pending = unanswered[key] = Pending(asyncio.create_task(submit))
        pending.left_at = None
        try:
            receipt = await pending.submitted
        except Exception:
            unanswered.pop(key)
            raise
        receipt = replace(receipt, warnings=[*translated.warnings, *receipt.warnings])
        if body.stream:
            pending.answered_at = time.monotonic()
            form, quality = form_of(body)
            style = StreamOptions(event, form, quality, body.partial_images or 0, body.quality, body.size)
            return stream_response(studio, watch, receipt, style)
        finished = await until_final(studio, watch, receipt.job_ids, CALL_SECONDS, request)
        if not finished or await request.is_disconnected():
            pending.left_at = time.monotonic()
            text = "It is not done yet, and goes on. Ask again."
            return problem(503, "server_error", text, headers={"Retry-After": "1"})
        pending.answered_at = time.monotonic()
        return await anyio.to_thread.run_sync(answer, studio, body, receipt)

    @api.post("/images/variations", status_code=501, include_in_schema=False)
    def variations() -> Response:
        """Responds that this is not supported."""
        text = "Variations are not supported: edit the picture, with a prompt."
        return problem(501, "invalid_request_error", text, code="not_supported", headers=FINAL_WORD)

    @api.get("/models")
    def models() -> Json:
        """The models, then their aliases."""
        known = [each.id for each in studio.models()]
        return {"object": "list", "data": [model(each) for each in [*known, *aliases.listed]]}

    @api.get("/models/{model_id}")
    def one_model(model_id: str) -> Json:
        known = [each.id for each in studio.models()]
        if model_id not in known and aliases.get(model_id) is None:
            raise NotFound(message("no_model_named", model=echo(model_id)))
        return model(model_id)

    return api


def answer(studio: Studio, body: OwnFields, receipt: Receipt) -> Response:
    made, missed = ended_jobs(studio, receipt.job_ids)
    warnings = receipt.warnings + [f"A picture is missing: {why_not(job)}" for job in missed]
    if not made:
        failed = missed[0].failure
        status, code = (500, failed.kind) if failed else (409, "cancelled")
        return problem(status, "server_error", why_not(missed[0]), code=code, headers=FINAL_WORD)
    form, quality = form_of(body)
    data: list[Json] = []
    for job, image in made:
        entry: Json = {"revised_prompt": job.params.prompt}
        if body.response_format != "url":
            entry["b64_json"] = base64_picture(studio, image, form, quality)
        if body.response_format != "b64_json":
            entry["url"] = serializers.public_url(image)
        data.append(entry)
    width, height = made[0][1].width, made[0][1].height
    content: Json = {"created": int(time.time()), "data": data, "output_format": form, "size": f"{width}x{height}"}
    content |= {"warnings": warnings} if warnings else {}
    return JSONResponse(content, headers=NOT_CACHED | warning_header(warnings))


def model(model_id: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "diffusion-local"}


def openai_error(request: Request, error: UserError) -> JSONResponse:
    status = 400 if isinstance(error, InvalidParams) else status_of(error)
    kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
    field = error.field if isinstance(error, InvalidParams) else None
    final = FINAL_WORD if isinstance(error, Conflict) else {}
    return problem(
        status,
        kind,
        error_sentences(request, error),
        printable(field or "") or None,
        error.code,
        headers_of(error) | final,
    )


def problem(
    status: int, kind: str, message: str, param: str | None = None, code: str | None = None, headers: Any = None
) -> JSONResponse:
    content = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": content}, status, headers=headers)
