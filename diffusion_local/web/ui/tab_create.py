"""Create: the prompt, the settings, and the pictures of this browser's latest presses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gradio as gr

from diffusion_local.domain import Snapshot
from diffusion_local.errors import UserError
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form, view, view_jobs
from diffusion_local.web.ui.live import QUIET, bound, hidden, live
from diffusion_local.web.ui.words import label, retell, say

SHOWN_BATCHES = 6  # at least, finished ones among them
MOST_BATCHES = 30  # at most, all of them unfinished
REMEMBERED_BATCHES = 100

DICE = "() => String(Math.floor(Math.random() * 2 ** 32))"
SPLIT_SIZE = "(size) => size ? size.split('x').map(Number) : [null, null]"

# -- handlers -------------------------------------------------------------------------------------------------------


def on_generate(studio: Studio, *values: Any) -> tuple[str, Any]:
    """Submit; (what to tell, the new batch's id)."""
    try:
        receipt = studio.submit(**form.read(values))
    except UserError as error:
        return view.notice("bad", view.text(view.problem(error))), gr.skip()
    return view.warnings_notice(receipt.warnings), receipt.batch_id


def on_model(studio: Studio, model_id: str) -> list[Any]:
    """A model brings its own defaults and shapes."""
    model = next((each for each in studio.models() if each.id == model_id), studio.models()[0])
    told = (
        ""
        if model.ready
        else view.notice("bad", view.text(say("create.model_problem", model=model.name, problem=retell(model.problem))))
    )
    shape = gr.Radio(form.sizes(model), value=form.size_of(model, model.defaults.width, model.defaults.height))
    return [told, shape, *form.defaults(model)]


def on_size_typed(studio: Studio, model_id: str, width: Any, height: Any) -> Any:
    """Shows the shape that was typed, if it is one of the buttons."""
    model = next((each for each in studio.models() if each.id == model_id), studio.models()[0])
    return gr.Radio(form.sizes(model), value=form.size_of(model, width, height))


def choose(batch_ids: Sequence[str], snapshot: Snapshot) -> tuple[list[str], int]:
    """Of these, newest first: what to show, and how many unfinished ones are left out."""
    running = {job.batch_id for job in snapshot.running}
    unfinished = running | {job.batch_id for job in snapshot.waiting}
    going = sorted((each for each in batch_ids if each in unfinished), key=lambda each: each not in running)
    shown = going[:MOST_BATCHES]
    finished = [each for each in batch_ids if each not in unfinished]
    return shown + finished[: max(0, SHOWN_BATCHES - len(shown))], len(going) - len(shown)


def draw(studio: Studio, snapshot: Snapshot, now: datetime, mine: Any) -> str:
    """``mine`` has the ids of this browser's batches, newest first."""
    batch_ids = mine.split() if isinstance(mine, str) else []
    shown, left_out = choose(batch_ids[:REMEMBERED_BATCHES], snapshot)
    jobs = studio.jobs_of_batches(shown)
    return view_jobs.created(jobs, studio.images_of(jobs), snapshot, now, left_out)


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateTab:
    fields: list[Any]
    size: Any
    generate: Any
    dice: Any
    any_seed: Any
    told: Any
    drawn: Any
    mine: Any  # the ids of this browser's batches; page.js keeps them

    @property
    def asked(self) -> list[Any]:
        return [self.mine]

    def field(self, name: str) -> Any:
        return self.fields[form.NAMES.index(name)]


def layout(studio: Studio) -> CreateTab:
    models = studio.models()
    made: dict[str, Any] = {}

    def place(name: str) -> None:
        made[name] = form.component(name, models)

    with gr.Column(elem_id="composer"):
        place("prompt")
        with gr.Row(elem_id="composer-bar", equal_height=True):
            size = gr.Radio(
                form.sizes(models[0]),
                value=form.size_of(models[0], models[0].defaults.width, models[0].defaults.height),
                label=label("create.shape"),
                elem_id="size",
                container=False,
                min_width=280,
                scale=4,
            )
            place("count")
            generate = gr.Button(
                label("create.generate"), variant="primary", elem_id="generate", scale=1, min_width=140
            )
    told = live("told")
    with gr.Accordion(label("create.more"), open=False, elem_id="more"):
        place("negative")
        with gr.Row():
            place("model")
            place("sampler")
        with gr.Row():
            place("steps")
            place("guidance")
        with gr.Row(elem_id="numbers"):
            place("width")
            place("height")
            with gr.Row(elem_id="seed-row", equal_height=True):
                place("seed")
                dice = gr.Button(label("create.draw_seed"), elem_id="dice", min_width=60, scale=0)
                any_seed = gr.Button(label("create.clear_seed"), elem_id="any-seed", min_width=60, scale=0)
    drawn = live("created")
    return CreateTab([made[name] for name in form.NAMES], size, generate, dice, any_seed, told, drawn, hidden())


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: CreateTab, studio: Studio, receipt: Any) -> Any:
    """``receipt`` takes the id of a new batch; the event of a press is returned, to go on from."""
    sides = [tab.field("width"), tab.field("height")]
    model, seed = tab.field("model"), tab.field("seed")
    follow = [tab.field(name) for name in form.FOLLOW_MODEL]
    model.input(bound(on_model, studio), model, [tab.told, tab.size, *follow], **QUIET)
    tab.size.input(None, tab.size, sides, js=SPLIT_SIZE, **QUIET)
    for side in sides:
        side.input(bound(on_size_typed, studio), [model, *sides], tab.size, trigger_mode="always_last", **QUIET)
    tab.dice.click(None, None, seed, js=DICE, **QUIET)
    tab.any_seed.click(None, None, seed, js="() => ''", **QUIET)
    # "multiple": ten presses in a row are ten batches, also while the first is still on its way.
    pressed = tab.generate.click(
        bound(on_generate, studio),
        tab.fields,
        [tab.told, receipt],
        js="diffusionLocal.press",
        trigger_mode="multiple",
        **QUIET,
    )
    pressed.success(None, None, None, js="() => diffusionLocal.answered(true)", trigger_mode="multiple", **QUIET)
    pressed.failure(None, None, None, js="() => diffusionLocal.answered(false)", trigger_mode="multiple", **QUIET)
    return pressed
