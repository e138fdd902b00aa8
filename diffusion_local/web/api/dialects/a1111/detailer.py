"""The ADetailer extension of A1111: its units as the option ``details``."""

import re
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.types import Detail

#: Key of the extension in ``alwayson_scripts``, in lower case.
SCRIPT = "adetailer"
#: What the extension's models detect, by prefix of their names.
TARGETS = {"face": "face", "mediapipe_face": "face", "hand": "hand", "person": "person", "eye": "eye"}
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


def details_of(args: Any, field: str) -> tuple[list[dict[str, Any]], list[str]]:
    """(the option ``details``, warnings) for units of the extension. Raises InvalidParams."""
    given = args if isinstance(args, list) else [args]
    units = [each for each in given if isinstance(each, dict) and str(each.get("ad_model") or "None") != "None"]
    units = [each for each in units if each.get("ad_tab_enable", True)]
    if len(units) > Detail.most:
        raise InvalidParams(field, message("entries_most", most=Detail.most, got=len(units)))
    warnings: list[str] = [
        message("passed_over", field=f"{field}.{name}", got=echo(value))
        for unit in units
        for name, value in unit.items()
        if name not in OPTION_OF_FIELD
        and value not in ("", None, [], *NEUTRAL.get(name, (False,)))
        and NEUTRAL.get(name) != ()
    ]
    return [detail_of(unit, field) for unit in units], warnings


def detail_of(unit: dict[str, Any], field: str) -> dict[str, Any]:
    name = str(unit["ad_model"]).lower()
    target = next((known for start, known in TARGETS.items() if name.startswith(start)), "")
    if classes := str(unit.get("ad_model_classes") or ""):  # of open-vocabulary models, which detect these words
        target = classes.partition(",")[0].strip()
    if not target:
        raise InvalidParams(f"{field}.ad_model", message("one_of", known=list(TARGETS), got=echo(unit["ad_model"])))
    found: dict[str, Any] = {
        ours: unit[theirs] for theirs, ours in OPTION_OF_FIELD.items() if unit.get(theirs) not in (None, "")
    }
    if unit.get("ad_use_steps") and unit.get("ad_steps"):
        found["steps"] = unit["ad_steps"]
    if most := unit.get("ad_mask_k") or unit.get("ad_mask_k_largest"):
        found["limit"] = most
    found["prompt"] = re.sub(r"\[(?:SEP|SKIP|PROMPT)\]", "", str(found.get("prompt", ""))).strip()
    return {"target": target} | found
