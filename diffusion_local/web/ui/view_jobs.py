"""Jobs as HTML: the cards of Create. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby

from diffusion_local import serializers
from diffusion_local.domain import FINAL, Image, Job, Snapshot, State
from diffusion_local.web.ui.view import (
    button,
    duration,
    flag,
    picture_link,
    ring,
    standing,
    text,
    why,
)
from diffusion_local.web.ui.words import say

#: Cards of one press; the rest of a long one is told as a number.
MOST_CARDS = 24
TOLD_TABS = ("queue", "gallery", "models", "settings")
EXAMPLES = ("a red apple", "a blue heart", "a yellow star", "a green tree")

Images = Mapping[str, Image]
Counts = Mapping[State, int]


def places(snapshot: Snapshot) -> dict[str, int]:
    return {job.id: place for place, job in enumerate(snapshot.waiting, start=1)}


def created(
    jobs: Sequence[Job],
    counts: Mapping[str, Counts],
    images: Images,
    snapshot: Snapshot,
    now: datetime,
    left_out: int = 0,
    first: bool = False,
) -> str:
    """Create's lower half: this browser's latest presses, or an invitation.

    ``jobs`` are the first MOST_CARDS of each press, ``counts`` how many jobs of each batch are in each state.
    """
    if not jobs:
        return invitation(first)
    order = places(snapshot)
    # A batch that was cleared away between two reads has no counts any more.
    batches = [list(group) for key, group in groupby(jobs, key=lambda job: job.batch_id) if key in counts]
    # Nobody knows how long what is held stays so.
    ahead = [*snapshot.running, *snapshot.waiting]
    still = {job.id for job in (*jobs, *ahead) if job.held or snapshot.paused or snapshot.reason}
    eta = {job_id: seconds for job_id, seconds in snapshot.eta.items() if job_id not in still}
    rest = f'<p class="quiet">{say("create.more_in_queue", n=left_out)}</p>' if left_out else ""
    going = " ".join(each[0].batch_id for each in batches if unfinished(counts[each[0].batch_id]))
    escape = button("", "cancel_mine", going, extra=" data-escape hidden") if going else ""
    ends: dict[str, list[float]] = {}
    for job in ahead:
        if job.id in eta:
            ends.setdefault(job.batch_id, []).append(eta[job.id])
    presses = "".join(
        batch(each, counts[each[0].batch_id], images, eta, order, ends.get(each[0].batch_id, [])) for each in batches
    )
    return f'{escape}<div class="presses" data-key="presses">{presses}</div>{rest}'


def invitation(first: bool = False) -> str:
    """``first``: no picture was ever made here, so that one is a press away, and the tabs are told."""
    # The starter reads English: in another language a chip says what it fills in.
    chips = "".join(button(say(f"create.example_{each.split()[-1]}"), "example", each, "chip") for each in EXAMPLES)
    more = welcome() if first else f'<p class="where">{say("create.where")}</p>'
    return (
        f'<div class="invite"><h2>{say("create.invite")}</h2><p>{say("create.invite_how")}</p>'
        f'<div class="chips">{chips}</div>{more}</div>'
    )


def welcome() -> str:
    tabs = "".join(f"<li><b>{say(f'page.{tab}')}</b> {say(f'create.welcome_{tab}')}</li>" for tab in TOLD_TABS)
    make = button(say("create.first"), "first_picture", EXAMPLES[0], "primary")
    return f'<div class="welcome">{make}<p>{say("create.first_how")}</p><ul>{tabs}</ul></div>'


def unfinished(counts: Counts) -> int:
    return sum(count for state, count in counts.items() if state not in FINAL)


def batch(
    jobs: Sequence[Job],
    counts: Counts,
    images: Images,
    eta: Mapping[str, float],
    order: Mapping[str, int],
    ends: Sequence[float],
) -> str:
    """One press of Generate; ``ends`` are the seconds until each of its unfinished jobs is done, as far as known."""
    first = jobs[0].params
    total, left = sum(counts.values()), unfinished(counts)
    words = [say("create.done_of", done=counts[State.DONE], total=total)] if total > 1 and left else []
    if left and len(ends) == left:
        words.append(say("common.left", time=duration(max(ends))))
    told = f'<span class="quiet">{" · ".join(words)}</span>' if words else ""
    act = ""
    if left:
        act = button(say("common.cancel"), "cancel_batch", jobs[0].batch_id, "small")
    elif counts[State.DONE]:
        act = button(say("common.use_recipe"), "recipe_of_job", jobs[0].id, "small")
    cards = "".join(card(job, images.get(job.id), eta.get(job.id), order.get(job.id)) for job in jobs[:MOST_CARDS])
    more = total - MOST_CARDS
    rest = f'<p class="quiet">{say("create.more_of_press", n=more)}</p>' if more > 0 else ""
    return (
        f'<section class="batch" data-key="{jobs[0].batch_id}"><header><h2 title="{text(first.prompt)}">'
        f"{text(first.prompt)}</h2>{told}{act}</header>"
        f'<div class="cards">{cards}</div>{rest}</section>'
    )


def card(job: Job, image: Image | None, eta: float | None, position: int | None) -> str:
    """One job as a picture that is on its way."""
    lines = [f'<span class="state">{standing(job, position)}</span>']
    if job.state is State.QUEUED and eta is not None:
        lines.append(f'<span class="quiet">{duration(eta)}</span>')
    body, foot = "", ""
    match job.state:
        case State.DONE:
            body = (
                picture_link(image, job.params.prompt) + flag(image)
                if image
                else f'<p class="empty">{say("create.in_trash")}</p>'
            )
            lines = []
        case State.RUNNING:
            # No width and height here: the frame has the shape, and a missing preview shows nothing.
            body = f'<img src="{serializers.preview_url(job.id, job.step)}" alt="">' if job.step else ""
            body += ring(job, eta)
        case State.FAILED:
            body = f'<p class="empty">{why(job)}</p>'
            foot = button(say("common.again"), "again", job.id, "small")
            if job.failure and job.failure.kind == "out_of_memory" and not job.params.rung:
                foot = button(say("create.again_tiled"), "again_tiled", job.id, "small") + foot
        case State.CANCELLED:
            foot = button(say("common.again"), "again", job.id, "small")
    caption = f'<div class="caption">{"".join(lines)}{foot}</div>' if lines or foot else ""
    return (
        f'<article class="card {job.state}" data-key="{job.id}" style="--w:{job.params.width};--h:{job.params.height}">'
        f'<div class="frame">{body}</div>{caption}</article>'
    )
