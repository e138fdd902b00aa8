"""Handlers of the buttons inside server-drawn parts of the page, one function per verb.

This module dispatches a click and handles dialogs and the form; the other ``actions_*`` modules handle their own nouns.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from diffusion_local import disk
from diffusion_local.domain import new_id
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.options.types import Kind
from diffusion_local.options.validate import STRENGTHS
from diffusion_local.studio import Studio
from diffusion_local.web import lan
from diffusion_local.web.ui import (
    actions_jobs,
    actions_lists,
    actions_models,
    actions_pictures,
    actions_settings,
    form,
    view,
    view_help,
)
from diffusion_local.web.ui.actions_pictures import RANDOM_SEED
from diffusion_local.web.ui.effects import Effect, Verb, new_toast, skipped_form
from diffusion_local.web.ui.templates import render

#: Verbs that fill the form from a recipe. The page lists what changed, because most fields are in closed accordions.
RECIPES = ("recipe", "recipe_of_job", "recipe_seed", "recipe_size")
#: Verbs that read or fill in the form.
FORM_VERBS = (
    *RECIPES, "recipe_prompt", "example", "to_img2img", "to_inpaint", "to_outpaint", "use_model", "use_lora"
)  # fmt: skip
MOST_ADDRESS = 200


def act(studio: Studio, event: gr.EventData, *values: Any) -> list[Any]:
    """Run the verb of a clicked button; ``values`` are the current values of Create's form.

    The event comes from a browser and is untrusted: an unknown verb does nothing, a UserError becomes a toast.
    """
    data = event._data if isinstance(event._data, dict) else {}
    verb, key = str(data.get("do", "")), str(data.get("id", ""))
    try:
        with disk.storage_errors():
            if verb in OF_FORM:
                effect = OF_FORM[verb](studio, key, dict(zip(form.FORM_FIELDS, values, strict=False)))
            else:
                effect = VERBS.get(verb, unknown)(studio, key)
    except UserError as error:
        field = error.field if isinstance(error, InvalidParams) else ""
        effect = Effect(toast=new_toast(view.problem(error), kind="warn", field=field))
    if verb not in FORM_VERBS and effect.form != skipped_form():
        raise RuntimeError(f"{verb} fills in the form, so FORM_VERBS must list it")
    if verb in RECIPES and len(values) == len(effect.form):
        effect = replace(effect, notices=view.changed(form.differences(values, effect.form)))
    return effect.outputs()


def act_without_form(studio: Studio, event: gr.EventData) -> list[Any]:
    """As `act`, for verbs that are not in ``FORM_VERBS``: the page neither sends nor updates the form's fields, which
    would take most of such an event's time in the browser.
    """
    return act(studio, event)[: -len(form.FORM_FIELDS)]


def unknown(studio: Studio, key: str) -> Effect:
    return Effect()


def close(studio: Studio, key: str) -> Effect:
    return Effect(panel="")


def keys(studio: Studio, key: str) -> Effect:
    return Effect(panel=view_help.keys())


def phone(studio: Studio, key: str) -> Effect:
    """Show an address of the page as a QR code. ``key``: the URL, which the page's shell provides."""
    if not key.startswith(("http://", "https://")) or len(key) > MOST_ADDRESS:
        return Effect()
    return Effect(panel=view_help.phone(key, lan.qr(key)))


def linked(studio: Studio, picture: str) -> Any:
    """The viewer of the picture that the page's address names, or a notice that the picture does not exist."""
    if not picture:
        return gr.skip()
    try:
        return actions_pictures.panel(studio, picture)
    except UserError:
        return view_help.not_found(picture)


def open_link(studio: Studio, key: str) -> Effect:
    """Open a picture after the browser's Back or Forward has led to its address."""
    return Effect(panel=linked(studio, key))


# -- the form ----------------------------------------------------------------------------


def recipe(studio: Studio, key: str) -> Effect:
    return to_form(form.fill(studio.image(key).params))


def recipe_of_job(studio: Studio, key: str) -> Effect:
    return to_form(form.fill(studio.job(key).params))


def recipe_prompt(studio: Studio, key: str) -> Effect:
    params = studio.image(key).params
    return to_form(form.only(prompt=params.prompt, negative=params.negative, styles=[], expand=RANDOM_SEED))


def recipe_seed(studio: Studio, key: str) -> Effect:
    return to_form(form.only(seed=str(studio.image(key).params.seed)))


def recipe_size(studio: Studio, key: str) -> Effect:
    params = studio.image(key).params
    return to_form(form.only(width=params.width, height=params.height))


def to_img2img(studio: Studio, key: str) -> Effect:
    return begin_from(studio, key, Kind.IMG2IMG)


def to_inpaint(studio: Studio, key: str) -> Effect:
    return begin_from(studio, key, Kind.INPAINT)


def to_outpaint(studio: Studio, key: str) -> Effect:
    return begin_from(studio, key, Kind.INPAINT, "frame")


def begin_from(studio: Studio, image_id: str, kind: Kind, tool: str = "brush") -> Effect:
    """Put a picture into the form as the source, with its prompts and model; inpainting also opens the mask canvas with
    ``tool``.
    """
    params, source = studio.image(image_id).params, studio.sources.from_image(image_id)
    words = {name: getattr(params, name) for name in ("prompt", "negative", "model")}
    values = form.only(**words, kind=str(kind), source=source.id, mask="", strength=STRENGTHS[kind])
    panel = render("paint.html", source=source.id, tool=tool, key=new_id()) if kind is Kind.INPAINT else ""
    return replace(to_form(values), panel=panel)


def to_form(values: list[Any]) -> Effect:
    return Effect(panel="", tabs=gr.Tabs(selected="create"), form=values)


def example(studio: Studio, key: str) -> Effect:
    return Effect(form=form.only(prompt=key))


#: Verbs that also receive the form's current values, by field name.
OF_FORM: dict[str, Callable[[Studio, str, dict[str, Any]], Effect]] = {"use_lora": actions_models.use_lora}

VERBS: dict[str, Verb] = (
    actions_jobs.VERBS
    | actions_pictures.VERBS
    | actions_models.VERBS
    | actions_settings.VERBS
    | actions_lists.VERBS
    | {
        "close": close,
        "keys": keys,
        "phone": phone,
        "to_img2img": to_img2img,
        "to_inpaint": to_inpaint,
        "to_outpaint": to_outpaint,
        "recipe": recipe,
        "recipe_of_job": recipe_of_job,
        "recipe_prompt": recipe_prompt,
        "recipe_seed": recipe_seed,
        "recipe_size": recipe_size,
        "open_link": open_link,
        "example": example,
    }
)
