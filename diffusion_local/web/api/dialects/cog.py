"""Predictions as cog and Replicate speak them: ``POST /predictions``, ``PUT`` and ``GET /predictions/{id}``, cancel.

As in cog a call waits for its end unless it says ``Prefer: respond-async``; ``wait=N`` bounds the wait, and after it
the prediction comes back unfinished, with 202. An id that the client chose makes a repeated call the same prediction.
A webhook is told of the end, in the shape that all webhooks of this studio have. Pictures come as data URLs: an address
is not fetched.
"""

from typing import Annotated, Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from diffusion_local import shapes
from diffusion_local.domain import Job, State
from diffusion_local.errors import InvalidParams, NotFound, UserError
from diffusion_local.shapes import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import address, neutral, refusing, submitted, why_not
from diffusion_local.web.api.prefer import MOST_SECONDS, read_prefer
from diffusion_local.web.api.uploads import kept_pictures
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.refusals import headers_of, sentence, status_of

KEY = "prediction:"
MOST_JOBS = 1000
PAGE = 20
NEUTRAL: dict[str, tuple[Any, ...]] = {"output_file_prefix": ("",), "stream": (False,), "context": ({},)}
Prefer = Annotated[str | None, Header(description="`respond-async` or `wait=N` (RFC 7240)")]


def also(name: str, *others: str, default: Any = None) -> Any:
    """A field that goes by the names of other models' inputs too."""
    return Field(default, validation_alias=AliasChoices(name, *others))


class Input(BaseModel):
    """The names of Params, or those that image models have on Replicate."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    negative: str | None = also("negative", "negative_prompt")
    model: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = also("steps", "num_inference_steps")
    guidance: float | None = also("guidance", "guidance_scale")
    sampler: str | None = also("sampler", "scheduler")
    seed: int | None = None
    source: str | None = also("source", "image", "input_image")
    mask: str | None = None
    strength: float | None = also("strength", "prompt_strength")
    count: int = also("count", "num_outputs", default=1)


class Prediction(BaseModel):
    model_config = ConfigDict(extra="allow")

    input: Input
    id: str | None = None
    webhook: str | None = Field(None, description="told once, at the end")
    webhook_events_filter: list[str] | None = Field(None, description='"completed" is the only event that is told')


def router(studio: Studio, watch: Watch) -> APIRouter:
    api = APIRouter(tags=["predictions"], route_class=refusing(refusal))

    @api.post("/predictions")
    async def create(body: Prediction, request: Request, prefer: Prefer = None) -> Response:
        """Make pictures: 200 with the ended prediction, or 202 with one that goes on."""
        return await made(body, body.id, request, prefer)

    @api.put("/predictions/{prediction_id}")
    async def create_with_id(prediction_id: str, body: Prediction, request: Request, prefer: Prefer = None) -> Response:
        """The same under an id of the client's choice; sent again it is the same prediction."""
        if body.id not in (None, prediction_id):
            raise InvalidParams("id", "must be the one in the address.")
        return await made(body, prediction_id, request, prefer)

    @api.get("/predictions")
    def listed(request: Request, cursor: str = "") -> Json:
        """Predictions, newest first, as every submit of whatever door is one: `next` reads on."""
        found = studio.batches.page(PAGE, cursor or None)
        following = f"{str(request.base_url).rstrip('/')}/predictions?cursor={found[-1].batch.id}" if found else None
        results = [shape(studio, request, each.batch.id, each.batch.id) for each in found]
        return {"previous": None, "next": following if len(found) == PAGE else None, "results": results}

    @api.get("/predictions/{prediction_id}")
    def one(prediction_id: str, request: Request) -> Json:
        return shape(studio, request, prediction_id, batch_of(studio, prediction_id))

    @api.post("/predictions/{prediction_id}/cancel")
    def cancel(prediction_id: str, request: Request) -> Json:
        """Stop a prediction; one that has ended stays as it is."""
        batch_id = batch_of(studio, prediction_id)
        studio.cancel(batch_id=batch_id)
        return shape(studio, request, prediction_id, batch_id)

    @api.get("/health-check")
    def health_check() -> Json:
        """READY, BUSY while pictures are made, STARTING as long as no worker is there."""
        snapshot = studio.snapshot(0, 0)
        if not any(worker.status in ("idle", "busy", "loading") for worker in snapshot.workers):
            return {"status": "STARTING"}
        return {"status": "BUSY" if snapshot.running else "READY"}

    async def made(body: Prediction, chosen: str | None, request: Request, prefer: str | None) -> Response:
        neutral(body.model_extra or {}, NEUTRAL)
        if chosen is not None and not chosen.strip():
            raise InvalidParams("id", "must not be empty.")
        if body.webhook and set(body.webhook_events_filter or ["completed"]) != {"completed"}:
            raise InvalidParams("webhook_events_filter", 'must be ["completed"]: no other event is told.')
        preference = read_prefer(prefer)
        wishes = body.input.model_dump() | {"idempotency_key": KEY + chosen if chosen else None}
        wishes["webhook"] = body.webhook or None
        receipt = await anyio.to_thread.run_sync(lambda: submitted(studio, kept_pictures(studio, wishes)))
        seconds = MOST_SECONDS if preference.seconds is None else preference.seconds
        finished = await until_final(studio, watch, receipt.job_ids, seconds, request)
        name = chosen or receipt.batch_id
        content = await anyio.to_thread.run_sync(shape, studio, request, name, receipt.batch_id)
        headers = preference.headers | {"Location": content["urls"]["get"]}
        return JSONResponse(content, 200 if finished else 202, headers=headers)

    return api


def batch_of(studio: Studio, prediction_id: str) -> str:
    """The batch of a prediction, by the client's own id or by ours. Raises NotFound."""
    try:
        return studio.submitted_under(KEY + prediction_id)
    except NotFound:
        return studio.batch(prediction_id)[0].id


def shape(studio: Studio, request: Request, prediction_id: str, batch_id: str) -> Json:
    jobs = studio.jobs(batch_id=batch_id, limit=MOST_JOBS)
    if not jobs:
        raise NotFound(f"There is no prediction {prediction_id!r}.")
    images = studio.images_of(jobs)
    params, batch = jobs[0].params, studio.batch(batch_id)[0]
    ended = [job.finished_at for job in jobs if job.finished_at]
    finished = len(ended) == len(jobs)
    failed = next((job for job in jobs if job.state is State.FAILED), None)
    url = f"{str(request.base_url).rstrip('/')}/predictions/{quote(prediction_id, safe='')}"
    output = [address(request, images[job.id]) for job in jobs if job.id in images]
    return {
        "id": prediction_id,
        "status": status(jobs),
        "input": shapes.params(jobs[0]) | {"prompt": params.prompt, "count": len(jobs)},
        "output": output if finished and output else None,
        "error": why_not(failed) if failed else None,
        "logs": "",
        "metrics": {"predict_time": sum(image.seconds for image in images.values())},
        "created_at": batch.created_at,
        "started_at": min((job.started_at for job in jobs if job.started_at), default=None),
        "completed_at": max(ended) if finished else None,
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }


def status(jobs: list[Job]) -> str:
    states = {job.state for job in jobs}
    if states == {State.QUEUED}:
        return "starting"
    if states & {State.QUEUED, State.RUNNING}:
        return "processing"
    if State.FAILED in states:
        return "failed"
    return "canceled" if State.CANCELLED in states else "succeeded"


def refusal(request: Request, error: UserError) -> JSONResponse:
    return JSONResponse({"detail": sentence(request, error)}, status_of(error), headers=headers_of(error))
