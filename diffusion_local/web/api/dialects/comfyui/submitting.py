"""Turns a graph's plan into arguments of ``Studio.submit``: finds files by name, creates masks, applies the model's
limits.
"""

import io
import json
import re
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi import Request
from PIL import Image as PIL
from PIL import ImageChops, ImageFilter, ImageOps
from starlette.datastructures import UploadFile

from diffusion_local import families, image_decoding
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.values import SOURCE_ID, ULID
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases, adapt
from diffusion_local.web.api.dialects.calls import PerAccount
from diffusion_local.web.api.dialects.comfyui import checking
from diffusion_local.web.api.dialects.comfyui.checking import Fault
from diffusion_local.web.api.dialects.comfyui.node_values import (
    Control,
    Mask,
    Picture,
    Plan,
    Reference,
    Refused,
    Work,
    invalid_graph,
)
from diffusion_local.web.api.dialects.comfyui.nodes import Names
from diffusion_local.web.api.dialects.pictures import as_png
from diffusion_local.web.api.uploads import media_type

MOST_NESTED = 64
SHORT_ID = 100


async def json_of(request: Request, empty: bool = False) -> Json:
    """The body as a JSON object; its media type is ignored, because clients often send none. Raises InvalidParams."""
    data = await request.body()
    if empty and not data.strip():
        return {}
    return await anyio.to_thread.run_sync(parsed, data, "body")


def parsed(data: bytes | str, field: str) -> Json:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidParams(field, message("json_body")) from None
    if not isinstance(body, dict):
        raise InvalidParams(field, message("json_object"))
    if deeper(body, MOST_NESTED):
        raise InvalidParams(field, message("json_nested", most=MOST_NESTED))
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate can be neither stored nor sent back
        raise InvalidParams(field, message("half_character")) from None
    return body


def deeper(value: Any, most: int) -> bool:
    """Whether a value is nested deeper than ``most``; without recursion."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        if not level:
            return False
    return True


def text_of(body: Json, name: str) -> str:
    """A short text field of a body, "" if absent. Raises InvalidParams."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidParams(name, message("text"))
    if len(value) > SHORT_ID or not value.isprintable():
        raise InvalidParams(name, message("too_long", most=SHORT_ID, got=len(value)))
    return value


def ids_of(body: Json) -> list[str]:
    found = body.get("delete", [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidParams("delete", message("job_ids_list"))
    return found


async def form_of(request: Request) -> tuple[str, bytes, str]:
    """(name, bytes, original_ref) of an upload. Raises InvalidParams."""
    if media_type(request) != "multipart/form-data":
        raise InvalidParams("image", message("form_file"))
    async with request.form(max_files=1, max_fields=10) as form:
        file, reference = form.get("image"), form.get("original_ref", "")
        if not isinstance(file, UploadFile):
            raise InvalidParams("image", message("form_file"))
        name = (file.filename or "")[:SHORT_ID]
        return name if name.isprintable() else "", await file.read(), reference if isinstance(reference, str) else ""


ANNOTATION = re.compile(r" \[(input|output|temp)\]$")
FACTOR = re.compile(r"(?<![0-9a-z])(?:([2-8])x|x([2-8]))(?![0-9])", re.IGNORECASE)
#: The model name in Open WebUI's workflow until somebody has chosen one.
PLACEHOLDER = "model.safetensors"
OWN_PARTS = ("from the model",)


def names_of(studio: Studio, aliases: Aliases) -> Names:
    """Names that nodes' choices offer to the current actor."""

    def alias(name: str) -> str | None:
        stands_for = "" if name in ("", PLACEHOLDER) else aliases.get(name)
        return models[0].id if models and stands_for == "" else stands_for

    models = [each for each in studio.models() if each.ready]
    kinds = ("lora", "vae", "upscaler", "control", "ip_adapter", "image_encoder")
    files = {kind: tuple(each.name for each in studio.adapters(kind)) for kind in kinds}
    return Names(
        {
            "models": tuple(each.id for each in models),
            "loras": files["lora"],
            "vaes": (*files["vae"], *OWN_PARTS),
            "clips": OWN_PARTS,
            "upscalers": files["upscaler"],
            "controls": files["control"],
            "ip_adapters": files["ip_adapter"],
            "clip_visions": files["image_encoder"],
            "images": (),
        },
        alias,
    )


@dataclass(frozen=True, slots=True)
class Uploads:
    """Ids of uploaded pictures by the file names under which a caller sent them; lost on restart."""

    remembered: PerAccount[str]

    def source_id(self, studio: Studio, name: str) -> str | None:
        """The id of the source picture that a name refers to: our name of an upload, a gallery picture's name, or the
        caller's own file name. None if there is none.
        """
        text = ANNOTATION.sub("", name.strip())
        stem = text.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
        try:
            if SOURCE_ID.fullmatch(stem):
                studio.sources.file(stem)  # raises NotFound unless it exists and belongs to the caller
                return stem
            if ULID.fullmatch(stem):
                return studio.sources.from_image(stem).id
        except NotFound:
            return None
        return self.remembered[text] if text else None


def options_of(studio: Studio, plan: Plan, uploads: Uploads, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """(arguments of ``Studio.submit``, warnings). Raises Refused."""
    work, warnings = plan.work, list(plan.warnings)
    options = dict(work.options)
    if work.model is not None:
        model = next(each for each in studio.models() if each.id == work.model.name)
        guidance(options, model, warnings)
        steps(options, model)
        fitted = adapt(model, options, strict, {"sampler": "sampler_name", "schedule": "scheduler"})
        options = fitted.options
        warnings += fitted.warnings
        vae(options, work, [each.name for each in studio.adapters("vae")], warnings)
    elif factor := FACTOR.search(str(options["upscaler"])):  # names of upscale models contain their factor
        options["scale"] = float(factor[1] or factor[2])
    if work.picture is not None:
        options["source"] = resolve_source(studio, work.picture, uploads)
    if work.controls:
        options["controls"] = [control(studio, each, uploads) for each in work.controls]
    if work.references:
        options["references"] = [reference(studio, each, uploads) for each in work.references]
    if work.mask is not None:
        options["mask"] = studio.sources.add(draw_mask(studio, work.mask, uploads), "mask").id
    return options, warnings


def control(studio: Studio, control: Control, uploads: Uploads) -> dict[str, Any]:
    """An entry of the option ``controls``. Raises Refused."""
    assert control.picture is not None
    fields = {"type": control.picture.preprocessor, "model": control.name, "mode": control.mode}
    numbers = {"weight": control.weight, "start": control.start, "end": control.end}
    image = {"image": resolve_source(studio, control.picture, uploads)}
    return image | {name: each for name, each in fields.items() if each} | numbers


def reference(studio: Studio, reference: Reference, uploads: Uploads) -> dict[str, Any]:
    """An entry of the option ``references``. Raises Refused, Overloaded."""
    made = {"image": resolve_source(studio, reference.picture, uploads)} | reference.values
    if reference.mask is not None:
        made["mask"] = studio.sources.add(draw_mask(studio, reference.mask, uploads), "mask").id
    return made


def guidance(options: dict[str, Any], model: Model, warnings: list[str]) -> None:
    """Set ``guidance`` from ``cfg`` or FluxGuidance, whichever the model uses; append warnings for the other."""
    cfg = options.pop("cfg")
    if families.get(model.family).negative:
        if "guidance" in options:
            warnings.append(message("no_distilled_guidance", model=model.id))
        options["guidance"] = cfg
        return
    if cfg != 1 and "guidance" not in options:
        warnings.append(message("distilled_guidance", model=model.id))
    if options["negative"]:
        warnings.append(message("distilled_negative", model=model.id))
    options["negative"] = ""


def steps(options: dict[str, Any], model: Model) -> None:
    """Scale the steps: ComfyUI runs all of them at any denoise strength, here a lower strength runs fewer."""
    strength = options.get("strength", 1.0)
    if strength < 1:
        count = max(1, round(options["steps"] / strength))
        options["steps"] = max(options["steps"], min(count, model.limits.max_steps))


def vae(options: dict[str, Any], work: Work, known: list[str], warnings: list[str]) -> None:
    if not work.vae.name or work.vae.name in OWN_PARTS:
        return
    name = checking.find_choice(work.vae.name, tuple(known))
    if name:
        options["vae"] = name
    elif work.model and work.model.split:
        warnings.append(message("own_vae", name=work.vae.name))
    else:
        raise invalid_graph([checking.not_in_list(work.vae.node_id, "vae_name", work.vae.name, (*known, *OWN_PARTS))])


def resolve_source(studio: Studio, picture: Picture | Mask, uploads: Uploads) -> str:
    source_id = uploads.source_id(studio, picture.name)
    if source_id is None:
        details = f"image - Invalid image file: {checking.shortened(picture.name)}"
        extra = {"input_name": "image", "received_value": checking.shortened(picture.name)}
        problem = "Custom validation failed for node"
        raise invalid_graph([Fault(picture.node_id, "custom_validation_failed", problem, details, extra)])
    if isinstance(picture, Picture) and picture.scaling:
        return studio.sources.add(scale(studio.sources.file(source_id).read_bytes(), picture)).id
    return source_id


#: Pillow's filters by ComfyUI's names.
FILTERS = {
    "nearest-exact": PIL.Resampling.NEAREST, "bilinear": PIL.Resampling.BILINEAR, "area": PIL.Resampling.BOX,
    "bicubic": PIL.Resampling.BICUBIC, "lanczos": PIL.Resampling.LANCZOS,
}  # fmt: skip
#: Longest side in pixels of a loaded picture after scaling.
LONGEST_SIDE = 8192


def scale(data: bytes, picture: Picture) -> bytes:
    """A loaded picture as a node scales it, as PNG. Raises Refused for a result that is too large."""
    scaling = picture.scaling
    assert scaling is not None
    with PIL.open(io.BytesIO(data)) as whole, image_decoding.share(whole):
        size, method = scaling.size_of(whole.size), FILTERS[scaling.method]
        if max(size) > LONGEST_SIDE:
            details = "image - the picture would be {}x{} after scaling, at most {most}x{most}".format(
                *size, most=LONGEST_SIDE
            )
            raise invalid_graph([Fault(picture.node_id, "custom_validation_failed", "Picture too large", details)])
        made = ImageOps.fit(whole, size, method) if scaling.crop else whole.resize(size, method)
    return as_png(made)


def draw_mask(studio: Studio, mask: Mask, uploads: Uploads) -> bytes:
    """A mask as a PNG, white where it is repainted. Raises Refused, Overloaded."""
    data = studio.sources.file(resolve_source(studio, mask, uploads)).read_bytes()
    with PIL.open(io.BytesIO(data)) as picture, image_decoding.share(picture):
        if mask.channel == "alpha":
            white = ImageOps.invert(picture.convert("RGBA").getchannel("A"))
        else:
            white = picture.convert("RGB").getchannel(mask.channel[0].upper())
        if mask.grow > 1:
            white = white.filter(ImageFilter.MaxFilter(mask.grow | 1))
        if white.getextrema() == (0, 0):
            details = f"image - the mask is empty: nothing of {mask.channel} is painted anew"
            raise invalid_graph([Fault(mask.node_id, "custom_validation_failed", "Empty mask", details)])
        return as_png(white)


def with_alpha(picture: bytes, mask: bytes) -> bytes:
    """A picture as a PNG with the alpha channel of another, as sent by the mask editor. Raises InvalidParams."""
    with PIL.open(io.BytesIO(picture)) as whole, image_decoding.share(whole):
        whole_rgb = whole.convert("RGB")
    with PIL.open(io.BytesIO(mask)) as drawn, image_decoding.share(drawn):
        alpha = drawn.convert("RGBA").getchannel("A")
    if alpha.size != whole_rgb.size:
        alpha = ImageChops.duplicate(alpha).resize(whole_rgb.size)
    whole_rgb.putalpha(alpha)
    return as_png(whole_rgb)


def graph_error(plan: Plan, graph: dict[str, Any], error: InvalidParams) -> Refused:
    """An error of the Studio, assigned to the node that caused it."""
    renamed = {"source": "image", "mask": "image", "loras": "lora_name"}
    origins, entry = plan.work.origins, error.field.partition(".")[0]
    node_id, key = (
        origins.get(entry) or origins.get(error.option) or (plan.work.node_id, renamed.get(error.option, error.field))
    )
    value = checking.inputs_of(graph.get(node_id)).get(key)
    extra = {"input_name": key, "received_value": checking.shortened(value)}
    details = f"{key}: {error.problem}"
    return invalid_graph([Fault(node_id, "custom_validation_failed", "Value not possible here", details, extra)])
