"""The seam between workers and the studio: everything a worker may ask for, and nothing that needs the same machine.

A worker holds one slot. It claims jobs, several at a time if it wants, may put some aside while it makes others, and
reports on all of them at once. Arguments and answers are numbers, texts, bytes and the nouns of ``domain``: no path, no
function, no open file. So a dispatch may be the stores themselves (``local``) or a connection to another machine.

Each call may raise DatabaseProblem where the truth cannot be read or written at the moment: the worker goes on with
what it holds and asks again. Calls may come from several threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffusion_local.domain import Claim, DeviceMemory, Failure, Fit, Flags, Job, Params, State
from diffusion_local.gallery.formats import Encoded
from diffusion_local.queue.estimates import JobTimings, Share


@dataclass(frozen=True, slots=True)
class OutputTerms:
    """How the studio wants pictures: their format, whether with a sidecar, and the steps between two previews (0: no
    previews)."""

    image_format: str
    sidecar: bool
    preview_every: int


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a job is: steps done, and what else is being done for it."""

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
    """One per worker process, for one slot. ``tests/dispatch/test_contract.py`` is the contract."""

    # -- the slot ------------------------------------------------------------------------------------------------------

    def take(self, patience: float) -> OutputTerms:
        """Hold the slot until ``leave`` or the end of this process. What a dead holder left running is recovered.

        Raises HomeInUse if another worker holds it for longer than ``patience`` seconds.
        """
        ...

    def register(self, pid: int, device: str, room: DeviceMemory) -> None:
        """Say which process and device work on the slot; the device is empty until it is known."""
        ...

    def tell(self, status: str, model: str = "", free: int | None = None) -> None:
        """Say what the worker does (idle, loading, busy), the model in its memory, and the bytes free for models."""
        ...

    def seen(self) -> None:
        """The worker lives; called every few seconds."""
        ...

    def offer(self, files: dict[str, dict[str, str]]) -> None:
        """Say which files the worker has: their digests by kind and name (see ``dispatch.offers``).

        A worker on the studio's machine has what the studio has, and is given any job."""
        ...

    def leave(self) -> None:
        """Give the slot up. The worker holds no job any more."""
        ...

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most so long; whether one came. A lost one costs time, never a job."""
        ...

    def ready(self) -> bool:
        """Whether jobs may be claimed: the studio's gallery can be written and has room."""
        ...

    def claim(self, loaded: str, most: int = 1, beside: Claim | None = None, urgent: bool = False) -> list[Job]:
        """Take the job that is due next, with up to ``most`` - 1 that one pass could make with it.

        ``loaded`` is the model in memory. With ``beside``, a claim of this slot, take up to ``most`` jobs that one pass
        could make with that one; with ``urgent``, a job of the interactive lane or none. Jobs that the worker holds
        already stay its own. Empty if nothing is due. Raises LostClaim.
        """
        ...

    def urgent(self) -> bool:
        """Whether a job of the interactive lane is due."""
        ...

    def paused(self) -> bool:
        """Whether a person paused the queue, so that nothing will be due for a while."""
        ...

    def expected(self, params: Params, loaded: str, together: int = 1) -> float | None:
        """Seconds that a picture in a pass of ``together`` should take a worker that has ``loaded`` in memory; None if
        nothing is known."""
        ...

    def shares(self, params: Params) -> list[Share]:
        """What such pictures took here by the number of pictures in their pass, the smallest first."""
        ...

    def source(self, claim: Claim, source_id: str) -> bytes:
        """A source picture or mask (PNG) of a claimed job. Raises NotFound for any other, LostClaim."""
        ...

    def report(self, reports: Sequence[ProgressReport]) -> list[Flags | None]:
        """Say how far jobs are. For each, in order: what a person wants of it, or None where the claim is lost."""
        ...

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """What ``report`` answers, without a report."""
        ...

    def save_preview(self, claim: Claim, picture: bytes) -> None:
        """Show how a job looks so far (WebP). Losing one does no harm, and nothing is raised."""
        ...

    def finish(self, claim: Claim, picture: Finished) -> None:
        """Keep the picture and end the job as done: first the bytes, then the rows.

        Raises LostClaim, and then no row was written (bytes may be: the next attempt replaces them, or the sweep moves
        them aside); StorageProblem, and then the same call may be made again.
        """
        ...

    def fail(self, claim: Claim, failure: Failure) -> None:
        """End the job with an error. Raises LostClaim."""
        ...

    def stop(self, claim: Claim) -> None:
        """End the job as cancelled. Raises LostClaim."""
        ...

    def requeue(self, claim: Claim, note: str, pause: float = 0.0, tries: int = 0, faults: int = 0) -> State:
        """Give the job back to the queue, in its old place; its state then. A job to be cancelled is cancelled instead.

        It is held back for ``pause`` seconds; ``tries`` and ``faults`` are added to its counts. Raises LostClaim.
        """
        ...

    def running(self) -> list[Job]:
        """The jobs that this slot holds claims on, as the studio knows them."""
        ...

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Give jobs back because the worker ends. Where that cannot be written now it is remembered, so that whoever
        recovers them does not count them as lost. Raises DatabaseProblem all the same."""
        ...

    # -- the studio's storage ------------------------------------------------------------------------------------------

    def sound(self, needed: int = 0) -> bool:
        """Whether gallery and database can be written, asked after a fault. If not, the queue is held until ``ready``
        finds it so. ``needed`` is the size in bytes of what could not be saved. Raises nothing."""
        ...

    # -- what was learned about memory ---------------------------------------------------------------------------------

    def fits(self, model: str, device: str) -> list[Fit]:
        """What is known of a model on a device."""
        ...

    def learn(self, fit: Fit) -> None:
        """Write it over what was known of this model, kind, size and device."""
        ...
