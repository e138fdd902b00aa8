"""The outbox: what happened that others may want to hear of, written by triggers in the same transaction."""

from dataclasses import dataclass

from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now

EVENTS = ("batch.done", "job.failed", "queue.idle", "queue.paused")


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened. ``note`` is the kind of a job's failure, or why the queue holds itself back."""

    id: int
    event: str
    batch_id: str
    job_id: str
    note: str
    at: str


class NoticeStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def untold(self, limit: int = 100) -> list[Notice]:
        """The oldest that nobody was told of yet."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM notices WHERE told_at IS NULL ORDER BY id LIMIT ?", [limit])
            return [Notice(*(row[name] for name in Notice.__slots__)) for row in found]

    def any_untold(self) -> bool:
        with self._database.read() as db:
            return db.scalar("SELECT 1 FROM notices WHERE told_at IS NULL LIMIT 1") is not None

    def note(self, event: str) -> Notice:
        """Write one by hand, told already: for a test."""
        with self._database.write() as db:
            now = utc_now()
            [made] = db.query(
                "INSERT INTO notices (event, at, told_at) VALUES (?, ?, ?) RETURNING id", [event, now, now]
            )
            return Notice(made["id"], event, "", "", "", now)

    def drop(self, notice: Notice) -> None:
        """Nobody needs to hear of it any more."""
        with self._database.write() as db:
            db.execute("UPDATE notices SET told_at = ? WHERE id = ? AND told_at IS NULL", [utc_now(), notice.id])

    def told_before(self, notice: Notice) -> str | None:
        """When the same event was told last before this one."""
        with self._database.read() as db:
            return db.scalar(
                "SELECT max(n.told_at) FROM notices AS n JOIN deliveries ON deliveries.notice = n.id "
                "WHERE n.event = :event AND n.id < :id",
                event=notice.event,
                id=notice.id,
            )

    def superseded(self, notice: Notice) -> bool:
        """Whether the same event happened again after this one."""
        with self._database.read() as db:
            later = "SELECT 1 FROM notices WHERE event = :event AND id > :id LIMIT 1"
            return db.scalar(later, event=notice.event, id=notice.id) is not None

    def busy(self) -> bool:
        """Whether any job waits or runs."""
        with self._database.read() as db:
            return db.scalar("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1") is not None

    def forget(self, before: str) -> int:
        """Delete what was told, and its ended deliveries, from before a time."""
        with self._database.write() as db:
            db.execute("DELETE FROM deliveries WHERE created_at < ? AND state IN ('delivered', 'failed')", [before])
            return db.execute(
                "DELETE FROM notices WHERE at < ? AND told_at IS NOT NULL AND NOT EXISTS "
                "(SELECT 1 FROM deliveries WHERE notice = notices.id)",
                [before],
            ).rowcount
