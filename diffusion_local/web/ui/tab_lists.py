"""The Lists tab: a form for long lists of prompts and for grids, checked before they are queued; and all batches."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

import gradio as gr

from diffusion_local.domain import Snapshot, new_id
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.gallery.sources import provisional
from diffusion_local.lists.encoding import decode
from diffusion_local.lists.list_formats import format_of
from diffusion_local.messages import message
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form_lists, view, view_batches, view_lists
from diffusion_local.web.ui.live import QUIET, REPEATABLE, bind, hidden, live
from diffusion_local.web.ui.words import label, say

MOST_CURSORS = 200  # pages that the user can go back
MOST_NAME = 100  # characters of a file's name that become the name of its batch

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime, at: Any) -> str:
    """The list of batches; ``at``: the last batch id of each previous page, separated by spaces."""
    cursors = at.split()[:MOST_CURSORS] if isinstance(at, str) else []
    found = studio.batches.page(view_batches.BATCHES_PER_PAGE + 1, cursors[-1] if cursors else None, large=True)
    return view_batches.batches(found, cursors, now)


def on_check(studio: Studio, *values: Any) -> str:
    """Show what the form would generate, without enqueueing it."""
    return text_or_refusal(studio, lambda: check(studio, form_lists.read(values)))


def check(studio: Studio, form: form_lists.ListForm) -> str:
    key = new_id()
    if form.grid:
        prompt, settings = form.axes
        of_grid = studio.grids.check(prompt, **settings)
        return view_lists.of_grid(of_grid, *studio.batches.foreseen(of_grid.seconds, **form.times), key)
    source, settings = form.list
    if not source.strip():
        raise InvalidParams("list", message("no_prompt"))
    of_list = studio.lists.check(source, **settings)
    return view_lists.of_list(of_list, *studio.batches.foreseen(of_list.seconds, **form.times), key)


def on_press(studio: Studio, event: gr.EventData, sent: str, *values: Any) -> str:
    """Handle a button in the result of a check. ``sent``: the file that the browser has read last, as JSON."""
    data = event._data if isinstance(event._data, dict) else {}
    verb, key = str(data.get("do", "")), str(data.get("id", ""))
    if verb == "import_skipping":
        return take_file(studio, sent, True)
    if verb not in ("queue_list", "queue_skipping", "queue_grid"):
        return ""
    return text_or_refusal(studio, lambda: queue(studio, form_lists.read(values), verb, *key.split()))


def queue(studio: Studio, form: form_lists.ListForm, verb: str, key: str = "", seed: str = "") -> str:
    """Submit the list or grid. ``key``: idempotency key, so that two presses make one batch; ``seed``: of wildcards."""
    more = form.batch | form.times | {"idempotency_key": key or None}
    if verb == "queue_grid":
        prompt, settings = form.axes
        receipt = studio.grids.submit(prompt, **settings, **more)
        return queued(len(receipt.job_ids), receipt.warnings)
    source, settings = form.list
    drawn = int(seed) if seed.isascii() and seed.isdecimal() else None
    skip = verb == "queue_skipping"
    made = studio.lists.submit(source, **settings, **more, skip_bad_lines=skip, expansion_seed=drawn)
    return queued(made.count, made.warnings)


def queued(count: int, warnings: list[str]) -> str:
    notice = view.notice("info", say("lists.queued", pictures=view.pictures(count)))
    return notice + view.warnings_notice(warnings)


def on_file(studio: Studio, sent: str) -> list[Any]:
    """Handle a file that the browser (``lists.js``) has read: (notice, list, format, name of the batch).

    A list fills the form; a queue file is enqueued at once.
    """
    try:
        what, name, data = opened(sent)
        if what == "queue":
            return [take_file(studio, sent, False), gr.skip(), gr.skip(), gr.skip()]
        return ["", decode(data), format_of(name), PurePath(name).stem[:MOST_NAME]]
    except UserError as error:
        return [refused(error), gr.skip(), gr.skip(), gr.skip()]


def opened(sent: str) -> tuple[str, str, bytes]:
    """Decode a file sent as JSON: ("list" or "queue", file name, bytes). Raises InvalidParams if it is malformed."""
    try:
        values = json.loads(sent)
        return str(values["what"]), str(values["name"]), base64.b64decode(values["data"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        raise InvalidParams("file", message("must_be_file")) from None


def take_file(studio: Studio, sent: str, skip: bool) -> str:
    """Enqueue the jobs of a queue file; ``skip``: without its invalid lines."""
    try:
        _, _, data = opened(sent)
        receipt = studio.queue_file.take(data, skip)
    except InvalidParams as error:
        words = view.problem(error)
        return view_lists.import_refused(words) if not skip and error.problem.id == "bad_lines" else refused(error)
    except UserError as error:
        return refused(error)
    return queued(receipt.count, [])


def text_or_refusal(studio: Studio, work: Callable[[], str]) -> str:
    try:
        with provisional(studio.sources):
            return work()
    except UserError as error:
        return refused(error)


def refused(error: UserError) -> str:
    return view.notice("bad", view.problem(error))


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListsTab:
    components: dict[str, Any]
    check: Any
    sent: Any  # a file that the browser has read, as JSON; lists.js
    checked: Any
    at: Any  # the position in the list of batches
    drawn: Any

    @property
    def poll_inputs(self) -> list[Any]:
        return [self.at]

    @property
    def fields(self) -> list[Any]:
        return [self.components[name] for name in form_lists.LIST_FIELDS]

    @property
    def drawn_once(self) -> list[Any]:
        return [self.components[name] for name in form_lists.DRAWN_ONCE]


def layout(studio: Studio) -> ListsTab:
    made: dict[str, Any] = {}

    def add_fields(*names: str) -> None:
        for name in names:
            made[name] = form_lists.component(name, studio)

    with gr.Column(elem_id="list-maker"):
        with gr.Row(elem_id="list-head", equal_height=True):
            add_fields("mode")
            upload = gr.Button(label("lists.upload"), elem_id="list-upload", size="sm", min_width=120, scale=0)
        with gr.Column(elem_id="list-part"):
            add_fields("text")
            with gr.Row():
                add_fields("format", "expand", "count")
        with gr.Column(elem_id="grid-part"):
            add_fields("prompt")
            for name in "xyz":
                with gr.Row():
                    add_fields(f"axis_{name}", f"values_{name}")
        with gr.Accordion(label("lists.for_all"), open=False, elem_id="list-for-all"):
            with gr.Row():
                add_fields(*form_lists.at("model"), "size", *form_lists.at("numbers"), *form_lists.at("seed"))
            with gr.Row():
                add_fields(*form_lists.at("negative"))
            with gr.Accordion(label("create.group_files"), open=False, elem_id="list-expert"):
                for row in form_lists.rows_for_experts():
                    with gr.Row():
                        add_fields(*row)
        with gr.Accordion(label("lists.when"), open=False, elem_id="list-when"):
            with gr.Row():
                add_fields("name", *form_lists.times_at("times"))
            with gr.Row():
                add_fields(*form_lists.times_at("address"), "priority")
        check = gr.Button(label("lists.check"), variant="primary", elem_id="list-check", min_width=140)
    upload.click(None, None, None, js="() => diffusionLocalLists.choose('list')", **QUIET)
    sent = hidden(elem_id="list-sent")
    return ListsTab(made, check, sent, live("list-checked"), hidden(), live("lists"))


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: ListsTab, studio: Studio) -> list[Any]:
    """Connect the handlers. Returns the events after which there may be a new batch."""
    fields = tab.fields
    # Clear the result of a check when the form changes, because it is outdated then.
    triggers = [tab.components["text"].change, *(part.input for part in fields)]
    gr.on(triggers, None, None, tab.checked, js="() => ''", trigger_mode="multiple", **QUIET)
    gr.on(
        [part.change for part in fields],
        None,
        fields,
        None,
        js="diffusionLocalLists.keep",
        trigger_mode="multiple",
        **QUIET,
    )
    checked = tab.check.click(bind(on_check, studio), fields, tab.checked, **REPEATABLE)
    checked.then(None, None, None, js="() => diffusionLocalLists.showAnswer()", **QUIET)
    filled = [tab.components[name] for name in ("text", "format", "name")]
    arrived = tab.sent.change(bind(on_file, studio), tab.sent, [tab.checked, *filled], **QUIET)
    pressed = tab.checked.click(bind(on_press, studio), [tab.sent, *fields], tab.checked, **QUIET)
    return [arrived, pressed]
