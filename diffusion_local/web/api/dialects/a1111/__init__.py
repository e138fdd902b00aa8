"""The A1111 web UI's API below ``/sdapi/v1``, as Open WebUI, SillyTavern and many scripts call it.

``info`` of an answer is a JSON text, as there; beside A1111's fields it names ``warnings``, and as ``not_used`` the
parameters that were left aside. One that would change the picture is refused. The chosen model, ``progress`` and
``interrupt`` are each caller's own: nobody stops, or re-models, the pictures of another.
"""

import base64
import io
import json
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image as PIL
from pydantic import BaseModel, ConfigDict

from diffusion_local import authority
from diffusion_local.domain import Receipt
from diffusion_local.errors import InvalidParams, NotDone, NotFound, UserError
from diffusion_local.messages import message
from diffusion_local.options import a1111
from diffusion_local.options.samplers import SAMPLERS, SCHEDULES, api_name
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import FROM_SOURCE, LANCZOS
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.a1111.reading import (
    ITS_OWN,
    NEUTRAL,
    NONE,
    OF_IMG2IMG,
    SETTABLE,
    WITHOUT_EFFECT,
    Changed,
    Common,
    Wanted,
    checked_options,
    name_of,
    read,
)
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
from diffusion_local.web.api.uploads import decoded
from diffusion_local.web.api.watch import Watch, until_final
from diffusion_local.web.refusals import NEVER, headers_of, sentence, status_of

PNG_INFO_CHARS = 100_000
LATER: dict[str, tuple[Any, ...]] = {
    "codeformer_visibility": (0,),
    "codeformer_weight": (0,),
    "extras_upscaler_2_visibility": (0,),
    "gfpgan_visibility": (0,),
    "resize_mode": (0,),
    "upscaler_2": ("", "None"),
}


class Enlarged(BaseModel):
    """Of ``extra-single-image``: a picture that is made larger by a factor."""

    model_config = ConfigDict(extra="allow")

    image: str
    upscaling_resize: float = 2.0
    upscaler_1: str = ""


class Read(BaseModel):
    image: str


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(prefix="/sdapi/v1", tags=["A1111"], route_class=refusing(refusal))
    chosen: PerAccount[dict[str, Any]] = PerAccount()  # options by caller
    newest: PerAccount[Receipt] = PerAccount()  # what each caller submitted last

    async def made(body: Common, request: Request) -> Response:
        who = caller(request)
        authority.check("submit")  # before pictures are decoded
        options = await anyio.to_thread.run_sync(lambda: read(studio, body, chosen[who] or {}))
        receipt = await ended(options, request)
        return await anyio.to_thread.run_sync(answer, studio, body, receipt)

    async def ended(options: dict[str, Any], request: Request) -> Receipt:
        """What was submitted, once it has ended. Raises NotDone if the caller has gone, or the time is over."""
        receipt = newest[caller(request)] = await anyio.to_thread.run_sync(lambda: studio.submit(**options))
        if not await until_final(studio, watch, receipt.job_ids, LONGEST, request):
            raise NotDone(message("batch_goes_on", batch=receipt.batch_id))
        return receipt

    @api.post("/txt2img")
    async def txt2img(body: Wanted, request: Request) -> Response:
        """Make pictures and answer once they are there: `images` (Base64), `parameters`, `info` (a JSON text)."""
        return await made(body, request)

    @api.post("/img2img")
    async def img2img(body: Changed, request: Request) -> Response:
        """Make pictures from `init_images` (one, in Base64), with a `mask` within it; answers as txt2img does."""
        return await made(body, request)

    @api.post("/extra-single-image")
    async def enlarge(body: Enlarged, request: Request) -> Response:
        """Make a picture larger: `image` (Base64), `upscaling_resize` (a factor), `upscaler_1`."""
        authority.check("submit")
        neutral(body.model_extra or {}, LATER)
        source = await anyio.to_thread.run_sync(lambda: studio.sources.add(decoded("image", body.image), "image"))
        upscaler = None if body.upscaler_1.lower() in NONE else body.upscaler_1
        options = {"prompt": "", "kind": "upscale", "source": source.id, "scale": body.upscaling_resize}
        receipt = await ended(options | {"upscaler": upscaler}, request)
        return await anyio.to_thread.run_sync(enlarged, studio, receipt)

    @api.post("/png-info")
    def png_info(body: Read) -> Json:
        """The recipe that a PNG carries: `info` as it is written there, `items` the other texts."""
        with opened_png(decoded("image", body.image)) as picture:
            texts = {str(name): each[:PNG_INFO_CHARS] for name, each in picture.info.items() if isinstance(each, str)}
        return {"info": texts.get("parameters", ""), "items": texts, "parameters": {}}

    @api.get("/options")
    def options(request: Request) -> Json:
        first = {"sd_model_checkpoint": studio.models()[0].id, "sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1}
        return first | {"samples_format": "png"} | (chosen[caller(request)] or {})

    @api.post("/options")
    def set_options(body: dict[str, Any], request: Request) -> None:
        """Choose this caller's model, VAE and CLIP skip; what cannot be set is refused."""
        authority.check("submit")  # options serve nothing but later submissions
        checked_options(studio, body)
        who = caller(request)
        chosen[who] = (chosen[who] or {}) | {name: body[name] for name in SETTABLE if body.get(name) is not None}

    @api.get("/progress")
    def progress(request: Request, skip_current_image: bool = False) -> Json:
        """How far this caller's last call is, with its newest preview (WebP)."""
        return progress_of(studio, newest[caller(request)], not skip_current_image)

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
        return [{"name": name, "aliases": [], "options": {}} for name in SAMPLERS]

    @api.get("/schedulers")
    def schedulers() -> list[Json]:
        rest = {"aliases": None, "default_rho": -1, "need_inner_model": False}
        return [{"name": api_name(each), "label": each} | rest for each in SCHEDULES]

    @api.get("/sd-vae")
    def sd_vae() -> list[Json]:
        return [{"model_name": each.name, "filename": each.name} for each in studio.adapters("vae")]

    @api.get("/upscalers")
    def upscalers() -> list[Json]:
        names = [LANCZOS, *(each.name for each in studio.adapters("upscaler"))]
        empty = dict.fromkeys(["model_name", "model_path", "model_url"])
        return [{"name": name, "scale": 4} | empty for name in names]

    @api.get("/latent-upscale-modes")
    def latent_upscale_modes() -> list[Json]:
        """None: a picture is not enlarged while it is made (`enable_hr` is refused)."""
        return []

    @api.get("/loras")
    def loras() -> list[Json]:
        """Those that `<lora:name:0.8>` in a prompt can name."""
        return [{"name": x.name, "alias": x.title or x.name, "metadata": {}} for x in studio.adapters("lora")]

    @api.get("/embeddings")
    def embeddings() -> Json:
        found = {each.name: {"step": None, "sd_checkpoint": None} for each in studio.adapters("embedding")}
        return {"loaded": found, "skipped": {}}

    @api.post("/refresh-checkpoints")
    @api.post("/refresh-loras", include_in_schema=False)
    @api.post("/refresh-vae", include_in_schema=False)
    def refresh() -> None:
        """Nothing to do: the folders are looked at anew each time."""

    return api


def answer(studio: Studio, body: Common, receipt: Receipt) -> Response:
    made, missed = outcome(studio, receipt.job_ids)
    if not made:
        failed = missed[0].failure
        return problem(500 if failed else 409, failed.kind if failed else "interrupted", why_not(missed[0]))
    params = [job.params for job, _ in made]
    first = params[0]
    given = {*(body.model_extra or {}), *(body.override_settings or {})}
    known = {*SETTABLE, *NEUTRAL, *OF_IMG2IMG, *WITHOUT_EFFECT}
    info = {name_of(each): getattr(first, each.name) for each in options_of(without=ITS_OWN)} | {
        "prompt": first.prompt,
        "all_prompts": [each.prompt for each in params],
        "all_negative_prompts": [each.negative for each in params],
        "all_seeds": [each.seed for each in params],
        "batch_size": len(made),
        "sd_model_name": first.model,
        "sd_vae_name": first.vae or None,
        "clip_skip": first.clip_skip or 1,
        "denoising_strength": first.strength if first.kind in FROM_SOURCE else None,
        "subseed": -1 if first.variation_seed is None else first.variation_seed,
        "infotexts": [a1111.text(each) for each in params],
        "index_of_first_image": 0,
        "job_ids": receipt.job_ids,
        "warnings": receipt.warnings + [f"A picture is missing: {why_not(job)}" for job in missed],
        "not_used": sorted(given - known),
    }
    images = [encoded(studio, image) for _, image in made] if body.send_images else []
    told = body.model_dump(exclude={"init_images", "mask"})
    content = {"images": images, "parameters": told, "info": json.dumps(info)}
    return Response(json.dumps(content), media_type="application/json", headers=NEVER)


def enlarged(studio: Studio, receipt: Receipt) -> Response:
    made, missed = outcome(studio, receipt.job_ids)
    if not made:
        failed = missed[0].failure
        return problem(500 if failed else 409, failed.kind if failed else "interrupted", why_not(missed[0]))
    return JSONResponse({"html_info": "", "image": encoded(studio, made[0][1])}, headers=NEVER)


def opened_png(data: bytes) -> PIL.Image:
    """Raises InvalidParams."""
    try:
        return PIL.open(io.BytesIO(data), formats=("PNG",))
    except (OSError, ValueError, SyntaxError, PIL.DecompressionBombError):
        raise InvalidParams("image", message("must_be_png")) from None


def preview(studio: Studio, job_id: str) -> str | None:
    try:
        return base64.b64encode(studio.preview_file(job_id).read_bytes()).decode("ascii")
    except (NotFound, FileNotFoundError):
        return None


def progress_of(studio: Studio, receipt: Receipt | None, with_picture: bool = False) -> Json:
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
        "current_image": preview(studio, running.id) if running and with_picture else None,
        "textinfo": None,
    }


def refusal(request: Request, error: UserError) -> JSONResponse:
    return problem(status_of(error), error.code, sentence(request, error), headers_of(error))


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": code, "detail": message, "errors": message}, status, headers=headers)
