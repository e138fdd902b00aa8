"""Real processes to be killed, frozen and starved, and an audit of what they leave."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Job
from diffusion_local.settings import ENVIRONMENT_PREFIX
from scripts.chaos_audit import audit, summary
from tests.conftest import kill_tree
from tests.forking import Forked, fork
from tests.support import REPOSITORY, eventually

SMALL = {"width": 128, "height": 128, "steps": 4}
WORKER = "import sys; from diffusion_local.worker.__main__ import main; sys.exit(main(['--slot', 'cpu0']))"
#: The page stays away: starting it takes longer than all the rest, and it has no part in these tests.
SERVE = """
import sys
import diffusion_local.supervisor.supervisor as supervisor
supervisor.JOBS_POLL_SECONDS = 0.2
supervisor.Watchdog.answered = True
start = supervisor.Child.start
supervisor.Child.start = lambda self, settings: start(self, settings) if self.slot else None
from diffusion_local.cli import main
sys.argv = ["diffusion-local", "serve"]
main()
"""

Child = Forked
Start = Callable[..., Child]


@pytest.fixture(autouse=True)
def posix_only() -> None:
    if os.name == "nt":
        pytest.skip("POSIX signals")


@pytest.fixture
def start(services: Services, tmp_path: Path) -> Iterator[Start]:
    """Starts a forked child that runs the given pieces of code in turn on this test's home; ``changes`` are settings.

    Whatever is left of it at the end is killed, frozen or not.
    """
    children: list[Child] = []

    def begin(*code: str, **changes: Any) -> Child:
        environ = services.settings.child_environ() | {"PYTHONPATH": str(REPOSITORY)}
        environ |= {
            name if name.isupper() else ENVIRONMENT_PREFIX + name.upper(): str(value) for name, value in changes.items()
        }
        children.append(fork("worker", "\n".join(code), env=environ, log=tmp_path / f"child-{len(children)}.log"))
        return children[-1]

    yield begin
    for child in children:
        kill_tree(child)


def submit(services: Services, prompt: str = "a red apple", count: int = 1, **changes: Any) -> list[str]:
    return services.studio.submit(prompt, count=count, **SMALL | changes).job_ids


def running(services: Services, job_id: str, step: int = 0) -> Job:
    """The job, once it has come to this step."""

    def look() -> Job | None:
        job = services.jobs.get(job_id)
        assert not job.final, job
        return job if job.worker and job.step >= step else None

    return eventually(look, 30)


def ended(services: Services, *job_ids: str, timeout: float = 45) -> list[Job]:
    """The jobs, once all of them have ended."""

    def look() -> list[Job] | None:
        jobs = [services.jobs.get(job_id) for job_id in job_ids]
        return jobs if all(job.final for job in jobs) else None

    return eventually(look, timeout)


def states(services: Services, job_id: str) -> list[str]:
    """What happened to a job, in order."""
    return [event.state for event in services.view.events(job_id)]


def pid_of(services: Services, slot: str = "cpu0") -> int | None:
    """The process that works on this slot, once it is ready."""
    found = {
        worker.slot: worker.pid
        for worker in services.workers.list_all()
        if worker.status in ("idle", "busy", "loading")
    }
    return found.get(slot)


def assert_sound(services: Services, drained: bool = True) -> dict[str, Any]:
    """The audit of ``scripts/chaos.py``; its figures."""
    found = audit(services.settings, drained=drained)
    assert not found.violations, summary(found.violations)
    return found.counts
