"""The dispatch of a worker on the studio's own machine: the stores themselves."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from filelock import FileLock

from diffusion_local import disk as faults
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch import Finished, OutputTerms, ProgressReport, slots
from diffusion_local.dispatch.storage import Storage
from diffusion_local.domain import Claim, DeviceMemory, Failure, Fit, Flags, Image, Job, Params, State, utc_text
from diffusion_local.errors import DatabaseProblem, LostClaim, NotFound, echo
from diffusion_local.gallery.files import PROBE_BYTES, key_for
from diffusion_local.messages import message
from diffusion_local.queue.estimates import Share
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)


class LocalDispatch:
    """See ``Dispatch``. A slot is held by a file's lock, which the operating system releases when the process dies."""

    def __init__(self, services: Services, slot: str, storage: Storage | None = None) -> None:
        """``storage`` is the process's, where it has several slots."""
        self._house = services
        self._slot = slot
        self._storage = storage or Storage(services)
        self._lock: FileLock | None = None

    @property
    def slot(self) -> str:
        return self._slot

    # -- the slot ------------------------------------------------------------------------------------------------------

    def take(self, patience: float) -> OutputTerms:
        self._lock = slots.take(self._house, self._slot, patience)
        slots.recover(self._house, self._slot)
        return terms_of(self._house.settings)

    def register(self, pid: int, device: str, room: DeviceMemory) -> None:
        self._house.workers.register(self._slot, pid, device, room)

    def tell(self, status: str, model: str = "", free: int | None = None) -> None:
        self._house.workers.update(self._slot, status, model, free)

    def seen(self) -> None:
        self._house.workers.heartbeat(self._slot)

    def leave(self) -> None:
        self._storage.close()
        try:
            self.tell("stopped")
        finally:
            if self._lock is not None:
                self._lock.release()

    def offer(self, files: dict[str, dict[str, str]]) -> None:
        pass  # it has the studio's own

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        return self._house.queue.wait(seconds)

    def ready(self) -> bool:
        return self._storage.ready()

    def claim(self, loaded: str, most: int = 1, beside: Claim | None = None, urgent: bool = False) -> list[Job]:
        return self._house.jobs.claim(self._slot, loaded, most, beside and self._own(beside), urgent)

    def urgent(self) -> bool:
        return self._house.jobs.urgent()

    def paused(self) -> bool:
        return self._house.control.is_paused()

    def expected(self, params: Params, loaded: str, together: int = 1) -> float | None:
        return self._house.view.expected(params, loaded, together)

    def shares(self, params: Params) -> list[Share]:
        return self._house.view.shares(params)

    def source(self, claim: Claim, source_id: str) -> bytes:
        if source_id not in self._held(claim).params.inputs:
            raise NotFound(message("no_source_picture", source=echo(source_id)))
        with faults.explained():
            try:
                with self._house.files.open_source(source_id) as file:
                    return file.read()
            except FileNotFoundError:
                raise NotFound(message("no_source_picture", source=echo(source_id))) from None

    def report(self, reports: Sequence[ProgressReport]) -> list[Flags | None]:
        own = [each for each in reports if each.claim.worker == self._slot]
        flags = self._house.jobs.report_all([(each.claim, each.step, each.phase) for each in own])
        return self._in_order([each.claim for each in reports], flags)

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        own = [each for each in claims if each.worker == self._slot]
        return self._in_order(claims, self._house.jobs.flags_of(own))

    def save_preview(self, claim: Claim, picture: bytes) -> None:
        if claim.worker != self._slot:
            return
        self._house.files.save_preview(claim.job_id, picture)
        try:
            self._held(claim)
        except LostClaim:  # it was settled meanwhile, and its preview dropped before this one was written
            self._house.files.drop_preview(claim.job_id)
        except DatabaseProblem as problem:
            log.warning("%s", problem)

    def finish(self, claim: Claim, picture: Finished) -> None:
        job = self._held(claim)  # a claim lost meanwhile must not touch the file
        with self._storage.waiting():
            saved = self._house.files.save_encoded(key_for(job.id, job.created_at), picture.encoded)
        seconds = picture.measured.run + picture.measured.load
        image = Image(
            job.id,
            job.id,
            saved.key,
            job.params,
            picture.width,
            picture.height,
            saved.bytes,
            picture.created_at,
            seconds,
            facts=picture.facts,
        )
        self._house.jobs.finish(self._own(claim), image, picture.measured)
        self._house.files.drop_preview(job.id)

    def fail(self, claim: Claim, failure: Failure) -> None:
        told = replace(failure, message=self._storage.relative(failure.message))
        self._house.jobs.fail(self._own(claim), told)
        self._house.files.drop_preview(claim.job_id)

    def stop(self, claim: Claim) -> None:
        self._house.jobs.stop(self._own(claim))
        self._house.files.drop_preview(claim.job_id)

    def requeue(self, claim: Claim, note: str, pause: float = 0.0, tries: int = 0, faults: int = 0) -> State:
        again = utc_text(datetime.now(UTC) + timedelta(seconds=pause)) if pause else None
        state = self._house.jobs.requeue(self._own(claim), self._storage.relative(note), again, tries, faults)
        self._house.files.drop_preview(claim.job_id)
        return state

    def running(self) -> list[Job]:
        return self._house.jobs.running(self._slot)

    def give_back(self, claims: Sequence[Claim]) -> None:
        slots.note_given_back(self._house, self._slot, claims)
        for claim in claims:
            with contextlib.suppress(LostClaim):
                self.requeue(claim, message("event_given_back", reason="shutdown"))

    # -- the studio's storage ------------------------------------------------------------------------------------------

    def sound(self, needed: int = 0) -> bool:
        return self._storage.sound(max(needed, PROBE_BYTES))

    # -- what was learned about memory ---------------------------------------------------------------------------------

    def fits(self, model: str, device: str) -> list[Fit]:
        return self._house.fits.of(model, device)

    def learn(self, fit: Fit) -> None:
        self._house.fits.save(fit)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _in_order(self, claims: Sequence[Claim], flags: list[Flags | None]) -> list[Flags | None]:
        """Answers about the claims of this slot among all that were asked for; None for those of another."""
        found = iter(flags)
        return [next(found) if claim.worker == self._slot else None for claim in claims]

    def _own(self, claim: Claim) -> Claim:
        """Raises LostClaim for the claim of another slot."""
        if claim.worker != self._slot:
            raise LostClaim
        return claim

    def _held(self, claim: Claim) -> Job:
        return self._house.jobs.of_claim(self._own(claim))


def terms_of(settings: Settings) -> OutputTerms:
    return OutputTerms(settings.image_format, settings.sidecar == "on", settings.preview_every)


def open_dispatch(settings: Settings, slot: str) -> LocalDispatch:
    """Raises DatabaseProblem and InvalidParams."""
    return LocalDispatch(open_services(settings), slot)
