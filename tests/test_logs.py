"""Logs: one JSON object a line, by process, with the job in it; read back whatever state the files are in."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_local import logs
from diffusion_local.settings import Settings


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


def write(path: Path, *lines: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
