"""Samplers and schedules: their names, spellings in other tools, and the models that can use them.

``engine.samplers`` maps each name to a diffusers scheduler.
"""

import re
from dataclasses import dataclass
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

#: Noise schedules by A1111's names, with their spellings in other tools.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "Automatic": (),
    "Uniform": ("leading",),
    "SGM Uniform": ("trailing",),
    "Karras": ("use_karras_sigmas",),
    "Exponential": ("use_exponential_sigmas",),
}
SIGMA_SCHEDULES = ("Karras", "Exponential")


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler. ``spaced``: accepts sigmas of any spacing; others follow the training timesteps.

    ``spellings``: names in other tools (k-diffusion, ComfyUI, InvokeAI, Replicate, diffusers classes); case, spaces,
    hyphens and underscores are ignored.
    """

    spaced: bool = False
    spellings: tuple[str, ...] = ()


SAMPLERS: dict[str, Sampler] = {
    "DPM++ 2M": Sampler(
        True, ("k_dpmpp_2m", "dpmpp_2m", "DPMSolverMultistep", "DPMSolverMultistepScheduler", "DPMSolver++")
    ),
    "DPM++ 2M Karras": Sampler(False, ("k_dpmpp_2m_ka", "dpmpp_2m_k", "KarrasDPM")),
    "DPM++ 2M SDE": Sampler(True, ("k_dpmpp_2m_sde", "dpmpp_2m_sde")),
    "Euler": Sampler(True, ("k_euler", "EulerDiscrete", "EulerDiscreteScheduler")),
    "Euler a": Sampler(False, ("k_euler_a", "k_euler_ancestral", "euler_ancestral", "EulerAncestralDiscreteScheduler")),
    "UniPC": Sampler(True, ("UniPCMultistep", "UniPCMultistepScheduler")),
    "Heun": Sampler(True, ("k_heun", "HeunDiscrete", "HeunDiscreteScheduler")),
    "DDIM": Sampler(False, ("DDIMScheduler",)),
    "DDPM": Sampler(False, ("DDPMScheduler",)),
    "LCM": Sampler(False, ("LCMScheduler",)),
    "SCM": Sampler(False, ("SCMScheduler",)),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Samplers and schedules of models with the same training objective. ``spaced``: samplers that accept any sigma
    spacing, and therefore ``SIGMA_SCHEDULES``.
    """

    samplers: tuple[str, ...]
    schedules: tuple[str, ...]
    spaced: tuple[str, ...]

    def schedules_for(self, sampler: str) -> tuple[str, ...]:
        return tuple(name for name in self.schedules if name not in SIGMA_SCHEDULES or sampler in self.spaced)


#: Models distilled to few steps with TrigFlow's parametrisation by angles (sCM).
TRIGFLOW = Sampling(samplers=("SCM",), schedules=("Automatic",), spaced=())
#: Models trained by flow matching. DPM++ 2M is not ``spaced``: with Karras sigmas its values leave their range.
FLOW = Sampling(
    samplers=("Euler", "DPM++ 2M", "UniPC"), schedules=("Automatic", "Karras", "Exponential"), spaced=("Euler",)
)
#: Flow models whose pipelines shift noise levels in a way that only the Euler scheduler supports.
FLOW_BY_EULER = Sampling(samplers=("Euler",), schedules=FLOW.schedules, spaced=("Euler",))
#: Models trained with EDM's preconditioning, at continuous noise levels.
EDM = Sampling(
    samplers=("Euler", "DPM++ 2M", "DPM++ 2M SDE"),
    schedules=("Automatic", "Karras", "Exponential"),
    spaced=("Euler", "DPM++ 2M", "DPM++ 2M SDE"),
)
#: Models trained to remove noise at discrete timesteps.
DIFFUSION = Sampling(
    samplers=tuple(name for name in SAMPLERS if name not in TRIGFLOW.samplers),
    schedules=tuple(SCHEDULES),
    spaced=tuple(name for name, each in SAMPLERS.items() if each.spaced),
)


def normalise_name(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text.casefold())


#: Normalised spelling -> our name.
BY_SPELLING = {
    normalise_name(spelling): name for name, each in SAMPLERS.items() for spelling in (name, *each.spellings)
}
SCHEDULE_BY_SPELLING = {
    normalise_name(spelling): name for name, spellings in SCHEDULES.items() for spelling in (name, *spellings)
}


def find_sampler(text: str) -> str:
    """Our name of a sampler in any spelling, or ""."""
    return BY_SPELLING.get(normalise_name(text), "")


def find_schedule(text: str) -> str:
    """Our name of a schedule in any spelling, or ""."""
    return SCHEDULE_BY_SPELLING.get(normalise_name(text), "")


#: Samplers that only other tools have (normalised name) -> our closest one.
NEAREST = {
    normalise_name(name): ours
    for ours, names in {
        "Euler": ("LMS", "k_lms", "LMSDiscrete", "DPM fast", "dpm_fast", "Restart", "ER SDE", "euler_cfg_pp", "DEIS"),
        "Euler a": (
            *("DPM2 a", "k_dpm_2_a", "dpm_2_ancestral", "DPM++ 2S a", "k_dpmpp_2s_a", "dpmpp_2s_ancestral"),
            *("dpm++2s_a", "euler_ancestral_cfg_pp"),
        ),
        "DPM++ 2M": ("DPM adaptive", "dpm_adaptive", "dpm++2m", "dpm++2mv2", "ipndm", "ipndm_v", "dpmpp_2m_cfg_pp"),
        "DPM++ 2M SDE": (
            *("DPM++ SDE", "dpmpp_sde", "k_dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m_sde_gpu", "DPM++ 3M SDE"),
            *("dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun"),
        ),
        "Heun": ("DPM2", "k_dpm_2", "dpm_2", "heunpp2", "exp_heun_2_x0"),
        "DDIM": ("PLMS", "PNDM", "ddim_trailing", "DDIM CFG++"),
        "UniPC": ("uni_pc", "uni_pc_bh2"),
        "LCM": ("tcd", "k_lcm"),
    }.items()
    for name in names
}
#: Schedules that only other tools have (normalised name) -> our closest one; "" is the sampler's own.
NEAREST_SCHEDULES = {
    normalise_name(name): ours
    for ours, names in {
        "": (
            *("normal", "discrete", "default", "beta", "kl_optimal", "align_your_steps", "align_your_steps_GITS"),
            *("align_your_steps_11", "align_your_steps_32", "ays", "ays_30", "gits", "turbo", "linear_quadratic"),
            *("smoothstep", "lcm", "bong_tangent"),
        ),
        "SGM Uniform": ("simple",),
        "Uniform": ("ddim", "ddim_uniform"),
        "Exponential": ("polyexponential",),
    }.items()
    for name in names
}


def closest_sampler(text: str, sampling: Sampling) -> tuple[str, str, bool]:
    """(closest sampler that the models support, schedule named in the same text, whether it is an exact match); "" for
    none.
    """
    sampler, schedule = find_sampler(text), ""
    if not sampler:
        sampler, schedule = split_schedule(text)
    if sampler:
        return (sampler, schedule, True) if sampler in sampling.samplers else ("", schedule, False)
    name = normalise_name(text)
    sampler = NEAREST.get(name, "")
    for spelling, each in () if sampler else SCHEDULE_BY_SPELLING.items():
        if name.endswith(spelling) and (near := NEAREST.get(name.removesuffix(spelling), "")):
            sampler, schedule = near, each
    return sampler if sampler in sampling.samplers else "", schedule, False


def closest_schedule(text: str, sampler: str, sampling: Sampling) -> tuple[str, bool]:
    """(closest schedule that the sampler supports, "" for its own; whether it is an exact match)."""
    found = find_schedule(text)
    nearest = found or NEAREST_SCHEDULES.get(normalise_name(text), "")
    taken = nearest if nearest in sampling.schedules_for(sampler) else ""
    return taken, bool(found) and taken == found


def split_schedule(text: str) -> tuple[str, str]:
    """(sampler, schedule) of a text that may name both, as in older A1111 versions; "" for an unknown name."""
    name = normalise_name(text)
    for spelling, schedule in (*SCHEDULE_BY_SPELLING.items(), ("k", "Karras")):  # as in InvokeAI's dpmpp_2m_sde_k
        sampler = BY_SPELLING.get(name.removesuffix(spelling), "")
        if sampler and name.endswith(spelling):
            return sampler, schedule
    return BY_SPELLING.get(name, ""), ""


def merge_schedule(sampler: str, schedule: str) -> tuple[str, str]:
    """Merge a pair that we know as one sampler (DPM++ 2M Karras) to (that sampler, ""); other pairs are unchanged."""
    whole = find_sampler(sampler) or sampler
    if schedule and whole.casefold().endswith(f" {schedule}".casefold()):
        return whole, ""
    both = find_sampler(f"{whole} {schedule}") if whole and schedule else ""
    return (both, "") if both else (sampler, schedule)


def check_sampler(name: Any, sampling: Sampling = DIFFUSION) -> tuple[str, str]:
    """(sampler that the models support, schedule named in the same text or ""). Raises InvalidParams."""
    sampler, schedule = "", ""
    if isinstance(name, str):
        sampler, schedule = (whole, "") if (whole := find_sampler(name)) else split_schedule(name)
    if sampler not in sampling.samplers:
        raise InvalidParams("sampler", message("one_of", known=list(sampling.samplers), got=echo(name)))
    return sampler, schedule


def check_schedule(name: Any, sampler: str, sampling: Sampling = DIFFUSION) -> str:
    """A schedule that the sampler supports; "" is its own. Raises InvalidParams."""
    if not name:
        return ""
    schedule = find_schedule(name) if isinstance(name, str) else ""
    if not schedule:
        raise InvalidParams("schedule", message("one_of", known=list(SCHEDULES), got=echo(name)))
    known = sampling.schedules_for(sampler)
    if schedule not in known:
        raise InvalidParams("schedule", message("schedule_one_of", known=list(known), sampler=sampler, got=schedule))
    return schedule


def schedule_api_name(schedule: str) -> str:
    """A schedule's name in A1111's web API."""
    return schedule.lower().replace(" ", "_")
