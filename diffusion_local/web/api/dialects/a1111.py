"""The A1111 web UI's API below ``/sdapi/v1``, as Open WebUI, SillyTavern and many scripts call it.

``info`` of an answer is a JSON text, as there; beside A1111's fields it names ``warnings``, and as ``not_used`` the
parameters that were left aside. One that would change the picture is refused. The chosen model, ``progress`` and
``interrupt`` are each caller's own: nobody stops, or re-models, the pictures of another.
"""

import json
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from diffusion_local import catalog
from diffusion_local.domain import Receipt
from diffusion_local.errors import InvalidParams, NotFound, UserError
from diffusion_local.shapes import Json
from diffusion_local.store.recipe import a1111_text
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import (
    LONGEST,
    Remembered,
    caller,
    encoded,
    neutral,
    outcome,
    refusing,
    submitted,
    why_not,
)
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.refusals import NEVER, headers_of, sentence, status_of

MOST_PICTURES = 100
KARRAS = " Karras"
AUTOMATIC = ("", "automatic")
#: What asks for nothing that we could not do.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alwayson_scripts": ({},),
    "clip_skip": (0, 1),
    "enable_hr": (False,),
    "init_images": ([],),
    "refiner_checkpoint": ("", "None"),
    "restore_faces": (False,),
    "script_name": ("", "None"),
    "styles": ([],),
    "subseed_strength": (0,),
    "tiling": (False,),
}
NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "CLIP_stop_at_last_layers": (0, 1),
    "sd_vae": ("", "Automatic", "None"),
}
#: Says something about the answer or the saving, not about the picture.
WITHOUT_EFFECT = {"do_not_save_grid", "do_not_save_samples", "override_settings_restore_afterwards", "save_images"}


class Wanted(BaseModel):
    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    negative_prompt: str | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True


def router(studio: Studio, watch: Watch) -> APIRouter:
    api = APIRouter(prefix="/sdapi/v1", tags=["A1111"], route_class=refusing(refusal))
    chosen: Remembered[str] = Remembered()  # model ids by caller
    newest: Remembered[Receipt] = Remembered()  # what each caller submitted last

    @api.post("/txt2img")
    async def txt2img(body: Wanted, request: Request) -> Response:
        """Make pictures and answer once they are there: `images` (Base64), `parameters`, `info` (a JSON text)."""
        who = caller(request)
        wishes = read(body) | {"model": named_model(studio, body.override_settings or {}, chosen[who])}
        receipt = await anyio.to_thread.run_sync(lambda: submitted(studio, wishes))
        newest[who] = receipt
        if not await until_final(studio, watch, receipt.job_ids, LONGEST, request):
            return problem(503, "not_done", f"Batch {receipt.batch_id} is not done yet, and goes on.")
        return await anyio.to_thread.run_sync(answer, studio, body, receipt)

    @api.post("/img2img", status_code=501)
    def img2img() -> Response:
        """Not yet: says so."""
        return problem(501, "not_supported", "Pictures from pictures are not supported yet.")

    @api.get("/options")
    def options(request: Request) -> Json:
        model = chosen[caller(request)] or studio.models()[0].id
        return {
            "sd_model_checkpoint": model,
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
        }

    @api.post("/options")
    def set_options(body: dict[str, Any], request: Request) -> None:
        """Choose this caller's model by `sd_model_checkpoint`; what cannot be set is refused."""
        neutral(body, NEUTRAL_OPTIONS)
        neutral(body, {"samples_format": ("png",)})
        model = named_model(studio, body, None)
        if model:
            chosen[caller(request)] = model

    @api.get("/progress")
    def progress(request: Request) -> Json:
        """How far this caller's last call is."""
        return progress_of(studio, newest[caller(request)])

    @api.post("/interrupt")
    @api.post("/skip", include_in_schema=False)
    def interrupt(request: Request) -> Json:
        """Stop what this caller asked for last; what others asked for goes on."""
        receipt = newest[caller(request)]
        if receipt and studio.unfinished(receipt.job_ids):
            studio.cancel(batch_id=receipt.batch_id)
        return {}

    @api.get("/sd-models")
    def sd_models() -> list[Json]:
        empty = dict.fromkeys(["hash", "sha256", "config"])
        return [
            {"title": each.id, "model_name": each.id, "filename": each.id} | empty
            for each in studio.models()
            if each.ready
        ]

    @api.get("/samplers")
    def samplers() -> list[Json]:
        return [{"name": name, "aliases": [], "options": {}} for name in catalog.SAMPLERS]

    @api.get("/schedulers")
    def schedulers() -> list[Json]:
        rest = {"aliases": None, "default_rho": -1, "need_inner_model": False}
        return [
            {"name": name, "label": label} | rest for name, label in (("automatic", "Automatic"), ("karras", "Karras"))
        ]

    @api.get("/sd-vae")
    @api.get("/upscalers", include_in_schema=False)
    @api.get("/latent-upscale-modes", include_in_schema=False)
    @api.get("/loras", include_in_schema=False)
    def none_yet() -> list[Json]:
        """None to choose from; so are `upscalers`, `latent-upscale-modes` and `loras`."""
        return []

    return api


def read(body: Wanted) -> dict[str, Any]:
    """Arguments of ``Studio.submit``, but for the model. Raises InvalidParams."""
    neutral(body.model_extra or {}, NEUTRAL)
    neutral(body.override_settings or {}, NEUTRAL_OPTIONS)
    for name in ("batch_size", "n_iter"):
        value = getattr(body, name)
        if value is not None and not 1 <= value <= MOST_PICTURES:
            raise InvalidParams(name, f"must be from 1 to {MOST_PICTURES} (got {value}).")
    return {
        "prompt": body.prompt,
        "negative": body.negative_prompt,
        "width": body.width,
        "height": body.height,
        "steps": body.steps,
        "guidance": body.cfg_scale,
        "sampler": sampler_of(body),
        "seed": body.seed,
        "count": (body.batch_size or 1) * (body.n_iter or 1),
    }


def sampler_of(body: Wanted) -> str | None:
    """A1111 names sampler and noise schedule apart; we know their pairs by one name."""
    sampler, scheduler = body.sampler_name or body.sampler_index or "", (body.scheduler or "").lower()
    if sampler.lower() in AUTOMATIC:
        sampler = ""
    if scheduler in AUTOMATIC or sampler.lower().endswith(KARRAS.lower()):
        return sampler or None
    if scheduler == "karras" and f"{sampler}{KARRAS}".lower() in (each.lower() for each in catalog.SAMPLERS):
        return sampler + KARRAS
    raise InvalidParams("scheduler", f"{scheduler[:50]!r} is not supported with {sampler[:50] or 'no'!r} sampler.")


def named_model(studio: Studio, options: dict[str, Any], otherwise: str | None) -> str | None:
    """The model that options name, by its title with or without a file's ending. Raises InvalidParams."""
    name = options.get("sd_model_checkpoint")
    if not name:
        return otherwise
    known = [each.id for each in studio.models()]
    if name in known:
        return str(name)
    raise InvalidParams("sd_model_checkpoint", f"There is no model {str(name)[:100]!r}. Known: {', '.join(known)}.")


def answer(studio: Studio, body: Wanted, receipt: Receipt) -> Response:
    made, missed = outcome(studio, receipt.job_ids)
    if not made:
        failed = missed[0].failure
        return problem(500 if failed else 409, failed.kind if failed else "interrupted", why_not(missed[0]))
    params = [job.params for job, _ in made]
    first = params[0]
    given = {*(body.model_extra or {}), *(body.override_settings or {})}
    known = {"sd_model_checkpoint", *NEUTRAL, *NEUTRAL_OPTIONS, *WITHOUT_EFFECT}
    info = {
        "prompt": first.prompt,
        "all_prompts": [each.prompt for each in params],
        "negative_prompt": first.negative,
        "all_negative_prompts": [each.negative for each in params],
        "seed": first.seed,
        "all_seeds": [each.seed for each in params],
        "width": first.width,
        "height": first.height,
        "sampler_name": first.sampler,
        "cfg_scale": first.guidance,
        "steps": first.steps,
        "batch_size": len(made),
        "sd_model_name": first.model,
        "infotexts": [a1111_text(each) for each in params],
        "index_of_first_image": 0,
        "job_ids": receipt.job_ids,
        "warnings": receipt.warnings + [f"A picture is missing: {why_not(job)}" for job in missed],
        "not_used": sorted(given - known),
    }
    images = [encoded(studio, image) for _, image in made] if body.send_images else []
    content = {"images": images, "parameters": body.model_dump(), "info": json.dumps(info)}
    return Response(json.dumps(content), media_type="application/json", headers=NEVER)


def progress_of(studio: Studio, receipt: Receipt | None) -> Json:
    try:
        jobs = [studio.job(job_id) for job_id in receipt.job_ids] if receipt else []
    except NotFound:  # forgotten meanwhile
        jobs = []
    left = [job for job in jobs if not job.final]
    running = next((job for job in left if job.step), None)
    steps = sum(job.params.steps if job.final else job.step for job in jobs)
    eta = studio.place(left[-1])[1] if left else None
    return {
        "progress": steps / sum(job.params.steps for job in jobs) if left else 0.0,
        "eta_relative": eta or 0.0,
        "state": {
            "skipped": False,
            "interrupted": any(job.cancel_requested for job in left),
            "job": left[0].id if left else "",
            "job_count": len(left),
            "job_no": len(jobs) - len(left),
            "sampling_step": running.step if running else 0,
            "sampling_steps": running.params.steps if running else 0,
        },
        "current_image": None,
        "textinfo": None,
    }


def refusal(request: Request, error: UserError) -> JSONResponse:
    return problem(status_of(error), error.code, sentence(request, error), headers_of(error))


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": code, "detail": message, "errors": message}, status, headers=headers)
