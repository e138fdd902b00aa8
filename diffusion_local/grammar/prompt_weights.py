r"""Weights in prompts: ``(word)``, ``[word]``, ``(word:1.3)``, and ``BREAK`` between parts.

The syntax is A1111's (its wiki, "Attention/emphasis"): ``(word)`` multiplies the weight by 1.1, ``[word]`` divides it
by 1.1; they nest, and ``\(`` is a literal bracket. ``BREAK`` starts a part that is encoded separately.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

UP, DOWN = 1.1, 1 / 1.1
#: Stronger weights only produce noise.
MAX_WEIGHT = 10.0
#: Nesting limit for each kind of bracket; deeper ones are literal text. 25 levels already reach the maximum weight.
MAX_NESTING = 50
_MARK = re.compile(r"\\[()\[\]\\]|[(\[]|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|[\\:]")
_BREAK = re.compile(r"\bBREAK\b")
_SIGNS = re.compile(r"[\\()\[\]]")


@dataclass(slots=True)
class WeightedText:
    """A text with a single weight."""

    text: str
    weight: float = 1.0

    def to_text(self) -> str:
        text = _SIGNS.sub(lambda sign: f"\\{sign[0]}", self.text)
        return text if math.isclose(self.weight, 1.0) else f"({text}:{Decimal(repr(self.weight)):f})"


def parse(prompt: str) -> list[WeightedText]:
    """Split a prompt into pieces with one weight each, without markup. An unclosed bracket extends to the end."""
    pieces: list[WeightedText] = []
    round_open: list[int] = []
    square_open: list[int] = []

    def weigh(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            piece.weight = math.copysign(min(MAX_WEIGHT, abs(piece.weight * factor)), piece.weight * factor)

    for match in _MARK.finditer(prompt):
        mark, weight = match[0], match[1]
        if mark.startswith("\\") and len(mark) == 2:
            pieces.append(WeightedText(mark[1]))
        elif mark == "(" and len(round_open) < MAX_NESTING:
            round_open.append(len(pieces))
        elif mark == "[" and len(square_open) < MAX_NESTING:
            square_open.append(len(pieces))
        elif weight is not None and round_open:
            weigh(round_open.pop(), float(weight))
        elif mark == ")" and round_open:
            weigh(round_open.pop(), UP)
        elif mark == "]" and square_open:
            weigh(square_open.pop(), DOWN)
        else:
            pieces.append(WeightedText(mark))
    for start in round_open:
        weigh(start, UP)
    for start in square_open:
        weigh(start, DOWN)
    return merge(pieces)


def merge(pieces: list[WeightedText]) -> list[WeightedText]:
    """Merge adjacent pieces of equal weight; at least one piece remains. Weights that print as 1 become 1."""
    runs: list[list[WeightedText]] = []
    for piece in pieces:
        if runs and math.isclose(runs[-1][0].weight, piece.weight):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return [
        WeightedText("".join(piece.text for piece in run), 1.0 if math.isclose(run[0].weight, 1.0) else run[0].weight)
        for run in runs
    ] or [WeightedText("")]


def parse_parts(prompt: str) -> list[list[WeightedText]]:
    """Split a prompt at ``BREAK``, each part into pieces. Empty parts are dropped unless the whole prompt is empty."""
    groups: list[list[WeightedText]] = [[]]
    for piece in parse(prompt):
        first, *later = _BREAK.split(piece.text)
        groups[-1].append(WeightedText(first, piece.weight))
        groups += [[WeightedText(text, piece.weight)] for text in later]
    for before, after in pairwise(groups):  # white space around BREAK does not belong to the text
        while before and not before[-1].text.rstrip():
            before.pop()
        while after and not after[0].text.lstrip():
            after.pop(0)
        if before:
            before[-1].text = before[-1].text.rstrip()
        if after:
            after[0].text = after[0].text.lstrip()
    return [merge(each) for each in groups if each] or [[WeightedText("")]]


def to_text(parts: list[list[WeightedText]]) -> str:
    return " BREAK ".join("".join(piece.to_text() for piece in part) for part in parts)


def unbalanced(prompt: str) -> str:
    """The first unmatched bracket, or ""; escaped brackets do not count."""
    partners, opened = {")": "(", "]": "["}, {"(": 0, "[": 0}
    for match in _MARK.finditer(prompt):
        for sign in () if match[0].startswith("\\") else match[0]:
            if sign in opened:
                opened[sign] += 1
            elif sign in partners:
                if not opened[partners[sign]]:
                    return sign
                opened[partners[sign]] -= 1
    return next((sign for sign, count in opened.items() if count), "")


def beyond_limit(prompt: str) -> str:
    """The first weight in the prompt that exceeds MAX_WEIGHT, or ""."""
    written = (match[1] for match in _MARK.finditer(prompt) if match[1])
    return next((number for number in written if abs(float(number)) > MAX_WEIGHT), "")


def without_weights(prompt: str) -> str | None:
    """The text without markup if it has weight 1 and a single part, else None."""
    found = parse_parts(prompt)
    only = found[0]
    return only[0].text if len(found) == len(only) == 1 and math.isclose(only[0].weight, 1.0) else None
