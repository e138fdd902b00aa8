"""A person's hand on the queue: pause, order, priority, clearing away; none of it changes a job's state."""

from collections.abc import Callable

import pytest

from diffusion_local.compose import Services
from diffusion_local.db.database import Database
from diffusion_local.domain import Batch, Lane, State, new_id, utc_now
from diffusion_local.errors import Conflict, NotFound, QueueFull
from diffusion_local.gallery.images import ImageStore
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.jobs import JobStore, Selection, new_jobs
from diffusion_local.queue.views import QueueView
from tests.support import FAILURE, claimed, enqueue, image_of, in_state, params, refused, sql


@pytest.fixture
def control(database: Database) -> QueueControl:
    return QueueControl(database)


def line(database: Database) -> list[str]:
    return [job.id for job in QueueView(database).snapshot(waiting=1000).waiting]


def test_a_paused_batch_waits_and_the_others_run(store: JobStore, control: QueueControl) -> None:
    held, free = enqueue(store, 2), enqueue(store, 1)
    batch_id = store.get(held[0]).batch_id
    control.pause(batch_id)
    assert claimed(store).id == free[0]
    assert store.claim_next("cpu0") is None
    control.resume(batch_id)
    assert [claimed(store).id, claimed(store).id] == held


def test_a_job_given_back_into_a_paused_batch_waits_too(store: JobStore, control: QueueControl) -> None:
    enqueue(store)
    job = claimed(store)
    control.pause(job.batch_id)
    store.requeue(job.claim, "paused")
    assert store.claim_next("cpu0") is None


@pytest.mark.parametrize("of_batch", [True, False])
def test_a_pause_lets_the_running_picture_finish_or_asks_for_it_back(
    store: JobStore, control: QueueControl, of_batch: bool
) -> None:
    enqueue(store)
    job = claimed(store)
    batch_id = job.batch_id if of_batch else None
    control.pause(batch_id)
    assert not store.flags(job.claim).give_back
    assert not store.report(job.claim, 1).give_back
    control.pause(batch_id, give_back=True)
    assert store.flags(job.claim).give_back
    assert store.report(job.claim, 2).give_back
    control.resume(batch_id)
    assert not store.flags(job.claim).give_back


def test_a_pause_of_an_unknown_batch_is_not_found(control: QueueControl) -> None:
    with refused(NotFound, "no_such_batch"):
        control.pause("nobody")


def test_a_block_is_apart_from_a_persons_pause(control: QueueControl, store: JobStore) -> None:
    enqueue(store)
    control.pause()
    control.block("the disk is full")
    assert control.blocked_reason() == "the disk is full"
    control.block("")
    assert store.claim_next("cpu0") is None  # the disk is fine again; the person's pause stands
    control.resume()
    assert store.claim_next("cpu0") is not None


def test_priority_reaches_waiting_jobs_only(store: JobStore, control: QueueControl) -> None:
    first, second, third = enqueue(store, 3)
    claimed(store)
    assert control.set_priority(Selection((first, third)), 5) == [third]
    assert [claimed(store).id, claimed(store).id] == [third, second]


def test_move_to_top_keeps_the_chosen_in_their_order(
    store: JobStore, control: QueueControl, database: Database
) -> None:
    first, second, third, fourth = enqueue(store, 4)
    [urgent] = enqueue(store, 1, priority=9)
    assert control.move_to_top(Selection((fourth, third))) == [third, fourth]
    assert line(database) == [third, fourth, urgent, first, second]


def test_up_and_down_swap_with_the_neighbour_in_line(
    store: JobStore, control: QueueControl, database: Database
) -> None:
    [urgent] = enqueue(store, 1, priority=9)
    first, second = enqueue(store, 2)
    [listed] = enqueue(store, 1, Lane.BATCH)
    control.move(second, up=True)
    assert line(database) == [urgent, second, first, listed]
    control.move(second, up=True)
    assert line(database) == [second, urgent, first, listed]
    control.move(second, up=True)  # the top
    control.move(first, up=False)  # the end of its lane
    assert line(database) == [second, urgent, first, listed]
    control.move(second, up=False)
    assert line(database) == [urgent, second, first, listed]


def test_what_does_not_wait_is_not_moved(store: JobStore, control: QueueControl) -> None:
    job = in_state(store, State.DONE)
    with refused(Conflict, "not_waiting"):
        control.move(job.id, up=True)
    with pytest.raises(NotFound):
        control.move("nobody", up=True)
    assert control.move_to_top(Selection((job.id, "nobody"))) == []


@pytest.mark.sqlite
@pytest.mark.parametrize("verb", ["top", "up", "down"])
def test_reordering_costs_the_same_in_a_long_queue(
    database: Database, store: JobStore, control: QueueControl, verb: str
) -> None:
    middle = enqueue(store, 20)[10]
    verbs: dict[str, Callable[[], object]] = {
        "top": lambda: control.move_to_top(Selection((middle,))),
        "up": lambda: control.move(middle, up=True),
        "down": lambda: control.move(middle, up=False),
    }
    few = instructions(database, verbs[verb])
    enqueue(store, 4000)
    assert instructions(database, verbs[verb]) < 4 * few


def instructions(database: Database, work: Callable[[], object]) -> int:
    """SQLite's own instructions that ``work`` takes."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with database.outside_transaction() as connection:
        pass  # it stays this thread's
    connection.set_progress_handler(tick, 1)
    try:
        work()
    finally:
        connection.set_progress_handler(None, 0)
    return count


def test_clearing_away_takes_what_has_ended_and_leaves_pictures(
    store: JobStore, control: QueueControl, database: Database
) -> None:
    done, failed = in_state(store, State.DONE), in_state(store, State.FAILED)
    [waiting] = enqueue(store)
    assert sorted(control.delete_ended(Selection(everything=True))) == sorted([done.id, failed.id])
    assert line(database) == [waiting]
    assert ImageStore(database).get(done.id).job_id == done.id
    with sql(database) as db:
        assert {row["job_id"] for row in db.execute("SELECT job_id FROM job_events")} == {waiting}
        assert db.execute("SELECT count(*) FROM batches").fetchone()[0] == 1
        assert not db.execute("SELECT id FROM jobs WHERE batch_id NOT IN (SELECT id FROM batches)").fetchall()


def test_no_verb_of_a_hand_changes_a_state(store: JobStore, control: QueueControl, database: Database) -> None:
    ids = [in_state(store, state).id for state in (State.DONE, State.FAILED, State.CANCELLED, State.RUNNING)]
    ids += enqueue(store, 2)
    before = [store.get(job_id).state for job_id in ids]
    control.pause()
    control.block("full")
    control.set_priority(Selection(everything=True), 3)
    control.move_to_top(Selection(everything=True))
    control.move(ids[-1], up=True)
    assert [store.get(job_id).state for job_id in ids] == before
    assert FAILURE.kind in {(store.get(job_id).failure or FAILURE).kind for job_id in ids}
    assert control.ids(Selection(everything=True), State.QUEUED) == ids[-2:]
    assert image_of(store.get(ids[0])).job_id == ids[0]


def test_all_failed_asked_for_twice_are_made_again_once(services: Services) -> None:
    first = services.studio.submit("a red apple").job_ids[0]
    job = services.jobs.claim_next("cpu0")
    assert job is not None
    services.jobs.fail(job.claim, FAILURE)
    again = services.studio.queue.again(failed=True)
    assert services.studio.job(again.job_ids[0]).from_job == first
    with refused(Conflict, "none_left"):
        services.studio.queue.again(failed=True)
    assert len(services.studio.queue.again([first]).job_ids) == 1  # named, it is what the person wants


def test_cancelled_jobs_are_put_back_at_their_places(
    store: JobStore, control: QueueControl, database: Database
) -> None:
    first, second, third = enqueue(store, 2), enqueue(store, 3), enqueue(store, 1)
    control.move_to_top(Selection(tuple(third)))
    control.set_priority(Selection((second[2],)), 5)
    before = line(database)
    cancelled = store.cancel(Selection((*second[1:], *third)))
    late = enqueue(store, 1)
    receipts = control.put_back(Selection(tuple(cancelled)), together=False, max_queued=100)
    new = {store.get(each).from_job: each for receipt in receipts for each in receipt.job_ids}
    assert len(receipts) == 2  # one batch per old batch
    assert set(new) == set(cancelled)
    assert line(database) == [new.get(each, each) for each in before] + late
    assert [store.get(each).state for each in cancelled] == [State.CANCELLED] * 3  # final is final
    assert control.put_back(Selection(tuple(cancelled)), together=False, max_queued=100) == []  # only once
    assert store.get(first[0]).state is State.QUEUED


def test_an_undone_cancel_brings_back_the_times_and_the_pause_of_the_batch(
    store: JobStore, control: QueueControl, database: Database
) -> None:
    late = {"window": "23:00-07:00", "start_at": "2030-01-01T00:00:00.000Z"}
    batch = Batch(new_id(), "night", "", Lane.BATCH, 2, utc_now(), **late)
    batch_id, ids = store.insert_batch(batch, new_jobs(batch, [params(seed=1), params(seed=2)]), None, 100)
    control.pause(batch_id)
    store.cancel(Selection(batch_id=batch_id))
    [receipt] = control.put_back(Selection(tuple(ids)), together=False, max_queued=100)
    new = QueueView(database).batch(receipt.batch_id)[0]
    assert (new.name, new.lane, new.window, new.start_at, new.paused) == ("night", Lane.BATCH, *late.values(), True)
    assert all(store.get(each).held and store.get(each).gate for each in receipt.job_ids)


def test_all_jobs_of_one_cancellation_come_back_together(
    store: JobStore, control: QueueControl, database: Database
) -> None:
    running, waiting, other = enqueue(store, 1), enqueue(store, 60), enqueue(store, 1)
    job = claimed(store)
    assert job.id == running[0]
    store.cancel(Selection(tuple(other)))
    with sql(database) as db:  # another act, some time before
        db.execute("UPDATE jobs SET finished_at = '2020-01-01T00:00:00.000Z' WHERE id = ?", other)
    store.cancel(Selection((*running, *waiting)))
    [back, rest] = control.put_back(Selection((running[0], waiting[0])), together=True, max_queued=100)
    assert [len(back.job_ids), len(rest.job_ids)] == [1, 60]
    assert line(database) == [*back.job_ids, *rest.job_ids]


def test_nothing_is_put_back_that_nobody_cancelled_or_that_finds_no_room(
    store: JobStore, control: QueueControl
) -> None:
    ids = enqueue(store, 3)
    assert control.put_back(Selection(tuple(ids)), together=True, max_queued=100) == []
    store.cancel(Selection(tuple(ids[:2])))
    with pytest.raises(QueueFull):
        control.put_back(Selection(tuple(ids)), together=True, max_queued=2)
    assert len(control.put_back(Selection(tuple(ids)), together=True, max_queued=3)[0].job_ids) == 2
