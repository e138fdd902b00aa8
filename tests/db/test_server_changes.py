"""Writes of other processes are heard of by NOTIFY, not by asking for them."""

import contextlib
from collections.abc import Iterator

import pytest

from diffusion_local.db.database import Database, Row, Transaction, Values
from diffusion_local.db.postgresql import PostgresDatabase
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.views import QueueView
from tests.postgresql import emptied, running_cluster
from tests.support import enqueue, eventually


class Counting(PostgresDatabase):
    """Counts its reads."""

    reads = 0

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        self.reads += 1
        with super().read() as db:
            yield db

    def fetch(self, sql: str, values: Values = ()) -> list[Row]:
        self.reads += 1
        return super().fetch(sql, values)


@pytest.fixture
def url(shared_database: str) -> str:
    return emptied(shared_database)


def test_an_unchanged_queue_is_not_asked_for_again(url: str) -> None:
    database, other = Counting(url), JobStore(PostgresDatabase(url))
    view = QueueView(database)
    eventually(lambda: database.writes() is not None)
    before, reads = view.position(), database.reads
    assert {view.position() for _ in range(50)} == {before}
    assert database.reads == reads
    enqueue(other)
    eventually(lambda: view.position() > before)
    assert database.reads == reads + 1
    assert view.position() == QueueView(PostgresDatabase(url)).position()


def test_a_write_of_its_own_is_seen_at_once(url: str) -> None:
    database = PostgresDatabase(url)
    view, store = QueueView(database), JobStore(database)
    eventually(lambda: database.writes() is not None)
    for _ in range(20):
        before = view.revision()
        enqueue(store)
        assert view.revision() > before


def test_a_write_that_was_rolled_back_is_not_announced(url: str) -> None:
    database, other = PostgresDatabase(url), PostgresDatabase(url)
    eventually(lambda: database.writes() is not None)
    before = database.writes()
    with contextlib.suppress(ZeroDivisionError), other.write() as db:
        db.execute("UPDATE queue SET revision = revision + 1")
        raise ZeroDivisionError
    assert database.writes() == before
    enqueue(JobStore(other))
    eventually(lambda: database.writes() != before)


@pytest.mark.slow
def test_it_asks_while_the_server_is_away_and_listens_again_afterwards() -> None:
    with running_cluster() as cluster:
        url = cluster.create("changes")
        store = JobStore(PostgresDatabase.open(url))
        database = Counting(url)
        view = QueueView(database)
        eventually(lambda: database.writes() is not None)
        before = view.position()
        cluster.stop("immediate")
        eventually(lambda: database.writes() is None)
        cluster.start()
        enqueue(store)
        assert view.position() > before  # whether or not it listens again already
        eventually(lambda: database.writes() is not None)
        now, reads = view.position(), database.reads
        assert (view.position(), database.reads) == (now, reads)
        enqueue(store)
        eventually(lambda: view.position() > now)


def test_sqlite_is_read_each_time(database: Database) -> None:
    view = QueueView(database)
    assert database.writes() is None
    before = view.revision()
    enqueue(JobStore(Database(database.path)))
    assert view.revision() > before
