"""A fair write lock for a SQLite file: writers take turns in order of arrival, so that none starves.

SQLite's own write lock has no queue: a writer that finds it taken retries after sleeps of up to a tenth of a second,
and later writers may overtake it. Here the threads of each process form a queue, and the first thread of each queues
with other processes by two lock files: the holder of ``*.next.lock`` is next, and waits for ``*.write.lock``. A process
that has just written queues behind the one that is next. The operating system releases the locks of a process that
dies.

SQLite's lock still decides who writes; where the files cannot be locked, it is the only one.

The files are not locked by ``filelock``, as slots are, because it opens and closes the file each time: a turn takes 67
microseconds of CPU instead of 1, each write takes two, and those who wait poll two thousand times a second.
"""

import contextlib
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from diffusion_local import disk

#: Seconds between two tries to lock a file: by the process that is next, and by those behind it. The former is shorter
#: than a transaction. The latter is the same for all, so that none has an advantage.
NEXT_POLL, QUEUE_POLL = 0.0005, 0.002


class FileTurn:
    """A lock file that one process at a time can hold. Its threads must take turns before they use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def try_lock(self) -> bool:
        """Try to lock the file; whether that succeeded. Raises OSError where files cannot be locked."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), disk.FILE)
        return lock_file(self._file)

    def unlock(self) -> None:
        if self._file is not None:
            unlock_file(self._file)

    def __del__(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)


if sys.platform == "win32":
    import msvcrt

    def lock_file(file: int) -> bool:
        os.lseek(file, 0, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def unlock_file(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock_file(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock_file(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class ThreadTurns:
    """A lock that threads acquire in the order of their arrival.

    Threads that are not patient go first, but while patient ones wait, they get every second turn: neither kind
    starves.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: tuple[deque[threading.Lock], deque[threading.Lock]] = deque(), deque()
        self._last_was_patient = False
        self.holder: int | None = None  # thread

    def acquire(self, patient: bool, seconds: float) -> bool:
        """Wait for the lock. Returns False if it was not acquired within ``seconds``."""
        me = threading.get_ident()
        with self._mutex:
            if self.holder is None:
                self.holder, self._last_was_patient = me, patient
                return True
            own = threading.Lock()
            own.acquire()
            self._waiting[patient].append(own)
        try:
            own.acquire(timeout=seconds)  # released by the thread that hands over its turn
        except BaseException:  # interrupted
            if not self._leave(own, patient):
                self.release()
            raise
        if self._leave(own, patient):
            return False
        self.holder = me
        return True

    def _leave(self, own: threading.Lock, patient: bool) -> bool:
        """Leave the queue. Returns False if this thread has been handed the turn already."""
        with self._mutex:
            waits = own in self._waiting[patient]
            if waits:
                self._waiting[patient].remove(own)
            return waits

    def release(self) -> None:
        """Hand the turn to the next waiting thread, if there is one."""
        with self._mutex:
            others, patient = self._waiting
            line = patient if patient and (not others or not self._last_was_patient) else others
            if line:
                self._last_was_patient = line is patient
                self.holder = 0  # no thread's id, until the next holder runs
                line.popleft().release()
            else:
                self.holder = None


class WriteLock:
    """The fair write lock of one SQLite file. Obtain it with ``write_lock``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._threads = ThreadTurns()
        self._next = FileTurn(self._path.with_suffix(".next.lock"))
        self._write = FileTurn(self._path.with_suffix(".write.lock"))

    @contextlib.contextmanager
    def hold(self, patient: bool, seconds: float) -> Iterator[None]:
        """Hold the lock. Raises sqlite3.OperationalError if it was not acquired within ``seconds``.

        ``patient``: let other threads of this process go first.
        """
        if self._process != os.getpid():  # after a fork: the other threads do not exist in the child
            self._start()
        threads = self._threads
        if threads.holder == threading.get_ident():  # a nested transaction, which SQLite refuses
            yield
            return
        deadline = time.monotonic() + seconds
        if not threads.acquire(patient, seconds):
            raise sqlite3.OperationalError("database is locked")
        try:
            locked = self._lock_files(deadline)
            try:
                yield
            finally:
                if locked:
                    self._write.unlock()
        finally:
            threads.release()

    def _lock_files(self, deadline: float) -> bool:
        """Lock ``*.write.lock``. Returns False where files cannot be locked.

        Raises sqlite3.OperationalError if that did not succeed before ``deadline`` (``time.monotonic``).
        """
        try:
            wait_for(self._next, deadline, QUEUE_POLL)
            try:
                wait_for(self._write, deadline, NEXT_POLL)
            finally:
                self._next.unlock()
        except OSError:
            return False
        return True


_locks: weakref.WeakValueDictionary[Path, WriteLock] = weakref.WeakValueDictionary()
_mutex = threading.Lock()


def write_lock(path: Path) -> WriteLock:
    """The write lock of a SQLite file, shared by the whole process."""
    with _mutex:
        found = _locks.get(path)
        if found is None:
            found = _locks[path] = WriteLock(path)
        return found


def wait_for(file: FileTurn, deadline: float, pause: float) -> None:
    """Poll until the file is locked. Raises sqlite3.OperationalError after ``deadline`` (``time.monotonic``)."""
    while not file.try_lock():
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(pause)
