"""What clients of stable-diffusion.cpp's server put into the prompt: ``<sd_cpp_extra_args>{"steps": 8}</...>``.

Its API is OpenAI's, which has no fields for steps, seed or sampler.
"""

import json
import re
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

TAG = re.compile(r"\s*<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>", re.DOTALL)
#: Their names -> our options; those of ``sample_params`` and of its ``guidance`` count as if they stood outside.
NAMES = {
    "cfg_scale": "guidance",
    "clip_skip": "clip_skip",
    "height": "height",
    "negative_prompt": "negative",
    "sample_method": "sampler",
    "sample_steps": "steps",
    "sampler": "sampler",
    "sampling_method": "sampler",
    "schedule": "schedule",
    "scheduler": "schedule",
    "seed": "seed",
    "steps": "steps",
    "strength": "strength",
    "txt_cfg": "guidance",
    "width": "width",
}


def taken_out(prompt: str) -> tuple[str, dict[str, Any], list[str]]:
    """(the prompt without the tag, the options in it, a warning for each that has no effect). Raises InvalidParams."""
    found = TAG.search(prompt)
    if found is None:
        return prompt, {}, []
    try:
        given = json.loads(found[1])
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise InvalidParams("prompt", message("extra_args", got=echo(found[1])))
    options: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in flat(given).items():
        if name in NAMES:
            options[NAMES[name]] = value
        else:
            warnings.append(message("passed_over", field=name, got=echo(value)))
    return TAG.sub("", prompt), options, warnings


def flat(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with those of ``sample_params`` and ``guidance`` beside them."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("sample_params", "guidance") and isinstance(value, dict):
            found |= flat(value)
        else:
            found[name] = value
    return found
