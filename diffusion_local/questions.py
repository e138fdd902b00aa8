"""What a program asks to follow the work: events as they come, a batch as a whole, the numbers for monitoring.

Part of the Studio; nothing here changes anything.
"""

from collections.abc import Callable, Sequence

from diffusion_local.catalog import Catalog
from diffusion_local.domain import Batch, Event, State
from diffusion_local.errors import NotFound
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter
from diffusion_local.store.queue_view import QueueView
from diffusion_local.store.tally import Tally


class Questions:
    _catalog: Catalog
    _view: QueueView
    _tally: Callable[[], Tally]

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

    def tally(self) -> Tally:
        """Everything that is counted for monitoring, read in one transaction."""
        return self._tally()
