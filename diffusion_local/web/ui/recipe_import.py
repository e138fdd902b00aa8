"""Fill the form with the recipe in a picture dropped on the page, written by this studio or by another tool."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from diffusion_local.errors import NotFound
from diffusion_local.models.catalog import Model
from diffusion_local.options.a1111 import CHOICES, FACT_NAMES, MODEL_HASH
from diffusion_local.options.table import OPTIONS, RECORDS, Params
from diffusion_local.options.types import Kind, Record
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form, view
from diffusion_local.web.ui.words import say

MOST_NAMED, MOST_CHARS = 12, 60
FEWEST_DIGITS = 8  # hexadecimal digits of a hash that identify a model; A1111 writes ten


def fill_form(studio: Studio, recipe: str, *values: Any) -> list[Any]:
    """[notice, *form values] for the recipe that ``POST /api/v1/sources`` read from a file, as JSON.

    ``values``: the form's current values. An invalid recipe changes nothing.
    """
    try:
        found = json.loads(recipe)
        settings, foreign_settings = dict(found["settings"]), dict(found["others"])
        model = model_in_recipe(studio.models(), settings, foreign_settings)
        chosen = model or current_model(studio.models(), values)
        blank = {"prompt": "", "negative": "", "seed": 0} | asdict(chosen.defaults)
        params = Params.from_dict(blank | settings | {"model": chosen.id})
        params, lost = without_missing_files(studio, params)
        filled = form.fill(params)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [gr.skip(), *form.only()]
    if model is None:
        filled[form.FORM_FIELDS.index("model")] = gr.skip()
    if "seed" not in settings:
        filled[form.FORM_FIELDS.index("seed")] = ""
    left_out = [*lost, *unused_settings(settings, foreign_settings, model)]
    warning = view.notice("warn", say("create.not_here", what="; ".join(left_out))) if left_out else Markup()
    return [warning + view.changed(form.differences(values, filled)), *filled]


def model_in_recipe(models: list[Model], settings: dict[str, Any], foreign_settings: dict[str, Any]) -> Model | None:
    """The installed model that a recipe names by id, name, file name without suffix, or SHA-256 prefix; or None."""
    named, digest = str(settings.get("model", "")), str(foreign_settings.get(MODEL_HASH, "")).lower()
    for each in models:
        if named and named.casefold() in (each.id.casefold(), each.name.casefold(), each.path.stem.casefold()):
            return each
    if len(digest) < FEWEST_DIGITS:
        return None
    return next((each for each in models if each.sha256.startswith(digest)), None)


def current_model(models: list[Model], values: tuple[Any, ...]) -> Model:
    chosen = dict(zip(form.FORM_FIELDS, values, strict=False)).get("model")
    return next((each for each in models if each.id == chosen), models[0])


def without_missing_files(studio: Studio, params: Params) -> tuple[Params, list[str]]:
    """(the params without files and pictures missing on this machine, descriptions of those)."""
    lost = []
    for name in form.FILE_FIELDS:
        option, value = OPTIONS[name], getattr(params, name)
        if value not in (option.default, option.initial, *option.choices, *form.usable(studio, option.files)):
            lost.append(f"{view.name_of(name)} {value}")
            params = replace(params, **{name: option.default})
    known = form.usable(studio, "loras")
    lost += [f"LoRA {lora.name}" for lora in params.loras if lora.name not in known]
    params = replace(params, loras=tuple(lora for lora in params.loras if lora.name in known))
    sources = [each for each in (params.source, params.mask) if each]
    if params.strength or params.kind is not Kind.TXT2IMG:
        try:
            if not params.source:
                raise NotFound
            for each in sources:
                studio.sources.file(each)
        except NotFound:
            lost.append(say("create.no_source_in_it"))
            params = replace(params, kind=Kind.TXT2IMG, source="", mask="", strength=0.0)
    for name in RECORDS:
        found: Any = tuple(each for each in getattr(params, name) if has_pictures(studio, each))
        if found != getattr(params, name):
            lost.append(view.name_of(name))
            params = replace(params, **{name: found})
    return params, lost


def has_pictures(studio: Studio, record: Record) -> bool:
    """Whether all pictures of a record are stored here."""
    try:
        for each in record.inputs:
            studio.sources.file(each)
    except NotFound:
        return False
    return True


def unused_settings(settings: dict[str, Any], foreign_settings: dict[str, Any], model: Model | None) -> Iterator[str]:
    """Descriptions of settings of another tool that have no equivalent here, without its notes (version, hashes)."""
    if model is None and settings.get("model"):
        yield f"{view.name_of('model')} {settings['model']}"
    unused = {name: str(value) for name, value in foreign_settings.items() if name not in FACT_NAMES}
    for place, (name, value) in enumerate(unused.items()):
        if place == MOST_NAMED:
            yield say("create.more_left_out", n=len(unused) - place)
            return
        if value.casefold() != "automatic":
            yield f"{view.name_of(CHOICES[name]) if name in CHOICES else name[:MOST_CHARS]} {value[:MOST_CHARS]}"
