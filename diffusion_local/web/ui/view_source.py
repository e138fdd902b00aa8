"""The picture to begin from, its mask, and the list of LoRAs: frames that ``source.js`` and ``loras.js`` fill. Pure."""

from collections.abc import Sequence

from diffusion_local import serializers
from diffusion_local.domain import Image
from diffusion_local.models.adapters import Adapter
from diffusion_local.web.ui.view import text
from diffusion_local.web.ui.words import say

KINDS = ("img2img", "inpaint", "upscale")


def panel() -> str:
    kinds = "".join(
        f'<label><input type="radio" name="kind" value="{kind}"><span>{say(f"create.kind_{kind}")}</span></label>'
        for kind in KINDS
    )
    return (
        '<div class="source" data-key="source">'
        f'<button type="button" class="act small" data-source="pick">{say("create.add_picture")}</button>'
        f'<input type="file" accept="image/*" data-file hidden aria-label="{say("create.add_picture")}">'
        '<div class="begin" hidden><div class="from"><img alt=""><img class="mask" alt="" hidden></div>'
        f'<div class="how"><fieldset class="kinds"><legend>{say("create.begin_from")}</legend>{kinds}</fieldset>'
        f'<span class="acts"><button type="button" class="act small" data-source="paint">{say("create.edit_mask")}'
        f'</button><button type="button" class="act small" data-source="remove">{say("create.remove_picture")}</button>'
        f'</span><p class="quiet" data-told role="status"></p></div></div></div>{painter()}{drop()}'
    )


def sample(image: Image | None) -> str:
    """Decoration: the name stands beside it."""
    return f'<img src="{serializers.thumbnail_url(image.id)}" alt="" width="48" height="48">' if image else ""


def painter() -> str:
    """Where a mask is painted; the browser's own dialog keeps the focus and closes by Escape."""
    return (
        f'<dialog class="painter" data-key="painter" aria-label="{say("create.edit_mask")}"><div class="easel">'
        '<img alt=""><canvas></canvas></div><div class="brushes">'
        f'<label>{say("create.brush")}<input type="range" min="2" max="40" value="12" data-brush></label>'
        f'<button type="button" class="act small" data-paint="erase" aria-pressed="false">{say("create.erase")}'
        "</button>"
        f'<button type="button" class="act small" data-paint="undo">{say("common.undo")}</button>'
        f'<button type="button" class="act small" data-paint="clear">{say("common.clear")}</button>'
        f'<button type="button" class="act small" data-paint="close">{say("common.cancel")}</button>'
        f'<button type="button" class="act small primary" data-paint="done">{say("common.done")}</button>'
        "</div></dialog>"
    )


def drop() -> str:
    """Shown while a file is dragged over the page; and what to do with one that carries a recipe."""
    return (
        f'<div class="drop" data-key="drop" hidden><p>{say("create.drop_here")}</p></div>'
        f'<dialog class="ask small-dialog" data-key="ask" aria-label="{say("create.has_recipe")}"><p>'
        f'{say("create.has_recipe")}</p><div class="acts">'
        f'<button type="button" class="act primary" data-ask="recipe">{say("common.use_recipe")}</button>'
        f'<button type="button" class="act" data-ask="source">{say("create.use_as_source")}</button>'
        f'<button type="button" class="act" data-ask="close">{say("common.cancel")}</button></div></dialog>'
    )


def loras(adapters: Sequence[Adapter]) -> str:
    usable = [each for each in adapters if each.ready]
    if not usable:
        return f'<p class="quiet loras-none" data-key="none">{say("create.no_loras")}</p>'
    options = "".join(
        f'<option value="{text(each.name)}" data-words="{text(", ".join(each.words[:6]))}">'
        f"{text(each.title or each.name)}</option>"
        for each in usable
    )
    return (
        f'<div class="loras" data-key="loras" data-weight="{say("create.lora_weight")}" '
        f'data-remove="{say("create.remove_picture")}"><label class="quiet">{say("common.loras")} '
        f'<select data-lora><option value="">{say("create.add_lora")}</option>{options}</select></label>'
        "<ul></ul></div>"
    )
