"""Words and small pieces of HTML. Pure: nouns in, text out; every text of a person goes through ``text``."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

from diffusion_local import shapes
from diffusion_local.domain import MAX_TRIES, Image, Job, Params, Snapshot, State, Worker, utc_text
from diffusion_local.errors import InvalidParams, UserError

#: A worker tells that it is alive every few seconds; after this silence the page says that it does not answer.
SILENT_SECONDS = 20

#: What a person reads for a field of Params.
LABELS = {
    "prompt": "Prompt",
    "negative": "Negative prompt",
    "model": "Model",
    "width": "Width",
    "height": "Height",
    "steps": "Steps",
    "guidance": "Guidance",
    "sampler": "Sampler",
    "seed": "Seed",
    "count": "Pictures",
}


def text(value: object) -> str:
    """Any value as HTML text or attribute."""
    return escape(str(value), quote=True)


def duration(seconds: float) -> str:
    """An estimate in words: it is never exact, so it says so."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 55:
        return f"about {round(seconds / 5) * 5} s"
    if seconds < 3570:
        return f"about {max(1, round(seconds / 60))} min"
    hours, minutes = divmod(round(seconds / 300) * 5, 60)
    if hours < 24:
        return f"about {hours} h" + (f" {minutes} min" if minutes else "")
    days, hours = divmod(hours, 24)
    return f"about {counted(days, 'day')}" + (f" {hours} h" if hours else "")


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def elapsed(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def size(number: int) -> str:
    return f"{number / 1000:.0f} kB" if number < 1_000_000 else f"{number / 1e6:.1f} MB"


def moment(at: datetime | str, exact: bool = False) -> str:
    """A time, with ``exact`` to the second; the browser writes it in its own zone and language."""
    iso = at if isinstance(at, str) else utc_text(at)
    seconds, until = (" data-exact", 19) if exact else ("", 16)
    return f'<time datetime="{text(iso)}"{seconds}>{text(iso[11:until])} UTC</time>'


def facts(params: Params) -> str:
    """The recipe in one line."""
    return text(f"{params.width} × {params.height} · {params.steps} steps · seed {params.seed}")


def state_words(job: Job, position: int | None = None) -> str:
    """Where a job stands, in words."""
    match job.state:
        case State.QUEUED if job.held:
            return "Held"
        case State.QUEUED:
            return "Waiting" if position is None else "Next" if position == 1 else f"{ordinal(position)} in line"
        case State.RUNNING if job.cancel_requested:
            return "Stopping …"
        case State.RUNNING if job.step:
            return f"Step {job.step} of {job.params.steps}"
        case State.RUNNING:
            return job.phase.capitalize() + " …" if job.phase else "Starting …"
        case State.DONE:
            return "Done"
        case State.FAILED:
            return "Failed"
    return "Cancelled"


def standing(job: Job, position: int | None = None) -> str:
    """Where a job stands, as HTML: `state_words`, and for one that is tried again the time of that."""
    if job.state is State.QUEUED and job.not_before and not job.held:
        tries = f", try {job.tries + 1} of {MAX_TRIES}" if job.tries else ""
        return f"Again at {moment(job.not_before)}{tries}"
    return text(state_words(job, position))


def ordinal(number: int) -> str:
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number:,}" + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")


def why(job: Job) -> str:
    """Why a job failed: its kind and the message, as HTML."""
    if not job.failure:
        return ""
    kind = job.failure.kind.replace("_", " ").capitalize()
    return f'<b class="kind">{text(kind)}</b> {text(job.failure.message)}'


def problem(error: UserError) -> str:
    """A UserError for the page: the field by its label there."""
    if isinstance(error, InvalidParams):
        return f"{LABELS.get(error.field, error.field)} {error.problem}"
    return error.message


def button(
    label: str, verb: str, key: str = "", kind: str = "", sure: str = "", title: str = "", extra: str = ""
) -> str:
    """A button that ``live.js`` turns into an event."""
    extra += f' data-sure="{text(sure)}"' if sure else ""
    extra += f' title="{text(title)}"' if title else ""
    return f'<button type="button" class="act {kind}" data-do="{verb}" data-id="{text(key)}"{extra}>{label}</button>'


def menu(key: str, label: str, items: Sequence[str], summary: str = "⋯") -> str:
    """Buttons behind a small one. ``live.js`` keeps it open while the page is drawn anew."""
    name = text(label)
    return (
        f'<details class="menu" data-key="{text(key)}"><summary class="act small" aria-label="{name}" title="{name}">'
        f'{summary}</summary><div class="items">{"".join(items)}</div></details>'
    )


def item(label: str, verb: str, key: str = "", sure: str = "", stay: bool = False) -> str:
    """A line of a `menu`; with ``stay`` the menu stays open, for what is pressed several times."""
    return button(label, verb, key, sure=sure, extra=" data-stay" if stay else "")


def bar(job: Job) -> str:
    """A job's progress. It belongs to the job, so that the next one begins at nought and not where this one ended."""
    percent = round(100 * min(1.0, job.step / job.params.steps), 1)
    return (
        f'<div class="bar" data-key="bar-{job.id}" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent:g}"><i style="width:{percent:g}%"></i></div>'
    )


def notice(kind: str, words: str, more: str = "") -> str:
    role = "alert" if kind in ("bad", "warn") else "status"
    return f'<div class="notice {kind}" role="{role}"><span>{words}</span>{more}</div>'


def warnings_notice(warnings: Sequence[str]) -> str:
    return notice("warn", "<br>".join(text(each) for each in warnings)) if warnings else ""


def toast(words: str, key: str, more: str = "", kind: str = "") -> str:
    """A message that goes by itself. A new ``key`` shows it anew."""
    return f'<div class="toast {kind}" role="status" data-key="{text(key)}"><span>{text(words)}</span>{more}</div>'


def picture_link(image: Image, alt: str) -> str:
    """A thumbnail that opens the picture."""
    return (
        f'<a class="open" href="{shapes.picture_url(image.id)}" data-do="open" data-id="{image.id}">'
        f'<img src="{shapes.thumbnail_url(image.id)}" alt="{text(alt)}" loading="lazy" '
        f'width="{image.width}" height="{image.height}"></a>'
    )


# -- worker and queue, shown on every tab ---------------------------------------------------------------------------


def silent(worker: Worker, now: datetime) -> bool:
    """Whether a worker that should be there has not been heard of for a while."""
    seen = datetime.fromisoformat(worker.seen_at)
    return worker.status != "stopped" and now - seen > timedelta(seconds=SILENT_SECONDS)


def worker_health(workers: Iterable[Worker], now: datetime) -> str:
    """Changes when what `worker_notice` says changes; time alone does not."""
    return ",".join(f"{w.slot}:{'silent' if silent(w, now) else w.status}" for w in workers)


def worker_notice(snapshot: Snapshot, now: datetime) -> str:
    """What keeps the queue from moving, or an empty string."""
    held = hold_notice(snapshot)
    if held:
        return held
    alive = [w for w in snapshot.workers if w.status != "stopped" and not silent(w, now)]
    if any(w.status in ("idle", "busy") for w in alive):
        return ""
    for worker in alive:
        if worker.status == "loading":
            model = f" {text(worker.model)}" if worker.model else ""
            return notice("info", f"Loading model{model}. The first picture takes a little longer.")
    if alive:
        return notice("info", "The worker is starting. Pictures begin in a moment.")
    quiet = [w.slot for w in snapshot.workers if silent(w, now)]
    if quiet:
        return notice(
            "bad", f"The worker ({text(', '.join(quiet))}) does not answer. What you submit is kept and waits."
        )
    return notice(
        "bad",
        "No worker is running. What you submit is kept and waits; <code>diffusion-local worker</code> starts one.",
    )


def hold_notice(snapshot: Snapshot) -> str:
    """The queue is closed: by a person, by the machine itself, or by both."""
    told = ""
    if snapshot.reason:
        words = f"<b>The queue waits.</b> {text(snapshot.reason)}"
        told = notice("warn", words)
    if snapshot.paused:
        words, acts = "<b>Paused.</b> Nothing new starts until you resume.", ""
        if snapshot.running:
            words += " The running picture is finished first."
            acts = button("Give it back now", "pause_now", title="Stop it at its next step and make it later")
        told += notice("warn", words, f'<span class="acts">{acts}{button("Resume", "resume")}</span>')
    return told


def now_line(snapshot: Snapshot, now: datetime) -> str:
    """One line: what runs, how many wait, when all will be done."""
    waiting = snapshot.counts[State.QUEUED]
    if snapshot.running:
        job = snapshot.running[0]
        more = f" + {len(snapshot.running) - 1}" if len(snapshot.running) > 1 else ""
        first = (
            f'<span class="what">{text(job.params.prompt)}</span><span class="step">{state_words(job)}{more}</span>'
            + bar(job)
        )
    elif waiting:
        words = "Paused" if snapshot.paused else "Held back" if snapshot.reason else "Waiting to start"
        first = f'<span class="step">{words}</span>'
    elif snapshot.paused:
        first = '<span class="step">Paused</span>'
    else:
        first = '<span class="step quiet">Nothing to do</span>'
    parts = [first]
    if waiting:
        parts.append(f'<span class="wait">{waiting:,} waiting</span>')
    if snapshot.total_eta is not None and (snapshot.running or waiting) and not (snapshot.paused or snapshot.reason):
        parts.append(f'<span class="eta">done about {moment(now + timedelta(seconds=snapshot.total_eta))}</span>')
    dot = "paused" if snapshot.paused or snapshot.reason else "busy" if snapshot.running else "idle"
    return f'<div class="now" role="status"><i class="dot {dot}"></i>{"".join(parts)}</div>'


def now_problem(error: UserError) -> str:
    return (
        f'<div class="now" role="alert"><i class="dot bad"></i><span class="problem">{text(error.message)}</span></div>'
    )


def utc() -> datetime:
    return datetime.now(UTC)
