"""Weights in the layout of fused layers: LoRAs merged, adjacent layers stacked, convolution kernels channels-last.

Nothing is stored twice: a layer without LoRAs shares its memory with the packed form, so the model can still use the
exact path. Only the memory order of its convolution kernels differs, which ``Packing.undo`` reverts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer


class Unsupported(Exception):
    """The model has no fused form. The message names its unsupported feature."""


class Packing:
    """Packed weights of one model. ``bytes``: size of merged and 8-bit copies, in addition to the weights."""

    def __init__(self, eight_bits: bool = False) -> None:
        """``eight_bits``: whether transformer blocks multiply 8-bit numbers."""
        self.eight_bits = eight_bits
        self.bytes = 0
        self._reordered: list[torch.nn.Parameter] = []

    def weight(self, layer: Any) -> torch.Tensor:
        """The layer's weight with the active LoRAs merged. Raises Unsupported."""
        if not isinstance(layer, BaseTunerLayer):
            own: torch.Tensor = layer.weight
            return own.detach()
        merged = with_loras(layer)
        if merged is not layer.get_base_layer().weight:
            self.bytes += merged.nbytes
        return merged.detach()

    def flat(self, layer: Any) -> torch.Tensor:
        """Weight of a linear layer or 1 x 1 convolution."""
        return self.weight(layer).flatten(1)

    def stacked(self, layers: Sequence[Any]) -> torch.Tensor:
        """The weights of linear layers with equal input, stacked along the output dimension."""
        rows = sum(base(layer).weight.shape[0] for layer in layers)
        like = base(layers[0]).weight
        whole = torch.empty(rows, like.shape[1], dtype=like.dtype, device=like.device)
        start = 0
        for layer in layers:
            own = base(layer).weight
            part = whole[start : start + own.shape[0]]
            if isinstance(layer, BaseTunerLayer):
                part.copy_(with_loras(layer))
                self.bytes += part.nbytes
            else:
                part.copy_(own)
                own.data = part
            start += own.shape[0]
        return whole

    def kernel(self, convolution: Any) -> torch.Tensor:
        """The weight in channels-last order."""
        weight = self.weight(convolution)
        if not isinstance(convolution, BaseTunerLayer):
            own = convolution.weight
            if not own.is_contiguous(memory_format=torch.channels_last):
                own.data = own.data.contiguous(memory_format=torch.channels_last)
                self._reordered.append(own)
            weight = own.detach()
        return weight.contiguous(memory_format=torch.channels_last)

    def undo(self) -> None:
        """Restore the memory order of the kernels for the exact path."""
        for parameter in self._reordered:
            parameter.data = parameter.data.contiguous()
        self._reordered.clear()


def base(layer: Any) -> Any:
    """The layer itself, without a peft wrapper."""
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def with_loras(layer: Any) -> torch.Tensor:
    """The weight with the active LoRAs added in fp32. Raises Unsupported for adapters that are not sums of matrices."""
    own: torch.Tensor = layer.get_base_layer().weight
    if not isinstance(layer, LoraLayer):
        raise Unsupported(f"an adapter of type {type(layer).__name__}")
    if layer.disable_adapters or layer.merged:
        return own
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if not active:
        return own
    total = own.float()
    for name in active:
        if name in getattr(layer, "lora_variant", {}) or layer.lora_bias.get(name):
            raise Unsupported("a LoRA with weight decomposition or a bias")
        total = total + layer.get_delta_weight(name).float()
    return total.to(own.dtype)


def eight_bit_bytes(model: torch.nn.Module) -> int:
    """Bytes of the 8-bit copies of a model's transformer blocks."""
    blocks = [each for each in model.modules() if isinstance(each, BasicTransformerBlock)]
    return sum(each.weight.numel() for block in blocks for each in block.modules() if type(each) is torch.nn.Linear)


def lora_bytes(model: torch.nn.Module) -> int:
    """Bytes of the merged copies that the active LoRAs of a model need."""
    layers = (each for each in model.modules() if isinstance(each, LoraLayer) and not each.disable_adapters)
    return sum(each.get_base_layer().weight.nbytes for each in layers if set(each.active_adapters) & set(each.lora_A))


def bias_of(layer: Any) -> torch.Tensor | None:
    own: torch.Tensor | None = base(layer).bias
    return None if own is None else own.detach()


def stacked_bias(layers: Sequence[Any]) -> torch.Tensor | None:
    """The stacked layers' biases, or None if no layer has one."""
    biases = [bias_of(layer) for layer in layers]
    if all(each is None for each in biases):
        return None
    like = base(layers[0]).weight
    pairs = zip(layers, biases, strict=True)
    return torch.cat([like.new_zeros(base(layer).weight.shape[0]) if each is None else each for layer, each in pairs])
