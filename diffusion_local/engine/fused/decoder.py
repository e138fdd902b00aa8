"""The fused form of the decoder of diffusers' AutoencoderKL, with weights of its own in half precision."""

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL

from diffusion_local.engine.fused.layers import Convolution, Resample, Resnet, SelfAttention, picture, require, rows
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.fused.packing import Packing


class FusedDecoder:
    """Latents as the VAE has them (N x C x h x w) to pixels in [-1, 1] (N x 3 x H x W)."""

    def __init__(self, vae: Any, operations: Operations, dtype: torch.dtype) -> None:
        """Pack the VAE's current weights; later changes have no effect. Raises Unsupported."""
        require(type(vae) is AutoencoderKL, f"a VAE of type {type(vae).__name__}")
        require(not vae.use_tiling and not vae.use_slicing, "decoding in tiles")
        middle = vae.decoder.mid_block
        require(all(type(each).__name__ == "UpDecoderBlock2D" for each in vae.decoder.up_blocks), "unusual blocks")
        require(len(middle.attentions) == 1 and len(middle.resnets) == 2, "an unusual middle")
        require(isinstance(vae.decoder.conv_act, torch.nn.SiLU), "an unusual activation")
        require(isinstance(vae.decoder.conv_norm_out, torch.nn.GroupNorm), "an unusual norm")
        packing = Packing()
        decoder = copy.deepcopy(vae.decoder).to(dtype)
        self.dtype, self._operations = dtype, operations
        self._before = None
        if vae.post_quant_conv is not None:
            self._before = Convolution(copy.deepcopy(vae.post_quant_conv).to(dtype), packing)
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


class PictureAttention:
    """Single-head attention among all pixels."""

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
