"""Leases: how workers on other machines hold their slots.

The studio's clock decides. A lease that is not renewed in time is expired, and the jobs of its slot are recovered as
those of a dead worker are; the attempt of each claim fences whatever such a worker still sends.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from diffusion_local.db.database import Database
from diffusion_local.domain import utc_text
from diffusion_local.errors import HomeInUse, LeaseLost
from diffusion_local.messages import message

#: A lease with more than this share of its time left is not written again.
FRESH_SHARE = 0.8

#: Digests (sha256) of files by kind ("models", or a kind of adapter) and by the name under which jobs name them.
Files = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Lease:
    """``account`` is whose credential took it; ``files`` are those that the worker has."""

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
        """Hold a slot; the session by which it is renewed. Raises HomeInUse while another session holds it."""
        now, session = datetime.now(UTC), secrets.token_urlsafe(16)
        with self._database.write() as db:
            expires = db.scalar("SELECT expires_at FROM leases WHERE slot = :slot", slot=slot)
            if expires is not None and datetime.fromisoformat(expires) > now:
                raise HomeInUse(message("slot_leased", slot=slot))
            row = {"slot": slot, "session": session, "account": account, "expires_at": self._end(now), "files": "{}"}
            db.upsert("leases", row, key=("slot",))
        return session

    def renew(self, slot: str, session: str) -> None:
        """Hold it for its whole time again. Raises LeaseLost if it expired and was taken or recovered since."""
        now = datetime.now(UTC)
        with self._database.read() as db:
            expires = db.scalar(
                "SELECT expires_at FROM leases WHERE slot = :slot AND session = :session", slot=slot, session=session
            )
        if expires is None:
            raise LeaseLost(message("lease_lost", slot=slot))
        if datetime.fromisoformat(expires) - now > FRESH_SHARE * self._time:
            return
        with self._database.write() as db:
            renewed = db.execute(
                "UPDATE leases SET expires_at = ? WHERE slot = ? AND session = ?", [self._end(now), slot, session]
            ).rowcount
        if not renewed:
            raise LeaseLost(message("lease_lost", slot=slot))

    def note_files(self, slot: str, files: Files) -> None:
        with self._database.write() as db:
            db.execute("UPDATE leases SET files = ? WHERE slot = ?", [json.dumps(files), slot])

    def release(self, slot: str, session: str) -> None:
        with self._database.write() as db:
            db.execute("DELETE FROM leases WHERE slot = ? AND session = ?", [slot, session])

    def get(self, slot: str) -> Lease | None:
        return next((lease for lease in self.all() if lease.slot == slot), None)

    def all(self) -> list[Lease]:
        with self._database.read() as db:
            return [
                Lease(row["slot"], row["session"], row["account"], row["expires_at"], json.loads(row["files"]))
                for row in db.query("SELECT * FROM leases ORDER BY slot")
            ]

    def expired(self) -> list[str]:
        """Slots whose time is over."""
        now = datetime.now(UTC)
        return [lease.slot for lease in self.all() if lease.expired(now)]

    def end(self, slot: str) -> bool:
        """End a lease whose time is over; whether there is one."""
        now = utc_text(datetime.now(UTC))
        with self._database.write() as db:
            return bool(db.execute("DELETE FROM leases WHERE slot = ? AND expires_at <= ?", [slot, now]).rowcount)

    def _end(self, now: datetime) -> str:
        return utc_text(now + self._time)
