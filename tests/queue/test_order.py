"""What runs next, asked of the real table on a clock that the tests set."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_local.db.database import Database
from diffusion_local.domain import Batch, Lane, new_id, utc_now, utc_text
from diffusion_local.queue import jobs as jobs_module
from diffusion_local.queue import views
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.jobs import JobStore, new_jobs
from diffusion_local.queue.order import OrderRules
from diffusion_local.queue.views import QueueView
from tests.support import claimed, params, sql

BERLIN = ZoneInfo("Europe/Berlin")
RULES = OrderRules(BERLIN, 4)
Clock = Callable[[str], None]


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database, RULES)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the time, as a clock on a wall in Berlin shows it."""

    def put(text: str) -> None:
        now = utc_text(datetime.fromisoformat(text).replace(tzinfo=BERLIN))
        monkeypatch.setattr(jobs_module, "utc_now", lambda: now)
        monkeypatch.setattr(views, "utc_now", lambda: now)

    return put


def submit(
    store: JobStore, models: str, owner: str = "", lane: Lane = Lane.BATCH, priority: int = 0, **times: str
) -> list[str]:
    """Ids of jobs of one batch; each letter is a model."""
    batch = Batch(new_id(), "test", owner, lane, len(models), utc_now(), **times)  # type: ignore[arg-type]
    each = [params(model=model, seed=place) for place, model in enumerate(models)]
    return store.insert_batch(batch, new_jobs(batch, each, priority), None, 1_000_000)[1]


def order(store: JobStore, count: int, loaded: str = "") -> list[str]:
    taken = []
    for _ in range(count):
        job = store.claim_next("cpu0", loaded)
        assert job is not None
        taken.append(job.id)
        loaded = job.params.model
    return taken


def test_a_window_lets_a_batch_begin_inside_it_only(store: JobStore, clock: Clock) -> None:
    night = submit(store, "aa", window="23:00-07:00")
    clock("2026-11-22T22:59:59")
    assert store.claim_next("cpu0") is None
    clock("2026-11-22T23:00")
    assert claimed(store).id == night[0]
    clock("2026-11-23T07:00")
    assert store.claim_next("cpu0") is None
    clock("2026-11-24T00:00")
    assert claimed(store).id == night[1]


def test_start_at_holds_a_batch_back_until_then(store: JobStore, clock: Clock) -> None:
    later = submit(store, "a", start_at=utc_text(datetime(2026, 11, 23, 2, tzinfo=BERLIN)))
    now = submit(store, "a")
    clock("2026-11-23T01:59")
    assert claimed(store).id == now[0]
    assert store.claim_next("cpu0") is None
    clock("2026-11-23T02:00")
    assert claimed(store).id == later[0]


def test_the_queues_own_window_is_for_the_batch_lane(store: JobStore, database: Database, clock: Clock) -> None:
    QueueControl(database).set_window("23:00-07:00")
    night = submit(store, "a", window="00:00-06:00")
    person = submit(store, "a", lane=Lane.INTERACTIVE)
    clock("2026-11-22T12:00")
    assert claimed(store).id == person[0]
    assert store.claim_next("cpu0") is None
    clock("2026-11-22T23:30")  # open for the queue, not yet for the batch
    assert store.claim_next("cpu0") is None
    clock("2026-11-23T00:30")
    assert claimed(store).id == night[0]


def test_windows_that_never_meet_hold_back_and_stop_nothing(store: JobStore, database: Database, clock: Clock) -> None:
    submit(store, "a", window="tue 10:00-11:00")
    QueueControl(database).set_window("mon 10:00-12:00")
    free = submit(store, "a")
    clock("2026-11-23T10:30")
    assert claimed(store).id == free[0]
    assert store.claim_next("cpu0") is None
    assert QueueView(database, RULES).snapshot().opens == {1: None}


def test_a_snapshot_tells_when_what_waits_may_begin(store: JobStore, database: Database, clock: Clock) -> None:
    submit(store, "a", window="23:00-07:00")
    clock("2026-11-22T12:00")
    snapshot = QueueView(database, RULES).snapshot()
    assert snapshot.opens == {snapshot.waiting[0].gate: utc_text(datetime(2026, 11, 22, 23, tzinfo=BERLIN))}


def test_interactive_work_goes_first_whatever_is_loaded_and_whoever_asks(store: JobStore) -> None:
    batch = submit(store, "aaa", "ann", priority=100)
    person = submit(store, "b", "bob", Lane.INTERACTIVE, priority=-100)
    assert order(store, 2, "a") == [person[0], batch[0]]


def test_owners_take_turns_in_the_table_too(store: JobStore) -> None:
    submit(store, "a" * 30, "ann")
    submit(store, "a" * 30, "bob")
    submit(store, "a" * 30, "cid")
    owners = [store.get(job_id).owner for job_id in order(store, 60)]
    assert Counter(owners) == {"ann": 20, "bob": 20, "cid": 20}
    assert all(len(set(owners[place : place + 3])) == 3 for place in range(0, 60, 3))


def test_a_mixed_list_is_grouped_by_model_within_the_streak(store: JobStore) -> None:
    submit(store, "ab" * 40)
    models = [store.get(job_id).params.model for job_id in order(store, 80)]
    loads = sum(before != after for before, after in zip(["", *models], models, strict=False))
    assert loads <= 80 / RULES.streak
    assert models.index("b") == RULES.streak + 1


def test_retries_whose_time_has_come_are_back_in_line(store: JobStore, clock: Clock) -> None:
    [first, second] = submit(store, "aa")
    clock("2026-11-22T12:00")
    store.requeue(claimed(store).claim, "hiccup", utc_text(datetime(2026, 11, 22, 12, 1, tzinfo=BERLIN)))
    assert claimed(store).id == second
    assert store.claim_next("cpu0") is None
    clock("2026-11-22T12:01")
    assert claimed(store).id == first


BATCHES = st.lists(
    st.tuples(
        st.text("ab", min_size=1, max_size=5),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(Lane),
        st.sampled_from([0, 3]),
        st.sampled_from(["", "00:00-24:00", "never"]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES)
def test_what_is_shown_next_is_what_runs_next(tmp_path_factory: pytest.TempPathFactory, batches: list) -> None:  # type: ignore[type-arg]
    database = Database.open(tmp_path_factory.mktemp("line") / "app.db")
    store, view = JobStore(database, RULES), QueueView(database, RULES)
    far = {"start_at": "2999-01-01T00:00:00.000Z"}
    due = 0
    for models, owner, lane, priority, window in batches:
        submit(store, models, owner, lane, priority, **far if window == "never" else {"window": window})
        due += len(models) * (window != "never")
    shown = [job.id for job in view.snapshot(waiting=1000).waiting]
    assert len(shown) == sum(len(batch[0]) for batch in batches)  # what is held back comes last
    assert order(store, due) == shown[:due]
    assert store.claim_next("cpu0") is None
    database.close()


@pytest.mark.sqlite
def test_a_claim_costs_the_same_behind_ten_thousand_jobs_that_wait_for_the_night(
    database: Database, store: JobStore, clock: Clock
) -> None:
    clock("2026-11-22T12:00")
    submit(store, "abc", "ann")
    submit(store, "a", "bob", window="23:00-07:00", priority=50)
    with sql(database) as db:
        db.executescript("DROP TRIGGER jobs_revision_insert; DROP TRIGGER job_events_insert;")
        instructions(database, store)  # the first statement after a change of the schema reads all of it
        few = instructions(database, store)
        columns = "batch_id, idx, state, params, model, cost, lane, priority, created_at, gate"
        db.execute(
            f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000) "
            f"INSERT INTO jobs (id, position, owner, {columns}) SELECT 'job' || n, n - 20000, 'owner' || n % 9, "
            f"{columns} FROM n, (SELECT * FROM jobs WHERE gate = 1)"
        )
    assert instructions(database, store) < 2 * few


def instructions(database: Database, store: JobStore) -> int:
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
