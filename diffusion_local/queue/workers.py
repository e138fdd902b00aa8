"""The workers table, and the leases by which workers on other machines hold their slots.

Rows of workers are informative only; a slot's file lock decides whether a local worker is alive. Leases expire by the
studio's clock: if one is not renewed in time, the jobs of its slot are recovered like those of a dead worker, and the
attempt number in each claim fences off late writes.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from diffusion_local.db import rows
from diffusion_local.db.database import Database
from diffusion_local.domain import Condition, DeviceMemory, Worker, utc_now, utc_text
from diffusion_local.errors import HomeInUse, LeaseLost
from diffusion_local.messages import message
from diffusion_local.queue import work_hours
from diffusion_local.queue.machines import stored_problem

NONE_YET = DeviceMemory()
#: Workers report every few seconds; after this silence the page shows a worker as not responding.
SILENCE = timedelta(seconds=20)
#: A lease with more than this share of its time left is not written again.
FRESH_SHARE = 0.8
LEASES = "SELECT * FROM leases WHERE session != ''"


def is_silent(worker: Worker, now: datetime | None = None) -> bool:
    """Whether an active worker has not reported for SILENCE.

    A time further in the future also counts as silence: the clock was wrong.
    """
    return (
        worker.status != "stopped"
        and abs((now or datetime.now(UTC)) - datetime.fromisoformat(worker.seen_at)) > SILENCE
    )


class WorkerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, slot: str, pid: int, device: str, room: DeviceMemory = NONE_YET) -> None:
        now = utc_now()
        with self._database.write(patient=True) as db:
            db.upsert(
                "workers",
                {
                    "slot": slot,
                    "pid": pid,
                    "device": device,
                    "status": "starting",
                    "model": "",
                    "started_at": now,
                    "seen_at": now,
                    "type": room.type,
                    "memory_bytes": room.bytes,
                    "bf16": room.bf16,
                },
                key=("slot",),
            )
            work_hours.disturb(db, slot)

    def update(self, slot: str, status: str, model: str = "", free: int | None = None) -> None:
        """Update a worker's status. ``free``: bytes available for models; None keeps the last value.

        A worker that runs out of due jobs or stops is no longer accounted for (see ``work_hours``), except while the
        batch lane rests.
        """
        values = {"slot": slot, "status": status, "model": model, "free": free, "now": utc_now()}
        with self._database.write(patient=True) as db:
            if db.scalar("SELECT resting FROM queue") and status == "idle":
                work_hours.disturb(db, slot)
            elif status in ("idle", "stopped"):
                work_hours.end_work(db, slot)
            db.execute(
                "UPDATE workers SET status = :status, model = :model, seen_at = :now, "
                "free_bytes = coalesce(:free, free_bytes) WHERE slot = :slot",
                values,
            )

    def lost(self, slot: str) -> None:
        """Record that a worker is dead: its status becomes stopped."""
        with self._database.write(patient=True) as db:
            db.execute("UPDATE workers SET status = 'stopped', model = '' WHERE slot = ?", [slot])

    def heartbeat(self, slot: str) -> None:
        with self._database.write(patient=True) as db:
            db.execute("UPDATE workers SET seen_at = ? WHERE slot = ?", [utc_now(), slot])

    def list_all(self) -> list[Worker]:
        with self._database.read() as db:
            return [rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")]


#: SHA-256 digests of files by kind ("models", or a kind of adapter) and by their name in jobs.
Files = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot held by a remote worker. ``account``: owner of its credential; ``files``: digests of its model files."""

    slot: str
    session: str
    account: str
    expires_at: str
    files: Files

    def expired(self, now: datetime) -> bool:
        return datetime.fromisoformat(self.expires_at) <= now


class LeaseStore:
    def __init__(self, database: Database, seconds: float) -> None:
        """A lease lasts for ``seconds`` from each renewal."""
        self._database = database
        self._time = timedelta(seconds=seconds)

    def take(self, slot: str, account: str) -> str:
        """Take a slot; returns the session that renews the lease. Raises HomeInUse while another session holds it."""
        now, session = datetime.now(UTC), secrets.token_urlsafe(16)
        with self._database.write(patient=True) as db:
            expires = db.scalar("SELECT expires_at FROM leases WHERE slot = :slot", slot=slot)
            if expires is not None and now < datetime.fromisoformat(expires) <= now + self._time:
                raise HomeInUse(message("slot_leased", slot=slot))
            row: dict[str, Any] = {
                "slot": slot,
                "session": session,
                "account": account,
                "expires_at": self._end(now),
                "files": "{}",
            }
            row |= {"temperature": None, "shared_at": None, "problem": "", "hung": ""}
            db.upsert("leases", row, key=("slot",))
        return session

    def renew(self, slot: str, session: str) -> None:
        """Extend a lease to its full duration. Raises LeaseLost if it expired and was taken or recovered since."""
        now = datetime.now(UTC)
        held = "SELECT expires_at FROM leases WHERE slot = ? AND session = ?"
        for row in self._database.fetch(held, [slot, session]):
            if FRESH_SHARE * self._time < datetime.fromisoformat(row["expires_at"]) - now <= self._time:
                return
        with self._database.write(patient=True) as db:
            renewed = db.execute(
                "UPDATE leases SET expires_at = ? WHERE slot = ? AND session = ?", [self._end(now), slot, session]
            ).rowcount
        if not renewed:
            raise self._lost(slot, session)

    def renew_all(self) -> None:
        """Extend every lease to its full duration, after the studio was not running or its clock was changed."""
        with self._database.write(patient=True) as db:
            db.execute("UPDATE leases SET expires_at = ? WHERE session != ''", [self._end(datetime.now(UTC))])

    def end_hung(self, slot: str) -> bool:
        """End the lease of a hung worker, whose next call will report it; returns whether there was one."""
        with self._database.write(patient=True) as db:
            ended = "UPDATE leases SET hung = session, session = '', expires_at = ? WHERE slot = ? AND session != ''"
            return bool(db.execute(ended, [utc_text(datetime.now(UTC)), slot]).rowcount)

    def note_condition(self, slot: str, condition: Condition, shared_limit: int) -> None:
        """Record the condition from a heartbeat. A GPU is shared if other programs use over ``shared_limit`` bytes."""
        columns = {"temperature": condition.temperature, "problem": stored_problem(condition.problem)}
        if condition.shared_bytes > shared_limit:
            columns["shared_at"] = utc_text(datetime.now(UTC))
        with self._database.read() as db:
            known = next(iter(db.query("SELECT * FROM leases WHERE slot = ?", [slot])), {})
        if any(known.get(name) != value for name, value in columns.items()):
            sets = ", ".join(f"{name} = :{name}" for name in columns)
            with self._database.write(patient=True) as db:
                db.execute(f"UPDATE leases SET {sets} WHERE slot = :slot", columns | {"slot": slot})

    def note_files(self, slot: str, files: Files) -> None:
        with self._database.write(patient=True) as db:
            db.execute("UPDATE leases SET files = ? WHERE slot = ?", [json.dumps(files), slot])

    def release(self, slot: str, session: str) -> None:
        with self._database.write(patient=True) as db:
            db.execute("DELETE FROM leases WHERE slot = ? AND session = ?", [slot, session])

    def get(self, slot: str) -> Lease | None:
        return next(map(to_lease, self._database.fetch(f"{LEASES} AND slot = ?", [slot])), None)

    def all(self) -> list[Lease]:
        """All leases except those of hung workers."""
        with self._database.read() as db:
            return [to_lease(row) for row in db.query(f"{LEASES} ORDER BY slot")]

    def expired(self) -> list[str]:
        """Slots whose leases have expired."""
        now = datetime.now(UTC)
        return [lease.slot for lease in self.all() if lease.expired(now)]

    def end(self, slot: str) -> bool:
        """Delete an expired lease; returns whether there was one. A hung worker's row is kept for its next call."""
        now = utc_text(datetime.now(UTC))
        with self._database.write(patient=True) as db:
            over = "slot = ? AND expires_at <= ? AND session != ''"
            return bool(db.execute(f"DELETE FROM leases WHERE {over}", [slot, now]).rowcount)

    def _lost(self, slot: str, session: str) -> LeaseLost:
        with self._database.read() as db:
            hung = db.scalar("SELECT hung FROM leases WHERE slot = :slot", slot=slot)
        return LeaseLost(message("worker_hung" if hung and hung == session else "lease_lost", slot=slot))

    def _end(self, now: datetime) -> str:
        return utc_text(now + self._time)


def to_lease(row: dict[str, Any]) -> Lease:
    return Lease(row["slot"], row["session"], row["account"], row["expires_at"], json.loads(row["files"]))
