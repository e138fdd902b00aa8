"""Fused forms of diffusers' building blocks: convolutions, ResNet blocks, attention and transformer blocks.

Pictures are passed between them as N x C x H x W in channels-last memory, of which rows (N x HW x C) are a view.
Constructors raise Unsupported for a block with a computation that the fused form lacks.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from diffusion_local.engine.fused.operations import Operations, Quantised
from diffusion_local.engine.fused.packing import Packing, Unsupported, base, bias_of, stacked_bias

#: torch._scaled_mm requires both sides of an 8-bit weight to be multiples of this.
EIGHT_BIT_MULTIPLE = 16


def rows(x: torch.Tensor) -> torch.Tensor:
    """A view of N x C x H x W in channels-last memory as N x HW x C."""
    pictures, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(pictures, height * width, channels)


def picture(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The reverse of ``rows``."""
    return x.view(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)


def require(condition: Any, what: str) -> None:
    """Raises Unsupported naming the unsupported feature."""
    if not condition:
        raise Unsupported(what)


class Linear:
    """A matrix product with a weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


class QuantisedLinear:
    """A matrix product of 8-bit numbers. Quantises the weight by rows, and the input unless it is Quantised already."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, packing: Packing, operations: Operations
    ) -> None:
        self._weight, self._bias, self._operations = operations.quantise(weight), bias, operations
        packing.bytes += self._weight.values.nbytes + self._weight.scales.nbytes

    def __call__(self, x: torch.Tensor | Quantised) -> torch.Tensor:
        rows = x if isinstance(x, Quantised) else self._operations.quantise(x)
        return self._operations.linear(rows, self._weight, self._bias)


class Convolution:
    """A convolution. ``bias``: whether to add the bias here, or leave it to the next operation."""

    def __init__(self, layer: Any, packing: Packing, bias: bool = True) -> None:
        own = base(layer)
        require(own.groups == 1 and own.dilation == (1, 1) and own.padding_mode == "zeros", "unusual convolutions")
        self._weight = packing.kernel(layer)
        self._bias = bias_of(layer) if bias else None
        self._stride, self._padding = own.stride, own.padding

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self._weight, self._bias, self._stride, self._padding)


class Resnet:
    """A ResNet block. ``bias``: added before the second normalisation if there is no time embedding."""

    def __init__(self, block: Any, packing: Packing, operations: Operations) -> None:
        require(isinstance(block, ResnetBlock2D), f"a {type(block).__name__}")
        require(isinstance(block.nonlinearity, torch.nn.SiLU), "an activation other than SiLU in a ResNet block")
        require(block.upsample is None and block.downsample is None, "a ResNet block that resamples")
        require(block.output_scale_factor == 1.0, "a ResNet block with a scaled output")
        plain = block.time_embedding_norm == "default" and not block.skip_time_act
        require(plain or block.time_emb_proj is None, "an unusual time embedding")
        self._norm1, self._norm2 = block.norm1, block.norm2
        self._conv1 = Convolution(block.conv1, packing, bias=False)
        self._conv2 = Convolution(block.conv2, packing, bias=False)
        self.bias = bias_of(block.conv1)
        self._out_bias = bias_of(block.conv2)
        self._shortcut: torch.Tensor | None = None
        if block.conv_shortcut is not None:
            require(base(block.conv_shortcut).kernel_size == (1, 1), "a ResNet block with a large shortcut")
            self._shortcut = packing.flat(block.conv_shortcut)
            extra = bias_of(block.conv_shortcut)
            if extra is not None:
                self._out_bias = extra if self._out_bias is None else self._out_bias + extra
        self._operations = operations

    def __call__(self, x: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
        """``shift``: N x C, the time embedding with the first convolution's bias."""
        count, _, height, width = x.shape
        residual = rows(x)
        hidden = self._conv1(picture(self._operations.group_norm(residual, self._norm1, True), height, width))
        if shift is None and self.bias is not None:
            shift = self.bias.expand(count, -1)
        normed = self._operations.group_norm(rows(hidden), self._norm2, True, shift)
        hidden = self._conv2(picture(normed, height, width))
        if self._shortcut is not None:
            residual = F.linear(residual, self._shortcut)
        return picture(self._operations.add(rows(hidden), residual, self._out_bias), height, width)


class Resample:
    """Downsamples by a strided convolution, or upsamples by nearest-neighbour interpolation and a convolution."""

    def __init__(self, layer: Any, packing: Packing, up: bool) -> None:
        require(layer.use_conv and getattr(layer, "norm", None) is None, "resampling with a norm or no convolution")
        if up:
            require(not layer.use_conv_transpose and layer.interpolate, "transposed convolutions")
        else:
            require(layer.padding == 1, "an unusual padding of a convolution")
        self._conv = Convolution(layer.conv, packing)

    def __call__(self, x: torch.Tensor, size: Any = None) -> torch.Tensor:
        """``size``: (height, width) to upsample to, or None."""
        return self._conv(x if size is None else F.interpolate(x, size=size, mode="nearest"))


class SelfAttention:
    """Self-attention that computes queries, keys and values in one product."""

    def __init__(self, attention: Any, packing: Packing, quantised: Operations | None) -> None:
        self.heads = attention.heads
        layers = [attention.to_q, attention.to_k, attention.to_v]
        self._packed = product(packing.stacked(layers), stacked_bias(layers), packing, quantised)
        self._out = linear(attention.to_out[0], packing, quantised)

    def __call__(self, x: torch.Tensor | Quantised) -> torch.Tensor:
        packed = self._packed(x)
        count, length, _ = packed.shape
        packed = packed.view(count, length, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        hidden = F.scaled_dot_product_attention(query, key, value)
        return self._out(hidden.transpose(1, 2).reshape(count, length, -1))


class CrossAttention:
    """Cross-attention whose keys and values are computed elsewhere, once per picture."""

    def __init__(self, attention: Any, packing: Packing, quantised: Operations | None) -> None:
        self.heads = attention.heads
        self._query = linear(attention.to_q, packing, quantised)
        self._out = linear(attention.to_out[0], packing, quantised)

    def __call__(self, x: torch.Tensor | Quantised, text: torch.Tensor) -> torch.Tensor:
        """``text``: N x tokens x 2C, keys followed by values; rows may have any stride."""
        query = self._query(x)
        count, length, _ = query.shape
        query = query.view(count, length, self.heads, -1).transpose(1, 2)
        key, value = text.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        hidden = F.scaled_dot_product_attention(query, key, value)
        return self._out(hidden.transpose(1, 2).reshape(count, length, -1))


def product(weight: torch.Tensor, bias: torch.Tensor | None, packing: Packing, quantised: Operations | None) -> Any:
    """A linear layer. ``quantised``: operations for 8-bit numbers, or None for the weight's own dtype."""
    if quantised is None:
        return Linear(weight, bias)
    return QuantisedLinear(weight, bias, packing, quantised)


def linear(layer: Any, packing: Packing, quantised: Operations | None) -> Any:
    """``product`` with a layer's weight and bias."""
    return product(packing.flat(layer), bias_of(layer), packing, quantised)


def fit_eight_bits(block: Any) -> bool:
    """Whether a block's weights have sizes that the 8-bit product supports."""
    layers = (block.attn1.to_q, block.attn1.to_out[0], block.attn2.to_q, block.attn2.to_out[0])
    sides = [side for each in (*layers, block.ff.net[0].proj, block.ff.net[2]) for side in base(each).weight.shape]
    return all(side % EIGHT_BIT_MULTIPLE == 0 for side in sides)


def check_attention(attention: Any) -> None:
    """Raises Unsupported for attention with features that the fused form lacks."""
    require(isinstance(attention, Attention), f"a {type(attention).__name__}")
    require(isinstance(attention.processor, AttnProcessor | AttnProcessor2_0), "attention that was replaced")
    names = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    require(not any(getattr(attention, name, None) for name in names), "attention with norms or added keys")
    require(not attention.residual_connection and attention.rescale_output_factor == 1.0, "attention with a residual")
    require(attention.scale_qk and not attention.is_causal, "attention with another scale or order")
    require(attention.inner_kv_dim == attention.inner_dim, "attention with fewer keys than queries")
    require(not attention.fused_projections, "attention whose projections were fused")


class Block:
    """A transformer block; adding its last residual is left to the next operation."""

    def __init__(self, block: Any, packing: Packing, operations: Operations) -> None:
        require(isinstance(block, BasicTransformerBlock), f"a {type(block).__name__}")
        require(block.norm_type == "layer_norm" and block.pos_embed is None, f"a norm of type {block.norm_type}")
        norms = (block.norm1, block.norm2, block.norm3)
        require(
            all(isinstance(each, torch.nn.LayerNorm) and each.elementwise_affine for each in norms), "unusual norms"
        )
        require(not block.only_cross_attention and not hasattr(block, "fuser"), "an unusual transformer block")
        require(block.attn2 is not None and block.attn2.is_cross_attention, "a block without cross attention")
        require(block._chunk_size is None, "feed-forward layers in chunks")
        for attention in (block.attn1, block.attn2):
            check_attention(attention)
        require(type(block.ff.net[0]).__name__ == "GEGLU", f"an activation of type {type(block.ff.net[0]).__name__}")
        self._norm1, self._norm2, self._norm3 = norms
        quantised = operations if packing.eight_bits and fit_eight_bits(block) else None
        self._own = SelfAttention(block.attn1, packing, quantised)
        self._cross = CrossAttention(block.attn2, packing, quantised)
        self._wide = linear(block.ff.net[0].proj, packing, quantised)
        self._narrow = linear(block.ff.net[2], packing, quantised)
        self._operations, self._quantised = operations, quantised is not None

    def __call__(
        self, hidden: torch.Tensor, pending: torch.Tensor | None, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``pending`` is a residual not yet added to ``hidden``; returns the same kind of pair."""
        add_norm, quantised = self._operations.add_layer_norm, self._quantised
        hidden, normed = add_norm(hidden, pending, self._norm1, quantised)
        hidden, normed = add_norm(hidden, self._own(normed), self._norm2, quantised)
        hidden, normed = add_norm(hidden, self._cross(normed, text), self._norm3, quantised)
        return hidden, self._narrow(self._operations.geglu(self._wide(normed), quantised))


class Transformer:
    """A Transformer2DModel: transformer blocks with the pixels of a picture as tokens."""

    def __init__(self, model: Any, packing: Packing, operations: Operations) -> None:
        require(isinstance(model, Transformer2DModel) and model.is_input_continuous, f"a {type(model).__name__}")
        require(getattr(model, "caption_projection", None) is None, "a projection of captions")
        self._norm = model.norm
        self._in, self._out = (Linear(packing.flat(each), bias_of(each)) for each in (model.proj_in, model.proj_out))
        self.blocks = [Block(block, packing, operations) for block in model.transformer_blocks]
        require(self.blocks, "a transformer without blocks")
        self._operations = operations

    def __call__(self, x: torch.Tensor, texts: Iterator[torch.Tensor]) -> torch.Tensor:
        height, width = x.shape[2:]
        residual, pending = rows(x), None
        hidden = self._in(self._operations.group_norm(residual, self._norm, False))
        for block in self.blocks:
            hidden, pending = block(hidden, pending, next(texts))
        assert pending is not None
        out = self._out(self._operations.add(hidden, pending))
        return picture(self._operations.add(out, residual), height, width)
