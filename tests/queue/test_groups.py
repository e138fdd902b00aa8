"""The queue by batches: their order, pages and windows, filters, and that each question is answered by an index."""

import pytest

from diffusion_local.actor import LOCAL, SCOPES, Actor, Role, acting
from diffusion_local.db.database import Database
from diffusion_local.domain import Batch, Lane, new_id, utc_now
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.groups import JobFilter, QueueGroups
from diffusion_local.queue.jobs import JobStore, Selection, new_jobs
from diffusion_local.queue.order import OrderRules
from tests.support import FAILURE, claimed, enqueue, image_of, params, sql

ALL = JobFilter()


@pytest.fixture
def groups(database: Database) -> QueueGroups:
    return QueueGroups(database, OrderRules())


def batch_of(store: JobStore, ids: list[str]) -> str:
    return store.get(ids[0]).batch_id


def add(store: JobStore, *prompts: str, owner: str = "", lane: Lane = Lane.INTERACTIVE, **changes: object) -> str:
    batch = Batch(new_id(), prompts[0], owner, lane, len(prompts), utc_now())
    return store.insert_batch(
        batch, new_jobs(batch, [params(prompt=each, **changes) for each in prompts]), None, 10**6
    )[0]


def ids(found: list) -> list[str]:
    return [each.progress.batch.id for each in found]


def test_what_runs_is_first_then_batches_as_the_line_runs(
    store: JobStore, groups: QueueGroups, database: Database
) -> None:
    night, first, second, third = (add(store, "x", "y", lane=lane) for lane in (Lane.BATCH, *[Lane.INTERACTIVE] * 3))
    assert ids(groups.live(ALL, 9)) == [first, second, third, night]
    QueueControl(database).move_to_top(Selection(batch_id=third))
    assert ids(groups.live(ALL, 9)) == [third, first, second, night]
    assert claimed(store).batch_id == third
    QueueControl(database).move_to_top(Selection(batch_id=second))
    assert ids(groups.live(ALL, 9)) == [third, second, first, night]  # of the first one a picture runs


def test_live_pages_go_on_behind_a_turn_and_tell_no_batch_twice(
    store: JobStore, groups: QueueGroups, database: Database
) -> None:
    batches = [add(store, *("x" * 3)) for _ in range(7)]
    last = groups.window(batches[0], ALL, 9).jobs[-1]
    QueueControl(database).move_to_bottom(Selection(ids=(last.id,)))  # the first batch reaches to the end of the line
    seen, after = [], None
    for _ in range(9):
        page = groups.live(ALL, 2, after)
        seen += ids(page)
        if not page:
            break
        after = page[-1].turn
    assert seen == batches


def test_ended_batches_come_newest_first_in_pages(store: JobStore, groups: QueueGroups) -> None:
    batches = [add(store, "x") for _ in range(5)]
    for _ in batches:
        store.stop(claimed(store).claim)
    assert groups.live(ALL, 9) == []
    newest = list(reversed(batches))
    assert ids(groups.ended(ALL, 2)) == newest[:2]
    assert ids(groups.ended(ALL, 9, newest[1])) == newest[2:]


def test_a_batch_ends_with_its_last_job_however_that_ends(store: JobStore, groups: QueueGroups) -> None:
    batch_id = add(store, "x", "y", "z")
    done, failed = claimed(store), claimed(store)
    store.finish(done.claim, image_of(done))
    store.fail(failed.claim, FAILURE)
    assert ids(groups.ended(ALL, 9)) == []
    store.cancel(Selection(batch_id=batch_id))
    assert ids(groups.ended(ALL, 9)) == [batch_id]
    assert [str(job.state) for job in groups.window(batch_id, ALL, 9).jobs] == ["failed", "done", "cancelled"]


def test_windows_of_a_batch_go_both_ways(store: JobStore, groups: QueueGroups) -> None:
    batch_id = add(store, *(f"p{n}" for n in range(10)))
    running, done = claimed(store), claimed(store)
    store.finish(done.claim, image_of(done))
    first = groups.window(batch_id, ALL, 4)
    assert [job.index for job in first.jobs] == [0, 2, 3, 4]  # what runs, then the line
    assert (first.first, first.has_earlier) == (1, False)
    second = groups.window(batch_id, ALL, 4, first.later)
    assert [job.index for job in second.jobs] == [5, 6, 7, 8]
    assert (second.first, second.has_earlier, second.earlier) == (5, True, None)
    third = groups.window(batch_id, ALL, 4, second.later)
    assert [job.index for job in third.jobs] == [9, 1]  # what has ended is last
    assert third.later is None
    assert groups.window(batch_id, ALL, 4, third.earlier) == second
    store.stop(running.claim)


def test_a_window_stays_where_it_is_while_the_line_moves(store: JobStore, groups: QueueGroups) -> None:
    batch_id = add(store, *(f"p{n}" for n in range(9)))
    key = groups.window(batch_id, ALL, 3).later
    before = [job.id for job in groups.window(batch_id, ALL, 3, key).jobs]
    job = claimed(store)
    store.finish(job.claim, image_of(job))
    assert [job.id for job in groups.window(batch_id, ALL, 3, key).jobs] == before


def test_the_order_within_a_batch_is_the_lines(store: JobStore, groups: QueueGroups, database: Database) -> None:
    batch_id = add(store, "a", "b", "c")
    jobs = groups.window(batch_id, ALL, 9).jobs
    QueueControl(database).set_priority(Selection(ids=(jobs[2].id,)), 5)
    QueueControl(database).move(jobs[1].id, up=True)
    assert [job.params.prompt for job in groups.window(batch_id, ALL, 9).jobs] == ["c", "b", "a"]


@pytest.fixture
def mixed(store: JobStore) -> dict[str, str]:
    """Four batches: of one a job runs and one failed, one is paused, one is of another model, one has ended."""
    found = {"first": add(store, "a red Apple 100%", "a boat", "a tree")}
    failed = claimed(store)
    store.fail(failed.claim, FAILURE)
    claimed(store)
    found["paused"] = add(store, "a boat at sea")
    found["flux"] = add(store, "城堡", model="flux", owner="ann")
    found["ended"] = add(store, "an apple pie")
    store.cancel(Selection(batch_id=found["ended"]))
    return found


@pytest.mark.parametrize(
    ("requested", "live", "ended"),
    [
        (JobFilter(state="waiting"), ["first", "paused", "flux"], []),
        (JobFilter(state="paused"), ["paused"], []),
        (JobFilter(state="running"), ["first"], []),
        (JobFilter(state="failed"), [], ["first"]),
        (JobFilter(state="done"), [], []),
        (JobFilter(state="cancelled"), [], ["ended"]),
        (JobFilter(model="flux"), ["flux"], []),
        (JobFilter(owner="ann"), ["flux"], []),
        (JobFilter(owner="bob"), [], []),
        (JobFilter(text="boat"), ["first", "paused"], []),
        (JobFilter(text="APPLE"), [], ["ended", "first"]),
        (JobFilter(text="100%"), [], ["first"]),
        (JobFilter(text="a%e"), [], []),
        (JobFilter(text="城堡"), ["flux"], []),
        (JobFilter(text="starter"), [], []),  # the model is no part of the prompt
        (JobFilter(state="waiting", text="boat"), ["paused"], []),
        (JobFilter(state="waiting", text="boat", model="flux"), [], []),
    ],
)
def test_a_filter_leaves_batches_with_a_job_that_is_wanted(
    mixed: dict[str, str],
    groups: QueueGroups,
    database: Database,
    requested: JobFilter,
    live: list[str],
    ended: list[str],
) -> None:
    QueueControl(database).pause(mixed["paused"])
    names = {batch_id: name for name, batch_id in mixed.items()}
    assert [names[each] for each in ids(groups.live(requested, 9))] == live
    assert [names[each] for each in ids(groups.ended(requested, 9))] == ended


def test_a_filter_holds_within_a_batch_too(mixed: dict[str, str], groups: QueueGroups) -> None:
    def shown(**wanted: str) -> list[str]:
        return [job.params.prompt for job in groups.window(mixed["first"], JobFilter(**wanted), 9).jobs]

    assert shown(state="failed") == ["a red Apple 100%"]
    assert shown(text="boat") == ["a boat"]
    assert shown(model="flux") == []


def test_choices_of_the_filters(mixed: dict[str, str], groups: QueueGroups) -> None:
    assert groups.models() == ["flux", "starter"]
    assert groups.owners() == ["", "ann"]


def test_others_batches_are_not_shown_but_counted(store: JobStore, groups: QueueGroups) -> None:
    add(store, "x", "y", owner="ann")
    mine = add(store, "z", owner="bob")
    with acting(Actor("bob", Role.USER, SCOPES[Role.USER], sees_all=False)):
        assert ids(groups.live(ALL, 9)) == [mine]
        assert groups.others_waiting() == 2
        assert groups.owners() == ["bob"]
        assert groups.window(store.get(store.cancel(Selection(batch_id=mine))[0]).batch_id, ALL, 9).jobs
        assert ids(groups.ended(ALL, 9)) == [mine]
    with acting(LOCAL):
        assert groups.others_waiting() == 0


def test_a_batch_is_inserted_before_another_and_those_between_keep_their_order(
    store: JobStore, groups: QueueGroups, database: Database
) -> None:
    first, second, third = (add(store, "x", "y") for _ in range(3))
    other = add(store, "z", owner="bob")
    QueueControl(database).set_priority(Selection(batch_id=first), 2)
    places = [(job.priority, job.position) for job in groups.window(other, ALL, 9).jobs]
    QueueControl(database).move_batch(third, before=first)
    assert [each for each in ids(groups.live(ALL, 9)) if each != other] == [third, first, second]
    QueueControl(database).move_batch(third, before=second)
    assert [each for each in ids(groups.live(ALL, 9)) if each != other] == [first, third, second]
    assert [(job.priority, job.position) for job in groups.window(other, ALL, 9).jobs] == places
    assert [job.index for job in groups.window(third, ALL, 9).jobs] == [0, 1]
    assert QueueControl(database).move_batch(third, before=third) == []


@pytest.mark.sqlite
def test_no_question_scans_the_table(store: JobStore, groups: QueueGroups, database: Database) -> None:
    """What SQLite plans for every statement, as it is run: by an index, but for lists of a few."""
    for _ in range(5):
        enqueue(store, 200)
    store.stop(claimed(store).claim)
    job = claimed(store)
    store.finish(job.claim, image_of(job))  # so that there are estimates
    with sql(database) as db:
        db.execute("ANALYZE")
    database.close()  # the next connection reads the statistics
    asked: list[str] = []
    with database.outside_transaction() as connection:
        connection.set_trace_callback(asked.append)
    batch_id = ids(groups.live(ALL, 5))[0]
    groups.live(ALL, 5, groups.live(ALL, 5)[-1].turn)
    groups.ended(ALL, 5, batch_id)
    key = groups.window(batch_id, ALL, 1).later
    groups.window(batch_id, ALL, 1, key)
    groups.owners()
    with database.outside_transaction() as connection:
        connection.set_trace_callback(None)
    with sql(database) as db:
        db.create_function("actor_sees_all", 0, lambda: 1)
        db.create_function("actor_name", 0, lambda: "")
        plans = [
            step[3]
            for statement in asked
            if statement.startswith(("SELECT", "WITH"))
            for step in db.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    scans = {plan for plan in plans if plan.startswith("SCAN") and "USING" not in plan}
    small = ("CONSTANT", "json_each", "each", "queue", "gates", "workers", "job_counts", "few")
    assert [plan for plan in scans if not any(word in plan for word in small)] == []
    assert len(plans) > 20
