"""How models and LoRAs are recognised by the names and shapes of their tensors, whatever their files are called."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

#: A shape in which None stands for any length.
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What identifies a denoiser in one file. Of several signs that match, the most specific one decides.

    Names are those of modules: of a tensor ``blocks.0.norm.weight`` the names ``blocks``, ``blocks.0``,
    ``blocks.0.norm`` and the whole. All of ``has`` are present and none of ``lacks``; ``shapes`` gives shapes of
    tensors. ``naming`` is the code whose names the file uses: ``original``, that of the model's authors, which other
    programs keep, or ``diffusers``.

    ``sizes`` maps entries of the denoiser's ``config.json`` to rules by which the file tells them (see ``measure``).
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
        return all(fits(shape(name), wanted) for name, wanted in self.shapes.items())


def measure(rule: str, names: Iterable[str], shape: Callable[[str], tuple[int, ...] | None]) -> int | None:
    """A number that the tensors of a file tell, None if they do not.

    ``blocks.#`` is the count of numbered modules below ``blocks``; ``img_in.weight:1`` is the second length of a
    tensor's shape, and ``img_in.weight:0/128`` the first one divided by 128.
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
    """Layers that a LoRA changes, of one name but for the numbers in it. ``reads`` and ``writes`` are their numbers of
    features, as far as the file tells; ``first`` and ``last`` are the least and the highest first number in the names,
    ``depth`` is the highest behind ``transformer_blocks``. ``dimensions`` are those of the tensors that read."""

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    first: int = 1 << 30
    last: int = 0
    depth: int = 0
    dimensions: int = 0


#: Layers of a LoRA by their names, with ``#`` for each number and ``_`` for each dot.
Layers = Mapping[str, Layer]


def fits(shape: tuple[int, ...] | None, wanted: Shape) -> bool:
    if shape is None or len(shape) != len(wanted):
        return False
    return all(there in (length, None) for length, there in zip(shape, wanted, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSign:
    """What identifies the base of a LoRA. Of several signs that match, the most specific one decides.

    The names are those of the layers that it changes, without prefixes, every number written ``#`` and every dot
    ``_`` (``double_blocks_#_img_attn_qkv``). Each of ``parts`` is in one of them, none of ``lacks`` in any.
    ``reads`` and
    ``writes`` map a part of a name to the numbers of features that one of such layers takes in and gives out.
    ``blocks`` maps a beginning of names to the least number that must
    follow it in one of them.
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
        for part, wanted in self.reads.items():
            if not agree((layer.reads for name, layer in layers.items() if part in name), wanted):
                return False
        for part, wanted in self.writes.items():
            if not agree((layer.writes for name, layer in layers.items() if part in name), wanted):
                return False
        return all(
            any(name.startswith(part) and layer.last >= least for name, layer in layers.items())
            for part, least in self.blocks.items()
        )


def agree(found: Iterable[set[int]], wanted: tuple[int, ...]) -> bool:
    """Whether one of the numbers is wanted. The layers that a part of a name covers may differ in their sizes."""
    return any(number in numbers for numbers in found for number in wanted)
