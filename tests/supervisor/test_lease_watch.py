"""Leases of lost and hung workers end, and only theirs."""

from datetime import UTC, datetime, timedelta

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.settings import Settings
from diffusion_local.supervisor.watchdog import LeaseWatch
from tests.support import enqueue, sql

LIMIT = 900.0  # step_timeout
WELL = 10_000.0  # seconds for which the web process has answered


class Clock:
    def __init__(self) -> None:
        self.now, self.wall = 1000.0, datetime.now(UTC)

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.wall += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(services: Services, clock: Clock) -> LeaseWatch:
    return LeaseWatch(services, lambda: clock.now, lambda: clock.wall)


def working(services: Services) -> str:
    """A job that runs on a machine whose lease is renewed."""
    [job_id] = enqueue(services.jobs)
    services.workers.register("attic.gpu0", 1, "cuda:0")
    services.leases.take("attic.gpu0", "ann/t1")
    assert services.jobs.claim("attic.gpu0")
    return job_id


def silent(watch: LeaseWatch, clock: Clock, seconds: float, healthy: float = WELL) -> None:
    """Polls every five seconds, while heartbeats go on (the lease is of the real clock) and no job reports."""
    for _ in range(int(seconds / 5)):
        clock.pass_(5)
        watch.poll(healthy)


def test_a_worker_that_makes_no_progress_loses_its_jobs(services: Services, watch: LeaseWatch, clock: Clock) -> None:
    job_id = working(services)
    silent(watch, clock, LIMIT)
    assert services.jobs.get(job_id).state is State.RUNNING
    silent(watch, clock, 10)
    found = services.jobs.get(job_id)
    assert (found.state, found.crashes) == (State.QUEUED, 1)
    assert services.leases.all() == []


def test_a_report_begins_the_time_anew(services: Services, watch: LeaseWatch, clock: Clock) -> None:
    job_id = working(services)
    silent(watch, clock, LIMIT - 50)
    services.jobs.report(services.jobs.get(job_id).claim, 1)
    silent(watch, clock, LIMIT - 50)
    assert services.jobs.get(job_id).state is State.RUNNING


def test_time_in_which_nobody_could_report_does_not_count(services: Services, watch: LeaseWatch, clock: Clock) -> None:
    job_id = working(services)
    silent(watch, clock, LIMIT - 10)
    silent(watch, clock, 50, healthy=0.0)
    silent(watch, clock, LIMIT - 10)
    assert services.jobs.get(job_id).state is State.RUNNING


def test_a_job_that_hangs_twice_fails_by_name(services: Services, watch: LeaseWatch, clock: Clock) -> None:
    job_id = working(services)
    silent(watch, clock, LIMIT + 10)
    services.leases.take("attic.gpu0", "ann/t1")
    assert services.jobs.claim("attic.gpu0")
    silent(watch, clock, LIMIT + 10)
    found = services.jobs.get(job_id)
    assert found.failure is not None
    assert (found.state, found.failure.kind) == (State.FAILED, "timed_out")


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_ends_no_lease_and_keeps_none_alive(
    services: Services, settings: Settings, watch: LeaseWatch, clock: Clock, hours: int
) -> None:
    job_id = working(services)
    watch.poll(WELL)
    with sql(settings) as db:  # as it looks to a clock that was set
        [text] = db.execute("SELECT expires_at FROM leases").fetchone()
        moved = datetime.fromisoformat(text) - timedelta(hours=hours)
        db.execute("UPDATE leases SET expires_at = ?", [moved.isoformat().replace("+00:00", "Z")])
    clock.pass_(5)
    clock.wall += timedelta(hours=hours)
    watch.poll(WELL)
    assert services.jobs.get(job_id).state is State.RUNNING
    [lease] = services.leases.all()
    assert datetime.fromisoformat(lease.expires_at) - datetime.now(UTC) <= timedelta(seconds=settings.lease_seconds)
