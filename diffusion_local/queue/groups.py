"""The queue by batches: which of them a page shows, and a window of each one's jobs. Nothing is read that is not shown.

Batches with work left come as the line runs: what runs first, then by their first job in line; ended ones newest first.
A batch's jobs are listed as `db.schema.RANKS` says, and every page begins behind a key, not after a number of rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.db import rows
from diffusion_local.db.access import own, seen
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, by_index, count_values, each_value, field, in_list, not_in_list
from diffusion_local.domain import Job, State
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.queue.batches import BatchProgress, BatchRows
from diffusion_local.queue.order import OrderRules

#: What a person may ask to see, and which jobs that is.
STATES = {
    "waiting": "list_rank = 1",
    "paused": "list_rank = 1 AND held = 1",
    "running": "list_rank = 0",
    "failed": "list_rank = 2",
    "done": "list_rank = 3",
    "cancelled": "list_rank = 4",
}
UNFINISHED = ("", "waiting", "paused", "running")
LISTED = by_index("jobs", "jobs_listed")
KEY = "(list_rank, list_priority, list_place)"
IN_ORDER = "list_rank, list_priority, list_place"
BACKWARDS = "list_rank DESC, list_priority DESC, list_place DESC"
#: What comes behind a job in line, nearest first; one by one, as each is then a look-up.
BEHIND = (
    "lane = :lane AND priority = :priority AND position > :position",
    "lane = :lane AND priority < :priority",
    "lane > :lane",
)


#: Jobs that are walked along for the estimates of a page: what comes behind them is hours away.
MOST_WALKED = 20_000
MOST_LOOKED_AT = 50
MOST_TEXT = 200  # characters of a filter


class ListPosition(NamedTuple):
    """A job's place in its batch's list."""

    rank: int
    priority: int
    place: int


class QueuePosition(NamedTuple):
    """A place in line: that of a batch's first waiting job."""

    lane: int
    priority: int
    position: int


START = QueuePosition(-1, 0, 0)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a person wants to see; what is empty leaves none out. ``text`` is a part of the prompt."""

    state: str = ""
    model: str = ""
    owner: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def where(self) -> tuple[str, dict[str, Any]]:
        """Literal conditions on jobs, and their values. Raises InvalidParams for a text that is too long."""
        for each in fields(self):
            if len(getattr(self, each.name)) > MOST_TEXT:
                raise InvalidParams(each.name, message("most_characters", most=MOST_TEXT))
        told = [STATES[self.state]] if self.state in STATES else []
        told += [f"{name} = :wanted_{name}" for name in ("model", "owner") if getattr(self, name)]
        if self.text:  # first in the recipe as it lies there, which spares reading most of them as JSON
            told.append(f"params LIKE :written ESCAPE '\\' AND {field('params', 'prompt')} LIKE :text ESCAPE '\\'")
        values = {"wanted_model": self.model, "wanted_owner": self.owner, "text": part(self.text)}
        values["written"] = part(json.dumps(self.text, ensure_ascii=False)[1:-1])
        return "".join(f" AND {each}" for each in told), values


def part(text: str) -> str:
    """A pattern for LIKE."""
    for each in "\\%_":
        text = text.replace(each, f"\\{each}")
    return f"%{text}%"


@dataclass(frozen=True, slots=True)
class JobWindow:
    """Some of a batch's jobs in their order. ``earlier`` and ``later`` are the keys behind which the windows before and
    after it begin (None: at the start), where there are any; ``first`` is the place of its first job, from 1."""

    jobs: list[Job]
    first: int = 1
    has_earlier: bool = False
    earlier: ListPosition | None = None
    later: ListPosition | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A batch of the page; ``turn`` is where the page after it begins, of one that has work left."""

    progress: BatchProgress
    models: list[str]  # of the first MOST_LOOKED_AT jobs in its list
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

    def live(self, wanted: JobFilter, limit: int, after: QueuePosition | None = None) -> list[Group]:
        """Batches with work left of which something is wanted; ``after`` is the turn of the last one before."""
        if wanted.state not in UNFINISHED:
            return []
        where, values = wanted.where()
        with self._database.read() as db:
            running = running_batches(db, where, values)
            found: dict[str, QueuePosition] = {} if after else dict.fromkeys(running[:limit], START)
            if wanted.state != "running":
                most = limit if wanted or after else open_batches(db, limit)  # there is no more to be found
                line = waiting_batches(db, where, values, after or START, set(running))
                while len(found) < most and (waiting := next(line, None)):
                    found.update([waiting])
            return self._groups(db, found)

    def ended(self, wanted: JobFilter, limit: int, after: str | None = None) -> list[Group]:
        """Batches that have ended, newest first; ``after`` is the last id of the page before.

        With something wanted: those where only jobs that have ended are it, the ones submitted last first.
        """
        with self._database.read() as db:
            if wanted:
                return self._groups(db, dict.fromkeys(ended_matches(db, wanted, limit, after)))
            further = "AND (ended_at, id) < (SELECT ended_at, id FROM batches WHERE id = :after)" if after else ""
            found = db.execute(
                f"SELECT id FROM {by_index('batches', 'batches_ended')} WHERE ended_at IS NOT NULL "
                f"AND {seen()} {further} "
                "ORDER BY ended_at DESC, id DESC LIMIT :limit",
                {"after": after, "limit": limit},
            ).fetchall()
            return self._groups(db, dict.fromkeys(row[0] for row in found))

    def window(self, batch_id: str, wanted: JobFilter, limit: int, after: ListPosition | None = None) -> JobWindow:
        """``limit`` jobs of a batch that come behind ``after`` in its list."""
        where, values = wanted.where()
        listed = f"{LISTED} WHERE batch_id = :batch_id AND {seen()}{where}"
        values |= {"batch_id": batch_id, "n": limit + 1} | (after._asdict() if after else {})
        behind = f"AND {KEY} > (:rank, :priority, :place)" if after else ""
        before = f"{listed} AND {KEY} <= (:rank, :priority, :place)"
        with self._database.read() as db:
            found = list(db.query(f"SELECT * FROM {listed} {behind} ORDER BY {IN_ORDER} LIMIT :n", values))
            shown = found[:limit]
            window = JobWindow(
                [rows.job(row) for row in shown], later=key_of(shown[-1]) if len(found) > limit else None
            )
            if not after:
                return window
            count = db.scalar(f"SELECT count(*) FROM {before}", **values)
            back = f"SELECT {IN_ORDER} FROM {before} ORDER BY {BACKWARDS} LIMIT 1 OFFSET :limit"
            earlier = db.execute(back, values | {"limit": limit}).fetchone()
            return JobWindow(
                window.jobs, count + 1, count > 0, ListPosition(*earlier) if earlier else None, window.later
            )

    def others_waiting(self) -> int:
        """How many jobs wait that whoever acts may not look at."""
        if actor.current().sees_all:
            return 0
        mine = by_index("jobs", "jobs_queued_by_owner")
        with self._database.read() as db:
            return db.scalar(
                "SELECT (SELECT coalesce(sum(jobs), 0) FROM job_counts WHERE state = 'queued') "
                f"- (SELECT count(*) FROM {mine} WHERE state = 'queued' AND {own()})",
            )

    def models(self) -> list[str]:
        """Of all jobs that may be looked at, for the filter."""
        with self._database.read() as db:
            if actor.current().sees_all:
                return each_value(db, "job_counts", "model")
            return each_value(db, "jobs", "model", own())

    def owners(self) -> list[str]:
        """Whoever has jobs here, of those whose jobs may be looked at; the machine's own person has no name."""
        with self._database.read() as db:
            if actor.current().sees_all:
                return each_value(db, "jobs", "owner")
            return each_value(db, "jobs", "owner", own())

    def _groups(self, db: Transaction, found: dict[str, QueuePosition] | dict[str, None]) -> list[Group]:
        read = db.query(f"SELECT * FROM batches WHERE {in_list('id')}", {"ids": as_list(found)})
        batches, ended = {}, {}
        for row in read:
            batches[row["id"]], ended[row["id"]] = rows.batch(row), row["ended_at"]
        told = self._batches.progress(db, [batches[batch_id] for batch_id in found], MOST_WALKED)
        return [
            Group(each, models_of(db, batch_id), found[batch_id], ended[batch_id])
            for each in told
            if (batch_id := each.batch.id)
        ]


def models_of(db: Transaction, batch_id: str) -> list[str]:
    first = f"SELECT model FROM {LISTED} WHERE batch_id = ? ORDER BY {IN_ORDER} LIMIT {MOST_LOOKED_AT}"
    found = db.execute(f"SELECT DISTINCT model FROM ({first}) AS few", [batch_id])
    return [row[0] for row in found.fetchall()]


def running_batches(db: Transaction, where: str, values: dict[str, Any]) -> list[str]:
    found = db.execute(
        f"SELECT batch_id FROM {by_index('jobs', 'jobs_running')} WHERE state = 'running' AND {seen()}{where} "
        "GROUP BY batch_id ORDER BY min(started_at), batch_id",
        values,
    )
    return [row[0] for row in found.fetchall()]


def waiting_batches(
    db: Transaction, where: str, values: dict[str, Any], after: QueuePosition, skipped: set[str]
) -> Iterator[tuple[str, QueuePosition]]:
    """(batch, its turn) of those whose first wanted job in line comes behind ``after``, without the ``skipped``."""
    wanted = f"FROM {by_index('jobs', 'jobs_queued')} WHERE state = 'queued' AND {seen()}{where}"
    others = not_in_list("batch_id", ":skipped")
    queries = [
        f"SELECT batch_id, lane, priority, position {wanted} AND {others} AND {behind} "
        "ORDER BY lane, priority DESC, position LIMIT 1"
        for behind in BEHIND
    ]
    listed = f"FROM {LISTED} WHERE batch_id = :batch_id AND list_rank = 1{where}"
    earliest = f"SELECT -list_priority, list_place {listed} ORDER BY list_priority, list_place LIMIT 1"
    turn = after
    while True:
        asked = values | turn._asdict() | {"skipped": as_list(sorted(skipped))}
        found = next((row for query in queries if (row := db.execute(query, asked).fetchone())), None)
        if found is None:
            return
        batch_id, turn = found[0], QueuePosition(*found[1:])
        skipped.add(batch_id)
        # A page that begins in the middle of the line may meet a batch whose turn came on a page before.
        if after is START or tuple(turn[1:]) == db.execute(earliest, values | {"batch_id": batch_id}).fetchone():
            yield batch_id, turn


def open_batches(db: Transaction, limit: int) -> int:
    """How many batches have work left, counted up to ``limit``; by skipping from one to the next."""
    opened = f"{by_index('jobs', 'jobs_open')} WHERE state IN ('queued', 'running')"
    return count_values(db, opened, "batch_id", limit)


def ended_matches(db: Transaction, wanted: JobFilter, limit: int, after: str | None) -> list[str]:
    where, values = wanted.where()
    jobs_of = f"SELECT 1 FROM {LISTED} WHERE batch_id = batches.id AND list_rank {{ranks}}{where}"
    further = "AND id < :after" if after else ""
    found = db.execute(
        f"SELECT id FROM batches WHERE {seen()} {further} AND EXISTS ({jobs_of.format(ranks='> 1')}) "
        f"AND NOT EXISTS ({jobs_of.format(ranks='< 2')}) ORDER BY id DESC LIMIT :limit",
        values | {"after": after, "limit": limit},
    )
    return [row[0] for row in found.fetchall()]


def key_of(row: rows.Row) -> ListPosition:
    return ListPosition(row["list_rank"], row["list_priority"], row["list_place"])
