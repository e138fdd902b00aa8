"""The dispatch of a worker on the studio's own machine, on top of the stores."""

import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from diffusion_local import disk as faults
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch import Finished, OutputTerms, ProgressReport, slots
from diffusion_local.dispatch.matching import OtherSlots, able_slots
from diffusion_local.dispatch.storage_faults import Storage
from diffusion_local.domain import (
    ASKED,
    USED,
    Claim,
    Condition,
    DeviceMemory,
    Failure,
    Fit,
    Flags,
    Image,
    Job,
    Loan,
    SharedFile,
    State,
    utc_text,
)
from diffusion_local.errors import DatabaseProblem, LostClaim, NotFound, echo
from diffusion_local.gallery.files import PROBE_BYTES, key_for
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.queue.claims import Ahead
from diffusion_local.queue.estimates import Share
from diffusion_local.settings import Settings

if TYPE_CHECKING:
    from diffusion_local.db.server_lock import ServerLock

log = logging.getLogger(__name__)


class LocalDispatch:
    """See ``Dispatch``. A slot is held by a lock that is released when the process dies; see ``slots``."""

    def __init__(self, services: Services, slot: str, storage: Storage | None = None) -> None:
        """``storage``: shared by all slots of the process."""
        self._services = services
        self._slot = slot
        self._storage = storage or Storage(services)
        self._lock: FileLock | ServerLock | None = None

    @property
    def slot(self) -> str:
        return self._slot

    # -- the slot ------------------------------------------------------------------------------------------------------

    def take(self, patience: float) -> OutputTerms:
        self._lock = slots.take(self._services, self._slot, patience)
        slots.recover(self._services, self._slot)
        return terms_of(self._services.settings)

    def register(self, pid: int, device: str, room: DeviceMemory) -> None:
        self._services.workers.register(self._slot, pid, device, room)

    def report_status(self, status: str, model: str = "", free: int | None = None) -> None:
        self._services.workers.update(self._slot, status, model, free)

    def heartbeat(self, condition: Condition | None = None) -> None:
        if self._lock is not None and not isinstance(self._lock, FileLock) and not self._lock.keep():
            log.error("another worker took slot %s while the database was unavailable; this worker exits", self._slot)
            os.kill(os.getpid(), signal.SIGTERM)
        self._services.workers.heartbeat(self._slot)

    def leave(self) -> None:
        self._storage.close()
        try:
            self.report_status("stopped")
            self._services.loans.end(self._slot)
        finally:
            if self._lock is not None:
                self._lock.release()

    def publish_files(self, files: dict[str, dict[str, str]]) -> None:
        pass  # a local worker uses the studio's own files

    def missing_files(self) -> list[SharedFile]:
        return []

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        return self._services.queue.wait(seconds)

    def ready(self) -> bool:
        return self._storage.ready()

    def claim(self, loaded: str, most: int = 1, beside: Claim | None = None, urgent: bool = False) -> list[Job]:
        wish = self._claim_terms(loaded)
        if wish is None:
            return []
        beside = beside and self._require_own(beside)
        return self._services.jobs.claim(self._slot, loaded, most, beside, urgent, wish.able)

    def _claim_terms(self, loaded: str) -> Ahead | None:
        """What this slot may claim now; None if nothing. Its worker has asked whether it is ``ready``."""
        return Ahead(
            loaded, OtherSlots(self._services, self._slot) if self._services.refusals.any_of(self._slot) else None
        )

    def urgent(self) -> bool:
        return self._services.jobs.urgent()

    def paused(self) -> bool:
        return self._services.control.is_paused()

    def estimate_seconds(self, params: Params, loaded: str, together: int = 1) -> float | None:
        return self._services.view.expected(params, loaded, together)

    def shares(self, params: Params) -> list[Share]:
        return self._services.view.shares(params)

    def source(self, claim: Claim, source_id: str) -> bytes:
        if source_id not in self._claimed_job(claim).params.inputs:
            raise NotFound(message("no_source_picture", source=echo(source_id)))
        with faults.storage_errors():
            try:
                with self._services.files.open_source(source_id) as file:
                    return file.read()
            except FileNotFoundError:
                raise NotFound(message("no_source_picture", source=echo(source_id))) from None

    def report(self, reports: Sequence[ProgressReport], silent: Sequence[Claim] = ()) -> list[Flags | None]:
        own = [each for each in reports if each.claim.worker == self._slot]
        flags = self._services.jobs.report_all([(each.claim, each.step, each.phase) for each in own])
        answers = self._in_order([each.claim for each in reports], flags)
        return answers + self._flags(silent) if silent else answers

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        return self._flags(claims)

    def _flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        own = [each for each in claims if each.worker == self._slot]
        return self._in_order(claims, self._services.jobs.flags_of(own))

    def save_preview(self, claim: Claim, picture: bytes) -> None:
        if claim.worker != self._slot:
            return
        self._services.files.save_preview(claim.job_id, picture)
        try:
            self._claimed_job(claim)
        except LostClaim:  # settled meanwhile: its preview was already deleted when this one was written
            self._services.files.drop_preview(claim.job_id)
        except DatabaseProblem as problem:
            log.warning("%s", problem)

    def finish(self, claim: Claim, picture: Finished, ahead: str | None = None) -> list[Job]:
        # the claim is checked first, because without it the file must not be touched
        return self._save(claim, self._claimed_job(claim), picture, ahead)

    def _save(self, claim: Claim, job: Job, picture: Finished, ahead: str | None) -> list[Job]:
        """Save the picture of the claimed job, bytes before rows, and claim the next with the model ``ahead``."""
        with self._storage.waiting():
            saved = self._services.files.save_encoded(key_for(job.id, job.created_at), picture.encoded)
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
        note = incomplete_note(picture.facts)
        wish = None if ahead is None or not self.ready() else self._claim_terms(ahead)
        jobs = self._services.jobs.finish(self._require_own(claim), image, picture.measured, note, wish)
        self._services.files.drop_preview(job.id)
        with contextlib.suppress(DatabaseProblem):  # only the batch's report lacks it then
            self._services.batches.note_forecast(job.batch_id)
        return jobs

    def pass_on(self, claim: Claim, failure: Failure) -> bool:
        job = self._claimed_job(claim)
        others = able_slots(self._services, job.params, self._slot, failure.kind)
        problem = self._storage.relative(failure.message)
        note = message("event_error", kind=failure.kind, problem=problem)
        if not others or not self._services.jobs.pass_on(self._require_own(claim), failure.kind, note, others):
            return False
        self._services.files.drop_preview(claim.job_id)
        self._services.queue.ring(len(others))
        return True

    def fail(self, claim: Claim, failure: Failure) -> None:
        relative = replace(failure, message=self._storage.relative(failure.message))
        if refused := self._services.refusals.of_job(claim.job_id):
            slots_tried = sorted({*refused, self._slot})
            relative = replace(relative, message=message("failed_on", slots=slots_tried, problem=relative.message))
        self._services.jobs.fail(self._require_own(claim), relative)
        self._services.files.drop_preview(claim.job_id)

    def stop(self, claim: Claim) -> None:
        self._services.jobs.stop(self._require_own(claim))
        self._services.files.drop_preview(claim.job_id)

    def requeue(self, claim: Claim, note: str, pause: float = 0.0, tries: int = 0, faults: int = 0) -> State:
        again = utc_text(datetime.now(UTC) + timedelta(seconds=pause)) if pause else None
        state = self._services.jobs.requeue(
            self._require_own(claim), self._storage.relative(note), again, tries, faults
        )
        self._services.files.drop_preview(claim.job_id)
        return state

    def running(self) -> list[Job]:
        return self._services.jobs.running(self._slot)

    def give_back(self, claims: Sequence[Claim]) -> None:
        slots.write_given_back(self._services, self._slot, claims)
        for claim in claims:
            with contextlib.suppress(LostClaim):
                self.requeue(claim, message("event_given_back", reason="shutdown"))

    # -- loans of GPUs -------------------------------------------------------------------------------------------------

    def borrow(self, size: int) -> Loan | None:
        loan = self._services.loans.request(self._slot, size)
        if loan is not None and loan.state == ASKED:
            self._services.queue.ring(sum(each.status == "idle" for each in self._services.workers.list_all()))
        return loan

    def loan(self, use: bool) -> Loan | None:
        return self._services.loans.renew(self._slot, use)

    def give_back_loan(self) -> None:
        self._services.loans.give_back(self._slot)

    def asked_loan(self) -> Loan | None:
        return self._services.loans.requested(self._slot)

    def lend(self, borrower: str, granted: bool) -> None:
        self._services.loans.answer(self._slot, borrower, granted)

    def recall_loan(self) -> bool:
        loan = self._services.loans.recall(self._slot)
        if loan is not None and loan.state == USED:  # recalled just now: wake a borrower that waits for jobs
            self._services.queue.ring()
        if loan is not None:
            slots.recover_silent(self._services, loan.borrower)
        return loan is not None

    # -- the studio's storage ------------------------------------------------------------------------------------------

    def check_storage(self, needed: int = 0) -> bool:
        return self._storage.check(max(needed, PROBE_BYTES))

    # -- memory measurements -------------------------------------------------------------------------------------------

    def fits(self, model: str, device: str) -> list[Fit]:
        return self._services.fits.of(model, device)

    def record_fit(self, fit: Fit) -> None:
        self._services.fits.save(fit)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _in_order(self, claims: Sequence[Claim], flags: list[Flags | None]) -> list[Flags | None]:
        """Arrange the flags of this slot's claims in the order of ``claims``, with None for claims of other slots."""
        found = iter(flags)
        return [next(found) if claim.worker == self._slot else None for claim in claims]

    def _require_own(self, claim: Claim) -> Claim:
        """Return the claim. Raises LostClaim if it belongs to another slot."""
        if claim.worker != self._slot:
            raise LostClaim
        return claim

    def _claimed_job(self, claim: Claim) -> Job:
        return self._services.jobs.of_claim(self._require_own(claim))


def terms_of(settings: Settings) -> OutputTerms:
    return OutputTerms(settings.image_format, settings.sidecar == "on", settings.preview_every)


def open_dispatch(settings: Settings, slot: str) -> LocalDispatch:
    """Open the stores of the studio on this machine for a slot. Raises DatabaseProblem and InvalidParams."""
    return LocalDispatch(open_services(settings), slot)


def incomplete_note(facts: dict[str, Any]) -> str:
    """A note for a job whose picture was kept although some last steps failed; "" if none did."""
    failed = facts.get("incomplete")
    if not isinstance(failed, dict) or not failed:  # a remote worker may send anything
        return ""
    return message("event_incomplete", options=sorted(map(str, failed)), problem=" ".join(map(str, failed.values())))
