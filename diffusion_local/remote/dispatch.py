"""The dispatch of a worker whose studio is on another machine: each call is one HTTP request (see ``dispatch.wire``).

While the studio cannot be reached, calls raise what a worker hears from a studio whose database is away: it finishes
its picture, keeps it, and hands it in once the studio is back, if its claim still holds then.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from diffusion_local import __version__
from diffusion_local.dispatch import OutputTerms, wire
from diffusion_local.domain import Claim
from diffusion_local.errors import DatabaseProblem, LeaseLost, LostClaim, ServerProblem, Unauthorized, UserError
from diffusion_local.messages import deserialize, message
from diffusion_local.remote.server import ROOT, normalise_url

log = logging.getLogger(__name__)

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
MOST_WAIT = 10.0  # seconds of one wait at the studio
AWAY_SECONDS = 1.0  # between two calls of a worker that waits while the studio is away


class StudioUnavailable(DatabaseProblem):
    """The studio cannot be reached, or does not answer as one."""


class RemoteDispatch:
    """See ``Dispatch``; calls that are not written out here only travel. ``slot`` is ``machine.device``."""

    def __init__(self, client: httpx.Client, slot: str) -> None:
        """``client`` has the studio's address and the worker's credential."""
        self._client = client
        self._slot = slot
        self._session = ""
        self._files: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def take(self, patience: float) -> OutputTerms:
        with self._lock:
            taken = self._request("take", (patience,), {})
            self._session = taken.session
        terms: OutputTerms = taken.terms
        return terms

    def publish_files(self, files: dict[str, dict[str, str]]) -> None:
        self._files = files
        self._call("publish_files", (files,), {})

    def wait(self, seconds: float) -> bool:
        """As ``Dispatch.wait``; while the studio is away it lasts, so that nobody asks it over and over."""
        until = time.monotonic() + seconds
        try:
            return bool(self._call("wait", (min(seconds, MOST_WAIT),), {}))
        except StudioUnavailable:
            time.sleep(max(0.0, min(until - time.monotonic(), AWAY_SECONDS)))
            return False

    def ready(self) -> bool:
        try:
            return bool(self._call("ready", (), {}))
        except StudioUnavailable:
            return False

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

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call. Where the lease is over the slot is taken again, and the claims that it had are lost."""
        session = self._session
        try:
            return self._request(name, args, kwargs)
        except LeaseLost:
            self._rejoin(session)
            if name in ("report", "flags"):
                return [None for _ in (args or tuple(kwargs.values()))[0]]
            if any(isinstance(each, Claim | list | tuple) for each in (*args, *kwargs.values())):
                raise LostClaim from None
            return self._request(name, args, kwargs)

    def _rejoin(self, session: str) -> None:
        """Take the slot again, unless another thread did. Raises HomeInUse if another worker has it now."""
        with self._lock:
            if self._session == session:
                self._session = self._request("take", (0.0,), {}).session
                self._request("publish_files", (self._files,), {})
                log.warning("the lease was over; the slot %s is taken again", self._slot)

    def _request(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        body = wire.request(name, args, kwargs, slot=self._slot, session=self._session)
        try:
            answer = self._client.post(f"{ROOT}/worker", content=body, headers={"Content-Type": wire.MEDIA})
        except httpx.HTTPError as error:
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
        """A worker that may not work any more, or speaks another protocol, ends; anything else passes."""
        told = error_body(answer)
        said = deserialize(str(told.get("message", "")), told)
        if answer.status_code == 401:
            return Unauthorized(message("server_sign_in", url=self.url, problem=said))
        if answer.status_code in (400, 403, 404, 405, 422):
            return ServerProblem(message("worker_refused", url=self.url, problem=said or f"HTTP {answer.status_code}"))
        return StudioUnavailable(message("server_status", url=self.url, status=answer.status_code))


def error_body(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json().get("error")
    except (ValueError, AttributeError):
        return {}
    return told if isinstance(told, dict) else {}


def join(url: str, token: str, slot: str) -> RemoteDispatch:
    """Raises InvalidParams for what is no address."""
    headers = {"User-Agent": f"diffusion-local/{__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    return RemoteDispatch(httpx.Client(base_url=normalise_url(url), headers=headers, timeout=timeout), slot)
