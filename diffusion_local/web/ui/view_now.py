"""The queue's summary as HTML: the status bar shown on every tab, notices about what blocks the queue, and the drawer
with the running jobs and a line per waiting batch.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from diffusion_local.domain import FINAL, Job, Lane, Snapshot, State, Worker
from diffusion_local.errors import UserError
from diffusion_local.queue.groups import Group
from diffusion_local.queue.workers import is_silent
from diffusion_local.web.ui import templates
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import (
    button,
    duration,
    manual_link,
    moment,
    notice,
    progress,
    short,
    state_words,
    text,
)
from diffusion_local.web.ui.words import say, translated


def worker_health(workers: Iterable[Worker], now: datetime) -> str:
    """A text that changes whenever the workers' part of `worker_notice` may change, but not with every heartbeat."""
    return ",".join(f"{w.slot}:{'silent' if is_silent(w, now) else w.status}" for w in workers)


def worker_notice(snapshot: Snapshot, now: datetime) -> str:
    """A notice of what blocks the queue, or ""."""
    held = hold_notice(snapshot) or window_notice(snapshot)
    alive = [w for w in snapshot.workers if w.status != "stopped" and not is_silent(w, now)]
    if any(w.status in ("idle", "busy") for w in alive) or (held and alive):
        return held
    for worker in alive:
        if worker.status == "loading" and worker.model:  # the model's name is known only for a visible job
            return notice("info", say("page.loading_model", model=text(worker.model)))
    if alive:
        return notice("info", say("page.worker_starting"))
    quiet = [w.slot for w in snapshot.workers if is_silent(w, now)]
    words = say("page.worker_silent", slots=text(", ".join(quiet))) if quiet else say("page.no_worker")
    return notice("bad", words, manual_link("trouble")) + held


def hold_notice(snapshot: Snapshot) -> str:
    """Why the machine itself holds the queue. A pause by a user appears in the status bar, with a button to resume."""
    told = ""
    if snapshot.reason:
        told = notice("warn", say("page.queue_waits", reason=text(translated(snapshot.reason))))
    if snapshot.resting:
        resume = f'<span class="acts">{button(say("common.resume"), "resume")}</span>'
        told += notice("warn", say("page.lists_rest", reason=text(translated(snapshot.resting))), resume)
    if snapshot.sleep_at:
        awake = f'<span class="acts">{button(say("page.stay_awake"), "stay_awake")}</span>'
        told += notice("warn", say("page.goes_to_sleep", at=moment(snapshot.sleep_at)), awake)
    return told


def window_notice(snapshot: Snapshot) -> str:
    """A notice that all queued jobs wait for their time windows to open, or ""."""
    if snapshot.running or not snapshot.waiting or not all(shut(job, snapshot) for job in snapshot.waiting):
        return ""
    opening = [at for job in snapshot.waiting if (at := snapshot.opens[job.gate])]
    if not opening:
        return ""
    return notice("info", say("page.window_closed", time=moment(min(opening))))


def shut(job: Job, snapshot: Snapshot) -> bool:
    """Whether a job waits for its time window to open."""
    return job.lane is Lane.BATCH and job.gate in snapshot.opens


def now_line(snapshot: Snapshot, now: datetime) -> str:
    """The status bar: the running job, the number of queued ones, and when all will be done."""
    waiting = snapshot.counts[State.QUEUED]
    held = bool(snapshot.paused or snapshot.reason)
    gone = bool(snapshot.workers) and all(
        is_silent(worker, now) for worker in snapshot.workers
    )  # then the remaining time is unknown
    job = snapshot.running[0] if snapshot.running else None
    left = snapshot.eta.get(job.id) if job and not gone else None
    title = ([f"{progress(job):.0f} %"] if job else []) + ([say("page.now_behind", n=waiting)] if waiting else [])
    return render(
        "now.html",
        title=title,
        work=len(snapshot.running) + waiting,
        dot="paused" if held else "busy" if job else "idle",
        job=job,
        step=step_words(job, snapshot.paused) if job else "",
        percent=progress(job) if job else 0.0,
        others=max(0, len(snapshot.running) - 1),
        left="" if left is None else short(left),
        left_exact="" if left is None else duration(left),
        idle=idle_words(snapshot),
        waiting=waiting,
        done_at=done_at(snapshot, now, certain=not (held or gone)),
        paused=snapshot.paused,
    )


def idle_words(snapshot: Snapshot) -> str:
    if snapshot.paused:
        return say("page.now_paused")
    if not snapshot.counts[State.QUEUED]:
        return say("page.now_idle")
    return say("page.now_held" if snapshot.reason else "page.now_waiting")


def done_at(snapshot: Snapshot, now: datetime, certain: bool) -> Markup:
    """When all jobs will be done; empty if unknown.

    It is unknown while a job waits for its time window, because the estimates leave closed hours out.
    """
    work = snapshot.running or snapshot.counts[State.QUEUED]
    if not (certain and work) or snapshot.total_eta is None or any(shut(job, snapshot) for job in snapshot.waiting):
        return Markup()
    return Markup(moment(now + timedelta(seconds=snapshot.total_eta)))


def step_words(job: Job, pausing: bool) -> Markup:
    """``state_words`` of a running job, with a brief form (``3/20``) that the style sheet shows in narrow places."""
    if pausing and not job.cancel_requested:
        return templates.say("page.pausing")
    words = state_words(job)
    if not job.step or job.cancel_requested:
        return Markup.escape(words)
    brief = f"{job.step}/{job.params.total_steps}"
    return Markup('<span class="long">{}</span><span class="brief">{}</span>').format(words, brief)


def now_problem(error: UserError) -> str:
    words = text(translated(error.message))
    return f'<div class="now" role="alert"><i class="dot bad"></i><span class="problem">{words}</span></div>'


MAX_BATCHES = 30  # in the drawer


def drawer(snapshot: Snapshot, groups: Sequence[Group], now: datetime) -> str:
    """The drawer with the queue. ``groups``: unfinished batches, of which those with queued jobs are listed."""
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
    """A batch in the drawer. Only batches with an equal ``lane`` (owner and lane of the queue) can change places."""
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
