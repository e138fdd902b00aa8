"""What is shown of the queue: one moment, in the order in which things run, and a revision that tells of changes."""

from collections.abc import Callable

import pytest

from diffusion_local.compose import Services
from diffusion_local.db import rows
from diffusion_local.db.database import Database
from diffusion_local.domain import Lane, State
from diffusion_local.gallery.images import ImageStore
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.jobs import JobStore, Selection
from diffusion_local.queue.views import QueueView
from diffusion_local.queue.workers import WorkerStore
from tests.support import FAILURE, claimed, enqueue, image_of, sql


@pytest.fixture
def view(database: Database) -> QueueView:
    return QueueView(database)


def test_what_waits_is_shown_in_the_order_in_which_it_runs(store: JobStore, view: QueueView) -> None:
    enqueue(store, 2, Lane.BATCH)
    enqueue(store, 2)
    enqueue(store, 2, priority=3)
    enqueue(store, 1, Lane.BATCH, priority=9)
    shown = [job.id for job in view.snapshot().waiting]
    places = [view.place(store.get(job_id))[0] for job_id in shown]
    assert places == list(range(1, 8))
    assert [claimed(store).id for _ in shown] == shown


def test_a_snapshot_has_everything_of_one_moment(store: JobStore, view: QueueView, database: Database) -> None:
    WorkerStore(database).register("cpu0", 10, "CPU")
    enqueue(store, 6)
    done, failed, stopped, running = (claimed(store) for _ in range(4))
    store.finish(done.claim, image_of(done))
    store.fail(failed.claim, FAILURE)
    store.stop(stopped.claim)
    snapshot = view.snapshot(waiting=1, ended=2)
    assert snapshot.counts == {
        State.QUEUED: 2,
        State.RUNNING: 1,
        State.DONE: 1,
        State.FAILED: 1,
        State.CANCELLED: 1,
    }
    assert [job.id for job in snapshot.running] == [running.id]
    assert (len(snapshot.waiting), len(snapshot.ended)) == (1, 2)
    assert [worker.slot for worker in snapshot.workers] == ["cpu0"]
    assert snapshot.revision == view.revision()
    assert not snapshot.paused


def test_estimates_come_from_this_machines_own_history(store: JobStore, view: QueueView, database: Database) -> None:
    enqueue(store, 4)
    assert view.snapshot().total_eta is None  # nothing was made yet: no guess
    assert view.place(view.snapshot().waiting[0]) == (1, None)
    job = claimed(store)
    store.finish(job.claim, image_of(job))
    with sql(database) as db:
        db.execute(
            "UPDATE jobs SET started_at = '2026-11-22T10:00:00.000Z', finished_at = '2026-11-22T10:00:10.000Z' "
            "WHERE state = 'done'"
        )
    store.report(claimed(store).claim, 2)  # half done
    snapshot = view.snapshot()
    first, second = snapshot.waiting
    assert snapshot.total_eta == pytest.approx(25, abs=0.1)
    assert [snapshot.eta[first.id], snapshot.eta[second.id]] == pytest.approx([15, 25], abs=0.1)
    assert view.place(second) == (2, pytest.approx(25, abs=0.1))
    assert view.place(snapshot.running[0]) == (None, pytest.approx(5, abs=0.1))


def test_pages_of_jobs_go_newest_first_and_a_batch_in_its_own_order(store: JobStore, view: QueueView) -> None:
    first, second = enqueue(store, 3), enqueue(store, 3)
    newest = sorted(first + second, reverse=True)
    assert [job.id for job in view.jobs(limit=4)] == newest[:4]
    assert [job.id for job in view.jobs(limit=4, before=newest[3])] == newest[4:]
    batch_id = store.get(second[0]).batch_id
    assert [job.id for job in view.jobs(batch_id=batch_id)] == second
    claimed(store)
    assert [job.id for job in view.jobs((State.RUNNING,))] == [first[0]]
    assert [job.id for job in view.first_jobs([batch_id, "nobody"], 10)] == second


def test_of_a_long_batch_only_the_first_jobs_are_read(
    store: JobStore, view: QueueView, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = enqueue(store, 200)
    store.finish((job := claimed(store)).claim, image_of(job))
    read: list[str] = []
    row_to_job = rows.to_job
    monkeypatch.setattr(rows, "to_job", lambda row: read.append(row["id"]) or row_to_job(row))
    assert [each.id for each in view.first_jobs([job.batch_id], 24)] == read == ids[:24]
    counts = view.counts([job.batch_id, "nobody"])
    assert {state: count for state, count in counts.pop(job.batch_id).items() if count} == {
        State.QUEUED: 199,
        State.DONE: 1,
    }
    assert counts == {}


def test_history_is_told_oldest_first(store: JobStore, view: QueueView) -> None:
    [job_id] = enqueue(store)
    store.stop(claimed(store).claim)
    events = view.events(job_id)
    assert [(event.state, event.attempt) for event in events] == [("queued", 0), ("running", 1), ("cancelled", 1)]
    assert [event.at for event in events] == sorted(event.at for event in events)


def changes(database: Database, store: JobStore) -> dict[str, Callable[[], object]]:
    """Everything that a page would draw otherwise, in an order in which it can be done."""
    control, images, workers = QueueControl(database), ImageStore(database), WorkerStore(database)
    [job_id] = enqueue(store)

    def running() -> object:
        return store.get(job_id).claim

    return {
        "submit": lambda: enqueue(store, priority=-1),
        "a worker comes": lambda: workers.register("cpu0", 1, ""),
        "a worker tells": lambda: workers.update("cpu0", "busy"),
        "claim": lambda: store.claim_next("cpu0"),
        "report": lambda: store.report(running(), 2),  # type: ignore[arg-type]
        "cancel a running job": lambda: store.cancel(Selection((job_id,))),
        "finish": lambda: store.finish(running(), image_of(store.get(job_id))),  # type: ignore[arg-type]
        "star": lambda: images.star([job_id], True),
        "trash": lambda: images.trash([job_id]),
        "pause": lambda: control.pause(),
        "resume": lambda: control.resume(),
        "block": lambda: control.block("the disk is full"),
        "cancel a waiting job": lambda: store.cancel(Selection(everything=True)),
    }


def test_the_revision_grows_with_every_visible_change(database: Database, store: JobStore, view: QueueView) -> None:
    revision = view.revision()
    for name, change in changes(database, store).items():
        before, revision = revision, (change(), view.revision())[1]
        assert revision > before, name


def test_the_revision_rests_while_nothing_changes(database: Database, store: JobStore, view: QueueView) -> None:
    [job_id] = enqueue(store)
    job = claimed(store)
    WorkerStore(database).register("cpu0", 1, "")
    QueueControl(database).block("the disk is full")
    before = view.revision()
    WorkerStore(database).heartbeat("cpu0")
    store.flags(job.claim)
    store.get(job_id)
    view.snapshot()
    view.place(job)
    view.jobs()
    assert store.claim_next("cpu1") is None
    store.recover("cpu9", FAILURE)
    QueueControl(database).block("the disk is full")
    assert store.cancel(Selection(("nobody",))) == []
    ImageStore(database).page()
    assert view.revision() == before


@pytest.mark.sqlite
def test_a_snapshot_of_a_long_queue_does_not_sort_it(database: Database, store: JobStore, view: QueueView) -> None:
    """What waits is read from an index in its order; only grouping by model may need a helper table."""
    enqueue(store, 3)
    messages: list[str] = []
    with database.outside_transaction() as connection:
        pass  # it stays this thread's
    connection.set_trace_callback(messages.append)
    view.snapshot()
    connection.set_trace_callback(None)
    ordered = [each for each in messages if "FROM jobs" in each and "ORDER BY" in each]
    assert len(ordered) >= 2
    for statement in ordered:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        if "'running'" not in statement:  # a handful, sorted in no time
            assert not any("TEMP B-TREE" in line for line in plan), (statement, plan)


def test_places_of_many_jobs_agree_with_those_of_each(services: Services) -> None:
    studio = services.studio
    ids = studio.submit("a red apple", count=8).job_ids
    claimed = services.jobs.claim_next("cpu0")
    assert claimed is not None
    studio.queue.set_priority(5, [ids[6]])
    found = [studio.job(job_id) for job_id in ids]
    assert studio.places(found) == {job.id: studio.place(job) for job in found}
