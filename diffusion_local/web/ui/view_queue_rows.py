"""Jobs as rows of the queue, with their menus. Pure, like ``view``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from markupsafe import Markup

from diffusion_local.domain import Image, Job, Snapshot, State
from diffusion_local.web.ui.templates import render, say
from diffusion_local.web.ui.view import duration, moment, progress, short, standing, why
from diffusion_local.web.ui.view_now import shut
from diffusion_local.web.ui.view_stage import Shot, positions


@dataclass(frozen=True, slots=True)
class RowContext:
    """What a row shows besides its job. All mappings are by job id.

    ``order``: positions in the queue, from 1; ``eta``: remaining seconds; ``passed``: jobs that others overtake because
    their model is loaded.
    """

    snapshot: Snapshot
    now: datetime
    images: Mapping[str, Image] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)
    eta: Mapping[str, float] = field(default_factory=dict)
    passed: frozenset[str] = frozenset()

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, images: Mapping[str, Image], now: datetime) -> "RowContext":
        held = snapshot.paused or snapshot.reason  # for an unknown time, so queued jobs have no estimate
        running = {job.id: snapshot.eta[job.id] for job in snapshot.running if job.id in snapshot.eta}
        eta = running if held else snapshot.eta
        return cls(snapshot, now, images, positions(snapshot), eta, passed_over(snapshot.waiting))


def passed_over(waiting: Iterable[Job]) -> frozenset[str]:
    """Ids of jobs that jobs of the same owner overtake because these need another, loaded model.

    ``waiting``: queued jobs in the order in which they will run.
    """
    furthest: dict[tuple[str, int, str], tuple[int, str]] = {}
    passed = set()
    for job in waiting:
        group = (str(job.lane), job.priority, job.owner)
        position, model = furthest.get(group, (job.position, job.params.model))
        if position > job.position and model != job.params.model:
            passed.add(job.id)
        if position <= job.position:
            furthest[group] = (job.position, job.params.model)
    return frozenset(passed)


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the queue; ``several``: its batch has more than one job."""

    job: Job
    around: RowContext
    several: bool = True

    @property
    def image(self) -> Image | None:
        return self.around.images.get(self.job.id)

    @property
    def percent(self) -> float:
        return progress(self.job)

    @property
    def standing(self) -> Markup:
        return standing(self.job, self.around.order.get(self.job.id))

    @property
    def why(self) -> Markup:
        return why(self.job)

    @property
    def mend(self) -> bool:
        return Shot(self.job.id, self.job.params, str(self.job.state), self.job).mend

    @property
    def when(self) -> str:
        """When the job ended, its remaining time, or what it waits for."""
        job, around = self.job, self.around
        eta = around.eta.get(job.id)
        if job.finished_at:
            return moment(job.finished_at)
        if job.held or job.not_before:
            return ""
        if job.state is State.QUEUED and shut(job, around.snapshot):
            opens = around.snapshot.opens[job.gate]
            return say("queue.opens_at", time=moment(opens)) if opens else say("queue.opens_never")
        if job.id in around.passed:
            return say("queue.model_first")
        if eta is None:
            return ""
        return say("common.left", time=duration(eta)) if job.state is State.RUNNING else duration(eta)

    @property
    def brief(self) -> str:
        """``when`` for narrow screens, if that is a remaining time."""
        eta = self.around.eta.get(self.job.id)
        if eta is None or self.when not in (duration(eta), say("common.left", time=duration(eta))):
            return ""
        return short(eta)


def row(job: Job, around: RowContext, several: bool = True) -> Markup:
    return render("queue_row.html", row=Row(job, around, several))
