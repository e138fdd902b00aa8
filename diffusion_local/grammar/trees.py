"""Template trees: text, choices and wildcards, whose possible results are known before drawing.

``count``: number of different results; ``max_length``: bound on their length; ``tags``: tags that they may contain.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import accumulate, permutations, product
from random import Random

from diffusion_local.grammar.tags import TAG, Tag, find_tags

MANY = 10**9  # counts are capped here
AMOUNT = re.compile(r"\s*(\d{1,3})?\s*(-)?\s*(\d{1,3})?\s*\$\$")
WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)::")
SPECIAL_TEXT = re.compile(rf"(\\.|{TAG})|[{{}}|]|_(?=_|\Z)|(?<=_)_", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Text:
    """Literal text, tags included."""

    text: str
    count: int = 1
    depth: int = 0

    @property
    def max_length(self) -> int:
        return len(self.text) + 1

    def sample(self, rng: Random) -> str:
        return self.text

    def combinations(self) -> Iterator[str]:
        yield self.text

    @property
    def tags(self) -> frozenset[Tag]:
        return frozenset(find_tags(self.text))

    def to_text(self) -> str:
        return SPECIAL_TEXT.sub(lambda found: found[0] if found[1] else f"\\{found[0]}", self.text)


@dataclass(frozen=True)
class Concatenation:
    """A sequence of parts."""

    parts: tuple["Node", ...]

    @cached_property
    def count(self) -> int:
        total = 1
        for part in self.parts:
            total = min(MANY, total * part.count)
        return total

    @cached_property
    def depth(self) -> int:
        return 1 + max(part.depth for part in self.parts)

    @cached_property
    def max_length(self) -> int:
        """Upper bound of characters plus nodes, to limit the result's length and the work."""
        return min(MANY, 1 + sum(part.max_length for part in self.parts))

    def sample(self, rng: Random) -> str:
        return "".join(part.sample(rng) for part in self.parts)

    def combinations(self) -> Iterator[str]:
        return map("".join, product(*(tuple(part.combinations()) for part in self.parts)))

    @cached_property
    def tags(self) -> frozenset[Tag]:
        """All tags that a drawn text may contain."""
        return frozenset().union(*(part.tags for part in self.parts))

    def to_text(self) -> str:
        return "".join(part.to_text() for part in self.parts)


@dataclass(frozen=True)
class Choice:
    """``low`` to ``high`` different options in any order, joined by ``joiner``.

    ``amount``: the number requested, if written; ``spread``: the choice or wildcard that supplies the options, as in
    ``{2$$__animal__}``.
    """

    options: tuple["Node", ...]
    weights: tuple[float, ...]
    low: int = 1
    high: int = 1
    joiner: str = ","
    amount: tuple[int, int] | None = None
    spread: "Node | None" = None

    @cached_property
    def count(self) -> int:
        chosen = [1] + [0] * self.high  # chosen[k]: number of unordered ways to choose k options
        for option in self.options:
            for k in range(self.high, 0, -1):
                chosen[k] = min(MANY, chosen[k] + chosen[k - 1] * option.count)
        total, orders = 0, 1
        for k, ways in enumerate(chosen):
            orders = min(MANY, orders * max(1, k))
            total += ways * orders if k >= self.low else 0
        return min(MANY, total)

    @cached_property
    def depth(self) -> int:
        return 1 + max(option.depth for option in self.options)

    @cached_property
    def max_length(self) -> int:
        longest = max(option.max_length for option in self.options)
        return min(MANY, 1 + self.high * (longest + len(self.joiner)))

    @cached_property
    def _cumulative(self) -> tuple[float, ...]:
        return tuple(accumulate(self.weights))

    def sample(self, rng: Random) -> str:
        if self.low == self.high == 1:
            return rng.choices(self.options, cum_weights=self._cumulative)[0].sample(rng)
        return self.joiner.join(self.options[place].sample(rng) for place in self._pick(rng))

    def _pick(self, rng: Random) -> list[int]:
        """Indices of different options, each drawn by weight from those left.

        Takes the smallest of exponentially distributed keys (Efraimidis and Spirakis, "Weighted random sampling with a
        reservoir", 2006): one pass over the options for all draws.
        """
        count = rng.randint(self.low, self.high)
        keys = ((-math.log(1 - rng.random()) / weight, place) for place, weight in enumerate(self.weights) if weight)
        return [place for _, place in nsmallest(count, keys)]

    def combinations(self) -> Iterator[str]:
        for picked in range(self.low, self.high + 1):
            for options in permutations(self.options, picked):
                yield from map(self.joiner.join, product(*(tuple(option.combinations()) for option in options)))

    @cached_property
    def tags(self) -> frozenset[Tag]:
        return frozenset().union(*(option.tags for option in self.options))

    def to_text(self) -> str:
        options, weights = ((self.spread,), (1.0,)) if self.spread else (self.options, self.weights)
        texts = [option.to_text() for option in options]
        ambiguous = [WEIGHT.match(text) or (not place and AMOUNT.match(text)) for place, text in enumerate(texts)]
        marked = zip(weights, texts, ambiguous, strict=True)
        each = [f"{weight:.6f}::{text}" if weight != 1 or unclear else text for weight, text, unclear in marked]
        low, high = self.amount or (1, 1)
        amount = f"{low}-{high}$${self.joiner}$$" if self.amount else ""
        return f"{{{amount}{'|'.join(each)}}}"


@dataclass(frozen=True)
class Wildcard:
    """The lines of ``wildcards/name.txt``."""

    name: str
    lines: Choice

    @property
    def count(self) -> int:
        return self.lines.count

    @property
    def depth(self) -> int:
        return self.lines.depth

    @property
    def max_length(self) -> int:
        return self.lines.max_length

    def sample(self, rng: Random) -> str:
        return self.lines.sample(rng)

    def combinations(self) -> Iterator[str]:
        return self.lines.combinations()

    @property
    def tags(self) -> frozenset[Tag]:
        return self.lines.tags

    def to_text(self) -> str:
        return f"__{self.name}__"


Node = Text | Concatenation | Choice | Wildcard
