"""The line of waiting jobs: which of them a worker takes next, and which come after.

Order: interactive lane, higher priority, the owner whose turn it is, the loaded model for a bounded streak, position
(see ``turns``). The index ``jobs_due`` begins with the gate, so what waits for its window costs nothing; the heads of
its (owner, model) runs are found by one look-up each, however many jobs stand behind them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo

from diffusion_local.db import rows
from diffusion_local.db.database import Transaction
from diffusion_local.db.dialect import by_index, first_of_each
from diffusion_local.domain import Lane, utc_text
from diffusion_local.errors import InvalidParams
from diffusion_local.queue import schedule


@dataclass(frozen=True, slots=True)
class QueueHead:
    """The first waiting job of one owner and model, within one lane and priority."""

    job_id: str
    owner: str
    model: str
    position: int


@dataclass(frozen=True, slots=True)
class Share:
    """What an owner was served: the virtual time at which the last picture ended, and the turn in which it began."""

    finish: int = 0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class FairShares:
    """The state of one lane. ``passed_over``: picks since the last change of model in which the loaded one
    went before whose turn it was.
    """

    virtual: int = 0
    turn: int = 0
    passed_over: int = 0
    shares: Mapping[str, Share] = field(default_factory=dict)

    def rank(self, head: QueueHead) -> tuple[int, int, int]:
        """The order of turns: earliest start, then the owner served least recently, then the place in line."""
        share = self.shares.get(head.owner, Share())
        return max(self.virtual, share.finish), share.turn, head.position

    def after(self, head: QueueHead, passed_over: bool, loaded: str) -> "FairShares":
        """The state once this head's job is taken by a worker that has ``loaded``."""
        start, turn = self.rank(head)[0], self.turn + 1
        return replace(
            self,
            virtual=start if not passed_over else self.virtual,
            turn=turn,
            passed_over=self.passed_over + passed_over if head.model == loaded else 0,
            shares={**self.shares, head.owner: Share(start + 1, turn)},
        )


def choose(heads: Iterable[QueueHead], turns: FairShares, loaded: str, streak: int) -> tuple[QueueHead, bool]:
    """(the head that runs next, whether others were passed over for it). ``heads`` must not be empty.

    Between two changes of model at most ``streak`` picks go to jobs whose turn it is not; then turns alone decide until
    one of them changes the model. The count belongs to the lane, so jobs of the other lane do not begin it anew.
    """
    line: Sequence[QueueHead] = sorted(heads, key=turns.rank)
    if line[0].model != loaded and turns.passed_over < streak:
        for head in line:
            if head.model == loaded:
                return head, True
    return line[0], False


BATCH_RANK = rows.LANE_RANKS[Lane.BATCH]
#: Jobs that only a gate holds back. By index: the planner would take jobs_by_state and sort every waiting job.
DUE = f"{by_index('jobs', 'jobs_due')} WHERE state = 'queued' AND held = 0 AND not_before IS NULL AND gate = :gate"
RUN = f"{DUE} AND lane = :lane AND priority = :priority"
HEADS = first_of_each(RUN, ("owner", "model"), "position", "id, owner, model, position")
#: As many as are wanted of one owner and model, of one gate.
RUN_OF = (
    f"SELECT id, owner, model, position FROM {RUN} AND owner = :owner AND model = :model ORDER BY position LIMIT :n"
)
#: A pause before another try is over, or longer than any: the clock was wrong when it began. Each half by the index.
LATER = f"{by_index('jobs', 'jobs_later')} WHERE state = 'queued' AND not_before"
RIPE = f"SELECT 1 FROM {LATER} <= :now UNION ALL SELECT 1 FROM {LATER} > :latest LIMIT 1"
RIPEN = tuple(
    f"UPDATE {by_index('jobs', 'jobs_later')} SET not_before = NULL WHERE state = 'queued' AND not_before {reached}"
    for reached in ("<= :now", "> :latest")
)


@dataclass(frozen=True, slots=True)
class BatchGate:
    """Times at which some batches may run: ``start_at`` (UTC, or empty) and a window (or empty)."""

    id: int
    window: str
    start_at: str

    def opens(self, now: datetime, zone: tzinfo, also: str = "") -> datetime | None:
        """The first moment from now on at which it and the window ``also`` are open; None where none is."""
        windows = tuple(schedule.parse_window(text) for text in (self.window, also) if text)
        try:
            return schedule.allowed_from(
                now, datetime.fromisoformat(self.start_at) if self.start_at else None, windows, zone
            )
        except InvalidParams:  # the queue's window was changed since
            return None

    def is_open(self, now: datetime, zone: tzinfo, also: str = "") -> bool:
        windows = (schedule.parse_window(text) for text in (self.window, also) if text)
        reached = not self.start_at or datetime.fromisoformat(self.start_at) <= now
        return reached and all(window.is_open(now, zone) for window in windows)


ALWAYS = BatchGate(0, "", "")


@dataclass(frozen=True, slots=True)
class OrderRules:
    """What holds for every look: whose local time windows are in, and how often a loaded model may go first."""

    zone: tzinfo = UTC
    streak: int = 16


class QueueOrder:
    """The line at one moment, within a transaction."""

    def __init__(self, db: Transaction, now: datetime, rules: OrderRules) -> None:
        self._db = db
        self._streak = rules.streak
        self._now, self._zone = now, rules.zone
        (self._window, self._resting), every = db.execute("SELECT window, resting FROM queue").fetchone(), gates(db)
        #: By lane: the gates that are open. The queue's own window is for the batch lane only.
        self._open = {
            lane: [
                gate.id for gate in every if gate.is_open(now, rules.zone, self._window if lane == BATCH_RANK else "")
            ]
            for lane in rows.LANES
        }

    def any_due(self) -> bool:
        return next(self._awake(), None) is not None

    def _awake(self) -> Iterator[tuple[int, int]]:
        """What of ``_groups`` may be taken now: none of the batch lane while the machine rests from it."""
        return ((lane, priority) for lane, priority in self._groups() if lane != BATCH_RANK or not self._resting)

    def closed(self) -> dict[int, str | None]:
        """When each gate opens that is closed to the batch lane, in UTC; None for one that never does."""
        shut = [gate for gate in gates(self._db) if gate.id not in self._open[BATCH_RANK]]
        opening = {gate.id: gate.opens(self._now, self._zone, self._window) for gate in shut}
        return {number: utc_text(at) if at else None for number, at in opening.items()}

    def _groups(self) -> Iterator[tuple[int, int]]:
        """(lane, priority) of all that is due, in the order in which they run."""
        for lane, open_gates in sorted(self._open.items()):
            below: int | None = 10**9
            while below is not None:
                found = [
                    self._db.scalar(
                        f"SELECT priority FROM {DUE} AND lane = :lane AND priority < :below "
                        "ORDER BY priority DESC LIMIT 1",
                        gate=gate,
                        lane=lane,
                        below=below,
                    )
                    for gate in open_gates
                ]
                below = max((priority for priority in found if priority is not None), default=None)
                if below is not None:
                    yield lane, below

    def next(self, loaded: str, lane: int | None = None) -> str | None:
        """The id of the job that is taken next, of one lane if that is told; that it is taken is written down here."""
        for group, priority in self._awake():
            if lane is not None and group != lane:
                continue
            turns = turns_of(self._db, group)
            head, passed_over = choose(self._heads(group, priority), turns, loaded, self._streak)
            write_turns(self._db, group, turns.after(head, passed_over, loaded), head.owner)
            return head.job_id
        return None

    def beside(self, lane: int, priority: int, model: str, suits: Callable[[str], bool]) -> str | None:
        """The first job, by turns, that can share a pass with one that was taken, written down as ``next`` does it.

        Owners whose next job cannot are passed over, as for the model that is loaded: each picture is charged to its
        owner, so they come first afterwards. None while anything goes before that lane and priority.
        """
        if next(self._awake(), None) != (lane, priority):
            return None
        turns = turns_of(self._db, lane)
        ranked = sorted(self._heads(lane, priority), key=turns.rank)
        for head in ranked:
            if head.model == model and suits(head.job_id):
                write_turns(self._db, lane, turns.after(head, head is not ranked[0], model), head.owner)
                return head.job_id
        return None

    def any_due_of(self, lane: int) -> bool:
        return any(group == lane for group, _ in self._awake())

    def upcoming(self, loaded: str, count: int) -> list[str]:
        """Ids of the jobs that one worker would take next, if nothing else came or went."""
        taken: list[str] = []
        lanes = {lane: turns_of(self._db, lane) for lane in rows.LANES}
        for lane, priority in self._groups():
            turns, runs = lanes[lane], self._runs(lane, priority, count - len(taken))
            while runs and len(taken) < count:
                head, passed_over = choose((run[0] for run in runs.values()), turns, loaded, self._streak)
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
        """The first ``count`` jobs of each owner and model, over all gates that are open."""
        found = {}
        for head in self._heads(lane, priority):
            values = {"lane": lane, "priority": priority, "owner": head.owner, "model": head.model, "n": count}
            run = [
                QueueHead(*row)
                for gate in self._open[lane]
                for row in self._db.execute(RUN_OF, values | {"gate": gate}).fetchall()
            ]
            found[head.owner, head.model] = deque(sorted(run, key=lambda each: each.position)[:count])
        return found

    def _heads(self, lane: int, priority: int) -> list[QueueHead]:
        """The first job of each owner and model, over all gates that are open."""
        first: dict[tuple[str, str], QueueHead] = {}
        for gate in self._open[lane]:
            for row in self._db.execute(HEADS, {"gate": gate, "lane": lane, "priority": priority}).fetchall():
                head = QueueHead(*row)
                known = first.get((head.owner, head.model))
                if known is None or head.position < known.position:
                    first[head.owner, head.model] = head
        return list(first.values())


def gates(db: Transaction) -> list[BatchGate]:
    return [ALWAYS, *(BatchGate(*row) for row in db.execute("SELECT id, window, start_at FROM gates").fetchall())]


def turns_of(db: Transaction, lane: int) -> FairShares:
    virtual, turn, passed_over = db.execute(
        "SELECT virtual, turn, passed_over FROM turns WHERE lane = ?", [lane]
    ).fetchone()
    found = db.execute("SELECT owner, finish, turn FROM shares WHERE lane = ?", [lane]).fetchall()
    return FairShares(virtual, turn, passed_over, {owner: Share(finish, number) for owner, finish, number in found})


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


def gate_of(db: Transaction, window: str, start_at: str | None) -> int:
    """The gate with these times; made if there is none."""
    if not window and not start_at:
        return ALWAYS.id
    times = {"window": window, "start_at": start_at or ""}
    db.execute("INSERT INTO gates (window, start_at) VALUES (:window, :start_at) ON CONFLICT DO NOTHING", times)
    return db.scalar("SELECT id FROM gates WHERE window = :window AND start_at = :start_at", **times)
