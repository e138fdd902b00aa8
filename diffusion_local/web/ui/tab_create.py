"""Create: the prompt, the settings, and the pictures of this browser's latest presses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gradio as gr

from diffusion_local.domain import Kind, Snapshot
from diffusion_local.errors import UserError
from diffusion_local.models.catalog import Model
from diffusion_local.options.limits import FOLLOW_MODEL
from diffusion_local.options.table import OPTIONS
from diffusion_local.studio import Studio
from diffusion_local.web.ui import dropped, form, sizes, view, view_jobs, view_source
from diffusion_local.web.ui.live import QUIET, bound, hidden, live
from diffusion_local.web.ui.words import known, label, say, translated

SHOWN_PROMPTS = 10  # of a preview
SHOWN_BATCHES = 6  # at least, finished ones among them
MOST_BATCHES = 30  # at most, all of them unfinished
REMEMBERED_BATCHES = 100

DICE = "() => String(Math.floor(Math.random() * 2 ** 32))"
SPLIT_SIZE = "(size) => size ? size.split('x').map(Number) : [null, null]"
SWAP = "(width, height) => [height, width]"

# -- handlers -------------------------------------------------------------------------------------------------------


def on_generate(studio: Studio, *values: Any) -> tuple[str, Any]:
    """Submit; (what to tell, the new batch's id)."""
    try:
        given = form.read(values)
        if given["kind"] == Kind.INPAINT and given.get("source") and not given.get("mask"):
            return view.notice("bad", say("create.mask_missing")), gr.skip()
        receipt = studio.submit(**styled(studio, given))
    except UserError as error:
        return view.notice("bad", view.text(view.problem(error))), gr.skip()
    return view.warnings_notice(receipt.warnings), receipt.batch_id


def on_preview(studio: Studio, *values: Any) -> str:
    """What a press of Generate would draw of wildcards and choices."""
    try:
        preview = studio.prompts.preview(**styled(studio, form.read(values)))
    except UserError as error:
        return view.notice("bad", view.text(view.problem(error)))
    drawn = "".join(f"<li>{view.text(prompt)}</li>" for prompt in preview.prompts[:SHOWN_PROMPTS])
    said = say("create.would_draw", n=preview.pictures, combinations=preview.combinations, seed=preview.seed)
    return view.notice("info", f"{said}<ol>{drawn}</ol>") + view.warnings_notice(preview.warnings)


def styled(studio: Studio, given: dict[str, Any]) -> dict[str, Any]:
    """The form's settings with the chosen styles in both prompts."""
    chosen = given.pop("styles") or []
    prompt, negative = studio.styles.apply(chosen, given["prompt"], given["negative"] or "")
    return given | {"prompt": prompt, "negative": negative, "expand": given["expand"] or None}


def model_of(studio: Studio, model_id: Any) -> Model:
    models = studio.models()
    return next((each for each in models if each.id == model_id), models[0])


def on_model(studio: Studio, model_id: str, before_id: str, width: Any, height: Any, *values: Any) -> list[Any]:
    """A model brings its own shapes, and its defaults where the person has not changed the last model's."""
    model, before = model_of(studio, model_id), model_of(studio, before_id)
    told = ""
    if not model.ready:
        problem = say("create.model_problem", model=model.name, problem=translated(model.problem))
        told = view.notice("bad", view.text(problem))
    width, height = sizes.moved(before, model, width, height)
    names = FOLLOW_MODEL[2:]
    following = [
        getattr(model.defaults, name) if value in (None, getattr(before.defaults, name)) else value
        for name, value in zip(names, values, strict=True)
    ]
    return [told, shapes(model, width, height), model.id, width, height, *following]


def on_sample(studio: Studio, model_id: Any) -> str:
    """The chosen model's newest picture, beside its name."""
    return view_source.sample(studio.library.samples().get(str(model_id)))


def on_size_typed(studio: Studio, model_id: str, width: Any, height: Any) -> Any:
    """Shows the shape that was typed, if it is one of the buttons."""
    return shapes(model_of(studio, model_id), width, height)


def shapes(model: Model, width: Any, height: Any) -> Any:
    lying = sizes.landscape(width, height)
    return gr.Radio(sizes.sizes(model, lying), value=sizes.size_of(model, width, height))


def on_keep(studio: Studio, mine: Any) -> Any:
    """The seed of this browser's latest press."""
    newest = mine.split()[:1] if isinstance(mine, str) else []
    jobs = studio.jobs_of_batches(newest, 1)
    return str(jobs[0].params.seed) if jobs else gr.skip()


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
    jobs = studio.jobs_of_batches(shown, view_jobs.MOST_CARDS)
    first = not jobs and not studio.gallery_count()
    counts = studio.counts_of_batches(shown)
    return view_jobs.created(jobs, counts, studio.images_of(jobs), snapshot, now, left_out, first)


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateTab:
    fields: list[Any]
    size: Any
    swap: Any
    generate: Any
    preview: Any
    dice: Any
    keep: Any
    any_seed: Any
    told: Any
    source: Any  # the panel of the picture to begin from; source.js
    loras: Any  # the list of LoRAs; loras.js
    sample: Any  # the newest picture of the chosen model
    drawn: Any
    mine: Any  # the ids of this browser's batches; page.js keeps them
    before: Any  # the model whose defaults the form has
    dropped: Any  # the recipe of a picture that was dropped on the page

    @property
    def asked(self) -> list[Any]:
        return [self.mine]

    def field(self, name: str) -> Any:
        return self.fields[form.NAMES.index(name)]

    @property
    def drawn_once(self) -> list[Any]:
        """What `once` draws for each page."""
        return [
            self.size,
            self.sample,
            self.source,
            self.loras,
            *(self.field(name) for name in ("model", "styles", *form.OF_FILES)),
        ]


def once(studio: Studio, model_id: str, width: Any, height: Any) -> list[Any]:
    """A new page knows models and files that came after the server's start, and speaks its own language."""
    names = {style.name: f"styles.{style.name.lower().replace(' ', '_')}" for style in studio.styles.all()}
    return [
        on_size_typed(studio, model_id, width, height),
        on_sample(studio, model_id),
        view_source.panel(),
        view_source.loras(studio.library.adapters()["loras"]),
        gr.Dropdown(form.model_choices(studio.models())),
        gr.Dropdown([(say(key) if known(key) else name, name) for name, key in names.items()]),
        *(gr.Dropdown(form.choices(OPTIONS[name], studio, say)) for name in form.OF_FILES),
    ]


def layout(studio: Studio) -> CreateTab:
    model = form.default(studio)
    made: dict[str, Any] = {}

    def place(*names: str) -> None:
        for name in names:
            made[name] = form.component(name, studio)

    with gr.Column(elem_id="composer"):
        place(*form.at("prompt"))
        source = live("source")
        place(*form.at("source"))
        with gr.Row(elem_id="source-settings"):
            place(*form.at("source-settings"))
        with gr.Row(elem_id="composer-bar", equal_height=True):
            size = gr.Radio(
                sizes.sizes(model),
                value=sizes.size_of(model, model.defaults.width, model.defaults.height),
                label=label("create.shape"),
                elem_id="size",
                container=False,
                min_width=280,
                scale=4,
            )
            swap = gr.Button(label("create.swap"), elem_id="swap", min_width=44, scale=0)
            place("count")
            generate = gr.Button(
                label("create.generate"), variant="primary", elem_id="generate", scale=1, min_width=140
            )
    told = live("told")
    with gr.Accordion(label("create.more"), open=False, elem_id="more"):
        with gr.Row():
            with gr.Row(elem_id="model-row"):
                sample = live("sample")
                place(*form.at("model"))
            place("styles")
        place(*form.at("negative"))
        with gr.Row(elem_id="expand-row", equal_height=True):
            place("expand")
            preview = gr.Button(label("create.preview"), elem_id="preview-prompts", min_width=60, scale=0)
        with gr.Row(elem_id="seed-row", equal_height=True):
            place(*form.at("seed"))
            dice = gr.Button(label("create.draw_seed"), elem_id="dice", min_width=60, scale=0)
            keep = gr.Button(label("create.keep_seed"), elem_id="keep-seed", min_width=60, scale=0)
            any_seed = gr.Button(label("create.clear_seed"), elem_id="any-seed", min_width=60, scale=0)
        with gr.Row(elem_id="numbers"):
            place(*form.at("numbers"))
        loras = live("loras")
        with gr.Accordion(label("create.expert"), open=False, elem_id="expert"):
            for row in form.rows_for_experts():
                with gr.Row():
                    place(*row)
    drawn = live("create")
    fields = [made[name] for name in form.NAMES]
    rest = [hidden(), hidden(model.id), hidden("", "dropped")]
    return CreateTab(
        fields, size, swap, generate, preview, dice, keep, any_seed, told, source, loras, sample, drawn, *rest
    )


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: CreateTab, studio: Studio, receipt: Any) -> Any:
    """``receipt`` takes the id of a new batch; the event of a press is returned, to go on from."""
    sides = [tab.field("width"), tab.field("height")]
    model, seed = tab.field("model"), tab.field("seed")
    follow = [tab.field(name) for name in FOLLOW_MODEL]
    model.input(
        bound(on_model, studio), [model, tab.before, *follow], [tab.told, tab.size, tab.before, *follow], **QUIET
    )
    model.change(bound(on_sample, studio), model, tab.sample, **QUIET)
    tab.size.input(None, tab.size, sides, js=SPLIT_SIZE, **QUIET)
    look = bound(on_size_typed, studio)
    tab.swap.click(None, sides, sides, js=SWAP, **QUIET).then(look, [model, *sides], tab.size, **QUIET)
    for side in sides:
        side.change(look, [model, *sides], tab.size, trigger_mode="always_last", **QUIET)
    tab.dice.click(None, None, seed, js=DICE, **QUIET)
    tab.keep.click(bound(on_keep, studio), tab.mine, seed, **QUIET)
    tab.any_seed.click(None, None, seed, js="() => ''", **QUIET)
    tab.dropped.change(bound(dropped.fill, studio), [tab.dropped, *tab.fields], [tab.told, *tab.fields], **QUIET)
    # "multiple": ten presses in a row are ten batches, also while the first is still on its way.
    pressed = tab.generate.click(
        bound(on_generate, studio),
        tab.fields,
        [tab.told, receipt],
        js="diffusionLocal.press",
        trigger_mode="multiple",
        **QUIET,
    )
    tab.preview.click(bound(on_preview, studio), tab.fields, tab.told, **QUIET)
    pressed.success(None, None, None, js="() => diffusionLocal.answered(true)", trigger_mode="multiple", **QUIET)
    pressed.failure(None, None, None, js="() => diffusionLocal.answered(false)", trigger_mode="multiple", **QUIET)
    return pressed
