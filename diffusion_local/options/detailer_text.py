"""Details in A1111's recipe text, by the names of its extension ADetailer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_local.errors import InvalidParams
from diffusion_local.options import values
from diffusion_local.options.types import Detail, format_number

#: What the extension's models detect, by prefix of their names.
TARGETS = {"face": "face", "mediapipe_face": "face", "hand": "hand", "person": "person", "eye": "eye"}
#: Published models by what they detect. For any other target it is the one that detects the words in its classes.
MODELS = {"face": "face_yolov8n.pt", "hand": "hand_yolov8n.pt", "person": "person_yolov8n-seg.pt"}
OPEN_MODEL = "yolov8x-worldv2.pt"
PREFIX, MODEL, CLASSES = "ADetailer ", "model", "model classes"
SEPARATE_STEPS = "use separate steps"
#: The extension's names of our fields, and its earlier ones.
NAMES = {
    "prompt": ("prompt",), "confidence": ("confidence",), "strength": ("denoising strength",),
    "padding": ("inpaint padding",), "steps": ("steps",), "limit": ("mask only top k", "mask only top k largest"),
}  # fmt: skip
#: At the end of the names of each unit.
UNITS = ("", " 2nd", " 3rd", " 4th")


def target_of(model: str, classes: str) -> str:
    """What a model of the extension detects; "" if unknown. ``classes``: the words that an open model looks for."""
    if word := classes.partition(",")[0].strip():
        return word
    return next((known for start, known in TARGETS.items() if model.lower().startswith(start)), "")


def without_marks(prompt: str) -> str:
    """A prompt without the extension's marks, which give each detection its own."""
    return re.sub(r"\[(?:SEP|SKIP|PROMPT)\]\s?", "", prompt).strip()


def to_pairs(details: Sequence[Detail]) -> dict[str, str]:
    """The pairs of the text."""
    pairs: dict[str, str] = {}
    for unit, each in zip(UNITS, details, strict=False):
        own = {MODEL: MODELS.get(each.target, OPEN_MODEL)}
        own |= {CLASSES: each.target} if each.target not in MODELS else {}
        for name, (theirs, *_) in NAMES.items():
            value = getattr(each, name)
            own[theirs] = value if isinstance(value, str) else format_number(value)
        if each.steps:
            own[SEPARATE_STEPS] = "True"
        else:
            del own["steps"]
        pairs |= {f"{PREFIX}{name}{unit}": value for name, value in own.items() if value}
    return pairs


def from_pairs(pairs: Mapping[str, str]) -> tuple[list[dict[str, Any]], set[str]]:
    """(the option ``details``, names of the pairs that were read). Units with unusable values are left out."""
    details: list[dict[str, Any]] = []
    used: set[str] = set()
    for unit in UNITS:
        names = {MODEL: f"{PREFIX}{MODEL}{unit}", CLASSES: f"{PREFIX}{CLASSES}{unit}"}
        given = {"target": target_of(pairs.get(names[MODEL], ""), pairs.get(names[CLASSES], ""))}
        if not pairs.get(names[MODEL]):
            continue
        for ours, theirs in NAMES.items():
            name = next((found for each in theirs if (found := f"{PREFIX}{each}{unit}") in pairs), "")
            if name:
                given[ours], names[ours] = pairs[name], name
        given["prompt"] = without_marks(given.get("prompt", ""))
        separate = f"{PREFIX}{SEPARATE_STEPS}{unit}"
        if "steps" in given and pairs.get(separate, "True") != "True":
            del given["steps"]
        if given.get("limit") == "0":  # all
            del given["limit"]
        try:
            details += [each.to_dict() for each in values.details("details", [given])]
        except InvalidParams:
            continue
        used |= {*names.values(), separate}
    return details, used
