"""Enlarges pictures: tile by tile with a network from ``upscalers/``, or with Pillow's Lanczos filter.

spandrel detects the network's architecture from its weights. It depends on torchvision, but only architectures for
face restoration and inpainting use it; where torchvision is missing or incompatible with the installed PyTorch, it is
replaced by a stub. spandrel is bundled for that reason, see ``assets/wheels/README.md``.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image as PIL
from PIL import ImageChops

from diffusion_local.engine import Picture, faults, img2img
from diffusion_local.engine.inputs import PictureInputs, short_hash
from diffusion_local.engine.loops import ramp
from diffusion_local.engine.steps import Steps
from diffusion_local.engine.tensors import read_mapped, require_finite
from diffusion_local.errors import EngineError, ModelUnavailable, OutOfMemory
from diffusion_local.lazy_imports import replaced_modules
from diffusion_local.messages import message
from diffusion_local.options.hires import HIRES_UPSCALERS, LANCZOS, Size
from diffusion_local.options.table import Params
from diffusion_local.options.validate import MAX_UPSCALED_PIXELS, TILE
from diffusion_local.paths import assets

#: Suffixes of files that spandrel opens itself.
SPANDREL_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
SPANDREL = "spandrel-0.4.2-py3-none-any.whl"
#: Margin in pixels around a tile that the network also sees, so that edges do not show, and the part of it over which
#: neighbouring tiles are blended.
OVERLAP, BLEND = 32, 8
SMALLEST_TILE = 64


@dataclass(slots=True)
class Network:
    """An upscaler in memory: pixels in [0, 1], 1 x 3 x h x w to 1 x 3 x ``scale`` h x ``scale`` w."""

    path: Path
    run: Any
    scale: int
    dtype: torch.dtype


class Upscaler:
    """Upscales on one device and caches the network that it used last."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._network: Network | None = None

    def upscale(self, params: Params, steps: Steps, materials: PictureInputs) -> Picture:
        """Run an upscaling job. Raises ModelUnavailable, OutOfMemory and Interrupted."""
        source = img2img.flatten_alpha(materials.source(params.source), "white").convert("RGB")
        size = (params.width, params.height)
        if params.upscaler == LANCZOS:
            steps.report(1)
            return Picture(source.resize(size, PIL.Resampling.LANCZOS), {"upscaler": LANCZOS})
        network = self._loaded(materials.upscaler(params.upscaler))
        fitted = self._fitted(network, source, size, steps.report)
        facts = {"upscaler_scale": network.scale, "dtype": str(network.dtype).removeprefix("torch.")}
        return Picture(fitted, facts | {"upscaler_hash": short_hash(network.path)})

    def enlarge(self, materials: PictureInputs | None, picture: PIL.Image, upscaler: str, size: Size) -> PIL.Image:
        """Resize a picture (RGB) with the network that ``upscaler`` names, or with Lanczos.

        Raises ModelUnavailable and OutOfMemory.
        """
        if upscaler in HIRES_UPSCALERS:
            return picture.resize(size, PIL.Resampling.LANCZOS)
        if materials is None:
            raise ModelUnavailable(message("no_home_sources"))
        return self._fitted(self._loaded(materials.upscaler(upscaler)), picture, size, lambda done: None)

    def _fitted(self, network: Network, source: PIL.Image, size: Size, tell: Callable[[int], None]) -> PIL.Image:
        if source.width * source.height * network.scale**2 > MAX_UPSCALED_PIXELS:  # larger than needed
            least = (-(-size[0] // network.scale), -(-size[1] // network.scale))
            source = source.resize(least, PIL.Resampling.LANCZOS)
        large = self._by_tiles(network, source, tell)
        return large if large.size == size else large.resize(size, PIL.Resampling.LANCZOS)

    def unload(self) -> None:
        self._network = None

    def _loaded(self, path: Path) -> Network:
        if self._network is None or self._network.path != path:
            self._network = None
            self._network = load(path, self._device)
        return self._network

    def _by_tiles(self, network: Network, source: PIL.Image, tell: Callable[[int], None]) -> PIL.Image:
        large = PIL.new("RGB", (source.width * network.scale, source.height * network.scale))
        for done, box in enumerate(tiles(source.size, TILE), start=1):
            self._tile(network, source, box, large, TILE)
            tell(done)
        return large

    def _tile(
        self, network: Network, source: PIL.Image, box: tuple[int, int, int, int], large: PIL.Image, side: int
    ) -> None:
        """Enlarge and paste a box; if memory does not suffice, in quarters. Raises OutOfMemory at the smallest."""
        try:
            self._paste(network, source, box, large)
            return
        except Exception as error:
            if not faults.is_out_of_memory(error):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if side <= SMALLEST_TILE:
            raise OutOfMemory
        left, top, right, bottom = box
        for x, y, end_x, end_y in tiles((right - left, bottom - top), side // 2):
            self._tile(network, source, (left + x, top + y, left + end_x, top + end_y), large, side // 2)

    def _paste(self, network: Network, source: PIL.Image, box: tuple[int, int, int, int], large: PIL.Image) -> None:
        """Enlarge a box with its margin, and blend it into its finished neighbours."""
        seen, blended = around(box, OVERLAP, source.size), around(box, BLEND, source.size)
        array = torch.from_numpy(np.array(source.crop(seen))).movedim(-1, 0)[None]
        with torch.no_grad():
            made = network.run((array.float() / 255).to(self._device, network.dtype))
        pixels = (made[0].float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
        left, top, right, bottom = (
            (edge - low) * network.scale for edge, low in zip(blended, (*seen[:2], *seen[:2]), strict=True)
        )
        size = (right - left, bottom - top)
        across, down = (2 * (edge - start) * network.scale for edge, start in zip(box[:2], blended[:2], strict=True))
        mask = ImageChops.multiply(ramp(size, across), ramp(size[::-1], down).transpose(PIL.Transpose.TRANSPOSE))
        at = (blended[0] * network.scale, blended[1] * network.scale)
        large.paste(PIL.fromarray(pixels).crop((left, top, right, bottom)), at, mask)


def around(box: tuple[int, int, int, int], margin: int, size: Size) -> tuple[int, int, int, int]:
    """A box enlarged by a margin, clipped to the picture."""
    left, top, right, bottom = box
    return max(0, left - margin), max(0, top - margin), min(size[0], right + margin), min(size[1], bottom + margin)


def tiles(size: tuple[int, int], side: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) that cover a picture, row by row."""
    for top in range(0, size[1], side):
        for left in range(0, size[0], side):
            yield left, top, min(left + side, size[0]), min(top + side, size[1])


def load(path: Path, device: torch.device) -> Network:
    """Load a network to a device, in fp16 on CUDA if it supports that.

    Raises ModelUnavailable if the file is damaged or is not an upscaler of colour pictures, and other EngineErrors.
    """
    spandrel = import_spandrel()
    try:
        loader = spandrel.ModelLoader("cpu")
        known = path.suffix.lower() in SPANDREL_SUFFIXES
        descriptor = loader.load_from_file(path) if known else loader.load_from_state_dict(read_mapped(path, ""))
    except spandrel.UnsupportedModelError:
        raise ModelUnavailable(message("upscaler_kind", name=path.name)) from None
    except Exception as error:
        raise ModelUnavailable(message("upscaler_load", name=path.name, error=faults.first_line(error))) from None
    if (
        not isinstance(descriptor, spandrel.ImageModelDescriptor)
        or descriptor.input_channels != 3
        or descriptor.output_channels != 3
    ):
        raise ModelUnavailable(message("upscaler_colour", name=path.name))
    require_finite(path.name, descriptor.model.state_dict())
    dtype = torch.float16 if device.type == "cuda" and descriptor.supports_half else torch.float32
    problem: EngineError
    try:
        return Network(path, descriptor.eval().to(device, dtype), descriptor.scale, dtype)
    except Exception as error:
        problem = faults.to_engine_error(error, faults.making_error)
    raise problem


@cache
def import_spandrel() -> Any:
    """Import the bundled spandrel, also if another version is installed.

    It imports all of its modules immediately, so the temporary folder it is unpacked into can be deleted afterwards.
    """
    with TemporaryDirectory() as folder, ZipFile(assets() / "wheels" / SPANDREL) as wheel, without_torchvision():
        wheel.extractall(folder)
        sys.path.insert(0, folder)
        try:
            return import_module("spandrel")
        finally:
            sys.path.remove(folder)


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Allow importing spandrel where torchvision cannot be imported."""
    try:
        import torchvision  # noqa: F401

        yield
        return
    except (ImportError, RuntimeError):  # RuntimeError: built for another PyTorch
        pass
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    stand_ins = {name: ModuleType(name) for name in names}
    for imported in ("InterpolationMode", "rotate", "normalize"):
        setattr(stand_ins[names[-1]], imported, None)
    with replaced_modules(stand_ins):
        yield
