"""What A1111's clients ask for, as arguments of ``Studio.submit``.

What would change the picture and cannot be done is refused by name; what else is passed over is named in ``not_used``.
"""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from diffusion_local.errors import InvalidParams
from diffusion_local.options.samplers import SAMPLERS, SCHEDULES
from diffusion_local.options.values import whole_number
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import neutral
from diffusion_local.web.api.dialects.pictures import inverted, opened
from diffusion_local.web.api.uploads import decoded

MOST_PICTURES = 100
KARRAS = " Karras"
NONE = ("", "automatic", "none")
LORA = re.compile(r"<lora:([^<>:]+)(?::([^<>:]*))?(?::[^<>]*)?>")
OTHER_NETWORK = re.compile(r"<(hypernet|lyco):[^<>]*>")
#: What asks for nothing that we could not do.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alwayson_scripts": ({},),
    "enable_hr": (False,),
    "firstpass_image": ("",),
    "refiner_checkpoint": ("", "None"),
    "restore_faces": (False,),
    "resize_mode": (0,),
    "script_name": ("", "None"),
    "styles": ([],),
    "tiling": (False,),
}
OF_IMG2IMG: dict[str, tuple[Any, ...]] = {"include_init_images": (False,), "inpainting_fill": (0, 1)}
#: Says something about the answer or the saving, not about the picture.
WITHOUT_EFFECT = {"do_not_save_grid", "do_not_save_samples", "override_settings_restore_afterwards", "save_images"}
OPTIONS = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers")


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
    subseed: int | None = None
    subseed_strength: float | None = None
    clip_skip: int | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True


class Changed(Wanted):
    """What img2img takes beside that; a mask makes it inpainting."""

    init_images: list[str] = []
    mask: str | None = None
    inpainting_mask_invert: int | None = None
    denoising_strength: float | None = None


def read(studio: Studio, body: Wanted, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``Studio.submit``; pictures that came along are kept. ``options`` are the caller's own.

    Raises InvalidParams.
    """
    extra = body.model_extra or {}
    neutral(extra, NEUTRAL)
    if not isinstance(body, Changed):
        neutral(extra, {"init_images": ([],)})
    for name in ("batch_size", "n_iter"):
        value = getattr(body, name)
        if value is not None and not 1 <= value <= MOST_PICTURES:
            raise InvalidParams(name, f"must be from 1 to {MOST_PICTURES} (got {value}).")
    override = body.override_settings or {}
    checked_options(studio, override)
    set_up = options | override
    prompt, loras = without_loras(body.prompt)
    sampler, schedule = sampler_of(body)
    options = {
        "prompt": prompt,
        "negative": body.negative_prompt,
        "model": named_model(studio, set_up.get("sd_model_checkpoint")),
        "vae": named_vae(set_up.get("sd_vae")),
        "clip_skip": skipped(body.clip_skip if body.clip_skip is not None else set_up.get("CLIP_stop_at_last_layers")),
        "loras": loras or None,
        "width": body.width,
        "height": body.height,
        "steps": body.steps,
        "guidance": body.cfg_scale,
        "sampler": sampler,
        "schedule": schedule,
        "seed": body.seed,
        "count": (body.batch_size or 1) * (body.n_iter or 1),
    }
    if body.subseed_strength:
        options |= {"variation_seed": body.subseed, "variation_strength": body.subseed_strength}
    return options | (pictures_of(studio, body) if isinstance(body, Changed) else {})


def pictures_of(studio: Studio, body: Changed) -> dict[str, Any]:
    neutral(body.model_extra or {}, OF_IMG2IMG)
    if len(body.init_images) != 1:
        raise InvalidParams("init_images", f"must be one picture (got {len(body.init_images)}).")
    source = studio.sources.add(decoded("init_images", body.init_images[0]), "init_images").id
    found: dict[str, Any] = {"source": source, "strength": body.denoising_strength}
    if not body.mask:
        return found | {"kind": "img2img"}
    mask = decoded("mask", body.mask)
    if body.inpainting_mask_invert:
        with opened(studio.sources, mask, "mask") as picture:
            mask = inverted(picture)
    return found | {"kind": "inpaint", "mask": studio.sources.add(mask, "mask").id}


def without_loras(prompt: str) -> tuple[str, list[dict[str, Any]]]:
    """The prompt without ``<lora:name:0.8>``, and the LoRAs that it named. Raises InvalidParams."""
    if other := OTHER_NETWORK.search(prompt):
        raise InvalidParams("prompt", f"must not name {other[0][:50]!r}: only <lora:name:weight> is supported.")
    loras, texts, place = [], [], 0
    for found in LORA.finditer(prompt):
        loras.append({"name": found[1].strip(), "weight": weighed(found[2] or "")})
        texts.append(prompt[place : found.start()].strip())
        place = found.end()
    texts.append(prompt[place:].strip())
    return " ".join(filter(None, texts)), loras


def weighed(text: str) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        raise InvalidParams("prompt", f"must give a LoRA's weight as a number (got {text[:20]!r}).") from None


def skipped(layers: Any) -> int | None:
    """A1111 counts the layer to stop at: 1 is the last one, so that nothing is skipped. Raises InvalidParams."""
    if layers is None or layers in (0, 1):
        return None
    return int(layers) if isinstance(layers, int) else whole_number("clip_skip", layers, 0, 12)


def sampler_of(body: Wanted) -> tuple[str | None, str | None]:
    """(sampler, schedule). A pair that we know by one name goes by that. Raises InvalidParams."""
    sampler, wanted = body.sampler_name or body.sampler_index or "", (body.scheduler or "").lower().replace("_", " ")
    if sampler.lower() in NONE:
        sampler = ""
    if wanted in NONE or sampler.lower().endswith(f"{KARRAS} {wanted}".lower()):
        return sampler or None, None
    if wanted == "karras":
        if sampler.lower().endswith(KARRAS.lower()):
            return sampler, None
        if f"{sampler}{KARRAS}".lower() in (each.lower() for each in SAMPLERS):
            return sampler + KARRAS, None
    schedule = next((each for each in SCHEDULES if each.lower() == wanted), None)
    if schedule is None:
        raise InvalidParams("scheduler", f"must be one of {', '.join(SCHEDULES)} (got {wanted[:50]!r}).")
    return sampler or None, schedule


def checked_options(studio: Studio, options: dict[str, Any]) -> None:
    """Raises InvalidParams for a value that cannot be set."""
    neutral(options, {"samples_format": ("png",)})
    named_model(studio, options.get("sd_model_checkpoint"))
    vae, skip = named_vae(options.get("sd_vae")), options.get("CLIP_stop_at_last_layers")
    if vae and vae not in {each.name for each in studio.adapters("vae")}:
        raise InvalidParams("sd_vae", f"There is no VAE {vae[:100]!r}.")
    if skip is not None:
        whole_number("CLIP_stop_at_last_layers", skip, 0, 12)


def named_model(studio: Studio, name: Any) -> str | None:
    """The model that an option names, with or without a file's ending. Raises InvalidParams."""
    if not name:
        return None
    known = [each.id for each in studio.models()]
    for model_id in known:
        if str(name) in (model_id, f"{model_id}.safetensors"):
            return model_id
    raise InvalidParams("sd_model_checkpoint", f"There is no model {str(name)[:100]!r}. Known: {', '.join(known)}.")


def named_vae(name: Any) -> str | None:
    text = str(name or "").removesuffix(".safetensors")
    return None if text.lower() in NONE else text
