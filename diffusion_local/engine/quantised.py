"""Linear layers with weights in 8 or 4 bits, dequantised at each use, on any device and without a library.

Only layers in numbered blocks are replaced: the few at a model's input and output are small and lose the most
precision.
"""

from functools import lru_cache
from typing import Any, Self

import torch
from torch.nn.functional import linear

INT8, NF4 = "int8", "nf4"
#: Possible block sizes of nf4 (numbers that share a scale); the largest that divides a row's length is used.
NF4_BLOCK_SIZES = (64, 32, 16, 8)
#: The levels of nf4: quantiles of the normal distribution, as published with QLoRA.
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class QuantisedLinear(torch.nn.Linear):
    """A linear layer with integer ``weight`` and ``scale`` in the compute dtype. ``weight`` is always int8, because
    transformers and peft do not convert weights of that dtype.
    """

    weight: torch.nn.Parameter

    def __init__(self, like: torch.nn.Linear, weight: torch.Tensor, scale: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.scale = torch.nn.Parameter(scale, requires_grad=False)
        self.bias = like.bias
        self.train(like.training)

    @classmethod
    def of(cls, like: torch.nn.Linear, device: str | torch.device) -> Self:
        """Quantise a layer on ``device``; the result is on the layer's own device."""
        weight, scale = cls.quantise(like.weight.detach().to(device))
        return cls(like, weight.to(like.weight.device), scale.to(like.weight.device))

    @classmethod
    def quantise(cls, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(int8, scale) of a matrix."""
        raise NotImplementedError

    def dequantised(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The matrix, out_features x in_features, in the dtype of ``scale``."""
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.dequantised(self.weight, self.scale)
        return linear(inputs, weight.to(inputs.dtype), None if self.bias is None else self.bias.to(inputs.dtype))


class Int8Linear(QuantisedLinear):
    """8 bits per number and one scale per row."""

    @classmethod
    def quantise(cls, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = positive(weight.abs().amax(dim=1, keepdim=True).float() / 127, weight.dtype)
        return (weight.float() / scale.float()).round_().clamp_(-127, 127).to(torch.int8), scale

    def dequantised(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.mul(weight, scale)  # converts and multiplies in one kernel


class Nf4Linear(QuantisedLinear):
    """4 bits per number, two per byte, the first in the upper half; one scale per block."""

    @classmethod
    def quantise(cls, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = weight.shape
        blocks = weight.view(rows, -1, block_of(columns))
        scale = positive(blocks.abs().amax(dim=2, keepdim=True).float(), weight.dtype)
        levels = torch.tensor(LEVELS, device=weight.device)
        middles = (levels[1:] + levels[:-1]) / 2
        places = torch.bucketize(blocks.float() / scale.float(), middles, out_int32=True).view(rows, -1)
        packed = (places[:, ::2] << 4 | places[:, 1::2]).to(torch.uint8)
        return packed.view(torch.int8), scale.squeeze(2)

    def dequantised(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        pairs = level_pairs(scale.dtype, scale.device)
        values = pairs.index_select(0, weight.view(torch.uint8).flatten().int()).view(scale.dtype)
        return values.view(*scale.shape, -1).mul_(scale[..., None]).view(self.out_features, self.in_features)


#: Layer classes by the name of the scheme.
LAYERS: dict[str, type[QuantisedLinear]] = {INT8: Int8Linear, NF4: Nf4Linear}


def quantise(module: torch.nn.Module, scheme: str, device: str | torch.device = "cpu") -> None:
    """Replace the linear layers of a module's blocks, one by one, computing on ``device``."""
    for name, layer in list(layers_in_blocks(module)):
        outer, _, own = name.rpartition(".")
        setattr(module.get_submodule(outer), own, LAYERS[scheme].of(layer, device))


def layers_in_blocks(module: torch.nn.Module) -> Any:
    """(name, layer) of the plain linear layers in numbered blocks whose rows can be packed."""
    for name, layer in module.named_modules():
        in_block = any(word.isdigit() for word in name.split(".")[:-1])
        if in_block and type(layer) is torch.nn.Linear and layer.in_features % NF4_BLOCK_SIZES[-1] == 0:
            yield name, layer


def block_of(columns: int) -> int:
    return next(size for size in NF4_BLOCK_SIZES if columns % size == 0)


def positive(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``scale`` in ``dtype``, raised above 0 because weights are divided by it."""
    return scale.clamp(min=torch.finfo(dtype).tiny).to(dtype)


@lru_cache(maxsize=8)
def level_pairs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Lookup table from a byte to both of its numbers, as one integer of twice the size of ``dtype``."""
    levels = torch.tensor(LEVELS, dtype=dtype)
    byte = torch.arange(256)
    pairs = torch.stack((levels[byte >> 4], levels[byte & 15]), dim=1)
    return pairs.view(torch.int64 if dtype.itemsize == 4 else torch.int32).flatten().to(device)
