"""Validates a prompt and options, and completes them to Params within a model's limits."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diffusion_local.errors import Faults, InvalidParams, NotFound, echo
from diffusion_local.grammar import tags
from diffusion_local.messages import message
from diffusion_local.options import values
from diffusion_local.options.hires import LANCZOS, MAX_TILES, MIN_TILE, Size, enlarged, tile_count
from diffusion_local.options.inpaint import INPAINT_AREAS, margins
from diffusion_local.options.limits import FOLLOW_MODEL, Defaults, Limits, check_size, nearest_size
from diffusion_local.options.samplers import DIFFUSION, Sampling, check_sampler, check_schedule
from diffusion_local.options.table import OPTIONS, PICTURES, RECORDS, SETTINGS, Params, refused_options
from diffusion_local.options.types import Kind, Lora, Record

#: Returns (width, height) of a source picture by id; raises InvalidParams or NotFound.
SizeOf = Callable[[str], tuple[int, int]]

STRENGTHS = {Kind.IMG2IMG: OPTIONS["strength"].initial, Kind.INPAINT: 1.0}
MAX_UPSCALED_SIDE = 16384
MAX_UPSCALED_PIXELS = 8192 * 8192
#: Tile side of an upscaler, in pixels of the source.
TILE = 512


def with_pictures(settings: Mapping[str, Any], keep: Callable[[str, str], str]) -> dict[str, Any]:
    """Replace the pictures in options by ``keep(name of the field, picture)``, which returns an id.

    A picture is text, in the form in which a caller sends it. Other values are unchanged, including pictures that are
    not text, which ``complete`` refuses. Raises InvalidParams.
    """
    done = dict(settings)
    for name in PICTURES:
        if isinstance(text := settings.get(name), str) and text:
            done[name] = keep(name, text.strip())
    for name, record in RECORDS.items():
        if settings.get(name):
            done[name] = [
                each
                | {
                    part: keep(values.entry(name, place, part), text.strip())
                    for part in record.pictures
                    if (text := text_of(each.get(part)))
                }
                for place, each in enumerate(values.record_values(name, settings[name], record))
            ]
    return done


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def check_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not None. Raises InvalidParams for an unknown name."""
    chosen = {name: value for name, value in settings.items() if value is not None}
    for name in chosen:
        if name not in SETTINGS:
            raise InvalidParams(name, message("not_a_field", known=list(SETTINGS)))
    return chosen


def complete(
    model_id: str,
    defaults: Defaults,
    limits: Limits,
    prompt: str,
    settings: Mapping[str, Any],
    size_of: SizeOf,
    sampling: Sampling = DIFFUSION,
) -> Params:
    """Params with defaults for all options that ``settings`` lacks.

    Options that depend on the model, the kind of work or each other are resolved here; others are validated as declared
    in the table. Raises InvalidParams naming all invalid values.
    """
    kind = infer_kind(settings)
    faults = Faults()
    for name in refused_options(kind):
        with faults:
            if is_given(value := settings.get(name)) and value != OPTIONS[name].default:
                raise InvalidParams(name, message("foreign_kind", kind=kind))
    negative = settings.get("negative", "")
    with faults:
        values.check_prompt("prompt", prompt, required=kind is not Kind.UPSCALE)
    with faults:
        values.check_prompt("negative", negative)
    done: dict[str, Any] = {"kind": kind, "model": model_id}
    size = (defaults.width, defaults.height)
    if kind is not Kind.TXT2IMG:
        with faults:
            done["source"] = values.check_needed_source("source", settings.get("source"), kind)
            size = source_size("source", done["source"], size_of)
    with faults:
        done["seed"] = values.check_integer("seed", settings["seed"], 0, values.MAX_SEED)
    if kind is Kind.UPSCALE:
        with faults:
            done |= upscaling_options(size, settings)
    else:
        done |= denoising_options(kind, size, model_id, defaults, limits, sampling, settings, size_of, faults)
    for name, option in OPTIONS.items():
        if name not in done and name not in ("prompt", "negative", *FOLLOW_MODEL, "source", "mask", "seed"):
            with faults:
                done[name] = option.validate(settings.get(name)) if kind in option.kinds else option.default
    for name in RECORDS:
        with faults:
            check_pictures(name, done.get(name, ()), size_of)
    faults.check()
    done |= {name: each.default for name, each in OPTIONS.items() if each.needs and not done[each.needs]}
    done |= {"prompt": prompt.strip(), "negative": negative.strip()}
    return Params(**{name: option.default for name, option in OPTIONS.items() if name not in done} | done)


def denoising_options(
    kind: Kind,
    size: tuple[int, int],
    model_id: str,
    defaults: Defaults,
    limits: Limits,
    sampling: Sampling,
    settings: Mapping[str, Any],
    size_of: SizeOf,
    faults: Faults,
) -> dict[str, Any]:
    """Options of a picture that a model denoises. ``size``: the model's default, or the source's."""
    done: dict[str, Any] = {}
    if kind in STRENGTHS:
        whole = size
        with faults:
            done["strength"] = value_or("strength", settings, STRENGTHS[kind])
        if kind is Kind.INPAINT:
            with faults:
                done["mask"] = check_mask(settings, whole, size_of)
            with faults:
                whole = extended_size(settings, whole)
        only_masked = kind is Kind.INPAINT and value_or("inpaint_area", settings, INPAINT_AREAS[0]) == INPAINT_AREAS[1]
        size = (defaults.width, defaults.height) if only_masked else nearest_size(*whole, limits)
    with faults:
        done["width"], done["height"] = check_size(
            settings.get("width", size[0]), settings.get("height", size[1]), limits, model_id
        )
        if settings.get("outpaint") and not only_masked:
            check_frame_shape((done["width"], done["height"]), whole, limits, settings)
    sampler, schedule = "", ""
    with faults:
        wanted = settings.get("sampler")
        sampler, schedule = check_sampler(wanted if is_given(wanted) else defaults.sampler, sampling)
        done["sampler"] = sampler
    with faults:
        done["steps"] = values.check_integer("steps", settings.get("steps", defaults.steps), 1, limits.max_steps)
    with faults:
        done["guidance"] = values.check_number(
            "guidance", settings.get("guidance", defaults.guidance), 0.0, limits.max_guidance
        )
    with faults:
        if sampler:
            done["schedule"] = check_schedule(settings.get("schedule") or schedule, sampler, sampling)
    with faults:
        done["variation_seed"] = variation_seed(settings)
    if "width" in done and kind in OPTIONS["hires_scale"].kinds:
        with faults:
            check_second_pass((done["width"], done["height"]), limits, model_id, settings)
    return done


def check_mask(settings: Mapping[str, Any], size: Size, size_of: SizeOf) -> str:
    """The mask for a source of this size; "" if none is given and the picture is extended. Raises InvalidParams."""
    if not settings.get("mask") and settings.get("outpaint"):
        if not margins(OPTIONS["outpaint"].validate(settings["outpaint"]), size):
            raise InvalidParams("outpaint", message("outpaint_nothing"))
        return ""
    mask = values.check_needed_source("mask", settings.get("mask"), Kind.INPAINT)
    width, height = source_size("mask", mask, size_of)
    # the same aspect ratio, except for a pixel of rounding in a smaller mask
    if abs(width * size[1] - height * size[0]) > max(*size, width, height):
        raise InvalidParams("mask", message("mask_shape", got=f"{width}x{height}", size=f"{size[0]}x{size[1]}"))
    return mask


def extended_size(settings: Mapping[str, Any], size: Size) -> Size:
    """The size of a source with the margins painted around it. Raises InvalidParams."""
    width, height = margins(OPTIONS["outpaint"].validate(settings.get("outpaint")), size).extended(size)
    check_upscaled_size("outpaint", width, height)
    return width, height


def check_frame_shape(size: Size, whole: Size, limits: Limits, settings: Mapping[str, Any]) -> None:
    """Raise InvalidParams if scaling an extended picture to ``size`` would cut off more than rounding explains."""
    scale = max(size[0] / whole[0], size[1] / whole[1])
    cut = max(whole[0] * scale - size[0], whole[1] * scale - size[1])
    if cut <= limits.multiple * max(1, (max(whole) / min(whole) + 1) / 2):
        return
    slots = {"whole": f"{whole[0]}x{whole[1]}", "got": f"{size[0]}x{size[1]}"}
    named = next((name for name in ("width", "height") if settings.get(name) is not None), "outpaint")
    raise InvalidParams(named, message("outpaint_shape", **slots))


def check_upscaled_size(field: str, width: int, height: int) -> None:
    if max(width, height) > MAX_UPSCALED_SIDE or width * height > MAX_UPSCALED_PIXELS:
        most = {"pixels": MAX_UPSCALED_PIXELS, "side": MAX_UPSCALED_SIDE}
        raise InvalidParams(field, message("upscaled_size", **most, got=f"{width}x{height}"))


def check_second_pass(size: Size, limits: Limits, model_id: str, settings: Mapping[str, Any]) -> None:
    """Check the size of a second pass and of its tiles. ``size`` is that of the first pass. Raises InvalidParams."""
    scale, tile = (OPTIONS[name].validate(settings.get(name)) for name in ("hires_scale", "hires_tile"))
    if not scale:
        return
    if scale < 1:
        raise InvalidParams("hires_scale", message("hires_least", got=scale))
    width, height = enlarged(size, scale)
    got = f"{width}x{height}"
    check_upscaled_size("hires_scale", width, height)
    if not tile:
        if width * height > limits.max_pixels:
            raise InvalidParams("hires_scale", message("hires_size", most=limits.max_pixels, model=model_id, got=got))
        return
    least = max(MIN_TILE, limits.min_size)
    if not least <= tile <= limits.max_size or tile % limits.multiple:
        raise InvalidParams(
            "hires_tile", message("hires_tile", low=least, high=limits.max_size, multiple=limits.multiple, got=tile)
        )
    if (count := tile_count(width, tile) * tile_count(height, tile)) > MAX_TILES:
        raise InvalidParams("hires_tile", message("hires_tiles", most=MAX_TILES, got=count))


def value_or(name: str, settings: Mapping[str, Any], default: Any) -> Any:
    """The validated value of an option, or ``default`` if absent. Zero counts as a value."""
    value = settings.get(name)
    return default if value is None or value == "" else OPTIONS[name].validate(value)


def variation_seed(settings: Mapping[str, Any]) -> int | None:
    """The variation seed, random by default; None if no noise is mixed in."""
    if not OPTIONS["variation_strength"].validate(settings.get("variation_strength")):
        return None
    seed = settings.get("variation_seed")
    drawn = values.draw_seed() if seed is None or str(seed) == "-1" else seed
    return values.check_integer("variation_seed", drawn, 0, values.MAX_SEED)


def upscaling_options(size: tuple[int, int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an upscale. Width and height are the result's; a step is a tile of the source."""
    scale = value_or("scale", settings, OPTIONS["scale"].initial)
    width, height = (round(side * scale) for side in size)
    check_upscaled_size("scale", width, height)
    upscaler = value_or("upscaler", settings, LANCZOS)
    upscaler = LANCZOS if upscaler.casefold() == LANCZOS.casefold() else upscaler
    return {
        "width": width,
        "height": height,
        "steps": 1 if upscaler == LANCZOS else math.ceil(size[0] / TILE) * math.ceil(size[1] / TILE),
        "guidance": 0.0,
        "sampler": "",
        "upscaler": upscaler,
        "scale": scale,
    }


def ignored_warnings(params: Params, settings: Mapping[str, Any]) -> list[str]:
    """A warning for each given option that does not apply to this kind of work, or lacks the option that it needs."""
    warnings: list[str] = []
    for name, option in OPTIONS.items():
        value = settings.get(name)
        if name in refused_options(params.kind) or not is_given(value) or value == option.default:
            continue
        if params.kind not in option.kinds:
            warnings.append(message("no_effect", name=name, kind=params.kind))
        elif option.needs and not getattr(params, option.needs) and str(value) != "-1":
            warnings.append(message("no_effect_without", name=name, needed=option.needs))
    return warnings


def is_given(value: Any) -> bool:
    return value is not None and value not in ("", (), [])


def seed_series(params: Params, count: int) -> list[Params]:
    """``count`` pictures with consecutive seeds; for a variation, only the variation seed counts up.

    Raises InvalidParams if the last seed would be too large.
    """
    varied = params.variation_seed is not None
    first = params.variation_seed if params.variation_seed is not None else params.seed
    if first + count - 1 > values.MAX_SEED:
        field = "variation_seed" if varied else "seed"
        raise InvalidParams(field, message("seed_most", most=values.MAX_SEED - count + 1, count=count))
    if varied:
        return [replace(params, variation_seed=first + place) for place in range(count)]
    return [replace(params, seed=first + place) for place in range(count)]


def source_size(field: str, source_id: str, size_of: SizeOf) -> tuple[int, int]:
    try:
        return size_of(source_id)
    except NotFound:
        raise InvalidParams(field, message("source_not_kept", source=source_id)) from None


def check_pictures(field: str, records: tuple[Record, ...], size_of: SizeOf) -> None:
    """Raise InvalidParams unless all pictures of an option exist and their total size is allowed."""
    sizes = [
        source_size(values.entry(field, place, name), getattr(record, name), size_of)
        for place, record in enumerate(records)
        for name in record.pictures
        if getattr(record, name)
    ]
    pixels = sum(width * height for width, height in sizes)
    if pixels > values.MAX_PICTURES_MEGAPIXELS * 1_000_000:
        raise InvalidParams(
            field, message("megapixels_together", most=values.MAX_PICTURES_MEGAPIXELS, got=round(pixels / 1e6, 1))
        )


def extract_lora_tags(params: Params) -> Params:
    """Move ``<lora:name:weight>`` tags from the prompt to the LoRAs.

    Tags in the negative prompt are removed without effect, as in A1111. Raises InvalidParams.
    """
    lora_tags = tags.find_tags(params.prompt)
    prompt, negative = tags.remove_tags(params.prompt), tags.remove_tags(params.negative)
    if not lora_tags and negative == params.negative:
        return params
    for field, text in (("prompt", prompt), ("negative", negative)):
        if tags.find_tags(text):
            raise InvalidParams(field, message("tag_within"))
    values.check_prompt("prompt", prompt, required=params.kind is not Kind.UPSCALE)
    loras = values.check_loras("loras", [*params.loras, *map(lora_from_tag, lora_tags)])
    return replace(params, prompt=prompt, negative=negative, loras=loras)


def lora_from_tag(tag: tags.Tag) -> Lora:
    """The LoRA of a tag. Raises InvalidParams."""
    if tag.kind not in tags.LORA_TAGS:
        raise InvalidParams("prompt", message("only_loras", name=echo(tag.to_text())))
    try:
        weight = float(tag.weight or 1)
    except ValueError:
        raise InvalidParams("prompt", message("lora_number", got=echo(tag.weight))) from None
    return values.check_lora("loras", {"name": tag.name, "weight": weight})


def infer_kind(settings: Mapping[str, Any]) -> Kind:
    """The given kind of work, or the one that the given pictures imply."""
    if not settings.get("kind"):
        return (
            Kind.INPAINT
            if settings.get("mask") or settings.get("outpaint")
            else Kind.IMG2IMG
            if settings.get("source")
            else Kind.TXT2IMG
        )
    return Kind(values.check_choice("kind", settings["kind"], tuple(Kind)))
