"""Wildcards and choices in a prompt: ``{red|blue} car``, ``{2$$a|b|c}``, ``{0.5::rare|often}``, ``__animal__``.

The syntax is that of the Dynamic Prompts extension. Its library, dynamicprompts, is not used: its newest release
(0.31.0) names Python up to 3.11, it draws at about 5 ms a prompt (50 s for 10,000 lines), a wildcard that names itself
ends in a RecursionError after seconds, an unknown wildcard stays in the prompt, and it cannot say how many
combinations there are before it makes them. Left out of its syntax: variables (``${x=…}``), YAML files, ``*`` in names.

A template is parsed to a tree whose ``count`` and ``extent`` are known before anything is expanded. ``\\`` before
``{ } | _`` takes the sign as it is.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, permutations, product
from pathlib import Path
from random import Random

from diffusion_local.errors import InvalidParams
from diffusion_local.lists.encoding import lines, read_bounded
from diffusion_local.messages import message
from diffusion_local.options.values import MAX_PROMPT_CHARS

MAX_DEPTH = 20  # of braces within braces and wildcards within wildcards
MAX_TREE = 100  # nodes above each other, of wildcards that were read before
MAX_PICKED = 100  # of the options of one choice
MAX_WILDCARD_MB = 5
MANY = 10**9  # counts stop here: "more than anybody can make"
SPECIAL = re.compile(r"[{\\]|__")  # a prompt without any of them is itself
TOKEN = re.compile(r"\\([{}|_\\])|__([\w\-/.*]{1,200}?)__|([{}|])")
AMOUNT = re.compile(r"\s*(\d{1,3})?\s*(-)?\s*(\d{1,3})?\s*\$\$")
WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)::")


@dataclass(frozen=True)
class Text:
    text: str
    count: int = 1
    depth: int = 0

    @property
    def extent(self) -> int:
        return len(self.text) + 1

    def drawn(self, lot: Random) -> str:
        return self.text

    def all(self) -> Iterator[str]:
        yield self.text


@dataclass(frozen=True)
class Joined:
    """Parts behind each other."""

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
    def extent(self) -> int:
        """At least its signs and its nodes, at their most: bounds the text and the work."""
        return min(MANY, 1 + sum(part.extent for part in self.parts))

    def drawn(self, lot: Random) -> str:
        return "".join(part.drawn(lot) for part in self.parts)

    def all(self) -> Iterator[str]:
        return map("".join, product(*(tuple(part.all()) for part in self.parts)))


@dataclass(frozen=True)
class Choice:
    """From ``low`` to ``high`` different options in any order, with ``joiner`` between them."""

    options: tuple["Node", ...]
    weights: tuple[float, ...]
    low: int = 1
    high: int = 1
    joiner: str = ","

    @cached_property
    def count(self) -> int:
        chosen = [1] + [0] * self.high  # chosen[k]: ways to choose k options, without their order
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
    def extent(self) -> int:
        longest = max(option.extent for option in self.options)
        return min(MANY, 1 + self.high * (longest + len(self.joiner)))

    @cached_property
    def _cumulative(self) -> tuple[float, ...]:
        return tuple(accumulate(self.weights))

    def drawn(self, lot: Random) -> str:
        if self.low == self.high == 1:
            return lot.choices(self.options, cum_weights=self._cumulative)[0].drawn(lot)
        left, picked = list(range(len(self.options))), []
        for _ in range(lot.randint(self.low, self.high)):
            weights = [self.weights[place] for place in left]
            if not sum(weights):
                break
            picked.append(left.pop(lot.choices(range(len(left)), weights)[0]))
        return self.joiner.join(self.options[place].drawn(lot) for place in picked)

    def all(self) -> Iterator[str]:
        for picked in range(self.low, self.high + 1):
            for options in permutations(self.options, picked):
                yield from map(self.joiner.join, product(*(tuple(option.all()) for option in options)))


Node = Text | Joined | Choice


class Expander:
    """Reads templates; keeps the wildcard files that were read, so that a list sees one state of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Node] = {}

    def parse(self, template: str) -> Node:
        """The tree of a prompt. Raises InvalidParams for braces that do not match, loops and unknown wildcards."""
        if not SPECIAL.search(template):
            return Text(template)
        node = Template(self, template, ()).whole()
        if node.extent > 2 * MAX_PROMPT_CHARS:
            raise InvalidParams("prompt", message("expand_long", most=MAX_PROMPT_CHARS))
        return node

    def wildcard(self, name: str, above: tuple[str, ...]) -> Node:
        if name in above:
            raise InvalidParams("prompt", message("wildcard_loop", loop=" > ".join((*above, name))))
        if name not in self._files:
            node = self._read(name, above) if len(above) < MAX_DEPTH else None
            if node is None or node.depth > MAX_TREE:
                raise InvalidParams("prompt", message("wildcard_deep", most=MAX_DEPTH))
            self._files[name] = node
        return self._files[name]

    def _read(self, name: str, above: tuple[str, ...]) -> Node:
        try:
            found = list(lines(read_bounded(self._path(name), MAX_WILDCARD_MB)))
        except InvalidParams as error:
            if error.field == "prompt":
                raise
            raise InvalidParams("prompt", message("wildcard_file", name=name, problem=error.problem)) from None
        options = []
        for number, line, problem in found:
            text = line.strip()
            if problem:
                raise InvalidParams("prompt", message("wildcard_line", name=name, line=number, problem=problem))
            if text and not text.startswith("#"):
                weight, text = weighted(text)
                options.append((weight, Template(self, text, (*above, name)).whole()))
        if not options:
            raise InvalidParams("prompt", message("wildcard_empty", name=name))
        return choice(options)

    def _path(self, name: str) -> Path:
        with contextlib.suppress(OSError):  # a name no file system takes
            path = (self._folder / f"{name}.txt").resolve()
            if path.is_relative_to(self._folder.resolve()) and path.is_file():
                return path
        files = self._folder.rglob("*.txt")
        there = sorted(each.relative_to(self._folder).with_suffix("").as_posix() for each in files)
        raise InvalidParams("prompt", message("wildcard_none", name=name, known=", ".join(there[:30]) or "none"))


class Template:
    """One text on its way to a tree."""

    def __init__(self, expander: Expander, text: str, above: tuple[str, ...]) -> None:
        self._expander = expander
        self._text = text
        self._above = above
        self._place = 0

    def whole(self) -> Node:
        return self._sequence(0)

    def _sequence(self, depth: int) -> Node:
        """Parts up to the end, or within braces up to their next ``|`` or ``}``, which is left to be read."""
        parts: list[Node] = []
        plain = ""
        while token := TOKEN.search(self._text, self._place):
            plain += self._text[self._place : token.start()]
            escaped, name, sign = token.groups()
            if depth and sign in ("|", "}"):
                self._place = token.start()
                break
            self._place = token.end()
            if escaped or sign in ("|", "}"):
                plain += escaped or sign
            else:
                node = self._expander.wildcard(name, self._above) if name else self._choice(depth + 1)
                parts += [Text(plain), node] if plain else [node]
                plain = ""
        else:
            if depth:
                raise InvalidParams("prompt", message("brace_open", open="{", shut="}", escaped="\\{"))
            plain += self._text[self._place :]
            self._place = len(self._text)
        if plain or not parts:
            parts.append(Text(plain))
        return parts[0] if len(parts) == 1 else Joined(tuple(parts))

    def _choice(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise InvalidParams("prompt", message("braces_deep", most=MAX_DEPTH))
        before = self._text[max(0, self._place - 3) : self._place - 1]  # $${ is a $ and a choice
        if before.endswith("$") and before != "$$":
            raise InvalidParams("prompt", message("variable", sign="${…}", escaped="\\{"))
        low, high, joiner = self._amount()
        options = []
        while True:
            weight = 1.0
            if found := WEIGHT.match(self._text, self._place):
                weight, self._place = float(found[1]), found.end()
            options.append((weight, self._sequence(depth)))
            self._place += 1
            if self._text[self._place - 1] == "}":
                return choice(options, low, high, joiner)

    def _amount(self) -> tuple[int, int, str]:
        """``2$$``, ``1-3$$``, ``2$$ and $$``: how many options, and what stands between them."""
        found = AMOUNT.match(self._text, self._place)
        if not found or not (found[1] or found[3]):
            return 1, 1, ","
        self._place = found.end()
        low = int(found[1] or 1)
        high = int(found[3] or MAX_PICKED) if found[2] else low
        if low > high or high > MAX_PICKED:
            raise InvalidParams("prompt", message("choice_count", what=found[0].strip(), most=MAX_PICKED))
        joiner = re.match(r"([^{}|$]*)\$\$", self._text[self._place : self._place + 40])
        if not joiner:
            return low, high, ","
        self._place += joiner.end()
        return low, high, joiner[1]


def weighted(text: str) -> tuple[float, str]:
    """``0.5::rare`` as (0.5, "rare"); the weight is 1 where none is given."""
    found = WEIGHT.match(text)
    return (float(found[1]), text[found.end() :]) if found else (1.0, text)


def choice(options: list[tuple[float, Node]], low: int = 1, high: int = 1, joiner: str = ",") -> Node:
    nodes, weights = tuple(node for _, node in options), tuple(weight for weight, _ in options)
    only = nodes[0]
    if high != 1 and len(nodes) == 1 and isinstance(only, Choice):
        nodes, weights = only.options, only.weights  # {2$$__animal__} picks two animals
    if not any(weights):
        raise InvalidParams("prompt", message("choice_weight"))
    most = min(high, len(nodes))
    return Choice(nodes, weights, min(low, most), most, joiner)
