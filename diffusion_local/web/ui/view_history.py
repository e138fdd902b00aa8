"""The history of a job as HTML: its events, settings, error and picture. Pure, like ``view``."""

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import chain

from diffusion_local import serializers
from diffusion_local.domain import FINAL, Event, Image, Job, State
from diffusion_local.web.ui import view_picture
from diffusion_local.web.ui.view import (
    button,
    close_button,
    elapsed,
    moment,
    picture_link,
    report_link,
    standing,
    text,
    why,
)
from diffusion_local.web.ui.words import has_phrase, say, translated

LONG_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^\s\"'/\\]+){3,}")


def panel(job: Job, events: Sequence[Event], image: Image | None) -> str:
    picture = f'<div class="small-picture">{picture_link(image, job.params.prompt)}</div>' if image else ""
    acts = ""
    if job.final:
        acts = button(say("common.rerun" if job.state is State.DONE else "common.again"), "again", job.id, "primary")
        acts += button(say("common.use_recipe"), "recipe_of_job", job.id)
    if job.batch_id:
        acts += report_link(serializers.report_url(job.batch_id), say("queue.batch_report"))
    return (
        '<div class="overlay" data-do="close" data-self data-key="overlay">'
        f'<div class="panel history" role="dialog" aria-modal="true" data-key="{job.id}" '
        f'aria-label="{say("queue.history")}"><div class="side">{close_button()}<h2>{say("queue.what_happened")}</h2>'
        f'<p class="prompt">{text(job.params.prompt)}</p>{picture}{error(job)}'
        f'{timeline(job, events)}{settings(job)}<div class="acts">{acts}</div></div></div></div>'
    )


def error(job: Job) -> str:
    if not job.failure:
        return ""
    detail = job.failure.detail.strip()
    folded = (
        f"<details><summary>{say('common.detail')}</summary><pre>{text(shortened_paths(detail))}</pre></details>"
        if detail
        else ""
    )
    return f'<div class="error"><p>{why(job)}</p>{folded}</div>'


def shortened_paths(detail: str) -> str:
    """Reduce each path in a traceback to its last two components, which hides where files are on this machine."""
    return LONG_PATH.sub(lambda found: "…/" + "/".join(re.split(r"[/\\]", found[0])[-2:]), detail)


def timeline(job: Job, events: Sequence[Event]) -> str:
    if not events:
        return f'<p class="quiet">{say("queue.history_gone")}</p>'
    lines = "".join(event_line(each, before) for each, before in zip(events, [None, *events], strict=False))
    if job.state not in FINAL:
        lines += f'<li class="now-at"><b>{say("queue.now_at", state=standing(job))}</b></li>'
    return f'<ol class="timeline">{lines}</ol>'


def event_line(event: Event, before: Event | None) -> str:
    """An event, with the time passed since the event ``before``."""
    back = event.state == State.QUEUED and before is not None
    key = "queue.happened_back" if back else f"queue.happened_{event.state}"
    words = say(key) if has_phrase(key) else event.state
    more = []
    if event.state == State.RUNNING:
        more.append(say("queue.attempt", n=event.attempt))
    if event.worker:
        more.append(say("queue.worker", worker=text(event.worker)))
    if event.note:
        more.append(text(translated(event.note)))
    passed = ""
    if before:
        seconds = (datetime.fromisoformat(event.at) - datetime.fromisoformat(before.at)).total_seconds()
        passed = f" · {say('queue.after', time=elapsed(max(0.0, seconds)))}"
    told = f'<span class="quiet">{" · ".join(more)}</span>' if more else ""
    return (
        f'<li class="{text(event.state)}"><b>{text(words)}</b> '
        f'<span class="quiet at">{moment(event.at, exact=True)}{passed}</span>{told}</li>'
    )


def settings(job: Job) -> str:
    more = [(say("queue.job"), text(job.id))]
    if job.priority:
        more.insert(0, (say("queue.priority"), f"{job.priority:+d}"))
    return f"<dl>{view_picture.render_rows(chain(view_picture.recipe_rows(job.params), more))}</dl>"
