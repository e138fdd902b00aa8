"""The Queue tab as HTML: toolbar and filters, batches with work left and ended ones, the bar of a selection. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from diffusion_local import serializers
from diffusion_local.domain import FINAL, Snapshot, State
from diffusion_local.queue.groups import STATES
from diffusion_local.web.ui.place_queue import QueuePlace, written
from diffusion_local.web.ui.view import button, duration, item, menu, report_link, text
from diffusion_local.web.ui.view_queue_groups import Shown, group, turn
from diffusion_local.web.ui.view_queue_rows import Around, row
from diffusion_local.web.ui.view_stage import Images
from diffusion_local.web.ui.words import say

__all__ = ["Page", "Shown", "queue"]


@dataclass(frozen=True, slots=True)
class Page:
    """Batches of one page, and whether there are more behind them."""

    shown: Sequence[Shown]
    more: bool = False


def queue(
    snapshot: Snapshot,
    place: QueuePlace,
    live: Page,
    ended: Page,
    others: int,
    choices: Mapping[str, Sequence[str]],
    images: Images,
    now: datetime,
) -> str:
    """The whole tab. ``others``: how many jobs wait that may not be looked at; ``choices`` of the filters."""
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


def nothing(place: QueuePlace) -> str:
    title, how, act = "queue.empty", "queue.empty_how", ""
    if place.wanted or place.live or place.ended:
        title, how = "queue.no_match", "queue.no_match_how"
        act = f'<div class="chips">{turn(say("queue.clear_filters"), "clear", kind="")}</div>'
    return f'<div class="invite" data-key="nothing"><h2>{say(title)}</h2><p>{say(how)}</p>{act}</div>'


def summary(snapshot: Snapshot) -> str:
    running, waiting = len(snapshot.running), snapshot.counts[State.QUEUED]
    if not (running or waiting):
        return say("queue.nothing")
    words = [say("queue.n_running", n=running), say("queue.n_waiting", n=waiting)]
    if snapshot.total_eta is not None:
        words.append(say("queue.of_work", time=duration(snapshot.total_eta)))
    return " · ".join(words)


def toolbar(snapshot: Snapshot) -> str:
    acts, waiting = "", snapshot.counts[State.QUEUED]
    if not snapshot.paused:  # the notice above offers to resume
        ways = [item(say("queue.pause_after"), "pause"), item(say("queue.pause_now"), "pause_now")]
        more = menu("pause", say("queue.ways_to_pause"), ways, "▾")
        acts = f'<span class="split">{button(say("common.pause"), "pause")}{more}</span>'
    if waiting:
        sure = say("queue.cancel_all_sure", pictures=say("common.waiting_pictures", n=waiting))
        acts += button(say("queue.cancel_all"), "cancel_waiting", sure=sure)
    return acts


# -- filters --------------------------------------------------------------------------------------------------------


def filters(place: QueuePlace, choices: Mapping[str, Sequence[str]]) -> str:
    wanted = place.wanted
    states = [(name, say(f"queue.state_{name}")) for name in STATES]
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
    """One of several; the chosen one is the menu's face."""
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
    """Between pages of batches."""
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
    """Shown by ``live.js`` while rows are ticked; its buttons send all their ids."""
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
