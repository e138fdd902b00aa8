"""The verbs of the jobs table: the whole state machine, claims, order, recovery, idempotency."""

import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.db.database import Database
from diffusion_local.domain import FINAL, TRANSITIONS, Claim, Lane, State, utc_text
from diffusion_local.errors import Conflict, LostClaim, NotFound, QueueFull
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.jobs import CRASH_LIMIT, JobStore, Selection
from tests.support import FAILURE, claimed, enqueue, image_of, in_state, row_of, sql, start_python, tiers

Verb = Callable[[JobStore, Any], object]

VERBS: dict[str, Verb] = {
    "claim": lambda store, job: store.claim_next("cpu1"),
    "finish": lambda store, job: store.finish(claim_of(job), image_of(job)),
    "fail": lambda store, job: store.fail(claim_of(job), FAILURE),
    "stop": lambda store, job: store.stop(claim_of(job)),
    "requeue": lambda store, job: store.requeue(claim_of(job), "test"),
    "cancel": lambda store, job: store.cancel(Selection((job.id,))),
}


def claim_of(job: Any) -> Claim:
    """The claim under which the job runs, or last ran."""
    return Claim(job.id, "cpu0", job.attempt)


@pytest.mark.parametrize("verb", TRANSITIONS)
@pytest.mark.parametrize("state", State)
def test_only_the_cells_of_the_table_move_a_job(database: Database, store: JobStore, state: State, verb: str) -> None:
    job = in_state(store, state)
    before = row_of(database, job.id)
    start, end, who = TRANSITIONS[verb]
    if state is start:
        VERBS[verb](store, job)
        assert store.get(job.id).state is end
        return
    if who == "worker" and verb != "claim":
        with pytest.raises(LostClaim):
            VERBS[verb](store, job)
    else:
        VERBS[verb](store, job)
    after = row_of(database, job.id)
    if (state, verb) == (State.RUNNING, "cancel"):  # a flag, not a state
        before["cancel_requested"] = 1
    assert after == before


def test_every_verb_of_the_table_is_tried() -> None:
    assert set(VERBS) == set(TRANSITIONS)
    assert {State.DONE, State.FAILED, State.CANCELLED} == FINAL


def test_nothing_moves_a_job_that_has_ended(store: JobStore) -> None:
    for state in FINAL:
        job = in_state(store, state)
        store.recover("cpu0", FAILURE)
        assert store.cancel(Selection((job.id,))) == []
        assert store.get(job.id) == job


# -- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.RUNNING, State.QUEUED])
@pytest.mark.parametrize("verb", ["finish", "fail", "stop", "requeue", "report", "flags"])
@pytest.mark.parametrize("stale", ["an old attempt", "another worker", "an attempt to come"])
def test_a_stale_claim_changes_nothing(
    database: Database, store: JobStore, state: State, verb: str, stale: str
) -> None:
    enqueue(store)
    store.requeue(claimed(store).claim, "first attempt")
    job = claimed(store)
    if state is State.QUEUED:
        store.requeue(job.claim, "second attempt")
    claim = {
        "an old attempt": Claim(job.id, "cpu0", job.attempt - 1),
        "another worker": Claim(job.id, "cpu1", job.attempt),
        "an attempt to come": Claim(job.id, "cpu0", job.attempt + 1),
    }[stale]
    before = row_of(database, job.id)
    write: dict[str, Callable[[], object]] = {
        "finish": lambda: store.finish(claim, image_of(job)),
        "fail": lambda: store.fail(claim, FAILURE),
        "stop": lambda: store.stop(claim),
        "requeue": lambda: store.requeue(claim, "stale"),
        "report": lambda: store.report(claim, 3),
        "flags": lambda: store.flags(claim),
    }
    with pytest.raises(LostClaim):
        write[verb]()
    assert row_of(database, job.id) == before
    with sql(database) as db:
        assert db.execute("SELECT count(*) FROM images").fetchone()[0] == 0


def test_the_attempt_grows_with_each_claim_and_with_nothing_else(store: JobStore) -> None:
    [job_id] = enqueue(store)
    for attempt in (1, 2, 3):
        job = claimed(store)
        assert (job.attempt, job.worker, job.started_at is not None) == (attempt, "cpu0", True)
        store.report(job.claim, 2)
        store.requeue(job.claim, "again")
        assert store.get(job_id).attempt == attempt


CLAIM_ALL = """
import sys, time
from pathlib import Path
from diffusion_local.db.database import Database
from diffusion_local.db.postgresql import PostgresDatabase
from diffusion_local.queue.jobs import JobStore
place = sys.argv[1]
store = JobStore(PostgresDatabase(place) if "://" in place else Database.open(Path(place)))
Path(sys.argv[3], sys.argv[2]).touch()
while not Path(sys.argv[3], "go").exists():
    time.sleep(0.002)
while (job := store.claim_next(sys.argv[2])) is not None:
    print(job.id)
    time.sleep(0.001)  # or the first would have them all before the others are awake
"""


@pytest.mark.parametrize("count", tiers([2, 8], first=[2]))
def test_processes_claim_each_of_two_hundred_jobs_once(database: Database, tmp_path: Path, count: int) -> None:
    store = JobStore(database)
    ids = enqueue(store, 200)
    gate = tmp_path / "gate"
    gate.mkdir()
    names = [f"cpu{number}" for number in range(count)]
    children = [
        start_python(CLAIM_ALL, getattr(database, "url", "") or str(database.path), name, str(gate)) for name in names
    ]
    deadline = time.monotonic() + 60
    while len(list(gate.iterdir())) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    (gate / "go").touch()
    won = []
    for child in children:
        output, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        won.append(output.split())
    assert sorted(chain(*won)) == sorted(ids)  # 200 wins, each once
    assert sum(bool(wins) for wins in won) > 1  # or it was no race
    with sql(database) as db:
        assert db.execute("SELECT count(*) FROM jobs WHERE state = 'running' AND attempt = 1").fetchone()[0] == 200


# -- claim_next: what runs, and when ---------------------------------------------------------------------------------


def test_claim_next_goes_by_lane_then_priority_then_position(store: JobStore) -> None:
    [list_1, list_2] = enqueue(store, 2, Lane.BATCH)
    [urgent_list] = enqueue(store, 1, Lane.BATCH, priority=50)
    [first, second] = enqueue(store, 2)
    [later] = enqueue(store, 1, priority=-1)
    [urgent] = enqueue(store, 1, priority=5)
    order = [claimed(store).id for _ in range(7)]
    assert order == [urgent, first, second, later, urgent_list, list_1, list_2]
    assert store.claim_next("cpu0") is None


def test_a_job_given_back_keeps_its_old_place(store: JobStore) -> None:
    [first, second] = enqueue(store, 2)
    store.requeue(claimed(store).claim, "stopped")
    assert [claimed(store).id, claimed(store).id] == [first, second]


def test_a_held_job_waits_until_it_is_let_go(database: Database, store: JobStore) -> None:
    [held, free] = enqueue(store, 2)
    with sql(database) as db:
        db.execute("UPDATE jobs SET held = 1 WHERE id = ?", [held])
    assert claimed(store).id == free
    assert store.claim_next("cpu0") is None
    with sql(database) as db:
        db.execute("UPDATE jobs SET held = 0")
    assert claimed(store).id == held


def test_a_job_is_not_due_before_its_time(store: JobStore) -> None:
    [_, second] = enqueue(store, 2)
    store.requeue(claimed(store).claim, "later", not_before=utc_text(datetime.now(UTC) + timedelta(seconds=60)))
    assert claimed(store).id == second
    assert store.claim_next("cpu0") is None


def test_a_job_whose_time_has_come_is_due_and_forgets_it(store: JobStore) -> None:
    [job_id] = enqueue(store)
    store.requeue(claimed(store).claim, "later", not_before=utc_text(datetime.now(UTC) - timedelta(seconds=1)))
    assert store.get(job_id).not_before is not None
    assert claimed(store).not_before is None


@pytest.mark.parametrize("close", ["pause", "block"])
def test_a_paused_or_blocked_queue_hands_out_nothing_until_it_is_open_again(
    database: Database, store: JobStore, close: str
) -> None:
    enqueue(store)
    control = QueueControl(database)
    control.pause() if close == "pause" else control.block("the disk is full")
    assert store.claim_next("cpu0") is None
    database.close()
    assert store.claim_next("cpu0") is None  # kept over restarts
    control.resume() if close == "pause" else control.block("")
    assert store.claim_next("cpu0") is not None


@pytest.mark.sqlite
def test_claim_next_costs_the_same_at_ten_thousand_jobs(database: Database, store: JobStore) -> None:
    """Counted in SQLite's own instructions, as a timing would depend on the machine."""
    enqueue(store)
    few = instructions(database, store)
    with sql(database) as db:
        db.executescript("DROP TRIGGER jobs_revision_insert; DROP TRIGGER job_events_insert;")
        columns = "batch_id, idx, state, params, model, cost, lane, priority, created_at, finished_at"
        db.execute(
            f"""
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 12000)
            INSERT INTO jobs (id, position, {columns})
            SELECT 'job' || n, n + 10, batch_id, n,
                   CASE WHEN n > 10000 THEN 'cancelled' ELSE 'queued' END,
                   params, model, cost, n % 2, n % 7, created_at, CASE WHEN n > 10000 THEN created_at END
            FROM n, (SELECT batch_id, params, model, cost, created_at FROM jobs LIMIT 1)
            """
        )
    many = instructions(database, store)
    assert many < 3 * few, (few, many)


def instructions(database: Database, store: JobStore) -> int:
    """About how many virtual machine instructions one claim takes; the job is given back."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with database.outside_transaction() as connection:
        pass  # it stays this thread's
    connection.set_progress_handler(tick, 1)
    try:
        job = claimed(store)
    finally:
        connection.set_progress_handler(None, 0)
    store.requeue(job.claim, "")
    return count


@pytest.mark.sqlite
def test_claim_next_is_an_index_look_up(database: Database, store: JobStore) -> None:
    enqueue(store, 3)
    messages: list[str] = []
    with database.outside_transaction() as connection:
        pass  # it stays this thread's
    connection.set_trace_callback(messages.append)
    claimed(store)
    connection.set_trace_callback(None)
    asked = [each for each in messages if "FROM jobs" in each or "UPDATE jobs" in each]
    assert asked
    for statement in asked:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not any("TEMP B-TREE" in line for line in plan), plan
        assert not any(line.startswith("SCAN jobs") for line in plan), plan
    assert any("jobs_due" in each for each in asked)


# -- report, cancel, requeue -----------------------------------------------------------------------------------------


def test_report_keeps_step_and_phase_and_tells_of_a_cancel(store: JobStore) -> None:
    enqueue(store)
    job = claimed(store)
    assert not store.report(job.claim, 3, "denoising").cancel
    assert (store.get(job.id).step, store.get(job.id).phase) == (3, "denoising")
    assert store.cancel(Selection((job.id,))) == [job.id]
    assert store.get(job.id).state is State.RUNNING
    assert store.flags(job.claim).cancel
    assert store.report(job.claim, 4).cancel
    store.stop(job.claim)
    ended = store.get(job.id)
    assert (ended.state, ended.worker, ended.phase) == (State.CANCELLED, None, "")


def test_a_job_to_be_cancelled_is_not_given_back_but_cancelled(store: JobStore) -> None:
    enqueue(store)
    job = claimed(store)
    store.cancel(Selection((job.id,)))
    assert store.requeue(job.claim, "worker stopped") is State.CANCELLED
    assert store.get(job.id).state is State.CANCELLED


def test_a_picture_made_before_the_cancel_was_heard_is_kept(store: JobStore) -> None:
    enqueue(store)
    job = claimed(store)
    store.cancel(Selection((job.id,)))
    store.finish(job.claim, image_of(job))
    assert (store.get(job.id).state, store.get(job.id).cancel_requested) == (State.DONE, False)


def test_a_selection_cancels_its_jobs_and_no_other(store: JobStore) -> None:
    mine, other = enqueue(store, 3), enqueue(store, 2)
    running = claimed(store)
    touched = store.cancel(Selection(batch_id=running.batch_id))
    assert sorted(touched) == sorted(mine)
    assert [store.get(job_id).state for job_id in other] == [State.QUEUED] * 2
    assert store.cancel(Selection()) == []  # an empty selection is nobody, not everybody
    assert store.cancel(Selection(ids=(other[0],))) == [other[0]]
    assert sorted(store.cancel(Selection(everything=True))) == sorted([running.id, other[1]])


def test_requeue_counts_tries_and_keeps_its_note_and_time(store: JobStore) -> None:
    enqueue(store)
    job = claimed(store)
    store.report(job.claim, 3, "denoising")
    assert store.requeue(job.claim, "hiccup", "2999-01-01T00:00:00.000Z", tries=1) is State.QUEUED
    again = store.get(job.id)
    assert (again.tries, again.not_before, again.worker, again.step, again.phase, again.crashes) == (
        1,
        "2999-01-01T00:00:00.000Z",
        None,
        0,
        "",
        0,
    )


# -- finish ----------------------------------------------------------------------------------------------------------


def test_finish_writes_the_picture_and_done_together(store: JobStore, database: Database) -> None:
    enqueue(store)
    job = claimed(store)
    store.finish(job.claim, image_of(job))
    done = store.get(job.id)
    assert (done.state, done.worker, done.step, done.finished_at is not None) == (State.DONE, None, 4, True)
    with sql(database) as db:
        assert [row["job_id"] for row in db.execute("SELECT job_id FROM images")] == [job.id]


@pytest.mark.parametrize("taken", ["job_id", "key", "id"])
def test_where_the_picture_cannot_be_stored_the_job_still_runs(store: JobStore, database: Database, taken: str) -> None:
    enqueue(store, 2)
    first, second = claimed(store), claimed(store)
    store.finish(first.claim, image_of(first))
    before = row_of(database, second.id)
    with pytest.raises(sqlite3.IntegrityError):
        store.finish(second.claim, image_of(second, **{taken: getattr(image_of(first), taken)}))
    assert row_of(database, second.id) == before
    assert store.get(second.id).state is State.RUNNING
    store.finish(second.claim, image_of(second))  # and the claim is as good as before
    assert store.get(second.id).state is State.DONE


def test_fail_keeps_kind_message_and_detail(store: JobStore) -> None:
    enqueue(store)
    job = claimed(store)
    store.cancel(Selection((job.id,)))
    store.fail(job.claim, FAILURE)
    failed = store.get(job.id)
    assert (failed.state, failed.failure, failed.worker) == (State.FAILED, FAILURE, None)


# -- recover ---------------------------------------------------------------------------------------------------------


def test_recover_gives_back_what_a_dead_worker_left(store: JobStore) -> None:
    enqueue(store, 2)
    job, other = claimed(store), claimed(store, "cpu1")
    store.report(job.claim, 3)
    [recovered] = store.recover("cpu0", FAILURE)
    assert recovered == store.get(job.id)
    assert (recovered.state, recovered.crashes, recovered.step, recovered.attempt) == (State.QUEUED, 1, 0, 1)
    assert store.get(other.id).state is State.RUNNING  # another slot's job is not ours
    assert store.recover("cpu0", FAILURE) == []


def test_recover_fails_a_job_that_took_down_too_many_workers(store: JobStore) -> None:
    [job_id] = enqueue(store)
    for crash in range(1, CRASH_LIMIT + 1):
        claimed(store)
        [job] = store.recover("cpu0", FAILURE)
        assert job.crashes == crash
    assert (store.get(job_id).state, store.get(job_id).failure) == (State.FAILED, FAILURE)
    assert store.claim_next("cpu0") is None


def test_a_clean_stop_does_not_count_as_a_crash(store: JobStore) -> None:
    [job_id] = enqueue(store)
    for _ in range(CRASH_LIMIT + 1):
        store.requeue(claimed(store).claim, "worker stopped")
    claimed(store)
    store.recover("cpu0", FAILURE)
    assert (store.get(job_id).state, store.get(job_id).crashes) == (State.QUEUED, 1)


def test_recover_cancels_what_was_to_be_cancelled(store: JobStore) -> None:
    enqueue(store)
    job = claimed(store)
    store.cancel(Selection((job.id,)))
    [recovered] = store.recover("cpu0", FAILURE)
    assert (recovered.state, recovered.crashes) == (State.CANCELLED, 1)


# -- submit ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_stored_whole_or_not_at_all(store: JobStore, database: Database) -> None:
    enqueue(store, 5)
    with pytest.raises(QueueFull, match="room for 7 waiting jobs; 5 are waiting, and 3"):
        enqueue(store, 3, max_queued=7)
    with sql(database) as db:
        assert db.execute("SELECT count(*) FROM batches").fetchone()[0] == 1
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 5
    assert len(enqueue(store, 2, max_queued=7)) == 2


def test_the_limit_counts_waiting_jobs_only(store: JobStore) -> None:
    enqueue(store, 2)
    claimed(store)
    assert enqueue(store, 1, max_queued=2)


def test_the_same_key_gives_the_same_jobs_and_makes_nothing_new(store: JobStore, database: Database) -> None:
    first = enqueue(store, 3, key="k1")
    assert enqueue(store, 3, key="k1", seed=99) == first  # a random seed may differ between two tries of a client
    assert enqueue(store, 3, key="k2") != first
    with sql(database) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 6


def test_the_same_key_finds_jobs_that_have_ended_and_fits_a_full_queue(store: JobStore) -> None:
    first = enqueue(store, 1, key="k1", max_queued=1)
    assert enqueue(store, 1, key="k1", max_queued=1) == first
    store.fail(claimed(store).claim, FAILURE)
    assert enqueue(store, 1, key="k1") == first


@pytest.mark.parametrize("other", [{"prompt": "a blue heart"}, {"steps": 5}, {"count": 2}])
def test_the_same_key_for_something_else_is_a_conflict(store: JobStore, other: dict[str, Any]) -> None:
    enqueue(store, key="k1")
    with pytest.raises(Conflict, match="k1"):
        enqueue(store, key="k1", **other)


def test_positions_go_on_over_batches(store: JobStore) -> None:
    ids = enqueue(store, 2) + enqueue(store, 2, Lane.BATCH) + enqueue(store, 1)
    positions = [store.get(job_id).position for job_id in ids]
    assert positions == sorted(set(positions))


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(NotFound, match="nobody"):
        store.get("nobody")


def test_a_key_sent_again_after_a_job_of_its_batch_was_forgotten_names_what_is_left(services: Services) -> None:
    first = services.studio.submit("a red apple", count=2, idempotency_key="k")
    services.studio.queue.cancel(first.job_ids)
    services.studio.queue.forget(first.job_ids[:1])
    again = services.studio.submit("a red apple", count=2, idempotency_key="k")
    assert (again.batch_id, again.job_ids) == (first.batch_id, first.job_ids[1:])
    assert services.studio.jobs("queued") == []
