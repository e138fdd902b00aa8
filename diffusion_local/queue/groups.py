"""The queue grouped by batch: a page of batches, each with a window of its jobs. Reads only the rows shown.

Unfinished batches are in queue order: running ones first, then by their first queued job. Ended batches are sorted
newest first. A batch's jobs are in the order of ``db.dialect.RANKS``. Pages start after a key, not at an offset.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.db import rows
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import (
    as_list,
    by_index,
    count_distinct,
    distinct_values,
    in_list,
    json_field,
    not_in_list,
)
from diffusion_local.db.row_access import owned, readable
from diffusion_local.domain import Job, State
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.queue.batches import BatchProgress, BatchRows
from diffusion_local.queue.order import OrderRules

#: State filters of the queue view, as conditions on jobs.
STATE_FILTERS = {
    "waiting": "list_rank = 1",
    "paused": "list_rank = 1 AND held = 1",
    "running": "list_rank = 0",
    "failed": "list_rank = 2",
    "done": "list_rank = 3",
    "cancelled": "list_rank = 4",
}
UNFINISHED = ("", "waiting", "paused", "running")
BATCH_JOBS = by_index("jobs", "jobs_listed")
LIST_KEY = "(list_rank, list_priority, list_place)"
FORWARDS = "list_rank, list_priority, list_place"
BACKWARDS = "list_rank DESC, list_priority DESC, list_place DESC"
#: Conditions on jobs behind a given one, nearest first; queried one by one, so that each is an index look-up.
BEHIND = (
    "lane = :lane AND priority = :priority AND position > :position",
    "lane = :lane AND priority < :priority",
    "lane > :lane",
)


#: Limit of jobs visited for a page's estimates; jobs behind them are hours away.
MOST_ESTIMATED = 20_000
MOST_SCANNED = 50
MAX_TEXT = 200  # characters per field of a filter


class ListPosition(NamedTuple):
    """A job's place in its batch's list."""

    rank: int
    priority: int
    place: int


class QueuePosition(NamedTuple):
    """A place in the queue: that of a batch's first queued job."""

    lane: int
    priority: int
    position: int


START = QueuePosition(-1, 0, 0)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Filter of the queue view; empty fields match everything. ``text``: substring of the prompt."""

    state: str = ""
    model: str = ""
    owner: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def where(self) -> tuple[str, dict[str, Any]]:
        """SQL conditions on jobs (from literals) and their values. Raises InvalidParams if a text is too long."""
        for each in fields(self):
            if len(getattr(self, each.name)) > MAX_TEXT:
                raise InvalidParams(each.name, message("most_characters", most=MAX_TEXT))
        conditions = [STATE_FILTERS[self.state]] if self.state in STATE_FILTERS else []
        conditions += [f"{name} = :wanted_{name}" for name in ("model", "owner") if getattr(self, name)]
        if self.text:  # match the raw JSON first, to avoid parsing most rows
            conditions.append(
                f"params LIKE :written ESCAPE '\\' AND {json_field('params', 'prompt')} LIKE :text ESCAPE '\\'"
            )
        values = {"wanted_model": self.model, "wanted_owner": self.owner, "text": like_pattern(self.text)}
        values["written"] = like_pattern(json.dumps(self.text, ensure_ascii=False)[1:-1])
        return "".join(f" AND {each}" for each in conditions), values


def like_pattern(text: str) -> str:
    """LIKE pattern for a substring, with wildcards escaped."""
    for each in "\\%_":
        text = text.replace(each, f"\\{each}")
    return f"%{text}%"


@dataclass(frozen=True, slots=True)
class JobWindow:
    """A window of a batch's jobs. ``first``: 1-based index of the first job.

    ``earlier``, ``later``: keys after which the adjacent windows start, if there are any (None: the start of the list).
    """

    jobs: list[Job]
    first: int = 1
    has_earlier: bool = False
    earlier: ListPosition | None = None
    later: ListPosition | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A batch on the page. ``turn``: key of the next page, for a batch with work left."""

    progress: BatchProgress
    models: list[str]  # of the first MOST_SCANNED jobs in its list
    turn: QueuePosition | None = None
    ended_at: str | None = None

    @property
    def running(self) -> bool:
        return self.progress.counts[State.RUNNING] > 0


@guarded("groups")
class QueueGroups:
    def __init__(self, database: Database, rules: OrderRules) -> None:
        self._database = database
        self._batches = BatchRows(database, rules)

    def live(self, job_filter: JobFilter, limit: int, after: QueuePosition | None = None) -> list[Group]:
        """Batches with unfinished jobs that match the filter. ``after``: ``turn`` of the previous page's last batch."""
        if job_filter.state not in UNFINISHED:
            return []
        where, values = job_filter.where()
        with self._database.read() as db:
            running = running_batches(db, where, values)
            positions: dict[str, QueuePosition] = {} if after else dict.fromkeys(running[:limit], START)
            if job_filter.state != "running":
                most = limit if job_filter or after else open_batches(db, limit)  # stop at the number of open batches
                line = waiting_batches(db, where, values, after or START, set(running))
                while len(positions) < most and (waiting := next(line, None)):
                    positions.update([waiting])
            return self._groups(db, positions)

    def ended(self, job_filter: JobFilter, limit: int, after: str | None = None) -> list[Group]:
        """Ended batches, newest first. ``after``: last id of the previous page.

        With a filter: batches whose matching jobs have all ended, newest submit first.
        """
        with self._database.read() as db:
            if job_filter:
                return self._groups(db, dict.fromkeys(ended_matches(db, job_filter, limit, after)))
            further = "AND (ended_at, id) < (SELECT ended_at, id FROM batches WHERE id = :after)" if after else ""
            rows_found = db.execute(
                f"SELECT id FROM {by_index('batches', 'batches_ended')} WHERE ended_at IS NOT NULL "
                f"AND {readable()} {further} "
                "ORDER BY ended_at DESC, id DESC LIMIT :limit",
                {"after": after, "limit": limit},
            ).fetchall()
            return self._groups(db, dict.fromkeys(row[0] for row in rows_found))

    def window(self, batch_id: str, job_filter: JobFilter, limit: int, after: ListPosition | None = None) -> JobWindow:
        """Up to ``limit`` jobs of a batch behind ``after`` in its list."""
        where, values = job_filter.where()
        listed = f"{BATCH_JOBS} WHERE batch_id = :batch_id AND {readable()}{where}"
        values |= {"batch_id": batch_id, "n": limit + 1} | (after._asdict() if after else {})
        behind = f"AND {LIST_KEY} > (:rank, :priority, :place)" if after else ""
        before = f"{listed} AND {LIST_KEY} <= (:rank, :priority, :place)"
        with self._database.read() as db:
            found = list(db.query(f"SELECT * FROM {listed} {behind} ORDER BY {FORWARDS} LIMIT :n", values))
            shown = found[:limit]
            window = JobWindow(
                [rows.to_job(row) for row in shown], later=key_of(shown[-1]) if len(found) > limit else None
            )
            if not after:
                return window
            count = db.scalar(f"SELECT count(*) FROM {before}", **values)
            previous = f"SELECT {FORWARDS} FROM {before} ORDER BY {BACKWARDS} LIMIT 1 OFFSET :limit"
            earlier = db.execute(previous, values | {"limit": limit}).fetchone()
            return JobWindow(
                window.jobs, count + 1, count > 0, ListPosition(*earlier) if earlier else None, window.later
            )

    def others_waiting(self) -> int:
        """Number of queued jobs that the actor may not read."""
        if actor.current().sees_all:
            return 0
        mine = by_index("jobs", "jobs_queued_by_owner")
        with self._database.read() as db:
            return db.scalar(
                "SELECT (SELECT coalesce(sum(jobs), 0) FROM job_counts WHERE state = 'queued') "
                f"- (SELECT count(*) FROM {mine} WHERE state = 'queued' AND {owned()})",
            )

    def models(self) -> list[str]:
        """Models of all jobs that the actor may read, for the filter."""
        with self._database.read() as db:
            if actor.current().sees_all:
                return distinct_values(db, "job_counts", "model")
            return distinct_values(db, "jobs", "model", owned())

    def owners(self) -> list[str]:
        """Owners of jobs that the actor may read, for the filter; the local user's name is ""."""
        with self._database.read() as db:
            if actor.current().sees_all:
                return distinct_values(db, "jobs", "owner")
            return distinct_values(db, "jobs", "owner", owned())

    def _groups(self, db: Transaction, positions: dict[str, QueuePosition] | dict[str, None]) -> list[Group]:
        read = db.query(f"SELECT * FROM batches WHERE {in_list('id')}", {"ids": as_list(positions)})
        batches, ended = {}, {}
        for row in read:
            batches[row["id"]], ended[row["id"]] = rows.to_batch(row), row["ended_at"]
        progress = self._batches.progress(db, [batches[batch_id] for batch_id in positions], MOST_ESTIMATED)
        return [
            Group(each, models_of(db, batch_id), positions[batch_id], ended[batch_id])
            for each in progress
            if (batch_id := each.batch.id)
        ]


def models_of(db: Transaction, batch_id: str) -> list[str]:
    first = f"SELECT model FROM {BATCH_JOBS} WHERE batch_id = ? ORDER BY {FORWARDS} LIMIT {MOST_SCANNED}"
    found = db.execute(f"SELECT DISTINCT model FROM ({first}) AS few", [batch_id])
    return [row[0] for row in found.fetchall()]


def running_batches(db: Transaction, where: str, values: dict[str, Any]) -> list[str]:
    cursor = db.execute(
        f"SELECT batch_id FROM {by_index('jobs', 'jobs_running')} WHERE state = 'running' AND {readable()}{where} "
        "GROUP BY batch_id ORDER BY min(started_at), batch_id",
        values,
    )
    return [row[0] for row in cursor.fetchall()]


def waiting_batches(
    db: Transaction, where: str, values: dict[str, Any], after: QueuePosition, skipped: set[str]
) -> Iterator[tuple[str, QueuePosition]]:
    """(batch id, its turn) for batches whose first matching queued job is behind ``after``, without ``skipped``."""
    matching = f"FROM {by_index('jobs', 'jobs_queued')} WHERE state = 'queued' AND {readable()}{where}"
    others = not_in_list("batch_id", ":skipped")
    queries = [
        f"SELECT batch_id, lane, priority, position {matching} AND {others} AND {behind} "
        "ORDER BY lane, priority DESC, position LIMIT 1"
        for behind in BEHIND
    ]
    listed = f"FROM {BATCH_JOBS} WHERE batch_id = :batch_id AND list_rank = 1{where}"
    earliest = f"SELECT -list_priority, list_place {listed} ORDER BY list_priority, list_place LIMIT 1"
    turn = after
    while True:
        bound = values | turn._asdict() | {"skipped": as_list(sorted(skipped))}
        found = next((row for query in queries if (row := db.execute(query, bound).fetchone())), None)
        if found is None:
            return
        batch_id, turn = found[0], QueuePosition(*found[1:])
        skipped.add(batch_id)
        # A page that starts mid-queue may meet a batch that an earlier page has shown already.
        if after is START or tuple(turn[1:]) == db.execute(earliest, values | {"batch_id": batch_id}).fetchone():
            yield batch_id, turn


def open_batches(db: Transaction, limit: int) -> int:
    """Number of batches with unfinished jobs, counted up to ``limit``."""
    opened = f"{by_index('jobs', 'jobs_open')} WHERE state IN ('queued', 'running')"
    return count_distinct(db, opened, "batch_id", limit)


def ended_matches(db: Transaction, job_filter: JobFilter, limit: int, after: str | None) -> list[str]:
    where, values = job_filter.where()
    jobs_of = f"SELECT 1 FROM {BATCH_JOBS} WHERE batch_id = batches.id AND list_rank {{ranks}}{where}"
    further = "AND id < :after" if after else ""
    cursor = db.execute(
        f"SELECT id FROM batches WHERE {readable()} {further} AND EXISTS ({jobs_of.format(ranks='> 1')}) "
        f"AND NOT EXISTS ({jobs_of.format(ranks='< 2')}) ORDER BY id DESC LIMIT :limit",
        values | {"after": after, "limit": limit},
    )
    return [row[0] for row in cursor.fetchall()]


def key_of(row: rows.Row) -> ListPosition:
    return ListPosition(row["list_rank"], row["list_priority"], row["list_place"])
