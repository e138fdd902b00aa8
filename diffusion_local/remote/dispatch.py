"""The dispatch of a worker whose studio is on another machine: calls are HTTP requests (see ``dispatch.wire``).

While the studio is unreachable, calls raise a DatabaseProblem, as with an unavailable database. The worker then
finishes its picture, stores it, and delivers it once the studio is reachable again, if the claim is still valid.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from diffusion_local import __version__
from diffusion_local.dispatch import Finished, OutputTerms, ProgressReport, wire
from diffusion_local.domain import Claim, Failure, Fit, Flags, Job, SharedFile, State
from diffusion_local.errors import (
    DatabaseProblem,
    InvalidParams,
    LeaseLost,
    LostClaim,
    ServerProblem,
    StorageProblem,
    Unauthorized,
    UserError,
)
from diffusion_local.messages import Message, deserialize, message
from diffusion_local.operations.operation import API_ROOT
from diffusion_local.options.table import Params
from diffusion_local.remote.models import Fetcher
from diffusion_local.remote.pairing import Credential, client_of
from diffusion_local.remote.pulse import Bell, Pulse
from diffusion_local.remote.spool import Spool

log = logging.getLogger(__name__)

CLOCK_SECONDS = 5.0  # a larger clock difference is corrected, with a warning
MOST_WAIT = 10.0  # seconds of one long poll
FITS_SECONDS = 60.0  # how long the studio's memory measurements are kept, so that a picture needs no request for them


class StudioUnavailable(DatabaseProblem):
    """The studio is unreachable, or the server does not respond like a studio."""


class RemoteDispatch:
    """See ``Dispatch``; calls that are not defined here are only forwarded. ``slot`` is ``machine.device``."""

    def __init__(
        self, client: httpx.Client, slot: str, spool: Spool | None = None, on_hung: Callable[[], None] | None = None
    ) -> None:
        """``client`` has the studio's address and the worker's credential. ``spool`` keeps pictures across restarts of
        the worker. ``on_hung`` is called when the studio has found this worker hung; it does not return.
        """
        self._client = client
        self._slot = slot
        self._spool = spool
        self._on_hung = on_hung
        #: The loaded model, as last reported.
        self.loaded = ""
        self._session = ""
        self._files: dict[str, dict[str, str]] = {}
        self._fits: dict[tuple[str, str], tuple[float, list[Fit]]] = {}
        self._lock = threading.Lock()
        self._pulse = Pulse(self._exchange)
        self._bell = Bell(lambda: bool(self._call("wait", (MOST_WAIT,), {})))

    def take(self, patience: float) -> OutputTerms:
        """As ``Dispatch.take``, after delivering pictures that an earlier worker had spooled.

        Raises StudioUnavailable, and HomeInUse while another worker, perhaps one lost a moment ago, holds the slot.
        """
        if self._spool is not None:
            self._spool.hold(patience)
        self._deliver_spooled()
        with self._lock:
            return self._terms(self._take())

    def report_status(self, status: str, model: str = "", free: int | None = None) -> None:
        self.loaded = model
        self._call("report_status", (status, model, free), {})

    def finish(self, claim: Claim, picture: Finished, ahead: str | None = None) -> list[Job]:
        try:
            jobs: list[Job] = self._settle("finish", claim, (picture, ahead), {})
        except StudioUnavailable:
            if self._spool is not None:
                self._spool.keep(claim, picture)
            raise
        self._pulse.watch(job.claim for job in jobs)
        return jobs

    def fail(self, claim: Claim, failure: Failure) -> None:
        self._settle("fail", claim, (failure,), {})

    def pass_on(self, claim: Claim, failure: Failure) -> bool:
        passed: bool = self._call("pass_on", (claim, failure), {})
        if passed:
            self._forget_claim(claim)
        return passed

    def stop(self, claim: Claim) -> None:
        self._settle("stop", claim, (), {})

    def requeue(self, claim: Claim, *args: Any, **kwargs: Any) -> State:
        state: State = self._settle("requeue", claim, args, kwargs)
        return state

    def give_back(self, claims: Sequence[Claim]) -> None:
        """As ``Dispatch.give_back``, except for claims of spooled pictures.

        If the studio is unreachable, the next worker of this slot gives the jobs back.
        """
        kept = {claim for claim, _ in self._spool.pictures()} if self._spool is not None else set()
        claims = [claim for claim in claims if claim not in kept]
        try:
            self._call("give_back", (claims,), {})
        except StudioUnavailable:
            if self._spool is not None:
                self._spool.note_session(self.url, self._session, claims)
            raise

    def leave(self) -> None:
        self._pulse.close()
        self._bell.close()
        self._call("leave", (), {})
        if self._spool is not None:
            self._spool.note_session(self.url, "")

    def publish_files(self, files: dict[str, dict[str, str]]) -> None:
        self._files = files
        self._call("publish_files", (files,), {})

    def wait(self, seconds: float) -> bool:
        """As ``Dispatch.wait``; while the studio is unreachable it waits the full time, to avoid busy polling."""
        return self._bell.wait(seconds)

    def fetcher(self, folders: Mapping[str, Path], digest_of: Callable[[Path], str], reserve_bytes: int) -> Fetcher:
        """A fetcher of model files that this worker lacks; see ``remote.models``."""
        return Fetcher(self._client, folders, digest_of, reserve_bytes)

    def missing_files(self) -> list[SharedFile]:
        return list(self._call("missing_files", (), {}))

    def check(self) -> None:
        """Ask the studio whether it would take this worker, without taking the slot. Raises UserError if not."""
        with contextlib.suppress(LeaseLost):  # this answer shows that the credential and protocol are accepted
            self._request("paused", (), {})

    def problem(self) -> Message | None:
        """The local problem that prevents this worker from starting a picture, or None."""
        return self._spool.problem() if self._spool is not None else None

    def ready(self) -> bool:
        """Whether this machine can store pictures; the studio checks its own storage at each claim."""
        return self.problem() is None

    def claim(self, *args: Any, **kwargs: Any) -> list[Job]:
        jobs: list[Job] = self._call("claim", args, kwargs)
        self._pulse.watch(job.claim for job in jobs)
        return jobs

    def urgent(self) -> bool:
        return self._pulse.make_room

    def estimate_seconds(self, params: Params, loaded: str, together: int = 1) -> float | None:
        """Always None; the studio adds the estimate when the picture is delivered."""
        return None

    def fits(self, model: str, device: str) -> list[Fit]:
        """As ``Dispatch.fits``; measurements by other workers are noticed after a while only."""
        known = self._fits.get((model, device))
        if known is None or time.monotonic() - known[0] > FITS_SECONDS:
            known = self._fits[model, device] = time.monotonic(), list(self._call("fits", (model, device), {}))
        return known[1]

    def record_fit(self, fit: Fit) -> None:
        self._fits.pop((fit.model, fit.device), None)
        self._call("record_fit", (fit,), {})

    def report(self, reports: Sequence[ProgressReport], silent: Sequence[Claim] = ()) -> list[Flags | None]:
        claims = [*(each.claim for each in reports), *silent]
        if not self._pulse.is_watching(claims):
            return self._exchange(reports, silent)
        self._pulse.note(reports)
        return self._pulse.flags(claims)

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        return self._pulse.flags(claims) if self._pulse.is_watching(claims) else self._exchange((), claims)

    def _exchange(self, reports: Sequence[ProgressReport], silent: Sequence[Claim]) -> list[Flags | None]:
        """One request: ``report``, or ``flags`` if there is nothing to report, which takes no write transaction."""
        if not reports:
            return list(self._call("flags", (silent,), {}))
        return list(self._call("report", (reports, silent), {}))

    def check_storage(self, needed: int = 0) -> bool:
        try:
            return bool(self._call("check_storage", (needed,), {}))
        except DatabaseProblem:
            return False

    def save_preview(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(DatabaseProblem):
            self._call("save_preview", args, kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in wire.CALLS:
            raise AttributeError(name)
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def _settle(self, name: str, claim: Claim, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that ends a claim."""
        try:
            ended = self._call(name, (claim, *args), kwargs)
        except LostClaim:
            self._forget_claim(claim)
            raise
        self._forget_claim(claim)
        return ended

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call. If the lease has ended, take the slot again; its earlier claims are lost."""
        session = self._session
        try:
            return self._request(name, args, kwargs)
        except LeaseLost as lost:
            if lost.message.id == "worker_hung" and self._on_hung is not None:
                log.error("%s", lost)
                self._on_hung()
            self._rejoin(session)
            if name in ("report", "flags"):
                return [None for claims in args for _ in claims]
            if any(isinstance(each, Claim | list | tuple) for each in (*args, *kwargs.values())):
                raise LostClaim from None
            return self._request(name, args, kwargs)

    def _rejoin(self, session: str) -> None:
        """Take the slot again, unless another thread already has. Raises HomeInUse if another worker holds it now."""
        with self._lock:
            if self._session == session:
                self._take()
                self._request("publish_files", (self._files,), {})
                log.warning("the lease expired; slot %s is acquired again", self._slot)

    def _take(self) -> wire.SlotGrant:
        taken: wire.SlotGrant = self._request("take", (0.0,), {})
        self._session = taken.session
        if self._spool is not None:
            self._spool.note_session(self.url, taken.session)
        return taken

    def _terms(self, grant: wire.SlotGrant) -> OutputTerms:
        """The output terms, with the offset of the studio's clock if this machine's clock is wrong."""
        offset = (datetime.fromisoformat(grant.now) - datetime.now(UTC)).total_seconds()
        if abs(offset) < CLOCK_SECONDS:
            return grant.terms
        log.warning("%s", message("clock_off", seconds=round(abs(offset))))
        return replace(grant.terms, clock_offset=offset)

    def _deliver_spooled(self) -> None:
        """In the previous worker's session: deliver its pictures, give back its other jobs, and end the session.

        Raises StudioUnavailable.
        """
        if self._spool is None:
            return
        self._session, given_back = self._spool.session(self.url)
        if self._session:
            try:
                for claim, picture in self._spool.pictures():
                    try:
                        self._request("finish", (claim, picture), {})
                        log.info("handed in after a restart", extra={"job": claim.job_id})
                    except LeaseLost:
                        raise
                    except (LostClaim, InvalidParams, StorageProblem) as problem:
                        log.warning("could not be handed in: %s", problem, extra={"job": claim.job_id})
                    self._spool.drop(claim)
                self._request("give_back", (given_back,), {})
                self._request("leave", (), {})
            except LeaseLost as lost:
                log.warning("%s", lost)
        self._spool.clear()
        self._session = ""

    def _forget_claim(self, claim: Claim) -> None:
        self._pulse.forget(claim)
        if self._spool is not None:
            self._spool.drop(claim)

    def _request(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        body = wire.request(name, args, kwargs, slot=self._slot, session=self._session, version=__version__)
        try:
            answer = self._client.post(
                f"{API_ROOT}/worker", content=body, headers={"Content-Type": wire.WIRE_MEDIA_TYPE}
            )
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ServerProblem(message("studio_certificate", url=self.url, error=error)) from None
            raise StudioUnavailable(message("server_unreachable", url=self.url, error=error)) from None
        if answer.is_success:
            try:
                return wire.parse_response(name, answer.content)
            except wire.UnreadableMessage:
                raise StudioUnavailable(message("server_other", url=self.url, status=answer.status_code)) from None
        raise self._error(answer)

    @property
    def url(self) -> str:
        return str(self._client.base_url)

    def _error(self, answer: httpx.Response) -> UserError:
        """The error for a failed response. It ends the worker only if the studio refuses its access or protocol; a
        response of another program, such as a proxy whose studio is being moved, does not.
        """
        fault = error_body(answer)
        if not fault and answer.status_code == 413:
            return StudioUnavailable(message("proxy_body_limit", url=self.url, status=answer.status_code))
        if not fault:
            return StudioUnavailable(message("server_status", url=self.url, status=answer.status_code))
        text = deserialize(str(fault.get("message", "")), fault)
        if answer.status_code == 401:
            return Unauthorized(message("worker_unknown", url=self.url, problem=text))
        if answer.status_code in (404, 405):
            return ServerProblem(message("worker_refused", url=self.url, problem=message("studio_no_machines")))
        if answer.status_code in (400, 403, 422):
            return ServerProblem(message("worker_refused", url=self.url, problem=text or f"HTTP {answer.status_code}"))
        return StudioUnavailable(message("server_status", url=self.url, status=answer.status_code))


def error_body(answer: httpx.Response) -> dict[str, Any]:
    try:
        fault = answer.json().get("error")
    except (ValueError, AttributeError):
        return {}
    return fault if isinstance(fault, dict) else {}


def join(
    credential: Credential, slot: str, spool: Spool | None = None, on_hung: Callable[[], None] | None = None
) -> RemoteDispatch:
    """Create the dispatch of a remote worker. Raises InvalidParams for an invalid address."""
    return RemoteDispatch(client_of(credential), slot, spool, on_hung)
