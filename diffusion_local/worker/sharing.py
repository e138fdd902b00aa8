"""Lends this worker's GPU while it is idle, and borrows that of another worker for a picture that takes long."""

import contextlib
import logging
import time
from collections.abc import Sequence

from diffusion_local.dispatch import Dispatch
from diffusion_local.domain import LOAN_TIME, RECALL_TIME, RECALLED, USED
from diffusion_local.engine import Engine, Helper, Part
from diffusion_local.errors import DatabaseProblem, NotFound
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.types import Kind
from diffusion_local.worker.stopping import Stop

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02  # between two reads of a loan
UNUSED_SECONDS = 60.0  # after which a loan that no picture uses is given back
REFUSED_SECONDS = 600.0  # after a GPU could not be used, before one is borrowed again


class Sharing:
    """One per worker; implements ``engine.Helper``. Used on the thread that runs passes."""

    def __init__(
        self, dispatch: Dispatch, engine: Engine, catalog: Catalog, stop: Stop, share_gpus: str, least_seconds: float
    ) -> None:
        """``share_gpus``, ``least_seconds``: the settings ``share_gpus`` and ``share_gpus_seconds``."""
        self._dispatch, self._engine, self._catalog, self._stop = dispatch, engine, catalog, stop
        self._enabled, self._least = share_gpus == "auto", least_seconds
        self._borrows = False
        self._slot, self._size = "", 0
        self._read_at = self._heard = self._used = 0.0
        self._not_before = 0.0

    # -- borrowing -----------------------------------------------------------------------------------------------------

    def helper(self, parts: Sequence[Part]) -> Helper | None:
        """Ask for a GPU for a pass if it is expected to take long enough; None if it is to run on this one alone."""
        size = self._needed(parts)
        if not size or size > self._size:
            self.give_back()  # nobody would notice a recall during a picture that does not use it
        with contextlib.suppress(DatabaseProblem):
            if size and self._dispatch.borrow(size) is not None:
                self._borrows, self._read_at, self._size = True, 0.0, max(size, self._size)
                self._used = self._heard = time.monotonic()
                return self
        self.give_back()
        return None

    def _needed(self, parts: Sequence[Part]) -> int:
        """Bytes to borrow for a pass; 0 if it is to run on this GPU alone."""
        params = parts[0].params
        if not self._enabled or len(parts) > 1 or params.place or params.kind is Kind.UPSCALE:
            return 0
        if time.monotonic() < self._not_before:
            return 0
        try:
            size = self._engine.helper_bytes(self._catalog.get(params.model), params)
            seconds = self._dispatch.estimate_seconds(params, params.model) if size else None
        except (DatabaseProblem, NotFound):
            return 0
        return 0 if seconds is None or seconds < self._least else size

    def slot(self) -> str:
        """See ``Helper``. Gives the GPU back once it is recalled."""
        now = time.monotonic()
        if not self._borrows or now - self._read_at < POLL_SECONDS:
            return self._slot
        self._used = now
        return self._renew(use=True)

    def _renew(self, use: bool) -> str:
        """Renew the loan, and return the slot to use."""
        self._read_at = now = time.monotonic()
        try:
            loan = self._dispatch.loan(use)
        except DatabaseProblem:  # nor can its own worker claim a job now
            if now - self._heard > LOAN_TIME.total_seconds():
                self.give_back()
            return self._slot
        self._heard = now
        if loan is None or loan.state == RECALLED:
            self.give_back()
        else:
            self._slot = loan.slot.rpartition(".")[2] if loan.state == USED else ""
        return self._slot

    def refuse(self) -> None:
        self._not_before = time.monotonic() + REFUSED_SECONDS
        self.give_back()

    def give_back(self) -> None:
        """Free the borrowed GPU, and end the loan."""
        if self._borrows:
            self._borrows, self._slot, self._size = False, "", 0
            self._engine.drop_helper()
            with contextlib.suppress(DatabaseProblem):  # it expires
                self._dispatch.give_back_loan()

    def between_pictures(self) -> None:
        """Between pictures: give a borrowed GPU back once it is recalled, or has not been used for a while."""
        if self._borrows and time.monotonic() - self._used > UNUSED_SECONDS:
            self.give_back()
        elif self._borrows:
            self._renew(use=False)

    # -- lending -------------------------------------------------------------------------------------------------------

    def lend(self) -> None:
        """Lend this worker's GPU to the worker that asks for it, if its memory suffices. Raises DatabaseProblem."""
        if self._enabled and (loan := self._dispatch.asked_loan()) is not None:
            granted = self._engine.make_room(loan.size)
            self._dispatch.lend(loan.borrower, granted)
            log.info("%s %s %d MiB", loan.borrower, "borrows" if granted else "cannot borrow", loan.size >> 20)

    def take_back(self) -> None:
        """Wait until the GPU is free again, for the job that was claimed: until the borrower's next step.

        It does not wait longer than RECALL_TIME, so that a hung borrower blocks nothing. Raises DatabaseProblem.
        """
        until = time.monotonic() + RECALL_TIME.total_seconds()
        while (
            self._enabled and self._dispatch.recall_loan() and time.monotonic() < until and not self._stop.now.is_set()
        ):
            self._stop.now.wait(POLL_SECONDS)
