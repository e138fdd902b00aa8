"""Pictures as HTML: the gallery's grid. Pure, like ``view``."""

from collections.abc import Sequence

from diffusion_local.domain import Image
from diffusion_local.web.ui.view import (
    button,
    picture_link,
    pictures,
)
from diffusion_local.web.ui.words import say

PAGE = 48


def gallery(images: Sequence[Image], total: int, first_page: bool, more: bool, filtered: bool) -> str:
    """A page of the gallery with its way to the newer and older ones."""
    if not images:
        return f'<div class="invite">{no_pictures(filtered, first_page)}</div>{pager(first_page, False)}'
    tiles = "".join(tile(each) for each in images)
    # Older pages tell no total: they stay as they are while new pictures come in.
    told = f'<p class="quiet total">{pictures(total)}</p>' if first_page and not filtered else ""
    return f'{told}<div class="pictures">{tiles}</div>{pager(first_page, more)}'


def no_pictures(filtered: bool, first_page: bool) -> str:
    if filtered:
        return f"<h2>{say('gallery.no_fit')}</h2><p>{say('gallery.no_fit_how')}</p>"
    if not first_page:
        return f"<h2>{say('gallery.no_older')}</h2>"
    return f"<h2>{say('gallery.empty')}</h2><p>{say('gallery.empty_how')}</p>"


def tile(image: Image) -> str:
    star = f'<i class="starred" role="img" aria-label="{say("gallery.starred")}">★</i>' if image.starred else ""
    return f'<div class="tile" data-key="{image.id}">{picture_link(image, image.params.prompt)}{star}</div>'


def pager(first_page: bool, more: bool) -> str:
    if first_page and not more:
        return ""
    newer = "" if first_page else button(say("gallery.newer"), "newer")
    older = button(say("gallery.older"), "older") if more else ""
    return f'<nav class="pager" aria-label="{say("gallery.pages")}"><span>{newer}</span><span>{older}</span></nav>'
