"""The viewer as HTML: a full-screen picture with its recipe and its buttons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from markupsafe import Markup

from diffusion_local import serializers
from diffusion_local.domain import Image
from diffusion_local.gallery.boards import Board
from diffusion_local.options.option import Option, Shown
from diffusion_local.options.table import OPTIONS, Params
from diffusion_local.options.types import Kind, Record, format_number
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import elapsed, flag, moment, name_of, size, text
from diffusion_local.web.ui.words import say


def recipe_rows(params: Params) -> Iterator[tuple[str, str]]:
    """(label, value as HTML) of each option that applies and is set, without the prompt."""
    if params.kind is not Kind.TXT2IMG:
        yield name_of("kind"), say(f"create.kind_{params.kind}")
    if params.negative:
        yield name_of("negative"), text(params.negative)
    yield name_of("size"), f"{params.width} × {params.height}"
    for name, option in OPTIONS.items():
        value = getattr(params, name)
        listed = option.shown is Shown.ALWAYS or (option.shown is Shown.SET and option.is_set(value, params.kind))
        if listed and params.kind in option.kinds:
            yield name_of(name), format_value(option, value)


def format_value(option: Option, value: Any) -> str:
    if option.is_picture:
        return source_link(value)
    if option.record:
        return ", ".join(map(format_record, value))
    if option.type is float:
        return format_number(value)
    return text(", ".join(map(str, value)) if isinstance(value, tuple) else value)


def source_link(source_id: str) -> str:
    """A link to a source picture, with the first characters of its id."""
    return (
        f'<a href="{text(serializers.source_url(source_id))}" target="_blank" rel="noopener">{text(source_id[:12])}</a>'
    )


def format_record(record: Record) -> str:
    """Links to the pictures of a record, followed by its other values that are set."""
    values = {name: value for name, value in record.to_dict().items() if name not in record.pictures}
    told = (format_number(value) if isinstance(value, float) else str(value) for value in values.values())
    return " ".join([*map(source_link, record.inputs), *map(text, told)])


def render_rows(found: Iterator[tuple[str, str]]) -> str:
    return "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in found)


@dataclass(frozen=True, slots=True)
class Related:
    """What the viewer shows besides the picture.

    ``alike``: number of other pictures of the same recipe; ``on``: boards with this picture; ``boards``: all boards.
    """

    alike: int = 0
    batch_id: str = ""
    on: Sequence[Board] = ()
    boards: Sequence[Board] = ()

    @property
    def free(self) -> list[Board]:
        there = {each.id for each in self.on}
        return [each for each in self.boards if each.id not in there]


def panel(image: Image, kin: Related) -> str:
    return render("viewer.html", image=image, kin=kin, facts=facts(image))


def facts(image: Image) -> list[tuple[str, Markup]]:
    """(label, HTML) of the recipe, and of facts about its making: flag, missing parts, duration, owner, size, date."""
    more = []
    if image.flag:
        more.append((say("gallery.flagged"), flag(image)))
    incomplete = image.facts.get("incomplete")
    for option, problem in incomplete.items() if isinstance(incomplete, dict) else ():
        more.append(
            (say("gallery.without", what=name_of(option) if option in OPTIONS else text(option)), text(problem))
        )
    if image.seconds:
        more.append((say("gallery.took"), elapsed(image.seconds)))
    if image.owner:
        more.append((say("queue.owner"), text(image.owner)))
    more.append((say("gallery.file"), size(image.bytes)))
    more.append((say("gallery.made"), moment(image.created_at)))
    return [(name, Markup(value)) for name, value in chain(recipe_rows(image.params), more)]
