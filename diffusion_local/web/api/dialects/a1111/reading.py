"""What A1111's clients ask for, as arguments of ``Studio.submit``.

What would change the picture and cannot be done is refused by name; what else is passed over is named in ``not_used``.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from diffusion_local.domain import Kind
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.option import Option
from diffusion_local.options.samplers import SCHEDULES, paired, schedule_named
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import OPTIONS, PICTURES
from diffusion_local.options.values import whole_number
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import neutral
from diffusion_local.web.api.dialects.pictures import inverted, opened
from diffusion_local.web.api.schemas import field_of
from diffusion_local.web.api.uploads import decoded

MOST_PICTURES = 100
NONE = ("", "automatic", "none")
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
SETTABLE = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers")
LEAST_SKIPPED, MOST_SKIPPED = map(int, OPTIONS["clip_skip"].bounds)


#: Options that this dialect has ways of its own for: in the prompt, in options, or by another route.
ITS_OWN = ("model", "kind", "loras", "vae", *PICTURES)


def name_of(option: Option) -> str:
    return option.web_api or option.name


def options_for(kind: Kind, *others: Kind) -> dict[str, Any]:
    """A field for each option that applies to this kind of work, and to none of the others, under A1111's name."""
    return {
        name_of(each): field_of(each)
        for each in options_of(without=ITS_OWN)
        if kind in each.kinds and not set(others) & set(each.kinds)
    }


class Common(BaseModel):
    """What is the same in every call."""

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    sampler_index: str | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True


class Pictures(BaseModel):
    """What img2img takes beside that; a mask makes it inpainting."""

    init_images: list[str] = []
    mask: str | None = None
    inpainting_mask_invert: int | None = None


Wanted: Any = create_model("Wanted", __base__=Common, **options_for(Kind.TXT2IMG))
Changed: Any = create_model("Changed", __base__=(Pictures, Wanted), **options_for(Kind.IMG2IMG, Kind.TXT2IMG))


def read(studio: Studio, body: Any, set_before: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``Studio.submit``; pictures that came along are kept. ``set_before`` are the caller's own options.

    ``body`` is a ``Wanted``. Raises InvalidParams.
    """
    extra = body.model_extra or {}
    neutral(extra, NEUTRAL)
    if not isinstance(body, Pictures):
        neutral(extra, {"init_images": ([],)})
    for name in ("batch_size", "n_iter"):
        value = getattr(body, name)
        if value is not None and not 1 <= value <= MOST_PICTURES:
            raise InvalidParams(name, message("range", low=1, high=MOST_PICTURES, got=value))
    override = body.override_settings or {}
    checked_options(studio, override)
    set_up = set_before | override
    sampler, schedule = sampler_of(body)
    skip = body.clip_skip if body.clip_skip is not None else set_up.get("CLIP_stop_at_last_layers")
    declared = type(body).model_fields  # clients send img2img's fields to txt2img, too
    taken = [each for each in options_of(without=ITS_OWN) if name_of(each) in declared]
    given = {each.name: getattr(body, name_of(each)) for each in taken}
    given |= {
        "prompt": body.prompt,
        "model": named_model(studio, set_up.get("sd_model_checkpoint")),
        "vae": named_vae(set_up.get("sd_vae")),
        "clip_skip": skipped(skip),
        "sampler": sampler,
        "schedule": schedule,
        "count": (body.batch_size or 1) * (body.n_iter or 1),
    }
    if not body.subseed_strength:  # A1111 sends a subseed with every call
        given |= {"variation_seed": None, "variation_strength": None}
    return given | (pictures_of(studio, body) if isinstance(body, Pictures) else {})


def pictures_of(studio: Studio, body: Any) -> dict[str, Any]:
    neutral(body.model_extra or {}, OF_IMG2IMG)
    if len(body.init_images) != 1:
        raise InvalidParams("init_images", message("one_picture", got=len(body.init_images)))
    source = studio.sources.add(decoded("init_images", body.init_images[0]), "init_images").id
    found: dict[str, Any] = {"source": source}
    if not body.mask:
        return found | {"kind": "img2img"}
    mask = decoded("mask", body.mask)
    if body.inpainting_mask_invert:
        with opened(studio.sources, mask, "mask") as picture:
            mask = inverted(picture)
    return found | {"kind": "inpaint", "mask": studio.sources.add(mask, "mask").id}


def skipped(layers: Any) -> int | None:
    """A1111 counts the layer to stop at: 1 is the last one, so that nothing is skipped. Raises InvalidParams."""
    if layers is None or layers in (0, 1):
        return None
    return int(layers) if isinstance(layers, int) else OPTIONS["clip_skip"].of(layers)


def sampler_of(body: Any) -> tuple[str | None, str | None]:
    """(sampler, schedule). A pair that we know by one name goes by that. Raises InvalidParams."""
    sampler, wanted = body.sampler_name or body.sampler_index or "", body.scheduler or ""
    if sampler.lower() in NONE:
        sampler = ""
    if wanted.lower() in NONE:
        return sampler or None, None
    schedule = schedule_named(wanted)
    if not schedule:
        raise InvalidParams("scheduler", message("one_of", known=list(SCHEDULES), got=echo(wanted)))
    sampler, schedule = paired(sampler, schedule)
    return sampler or None, schedule or None


def checked_options(studio: Studio, options: dict[str, Any]) -> None:
    """Raises InvalidParams for a value that cannot be set."""
    neutral(options, {"samples_format": ("png",)})
    named_model(studio, options.get("sd_model_checkpoint"))
    vae, skip = named_vae(options.get("sd_vae")), options.get("CLIP_stop_at_last_layers")
    if vae and vae not in {each.name for each in studio.adapters("vae")}:
        raise InvalidParams("sd_vae", message("no_vae", name=echo(vae)))
    if skip is not None:
        whole_number("CLIP_stop_at_last_layers", skip, LEAST_SKIPPED, MOST_SKIPPED)


def named_model(studio: Studio, name: Any) -> str | None:
    """The model that an option names, with or without a file's ending. Raises InvalidParams."""
    if not name:
        return None
    known = [each.id for each in studio.models()]
    for model_id in known:
        if str(name) in (model_id, f"{model_id}.safetensors"):
            return model_id
    raise InvalidParams("sd_model_checkpoint", message("no_model", model=echo(name), known=list(known)))


def named_vae(name: Any) -> str | None:
    text = str(name or "").removesuffix(".safetensors")
    return None if text.lower() in NONE else text
