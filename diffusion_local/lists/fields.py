"""What a line of a list may say: fields by the names people know, an Entry that says it, a BadLine that cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_local.domain import Kind
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.table import OPTIONS, SETTINGS
from diffusion_local.options.values import one_of

#: What becomes of wildcards and choices: one drawn by lot for each picture, every combination, or left as written.
EXPANSIONS = ("random", "all", "no")
#: Beside the fields of Params.
EXTRA = ("size", "count", "expand")
FIELDS = ("prompt", *SETTINGS, *EXTRA)
#: Columns that an export adds; a list that is read again says nothing by them.
RESULTS = ("batch_id", "job_id", "state", "error", "file")
#: Our name by each name of other tools (A1111's "prompts from file", InvokeAI, Midjourney).
ALIASES = {spelling: name for name, option in OPTIONS.items() for spelling in option.spellings}
ALIASES |= dict.fromkeys(("n", "n_iter"), "count")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line's options, not yet checked against a model. What it does not say is absent."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that makes no picture, and why; ``text`` is its beginning."""

    line: int
    reason: str
    text: str


def field_name(name: str) -> str:
    """The field that a flag or a column means, or the name itself if there is none."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return ALIASES.get(plain, plain)


def known(name: str) -> bool:
    return name in FIELDS or name in RESULTS


def entry(line: int, given: Mapping[str, Any]) -> Entry:
    """An Entry of named values; blank ones say nothing. Raises InvalidParams for a size or kind there is not."""
    values = {name: value for name, value in given.items() if name in FIELDS and value is not None}
    values = {name: value for name, value in values.items() if not (isinstance(value, str) and not value.strip())}
    if "size" in values:
        if "width" in values or "height" in values:
            raise InvalidParams("size", message("size_twice"))
        values["width"], values["height"] = parse_size(values.pop("size"))
    if "kind" in values:
        values["kind"] = one_of("kind", values["kind"], tuple(Kind))
    if values.get("expand", EXPANSIONS[0]) not in EXPANSIONS:
        raise InvalidParams("expand", message("one_of", known=list(EXPANSIONS), got=echo(values["expand"])))
    return Entry(line, values)


def parse_size(size: Any) -> tuple[int, int]:
    """Width and height. Raises InvalidParams."""
    width, cross, height = str(size).lower().replace("×", "x").partition("x")
    digits = 6  # more is no size, and int() refuses thousands of digits in words of its own
    if not cross or not all(each.isascii() and each.isdecimal() and len(each) <= digits for each in (width, height)):
        raise InvalidParams("size", message("size_form", got=echo(size)))
    return int(width), int(height)
