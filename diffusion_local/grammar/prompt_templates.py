r"""Wildcards and choices: ``{red|blue} car``, ``{2$$a|b|c}``, ``{0.5::rare|often}``, ``__animal__``.

The syntax is that of the Dynamic Prompts extension. Its library, dynamicprompts, is not used: its newest release
(0.31.0) supports Python up to 3.11, draws at about 5 ms per prompt (50 s for 10,000 lines), ends in a RecursionError
after seconds for a self-referential wildcard, leaves unknown wildcards in the prompt, and cannot count combinations
before making them. Not supported: variables (``${x=…}``), YAML files, ``*`` in names.

A template is parsed to a tree whose ``count`` and ``extent`` are known before anything is expanded. ``\`` escapes ``{ }
| _``; before other characters both are kept for later levels of the grammar. A ``|`` inside ``[ ]`` belongs to the
alternation ``[cat|dog]``, and a tag such as ``<lora:my__ink__v2:0.8>`` is atomic.
"""

import re
from collections.abc import Callable

from diffusion_local.errors import InvalidParams
from diffusion_local.grammar.tags import TAG
from diffusion_local.grammar.trees import AMOUNT, WEIGHT, Choice, Concatenation, Node, Text, Wildcard
from diffusion_local.messages import message

MAX_DEPTH = 20  # nesting of braces and wildcards
MAX_PICKED = 100  # options picked per choice
MAX_PICKS = 50_000  # options picked times options available: the work per choice
SPECIAL = re.compile(r"[{\\]|__")  # a prompt without these is literal
TOKEN = re.compile(rf"\\(.)|({TAG})|__([\w\-/.*]{{1,200}}?)__|([{{}}|\[])", re.IGNORECASE | re.DOTALL)
BRACKET = re.compile(rf"\\.|{TAG}|([{{}}\[\]])", re.IGNORECASE | re.DOTALL)
ESCAPED = "{}|_"
#: An option that begins like a weight or an amount but is not a valid one.
NO_WEIGHT = re.compile(r"\s{0,9}[-+]?\d[\d.,]{0,20}::|\s{0,9}[\d.,-][\d\s.,-]{0,20}\$\$")
#: Characters that select a sampling method in Dynamic Prompts.
SAMPLER_SIGNS = "@~!"
JOINER = re.compile(r"([^{}|$]{0,38})\$\$")


def parse(text: str, wildcard: Callable[[str], Node]) -> Node:
    """Parse a template to a tree. Raises InvalidParams for unbalanced braces, and whatever
    ``wildcard(name)`` raises.
    """
    return Template(wildcard, text).parse() if SPECIAL.search(text) else Text(text)


class Template:
    """Parser of one text."""

    def __init__(self, wildcard: Callable[[str], Node], text: str) -> None:
        self._wildcard = wildcard
        self._text = text
        self._place = 0
        self._alternations = alternations(text) if "{" in text and "[" in text else {}

    def parse(self) -> Node:
        return self._sequence(0)

    def _sequence(self, depth: int) -> Node:
        """Parts up to the end, or inside braces up to the next ``|`` or ``}``, which is not consumed."""
        parts: list[Node] = []
        plain: list[str] = []
        protected = 0  # before this position a | belongs to an alternation
        while token := TOKEN.search(self._text, self._place):
            plain.append(self._text[self._place : token.start()])
            escaped, tag, name, sign = token.groups()
            if depth and (sign == "}" or (sign == "|" and token.start() >= protected)):
                self._place = token.start()
                break
            self._place = token.end()
            if escaped:
                plain.append(escaped if escaped in ESCAPED else token[0])
            elif sign == "[":
                plain.append(sign)
                protected = max(protected, self._alternations.get(token.start(), 0))
            elif tag or sign in ("|", "}"):
                plain.append(token[0])
            else:
                node = self._wildcard(name) if name else self._choice(depth + 1)
                text = "".join(plain)
                parts += [Text(text), node] if text else [node]
                plain.clear()
        else:
            if depth:
                raise InvalidParams("prompt", message("brace_open", open="{", shut="}", escaped="\\{"))
            plain.append(self._text[self._place :])
            self._place = len(self._text)
        text = "".join(plain)
        if text or not parts:
            parts.append(Text(text))
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _choice(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise InvalidParams("prompt", message("braces_deep", most=MAX_DEPTH))
        before = self._text[max(0, self._place - 3) : self._place - 1]  # $${ is a literal $ and a choice
        if before.endswith("$") and before != "$$":
            raise InvalidParams("prompt", message("variable", sign="${…}", escaped="\\{"))
        if self._text[self._place : self._place + 1] in tuple(SAMPLER_SIGNS):
            sign = self._text[self._place]
            raise InvalidParams("prompt", message("choice_sampler", sign=f"{{{sign}", escaped=f"{{ {sign}"))
        amount, joiner = self._amount()
        options = []
        while True:
            weight = 1.0
            if found := WEIGHT.match(self._text, self._place):
                weight, self._place = float(found[1]), found.end()
            elif odd := NO_WEIGHT.match(self._text, self._place):
                raise InvalidParams("prompt", message("choice_number", what=odd[0].strip()))
            options.append((weight, self._sequence(depth)))
            self._place += 1
            if self._text[self._place - 1] == "}":
                return make_choice(options, amount, joiner)

    def _amount(self) -> tuple[tuple[int, int] | None, str]:
        """Parse ``2$$``, ``1-3$$`` or ``2$$ and $$``: (number of options, joiner)."""
        match = AMOUNT.match(self._text, self._place)
        if not match or not (match[1] or match[3]):
            return None, ","
        self._place = match.end()
        low = int(match[1] or 1)
        high = int(match[3] or MAX_PICKED) if match[2] else low
        if low > high or high > MAX_PICKED:
            raise InvalidParams("prompt", message("choice_count", what=match[0].strip(), most=MAX_PICKED))
        joiner = JOINER.match(self._text, self._place)
        if not joiner:
            return (low, high), ","
        self._place = joiner.end()
        return (low, high), joiner[1]


def parse_weight(text: str) -> tuple[float, str]:
    """``0.5::rare`` as (0.5, "rare"); the default weight is 1. Raises InvalidParams for another number."""
    found = WEIGHT.match(text)
    if not found and (odd := NO_WEIGHT.match(text)):
        raise InvalidParams("prompt", message("choice_number", what=odd[0].strip()))
    return (float(found[1]), text[found.end() :]) if found else (1.0, text)


def make_choice(options: list[tuple[float, Node]], amount: tuple[int, int] | None = None, joiner: str = ",") -> Choice:
    """Make a choice of weighted options. Raises InvalidParams if nothing could be picked."""
    nodes, weights = tuple(node for _, node in options), tuple(weight for weight, _ in options)
    low, high = amount or (1, 1)
    spread = None
    if high != 1 and len(nodes) == 1 and isinstance(nodes[0], Choice | Wildcard):
        spread = nodes[0]  # {2$$__animal__} picks two animals
        inner = spread.lines if isinstance(spread, Wildcard) else spread
        nodes, weights = inner.options, inner.weights
    if not any(weights):
        raise InvalidParams("prompt", message("choice_weight"))
    most = min(high, len(nodes))
    if most > 1 and most * len(nodes) > MAX_PICKS:
        raise InvalidParams("prompt", message("choice_large", picked=most, count=len(nodes), most=MAX_PICKS))
    return Choice(nodes, weights, min(low, most), most, joiner, amount, spread)


def alternations(text: str) -> dict[int, int]:
    """Positions of ``[`` and of its matching ``]`` inside the same braces."""
    ends: dict[int, int] = {}
    open_signs: list[tuple[str, int]] = []
    for token in BRACKET.finditer(text):
        match token[1]:
            case "[" | "{" as sign:
                open_signs.append((sign, token.start()))
            case "]" if open_signs and open_signs[-1][0] == "[":
                ends[open_signs.pop()[1]] = token.start()
            case "}":
                while open_signs and open_signs.pop()[0] != "{":
                    pass
    return ends
