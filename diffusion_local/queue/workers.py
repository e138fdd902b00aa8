"""The workers table: who holds which slot. It only informs; whether a worker lives is told by its slot's lock."""

from datetime import UTC, datetime, timedelta

from diffusion_local.db import rows
from diffusion_local.db.database import Database
from diffusion_local.domain import DeviceMemory, Worker, utc_now

NONE_YET = DeviceMemory()
#: A worker reports that it is alive every few seconds; after this silence the page says that it does not answer.
SILENT = timedelta(seconds=20)


def silent(worker: Worker, now: datetime | None = None) -> bool:
    """Whether a worker that should be there has not been heard of for a while. A time that is still to come counts as
    long ago: the clock was wrong when it was written."""
    return (
        worker.status != "stopped" and abs((now or datetime.now(UTC)) - datetime.fromisoformat(worker.seen_at)) > SILENT
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

    def tell(self, slot: str, status: str, model: str = "", free: int | None = None) -> None:
        """Say what the worker does now; ``free`` are the bytes that models may take, None leaves what was told."""
        with self._database.write() as db:
            db.execute(
                "UPDATE workers SET status = ?, model = ?, seen_at = ?, free_bytes = coalesce(?, free_bytes) "
                "WHERE slot = ?",
                [status, model, utc_now(), free, slot],
            )

    def seen(self, slot: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE workers SET seen_at = ? WHERE slot = ?", [utc_now(), slot])

    def all(self) -> list[Worker]:
        with self._database.read() as db:
            return [rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")]
