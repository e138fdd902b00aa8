"""Why a worker died is kept: its signal, the out-of-memory killer, its last log lines."""

import json
import signal
from pathlib import Path

import pytest

from diffusion_local import serializers
from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.settings import Settings
from diffusion_local.supervisor import exit_causes
from tests.support import claimed, enqueue


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for what the kernel tells: its messages, and the control group's counts."""
    monkeypatch.setattr(exit_causes, "KERNEL", tmp_path / "kmsg")
    monkeypatch.setattr(exit_causes, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(exit_causes, "OWN_GROUP", tmp_path / "own")
    return tmp_path


def counted(kernel: Path, kills: int, version: int = 2) -> None:
    path = "cgroup/a/memory.events" if version == 2 else "cgroup/memory/a/memory.oom_control"
    (kernel / path).parent.mkdir(parents=True, exist_ok=True)
    (kernel / path).write_text(f"low 0\noom 3\noom_kill {kills}\n")
    (kernel / "own").write_text("0::/a\n" if version == 2 else "4:cpu:/\n5:memory:/a\n0::/\n")


def test_a_signal_is_named() -> None:
    assert exit_causes.exit_cause(7, -11, None).text == "process 7 ended by signal 11 (SIGSEGV)"
    assert exit_causes.exit_cause(7, 13, None).text == "process 7 ended with exit status 13"


@pytest.mark.parametrize("version", [1, 2])
def test_the_out_of_memory_killer_is_told_by_its_count(kernel: Path, version: int) -> None:
    counted(kernel, 2, version)
    before = exit_causes.count_oom_kills()
    assert before == 2
    assert exit_causes.exit_cause(7, -signal.SIGKILL, before).out_of_memory == ""
    counted(kernel, 3, version)
    assert "control group" in exit_causes.exit_cause(7, -signal.SIGKILL, before).out_of_memory
    assert exit_causes.exit_cause(7, -signal.SIGSEGV, before).out_of_memory == ""
    assert exit_causes.exit_cause(7, -signal.SIGKILL, None).out_of_memory == ""


def test_the_out_of_memory_killer_is_told_by_the_kernels_log(kernel: Path) -> None:
    (kernel / "kmsg").write_text("6,1,2,-;Out of memory: Killed process 71 (python) total-vm:1kB\n")
    assert exit_causes.exit_cause(71, -signal.SIGKILL, None).out_of_memory == "the kernel's log"
    assert exit_causes.exit_cause(7, -signal.SIGKILL, None).out_of_memory == ""


@pytest.mark.usefixtures("kernel")
def test_a_system_that_tells_nothing_is_no_fault() -> None:
    assert (exit_causes.count_oom_kills(), exit_causes.kernel_messages()) == (None, "")


def test_a_job_that_took_down_its_workers_keeps_the_cause(services: Services, settings: Settings, kernel: Path) -> None:
    (kernel / "kmsg").write_text("6,1,2,-;Out of memory: Killed process 71 (python) total-vm:1kB\n")
    settings.logs.mkdir(parents=True, exist_ok=True)
    lines = [
        {"at": "10:00", "level": "error", "event": f"line {n}", "traceback": "a\nValueError: x"} for n in range(40)
    ]
    (settings.logs / "worker-cpu0.log").write_text(
        "\n".join(map(json.dumps, lines)) + "\nno JSON \udcff\n", errors="replace"
    )
    [job_id] = enqueue(services.jobs)
    death = exit_causes.exit_cause(71, -signal.SIGKILL, None)
    for _ in range(2):
        claimed(services.jobs)
        slots.recover(services, "cpu0", exit_causes.failure_of(slots.WORKER_LOST, death, settings, "cpu0"))
    job = services.jobs.get(job_id)
    assert (job.state, job.failure and job.failure.kind) == (State.FAILED, "worker_lost")
    assert job.failure is not None
    assert job.failure.message == exit_causes.OUT_OF_MEMORY
    assert "10:00 error line 39 (ValueError: x)" in job.failure.detail
    assert "line 20 " not in job.failure.detail
    result = serializers.job(job)["error"]["cause"]
    assert (
        result
        == "process 71 ended by signal 9 (SIGKILL); the system's out-of-memory killer ended it (the kernel's log)"
    )


def test_a_log_that_is_not_there_says_nothing(settings: Settings) -> None:
    failure = exit_causes.failure_of(slots.WORKER_LOST, exit_causes.ExitCause(7, 13), settings, "nobody")
    assert failure.detail == "process 7 ended with exit status 13"
    assert failure.message == slots.WORKER_LOST.message
