"""``serve`` as a person runs it: real processes, killed in every way; what it says is so, and nothing outlives it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Job, State
from diffusion_local.errors import Conflict, HomeInUse, InvalidParams
from diffusion_local.preferences import restart_file
from diffusion_local.supervisor.supervisor import free_port, hold_home, write_address
from tests.conftest import kill_tree
from tests.support import REPOSITORY, eventually, soon, sql

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

STARTS = 60.0  # seconds that gradio's import may take on a busy machine


#: The watchdog at a pace for tests.
IMPATIENT = (
    "from diffusion_local.supervisor import watchdog; watchdog.INTERVAL_SECONDS = 0.3; watchdog.TIMEOUT_SECONDS = 1.0; "
    "watchdog.MISSED_SECONDS = 60.0; "
)


class Serve:
    """A running ``diffusion-local serve``; ``before`` is Python that runs before it."""

    def __init__(self, services: Services, log: Path, *arguments: str, before: str = "", **environ: str) -> None:
        self.services = services
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{before}from diffusion_local.cli import main; main()", "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env=services.settings.child_environ() | environ,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def url(self) -> str:
        def look() -> str | None:
            assert self.process.poll() is None, self.said
            found = re.search(r"is at (http://\S+)", self.said)
            return found and found[1]

        return eventually(look, STARTS)

    def child(self, module: str) -> psutil.Process:
        """The living child that runs this module."""

        def look() -> psutil.Process | None:
            for child in psutil.Process(self.process.pid).children():
                try:
                    if module in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                        return child
                except psutil.NoSuchProcess:
                    continue
            return None

        return eventually(look, STARTS)

    def worker(self) -> psutil.Process:
        return self.child("diffusion_local.worker")

    def web(self) -> psutil.Process:
        return self.child("diffusion_local.web")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def serve(services: Services, tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    started: list[Serve] = []
    families: list[psutil.Process] = []

    def start(*arguments: str, **environ: str) -> Serve:
        started.append(Serve(services, tmp_path / f"serve-{len(started)}.log", *arguments, **environ))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            families += each.family()
        kill_tree(each.process)
    for orphan in families:
        if orphan.is_running():
            orphan.kill()


def submit(services: Services, prompt: str = "a red apple", **changes: Any) -> str:
    sizes = {"width": 128, "height": 128, "steps": 4}
    return services.studio.submit(prompt, **sizes | changes).job_ids[0]


def when(services: Services, job_id: str, is_so: Callable[[Job], bool], timeout: float = STARTS) -> Job:
    def look() -> Job | None:
        job = services.studio.job(job_id)
        return job if is_so(job) else None

    return eventually(look, timeout)


def running(job: Job) -> bool:
    return job.state is State.RUNNING and job.step >= 1


def done(job: Job) -> bool:
    return job.state is State.DONE


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def one_picture_each(services: Services) -> list[str]:
    with sql(services.settings) as db:
        rows = sorted(row["job_id"] for row in db.execute("SELECT job_id FROM images"))
    assert rows == sorted(path.stem for path in services.settings.gallery_folder.rglob("*.png"))
    return rows


def seconds_until_gone(process: "subprocess.Popen[bytes]", family: list[psutil.Process], timeout: float) -> float:
    """How long a process and all its children take to end."""
    started = time.monotonic()
    process.wait(timeout)
    _, alive = psutil.wait_procs(family, timeout)
    assert not alive
    return time.monotonic() - started


@pytest.mark.slow
def test_it_says_where_it_is_makes_pictures_and_goes_on_after_a_poison_job(
    services: Services, serve: Callable[..., Serve]
) -> None:
    served = serve()
    url = served.url()
    assert url.startswith("http://127.0.0.1:")
    assert answers(url)
    job_id = submit(services)
    assert when(services, job_id, done).attempt == 1
    assert one_picture_each(services) == [job_id]
    holder = json.loads((services.settings.locks / "serve.json").read_text())
    assert holder == {"pid": served.process.pid, "url": url, "others": []}
    poison, after = submit(services, "[crash]"), submit(services)
    job = when(services, poison, lambda job: job.final)
    assert job.failure is not None
    assert job.failure.kind == "worker_lost"
    when(services, after, done)
    assert served.process.poll() is None
    assert one_picture_each(services) == sorted([job_id, after])
    family = served.family()
    served.process.terminate()
    assert seconds_until_gone(served.process, family, 15) < soon(3.0)
    assert served.process.returncode == 0


def test_what_dies_comes_back_and_nothing_is_lost(services: Services, serve: Callable[..., Serve]) -> None:
    served = serve()
    url = served.url()
    first = submit(services, "[slow:0.2]", steps=12)
    when(services, first, running)

    served.worker().kill()  # a worker
    killed = time.monotonic()
    when(services, first, lambda job: job.crashes == 1, 5)
    assert time.monotonic() - killed < soon(2.0)
    web = served.web()

    web.kill()  # the web, while the job runs again
    when(services, first, running, 30)
    eventually(lambda: served.web().pid != web.pid)
    job = when(services, first, done)
    assert (job.attempt, job.crashes) == (2, 1)
    eventually(lambda: answers(url), STARTS)
    second = submit(services)
    when(services, second, done)
    assert one_picture_each(services) == sorted([first, second])


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing_behind_and_ctrl_c_stops_the_next_one(
    services: Services, serve: Callable[..., Serve]
) -> None:
    served = serve()
    served.url()
    job_id = submit(services, "[slow:30]", steps=50)
    when(services, job_id, lambda job: job.state is State.RUNNING)
    family = served.family()
    assert len(family) >= 2
    served.process.kill()
    assert seconds_until_gone(served.process, family, 10) < soon(3.0)
    job = services.studio.job(job_id)
    assert (job.state, job.crashes) == (State.QUEUED, 0)
    again = serve()  # its address file is stale, its lock is free
    again.worker()
    when(services, job_id, lambda job: job.attempt == 2 and job.state is State.RUNNING)
    again.url()
    family = again.family()
    again.process.send_signal(signal.SIGINT)
    assert seconds_until_gone(again.process, family, 15) < soon(3.0)
    assert again.process.returncode == 0
    job = services.studio.job(job_id)
    assert (job.state, job.crashes) == (State.QUEUED, 0)
    assert not (services.settings.locks / "serve.json").exists()
    assert "Traceback" not in again.said


@pytest.mark.slow
def test_a_stop_while_it_starts_stops_it(services: Services, serve: Callable[..., Serve]) -> None:
    served = serve()
    served.web()
    family = served.family()
    served.process.terminate()
    assert seconds_until_gone(served.process, family, 15) < soon(8.0)
    assert "Traceback" not in served.said


@pytest.mark.slow
def test_a_web_process_that_does_not_answer_is_replaced_and_the_queue_goes_on(
    services: Services, serve: Callable[..., Serve]
) -> None:
    served = serve(before=IMPATIENT)
    url = served.url()
    job_id, after = submit(services, "[slow:0.5]", steps=40), submit(services)
    when(services, job_id, running)
    stuck, worker = served.web(), served.worker()
    stuck.suspend()  # alive, with an open port, and silent
    eventually(lambda: not stuck.is_running() or stuck.status() == psutil.STATUS_ZOMBIE, 60)
    eventually(lambda: answers(f"{url}/healthz"), STARTS)
    assert served.web().pid != stuck.pid
    assert served.worker().pid == worker.pid
    assert when(services, job_id, done).attempt == 1
    when(services, after, done)
    assert one_picture_each(services) == sorted([job_id, after])
    assert "has not answered" in served.said


@pytest.mark.slow
def test_a_hung_worker_is_killed_and_its_job_named(services: Services, serve: Callable[..., Serve]) -> None:
    serve(DIFFUSION_LOCAL_STEP_TIMEOUT="2")
    hung, after = submit(services, "[hang]"), submit(services)
    job = when(services, hung, lambda job: job.final, 90)
    assert job.failure is not None
    assert (job.failure.kind, job.attempt) == ("timed_out", 2)
    when(services, after, done)


def test_a_second_serve_says_who_holds_the_home_and_without_a_worker_jobs_wait(
    services: Services, serve: Callable[..., Serve]
) -> None:
    first = serve("--no-worker")
    url = first.url()
    job_id = submit(services)
    second = serve()
    assert second.process.wait(STARTS) == 2
    assert f"already running on {services.settings.home}: process {first.process.pid} serves it at {url}" in second.said
    assert "Traceback" not in second.said
    assert first.process.poll() is None
    assert answers(url)
    assert [child for child in first.family() if "diffusion_local.worker" in child.cmdline()] == []
    assert services.studio.job(job_id).state is State.QUEUED
    assert services.studio.workers() == []


@pytest.mark.slow
def test_a_busy_port_is_refused_with_what_to_do(services: Services, serve: Callable[..., Serve]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = serve("--port", str(port))
        assert served.process.wait(STARTS) == 2
    assert f"port: 127.0.0.1:{port} cannot be used" in served.said
    assert f"--port {port + 1}" in served.said
    assert "Traceback" not in served.said


# -- in this process -------------------------------------------------------------------------------------------------


def test_the_home_is_held_once_and_free_again(services: Services) -> None:
    with hold_home(services.settings):
        with pytest.raises(HomeInUse, match="just starting"):
            hold_home(services.settings)
        write_address(services.settings)
        with pytest.raises(HomeInUse, match=f"process {os.getpid()} serves it at http://127.0.0.1:"):
            hold_home(services.settings)
    with hold_home(services.settings):
        pass


def test_a_free_port_is_found_for_zero_and_a_wrong_one_refused() -> None:
    assert free_port("127.0.0.1", 0) > 1023
    for host, port in (("127.0.0.1", 70_000), ("203.0.113.1", 0)):
        with pytest.raises(InvalidParams, match="cannot be used"):
            free_port(host, port)


@pytest.mark.slow
def test_a_restart_asked_for_on_the_page_takes_up_the_changed_settings(
    services: Services, serve: Callable[..., Serve]
) -> None:
    running = serve("--port", str(free_port("127.0.0.1", 0)), "--no-worker")
    running.url()
    first = running.web()
    services.studio.preferences.change("max_count", "7")
    services.studio.preferences.restart()
    eventually(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE, STARTS)
    second = running.web()
    assert second.pid != first.pid
    assert running.process.poll() is None  # the same process, for whoever supervises it
    eventually(lambda: running.said.count("is at http://") == 2, STARTS)
    assert not restart_file(services.settings).exists()


def test_without_a_supervisor_nothing_is_restarted(services: Services) -> None:
    with pytest.raises(Conflict):
        services.studio.preferences.restart()
