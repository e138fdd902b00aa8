"""The Queue tab as HTML: a toolbar, filters, and collapsible batches, each with a window of its jobs. Pure, like
``view``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from diffusion_local import serializers
from diffusion_local.domain import FINAL, Snapshot, State
from diffusion_local.queue.groups import STATE_FILTERS, Group, JobWindow, ListPosition
from diffusion_local.web.ui import view_batches
from diffusion_local.web.ui.addresses import QueueState, written
from diffusion_local.web.ui.view import button, duration, item, menu, moment, report_link, text
from diffusion_local.web.ui.view_queue_rows import Around, row
from diffusion_local.web.ui.view_stage import Images
from diffusion_local.web.ui.words import say

#: Segments of a batch's progress bar, from left to right.
BAR_STATES = (State.DONE, State.FAILED, State.CANCELLED, State.RUNNING)
MOST_MODELS = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """A batch on the page. ``window``: its visible jobs, None if it is collapsed; ``alone``: it has a single job."""

    group: Group
    window: JobWindow | None
    alone: bool


def turn(words: str, verb: str, key: str = "", value: str = "", kind: str = "small", more: str = "") -> str:
    """A button with which ``queue.js`` changes the state of the tab in the browser. ``words``, ``more``: HTML."""
    return (
        f'<button type="button" class="act {kind}" data-turn="{verb}" data-id="{text(key)}" data-value="{text(value)}"'
        f"{more}>{words}</button>"
    )


def group(
    shown: Shown, place: QueueState, around: Around, above: Group | None = None, below: Group | None = None
) -> str:
    """A batch with its visible jobs, or just the job if it is alone.

    ``above`` and ``below``: the batch's neighbours on this page, with which it may change places.
    """
    window, each = shown.window, shown.group
    if shown.alone:
        return "".join(row(job, around, several=False) for job in window.jobs) if window else ""
    batch = each.progress.batch
    rows = ""
    if window:
        lines = "".join(row(job, around) for job in window.jobs)
        rows = f'<ul data-key="jobs-{batch.id}">{lines}</ul>{group_pager(shown, window, place)}'
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
    """A progress bar with a segment per outcome; "" if all jobs have ended."""
    counts = each.progress.counts
    ended = sum(counts[state] for state in FINAL)
    if ended == total:
        return ""
    parts = "".join(
        f'<i class="{state}" data-key="{state}" style="width:{100 * counts[state] / total:.2f}%"></i>'
        for state in BAR_STATES
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
    """Menu entries that move a batch. Only batches of the same owner and lane can change places."""
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


def group_pager(shown: Shown, window: JobWindow, place: QueueState) -> str:
    """Navigation below a batch's visible jobs; "" if it has no others."""
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


@dataclass(frozen=True, slots=True)
class Page:
    """The batches of a page, and whether there are more after them."""

    shown: Sequence[Shown]
    more: bool = False


def queue(
    snapshot: Snapshot,
    place: QueueState,
    live: Page,
    ended: Page,
    others: int,
    choices: Mapping[str, Sequence[str]],
    images: Images,
    now: datetime,
) -> str:
    """The whole tab.

    ``live`` and ``ended``: a page of unfinished and of finished batches; ``others``: number of queued jobs that the
    account may not see; ``choices``: models and owners for the filters; ``images``: pictures by job id.
    """
    around = Around.of(snapshot, images, now)
    hidden = "".join(row(job, around) for job in snapshot.running if job.hidden)
    groups = [each.group for each in live.shown]
    first = "" if place.wanted else hidden
    for number, shown in enumerate(live.shown):
        above = groups[number - 1] if number else None
        below = groups[number + 1] if number + 1 < len(groups) else None
        first += group(shown, place, around, above, below)
    if others and not place.wanted:
        first += f'<li class="quiet more" data-key="others">{say("queue.others_wait", n=others)}</li>'
    last = "".join(group(shown, place, around) for shown in ended.shown)
    body = section("live", first, pager("live", place.live, live))
    body += section("ended", last, pager("ended", place.ended, ended), ended_acts(snapshot))
    if not (first or last):
        body = nothing(place)
    bars = filters(place, choices) if place.wanted or first or last else ""
    return (
        f'<div class="toolbar" data-key="toolbar"><span class="quiet">{summary(snapshot)}</span>'
        f"<div>{toolbar(snapshot)}</div></div>{bars}{body}{selection_bar()}"
    )


def nothing(place: QueueState) -> str:
    title, how, act = "queue.empty", "queue.empty_how", ""
    if place.wanted or place.live or place.ended:
        title, how = "queue.no_match", "queue.no_match_how"
        act = f'<div class="chips">{turn(say("queue.clear_filters"), "clear", kind="")}</div>'
    return f'<div class="invite" data-key="nothing"><h2>{say(title)}</h2><p>{say(how)}</p>{act}</div>'


def summary(snapshot: Snapshot) -> str:
    running, waiting = len(snapshot.running), snapshot.counts[State.QUEUED]
    if not (running or waiting):
        return ""  # the list itself says that the queue is empty
    words = [say("queue.n_running", n=running), say("queue.n_waiting", n=waiting)]
    if snapshot.total_eta is not None:
        words.append(say("queue.of_work", time=duration(snapshot.total_eta)))
    return " · ".join(words)


def toolbar(snapshot: Snapshot) -> str:
    acts, waiting = "", snapshot.counts[State.QUEUED]
    if not snapshot.paused:  # otherwise the status bar has the button to resume
        ways = [item(say("queue.pause_after"), "pause"), item(say("queue.pause_now"), "pause_now")]
        more = menu("pause", say("queue.ways_to_pause"), ways, "▾")
        acts = f'<span class="split">{button(say("common.pause"), "pause")}{more}</span>'
    if waiting:
        sure = say("queue.cancel_all_sure", pictures=say("common.waiting_pictures", n=waiting))
        acts += button(say("queue.cancel_all"), "cancel_waiting", sure=sure)
    return acts


# -- filters --------------------------------------------------------------------------------------------------------


def filters(place: QueueState, choices: Mapping[str, Sequence[str]]) -> str:
    wanted = place.wanted
    states = [(name, say(f"queue.state_{name}")) for name in STATE_FILTERS]
    menus = choice("state", say("queue.state"), wanted.state, states)
    for name in ("model", "owner"):
        now, given = getattr(wanted, name), [each for each in choices[name] if each]
        if now or len(choices[name]) > 1:
            menus += choice(name, say(f"queue.{name}"), now, [(each, each) for each in given])
    clear = turn(say("queue.clear_filters"), "clear", kind="chip small quiet-act") if wanted else ""
    hint = say("queue.search")
    return (
        f'<div class="filters" data-key="filters" role="group" aria-label="{say("gallery.filters")}">'
        f'<input type="search" class="field" data-key="text" data-wanted="text" value="{text(wanted.text)}" '
        f'placeholder="{hint}" '
        f'aria-label="{hint}" autocomplete="off" maxlength="200">{menus}{clear}</div>'
    )


def choice(name: str, title: str, now: str, choices: Sequence[tuple[str, str]]) -> str:
    """A filter as a menu labelled with the selected choice. ``choices``: (value, label)."""
    shown = next((words for value, words in choices if value == now), now or title)
    items = [turn(text(words), name, value=value, kind="") for value, words in choices]
    if now:
        items.insert(0, turn(say("gallery.any"), name, kind=""))
    face = f'<span class="face">{text(shown)}</span> <span aria-hidden="true">▾</span>'
    on = " on" if now else ""
    return f'<span class="choice{on}" data-key="choice-{name}">{menu(f"wanted-{name}", title, items, face)}</span>'


# -- sections -------------------------------------------------------------------------------------------------------


def section(name: str, items: str, after: str = "", acts: str = "") -> str:
    if not items and not after:
        return ""
    return (
        f'<section class="rows batched" data-key="{name}"><header><h2>{say(f"queue.{name}")}</h2>'
        f'<div class="acts">{acts}</div></header><ul class="groups">{items}</ul>{after}</section>'
    )


def pager(name: str, behind: Sequence[object], page: Page) -> str:
    """Navigation between pages of batches. ``behind``: the cursors of the pages before this one."""
    if not behind and not page.more:
        return ""
    back = turn(say("queue.batches_before"), "back", name, kind="") if behind else ""
    if len(behind) > 1:
        back = turn(say("queue.batches_first"), "first", name, kind="") + back
    ahead = ""
    if page.more:
        last = page.shown[-1].group
        token = written(last.turn) if last.turn else last.progress.batch.id
        ahead = turn(say("queue.batches_behind"), "ahead", name, token, kind="")
    label = say("gallery.pages")
    return (
        f'<nav class="pager" data-key="pager-{name}" aria-label="{label}"><span>{back}</span><span>{ahead}</span></nav>'
    )


def ended_acts(snapshot: Snapshot) -> str:
    failed = snapshot.counts[State.FAILED]
    ended = sum(count for state, count in snapshot.counts.items() if state in FINAL)
    acts = ""
    if failed:
        sure = say("queue.again_all_sure", pictures=say("common.failed_pictures", n=failed))
        acts = button(say("queue.again_all", n=failed), "again_failed", kind="small", sure=sure)
    if ended:
        sure = say("queue.clear_ended_sure", pictures=say("common.ended_pictures", n=ended))
        acts += button(say("queue.clear_ended"), "forget_ended", kind="small", sure=sure)
        acts = report_link(serializers.report_url(), say("queue.night_report")) + acts
    return acts


def selection_bar() -> str:
    """The bar that ``live.js`` shows while rows are selected; its buttons send the ids of all of them."""
    many, last = " data-many", " data-many data-unpick"
    return (
        f'<div class="picked" data-picked data-key="picked" role="toolbar" aria-label="{say("queue.selected")}" hidden>'
        f'<span class="count" role="status" data-words="{say("queue.n_selected")}"></span>'
        + button(say("queue.to_front"), "move_top", kind="small", extra=many)
        + button(say("queue.to_back"), "move_bottom", kind="small", extra=many)
        + '<span class="priority">'
        + priority_button("−", "priority_down", say("queue.lower"))
        + f"<span>{say('queue.priority')}</span>"
        + priority_button("+", "priority_up", say("queue.raise"))
        + "</span>"
        + button(say("common.again"), "again_these", kind="small", extra=last)
        + button(say("common.cancel"), "cancel_these", kind="small", extra=last)
        + f'<button type="button" class="act small" data-unpick>{say("queue.clear_selection")}</button></div>'
    )


def priority_button(sign: str, verb: str, label: str) -> str:
    return button(sign, verb, kind="small", title=label, extra=f' data-many aria-label="{label}"')
