"""The list of batches: progress, menus, and the panel to edit a batch. Pure, like ``view``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from diffusion_local.domain import FINAL, Batch, State
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS
from diffusion_local.queue.batches import BatchProgress
from diffusion_local.web.ui.templates import render, say
from diffusion_local.web.ui.view import moment

BATCHES_PER_PAGE = 20
#: Options of queued jobs that the panel edits: the size, and the options in Create's row of numbers.
EDITABLE_SETTINGS = ("size", *(name for name, option in OPTIONS.items() if option.place == "numbers"))
#: All fields of the panel, except those that schedule the batch (``BATCH_OPTIONS``).
EDITABLE_COLUMNS = ("prompt", "model", *EDITABLE_SETTINGS)


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A batch with its numbers of jobs; ``total`` leaves out ended jobs that were removed since."""

    progress: BatchProgress
    now: datetime

    @property
    def batch(self) -> Batch:
        return self.progress.batch

    @property
    def done(self) -> int:
        return self.progress.counts[State.DONE]

    @property
    def failed(self) -> int:
        return self.progress.counts[State.FAILED]

    @property
    def cancelled(self) -> int:
        return self.progress.counts[State.CANCELLED]

    @property
    def running(self) -> int:
        return self.progress.counts[State.RUNNING]

    @property
    def waits(self) -> int:
        return self.progress.counts[State.QUEUED]

    @property
    def unfinished(self) -> int:
        return self.waits + self.running

    @property
    def total(self) -> int:
        return sum(self.progress.counts.values())

    @property
    def ended(self) -> int:
        return sum(self.progress.counts[state] for state in FINAL)

    @property
    def state(self) -> str:
        return "ended" if self.ended == self.total else "held" if self.batch.paused else "going"

    @property
    def done_at(self) -> str:
        return self.progress.done_at or ""

    @property
    def late(self) -> bool:
        return bool(self.progress.warning and self.batch.finish_by)

    @property
    def notes(self) -> list[Markup]:
        """What the batch waits for, and its deadline."""
        batch, notes = self.batch, []
        if self.waits and batch.start_at and datetime.fromisoformat(batch.start_at) > self.now:
            notes.append(say("lists.starts_at", time=moment(batch.start_at)))
        if self.waits and batch.window:
            notes.append(say("lists.only_in", window=batch.window))
        if self.waits and batch.finish_by and not self.progress.warning:
            notes.append(say("lists.by", time=moment(batch.finish_by)))
        return notes


def batches(progress: Sequence[BatchProgress], cursors: Sequence[str], now: datetime) -> Markup:
    """A page of batches.

    ``progress`` has one more batch than a page if there is a next page; ``cursors``: last id of each earlier page.
    """
    page = progress[:BATCHES_PER_PAGE]
    return render(
        "batches.html",
        lines=[BatchLine(each, now) for each in page],
        cursors=list(cursors),
        last=page[-1].batch.id if len(progress) > BATCHES_PER_PAGE else "",
    )


def panel(each: BatchProgress, models: Sequence[Model], shown: Mapping[str, str], problem: str = "") -> Markup:
    """The dialog to edit a batch's queued jobs; ``live.js`` sends its fields with the button.

    ``shown``: the current value of each field, "" where the jobs differ.
    """
    return render(
        "batch_panel.html",
        each=each,
        waits=each.counts[State.QUEUED],
        models=[one for one in models if one.ready],
        shown=shown,
        settings=EDITABLE_SETTINGS,
        times=BATCH_OPTIONS,
        problem=problem,
    )
