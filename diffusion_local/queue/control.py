"""A person's hand on the queue: hold it, order it, clear it away. No verb here changes a job's state."""

from typing import Any

from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, in_list
from diffusion_local.db.rows import missing
from diffusion_local.domain import State
from diffusion_local.errors import Conflict
from diffusion_local.messages import decoded, encoded, message
from diffusion_local.queue.jobs import FINISH, GIVE_BACK, OPEN, Selection

SET_PLACE = "UPDATE jobs SET position = ?, priority = ? WHERE id = ?"


class QueueControl:
    def __init__(self, database: Database) -> None:
        self._database = database

    def pause(self, batch_id: str | None = None, give_back: bool = False) -> None:
        """Hand out no further jobs, of the queue or of one batch, until ``resume``; kept over restarts.

        Running pictures are finished, or given back at their next step.
        """
        self._set_paused(GIVE_BACK if give_back else FINISH, batch_id)

    def resume(self, batch_id: str | None = None) -> None:
        self._set_paused(OPEN, batch_id)

    def _set_paused(self, paused: int, batch_id: str | None) -> None:
        with self._database.write() as db:
            if batch_id is None:
                # To resume is also to say that the batch lane need not rest any more.
                db.execute(
                    "UPDATE queue SET paused = :paused, resting = CASE WHEN :paused = 0 THEN '' ELSE resting END "
                    "WHERE id = 1",
                    {"paused": paused},
                )
                return
            if not db.execute("UPDATE batches SET paused = ? WHERE id = ?", [paused, batch_id]).rowcount:
                raise missing(db, "batch", batch_id)
            # The batch's pause is copied to its jobs, so that `claim_next` stays one look into one index.
            db.execute(
                "UPDATE jobs SET held = ? WHERE batch_id = ? AND state IN ('queued', 'running')",
                [int(paused != OPEN), batch_id],
            )

    def set_window(self, window: str) -> None:
        """Hand out jobs of the batch lane inside this window only; empty is always."""
        with self._database.write() as db:
            db.execute("UPDATE queue SET window = ? WHERE id = 1", [window])

    def window(self) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT window FROM queue")

    def block(self, reason: str) -> None:
        """Hand out no further jobs for a reason of the machine's own; an empty reason opens the queue again."""
        with self._database.write() as db:
            db.execute(
                "UPDATE queue SET blocked = :reason, blocked_json = :json WHERE id = 1 AND blocked != :reason",
                {"reason": reason, "json": encoded(reason)},
            )

    def rest(self, reason: str) -> None:
        """Hand out no further jobs of the batch lane, to spare the machine; an empty reason ends the rest."""
        with self._database.write() as db:
            db.execute(
                "UPDATE queue SET resting = :reason, resting_json = :json WHERE id = 1 AND resting != :reason",
                {"reason": reason, "json": encoded(reason)},
            )

    def announce_sleep(self, at: str) -> None:
        """Say when the machine goes to sleep, or off (UTC); empty: it does not."""
        with self._database.write() as db:
            db.execute("UPDATE queue SET sleep_at = ? WHERE id = 1 AND sleep_at != ?", [at, at])

    def sleep_at(self) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT sleep_at FROM queue")

    def lists_done_at(self, since: str) -> str | None:
        """When the last job ended, if nothing waits or runs and a job of the batch lane ended after ``since``."""
        with self._database.read() as db:
            if db.scalar("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"):
                return None
            batch = "SELECT 1 FROM jobs WHERE finished_at > :since AND lane = 1 LIMIT 1"
            if not db.scalar(batch, since=since):
                return None
            return db.scalar("SELECT max(finished_at) FROM jobs")

    def blocked(self) -> str:
        with self._database.read() as db:
            return decoded(*db.execute("SELECT blocked, blocked_json FROM queue").fetchone())

    def closed(self) -> bool:
        """Whether a person paused the queue."""
        with self._database.read() as db:
            return bool(db.scalar("SELECT paused FROM queue"))

    def set_priority(self, selection: Selection, priority: int) -> list[str]:
        """Give waiting jobs another priority; ids of those it reached."""
        where, values = selection.where()
        with self._database.write() as db:
            found = db.query(
                f"UPDATE jobs SET priority = :priority WHERE state = 'queued' AND {where} RETURNING id",
                values | {"priority": priority},
            )
            return [row["id"] for row in found]

    def move_to_top(self, selection: Selection) -> list[str]:
        """Put waiting jobs before all others of their lane, keeping their own order; their ids."""
        where, values = selection.where()
        with self._database.write() as db:
            chosen = in_line(db, where, values)
            first = (db.scalar("SELECT min(position) FROM jobs") or 0) - len(chosen)
            highest = {
                lane: db.scalar("SELECT max(priority) FROM jobs WHERE state = 'queued' AND lane = :lane", lane=lane)
                for lane in {row["lane"] for row in chosen}
            }
            db.execute_many(
                SET_PLACE,
                [(first + place, highest[row["lane"]], row["id"]) for place, row in enumerate(chosen)],
            )
            return [row["id"] for row in chosen]

    def move_to_bottom(self, selection: Selection) -> list[str]:
        """Put waiting jobs behind all others of their lane, keeping their own order; their ids."""
        where, values = selection.where()
        with self._database.write() as db:
            chosen = in_line(db, where, values)
            last = db.scalar("SELECT max(position) FROM jobs") or 0
            lowest = {
                lane: db.scalar("SELECT min(priority) FROM jobs WHERE state = 'queued' AND lane = :lane", lane=lane)
                for lane in {row["lane"] for row in chosen}
            }
            places = [(last + place, lowest[row["lane"]], row["id"]) for place, row in enumerate(chosen, start=1)]
            db.execute_many(SET_PLACE, places)
            return [row["id"] for row in chosen]

    def move_batch(self, batch_id: str, before: str) -> list[str]:
        """Let what waits of a batch and of another of its lane change places, the batch first; ids of what waits of it.

        The two share out the places that they have, so that nobody else's changes. Raises Conflict.
        """
        where, values = Selection(batch_id=batch_id).where()
        others, other_values = Selection(batch_id=before).where()
        with self._database.write() as db:
            moved, passed = in_line(db, where, values), in_line(db, others, other_values)
            if {row["lane"] for row in moved} != {row["lane"] for row in passed}:
                raise Conflict(message("other_lanes"))
            places = sorted((-row["priority"], row["position"]) for row in (*moved, *passed))
            given = [
                (position, -priority, row["id"])
                for (priority, position), row in zip(places, (*moved, *passed), strict=True)
            ]
            db.execute_many(SET_PLACE, given)
            return [row["id"] for row in moved]

    def move(self, job_id: str, up: bool) -> None:
        """Swap a waiting job with its owner's next one in line; nothing happens at the end of its lane.

        Only positions of one owner say what runs before what; between owners it is a matter of turns.
        """
        with self._database.write() as db:
            own = place_of(db, job_id)
            neighbour = neighbour_of(db, own, up)
            if neighbour is not None:
                swap = "UPDATE jobs SET priority = ?, position = ? WHERE id = ?"
                db.execute(swap, [neighbour[1], neighbour[2], job_id])
                db.execute(swap, [own["priority"], own["position"], neighbour[0]])

    def delete_ended(self, selection: Selection) -> list[str]:
        """Forget jobs that have ended, with their history; their pictures stay in the gallery."""
        where, values = selection.where()
        with self._database.write() as db:
            found = db.query(f"DELETE FROM jobs WHERE finished_at IS NOT NULL AND {where} RETURNING id", values)
            gone = [row["id"] for row in found]
            db.execute(f"DELETE FROM job_events WHERE {in_list('job_id')}", {"ids": as_list(gone)})
            db.execute("DELETE FROM batches WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE batch_id = batches.id)")
            return gone

    def ids(self, selection: Selection, state: State) -> list[str]:
        """Ids of the selected jobs in one state, oldest first."""
        where, values = selection.where()
        with self._database.read() as db:
            found = db.query(f"SELECT id FROM jobs WHERE state = '{state}' AND {where} ORDER BY id", values)
            return [row["id"] for row in found]

    def not_made_again(self, selection: Selection, state: State) -> list[str]:
        """Ids of the selected jobs in one state that no later job was made from, oldest first."""
        where, values = selection.where()
        with self._database.read() as db:
            found = db.query(
                f"SELECT id FROM jobs WHERE state = '{state}' AND {where} "
                "AND id NOT IN (SELECT from_job FROM jobs WHERE from_job IS NOT NULL) ORDER BY id",
                values,
            )
            return [row["id"] for row in found]


def in_line(db: Transaction, where: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What waits of a selection, in its order."""
    waiting = f"SELECT id, lane, priority, position FROM jobs WHERE state = 'queued' AND {where}"
    return list(db.query(f"{waiting} ORDER BY lane, priority DESC, position", values))


def neighbour_of(db: Transaction, own: dict[str, int | str], up: bool) -> tuple[str, int, int] | None:
    """(id, priority, position) of the job next in line: of the same priority, else of the next."""
    nearer, order = ("<", "DESC") if up else (">", "ASC")
    further, priorities, positions = (">", "ASC", "DESC") if up else ("<", "DESC", "ASC")
    waiting = "SELECT id, priority, position FROM jobs WHERE state = 'queued' AND lane = :lane AND owner = :owner"
    for rest in (
        f"priority = :priority AND position {nearer} :position ORDER BY position {order}",
        f"priority {further} :priority ORDER BY priority {priorities}, position {positions}",
    ):
        found = db.execute(f"{waiting} AND {rest} LIMIT 1", own).fetchone()
        if found is not None:
            return found
    return None


def place_of(db: Transaction, job_id: str) -> dict[str, int | str]:
    row = db.execute("SELECT state, lane, priority, position, owner FROM jobs WHERE id = ?", [job_id]).fetchone()
    if row is None:
        raise missing(db, "job", job_id)
    if row[0] != State.QUEUED:
        raise Conflict(message("not_waiting", job=job_id, state=message(f"state_{row[0]}")))
    return {"lane": row[1], "priority": row[2], "position": row[3], "owner": row[4]}
