"""A pytest plugin: ``--processes N`` collects the tests once, then forks N processes that run them.

Imports and collection take half a minute of CPU, which test processes that each start from nothing would each spend.

The parent hands out groups of tests, mostly those of one file, and passes the reports of the children on to pytest, so
that ``-x``, ``--last-failed``, ``--durations`` and reports work as usual. A child that dies fails the test that it
was running; another takes its place.
"""

import contextlib
import gc
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from _pytest import runner

from tests import forking

#: Tests after which a run is long enough to start the servers of tests/forking.py once for all processes.
MANY = 2000
SECONDS_TO_END = 20.0  # for children that were interrupted, until they are killed
SECONDS_BETWEEN_LOOKS = 1.0  # for children that died while a child of their own keeps their connection open

Group = list[int]  # indexes of tests, in the order in which they run


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("processes")
    group.addoption("--processes", type=int, default=0, metavar="N", help="run the tests in N forked processes")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


class Hooks:
    @pytest.hookspec(firstresult=True)
    def pytest_group_of(self, item: pytest.Item) -> str | None:
        """Name of the group that one process runs from beginning to end; by default the test's file."""


@pytest.hookimpl(trylast=True)
def pytest_group_of(item: pytest.Item) -> str:
    return item.nodeid.split("::", 1)[0]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    count, option = session.config.getoption("processes"), session.config.option
    if count < 1 or option.collectonly or option.usepdb or session.testsfailed:
        return None  # as without this plugin
    if others := [each for each in threading.enumerate() if each is not threading.current_thread()]:
        raise pytest.UsageError(
            f"--processes: imports and collection started threads, which a fork would lose: {others}"
        )
    Parent(session, count).run()
    return True


def groups_of(items: list[pytest.Item]) -> list[Group]:
    """Groups in the order of their first tests."""
    groups: dict[str, Group] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.ihook.pytest_group_of(item=item), []).append(index)
    return list(groups.values())


@dataclass
class Child:
    process: BaseProcess
    connection: Connection
    todo: Group = field(default_factory=list)
    running: int | None = None
    started: float = 0.0
    last: int = 0
    trouble: str = ""  # traceback of an error outside tests

    def why_it_ended(self) -> str:
        """Empty after its regular end."""
        code = self.process.exitcode or 0
        if self.trouble or (code == 0 and self.running is None):
            return self.trouble
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the test process died ({how})"


class Parent:
    def __init__(self, session: pytest.Session, count: int) -> None:
        self._session = session
        self._hook = session.config.hook
        self._groups = deque(groups_of(session.items))
        self._count = min(count, len(self._groups))
        self._children: list[Child] = []
        self._names = 0

    def run(self) -> None:
        config = self._session.config
        with contextlib.suppress(AttributeError):
            config.pluginmanager.getplugin("terminalreporter").showfspath = False  # files run side by side
        if len(self._session.items) > MANY:
            for name in forking.IMPORTS:
                forking.server(name)
        config._tmp_path_factory.getbasetemp()
        gc.collect()
        gc.freeze()  # a collection would copy the pages of every object into each child
        try:
            for _ in range(self._count):
                self._start()
            while self._children:
                self._receive()
        except BaseException:
            self._interrupt()
            raise
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _start(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        ours, theirs = get_context("fork").Pipe()
        inherited = [ours, *(child.connection for child in self._children)]
        process = get_context("fork").Process(target=work, args=(self._session, self._names, theirs, inherited))
        process.start()
        theirs.close()
        self._names += 1
        self._children.append(Child(process, ours))

    def _receive(self) -> None:
        ready = wait([child.connection for child in self._children], SECONDS_BETWEEN_LOOKS)
        for child in list(self._children):
            if child.connection in ready:
                try:
                    message = child.connection.recv()
                except (EOFError, OSError):
                    message = None
                if message is None:  # not handled above, as errors in a child forked there would name that one as cause
                    child.process.join()
                    self._ended(child)
                else:
                    getattr(self, f"_on_{message[0]}")(child, *message[1:])
            elif not ready and child.process.exitcode is not None and not child.connection.poll():
                self._ended(child)
        if self._stopping():
            self._groups.clear()
            for child in self._children:
                self._send(child, None)

    def _stopping(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)

    @staticmethod
    def _send(child: Child, group: Group | None) -> None:
        with contextlib.suppress(OSError):  # it has ended, which the next read tells
            child.connection.send(group)

    # -- messages of a child -----------------------------------------------------------------------------------------

    def _on_next(self, child: Child) -> None:
        child.todo = self._groups.popleft() if self._groups else []
        self._send(child, child.todo or None)

    def _on_start(self, child: Child, index: int) -> None:
        child.running = child.last = index
        child.started = time.perf_counter()
        child.todo = child.todo[child.todo.index(index) + 1 :]
        item = self._session.items[index]
        self._hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)

    def _on_finish(self, child: Child) -> None:
        item = self._session.items[child.last]
        child.running = None
        self._hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _on_report(self, child: Child, data: dict[str, Any]) -> None:
        report = self._hook.pytest_report_from_serializable(config=self._session.config, data=data)
        self._hook.pytest_runtest_logreport(report=report)

    def _on_warning(self, child: Child, recorded: dict[str, Any]) -> None:
        self._hook.pytest_warning_recorded.call_historic(kwargs=recorded)

    def _on_trouble(self, child: Child, text: str) -> None:
        child.trouble = text

    def _ended(self, child: Child) -> None:
        self._children.remove(child)
        child.connection.close()
        if not (why := child.why_it_ended()):
            return
        item = self._session.items[child.last]
        when: Any = "teardown" if child.running is None else "call"
        spent = time.perf_counter() - child.started
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, when, duration=spent)
        self._hook.pytest_runtest_logreport(report=report)
        if self._stopping():
            return
        if child.todo:
            self._groups.appendleft(child.todo)
        if self._groups:
            self._start()

    def _interrupt(self) -> None:
        """Let the children end their fixtures, and kill those that do not."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process.pid or 0, signal.SIGINT)
        deadline = time.monotonic() + SECONDS_TO_END
        connections = [child.connection for child in self._children]
        while connections and time.monotonic() < deadline:
            for each in wait(connections, SECONDS_BETWEEN_LOOKS):
                try:
                    each.recv()  # a child that has much to tell would wait for ever
                except (EOFError, OSError):
                    connections.remove(each)
        for child in self._children:
            child.process.join(0 if connections else 1)
            child.process.kill()
            child.process.join()


# -- a child -----------------------------------------------------------------------------------------------------------


class Later(pytest.Item):
    """Stands for the tests to come, so that fixtures of the session outlive the last test of a group."""

    def runtest(self) -> None:
        """Never called: it is only the ``nextitem`` of others."""


class Reporter:
    """Sends to the parent what pytest reports here."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config, self._connection = config, connection
        self._replayed = True  # warnings of the collection, which pytest tells each new plugin
        config.pluginmanager.register(self)
        self._replayed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", data))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        if self._replayed:
            return
        sent = warning_message
        try:
            pickle.dumps(sent)
        except Exception:  # whatever the warning's class raises
            text = f"{sent.category.__name__}: {sent.message}"
            sent = warnings.WarningMessage(UserWarning(text), UserWarning, sent.filename, sent.lineno)
        recorded = {"warning_message": sent, "when": when, "nodeid": nodeid, "location": location}
        self._connection.send(("warning", recorded))


def work(session: pytest.Session, number: int, connection: Connection, inherited: list[Connection]) -> None:
    """Run groups of tests until there are no more."""
    for each in inherited:
        each.close()
    signal.signal(signal.SIGINT, interrupt)
    name = f"gw{number}"
    os.environ["PYTEST_XDIST_WORKER"] = name  # as tools know it that look for several test processes
    with child_of(session.config, name, connection):
        try:
            with contextlib.suppress(KeyboardInterrupt):
                run_groups(session, connection)
            runner.pytest_sessionfinish(session)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)  # the parent was killed
        except BaseException:
            connection.send(("trouble", traceback.format_exc()))


def interrupt(number: int, frame: FrameType | None) -> None:
    """End this process's tests; a second time comes from the parent, which passes on what the terminal sent to all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def child_of(config: pytest.Config, name: str, connection: Connection) -> Iterator[None]:
    """Give this process a temporary folder and a capture of its own, and its reports to the parent."""
    folder = config._tmp_path_factory.getbasetemp() / name
    folder.mkdir(mode=0o700)
    config._tmp_path_factory._basetemp = folder
    plugins = config.pluginmanager
    terminal = plugins.unregister(name="terminalreporter")
    # pytest-timeout prints all stacks to the terminal.
    plugins.register(SimpleNamespace(_tw=terminal._tw), "terminalreporter")
    Reporter(config, connection)
    capture = plugins.getplugin("capturemanager")
    # All processes share the files of the first capture. They stay open for modules that keep a stream of their import.
    capture._global_capturing = None
    capture.start_global_capturing()
    capture.suspend_global_capture(in_=True)
    yield
    capture.stop_global_capturing()


def run_groups(session: pytest.Session, connection: Connection) -> None:
    later = Later.from_parent(session, name="later")
    while True:
        connection.send(("next",))
        group = connection.recv()
        if group is None:
            return
        for index, following in zip(group, [*group[1:], None], strict=True):
            item = session.items[index]
            connection.send(("start", index))
            nextitem = later if following is None else session.items[following]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            connection.send(("finish",))
            if session.shouldfail or session.shouldstop or connection.poll():
                return  # enough have failed here, or the parent says so
