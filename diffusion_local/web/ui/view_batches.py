"""The list of batches as HTML: progress, menus, and the panel to edit a batch. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from diffusion_local import serializers
from diffusion_local.domain import FINAL, State
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS
from diffusion_local.queue.batches import BatchProgress
from diffusion_local.web.ui import addresses
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import ask, button, item, menu, moment, pictures, text
from diffusion_local.web.ui.words import say

BATCHES_PER_PAGE = 20
#: Options of queued jobs that the panel edits: the size, and the options in Create's row of numbers.
EDITABLE_SETTINGS = ("size", *(name for name, option in OPTIONS.items() if option.place == "numbers"))
#: All fields of the panel, except those that schedule the batch (``BATCH_OPTIONS``).
EDITABLE_COLUMNS = ("prompt", "model", *EDITABLE_SETTINGS)


def batches(found: Sequence[BatchProgress], cursors: Sequence[str], now: datetime) -> str:
    """A page of batches.

    ``found`` has one batch more than a page if there is a next one; ``cursors``: the last batch id of each page before.
    """
    shown = found[:BATCHES_PER_PAGE]
    head = f'<header><h2>{say("lists.batches")}</h2><div class="acts">{file_menu()}</div></header>'
    if not shown:
        return whole(f"{head}{nothing(bool(cursors))}{pager(cursors, '')}")
    lines = "".join(row(each, now) for each in shown)
    last = shown[-1].batch.id if len(found) > BATCHES_PER_PAGE else ""
    return whole(f"{head}<ul>{lines}</ul>{pager(cursors, last)}")


def whole(inside: str) -> str:
    return f'<section class="rows batches" data-key="batches">{inside}</section>'


def nothing(older: bool) -> str:
    if older:
        return f'<div class="invite"><h2>{say("lists.no_older")}</h2></div>'
    example = say("lists.example", choice="{red|blue|green}")
    fill = f'<button type="button" class="act" data-fill="{text(example)}">{say("lists.fill")}</button>'
    return (
        f'<div class="invite"><h2>{say("lists.empty")}</h2><p>{say("lists.empty_how")}</p>'
        f'<div class="chips">{fill}</div></div>'
    )


def pager(cursors: Sequence[str], last: str) -> str:
    if not cursors and not last:
        return ""
    newer = button(say("gallery.newer"), "batches_at", " ".join(cursors[:-1])) if cursors else ""
    older = button(say("gallery.older"), "batches_at", " ".join([*cursors, last])) if last else ""
    return f'<nav class="pager" aria-label="{say("gallery.pages")}"><span>{newer}</span><span>{older}</span></nav>'


def file_menu() -> str:
    items = [
        link(say("lists.night"), serializers.report_url(), opens=True),
        link(say("lists.queue_file"), serializers.queue_url("file")),
        f'<button type="button" class="act" data-import="queue">{say("lists.import")}</button>',
        link(say("lists.waiting_csv"), serializers.queue_url("export?format=csv")),
        link(say("lists.waiting_jsonl"), serializers.queue_url("export?format=jsonl")),
    ]
    return menu("queue-files", say("lists.files"), items, f'{say("lists.files")} <span aria-hidden="true">▾</span>')


def link(words: str, url: str, opens: bool = False) -> str:
    """A menu entry that downloads a file, or with ``opens`` opens it in a new tab."""
    way = ' target="_blank" rel="noopener"' if opens else " download"
    return f'<a class="act" href="{text(url)}"{way}>{words}</a>'


# -- a batch --------------------------------------------------------------------------------------------------------


def row(each: BatchProgress, now: datetime) -> str:
    batch = each.batch
    ended = sum(each.counts[state] for state in FINAL)
    total = sum(each.counts.values())  # without ended jobs that were removed since
    state = "ended" if ended == total else "held" if batch.paused else "going"
    owner = f" · {text(batch.owner)}" if batch.owner else ""
    meta = f'<span class="meta">{counted(each)}{owner}</span>'
    return (
        f'<li class="batch-line {state}" data-key="{batch.id}"><div class="about">'
        f'<span class="title">{text(batch.name)}</span>{meta}{bar(each, ended, total)}{why(each, now)}</div>'
        f'<div class="state">{standing(each, ended, total)}</div><div class="acts">{acts(each)}</div></li>'
    )


def counted(each: BatchProgress) -> str:
    done, total = each.counts[State.DONE], sum(each.counts.values())
    words = [say("lists.done_of", done=done, n=total)]
    for state, key in ((State.FAILED, "lists.n_failed"), (State.CANCELLED, "lists.n_cancelled")):
        if each.counts[state]:
            kind = "bad" if state is State.FAILED else "quiet"
            words.append(f'<span class="{kind}">{say(key, n=each.counts[state])}</span>')
    return " · ".join(words)


def bar(each: BatchProgress, ended: int, total: int) -> str:
    if ended == total:
        return ""
    percent = round(100 * ended / total, 1)
    return (
        f'<div class="bar" data-key="bar-{each.batch.id}" role="progressbar" aria-label="{say("common.progress")}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:g}"><i style="width:{percent:g}%"></i></div>'
    )


def why(each: BatchProgress, now: datetime) -> str:
    """What a batch waits for, its deadline, and whether it will miss that."""
    batch, told = each.batch, []
    waits = each.counts[State.QUEUED]
    if waits and batch.start_at and datetime.fromisoformat(batch.start_at) > now:
        told.append(say("lists.starts_at", time=moment(batch.start_at)))
    if waits and batch.window:
        told.append(say("lists.only_in", window=text(batch.window)))
    if waits and batch.finish_by and not each.warning:
        told.append(say("lists.by", time=moment(batch.finish_by)))
    quiet = f'<span class="meta">{" · ".join(told)}</span>' if told else ""
    late = say("lists.late", time=moment(batch.finish_by)) if each.warning and batch.finish_by else ""
    return quiet + (f'<span class="meta late">{late}</span>' if late else "")


def standing(each: BatchProgress, ended: int, total: int) -> str:
    if ended == total:
        return f'<span class="quiet">{say("lists.ended")}</span>'
    if each.batch.paused:
        return f"<span>{say('common.held')}</span>"
    first = say("lists.running") if each.counts[State.RUNNING] else say("common.waiting")
    done = f'<span class="quiet">{say("lists.done_about", time=moment(each.done_at))}</span>' if each.done_at else ""
    return f"<span>{first}</span>{done}"


def acts(each: BatchProgress) -> str:
    """The most likely action as a button, and the menu with all others."""
    batch = each.batch
    first = ""
    if batch.paused and each.counts[State.QUEUED]:
        first = button(say("common.resume"), "resume_batch", batch.id, "small")
    elif each.counts[State.DONE]:
        first = pictures_link(batch.id)
    return first + menu(f"batch-{batch.id}", say("queue.more_about", prompt=batch.name), items_of(each))


def pictures_link(batch_id: str) -> str:
    return f'<a class="act" href="{addresses.address("gallery", batch=batch_id)}">{say("lists.pictures")}</a>'


def items_of(each: BatchProgress, files: bool = True) -> list[str]:
    """Entries of a batch's menu. ``files``: whether to include downloads."""
    batch, counts = each.batch, each.counts
    key, waits = batch.id, counts[State.QUEUED]
    items = []
    if waits or counts[State.RUNNING]:
        way, verb = ("common.resume", "resume_batch") if batch.paused else ("common.pause", "pause_batch")
        items.append(item(say(way), verb, key))
    if waits:
        items += [
            item(say("lists.edit"), "batch_panel", key),
            item(say("queue.raise"), "batch_up", key, stay=True),
            item(say("queue.lower"), "batch_down", key, stay=True),
        ]
    items.append(button(say("lists.rename"), "batch_rename", key, extra=ask(say("lists.name_of_batch"), batch.name)))
    items.append(item(say("lists.duplicate"), "batch_duplicate", key))
    if counts[State.FAILED]:
        items.append(item(say("lists.again_failed", n=counts[State.FAILED]), "batch_again", key))
    if counts[State.DONE]:
        items.append(pictures_link(key))
    if counts[State.DONE] and files:
        items += [
            link(say("lists.sheet"), serializers.batch_url(key, "sheet.webp"), opens=True),
            link(say("gallery.zip"), serializers.batch_url(key, "zip")),
        ]
    items.append(link(say("lists.report"), serializers.report_url(key), opens=True))
    if files:
        items += [
            link(say("lists.export_csv"), serializers.batch_url(key, "export?format=csv")),
            link(say("lists.export_jsonl"), serializers.batch_url(key, "export?format=jsonl")),
        ]
    if waits or counts[State.RUNNING]:
        sure = say("lists.cancel_sure", pictures=pictures(waits + counts[State.RUNNING]))
        items.append(item(say("lists.cancel"), "cancel_batch", key, sure=sure))
    return items


# -- the panel ------------------------------------------------------------------------------------------------------


def panel(each: BatchProgress, models: Sequence[Model], shown: Mapping[str, str], problem: str = "") -> str:
    """The dialog to edit a batch's queued jobs; ``live.js`` sends its fields with the button.

    ``shown``: the current value of each field, "" where the jobs differ.
    """
    return render(
        "batch_panel.html",
        each=each,
        waits=each.counts[State.QUEUED],
        models=[one for one in models if one.ready],
        shown=shown,
        settings=EDITABLE_SETTINGS,
        times=BATCH_OPTIONS,
        problem=problem,
    )
