"""X/Y/Z grids: axes as people write them, counted before anything is made, and the settings of each cell. Pure.

An axis is a field of Params with its values: ``steps: 10,20,30``, ``seed: 1-4``, ``guidance: 3-9 (+2)``,
``prompt: cat,dog,owl`` (search and replace: the first word is what is searched in the prompt, as A1111 has it),
``lora moss: 0.4,0.8``. Values with commas go into quotation marks, as in CSV.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Self

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.lists.entries import field_name, parse_size
from diffusion_local.messages import message
from diffusion_local.options.table import OPTIONS, SETTINGS
from diffusion_local.options.types import Lora
from diffusion_local.options.values import MAX_PROMPT_CHARS, loras

MOST_VALUES = 100  # of one axis
MOST_CHARS = 10_000
PROMPTS = ("prompt", "negative")
VARYING = tuple(name for name in SETTINGS if OPTIONS[name].varies)
FIELDS = ("prompt", "size", "lora", *VARYING)
RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\s*-\s*(-?\d+(?:\.\d+)?)(?:\s*\(\s*\+?\s*(\d+(?:\.\d+)?)\s*\))?")
WHOLE = tuple(name for name in VARYING if OPTIONS[name].type is int)
DECIMALS = (*(name for name in VARYING if OPTIONS[name].type is float), "lora")


@dataclass(frozen=True, slots=True)
class Axis:
    """``field`` takes each of ``values``; ``name`` is the LoRA's of a ``lora`` axis."""

    field: str
    values: tuple[str, ...]
    name: str = ""

    def heads(self) -> list[str]:
        """What stands beside the pictures."""
        if self.field in PROMPTS:
            return list(self.values)
        return [f"{self.name or self.field} {value}" for value in self.values]


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns, rows, and sheets below each other. Cells come row by row, the rows of the first sheet first."""

    x: Axis
    y: Axis | None = None
    z: Axis | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in (self.x, self.y, self.z) if axis)

    @property
    def count(self) -> int:
        count = 1
        for axis in self.axes:
            count *= len(axis.values)
        return count

    @property
    def column_heads(self) -> list[str]:
        return self.x.heads()

    @property
    def row_heads(self) -> list[str]:
        outer = self.z.heads() if self.z else [""]
        inner = self.y.heads() if self.y else [""]
        heads = [" · ".join(filter(None, pair)) for pair in product(outer, inner)]
        return heads if any(heads) else []

    def cells(self, prompt: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(prompt, settings) of each picture. Raises InvalidParams where a text to search for is not there."""
        for axis in self.axes:
            if axis.field in PROMPTS:
                text = prompt if axis.field == "prompt" else str(settings.get("negative") or "")
                if axis.values[0] not in text:
                    raise InvalidParams(axis.field, message("search_text", text=echo(axis.values[0])))
        outward = [axis for axis in (self.z, self.y, self.x) if axis]
        for values in product(*(axis.values for axis in outward)):
            each, words = dict(settings), prompt
            for axis, value in zip(outward, values, strict=True):
                if axis.field == "prompt":
                    words = replaced(axis, words, value)
                elif axis.field == "negative":
                    each["negative"] = replaced(axis, str(each.get("negative") or ""), value)
                elif axis.field == "size":
                    each["width"], each["height"] = parse_size(value)
                elif axis.field == "lora":
                    others = [lora for lora in loras("loras", each.get("loras") or ()) if lora.name != axis.name]
                    each["loras"] = [*others, Lora(axis.name, float(value))]
                else:
                    each[axis.field] = value
            yield words, each

    def to_json(self) -> str:
        axes = zip("xyz", (self.x, self.y, self.z), strict=True)
        return json.dumps({name: asdict(axis) for name, axis in axes if axis})

    @classmethod
    def from_json(cls, text: str) -> Self:
        found = json.loads(text)
        axes = {name: Axis(each["field"], tuple(each["values"]), each["name"]) for name, each in found.items()}
        return cls(**axes)


def replaced(axis: Axis, text: str, value: str) -> str:
    """The text with a value of the axis in the place of its first one. Raises InvalidParams where that is too long."""
    old = axis.values[0]
    length = len(text) + text.count(old) * (len(value) - len(old))
    if length > MAX_PROMPT_CHARS:  # asked before it is made: it may have a hundred million
        raise InvalidParams(axis.field, message("too_long", most=MAX_PROMPT_CHARS, got=length))
    return text.replace(old, value)


def parse_grid(x: str, y: str = "", z: str = "", most: int = 2000) -> Grid:
    """Raises InvalidParams naming the axis; so for more than ``most`` pictures."""
    axes = {name: parse_axis(name, text) for name, text in (("x", x), ("y", y), ("z", z)) if text.strip()}
    if "x" not in axes:
        raise InvalidParams("x", message("first_axis"))
    taken = [(axis.field, axis.name) for axis in axes.values()]
    for name, axis in axes.items():
        if taken.count((axis.field, axis.name)) > 1:
            raise InvalidParams(name, message("grid_same", field=axis.field))
    grid = Grid(**axes)
    if grid.count > most:
        sides = " x ".join(str(len(axis.values)) for axis in grid.axes)
        raise InvalidParams("x", message("grid_many", product=sides, count=grid.count, most=most))
    return grid


def parse_axis(axis: str, text: str) -> Axis:
    shown, colon, rest = text.partition(":")
    words = shown.strip().split(maxsplit=1)
    field = field_name(words[0]) if words else ""
    if field in ("s/r", "sr"):
        field = "prompt"
    name = words[1].strip() if len(words) > 1 else ""
    if not colon or field not in FIELDS or len(text) > MOST_CHARS:
        raise InvalidParams(
            axis,
            message("grid_axis", got=echo(text), known=list(FIELDS)),
        )
    if (field == "lora") != bool(name):
        raise InvalidParams(axis, message("grid_lora"))
    try:
        cells = next(csv.reader([rest.strip()], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise InvalidParams(axis, message("grid_read", error=error)) from None
    values: list[str] = []
    for cell in cells:
        values += spread(axis, field, cell if field in PROMPTS else cell.strip())
        if len(values) > MOST_VALUES:
            raise InvalidParams(axis, message("grid_values_most", most=MOST_VALUES))
    if len(set(values)) < max(len(values), 1) or "" in values[:1]:
        raise InvalidParams(axis, message("axis_values", got=echo(rest.strip())))
    if field in PROMPTS and len(values) < 2:
        raise InvalidParams(axis, message("grid_replace"))
    return Axis(field, tuple(values), name)


def spread(axis: str, field: str, cell: str) -> list[str]:
    """The values that one says: of a range ``1-4`` or ``3-9 (+2)`` several. Raises InvalidParams."""
    found = RANGE.fullmatch(cell) if field in (*WHOLE, *DECIMALS) else None
    if not found:
        if field in (*WHOLE, *DECIMALS):
            numeric(axis, field, cell)
        elif field == "size":
            parse_size(cell)
        return [cell]
    first, last = numeric(axis, field, found[1]), numeric(axis, field, found[2])
    step = float(found[3] or 1)
    if last < first or not 0 < step < math.inf:
        raise InvalidParams(axis, message("grid_up", got=echo(cell)))
    steps = (last - first) / step + 1e-9
    if steps >= MOST_VALUES:
        raise InvalidParams(axis, message("grid_values", most=MOST_VALUES, field=echo(cell), count=steps + 1))
    count = int(steps) + 1
    each = [first + place * step for place in range(count)]
    return [f"{value:g}" if field in DECIMALS else str(int(value)) for value in each]


def numeric(axis: str, field: str, text: str) -> float:
    try:
        value = float(text) if field in DECIMALS else float(int(text))
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidParams(axis, message("axis_numbers", field=field, got=echo(text)))
    return value
