"""A1111's scripts of extensions: units of sd-webui-controlnet, and those of ADetailer."""

import base64
import re
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from diffusion_local import authority
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter
from diffusion_local.options.detailer_text import TARGETS, target_of, without_marks
from diffusion_local.options.types import Control, ControlType, Detail
from diffusion_local.options.values import check_number
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.uploads import decoded

#: Key of the extension in ``alwayson_scripts``, in lower case.
CONTROLNET_SCRIPT = "controlnet"
#: Prefix of a file's hash after its name, with the spaces before it. A match can only begin at the first space of a
#: run, so that long runs take linear time.
HASH = re.compile(r"(?:(?<!\s)\s+)?\[[0-9a-fA-F]{8,64}\]$")
#: Our preprocessors by the extension's module names. Some modules that need weights map to one that needs none.
MODULES = {
    "inpaint": ControlType.INPAINT, "inpaint_only": ControlType.INPAINT,
    "inpaint_global_harmonious": ControlType.INPAINT,
    "none": ControlType.NONE, "canny": ControlType.CANNY, "softedge": ControlType.SOFT_EDGE,
    "softedge_hed": ControlType.SOFT_EDGE, "softedge_pidinet": ControlType.SOFT_EDGE,
    "softedge_teed": ControlType.SOFT_EDGE, "hed": ControlType.SOFT_EDGE, "pidinet": ControlType.SOFT_EDGE,
    "scribble": ControlType.SCRIBBLE, "scribble_xdog": ControlType.SCRIBBLE, "scribble_hed": ControlType.SCRIBBLE,
    "tile": ControlType.TILE, "tile_resample": ControlType.TILE, "luminance": ControlType.LUMINANCE,
    "recolor_luminance": ControlType.LUMINANCE, "invert": ControlType.INVERT,
    "invert (from white bg & black line)": ControlType.INVERT, "depth": ControlType.DEPTH,
    "depth_midas": ControlType.DEPTH, "depth_zoe": ControlType.DEPTH, "depth_anything": ControlType.DEPTH,
    "depth_anything_v2": ControlType.DEPTH, "depth_leres": ControlType.DEPTH, "depth_leres++": ControlType.DEPTH,
    "openpose": ControlType.OPENPOSE, "normal": ControlType.NORMAL, "normal_midas": ControlType.NORMAL,
    "normal_map": ControlType.NORMAL, "normal_bae": ControlType.NORMAL, "lineart": ControlType.LINE_ART,
    "lineart_standard": ControlType.LINE_ART, "lineart_standard (from white bg & black line)": ControlType.LINE_ART,
    "lineart_realistic": ControlType.LINE_ART, "lineart_coarse": ControlType.LINE_ART,
    "lineart_anime": ControlType.LINE_ART, "segment": ControlType.SEGMENT, "segmentation": ControlType.SEGMENT,
    "seg_ofade20k": ControlType.SEGMENT, "oneformer_ade20k": ControlType.SEGMENT, "seg_ufade20k": ControlType.SEGMENT,
}  # fmt: skip
#: Our modes of union ControlNets by the extension's names.
UNION_TYPES = {
    "unknown": "", "openpose": "openpose", "depth": "depth", "soft edge": "softedge", "hard edge": "canny",
    "normal map": "normal", "segmentation": "segment", "tile": "tile", "inpaint": "inpaint",
}  # fmt: skip
#: The extensions' fields by ours, where they have another name.
UNIT_FIELDS = {
    "controls": {"type": "module", "start": "guidance_start", "end": "guidance_end", "mode": "union_control_type"},
    "details": {
        "target": "ad_model", "prompt": "ad_prompt", "strength": "ad_denoising_strength", "steps": "ad_steps",
        "confidence": "ad_confidence", "padding": "ad_inpaint_only_masked_padding", "limit": "ad_mask_k",
    },
}  # fmt: skip
#: Fields of a unit that have no effect here, with their neutral values. Preprocessors have fixed thresholds and work at
#: the job's size; a ControlNet has the same weight as the prompt.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "control_mode": ("", 0, "Balanced"),
    "processor_res": ("", -1),
    "threshold_a": ("", -1),
    "threshold_b": ("", -1),
}
DEFAULT_SIDE = 512
OFFERED = ("none", "canny", "softedge", "scribble_xdog", "tile_resample", "recolor_luminance", "invert", "depth",
    "openpose", "normal_midas", "lineart_standard", "seg_ofade20k")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a script: entries of one of our options, the name of each in the request, and warnings."""

    option: str
    entries: list[dict[str, Any]]
    names: list[str]
    warnings: list[str]


def enabled_units(args: Any, field: str) -> dict[str, Any]:
    """The units that are not null or disabled, by their names in the request."""
    units = {f"{field}.args[{place}]": unit for place, unit in enumerate(args if isinstance(args, list) else [args])}
    return {
        name: unit
        for name, unit in units.items()
        if unit and unit is not True and not (isinstance(unit, dict) and not unit.get("enabled", True))
    }


def controls_of(studio: Studio, args: Any, field: str, source: str | None) -> Units:
    """The option ``controls`` for the extension's units. ``source``: the img2img picture (Base64), for units without a
    picture. Raises InvalidParams.
    """
    units = enabled_units(args, field)
    for name, unit in units.items():
        if not isinstance(unit, dict):
            raise InvalidParams(name, message("control_picture"))
    if len(units) > Control.most:
        raise InvalidParams(field, message("entries_most", most=Control.most, got=len(units)))
    warnings: list[str] = [
        message("passed_over", field=f"{place}.{name}", got=echo(value))
        for place, unit in units.items()
        for name, neutral in WITHOUT_EFFECT.items()
        if (value := unit.get(name)) is not None and value not in neutral
    ]
    return Units("controls", [control_of(studio, unit, name, source) for name, unit in units.items()], list(units),
                 warnings)  # fmt: skip


def control_of(studio: Studio, unit: dict[str, Any], field: str, source: str | None) -> dict[str, Any]:
    image = unit.get("image") or unit.get("input_image") or source
    if isinstance(image, dict):
        image = image.get("image")
    if not isinstance(image, str) or not image:
        raise InvalidParams(f"{field}.image", message("control_picture"))
    kind = module_of(unit.get("module"), f"{field}.module")
    given = {
        "image": studio.sources.add(decoded(f"{field}.image", image), f"{field}.image").id,
        "type": str(kind),
        "model": model_of(studio.adapters("control"), unit.get("model"), f"{field}.model"),
        "weight": check_number(f"{field}.weight", unit.get("weight", 1.0), 0, 2),
        "start": check_number(f"{field}.guidance_start", unit.get("guidance_start", 0.0), 0, 1),
        "end": check_number(f"{field}.guidance_end", unit.get("guidance_end", 1.0), 0, 1),
        "mode": mode_of(unit.get("union_control_type"), f"{field}.union_control_type"),
    }
    return {name: value for name, value in given.items() if value != ""}


def module_of(name: Any, field: str) -> ControlType:
    """Our preprocessor for a module. Raises InvalidParams for an unknown one."""
    text = str(name or "none").strip().lower()
    if text not in MODULES:
        raise InvalidParams(field, message("one_of", known=list(OFFERED), got=echo(name)))
    return MODULES[text]


def mode_of(name: Any, field: str) -> str:
    """Our mode of a union ControlNet; "" if the unit names none. Raises InvalidParams for an unknown one."""
    text = str(name or "Unknown").strip().lower()
    if text not in UNION_TYPES:
        raise InvalidParams(field, message("one_of", known=[each.title() for each in UNION_TYPES], got=echo(name)))
    return UNION_TYPES[text]


def model_of(nets: list[Adapter], name: Any, field: str) -> str:
    """The ControlNet with a title, with or without its hash; "" if the unit names none. Raises InvalidParams."""
    text = HASH.sub("", str(name or "")).removesuffix(".safetensors")
    if text.lower() in ("", "none"):
        return ""
    for each in nets:
        if each.name.casefold() == text.casefold():
            return each.name
    known = ", ".join(each.name for each in nets) or "-"
    raise InvalidParams(field, message("unknown_file", name=echo(name), known=known))


def title(adapter: Adapter) -> str:
    """A ControlNet's name with the first digits of its hash, as the extension lists it."""
    return f"{adapter.name} [{adapter.sha256[:8]}]" if adapter.sha256 else adapter.name


class Detection(BaseModel):
    """Pictures to preprocess."""

    model_config = ConfigDict(extra="allow")

    controlnet_module: str = "none"
    controlnet_input_images: list[str] = []
    controlnet_processor_res: int = DEFAULT_SIDE


def add(api: APIRouter, studio: Studio) -> None:
    @api.get("/version")
    def version() -> Json:
        return {"version": 3}

    @api.get("/settings")
    def settings() -> Json:
        return {"control_net_unit_count": Control.most}

    @api.get("/model_list")
    def model_list() -> Json:
        """Usable ControlNets."""
        return {"model_list": [title(each) for each in studio.adapters("control")]}

    @api.get("/module_list")
    def module_list() -> Json:
        """Preprocessors."""
        detail = {name: {"model_free": not MODULES[name].needs_model, "sliders": []} for name in OFFERED}
        return {"module_list": list(OFFERED), "module_detail": detail}

    @api.get("/control_types")
    def control_types() -> Json:
        models = ["None", *(title(each) for each in studio.adapters("control"))]
        every = {"module_list": list(OFFERED), "model_list": models, "default_option": "none", "default_model": "None"}
        return {"control_types": {"All": every}}

    @api.post("/detect")
    def detect(body: Detection) -> Json:
        """Preprocess pictures (Base64); the control pictures are in `images`."""
        authority.check("sources.preview_control")
        kind = module_of(body.controlnet_module, "controlnet_module")
        side = int(check_number("controlnet_processor_res", body.controlnet_processor_res, 64, 4096))
        if not 1 <= len(body.controlnet_input_images) <= Control.most:
            raise InvalidParams(
                "controlnet_input_images",
                message("range", low=1, high=Control.most, got=len(body.controlnet_input_images)),
            )
        images = []
        for image in body.controlnet_input_images:
            source = studio.sources.add(decoded("controlnet_input_images", image), "controlnet_input_images")
            scale = side / min(source.width, source.height)
            size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
            made = studio.sources.preview_control(source.id, str(kind), *size)
            images.append(base64.b64encode(studio.sources.file(made.id).read_bytes()).decode())
        return {"images": images, "info": "Success"}


#: Key of the extension in ``alwayson_scripts``, in lower case.
DETAILER_SCRIPT = "adetailer"
#: Our field names by the extension's, where there is an equivalent.
OPTION_OF_FIELD = {
    "ad_prompt": "prompt", "ad_denoising_strength": "strength", "ad_confidence": "confidence",
    "ad_inpaint_only_masked_padding": "padding",
}  # fmt: skip
#: Values of other fields that cause no warning; () means any value. For fields that are not listed it is False.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "ad_tab_enable": (True,), "ad_use_steps": (False, True), "ad_steps": (), "ad_mask_k": (), "ad_mask_k_largest": (),
    "ad_model": (), "ad_model_classes": (), "ad_inpaint_only_masked": (True,), "is_api": (True, False, [True], []),
}  # fmt: skip


def details_of(args: Any, field: str) -> Units:
    """The option ``details`` for units of the extension. Raises InvalidParams."""
    units = {
        name: each
        for name, each in enabled_units(args, field).items()
        if isinstance(each, dict) and str(each.get("ad_model") or "None") != "None" and each.get("ad_tab_enable", True)
    }
    if len(units) > Detail.most:
        raise InvalidParams(field, message("entries_most", most=Detail.most, got=len(units)))
    warnings: list[str] = [
        message("passed_over", field=f"{place}.{name}", got=echo(value))
        for place, unit in units.items()
        for name, value in unit.items()
        if name not in OPTION_OF_FIELD
        and value not in ("", None, [], *NEUTRAL.get(name, (False,)))
        and NEUTRAL.get(name) != ()
    ]
    return Units("details", [detail_of(unit, name) for name, unit in units.items()], list(units), warnings)


def detail_of(unit: dict[str, Any], field: str) -> dict[str, Any]:
    target = target_of(str(unit["ad_model"]), str(unit.get("ad_model_classes") or ""))
    if not target:
        raise InvalidParams(f"{field}.ad_model", message("one_of", known=list(TARGETS), got=echo(unit["ad_model"])))
    detail: dict[str, Any] = {
        ours: unit[theirs] for theirs, ours in OPTION_OF_FIELD.items() if unit.get(theirs) not in (None, "")
    }
    if unit.get("ad_use_steps") and unit.get("ad_steps"):
        detail["steps"] = unit["ad_steps"]
    if most := unit.get("ad_mask_k") or unit.get("ad_mask_k_largest"):
        detail["limit"] = most
    detail["prompt"] = without_marks(str(detail.get("prompt", "")))
    return {"target": target} | detail
