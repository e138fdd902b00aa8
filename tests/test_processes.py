"""Test processes that are forked after collection: every test runs once, and what goes wrong in one is reported."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import FIRST, TOGETHER
from tests.support import REPOSITORY, eventually

CONFTEST = """
import os, pathlib, pytest

LOG = pathlib.Path(__file__).with_name("log")

def log(*words):
    with LOG.open("a") as file:
        print(*words, file=file)

@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory):
    log("begin", os.getpid(), tmp_path_factory.getbasetemp())
    yield
    log("end", os.getpid())

@pytest.fixture(autouse=True)
def logged(request):
    log("test", os.getpid(), request.node.nodeid)
"""


def pytest_of(folder: Path, *arguments: str, **files: str) -> subprocess.Popen[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    for name, code in files.items():
        (folder / f"test_{name}.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-p", "tests.processes", "-p", "no:xdist", *arguments]
    environ = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "TMPDIR": str(folder)}
    return subprocess.Popen(
        command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def output_of(folder: Path, *arguments: str, **files: str) -> str:
    return pytest_of(folder, *arguments, **files).communicate(timeout=120)[0]


def logged(folder: Path, kind: str) -> list[list[str]]:
    path = folder / "log"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [words for first, *words in lines if first == kind]


def passing(count: int) -> str:
    return "".join(f"def test_{each}(tmp_path): assert list(tmp_path.iterdir()) == []\n" for each in range(count))


FAILS = """
import os, pytest, signal, sys, warnings
ERRORS = sys.stderr
def test_before(): print("words of another test")
def test_fails(): print("its words"); assert False
def test_warns(): warnings.warn("a warning of a child")
def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
def test_exits(): os._exit(0)
def test_after(): print("to the stream of the import", file=ERRORS); ERRORS.fileno()
def test_fails_after_a_death(): assert False
@pytest.mark.xfail
def test_expected(): assert False
@pytest.mark.skip
def test_skipped(): pass
"""


def test_the_files_that_come_first_or_together_exist() -> None:
    named = [*FIRST, *(each for files in TOGETHER for each in files)]
    assert [each for each in named if not (REPOSITORY / each).exists()] == []


def test_every_test_runs_once_and_failures_and_deaths_are_reported(tmp_path: Path) -> None:
    output = output_of(tmp_path, "--processes", "2", "--durations", "3", a=passing(30), b=FAILS, c=passing(30))
    assert re.search(r"4 failed, 63 passed, 1 skipped, 1 xfailed, 1 warning", output), output
    assert "FAILED test_b.py::test_dies - the test process died (SIGKILL)" in output
    assert "FAILED test_b.py::test_exits - the test process died" in output
    assert "its words" in output
    assert "words of another test" not in output
    assert "a warning of a child" in output
    assert "EOFError" not in output
    assert "slowest 3 durations" in output

    tests = logged(tmp_path, "test")
    assert len({name for _, name in tests}) == len(tests) == 68  # all but the skipped one
    by_file = [{pid for pid, name in tests if name.startswith(file)} for file in ("test_a", "test_b", "test_c")]
    assert [len(each) for each in by_file] == [1, 3, 1]  # one process takes a file, and others go on after a death
    begun = logged(tmp_path, "begin")
    assert {pid for pid, _ in begun} == {pid for pid, _ in tests}
    assert len({folder for _, folder in begun}) == len(begun)  # a temporary folder of its own
    assert len(logged(tmp_path, "end")) == len(begun) - 2  # those that died ended nothing

    again = output_of(tmp_path, "--last-failed", "--processes", "1")
    assert re.search(r"4 failed, \d deselected|4 failed in", again), again


@pytest.mark.parametrize("limit", ["-x", "--maxfail=1"])
@pytest.mark.slow
def test_no_more_than_the_limit_fail(tmp_path: Path, limit: str) -> None:
    waits = "import pathlib, time\n" + "".join(f"def test_{each}(): time.sleep(0.3)\n" for each in range(20))
    fails = "import time\ndef test_waits(): time.sleep(0.5)\ndef test_fails(): assert False\ndef test_never(): pass\n"
    output = output_of(tmp_path, "--processes", "2", limit, a=waits, b=fails, c=passing(3))
    assert "stopping after 1 failures" in output
    names = {name for _, name in logged(tmp_path, "test")}
    assert "test_b.py::test_fails" in names
    assert not names & {"test_b.py::test_never", "test_a.py::test_19", "test_c.py::test_0"}
    assert len(logged(tmp_path, "end")) == 2  # fixtures end as usual


@pytest.mark.slow  # of the tests themselves, as are those below
def test_errors_of_session_fixtures_at_the_end_fail_the_run(tmp_path: Path) -> None:
    code = (
        "import pytest\n@pytest.fixture(scope='session')\ndef bad():\n    yield\n    raise ValueError('at the end')\n"
        "def test_it(bad): pass\n"
    )
    output = output_of(tmp_path, "--processes", "2", a=code, b=passing(1))
    assert "ValueError: at the end" in output
    assert "2 passed, 1 error" in output


@pytest.mark.parametrize("to_all", [True, False], ids=["from a terminal", "to the parent"])
@pytest.mark.slow
def test_an_interrupt_ends_fixtures_and_processes(tmp_path: Path, to_all: bool) -> None:
    waits = "import time\ndef test_waits(): time.sleep(60)\n"
    running = pytest_of(tmp_path, "--processes", "2", a=waits, b=waits)
    try:
        eventually(lambda: len(logged(tmp_path, "test")) == 2, 60)
        children = psutil.Process(running.pid).children(recursive=True)
        for each in (running, *children) if to_all else (running,):
            each.send_signal(signal.SIGINT)
        output = running.communicate(timeout=60)[0]
    finally:
        running.kill()
    assert running.returncode == pytest.ExitCode.INTERRUPTED, output
    assert len(logged(tmp_path, "end")) == 2
    assert not any(each.is_running() for each in children)


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    running = pytest_of(tmp_path, "--processes", "2", a="import time\ndef test_it(): time.sleep(1)\n" + passing(2))
    eventually(lambda: logged(tmp_path, "test"), 60)
    children = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.communicate(timeout=60)
    assert len(children) == 1
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert len(logged(tmp_path, "test")) == 1


@pytest.mark.slow  # of the tests themselves
def test_threads_of_imports_are_refused(tmp_path: Path) -> None:
    code = "import threading\nthread = threading.Timer(600, print)\nthread.daemon = True\nthread.start()\n" + passing(1)
    assert "started threads" in output_of(tmp_path, "--processes", "2", a=code)
    assert not (tmp_path / "log").exists()
