"""User control of the queue: pause, reorder and clear it. Nothing here changes a job's state."""

from typing import Any

from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, in_list
from diffusion_local.db.row_access import writable
from diffusion_local.db.rows import not_found
from diffusion_local.domain import Receipt, State
from diffusion_local.errors import Conflict
from diffusion_local.messages import from_json, message, to_json
from diffusion_local.queue.jobs import FINISH, GIVE_BACK, OPEN, Selection
from diffusion_local.queue.submission import put_back

SET_PLACE = "UPDATE jobs SET position = ?, priority = ? WHERE id = ?"


class QueueControl:
    def __init__(self, database: Database) -> None:
        self._database = database

    def pause(self, batch_id: str | None = None, give_back: bool = False) -> None:
        """Start no further jobs of the queue, or of one batch, until ``resume``. Survives restarts.

        Running jobs are finished, or with ``give_back`` requeued at their next step.
        """
        self._set_paused(GIVE_BACK if give_back else FINISH, batch_id)

    def resume(self, batch_id: str | None = None) -> None:
        self._set_paused(OPEN, batch_id)

    def _set_paused(self, paused: int, batch_id: str | None) -> None:
        with self._database.write() as db:
            if batch_id is None:
                # Resuming also ends a rest of the batch lane.
                db.execute(
                    "UPDATE queue SET paused = :paused, resting = CASE WHEN :paused = 0 THEN '' ELSE resting END "
                    "WHERE id = 1",
                    {"paused": paused},
                )
                return
            if not db.execute("UPDATE batches SET paused = ? WHERE id = ?", [paused, batch_id]).rowcount:
                raise not_found(db, "batch", batch_id)
            # The batch's pause is copied to its jobs, so that a claim needs a single index look-up.
            db.execute(
                "UPDATE jobs SET held = ? WHERE batch_id = ? AND state IN ('queued', 'running')",
                [int(paused != OPEN), batch_id],
            )

    def set_window(self, window: str) -> None:
        """Start jobs of the batch lane only inside this window; "" for always."""
        with self._database.write() as db:
            db.execute("UPDATE queue SET window = ? WHERE id = 1", [window])

    def window(self) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT window FROM queue")

    def block(self, reason: str) -> None:
        """Start no jobs because of a fault of this machine; an empty reason unblocks the queue."""
        with self._database.write() as db:
            db.execute(
                "UPDATE queue SET blocked = :reason, blocked_json = :json WHERE id = 1 AND blocked != :reason",
                {"reason": reason, "json": to_json(reason)},
            )

    def set_rest(self, reason: str) -> None:
        """Start no jobs of the batch lane, to spare the hardware; an empty reason ends the rest."""
        with self._database.write() as db:
            db.execute(
                "UPDATE queue SET resting = :reason, resting_json = :json WHERE id = 1 AND resting != :reason",
                {"reason": reason, "json": to_json(reason)},
            )

    def announce_sleep(self, at: str) -> None:
        """Set the time (UTC) at which the machine will sleep or shut down; "" for none."""
        with self._database.write() as db:
            db.execute("UPDATE queue SET sleep_at = ? WHERE id = 1 AND sleep_at != ?", [at, at])

    def sleep_at(self) -> str:
        with self._database.read() as db:
            return db.scalar("SELECT sleep_at FROM queue")

    def idle_since(self, since: str) -> str | None:
        """When the last job ended, if the queue is empty and a job of the batch lane ended after ``since``; otherwise
        None.
        """
        with self._database.read() as db:
            if db.scalar("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"):
                return None
            batch = "SELECT 1 FROM jobs WHERE finished_at > :since AND lane = 1 LIMIT 1"
            if not db.scalar(batch, since=since):
                return None
            return db.scalar("SELECT max(finished_at) FROM jobs")

    def blocked_reason(self) -> str:
        [row] = self._database.fetch("SELECT blocked, blocked_json FROM queue")
        return from_json(row["blocked"], row["blocked_json"])

    def is_paused(self) -> bool:
        """Whether a user paused the queue."""
        with self._database.read() as db:
            return bool(db.scalar("SELECT paused FROM queue"))

    def set_priority(self, selection: Selection, priority: int) -> list[str]:
        """Set the priority of queued jobs; returns the ids of the changed ones."""
        where, values = selection.where()
        with self._database.write() as db:
            changed = db.query(
                f"UPDATE jobs SET priority = :priority WHERE state = 'queued' AND {where} RETURNING id",
                values | {"priority": priority},
            )
            return [row["id"] for row in changed]

    def move_to_top(self, selection: Selection) -> list[str]:
        """Move queued jobs to the front of their lane, keeping their relative order; returns their ids."""
        where, values = selection.where()
        with self._database.write() as db:
            chosen = queued_rows(db, where, values)
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
        """Move queued jobs to the end of their lane, keeping their relative order; returns their ids."""
        where, values = selection.where()
        with self._database.write() as db:
            chosen = queued_rows(db, where, values)
            last = db.scalar("SELECT max(position) FROM jobs") or 0
            lowest = {
                lane: db.scalar("SELECT min(priority) FROM jobs WHERE state = 'queued' AND lane = :lane", lane=lane)
                for lane in {row["lane"] for row in chosen}
            }
            places = [(last + place, lowest[row["lane"]], row["id"]) for place, row in enumerate(chosen, start=1)]
            db.execute_many(SET_PLACE, places)
            return [row["id"] for row in chosen]

    def move_batch(self, batch_id: str, before: str) -> list[str]:
        """Insert the queued jobs of ``batch_id`` directly before those of ``before``; returns their ids.

        The owner's other jobs between the two shift by one place and keep their order; jobs of other owners are not
        touched. Raises Conflict if the lanes differ.
        """
        where, values = Selection(batch_id=batch_id).where()
        others, other_values = Selection(batch_id=before).where()
        with self._database.write() as db:
            moved, passed = queued_rows(db, where, values), queued_rows(db, others, other_values)
            if not moved or not passed or batch_id == before:
                return []
            if {row["lane"] for row in moved} != {row["lane"] for row in passed}:
                raise Conflict(message("other_lanes"))
            owner = "owner = (SELECT owner FROM batches WHERE id = :batch_id) AND lane = :lane"
            lane = queued_rows(db, owner, {"batch_id": batch_id, "lane": moved[0]["lane"]})
            ids = {row["id"] for row in moved}
            rest = [row for row in lane if row["id"] not in ids]
            at = next(index for index, row in enumerate(rest) if row["id"] == passed[0]["id"])
            moves = [
                (place["position"], place["priority"], row["id"])
                for place, row in zip(lane, (*rest[:at], *moved, *rest[at:]), strict=True)
                if place["id"] != row["id"]
            ]
            db.execute_many(SET_PLACE, moves)
            return [row["id"] for row in moved]

    def move(self, job_id: str, up: bool) -> None:
        """Swap a queued job with the owner's next or previous one; a no-op at the end of the lane.

        Positions order the jobs of one owner only; between owners fair sharing decides.
        """
        with self._database.write() as db:
            place = queue_place(db, job_id)
            neighbour = adjacent_job(db, place, up)
            if neighbour is not None:
                swap = "UPDATE jobs SET priority = ?, position = ? WHERE id = ?"
                db.execute(swap, [neighbour[1], neighbour[2], job_id])
                db.execute(swap, [place["priority"], place["position"], neighbour[0]])

    def put_back(self, selection: Selection, together: bool, max_queued: int) -> list[Receipt]:
        """Undo the cancellation of jobs; ``together``: also of the jobs that were cancelled at the same moment.

        See ``submission.put_back``.
        """
        where, values = selection.where()
        if together:
            moments = f"SELECT finished_at FROM jobs WHERE state = 'cancelled' AND {where}"
            where = f"({where} OR state = 'cancelled' AND finished_at IN ({moments}) AND {writable()})"
        with self._database.write() as db:
            return put_back(db, where, values, max_queued)

    def delete_ended(self, selection: Selection) -> list[str]:
        """Delete jobs that have ended, with their history; their pictures stay in the gallery. Returns their ids."""
        where, values = selection.where()
        with self._database.write() as db:
            found = db.query(f"DELETE FROM jobs WHERE finished_at IS NOT NULL AND {where} RETURNING id", values)
            deleted = [row["id"] for row in found]
            db.execute(f"DELETE FROM job_events WHERE {in_list('job_id')}", {"ids": as_list(deleted)})
            db.execute("DELETE FROM batches WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE batch_id = batches.id)")
            return deleted

    def ids(self, selection: Selection, state: State) -> list[str]:
        """Ids of the selected jobs in one state, oldest first."""
        where, values = selection.where()
        with self._database.read() as db:
            found = db.query(f"SELECT id FROM jobs WHERE state = '{state}' AND {where} ORDER BY id", values)
            return [row["id"] for row in found]

    def not_resubmitted(self, selection: Selection, state: State) -> list[str]:
        """Ids of the selected jobs in one state that no later job was made from, oldest first."""
        where, values = selection.where()
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT id FROM jobs WHERE state = '{state}' AND {where} "
                "AND id NOT IN (SELECT from_job FROM jobs WHERE from_job IS NOT NULL) ORDER BY id",
                values,
            )
            return [row["id"] for row in rows_found]


def queued_rows(db: Transaction, where: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Queued jobs of a selection, in queue order."""
    waiting = f"SELECT id, lane, priority, position FROM jobs WHERE state = 'queued' AND {where}"
    return list(db.query(f"{waiting} ORDER BY lane, priority DESC, position", values))


def adjacent_job(db: Transaction, place: dict[str, int | str], up: bool) -> tuple[str, int, int] | None:
    """(id, priority, position) of the owner's adjacent job: of the same priority if there is one, else of the next."""
    nearer, order = ("<", "DESC") if up else (">", "ASC")
    further, priorities, positions = (">", "ASC", "DESC") if up else ("<", "DESC", "ASC")
    waiting = "SELECT id, priority, position FROM jobs WHERE state = 'queued' AND lane = :lane AND owner = :owner"
    for clause in (
        f"priority = :priority AND position {nearer} :position ORDER BY position {order}",
        f"priority {further} :priority ORDER BY priority {priorities}, position {positions}",
    ):
        found = db.execute(f"{waiting} AND {clause} LIMIT 1", place).fetchone()
        if found is not None:
            return found
    return None


def queue_place(db: Transaction, job_id: str) -> dict[str, int | str]:
    row = db.execute("SELECT state, lane, priority, position, owner FROM jobs WHERE id = ?", [job_id]).fetchone()
    if row is None:
        raise not_found(db, "job", job_id)
    if row[0] != State.QUEUED:
        raise Conflict(message("not_waiting", job=job_id, state=message(f"state_{row[0]}")))
    return {"lane": row[1], "priority": row[2], "position": row[3], "owner": row[4]}
