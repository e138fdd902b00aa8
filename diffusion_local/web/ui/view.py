"""Phrases and small HTML fragments used by all views. Pure functions of domain objects; ``text`` escapes user input."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from diffusion_local import serializers
from diffusion_local.domain import MAX_TRIES, Image, Job, State, utc_text
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.options.table import Params
from diffusion_local.reports.html import kind_text
from diffusion_local.web.ui.words import FIRST, has_phrase, language, say, translated

#: As wide as a digit: a number in text that is set to the right keeps its place as it grows.
FIGURE_SPACE = "\u2007"


def text(value: object) -> str:
    """Escape a value for HTML text or a quoted attribute."""
    return escape(str(value), quote=True)


def duration(seconds: float) -> str:
    """An estimated duration in words, rounded and marked as approximate."""
    if seconds < 5:
        return say("common.few_seconds")
    if seconds < 55:
        return say("common.about_seconds", n=round(seconds / 5) * 5)
    if seconds < 3570:
        return say("common.about_minutes", n=max(1, round(seconds / 60)))
    hours, minutes = divmod(round(seconds / 300) * 5, 60)
    if hours < 24:
        return say("common.about_hours_minutes" if minutes else "common.about_hours", n=hours, minutes=minutes)
    days, hours = divmod(hours, 24)
    return say("common.about_days_hours" if hours else "common.about_days", n=days, hours=hours)


def name_of(field: str) -> str:
    """The label of a field of Params or of a setting; without a phrase, the name itself."""
    named = (f"{section}.{field}" for section in ("common", "titles") if has_phrase(f"{section}.{field}"))
    return next(map(say, named), field)


def pictures(number: int) -> str:
    return say("common.pictures", n=number)


def elapsed(seconds: float) -> str:
    if seconds < 60:
        return say("common.seconds", n=seconds)
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return say("common.hours_minutes", hours=minutes // 60, n=minutes % 60)
    return say("common.minutes_seconds", minutes=minutes, n=rest)


def size(number: int) -> str:
    return f"{number / 1000:.0f} kB" if number < 1_000_000 else f"{number / 1e6:.1f} MB"


def moment(at: datetime | str, exact: bool = False) -> str:
    """A time as a ``<time>`` element, which the browser rewrites in its own zone and language.

    ``exact``: with seconds. Without scripts the time is shown in UTC.
    """
    iso = at if isinstance(at, str) else utc_text(at)
    seconds, until = (" data-exact", 19) if exact else ("", 16)
    return f'<time datetime="{text(iso)}"{seconds}>{text(iso[11:until])} UTC</time>'


def facts(params: Params) -> str:
    """Size, steps and seed in one line."""
    return text(say("common.facts", width=params.width, height=params.height, steps=params.steps, seed=params.seed))


def state_words(job: Job, position: int | None = None) -> str:
    """The state of a job in words. ``position``: its place in the queue, from 1."""
    match job.state:
        case State.QUEUED if job.held:
            return say("common.held")
        case State.QUEUED if position is None:
            return say("common.waiting")
        case State.QUEUED:
            return say("common.next") if position == 1 else say("common.in_line", place=ordinal(position or 0))
        case State.RUNNING if job.cancel_requested:
            return say("common.stopping")
        case State.RUNNING if job.step and not job.phase:
            steps = job.params.total_steps
            return say("common.step", step=str(job.step).rjust(len(str(steps)), FIGURE_SPACE), steps=steps)
        case State.RUNNING:
            return translated(job.phase).capitalize() + " …" if job.phase else say("common.starting")
    return say(f"common.{job.state}")


def standing(job: Job, position: int | None = None) -> str:
    """The state of a job as HTML: `state_words`, or the time before which it must not start."""
    if job.state is State.QUEUED and job.not_before and not job.held:
        time = moment(job.not_before)
        if job.tries:
            return say("common.again_at_try", time=time, tried=job.tries + 1, most=MAX_TRIES)
        return say("common.again_at", time=time)
    return text(state_words(job, position))


def ordinal(number: int) -> str:
    if language() != FIRST:
        return f"{number:,}"
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number:,}" + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")


def why(job: Job) -> str:
    """Why a job failed, as HTML: the kind of error and the message."""
    if not job.failure:
        return ""
    kind = translated(kind_text(job.failure.kind))
    return f'<b class="kind">{text(kind)}</b> {text(translated(job.failure.message))}'


def problem(error: UserError) -> str:
    """The text of a UserError, with the label of the option instead of its name."""
    if isinstance(error, InvalidParams):
        within = text(error.field.removeprefix(error.option))
        return f"{name_of(error.option)}{within} {translated(error.problem)}"
    return translated(error.message)


def button(
    label: str, verb: str, key: str = "", kind: str = "", sure: str = "", title: str = "", extra: str = ""
) -> str:
    """A button whose click ``live.js`` sends to the server as ``verb`` and ``key``.

    ``label`` and ``extra`` (attributes) are HTML. ``sure``: a question to confirm first; ``kind``: CSS classes.
    """
    extra += f' data-sure="{text(sure)}"' if sure else ""
    extra += f' title="{text(title)}"' if title else ""
    return f'<button type="button" class="act {kind}" data-do="{verb}" data-id="{text(key)}"{extra}>{label}</button>'


def ask(question: str, answer: str = "") -> str:
    """Attributes that make ``live.js`` ask for a line of text and append it to the button's id.

    ``answer``: the text to begin with.
    """
    return f' data-ask="{text(question)}" data-answer="{text(answer)}"'


def close_button() -> str:
    """The close button of a dialog: it receives the focus first, and Escape presses it."""
    name = say("common.close")
    return f'<button type="button" class="act close" data-do="close" data-first aria-label="{name}">✕</button>'


def menu(key: str, label: str, items: Sequence[str], summary: str = "⋯") -> str:
    """A drop-down menu of buttons. By its ``key``, ``live.js`` keeps it open when the page is redrawn."""
    name = text(label)
    return (
        f'<details class="menu" data-key="{text(key)}"><summary class="act small" aria-label="{name}" title="{name}">'
        f'{summary}</summary><div class="items">{"".join(items)}</div></details>'
    )


def report_link(url: str, label: str) -> str:
    return f'<a class="quiet" href="{url}" target="_blank" rel="noopener">{label}</a>'


def item(label: str, verb: str, key: str = "", sure: str = "", stay: bool = False) -> str:
    """An entry of a `menu`; with ``stay`` the menu remains open after a click."""
    return button(label, verb, key, sure=sure, extra=" data-stay" if stay else "")


def short(seconds: float) -> str:
    """An estimated duration in short form, for narrow places."""
    if seconds < 55:
        return say("common.short_seconds", n=round(seconds / 5) * 5 or max(1, round(seconds)))
    if seconds < 3570:
        return say("common.short_minutes", n=max(1, round(seconds / 60)))
    return say("common.short_hours", n=round(seconds / 3600))


def progress(job: Job) -> float:
    """Progress of a job in percent."""
    return 100 * min(1.0, job.step / job.params.total_steps)


def bar(job: Job) -> str:
    """The progress bar of a job. Keyed by the job, so that the next job's bar starts at zero instead of shrinking."""
    percent = round(progress(job), 1)
    return (
        f'<div class="bar" data-key="bar-{job.id}" role="progressbar" aria-label="{say("common.progress")}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:g}"><i style="width:{percent:g}%"></i></div>'
    )


def ring(job: Job, eta: float | None) -> str:
    """The progress of a running job as a ring around its remaining time, or around its step if that is unknown."""
    words = f"{job.step}/{job.params.total_steps}" if eta is None else short(eta)
    exact = "" if eta is None else f' title="{duration(eta)}"'
    percent = round(progress(job), 1)
    return (
        f'<div class="ring" data-key="ring-{job.id}" role="progressbar" aria-label="{say("common.progress")}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:g}" style="--done:{percent:g}"{exact}>'
        f"<span>{words}</span></div>"
    )


def notice(kind: str, words: str, more: str = "") -> str:
    role = "alert" if kind in ("bad", "warn") else "status"
    return f'<div class="notice {kind}" role="{role}"><span>{words}</span>{more}</div>'


def manual_link(topic: str) -> str:
    """A link to a page of the manual; it opens a new tab, so that the form is not lost."""
    return f'<a class="manual" href="manual/{topic}" target="_blank" rel="noopener">{say("page.manual")}</a>'


def warnings_notice(warnings: Sequence[str]) -> str:
    return notice("warn", "<br>".join(text(warned(each)) for each in warnings)) if warnings else ""


def warned(warning: str) -> str:
    """Replace the field name at the start of a warning by the field's label."""
    told, (field, _, _) = translated(warning), warning.partition(":")
    return told.replace(field, name_of(field), 1) if told.startswith(field) else told


def changed(names: Sequence[str]) -> str:
    """A notice that lists the settings changed by a recipe; "" if there are none."""
    if not names:
        return ""
    return notice("info", say("create.changed", what=", ".join(name_of(name) for name in names)))


def toast(words: str, key: str, more: str = "", kind: str = "") -> str:
    """A message that disappears by itself. A new ``key`` shows the same words again."""
    return f'<div class="toast {kind}" role="status" data-key="{text(key)}"><span>{text(words)}</span>{more}</div>'


def flag(image: Image) -> str:
    """A chip for a picture that the quality check flagged, or ""."""
    if not image.flag:
        return ""
    words = say(f"gallery.flag_{image.flag}") if has_phrase(f"gallery.flag_{image.flag}") else text(image.flag)
    return f'<span class="flag" title="{say("gallery.flagged_why")}">{words}</span>'


def picture_link(image: Image, alt: str) -> str:
    """A thumbnail that opens the picture in the viewer."""
    return (
        f'<a class="open" href="{serializers.file_url(image)}" data-do="open" data-id="{image.id}">'
        f'<img src="{serializers.thumbnail_url(image.id)}" alt="{text(alt)}" loading="lazy" '
        f'width="{image.width}" height="{image.height}"></a>'
    )


# -- worker and queue, shown on every tab ---------------------------------------------------------------------------


def utc() -> datetime:
    return datetime.now(UTC)
