"""Pictures as HTML: the gallery's grid, and two of them side by side. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from diffusion_local import serializers
from diffusion_local.domain import Image
from diffusion_local.web.ui.place import Place
from diffusion_local.web.ui.view import button, close_button, flag, picture_link, pictures, text
from diffusion_local.web.ui.view_recipe import recipe
from diffusion_local.web.ui.words import say

PAGE = 48
NONE: Mapping[str, int] = MappingProxyType({})


def gallery(
    images: Sequence[Image], total: int, place: Place, more: bool, filtered: bool, repeated: Mapping[str, int] = NONE
) -> str:
    """A page of the gallery with its way to the newer and older ones. ``repeated``: how often a recipe was made."""
    first_page = not place.cursors
    if not images:
        return f'<div class="invite">{no_pictures(filtered, place)}</div>{pager(first_page, False)}'
    tiles = "".join(tile(each, repeated.get(each.id, 1)) for each in images)
    # Older pages tell no total: they stay as they are while new pictures come in.
    told = f'<p class="quiet total">{pictures(total)}</p>' if first_page and not filtered else ""
    return f'{told}<div class="pictures">{tiles}</div>{pager(first_page, more, images[-1].id)}'


def no_pictures(filtered: bool, place: Place) -> str:
    if place.cursors:
        return f"<h2>{say('gallery.no_older')}</h2>"
    if place.filters == {"trashed": "1"}:
        return f"<h2>{say('gallery.no_trash')}</h2>"
    if place.get("board"):
        return f"<h2>{say('gallery.no_board')}</h2><p>{say('gallery.no_board_how')}</p>"
    if filtered:
        return f"<h2>{say('gallery.no_fit')}</h2><p>{say('gallery.no_fit_how')}</p>"
    return f"<h2>{say('gallery.empty')}</h2><p>{say('gallery.empty_how')}</p>"


def tile(image: Image, times: int) -> str:
    star = f'<i class="starred" role="img" aria-label="{say("gallery.starred")}">★</i>' if image.starred else ""
    if times > 1:
        words = say("gallery.same", n=times)
        star += button(f"×{times:,}", "alike", image.id, kind="times", title=words, extra=f' aria-label="{words}"')
    select = say("queue.select", prompt=text(image.params.prompt))
    return (
        f'<div class="tile" data-key="{image.id}">{picture_link(image, image.params.prompt)}{flag(image)}{star}'
        f'<label class="tick"><input type="checkbox" data-pick="{image.id}" aria-label="{select}"></label></div>'
    )


def pager(first_page: bool, more: bool, last: str = "") -> str:
    if first_page and not more:
        return ""
    newer = "" if first_page else button(say("gallery.newer"), "newer")
    older = button(say("gallery.older"), "older", last) if more else ""
    return f'<nav class="pager" aria-label="{say("gallery.pages")}"><span>{newer}</span><span>{older}</span></nav>'


def compared(first: Image, second: Image) -> str:
    """Two pictures side by side, with the recipe's lines in which they differ."""
    sides = "".join(
        f'<figure data-key="{each.id}"><a href="{serializers.file_url(each)}" data-do="open" data-id="{each.id}">'
        f'<img src="{serializers.file_url(each)}" alt="{text(each.params.prompt)}" width="{each.width}" '
        f'height="{each.height}"></a></figure>'
        for each in (first, second)
    )
    return (
        '<div class="overlay" data-key="overlay"><div class="panel compare" role="dialog" aria-modal="true" '
        f'data-key="compare" aria-label="{say("gallery.compare")}">{close_button()}<h2>{say("gallery.compare")}</h2>'
        f'<div class="sides">{sides}</div>'
        f"{differences(first, second)}</div></div>"
    )


def differences(first: Image, second: Image) -> str:
    left, right = (
        {say("gallery.prompt"): text(each.params.prompt)} | dict(recipe(each.params)) for each in (first, second)
    )
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    if not names:
        return f'<p class="quiet">{say("gallery.same_recipe")}</p>'
    rows = "".join(
        f"<tr><th scope='row'>{name}</th><td>{left.get(name, '–')}</td><td>{right.get(name, '–')}</td></tr>"
        for name in names
    )
    return f'<table class="differences">{rows}</table>'
