"""Jobs as rows of the queue, with their menus. Pure, like ``view``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from diffusion_local import serializers
from diffusion_local.domain import Image, Job, Snapshot, State
from diffusion_local.web.ui.view import (
    bar,
    button,
    duration,
    facts,
    item,
    menu,
    moment,
    picture_link,
    standing,
    text,
    why,
)
from diffusion_local.web.ui.view_now import shut
from diffusion_local.web.ui.view_stage import Shot, places
from diffusion_local.web.ui.words import say


@dataclass(frozen=True, slots=True)
class Around:
    """What a row shows besides its job. All mappings are by job id.

    ``order``: positions in the queue, from 1; ``eta``: remaining seconds; ``passed``: jobs that others overtake because
    their model is loaded.
    """

    snapshot: Snapshot
    now: datetime
    images: Mapping[str, Image] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)
    eta: Mapping[str, float] = field(default_factory=dict)
    passed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, snapshot: Snapshot, images: Mapping[str, Image], now: datetime) -> "Around":
        held = snapshot.paused or snapshot.reason  # for an unknown time, so queued jobs have no estimate
        running = {job.id: snapshot.eta[job.id] for job in snapshot.running if job.id in snapshot.eta}
        eta = running if held else snapshot.eta
        return cls(snapshot, now, images, places(snapshot), eta, passed_over(snapshot.waiting))


def passed_over(waiting: Iterable[Job]) -> frozenset[str]:
    """Ids of jobs that jobs of the same owner overtake because these need another, loaded model.

    ``waiting``: queued jobs in the order in which they will run.
    """
    furthest: dict[tuple[str, int, str], tuple[int, str]] = {}
    found = set()
    for job in waiting:
        group = (str(job.lane), job.priority, job.owner)
        position, model = furthest.get(group, (job.position, job.params.model))
        if position > job.position and model != job.params.model:
            found.add(job.id)
        if position <= job.position:
            furthest[group] = (job.position, job.params.model)
    return frozenset(found)


def row(job: Job, around: Around, several: bool = True) -> str:
    """A job as a row of the queue; ``several``: its batch has more than one job."""
    if job.hidden:
        return row_of_another(job, around)
    detail = f'<span class="meta">{priority(job)}{facts(job.params)} · {model_of(job, several)}</span>'
    if job.state is State.FAILED:
        detail += f'<span class="meta bad">{why(job)}</span>'
    elif job.state is State.RUNNING:
        detail += bar(job)
    return (
        f'<li class="line {job.state}" data-key="{job.id}">{tick(job)}{thumb(job, around.images.get(job.id), several)}'
        f'<div class="about"><span class="title">{text(job.params.prompt)}</span>{detail}</div>'
        f'<div class="state"><span>{standing(job, around.order.get(job.id))}</span>{when(job, around)}</div>'
        f'<div class="acts">{main_act(job, several)}{row_menu(job, several)}</div></li>'
    )


def row_of_another(job: Job, around: Around) -> str:
    """The row of another account's running job: only its progress, without buttons."""
    return (
        f'<li class="line {job.state}" data-key="{job.id}"><span class="tick"></span>'
        f'<div class="thumb" data-key="thumb-{job.id}"></div>'
        f'<div class="about"><span class="title quiet">{say("queue.someones")}</span>{bar(job)}</div>'
        f'<div class="state"><span>{standing(job)}</span>{when(job, around)}</div></li>'
    )


def model_of(job: Job, several: bool) -> str:
    """The model; for the only job of a batch also its owner."""
    owner = "" if several or not job.owner else f" · {text(job.owner)}"
    return text(job.params.model or job.params.upscaler) + owner


def when(job: Job, around: Around) -> str:
    """When a job ended, its remaining time, or what it waits for."""
    eta, words = around.eta.get(job.id), ""
    if job.finished_at:
        words = moment(job.finished_at)
    elif job.held or job.not_before:
        words = ""
    elif job.state is State.QUEUED and shut(job, around.snapshot):
        opens = around.snapshot.opens[job.gate]
        words = say("queue.opens_at", time=moment(opens)) if opens else say("queue.opens_never")
    elif job.id in around.passed:
        words = say("queue.model_first")
    elif eta is not None:
        words = say("common.left", time=duration(eta)) if job.state is State.RUNNING else duration(eta)
    return f'<span class="quiet">{words}</span>'


def priority(job: Job) -> str:
    waits = job.priority and job.state is State.QUEUED
    return say("queue.priority_at", priority=f"{job.priority:+d}") + " · " if waits else ""


def tick(job: Job) -> str:
    name = say("queue.select", prompt=text(job.params.prompt))
    return (
        f'<label class="tick" data-key="pick-{job.id}"><input type="checkbox" data-pick="{job.id}" '
        f'aria-label="{name}"></label>'
    )


def thumb(job: Job, image: Image | None, several: bool) -> str:
    """The picture or the preview of a job; without either its number in the batch."""
    inside = f'<span aria-hidden="true">{job.index + 1:,}</span>' if several else ""
    if image:
        inside = picture_link(image, job.params.prompt)
    elif job.state is State.RUNNING and job.step:
        inside = f'<img src="{serializers.preview_url(job.id, job.step)}" alt="">'
    return f'<div class="thumb" data-key="thumb-{job.id}">{inside}</div>'


def main_act(job: Job, several: bool) -> str:
    if Shot(job.id, job.params, str(job.state), job).mend:
        return button(say("create.again_auto"), "again_auto", job.id, "small")
    if job.final:
        words = "common.rerun" if job.state is State.DONE else "common.again"
        return button(say(words), "again", job.id, "small")
    if job.held and job.state is State.QUEUED and not several:  # otherwise the batch's header has this button
        return button(say("common.resume"), "resume_batch", job.batch_id, "small")
    return "" if job.cancel_requested else button(say("common.cancel"), "cancel", job.id, "small")


def row_menu(job: Job, several: bool) -> str:
    items = [item(say("queue.what_happened"), "what_happened", job.id)]
    if job.final:
        if Shot(job.id, job.params, str(job.state), job).mend:
            items.append(item(say("common.again"), "again", job.id))
        items += [item(say("common.use_recipe"), "recipe_of_job", job.id), item(say("queue.remove"), "forget", job.id)]
    if job.state is State.QUEUED:
        items = [
            item(say("queue.move_top"), "move_top", job.id),
            item(say("queue.move_up"), "move_up", job.id, stay=True),
            item(say("queue.move_down"), "move_down", job.id, stay=True),
            item(say("queue.move_bottom"), "move_bottom", job.id),
            *items,
        ]
    if not job.final:
        items += batch_items(job, several)
    if job.state is State.QUEUED and job.held and not several:
        items.append(item(say("common.cancel"), "cancel", job.id))
    return menu(f"menu-{job.id}", say("queue.more_about", prompt=job.params.prompt), items)


def batch_items(job: Job, several: bool) -> list[str]:
    """Menu entries that pause, resume or cancel the job's whole batch."""
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
