"""One picture, as large as the screen, with its recipe and what can be done with it. ``viewer.js`` zooms and walks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from diffusion_local import serializers
from diffusion_local.domain import Image, Kind
from diffusion_local.gallery.boards import Board
from diffusion_local.web.ui import view_recipe
from diffusion_local.web.ui.icons import icon
from diffusion_local.web.ui.view import ask, button, close_button, elapsed, flag, menu, moment, size, text
from diffusion_local.web.ui.words import say


@dataclass(frozen=True, slots=True)
class Kin:
    """What stands beside a picture: ``alike`` others of its recipe, its batch, the boards it is ``on``, and all of
    them."""

    alike: int = 0
    batch_id: str = ""
    on: Sequence[Board] = ()
    boards: Sequence[Board] = ()


def panel(image: Image, kin: Kin) -> str:
    url, prompt = serializers.file_url(image), text(image.params.prompt)
    return (
        '<div class="overlay viewer" data-key="overlay">'
        f'<div class="panel" role="dialog" aria-modal="true" data-key="viewer" data-picture="{image.id}" '
        f'aria-label="{say("gallery.picture")}"><div class="stage" data-key="stage">'
        f'<img data-key="{image.id}" src="{url}" alt="{prompt}" width="{image.width}" height="{image.height}" '
        f'draggable="false"></div>{controls()}<div class="side" data-key="side">{close_button()}'
        f'<p class="prompt">{prompt}</p>{acts(image)}<dl>{facts(image)}</dl>'
        f"{beside(image, kin)}</div></div></div>"
    )


def controls() -> str:
    """Buttons over the picture; ``viewer.js`` is what they do."""
    walks = "".join(
        f'<button type="button" class="act round {side}" data-walk="{step}" aria-label="{say(f"viewer.{side}")}">'
        f"{sign}</button>"
        for side, step, sign in (("earlier", -1, "‹"), ("later", 1, "›"))
    )
    zooms = "".join(
        f'<button type="button" class="act round" data-zoom="{zoom}" aria-label="{say(f"viewer.{name}")}">'
        f"{sign}</button>"
        for name, zoom, sign in (("smaller", "-", "−"), ("whole", "0", "⤢"), ("larger", "+", "+"))
    )
    recipe = (
        f'<button type="button" class="act round" data-recipe aria-label="{say("viewer.recipe")}" '
        f'title="{say("viewer.recipe")}">i</button>'
    )
    return f'<div class="controls" data-key="controls">{walks}<div class="zooms">{zooms}{recipe}</div></div>'


def acts(image: Image) -> str:
    """What makes another picture of it, and below, what is done with this one."""
    makes = [button(say("viewer.again"), "again_new", image.id, "primary")]
    if image.params.kind is not Kind.UPSCALE:
        makes.append(button(say("viewer.variations"), "variations", image.id))
    makes += [
        button(say("viewer.same_seed"), "again_picture", image.id, title=say("viewer.same_seed_why")),
        button(say("viewer.upscale"), "upscale", image.id),
        button(say("viewer.img2img"), "to_img2img", image.id),
        button(say("viewer.inpaint"), "to_inpaint", image.id),
        button(say("common.use_recipe"), "recipe", image.id),
    ]
    star = signed(icon("star", filled=image.starred), say("gallery.unstar_it" if image.starred else "gallery.star_it"))
    signs = [
        button(star, "unstar" if image.starred else "star", image.id, "sign", extra=" data-star"),
        f'<button type="button" class="act sign" data-copy="{text(image.params.prompt)}">'
        f"{signed(icon('copy'), say('viewer.copy'))}</button>",
        f'<a class="act sign" href="{serializers.file_url(image)}?download=1" download>'
        f"{signed(icon('download'), say('common.download'))}</a>",
        button(signed(icon("back"), say("gallery.restore")), "restore_open", image.id, "sign")
        if image.trashed_at
        else button(signed(icon("trash"), say("gallery.to_trash")), "trash", image.id, "sign", extra=" data-trash"),
    ]
    return f'<div class="acts makes">{"".join(makes)}</div><div class="acts signs">{"".join(signs)}</div>'


def signed(sign: str, words: str) -> str:
    return f"{sign}<span>{words}</span>"


def beside(image: Image, kin: Kin) -> str:
    """Ways from this picture to others."""
    links = [button(text(each.name), "board_pictures", each.id, "chip small") for each in kin.on]
    if not image.trashed_at:
        there = {each.id for each in kin.on}
        free = [each for each in kin.boards if each.id not in there]
        to = [button(text(each.name), "pin", f"{each.id} {image.id}") for each in free]
        to.append(button(say("gallery.new_board"), "pin_new", image.id, extra=ask(say("gallery.name_of_board"))))
        name = say("gallery.add_to_board")
        links.append(menu("pin", name, to, name))
    if kin.batch_id:
        links.append(button(say("gallery.batch_pictures"), "batch_pictures", kin.batch_id, "small"))
    if kin.alike:
        links.append(button(say("gallery.alike", n=kin.alike), "alike", image.id, "small"))
    return f'<div class="acts beside" data-key="beside">{"".join(links)}</div>'


def facts(image: Image) -> str:
    """The recipe, and how the picture was made."""
    more = []
    if image.flag:
        more.append((say("gallery.flagged"), flag(image)))
    if image.seconds:
        more.append((say("gallery.took"), elapsed(image.seconds)))
    if image.owner:
        more.append((say("queue.owner"), text(image.owner)))
    more.append((say("gallery.file"), size(image.bytes)))
    more.append((say("gallery.made"), moment(image.created_at)))
    return view_recipe.rows(chain(view_recipe.recipe(image.params), more))
