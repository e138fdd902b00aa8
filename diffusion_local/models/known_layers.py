"""The tensors of known denoisers, with which LoRAs and model files are compared.

``assets/model_layers.json.xz``, written by ``scripts/model_layers.py``, has one model per line: tensor names with ``#``
for each number, and for each name the shapes with the numbers that occur.
"""

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import Any

from diffusion_local.families.sign import Layer, Layers
from diffusion_local.paths import assets

LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
#: By tensor name: [shape, numbers of each ``#``]; a single number n stands for 0 to n - 1.
Packed = dict[str, list[list[Any]]]
#: Numbers up to this one may belong to a layer's name (``linear_2``) rather than count blocks.
LEAST = 3
#: Least share of a LoRA's layers that a model must have to count as its base.
MOST = 0.8
#: Least share of common tensor names for a file to be identified as a model.
NEARLY = 0.85


def pack(shapes: Mapping[str, tuple[int, ...]]) -> Packed:
    """Convert names and shapes to the compact form of the data file."""
    groups: dict[tuple[str, tuple[int, ...]], set[tuple[int, ...]]] = defaultdict(set)
    for name, shape in shapes.items():
        numbers = tuple(int(each) for each in LAYER_NUMBER.findall(name))
        groups[LAYER_NUMBER.sub("#", name), tuple(shape)].add(numbers)
    packed: Packed = {}
    for (name, shape), places in groups.items():
        for axes in products(places):
            packed.setdefault(name, []).append([list(shape), *axes])
    return packed


def products(places: set[tuple[int, ...]]) -> list[list[int | list[int]]]:
    """Express tuples of numbers as few Cartesian products."""
    if not places or not next(iter(places)):
        return [[]]
    rest: dict[int, set[tuple[int, ...]]] = defaultdict(set)
    for place in places:
        rest[place[0]].add(place[1:])
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for first, following in rest.items():
        alike[tuple(sorted(following))].append(first)
    return [[shorten(sorted(firsts)), *axes] for others, firsts in alike.items() for axes in products(set(others))]


def shorten(numbers: list[int]) -> int | list[int]:
    return len(numbers) if numbers == list(range(len(numbers))) else numbers


def numbers_of(axis: int | list[int]) -> Iterable[int]:
    return range(axis) if isinstance(axis, int) else axis


def unpack(packed: Packed) -> dict[str, tuple[int, ...]]:
    """Convert the compact form back to names and shapes."""
    shapes = {}
    for name, groups in packed.items():
        parts = name.split("#")
        for shape, *axes in groups:
            for numbers in product(*(numbers_of(axis) for axis in axes)):
                words = [parts[0], *(f"{number}{part}" for number, part in zip(numbers, parts[1:], strict=True))]
                shapes["".join(words)] = tuple(shape)
    return shapes


@dataclass(frozen=True)
class KnownModel:
    """The tensors of a known model.

    ``model``: an architecture of ``families``, or the title of an unsupported model, which ``makes`` video, audio or
    pictures; ``naming``: as in ``Probe``.
    """

    model: str
    makes: str
    naming: str
    source: str
    tensors: Packed

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers with a weight matrix, under their names in LoRAs."""
        by_stem: dict[str, Layer] = {}
        for name, groups in self.tensors.items():
            if not name.endswith(".weight"):
                continue
            words = re.split(r"[._]", name.removesuffix(".weight"))
            stem = "_".join("#" if word.isdigit() else word for word in words)
            for shape, *axes in groups:
                if len(shape) < 2:
                    continue
                layer = by_stem.setdefault(stem, Layer())
                layer.reads.update((shape[1], prod(shape[1:])))  # adapters may flatten a convolution's kernel
                layer.writes.add(shape[0])
                numbers = list(numbers_of(axes[0])) if axes else [0]
                layer.first, layer.last = min(layer.first, *numbers), max(layer.last, *numbers)
        return by_stem

    def share(self, layers: Layers) -> float:
        """The share of a LoRA's layers that this model has with the same sizes."""
        return sum(self.has(name, layer) for name, layer in layers.items()) / len(layers)

    def has(self, name: str, layer: Layer) -> bool:
        """Whether it has a LoRA's layer with the same sizes."""
        return name in self.layers and is_part_of(layer, self.layers[name])

    def reach(self, layers: Layers) -> int:
        """Number of kinds of layers in which a LoRA extends to the model's last block."""
        return sum(
            name in self.layers and "#" in name and layer.last == self.layers[name].last
            for name, layer in layers.items()
        )

    @cached_property
    def sized(self) -> frozenset[tuple[str, tuple[int, ...]]]:
        """(tensor name, shape) pairs."""
        return frozenset((name, tuple(shape)) for name, groups in self.tensors.items() for shape, *_ in groups)


def is_part_of(layer: Layer, known: Layer) -> bool:
    """Whether a model has a LoRA's layer, in its sizes and for all its blocks (the first number in a layer's name)."""
    if layer.last > max(known.last, LEAST):
        return False
    return layer.reads <= known.reads and layer.writes <= known.writes


@lru_cache(maxsize=1)
def known_models() -> tuple[KnownModel, ...]:
    rows = lzma.decompress((assets() / "model_layers.json.xz").read_bytes()).splitlines()
    return tuple(KnownModel(**json.loads(row)) for row in rows)


def pattern_of(name: str) -> str:
    """A tensor's name with ``#`` for each number."""
    *modules, last = name.split(".")
    return ".".join([*["#" if word.isdecimal() else word for word in modules], last])


def exact_model(shapes: Mapping[str, tuple[int, ...]]) -> KnownModel | None:
    """The model with exactly these tensors and sizes, or None; the number of blocks may differ."""
    sized = {(pattern_of(name), shape) for name, shape in shapes.items()}
    return next((each for each in known_models() if each.sized == sized), None)


def closest_model(names: Iterable[str]) -> KnownModel | None:
    """The model with nearly the same tensor names, whatever the sizes, or None."""
    patterns = {pattern_of(name) for name in names}
    shares = [
        (len(patterns & each.tensors.keys()) / len(patterns | each.tensors.keys()), at)
        for at, each in enumerate(known_models())
    ]
    share, at = max(shares, default=(0, 0))
    return known_models()[at] if share >= NEARLY else None


def differences(
    architecture: str, naming: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(missing, unknown) tensors of a file of this architecture; missing ones may have ``#`` for a number.

    Names without a dot are ignored, because programs add such names as markers. Both are empty for architectures whose
    tensors are not known, and for models of other sizes. Missing tensors are reported only if most are present.
    """
    there = {name: pattern_of(name) for name in shapes if "." in name}
    patterns = set(there.values())
    distances = []
    for each in known_models():
        if each.model == architecture and each.naming == naming:
            known = {name for name in each.tensors if "." in name}
            distances.append((len(known ^ patterns), known, each))
    if not distances:
        return (), ()
    _, known, closest = min(distances, key=lambda entry: entry[0])
    # quantisation does not change the shapes of biases and scales
    same = [(there.get(name, name), shape) in closest.sized for name, shape in shapes.items() if len(shape) == 1]
    if sum(same) * 2 < len(same):
        return (), ()
    unknown = sorted(name for name, pattern in there.items() if pattern not in known)
    missing = sorted(known - patterns)
    whole = {name for name in unpack(closest.tensors) if "." in name}
    if not missing and blocks_of(whole) == blocks_of(there):  # otherwise the file has fewer or more blocks
        missing = sorted(whole - there.keys())
    return tuple(missing) if len(missing) * 2 < len(known) else (), tuple(unknown)


def blocks_of(names: Iterable[str]) -> set[str]:
    """The prefixes of names up to and including their first number."""
    return {name[: found.end()] for name in names if (found := LAYER_NUMBER.search(name))}


def makes_of(title: str) -> str:
    """What an unsupported model makes; "" for other models."""
    return next((each.makes for each in known_models() if each.model == title), "")


def models_of(layers: Layers) -> tuple[KnownModel, ...]:
    """The models that a LoRA with these layers fits best; empty if none has most of the layers.

    There are several if their blocks have the same sizes and number.
    """
    shares = [(each.share(layers), each) for each in known_models()] if layers else []
    most = max((share for share, _ in shares), default=0)
    if most < MOST:
        return ()
    best = [each for share, each in shares if share == most]
    reach = max(each.reach(layers) for each in best)
    return tuple(each for each in best if each.reach(layers) == reach)
