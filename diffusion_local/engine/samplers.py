"""Maps sampler names, as other tools use them, to diffusers schedulers.

Follows the table in diffusers' documentation (api/schedulers/overview). Each row sets everything that defines its
sampler, so that a model's own scheduler config does not leak into another sampler.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import diffusers
import torch

_EVEN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
#: Latents, unlike pixels, are not limited to [-1, 1].
_LATENT = {"clip_sample": False, "thresholding": False}

#: name: (scheduler class, entries that override the model's scheduler config)
TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {**_EVEN, "algorithm_type": "dpmsolver++", "solver_order": 2}),
    "DPM++ 2M Karras": (
        "DPMSolverMultistepScheduler",
        {**_EVEN, "algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    # The multistep form: DPMSolverSDEScheduler needs torchsde.
    "DPM++ 2M SDE": (
        "DPMSolverMultistepScheduler",
        {**_EVEN, "algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    ),
    "Euler": ("EulerDiscreteScheduler", _EVEN),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {**_EVEN, "solver_type": "bh2"}),
    # "trailing" spacing, because "linspace" leaves speckle: a DDIM step goes back by 1000 // steps, so that `linspace`
    # removes too little noise; Heun divides by the next sigma, which `linspace` brings near zero.
    "Heun": ("HeunDiscreteScheduler", {**_EVEN, "clip_sample": False, "timestep_spacing": "trailing"}),
    "DDIM": ("DDIMScheduler", {**_LATENT, "timestep_spacing": "trailing", "set_alpha_to_one": True}),
    "DDPM": ("DDPMScheduler", {**_LATENT, "variance_type": "fixed_small"}),
    # The default of 50 rejects more than 50 steps.
    "LCM": ("LCMScheduler", {**_LATENT, "original_inference_steps": 200}),
}


#: Scheduler entries that give each spacing of ``options.samplers.SCHEDULES``.
SPACINGS: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Uniform": {"timestep_spacing": "leading"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
}
#: Samplers of models trained by flow matching.
FLOW_TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", _EVEN),
    "DPM++ 2M": (
        "DPMSolverMultistepScheduler",
        {**_EVEN, "algorithm_type": "dpmsolver++", "solver_order": 2, "use_flow_sigmas": True},
    ),
    "UniPC": ("UniPCMultistepScheduler", {**_EVEN, "solver_type": "bh2", "use_flow_sigmas": True}),
}
#: Samplers of models trained with EDM's preconditioning, and scheduler entries for their schedules.
EDM_TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EDMEulerScheduler", {}),
    "DPM++ 2M": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "DPM++ 2M SDE": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
}
EDM_SPACINGS = {"Karras": {"sigma_schedule": "karras"}, "Exponential": {"sigma_schedule": "exponential"}}
#: The sampler of models distilled into a few TrigFlow steps.
ANGULAR: dict[str, tuple[str, dict[str, Any]]] = {"SCM": ("SCMScheduler", {})}


def scheduler(name: str, base_config: Mapping[str, Any], schedule: str = "") -> Any:
    """A new diffusers scheduler for a sampler of ``options.samplers.SAMPLERS``, with the model's noise schedule.

    ``base_config``: the model's own scheduler config; ``schedule``: a key of ``SPACINGS``, or "" for the default.
    """
    flows = str(base_config.get("_class_name")).startswith("FlowMatch") or base_config.get("use_flow_sigmas")
    angular = base_config.get("_class_name") == "SCMScheduler"
    edm = str(base_config.get("_class_name")).startswith("EDM")
    class_name, overrides = (FLOW_TABLE if flows else ANGULAR if angular else EDM_TABLE if edm else TABLE)[name]
    config = dict(base_config)
    if flows and class_name != base_config.get("_class_name"):
        # the two kinds of schedulers name the shift differently
        shift = base_config.get("shift", base_config.get("flow_shift", 1.0))
        config |= {"flow_shift": shift, "shift": shift, "prediction_type": "flow_prediction"}
    kind = getattr(diffusers, class_name)
    if config.get("rescale_betas_zero_snr") and not accepts(kind, "rescale_betas_zero_snr"):
        config |= {"trained_betas": zero_terminal_snr_betas(config)}
    made = kind.from_config(config, **overrides | (EDM_SPACINGS if edm else SPACINGS).get(schedule, {}))
    if flows and class_name != FLOW_TABLE["Euler"][0]:
        use_default_spacing(made)
    return made


def accepts(kind: Any, setting: str) -> bool:
    return setting in inspect.signature(kind).parameters


def zero_terminal_snr_betas(config: Mapping[str, Any]) -> list[float]:
    """Betas with zero terminal SNR, for a scheduler that cannot rescale them itself.

    Same as diffusers' rescaling, except that the last step keeps a trace of signal, because its noise level would be
    infinite otherwise.
    """
    rescaled = diffusers.DDIMScheduler.from_config(config, rescale_betas_zero_snr=True)
    cumulative = rescaled.alphas_cumprod.clone().double()
    cumulative[-1] = 2.0**-24  # as in diffusers' Euler scheduler
    alphas = cumulative / torch.cat([cumulative.new_ones(1), cumulative[:-1]])
    return [float(each) for each in 1 - alphas]


def use_default_spacing(scheduler: Any) -> None:
    """Make a scheduler choose its own noise levels where a pipeline passes the usual ones of flow matching.

    Pipelines pass the levels of ``FlowMatchEulerDiscreteScheduler`` to every scheduler. Others reject them, and compute
    nearly the same spacing and shift themselves.
    """
    set_timesteps = scheduler.set_timesteps
    dynamic = scheduler.config.get("use_dynamic_shifting")

    def own_timesteps(
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: Any = None,
    ) -> None:
        custom = next((each for each in (sigmas, timesteps) if each is not None), None)
        set_timesteps(
            len(custom) if custom is not None else num_inference_steps, device=device, mu=mu if dynamic else None
        )

    scheduler.set_timesteps = own_timesteps


def capture_estimate(scheduler: Any) -> Callable[[], torch.Tensor | None]:
    """Keep each step's estimate of the noise-free latents (x0), which pipelines discard.

    Returns a function that returns the latest estimate; None before the first step, or if the scheduler computes none.
    """
    step = scheduler.step
    latest: torch.Tensor | None = None

    @wraps(step)  # pipelines read the signature to learn which arguments a scheduler takes
    def watched(*args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        nonlocal latest
        output = step(*args, return_dict=True, **kwargs)
        latest = getattr(output, "pred_original_sample", None)  # Euler, Heun, DDIM, DDPM, SCM
        if latest is None:
            latest = getattr(output, "denoised", None)  # LCM
        if latest is None and getattr(scheduler, "model_outputs", None):
            latest = scheduler.model_outputs[-1]  # the ++ solvers and UniPC: model outputs already turned into x0
        return output if return_dict else output.to_tuple()

    scheduler.step = watched
    return lambda: latest
