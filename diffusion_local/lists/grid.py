"""X/Y/Z grids: parsing axes, counting, and the settings of each cell. Pure functions.

An axis is a field of Params with values: ``steps: 10,20,30``, ``seed: 1-4``, ``guidance: 3-9 (+2)``, ``prompt:
cat,dog,owl`` (search and replace: the first word is replaced in the prompt, as in A1111), ``lora moss: 0.4,0.8``.
Values with commas are quoted, as in CSV.
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
from diffusion_local.options.values import MAX_PROMPT_CHARS, check_loras

MAX_VALUES = 100  # per axis
MAX_CHARS = 10_000
PROMPT_AXES = ("prompt", "negative")
VARYING = tuple(name for name in SETTINGS if OPTIONS[name].varies)
AXIS_FIELDS = ("prompt", "size", "lora", *VARYING)
RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\s*-\s*(-?\d+(?:\.\d+)?)(?:\s*\(\s*\+?\s*(\d+(?:\.\d+)?)\s*\))?")
INTEGERS = tuple(name for name in VARYING if OPTIONS[name].type is int)
DECIMALS = (*(name for name in VARYING if OPTIONS[name].type is float), "lora")


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: ``field`` takes each of ``values``; ``name``: the LoRA of a ``lora`` axis."""

    field: str
    values: tuple[str, ...]
    name: str = ""

    def headings(self) -> list[str]:
        """Headings beside the pictures."""
        if self.field in PROMPT_AXES:
            return list(self.values)
        return [f"{self.name or self.field} {value}" for value in self.values]


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of columns (x), rows (y), and sheets below each other (z). Cells are ordered by sheet, row, column."""

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
        return self.x.headings()

    @property
    def row_heads(self) -> list[str]:
        outer = self.z.headings() if self.z else [""]
        inner = self.y.headings() if self.y else [""]
        heads = [" · ".join(filter(None, pair)) for pair in product(outer, inner)]
        return heads if any(heads) else []

    def cells(self, prompt: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(prompt, settings) per picture. Raises InvalidParams if a text to be replaced does not occur."""
        for axis in self.axes:
            if axis.field in PROMPT_AXES:
                text = prompt if axis.field == "prompt" else str(settings.get("negative") or "")
                if axis.values[0] not in text:
                    raise InvalidParams(axis.field, message("search_text", text=echo(axis.values[0])))
        outward = [axis for axis in (self.z, self.y, self.x) if axis]
        for values in product(*(axis.values for axis in outward)):
            each, words = dict(settings), prompt
            for axis, value in zip(outward, values, strict=True):
                if axis.field == "prompt":
                    words = replace_first_value(axis, words, value)
                elif axis.field == "negative":
                    each["negative"] = replace_first_value(axis, str(each.get("negative") or ""), value)
                elif axis.field == "size":
                    each["width"], each["height"] = parse_size(value)
                elif axis.field == "lora":
                    others = [lora for lora in check_loras("loras", each.get("loras") or ()) if lora.name != axis.name]
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


def replace_first_value(axis: Axis, text: str, value: str) -> str:
    """The text with the axis' first value replaced. Raises InvalidParams if it becomes too long."""
    old = axis.values[0]
    length = len(text) + text.count(old) * (len(value) - len(old))
    if length > MAX_PROMPT_CHARS:  # checked beforehand: the result may have a hundred million characters
        raise InvalidParams(axis.field, message("too_long", most=MAX_PROMPT_CHARS, got=length))
    return text.replace(old, value)


def parse_grid(x: str, y: str = "", z: str = "", most: int = 2000) -> Grid:
    """Parse the axes. Raises InvalidParams for the axis at fault, also for more than ``most`` pictures."""
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
    label, colon, rest = text.partition(":")
    words = label.strip().split(maxsplit=1)
    field = field_name(words[0]) if words else ""
    if field in ("s/r", "sr"):
        field = "prompt"
    name = words[1].strip() if len(words) > 1 else ""
    if not colon or field not in AXIS_FIELDS or len(text) > MAX_CHARS:
        raise InvalidParams(
            axis,
            message("grid_axis", got=echo(text), known=list(AXIS_FIELDS)),
        )
    if (field == "lora") != bool(name):
        raise InvalidParams(axis, message("grid_lora"))
    try:
        cells = next(csv.reader([rest.strip()], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise InvalidParams(axis, message("grid_read", error=error)) from None
    values: list[str] = []
    for cell in cells:
        values += expand_range(axis, field, cell if field in PROMPT_AXES else cell.strip())
        if len(values) > MAX_VALUES:
            raise InvalidParams(axis, message("grid_values_most", most=MAX_VALUES))
    if len(set(values)) < max(len(values), 1) or "" in values[:1]:
        raise InvalidParams(axis, message("axis_values", got=echo(rest.strip())))
    if field in PROMPT_AXES and len(values) < 2:
        raise InvalidParams(axis, message("grid_replace"))
    return Axis(field, tuple(values), name)


def expand_range(axis: str, field: str, cell: str) -> list[str]:
    """Expand a range such as ``1-4`` or ``3-9 (+2)``; other values are unchanged. Raises InvalidParams."""
    match = RANGE.fullmatch(cell) if field in (*INTEGERS, *DECIMALS) else None
    if not match:
        if field in (*INTEGERS, *DECIMALS):
            parse_number(axis, field, cell)
        elif field == "size":
            parse_size(cell)
        return [cell]
    first, last = parse_number(axis, field, match[1]), parse_number(axis, field, match[2])
    step = float(match[3] or 1)
    if last < first or not 0 < step < math.inf:
        raise InvalidParams(axis, message("grid_up", got=echo(cell)))
    if match[3] is None and 0 < last - first < 1:
        raise InvalidParams(axis, message("grid_step", got=echo(cell)))
    steps = (last - first) / step + 1e-9
    if steps >= MAX_VALUES:
        raise InvalidParams(axis, message("grid_values", most=MAX_VALUES, field=echo(cell), count=steps + 1))
    count = int(steps) + 1
    each = [first + place * step for place in range(count)]
    return [f"{value:g}" if field in DECIMALS else str(int(value)) for value in each]


def parse_number(axis: str, field: str, text: str) -> float:
    try:
        value = float(text) if field in DECIMALS else float(int(text))
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidParams(axis, message("axis_numbers", field=field, got=echo(text)))
    return value
