"""A batch of the queue as HTML: its header line, which folds, and a window of its jobs. Pure, like ``view``."""

from dataclasses import dataclass

from diffusion_local.domain import FINAL, State
from diffusion_local.queue.groups import Group, JobWindow, ListPosition
from diffusion_local.web.ui import view_batches
from diffusion_local.web.ui.place_queue import QueuePlace, written
from diffusion_local.web.ui.view import button, item, menu, moment, text
from diffusion_local.web.ui.view_queue_rows import Around, row
from diffusion_local.web.ui.words import say

#: Parts of the bar, in their order.
PARTS = (State.DONE, State.FAILED, State.CANCELLED, State.RUNNING)
MOST_MODELS = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """A batch on the page with the jobs that are shown of it, if it is open; ``alone``: there is one job only."""

    group: Group
    window: JobWindow | None
    alone: bool


def turn(words: str, verb: str, key: str = "", value: str = "", kind: str = "small", more: str = "") -> str:
    """A button that changes what is shown, in the browser (``queue.js``)."""
    return (
        f'<button type="button" class="act {kind}" data-turn="{verb}" data-id="{text(key)}" data-value="{text(value)}"'
        f"{more}>{words}</button>"
    )


def group(
    shown: Shown, place: QueuePlace, around: Around, above: Group | None = None, below: Group | None = None
) -> str:
    """``above`` and ``below`` are its neighbours in line on this page."""
    window, each = shown.window, shown.group
    if shown.alone:
        return "".join(row(job, around, several=False) for job in window.jobs) if window else ""
    batch = each.progress.batch
    rows = ""
    if window:
        lines = "".join(row(job, around) for job in window.jobs)
        rows = f'<ul data-key="jobs-{batch.id}">{lines}</ul>{pager(shown, window, place)}'
    total = sum(each.progress.counts.values())
    ended = sum(each.progress.counts[state] for state in FINAL)
    state = "ended" if ended == total else "held" if batch.paused else "going"
    name = text(batch.name)
    opened = str(window is not None).lower()
    owner = f" · {text(batch.owner)}" if batch.owner else ""
    return (
        f'<li class="group {state}" data-key="group-{batch.id}"><div class="group-head" data-key="head-{batch.id}">'
        f'<h3><button type="button" class="fold" data-turn="fold" data-id="{batch.id}" aria-expanded="{opened}" '
        f'title="{name}"><span class="title">{name}</span></button></h3>'
        f'<div class="about"><span class="meta">{view_batches.counted(each.progress)}{models(each)}{owner}</span>'
        f"{bar(each, total)}{view_batches.why(each.progress, around.now)}</div>"
        f'<div class="state">{view_batches.standing(each.progress, ended, total)}{ended_at(each)}</div>'
        f'<div class="acts">{acts(each, above, below)}</div></div>{rows}</li>'
    )


def ended_at(each: Group) -> str:
    return f'<span class="quiet">{moment(each.ended_at)}</span>' if each.ended_at else ""


def models(each: Group) -> str:
    shown = ", ".join(text(model) for model in each.models[:MOST_MODELS])
    return f" · {shown}" + (" …" if len(each.models) > MOST_MODELS else "") if shown else ""


def bar(each: Group, total: int) -> str:
    """How many have ended, and how: a strip of parts, told in words beside it."""
    counts = each.progress.counts
    ended = sum(counts[state] for state in FINAL)
    if ended == total:
        return ""
    parts = "".join(
        f'<i class="{state}" data-key="{state}" style="width:{100 * counts[state] / total:.2f}%"></i>'
        for state in PARTS
        if counts[state]
    )
    return (
        f'<div class="bar parts" data-key="bar-{each.progress.batch.id}" role="progressbar" '
        f'aria-label="{say("common.progress")}" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{ended}">'
        f"{parts}</div>"
    )


def acts(each: Group, above: Group | None, below: Group | None) -> str:
    batch, counts = each.progress.batch, each.progress.counts
    first = ""
    if batch.paused and counts[State.QUEUED]:
        first = button(say("common.resume"), "resume_batch", batch.id, "small")
    elif counts[State.FAILED] and not (counts[State.QUEUED] or counts[State.RUNNING]):
        first = button(say("lists.again_failed", n=counts[State.FAILED]), "batch_again", batch.id, "small")
    elif counts[State.DONE]:
        first = view_batches.pictures_link(batch.id)
    items = places(each, above, below) + view_batches.items_of(each.progress, files=False)
    if not (counts[State.QUEUED] or counts[State.RUNNING]):
        items.append(item(say("queue.remove"), "batch_forget", batch.id))
    return first + menu(f"batch-{batch.id}", say("queue.more_about", prompt=batch.name), items)


def places(each: Group, above: Group | None, below: Group | None) -> list[str]:
    """Ways to run earlier or later; of two batches only those of one owner and lane can change places."""
    batch = each.progress.batch
    if not each.progress.counts[State.QUEUED]:
        return []
    items = [item(say("queue.move_top"), "batch_top", batch.id)]
    for other, words, key in ((above, "move_up", "{0} {1}"), (below, "move_down", "{1} {0}")):
        if other and fits(each, other):
            key = key.format(batch.id, other.progress.batch.id)
            items.append(item(say(f"queue.{words}"), "batch_before", key, stay=True))
    return [*items, item(say("queue.move_bottom"), "batch_bottom", batch.id)]


def fits(each: Group, other: Group) -> bool:
    one, two = each.progress.batch, other.progress.batch
    return bool(other.progress.counts[State.QUEUED]) and (one.owner, one.lane) == (two.owner, two.lane)


def pager(shown: Shown, window: JobWindow, place: QueuePlace) -> str:
    """Below the jobs that are shown, if there are more."""
    batch_id = shown.group.progress.batch.id
    if not (window.later or window.has_earlier):
        return ""
    total = "" if place.wanted else say("queue.of_all", n=sum(shown.group.progress.counts.values()))
    last = window.first + len(window.jobs) - 1
    told = "" if place.wanted else f'<span class="quiet">{window.first:,}–{last:,}{total}</span>'
    if batch_id not in place.wide:
        ways = turn(say("queue.show_more"), "wide", batch_id)
    else:
        ways = way("queue.earlier", batch_id, window.earlier) if window.has_earlier else ""
        ways += way("queue.later", batch_id, window.later) if window.later else ""
        ways += turn(say("queue.show_less"), "narrow", batch_id)
    name = say("queue.pages_of", name=text(shown.group.progress.batch.name))
    return (
        f'<nav class="more" data-key="more-{batch_id}" aria-label="{name}">{told}<span class="ways">{ways}</span></nav>'
    )


def way(words: str, batch_id: str, key: ListPosition | None) -> str:
    return turn(say(words), "wide", batch_id, written(key) if key else "")
