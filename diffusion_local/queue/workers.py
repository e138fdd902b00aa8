"""The workers table: slots and their workers. Informative only; the slot's file lock decides whether a worker lives."""

from datetime import UTC, datetime, timedelta

from diffusion_local.db import rows
from diffusion_local.db.database import Database
from diffusion_local.domain import DeviceMemory, Worker, utc_now

NONE_YET = DeviceMemory()
#: Workers report every few seconds; after this silence the page shows that one does not answer.
SILENCE = timedelta(seconds=20)


def is_silent(worker: Worker, now: datetime | None = None) -> bool:
    """Whether an active worker has not reported for a while. A time in the future counts as silence: the clock was
    wrong.
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
        with self._database.write() as db:
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

    def update(self, slot: str, status: str, model: str = "", free: int | None = None) -> None:
        """Update a worker's status. ``free``: bytes available for models; None keeps the last value."""
        with self._database.write() as db:
            db.execute(
                "UPDATE workers SET status = ?, model = ?, seen_at = ?, free_bytes = coalesce(?, free_bytes) "
                "WHERE slot = ?",
                [status, model, utc_now(), free, slot],
            )

    def heartbeat(self, slot: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE workers SET seen_at = ? WHERE slot = ?", [utc_now(), slot])

    def list_all(self) -> list[Worker]:
        with self._database.read() as db:
            return [rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")]
