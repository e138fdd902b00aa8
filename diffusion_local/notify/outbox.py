"""The outbox: events to notify about, written by database triggers in the transaction of the change."""

from dataclasses import dataclass

from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now

EVENTS = ("batch.done", "job.failed", "queue.idle", "queue.paused")


@dataclass(frozen=True, slots=True)
class Notice:
    """One event. ``note``: the kind of a job's failure, or the reason why the queue is blocked."""

    id: int
    event: str
    batch_id: str
    job_id: str
    note: str
    at: str


class NoticeStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def unhandled(self, limit: int = 100) -> list[Notice]:
        """The oldest notifications that have not been handled."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM notices WHERE told_at IS NULL ORDER BY id LIMIT ?", [limit])
            return [Notice(*(row[name] for name in Notice.__slots__)) for row in found]

    def any_unhandled(self) -> bool:
        with self._database.read() as db:
            return db.scalar("SELECT 1 FROM notices WHERE told_at IS NULL LIMIT 1") is not None

    def add_handled(self, event: str) -> Notice:
        """Insert a notification that is already handled, for a trial message."""
        with self._database.write() as db:
            now = utc_now()
            [made] = db.query(
                "INSERT INTO notices (event, at, told_at) VALUES (?, ?, ?) RETURNING id", [event, now, now]
            )
            return Notice(made["id"], event, "", "", "", now)

    def drop(self, notice: Notice) -> None:
        """Mark a notification as handled without delivering it."""
        with self._database.write() as db:
            db.execute("UPDATE notices SET told_at = ? WHERE id = ? AND told_at IS NULL", [utc_now(), notice.id])

    def previous_at(self, notice: Notice) -> str | None:
        """When the previous notification of the same event was handled."""
        with self._database.read() as db:
            return db.scalar(
                "SELECT max(n.told_at) FROM notices AS n JOIN deliveries ON deliveries.notice = n.id "
                "WHERE n.event = :event AND n.id < :id",
                event=notice.event,
                id=notice.id,
            )

    def superseded(self, notice: Notice) -> bool:
        """Whether the same event occurred again later."""
        with self._database.read() as db:
            later = "SELECT 1 FROM notices WHERE event = :event AND id > :id LIMIT 1"
            return db.scalar(later, event=notice.event, id=notice.id) is not None

    def busy(self) -> bool:
        """Whether any job is queued or running."""
        with self._database.read() as db:
            return db.scalar("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1") is not None

    def delete_old(self, before: str) -> int:
        """Delete handled notifications and ended deliveries older than ``before``; returns the number of
        notifications.
        """
        with self._database.write() as db:
            db.execute("DELETE FROM deliveries WHERE created_at < ? AND state IN ('delivered', 'failed')", [before])
            return db.execute(
                "DELETE FROM notices WHERE at < ? AND told_at IS NOT NULL AND NOT EXISTS "
                "(SELECT 1 FROM deliveries WHERE notice = notices.id)",
                [before],
            ).rowcount
