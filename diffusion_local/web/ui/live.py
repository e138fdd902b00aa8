"""Components for parts of the page that the server draws as HTML, and options for their events."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from diffusion_local.studio import Studio
from diffusion_local.web.ui.templates import render

T = TypeVar("T")

#: Options of every event of the page: bypass Gradio's queue, show no progress overlay, stay out of the API.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

#: Options of an idempotent event. If the server does not answer, ``calls.js`` sends it again once the server is back;
#: other events are reported as lost.
REPEATABLE: dict[str, Any] = QUIET | {"api_name": "repeatable"}
#: Options of a press of Generate: repeatable, and shown as waiting until it is answered.
PRESS: dict[str, Any] = QUIET | {"api_name": "repeatable_press"}

#: Shared by all parts; defined in ``live.js``.
COMPONENT_SCRIPT = "diffusionLocalLive(element, trigger, props, watch)"


def live(elem_id: str, value: str = "") -> gr.HTML:
    """An HTML component that is patched in place. Its buttons fire ``click`` with ``{"do": verb, "id": key}``, or
    ``apply`` for a verb that concerns the form.
    """
    return gr.HTML(
        value,
        html_template=render("live.html"),
        js_on_load=COMPONENT_SCRIPT,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="live-part",
    )


def bind(handler: Callable[..., T], studio: Studio) -> Callable[..., T]:
    """Bind a handler like ``functools.partial``, but keep its type hints, by which Gradio recognises EventData."""

    @functools.wraps(handler)
    def call(*args: Any) -> T:
        return handler(studio, *args)

    call.__signature__ = inspect.signature(functools.partial(handler, studio))  # type: ignore[attr-defined]
    return call


def hidden(value: str = "", elem_id: str | None = None) -> gr.Textbox:
    """A hidden value in the page. A gr.State would need an open connection for each browser tab."""
    return gr.Textbox(value, visible="hidden", elem_id=elem_id, show_label=False, container=False)
