"""Handlers of the buttons on models: use, remove, set the precision, rescan, download, cancel a download."""

from typing import Any

import gradio as gr

from diffusion_local.errors import NotFound, echo
from diffusion_local.messages import message
from diffusion_local.models.service import format_size
from diffusion_local.options.limits import FOLLOW_MODEL
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form
from diffusion_local.web.ui.effects import Effect, Verb, new_toast
from diffusion_local.web.ui.words import say

LORA_WEIGHT = 0.8


def use_model(studio: Studio, key: str) -> Effect:
    """Select a model in the form and fill in its defaults; the other fields keep their values."""
    model = studio.library.model(key)
    values: dict[str, Any] = {name: getattr(model.defaults, name) for name in FOLLOW_MODEL}
    values["model"] = gr.Dropdown(form.model_choices(studio.models()), value=model.id)  # it may be newer than the page
    return Effect(tabs=gr.Tabs(selected="create"), form=form.only(**values))


def use_lora(studio: Studio, key: str, values: dict[str, Any] | None = None) -> Effect:
    """Add a LoRA to those in the form, at ``LORA_WEIGHT``. Raises NotFound if there is no such file."""
    if all(each.name != key for each in studio.library.adapters()["loras"]):
        raise NotFound(message("no_lora", name=echo(key)))
    listed = [each.strip() for each in str((values or {}).get("loras") or "").split(",") if each.strip()]
    if all(each.rpartition(":")[0] != key for each in listed):
        listed.append(f"{key}:{LORA_WEIGHT}")
    return Effect(
        toast=new_toast(say("models.lora_used", name=key)),
        tabs=gr.Tabs(selected="create"),
        form=form.only(loras=", ".join(listed)),
    )


def remove_model(studio: Studio, key: str) -> Effect:
    model = studio.library.model(key)
    removed = studio.library.remove(key)
    phrase = "models.removed_moved" if removed.moved_to else "models.removed_forgotten"
    return Effect(toast=new_toast(say(phrase, name=model.name, size=format_size(model.size_bytes))))


def model_precision(studio: Studio, key: str) -> Effect:
    """Set a model's precision. ``key``: the precision (may be empty), a space, and the model's id."""
    value, _, model_id = key.partition(" ")
    model = studio.library.set_precision(model_id, value)
    words = model.chosen_precision or say("models.precision_setting")
    return Effect(toast=new_toast(say("models.precision_set", name=model.name, precision=words)))


def scan(studio: Studio, key: str) -> Effect:
    return Effect(toast=new_toast(say("models.looked", n=len(studio.library.models()))))


def download_model(studio: Studio, key: str) -> Effect:
    return Effect(toast=new_toast(say("models.queued", name=studio.library.download(key).source)))


def retry_download(studio: Studio, key: str) -> Effect:
    old = studio.library.one_download(key)
    again = studio.library.download(old.repo, old.file, old.folder, old.revision, old.digest)
    return Effect(toast=new_toast(say("models.queued", name=again.source)))


def cancel_download(studio: Studio, key: str) -> Effect:
    studio.library.cancel_download(key)
    return Effect(toast=new_toast(say("models.cancelled")))


VERBS: dict[str, Verb] = {
    "use_model": use_model,
    "use_lora": use_lora,
    "remove_model": remove_model,
    "model_precision": model_precision,
    "scan": scan,
    "download_model": download_model,
    "retry_download": retry_download,
    "cancel_download": cancel_download,
}
