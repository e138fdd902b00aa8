"""The Queue tab: a toolbar, filters, and collapsible batches, each with a window of its jobs. Pure, like
``view``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from diffusion_local.domain import FINAL, Snapshot, State
from diffusion_local.queue.groups import STATE_FILTERS, Group, JobWindow
from diffusion_local.web.ui.page_urls import QueueState, format_key
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import duration
from diffusion_local.web.ui.view_batches import BatchLine
from diffusion_local.web.ui.view_queue_rows import RowContext, row
from diffusion_local.web.ui.view_stage import Images
from diffusion_local.web.ui.words import say

#: Segments of a batch's progress bar, from left to right.
BAR_STATES = (State.DONE, State.FAILED, State.CANCELLED, State.RUNNING)
MOST_MODELS = 3


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """A batch on the page. ``window``: its visible jobs, None if it is collapsed; ``alone``: it has a single job."""

    group: Group
    window: JobWindow | None
    alone: bool


def group(
    shown: ShownBatch, place: QueueState, around: RowContext, above: Group | None = None, below: Group | None = None
) -> Markup:
    """A batch with its visible jobs, or just the job if it is alone.

    ``above`` and ``below``: the batch's neighbours on this page, with which it may change places.
    """
    window, each = shown.window, shown.group
    if shown.alone:
        return Markup().join(row(job, around, several=False) for job in window.jobs) if window else Markup()
    batch, counts = each.progress.batch, each.progress.counts
    return render(
        "queue_group.html",
        line=BatchLine(each.progress, around.now),
        models=each.models[:MOST_MODELS],
        more_models=len(each.models) > MOST_MODELS,
        segments=[(state, counts[state]) for state in BAR_STATES if counts[state]],
        ended_at=each.ended_at,
        above=above.progress.batch.id if above and can_swap(each, above) else "",
        below=below.progress.batch.id if below and can_swap(each, below) else "",
        rows=[row(job, around) for job in window.jobs] if window else None,
        window=window,
        filtered=bool(place.wanted),
        wide=batch.id in place.wide,
        earlier=format_key(window.earlier) if window and window.earlier else "",
        later=format_key(window.later) if window and window.later else "",
    )


def can_swap(each: Group, other: Group) -> bool:
    one, two = each.progress.batch, other.progress.batch
    return bool(other.progress.counts[State.QUEUED]) and (one.owner, one.lane) == (two.owner, two.lane)


@dataclass(frozen=True, slots=True)
class Page:
    """The batches of a page, and whether there are more after them."""

    shown: Sequence[ShownBatch]
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
) -> Markup:
    """The whole tab.

    ``live`` and ``ended``: a page of unfinished and of finished batches; ``others``: number of queued jobs that the
    account may not see; ``choices``: models and owners for the filters; ``images``: pictures by job id.
    """
    around = RowContext.from_snapshot(snapshot, images, now)
    groups = [each.group for each in live.shown]
    neighbours = zip([None, *groups], [*groups[1:], None], strict=False)
    entries = [] if place.wanted else [row(job, around) for job in snapshot.running if job.hidden]
    entries += [group(each, place, around, *two) for each, two in zip(live.shown, neighbours, strict=False)]
    first, last = Markup().join(entries), Markup().join(group(each, place, around) for each in ended.shown)
    others = 0 if place.wanted else others
    return render(
        "queue.html",
        summary=summary(snapshot),
        paused=snapshot.paused,
        waiting=snapshot.counts[State.QUEUED],
        failed=snapshot.counts[State.FAILED],
        ended_count=sum(count for state, count in snapshot.counts.items() if state in FINAL),
        wanted=place.wanted,
        filtered=bool(place.wanted),
        filters=filters(place, choices),
        empty=not (first or others or last),
        nothing_fits=bool(place.wanted or place.live or place.ended),
        others=others,
        live=section(first, place.live, live),
        ended=section(last, place.ended, ended),
    )


def section(drawn: Markup, behind: Sequence[object], page: Page) -> dict[str, Any]:
    """A page of batches. ``behind``: the cursors of the pages before this one; ``more``: the cursor of the next."""
    more = ""
    if page.more:
        last = page.shown[-1].group
        more = format_key(last.turn) if last.turn else last.progress.batch.id
    return {"drawn": drawn, "behind": behind, "more": more}


def summary(snapshot: Snapshot) -> list[str]:
    """The work left; empty without any, because the list itself says that the queue is empty."""
    running, waiting = len(snapshot.running), snapshot.counts[State.QUEUED]
    if not (running or waiting):
        return []
    words = [say("queue.n_running", n=running), say("queue.n_waiting", n=waiting)]
    if snapshot.total_eta is not None:
        words.append(say("queue.of_work", time=duration(snapshot.total_eta)))
    return words


def filters(
    place: QueueState, choices: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, Sequence[tuple[str, str]]]]:
    """(name, selected value, choices as (value, label)) of each filter."""
    wanted = place.wanted
    shown: list[tuple[str, str, Sequence[tuple[str, str]]]] = [
        ("state", wanted.state, [(name, say(f"queue.state_{name}")) for name in STATE_FILTERS])
    ]
    for name in ("model", "owner"):
        now = getattr(wanted, name)
        if now or len(choices[name]) > 1:
            shown.append((name, now, [(each, each) for each in choices[name] if each]))
    return shown
