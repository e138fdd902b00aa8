"""The interface between workers and the studio: every call a worker makes, none of which needs the same machine.

A worker holds one slot. It claims jobs, possibly several at a time, may set some aside while it makes others, and
reports on all of them. Arguments and results are numbers, text, bytes and domain objects: no paths, functions or open
files. So a dispatch may be the stores themselves (``local``) or a connection to another machine.

Each call may raise DatabaseProblem while the database is unavailable: the worker keeps its jobs and retries. Calls may
come from several threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffusion_local.domain import Claim, Condition, DeviceMemory, Failure, Fit, Flags, Job, SharedFile, State
from diffusion_local.gallery.formats import Encoded
from diffusion_local.options.table import Params
from diffusion_local.queue.estimates import JobTimings, Share


@dataclass(frozen=True, slots=True)
class OutputTerms:
    """How the studio wants pictures: format, sidecar or not, and steps between previews (0: none).

    ``clock_offset``: seconds by which the studio's clock is ahead of the worker's.
    """

    image_format: str
    sidecar: bool
    preview_every: int
    clock_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """Progress of a job: steps done, and what is being done otherwise."""

    claim: Claim
    step: int
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A picture, encoded with its recipe; sizes in pixels, ``created_at`` as in the recipe (UTC)."""

    encoded: Encoded
    width: int
    height: int
    created_at: str
    measured: JobTimings
    facts: dict[str, Any] = field(default_factory=dict, hash=False)


class Dispatch(Protocol):
    """One per worker process, for one slot. Contract: ``tests/dispatch/test_contract.py``."""

    # -- the slot ------------------------------------------------------------------------------------------------------

    def take(self, patience: float) -> OutputTerms:
        """Hold the slot until ``leave`` or the end of this process, and recover jobs of a dead holder.

        Raises HomeInUse if another worker holds it for longer than ``patience`` seconds.
        """
        ...

    def register(self, pid: int, device: str, room: DeviceMemory) -> None:
        """Register process and device on the slot; ``device`` is "" until it is known."""
        ...

    def report_status(self, status: str, model: str = "", free: int | None = None) -> None:
        """Update the worker's status (idle, loading, busy), loaded model, and bytes available to models (None:
        unchanged).
        """
        ...

    def heartbeat(self, condition: Condition | None = None) -> None:
        """Heartbeat, called every few seconds; a worker on another machine adds the condition of its device."""
        ...

    def publish_files(self, files: dict[str, dict[str, str]]) -> None:
        """Say which files the worker has: their digests by kind and name (see ``dispatch.matching``).

        A worker on the studio's machine has what the studio has, and is given any job."""
        ...

    def missing_files(self) -> list[SharedFile]:
        """Files that queued jobs need, that this worker lacks and that the studio shares; see ``dispatch.matching``."""
        ...

    def leave(self) -> None:
        """Release the slot. The worker must hold no jobs."""
        ...

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most ``seconds``; returns whether one came. A lost ring costs time, never a job."""
        ...

    def ready(self) -> bool:
        """Whether jobs may be claimed: the gallery is writable and has room."""
        ...

    def claim(self, loaded: str, most: int = 1, beside: Claim | None = None, urgent: bool = False) -> list[Job]:
        """Claim the next due job, and up to ``most`` - 1 jobs that fit into the same pass.

        ``loaded``: the model in memory. With ``beside``, a claim of this slot: only up to ``most`` jobs that fit into a
        pass with that one. With ``urgent``: only a job of the interactive lane. Jobs already held stay claimed. Empty
        if nothing is due. Raises LostClaim.
        """
        ...

    def urgent(self) -> bool:
        """Whether a job of the interactive lane is due."""
        ...

    def paused(self) -> bool:
        """Whether a user paused the queue, so that nothing will be due for a while."""
        ...

    def estimate_seconds(self, params: Params, loaded: str, together: int = 1) -> float | None:
        """Estimated seconds for a picture in a pass of ``together``, on a worker with ``loaded`` in memory; None if
        unknown.
        """
        ...

    def shares(self, params: Params) -> list[Share]:
        """Measured durations of such pictures by pass size, ascending."""
        ...

    def source(self, claim: Claim, source_id: str) -> bytes:
        """A source picture or mask (PNG) of a claimed job. Raises NotFound for any other one, LostClaim."""
        ...

    def report(self, reports: Sequence[ProgressReport]) -> list[Flags | None]:
        """Report progress. Returns per report, in order, the pending requests to the job, or None if its
        claim is lost.
        """
        ...

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """The result of ``report`` without reporting."""
        ...

    def save_preview(self, claim: Claim, picture: bytes) -> None:
        """Show a job's current state (WebP). Losing one does no harm; nothing is raised."""
        ...

    def finish(self, claim: Claim, picture: Finished) -> None:
        """Store the picture and end the job as done: first the bytes, then the rows.

        Raises LostClaim, in which case no row was written (bytes may be: the next attempt replaces them, or the sweep
        moves them aside); and StorageProblem, after which the call may be repeated.
        """
        ...

    def fail(self, claim: Claim, failure: Failure) -> None:
        """End the job as failed. Raises LostClaim."""
        ...

    def pass_on(self, claim: Claim, failure: Failure) -> bool:
        """Return a job that failed for this machine's reasons (memory, a missing file, a lost device) to the queue, for
        another slot that could make it: each once, three at most. False if there is none. Raises LostClaim.
        """
        ...

    def stop(self, claim: Claim) -> None:
        """End the job as cancelled. Raises LostClaim."""
        ...

    def requeue(self, claim: Claim, note: str, pause: float = 0.0, tries: int = 0, faults: int = 0) -> State:
        """Return the job to its place in the queue; returns its new state. A job to be cancelled is cancelled instead.

        It is not claimed again for ``pause`` seconds; ``tries`` and ``faults`` are added to its counters. Raises
        LostClaim.
        """
        ...

    def running(self) -> list[Job]:
        """The jobs that this slot holds claims on, as the studio knows them."""
        ...

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Give jobs back because the worker ends. If the database is not writable now, this is remembered, so that
        recovery does not count them as crashes; DatabaseProblem is raised all the same.
        """
        ...

    # -- the studio's storage ------------------------------------------------------------------------------------------

    def check_storage(self, needed: int = 0) -> bool:
        """Check gallery and database after a fault; if one is not writable, the queue is blocked until ``ready`` finds
        it so. ``needed``: size in bytes of what could not be saved. Raises nothing.
        """
        ...

    # -- what was learned about memory ---------------------------------------------------------------------------------

    def fits(self, model: str, device: str) -> list[Fit]:
        """Memory measurements of a model on a device."""
        ...

    def record_fit(self, fit: Fit) -> None:
        """Store a measurement, replacing the one of the same model, kind, size and device."""
        ...
