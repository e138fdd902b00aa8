"""A recipe as HTML: the options that a picture was made with, for the viewer and for a job's history."""

from collections.abc import Iterator
from typing import Any

from diffusion_local import serializers
from diffusion_local.domain import Kind, Params
from diffusion_local.options.option import Option, Shown
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.types import PictureRecord, format_number
from diffusion_local.web.ui.view import name_of, text
from diffusion_local.web.ui.words import say


def recipe(params: Params) -> Iterator[tuple[str, str]]:
    """(name, value as HTML) of each option that applies and is set; the prompt stands elsewhere."""
    if params.kind is not Kind.TXT2IMG:
        yield name_of("kind"), say(f"create.kind_{params.kind}")
    if params.negative:
        yield name_of("negative"), text(params.negative)
    yield name_of("size"), f"{params.width} × {params.height}"
    for name, option in OPTIONS.items():
        value = getattr(params, name)
        listed = option.shown is Shown.ALWAYS or (option.shown is Shown.SET and option.is_set(value, params.kind))
        if listed and params.kind in option.kinds:
            yield name_of(name), shown(option, value)


def shown(option: Option, value: Any) -> str:
    if option.is_picture:
        return picture(value)
    if option.record:
        return ", ".join(map(described, value))
    if option.type is float:
        return format_number(value)
    return text(", ".join(map(str, value)) if isinstance(value, tuple) else value)


def picture(source_id: str) -> str:
    """A link to a source picture."""
    return (
        f'<a href="{text(serializers.source_url(source_id))}" target="_blank" rel="noopener">{text(source_id[:12])}</a>'
    )


def described(record: PictureRecord) -> str:
    """Links to the pictures of a record, and its other values that are set."""
    values = {name: value for name, value in record.to_dict().items() if name not in record.pictures}
    told = (format_number(value) if isinstance(value, float) else str(value) for value in values.values())
    return " ".join([*map(picture, record.inputs), *map(text, told)])


def rows(found: Iterator[tuple[str, str]]) -> str:
    return "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in found)
