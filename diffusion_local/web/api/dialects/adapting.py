"""Adapts requests of other tools' clients to what the models here support. Each change is reported as a warning.

Such clients name models, samplers and sizes that may not exist here, often as defaults that nobody chose. With ``fit``
"strict" nothing is adapted, and the Studio refuses unsupported values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import isqrt
from typing import Any

from diffusion_local import families
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import Message, message
from diffusion_local.models.catalog import Model
from diffusion_local.options.hires import enlarged
from diffusion_local.options.limits import nearest_size
from diffusion_local.options.samplers import Sampling, closest_sampler, closest_schedule
from diffusion_local.options.types import Kind

FITS = ("nearest", "strict")
MAX_REQUESTED_SIDE = 16384  # pixels; a larger side is a mistake, and refused
SIZE_TEXT = re.compile(r"(\d{1,5})\s*[xX×*]\s*(\d{1,5})", re.ASCII)


@dataclass(slots=True)
class Adapted:
    """Arguments of ``Studio.submit``, and warnings about changed and ignored values."""

    options: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Aliases:
    """Aliases of models: name or pattern -> model id, "" for the default model."""

    names: Mapping[str, str]

    @classmethod
    def parse(cls, setting: str) -> "Aliases":
        """Read ``name=model, name, pattern*=model``."""
        models = {}
        for each in setting.split(","):
            name, _, model = each.partition("=")
            if name.strip():
                models[name.strip().casefold()] = model.strip()
        return cls(models)

    @property
    def listed(self) -> list[str]:
        """The names that are not patterns."""
        return [name for name in self.names if not set(name) & set("*?[")]

    def get(self, name: str) -> str | None:
        """The model id of an alias; None if it is not an alias."""
        folded = name.casefold()
        if folded in self.names:
            return self.names[folded]
        return next((model for pattern, model in self.names.items() if fnmatchcase(folded, pattern)), None)


def model_named(models: Sequence[Model], name: Any, aliases: Aliases, field: str = "model") -> tuple[Model, list[str]]:
    """(the model, warnings). ``name``: a model's id, file name, ``owner/name`` or alias; empty for the default model.
    Raises InvalidParams if there is no such model.
    """
    if name is None or name == "":
        return models[0], []
    text = str(name)
    short = text.rpartition("/")[2]
    for candidate in (text, text.removesuffix(".safetensors"), short, short.partition(":")[0]):
        for each in models:
            if candidate == each.id:
                return each, []
    for each in models:
        if each.hub_id and text.partition(":")[0].casefold() == each.hub_id.casefold():
            return each, []
    stands_for = aliases.get(text)
    if stands_for is None:
        raise InvalidParams(field, message("no_model", model=echo(name), known=[each.id for each in models]))
    found = next((each for each in models if each.id == stands_for), None) if stands_for else models[0]
    if found is None:
        raise InvalidParams(field, message("no_model", model=echo(stands_for), known=[each.id for each in models]))
    return found, [message("model_stands_for", name=text, model=found.id)]


def adapt(model: Model, options: Mapping[str, Any], strict: bool = False, names: Mapping[str, str] = {}) -> Adapted:
    """The options adapted to a model's sizes, steps, guidance and samplers. ``names``: the caller's field names."""
    done = Adapted(dict(options))
    if strict or options.get("kind") == Kind.UPSCALE:
        return done
    fit_size(done, model, names)
    for name, high in (("steps", model.limits.max_steps), ("guidance", model.limits.max_guidance)):
        value = options.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > high:
            done.options[name] = high
            done.warnings.append(message("fitted", field=names.get(name, name), got=value, to=high, model=model.id))
    fit_sampler(done, families.sampling_of(model.family, model.architecture), model, names)
    fit_second_pass(done, model, names)
    return done


def fit_size(options: Adapted, model: Model, names: Mapping[str, str]) -> None:
    """Adapt the size. Invalid sizes are left for the Studio to refuse."""
    width, height = options.options.get("width"), options.options.get("height")
    if width is None and height is None:
        return
    requested = (width or model.defaults.width, height or model.defaults.height)
    if not all(isinstance(each, int) and 0 < each <= MAX_REQUESTED_SIDE for each in requested):
        return
    size = nearest_size(*requested, model.limits)
    if size != requested:
        sizes = {"got": f"{requested[0]}x{requested[1]}", "to": f"{size[0]}x{size[1]}"}
        options.warnings.append(message("fitted", field=names.get("size", "size"), **sizes, model=model.id))
    options.options |= {"width": size[0], "height": size[1]}


def fit_second_pass(options: Adapted, model: Model, names: Mapping[str, str]) -> None:
    """Adapt a second pass: one with more pixels than the model can make at once is split into tiles, as large as
    possible. Invalid values are left for the Studio to refuse.
    """
    scale, tile = options.options.get("hires_scale"), options.options.get("hires_tile")
    if not isinstance(scale, int | float) or not 1 <= scale <= MAX_REQUESTED_SIDE or tile:
        return
    size = (
        options.options.get("width") or model.defaults.width,
        options.options.get("height") or model.defaults.height,
    )
    if not all(isinstance(side, int) and 0 < side <= MAX_REQUESTED_SIDE for side in size):
        return
    width, height = enlarged(size, scale)
    if width * height <= model.limits.max_pixels:
        return
    side = min(model.limits.max_size, isqrt(model.limits.max_pixels))
    options.options["hires_tile"] = side - side % model.limits.multiple
    sizes = {"got": f"{width}x{height}", "tile": options.options["hires_tile"]}
    options.warnings.append(message("in_tiles", field=names.get("hires_scale", "hires_scale"), **sizes, model=model.id))


def fit_sampler(options: Adapted, sampling: Sampling, model: Model, names: Mapping[str, str]) -> None:
    requested = options.options.get("sampler")
    sampler, schedule = requested, options.options.get("schedule")
    if isinstance(requested, str) and requested:
        sampler, implied, exact = closest_sampler(requested, sampling)
        schedule = schedule or implied
        if not exact:
            options.warnings.append(
                _replaced(names.get("sampler", "sampler"), requested, sampler or model.defaults.sampler)
            )
    if isinstance(schedule, str) and schedule:
        closest, exact = closest_schedule(schedule, sampler or model.defaults.sampler, sampling)
        if not exact:
            field = names.get("schedule", "schedule")
            options.warnings.append(_replaced(field, schedule, closest or "Automatic"))
        schedule = closest
    options.options |= {"sampler": sampler or None, "schedule": schedule or None}


def _replaced(field: str, got: str, to: str) -> Message:
    return message("replaced", field=field, got=echo(got), to=to)


def ignored_warnings(fields: Mapping[str, Any], harmless: Mapping[str, Any]) -> list[str]:
    """A warning for each ignored field that has a value other than its neutral one in ``harmless``."""
    return [
        message("passed_over", field=name, got=echo(value))
        for name, value in fields.items()
        if name in harmless and value is not None and value != harmless[name]
    ]


def unknown_field(name: str, known: Sequence[str]) -> InvalidParams:
    """The error for an unknown field, with the most similar known one."""
    near = get_close_matches(name, known, 1, 0.75)
    return InvalidParams(name, message("field_near", near=near[0]) if near else message("field_unknown"))


def strict(fit: Any, setting: str) -> bool:
    """Whether the request, or else the setting, forbids adapting. Raises InvalidParams."""
    chosen = fit or setting
    if chosen not in FITS:
        raise InvalidParams("fit", message("one_of", known=list(FITS), got=echo(fit)))
    return bool(chosen == "strict")


def parse_size(size: str) -> tuple[int, int]:
    """(width, height) of a size such as ``512x768``. Raises InvalidParams."""
    found = SIZE_TEXT.fullmatch(size.strip())
    if found is None:
        raise InvalidParams("size", message("size_or_auto", got=echo(size)))
    return int(found[1]), int(found[2])


def size_for_ratio(ratio: str, megapixels: float | None, model: Model) -> tuple[int, int]:
    """Size for an aspect ratio such as ``16:9``, with the model's default number of pixels. Raises InvalidParams."""
    parts = ratio.split(":")
    if len(parts) != 2 or not all(each.isascii() and each.isdigit() and 0 < int(each) <= 100 for each in parts):
        raise InvalidParams("aspect_ratio", message("aspect_ratio", got=echo(ratio)))
    wide, high = map(int, parts)
    pixels = model.defaults.width * model.defaults.height if megapixels is None else megapixels * 1e6
    unit = (pixels / (wide * high)) ** 0.5
    return nearest_size(max(1, round(wide * unit)), max(1, round(high * unit)), model.limits)
