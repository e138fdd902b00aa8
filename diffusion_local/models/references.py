"""Rules for reference pictures of models and ControlNets, and for regional options."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffusion_local import families
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter, adapter_fits, check_adapter
from diffusion_local.models.index import STARTER
from diffusion_local.options import values
from diffusion_local.options.limits import Defaults, Limits, nearest_size
from diffusion_local.options.table import Params
from diffusion_local.options.types import Control, ControlType, Kind, Use
from diffusion_local.options.validate import SizeOf
from diffusion_local.options.values import entry

if TYPE_CHECKING:
    from diffusion_local.models.catalog import Model

#: Mode numbers of union ControlNets, by family and by our name of the control type.
UNION_MODES = {
    "sdxl": {
        "openpose": 0, "depth": 1, "softedge": 2, "scribble": 2, "canny": 3, "lineart": 3, "normal": 4, "segment": 5,
        "tile": 6, "blur": 6, "inpaint": 7,
    },
    "flux": {"canny": 0, "tile": 1, "depth": 2, "blur": 3, "openpose": 4, "luminance": 5, "lowquality": 6},
}  # fmt: skip
#: Families whose ControlNets run layers of the denoiser, which must therefore be on the device as a whole.
WHOLE_FAMILIES = ("z_image",)
WHOLE_RUNGS = ("", "resident", "vae_tiling")
#: Least side in pixels, and largest aspect ratio, of a reference picture.
MIN_SIDE, MAX_RATIO = 64, 8
#: Published image encoders by output width.
ENCODER_BY_WIDTH = {1024: "CLIP-ViT-H-14", 1280: "CLIP-ViT-H-14 or CLIP-ViT-bigG-14", 1664: "CLIP-ViT-bigG-14"}


def shaped(defaults: Defaults, given: Mapping[str, Any], limits: Limits, size_of: SizeOf) -> Defaults:
    """The defaults with the aspect ratio of the first reference picture, and about as many pixels."""
    try:
        found = values.references("references", given.get("references") or ())
        first = next((each.image for each in found if each.use is Use.EDIT), "")
        width, height = size_of(first) if first else (0, 0)
    except UserError:  # reported by the validation
        return defaults
    if not width:
        return defaults
    scale = (defaults.width * defaults.height / (width * height)) ** 0.5
    width, height = nearest_size(max(1, round(width * scale)), max(1, round(height * scale)), limits)
    return replace(defaults, width=width, height=height)


def check(params: Params, model: str, architecture: str, size_of: SizeOf) -> None:
    """Raise InvalidParams for references that the model does not support."""
    most = families.references_of(architecture)
    read = {place: each for place, each in enumerate(params.references) if each.use is Use.EDIT}
    if read and not most:
        raise InvalidParams("references", message("no_references", model=model))
    if len(read) > most:
        raise InvalidParams("references", message("references_most", most=most, model=model, got=len(read)))
    if not read and families.needs_reference(architecture):
        raise InvalidParams("references", message("reference_needed", model=model))
    for place, each in read.items():
        width, height = size_of(each.image)
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_RATIO * min(width, height):
            least, ratio = MIN_SIDE, MAX_RATIO
            raise InvalidParams(
                entry("references", place, "image"),
                message("reference_shape", least=least, ratio=ratio, got=f"{width}x{height}"),
            )


def check_parts(params: Params, model: "Model") -> None:
    """Raise InvalidParams for regions or details that a model cannot make."""
    if params.regions and not families.supports("regions", model.family, model.architecture):
        raise InvalidParams("regions", message("no_regions", model=model.id))
    if params.details and Kind.INPAINT not in model.kinds:
        raise InvalidParams("details", message("no_details", model=model.id))


def with_adapters(params: Params, architecture: str, known: Callable[[], list[Adapter]]) -> Params:
    """The params with an IP-Adapter for each reference that needs one: the named one, else one that fits."""
    if all(each.use is Use.EDIT or each.adapter for each in params.references):
        return params
    usable = [each for each in known() if each.ready and adapter_fits(each, architecture)]
    usable.sort(key=lambda each: not each.architecture)  # those whose base is not known may not fit after all
    chosen = tuple(
        each if each.use is Use.EDIT or each.adapter else replace(each, adapter=adapter_for(each.use, usable))
        for each in params.references
    )
    return replace(params, references=chosen)


def adapter_for(use: Use, usable: list[Adapter]) -> str:
    """The IP-Adapter for a use, for faces preferably one with "face" in its name; "" if there is none."""
    for_faces = [each for each in usable if "face" in each.name.lower()]
    others = [each for each in usable if each not in for_faces]
    preferred = [*for_faces, *others] if use is Use.FACE else [*others, *for_faces]
    return preferred[0].name if preferred else ""


def uses_of(model: "Model", adapters: list[Adapter], encoders: list[Adapter]) -> list[Use]:
    """What a model can use reference pictures for; an IP-Adapter counts only with its image encoder."""
    uses = [Use.EDIT] if families.references_of(model.architecture) else []
    usable = families.supports("ip_adapters", model.family, model.architecture) and any(
        each.ready and adapter_fits(each, model.architecture) and encoder_for(each, encoders) for each in adapters
    )
    return [*uses, Use.STYLE, Use.FACE] if usable else uses


def encoder_for(adapter: Adapter, encoders: list[Adapter]) -> Adapter | None:
    """The image encoder whose output an IP-Adapter reads, or None."""
    place = 0 if adapter.part == "plain" else 1
    return next((each for each in encoders if each.ready and each.widths[place] == adapter.widths[0]), None)


def check_adapters(params: Params, model: "Model", known: list[Adapter], encoders: list[Adapter]) -> None:
    """Raise InvalidParams unless the IP-Adapters of all references and their image encoders are usable."""
    for place, each in enumerate(params.references):
        if each.use is Use.EDIT:
            continue
        if not families.supports("ip_adapters", model.family, model.architecture):
            raise InvalidParams(entry("references", place, "use"), message("no_ip_adapters", model=model.id))
        field = entry("references", place, "adapter")
        if not each.adapter:
            raise InvalidParams(field, message("ip_adapter_none", model=model.id))
        check_adapter(field, each.adapter, known, model.architecture)
        adapter = next(one for one in known if one.name == each.adapter)
        if encoder_for(adapter, encoders) is None:
            width = adapter.widths[0]
            raise InvalidParams(
                field,
                message(
                    "ip_adapter_encoder", name=each.adapter, width=width, usual=ENCODER_BY_WIDTH.get(width, "CLIP")
                ),
            )


def control_of(adapter: Adapter, model: "Model") -> Adapter:
    """The adapter for comparison with a model: the starter's own ControlNet fits only the starter, not its family."""
    own = adapter.architecture == STARTER == model.id
    return replace(adapter, architecture=model.architecture) if own else adapter


def check_controls(params: Params, model: "Model", known: list[Adapter]) -> None:
    """Raise InvalidParams for a ControlNet that is missing, does not fit the model, or cannot read its picture."""
    found = [control_of(each, model) for each in known]
    for place, control in enumerate(params.controls):
        check_adapter(entry("controls", place, "model"), control.model, found, model.architecture)
        net = next(each for each in found if each.name == control.model)
        if net.reads_mask and control.type is not ControlType.INPAINT:
            raise InvalidParams(entry("controls", place, "type"), message("control_reads_mask", name=net.name))
        modes = UNION_MODES.get(model.family, {}) if net.modes else {}
        mode = control.mode or str(control.type)
        if modes and modes.get(mode, net.modes) >= net.modes:
            problem = message("control_mode", name=net.name, known=modes_below(modes, net.modes), got=mode)
            raise InvalidParams(entry("controls", place, "mode"), problem)
    if params.controls and model.family in WHOLE_FAMILIES and params.rung not in WHOLE_RUNGS:
        raise InvalidParams("rung", message("control_rung", known=list(filter(None, WHOLE_RUNGS)), model=model.id))


def modes_below(modes: Mapping[str, int], count: int) -> list[str]:
    """The modes of a union ControlNet that has only the first ``count``."""
    return [name for name, number in modes.items() if number < count]


def chosen_control(field: str, control: Control, fitting: list[str]) -> str:
    """The ControlNet for a control that names none: the only one named after its type, or the only one that fits.

    Raises InvalidParams if there is none or several.
    """
    kind = control.mode or str(control.type)
    of_kind = [name for name in fitting if kind != ControlType.NONE and kind in name.lower().replace("_", "")]
    for names in (of_kind, fitting):
        if len(names) == 1:
            return names[0]
    raise InvalidParams(field, message("control_which", known=", ".join(fitting) or "-"))
