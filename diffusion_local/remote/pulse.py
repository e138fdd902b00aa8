"""Background exchange of a joined worker with its studio, so that no step waits for the network.

Reports are sent, and requests to running jobs fetched, a few times a second on a thread; a step only looks at what was
heard last. A second thread holds a long poll for rings while the worker is idle.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from diffusion_local.dispatch import ProgressReport
from diffusion_local.domain import Claim, Flags
from diffusion_local.errors import DatabaseProblem, UserError

PULSE_SECONDS = 0.3  # between two exchanges about running jobs; a cancel is heard within this time
AWAY_SECONDS = 1.0  # between two tries while the studio is away
IDLE_SECONDS = 2.0  # after the last ``wait`` for which the long poll goes on

Send = Callable[[Sequence[ProgressReport]], list[Flags | None]]
Ask = Callable[[Sequence[Claim]], list[Flags | None]]


class Pulse:
    """Flags of running jobs, as heard last."""

    def __init__(self, send: Send, ask: Ask) -> None:
        self._send = send
        self._ask = ask
        self._flags: dict[Claim, Flags | None] = {}
        self._unsent: dict[Claim, ProgressReport] = {}
        self._problem: UserError | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, claims: Iterable[Claim]) -> None:
        """Begin with newly claimed jobs."""
        with self._changed:
            for claim in claims:
                self._flags[claim] = Flags(cancel=False)
            if self._flags and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, claim: Claim) -> None:
        with self._changed:
            self._flags.pop(claim, None)
            self._unsent.pop(claim, None)

    def knows(self, claims: Iterable[Claim]) -> bool:
        return all(claim in self._flags for claim in claims)

    def note(self, reports: Sequence[ProgressReport]) -> None:
        with self._changed:
            self._unsent |= {each.claim: each for each in reports if self._flags.get(each.claim) is not None}

    def heard(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """Raises the error that ended the connection permanently."""
        if self._problem is not None:
            raise self._problem
        return [self._flags.get(claim) for claim in claims]

    @property
    def make_room(self) -> bool:
        """Whether somebody waits for an interactive job."""
        return any(flags is not None and flags.make_room for flags in list(self._flags.values()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not any(flags is not None for flags in self._flags.values()):
                    self._changed.wait()
            time.sleep(PULSE_SECONDS)
            try:
                self._exchange()
            except DatabaseProblem:  # the studio is away: work goes on with what was heard last
                time.sleep(AWAY_SECONDS)
            except UserError as problem:  # this worker may not work any more
                self._problem = problem
                return

    def _exchange(self) -> None:
        """Send the newest reports. Jobs without news are only asked about: they made no progress."""
        with self._changed:
            reports, self._unsent = list(self._unsent.values()), {}
            told = {each.claim for each in reports}
            quiet = [claim for claim, flags in self._flags.items() if flags is not None and claim not in told]
        try:
            answers = list(zip([each.claim for each in reports], self._send(reports) if reports else [], strict=True))
        except DatabaseProblem:
            with self._changed:
                self._unsent = {each.claim: each for each in reports if each.claim in self._flags} | self._unsent
            raise
        answers += zip(quiet, self._ask(quiet) if quiet else [], strict=True)
        with self._changed:
            self._flags |= {claim: flags for claim, flags in answers if claim in self._flags}


class Bell:
    """A long poll for rings, held only while somebody waits for one."""

    def __init__(self, poll: Callable[[], bool]) -> None:
        """``poll`` lasts until a ring or for some seconds; returns whether there was one."""
        self._poll = poll
        self._rung = threading.Event()
        self._wanted = threading.Event()
        self._waited_at = 0.0
        self._problem: UserError | None = None
        self._thread: threading.Thread | None = None

    def wait(self, seconds: float) -> bool:
        """Raises what ended the connection for good."""
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
        while True:
            self._wanted.wait()
            if time.monotonic() - self._waited_at > IDLE_SECONDS:
                self._wanted.clear()
                continue
            try:
                if self._poll():
                    self._rung.set()
            except DatabaseProblem:
                time.sleep(AWAY_SECONDS)
            except UserError as problem:
                self._problem = problem
                return
