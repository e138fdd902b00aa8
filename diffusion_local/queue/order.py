"""The order of queued jobs: which one a worker claims next, and which follow.

The sort order is: interactive lane first, then priority, then the owner whose turn it is (start-time fair queueing),
then the loaded model for a bounded streak, then position. The index ``jobs_due`` starts with the gate, so jobs waiting
for their window cost nothing. Finding the first job of each (owner, model) takes one index look-up, however many jobs
follow.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import Protocol

from diffusion_local.db import rows
from diffusion_local.db.database import Transaction
from diffusion_local.db.dialect import by_index, first_of_each
from diffusion_local.domain import Lane, utc_text
from diffusion_local.errors import InvalidParams
from diffusion_local.queue import schedule

LOOK_AHEAD = 100  # jobs examined per owner and model


@dataclass(frozen=True, slots=True)
class QueueHead:
    """The first due job of one owner and model, within one lane and priority."""

    job_id: str
    owner: str
    model: str
    position: int


@dataclass(frozen=True, slots=True)
class Share:
    """An owner's service so far: virtual finish time of the last picture, and the turn that started it."""

    finish: int = 0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class FairShares:
    """Fair-queueing state of one lane.

    ``passed_over``: picks since the last model change that went to the loaded model out of turn.
    """

    virtual: int = 0
    turn: int = 0
    passed_over: int = 0
    shares: Mapping[str, Share] = field(default_factory=dict)

    def rank(self, head: QueueHead) -> tuple[int, int, int]:
        """Sort key of turns: earliest virtual start, then the least recently served owner, then position."""
        share = self.shares.get(head.owner, Share())
        return max(self.virtual, share.finish), share.turn, head.position

    def after(self, head: QueueHead, passed_over: bool, loaded: str) -> "FairShares":
        """The state after a worker with model ``loaded`` claimed this head's job."""
        start, turn = self.rank(head)[0], self.turn + 1
        return replace(
            self,
            virtual=start if not passed_over else self.virtual,
            turn=turn,
            passed_over=self.passed_over + passed_over if head.model == loaded else 0,
            shares={**self.shares, head.owner: Share(start + 1, turn)},
        )


def choose_head(heads: Iterable[QueueHead], turns: FairShares, loaded: str, streak: int) -> tuple[QueueHead, bool]:
    """(next head, whether others were passed over for it). ``heads`` must not be empty.

    Between two model changes at most ``streak`` picks go out of turn to the loaded model; then turns alone decide until
    the model changes. The count belongs to the lane, so jobs of the other lane do not reset it.
    """
    line: Sequence[QueueHead] = sorted(heads, key=turns.rank)
    if line[0].model != loaded and turns.passed_over < streak:
        for head in line:
            if head.model == loaded:
                return head, True
    return line[0], False


BATCH_RANK = rows.LANE_RANKS[Lane.BATCH]
#: Jobs that only a gate holds back. The index is forced: the planner would take jobs_by_state and sort all queued jobs.
DUE_JOBS = f"{by_index('jobs', 'jobs_due')} WHERE state = 'queued' AND held = 0 AND not_before IS NULL AND gate = :gate"
PRIORITY_RUN = f"{DUE_JOBS} AND lane = :lane AND priority = :priority"
RUN_HEADS = first_of_each(PRIORITY_RUN, ("owner", "model"), "position", "id, owner, model, position")
#: The first ``:n`` jobs of one owner and model behind one gate.
OWNER_MODEL_RUN = (
    f"SELECT id, owner, model, position FROM {PRIORITY_RUN} AND owner = :owner AND model = :model "
    "ORDER BY position LIMIT :n"
)
#: The retry delay is over, or is longer than any allowed one because the clock was wrong. Each half uses the index.
DELAYED = f"{by_index('jobs', 'jobs_later')} WHERE state = 'queued' AND not_before"
RETRY_DUE = f"SELECT 1 FROM {DELAYED} <= :now UNION ALL SELECT 1 FROM {DELAYED} > :latest LIMIT 1"
CLEAR_DELAYS = tuple(
    f"UPDATE {by_index('jobs', 'jobs_later')} SET not_before = NULL WHERE state = 'queued' AND not_before {reached}"
    for reached in ("<= :now", "> :latest")
)


@dataclass(frozen=True, slots=True)
class BatchGate:
    """Start conditions shared by batches: ``start_at`` (UTC, or "") and a daily window (or "")."""

    id: int
    window: str
    start_at: str

    def opens(self, now: datetime, zone: tzinfo, also: str = "") -> datetime | None:
        """The first time from ``now`` on at which the gate and the window ``also`` are open; None if there is none."""
        windows = tuple(schedule.parse_window(text) for text in (self.window, also) if text)
        try:
            return schedule.allowed_from(
                now, datetime.fromisoformat(self.start_at) if self.start_at else None, windows, zone
            )
        except InvalidParams:  # the queue's window has changed since
            return None

    def is_open(self, now: datetime, zone: tzinfo, also: str = "") -> bool:
        windows = (schedule.parse_window(text) for text in (self.window, also) if text)
        reached = not self.start_at or datetime.fromisoformat(self.start_at) <= now
        return reached and all(window.is_open(now, zone) for window in windows)


class Suits(Protocol):
    """Which jobs a worker can take, asked by job id."""

    def job(self, job_id: str) -> bool: ...

    def model(self, runs_on: str) -> bool:
        """Whether it could take any job of a model (or upscaler, as ``Params.runs_on`` names it)."""
        ...


ALWAYS = BatchGate(0, "", "")
#: One row per gate, or one without a gate.
QUEUE_AND_GATES = (
    "SELECT queue.paused = 0 AND queue.blocked = '', queue.window, queue.resting, gates.id, gates.window, "
    "gates.start_at FROM queue LEFT JOIN gates ON true"
)


@dataclass(frozen=True, slots=True)
class OrderRules:
    """Rules of the queue order: the time zone of windows, and how many jobs in a row may go to the loaded model.

    ``explores``: whether workers try larger passes as long as they pay.
    """

    zone: tzinfo = UTC
    streak: int = 16
    explores: bool = False


class QueueOrder:
    """The queue order at one moment, within a transaction."""

    def __init__(self, db: Transaction, now: datetime, rules: OrderRules) -> None:
        self._db = db
        self._streak = rules.streak
        self.explores = rules.explores
        self._now, self._zone = now, rules.zone
        queue = db.execute(QUEUE_AND_GATES).fetchall()
        open_queue, self._window, self._resting, *_ = queue[0]
        #: Whether jobs may be claimed: nobody paused the queue, and its storage can be written.
        self.open = bool(open_queue)
        all_gates = [ALWAYS, *(BatchGate(*row[3:]) for row in queue if row[3] is not None)]
        #: Open gates by lane. The queue's own window applies to the batch lane only.
        self._open = {
            lane: [
                gate.id
                for gate in all_gates
                if gate.is_open(now, rules.zone, self._window if lane == BATCH_RANK else "")
            ]
            for lane in rows.LANES
        }

    def any_due(self) -> bool:
        return self.open and next(self._claimable_groups(), None) is not None

    def _claimable_groups(self) -> Iterator[tuple[int, int]]:
        """The (lane, priority) groups that may be claimed now; without the batch lane while it rests."""
        return ((lane, priority) for lane, priority in self._groups() if lane != BATCH_RANK or not self._resting)

    def claimable(self) -> dict[tuple[str, str], int]:
        """How many jobs a worker could take now, by (lane, model)."""
        counts: dict[tuple[str, str], int] = {}
        for lane, open_gates in self._open.items():
            if lane == BATCH_RANK and self._resting:
                continue
            for gate in open_gates:
                counted = f"SELECT model, count(*) FROM {DUE_JOBS} AND lane = :lane GROUP BY model"
                for model, count in self._db.execute(counted, {"gate": gate, "lane": lane}).fetchall():
                    key = (str(rows.LANES[lane]), model)
                    counts[key] = counts.get(key, 0) + count
        return counts

    def closed_gates(self) -> dict[int, str | None]:
        """When each gate that is closed for the batch lane opens (UTC); None for never."""
        shut = [gate for gate in gates(self._db) if gate.id not in self._open[BATCH_RANK]]
        opening = {gate.id: gate.opens(self._now, self._zone, self._window) for gate in shut}
        return {number: utc_text(at) if at else None for number, at in opening.items()}

    def _groups(self) -> Iterator[tuple[int, int]]:
        """(lane, priority) of all due jobs, in queue order."""
        for lane, open_gates in sorted(self._open.items()):
            below: int | None = 10**9
            while below is not None:
                priorities = [
                    self._db.scalar(
                        f"SELECT priority FROM {DUE_JOBS} AND lane = :lane AND priority < :below "
                        "ORDER BY priority DESC LIMIT 1",
                        gate=gate,
                        lane=lane,
                        below=below,
                    )
                    for gate in open_gates
                ]
                below = max((priority for priority in priorities if priority is not None), default=None)
                if below is not None:
                    yield lane, below

    def next(self, loaded: str, lane: int | None = None, suits: "Suits | None" = None) -> str | None:
        """Id of the next job, optionally of one lane; it is charged to its owner's share. None if none is due.

        With ``suits``, unsuitable jobs are skipped; of each owner and model the first LOOK_AHEAD are examined.
        """
        for group, priority in self._claimable_groups():
            if lane is not None and group != lane:
                continue
            turns, heads = read_turns(self._db, group), self._heads(group, priority)
            if suits is not None:
                heads = [each for head in heads if (each := self._suiting(group, priority, head, suits))]
            if not heads:
                continue
            head, passed_over = choose_head(heads, turns, loaded, self._streak)
            write_turns(self._db, group, turns.after(head, passed_over, loaded), head.owner)
            return head.job_id
        return None

    def beside(self, lane: int, priority: int, model: str, suits: Callable[[str], bool]) -> str | None:
        """The first job, by turns, that can share a pass with a claimed one, charged to its owner as in ``next``.

        Owners whose next job does not fit are passed over, as for the loaded model. Because each picture is charged to
        its owner, their turns come first afterwards. None while jobs of a higher lane or priority are due.
        """
        if next(self._claimable_groups(), None) != (lane, priority):
            return None
        turns = read_turns(self._db, lane)
        ranked = sorted(self._heads(lane, priority), key=turns.rank)
        for head in ranked:
            if head.model == model and suits(head.job_id):
                write_turns(self._db, lane, turns.after(head, head is not ranked[0], model), head.owner)
                return head.job_id
        return None

    def any_due_of(self, lane: int) -> bool:
        if not self.open or (lane == BATCH_RANK and self._resting):
            return False
        due = f"SELECT 1 FROM {DUE_JOBS} AND lane = :lane LIMIT 1"
        return any(self._db.scalar(due, gate=gate, lane=lane) for gate in self._open[lane])

    def upcoming(self, loaded: str, count: int) -> list[str]:
        """Ids of the next jobs of a single worker, assuming no other changes."""
        taken: list[str] = []
        lanes = {lane: read_turns(self._db, lane) for lane in rows.LANES}
        for lane, priority in self._groups():
            turns, runs = lanes[lane], self._runs(lane, priority, count - len(taken))
            while runs and len(taken) < count:
                head, passed_over = choose_head((run[0] for run in runs.values()), turns, loaded, self._streak)
                turns, loaded = turns.after(head, passed_over, loaded), head.model
                taken.append(head.job_id)
                runs[head.owner, head.model].popleft()
                if not runs[head.owner, head.model]:
                    del runs[head.owner, head.model]
            lanes[lane] = turns
            if len(taken) == count:
                break
        return taken

    def _runs(self, lane: int, priority: int, count: int) -> dict[tuple[str, str], deque[QueueHead]]:
        """The first ``count`` jobs of each (owner, model), over all open gates."""
        return {
            (head.owner, head.model): deque(self._run(lane, priority, head, count))
            for head in self._heads(lane, priority)
        }

    def _run(self, lane: int, priority: int, head: QueueHead, count: int) -> list[QueueHead]:
        """The first ``count`` jobs of a head's owner and model, over all open gates."""
        values = {"lane": lane, "priority": priority, "owner": head.owner, "model": head.model, "n": count}
        run = [
            QueueHead(*row)
            for gate in self._open[lane]
            for row in self._db.execute(OWNER_MODEL_RUN, values | {"gate": gate}).fetchall()
        ]
        return sorted(run, key=lambda each: each.position)[:count]

    def _suiting(self, lane: int, priority: int, head: QueueHead, suits: "Suits") -> QueueHead | None:
        """The first suitable job of a head's owner and model."""
        if suits.job(head.job_id):
            return head
        if not suits.model(head.model):  # no other job of this model suits either
            return None
        return next((each for each in self._run(lane, priority, head, LOOK_AHEAD)[1:] if suits.job(each.job_id)), None)

    def _heads(self, lane: int, priority: int) -> list[QueueHead]:
        """The first job of each (owner, model), over all open gates."""
        first: dict[tuple[str, str], QueueHead] = {}
        for gate in self._open[lane]:
            for row in self._db.execute(RUN_HEADS, {"gate": gate, "lane": lane, "priority": priority}).fetchall():
                head = QueueHead(*row)
                best = first.get((head.owner, head.model))
                if best is None or head.position < best.position:
                    first[head.owner, head.model] = head
        return list(first.values())


def gates(db: Transaction) -> list[BatchGate]:
    return [ALWAYS, *(BatchGate(*row) for row in db.execute("SELECT id, window, start_at FROM gates").fetchall())]


def read_turns(db: Transaction, lane: int) -> FairShares:
    rows_found = db.execute(
        "SELECT turns.virtual, turns.turn, turns.passed_over, shares.owner, shares.finish, shares.turn "
        "FROM turns LEFT JOIN shares ON shares.lane = turns.lane WHERE turns.lane = ?",
        [lane],
    ).fetchall()
    shares = {owner: Share(finish, number) for *_, owner, finish, number in rows_found if owner is not None}
    virtual, turn, passed_over = rows_found[0][:3]
    return FairShares(virtual, turn, passed_over, shares)


def write_turns(db: Transaction, lane: int, turns: FairShares, owner: str) -> None:
    db.execute(
        "UPDATE turns SET virtual = ?, turn = ?, passed_over = ? WHERE lane = ?",
        [turns.virtual, turns.turn, turns.passed_over, lane],
    )
    share = turns.shares[owner]
    db.execute(
        "INSERT INTO shares (lane, owner, finish, turn) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (lane, owner) DO UPDATE SET finish = excluded.finish, turn = excluded.turn",
        [lane, owner, share.finish, share.turn],
    )


def get_gate(db: Transaction, window: str, start_at: str | None) -> int:
    """The id of the gate with these times, created on demand."""
    if not window and not start_at:
        return ALWAYS.id
    times = {"window": window, "start_at": start_at or ""}
    db.execute("INSERT INTO gates (window, start_at) VALUES (:window, :start_at) ON CONFLICT DO NOTHING", times)
    return db.scalar("SELECT id FROM gates WHERE window = :window AND start_at = :start_at", **times)
