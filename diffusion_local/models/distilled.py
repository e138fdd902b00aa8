"""Recognises distilled (few-step) models and LoRAs by name, because their tensors do not differ from others'.

The words may be part of longer ones (``realvisxlV50_v50LightningBakedvae``). After a wrong guess the user has to change
a few settings, but the model still runs.
"""

import re
from dataclasses import replace

from diffusion_local.options.limits import Defaults

#: Kinds of distillation by patterns of names, the most reliable first. ``base`` is a model from which others were
#: distilled. ``turbo`` is the model of that name; models merged with it are ``turbo_merge``.
DISTILLATIONS = (
    ("dmd2", re.compile(r"dmd2|(?<![a-z])dmd(?![a-z])", re.IGNORECASE)),
    ("lightning", re.compile(r"lightning", re.IGNORECASE)),
    ("hyper", re.compile(r"HYPER(?!REAL)|[Hh]yper(?![a-z]|[-_ ]?[Rr]eal)")),
    ("lcm", re.compile(r"LCM|(?<![A-Za-z])[Ll]cm(?![a-z])")),
    ("turbo", re.compile(r"sd[-_ .]?(xl|3\.?5[a-z-_]*)?[-_ ]?turbo|image[-_ ]?turbo|large[-_ ]?turbo", re.IGNORECASE)),
    ("turbo_merge", re.compile(r"turbo", re.IGNORECASE)),
    ("base", re.compile(r"klein[-_ ]?base|klein[-_ ]?[49]b[-_ ]?base", re.IGNORECASE)),
)
STEPS_IN_NAME = re.compile(r"(?<!\d)(\d{1,2})[ _-]?steps?(?![a-z])", re.IGNORECASE)
#: LoRA names must also match this to count as distilled, because names of style LoRAs may contain the same words.
SURE = re.compile(r"steps?(?![a-z])|lora|dmd2|lcm|turbo|sdxl|cfg", re.IGNORECASE)
#: Steps, guidance and sampler of LoRAs by kind and base family, from their model cards.
#: https://huggingface.co/ByteDance/SDXL-Lightning, https://huggingface.co/ByteDance/Hyper-SD,
#: https://huggingface.co/latent-consistency/lcm-lora-sdxl, https://huggingface.co/tianweiy/DMD2,
#: https://huggingface.co/alimama-creative/FLUX.1-Turbo-Alpha
LORA_DEFAULTS: dict[tuple[str, str], tuple[int, float, str]] = {
    ("lightning", "sdxl"): (4, 0.0, "Euler"),
    ("lightning", "qwen_image"): (8, 1.0, "Euler"),
    ("hyper", "sdxl"): (8, 0.0, "DDIM"),
    ("hyper", "sd"): (8, 0.0, "DDIM"),
    ("hyper", "flux"): (8, 3.5, "Euler"),
    ("lcm", "sdxl"): (4, 1.0, "LCM"),
    ("lcm", "sd"): (4, 1.0, "LCM"),
    ("dmd2", "sdxl"): (4, 1.0, "LCM"),
    ("turbo", "flux"): (8, 3.5, "Euler"),
    ("turbo_merge", "flux"): (8, 3.5, "Euler"),
    ("turbo_merge", "sd3"): (8, 1.0, "Euler"),
}
#: Hyper LoRAs that keep guidance have ``cfg`` in their names.
KEEPS_GUIDANCE, KEPT = re.compile(r"cfg", re.IGNORECASE), 5.0


def distillation_of(*names: str) -> str:
    """The distillation that the first matching name indicates, "" if none does."""
    for name in names:
        for kind, pattern in DISTILLATIONS:
            if pattern.search(name):
                return kind
    return ""


def steps_of(*names: str) -> int:
    """The number of steps in a name, or 0."""
    for name in names:
        if found := STEPS_IN_NAME.search(name):
            return int(found[1])
    return 0


def lora_defaults(family: str, *names: str) -> tuple[int, float, str] | None:
    """Steps, guidance and sampler for a distilled LoRA; None for others."""
    name = next((each for each in names if distillation_of(each)), "")
    kind = distillation_of(name)
    if not kind or not SURE.search(name) or (kind, family) not in LORA_DEFAULTS:
        return None
    steps, guidance, sampler = LORA_DEFAULTS[kind, family]
    if kind == "hyper" and KEEPS_GUIDANCE.search(name):
        guidance = KEPT
    return steps_of(name) or steps, guidance, sampler


def adjust_defaults(defaults: Defaults, kinds: tuple[str, ...], *names: str) -> Defaults:
    """For distilled kinds, the defaults with the number of steps from the name; otherwise unchanged."""
    steps = steps_of(*names) if kinds else 0
    return replace(defaults, steps=steps) if steps else defaults
