"""What happened to a job, as HTML: the panel with its events, settings, error and picture. Pure, like ``view``."""

import re
from collections.abc import Sequence

from diffusion_local.domain import FINAL, Event, Image, Job, State
from diffusion_local.web.ui.view import LABELS, button, moment, picture_link, standing, text, why

WORDS = {
    State.QUEUED: "In the queue",
    State.RUNNING: "Started",
    State.DONE: "Done",
    State.FAILED: "Failed",
    State.CANCELLED: "Cancelled",
}
LONG_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^\s\"'/\\]+){3,}")


def panel(job: Job, events: Sequence[Event], image: Image | None) -> str:
    picture = f'<div class="small-picture">{picture_link(image, job.params.prompt)}</div>' if image else ""
    acts = ""
    if job.final:
        acts = button("Again", "again", job.id, "primary") + button("Use this recipe", "recipe_of_job", job.id)
    return (
        '<div class="overlay" data-do="close" data-self data-key="overlay">'
        f'<div class="panel history" role="dialog" aria-modal="true" aria-label="What happened" data-key="{job.id}">'
        '<div class="side">'
        '<button type="button" class="act close" data-do="close" data-first aria-label="Close">✕</button>'
        f'<h2>What happened?</h2><p class="prompt">{text(job.params.prompt)}</p>{picture}{error(job)}'
        f'{timeline(job, events)}{settings(job)}<div class="acts">{acts}</div></div></div></div>'
    )


def error(job: Job) -> str:
    if not job.failure:
        return ""
    detail = job.failure.detail.strip()
    folded = f"<details><summary>Detail</summary><pre>{text(shortened_paths(detail))}</pre></details>" if detail else ""
    return f'<div class="error"><p>{why(job)}</p>{folded}</div>'


def shortened_paths(detail: str) -> str:
    """A traceback without where things are on this machine: the last two parts of each path say enough."""
    return LONG_PATH.sub(lambda found: "…/" + "/".join(re.split(r"[/\\]", found[0])[-2:]), detail)


def timeline(job: Job, events: Sequence[Event]) -> str:
    if not events:
        return '<p class="quiet">Its history was cleared away.</p>'
    lines = "".join(event_line(each, first=place == 0) for place, each in enumerate(events))
    if job.state not in FINAL:
        lines += f'<li class="now-at"><b>Now: {standing(job)}</b></li>'
    return f'<ol class="timeline">{lines}</ol>'


def event_line(event: Event, first: bool) -> str:
    words = WORDS.get(State(event.state), event.state) if event.state in list(State) else event.state
    if event.state == State.QUEUED and not first:
        words = "Back in the queue"
    more = []
    if event.state == State.RUNNING:
        more.append(f"attempt {event.attempt}")
    if event.worker:
        more.append(f"worker {text(event.worker)}")
    if event.note:
        more.append(text(event.note))
    told = f'<span class="quiet">{" · ".join(more)}</span>' if more else ""
    return (
        f'<li class="{text(event.state)}"><b>{text(words)}</b> '
        f'<span class="quiet at">{moment(event.at, exact=True)}</span>{told}</li>'
    )


def settings(job: Job) -> str:
    params = job.params
    rows = {
        LABELS["negative"]: params.negative,
        "Size": f"{params.width} × {params.height}",
        LABELS["model"]: params.model,
        LABELS["steps"]: params.steps,
        LABELS["guidance"]: f"{params.guidance:g}",
        LABELS["sampler"]: params.sampler,
        LABELS["seed"]: params.seed,
        "Priority": f"{job.priority:+d}" if job.priority else "",
        "Job": job.id,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in rows.items() if value != "")
    return f"<dl>{listed}</dl>"
