"""Pictures as HTML: the gallery's grid and the panel of one picture. Pure, like ``view``."""

from collections.abc import Sequence

from diffusion_local import shapes
from diffusion_local.domain import Image
from diffusion_local.web.ui.view import LABELS, button, counted, elapsed, moment, picture_link, size, text

PAGE = 48


def gallery(images: Sequence[Image], total: int, first_page: bool, more: bool, filtered: bool) -> str:
    """A page of the gallery with its way to the newer and older ones."""
    if not images:
        return f'<div class="invite">{no_pictures(filtered, first_page)}</div>{pager(first_page, False)}'
    tiles = "".join(tile(each) for each in images)
    # Older pages tell no total: they stay as they are while new pictures come in.
    told = f'<p class="quiet total">{counted(total, "picture")}</p>' if first_page and not filtered else ""
    return f'{told}<div class="pictures">{tiles}</div>{pager(first_page, more)}'


def no_pictures(filtered: bool, first_page: bool) -> str:
    if filtered:
        return "<h2>No picture fits</h2><p>Try another word, or show all of them again.</p>"
    if not first_page:
        return "<h2>No older pictures</h2>"
    return "<h2>No pictures yet</h2><p>What you make is kept here, with its whole recipe.</p>"


def tile(image: Image) -> str:
    star = '<i class="starred" aria-label="starred">★</i>' if image.starred else ""
    return f'<div class="tile" data-key="{image.id}">{picture_link(image, image.params.prompt)}{star}</div>'


def pager(first_page: bool, more: bool) -> str:
    if first_page and not more:
        return ""
    newer = "" if first_page else button("← Newer", "newer")
    older = button("Older →", "older") if more else ""
    return f'<nav class="pager" aria-label="Pages"><span>{newer}</span><span>{older}</span></nav>'


def panel(image: Image) -> str:
    """One picture, large, with its recipe and what can be done with it."""
    params = image.params
    star = button("★ Starred", "unstar", image.id) if image.starred else button("☆ Star", "star", image.id)
    url = shapes.picture_url(image.id)
    acts = (
        button("Use this recipe", "recipe", image.id, "primary")
        + button("Again", "again_picture", image.id)
        + star
        + f'<a class="act" href="{url}?download=1" download>Download</a>'
        + button("Move to trash", "trash", image.id)
    )
    negative = f"<dt>{LABELS['negative']}</dt><dd>{text(params.negative)}</dd>" if params.negative else ""
    rows = {
        "Size": f"{image.width} × {image.height}",
        LABELS["model"]: params.model,
        LABELS["steps"]: params.steps,
        LABELS["guidance"]: f"{params.guidance:g}",
        LABELS["sampler"]: params.sampler,
        LABELS["seed"]: params.seed,
        "Took": elapsed(image.seconds) if image.seconds else "",
        "File": size(image.bytes),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in rows.items() if value != "")
    return (
        '<div class="overlay" data-do="close" data-self data-key="overlay">'
        f'<div class="panel" role="dialog" aria-modal="true" aria-label="Picture" data-key="{image.id}">'
        f'<a class="large" href="{url}" target="_blank" title="Open the picture itself">'
        f'<img src="{url}" alt="{text(params.prompt)}" width="{image.width}" height="{image.height}" '
        f'style="max-width:{2 * image.width}px"></a><div class="side">'
        '<button type="button" class="act close" data-do="close" data-first aria-label="Close">✕</button>'
        f'<p class="prompt">{text(params.prompt)}</p><dl>{negative}{listed}<dt>Made</dt>'
        f'<dd>{moment(image.created_at)}</dd></dl><div class="acts">{acts}</div></div></div></div>'
    )
