"""Predictions as cog and Replicate speak them: ``POST /predictions``, ``PUT`` and ``GET /predictions/{id}``, cancel.

As in cog a call waits for its end unless it says ``Prefer: respond-async``; ``wait=N`` bounds the wait, and after it
the prediction comes back unfinished, with 202. An id that the client chose makes a repeated call the same prediction.
A webhook hears of the start and of the end, each time the prediction as it is then, signed as Replicate signs;
`output` and `logs` may stand in its filter, but are not told on their own: all output comes with the end. Pictures come
as data URLs: an address is not fetched.
"""

from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from diffusion_local.errors import InvalidParams, NotFound, UserError, echo
from diffusion_local.messages import message
from diffusion_local.notify.predictions import FILTER, MOST_JOBS, Subscription, prediction
from diffusion_local.options.signature import options_of
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import neutral, refusing, root_of
from diffusion_local.web.api.headers import MOST_SECONDS, read_prefer
from diffusion_local.web.api.schemas import field_of
from diffusion_local.web.api.uploads import kept_pictures
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.refusals import headers_of, sentence, status_of

KEY = "prediction:"
PAGE = 20
NEUTRAL: dict[str, tuple[Any, ...]] = {"output_file_prefix": ("",), "stream": (False,), "context": ({},)}
Prefer = Annotated[str | None, Header(description="`respond-async` or `wait=N` (RFC 7240)")]


class Named(BaseModel):
    """The names of our options, or those that image models have on Replicate."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    count: int = Field(1, validation_alias=AliasChoices("count", "num_outputs"))
    expand: str | None = None


#: Names of this dialect alone: in A1111's API a scheduler is the spacing of the noise levels.
ALSO = {"sampler": ("scheduler",)}
FIELDS: dict[str, Any] = {
    option.name: field_of(option, option.name, *option.spellings, *ALSO.get(option.name, ())) for option in options_of()
}
Input: Any = create_model("Input", __base__=Named, __doc__=Named.__doc__, **FIELDS)


class Prediction(BaseModel):
    model_config = ConfigDict(extra="allow")

    input: Input
    id: str | None = None
    webhook: str | None = Field(None, description="told of the start and of the end")
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] | None = Field(
        None, description="all by default; `output` and `logs` are never told on their own"
    )


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
            raise InvalidParams("id", message("as_in_address"))
        return await made(body, prediction_id, request, prefer)

    @api.get("/predictions")
    def listed(request: Request, cursor: str = "") -> Json:
        """Predictions, newest first, as every submit of whatever door is one: `next` reads on."""
        found = studio.batches.page(PAGE, cursor or None)
        following = f"{root_of(request)}/predictions?cursor={found[-1].batch.id}" if found else None
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
            raise InvalidParams("id", message("not_empty"))
        preference = read_prefer(prefer)
        options = body.input.model_dump() | {"idempotency_key": KEY + chosen if chosen else None}
        if body.webhook:
            told = FILTER if body.webhook_events_filter is None else tuple(body.webhook_events_filter)
            options |= {
                "webhook": body.webhook,
                "prediction": Subscription(chosen or "", root_of(request), told).text(),
            }
        receipt = await anyio.to_thread.run_sync(lambda: studio.submit(**kept_pictures(studio, options)))
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
        raise NotFound(message("no_prediction", prediction=echo(prediction_id)))
    subscription = Subscription(prediction_id, root_of(request))
    return prediction(subscription, studio.batch(batch_id)[0], jobs, studio.images_of(jobs))


def refusal(request: Request, error: UserError) -> JSONResponse:
    return JSONResponse({"detail": sentence(request, error)}, status_of(error), headers=headers_of(error))
