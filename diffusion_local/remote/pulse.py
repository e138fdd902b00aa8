"""Background exchange of a remote worker with its studio, so that no step waits for the network.

A thread sends reports and fetches requests to running jobs a few times a second; a step only reads the newest answer.
A job that ends sooner after its start costs no request of this kind: a cancel would hardly reach it in time.
A second thread holds a long poll for rings while the worker is idle.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from diffusion_local.dispatch import ProgressReport
from diffusion_local.domain import Claim, Flags
from diffusion_local.errors import DatabaseProblem, UserError

PULSE_SECONDS = 0.4  # between two exchanges, and from a job's start to its first: a cancel arrives within twice this
WAITING_SECONDS = 0.5  # after which a claimed job that has not started counts as started
AWAY_SECONDS = 1.0  # between two attempts while the studio is unreachable
IDLE_SECONDS = 2.0  # how long the long poll continues after the last ``wait``

#: ``Dispatch.report``, as one request.
Exchange = Callable[[Sequence[ProgressReport], Sequence[Claim]], list[Flags | None]]


class Pulse:
    """The newest known flags of running jobs."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._flags: dict[Claim, Flags | None] = {}
        self._watched_at: dict[Claim, float] = {}
        self._unsent: dict[Claim, ProgressReport] = {}
        self._problem: UserError | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """End the thread; an exchange that is under way comes to its end."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def watch(self, claims: Iterable[Claim]) -> None:
        """Start exchanging reports and flags of newly claimed jobs."""
        with self._changed:
            for claim in claims:
                self._flags[claim] = Flags(cancel=False)
                self._watched_at[claim] = time.monotonic() + WAITING_SECONDS
            if self._flags and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, claim: Claim) -> None:
        with self._changed:
            self._flags.pop(claim, None)
            self._watched_at.pop(claim, None)
            self._unsent.pop(claim, None)

    def is_watching(self, claims: Iterable[Claim]) -> bool:
        return all(claim in self._flags for claim in claims)

    def note(self, reports: Sequence[ProgressReport]) -> None:
        now = time.monotonic()
        with self._changed:
            for each in reports:
                if self._flags.get(each.claim) is not None:
                    self._unsent[each.claim] = each
                    self._watched_at[each.claim] = min(self._watched_at[each.claim], now)

    def flags(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """The newest flags of jobs. Raises the error that ended the connection permanently."""
        if self._problem is not None:
            raise self._problem
        return [self._flags.get(claim) for claim in claims]

    @property
    def make_room(self) -> bool:
        """Whether an interactive job is waiting."""
        return any(flags is not None and flags.make_room for flags in list(self._flags.values()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed.is_set() and not any(flags is not None for flags in self._flags.values()):
                    self._changed.wait()
            if self._closed.wait(PULSE_SECONDS):
                return
            try:
                self._exchange_once()
            except DatabaseProblem:  # the studio is unreachable: work continues with the newest known flags
                self._closed.wait(AWAY_SECONDS)
            except UserError as problem:  # this worker's access was refused
                self._problem = problem
                return

    def _exchange_once(self) -> None:
        """Send the newest reports; for jobs without progress only read the flags."""
        latest = time.monotonic() - PULSE_SECONDS
        with self._changed:
            due = [claim for claim, flags in self._flags.items() if flags and self._watched_at[claim] <= latest]
            reports = [self._unsent.pop(claim) for claim in due if claim in self._unsent]
        reported = [each.claim for each in reports]
        silent = [claim for claim in due if claim not in reported]
        if not due:
            return
        try:
            answers = zip([*reported, *silent], self._exchange(reports, silent), strict=True)
        except DatabaseProblem:
            with self._changed:
                self._unsent = {each.claim: each for each in reports if each.claim in self._flags} | self._unsent
            raise
        with self._changed:
            self._flags |= {claim: flags for claim, flags in answers if claim in self._flags}


class Bell:
    """A long poll for rings, held only while the worker waits for one."""

    def __init__(self, poll: Callable[[], bool]) -> None:
        """``poll`` lasts until a ring or for some seconds; returns whether there was one."""
        self._poll = poll
        self._rung = threading.Event()
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._waited_at = 0.0
        self._problem: UserError | None = None
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """End the thread; a poll that is under way comes to its end."""
        self._closed.set()
        self._wanted.set()

    def wait(self, seconds: float) -> bool:
        """Wait for a ring; returns whether one came. Raises the error that ended the connection permanently."""
        if self._problem is not None:
            raise self._problem
        self._waited_at = time.monotonic()
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
            self._thread.start()
        rung = self._rung.wait(seconds)
        self._rung.clear()
        return rung

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            if time.monotonic() - self._waited_at > IDLE_SECONDS:
                self._wanted.clear()
                continue
            try:
                if self._poll():
                    self._rung.set()
            except DatabaseProblem:
                self._closed.wait(AWAY_SECONDS)
            except UserError as problem:
                self._problem = problem
                return
