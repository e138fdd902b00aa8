"""The page: brand and now-line, the tabs, the panel of a picture, and the one timer that keeps it true."""

import inspect
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from fastapi import FastAPI

from diffusion_local.errors import UserError
from diffusion_local.settings import Settings, assets
from diffusion_local.studio import Studio
from diffusion_local.web import lan
from diffusion_local.web.api import endpoints
from diffusion_local.web.ui import (
    actions,
    form_lists,
    tab_create,
    tab_gallery,
    tab_lists,
    tab_models,
    tab_queue,
    tab_settings,
    view,
    view_now,
)
from diffusion_local.web.ui.callers import act_for_callers
from diffusion_local.web.ui.live import QUIET, bound, hidden, live
from diffusion_local.web.ui.theme import HEAD, THEME
from diffusion_local.web.ui.words import label, language, translations

TITLE = "diffusion-local"
BRAND = (
    '<div class="brand"><img src="assets/icons/mark.svg" alt="" width="28" height="28"><h1>diffusion-local</h1></div>'
)
POLL_SECONDS = 1.0
RESTORE = "(...values) => diffusionLocal.restore(...values)"
RESTORE_LIST = "(...values) => diffusionLocalLists.restore(...values)"
REMEMBER = f"(id, mine) => [diffusionLocal.remember({tab_create.REMEMBERED_BATCHES}, id, mine)]"

#: Each tab: how it is drawn, and how many values of the page that takes (its ``asked``).
TABS: dict[str, tuple[Callable[..., str], int]] = {
    "create": (tab_create.draw, 1),
    "lists": (tab_lists.draw, 1),
    "queue": (tab_queue.draw, 0),
    "gallery": (tab_gallery.draw, 2),
    "models": (tab_models.draw, 0),
    "settings": (tab_settings.draw, 0),
}
#: What a tab shows beside the database: a text that changes with it.
PULSES: dict[str, Callable[[Studio], str]] = {"models": tab_models.pulse, "settings": tab_settings.pulse}
PARTS = ("now", "notices", *TABS)
#: Two looks may be on their way at once, and one that began before a change may be applied between the other's parts:
#: what is said of the work is so small that it is never left out of an answer.
ALWAYS = ("now", "notices")

# -- handlers -------------------------------------------------------------------------------------------------------


def poll(studio: Studio, seen: str, tab: str, *asked: Any) -> list[Any]:
    """The parts that have changed since ``seen``; nothing at all in nearly every second."""
    try:
        return changes(studio, seen or "", tab if tab in TABS else "create", asked)
    except UserError as error:  # the database: told in the now-line until it is well again
        return ["", view_now.now_problem(error), *skipped(len(PARTS) - 1)]


def changes(studio: Studio, seen: str, tab: str, asked: Sequence[Any]) -> list[Any]:
    """``asked`` has the values of every tab, in the order of ``TABS``; only those of the open one matter."""
    now = view.utc()
    draw, count = TABS[tab]
    first = sum(each for _, each in list(TABS.values())[: list(TABS).index(tab)])
    values = asked[first : first + count]
    key = f"{studio.revision()}-{mark(view_now.worker_health(studio.workers(), now))}"
    key += f"-{mark(repr((tab, values, language(), PULSES[tab](studio) if tab in PULSES else '')))}"
    seen_key, *seen_marks = seen.split() or [""]
    if key == seen_key:
        return skipped(len(PARTS) + 1)
    snapshot = studio.snapshot()
    drawn = {
        "now": view_now.now_line(snapshot, now),
        "notices": view_now.worker_notice(snapshot, now),
        tab: draw(studio, snapshot, now, *values),
    }
    marks = dict(zip(PARTS, seen_marks, strict=False))
    changed = {part: html for part, html in drawn.items() if part in ALWAYS or mark(html) != marks.get(part)}
    marks |= {part: mark(html) for part, html in changed.items()}
    told = " ".join([key, *(marks.get(part, "-") for part in PARTS)])
    return [told, *(changed.get(part, gr.skip()) for part in PARTS)]


def mark(content: str) -> str:
    return f"{zlib.crc32(content.encode('utf-8', 'replace')):x}"


def skipped(count: int) -> list[Any]:
    return [gr.skip() for _ in range(count)]


def on_load(studio: Studio, url: str, model_id: str, width: Any, height: Any) -> list[Any]:
    """What is drawn once for each page."""
    return [view_now.tools(url), *tab_create.once(studio, model_id, width, height), *form_lists.once(studio)]


# -- layout and wiring ----------------------------------------------------------------------------------------------


def tune_queue(blocks: gr.Blocks) -> None:
    """Gradio's queue serves only the callers of ``wait`` and ``generate`` here.

    By default it looks for them a thousand times a second (5 % of a core for nothing), takes forty at once, and makes
    a table of statistics with pandas after each.
    """
    blocks.queue(max_size=endpoints.MOST_WAITING)
    blocks._queue.sleep_when_free = 0.02
    blocks._queue.max_thread_count = endpoints.MOST_WAITING
    blocks._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize


def fill_in_defaults(blocks: gr.Blocks) -> None:
    """Callers over plain HTTP may leave out, at the end of their list, what an endpoint has a default for.

    Gradio's own client fills in; without this an endpoint could take no new parameter without breaking the others.
    """
    check = blocks.validate_inputs

    def filled(block_fn: Any, inputs: list[Any]) -> None:
        if block_fn.api_name in (*endpoints.FAST, *endpoints.SLOW):
            rest = list(inspect.signature(block_fn.fn).parameters.values())[len(inputs) :]
            if all(each.default is not each.empty for each in rest):
                inputs.extend(each.default for each in rest)
        check(block_fn, inputs)

    blocks.validate_inputs = filled


LAYOUTS: dict[str, Callable[[Studio], Any]] = {
    "create": tab_create.layout,
    "lists": tab_lists.layout,
    "queue": tab_queue.layout,
    "gallery": tab_gallery.layout,
    "models": tab_models.layout,
    "settings": tab_settings.layout,
}


def build(studio: Studio, url: str = "") -> gr.Blocks:
    """``url`` is where other devices of the network find the page; empty if they do not."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        tune_queue(blocks)
        fill_in_defaults(blocks)
        act_for_callers(blocks)
        with gr.Row(elem_id="top", equal_height=True):
            gr.HTML(BRAND, apply_default_css=False, elem_id="brand")
            now, tools = live("now"), live("tools")
        notices = live("notices")
        items, laid_out = {}, {}
        with gr.Tabs(selected="create", elem_id="tabs") as tabs:
            for name, layout in LAYOUTS.items():
                with gr.Tab(label(f"page.{name}"), id=name) as items[name]:
                    laid_out[name] = layout(studio)
        create, lists, gallery = laid_out["create"], laid_out["lists"], laid_out["gallery"]
        panel, toast = live("panel"), live("toast")
        seen, tab, receipt = hidden(), hidden("create"), hidden()
        linked = hidden()  # the picture that the page's address names
        timer = gr.Timer(POLL_SECONDS)

        # -- wiring
        for name, item in items.items():
            item.select(None, None, tab, js=f"() => '{name}'", **QUIET)
        pressed = tab_create.wire(create, studio, receipt)
        tab_gallery.wire(gallery)
        added = tab_models.wire(laid_out["models"], studio, toast)
        listed = tab_lists.wire(lists, studio)

        parts = [now, notices, *(each.drawn for each in laid_out.values())]
        asked = [part for each in laid_out.values() for part in each.asked]
        look = bound(poll, studio)
        all_asked, all_drawn = [seen, tab, *asked], [seen, *parts]
        timer.tick(look, all_asked, all_drawn, trigger_mode="once", **QUIET)
        gr.on([part.change for part in (tab, *asked)], look, all_asked, all_drawn, trigger_mode="always_last", **QUIET)
        outlives = [create.told, create.mine, linked, *create.fields]
        shown = [create.field(name) for name in ("model", "width", "height")]
        back = blocks.load(None, outlives, outlives, js=RESTORE, **QUIET)
        back.then(look, all_asked, all_drawn, **QUIET).then(bound(actions.linked, studio), linked, panel, **QUIET)
        address = hidden(url)
        once = [tools, *create.drawn_once, *lists.drawn_once]
        back.then(bound(on_load, studio), [address, *shown], once, **QUIET).then(
            None, lists.fields, lists.fields, js=RESTORE_LIST, **QUIET
        )
        added.then(look, all_asked, all_drawn, trigger_mode="always_last", **QUIET)
        changes_of_form = [part.change for part in create.fields]
        gr.on(changes_of_form, None, create.fields, None, js="diffusionLocal.keep", trigger_mode="multiple", **QUIET)

        outputs = [toast, receipt, panel, gallery.place, tabs, create.told, lists.at, *create.fields]
        clicks = [part.click for part in (*parts, tools, create.told, panel, toast)]
        acted = gr.on(
            clicks,
            bound(actions.act, studio),
            [gallery.place, *create.fields],
            outputs,
            trigger_mode="multiple",
            **QUIET,
        )
        for event in (pressed, acted):
            event.then(None, [receipt, create.mine], create.mine, js=REMEMBER, trigger_mode="multiple", **QUIET).then(
                look, all_asked, all_drawn, trigger_mode="always_last", **QUIET
            )
        for event in listed:
            event.then(look, all_asked, all_drawn, trigger_mode="always_last", **QUIET)
        endpoints.add(studio)
    return blocks


def mount(app: FastAPI, studio: Studio, settings: Settings, root_path: str = "") -> FastAPI:
    """Serve the page and its API below the application's own routes."""
    return gr.mount_gradio_app(
        app,
        build(studio, lan.address(settings)),
        path="/",
        root_path=root_path or None,
        theme=THEME,
        i18n=translations(),
        css=(assets() / "app.css").read_text(encoding="utf-8"),
        head=HEAD,
        favicon_path=str(assets() / "icons" / "mark.svg"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        max_file_size="1kb",  # nothing is uploaded yet
    )
