"""The queue's drawer as HTML: what runs, pinned; what waits, a line a batch; one key away from every view. Pure."""

from collections.abc import Sequence
from datetime import datetime

from diffusion_local.domain import FINAL, Job, Snapshot, State
from diffusion_local.queue.groups import Group
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import duration, progress, state_words

MOST = 30  # batches


def drawer(snapshot: Snapshot, groups: Sequence[Group], now: datetime) -> str:
    waiting = [each for each in groups if each.progress.counts[State.QUEUED]]
    return render(
        "drawer.html",
        running=[running_row(job, snapshot) for job in snapshot.running],
        waiting=[waiting_row(each) for each in waiting],
        paused=snapshot.paused,
        total=snapshot.counts[State.QUEUED],
        left=snapshot.total_eta is not None
        and not (snapshot.paused or snapshot.reason)
        and duration(snapshot.total_eta),
        failed=snapshot.counts[State.FAILED],
        ended=sum(count for state, count in snapshot.counts.items() if state in FINAL),
    )


def running_row(job: Job, snapshot: Snapshot) -> dict[str, object]:
    eta = snapshot.eta.get(job.id)
    return {
        "job": job,
        "words": state_words(job),
        "percent": progress(job),
        "left": "" if eta is None else duration(eta),
    }


def waiting_row(group: Group) -> dict[str, object]:
    """Batches of one owner and lane can change places; ``lane`` says which those are."""
    batch, counts = group.progress.batch, group.progress.counts
    return {
        "batch": batch,
        "lane": f"{batch.owner} {batch.lane}",
        "waits": counts[State.QUEUED],
        "done": counts[State.DONE],
        "total": sum(counts.values()),
        "model": group.models[0] if group.models else "",
        "done_at": group.progress.done_at or "",
    }
