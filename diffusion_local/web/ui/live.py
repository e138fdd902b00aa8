"""A part of the page that the server draws: HTML in, clicks out."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from diffusion_local.studio import Studio

T = TypeVar("T")

#: How every handler of the page is wired: past Gradio's queue, without its progress veil, not part of the API.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

#: The same for an event that only reads, or that changes nothing when it arrives twice: where no server answers,
#: ``calls.js`` sends it again once there is one. All other events are told as lost.
REPEATABLE: dict[str, Any] = QUIET | {"api_name": "repeatable"}
#: A press of Generate, told as long as it waits.
PRESS: dict[str, Any] = QUIET | {"api_name": "repeatable_press"}

#: Shared by all parts: live.js.
SCRIPT = "diffusionLocalLive(element, trigger, props, watch)"


def live(elem_id: str, value: str = "") -> gr.HTML:
    """HTML that is patched in place; its buttons fire ``click`` with ``{"do": verb, "id": …}``."""
    return gr.HTML(
        value,
        html_template='<div class="live"></div>',
        js_on_load=SCRIPT,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="live-part",
    )


def bound(handler: Callable[..., T], studio: Studio) -> Callable[..., T]:
    """``functools.partial`` that keeps the type hints, by which Gradio knows where to pass its EventData."""

    @functools.wraps(handler)
    def call(*args: Any) -> T:
        return handler(studio, *args)

    call.__signature__ = inspect.signature(functools.partial(handler, studio))  # type: ignore[attr-defined]
    return call


def hidden(value: str = "", elem_id: str | None = None) -> gr.Textbox:
    """A value kept in the page instead of in gr.State, which needs an open connection per tab."""
    return gr.Textbox(value, visible="hidden", elem_id=elem_id, show_label=False, container=False)
