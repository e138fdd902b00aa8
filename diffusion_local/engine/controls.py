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
import torch
from PIL import Image as PIL

from diffusion_local.engine import control_nets, faults, img2img, placement, preprocessors
from diffusion_local.engine.control_forms import FORMS, Given
from diffusion_local.engine.graphs import denoiser_of, forward_replaced
from diffusion_local.engine.hooked import UnmatchedLayer
from diffusion_local.engine.inputs import PictureInputs, short_hash
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import Loop
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import EngineError, ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.options.types import Control, ControlType


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
                inputs = dict(signature.bind_partial(*args, **kwargs).arguments)
                inputs |= inputs.pop("kwargs", {})
                return own(*args, **kwargs | self.residuals(pipe, inputs))

            return forward

        with forward_replaced(denoiser, steered):
            yield

    def residuals(self, pipe: Any, inputs: Given) -> Given:
        """Additional arguments for this call of the denoiser."""
        if not self._count:
            self._count = self.before + len(pipe.scheduler.timesteps)
        index = self.steps.calls
        if self.shared and self._latest and self._latest[0] == index:
            return self._latest[1]
        summed: Given = {}
        inputs["guidance_scale"] = self.guidance
        for guide in self.guides:
            if guide.acts(index, self._count):
                summed = merged(summed, guide.residuals(guide.net, guide.seen, inputs, guide.control))
        self._latest = (index, summed) if self.shared else None
        return summed


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
    guides = []
    for control in params.controls:
        if form is None:
            raise ModelUnavailable(message("no_controls", model=loaded.model.id))
        assert materials is not None
        _, net = loaded.controls[control.model]
        mask = None
        if control.type is ControlType.INPAINT:
            if canvas is None or canvas.mask is None:
                raise ModelUnavailable(message("control_inpaint"))
            picture, mask = canvas.source, canvas.mask
        else:
            if control_nets.mask_channels(net):
                raise ModelUnavailable(message("control_reads_mask", name=control.model))
            picture = picture_of(control, materials, loop, None if canvas is None else canvas.area)
        guides.append(Guide(control, net, form.see(loaded, net, picture, mask), form.residuals))
    return Guides(guides, steps, before, params.guidance, form is not None and form.shared)


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
