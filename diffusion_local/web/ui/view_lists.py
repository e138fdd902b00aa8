"""The result of checking a list or grid as HTML: what it would generate, and which lines are invalid. Pure, like
``view``.
"""

from collections.abc import Mapping, Sequence

from diffusion_local.lists.entries import BadLine
from diffusion_local.lists.grid_service import GridCheck
from diffusion_local.lists.plan import ListCheck
from diffusion_local.messages import Message
from diffusion_local.web.ui.view import button, duration, manual_link, moment, name_of, notice, pictures, size, text
from diffusion_local.web.ui.words import has_phrase, say, translated

SHOWN_BAD = 20
SHOWN_HEADS = 12


def of_list(check: ListCheck, done: str | None, late: str, key: str) -> str:
    """The check of a list. ``done``: estimated end (ISO 8601), ``late``: a warning that it misses its deadline.

    The button sends ``key``, the submission's idempotency key, and the seed of the wildcards, so that exactly the
    prompts shown get queued.
    """
    lines = say("lists.from_lines", n=check.lines)
    facts = made_of(check.models, check.seconds, done)
    if check.bytes is not None and check.pictures:
        facts.append((say("lists.disk"), say("lists.about", what=size(check.bytes))))
    prompts = ""
    if check.first:
        first = "".join(f"<li>{text(each)}</li>" for each in check.first)
        gap = check.pictures - len(check.first) - len(check.last)
        between = f'<li class="quiet">{say("lists.between", n=gap)}</li>' if gap > 0 else ""
        last = "".join(f"<li>{text(each)}</li>" for each in check.last)
        prompts = f'<h2>{say("lists.prompts")}</h2><ol class="prompts">{first}{between}{last}</ol>'
    act = ""
    if check.pictures and check.bad_count:
        words = say("lists.queue_skipping", pictures=pictures(check.pictures), n=check.bad_count)
        act = button(words, "queue_skipping", f"{key} {check.expansion_seed}", kind="primary")
    elif check.pictures:
        words = say("lists.queue", pictures=pictures(check.pictures))
        act = button(words, "queue_list", f"{key} {check.expansion_seed}", kind="primary")
    bad = bad_lines(check.bad_lines, check.bad_count)
    head = f'<b>{pictures(check.pictures)}</b> <span class="quiet">{lines}</span>'
    return checked(head, bad, facts, prompts, [*check.warnings, *([late] if late else [])], act)


def of_grid(check: GridCheck, done: str | None, late: str, key: str) -> str:
    rows = len(check.rows) or 1
    head = f'<b>{pictures(check.pictures)}</b> <span class="quiet">{len(check.columns):,} × {rows:,}</span>'
    facts = made_of(check.models, check.seconds, done)
    heads = f"<h2>{say('lists.columns')}</h2>{chips(check.columns)}"
    if check.rows:
        heads += f"<h2>{say('lists.rows')}</h2>{chips(check.rows)}"
    act = button(say("lists.queue", pictures=pictures(check.pictures)), "queue_grid", key, kind="primary")
    return checked(head, "", facts, heads, [*check.warnings, *([late] if late else [])], act)


def chips(heads: Sequence[str]) -> str:
    more = f'<li class="quiet">+ {len(heads) - SHOWN_HEADS:,}</li>' if len(heads) > SHOWN_HEADS else ""
    return f'<ul class="heads">{"".join(f"<li>{text(each)}</li>" for each in heads[:SHOWN_HEADS])}{more}</ul>'


def made_of(models: Mapping[str, int], seconds: float | None, done: str | None) -> list[tuple[str, str]]:
    """(name, HTML) of the models with their numbers of pictures, the working time, and the estimated end."""
    told = []
    if models:
        alone = len(models) == 1
        each = [text(name) if alone else f"{text(name)} ({count:,})" for name, count in models.items()]
        told.append((say("common.model"), ", ".join(each)))
    work = say("lists.not_known") if seconds is None else duration(seconds)
    if models:
        told.append((say("lists.time"), work))
    if models and done:
        told.append((say("lists.done_at"), moment(done)))
    return told


def checked(head: str, bad: str, facts: Sequence[tuple[str, str]], more: str, warnings: Sequence[str], act: str) -> str:
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    warned = notice("warn", "<br>".join(text(translated(each)) for each in warnings)) if warnings else ""
    return (
        f'<section class="checked" data-key="checked" aria-label="{say("lists.checked")}" tabindex="-1">'
        f'<p class="sum" role="status">{head}</p><dl>{told}</dl>{warned}{bad}{more}'
        f'<div class="acts">{act}{button(say("common.close"), "clear_check")}</div></section>'
    )


def bad_lines(lines: Sequence[BadLine], count: int) -> str:
    if not count:
        return ""
    rows = "".join(
        f'<tr><td>{each.line:,}</td><td>{reason(each.reason)}<span class="quiet">{text(each.text)}</span></td></tr>'
        for each in lines[:SHOWN_BAD]
    )
    left = count - min(len(lines), SHOWN_BAD)
    more = f'<p class="quiet">{say("lists.more_bad", n=left)}</p>' if left > 0 else ""
    return (
        f'<div class="bad-lines"><h2>{say("lists.bad_lines", n=count)} {manual_link("lists")}</h2>'
        f"<table><thead><tr><th>{say('lists.line')}</th>"
        f"<th>{say('lists.why')}</th></tr></thead><tbody>{rows}</tbody></table>{more}</div>"
    )


def reason(words: str) -> str:
    """Why a line is invalid, as HTML: the field's label and the translated message."""
    field = words.params["field"] if isinstance(words, Message) and words.id == "in_field" else ""
    if isinstance(words, Message) and has_phrase(f"common.{field}"):
        return f"<b>{name_of(field)}</b> {text(translated(words.params['problem']))}"
    return text(translated(words))


def import_refused(words: str) -> str:
    """A notice that lines of a queue file are invalid, with a button to import the others."""
    acts = button(say("lists.import_skipping"), "import_skipping", kind="small")
    return notice("bad", text(words), f'<span class="acts">{acts}</span>')
