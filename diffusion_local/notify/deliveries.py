"""Notifications: the outbox of events, which database triggers fill in the transaction of the change, and the log of
their deliveries to receivers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from diffusion_local.db.database import Database
from diffusion_local.domain import new_id, utc_now, utc_text
from diffusion_local.errors import Conflict, NotFound, echo
from diffusion_local.messages import message

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


HOOK = "hook:"  # prefix of receivers that are command hooks of config.toml
NO_FACTS: Mapping[str, str] = {}
#: Due deliveries, with the owner of their batch.
DUE_DELIVERIES = (
    "FROM deliveries AS d LEFT JOIN notices AS n ON n.id = d.notice LEFT JOIN batches AS b ON b.id = n.batch_id "
    "WHERE d.state = 'waiting' AND (d.next_try_at <= ? OR d.next_try_at > ?)"
)
MAX_DELAY_SECONDS = 12 * 3600.0  # longest delay between two attempts; see MAX_TRIES


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification to one receiver. ``status``: of the last response; ``tries_left``: remaining attempts."""

    id: str
    event: str
    receiver: str
    payload: str
    state: str  # waiting, sending, delivered, failed
    attempts: int
    tries_left: int
    status: int | None
    answer: str
    error: str
    created_at: str
    tried_at: str | None
    next_try_at: str | None


class DeliveryStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, notice: Notice, payload: str, tries: dict[str, int], own: Mapping[str, str] = NO_FACTS) -> list[str]:
        """Add one delivery per receiver (``tries``: attempts by receiver) and mark the notification handled, in one
        transaction.

        ``own``: payloads for receivers that get a different one. A receiver that already has this notification gets no
        second one. Returns the ids of the new deliveries.
        """
        now, ids = utc_now(), []
        with self._database.write() as db:
            for receiver, tries_left in tries.items():
                delivery_id = new_id()
                added = db.execute(
                    "INSERT INTO deliveries (id, notice, event, receiver, payload, state, tries_left, "
                    "created_at, next_try_at) VALUES (?, ?, ?, ?, ?, 'waiting', ?, ?, ?) ON CONFLICT DO NOTHING",
                    [
                        delivery_id,
                        notice.id,
                        notice.event,
                        receiver,
                        own.get(receiver, payload),
                        tries_left,
                        now,
                        now,
                    ],
                ).rowcount
                ids += [delivery_id] if added else []
            db.execute("UPDATE notices SET told_at = ? WHERE id = ? AND told_at IS NULL", [now, notice.id])
        return ids

    def take(self, delivery_id: str) -> Delivery | None:
        """Claim a due delivery for an attempt; None if it is not due, is being sent, or has ended."""
        soon = utc_text(datetime.now(UTC) + timedelta(seconds=1))
        with self._database.write() as db:
            taken = list(
                db.query(
                    "UPDATE deliveries SET state = 'sending', attempts = attempts + 1, tries_left = tries_left - 1, "
                    "next_try_at = NULL, tried_at = ? WHERE id = ? AND state = 'waiting' "
                    "AND (next_try_at <= ? OR next_try_at > ?) RETURNING *",
                    [utc_now(), delivery_id, soon, latest_valid()],
                )
            )
        return to_delivery(taken[0]) if taken else None

    def settle(
        self, delivery_id: str, delivered: bool, status: int | None, answer: str, error: str, again_at: str | None
    ) -> None:
        """Record the result of an attempt. ``again_at``: when the next attempt is due, if any."""
        state = "delivered" if delivered else "waiting" if again_at else "failed"
        with self._database.write() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, status = ?, answer = ?, error = ?, next_try_at = ? "
                "WHERE id = ? AND state = 'sending'",
                [state, status, answer, error, again_at, delivery_id],
            )

    def recover(self) -> None:
        """Make interrupted deliveries due again; call at startup of the delivering process.

        Command hooks are not retried: they may have run already.
        """
        now = utc_now()
        with self._database.write() as db:
            db.execute(
                "UPDATE deliveries SET state = 'failed', error = 'stopped while it ran' "
                f"WHERE state = 'sending' AND (receiver LIKE '{HOOK}%' OR tries_left < 1)"
            )
            db.execute("UPDATE deliveries SET state = 'waiting', next_try_at = ? WHERE state = 'sending'", [now])

    def due_receivers(self) -> list[tuple[str, str]]:
        """(receiver, owner of the batch) pairs with due deliveries, longest overdue first."""
        with self._database.read() as db:
            due = db.execute(
                f"SELECT d.receiver, coalesce(b.owner, '') AS account {DUE_DELIVERIES} GROUP BY 1, 2 "
                "ORDER BY min(d.next_try_at)",
                [utc_now(), latest_valid()],
            )
            return [(row[0], row[1]) for row in due.fetchall()]

    def next_due(self, receiver: str, account: str) -> tuple[str, int] | None:
        """(id, attempts left) of the receiver's longest overdue delivery, or None."""
        with self._database.read() as db:
            cursor = db.execute(
                f"SELECT d.id, d.tries_left {DUE_DELIVERIES} AND d.receiver = ? AND coalesce(b.owner, '') = ? "
                "ORDER BY d.next_try_at, d.id LIMIT 1",
                [utc_now(), latest_valid(), receiver, account],
            )
            row = cursor.fetchone()
            return (row[0], row[1]) if row else None

    def resend(self, delivery_id: str, tries: int) -> Delivery:
        """Make a delivery due again. Raises NotFound, and Conflict while it is being sent."""
        with self._database.write() as db:
            changed = list(
                db.query(
                    "UPDATE deliveries SET state = 'waiting', next_try_at = ?, tries_left = ?, error = '' "
                    "WHERE id = ? AND state != 'sending' RETURNING *",
                    [utc_now(), tries, delivery_id],
                )
            )
        if not changed:
            self.get(delivery_id)
            raise Conflict(message("delivery_going", delivery=delivery_id))
        return to_delivery(changed[0])

    def get(self, delivery_id: str) -> Delivery:
        with self._database.read() as db:
            for row in db.query("SELECT * FROM deliveries WHERE id = ?", [delivery_id]):
                return to_delivery(row)
        raise NotFound(message("no_delivery", delivery=echo(delivery_id)))

    def page(self, limit: int, before: str | None = None, state: str | None = None) -> Sequence[Delivery]:
        """Deliveries, newest first. ``before``: last id of the previous page."""
        where, values = ["true"], []
        for clause, value in (("id < ?", before), ("state = ?", state)):
            if value:
                where.append(clause)
                values.append(value)
        with self._database.read() as db:
            found = db.query(
                f"SELECT * FROM deliveries WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?", [*values, limit]
            )
            return [to_delivery(row) for row in found]


def latest_valid() -> str:
    """Latest plausible time of a next attempt; a later one was computed while the clock was wrong."""
    return utc_text(datetime.now(UTC) + timedelta(seconds=MAX_DELAY_SECONDS))


def to_delivery(row: dict[str, Any]) -> Delivery:
    return Delivery(*(row[name] for name in Delivery.__slots__))
