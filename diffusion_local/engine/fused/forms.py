"""The fused forms of a loaded model (UNet and AutoencoderKL decoder), and which pictures they are used for."""

import copy
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL

from diffusion_local.engine import faults
from diffusion_local.engine.fused.denoiser import FusedDenoiser
from diffusion_local.engine.fused.layers import Convolution, Resample, Resnet, SelfAttention, picture, require, rows
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.fused.packing import Packing, Unsupported
from diffusion_local.engine.fused.transformer import CompiledTransformer
from diffusion_local.errors import EngineError

T = TypeVar("T")


class FusedDecoder:
    """Decodes latents in the VAE's layout (N x C x h x w) to pixels in [-1, 1] (N x 3 x H x W)."""

    def __init__(self, vae: Any, operations: Operations, dtype: torch.dtype, device: torch.device) -> None:
        """Pack a copy of the VAE's current weights on ``device``; later changes have no effect. Raises Unsupported.

        If the VAE decodes in tiles, so does this, in tiles of the same size.
        """
        require(type(vae) is AutoencoderKL, f"a VAE of type {type(vae).__name__}")
        middle = vae.decoder.mid_block
        require(all(type(each).__name__ == "UpDecoderBlock2D" for each in vae.decoder.up_blocks), "unusual blocks")
        require(len(middle.attentions) == 1 and len(middle.resnets) == 2, "an unusual middle")
        require(isinstance(vae.decoder.conv_act, torch.nn.SiLU), "an unusual activation")
        require(isinstance(vae.decoder.conv_norm_out, torch.nn.GroupNorm), "an unusual norm")
        packing = Packing()
        decoder = copy.deepcopy(vae.decoder).to(device, dtype)
        self.dtype, self._operations = dtype, operations
        self._tiles = tiles_of(vae)
        self._before = None
        if vae.post_quant_conv is not None:
            self._before = Convolution(copy.deepcopy(vae.post_quant_conv).to(device, dtype), packing)
        self._first, self._last = Convolution(decoder.conv_in, packing), Convolution(decoder.conv_out, packing)
        self._norm = decoder.conv_norm_out
        self._middle = [Resnet(each, packing, operations) for each in decoder.mid_block.resnets]
        attention = decoder.mid_block.attentions[0]
        self._attention = None if attention is None else PictureAttention(attention, packing, operations)
        self._up = [
            (
                [Resnet(each, packing, operations) for each in block.resnets],
                Resample(block.upsamplers[0], packing, up=True) if block.upsamplers else None,
            )
            for block in decoder.up_blocks
        ]

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        if self._tiles is None or max(latents.shape[2:]) <= self._tiles.side:
            return self._decode(latents)
        return in_tiles(latents, self._tiles, self._decode)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        x = latents.to(self.dtype, memory_format=torch.channels_last)
        x = self._first(x if self._before is None else self._before(x))
        x = self._middle[0](x, None)
        x = self._middle[1](x if self._attention is None else self._attention(x), None)
        for resnets, enlarge in self._up:
            for resnet in resnets:
                x = resnet(x, None)
            if enlarge is not None:
                x = enlarge(x, (2 * x.shape[2], 2 * x.shape[3]))
        normed = self._operations.group_norm(rows(x), self._norm, True)
        return self._last(picture(normed, *x.shape[2:]))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles in which a VAE decodes: their ``side`` and ``step`` in latents, their ``overlap`` in pixels."""

    side: int
    step: int
    overlap: int


def tiles_of(vae: Any) -> Tiles | None:
    """The tiles in which a VAE decodes, or None if it decodes whole pictures."""
    if not vae.use_tiling:
        return None
    side, share = vae.tile_latent_min_size, vae.tile_overlap_factor
    return Tiles(side, int(side * (1 - share)), int(vae.tile_sample_min_size * share))


def in_tiles(latents: torch.Tensor, tiles: Tiles, decode: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Decode overlapping tiles and blend them linearly, as diffusers' ``AutoencoderKL.tiled_decode`` does."""
    height, width = latents.shape[2:]
    above: list[torch.Tensor] = []
    rows_of_pixels = []
    for top in range(0, height, tiles.step):
        row: list[torch.Tensor] = []
        for place, left in enumerate(range(0, width, tiles.step)):
            tile = decode(latents[:, :, top : top + tiles.side, left : left + tiles.side])
            if above:
                blend(above[place], tile, tiles.overlap, 2)
            if row:
                blend(row[-1], tile, tiles.overlap, 3)
            row.append(tile)
        scale = row[0].shape[2] // min(tiles.side, height - top)
        visible = tiles.side * scale - tiles.overlap
        rows_of_pixels.append(torch.cat([tile[:, :, :visible, :visible] for tile in row], dim=3))
        above = row
    return torch.cat(rows_of_pixels, dim=2)


def blend(before: torch.Tensor, tile: torch.Tensor, overlap: int, dim: int) -> None:
    """Fade from the end of ``before`` to ``tile`` over ``overlap`` rows (``dim`` 2) or columns (3), in place."""
    overlap = min(before.shape[dim], tile.shape[dim], overlap)
    weights = (torch.arange(overlap, device=tile.device) / overlap).to(tile.dtype)
    start = tile.narrow(dim, 0, overlap)
    end = before.narrow(dim, before.shape[dim] - overlap, overlap)
    start.copy_(torch.lerp(end, start, weights.view(-1, 1) if dim == 2 else weights))


class PictureAttention:
    """Single-head self-attention over all pixels."""

    def __init__(self, attention: Any, packing: Packing, operations: Operations) -> None:
        require(attention.group_norm is not None and attention.spatial_norm is None, "attention without a norm")
        require(
            attention.residual_connection and attention.rescale_output_factor == 1.0, "attention without a residual"
        )
        self._norm = attention.group_norm
        self._attention, self._operations = SelfAttention(attention, packing, None), operations

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        residual = rows(x)
        normed = self._operations.group_norm(residual, self._norm, False)
        return picture(self._operations.add(self._attention(normed), residual), height, width)


log = logging.getLogger(__name__)


class Forms:
    """The fused forms of one model; without ``operations`` it has none.

    ``lock`` must be held while running or changing the model's VAE. ``decoded``: the dtype in which a fused decoder
    decoded the latest picture, or empty.
    """

    def __init__(
        self, operations: Operations | None = None, forget: Callable[[], Any] = lambda: None, bf16: bool = False
    ) -> None:
        """``forget`` is called whenever the denoiser's weights have moved in memory, and before another decoder is
        used; ``bf16``: whether the device supports it.
        """
        self.lock = threading.RLock()
        self.decoded = ""
        self._bf16 = bf16
        self._operations, self._forget = operations, forget
        self._denoiser: FusedDenoiser | CompiledTransformer | None = None
        self._decoder: tuple[Any, Any, FusedDecoder | None] | None = None

    def denoiser(self, pipe: Any, room: int) -> FusedDenoiser | CompiledTransformer | None:
        """The fused UNet or compiled transformer of a pipeline, or None. ``room``: bytes available for weights merged
        with LoRAs or in 8 bits."""
        unet, transformer = getattr(pipe, "unet", None), getattr(pipe, "transformer", None)
        if self._operations is None or (unet is None and transformer is None):
            return None
        if self._denoiser is None and unet is not None:
            self._denoiser = FusedDenoiser(unet, self._operations, self._forget)
        elif self._denoiser is None and transformer is not None:
            self._denoiser = CompiledTransformer(transformer, self._operations, self._forget)
        assert self._denoiser is not None
        return self._denoiser if self._denoiser.ready(room) else None

    def decoder(self, vae: Any, dtype: torch.dtype, device: torch.device) -> FusedDecoder | None:
        """The fused decoder of a VAE, or None; ``dtype`` is the model's. It stays on ``device``, the VAE need not.

        The decoder of an fp32 VAE beside a model in half precision would overflow in fp16, so it decodes in bf16.
        """
        self.decoded = ""
        if self._operations is None or (vae.dtype != dtype and not self._bf16):
            return None
        decoder_dtype = dtype if vae.dtype == dtype else torch.bfloat16
        form = decoder_dtype, getattr(vae, "use_tiling", False)
        if self._decoder is None or self._decoder[0] is not vae or self._decoder[1] != form:
            made: FusedDecoder | None = None
            if self._decoder is not None:
                self._forget()
            try:
                made = FusedDecoder(vae, self._operations, decoder_dtype, device)
            except Unsupported as problem:
                log.info("pictures are decoded the exact way: the VAE has %s", problem)
            self._decoder = vae, form, made
        if self._decoder[2] is not None:
            self.decoded = str(decoder_dtype).removeprefix("torch.")
        return self._decoder[2]

    def fused_or_exact(self, decoder: FusedDecoder | None, decode: Callable[[FusedDecoder | None], T]) -> T:
        """``decode(decoder)``, or ``decode(None)`` once a kernel has failed. Engine errors, out-of-memory and device-
        lost errors are raised unchanged.
        """
        try:
            return decode(decoder)
        except EngineError:
            raise
        except Exception as problem:
            if decoder is None or faults.is_out_of_memory(problem) or faults.is_device_lost(problem):
                raise
            self.refuse_decoder(f"{type(problem).__name__}: {faults.first_line(problem)}")
        return decode(None)

    def refuse_decoder(self, why: str) -> None:
        """Decode on the exact path from now on."""
        if self._decoder is not None and self._decoder[2] is not None:
            log.warning("pictures are decoded the exact way: %s", why)
            self._decoder = (*self._decoder[:2], None)
            self.decoded = ""

    def drop(self) -> None:
        """Restore the original forms, before weights change or move or exact results are requested."""
        if self._denoiser is not None:
            self._denoiser.drop()

    def facts(self) -> dict[str, Any]:
        """Facts for the recipe: which forms made the latest picture."""
        denoised = self._denoiser is not None and self._denoiser.used
        eight_bits = self._denoiser is not None and denoised and self._denoiser.eight_bits
        name = self._denoiser.name if self._denoiser is not None else ""
        denoiser = f"{name} (8 bits)" if eight_bits else name
        fused = [*[denoiser] * denoised, *[f"decoder ({self.decoded})"] * bool(self.decoded)]
        return {"speed": "fastest" if eight_bits else "fast", "fused": fused} if fused else {"speed": "exact"}
