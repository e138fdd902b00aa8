"""The interface between workers and the studio: every call a worker makes, whether on the same machine or another.

A worker holds one slot. It claims jobs, possibly several at a time, may hold some while it makes others, and reports
on all of them. Arguments and results are numbers, text, bytes and domain objects, never paths, functions or open
files, so a dispatch may be the stores themselves (``local``) or a connection to another machine.

Each call may raise DatabaseProblem while the database is unavailable: the worker keeps its jobs and retries. Calls may
come from several threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffusion_local.domain import Claim, Condition, DeviceMemory, Failure, Fit, Flags, Job, Loan, SharedFile, State
from diffusion_local.gallery.image_formats import Encoded
from diffusion_local.options.table import Params
from diffusion_local.queue.estimates import JobTimings, Share


@dataclass(frozen=True, slots=True)
class OutputTerms:
    """The studio's output settings: picture format, whether to write a sidecar, and steps between previews (0: none).

    ``clock_offset``: seconds by which the studio's clock is ahead of the worker's.
    """

    image_format: str
    sidecar: bool
    preview_every: int
    clock_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """Progress of a job: steps done, and the current phase if it is not denoising."""

    claim: Claim
    step: int
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished picture, encoded with its recipe. Sizes are in pixels; ``created_at`` (UTC) is that of the recipe."""

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
        """Send a heartbeat; called every few seconds. A remote worker adds the condition of its device."""
        ...

    def publish_files(self, files: dict[str, dict[str, str]]) -> None:
        """Report the worker's model files: digests by kind and name (see ``dispatch.matching``).

        A worker on the studio's machine shares the studio's files, and may take any job.
        """
        ...

    def missing_files(self) -> list[SharedFile]:
        """Files that queued jobs need, this worker lacks, and the studio shares; see ``dispatch.matching``."""
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
        """Whether a user paused the queue, so that no job will be due for a while."""
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
        """A source picture or mask (PNG) of a claimed job. Raises NotFound for any other picture, and LostClaim."""
        ...

    def report(self, reports: Sequence[ProgressReport], silent: Sequence[Claim] = ()) -> list[Flags | None]:
        """Report progress. Returns per report, in order, the pending requests to the job, or None if its claim is
        lost; then the same per ``silent`` claim, whose progress is unchanged.
        """
        ...

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """The result of ``report`` without reporting."""
        ...

    def save_preview(self, claim: Claim, picture: bytes) -> None:
        """Store a preview of a running job (WebP). Never raises: a lost preview does no harm."""
        ...

    def finish(self, claim: Claim, picture: Finished, ahead: str | None = None) -> list[Job]:
        """Store the picture and mark the job as done: first the bytes, then the rows.

        With ``ahead``, the model in memory, the next due job is claimed in the same transaction and returned.
        Raises LostClaim if the claim is lost; no row was written, and bytes that were are replaced by the next attempt
        or moved aside by the sweep. Raises StorageProblem, after which the call may be repeated.
        """
        ...

    def fail(self, claim: Claim, failure: Failure) -> None:
        """End the job as failed. Raises LostClaim."""
        ...

    def pass_on(self, claim: Claim, failure: Failure) -> bool:
        """Requeue a job that failed because of this machine (memory, a missing file, a lost device) for another slot.

        Each slot tries once, at most three slots try. Returns False if none is left. Raises LostClaim.
        """
        ...

    def stop(self, claim: Claim) -> None:
        """End the job as cancelled. Raises LostClaim."""
        ...

    def requeue(self, claim: Claim, note: str, pause: float = 0.0, tries: int = 0, faults: int = 0) -> State:
        """Return the job to its place in the queue, or cancel it if that was requested; returns its new state.

        It is not claimed again for ``pause`` seconds; ``tries`` and ``faults`` are added to its counters. Raises
        LostClaim.
        """
        ...

    def running(self) -> list[Job]:
        """The jobs on which this slot holds claims, as stored in the studio."""
        ...

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Requeue jobs because the worker stops.

        Raises DatabaseProblem if the database is not writable. The claims are then recorded in a file, so that recovery
        does not count them as crashes.
        """
        ...

    # -- loans of GPUs; see ``queue.loans`` ----------------------------------------------------------------------------

    def borrow(self, size: int) -> Loan | None:
        """Ask an idle worker of this machine for ``size`` bytes of its GPU; returns this slot's loan.

        None if there is no such worker, or a job is due that it could claim.
        """
        ...

    def loan(self, use: bool) -> Loan | None:
        """The loan of this slot as borrower, which this call renews; None once it has ended.

        ``use``: the GPU is used from now on if it is lent, so that a recall waits for ``give_back_loan``.
        """
        ...

    def give_back_loan(self) -> None:
        """End this slot's loan, after its memory on the GPU was freed."""
        ...

    def asked_loan(self) -> Loan | None:
        """The loan for which another worker asks this slot."""
        ...

    def lend(self, borrower: str, granted: bool) -> None:
        """Answer the worker that asks for this slot's GPU."""
        ...

    def recall_loan(self) -> bool:
        """Ask for this slot's GPU back; returns whether the borrower still uses it."""
        ...

    # -- the studio's storage ------------------------------------------------------------------------------------------

    def check_storage(self, needed: int = 0) -> bool:
        """Return whether gallery and database are writable; if not, block the queue until ``ready`` finds them so.

        Called after a fault. ``needed``: size in bytes of the data that could not be saved. Raises nothing.
        """
        ...

    # -- memory measurements -------------------------------------------------------------------------------------------

    def fits(self, model: str, device: str) -> list[Fit]:
        """Memory measurements of a model on a device."""
        ...

    def record_fit(self, fit: Fit) -> None:
        """Store a measurement, replacing that of the same model, kind, size and device."""
        ...
