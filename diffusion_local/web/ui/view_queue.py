"""The Queue tab as HTML: its toolbar, rows with their menus, and the bar of a selection. Pure, like ``view``."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime

from diffusion_local import shapes
from diffusion_local.domain import FINAL, Image, Job, Snapshot, State
from diffusion_local.web.ui.view import (
    bar,
    button,
    duration,
    facts,
    item,
    menu,
    moment,
    picture_link,
    report_link,
    standing,
    text,
    why,
)
from diffusion_local.web.ui.view_jobs import Images, places
from diffusion_local.web.ui.words import say


def queue(snapshot: Snapshot, images: Images, now: datetime) -> str:
    """The whole tab."""
    order, together = places(snapshot), batches_of_several(snapshot)
    eta = {} if snapshot.paused or snapshot.reason else snapshot.eta  # nobody knows how long it is held
    running = "".join(row(job, None, snapshot.eta.get(job.id), None, together) for job in snapshot.running)
    first = "".join(row(job, None, eta.get(job.id), order[job.id], together) for job in snapshot.waiting)
    ended = "".join(row(job, images.get(job.id), None, None, together) for job in snapshot.ended)
    waiting = snapshot.counts[State.QUEUED]
    behind = waiting - len(snapshot.waiting)
    if behind > 0:
        first += f'<li class="quiet more" data-key="more">{say("queue.behind", n=behind)}</li>'
    empty = ""
    if not (snapshot.running or waiting or snapshot.ended):
        empty = f'<div class="invite"><h2>{say("queue.empty")}</h2><p>{say("queue.empty_how")}</p></div>'
    return (
        f'<div class="toolbar"><span class="quiet">{summary(snapshot)}</span><div>{toolbar(snapshot)}</div></div>'
        + empty
        + section("running", running)
        + section("waiting", first, after=selection_bar() if first else "")
        + section("ended", ended, ended_acts(snapshot))
    )


def batches_of_several(snapshot: Snapshot) -> set[str]:
    """Batches of which more than one job can be seen, or must be there."""
    jobs = [*snapshot.running, *snapshot.waiting, *snapshot.ended]
    seen = Counter(job.batch_id for job in jobs)
    return {job.batch_id for job in jobs if job.index > 0 or seen[job.batch_id] > 1}


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


def section(name: str, items: str, acts: str = "", after: str = "") -> str:
    if not items:
        return ""
    return (
        f'<section class="rows" data-key="{name}"><header><h2>{say(f"queue.{name}")}</h2>'
        f'<div class="acts">{acts}</div></header>'
        f"<ul>{items}</ul>{after}</section>"
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
        acts = report_link(shapes.report_url(), say("queue.night_report")) + acts
    return acts


def selection_bar() -> str:
    """Shown by ``live.js`` while rows are ticked; its buttons send all their ids."""
    many = " data-many"
    return (
        f'<div class="picked" data-picked data-key="picked" role="toolbar" aria-label="{say("queue.selected")}" hidden>'
        f'<span class="count" role="status" data-words="{say("queue.n_selected")}"></span>'
        + button(say("queue.move_top"), "move_top", kind="small", extra=many)
        + '<span class="priority">'
        + priority_button("−", "priority_down", say("queue.lower"))
        + f"<span>{say('queue.priority')}</span>"
        + priority_button("+", "priority_up", say("queue.raise"))
        + "</span>"
        + button(say("common.cancel"), "cancel_these", kind="small", extra=many)
        + f'<button type="button" class="act small" data-unpick>{say("queue.clear_selection")}</button></div>'
    )


def priority_button(sign: str, verb: str, label: str) -> str:
    return button(sign, verb, kind="small", title=label, extra=f' data-many aria-label="{label}"')


# -- rows -----------------------------------------------------------------------------------------------------------


def row(
    job: Job,
    image: Image | None,
    eta: float | None = None,
    position: int | None = None,
    together: Collection[str] = (),
) -> str:
    """One job as a line of the queue. ``together`` are the batches of more than one."""
    if job.hidden:
        return row_of_another(job, eta, position)
    detail = f'<span class="meta">{priority(job)}{facts(job.params)} · {text(job.params.model)}</span>'
    if job.state is State.FAILED:
        detail = f'<span class="meta bad">{why(job)}</span>'
    elif job.state is State.RUNNING:
        detail += bar(job)
    when = (
        moment(job.finished_at)
        if job.finished_at
        else ""
        if eta is None or job.held or job.not_before
        else duration(eta)
    )
    return (
        f'<li class="line {job.state}" data-key="{job.id}">{thumb(job, image)}'
        f'<div class="about"><span class="title">{text(job.params.prompt)}</span>{detail}</div>'
        f'<div class="state"><span>{standing(job, position)}</span><span class="quiet">{when}</span></div>'
        f'<div class="acts">{main_act(job)}{row_menu(job, job.batch_id in together)}</div></li>'
    )


def row_of_another(job: Job, eta: float | None, position: int | None) -> str:
    """Somebody's job: that it is there and how far it is, nothing to press."""
    detail = bar(job) if job.state is State.RUNNING else ""
    when = "" if eta is None or job.held or job.not_before else duration(eta)
    return (
        f'<li class="line {job.state}" data-key="{job.id}"><div class="thumb" data-key="thumb-{job.id}"></div>'
        f'<div class="about"><span class="title quiet">{say("queue.someones")}</span>{detail}</div>'
        f'<div class="state"><span>{standing(job, position)}</span><span class="quiet">{when}</span></div></li>'
    )


def priority(job: Job) -> str:
    return (
        say("queue.priority_at", priority=f"{job.priority:+d}") + " · "
        if job.priority and job.state is State.QUEUED
        else ""
    )


def thumb(job: Job, image: Image | None) -> str:
    """The picture, its preview, or the box that selects a waiting row."""
    if job.state is State.QUEUED:
        name = say("queue.select", prompt=text(job.params.prompt))
        return (
            f'<label class="thumb pick" data-key="pick-{job.id}"><input type="checkbox" data-pick="{job.id}" '
            f'aria-label="{name}"></label>'
        )
    inside = ""
    if image:
        inside = picture_link(image, job.params.prompt)
    elif job.state is State.RUNNING and job.step:
        inside = f'<img src="{shapes.preview_url(job.id, job.step)}" alt="">'
    return f'<div class="thumb" data-key="thumb-{job.id}">{inside}</div>'


def main_act(job: Job) -> str:
    if job.final:
        return button(say("common.again"), "again", job.id, "small")
    if job.held and job.state is State.QUEUED:
        return button(say("common.resume"), "resume_batch", job.batch_id, "small")
    return "" if job.cancel_requested else button(say("common.cancel"), "cancel", job.id, "small")


def row_menu(job: Job, several: bool) -> str:
    items = [item(say("queue.what_happened"), "what_happened", job.id)]
    if job.final:
        items += [item(say("common.use_recipe"), "recipe_of_job", job.id), item(say("queue.remove"), "forget", job.id)]
    if job.state is State.QUEUED:
        items = [
            item(say("queue.move_top"), "move_top", job.id),
            item(say("queue.move_up"), "move_up", job.id, stay=True),
            item(say("queue.move_down"), "move_down", job.id, stay=True),
            *items,
        ]
    if not job.final:
        items += batch_items(job, several)
    if job.state is State.QUEUED and job.held:
        items.append(item(say("common.cancel"), "cancel", job.id))
    return menu(f"menu-{job.id}", say("queue.more_about", prompt=job.params.prompt), items)


def batch_items(job: Job, several: bool) -> list[str]:
    """Pause and cancel what was submitted together."""
    it = "batch" if several else "picture"
    if job.held:
        items = [item(say(f"queue.resume_{it}"), "resume_batch", job.batch_id)]
    else:
        items = [item(say(f"queue.pause_{it}"), "pause_batch", job.batch_id)]
        if job.state is State.RUNNING:
            items = [item(say(f"queue.pause_{it}_back"), "pause_batch_now", job.batch_id)]
            if several:
                items = [item(say("queue.pause_batch_after"), "pause_batch", job.batch_id), *items]
    if several:
        sure = say("queue.cancel_batch_sure")
        items.append(item(say("queue.cancel_batch"), "cancel_batch", job.batch_id, sure=sure))
    return items
