"""Predictions in the format of cog and Replicate, for Replicate's Python and JavaScript clients and for cog's.

The routes are below ``/predictions``; ``paths`` maps Replicate's URLs to them. As in cog, a call waits until the
prediction has ended, unless it sends ``Prefer: respond-async``; ``wait=N`` limits the wait. At Replicate's URLs a call
waits only if it sends ``Prefer: wait``. Repeating a call with an id chosen by the client returns the same prediction.

A webhook gets the prediction at its start and at its end, signed as Replicate signs; its filter accepts `output` and
`logs`, but there are no separate events for them. Inputs without effect here are ignored, with a line in `logs`. Input
pictures are data URLs, or URLs of files and pictures of this server; no other URL is fetched.
"""

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from diffusion_local import serializers
from diffusion_local.errors import InvalidParams, NotFound, UserError, echo
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.notify.predictions import FILTER, MOST_JOBS, Subscription, prediction, version_of
from diffusion_local.options.signature import options_of
from diffusion_local.options.validate import with_pictures
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import (
    Aliases,
    adapt,
    ignored_warnings,
    model_named,
    parse_size,
    size_for_ratio,
    unknown_field,
)
from diffusion_local.web.api.dialects.adapting import strict as is_strict
from diffusion_local.web.api.dialects.calls import check_neutral, error_route, error_sentences, root_of
from diffusion_local.web.api.dialects.prefixes import DIALECT, REPLICATE
from diffusion_local.web.api.http_headers import MOST_SECONDS, read_prefer
from diffusion_local.web.api.schemas import field_of
from diffusion_local.web.api.uploads import kept_pictures
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.error_responses import headers_of, sentence, status_of

KEY_PREFIX = "prediction:"
PREDICTIONS_PER_PAGE = 20
WAIT = 60.0  # seconds of Replicate's ``Prefer: wait``
NEUTRAL: dict[str, tuple[Any, ...]] = {"output_file_prefix": ("",), "context": ({},)}
Prefer = Annotated[str | None, Header(description="`respond-async` or `wait=N` (RFC 7240)")]
#: Inputs of Replicate's models that have no effect here, with their neutral values.
HARMLESS: dict[str, Any] = {
    "apply_watermark": False,
    "cost": None,
    "disable_safety_checker": None,
    "enable_safety_checker": None,
    "go_fast": None,
    "high_noise_frac": None,
    "interval": None,
    "lora_scale": None,
    "magic_prompt_option": "Off",
    "num_inference_steps_refiner": None,
    "output_format": "png",
    "output_quality": None,
    "prompt_upsampling": False,
    "raw": False,
    "refine": "no_refiner",
    "refine_steps": None,
    "safety_checker": None,
    "safety_tolerance": None,
    "speed_mode": None,
}
#: Values of ``size`` and ``aspect_ratio`` that leave the size open.
NO_SHAPE = ("", "custom", "match_input_image")
#: Paths of pictures on this server: uploaded files, sources, and the gallery.
OWN_FILE = re.compile(r"(?:/replicate)?/v1/files/(?P<file>[0-9a-f]{64})|/sources/(?P<source>[0-9a-f]{64})\.png")
OWN_IMAGE = re.compile(r"/images/(?P<image>[^/?]+)\.\w+(?:\?.*)?")
#: Names that only this dialect accepts: in A1111's API, "scheduler" means the spacing of the noise levels.
ALSO = {"sampler": ("scheduler",), "source": ("input_image", "init_image", "image_input")}


class NamedInputs(BaseModel):
    """Inputs under the names of our options, or of image models on Replicate."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    count: int = Field(1, validation_alias=AliasChoices("count", "num_outputs", "num_images", "number_of_images"))
    expand: str | None = None
    aspect_ratio: str | None = Field(None, description="such as 16:9, where no width and height are given")
    size: str | None = Field(None, description="such as 1024x1024, where no width and height are given")
    megapixels: float | str | None = Field(None, description="of a picture with an aspect ratio")
    fit: str | None = Field(None, description="strict refuses sizes and samplers that the model lacks")


INPUT_FIELDS: dict[str, Any] = {
    option.name: field_of(option, option.name, *option.spellings, *ALSO.get(option.name, ())) for option in options_of()
}
Input: Any = create_model("Input", __base__=NamedInputs, __doc__=NamedInputs.__doc__, **INPUT_FIELDS)
#: Accepted names of each option; an error uses the first one that the request contains.
SPELLED: dict[str, tuple[str, ...]] = {
    option.name: (*ALSO.get(option.name, ()), *option.spellings, option.name) for option in options_of()
} | {"count": ("num_outputs", "count")}
INPUT_NAMES = sorted(
    {name for each in options_of() for name in (each.name, *each.spellings)} | set(NamedInputs.model_fields)
)


class Prediction(BaseModel):
    model_config = ConfigDict(extra="allow")

    input: Input
    id: str | None = None
    version: str | None = Field(None, description="a model's version or name; an unknown one means the default model")
    model: str | None = None
    stream: bool | None = Field(None, description="every prediction can be followed at `urls.stream`")
    webhook: str | None = Field(None, description="notified at the start and at the end")
    webhook_completed: str | None = Field(None, description="notified at the end only")
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] | None = Field(
        None, description="all by default; `output` and `logs` have no notifications of their own"
    )


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(tags=["predictions"], route_class=error_route(replicate_error, SPELLED))
    aliases = Aliases.parse(settings.model_aliases)

    @api.post("/predictions")
    async def create(body: Prediction, request: Request, prefer: Prefer = None) -> Response:
        """Make pictures: 200 with the ended prediction, or 202 if it continues; 201 at Replicate's address."""
        return await predict(body, body.id, request, prefer, body.model or "")

    @api.put("/predictions/{prediction_id}")
    async def create_with_id(prediction_id: str, body: Prediction, request: Request, prefer: Prefer = None) -> Response:
        """The same under an id chosen by the client; sending it again returns the same prediction."""
        if body.id not in (None, prediction_id):
            raise InvalidParams("id", message("as_in_address"))
        return await predict(body, prediction_id, request, prefer, body.model or "")

    @api.post("/replicate/v1/models/{owner}/{name}/predictions", status_code=201)
    async def create_by_model(
        owner: str, name: str, body: Prediction, request: Request, prefer: Prefer = None
    ) -> Response:
        """The same with a model named in the path."""
        return await predict(body, body.id, request, prefer, f"{owner}/{name}")

    @api.get("/predictions")
    def listed(request: Request, cursor: str = "") -> Json:
        """Predictions, newest first, including submits from all other interfaces; `next` is the next page."""
        found = studio.batches.page(PREDICTIONS_PER_PAGE, cursor or None)
        following = f"{root_of(request)}/predictions?cursor={found[-1].batch.id}" if found else None
        results = [prediction_json(studio, request, each.batch.id, each.batch.id) for each in found]
        return {"previous": None, "next": following if len(found) == PREDICTIONS_PER_PAGE else None, "results": results}

    @api.get("/predictions/{prediction_id}")
    def one(prediction_id: str, request: Request) -> Json:
        return prediction_json(studio, request, prediction_id, batch_of(studio, prediction_id))

    @api.get("/predictions/{prediction_id}/stream", response_class=StreamingResponse)
    async def stream(prediction_id: str, request: Request) -> Response:
        """Server-sent events like Replicate's: `output` with each picture's URL, `logs`, `error`, `done`."""
        batch_id = await anyio.to_thread.run_sync(batch_of, studio, prediction_id)
        ask = lambda: prediction_json(studio, request, prediction_id, batch_id)  # noqa: E731
        first = await anyio.to_thread.run_sync(ask)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(watch, first, ask), media_type="text/event-stream", headers=headers)

    @api.post("/predictions/{prediction_id}/cancel")
    def cancel(prediction_id: str, request: Request) -> Json:
        """Cancel a prediction; one that has ended is unchanged."""
        batch_id = batch_of(studio, prediction_id)
        studio.queue.cancel(batch_id=batch_id)
        return prediction_json(studio, request, prediction_id, batch_id)

    @api.get("/health-check")
    def health_check() -> Json:
        """READY, BUSY while pictures are made, STARTING until there is a worker."""
        snapshot = studio.snapshot(0, 0)
        if not any(worker.status in ("idle", "busy", "loading") for worker in snapshot.workers):
            return {"status": "STARTING"}
        return {"status": "BUSY" if snapshot.running else "READY"}

    async def predict(
        body: Prediction, chosen: str | None, request: Request, prefer: str | None, named: str
    ) -> Response:
        if chosen is not None and not chosen.strip():
            raise InvalidParams("id", message("not_empty"))
        preference = read_prefer(prefer)
        replicate = request.scope.get(DIALECT) == REPLICATE
        options, notes = await anyio.to_thread.run_sync(translate, studio, settings, aliases, body, named, request)
        events_told = FILTER if body.webhook_events_filter is None else tuple(body.webhook_events_filter)
        hook = body.webhook or body.webhook_completed
        events_told = events_told if body.webhook else ("completed",)
        subscription = Subscription(chosen or "", root_of(request), events_told, tuple(notes))
        options |= {
            "idempotency_key": KEY_PREFIX + chosen if chosen else None,
            "webhook": hook,
            "prediction": subscription.text(),
        }
        receipt = await anyio.to_thread.run_sync(lambda: studio.submit(**kept_pictures(studio, options)))
        seconds = MOST_SECONDS if preference.seconds is None else preference.seconds
        if replicate and preference.seconds is None:
            seconds = WAIT if "wait" in (prefer or "").lower() else 0.0
        finished = await until_final(studio, watch, receipt.job_ids, seconds, request)
        name = chosen or receipt.batch_id
        content = await anyio.to_thread.run_sync(prediction_json, studio, request, name, receipt.batch_id)
        if replicate and not finished:
            content["status"] = "starting"  # with any other status, Replicate's Python client takes the output as final
        headers = preference.headers | {"Location": content["urls"]["get"]}
        return JSONResponse(content, 201 if replicate else 200 if finished else 202, headers=headers)

    return api


def translate(
    studio: Studio, settings: Settings, aliases: Aliases, body: Prediction, named: str, request: Request
) -> tuple[dict[str, Any], list[str]]:
    """(arguments of ``Studio.submit``, lines for the log). Raises InvalidParams."""
    check_neutral({name: value for name, value in (body.model_extra or {}).items() if name in NEUTRAL}, NEUTRAL)
    extra: dict[str, Any] = body.input.model_extra or {}
    for name in extra:
        if name not in HARMLESS:
            raise unknown_field(name, INPUT_NAMES)
    options = body.input.model_dump(include=set(NamedInputs.model_fields) | set(INPUT_FIELDS))
    strict = is_strict(options.pop("fit"), settings.fit)
    ratio, megapixels, size = (options.pop(name) for name in ("aspect_ratio", "megapixels", "size"))
    model, notes = chosen_model(studio, aliases, options.get("model") or named, body.version)
    options["model"] = model.id
    notes += ignored_warnings(extra, HARMLESS)
    if options.get("width") is None and options.get("height") is None:
        if size and size not in (*NO_SHAPE, "auto"):
            options["width"], options["height"] = parse_size(size)
        elif ratio and ratio not in NO_SHAPE:
            options["width"], options["height"] = size_for_ratio(ratio, pixels(megapixels), model)
    options = with_pictures(options, lambda name, text: own_picture(studio, request, name, text))
    sent = body.input.model_fields_set
    fitted = adapt(model, options, strict, {name: SPELLED[name][0] for name in ("sampler",) if name in sent})
    return fitted.options, notes + fitted.warnings


def chosen_model(studio: Studio, aliases: Aliases, name: str, version: str | None) -> tuple[Model, list[str]]:
    """(the model that a request names, lines for the log). An unknown version means the default model, because
    Replicate's versions are digests without meaning here. Raises InvalidParams if there is no such model.
    """
    models = studio.models()
    if name:
        return model_named(models, name, aliases)
    if not version:
        return models[0], []
    for each in models:
        if version.rpartition(":")[2] == version_of(each.id):
            return each, []
    try:
        return model_named(models, version, aliases, "version")
    except InvalidParams:
        return models[0], [message("version_unknown", version=echo(version), model=models[0].id)]


def pixels(megapixels: float | str | None) -> float | None:
    """Convert megapixels, which may be text such as ``1 MP``; None means the default. Raises InvalidParams."""
    if megapixels is None or megapixels == "match_input":
        return None
    try:
        number = float(str(megapixels).removesuffix("MP").strip())
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 100:
        raise InvalidParams("megapixels", message("number", low=0.01, high=100, got=echo(megapixels)))
    return number


def own_picture(studio: Studio, request: Request, field: str, value: str) -> str:
    """The id of the source picture that a URL of this server names; any other value unchanged."""
    root = root_of(request)
    if not value.startswith(f"{root}/"):
        return value
    path = value.removeprefix(root)
    if match := OWN_FILE.fullmatch(path):
        return match["file"] or match["source"]
    if match := OWN_IMAGE.fullmatch(path):
        try:
            return studio.sources.from_image(match["image"]).id
        except NotFound as error:
            raise InvalidParams(field, error.message) from None
    return value


def batch_of(studio: Studio, prediction_id: str) -> str:
    """The batch of a prediction, by the client's id or ours. Raises NotFound."""
    try:
        return studio.submitted_under(KEY_PREFIX + prediction_id)
    except NotFound:
        return studio.batch(prediction_id)[0].id


def prediction_json(studio: Studio, request: Request, prediction_id: str, batch_id: str) -> Json:
    jobs = studio.jobs(batch_id=batch_id, limit=MOST_JOBS)
    if not jobs:
        raise NotFound(message("no_prediction", prediction=echo(prediction_id)))
    batch = studio.batch(batch_id)[0]
    notes = Subscription.of_batch(batch).notes if batch.prediction else ()
    subscription = Subscription(prediction_id, root_of(request), notes=notes)
    return prediction(subscription, batch, jobs, studio.images_of(jobs), serializers.public_url)


async def events(watch: Watch, content: Json, ask: Any) -> AsyncIterator[str]:
    """Server-sent events of a prediction until it ends, from its state ``content``; ``ask`` reads a newer one."""
    number, logs, seen = 0, "", (-1, -1)

    def event(name: str, data: str) -> str:
        nonlocal number
        number += 1
        lines = "".join(f"data: {line}\n" for line in data.split("\n"))
        return f"event: {name}\nid: {number}\n{lines}\n"

    while True:
        if content["logs"] != logs:
            logs = content["logs"]
            yield event("logs", logs.rstrip("\n"))
        if content["completed_at"]:
            break
        moment = await watch.until(lambda now, seen=seen: now != seen, 1.0)  # type: ignore[misc]
        if watch.stopping():
            return
        if moment is not None:
            seen = moment
            content = await anyio.to_thread.run_sync(ask)
    for url in content["output"] or []:
        yield event("output", url)
    if content["status"] == "failed":
        yield event("error", json.dumps({"detail": content["error"]}))
    reason = {"failed": "error", "canceled": "canceled"}.get(content["status"])
    yield event("done", json.dumps({"reason": reason} if reason else {}))


def replicate_error(request: Request, error: UserError) -> JSONResponse:
    """An error in Replicate's format, with the caller's field names."""
    status, text = status_of(error), error_sentences(request, error)
    content = {"title": error.code, "detail": text, "status": status}
    if isinstance(error, InvalidParams):
        content["invalid_fields"] = [
            {"field": each.field, "description": sentence(request, each)} for each in (error, *error.also)
        ]
    return JSONResponse(content, status, headers=headers_of(error))
