"""Two workers join a studio over HTTP, as processes of their own: one is killed, and the studio's web process is."""

import os
import signal
import socket
from pathlib import Path

import pytest

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.models.digests import Digests
from scripts.chaos_audit import audit
from tests.durability.conftest import SMALL, Start
from tests.support import eventually

pytestmark = pytest.mark.slow

STUDIO = """
import sys
import diffusion_local.supervisor.supervisor as supervisor
supervisor.JOBS_POLL_SECONDS = 0.5
from diffusion_local.cli import main
sys.argv = ["diffusion-local", "serve", "--no-worker"]
main()
"""
WORKER = """
import sys
from diffusion_local.worker.__main__ import main
sys.exit(main(["--slot", "cpu0", "--join", "http://127.0.0.1:{port}", "--machine", "{machine}"]))
"""
JOBS = 40


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def web_process(studio: int) -> int:
    """The process of the studio that serves HTTP."""
    children = Path(f"/proc/{studio}/task/{studio}/children").read_text().split()
    return next(
        int(child) for child in children if b"diffusion_local.web" in Path(f"/proc/{child}/cmdline").read_bytes()
    )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the web process by Linux's /proc")
def test_jobs_of_a_killed_remote_worker_and_of_a_killed_studio_are_made_once(
    services: Services, start: Start, tmp_path: Path
) -> None:
    with acting(LOCAL):
        Digests(services.catalog.index, services.catalog.default.folder).run()
    port = free_port()
    studio = start(STUDIO, engine="fake", port=port, lease_seconds=6, mdns="off")
    receipt = services.studio.submit("a red apple", count=JOBS, **SMALL)

    def join(machine: str) -> int:
        code = WORKER.format(port=port, machine=machine)
        return start(code, home=tmp_path / machine, engine="fake", fake_step_seconds=0.05).pid

    def done() -> int:
        return services.studio.counts_of_batches([receipt.batch_id])[receipt.batch_id].get(State.DONE, 0)

    def machines() -> set[str]:
        return {worker.slot for worker in services.studio.workers() if worker.status != "stopped"}

    eventually(lambda: _answers(port), 60)
    attic = join("attic")
    join("cellar")
    eventually(lambda: machines() == {"attic.cpu0", "cellar.cpu0"}, 60)
    eventually(lambda: done() >= 4, 60)
    eventually(lambda: any(job.worker == "attic.cpu0" for job in services.studio.jobs(State.RUNNING)), 30, every=0.001)
    os.kill(attic, signal.SIGKILL)
    eventually(lambda: done() >= 10, 60)
    os.kill(web_process(studio.pid), signal.SIGKILL)
    eventually(lambda: done() == JOBS, 120, every=0.2)
    found = audit(services.settings)
    assert not found.violations, found.violations
    assert "attic.cpu0" not in machines()


def _answers(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0
