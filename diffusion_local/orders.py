"""What a person orders about jobs in the queue: stop, hold, arrange and clear them away. Part of the Studio.

Jobs belong to whoever submitted them: only the owner or an admin may do any of this; the queue as a whole is an
admin's. A job that is named and is somebody else's raises Forbidden (NotFound where it may not even be seen); in "all
of them" it is left out.
"""

from collections.abc import Sequence

from diffusion_local import actor, when
from diffusion_local.domain import PRIORITIES, State
from diffusion_local.errors import Conflict, InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.values import whole_number
from diffusion_local.queue import JobQueue
from diffusion_local.store.control import QueueControl
from diffusion_local.store.jobs import JobStore
from diffusion_local.store.queue_view import QueueView
from diffusion_local.store.selection import Selection


class Orders:
    _jobs: JobStore
    _control: QueueControl
    _view: QueueView
    _queue: JobQueue

    def cancel(self, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        """Cancel jobs that wait, and stop those that run at their next step; ids of the jobs this touched.

        A single job that has ended already raises Conflict; in a selection it is left out.
        """
        touched = self._jobs.cancel(self._select(job_ids, batch_id))
        if not touched and len(job_ids) == 1:
            raise Conflict(
                message("ended_already", job=job_ids[0], state=message(f"state_{self._jobs.get(job_ids[0]).state}"))
            )
        return touched

    def cancel_waiting(self) -> list[str]:
        """Cancel every job that waits, of those one may cancel; what runs goes on. Their ids."""
        return self._jobs.cancel(Selection(tuple(self._control.ids(Selection(everything=True), State.QUEUED))))

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

    def set_window(self, window: str) -> str:
        """Start pictures of the batch lane in this window only (``23:00-07:00``; empty: always), as it comes back."""
        kept = when.parse_window(window).text if window.strip() else ""
        self._control.set_window(kept)
        self._queue.ring()
        return kept

    def stay_awake(self) -> None:
        """Let the machine not go to sleep, or off, until further lists are done."""
        self._control.announce_sleep("")

    def set_priority(self, priority: int, job_ids: Sequence[str] = (), batch_id: str | None = None) -> list[str]:
        """Give waiting jobs another priority (-100 to 100, higher runs first); ids of those it reached."""
        checked = whole_number("priority", priority, *PRIORITIES)
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

    def forget(self, job_ids: Sequence[str] = (), batch_id: str | None = None, everything: bool = False) -> list[str]:
        """Delete ended jobs from the list, with their history; their pictures stay. Their ids."""
        selection = Selection(everything=True) if everything else self._select(job_ids, batch_id)
        return self._control.delete_ended(selection)

    def _require_own_batch(self, batch_id: str) -> None:
        actor.current().require_own(self._view.batch(batch_id)[0].owner, message("the_batch", id=batch_id))

    def _select(self, job_ids: Sequence[str], batch_id: str | None) -> Selection:
        """Raises NotFound for an unknown job, Forbidden for another's, InvalidParams if nothing is named."""
        who = actor.current()
        if not job_ids and not batch_id:
            raise InvalidParams("job_ids", message("name_a_job"))
        if job_ids and batch_id:
            raise InvalidParams("batch_id", message("no_batch_with_jobs"))
        for job_id in job_ids:
            who.require_own(self._jobs.get(job_id).owner, message("the_job", id=job_id))
        if batch_id:
            self._require_own_batch(batch_id)
        return Selection(tuple(job_ids), batch_id)


def known_state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise InvalidParams("state", message("one_of", known=list(State), got=echo(name))) from None
