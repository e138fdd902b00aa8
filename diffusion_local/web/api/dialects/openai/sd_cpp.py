"""What clients of stable-diffusion.cpp's server put into the prompt: ``<sd_cpp_extra_args>{"steps": 8}</...>``.

Its API is OpenAI's, which has no fields for steps, seed or sampler.
"""

import json
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

OPENING, CLOSING = "<sd_cpp_extra_args>", "</sd_cpp_extra_args>"
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
    rest, found = without_tags(prompt)
    if not found:
        return prompt, {}, []
    try:
        given = json.loads(found[0])
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise InvalidParams("prompt", message("extra_args", got=echo(found[0])))
    options: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in flat(given).items():
        if name in NAMES:
            options[NAMES[name]] = value
        else:
            warnings.append(message("passed_over", field=name, got=echo(value)))
    return rest, options, warnings


def without_tags(prompt: str) -> tuple[str, list[str]]:
    """(the prompt without any tag, what stood in each), in linear time."""
    kept, found, start = [], [], 0
    while (begin := prompt.find(OPENING, start)) >= 0 and (end := prompt.find(CLOSING, begin)) >= 0:
        kept.append(prompt[start:begin].rstrip())
        found.append(prompt[begin + len(OPENING) : end])
        start = end + len(CLOSING)
    return "".join([*kept, prompt[start:]]), found


def flat(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with those of ``sample_params`` and ``guidance`` beside them."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("sample_params", "guidance") and isinstance(value, dict):
            found |= flat(value)
        else:
            found[name] = value
    return found
