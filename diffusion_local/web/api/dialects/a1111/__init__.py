"""The A1111 web UI's API below ``/sdapi/v1``, as used by Open WebUI, SillyTavern and many scripts.

``info`` of a response is JSON text, as in A1111; besides A1111's fields it has ``warnings``, and ``not_used`` with
ignored parameters. A parameter that would change the picture is refused. The chosen model, ``progress`` and
``interrupt`` are separate for each caller, so that no caller stops another's pictures or changes another's model.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from diffusion_local import __version__, authority
from diffusion_local.domain import Job, Receipt, utc_now
from diffusion_local.errors import InvalidParams, NotDone, NotFound, UserError
from diffusion_local.messages import message
from diffusion_local.options import a1111
from diffusion_local.options.option import Option
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import FROM_SOURCE, Params
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.a1111 import choices, draw_things, extras, scripts, second_pass
from diffusion_local.web.api.dialects.a1111.reading import (
    ITS_OWN,
    NEUTRAL,
    OF_IMG2IMG,
    READ_ELSEWHERE,
    SETTABLE,
    SPELLED,
    WITHOUT_EFFECT,
    A1111Request,
    Changed,
    Common,
    Wanted,
    checked_options,
    model_of,
    name_of,
    title,
    translate,
)
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
from diffusion_local.web.api.uploads import decoded, kept_pictures
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.error_responses import NOT_CACHED, headers_of, status_of

#: Pairs of the recipe text that A1111 repeats in ``info``.
EXTRA_GENERATION_PARAMS = ("Schedule type", "Hires upscale", "Hires steps", "Hires upscaler")


class Interrogated(BaseModel):
    """A picture (Base64) to describe; ``model`` is accepted for compatibility."""

    image: str
    model: str = "clip"


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(prefix="/sdapi/v1", tags=["A1111"], route_class=error_route(a1111_error, SPELLED))
    chosen: PerAccount[dict[str, Any]] = PerAccount()  # options by caller
    newest: PerAccount[list[Receipt]] = PerAccount()  # each caller's last submission
    aliases = Aliases.parse(settings.model_aliases)

    async def make(body: Common, request: Request) -> Response:
        who = caller(request)
        authority.check("submit")  # before pictures are decoded
        translated = await anyio.to_thread.run_sync(
            lambda: translate(studio, settings, aliases, body, chosen[who] or {})
        )
        try:
            [receipt] = await ended([translated.options], request)
        except InvalidParams as error:
            raise translated.with_its_names(error) from None
        return await anyio.to_thread.run_sync(answer, studio, body, translated, receipt)

    async def ended(submits: list[dict[str, Any]], request: Request) -> list[Receipt]:
        """Submit, and wait for the end. Raises NotDone if the caller disconnects or time is up."""

        def submitted() -> list[Receipt]:
            return [studio.submit(**kept_pictures(studio, each)) for each in submits]

        receipts = newest[caller(request)] = await anyio.to_thread.run_sync(submitted)
        job_ids = [job_id for each in receipts for job_id in each.job_ids]
        if not await until_final(studio, watch, job_ids, CALL_SECONDS, request):
            raise NotDone(message("batch_goes_on", batch=receipts[0].batch_id))
        return receipts

    @api.post("/txt2img")
    async def txt2img(body: Wanted, request: Request) -> Response:
        """Make pictures and respond when they are done: `images` (Base64), `parameters`, `info` (JSON text)."""
        return await make(body, request)

    @api.post("/img2img")
    async def img2img(body: Changed, request: Request) -> Response:
        """Make pictures from `init_images` (one, in Base64), optionally with a `mask`; the response
        is that of txt2img.
        """
        return await make(body, request)

    @api.post("/interrogate")
    def interrogate(body: Interrogated) -> Json:
        """Describe a picture (Base64) as `caption`, with the model in preprocessors/caption whatever `model` is."""
        authority.check("sources.describe")  # before the picture is decoded
        return {"caption": studio.sources.describe(studio.sources.add(decoded("image", body.image), "image").id)}

    @api.get("/options")
    def options(request: Request) -> Json:
        mine = chosen[caller(request)] or {}
        model = model_of(studio, aliases, mine.get("sd_model_checkpoint"))[0]
        rest = {"sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1, "samples_format": "png"}
        return rest | mine | {"sd_model_checkpoint": title(model), "sd_checkpoint_hash": model.sha256}

    @api.post("/options")
    def set_options(body: dict[str, Any], request: Request) -> None:
        """Set this caller's model, VAE, CLIP skip and format; other options are refused."""
        authority.check("submit")  # options only affect later submissions
        checked_options(studio, aliases, body)
        who = caller(request)
        chosen[who] = (chosen[who] or {}) | {name: body[name] for name in SETTABLE if body.get(name) is not None}

    @api.get("/progress")
    def progress(request: Request, skip_current_image: bool = False) -> Json:
        """Progress of this caller's latest call, with its newest preview (WebP)."""
        return progress_of(studio, newest[caller(request)] or [], not skip_current_image)

    @api.post("/interrupt")
    @api.post("/skip", include_in_schema=False)
    def interrupt(request: Request) -> Json:
        """Stop this caller's latest call; other callers' pictures continue."""
        for receipt in newest[caller(request)] or []:
            if studio.unfinished(receipt.job_ids):
                studio.queue.cancel(batch_id=receipt.batch_id)
        return {}

    extras.add(api, studio, settings, ended)
    choices.add(api, studio)
    draw_things.add(api, studio)
    extension = APIRouter(prefix="/controlnet", tags=["A1111"], route_class=error_route(a1111_error, SPELLED))
    scripts.add(extension, studio)
    return APIRouter(routes=[*api.routes, *extension.routes])  # flat, because ``dialects.router`` matches single routes


def answer(studio: Studio, body: Common, translated: A1111Request, receipt: Receipt) -> Response:
    made, missed = ended_jobs(studio, receipt.job_ids)
    if not made:
        failed = missed[0].failure
        return problem(500 if failed else 409, failed.kind if failed else "interrupted", why_not(missed[0]))
    warnings = [*translated.warnings, *receipt.warnings, *(f"A picture is missing: {why_not(job)}" for job in missed)]
    info = info_of([job for job, _ in made], made[0][1].facts) | {
        "styles": translated.styles,
        "job_ids": receipt.job_ids,
        "warnings": warnings,
        "not_used": not_used(body),
    }
    images = [base64_picture(studio, image, translated.form) for _, image in made] if body.send_images else []
    parameters = body.model_dump(exclude={"init_images", "mask"})
    content = {"images": images, "parameters": parameters, "info": json.dumps(info)}
    return Response(json.dumps(content), media_type="application/json", headers=NOT_CACHED)


def info_of(jobs: Sequence[Job], facts: dict[str, Any]) -> Json:
    """All fields of A1111's ``info``, because some clients require them all."""
    params = [job.params for job in jobs]
    first = params[0]
    mixed = first.variation_seed is not None
    return {name_of(each): in_a1111_format(each, getattr(first, each.name)) for each in options_of(without=ITS_OWN)} | {
        "prompt": first.prompt,
        "all_prompts": [each.prompt for each in params],
        "all_negative_prompts": [each.negative for each in params],
        "all_seeds": [each.seed for each in params],
        "subseed": first.variation_seed if mixed else -1,
        "all_subseeds": [each.variation_seed if mixed else -1 for each in params],
        "subseed_strength": first.variation_strength,
        "batch_size": len(params),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first.model,
        "sd_model_hash": facts.get("model_hash") or "",
        "sd_vae_name": first.vae or None,
        "sd_vae_hash": facts.get("vae_hash"),
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": strength_of(first),
        "extra_generation_params": {
            name: value for name, value in a1111.option_pairs(first).items() if name in EXTRA_GENERATION_PARAMS
        },
        "index_of_first_image": 0,
        "infotexts": [a1111.format_recipe(each) for each in params],
        "styles": [],
        "job_timestamp": timestamp(jobs[0].created_at),
        "clip_skip": first.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"diffusion-local {__version__}",
    }


def strength_of(params: Params) -> float | None:
    """Denoising strength of img2img or of a second pass."""
    if params.kind in FROM_SOURCE:
        return params.strength
    return params.hires_strength if params.hires_scale else None


def in_a1111_format(option: Option, value: Any) -> Any:
    return [record.to_dict() for record in value] if option.record else value


def timestamp(moment: str) -> str:
    """Convert an ISO 8601 time to A1111's format: 20261129081500."""
    return "".join(each for each in moment if each.isdigit())[:14]


def not_used(body: Common) -> list[str]:
    extra = body.model_extra or {}
    given = {*extra, *(body.override_settings or {}), *(body.model_fields_set & {*second_pass.HIRES_FIELDS})}
    read = (*second_pass.HIRES_FIELDS, *second_pass.FIELDS_WITHOUT_OPTION) if extra.get("enable_hr") else ()
    return sorted(given - {*SETTABLE, *NEUTRAL, *OF_IMG2IMG, *WITHOUT_EFFECT, *READ_ELSEWHERE, *read})


def preview(studio: Studio, job_id: str) -> str | None:
    try:
        return base64.b64encode(studio.preview_file(job_id).read_bytes()).decode("ascii")
    except (NotFound, FileNotFoundError):
        return None


def progress_of(studio: Studio, receipts: Sequence[Receipt], with_picture: bool = False) -> Json:
    try:
        jobs = [studio.job(job_id) for each in receipts for job_id in each.job_ids]
    except NotFound:  # deleted meanwhile
        jobs = []
    left = [job for job in jobs if not job.final]
    running = next((job for job in left if job.step), None)
    steps = sum(job.params.total_steps if job.final else job.step for job in jobs)
    eta = studio.place(left[-1])[1] if left else None
    return {
        "progress": steps / sum(job.params.total_steps for job in jobs) if left else 0.0,
        "eta_relative": eta or 0.0,
        "state": {
            "skipped": False,
            "interrupted": any(job.cancel_requested for job in left),
            "stopping_generation": any(job.cancel_requested for job in left),
            "job_timestamp": timestamp(jobs[0].created_at if jobs else utc_now()),
            "job": left[0].id if left else "",
            "job_count": len(left),
            "job_no": len(jobs) - len(left),
            "sampling_step": running.step if running else 0,
            "sampling_steps": running.params.total_steps if running else 0,
        },
        "current_image": preview(studio, running.id) if running and with_picture else None,
        "textinfo": None,
    }


def a1111_error(request: Request, error: UserError) -> JSONResponse:
    return problem(status_of(error), error.code, error_sentences(request, error), headers_of(error))


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": code, "detail": message, "errors": message}, status, headers=headers)
