"""The history of a job: its events, settings, error and picture. Pure, like ``view``."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from markupsafe import Markup

from diffusion_local.domain import Event, Image, Job, State
from diffusion_local.web.ui import view_picture
from diffusion_local.web.ui.templates import render
from diffusion_local.web.ui.view import elapsed, standing, why
from diffusion_local.web.ui.words import has_phrase, say, translated

LONG_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^\s\"'/\\]+){3,}")


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """An event, with the event ``before`` it if there is one."""

    event: Event
    before: Event | None

    @property
    def words(self) -> str:
        back = self.event.state == State.QUEUED and self.before is not None
        key = "queue.happened_back" if back else f"queue.happened_{self.event.state}"
        return say(key) if has_phrase(key) else str(self.event.state)

    @property
    def passed(self) -> str | None:
        """The time since the event before."""
        if not self.before:
            return None
        passed = datetime.fromisoformat(self.event.at) - datetime.fromisoformat(self.before.at)
        return elapsed(max(0.0, passed.total_seconds()))

    @property
    def more(self) -> list[str]:
        """The attempt, worker and note."""
        more = []
        if self.event.state == State.RUNNING:
            more.append(say("queue.attempt", n=self.event.attempt))
        if self.event.worker:
            more.append(say("queue.worker", worker=self.event.worker))
        if self.event.note:
            more.append(translated(self.event.note))
        return more


def panel(job: Job, events: Sequence[Event], image: Image | None) -> Markup:
    return render(
        "history.html",
        job=job,
        image=image,
        why=why(job),
        detail=shortened_paths(job.failure.detail.strip()) if job.failure else "",
        events=[TimelineEvent(each, before) for each, before in zip(events, [None, *events], strict=False)],
        standing=standing(job),
        settings=chain(view_picture.recipe_rows(job.params), of_queue(job)),
    )


def shortened_paths(detail: str) -> str:
    """Reduce each path in a traceback to its last two components, which hides where files are on this machine."""
    return LONG_PATH.sub(lambda found: "…/" + "/".join(re.split(r"[/\\]", found[0])[-2:]), detail)


def of_queue(job: Job) -> Iterator[tuple[str, str]]:
    if job.priority:
        yield say("queue.priority"), f"{job.priority:+d}"
    yield say("queue.job"), job.id
