"""Samplers and schedules: our names, the spellings of other tools, and which of them a family of models can use.

``engine.samplers`` maps each name onto a diffusers scheduler.
"""

import re
from dataclasses import dataclass
from typing import Any

from diffusion_local.errors import InvalidParams, echo


@dataclass(frozen=True, slots=True)
class Sampler:
    """``spaced``: takes sigmas in any spacing; the others step through the timesteps of the training.

    ``spellings`` are names in other tools (k-diffusion, ComfyUI, InvokeAI, Replicate, diffusers' classes); case,
    spaces, hyphens and underscores do not matter.
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

#: Spacings of the noise levels under A1111's names, with the spellings of other tools.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "Automatic": (),
    "Uniform": ("leading",),
    "SGM Uniform": ("trailing",),
    "Karras": ("use_karras_sigmas",),
    "Exponential": ("use_exponential_sigmas",),
}
SIGMA_SCHEDULES = ("Karras", "Exponential")
#: Families trained by flow matching, and the samplers for them.
FLOW_FAMILIES = frozenset({"sd3", "flux", "flux2", "z_image", "sana"})
FLOW_SAMPLERS = ("Euler", "DPM++ 2M", "UniPC")
#: Families distilled into a few steps of one sampler.
SCM_FAMILIES = frozenset({"sana_sprint"})
SCM_SAMPLERS = ("SCM",)


def squeezed(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text.casefold())


#: Our name by each of its spellings, squeezed.
BY_SPELLING = {squeezed(spelling): name for name, each in SAMPLERS.items() for spelling in (name, *each.spellings)}
SCHEDULE_BY_SPELLING = {
    squeezed(spelling): name for name, spellings in SCHEDULES.items() for spelling in (name, *spellings)
}


def sampler_named(text: str) -> str:
    """Our name of a sampler in any spelling, or an empty text."""
    return BY_SPELLING.get(squeezed(text), "")


def schedule_named(text: str) -> str:
    """Our name of a schedule in any spelling, or an empty text."""
    return SCHEDULE_BY_SPELLING.get(squeezed(text), "")


def split(text: str) -> tuple[str, str]:
    """(sampler, schedule) of a text that may name both, as older versions of A1111 wrote them; empty where unknown."""
    for schedule in SCHEDULES:
        sampler, end = text[: -len(schedule)], text[-len(schedule) :]
        if end.casefold() == schedule.casefold() and sampler.endswith(" ") and sampler_named(sampler):
            return sampler_named(sampler), schedule
    return sampler_named(text), ""


def paired(sampler: str, schedule: str) -> tuple[str, str]:
    """(sampler, schedule), where a pair that we know as one sampler (DPM++ 2M Karras) is that sampler alone."""
    whole = sampler_named(sampler) or sampler
    if schedule and whole.casefold().endswith(f" {schedule}".casefold()):
        return whole, ""
    both = sampler_named(f"{whole} {schedule}") if whole and schedule else ""
    return (both, "") if both else (sampler, schedule)


def samplers_of(family: str) -> tuple[str, ...]:
    if family in SCM_FAMILIES:
        return SCM_SAMPLERS
    return FLOW_SAMPLERS if family in FLOW_FAMILIES else tuple(each for each in SAMPLERS if each not in SCM_SAMPLERS)


def check_sampler(name: Any, family: str = "") -> str:
    """Our name of a sampler of this family. Raises InvalidParams."""
    known = samplers_of(family)
    found = sampler_named(name) if isinstance(name, str) else ""
    if found not in known:
        raise InvalidParams("sampler", f"must be one of {', '.join(known)} (got {echo(name)}).")
    return found


def schedules_of(sampler: str, family: str = "") -> tuple[str, ...]:
    if family in SCM_FAMILIES:
        return tuple(SCHEDULES)[:1]
    flows = family in FLOW_FAMILIES
    # DPM++ 2M runs out of range with flows and Karras
    sigmas = sampler == "Euler" if flows else sampler in SAMPLERS and SAMPLERS[sampler].spaced
    return tuple(
        name
        for name in SCHEDULES
        if (name not in SIGMA_SCHEDULES or sigmas) and not (flows and name in ("Uniform", "SGM Uniform"))
    )


def check_schedule(name: Any, sampler: str, family: str = "") -> str:
    """A schedule that the sampler can use; empty is its own. Raises InvalidParams."""
    if not name:
        return ""
    found = schedule_named(name) if isinstance(name, str) else ""
    if not found:
        raise InvalidParams("schedule", f"must be one of {', '.join(SCHEDULES)} (got {echo(name)}).")
    known = schedules_of(sampler, family)
    if found not in known:
        raise InvalidParams("schedule", f"must be one of {', '.join(known)} with {sampler} (got {found}).")
    return found


def api_name(schedule: str) -> str:
    """A schedule's name in A1111's web API."""
    return schedule.lower().replace(" ", "_")
