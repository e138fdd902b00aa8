"""A1111's extras: upscaling of one or several pictures, and reading the recipe of a picture."""

import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image as PIL
from PIL import ImageOps
from pydantic import BaseModel, ConfigDict

from diffusion_local import authority
from diffusion_local.domain import Image, Receipt
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.gallery import recipes
from diffusion_local.image_decoding import INPUT_FORMATS
from diffusion_local.image_decoding import share as decoding_share
from diffusion_local.messages import message
from diffusion_local.options.hires import LANCZOS
from diffusion_local.options.table import OPTIONS
from diffusion_local.serializers import Json
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.a1111.reading import NONE_NAMES
from diffusion_local.web.api.dialects.adapting import strict as is_strict
from diffusion_local.web.api.dialects.calls import base64_picture, check_neutral, ended_jobs, why_not
from diffusion_local.web.api.dialects.pictures import encode
from diffusion_local.web.api.uploads import decoded
from diffusion_local.web.error_responses import NOT_CACHED

PNG_INFO_CHARS = 100_000
MOST_PICTURES = 50
LARGEST_SIDE = 16_384
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "codeformer_visibility": (0,),
    "codeformer_weight": (0,),
    "extras_upscaler_2_visibility": (0,),
    "gfpgan_visibility": (0,),
}

#: Submits each set of arguments, and waits until all their jobs have ended.
Ended = Callable[[list[dict[str, Any]], Request], Awaitable[list[Receipt]]]


class Upscale(BaseModel):
    """How to enlarge: by a factor, or to a size with ``resize_mode`` 1."""

    model_config = ConfigDict(extra="allow")

    resize_mode: int = 0
    upscaling_resize: float = 2.0
    upscaling_resize_w: int = 512
    upscaling_resize_h: int = 512
    upscaling_crop: bool = True
    upscaler_1: str = ""
    fit: str | None = None


class UpscaleOne(Upscale):
    image: str


class NamedPicture(BaseModel):
    data: str
    name: str = ""


class UpscaleSeveral(Upscale):
    imageList: list[NamedPicture]


class PngInfo(BaseModel):
    image: str


def add(api: APIRouter, studio: Studio, settings: Settings, ended: Ended) -> None:
    @api.post("/extra-single-image")
    async def enlarge(body: UpscaleOne, request: Request) -> Response:
        """Upscale a picture: `image` (Base64), `upscaling_resize` (a factor) or `resize_mode` 1 with a size,
        `upscaler_1`.
        """
        [picture], note = await upscale(body, [body.image], request, "image")
        return JSONResponse({"html_info": note, "image": picture}, headers=NOT_CACHED)

    @api.post("/extra-batch-images")
    async def enlarge_several(body: UpscaleSeveral, request: Request) -> Response:
        """Upscale several pictures: `imageList` of `data` (Base64) and `name`; they are returned as `images`."""
        if not 1 <= len(body.imageList) <= MOST_PICTURES:
            raise InvalidParams("imageList", message("some_pictures", most=MOST_PICTURES, got=len(body.imageList)))
        pictures, note = await upscale(body, [each.data for each in body.imageList], request, "imageList")
        return JSONResponse({"html_info": note, "images": pictures}, headers=NOT_CACHED)

    @api.post("/png-info")
    def png_info(body: PngInfo) -> Json:
        """The recipe in a picture (PNG, JPEG, WebP): `info` as A1111 writes it, `items` with the other texts."""
        with opened(decoded("image", body.image)) as picture:
            found = {name: text[:PNG_INFO_CHARS] for name, text in recipes.metadata_texts(picture).items()}
            text = recipes.a1111_text(picture)[:PNG_INFO_CHARS]
        items = found | ({recipes.A1111_KEY: text} if text else {})
        line = text.strip().rpartition("\n")[2]
        pairs = dict(recipes.parse_pairs(line)) if recipes.is_a1111(text) else {}
        return {"info": text, "items": items, "parameters": pairs}

    async def upscale(body: Upscale, pictures: list[str], request: Request, field: str) -> tuple[list[str], str]:
        """(the pictures in Base64, warnings)."""
        authority.check("submit")
        requests, note = await anyio.to_thread.run_sync(translate, studio, settings, body, pictures, field)
        try:
            receipts = await ended(requests, request)
        except InvalidParams as error:
            name = {"source": field, "scale": "upscaling_resize", "upscaler": "upscaler_1"}.get(
                error.option, error.field
            )
            raise InvalidParams(name, error.problem) from None
        return await anyio.to_thread.run_sync(results, studio, body, receipts), note


def translate(
    studio: Studio, settings: Settings, body: Upscale, pictures: list[str], field: str
) -> tuple[list[dict[str, Any]], str]:
    """(arguments of ``Studio.submit`` per picture, warnings). Raises InvalidParams."""
    extra = body.model_extra or {}
    check_neutral(extra, NEUTRAL)
    if extra.get("extras_upscaler_2_visibility"):
        check_neutral(extra, {"upscaler_2": ("", "None")})
    if body.resize_mode not in (0, 1):
        raise InvalidParams("resize_mode", message("one_of", known=[0, 1], got=body.resize_mode))
    if body.resize_mode == 1:
        for name in ("upscaling_resize_w", "upscaling_resize_h"):
            if not 1 <= getattr(body, name) <= LARGEST_SIDE:
                raise InvalidParams(name, message("range", low=1, high=LARGEST_SIDE, got=getattr(body, name)))
    upscaler: str | None = None if body.upscaler_1.lower() in NONE_NAMES else body.upscaler_1
    note = ""
    known = [LANCZOS, *(each.name for each in studio.adapters("upscaler"))]
    if upscaler and upscaler.casefold() not in {each.casefold() for each in known}:
        if is_strict(body.fit, settings.fit):
            raise InvalidParams("upscaler_1", message("one_of", known=known, got=echo(upscaler)))
        note = message("replaced", field="upscaler_1", got=echo(upscaler), to=LANCZOS)
        upscaler = LANCZOS
    requests = []
    for each in pictures:
        source = studio.sources.add(decoded(field, each), field)
        scale = body.upscaling_resize
        if body.resize_mode == 1:
            scale = scale_to(body, source.width, source.height)
        requests.append({"prompt": "", "kind": "upscale", "source": source.id, "scale": scale, "upscaler": upscaler})
    return requests, note


def scale_to(body: Upscale, width: int, height: int) -> float:
    """The factor that reaches the requested size, within the limits of upscaling."""
    factors = (body.upscaling_resize_w / width, body.upscaling_resize_h / height)
    low, high = OPTIONS["scale"].bounds
    return min(max((max if body.upscaling_crop else min)(factors), low), high)


def results(studio: Studio, body: Upscale, receipts: list[Receipt]) -> list[str]:
    """The pictures of ended jobs in Base64. Raises InvalidParams if one is missing."""
    made, missed = ended_jobs(studio, [job_id for each in receipts for job_id in each.job_ids])
    if missed:
        raise InvalidParams("image", message("not_enlarged", reason=why_not(missed[0])))
    return [in_base64(studio, body, image) for _, image in made]


def in_base64(studio: Studio, body: Upscale, image: Image) -> str:
    size = (body.upscaling_resize_w, body.upscaling_resize_h)
    if body.resize_mode == 0 or (image.width, image.height) == size:
        return base64_picture(studio, image)
    stored = studio.picture_file(image.id)
    with stored.open() as kept, PIL.open(kept) as picture, decoding_share(picture):
        fit = ImageOps.fit if body.upscaling_crop else ImageOps.contain
        fitted = fit(picture.convert("RGB"), size, PIL.Resampling.LANCZOS)
        texts = recipes.to_texts(image, image.facts)
        return base64.b64encode(encode(fitted, "png", texts=texts)).decode("ascii")


def opened(data: bytes) -> PIL.Image:
    """Open a picture; only its header is read. Raises InvalidParams if it is none."""
    try:
        return PIL.open(io.BytesIO(data), formats=INPUT_FORMATS)
    except (OSError, ValueError, SyntaxError, PIL.DecompressionBombError):
        raise InvalidParams("image", message("not_a_picture", formats=list(INPUT_FORMATS))) from None
