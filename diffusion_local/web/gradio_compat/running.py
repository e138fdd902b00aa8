"""The running handlers of Gradio's queue, with a limit per account."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import anyio

from diffusion_local.errors import LimitReached, NotDone
from diffusion_local.messages import message

MOST_OF_ACCOUNT = 500


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a handler."""

    owner: str
    session: str | None
    scope: anyio.CancelScope


class Running:
    """The handlers that are running, so that they can be stopped. Used in the event loop only."""

    def __init__(self, most: int = MOST_OF_ACCOUNT) -> None:
        self._most = most
        self._runs: dict[str, Run] = {}  # by event id

    @contextlib.contextmanager
    def until_stopped(self, event: str, session: str | None, owner: str) -> Iterator[None]:
        """Register a handler while it runs. Raises LimitReached if the account runs too many, NotDone if stopped."""
        if sum(run.owner == owner for run in self._runs.values()) >= self._most:
            raise LimitReached(message("waits_most", most=self._most), retry_after=30)
        with anyio.CancelScope() as scope:
            self._runs[event] = Run(owner, session, scope)
            try:
                yield
            finally:
                self._runs.pop(event, None)
        if scope.cancelled_caught:
            raise NotDone(message("nobody_waits"))

    def stop(self, session: str | None = None, event: str | None = None) -> None:
        """Cancel the handlers of a session or of an event."""
        for key, run in list(self._runs.items()):
            if key == event or (session is not None and run.session == session):
                run.scope.cancel()
