"""What the buttons inside the drawn parts do: one function a verb. Those on jobs are in ``actions_jobs``."""

from typing import Any

import gradio as gr

from diffusion_local.errors import UserError
from diffusion_local.studio import Studio
from diffusion_local.web.ui import actions_jobs, actions_pictures, form, view, view_help, view_picture
from diffusion_local.web.ui.effects import Effect, Verb, said

MOST_CURSORS = 200  # pages one can walk back in the gallery


def act(studio: Studio, cursors: str, event: gr.EventData) -> list[Any]:
    """A click on a drawn button. What a browser sends is not trusted: unknown verbs and ids are told as such."""
    data = event._data if isinstance(event._data, dict) else {}
    verb, key = str(data.get("do", "")), str(data.get("id", ""))
    try:
        return VERBS.get(verb, unknown)(studio, key, cursors).outputs()
    except UserError as error:
        return Effect(toast=said(view.problem(error), kind="warn")).outputs()


def unknown(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect()


def close(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(panel="")


def keys(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(panel=view_help.keys())


def linked(studio: Studio, picture: str) -> Any:
    """The panel of the picture that the page's address names."""
    if not picture:
        return gr.skip()
    try:
        return view_picture.panel(studio.image(picture))
    except UserError:  # gone for good, or mistyped: the page itself is still right
        return gr.skip()


# -- the form and the pages of the gallery ----------------------------------------------------------------------------


def recipe(studio: Studio, key: str, cursors: str) -> Effect:
    return to_form(form.fill(studio.image(key).params))


def recipe_of_job(studio: Studio, key: str, cursors: str) -> Effect:
    return to_form(form.fill(studio.job(key).params))


def to_form(values: list[Any]) -> Effect:
    return Effect(panel="", tabs=gr.Tabs(selected="create"), form=values)


def example(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(form=form.with_prompt(key))


def older(studio: Studio, key: str, cursors: str) -> Effect:
    """``cursors`` are the last ids of the pages before this one; ``key`` is this page's."""
    return Effect(cursors=" ".join([*cursors.split(), key][-MOST_CURSORS:]))


def newer(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(cursors=" ".join(cursors.split()[:-1]))


VERBS: dict[str, Verb] = (
    actions_jobs.VERBS
    | actions_pictures.VERBS
    | {
        "close": close,
        "keys": keys,
        "recipe": recipe,
        "recipe_of_job": recipe_of_job,
        "example": example,
        "older": older,
        "newer": newer,
    }
)
