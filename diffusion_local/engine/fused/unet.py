"""The fused form of diffusers' UNet2DConditionModel as Stable Diffusion 1, 2 and XL and their kin have it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from diffusion_local.engine.fused.layers import Convolution, Resample, Resnet, Transformer, picture, require, rows
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.fused.packing import Packing, stacked_bias

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
MIDDLE = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D")


class Stage:
    """ResNet blocks, each followed by a transformer where there are any, and a resampling at the end or None."""

    def __init__(self, block: Any, packing: Packing, operations: Operations) -> None:
        attentions = getattr(block, "attentions", None) or []
        self.resnets = [Resnet(each, packing, operations) for each in block.resnets]
        self.transformers = [Transformer(each, packing, operations) for each in attentions]
        down, up = (getattr(block, f"{way}samplers", None) for way in ("down", "up"))
        samplers = list(down or up or [])
        require(len(samplers) <= 1, "a block that resamples twice")
        self.resample = Resample(samplers[0], packing, bool(up)) if samplers else None


class FusedUNet:
    """``text`` and ``embedding`` prepare what stays the same over a picture's steps; ``step`` is one step.

    While it exists the UNet's convolution kernels are in channels-last order: call ``undo`` before the UNet itself is
    to compute as it was loaded.
    """

    def __init__(self, unet: Any, operations: Operations, eight_bits: bool = False) -> None:
        """``eight_bits``: whether products in transformer blocks are of 8-bit numbers. Raises Unsupported, after which
        the UNet is as it was."""
        check(unet)
        self.packing = Packing(eight_bits)
        try:
            self._build(unet, operations)
        except BaseException:
            self.packing.undo()
            raise

    def _build(self, unet: Any, operations: Operations) -> None:
        packing = self.packing
        self._unet, self._operations = unet, operations
        self._first, self._last = Convolution(unet.conv_in, packing), Convolution(unet.conv_out, packing)
        self._down = [Stage(block, packing, operations) for block in unet.down_blocks]
        self._middle = Stage(unet.mid_block, packing, operations)
        self._up = [Stage(block, packing, operations) for block in unet.up_blocks]
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        resnets = [each for block in blocks for each in block.resnets]
        times = [each.time_emb_proj for each in resnets]
        self._time_weight = packing.stacked(times)
        self._time_bias = _sum(stacked_bias(times), stacked_bias([each.conv1 for each in resnets]))
        self._time_sizes = [each.out_channels for each in resnets]
        found = [getattr(block, "attentions", None) or [] for block in blocks]
        crossing = [each.attn2 for models in found for model in models for each in model.transformer_blocks]
        layers = [layer for each in crossing for layer in (each.to_k, each.to_v)]
        self._text_weight = packing.stacked(layers) if layers else None
        self._text_bias = stacked_bias(layers) if layers else None
        self._text_sizes = [2 * each.inner_dim for each in crossing]

    def undo(self) -> None:
        self.packing.undo()

    def text(self, states: torch.Tensor) -> torch.Tensor:
        """Keys and values of a prompt for all blocks side by side: N x tokens x channels to N x tokens x their sum."""
        if self._text_weight is None:
            return states[..., :0]
        return F.linear(states, self._text_weight, self._text_bias)

    def embedding(self, states: torch.Tensor, added: dict[str, Any] | None) -> torch.Tensor | None:
        """What is added to the time embedding (SDXL: size and pooled prompt), or None."""
        found: torch.Tensor | None = self._unet.get_aug_embed(
            emb=states, encoder_hidden_states=states, added_cond_kwargs=added or {}
        )
        return found

    def step(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        embedding: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        down_residuals: Sequence[torch.Tensor] | None = None,
        middle_residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """``sample``: N x C x h x w. Residuals (of a ControlNet) are added to the skip connections and the middle."""
        times = self._times(sample, timestep, embedding, timestep_cond)
        texts = iter(text.split(self._text_sizes, dim=2))
        x = self._first(sample.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for stage in self._down:
            for number, resnet in enumerate(stage.resnets):
                x = resnet(x, next(times))
                if stage.transformers:
                    x = stage.transformers[number](x, texts)
                skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x)
                skips.append(x)
        x = self._in_the_middle(x, times, texts)
        if down_residuals is not None:
            skips = [_added(skip, residual) for skip, residual in zip(skips, down_residuals, strict=True)]
        if middle_residual is not None:
            x = _added(x, middle_residual)
        for stage in self._up:
            for number, resnet in enumerate(stage.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), next(times))
                if stage.transformers:
                    x = stage.transformers[number](x, texts)
            if stage.resample is not None:
                x = stage.resample(x, skips[-1].shape[2:])
        height, width = x.shape[2:]
        normed = self._operations.group_norm(rows(x), self._unet.conv_norm_out, True)
        return (self._last(picture(normed, height, width)).contiguous(),)

    def _times(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        embedding: torch.Tensor | None,
        condition: torch.Tensor | None,
    ) -> Any:
        """The time embedding as each ResNet block adds it: N x C, one after the other."""
        time = self._unet.time_embedding(self._unet.get_time_embed(sample=sample, timestep=timestep), condition)
        if embedding is not None:
            time = time + embedding
        shifts = F.linear(F.silu(time), self._time_weight, self._time_bias)
        return iter(shifts.split(self._time_sizes, dim=1))

    def _in_the_middle(self, x: torch.Tensor, times: Any, texts: Any) -> torch.Tensor:
        x = self._middle.resnets[0](x, next(times))
        for number, resnet in enumerate(self._middle.resnets[1:]):
            if self._middle.transformers:
                x = self._middle.transformers[number](x, texts)
            x = resnet(x, next(times))
        return x


def check(unet: Any) -> None:
    """Raises Unfit for a UNet with parts that have no fused form."""
    require(type(unet) is UNet2DConditionModel, f"a denoiser of type {type(unet).__name__}")
    config = unet.config
    for names, known in ((config.down_block_types, DOWN), (config.up_block_types, UP)):
        for name in names:
            require(name in known, f"a block of type {name}")
    require(type(unet.mid_block).__name__ in MIDDLE, f"a block of type {type(unet.mid_block).__name__}")
    require(all(each is not None for each in getattr(unet.mid_block, "attentions", ())), "a middle without attention")
    require(config.addition_embed_type in (None, "text_time"), f"an embedding of type {config.addition_embed_type}")
    require(unet.class_embedding is None and unet.time_embed_act is None, "a class embedding")
    require(unet.encoder_hid_proj is None, "a projection of the prompt")
    require(isinstance(unet.conv_act, torch.nn.SiLU) and unet.conv_norm_out is not None, "an unusual output")
    require(not config.center_input_sample, "centred input")
    for block in unet.up_blocks:  # set by enable_freeu
        require(all(getattr(block, name, None) is None for name in ("s1", "s2", "b1", "b2")), "FreeU")


def _sum(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return second if first is None else first if second is None else first + second


def _added(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return (x + residual).contiguous(memory_format=torch.channels_last)
