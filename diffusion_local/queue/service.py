"""What a person orders about jobs in the queue: stop, hold, arrange and clear them away. Part of the Studio.

Jobs belong to whoever submitted them: only the owner or an admin may do any of this; the queue as a whole is an
admin's. A job that is named and is somebody else's raises Forbidden (NotFound where it may not even be seen); in "all
of them" it is left out.
"""

from collections.abc import Callable, Sequence

from diffusion_local import actor
from diffusion_local.domain import PRIORITIES, Batch, Event, Receipt, State, new_id, shortened, utc_now
from diffusion_local.errors import Conflict, Forbidden, InvalidParams, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.values import whole_number
from diffusion_local.queue import schedule
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore, Selection, new_jobs
from diffusion_local.queue.views import QueueCounts, QueueView
from diffusion_local.reports.service import Reports
from diffusion_local.settings import Settings


class QueueQueries:
    _catalog: Catalog
    _view: QueueView
    _tally: Callable[[], QueueCounts]

    def moment(self) -> tuple[int, int]:
        """(revision, number of the newest event). The second one stays the same while pictures only advance."""
        return self._view.moment()

    def events_after(
        self, number: int, job_id: str | None = None, batch_id: str | None = None, limit: int = 500
    ) -> list[tuple[int, Event]]:
        """Events with their numbers, oldest first: of a job, of a batch's jobs, or of all."""
        return self._view.events_after(number, job_id, batch_id, limit)

    def batch(self, batch_id: str) -> tuple[Batch, dict[State, int]]:
        """A batch, and how many of its jobs are in each state."""
        return self._view.batch(batch_id)

    def submitted_under(self, idempotency_key: str) -> str:
        """The id of the batch that was submitted with this key. Raises NotFound."""
        batch_id = self._view.batch_of_key(idempotency_key)
        if batch_id is None:
            raise NotFound(message("no_key"))
        return batch_id

    def adapters(self, kind: str) -> list[Adapter]:
        """The files there are of a kind: lora, vae, upscaler or embedding."""
        return [each for each in self._catalog.shelf.adapters(kind) if each.ready]

    def unfinished(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the jobs that have not ended; a job that is not there any more counts as ended."""
        return self._view.unfinished(list(job_ids))

    def tally(self) -> QueueCounts:
        """Everything that is counted for monitoring, read in one transaction."""
        return self._tally()


MOST_NAMED = 1000  # ids in one call; a batch or "all" has no such limit


class QueueCommands:
    reports: Reports
    _settings: Settings
    _jobs: JobStore
    _control: QueueControl
    _view: QueueView
    _queue: JobQueue

    def again(
        self,
        job_ids: Sequence[str] = (),
        batch_id: str | None = None,
        failed: bool = False,
        state: str | None = None,
    ) -> Receipt:
        """Make new jobs from the recipes of old ones; the old ones stay as they are.

        Without ``job_ids``: those of ``batch_id``, or with ``failed`` or a ``state`` of the whole list, that are in
        ``state`` (by default failed) and were not made again before, so asking twice makes nothing twice.
        """
        wanted = known_state(state or State.FAILED)
        if job_ids and batch_id:
            raise InvalidParams("batch_id", message("no_batch_with_jobs"))
        if failed and job_ids:
            alone("failed", job_ids, None)
        if not (job_ids or batch_id or failed or state):
            raise InvalidParams("job_ids", message("jobs_or_failed"))
        chosen = list(dict.fromkeys(job_ids)) or self._control.not_made_again(
            Selection((), batch_id or None, not batch_id), wanted
        )
        if not chosen:
            raise Conflict(message("none_left", state=message(f"state_{wanted}")))
        if len(chosen) > self._settings.max_queued:
            raise InvalidParams("job_ids", message("most_jobs", most=self._settings.max_queued))
        old = [self._jobs.get(job_id) for job_id in chosen]
        if foreign := [job.id for job in old if not actor.current().owns(job.owner)]:
            raise Forbidden(message("anothers_job", job=foreign[0]))
        owner = actor.current().owner(old[0].owner)
        batch = Batch(new_id(), shortened(old[0].params.prompt), owner, old[0].lane, len(old), utc_now())
        jobs = new_jobs(batch, [job.params for job in old], old[0].priority, [job.id for job in old])
        new_batch, ids = self._jobs.insert_batch(batch, jobs, None, self._settings.max_queued)
        self._queue.ring(len(ids))
        return Receipt(new_batch, ids)

    def again_of_reason(
        self, reason: str, batch_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> Receipt:
        """New jobs for those that failed for one reason of a report: of a batch's, or of the one from ``since`` to
        ``until``. Asking twice makes nothing twice. Raises NotFound and Conflict."""
        return self.again(self.reports.failed(reason, batch_id or None, since or None, until or None))

    def cancel(self, job_ids: Sequence[str] = (), batch_id: str | None = None, waiting: bool = False) -> list[str]:
        """Cancel jobs that wait, and stop those that run at their next step; ids of the jobs this touched.

        ``waiting`` selects every waiting job that the actor may cancel, and leaves running ones alone. A single job
        that has ended already raises Conflict; in a selection it is left out.
        """
        if waiting:
            alone("waiting", job_ids, batch_id)
            return self._jobs.cancel(Selection(tuple(self._control.ids(Selection(everything=True), State.QUEUED))))
        touched = self._jobs.cancel(self._select(job_ids, batch_id))
        if not touched and len(job_ids) == 1:
            raise Conflict(
                message("ended_already", job=job_ids[0], state=message(f"state_{self._jobs.get(job_ids[0]).state}"))
            )
        return touched

    def pause(self, give_back: bool = False) -> None:
        """Start no further picture until ``resume``; kept over restarts.

        Running pictures are finished, or with ``give_back`` put back into their place at their next step.
        """
        self._control.pause(give_back=give_back)

    def resume(self) -> None:
        self._control.resume()
        self._queue.ring()

    def pause_batch(self, batch_id: str, give_back: bool = False) -> None:
        """The same for one batch, until ``resume_batch``. Raises NotFound, and Forbidden for another's batch."""
        self._require_own_batch(batch_id)
        self._control.pause(batch_id, give_back)

    def resume_batch(self, batch_id: str) -> None:
        """Raises NotFound, and Forbidden for another's batch."""
        self._require_own_batch(batch_id)
        self._control.resume(batch_id)
        self._queue.ring()

    def set_window(self, window: str = "") -> str:
        """Start pictures of the batch lane in this window only (``23:00-07:00``; empty: always), as it comes back."""
        kept = schedule.parse_window(window).text if window.strip() else ""
        self._control.set_window(kept)
        self._queue.ring()
        return kept

    def stay_awake(self) -> None:
        """Let the machine not go to sleep, or off, until further lists are done."""
        self._control.announce_sleep("")

    def set_priority(self, value: int, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        """Give waiting jobs another priority (-100 to 100, higher runs first); ids of those it reached."""
        checked = whole_number("priority", value, *PRIORITIES)
        return self._control.set_priority(self._select(job_ids, batch_id), checked)

    def move(self, to: str, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        """Move waiting jobs ``to`` the top or bottom of their lane, or one ``up`` or ``down`` by a place; their ids."""
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
        """Let what waits of a batch run before what waits of another; ids of what moved. Both must be one's own.

        Raises Conflict where that is no matter of places: in different lanes, or of different owners.
        """
        self._select((), batch_id)
        self._select((), before)
        if self._view.batch(batch_id)[0].owner != self._view.batch(before)[0].owner:
            raise Conflict(message("other_owners"))
        return self._control.move_batch(batch_id, before)

    def forget(self, job_ids: Sequence[str] = (), batch_id: str | None = None, ended: bool = False) -> list[str]:
        """Delete ended jobs (``ended``: all of them) from the list, with their history; their pictures stay. Their ids.

        A single job that has not ended raises Conflict; in a selection it is left out.
        """
        if ended:
            alone("ended", job_ids, batch_id)
        selection = Selection(everything=True) if ended else self._select(job_ids, batch_id)
        gone = self._control.delete_ended(selection)
        if not gone and len(job_ids) == 1:
            state = message(f"state_{self._jobs.get(job_ids[0]).state}")
            raise Conflict(message("job_not_ended", job=job_ids[0], state=state))
        return gone

    def _require_own_batch(self, batch_id: str) -> None:
        actor.current().require_own(self._view.batch(batch_id)[0].owner, message("the_batch", id=batch_id))

    def _select(self, job_ids: Sequence[str], batch_id: str | None) -> Selection:
        """Raises NotFound for an unknown job, Forbidden for another's, InvalidParams if nothing is named."""
        who = actor.current()
        if not job_ids and not batch_id:
            raise InvalidParams("job_ids", message("name_a_job"))
        if job_ids and batch_id:
            raise InvalidParams("batch_id", message("no_batch_with_jobs"))
        if len(job_ids) > MOST_NAMED:
            raise InvalidParams("job_ids", message("job_ids_most", most=MOST_NAMED, got=len(job_ids)))
        chosen = tuple(dict.fromkeys(job_ids))
        for job_id in chosen:
            who.require_own(self._jobs.get(job_id).owner, message("the_job", id=job_id))
        if batch_id:
            self._require_own_batch(batch_id)
        return Selection(chosen, batch_id or None)


def alone(field: str, job_ids: Sequence[str], batch_id: str | None) -> None:
    """Raises InvalidParams if ``field``, which selects all jobs of a kind, stands beside another selection."""
    if job_ids or batch_id:
        raise InvalidParams(field, message("all_of_them"))


def known_state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise InvalidParams("state", message("one_of", known=list(State), got=echo(name))) from None
