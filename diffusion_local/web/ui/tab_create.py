"""The Create tab: the dock with the prompt and the settings, and the stage with the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gradio as gr

from diffusion_local.domain import Receipt, Snapshot
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.models.catalog import Model
from diffusion_local.models.references import uses_of
from diffusion_local.options.limits import FOLLOW_MODEL
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.types import Kind
from diffusion_local.serializers import model_preview_url
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form, prompt_help, recipe_import, view, view_models, view_stage
from diffusion_local.web.ui.live import PRESS, QUIET, REPEATABLE, bind, hidden, live
from diffusion_local.web.ui.setting_groups import FIELDS_OF_GROUP, mark_groups, option_groups
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.words import has_phrase, label, say, translated

SHOWN_PROMPTS = 10  # in the preview of expanded prompts
SHOWN_BATCHES = 12  # batches in the strip; finished ones fill it up to this number
MOST_BATCHES = 30  # unfinished batches in the strip
REMEMBERED_BATCHES = 100
OLDER_PICTURES = 24  # pictures of the gallery after those of this browser

DICE = "() => String(Math.floor(Math.random() * 2 ** 32))"
SPLIT_SIZE = "(size) => size ? size.split('x').map(Number) : [null, null]"
SWAP = "(width, height) => [height, width]"


# -- handlers -------------------------------------------------------------------------------------------------------
def on_generate(studio: Studio, key: Any, *values: Any) -> tuple[str, Any]:
    """Submit the form: (notice, id of the new batch, or of one for each source picture).

    A repeated idempotency ``key`` does not make a second batch.
    """
    receipts: list[Receipt] = []
    try:
        given = form.read(values)
        if (
            given["kind"] == Kind.INPAINT
            and given.get("source")
            and not given.get("mask")
            and not given.get("outpaint")
        ):
            return view.notice("bad", say("create.mask_missing")), gr.skip()
        given = apply_styles(studio, given)
        key = key if isinstance(key, str) else None
        receipts.append(studio.submit(**given, idempotency_key=key))
        for number, source in enumerate(form.further_sources(values), start=2):
            own = key and f"{key} {number}"
            receipts.append(studio.submit(**{**given, "source": source}, idempotency_key=own))
    except UserError as error:
        return refusal_notice(error), " ".join(each.batch_id for each in receipts) or gr.skip()
    warnings = dict.fromkeys(words for each in receipts for words in each.warnings)
    tight = [plan for plan in receipts[0].memory if not view_models.is_roomy(plan)]
    notices = view.warnings_notice(
        [each for each in warnings if not prompt_help.is_shown(each)]
    ) + view_models.memory_notice(tight)
    return notices, " ".join(each.batch_id for each in receipts)


def refusal_notice(error: UserError) -> str:
    """Why the form was refused. dock.js keeps a notice that names a field until that field changes."""
    field, entry = (error.option, view.entry_of(error)) if isinstance(error, InvalidParams) else ("", None)
    return render("refused.html", words=view.problem(error), field=field, entry=entry)


def on_preview(studio: Studio, *values: Any) -> str:
    """The prompts to which Generate would expand wildcards and choices."""
    try:
        preview = studio.prompts.preview(**apply_styles(studio, form.read(values)))
    except UserError as error:
        return refusal_notice(error)
    drawn = render("preview.html", preview=preview, prompts=preview.prompts[:SHOWN_PROMPTS])
    return drawn + view.warnings_notice(preview.warnings) + view_models.memory_notice(preview.memory)


def apply_styles(studio: Studio, options: dict[str, Any]) -> dict[str, Any]:
    """Replace ``styles`` in the form's settings by their text in the prompt and the negative prompt."""
    chosen = options.pop("styles") or []
    prompt, negative = studio.styles.apply(chosen, options["prompt"], options["negative"] or "")
    return options | {"prompt": prompt, "negative": negative, "expand": options["expand"] or None}


def model_of(studio: Studio, model_id: Any) -> Model:
    models = studio.models()
    return next((each for each in models if each.id == model_id), models[0])


def on_model(studio: Studio, model_id: str, before_id: str, width: Any, height: Any, *values: Any) -> list[Any]:
    """Offer another model's sizes, and its defaults for settings still at the defaults of the model before.

    ``values``: those of ``FOLLOW_MODEL`` after width and height.
    """
    model, before = model_of(studio, model_id), model_of(studio, before_id)
    notice = ""
    if not model.ready:
        problem = say("create.model_problem", model=model.name, problem=translated(model.problem))
        notice = view.notice("bad", problem)
    width, height = form.moved(before, model, width, height)
    names = FOLLOW_MODEL[2:]
    following = [
        getattr(model.defaults, name) if value in (None, getattr(before.defaults, name)) else value
        for name, value in zip(names, values, strict=True)
    ]
    return [notice, size_choices(model, width, height), model.id, width, height, *following]


def on_sample(studio: Studio, model_id: Any) -> list[str]:
    """The parts of the form that depend on the model: its newest picture, the LoRAs that fit it, and the list of
    reference pictures, with the uses that it supports.
    """
    adapters = studio.library.adapters()
    uses = uses_of(model_of(studio, model_id), adapters["ip_adapters"], adapters["clip_vision"])
    sample = view_stage.sample(studio.library.samples().get(str(model_id)))
    return [sample, loras(studio, model_id), view_stage.references(uses)]


def loras(studio: Studio, model_id: Any) -> str:
    library = studio.library
    previews = {name: model_preview_url(at, name) for at, name in library.previews() if at == "loras"}
    return view_stage.loras(library.adapters()["loras"], model_of(studio, model_id).architecture, previews)


def on_size_typed(studio: Studio, model_id: str, width: Any, height: Any) -> Any:
    """Select the button of the typed size, if it has one."""
    return size_choices(model_of(studio, model_id), width, height)


def size_choices(model: Model, width: Any, height: Any) -> Any:
    lying = form.landscape(width, height)
    return gr.Radio(form.sizes(model, lying), value=form.size_of(model, width, height))


def on_keep(studio: Studio, batch_ids: Any) -> Any:
    """The seed of the first picture of this browser's latest batch. ``mine``: its batch ids, newest first."""
    newest = batch_ids.split()[:1] if isinstance(batch_ids, str) else []
    jobs = studio.jobs_of_batches(newest, 1)
    return str(jobs[0].params.seed) if jobs else gr.skip()


def choose_batches(batch_ids: Sequence[str], snapshot: Snapshot) -> tuple[list[str], int]:
    """(ids of the batches to show, number of unfinished ones left out). ``batch_ids``: newest first.

    Running batches come first, then waiting and then finished ones.
    """
    running = {job.batch_id for job in snapshot.running}
    unfinished = running | {job.batch_id for job in snapshot.waiting}
    going = sorted((each for each in batch_ids if each in unfinished), key=lambda each: each not in running)
    chosen = going[:MOST_BATCHES]
    finished = [each for each in batch_ids if each not in unfinished]
    return chosen + finished[: max(0, SHOWN_BATCHES - len(chosen))], len(going) - len(chosen)


def draw(studio: Studio, snapshot: Snapshot, now: datetime, batch_ids: Any, selected_id: Any) -> str:
    """The stage. ``mine``: ids of this browser's batches, newest first; ``chosen``: id of the picture selected in the
    strip.

    Running jobs appear whichever browser submitted them, and the gallery's newest pictures follow those of this
    browser, so that the stage of a new browser is not empty.
    """
    batch_ids = batch_ids.split() if isinstance(batch_ids, str) else []
    batch_ids_shown, left_out = choose_batches(batch_ids[:REMEMBERED_BATCHES], snapshot)
    running = [job.batch_id for job in snapshot.running if not job.hidden and job.batch_id not in batch_ids_shown]
    batch_ids_shown = [*dict.fromkeys(running), *batch_ids_shown]
    jobs = studio.jobs_of_batches(batch_ids_shown, view_stage.MOST_SHOTS)
    stacks = view_stage.stacked(jobs, studio.counts_of_batches(batch_ids_shown), studio.images_of(jobs), snapshot)
    earlier = view_stage.older(studio.pictures.page(OLDER_PICTURES), stacks)
    hand = view_stage.at_hand(stacks, earlier, selected_id if isinstance(selected_id, str) else "")
    return view_stage.stage(stacks, earlier, hand, left_out, None if hand else first_model(studio))


def first_model(studio: Studio) -> view_models.Offer | None:
    """The model to offer as the first download; None if any is installed beside the starter, or another is loading."""
    library = studio.library
    if len(library.models()) > 1:
        return None
    downloads = library.downloads()
    offer = view_models.offer(library.known(), library.largest(), downloads)
    going = {each.id for each in downloads if not each.final}
    return offer if offer and going <= ({offer.download.id} if offer.download else set()) else None


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateTab:
    """Components of the tab, with the script that reads or sets them.

    ``asked``: those whose values the poll passes to `draw`; ``drawn_once``: those updated when a page is loaded.
    """

    fields: list[Any]
    size: Any
    swap: Any
    generate: Any
    preview: Any
    dice: Any
    keep: Any
    any_seed: Any
    notices: Any
    source: Any  # the panel of the source picture; source.js
    loras: Any  # loras.js
    references: Any  # pictures.js
    controls: Any  # pictures.js
    sample: Any  # the newest picture of the selected model
    drawn: Any
    own_batches: Any  # ids of this browser's batches, newest first; stored by page.js
    at: Any  # id of the picture selected in the strip; dock.js
    before: Any  # id of the model selected before
    dropped: Any  # the recipe of a dropped picture, as JSON; source.js
    tokens: Any  # token count of the prompt; dock.js
    recount: Any  # changes to request a new token count; dock.js
    preset: Any  # the selected preset, as JSON; prompts.js
    vocabulary: Any  # suggestions for the prompt, as JSON; prompts.js
    key: Any  # idempotency key of a press of Generate; page.js

    @property
    def poll_inputs(self) -> list[Any]:
        return [self.own_batches, self.at]

    def field(self, name: str) -> Any:
        return self.fields[form.FORM_FIELDS.index(name)]

    @property
    def drawn_once(self) -> list[Any]:
        first = (self.size, self.sample, self.loras, self.references, self.controls, self.vocabulary, self.source)
        return [*first, *map(self.field, ("model", "styles", *form.FILE_FIELDS))]


def initial_updates(studio: Studio, model_id: str, width: Any, height: Any) -> list[Any]:
    """Values of ``CreateTab.drawn_once`` for a page load: in its language, with files newer than the server's start."""
    names = {style.name: f"styles.{style.name.lower().replace(' ', '_')}" for style in studio.styles.all()}
    return [
        on_size_typed(studio, model_id, width, height),
        *on_sample(studio, model_id),
        view_stage.controls(studio.library.adapters()["controlnet"]),
        prompt_help.vocabulary(studio),
        view_stage.panel(),
        gr.Dropdown(form.model_choices(studio.models())),
        gr.CheckboxGroup([(say(key) if has_phrase(key) else name, name) for name, key in names.items()]),
        *(gr.Dropdown(form.choices(OPTIONS[name], studio, say)) for name in form.FILE_FIELDS),
    ]


def layout(studio: Studio) -> CreateTab:
    model = form.default(studio)
    made: dict[str, Any] = {}

    def add_fields(*names: str) -> None:
        for name in names:
            made[name] = form.component(name, studio)

    with gr.Row(elem_id="studio"):
        with gr.Column(elem_id="dock", min_width=200):
            with gr.Column(elem_id="composer", min_width=200):
                add_fields("prompt")
                with gr.Row(elem_id="composer-bar"):
                    gr.HTML(render("prompt_tools.html"), elem_id="tokens", apply_default_css=False)
                    add_fields("count")
                    generate = gr.Button(
                        label("create.generate"), variant="primary", elem_id="generate", scale=1, min_width=120
                    )
            notices = live("told")
            with gr.Column(elem_id="more", min_width=200):
                with gr.Row(elem_id="model-row"):
                    sample = live("sample")
                    add_fields("model")
                size = gr.Radio(
                    form.sizes(model),
                    value=form.size_of(model, model.defaults.width, model.defaults.height),
                    label=label("create.shape"),
                    elem_id="size",
                    min_width=200,
                )
                with gr.Row(elem_id="pixels"):
                    add_fields("width")
                    swap = gr.Button("⇄", elem_id="swap", min_width=36, scale=0)
                    add_fields("height")
                with gr.Row(elem_id="seed-row"):
                    add_fields("seed")
                    dice = gr.Button(label("create.draw_seed"), elem_id="dice", min_width=36, scale=0)
                    keep = gr.Button(label("create.keep_seed"), elem_id="keep-seed", min_width=36, scale=0)
                    any_seed = gr.Button(label("create.clear_seed"), elem_id="any-seed", min_width=36, scale=0)
                add_fields("negative")
                with gr.Accordion(label("common.styles"), open=False, elem_id="group-styles"):
                    add_fields("styles")
                source = live("source")
                references = live("references")
                add_fields(*form.at("source"))
                with gr.Row(elem_id="source-settings"):
                    add_fields(*form.at("source-settings"))
                with gr.Accordion(label("create.group_sampling"), open=True, elem_id="group-sampling"), gr.Row():
                    add_fields(*FIELDS_OF_GROUP["sampling"])
                with gr.Accordion(label("common.loras"), open=False, elem_id="group-loras"):
                    loras = live("loras")
                with gr.Accordion(label("common.controls"), open=False, elem_id="group-controls"):
                    controls = live("controls")
                for group in option_groups():
                    with gr.Accordion(label(f"create.group_{group}"), open=False, elem_id=f"group-{group}"), gr.Row():
                        add_fields(*form.at(group))
                with gr.Accordion(label("create.group_words"), open=False, elem_id="group-words"), gr.Row():
                    add_fields("expand")
                    preview = gr.Button(label("create.preview"), elem_id="preview-prompts", min_width=60, scale=0)
                with gr.Accordion(label("create.group_variation"), open=False, elem_id="group-variation"), gr.Row():
                    add_fields(*FIELDS_OF_GROUP["variation"])
                with gr.Accordion(label("create.group_files"), open=False, elem_id="group-files"):
                    with gr.Row():
                        add_fields(*FIELDS_OF_GROUP["files"])
                    add_fields(*(name for name in form.FORM_FIELDS if name not in made))
        drawn = live("create")
    fields = [made[name] for name in form.FORM_FIELDS]
    rest = [hidden(), hidden(elem_id="at"), hidden(model.id), hidden("", "dropped")]
    rest += [hidden("", "token-count"), hidden("", "recount"), hidden("", "preset"), hidden("", "vocabulary"), hidden()]
    return CreateTab(
        fields,
        size,
        swap,
        generate,
        preview,
        dice,
        keep,
        any_seed,
        notices,
        source,
        loras,
        references,
        controls,
        sample,
        drawn,
        *rest,
    )


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: CreateTab, studio: Studio, receipt: Any) -> Any:
    """Connect the handlers. ``receipt`` receives the id of a new batch. Returns the event of Generate, for chaining."""
    sides = [tab.field("width"), tab.field("height")]
    model, seed = tab.field("model"), tab.field("seed")
    follow = [tab.field(name) for name in FOLLOW_MODEL]
    model.input(
        bind(on_model, studio), [model, tab.before, *follow], [tab.notices, tab.size, tab.before, *follow], **REPEATABLE
    )
    model.change(bind(on_sample, studio), model, [tab.sample, tab.loras, tab.references], **REPEATABLE)
    tab.size.input(None, tab.size, sides, js=SPLIT_SIZE, **QUIET)
    look = bind(on_size_typed, studio)
    tab.swap.click(None, sides, sides, js=SWAP, **QUIET).then(look, [model, *sides], tab.size, **REPEATABLE)
    for side in sides:
        side.change(look, [model, *sides], tab.size, trigger_mode="always_last", **REPEATABLE)
    tab.dice.click(None, None, seed, js=DICE, **QUIET)
    tab.keep.click(bind(on_keep, studio), tab.own_batches, seed, **REPEATABLE)
    tab.any_seed.click(None, None, seed, js="() => ''", **QUIET)
    counted = [tab.field("prompt"), model]
    gr.on([each.change for each in counted], None, None, None, js="() => diffusionLocalDock.recount()", **QUIET)
    tab.recount.change(
        bind(prompt_help.on_tokens, studio), counted, tab.tokens, trigger_mode="always_last", **REPEATABLE
    )
    mark_groups(tab.field)
    tab.preset.change(bind(prompt_help.on_preset, studio), tab.preset, tab.fields, **REPEATABLE)
    tab.dropped.change(
        bind(recipe_import.fill_form, studio), [tab.dropped, *tab.fields], [tab.notices, *tab.fields], **REPEATABLE
    )
    # "multiple": each of several quick presses makes a batch, even before the first one is answered.
    pressed = tab.generate.click(
        bind(on_generate, studio),
        [tab.key, *tab.fields],
        [tab.notices, receipt],
        js="diffusionLocal.press",
        trigger_mode="multiple",
        **PRESS,
    )
    tab.preview.click(bind(on_preview, studio), tab.fields, tab.notices, **REPEATABLE)
    pressed.success(None, None, None, js="() => diffusionLocal.answered()", trigger_mode="multiple", **QUIET)
    pressed.failure(None, None, None, js="() => diffusionLocal.answered()", trigger_mode="multiple", **QUIET)
    return pressed
