"""Runs ControlNets and T2I-Adapters beside a model's denoiser, so that control pictures steer the composition.

At each step a network reads the denoiser's inputs and a control picture; its residuals become additional arguments of
the denoiser's call. Every task, sampler and size can therefore use the model's one pipeline, and the denoiser's fused
form and CUDA graphs still apply. The results equal those of diffusers' own ControlNet pipelines (tests compare them).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image as PIL

from diffusion_local.engine import control_nets, faults, img2img, placement, preprocessors
from diffusion_local.engine.graphs import denoiser_of, forward_replaced
from diffusion_local.engine.hooked import UnmatchedLayer
from diffusion_local.engine.inputs import PictureInputs, short_hash
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.passes import Loop
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import EngineError, ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.options.types import Control

#: Arguments of the denoiser's call, by name.
Given = dict[str, Any]
#: Mode numbers of union ControlNets, by our name of the control type.
SDXL_MODES = {
    "openpose": 0, "depth": 1, "softedge": 2, "scribble": 2, "canny": 3, "lineart": 3, "normal": 4, "segment": 5,
    "tile": 6, "blur": 6, "inpaint": 7,
}  # fmt: skip
FLUX_MODES = {"canny": 0, "tile": 1, "depth": 2, "blur": 3, "openpose": 4, "luminance": 5, "lowquality": 6}


def apply_controls(loaded: Loaded, params: Params, materials: PictureInputs | None, device: str) -> dict[str, Any]:
    """Load the networks named in ``params`` and unload all others. Returns facts for the recipe.

    Raises ModelUnavailable, naming the file, if a network cannot be loaded or does not fit the model.
    """
    if params.controls and materials is None:
        raise ModelUnavailable(message("no_home_files"))
    files = {control.model: materials.control(control.model) for control in params.controls} if materials else {}
    stamps = {name: (path, path.stat().st_mtime_ns, path.stat().st_size) for name, path in files.items()}
    for name, (stamp, net) in list(loaded.controls.items()):
        if stamps.get(name) != stamp:
            loaded.bytes -= size_of(net) if loaded.rung in placement.WHOLE else 0
            del loaded.controls[name]
    for name, path in files.items():
        if name not in loaded.controls:
            net = opened(loaded, name, path)
            loaded.controls[name] = stamps[name], net
            loaded.bytes += size_of(net) if loaded.rung in placement.WHOLE else 0
        loaded.controls[name][1].to(device)
    return {"control_hashes": {name: short_hash(path) for name, path in files.items()}} if files else {}


def opened(loaded: Loaded, name: str, path: Path) -> Any:
    """Load a network from its file. Raises ModelUnavailable if it does not fit the model, and other EngineErrors."""
    denoiser = denoiser_of(loaded.pipe)
    if isinstance(denoiser, diffusers.ZImageTransformer2DModel) and loaded.rung not in placement.WHOLE:
        raise ModelUnavailable(message("control_whole", name=name, model=loaded.model.id))
    problem: EngineError
    try:
        return control_nets.load(path, denoiser, loaded.dtype)
    except UnmatchedLayer:
        problem = ModelUnavailable(message("unfit", what=f"The ControlNet {name!r}", model=loaded.model.id))
    except Exception as error:
        problem = faults.to_engine_error(error, lambda error: ModelUnavailable(unloadable(loaded, name, error)))
    raise problem


def unloadable(loaded: Loaded, name: str, error: Exception) -> Any:
    """The message for a network that could not be loaded: unfit for the model, or another error."""
    what = f"The ControlNet {name!r}"
    if isinstance(error, RuntimeError | KeyError) and not isinstance(error, NotImplementedError):
        return message("unfit", what=what, model=loaded.model.id)
    return message("unloadable", what=what, error=faults.first_line(error), model=loaded.model.id)


def size_of(net: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in net.parameters())


def offload(loaded: Loaded) -> None:
    """Move the networks to main memory after a pass, on rungs that offload the model's parts as well."""
    if loaded.rung not in placement.WHOLE and loaded.rung != "attention_slicing":
        for _, net in loaded.controls.values():
            net.to("cpu")


# -- one pass ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Guide:
    """One control of a pass. ``seen``: the network's input, made from the control picture."""

    control: Control
    net: Any
    seen: Any
    residuals: Callable[[Any, Any, Given, Control], Given]

    def acts(self, index: int, count: int) -> bool:
        """Whether the control is active at call ``index`` of ``count``; start and end are rounded as in diffusers."""
        return bool(self.control.weight) and not (
            index / count < self.control.start or (index + 1) / count > self.control.end
        )


@dataclass(slots=True)
class Guides:
    """The controls of a pass, applied around its denoiser. ``before``: calls made before the pass was suspended."""

    guides: list[Guide]
    steps: Steps
    before: int = 0
    guidance: float = 0.0
    #: Whether the separate calls for the prompt and the negative prompt share their residuals.
    shared: bool = False
    _count: int = 0
    _latest: tuple[int, Given] | None = field(default=None)

    @contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """Add the residuals to every call of the pipeline's denoiser."""
        if not self.guides:
            yield
            return
        denoiser = denoiser_of(pipe)
        signature = inspect.signature(denoiser.forward)

        def steered(own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                given = dict(signature.bind_partial(*args, **kwargs).arguments)
                given |= given.pop("kwargs", {})
                return own(*args, **kwargs | self.residuals(pipe, given))

            return forward

        with forward_replaced(denoiser, steered):
            yield

    def residuals(self, pipe: Any, given: Given) -> Given:
        """Additional arguments for this call of the denoiser."""
        if not self._count:
            self._count = self.before + len(pipe.scheduler.timesteps)
        index = self.steps.calls
        if self.shared and self._latest and self._latest[0] == index:
            return self._latest[1]
        found: Given = {}
        given["guidance_scale"] = self.guidance
        for guide in self.guides:
            if guide.acts(index, self._count):
                found = merged(found, guide.residuals(guide.net, guide.seen, given, guide.control))
        self._latest = (index, found) if self.shared else None
        return found


def merged(one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    """Sum the residuals of two networks."""
    return one | {name: value if one.get(name) is None else added(one[name], value) for name, value in other.items()}


def added(one: Any, other: Any) -> Any:
    """Add residuals of the same structure: tensors, dicts, or lists with one tensor per block."""
    if other is None:
        return one
    if torch.is_tensor(one):
        return one + other
    if isinstance(one, dict):
        return merged(one, other)
    if len(one) != len(other):  # networks with different numbers of blocks: repeat the shorter list's residuals
        length = max(len(one), len(other))
        one, other = ([each[at * len(each) // length] for at in range(length)] for each in (one, other))
    return [a + b for a, b in zip(one, other, strict=True)]


def guides_of(
    loaded: Loaded,
    loop: Loop,
    materials: PictureInputs | None,
    canvas: img2img.SourceCanvas | None,
    steps: Steps,
    before: int,
) -> Guides:
    """The controls of a loop with the inputs of their networks. Raises ModelUnavailable if the model supports none.

    Call while the pipeline's offload hooks are attached, because the VAE may run.
    """
    params = loop.params
    denoiser = denoiser_of(loaded.pipe)
    form = FORMS.get(type(denoiser).__name__)
    found = []
    for control in params.controls:
        if form is None:
            raise ModelUnavailable(message("no_controls", model=loaded.model.id))
        assert materials is not None
        _, net = loaded.controls[control.model]
        picture = picture_of(control, materials, loop, None if canvas is None else canvas.area)
        found.append(Guide(control, net, form.see(loaded, net, picture), form.residuals))
    return Guides(found, steps, before, params.guidance, form is not None and form.shared)


def picture_of(control: Control, materials: PictureInputs, loop: Loop, area: img2img.Area | None = None) -> PIL.Image:
    """The control picture of a loop, RGB at the loop's size.

    The first loop uses the control picture made when the job was submitted. A second pass has more pixels and so makes
    its own, unless a model made the first one: that is scaled. Where only the area around a mask is repainted, the
    control picture is cropped to it.
    """
    if control.type.needs_model:
        seen = materials.source(control.seen).convert("RGB")
        if area is not None and loop.box is None:
            seen = img2img.make_canvas(seen, area.picture.size).source.crop(area.box)
        whole = seen if seen.size == loop.whole else seen.resize(loop.whole, PIL.Resampling.LANCZOS)
        return whole.crop(loop.box) if loop.box else whole
    if area is not None and loop.box is None and area.box != (0, 0, *area.picture.size):
        whole = img2img.make_canvas(materials.source(control.image), area.picture.size).source
        return preprocessors.control_picture(whole.crop(area.box), control.type, loop.whole)
    if control.seen and loop.box is None:
        seen = materials.source(control.seen).convert("RGB")
        return seen if seen.size == loop.whole else seen.resize(loop.whole, PIL.Resampling.LANCZOS)
    whole = preprocessors.control_picture(materials.source(control.image), control.type, loop.whole)
    return whole.crop(loop.box) if loop.box else whole


def pixels_of(picture: PIL.Image) -> torch.Tensor:
    """An RGB picture as a tensor, 1 x 3 x H x W, values in 0..1."""
    return torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float() / 255


def spread(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat a tensor along its first dimension for a batch."""
    return tensor.expand(batch, *tensor.shape[1:])


# -- networks of each kind of denoiser ---------------------------------------------------------------------------------


def see_pixels(loaded: Loaded, net: Any, picture: PIL.Image) -> torch.Tensor:
    """The control picture in pixels (0..1); greyscale for T2I-Adapters with one input channel."""
    pixels = pixels_of(picture).to(net.device, net.dtype)
    if isinstance(net, diffusers.T2IAdapter) and net.config.in_channels == 1:
        return pixels.mean(1, keepdim=True)
    return pixels


def see_latents(loaded: Loaded, net: Any, picture: PIL.Image) -> torch.Tensor:
    """Latents of a control picture in the denoiser's layout (packed for transformers that pack theirs)."""
    pipe, family = loaded.pipe, loaded.family
    pixels = pixels_of(picture).to(net.device) * 2 - 1
    return family.pack(pipe, family.encode(pipe, pixels)).to(net.device, net.dtype)


def see_flux(loaded: Loaded, net: Any, picture: PIL.Image) -> torch.Tensor:
    """As `see_latents`, or pixels (-1..1) for networks that encode the picture themselves."""
    if net.config.conditioning_embedding_channels is None:
        return see_latents(loaded, net, picture)
    return (pixels_of(picture) * 2 - 1).to(net.device, net.dtype)


def see_sd3(loaded: Loaded, net: Any, picture: PIL.Image) -> torch.Tensor:
    """As `see_latents`; networks trained with an empty pooled prompt were also trained without the VAE's shift."""
    latents = see_latents(loaded, net, picture)
    config = loaded.pipe.vae.config
    shift = config.shift_factor * config.scaling_factor if net.config.force_zeros_for_pooled_projection else 0
    return latents + shift


def see_z_image(loaded: Loaded, net: Any, picture: PIL.Image) -> torch.Tensor:
    """As `see_latents`; later generations have channels for a mask and a masked picture, which are left at zero."""
    latents = see_latents(loaded, net, picture)
    more = net.config.control_in_dim - latents.shape[1]
    return torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, more))[:, :, None]


def of_unet(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet, union ControlNet or T2I-Adapter for a UNet."""
    if isinstance(net, diffusers.T2IAdapter):
        states = [state * control.weight for state in net(seen)]
        batch = given["sample"].shape[0]
        return {"down_intrablock_additional_residuals": [spread(state, batch).clone() for state in states]}
    sample = given["sample"][:, : net.config.in_channels]
    batch, common = sample.shape[0], {
        "encoder_hidden_states": given["encoder_hidden_states"], "added_cond_kwargs": given.get("added_cond_kwargs"),
        "conditioning_scale": control.weight, "return_dict": False,
    }  # fmt: skip
    if isinstance(net, diffusers.ControlNetUnionModel):
        mode = mode_of(control, SDXL_MODES, net.config.num_control_type)
        kinds = torch.zeros(batch, net.config.num_control_type, device=sample.device, dtype=sample.dtype)
        kinds[:, mode] = 1
        common |= {"controlnet_cond": [spread(seen, batch)], "control_type": kinds, "control_type_idx": [mode]}
    else:
        common |= {"controlnet_cond": spread(seen, batch)}
    down, middle = net(sample, given["timestep"], **common)
    return {"down_block_additional_residuals": list(down), "mid_block_additional_residual": middle}


def of_flux(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for FLUX."""
    states, mode = given["hidden_states"], None
    batch = states.shape[0]
    if net.union:
        number = mode_of(control, FLUX_MODES, net.config.num_mode)
        mode = torch.full((batch, 1), number, device=states.device, dtype=torch.long)
    guidance = given.get("guidance") if net.config.guidance_embeds else None
    if net.config.guidance_embeds and guidance is None:  # the denoiser itself takes no guidance
        guidance = torch.full([batch], given["guidance_scale"], device=states.device, dtype=states.dtype)
    names = ("timestep", "pooled_projections", "encoder_hidden_states", "txt_ids", "img_ids")
    double, single = net(
        hidden_states=states, controlnet_cond=spread(seen, batch), controlnet_mode=mode, guidance=guidance,
        conditioning_scale=control.weight, return_dict=False, **{name: given[name] for name in names},
    )  # fmt: skip
    return {"controlnet_block_samples": double, "controlnet_single_block_samples": single}


def of_sd3(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for SD3."""
    states, pooled = given["hidden_states"], given["pooled_projections"]
    if net.config.force_zeros_for_pooled_projection:
        pooled = torch.zeros_like(pooled)
    words = given["encoder_hidden_states"] if net.context_embedder is not None else None
    samples = net(
        hidden_states=states, controlnet_cond=spread(seen, states.shape[0]), conditioning_scale=control.weight,
        encoder_hidden_states=words, pooled_projections=pooled, timestep=given["timestep"], return_dict=False,
    )[0]  # fmt: skip
    return {"block_controlnet_hidden_states": samples}


def of_qwen(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for Qwen-Image."""
    names = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "img_shapes")
    samples = net(
        controlnet_cond=spread(seen, given["hidden_states"].shape[0]), conditioning_scale=control.weight,
        return_dict=False, **{name: given.get(name) for name in names},
    )  # fmt: skip
    return {"controlnet_block_samples": samples}


def of_z_image(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for Z-Image."""
    pictures = given["x"]
    samples = net(
        pictures, given["t"], given["cap_feats"], [seen[0]] * len(pictures), conditioning_scale=control.weight
    )
    return {"controlnet_block_samples": samples}


def mode_of(control: Control, modes: dict[str, int], count: int) -> int:
    """The mode number of a control in a union ControlNet. Raises ModelUnavailable if the network has no such mode."""
    name = control.mode or str(control.type)
    number = modes.get(name, count)
    if number >= count:
        known = [each for each, place in modes.items() if place < count]
        raise ModelUnavailable(message("control_mode", name=control.model, known=known, got=name))
    return number


@dataclass(frozen=True, slots=True)
class Form:
    """How controls work for one class of denoiser.

    ``see(loaded, net, picture)`` makes a network's input from a control picture; ``residuals`` runs the network and
    returns arguments for the denoiser. ``shared``: the pipeline calls its denoiser twice per step, and both calls use
    the residuals of the first.
    """

    see: Callable[[Loaded, Any, PIL.Image], Any]
    residuals: Callable[[Any, Any, Given, Control], Given]
    shared: bool = False


FORMS = {
    "UNet2DConditionModel": Form(see_pixels, of_unet),
    "FluxTransformer2DModel": Form(see_flux, of_flux),
    "SD3Transformer2DModel": Form(see_sd3, of_sd3),
    "QwenImageTransformer2DModel": Form(see_latents, of_qwen, shared=True),
    "ZImageTransformer2DModel": Form(see_z_image, of_z_image),
}
