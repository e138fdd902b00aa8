"""A claim costs the same however many jobs are queued, and however many of them the worker has refused."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.db import postgresql
from diffusion_local.db.postgresql import PostgresDatabase
from diffusion_local.dispatch.local import LocalDispatch
from diffusion_local.domain import Failure
from diffusion_local.messages import message
from diffusion_local.queue.claims import note_refusal
from diffusion_local.queue.order import LOOK_AHEAD
from tests.support import enqueue

FEW, MANY = 20, 2000
MOST_ROWS = 100
FAILURE = Failure("out_of_memory", message("out_of_memory"))

Steps = Callable[[Callable[[], object]], int]


@pytest.fixture
def steps(services: Services) -> Iterator[Steps]:
    """Work of the database during a call: instructions of SQLite's virtual machine, or rows that PostgreSQL read."""
    if isinstance(services.database, PostgresDatabase):
        with pytest.MonkeyPatch.context() as patch:
            yield lambda call: rows_read(patch, call)
    else:
        yield lambda call: instructions(services, call)


def instructions(services: Services, call: Callable[[], object]) -> int:
    count = 0

    def counted() -> int:
        nonlocal count
        count += 1
        return 0

    with services.database.outside_transaction() as connection:
        pass  # it stays this thread's
    connection.set_progress_handler(counted, 1)
    try:
        call()
    finally:
        connection.set_progress_handler(None, 1)
    return count


def rows_read(patch: pytest.MonkeyPatch, call: Callable[[], object]) -> int:
    execute, total = postgresql.PostgresTransaction.execute, 0

    def counted(self: Any, sql: str, values: Any = ()) -> Any:
        nonlocal total
        if sql.lstrip().startswith(("SELECT", "WITH")):
            [(plan,)] = execute(self, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values).fetchall()
            total += rows_of((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        return execute(self, sql, values)

    with patch.context() as within:
        within.setattr(postgresql.PostgresTransaction, "execute", counted)
        call()
    return total


def rows_of(plan: dict[str, Any]) -> int:
    """Rows that a plan's scans read, those that its filters dropped included."""
    read = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if "Scan" in plan["Node Type"] else 0
    return int(read * plan["Actual Loops"]) + sum(map(rows_of, plan.get("Plans", [])))


def test_a_claim_does_not_depend_on_the_length_of_the_queue(services: Services, steps: Steps) -> None:
    dispatch = LocalDispatch(services, "cpu0")
    enqueue(services.jobs, FEW)
    dispatch.stop(dispatch.claim("")[0].claim)
    few = steps(lambda: dispatch.claim(""))
    enqueue(services.jobs, MANY)
    many = steps(lambda: dispatch.claim(""))
    assert few > 0
    assert many <= 1.5 * few + MOST_ROWS


def test_a_claim_does_not_depend_on_the_number_of_refused_jobs(services: Services, steps: Steps) -> None:
    """A worker looks at a bounded number of jobs that it must leave to others."""
    dispatch, other = (LocalDispatch(services, slot) for slot in ("cpu0", "cpu1"))
    for each in (dispatch, other):
        services.workers.register(each.slot, 1, "cpu")
    enqueue(services.jobs, MANY)
    costs = []
    for refused in (LOOK_AHEAD + 10, 2 * LOOK_AHEAD + 20):
        with services.database.write() as db:
            waiting = "SELECT id FROM jobs WHERE state = 'queued' ORDER BY position LIMIT ?"
            for (job_id,) in db.execute(waiting, [refused]).fetchall():
                note_refusal(db, job_id, "cpu0", FAILURE.kind)
        costs.append(steps(lambda: dispatch.claim("")))
    assert costs[1] <= 1.2 * costs[0]


def test_refusals_are_forgotten_when_their_job_ends(services: Services) -> None:
    dispatch, other = LocalDispatch(services, "cpu0"), LocalDispatch(services, "cpu1")
    for each in (dispatch, other):
        services.workers.register(each.slot, 1, "cpu")
    [job_id] = enqueue(services.jobs)
    assert dispatch.pass_on(dispatch.claim("")[0].claim, FAILURE)
    assert services.refusals.of_job(job_id) == ["cpu0"]
    assert services.refusals.any_of("cpu0")
    other.stop(other.claim("")[0].claim)
    assert not services.refusals.any_of("cpu0")
