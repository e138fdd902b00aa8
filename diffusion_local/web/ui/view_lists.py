"""The result of checking a list or grid: what it would generate, and which lines are invalid. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from diffusion_local.lists.entries import BadLine
from diffusion_local.lists.grid_service import GridCheck
from diffusion_local.lists.plan import ListCheck
from diffusion_local.messages import Message
from diffusion_local.web.ui.templates import macro, render
from diffusion_local.web.ui.view import duration, moment, name_of, size
from diffusion_local.web.ui.words import has_phrase, say, translated

SHOWN_BAD = 20
SHOWN_HEADS = 12


def of_list(check: ListCheck, done: str | None, late: str, key: str) -> Markup:
    """The check of a list. ``done``: estimated end (ISO 8601), ``late``: a warning that it misses its deadline.

    The button sends ``key``, the submission's idempotency key, and the seed of the wildcards, so that exactly the
    prompts shown get queued.
    """
    facts = made_of(check.models, check.seconds, done)
    if check.bytes is not None and check.pictures:
        facts.append((say("lists.disk"), say("lists.about", what=size(check.bytes))))
    bad = [(each.line, *reason(each), each.text) for each in check.bad_lines[:SHOWN_BAD]]
    sum_ = say("lists.from_lines", n=check.lines)
    return checked(check, sum_, facts, late, key, bad=bad, bad_count=check.bad_count)


def of_grid(check: GridCheck, done: str | None, late: str, key: str) -> Markup:
    sum_ = f"{len(check.columns):,} × {len(check.rows) or 1:,}"
    return checked(check, sum_, made_of(check.models, check.seconds, done), late, key, grid=True)


def checked(
    check: ListCheck | GridCheck, sum_: str, facts: Sequence[tuple[str, str]], late: str, key: str, **more: Any
) -> Markup:
    warnings = [translated(each) for each in [*check.warnings, *([late] if late else [])]]
    more = {"grid": False, "bad": (), "bad_count": 0} | more
    return render(
        "checked.html", check=check, sum=sum_, facts=facts, warnings=warnings, key=key, shown_heads=SHOWN_HEADS, **more
    )


def made_of(models: Mapping[str, int], seconds: float | None, done: str | None) -> list[tuple[str, str]]:
    """(name, value) of the models with their numbers of pictures, the working time, and the estimated end."""
    if not models:
        return []
    alone = len(models) == 1
    names = ", ".join(name if alone else f"{name} ({count:,})" for name, count in models.items())
    rows: list[tuple[str, str]] = [(say("common.model"), names)]
    rows.append((say("lists.time"), say("lists.not_known") if seconds is None else duration(seconds)))
    if done:
        rows.append((say("lists.done_at"), moment(done)))
    return rows


def reason(line: BadLine) -> tuple[str, str]:
    """Why a line is invalid: (the field's label, or "", and the translated message)."""
    words = line.reason
    field = words.params["field"] if isinstance(words, Message) and words.id == "in_field" else ""
    if isinstance(words, Message) and has_phrase(f"common.{field}"):
        return name_of(field), translated(words.params["problem"])
    return "", translated(words)


def import_refused(words: str) -> Markup:
    """A notice that lines of a queue file are invalid, with a button to import the others."""
    return macro("notice_with_button", "bad", words, say("lists.import_skipping"), "import_skipping", "small")
