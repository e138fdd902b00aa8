"""Texts and small parts used by all views. Pure functions of domain objects.

Parts are ``Markup`` made by macros of the templates; a plain ``str`` is text, which templates escape.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from diffusion_local.domain import MAX_TRIES, Job, State, utc_text
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import message
from diffusion_local.options.table import LONG_NAMES
from diffusion_local.reports.html import kind_text
from diffusion_local.web.ui import templates
from diffusion_local.web.ui.templates import macro
from diffusion_local.web.ui.words import FIRST, has_phrase, language, say, translated

#: A list's entry in the name of a field, and a field of that entry: ``[1].weight``.
ENTRY = re.compile(r"\[(\d+)\](?:\.(\w+))?")
#: As wide as a digit: a number in text that is set to the right keeps its place as it grows.


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


def moment(at: datetime | str, exact: bool = False) -> Markup:
    """A time as a ``<time>`` element, which the browser rewrites in its own zone and language.

    ``exact``: with seconds. Without scripts the time is shown in UTC.
    """
    return macro("moment", at if isinstance(at, str) else utc_text(at), exact)


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
            return say("common.step", step=job.step, steps=job.params.total_steps)
        case State.RUNNING:
            return translated(job.phase).capitalize() + "…" if job.phase else say("common.starting")
    return say(f"common.{job.state}")


def standing(job: Job, position: int | None = None) -> Markup:
    """The state of a job: `state_words`, or the time before which it must not start."""
    if job.state is State.QUEUED and job.not_before and not job.held:
        time = moment(job.not_before)
        if job.tries:
            return templates.say("common.again_at_try", time=time, tried=job.tries + 1, most=MAX_TRIES)
        return templates.say("common.again_at", time=time)
    return Markup.escape(state_words(job, position))


def ordinal(number: int) -> str:
    if language() != FIRST:
        return f"{number:,}"
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number:,}" + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")


def why(job: Job) -> Markup:
    """Why a job failed: the kind of error and the message; empty if it did not fail."""
    if not job.failure:
        return Markup()
    return macro("failure", translated(kind_text(job.failure.kind)), translated(job.failure.message))


def labelled(error: InvalidParams) -> str:
    """The label of the field at fault; of an entry's field "Controls 1, Preprocessor" for ``controls[0].type``."""
    label, found = name_of(error.option), entry_of(error)
    if found is None:
        return label + error.field.removeprefix(error.option)
    place, part = found
    phrase = f"create.{error.option.removesuffix('s')}_{part}"
    return f"{label} {place + 1}" + (f", {say(phrase) if has_phrase(phrase) else part}" if part else "")


def entry_of(error: InvalidParams) -> tuple[int, str] | None:
    """(place of the entry in its list, counted from 0; name of its field or ""); None for a field without entries."""
    found = ENTRY.fullmatch(error.field.removeprefix(error.option))
    return (int(found[1]), found[2] or "") if found else None


def problem(error: UserError) -> str:
    """The text of a UserError, with the labels of options instead of their names."""
    if not isinstance(error, InvalidParams):
        return translated(error.message)
    is_sentence = error.problem[:1].isupper()  # by itself, without the label as its subject
    whole = message("in_field", field=labelled(error), problem=error.problem) if is_sentence else None
    text = translated(whole) if whole else f"{labelled(error)} {translated(error.problem)}"
    return LONG_NAMES.sub(lambda found: name_of(found[0]), text)


def button(label: str, verb: str, key: str = "") -> Markup:
    """A button whose click ``live.js`` sends to the server as ``verb`` and ``key``."""
    return macro("button", label, verb, key)


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


def notice(kind: str, words: str, more: str = "") -> Markup:
    return macro("notice", kind, words, more)


def warnings_notice(warnings: Sequence[str]) -> Markup:
    return notice("warn", macro("lines", [warned(each) for each in warnings])) if warnings else Markup()


def warned(warning: str) -> str:
    """Replace the field name at the start of a warning by the field's label."""
    text, (field, _, _) = translated(warning), warning.partition(":")
    return text.replace(field, name_of(field), 1) if text.startswith(field) else text


def changed(names: Sequence[str]) -> Markup:
    """A notice that lists the settings changed by a recipe; empty if there are none."""
    if not names:
        return Markup()
    return notice("info", say("create.changed", what=", ".join(name_of(name) for name in names)))


def toast(words: str, key: str, more: str = "", kind: str = "", field: str = "") -> Markup:
    """A message that disappears by itself. A new ``key`` shows the same words again. ``field``: name of the wrong field
    of the form that was sent.
    """
    return macro("toast", words, key, more, kind, field)


def utc() -> datetime:
    return datetime.now(UTC)
