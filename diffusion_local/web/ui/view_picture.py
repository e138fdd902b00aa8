"""The viewer: a full-screen picture with its recipe and its buttons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from diffusion_local.domain import Image
from diffusion_local.gallery.boards import Board
from diffusion_local.options.option import Option, Visibility
from diffusion_local.options.table import OPTIONS, Params
from diffusion_local.options.types import Kind, Record, format_number
from diffusion_local.web.ui.templates import macro, render
from diffusion_local.web.ui.view import elapsed, moment, name_of, size
from diffusion_local.web.ui.words import say


def recipe_rows(params: Params) -> Iterator[tuple[str, str]]:
    """(label, value) of each option that applies and is set, without the prompt. Values may be ``Markup``."""
    if params.kind is not Kind.TXT2IMG:
        yield name_of("kind"), say(f"create.kind_{params.kind}")
    if params.negative:
        yield name_of("negative"), params.negative
    yield name_of("size"), f"{params.width} × {params.height}"
    for name, option in OPTIONS.items():
        value = getattr(params, name)
        listed = option.shown is Visibility.ALWAYS or (
            option.shown is Visibility.SET and option.is_set(value, params.kind)
        )
        if listed and params.kind in option.kinds:
            yield name_of(name), format_value(option, value)


def format_value(option: Option, value: Any) -> str:
    if option.is_picture:
        return macro("source_link", value)
    if option.record:
        return Markup(", ").join(map(format_record, value))
    if option.type is float:
        return format_number(value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def format_record(record: Record) -> Markup:
    """Links to the pictures of a record, followed by its other values that are set."""
    values = {name: value for name, value in record.to_dict().items() if name not in record.pictures}
    texts = (format_number(value) if isinstance(value, float) else str(value) for value in values.values())
    return Markup(" ").join([*(macro("source_link", each) for each in record.inputs), *texts])


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


def panel(image: Image, kin: Related) -> Markup:
    return render("viewer.html", image=image, kin=kin, facts=[*recipe_rows(image.params), *making(image)])


def making(image: Image) -> Iterator[tuple[str, str]]:
    """(label, value) of facts about a picture's making: flag, missing parts, duration, owner, size, date."""
    if image.flag:
        yield say("gallery.flagged"), macro("flag", image)
    incomplete = image.facts.get("incomplete")
    for option, problem in incomplete.items() if isinstance(incomplete, dict) else ():
        yield say("gallery.without", what=name_of(option)), str(problem)
    if image.seconds:
        yield say("gallery.took"), elapsed(image.seconds)
    if image.owner:
        yield say("queue.owner"), image.owner
    yield say("gallery.file"), size(image.bytes)
    yield say("gallery.made"), moment(image.created_at)
