"""Prompts that change per step: ``[cat:dog:0.5]``, ``[dog:0.5]``, ``[cat::0.5]``, ``[cat|dog]``.

Semantics are A1111's. A number with a decimal point is a share of the steps, one without is a step number; the text
before it applies up to and including that step. An alternation advances at each step. Brackets nest, and separators
inside round brackets do not count; ``[word]`` without separators is a weight, left to ``weights``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Nesting limit; deeper brackets are literal text.
MAX_NESTING = 50
_TOKEN = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
_WHEN = re.compile(r"\s*(\d{1,6}(?:\.\d{0,9})?|\.\d{1,9})\s*")


@dataclass(frozen=True, slots=True)
class Group:
    """Literal brackets with their content; ``opening`` and ``closing`` may be ""."""

    parts: tuple["Part", ...]
    opening: str = ""
    closing: str = ""

    def at(self, step: int, steps: int) -> str:
        return self.opening + join(self.parts, step, steps) + self.closing

    def to_text(self) -> str:
        return self.opening + to_text(self.parts) + self.closing


@dataclass(frozen=True, slots=True)
class Change:
    """``before`` up to and including a step, then ``after``. ``when``: the step or share as written."""

    before: tuple["Part", ...]
    after: tuple["Part", ...]
    when: str

    def last(self, steps: int) -> int:
        """Last step of ``before``, from 1; 0 if there is none."""
        share = float(self.when)
        return min(steps, int(share * steps if "." in self.when else share))

    def at(self, step: int, steps: int) -> str:
        return join(self.before if step <= self.last(steps) else self.after, step, steps)

    def to_text(self) -> str:
        return f"[{to_text(self.before)}:{to_text(self.after)}:{self.when}]"


@dataclass(frozen=True, slots=True)
class Alternation:
    options: tuple[tuple["Part", ...], ...]

    def at(self, step: int, steps: int) -> str:
        return join(self.options[(step - 1) % len(self.options)], step, steps)

    def to_text(self) -> str:
        return f"[{'|'.join(map(to_text, self.options))}]"


Part = str | Group | Change | Alternation


def join(parts: tuple[Part, ...], step: int, steps: int) -> str:
    return "".join(part if isinstance(part, str) else part.at(step, steps) for part in parts)


def to_text(parts: tuple[Part, ...]) -> str:
    return "".join(part if isinstance(part, str) else part.to_text() for part in parts)


@dataclass(slots=True)
class Frame:
    """An open bracket: its content so far, and the positions of possible separators."""

    opening: str
    parts: list[Part]
    signs: list[tuple[str, int]]


def parse(prompt: str) -> tuple[Part, ...]:
    """Parse a prompt to parts; unclosed brackets are literal text."""
    frames = [Frame("", [], [])]
    open_brackets = {"(": 0, "[": 0}
    for token in _TOKEN.finditer(prompt):
        sign = token[0]
        if sign in open_brackets and len(frames) <= MAX_NESTING:
            open_brackets[sign] += 1
            frames.append(Frame(sign, [], []))
        elif sign in (")", "]") and open_brackets[partner := "(" if sign == ")" else "["]:
            while frames[-1].opening != partner:
                open_brackets[frames[-1].opening] -= 1
                dissolve(frames)
            open_brackets[partner] -= 1
            frame = frames.pop()
            add(frames[-1], close(frame, sign))
        else:
            if sign in (":", "|"):
                frames[-1].signs.append((sign, len(frames[-1].parts)))
                frames[-1].parts.append(sign)
            else:
                add(frames[-1], sign)
    while len(frames) > 1:
        dissolve(frames)
    return merge(frames[0].parts)


def add(frame: Frame, part: Part) -> None:
    frame.parts.append(part)


def dissolve(frames: list[Frame]) -> None:
    """Turn the innermost unclosed bracket and its separators into text of the enclosing one."""
    frame = frames.pop()
    frames[-1].parts += [frame.opening, *frame.parts]


def close(frame: Frame, closing: str) -> Part:
    """Interpret a closed pair of brackets."""
    places = [place for sign, place in frame.signs if sign == "|"]
    if frame.opening == "[" and places:
        return Alternation(tuple(split_parts(frame.parts, places)))
    places = [place for sign, place in frame.signs if sign == ":"]
    if frame.opening == "[" and len(places) in (1, 2):
        *texts, end = split_parts(frame.parts, places)
        when = _WHEN.fullmatch(end[0]) if len(end) == 1 and isinstance(end[0], str) else None
        if when:
            return Change(texts[0] if len(texts) == 2 else (), texts[-1], when[1])
    return Group(merge(frame.parts), frame.opening, closing)


def split_parts(parts: list[Part], places: list[int]) -> Iterator[tuple[Part, ...]]:
    for first, last in zip([-1, *places], [*places, len(parts)], strict=True):
        yield merge(parts[first + 1 : last])


def merge(parts: list[Part]) -> tuple[Part, ...]:
    """Merge adjacent texts."""
    merged: list[Part] = []
    texts: list[str] = []
    for part in [*parts, None]:
        if isinstance(part, str):
            texts.append(part)
            continue
        if texts:
            merged.append("".join(texts))
            texts.clear()
        if part is not None:
            merged.append(part)
    return tuple(merged)


def first_schedule(prompt: str) -> str:
    """The first change or alternation in source form, or ""."""
    return next((part.to_text() for part in changing_parts(parse(prompt))), "") if "[" in prompt else ""


def changing_parts(parts: tuple[Part, ...]) -> Iterator[Change | Alternation]:
    for part in parts:
        if isinstance(part, Change | Alternation):
            yield part
        elif isinstance(part, Group):
            yield from changing_parts(part.parts)


def prompt_per_step(prompt: str, steps: int) -> list[str]:
    """The prompt at each step."""
    if not first_schedule(prompt):
        return [prompt] * steps
    parts = parse(prompt)
    return [join(parts, step, steps) for step in range(1, steps + 1)]
