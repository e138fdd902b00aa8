"""The changes that an action makes to the page."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from diffusion_local.domain import new_id
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form, view


def skipped_form() -> list[Any]:
    return [gr.skip() for _ in form.FORM_FIELDS]


@dataclass(frozen=True, slots=True)
class Effect:
    """Changes to the page. Each part is left unchanged by default."""

    toast: Any = field(default_factory=gr.skip)
    receipt: Any = field(default_factory=gr.skip)
    panel: Any = field(default_factory=gr.skip)
    tabs: Any = field(default_factory=gr.skip)
    notices: Any = field(default_factory=gr.skip)
    batches: Any = field(default_factory=gr.skip)  # position in the list of batches
    form: list[Any] = field(default_factory=skipped_form)

    def outputs(self) -> list[Any]:
        return [self.toast, self.receipt, self.tabs, self.panel, self.notices, self.batches, *self.form]


#: A button's handler. It gets the Studio and the button's ``key``: an id, several, or more (see each handler).
Verb = Callable[[Studio, str], Effect]


def new_toast(words: str, more: str = "", kind: str = "", field: str = "") -> str:
    return view.toast(words, new_id(), more, kind, field)
