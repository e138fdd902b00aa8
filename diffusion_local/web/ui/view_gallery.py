"""Pictures as HTML: the gallery's grid and the panel of one picture. Pure, like ``view``."""

from collections.abc import Sequence

from diffusion_local import shapes
from diffusion_local.domain import Image
from diffusion_local.web.ui.view import (
    button,
    close_button,
    elapsed,
    moment,
    name_of,
    picture_link,
    pictures,
    size,
    text,
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


def panel(image: Image) -> str:
    """One picture, large, with its recipe and what can be done with it."""
    params = image.params
    star = (
        button(say("gallery.unstar_it"), "unstar", image.id)
        if image.starred
        else button(say("gallery.star_it"), "star", image.id)
    )
    url = shapes.picture_url(image.id)
    acts = (
        button(say("common.use_recipe"), "recipe", image.id, "primary")
        + button(say("common.again"), "again_picture", image.id)
        + star
        + f'<a class="act" href="{url}?download=1" download>{say("common.download")}</a>'
        + button(say("gallery.to_trash"), "trash", image.id)
    )
    negative = f"<dt>{name_of('negative')}</dt><dd>{text(params.negative)}</dd>" if params.negative else ""
    rows = {
        name_of("size"): f"{image.width} × {image.height}",
        name_of("model"): params.model,
        name_of("steps"): params.steps,
        name_of("guidance"): f"{params.guidance:g}",
        name_of("sampler"): params.sampler,
        name_of("seed"): params.seed,
        say("gallery.took"): elapsed(image.seconds) if image.seconds else "",
        say("gallery.file"): size(image.bytes),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in rows.items() if value != "")
    return (
        '<div class="overlay" data-do="close" data-self data-key="overlay">'
        f'<div class="panel" role="dialog" aria-modal="true" data-key="{image.id}" '
        f'aria-label="{say("gallery.picture")}">'
        f'<a class="large" href="{url}" target="_blank" title="{say("gallery.open_itself")}">'
        f'<img src="{url}" alt="{text(params.prompt)}" width="{image.width}" height="{image.height}" '
        f'style="max-width:{2 * image.width}px"></a><div class="side">{close_button()}'
        f'<p class="prompt">{text(params.prompt)}</p><dl>{negative}{listed}<dt>{say("gallery.made")}</dt>'
        f'<dd>{moment(image.created_at)}</dd></dl><div class="acts">{acts}</div></div></div></div>'
    )
