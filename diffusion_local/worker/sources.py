"""Source pictures for the engine, fetched before a job runs and opened by id."""

import contextlib
import io
from typing import BinaryIO

from diffusion_local.dispatch import Dispatch
from diffusion_local.domain import Job
from diffusion_local.errors import NotFound


class SourcePictures:
    """Source pictures of the current job. The engine opens them by id and knows nothing of jobs and studios."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._pictures: dict[str, bytes] = {}
        self._ahead: dict[str, bytes] = {}

    def fetch(self, job: Job) -> None:
        """Fetch the sources of a job and drop all others. Raises LostClaim, DatabaseProblem, StorageProblem."""
        known, self._pictures, self._ahead = self._pictures | self._ahead, {}, {}
        for source_id in job.params.inputs:
            with contextlib.suppress(NotFound):  # the engine reports missing sources
                self._pictures[source_id] = known.get(source_id) or self._dispatch.source(job.claim, source_id)

    def fetch_ahead(self, job: Job) -> None:
        """Fetch the sources of the next job while another runs. Raises as ``fetch``, and NotFound."""
        for source_id in job.params.inputs:
            if source_id not in self._pictures:
                self._ahead[source_id] = self._dispatch.source(job.claim, source_id)

    def open(self, source_id: str) -> BinaryIO:
        """Open a fetched source. Raises FileNotFoundError if it was not fetched or no longer exists."""
        try:
            return io.BytesIO(self._pictures[source_id])
        except KeyError:
            raise FileNotFoundError(source_id) from None
