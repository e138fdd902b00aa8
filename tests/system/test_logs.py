"""Logs: one JSON object a line, by process, with the job in it; read back whatever state the files are in."""

import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_local.settings import Settings
from diffusion_local.system import logs


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_is_an_object_with_the_job_in_it(settings: Settings) -> None:
    logs.start(settings, "worker-cpu0", terminal=False)
    log = logging.getLogger("diffusion_local.test")
    log.info("step %d", 3, extra={"job": "j1"})
    log.debug("not shown")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        log.exception("a fault\nin two lines", extra={"job": "j2"})
    lines = (settings.logs / "worker-cpu0.log").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["event"], first["job"], first["level"], first["process"]) == ("step 3", "j1", "info", "worker-cpu0")
    assert "ZeroDivisionError" in second["traceback"]


def test_what_libraries_chat_about_is_left_out(settings: Settings) -> None:
    logs.start(settings, "web", terminal=False)
    logging.getLogger("huey.consumer").info("chat")
    logging.getLogger("huey").warning("worth knowing")
    assert [line["event"] for line in logs.read(settings)] == ["worth knowing"]


def test_all_processes_are_read_by_time_and_of_one_job(settings: Settings) -> None:
    write(settings.logs / "web.log", {"at": "2", "event": "b"}, {"at": "4", "event": "d", "job": "j1"})
    write(settings.logs / "worker-cpu0.log", {"at": "3", "event": "c", "job": "j2"})
    write(settings.logs / "worker-cpu0.log.1", {"at": "1", "event": "a", "job": "j1"})
    assert [line["event"] for line in logs.read(settings)] == ["a", "b", "c", "d"]
    assert [line["event"] for line in logs.read(settings, "j1")] == ["a", "d"]


def test_what_cannot_be_read_is_left_out(settings: Settings) -> None:
    write(settings.logs / "web.log", {"at": "1", "event": "a"})
    with (settings.logs / "web.log").open("ab") as file:
        file.write(b'3\n[]\n"text"\n{"event": "no time"}\n\xff\xfe\n{"at": "2", "event": "cut of')
    assert [line["event"] for line in logs.read(settings)] == ["a"]


def test_a_home_without_logs_has_none(settings: Settings) -> None:
    assert logs.read(settings) == []


def test_a_line_that_repeats_is_counted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(logs.RepeatFilter.__init__, "__defaults__", (3, 60.0, lambda: now[0]))
    logs.start(settings, "web")
    log = logging.getLogger("diffusion_local.test")
    for number in range(50):
        log.error("no file is left: <socket fd=%d>", number)
        log.info("idle")
    events = [line["event"] for line in logs.read(settings)]
    assert events == ["no file is left: <socket fd=0>", "idle"] + [
        each for number in (1, 2) for each in (f"no file is left: <socket fd={number}>", "idle")
    ]
    now[0] += 61
    log.info("something else")
    more = [line["event"] for line in logs.read(settings)][len(events) :]
    assert sorted(more) == sorted(
        ["something else", "47 more in 60 s like: no file is left: <socket fd=0>", "47 more in 60 s like: idle"]
    )
    log.error("no file is left: <socket fd=9>")
    assert [line["event"] for line in logs.read(settings)][-1] == "no file is left: <socket fd=9>"


def test_lines_with_different_facts_or_jobs_are_all_written(settings: Settings) -> None:
    logs.start(settings, "web", terminal=False)
    log = logging.getLogger("diffusion_local.test")
    for number in range(100):
        log.info("step %d", number)
        log.error("it broke", extra={"job": f"j{number}"})
    assert len(logs.read(settings)) == 200


def test_many_different_lines_are_remembered_in_part(settings: Settings) -> None:
    repeats = logs.RepeatFilter()
    for number in range(3 * logs.MAX_LINES_SEEN):
        repeats.filter(logging.LogRecord("x", logging.INFO, "", 0, "line %d", (number,), None))
    assert len(repeats._seen) <= logs.MAX_LINES_SEEN + 1


def test_every_handler_writes_the_same(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    logs.start(settings, "web")
    for _ in range(100):
        logging.getLogger("diffusion_local.test").warning("again")
    assert len(logs.read(settings)) == logs.MAX_REPEATS
    assert capsys.readouterr().err.count("again") == logs.MAX_REPEATS


class BrokenPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("state", ["open", "closed", "broken"])
def test_a_terminal_that_has_gone_is_no_logging_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    now, reported = [100.0], io.StringIO()
    monkeypatch.setattr(logs.RepeatFilter.__init__, "__defaults__", (3, 60.0, lambda: now[0]))
    terminal = BrokenPipe() if state == "broken" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.start(settings, "web")
    monkeypatch.setattr(sys, "stderr", reported)
    for _ in range(5):
        logging.getLogger("diffusion_local.test").warning("again")
    if state == "closed":
        terminal.close()
    now[0] += 61
    logging.getLogger("diffusion_local.test").warning("another")
    assert reported.getvalue() == ""
    events = [line["event"] for line in logs.read(settings)]
    assert events == ["again"] * 3 + ["2 more in 60 s like: again", "another"]
    assert state != "open" or terminal.getvalue().endswith("web: another\n")


def test_arguments_that_do_not_fit_their_line_do_not_fail_the_caller(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.start(settings, "web")
    logging.getLogger("diffusion_local.test").warning("%d pictures", "many")
    logging.getLogger("diffusion_local.test").warning("%s of %s", "one")
    assert "Logging error" in capsys.readouterr().err


def write(path: Path, *lines: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_full_files_are_compressed_bounded_and_read_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 20_000)
    logs.start(settings, "web", terminal=False)
    for number in range(3000):
        logging.getLogger("diffusion_local.flood").info(
            "too many open files %d", number, extra={"job": f"j{number % 10}"}
        )
    files = sorted(settings.logs.iterdir())
    assert [path.name for path in files] == ["web.log", *(f"web.log.{n}.gz" for n in range(1, logs.KEPT_FILES + 1))]
    assert sum(path.stat().st_size for path in files) < 40_000
    found = logs.read(settings)
    assert found[-1]["event"] == "too many open files 2999"
    assert len(found) > 5 * 20_000 / 200
    assert [line["at"] for line in found] == sorted(line["at"] for line in found)


def test_a_full_file_that_cannot_be_compressed_is_kept_as_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 2000)
    monkeypatch.setattr(logs.shutil, "copyfileobj", full)
    logs.start(settings, "web", terminal=False)
    for number in range(30):
        logging.getLogger("diffusion_local.flood").info("line %d", number)
    found = {line["event"] for line in logs.read(settings)}
    assert found >= {f"line {number}" for number in range(15, 30)}


def test_old_and_many_full_files_are_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_KEPT_BYTES", 2500)
    settings.logs.mkdir(parents=True)
    now = time.time()
    for name, days in (
        ("web.log", 0),
        ("web.log.1.gz", 1),
        ("web.log.2", 2),
        ("worker-gpu7.log.1.gz", 3),
        ("supervisor.log.1", 40),
        ("worker-gpu7.log", 40),
    ):
        (settings.logs / name).write_bytes(b"x" * 1000)
        os.utime(settings.logs / name, (now - days * 86400,) * 2)
    assert logs.trim(settings) == 3000
    assert sorted(path.name for path in settings.logs.iterdir()) == ["web.log", "web.log.1.gz", "web.log.2"]
    assert logs.trim(settings) == 0


def test_a_damaged_full_file_does_not_hide_the_others(settings: Settings) -> None:
    write(settings.logs / "web.log", {"at": "1", "event": "a"})
    (settings.logs / "web.log.1.gz").write_bytes(b"\x1f\x8bnot gzip")
    assert [line["event"] for line in logs.read(settings)] == ["a"]
