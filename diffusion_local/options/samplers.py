"""Samplers and schedules: our names, the spellings of other tools, and which models can use them.

``engine.samplers`` maps each name onto a diffusers scheduler.
"""

import re
from dataclasses import dataclass
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message


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


@dataclass(frozen=True, slots=True)
class Sampling:
    """Samplers and schedules for models that were trained in one way.

    ``spaced`` are the samplers that take any spacing of sigmas, and so ``SIGMA_SCHEDULES``.
    """

    samplers: tuple[str, ...]
    schedules: tuple[str, ...]
    spaced: tuple[str, ...]

    def schedules_for(self, sampler: str) -> tuple[str, ...]:
        return tuple(name for name in self.schedules if name not in SIGMA_SCHEDULES or sampler in self.spaced)


#: Models distilled into a few steps along angles (TrigFlow, sCM).
TRIGFLOW = Sampling(samplers=("SCM",), schedules=("Automatic",), spaced=())
#: Models trained by flow matching. DPM++ 2M runs out of range with flows and Karras.
FLOW = Sampling(
    samplers=("Euler", "DPM++ 2M", "UniPC"), schedules=("Automatic", "Karras", "Exponential"), spaced=("Euler",)
)
#: Those whose pipelines shift the noise levels in a way that only Euler's scheduler knows.
FLOW_BY_EULER = Sampling(samplers=("Euler",), schedules=FLOW.schedules, spaced=("Euler",))
#: Models trained to remove noise, on a fixed scale of timesteps.
DIFFUSION = Sampling(
    samplers=tuple(name for name in SAMPLERS if name not in TRIGFLOW.samplers),
    schedules=tuple(SCHEDULES),
    spaced=tuple(name for name, each in SAMPLERS.items() if each.spaced),
)


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
    name = squeezed(text)
    for spelling, schedule in SCHEDULE_BY_SPELLING.items():
        sampler = BY_SPELLING.get(name.removesuffix(spelling), "")
        if sampler and name.endswith(spelling):
            return sampler, schedule
    return BY_SPELLING.get(name, ""), ""


def paired(sampler: str, schedule: str) -> tuple[str, str]:
    """(sampler, schedule), where a pair that we know as one sampler (DPM++ 2M Karras) is that sampler alone."""
    whole = sampler_named(sampler) or sampler
    if schedule and whole.casefold().endswith(f" {schedule}".casefold()):
        return whole, ""
    both = sampler_named(f"{whole} {schedule}") if whole and schedule else ""
    return (both, "") if both else (sampler, schedule)


def check_sampler(name: Any, sampling: Sampling = DIFFUSION) -> tuple[str, str]:
    """Our name of a sampler that the models can use, and the schedule that the same text names or an empty one.

    Raises InvalidParams.
    """
    found, schedule = "", ""
    if isinstance(name, str):
        found, schedule = (whole, "") if (whole := sampler_named(name)) else split(name)
    if found not in sampling.samplers:
        raise InvalidParams("sampler", message("one_of", known=list(sampling.samplers), got=echo(name)))
    return found, schedule


def check_schedule(name: Any, sampler: str, sampling: Sampling = DIFFUSION) -> str:
    """A schedule that the sampler can use; empty is its own. Raises InvalidParams."""
    if not name:
        return ""
    found = schedule_named(name) if isinstance(name, str) else ""
    if not found:
        raise InvalidParams("schedule", message("one_of", known=list(SCHEDULES), got=echo(name)))
    known = sampling.schedules_for(sampler)
    if found not in known:
        raise InvalidParams("schedule", message("schedule_one_of", known=list(known), sampler=sampler, got=found))
    return found


def api_name(schedule: str) -> str:
    """A schedule's name in A1111's web API."""
    return schedule.lower().replace(" ", "_")
