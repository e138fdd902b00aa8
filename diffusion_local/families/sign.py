"""Recognises models and LoRAs by the names and shapes of their tensors, regardless of file names."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

#: A shape in which None stands for any length.
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Identifies a denoiser in a single file. Of several matching signs, the most specific one counts.

    Names are those of modules: a tensor ``blocks.0.norm.weight`` contributes ``blocks``, ``blocks.0``,
    ``blocks.0.norm`` and its own name. All of ``has`` must be present and none of ``lacks``; ``shapes``: required
    shapes of tensors. ``naming``: whose tensor names the file uses: ``original`` (the model's authors', kept by other
    programs) or ``diffusers``.

    ``sizes`` maps entries of the denoiser's ``config.json`` to rules for deriving them from the file (see ``measure``).
    """

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    naming: str = "original"
    sizes: Mapping[str, str] = field(default_factory=dict)

    @property
    def specificity(self) -> int:
        return len(self.has) + len(self.lacks) + 2 * len(self.shapes)

    def matches(self, names: Container[str], shape: Callable[[str], tuple[int, ...] | None]) -> bool:
        if not all(name in names for name in self.has) or any(name in names for name in self.lacks):
            return False
        return all(matches_shape(shape(name), expected) for name, expected in self.shapes.items())


def measure(rule: str, names: Iterable[str], shape: Callable[[str], tuple[int, ...] | None]) -> int | None:
    """Evaluate a rule on a file's tensors; None if it does not apply.

    ``blocks.#``: number of numbered modules below ``blocks``; ``img_in.weight:1``: second dimension of a tensor;
    ``img_in.weight:0/128``: first dimension divided by 128.
    """
    if rule.endswith(".#"):
        start = rule[:-1]
        numbers = {name[len(start) :].partition(".")[0] for name in names if name.startswith(start)}
        return max((int(each) + 1 for each in numbers if each.isdigit()), default=None)
    tensor, _, place = rule.partition(":")
    dimension, _, divisor = place.partition("/")
    lengths = shape(tensor)
    if lengths is None or len(lengths) <= int(dimension):
        return None
    return lengths[int(dimension)] // int(divisor or 1)


@dataclass(slots=True)
class Layer:
    """LoRA layers whose names differ only in numbers. ``reads``, ``writes``: their input and output features, if known;
    ``first``, ``last``: lowest and highest first number in the names; ``depth``: highest number after
    ``transformer_blocks``; ``dimensions``: number of dimensions of the input tensors.
    """

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    first: int = 1 << 30
    last: int = 0
    depth: int = 0
    dimensions: int = 0


#: Layers of a LoRA by name, with ``#`` for each number and ``_`` for each dot.
Layers = Mapping[str, Layer]


def matches_shape(shape: tuple[int, ...] | None, wanted: Shape) -> bool:
    if shape is None or len(shape) != len(wanted):
        return False
    return all(there in (length, None) for length, there in zip(shape, wanted, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSign:
    """Identifies the base of a LoRA. Of several matching signs, the most specific one counts.

    Names are those of the changed layers, without prefixes, with ``#`` for each number and ``_`` for each dot
    (``double_blocks_#_img_attn_qkv``). Each of ``parts`` must occur in some name, none of ``lacks`` in any. ``reads``
    and ``writes`` map part of a name to input and output features that one of these layers must have. ``blocks`` maps a
    name's prefix to the lowest number that must follow it in one of them.
    """

    parts: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    reads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    writes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)

    @property
    def specificity(self) -> int:
        return len(self.parts) + len(self.lacks) + 2 * (len(self.reads) + len(self.writes) + len(self.blocks))

    def matches(self, layers: Layers) -> bool:
        if any(part in name for part in self.lacks for name in layers):
            return False
        if not all(any(part in name for name in layers) for part in self.parts):
            return False
        for part, expected in self.reads.items():
            if not agree((layer.reads for name, layer in layers.items() if part in name), expected):
                return False
        for part, expected in self.writes.items():
            if not agree((layer.writes for name, layer in layers.items() if part in name), expected):
                return False
        return all(
            any(name.startswith(part) and layer.last >= least for name, layer in layers.items())
            for part, least in self.blocks.items()
        )


def agree(depths: Iterable[set[int]], wanted: tuple[int, ...]) -> bool:
    """Whether any of the wanted numbers occurs. Layers that share part of a name may differ in size."""
    return any(number in numbers for numbers in depths for number in wanted)
