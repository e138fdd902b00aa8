"""Submitting jobs, with pictures in the request; the other routes of jobs derive from the registry."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from diffusion_local.domain import Receipt
from diffusion_local.operations import answers, registry
from diffusion_local.operations.registry import ARGUMENT_MEANINGS, OPERATIONS
from diffusion_local.options.table import PICTURES, RECORDS
from diffusion_local.studio import Studio
from diffusion_local.web.api.http.derived import status_urls
from diffusion_local.web.api.http_headers import read_prefer
from diffusion_local.web.api.schemas import ACCEPTED, FILE_SCHEMA, JOB, LOCATION, NewJobs, several, typed
from diffusion_local.web.api.uploads import job_of, kept_pictures
from diffusion_local.web.api.watch import Watch, until_final

SCHEMA = NewJobs.model_json_schema()
PICTURE_FIELDS = dict.fromkeys(PICTURES, FILE_SCHEMA) | {
    name: {"type": "array", "items": FILE_SCHEMA} for name, each in RECORDS.items() if each.pictures
}
JOB_FORM = {"type": "object", "required": ["job"], "properties": {"job": SCHEMA, **PICTURE_FIELDS}}
BODY = {
    "requestBody": {
        "required": True,
        "description": "JSON, where `source`, `mask` and the pictures of `references` are ids or pictures in Base64; "
        "or a form with that JSON as `job` and the pictures as files, several of them under one name in order.",
        "content": {"application/json": {"schema": SCHEMA}, "multipart/form-data": {"schema": JOB_FORM}},
    }
}
DONE = typed("Done", Receipt, **LOCATION, jobs=several(JOB))
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": DONE, "description": "the ended jobs, within the time of `Prefer: wait=N`"},
    202: {"model": ACCEPTED[Receipt]},
}


def router(studio: Studio, watch: Watch) -> APIRouter:
    jobs = APIRouter(tags=["jobs"])

    @jobs.post("/jobs", status_code=202, openapi_extra=BODY, responses=ANSWERS, response_model=None)
    async def submit(
        body: Annotated[BaseModel, Depends(job_of)],
        request: Request,
        idempotency_key: Annotated[str | None, Header(description=ARGUMENT_MEANINGS["idempotency_key"])] = None,
        prefer: Annotated[str | None, Header(description="`wait=N` or `respond-async` (RFC 7240)")] = None,
    ) -> JSONResponse:
        """Enqueue pictures: 202 with their ids, or 200 with the ended jobs if they ended within `Prefer: wait=N`."""
        preference = read_prefer(prefer)

        def enqueue() -> Receipt:
            values = kept_pictures(studio, body.model_dump()) | {"idempotency_key": idempotency_key}
            submit = OPERATIONS["submit"]
            offered = registry.arguments(submit, submit.route("POST", "/jobs").takes)
            return registry.call(studio, submit, registry.method_arguments(values, offered))

        receipt = await anyio.to_thread.run_sync(enqueue)
        finished = bool(preference.seconds) and await until_final(
            studio, watch, receipt.job_ids, preference.seconds or 0.0, request
        )
        content, pause = await anyio.to_thread.run_sync(status_urls, studio, receipt)
        headers = preference.headers | {"Location": content["status_url"]}
        if finished:
            ended = await anyio.to_thread.run_sync(lambda: [studio.job(job_id) for job_id in receipt.job_ids])
            content |= {"finished": True, "jobs": await anyio.to_thread.run_sync(answers.as_json, studio, ended)}
        else:
            headers["Retry-After"] = str(pause)
        return JSONResponse(content, 200 if finished else 202, headers=headers)

    return jobs
