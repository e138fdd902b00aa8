"""What is shown above every tab: what runs and waits, what holds the queue up, and the page's own tools. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from diffusion_local import serializers
from diffusion_local.actor import current
from diffusion_local.domain import Job, Lane, Snapshot, State, Worker
from diffusion_local.errors import UserError
from diffusion_local.queue.workers import is_silent
from diffusion_local.web.ui.icons import icon
from diffusion_local.web.ui.view import (
    bar,
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
from diffusion_local.web.ui.words import LANGUAGES, TAGS, language, say, translated


def worker_health(workers: Iterable[Worker], now: datetime) -> str:
    """Changes when what `worker_notice` says changes; time alone does not."""
    return ",".join(f"{w.slot}:{'silent' if is_silent(w, now) else w.status}" for w in workers)


def worker_notice(snapshot: Snapshot, now: datetime) -> str:
    """What keeps the queue from moving, or an empty string."""
    held = hold_notice(snapshot) or window_notice(snapshot)
    alive = [w for w in snapshot.workers if w.status != "stopped" and not is_silent(w, now)]
    if any(w.status in ("idle", "busy") for w in alive) or (held and alive):
        return held
    for worker in alive:
        if worker.status == "loading" and worker.model:  # for a job that may be looked at
            return notice("info", say("page.loading_model", model=text(worker.model)))
    if alive:
        return notice("info", say("page.worker_starting"))
    quiet = [w.slot for w in snapshot.workers if is_silent(w, now)]
    words = say("page.worker_silent", slots=text(", ".join(quiet))) if quiet else say("page.no_worker")
    return notice("bad", words, manual_link("trouble")) + held


def hold_notice(snapshot: Snapshot) -> str:
    """The queue is closed: by a person, by the machine itself, or by both."""
    told = ""
    if snapshot.reason:
        told = notice("warn", say("page.queue_waits", reason=text(translated(snapshot.reason))))
    if snapshot.resting:
        resume = f'<span class="acts">{button(say("common.resume"), "resume")}</span>'
        told += notice("warn", say("page.lists_rest", reason=text(translated(snapshot.resting))), resume)
    if snapshot.sleep_at:
        awake = f'<span class="acts">{button(say("page.stay_awake"), "stay_awake")}</span>'
        told += notice("warn", say("page.goes_to_sleep", at=moment(snapshot.sleep_at)), awake)
    if snapshot.paused:
        words, acts = say("page.queue_paused"), ""
        if snapshot.running:
            words += " " + say("page.running_finishes")
            acts = button(say("page.give_back"), "pause_now", title=say("page.give_back_title"))
        told += notice("warn", words, f'<span class="acts">{acts}{button(say("common.resume"), "resume")}</span>')
    return told


def window_notice(snapshot: Snapshot) -> str:
    """All that waits has to wait for its time."""
    if snapshot.running or not snapshot.waiting or not all(shut(job, snapshot) for job in snapshot.waiting):
        return ""
    opening = [at for job in snapshot.waiting if (at := snapshot.opens[job.gate])]
    if not opening:
        return ""
    return notice("info", say("page.window_closed", time=moment(min(opening))))


def shut(job: Job, snapshot: Snapshot) -> bool:
    return job.lane is Lane.BATCH and job.gate in snapshot.opens


def now_line(snapshot: Snapshot, now: datetime) -> str:
    """One line: what runs, how many wait, when all will be done. ``page.js`` puts ``data-title`` into the tab's title,
    and tells, if asked to, when ``data-work`` goes back to nothing."""
    waiting = snapshot.counts[State.QUEUED]
    held = snapshot.paused or snapshot.reason
    gone = bool(snapshot.workers) and all(
        is_silent(worker, now) for worker in snapshot.workers
    )  # nobody knows how long
    title = []
    if snapshot.running:
        job = snapshot.running[0]
        more = f" + {len(snapshot.running) - 1}" if len(snapshot.running) > 1 else ""
        title.append(f"{progress(job):.0f} %")
        first = f'{thumbnail(job)}<span class="what">{text(job.params.prompt)}</span>'
        parts = [f'<span class="step">{step_words(job)}{more}</span>']
        if job.id in snapshot.eta and not gone:
            parts.append(
                f'<span class="wait" title="{duration(snapshot.eta[job.id])}">{short(snapshot.eta[job.id])}</span>'
            )
        parts.append(bar(job))
    elif waiting:
        why_not = "page.now_paused" if snapshot.paused else "page.now_held" if snapshot.reason else "page.now_waiting"
        first, parts = f'<span class="step">{say(why_not)}</span>', []
    else:
        idle = say("page.now_paused" if snapshot.paused else "page.now_idle")
        first, parts = f'<span class="step quiet">{idle}</span>', []
    if waiting:
        title.append(say("page.now_behind", n=waiting))
        parts.append(f'<span class="wait">{title[-1]}</span>')
    if snapshot.total_eta is not None and (snapshot.running or waiting) and not held and not gone:
        at = moment(now + timedelta(seconds=snapshot.total_eta))
        parts.append(f'<span class="eta">{say("page.now_done_at", time=at)}</span>')
    told = f'{first}<span class="rest">{"".join(parts)}</span>'
    if snapshot.paused:
        told += button("▶", "resume", kind="small icon", title=say("common.resume"), extra=named("common.resume"))
    elif snapshot.running or waiting:
        told += button("❚❚", "pause", kind="small icon", title=say("common.pause"), extra=named("common.pause"))
    dot = "paused" if held else "busy" if snapshot.running else "idle"
    work = len(snapshot.running) + waiting
    return (
        f'<div class="now" role="group" aria-label="{say("page.now")}" data-title="{text(" · ".join(title))}" '
        f'data-work="{work}"><i class="dot {dot}"></i>{told}</div>'
    )


def step_words(job: Job) -> str:
    """``state_words``, and where there is little room the numbers alone."""
    words = state_words(job)
    if not job.step or job.cancel_requested:
        return words
    return f'<span class="long">{words}</span><span class="brief">{job.step}/{job.params.steps}</span>'


def named(key: str) -> str:
    return f' aria-label="{say(key)}"'


def thumbnail(job: Job) -> str:
    """The newest preview of what runs."""
    if job.hidden or not job.step:
        return ""
    return f'<img class="mini" src="{serializers.preview_url(job.id, job.step)}" alt="">'


def tools(url: str = "") -> str:
    """What is at the end of the top line. ``url`` is where a phone finds this server, if it can."""
    chosen = language()
    options = "".join(
        f'<option value="{code}" lang="{TAGS[code]}"{" selected" if code == chosen else ""}>{name}</option>'
        for code, name in LANGUAGES.items()
    )
    phone = tool(icon("phone"), "phone", "page.phone", url) if url else ""
    return (
        f'<div class="tools">{who()}{phone}'
        f'<button type="button" class="act small icon" data-bell hidden aria-pressed="false" '
        f'title="{say("page.bell")}"{named("page.bell")}>{icon("bell")}</button>{tool("?", "keys", "page.keys")}'
        f"<select data-language{named('page.language')}>{options}</select></div>"
    )


def who() -> str:
    """The way to one's account, where one is signed in."""
    person = current()
    if person.source != "session":
        return ""
    return f'<a class="who" href="account" title="{say("account.account")}">{text(person.name)}</a>'


def tool(sign: str, verb: str, name: str, key: str = "") -> str:
    return button(sign, verb, key, kind="small icon", title=say(name), extra=named(name))


def now_problem(error: UserError) -> str:
    words = text(translated(error.message))
    return f'<div class="now" role="alert"><i class="dot bad"></i><span class="problem">{words}</span></div>'
