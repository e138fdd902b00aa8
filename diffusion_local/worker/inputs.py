"""Source pictures for the engine: fetched for a job before it is made, and found by their ids then."""

import contextlib
import io
from typing import BinaryIO

from diffusion_local.dispatch import Dispatch
from diffusion_local.domain import Job
from diffusion_local.errors import NotFound


class Inputs:
    """An engine knows no jobs and no studio: it opens a source by its id."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._pictures: dict[str, bytes] = {}

    def fetch(self, job: Job) -> None:
        """Have the sources of a job, and of no other, at hand. Raises LostClaim, DatabaseProblem and StorageProblem."""
        known, self._pictures = self._pictures, {}
        for source_id in job.params.inputs:
            with contextlib.suppress(NotFound):  # the engine says what is missing
                self._pictures[source_id] = known.get(source_id) or self._dispatch.source(job.claim, source_id)

    def open(self, source_id: str) -> BinaryIO:
        """Raises FileNotFoundError for a source that was not fetched or is gone."""
        try:
            return io.BytesIO(self._pictures[source_id])
        except KeyError:
            raise FileNotFoundError(source_id) from None
