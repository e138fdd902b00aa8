"""Jobs as HTML: the cards of Create and the rows of Queue. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby

from diffusion_local import shapes
from diffusion_local.domain import FINAL, Image, Job, Snapshot, State
from diffusion_local.web.ui.view import (
    bar,
    button,
    counted,
    duration,
    facts,
    moment,
    picture_link,
    state_words,
    text,
    why,
    worker_notice,
)

#: Cards of one press; the rest of a long one is told as a number.
MOST_CARDS = 24
EXAMPLES = ("a red apple", "a blue heart", "a yellow star", "a green tree")

Images = Mapping[str, Image]


def places(snapshot: Snapshot) -> dict[str, int]:
    return {job.id: place for place, job in enumerate(snapshot.waiting, start=1)}


def created(jobs: Sequence[Job], images: Images, snapshot: Snapshot, now: datetime) -> str:
    """Create's lower half: this browser's latest presses, or an invitation."""
    told = worker_notice(snapshot, now)
    if not jobs:
        return told + invitation()
    order = places(snapshot)
    batches = [list(group) for _, group in groupby(jobs, key=lambda job: job.batch_id)]
    return told + "".join(batch(each, images, snapshot.eta, order) for each in batches)


def invitation() -> str:
    chips = "".join(button(text(each), "example", each, "chip") for each in EXAMPLES)
    return (
        '<div class="invite"><h2>Your pictures appear here</h2>'
        "<p>Describe one above and press Generate, or start with one of these:</p>"
        f'<div class="chips">{chips}</div></div>'
    )


def batch(jobs: Sequence[Job], images: Images, eta: Mapping[str, float], order: Mapping[str, int]) -> str:
    """One press of Generate."""
    first = jobs[0].params
    unfinished = [job for job in jobs if job.state not in FINAL]
    done = sum(job.state is State.DONE for job in jobs)
    words = [f"{done} of {len(jobs)}"] if len(jobs) > 1 and unfinished else []
    ends = [eta[job.id] for job in unfinished if job.id in eta]
    if unfinished and len(ends) == len(unfinished):
        words.append(duration(max(ends)) + " left")
    act = ""
    if unfinished:
        act = button("Cancel", "cancel_batch", jobs[0].batch_id, "small")
    elif any(job.state is State.DONE for job in jobs):
        act = button("Use this recipe", "recipe_of_job", jobs[0].id, "small")
    cards = "".join(card(job, images.get(job.id), eta.get(job.id), order.get(job.id)) for job in jobs[:MOST_CARDS])
    more = len(jobs) - MOST_CARDS
    rest = (
        f'<p class="quiet">and {counted(more, "more picture")} of this press, see Queue and Gallery</p>'
        if more > 0
        else ""
    )
    return (
        f'<section class="batch" data-key="{jobs[0].batch_id}"><header><h3 title="{text(first.prompt)}">'
        f'{text(first.prompt)}</h3><span class="quiet">{" · ".join(words)}</span>{act}</header>'
        f'<div class="cards">{cards}</div>{rest}</section>'
    )


def card(job: Job, image: Image | None, eta: float | None, position: int | None) -> str:
    """One job as a picture that is on its way."""
    lines = [f'<span class="state">{text(state_words(job, position))}</span>']
    if job.state not in FINAL and eta is not None:
        lines.append(f'<span class="quiet">{duration(eta)}</span>')
    body, foot = "", ""
    match job.state:
        case State.DONE:
            body = picture_link(image, job.params.prompt) if image else '<p class="empty">In the trash</p>'
            lines = []
        case State.RUNNING:
            # No width and height here: the frame has the shape, and a missing preview shows nothing.
            body = f'<img src="{shapes.preview_url(job.id, job.step)}" alt="">' if job.step else ""
            foot = bar(job)
        case State.FAILED:
            body = f'<p class="empty">{text(why(job))}</p>'
            foot = button("Again", "again", job.id, "small")
        case State.CANCELLED:
            foot = button("Again", "again", job.id, "small")
    caption = f'<div class="caption">{"".join(lines)}{foot}</div>' if lines or foot else ""
    return (
        f'<article class="card {job.state}" data-key="{job.id}" style="--w:{job.params.width};--h:{job.params.height}">'
        f'<div class="frame">{body}</div>{caption}</article>'
    )


def queue(snapshot: Snapshot, images: Images, now: datetime) -> str:
    """The Queue tab."""
    waiting = snapshot.counts[State.QUEUED]
    acts = "" if snapshot.paused else button("Pause", "pause")  # the notice above offers to resume
    if waiting:
        sure = f"Cancel {counted(waiting, 'waiting picture')}?"
        acts += button("Cancel all waiting", "cancel_waiting", sure=sure)
    order = places(snapshot)
    running = "".join(row(job, None, snapshot.eta.get(job.id)) for job in snapshot.running)
    first = "".join(row(job, None, snapshot.eta.get(job.id), order[job.id]) for job in snapshot.waiting)
    ended = "".join(row(job, images.get(job.id)) for job in snapshot.ended)
    if waiting > len(snapshot.waiting):
        first += (
            f'<li class="quiet more" data-key="more">and {waiting - len(snapshot.waiting):,} more behind these</li>'
        )
    empty = ""
    if not (snapshot.running or waiting or snapshot.ended):
        words = "What you submit, here or by the API, waits its turn here."
        empty = f'<div class="invite"><h2>Nothing here yet</h2><p>{words}</p></div>'
    told = worker_notice(snapshot, now)
    return (
        f'{told}<div class="toolbar"><span class="quiet">{summary(snapshot)}</span><div>{acts}</div></div>{empty}'
        + section("Running", running)
        + section("Waiting", first)
        + section("Recently ended", ended)
    )


def summary(snapshot: Snapshot) -> str:
    running, waiting = len(snapshot.running), snapshot.counts[State.QUEUED]
    if not (running or waiting):
        return "Nothing runs and nothing waits"
    words = [f"{running:,} running", f"{waiting:,} waiting"]
    if snapshot.total_eta is not None:
        words.append(f"{duration(snapshot.total_eta)} of work")
    return " · ".join(words)


def section(title: str, items: str) -> str:
    if not items:
        return ""
    return f'<section class="rows" data-key="{title}"><h3>{title}</h3><ul>{items}</ul></section>'


def row(job: Job, image: Image | None, eta: float | None = None, position: int | None = None) -> str:
    """One job as a line of the queue."""
    if image:
        thumb = picture_link(image, job.params.prompt)
    elif job.state is State.RUNNING and job.step:
        thumb = f'<img src="{shapes.preview_url(job.id, job.step)}" alt="">'
    else:
        thumb = ""
    detail = f'<span class="meta">{facts(job.params)} · {text(job.params.model)}</span>'
    if job.state is State.FAILED:
        detail = f'<span class="meta bad">{text(why(job))}</span>'
    elif job.state is State.RUNNING:
        detail += bar(job)
    when = moment(job.finished_at) if job.finished_at else "" if eta is None else duration(eta)
    act = button("Again", "again", job.id, "small")
    if job.state not in FINAL:
        act = "" if job.cancel_requested else button("Cancel", "cancel", job.id, "small")
    return (
        f'<li class="line {job.state}" data-key="{job.id}"><div class="thumb">{thumb}</div>'
        f'<div class="about"><span class="title">{text(job.params.prompt)}</span>{detail}</div>'
        f'<div class="state"><span>{text(state_words(job, position))}</span><span class="quiet">{when}</span></div>'
        f'<div class="acts">{act}</div></li>'
    )
