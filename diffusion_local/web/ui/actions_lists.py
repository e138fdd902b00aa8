"""Handlers of the buttons on batches: edit queued jobs, duplicate, reorder, retry, remove."""

from urllib.parse import parse_qsl

from diffusion_local.domain import PRIORITIES, State
from diffusion_local.errors import Conflict, InvalidParams
from diffusion_local.messages import message
from diffusion_local.options.table import BATCH_OPTIONS, Params
from diffusion_local.options.types import format_number
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_batches
from diffusion_local.web.ui.effects import Effect, Verb, new_toast
from diffusion_local.web.ui.words import say, translated

MOST_COMPARED = 1000  # queued jobs that the panel searches for shared values


def batches_at(studio: Studio, key: str) -> Effect:
    """Show another page of the list of batches. ``key``: the last batch id of each page before it."""
    return Effect(batches=key)


def batch_rename(studio: Studio, key: str) -> Effect:
    batch_id, _, name = key.partition("\n")
    studio.batches.rename(batch_id, name)
    return Effect()


def batch_duplicate(studio: Studio, key: str) -> Effect:
    receipt = studio.batches.duplicate(key)
    return Effect(toast=new_toast(say("lists.queued", pictures=view.pictures(len(receipt.job_ids)))))


def batch_again(studio: Studio, key: str) -> Effect:
    receipt = studio.queue.again(batch_id=key, state=State.FAILED)
    return Effect(toast=new_toast(say("page.queued_again", what=view.pictures(len(receipt.job_ids)))))


def batch_up(studio: Studio, key: str) -> Effect:
    return shift(studio, key, 1)


def batch_down(studio: Studio, key: str) -> Effect:
    return shift(studio, key, -1)


def shift(studio: Studio, batch_id: str, by: int) -> Effect:
    """Set the priority of all queued jobs of a batch to that of the first one plus ``by``.

    Raises Conflict if no job of the batch is queued.
    """
    waiting = studio.jobs(State.QUEUED, batch_id, limit=1) if batch_id else []
    if not waiting:
        raise Conflict(message("none_waits"))
    priority = max(PRIORITIES[0], min(PRIORITIES[1], waiting[0].priority + by))
    studio.queue.set_priority(priority, batch_id=batch_id)
    words = say("page.raised_to" if by > 0 else "page.lowered_to", priority=f"{priority:+d}")
    return Effect(toast=new_toast(words))


def batch_top(studio: Studio, key: str) -> Effect:
    return moved(studio.queue.move("top", batch_id=key), "page.moved_top")


def batch_bottom(studio: Studio, key: str) -> Effect:
    return moved(studio.queue.move("bottom", batch_id=key), "page.moved_bottom")


def moved(ids: list[str], words: str) -> Effect:
    return Effect(toast=new_toast(say(words, pictures=view.pictures(len(ids))) if ids else say("page.none_waits")))


def batch_before(studio: Studio, key: str) -> Effect:
    """Move a batch ahead of another. ``key``: the ids of both."""
    batch_id, _, before = key.partition(" ")
    moved_ids = studio.queue.move_batch(batch_id, before)
    return Effect() if moved_ids else Effect(toast=new_toast(say("page.none_waits")))


def batch_forget(studio: Studio, key: str) -> Effect:
    gone = studio.queue.forget(batch_id=key)
    return Effect(toast=new_toast(say("page.cleared", pictures=view.pictures(len(gone)))))


def batch_panel(studio: Studio, key: str) -> Effect:
    return Effect(panel=panel(studio, key))


def panel(studio: Studio, batch_id: str, problem: str = "") -> str:
    progress = studio.batches.get(batch_id)
    values = shared_values(studio, batch_id) | studio.batches.times(progress.batch)
    return view_batches.panel(progress, studio.models(), values, problem)


def shared_values(studio: Studio, batch_id: str) -> dict[str, str]:
    """The value of each editable setting that all queued jobs of a batch share, or "" where they differ."""
    waiting = studio.jobs(State.QUEUED, batch_id, limit=MOST_COMPARED)
    shared = {}
    for name in view_batches.EDITABLE_COLUMNS:
        values = {format_field(name, job.params) for job in waiting}
        shared[name] = values.pop() if len(values) == 1 else ""
    return shared


def format_field(name: str, params: Params) -> str:
    if name == "size":
        return f"{params.width}x{params.height}"
    value = getattr(params, name)
    return format_number(value) if isinstance(value, float) else str(value)


def batch_change(studio: Studio, key: str) -> Effect:
    """Apply the changed fields of the panel. ``key``: the batch id and, on the next line, the URL-encoded form."""
    batch_id, _, written = key.partition("\n")
    sent = {name: value.strip() for name, value in parse_qsl(written, keep_blank_values=True)}
    values = shared_values(studio, batch_id) | studio.batches.times(studio.batches.get(batch_id).batch)
    changes = {
        name: sent[name] for name in view_batches.EDITABLE_COLUMNS if sent.get(name, "") not in ("", values[name])
    }
    changes |= {name: sent[name] for name in BATCH_OPTIONS if name in sent and sent[name] != values[name]}
    if not changes:
        return Effect(panel="")
    try:
        edited = studio.batches.edit(batch_id, **changes)
    except InvalidParams as error:  # live.js keeps what was typed
        return Effect(panel=panel(studio, batch_id, view.problem(error)))
    warned = " ".join(translated(each) for each in edited.warnings)
    words = say("lists.changed", pictures=view.pictures(edited.count))
    return Effect(panel="", toast=new_toast(f"{words}. {warned}" if warned else words, kind="warn" if warned else ""))


VERBS: dict[str, Verb] = {
    "batches_at": batches_at,
    "batch_rename": batch_rename,
    "batch_duplicate": batch_duplicate,
    "batch_again": batch_again,
    "batch_up": batch_up,
    "batch_down": batch_down,
    "batch_top": batch_top,
    "batch_bottom": batch_bottom,
    "batch_before": batch_before,
    "batch_forget": batch_forget,
    "batch_panel": batch_panel,
    "batch_change": batch_change,
}
