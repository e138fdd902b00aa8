"""A1111's "Hires. fix": its fields as the options of a second pass."""

from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.hires import HIRES_UPSCALERS, LANCZOS, enlarged
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.values import check_integer
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import check_neutral

#: Our options of a second pass; all others need ``hires_scale``.
HIRES_OPTIONS = ("hires_scale", *(name for name, option in OPTIONS.items() if option.needs == "hires_scale"))
#: Values accepted besides those of the first pass, whose model, prompts and sampler the second one uses.
FIRST_PASS_VALUES: dict[str, tuple[Any, ...]] = {
    "hr_checkpoint_name": ("", "Use same checkpoint"),
    "hr_prompt": ("",),
    "hr_negative_prompt": ("",),
    "hr_sampler_name": ("", "Use same sampler"),
    "hr_scheduler": ("", "Automatic", "Use same scheduler"),
}
#: A1111's names for HIRES_OPTIONS, and its further fields of a second pass.
HIRES_FIELDS = tuple(OPTIONS[name].web_api or name for name in HIRES_OPTIONS)
FIELDS_WITHOUT_OPTION = ("hr_resize_x", "hr_resize_y", "denoising_strength", *FIRST_PASS_VALUES)
#: A1111's defaults.
SCALE, STRENGTH = 2.0, 0.75
#: A1111's upscalers that have another name here.
UPSCALER_SPELLINGS = {"latent (nearest)": "Latent (nearest-exact)", "none": LANCZOS, "nearest": LANCZOS}


def options_of(
    studio: Studio, extra: dict[str, Any], given: dict[str, Any], strict: bool
) -> tuple[dict[str, Any], list[str]]:
    """(options of the second pass, warnings); none without ``enable_hr``. ``given``: options under our names, including
    the size of the first pass. Raises InvalidParams.
    """
    enabled = extra.get("enable_hr")
    if enabled not in (None, False, True):
        raise InvalidParams("enable_hr", message("not_supported", got=echo(enabled)))
    if not enabled:
        return dict.fromkeys(HIRES_OPTIONS), []
    check_neutral(
        extra, {name: (*same, given.get(name.removeprefix("hr_"))) for name, same in FIRST_PASS_VALUES.items()}
    )
    scale, warnings = scale_of(extra, given, strict)
    strength = given["hires_strength"]
    if strength is None:
        strength = extra.get("denoising_strength")
    upscaler, notes = upscaler_of(studio, given["hires_upscaler"], strict)
    options = {
        "hires_scale": scale,
        "hires_strength": STRENGTH if strength is None else strength,
        "hires_upscaler": upscaler,
    }
    return options, warnings + notes


def scale_of(extra: dict[str, Any], given: dict[str, Any], strict: bool) -> tuple[float, list[str]]:
    """The upscale factor. If A1111 gives a size of another aspect ratio, the factor that covers both sides."""
    sides = [extra.get(name) or 0 for name in ("hr_resize_x", "hr_resize_y")]
    for name, side in zip(("hr_resize_x", "hr_resize_y"), sides, strict=True):
        if not isinstance(side, int) or isinstance(side, bool) or not 0 <= side <= 16384:
            raise InvalidParams(name, message("range", low=0, high=16384, got=echo(side)))
    if not any(sides):
        scale = SCALE if given["hires_scale"] is None else given["hires_scale"]
        if not scale:  # as an option, 0 would mean no second pass
            raise InvalidParams("hr_scale", message("range", low=1, high=OPTIONS["hires_scale"].bounds[1], got=scale))
        return scale, []
    width, height = (check_integer(name, given[name], *map(int, OPTIONS[name].bounds)) for name in ("width", "height"))
    size = (width, height)
    scale = max(side / first for side, first in zip(sides, size, strict=True))
    made = enlarged(size, scale)
    if made == tuple(side or other for side, other in zip(sides, made, strict=True)):
        return scale, []
    got, to = "{}x{}".format(*sides), "{}x{}".format(*made)
    if strict:
        raise InvalidParams("hr_resize_x", message("hires_shape", got=got, to=to))
    return scale, [message("replaced", field="hr_resize_x", got=got, to=to)]


def upscaler_of(studio: Studio, name: Any, strict: bool) -> tuple[str | None, list[str]]:
    if not isinstance(name, str) or not name:
        return None, []
    known = {each.casefold(): each for each in (*HIRES_UPSCALERS, *(one.name for one in studio.adapters("upscaler")))}
    found = known.get(UPSCALER_SPELLINGS.get(name.casefold(), name).casefold())
    if found is None and not strict:
        return LANCZOS, [message("replaced", field="hr_upscaler", got=echo(name), to=LANCZOS)]
    return found or name, []
