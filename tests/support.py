"""What several test modules need: polling with a deadline, nouns to start from, and children that do not outlive us."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from diffusion_local.db.database import Database
from diffusion_local.db.postgresql import PostgresDatabase, bind
from diffusion_local.db.server_connections import connect
from diffusion_local.domain import Batch, Failure, Image, Job, Lane, Params, State, new_id, utc_now
from diffusion_local.errors import DiffusionLocalError
from diffusion_local.gallery.files import key_for
from diffusion_local.queue.jobs import JobStore, new_jobs
from diffusion_local.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "diffusion_local"

T = TypeVar("T")

FAILURE = Failure("engine_error", "it broke", "traceback")
PARAMS = Params("a red apple", "", "starter", 128, 128, 4, 5.0, "DPM++ 2M", 7)


def eventually(condition: Callable[[], T], timeout: float = 15.0, every: float = 0.02) -> T:
    """The condition's first true value; fails once ``timeout`` seconds have passed without one."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s; last value: {value!r}"
        time.sleep(every)
    return value


def soon(seconds: float) -> float:
    """A bound for what takes less than ``seconds``: as it is, and in proportion more where the machine is busy.

    Other test processes keep it busy before the load average shows it.
    """
    least = 3.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0
    return seconds * max(least, 2 * psutil.getloadavg()[0] / (os.cpu_count() or 1))


def tiers(values: Iterable[Any], first: Iterable[Any]) -> list[Any]:
    """Values of a parametrised test: those of ``first`` in the first tier, the others in the second."""
    import pytest

    chosen = tuple(first)
    return [value if value in chosen else pytest.param(value, marks=pytest.mark.slow) for value in values]


def every(step: int, values: Iterable[Any]) -> list[Any]:
    """Values, or tuples of them, of a parametrised test: each ``step``-th in the first tier, all others in the second.

    For tables of much the same, such as files of a kind.
    """
    return spread(values, lambda place: place % step == 0)


def first_of(count: int, values: Iterable[Any]) -> list[Any]:
    """Values, or tuples of them, of a parametrised test: ``count`` in the first tier, all others in the second."""
    return spread(values, lambda place: place < count)


def spread(values: Iterable[Any], is_first: Callable[[int], bool]) -> list[Any]:
    import pytest

    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=() if is_first(place) else pytest.mark.slow) for place, row in enumerate(rows)]


@contextmanager
def refused(error: type[DiffusionLocalError], message_id: str, field: str = "") -> Iterator[Any]:
    """``pytest.raises`` by the id of the message instead of its words, and by the field that it is about."""
    import pytest

    with pytest.raises(error) as raised:
        yield raised
    assert raised.value.problem.id == message_id
    assert getattr(raised.value, "field", "") == field


def params(**changes: Any) -> Params:
    return replace(PARAMS, **changes)


def enqueue(
    store: JobStore,
    count: int = 1,
    lane: Lane = Lane.INTERACTIVE,
    priority: int = 0,
    key: str | None = None,
    max_queued: int = 1_000_000,
    owner: str = "",
    **changes: Any,
) -> list[str]:
    """Ids of ``count`` new queued jobs of one batch."""
    batch = Batch(new_id(), "test", owner, lane, count, utc_now())
    each = [params(**{"seed": 7 + place} | changes) for place in range(count)]
    return store.insert_batch(batch, new_jobs(batch, each, priority), key, max_queued)[1]


def claimed(store: JobStore, worker: str = "cpu0") -> Job:
    job = store.claim_next(worker)
    assert job is not None
    return job


def image_of(job: Job, **changes: Any) -> Image:
    image = Image(job.id, job.id, key_for(job.id, job.created_at), job.params, 128, 128, 1000, utc_now(), 0.5)
    return replace(image, **changes)


def in_state(store: JobStore, state: State) -> Job:
    """A job that has come to this state by the store's own verbs."""
    enqueue(store)
    if state is State.QUEUED:
        return store.get(claimed_and_given_back(store))
    job = claimed(store)
    match state:
        case State.DONE:
            store.finish(job.claim, image_of(job))
        case State.FAILED:
            store.fail(job.claim, FAILURE)
        case State.CANCELLED:
            store.stop(job.claim)
    return store.get(job.id)


def claimed_and_given_back(store: JobStore) -> str:
    job = claimed(store)
    store.requeue(job.claim, "test")
    return job.id


@contextmanager
def sql(place: Path | Database | Settings) -> Iterator[Any]:
    """A connection of one's own to a database, as another program would have it: ``execute`` returns rows by name and
    by index, at once.
    """
    if isinstance(place, Settings):
        place = PostgresDatabase(place.database) if place.database else place.database_file
    if isinstance(place, PostgresDatabase):
        with closing(OtherProgram(place.url)) as other:
            yield other
        return
    connection = sqlite3.connect(place if isinstance(place, Path) else place.path, timeout=15, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    try:
        yield connection
    finally:
        connection.close()


class NamedRow(tuple[Any, ...]):
    """A row like ``sqlite3.Row``."""

    names: tuple[str, ...]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> tuple[str, ...]:
        return self.names


class OtherProgram:
    """A connection to a PostgreSQL server that speaks SQLite's dialect, as the stores do."""

    def __init__(self, url: str) -> None:
        self._connection = connect(url)
        self._connection.row_factory = named_rows
        self.close = self._connection.close

    def execute(self, statement: str, values: Any = ()) -> Any:
        return self._connection.execute(*bind(statement, values))


def named_rows(cursor: Any) -> Any:
    return type("Row", (NamedRow,), {"names": tuple(column.name for column in cursor.description or ())})


def row_of(path: Path | Database | Settings, job_id: str) -> dict[str, Any]:
    with sql(path) as db:
        return dict(db.execute("SELECT * FROM jobs WHERE id = ?", [job_id]).fetchone())


def start_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python child that runs ``code``; its output is piped as text."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        **options,
    )


def run_python(code: str, *arguments: str, timeout: float = 60) -> str:
    """What a Python child prints; fails with its errors if it does not end well."""
    child = start_python(code, *arguments)
    output, errors = child.communicate(timeout=timeout)
    assert child.returncode == 0, errors
    return output


def gradio_endpoint(studio: Any, name: str) -> Callable[..., Any]:
    """The function of a Gradio endpoint that derives from the registry."""
    from diffusion_local.web.api import endpoints

    return endpoints.endpoint(endpoints.derived()[name], studio)
