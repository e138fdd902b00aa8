"""Validation of single values. Each function returns the typed value, or raises InvalidParams with field and limit."""

import random
import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.grammar import tags
from diffusion_local.messages import message
from diffusion_local.options.types import (
    Control,
    ControlType,
    Detail,
    Lora,
    Record,
    Reference,
    Region,
    Use,
    format_number,
)

MAX_SEED = 2**32 - 1
#: Maximum pictures per denoiser pass.
MOST_TOGETHER = 16
MAX_PROMPT_CHARS = 10_000
MAX_LORAS = 8
MAX_LORA_WEIGHT = 4.0
#: Maximum total megapixels of the pictures that one option names.
MAX_PICTURES_MEGAPIXELS = 100
MAX_REFERENCE_WEIGHT = 2.0
MAX_CONTROL_WEIGHT = 2.0
#: Minimum side of a region, as a share of the picture's side.
MIN_REGION = 0.02
MAX_TARGET_CHARS = 60
#: Control modes of union ControlNets, by the names of control types in other tools.
CONTROL_MODES = (
    "canny", "softedge", "scribble", "lineart", "tile", "depth", "normal", "openpose", "segment", "blur", "luminance",
    "lowquality", "inpaint",
)  # fmt: skip
MAX_NAME_CHARS = 200
SOURCE_ID = re.compile(r"[0-9a-f]{64}")
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+\s*", re.ASCII)
#: A comma-separated part; quoted commas do not separate. An unclosed quotation mark is an ordinary character.
CSV_ENTRY = re.compile(r'(?:"(?:[^"]|"")*+"|[^,])++')
QUOTED_NAME = re.compile(r'"((?:[^"]|"")*+)"')
#: Allowed control characters: tab, line ends, form feed, escape.
CONTROL_CHARACTERS = "\t\n\v\f\r\x1b"
#: An id of ours: a ULID.
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


def draw_seed() -> int:
    return random.SystemRandom().randint(0, 2**31 - 1)


def check_prompt(field: str, text: Any, required: bool = False) -> None:
    if not isinstance(text, str):
        raise InvalidParams(field, message("text"))
    if len(text) > MAX_PROMPT_CHARS:
        raise InvalidParams(field, message("too_long", most=MAX_PROMPT_CHARS, got=len(text)))
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvalidParams(field, message("half_character"))
    if strange := next((sign for sign in text if sign < " " and sign not in CONTROL_CHARACTERS), ""):
        raise InvalidParams(field, message("control_character", sign=f"U+{ord(strange):04X}"))
    if required and not text.strip():
        raise InvalidParams(field, message("empty_prompt" if field == "prompt" else "empty_text"))


def check_number(field: str, value: Any, low: float, high: float) -> float:
    bounds = {"low": format_bound(low), "high": format_bound(high)}
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
        raise InvalidParams(field, message("decimal_comma", got=echo(value)))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidParams(field, message("number", **bounds, got=echo(value))) from None
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidParams(field, message("range", **bounds, got=echo(value)))
    return number


def format_bound(bound: float) -> str:
    """A bound in full: 4294967295, not 4.29e+09."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def check_integer(field: str, value: Any, low: int, high: int) -> int:
    number = check_number(field, value, low, high)
    if number != int(number):
        raise InvalidParams(field, message("whole_number", low=low, high=high, got=echo(value)))
    return int(number)


def check_choice(field: str, name: Any, known: tuple[str, ...]) -> str:
    """The matching known name, ignoring case."""
    for each in known:
        if isinstance(name, str) and name.strip().casefold() == each.casefold():
            return each
    raise InvalidParams(field, message("one_of", known=list(known), got=echo(name)))


def check_choice_or_file(field: str, name: Any, known: tuple[str, ...]) -> str:
    """The matching known name, ignoring case, or a valid file name."""
    folded = name.strip().casefold() if isinstance(name, str) else None
    return next((each for each in known if each.casefold() == folded), None) or check_file_name(field, name)


def check_pass_position(field: str, value: Any) -> str:
    """Validate a 1-based position in a denoiser pass and the pass's size, such as ``3/8``; "" for none."""
    if value in ("", None):
        return ""
    found = re.fullmatch(r"\s*(\d{1,2})\s*/\s*(\d{1,2})\s*", str(value), re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]) <= MOST_TOGETHER:
        raise InvalidParams(field, message("place_in_pass", most=MOST_TOGETHER, got=echo(value)))
    return f"{int(found[1])}/{int(found[2])}"


def parse_pass_position(text: str) -> tuple[int, int]:
    """Parse a result of ``check_pass_position`` to (0-based position, size)."""
    number, size = text.split("/")
    return int(number) - 1, int(size)


def check_cursor(field: str, value: Any) -> str | None:
    """Validate a cursor, the ``next`` of an earlier page: a ULID. None if empty. Raises InvalidParams."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not ULID.fullmatch(value):
        raise InvalidParams(field, message("cursor", got=echo(value)))
    return value


def check_moment(field: str, value: Any) -> str | None:
    """Convert a time (ISO 8601, UTC without a zone) to UTC in its stored form. None if empty. Raises InvalidParams."""
    if value is None or value == "":
        return None
    try:
        found = datetime.fromisoformat(value)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return found.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError):
        raise InvalidParams(field, message("moment", got=echo(value))) from None


def check_background(field: str, value: Any) -> str:
    """``transparent``, or "" for other programs' auto and opaque. Raises InvalidParams."""
    return {"transparent": "transparent"}.get(check_choice(field, value, ("transparent", "auto", "opaque")), "")


def check_needed_source(field: str, value: Any, needed: str) -> str:
    """Id of a required source picture. ``needed``: the kind of work that requires it, or "". Raises InvalidParams."""
    if not value:
        raise InvalidParams(field, message("source_needed", kind=needed))
    return check_source_id(field, value)


def check_source_id(field: str, value: Any) -> str:
    if not isinstance(value, str) or not SOURCE_ID.fullmatch(value):
        raise InvalidParams(field, message("source_id", got=echo(value)))
    return value


def check_file_name(field: str, value: Any) -> str:
    """File name below a folder of the home; may contain ``/`` but must not leave the folder. Raises InvalidParams."""
    name = value.strip() if isinstance(value, str) else ""
    if not is_file_name(name):
        raise InvalidParams(field, message("file_name", got=echo(value)))
    return name


def is_file_name(name: str) -> bool:
    odd = "\\" in name or any(sign < " " or "\ud800" <= sign <= "\udfff" for sign in name)
    return bool(name) and len(name) <= MAX_NAME_CHARS and not odd and not {"", ".", ".."} & set(name.split("/"))


def check_loras(field: str, value: Any) -> tuple[Lora, ...]:
    """LoRAs from ``{"name": ..., "weight": ...}``, ``"name:weight"``, ``"name"``, or comma-separated text.

    In text, a name with a comma or quotation mark is quoted as in CSV: ``"a, b":0.8``. Raises InvalidParams.
    """
    each = [one.strip() for one in CSV_ENTRY.findall(value) if one.strip()] if isinstance(value, str) else value
    if not isinstance(each, list | tuple):
        raise InvalidParams(field, message("lora_list", example='[{"name": "ink", "weight": 0.8}]', got=echo(value)))
    each = [one for one in each if one != ""]
    if len(each) > MAX_LORAS:
        raise InvalidParams(field, message("at_most", most=MAX_LORAS, got=len(each)))
    loras = tuple(check_lora(field, one) for one in each)
    names = [one.name for one in loras]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParams(field, message("lora_twice", name=echo(name), count=names.count(name)))
    return loras


def check_lora(field: str, value: Any) -> Lora:
    weight: Any
    if isinstance(value, Lora):
        name, weight = value.name, value.weight
    elif isinstance(value, str):
        name, colon, weight_text = value.rpartition(":")
        name, weight = (name, weight_text) if colon and not weight_text.endswith('"') else (value, 1.0)
        if quoted := QUOTED_NAME.fullmatch(name.strip()):
            name = quoted[1].replace('""', '"')
    elif isinstance(value, dict) and "name" in value and not set(value) - {"name", "weight"}:
        name, weight = value["name"], value.get("weight", 1.0)
    else:
        raise InvalidParams(field, message("lora_weight", got=echo(value)))
    return Lora(check_file_name(field, name), check_number(field, weight, -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT))


R = TypeVar("R", bound=Record)


def record_values(field: str, value: Any, kind: type[Record]) -> list[dict[str, Any]]:
    """Entries of an option that is a list of records, as unvalidated values by name.

    Each given entry is a record, its values by name, or its text; one text may contain several, separated by commas.
    Raises InvalidParams.
    """
    each = [one.strip() for one in kind.split(value) if one.strip()] if isinstance(value, str) else value
    if not isinstance(each, list | tuple):
        raise InvalidParams(field, message("picture_list", example=f'[{{"{kind.lead}": ...}}]', got=echo(value)))
    each = [one for one in each if one != ""]
    if len(each) > kind.most:
        raise InvalidParams(field, message("entries_most", most=kind.most, got=len(each)))
    return [record_value(entry(field, place), one, kind) for place, one in enumerate(each)]


def entry(field: str, place: int, name: str = "") -> str:
    """Name of a list entry (counted from 0), or of its field, for error messages: ``controls[1].weight``."""
    return f"{field}[{place}]" + (f".{name}" if name else "")


def record_value(field: str, value: Any, kind: type[Record]) -> dict[str, Any]:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, str):
        return kind.read(value.strip())
    if isinstance(value, dict) and isinstance(value.get(kind.lead), str):
        return value
    raise InvalidParams(field, message("picture_record", name=kind.lead, got=echo(value)))


def records(field: str, value: Any, kind: type[R], make: Callable[[str, dict[str, Any]], R]) -> tuple[R, ...]:
    """Validate entries by calling ``make(name of the entry, values)`` for each. Raises InvalidParams."""
    names = [each.name for each in fields(kind)]
    made = []
    for place, one_record in enumerate(record_values(field, value, kind)):
        record = {name: one for name, one in one_record.items() if one is not None}
        for name in record:
            if name not in names:
                raise InvalidParams(entry(field, place), message("picture_record_field", known=names, got=echo(name)))
        for name in kind.pictures:
            if name == kind.lead or record.get(name):
                check_source_id(entry(field, place, name), record.get(name))
        made.append(make(entry(field, place), record))
    return tuple(made)


def references(field: str, value: Any) -> tuple[Reference, ...]:
    """Validated references. Raises InvalidParams."""
    return records(field, value, Reference, reference)


def reference(field: str, each: dict[str, Any]) -> Reference:
    return Reference(
        image=each["image"],
        use=Use(check_choice(f"{field}.use", each.get("use") or Use.EDIT, tuple(Use))),
        weight=check_number(f"{field}.weight", each.get("weight", 1.0), 0, MAX_REFERENCE_WEIGHT),
        adapter=check_file_name(f"{field}.adapter", each["adapter"]) if each.get("adapter") else "",
        mask=each.get("mask") or "",
    )


def controls(field: str, value: Any) -> tuple[Control, ...]:
    """Validated controls. A given ``seen`` is dropped, because it is derived from the rest. Raises InvalidParams."""
    return records(field, value, Control, control)


def control(field: str, each: dict[str, Any]) -> Control:
    start, end = (
        check_number(f"{field}.{name}", each.get(name, default), 0, 1)
        for name, default in (("start", 0.0), ("end", 1.0))
    )
    if start >= end:
        raise InvalidParams(
            f"{field}.start", message("control_span", start=format_number(start), end=format_number(end))
        )
    return Control(
        image=each["image"],
        type=ControlType(check_choice(f"{field}.type", each.get("type") or ControlType.NONE, tuple(ControlType))),
        model=check_file_name(f"{field}.model", each["model"]) if each.get("model") else "",
        weight=check_number(f"{field}.weight", each.get("weight", 1.0), 0, MAX_CONTROL_WEIGHT),
        start=start,
        end=end,
        mode=check_choice(f"{field}.mode", each["mode"], CONTROL_MODES) if each.get("mode") else "",
    )


def regions(field: str, value: Any) -> tuple[Region, ...]:
    """Validated regions. Raises InvalidParams."""
    return records(field, value, Region, region)


def region(field: str, each: dict[str, Any]) -> Region:
    check_prompt(f"{field}.prompt", each["prompt"], required=True)
    if tags.find_tags(each["prompt"]):
        raise InvalidParams(f"{field}.prompt", message("region_tag"))
    shares = {
        name: check_number(f"{field}.{name}", each.get(name, default), low, high)
        for name, default, low, high in (
            ("x", 0.0, 0, 1 - MIN_REGION),
            ("y", 0.0, 0, 1 - MIN_REGION),
            ("width", 1.0, MIN_REGION, 1),
            ("height", 1.0, MIN_REGION, 1),
        )
    }
    for start, length in (("x", "width"), ("y", "height")):
        most = 1 - shares[start]
        if length not in each:
            shares[length] = round(most, 6)
        if shares[length] > most + 1e-6:
            low, high = format_number(MIN_REGION), format_number(round(most, 6))
            raise InvalidParams(f"{field}.{length}", message("range", low=low, high=high, got=echo(shares[length])))
    weight = check_number(f"{field}.weight", each.get("weight", Region("").weight), 0, 1)
    return Region(each["prompt"].strip(), **shares, weight=weight)


def details(field: str, value: Any) -> tuple[Detail, ...]:
    """Validated details. Raises InvalidParams."""
    return records(field, value, Detail, detail)


def detail(field: str, each: dict[str, Any]) -> Detail:
    target = each["target"].strip()
    check_prompt(f"{field}.target", target, required=True)
    if len(target) > MAX_TARGET_CHARS:
        raise InvalidParams(f"{field}.target", message("too_long", most=MAX_TARGET_CHARS, got=len(target)))
    check_prompt(f"{field}.prompt", each.get("prompt") or "")
    if tags.find_tags(each.get("prompt") or ""):
        raise InvalidParams(f"{field}.prompt", message("region_tag"))
    return Detail(
        target=target,
        prompt=(each.get("prompt") or "").strip(),
        strength=check_number(f"{field}.strength", each.get("strength", Detail("").strength), 0.05, 1),
        steps=check_integer(f"{field}.steps", each.get("steps", 0), 0, 150),
        confidence=check_number(f"{field}.confidence", each.get("confidence", Detail("").confidence), 0, 1),
        padding=check_integer(f"{field}.padding", each.get("padding", Detail("").padding), 0, 512),
        limit=check_integer(f"{field}.limit", each.get("limit", Detail("").limit), 1, 16),
    )
