"""What the buttons inside the drawn parts do: one function a verb, all returning the same few outputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from diffusion_local.catalog import SETTINGS
from diffusion_local.domain import new_id
from diffusion_local.errors import NotFound, UserError
from diffusion_local.studio import Studio, shortened
from diffusion_local.web.ui import form, view, view_gallery

MOST_CURSORS = 200  # pages one can walk back in the gallery


def skipped_form() -> list[Any]:
    return [gr.skip() for _ in form.NAMES]


@dataclass(frozen=True, slots=True)
class Effect:
    """What changes on the page; the rest stays as it is."""

    toast: Any = field(default_factory=gr.skip)
    receipt: Any = field(default_factory=gr.skip)
    panel: Any = field(default_factory=gr.skip)
    cursors: Any = field(default_factory=gr.skip)
    tabs: Any = field(default_factory=gr.skip)
    form: list[Any] = field(default_factory=skipped_form)

    def outputs(self) -> list[Any]:
        return [self.toast, self.receipt, self.panel, self.cursors, self.tabs, *self.form]


def act(studio: Studio, cursors: str, event: gr.EventData) -> list[Any]:
    """A click on a drawn button. What a browser sends is not trusted: unknown verbs and ids are told as such."""
    data = event._data if isinstance(event._data, dict) else {}
    verb, key = str(data.get("do", "")), str(data.get("id", ""))
    try:
        return VERBS.get(verb, unknown)(studio, key, cursors).outputs()
    except UserError as error:
        return Effect(toast=said(view.problem(error), kind="warn")).outputs()


def said(words: str, more: str = "", kind: str = "") -> str:
    return view.toast(words, new_id(), more, kind)


def unknown(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect()


# -- jobs -----------------------------------------------------------------------------------------------------------


def cancel(studio: Studio, key: str, cursors: str) -> Effect:
    studio.cancel([key])
    return Effect(toast=said("Cancelled"))


def cancel_batch(studio: Studio, key: str, cursors: str) -> Effect:
    touched = studio.cancel(batch_id=key)
    return Effect(toast=said(f"Cancelled {view.counted(len(touched), 'picture')}"))


def cancel_waiting(studio: Studio, key: str, cursors: str) -> Effect:
    touched = studio.cancel_waiting()
    return Effect(toast=said(f"Cancelled {view.counted(len(touched), 'picture')}"))


def again(studio: Studio, key: str, cursors: str) -> Effect:
    receipt = studio.again([key])
    prompt = shortened(studio.job(key).params.prompt, 40)
    return Effect(toast=said(f"In the queue again: {prompt}"), receipt=receipt.batch_id)


def again_picture(studio: Studio, key: str, cursors: str) -> Effect:
    """The same picture once more, also where its job was cleared from the list long ago."""
    image = studio.image(key)
    try:
        return again(studio, image.job_id, cursors)
    except NotFound:
        receipt = studio.submit(image.params.prompt, **{name: getattr(image.params, name) for name in SETTINGS})
    return Effect(toast=said("In the queue again"), receipt=receipt.batch_id)


def pause(studio: Studio, key: str, cursors: str) -> Effect:
    studio.pause()
    return Effect(toast=said("Paused. The running picture is finished."))


def resume(studio: Studio, key: str, cursors: str) -> Effect:
    studio.resume()
    return Effect(toast=said("Going on"))


# -- pictures -------------------------------------------------------------------------------------------------------


def show(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(panel=view_gallery.panel(studio.image(key)))


def close(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(panel="")


def star(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(panel=view_gallery.panel(studio.star(key)))


def unstar(studio: Studio, key: str, cursors: str) -> Effect:
    return Effect(panel=view_gallery.panel(studio.star(key, False)))


def trash(studio: Studio, key: str, cursors: str) -> Effect:
    studio.trash(key)
    return Effect(toast=said("Moved to the trash", view.button("Undo", "restore", key)), panel="")


def restore(studio: Studio, key: str, cursors: str) -> Effect:
    studio.restore(key)
    return Effect(toast=said("Back in the gallery"))


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


VERBS: dict[str, Callable[[Studio, str, str], Effect]] = {
    "cancel": cancel,
    "cancel_batch": cancel_batch,
    "cancel_waiting": cancel_waiting,
    "again": again,
    "again_picture": again_picture,
    "pause": pause,
    "resume": resume,
    "open": show,
    "close": close,
    "star": star,
    "unstar": unstar,
    "trash": trash,
    "restore": restore,
    "recipe": recipe,
    "recipe_of_job": recipe_of_job,
    "example": example,
    "older": older,
    "newer": newer,
}
