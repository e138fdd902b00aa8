"""The studio's side of the dispatch for a worker on another machine, whose slot is held by a lease."""

import io
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image as PIL

from diffusion_local import disk
from diffusion_local.compose import Services
from diffusion_local.dispatch import Finished, OutputTerms, ProgressReport, slots
from diffusion_local.dispatch.local import LocalDispatch, terms_of
from diffusion_local.dispatch.matching import InstalledFiles, JobsForFiles, OtherSlots, missing_files
from diffusion_local.dispatch.storage_faults import Storage
from diffusion_local.domain import Claim, Condition, Flags, Job, SharedFile, utc_now
from diffusion_local.errors import Conflict, InvalidParams, LeaseLost, echo
from diffusion_local.gallery.image_formats import SUFFIX_BY_FORMAT
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.queue.claims import Ahead
from diffusion_local.queue.estimates import Work
from diffusion_local.queue.machines import PAUSED, machine_of

#: ``machine.device``. It must differ from the slots of the studio's own machine.
SLOT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\.(gpu|mps|cpu|xpu)\d{1,2}")


MAX_PREVIEW = 4 * 1024 * 1024  # bytes of a preview or a thumbnail
MAX_TEXT = 200_000  # characters of a picture's facts or sidecar
MAX_PROBLEM = 500  # characters
ESTIMATE_SECONDS = 5.0  # for which an estimate is kept, because it is computed from hundreds of rows


class LeasedDispatch(LocalDispatch):
    """One per session. ``enter`` takes the slot; every other call renews the lease, or raises LeaseLost."""

    def __init__(
        self, services: Services, slot: str, storage: Storage, account: str, installed: InstalledFiles | None = None
    ) -> None:
        """``account``: name and token id of the worker's credential, joined by a slash; ``installed``: shared by the
        sessions of a process. Raises InvalidParams for a slot that is not ``machine.device``.
        """
        if not SLOT_NAME.fullmatch(slot):
            raise InvalidParams("slot", message("slot_name", got=echo(slot)))
        super().__init__(services, slot, storage)
        self.account = account
        self._installed = installed or InstalledFiles(services.catalog)
        self.session = ""
        self._estimates: dict[tuple[Work, bool, int], tuple[float, float | None]] = {}
        #: Number of the newest queue event for which the worker was woken.
        self.seen_moment: int | None = None

    def enter(self, version: str, protocol: int) -> OutputTerms:
        """Take the slot for a worker that runs this version of the program, and record its machine."""
        account, _, token = self.account.partition("/")
        terms = self.take(0)
        self._services.machines.note(machine_of(self._slot), account, token, version, protocol)
        return terms

    def take(self, patience: float) -> OutputTerms:
        with disk.storage_errors(), slots.slot_lock(self._services, self._slot).acquire(timeout=slots.LEASE_PATIENCE):
            self.session = self._services.leases.take(self._slot, self.account)
            slots.recover(self._services, self._slot)
        return terms_of(self._services.settings)

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Execute a call of the session. Raises the call's errors, and LeaseLost if the lease is lost."""
        if name == "take":
            raise Conflict(message("slot_leased", slot=self._slot))
        self._services.leases.renew(self._slot, self.session)
        method: Callable[..., Any] = getattr(self, name)
        return method(**arguments)

    def leave(self) -> None:
        try:
            self.report_status("stopped")
            self._services.loans.end(self._slot)
        finally:
            self._services.leases.release(self._slot, self.session)

    def heartbeat(self, condition: Condition | None = None) -> None:
        super().heartbeat()
        if condition is not None:
            limit = self._services.settings.gpu_share_mb * 10**6
            problem = self._storage.relative(condition.problem)[:MAX_PROBLEM]
            self._services.leases.note_condition(self._slot, replace(condition, problem=problem), limit)

    def publish_files(self, files: dict[str, dict[str, str]]) -> None:
        self._services.leases.note_files(self._slot, files)

    def missing_files(self) -> list[SharedFile]:
        lease = self._services.leases.get(self._slot)
        return missing_files(self._services, lease.files) if lease else []

    def claim(self, loaded: str, most: int = 1, beside: Claim | None = None, urgent: bool = False) -> list[Job]:
        return super().claim(loaded, most, beside, urgent) if self.ready() else []

    def _claim_terms(self, loaded: str) -> Ahead | None:
        lease = self._services.leases.get(self._slot)
        if lease is None or lease.session != self.session:
            raise LeaseLost(message("lease_lost", slot=self._slot))
        if self._services.machines.resting(self._slot):
            return None
        here = self._installed.files()
        others = OtherSlots(self._services, self._slot, here) if self._services.refusals.any_of(self._slot) else None
        return Ahead(loaded, JobsForFiles(here, lease.files, others))

    def urgent(self) -> bool:
        return not self._services.machines.resting(self._slot) and super().urgent()

    def report(self, reports: Sequence[ProgressReport], silent: Sequence[Claim] = ()) -> list[Flags | None]:
        return self._with_requests(super().report(reports, silent))

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        return self._with_requests(super().flags(claims))

    def _with_requests(self, flags: list[Flags | None]) -> list[Flags | None]:
        """Add requests to the flags: a paused machine gives its jobs back, and a waiting interactive job needs room."""
        state, resting = self._services.machines.standing(self._slot)
        paused, urgent = state == PAUSED, resting is None and super().urgent()
        return [each and replace(each, give_back=each.give_back or paused, make_room=urgent) for each in flags]

    def save_preview(self, claim: Claim, picture: bytes) -> None:
        if len(picture) <= MAX_PREVIEW and is_picture(picture, "webp"):
            super().save_preview(claim, picture)

    def finish(self, claim: Claim, picture: Finished, ahead: str | None = None) -> list[Job]:
        """See ``Dispatch.finish``. Raises InvalidParams unless the files are pictures of the declared format and size.

        They must be checked because the gallery serves them to all users.
        """
        encoded, size = picture.encoded, (picture.width, picture.height)
        if not (encoded.form in SUFFIX_BY_FORMAT and is_picture(encoded.data, encoded.form, size)):
            raise InvalidParams("picture", message("worker_picture"))
        if len(encoded.thumbnail) > MAX_PREVIEW or not is_picture(encoded.thumbnail, "webp"):
            raise InvalidParams("thumbnail", message("worker_picture"))
        if max(len(json.dumps(picture.facts)), len(encoded.sidecar)) > MAX_TEXT:
            raise InvalidParams("facts", message("worker_facts", most=MAX_TEXT))
        job = self._claimed_job(claim)
        return self._save(claim, job, self._completed(job, picture), ahead)

    def _completed(self, job: Job, picture: Finished) -> Finished:
        """Replace a creation time that is implausible by the studio's clock, and add a missing duration estimate."""
        now = utc_now()
        created = picture.created_at if (job.started_at or "") <= picture.created_at <= now else now
        measured = picture.measured
        if measured.expected is None:
            expected = self._kept_estimate(job.params, bool(measured.load), measured.together)
            measured = replace(measured, expected=expected)
        return replace(picture, created_at=created, measured=measured)

    def _kept_estimate(self, params: Params, loads: bool, together: int) -> float | None:
        """``estimate_seconds``, at most ESTIMATE_SECONDS old. ``loads``: the model is loaded first."""
        key, now = (Work.of_params(params), loads, together), time.monotonic()
        at, seconds = self._estimates.get(key, (float("-inf"), None))
        if now - at > ESTIMATE_SECONDS:
            seconds = self.estimate_seconds(params, "" if loads else params.runs_on, together)
            self._estimates = {
                other: each for other, each in self._estimates.items() if now - each[0] <= ESTIMATE_SECONDS
            }
            self._estimates[key] = now, seconds
        return seconds


def is_picture(data: bytes, form: str, size: tuple[int, int] | None = None) -> bool:
    """Whether a file's header declares a picture of this format and, if given, of this size. Decodes no pixels."""
    try:
        with PIL.open(io.BytesIO(data), formats=(form.upper(),)) as picture:
            return size is None or picture.size == size
    except (OSError, ValueError, SyntaxError, PIL.DecompressionBombError):
        return False
