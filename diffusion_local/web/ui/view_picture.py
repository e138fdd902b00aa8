"""One picture, as large as the screen, with its recipe and what can be done with it. ``viewer.js`` zooms and walks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from markupsafe import Markup

from diffusion_local.domain import Image
from diffusion_local.gallery.boards import Board
from diffusion_local.web.ui import view_recipe
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import elapsed, flag, moment, size, text
from diffusion_local.web.ui.words import say


@dataclass(frozen=True, slots=True)
class Kin:
    """What belongs to a picture: ``alike`` others of its recipe, its batch, the boards it is ``on``, and all of
    them."""

    alike: int = 0
    batch_id: str = ""
    on: Sequence[Board] = ()
    boards: Sequence[Board] = ()

    @property
    def free(self) -> list[Board]:
        there = {each.id for each in self.on}
        return [each for each in self.boards if each.id not in there]


def panel(image: Image, kin: Kin) -> str:
    return render("viewer.html", image=image, kin=kin, facts=facts(image))


def facts(image: Image) -> list[tuple[str, Markup]]:
    """The settings it was made with, and how it was made: (name, HTML)."""
    more = []
    if image.flag:
        more.append((say("gallery.flagged"), flag(image)))
    if image.seconds:
        more.append((say("gallery.took"), elapsed(image.seconds)))
    if image.owner:
        more.append((say("queue.owner"), text(image.owner)))
    more.append((say("gallery.file"), size(image.bytes)))
    more.append((say("gallery.made"), moment(image.created_at)))
    return [(name, Markup(value)) for name, value in chain(view_recipe.recipe(image.params), more)]
