"""The queue's summary: the status bar shown on every tab, notices about what blocks the queue, and the drawer
with the running jobs and a line per waiting batch.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from diffusion_local.domain import FINAL, Job, Lane, Snapshot, State, Worker
from diffusion_local.errors import UserError
from diffusion_local.queue.groups import Group
from diffusion_local.queue.workers import is_silent
from diffusion_local.web.ui.templates import macro, render, say
from diffusion_local.web.ui.view import duration, moment, notice, progress, short, state_words
from diffusion_local.web.ui.words import translated

MAX_BATCHES = 30  # in the drawer


def worker_health(workers: Iterable[Worker], now: datetime) -> str:
    """A text that changes whenever the workers' part of `worker_notice` may change, but not with every heartbeat."""
    return ",".join(f"{w.slot}:{'silent' if is_silent(w, now) else w.status}" for w in workers)


def worker_notice(snapshot: Snapshot, now: datetime) -> Markup:
    """A notice of what blocks the queue; empty if nothing does."""
    held = hold_notice(snapshot) or window_notice(snapshot)
    alive = [w for w in snapshot.workers if w.status != "stopped" and not is_silent(w, now)]
    if any(w.status in ("idle", "busy") for w in alive) or (held and alive):
        return held
    for worker in alive:
        if worker.status == "loading" and worker.model:  # the model's name is known only for a visible job
            return notice("info", say("page.loading_model", model=worker.model))
    if alive:
        return notice("info", say("page.worker_starting"))
    quiet = [w.slot for w in snapshot.workers if is_silent(w, now)]
    words = say("page.worker_silent", slots=", ".join(quiet)) if quiet else say("page.no_worker")
    return notice("bad", words, macro("manual_link", "trouble")) + held


def hold_notice(snapshot: Snapshot) -> Markup:
    """Why the machine itself holds the queue. A pause by a user appears in the status bar, with a button to resume."""
    notices = Markup()
    if snapshot.reason:
        notices = notice("warn", say("page.queue_waits", reason=translated(snapshot.reason)))
    if snapshot.resting:
        words = say("page.lists_rest", reason=translated(snapshot.resting))
        notices += macro("notice_with_button", "warn", words, say("common.resume"), "resume")
    if snapshot.sleep_at:
        words = say("page.goes_to_sleep", at=moment(snapshot.sleep_at))
        notices += macro("notice_with_button", "warn", words, say("page.stay_awake"), "stay_awake")
    return notices


def window_notice(snapshot: Snapshot) -> Markup:
    """A notice that all queued jobs wait for their time windows to open; empty if one does not."""
    if snapshot.running or not snapshot.waiting or not all(shut(job, snapshot) for job in snapshot.waiting):
        return Markup()
    opening = [at for job in snapshot.waiting if (at := snapshot.opens[job.gate])]
    if not opening:
        return Markup()
    return notice("info", say("page.window_closed", time=moment(min(opening))))


def shut(job: Job, snapshot: Snapshot) -> bool:
    """Whether a job waits for its time window to open."""
    return job.lane is Lane.BATCH and job.gate in snapshot.opens


def now_line(snapshot: Snapshot, now: datetime) -> Markup:
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
    return moment(now + timedelta(seconds=snapshot.total_eta))


def step_words(job: Job, pausing: bool) -> str:
    """``state_words`` of a running job, with a brief form (``3/20``) that the style sheet shows in narrow places."""
    if pausing and not job.cancel_requested:
        return say("page.pausing")
    words = state_words(job)
    if not job.step or job.cancel_requested:
        return words
    return macro("long_and_brief", words, f"{job.step}/{job.params.total_steps}")


def now_problem(error: UserError) -> Markup:
    return render("now_problem.html", words=translated(error.message))


def drawer(snapshot: Snapshot, groups: Sequence[Group], now: datetime) -> Markup:
    """The drawer with the queue. ``groups``: batches with queued jobs, in the order in which these will run."""
    return render(
        "drawer.html",
        running=[running_row(job, snapshot) for job in snapshot.running],
        waiting=[waiting_row(each) for each in groups],
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
