"""Queue use cases of the Studio: queries, and commands to stop, pause, reorder and delete jobs.

Jobs belong to their submitter: only the owner or an admin may change them; commands on the whole queue need an admin.
Naming another owner's job raises Forbidden (NotFound if the actor may not even read it); "all" skips it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.domain import MAX_IDS, PRIORITIES, Batch, Receipt, State, new_id, shortened, utc_now
from diffusion_local.errors import Conflict, Forbidden, InvalidParams, echo
from diffusion_local.gallery.images import ImageStore
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.options.types import RUNGS
from diffusion_local.options.values import check_integer
from diffusion_local.queue import schedule
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore, Selection, new_jobs
from diffusion_local.queue.views import QueueView
from diffusion_local.reports.service import Reports
from diffusion_local.settings import Settings


@guarded("queue")
class QueueService:
    """Part of the Studio, as ``studio.queue``."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        control: QueueControl,
        view: QueueView,
        images: ImageStore,
        queue: JobQueue,
        reports: Reports,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._control = control
        self._view = view
        self._images = images
        self._queue = queue
        self._reports = reports

    def again(
        self,
        job_ids: Sequence[str] = (),
        batch_id: str | None = None,
        failed: bool = False,
        state: str | None = None,
        exactly: bool = False,
    ) -> Receipt:
        """Submit new jobs with the recipes of old jobs, which are not changed.

        Without ``job_ids``: the jobs of ``batch_id``, or with ``failed`` or ``state`` of the whole list, that are in
        ``state`` (by default failed) and were not submitted again before, so a repeated call adds nothing twice.

        ``exactly``: finished pictures are reproduced bit for bit on the same device with the same versions, because
        each is made at its old place in a pass of the same size, on the same memory rung.
        """
        wanted_state = parse_state(state or State.FAILED)
        if job_ids and batch_id:
            raise InvalidParams("batch_id", message("no_batch_with_jobs"))
        if failed and job_ids:
            require_alone("failed", job_ids, None)
        if not (job_ids or batch_id or failed or state):
            raise InvalidParams("job_ids", message("jobs_or_failed"))
        chosen = list(dict.fromkeys(job_ids)) or self._control.not_resubmitted(
            Selection((), batch_id or None, not batch_id), wanted_state
        )
        if not chosen:
            raise Conflict(message("none_left", state=message(f"state_{wanted_state}")))
        if len(chosen) > self._settings.max_queued:
            raise InvalidParams("job_ids", message("most_jobs", most=self._settings.max_queued))
        old = [self._jobs.get(job_id) for job_id in chosen]
        if foreign := [job.id for job in old if not actor.current().owns(job.owner)]:
            raise Forbidden(message("anothers_job", job=foreign[0]))
        owner = actor.current().owner(old[0].owner)
        batch = Batch(new_id(), shortened(old[0].params.prompt), owner, old[0].lane, len(old), utc_now())
        made = self._images.of_jobs(chosen) if exactly else {}
        all_params = [pinned(job.params, made[job.id].facts) if job.id in made else job.params for job in old]
        jobs = new_jobs(batch, all_params, old[0].priority, [job.id for job in old])
        new_batch, ids = self._jobs.insert_batch(batch, jobs, None, self._settings.max_queued)
        self._queue.ring(len(ids))
        return Receipt(new_batch, ids)

    def again_of_reason(
        self, reason: str, batch_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> Receipt:
        """Resubmit the jobs that failed for one reason in the report of a batch, or of ``since`` to ``until``.

        A repeated call adds nothing twice. Raises NotFound and Conflict.
        """
        return self.again(self._reports.failed(reason, batch_id or None, since or None, until or None))

    def cancel(self, job_ids: Sequence[str] = (), batch_id: str | None = None, waiting: bool = False) -> list[str]:
        """Cancel queued jobs, and stop running ones at their next step; returns the ids of the affected jobs.

        ``waiting`` selects every queued job that the actor may cancel, but no running ones. A single job that has ended
        raises Conflict; in a selection it is skipped.
        """
        if waiting:
            require_alone("waiting", job_ids, batch_id)
            return self._jobs.cancel(Selection(tuple(self._control.ids(Selection(everything=True), State.QUEUED))))
        touched = self._jobs.cancel(self._select(job_ids, batch_id))
        if not touched and len(job_ids) == 1:
            raise Conflict(
                message("ended_already", job=job_ids[0], state=message(f"state_{self._jobs.get(job_ids[0]).state}"))
            )
        return touched

    def undo_cancel(self, job_ids: Sequence[str], together: bool = False) -> list[Receipt]:
        """Put cancelled jobs back at their old places in the queue, as new jobs in one new batch per old one.

        ``together``: also all jobs that were cancelled in the same act. Jobs that were put back before, and jobs that
        nobody cancelled, are skipped. Raises NotFound, Forbidden, QueueFull and LimitReached.
        """
        receipts = self._control.put_back(self._select(job_ids, None), together, self._settings.max_queued)
        self._queue.ring(sum(len(each.job_ids) for each in receipts))
        return receipts

    def pause(self, give_back: bool = False) -> None:
        """Start no further jobs until ``resume``. Survives restarts.

        Running jobs are finished, or with ``give_back`` returned to their place at their next step.
        """
        self._control.pause(give_back=give_back)

    def resume(self) -> None:
        self._control.resume()
        self._queue.ring()

    def pause_batch(self, batch_id: str, give_back: bool = False) -> None:
        """Pause one batch until ``resume_batch``. Raises NotFound, and Forbidden for another owner's batch."""
        self._require_ownership(batch_id)
        self._control.pause(batch_id, give_back)

    def resume_batch(self, batch_id: str) -> None:
        """End the pause of one batch. Raises NotFound, and Forbidden for another owner's batch."""
        self._require_ownership(batch_id)
        self._control.resume(batch_id)
        self._queue.ring()

    def set_window(self, window: str = "") -> str:
        """Start jobs of the batch lane in this window only (``23:00-07:00``; empty: always); returns the normalised
        window.
        """
        normalised = schedule.parse_window(window).text if window.strip() else ""
        self._control.set_window(normalised)
        self._queue.ring()
        return normalised

    def stay_awake(self) -> None:
        """Cancel the planned sleep or shutdown; the next one is planned after further lists are done."""
        self._control.announce_sleep("")

    def set_priority(self, value: int, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        """Set the priority of queued jobs (-100 to 100, higher runs first); returns the ids of the changed ones."""
        checked = check_integer("priority", value, *PRIORITIES)
        return self._control.set_priority(self._select(job_ids, batch_id), checked)

    def move(self, to: str, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        """Move queued jobs to the ``top`` or ``bottom`` of their lane, or one job ``up`` or ``down`` by one; returns
        their ids.
        """
        if to == "top":
            return self._control.move_to_top(self._select(job_ids, batch_id))
        if to == "bottom":
            return self._control.move_to_bottom(self._select(job_ids, batch_id))
        if to not in ("up", "down"):
            raise InvalidParams("to", message("move_to", got=echo(to)))
        if len(job_ids) != 1:
            raise InvalidParams("job_ids", message("move_one", to=to))
        self._select(job_ids, batch_id)
        self._control.move(job_ids[0], up=to == "up")
        return list(job_ids)

    def move_batch(self, batch_id: str, before: str) -> list[str]:
        """Move the queued jobs of a batch before those of another; returns their ids. The actor must own both.

        Raises Conflict if the batches have different lanes or owners, between which positions do not decide the order.
        """
        self._select((), batch_id)
        self._select((), before)
        if self._view.batch(batch_id)[0].owner != self._view.batch(before)[0].owner:
            raise Conflict(message("other_owners"))
        return self._control.move_batch(batch_id, before)

    def forget(self, job_ids: Sequence[str] = (), batch_id: str | None = None, ended: bool = False) -> list[str]:
        """Delete ended jobs (``ended``: all of them) and their history; their pictures stay. Returns their ids.

        A single job that has not ended raises Conflict; in a selection it is skipped.
        """
        if ended:
            require_alone("ended", job_ids, batch_id)
        selection = Selection(everything=True) if ended else self._select(job_ids, batch_id)
        deleted = self._control.delete_ended(selection)
        if not deleted and len(job_ids) == 1:
            state = message(f"state_{self._jobs.get(job_ids[0]).state}")
            raise Conflict(message("job_not_ended", job=job_ids[0], state=state))
        return deleted

    def _require_ownership(self, batch_id: str) -> None:
        actor.current().require_own(self._view.batch(batch_id)[0].owner, message("the_batch", id=batch_id))

    def _select(self, job_ids: Sequence[str], batch_id: str | None) -> Selection:
        """The selection of these jobs or this batch.

        Raises NotFound for an unknown job, Forbidden for another owner's, InvalidParams if nothing is named.
        """
        who = actor.current()
        if not job_ids and not batch_id:
            raise InvalidParams("job_ids", message("name_a_job"))
        if job_ids and batch_id:
            raise InvalidParams("batch_id", message("no_batch_with_jobs"))
        if len(job_ids) > MAX_IDS:
            raise InvalidParams("job_ids", message("job_ids_most", most=MAX_IDS, got=len(job_ids)))
        chosen = tuple(dict.fromkeys(job_ids))
        for job_id in chosen:
            who.require_own(self._jobs.get(job_id).owner, message("the_job", id=job_id))
        if batch_id:
            self._require_ownership(batch_id)
        return Selection(chosen, batch_id or None)


def require_alone(field: str, job_ids: Sequence[str], batch_id: str | None) -> None:
    """Raise InvalidParams if ``field``, which selects all jobs of a kind, is combined with another selection."""
    if job_ids or batch_id:
        raise InvalidParams(field, message("all_of_them"))


def pinned(params: Params, facts: Mapping[str, Any]) -> Params:
    """The params with the place, memory rung and GPUs from their picture's recipe, to reproduce it exactly."""
    rung, gpus = str(facts.get("rung", "")), 2 if facts.get("gpus") == 2 else 1
    return replace(params, place=str(facts.get("place", "")), rung=rung if rung in RUNGS else params.rung, gpus=gpus)


def parse_state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise InvalidParams("state", message("one_of", known=list(State), got=echo(name))) from None
