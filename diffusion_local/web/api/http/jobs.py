"""Jobs: submit, list, one job, cancel, again."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import shapes
from diffusion_local.domain import Lane, Receipt
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import paged, tagged
from diffusion_local.web.api.fields import NewJobs
from diffusion_local.web.api.prefer import read_prefer
from diffusion_local.web.api.uploads import job_of, kept_pictures
from diffusion_local.web.api.watch import Watch, until_final

MOST_NAMED = 100  # jobs asked for by id at once
NO_LONGER = 60  # seconds: the longest pause that Retry-After asks for


NEW_JOBS = NewJobs.model_json_schema()
PICTURE = {"type": "string", "format": "binary"}
FORM = {"type": "object", "required": ["job"], "properties": {"job": NEW_JOBS, "source": PICTURE, "mask": PICTURE}}
BODY = {
    "requestBody": {
        "required": True,
        "description": "JSON, where `source` and `mask` are ids or pictures in Base64; or a form with that JSON as "
        "`job` and the pictures as files.",
        "content": {"application/json": {"schema": NEW_JOBS}, "multipart/form-data": {"schema": FORM}},
    }
}


def router(studio: Studio, watch: Watch) -> APIRouter:
    jobs = APIRouter(tags=["jobs"])

    @jobs.post("/jobs", status_code=202, openapi_extra=BODY)
    async def submit(
        body: Annotated[NewJobs, Depends(job_of)],
        request: Request,
        idempotency_key: Annotated[str | None, Header(description="sent twice it makes one batch")] = None,
        prefer: Annotated[str | None, Header(description="`wait=N` or `respond-async` (RFC 7240)")] = None,
    ) -> JSONResponse:
        """Put pictures into the queue: 202 with their ids, or 200 with the ended jobs if `Prefer: wait=N` sufficed."""
        preference = read_prefer(prefer)
        options = body.model_dump()
        lane = Lane(options.pop("lane"))
        await anyio.to_thread.run_sync(studio.check_open)
        receipt = await anyio.to_thread.run_sync(
            lambda: studio.submit(**kept_pictures(studio, options), lane=lane, idempotency_key=idempotency_key)
        )
        finished = bool(preference.seconds) and await until_final(
            studio, watch, receipt.job_ids, preference.seconds or 0.0, request
        )
        content, pause = await anyio.to_thread.run_sync(answer, studio, receipt, finished)
        headers = preference.headers | {"Location": content["status_url"]}
        if not finished:
            headers["Retry-After"] = str(pause)
        return JSONResponse(content, 200 if finished else 202, headers=headers)

    @jobs.get("/jobs")
    def list_jobs(
        request: Request,
        state: str = "",
        batch_id: str = "",
        limit: int = 50,
        before: str = "",
        id: Annotated[list[str] | None, Query(max_length=MOST_NAMED, description="these jobs only")] = None,
    ) -> JSONResponse:
        """Jobs, newest first (a batch's in its own order): give `next` as `before` to read on."""
        if id:
            named = [studio.job(each) for each in id]
            return paged(request, "jobs", shapes.with_places(studio, named), None)
        found = studio.jobs(state or None, batch_id or None, limit, before or None)
        following = found[-1].id if len(found) == limit else None
        return paged(request, "jobs", shapes.with_places(studio, found), following)

    @jobs.get("/jobs/{job_id}")
    def one_job(job_id: str, request: Request) -> Response:
        """One job: state, step, position in line, seconds until done, error, picture."""
        return tagged(request, shapes.one_job(studio, job_id))

    @jobs.post("/jobs/{job_id}/cancel")
    def cancel(job_id: str) -> dict[str, Any]:
        """Cancel a job that waits, or stop it at its next step."""
        studio.cancel([job_id])
        return shapes.one_job(studio, job_id)

    @jobs.post("/jobs/{job_id}/again", status_code=202)
    def again(job_id: str) -> JSONResponse:
        """A new job from an old one's recipe."""
        studio.check_open()
        return accepted(studio, studio.again([job_id]))

    return jobs


def accepted(studio: Studio, receipt: Receipt) -> JSONResponse:
    """202, with where to look and when."""
    content, pause = answer(studio, receipt, False)
    return JSONResponse(content, 202, headers={"Location": content["status_url"], "Retry-After": str(pause)})


def answer(studio: Studio, receipt: Receipt, finished: bool) -> tuple[shapes.Json, int]:
    """The answer to a submit, and after how many seconds it is worth asking again."""
    first = studio.job(receipt.job_ids[0])
    one = len(receipt.job_ids) == 1
    url = shapes.api_url(f"jobs/{first.id}" if one else f"batches/{receipt.batch_id}")
    content = shapes.receipt(receipt) | {"status_url": url, "finished": finished}
    if finished:
        content["jobs"] = shapes.with_places(studio, [studio.job(job_id) for job_id in receipt.job_ids])
        return content, 0
    seconds = studio.place(first)[1]
    return content, max(1, min(NO_LONGER, round(seconds or 1)))
