"""Draws previews with the decoder of a small VAE (TAESD) in the home whose latents are those of the model.

It shows nearly what the model's own VAE would, for some milliseconds on a GPU. Without such a file, or where it cannot
be used, previews are linear (``previews``).
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from PIL import Image as PIL

from diffusion_local.engine import faults, previews
from diffusion_local.engine.previews import LONG_SIDE
from diffusion_local.engine.tensors import State, read_finite

log = logging.getLogger(__name__)

#: Latents have a cell for this number of pixels, across and down; longer ones are reduced before they are decoded.
CELL = 8
WIDTH = 64
#: Names of a decoder's layers: of diffusers, and of its author's, which begin with a layer without weights.
DIFFUSERS = "decoder.layers."
AUTHORS = re.compile(r"^(?:taesd_decoder\.|decoder\.)?(\d+)\.")


class PreviewDecoder:
    """The decoder of a small VAE; ``name`` is that of its file. Fails at most once, and says so in the log."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._net: torch.nn.Module | None = None
        try:
            self._net = read_decoder(path)
        except Exception as problem:  # a damaged file may raise anything
            self._give_up(problem)

    def begin(self, latents: torch.Tensor) -> Callable[[], PIL.Image] | None:
        """A function that gives the picture of the first of the latents (N x C x h x w, as the VAE gets them), at most
        LONG_SIDE on the long side, on any thread; None if the decoder cannot be used.

        The work is done or launched at once: see ``previews.begin``.
        """
        if self._net is None:
            return None
        try:
            first = reduced(latents[:1])
            dtype = torch.float32 if first.device.type == "cpu" else torch.float16
            self._net.to(first.device, dtype)
            with torch.no_grad():
                pixels = self._net(first.to(dtype))[0].clamp(-1, 1).mul(127.5).add(127.5).to(torch.uint8).movedim(0, -1)
        except Exception as problem:  # also of memory: the picture must go on
            self._give_up(problem)
            return None
        if pixels.device.type == "cpu":
            drawn: npt.NDArray[np.uint8] = pixels.numpy()
            return lambda: PIL.fromarray(drawn)
        return lambda: PIL.fromarray(pixels.cpu().numpy())

    def _give_up(self, problem: Exception) -> None:
        self._net = None
        log.warning("previews are drawn without %s, which failed: %s", self.name, faults.first_line(problem))


def begin(
    latents: torch.Tensor, decoder: PreviewDecoder | None, factors: previews.Factors | None
) -> Callable[[], PIL.Image]:
    """Like ``previews.begin``, with the decoder if it can be used. Raises ValueError without either."""
    drawn = decoder.begin(latents) if decoder else None
    if drawn is not None:
        return drawn
    if factors is None:
        raise ValueError("neither the model's VAE nor a small one gives a preview")
    return previews.begin(latents, factors)


def reduced(latents: torch.Tensor) -> torch.Tensor:
    """The latents with at most LONG_SIDE / CELL on the long side."""
    most = LONG_SIDE // CELL
    height, width = latents.shape[-2:]
    if max(height, width) <= most:
        return latents
    scale = most / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return torch.nn.functional.interpolate(latents.float(), size, mode="area")


def read_decoder(path: Path) -> torch.nn.Module:
    """The decoder in a file of either naming, with or without the encoder. Raises ModelUnavailable, RuntimeError."""
    state = named_as_diffusers(read_finite(path))
    entrance = state["layers.0.weight"]
    net: torch.nn.Module = DecoderTiny(entrance.shape[1], 3, (3, 3, 3, 1), (WIDTH,) * 4, 2, "relu", "nearest")
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def named_as_diffusers(state: State) -> State:
    if any(name.startswith(DIFFUSERS) for name in state):
        return {name.removeprefix("decoder."): each for name, each in state.items() if name.startswith(DIFFUSERS)}
    found = {name: AUTHORS.match(name) for name in state}
    return {f"layers.{int(match[1]) - 1}.{name[match.end() :]}": state[name] for name, match in found.items() if match}
