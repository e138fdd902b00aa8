"""Gradio's part of the page: a tab per view, the panel over them, and the wiring.

``page_delta`` updates the parts that the server draws; ``page_html`` adds the navigation around them.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI

from diffusion_local.paths import assets
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api import endpoints
from diffusion_local.web.api.gradio import uploads
from diffusion_local.web.api.gradio.call_checks import Calls
from diffusion_local.web.api.gradio.surface import Surface
from diffusion_local.web.api.gradio.uploads import Uploads
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.gradio_compat import frontend, patches
from diffusion_local.web.ui import (
    actions,
    form_lists,
    tab_create,
    tab_gallery,
    tab_lists,
    tab_models,
    tab_queue,
    tab_settings,
)
from diffusion_local.web.ui.live import QUIET, REPEATABLE, bind, hidden, live
from diffusion_local.web.ui.theme import THEME
from diffusion_local.web.ui.words import label, translations

TITLE = "diffusion-local"
RESTORE = "(...values) => diffusionLocal.restore(...values)"
RESTORE_QUEUE = "() => diffusionLocalQueue.written()"
RESTORE_LIST = "(...values) => diffusionLocalLists.restore(...values)"
#: Passes the open tab and the state of all tabs to the poll; see ``look.js``.
POLL_SCRIPT = "(...values) => diffusionLocalLook.ask(...values)"
REMEMBER = f"(id, mine) => [diffusionLocal.remember({tab_create.REMEMBERED_BATCHES}, id, mine)]"

# -- handlers -------------------------------------------------------------------------------------------------------


def on_load(studio: Studio, model_id: str, width: Any, height: Any) -> list[Any]:
    """Values of the parts that are drawn once per page load."""
    return [*tab_create.initial_updates(studio, model_id, width, height), *form_lists.once(studio)]


# -- layout and wiring ----------------------------------------------------------------------------------------------


LAYOUTS: dict[str, Callable[[Studio], Any]] = {
    "create": tab_create.layout,
    "lists": tab_lists.layout,
    "queue": tab_queue.layout,
    "gallery": tab_gallery.layout,
    "models": tab_models.layout,
    "settings": tab_settings.layout,
}


def build(studio: Studio, watch: Watch, kept: Uploads) -> gr.Blocks:
    with patches.unserved(), gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        patches.prepare(blocks, tuple(endpoints.names()), endpoints.MOST_WAITING)
        items, laid_out = {}, {}
        with gr.Tabs(selected="create", elem_id="tabs") as tabs:
            for name, layout in LAYOUTS.items():
                with gr.Tab(label(f"page.{name}"), id=name) as items[name]:
                    laid_out[name] = layout(studio)
        create, lists = laid_out["create"], laid_out["lists"]
        panel, toast = live("panel"), live("toast")
        tab, receipt = hidden("create"), hidden()
        linked = hidden()  # id of the picture that the page's address names

        # -- wiring
        for name, item in items.items():
            item.select(None, None, tab, js=f"() => diffusionLocalRouter.opened('{name}')", **QUIET)
        pressed = tab_create.wire(create, studio, receipt)
        added = tab_models.wire(laid_out["models"], studio, toast)
        listed = tab_lists.wire(lists, studio)

        parts = [each.drawn for each in laid_out.values()]
        poll_inputs = [part for each in laid_out.values() for part in each.poll_inputs]
        here = [tab, *poll_inputs]
        looks: dict[str, Any] = {"fn": None, "inputs": here, "js": POLL_SCRIPT, "trigger_mode": "multiple", **QUIET}
        gr.on([part.change for part in here], **looks)
        outlives = [create.notices, create.own_batches, linked, *create.fields]
        shown = [create.field(name) for name in ("model", "width", "height")]
        back = blocks.load(None, outlives, outlives, js=RESTORE, **QUIET)
        blocks.load(None, None, laid_out["queue"].place, js=RESTORE_QUEUE, **QUIET)
        back.then(**looks).then(bind(actions.linked, studio), linked, panel, **REPEATABLE)
        once = [*create.drawn_once, *lists.drawn_once]
        back.then(bind(on_load, studio), shown, once, **REPEATABLE).then(
            None, lists.fields, lists.fields, js=RESTORE_LIST, **QUIET
        )
        added.then(**looks)
        changes_of_form = [part.change for part in create.fields]
        gr.on(changes_of_form, None, create.fields, None, js="diffusionLocal.keep", trigger_mode="multiple", **QUIET)

        outputs = [toast, receipt, tabs, panel, create.notices, lists.at, *create.fields]
        pressable = (*parts, create.notices, panel, toast)
        several: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        acted = gr.on(
            [part.click for part in pressable],
            bind(actions.act_without_form, studio),
            None,
            outputs[: -len(create.fields)],
            **several,
        )
        filled = gr.on([part.apply for part in pressable], bind(actions.act, studio), create.fields, outputs, **several)
        for event in (pressed, acted, filled):
            event.then(
                None, [receipt, create.own_batches], create.own_batches, js=REMEMBER, trigger_mode="multiple", **QUIET
            ).then(**looks)
        for event in listed:
            event.then(**looks)
        endpoints.add(studio, watch, kept)
        patches.keep_signatures(blocks)
    return blocks


def mount(app: FastAPI, studio: Studio, watch: Watch, settings: Settings, root_path: str = "") -> FastAPI:
    """Serve the page and its API below the application's own routes."""
    kept = Uploads(settings)
    uploads.add(app, kept)
    blocks = build(studio, watch, kept)
    frontend.add(app, blocks)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=root_path or None,
        theme=THEME,
        i18n=translations(),
        favicon_path=str(assets() / "icons" / "mark.svg"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        max_file_size=kept.max_bytes,
    )
    patches.enclose(app, blocks, lambda inner: Surface(inner, Calls(kept), patches.GradioSessions(blocks), settings))
    return app
