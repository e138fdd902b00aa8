"""ComfyUI's names of samplers and schedulers, and its sampling settings fitted to a model."""

from typing import Any

from diffusion_local import families
from diffusion_local.models.catalog import Model
from diffusion_local.options.samplers import paired, schedule_named

#: ComfyUI's samplers that are here under another name, in the order in which they are listed.
SAMPLERS = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "lcm": "LCM",
    "uni_pc": "UniPC",
}
#: Samplers that are not here, with the nearest that is.
NEAREST = {
    "euler_cfg_pp": "Euler",
    "euler_ancestral_cfg_pp": "Euler a",
    "heunpp2": "Heun",
    "dpm_2": "Heun",
    "dpm_2_ancestral": "Euler a",
    "lms": "Euler",
    "dpm_fast": "DPM++ 2M",
    "dpm_adaptive": "DPM++ 2M",
    "dpmpp_2s_ancestral": "Euler a",
    "dpmpp_sde": "DPM++ 2M SDE",
    "dpmpp_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde_gpu": "DPM++ 2M SDE",
    "ipndm": "DPM++ 2M",
    "deis": "DPM++ 2M",
    "uni_pc_bh2": "UniPC",
}
#: ComfyUI's schedulers; those with an empty name here are the sampler's own spacing.
SCHEDULERS = {
    "normal": "",
    "simple": "",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "ddim_uniform": "Uniform",
}
#: Schedulers that are not here: the sampler's own spacing is taken.
WITHOUT = ("beta", "linear_quadratic", "kl_optimal")
LISTED_SAMPLERS = (*SAMPLERS, *NEAREST)
LISTED_SCHEDULERS = (*SCHEDULERS, *WITHOUT)


def sampler(name: str, warnings: list[str]) -> str:
    if name not in SAMPLERS:
        warnings.append(f"sampler_name: {name} is not here; {NEAREST[name]} is the nearest and is taken")
    return SAMPLERS.get(name) or NEAREST[name]


def schedule(name: str, warnings: list[str]) -> str:
    """Our name; empty is the sampler's own spacing."""
    if name in WITHOUT:
        warnings.append(f"scheduler: {name} is not here; the sampler's own spacing is taken")
    return schedule_named(SCHEDULERS.get(name, ""))


def guidance(options: dict[str, Any], model: Model, warnings: list[str]) -> None:
    """``cfg`` or the guidance of FluxGuidance, whichever the model has."""
    cfg = options.pop("cfg")
    if families.get(model.family).negative:
        if "guidance" in options:
            warnings.append("FluxGuidance: this model has none; cfg is taken")
        options["guidance"] = cfg
        return
    if cfg != 1 and "guidance" not in options:
        warnings.append("cfg: guidance is distilled into this model; FluxGuidance sets it")
    if options["negative"]:
        warnings.append("negative: guidance is distilled into this model, so that it has no negative prompt")
    options["negative"] = ""


def spacing(options: dict[str, Any], model: Model, warnings: list[str]) -> None:
    name, spaced = paired(options["sampler"], options.pop("schedule", ""))
    sampling = families.get(model.family).sampling
    if spaced and name in sampling.samplers and spaced not in sampling.schedules_for(name):
        warnings.append(f"scheduler: {spaced} is not to be had with {name}; the sampler's own spacing is taken")
        spaced = ""
    options |= {"sampler": name} | ({"schedule": spaced} if spaced else {})


def steps(options: dict[str, Any], model: Model) -> None:
    """ComfyUI makes all the steps from a picture, however far it goes from it; here strength shortens them."""
    strength = options.get("strength", 1.0)
    if strength < 1:
        wanted = max(1, round(options["steps"] / strength))
        options["steps"] = max(options["steps"], min(wanted, model.limits.max_steps))
