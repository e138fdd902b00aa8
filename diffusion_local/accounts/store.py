"""The tables of accounts: tokens and sessions (digests, never secrets), quotas, and failed sign-ins.

Quotas are checked in the transaction that inserts the jobs, so that concurrent submits cannot both fit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from diffusion_local import actor
from diffusion_local.actor import SCOPES, Actor, Allowance, Role, Scope
from diffusion_local.db.database import Database, Transaction
from diffusion_local.domain import Job, new_id, utc_now, utc_text
from diffusion_local.errors import Conflict, InvalidParams, LimitReached, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.options.table import Params

KNOWN_DAYS = 180  # how long a browser or network is remembered after its last sign-in
MAX_DEVICES = 50  # per account; the least recently used is dropped
MAX_KEYS = 20_000  # keys; the oldest are dropped
RETRY_SECONDS = 30  # seconds until a retry is worthwhile
#: Field of ``Allowance`` -> column of an account's limit.
QUOTA_COLUMNS = {"queued": "max_queued", "per_day": "max_per_day", "pixels": "max_pixels"}
MOST_SESSIONS = 50  # per account; the least recently used is dropped


class SignIns:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- failed ones -----------------------------------------------------------------------------------------------

    def count(self, limits: dict[str, int], now: float, window: float) -> float:
        """Count one more attempt per key, before the password is checked.

        Returns 0, or the seconds to wait if a key has reached its limit within ``window`` seconds; in that case nothing
        is counted. ``now``: seconds since the epoch. Keys older than the window are deleted.
        """
        with self._database.write() as db:
            db.execute("DELETE FROM failed_logins WHERE first_at < ? OR first_at > ?", [now - window, now])
            marks = ", ".join("?" * len(limits))
            found = db.execute(f"SELECT who, failures, first_at FROM failed_logins WHERE who IN ({marks})", [*limits])
            waits = [first_at + window - now for who, failures, first_at in found.fetchall() if failures >= limits[who]]
            if waits:
                return max(1.0, *waits)
            for who in limits:
                db.execute(
                    "INSERT INTO failed_logins (who, failures, first_at) VALUES (?, 1, ?) "
                    "ON CONFLICT (who) DO UPDATE SET failures = failed_logins.failures + 1",
                    [who, now],
                )
            over = db.scalar("SELECT count(*) FROM failed_logins") - MAX_KEYS
            if over > 0:
                db.execute(
                    "DELETE FROM failed_logins WHERE who IN (SELECT who FROM failed_logins ORDER BY first_at LIMIT ?)",
                    [over],
                )
        return 0.0

    def forgive(self, own: str, shared: list[str]) -> None:
        """After a success, clear the attempts of ``own`` and subtract their number from the ``shared`` keys. Attempts
        by others are kept; otherwise an account holder could guess other passwords without limit.
        """
        with self._database.write() as db:
            made = db.scalar("SELECT failures FROM failed_logins WHERE who = :who", who=own) or 1
            db.execute("DELETE FROM failed_logins WHERE who = ?", [own])
            for who in shared:
                db.execute("UPDATE failed_logins SET failures = failures - ? WHERE who = ?", [made, who])
            db.execute("DELETE FROM failed_logins WHERE failures <= 0")

    # -- where an account has signed in ----------------------------------------------------------------------------

    def is_known(self, account: str, device: str, network: str) -> tuple[bool, bool]:
        """Whether the account has signed in with this browser (digest of its cookie), and from this network."""
        with self._database.read() as db:
            since = utc_text(datetime.now(UTC) - timedelta(days=KNOWN_DAYS))
            found = db.execute(
                "SELECT digest, network FROM devices WHERE account = ? AND used_at >= ?", [account, since]
            ).fetchall()
        return any(digest == device for digest, _ in found), any(place == network for _, place in found)

    def remember(self, account: str, device: str, network: str, replaces: str = "") -> None:
        """Record a sign-in with a browser from a network. ``instead``: the browser's previous digest."""
        with self._database.write() as db:
            db.execute("DELETE FROM devices WHERE account = ? AND digest = ?", [account, replaces])
            if not device:  # a client without cookies: one row per network
                device = f"network {network}"
                db.execute("DELETE FROM devices WHERE account = ? AND digest = ?", [account, device])
            db.insert("devices", {"account": account, "digest": device, "network": network, "used_at": utc_now()})
            db.execute(
                "DELETE FROM devices WHERE account = :account AND digest NOT IN (SELECT digest FROM devices "
                f"WHERE account = :account ORDER BY used_at DESC, digest LIMIT {MAX_DEVICES})",
                {"account": account},
            )


def check(db: Transaction, count: int) -> None:
    """Raise LimitReached if ``count`` more pictures exceed the quota of queued pictures or of today (UTC)."""
    who = actor.current()
    if who.allowance.queued:
        waiting = db.scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = :owner", owner=who.name)
        if waiting + count > who.allowance.queued:
            raise LimitReached(
                message("quota_waiting", name=who.name, most=who.allowance.queued, waiting=waiting, asked=count),
                RETRY_SECONDS,
            )
    if who.allowance.per_day:
        used = used_today(db, who.name)
        if used + count > who.allowance.per_day:
            raise LimitReached(
                message("quota_day", name=who.name, most=who.allowance.per_day, today=used, asked=count),
                seconds_to_midnight(),
            )


def used_today(db: Transaction, owner: str) -> int:
    day = datetime.now(UTC).date().isoformat()
    return db.scalar("SELECT pictures FROM usage WHERE owner = :owner AND day = :day", owner=owner, day=day) or 0


def seconds_to_midnight() -> int:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, round((midnight - now).total_seconds()))


def check_sizes(jobs: Iterable[Job]) -> Iterator[Job]:
    """Pass the jobs through. Raises InvalidParams at one that exceeds the account's picture size."""
    for job in jobs:
        check_size(job.params)
        yield job


def check_size(params: Params) -> None:
    """Raise InvalidParams if a picture exceeds the account's size limit."""
    who = actor.current()
    most = who.allowance.pixels
    width, height = params.final_size
    if most and width * height > most:
        size = f"{width}x{height}"
        raise InvalidParams("width", message("pixels", most=most, model=who.name, got=size))


@dataclass(frozen=True, slots=True)
class Account:
    """An account. ``limits``: its own, named as in ``Allowance``; absent ones fall back to the settings."""

    name: str
    role: Role
    created_at: str
    limits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Token:
    """A personal API token, without its secret."""

    id: str
    account: str
    name: str
    scopes: frozenset[Scope]
    created_at: str
    used_at: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser."""

    id: str
    account: str
    address: str
    agent: str
    created_at: str
    used_at: str
    expires_at: str


class AccountStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.sign_ins = SignIns(database)
        #: Number of changes by this process that may have ended or changed rights.
        self.changes = 0

    # -- accounts --------------------------------------------------------------------------------------------------

    def exists_any(self) -> bool:
        with self._database.read() as db:
            return db.scalar("SELECT 1 FROM accounts LIMIT 1") is not None

    def list_all(self) -> list[Account]:
        with self._database.read() as db:
            return [to_account(row) for row in db.query("SELECT * FROM accounts ORDER BY name")]

    def get(self, name: str) -> Account:
        with self._database.read() as db:
            for row in db.query("SELECT * FROM accounts WHERE name = ?", [name]):
                return to_account(row)
        raise NotFound(message("no_account", name=echo(name)))

    def password(self, name: str) -> str | None:
        """The hash of an account's password; None if there is no such account."""
        with self._database.read() as db:
            return db.scalar("SELECT password FROM accounts WHERE name = :name", name=name)

    def add(self, name: str, role: Role, password: str) -> None:
        """Add an account. Raises Conflict if the name is taken, or if the first account is not an admin."""
        with self._database.write() as db:
            if db.scalar("SELECT 1 FROM accounts WHERE name = :name", name=name):
                raise Conflict(message("account_there", name=echo(name)))
            if role is not Role.ADMIN and not db.scalar("SELECT 1 FROM accounts WHERE role = 'admin'"):
                raise Conflict(message("first_admin"))
            db.insert("accounts", {"name": name, "role": str(role), "password": password, "created_at": utc_now()})
        self.changes += 1

    def change(self, name: str, **values: Any) -> None:
        """Update columns of an account (column names come from code, never from input). Raises NotFound, and Conflict
        if no admin would be left.
        """
        sets = ", ".join(f"{column} = :{column}" for column in values)
        with self._database.write() as db:
            if not db.execute(f"UPDATE accounts SET {sets} WHERE name = :name", values | {"name": name}).rowcount:
                raise NotFound(message("no_account", name=echo(name)))
            self._check_admins(db)
        self.changes += 1

    def remove(self, name: str) -> None:
        """Delete an account with its tokens and sessions; its jobs and pictures stay."""
        with self._database.write() as db:
            if not db.execute("DELETE FROM accounts WHERE name = ?", [name]).rowcount:
                raise NotFound(message("no_account", name=echo(name)))
            self._check_admins(db)
        self.changes += 1

    @staticmethod
    def _check_admins(db: Any) -> None:
        left = db.scalar("SELECT count(*) FROM accounts")
        if left and not db.scalar("SELECT 1 FROM accounts WHERE role = 'admin'"):
            raise Conflict(message("last_admin"))

    def used_today(self, name: str) -> int:
        """Pictures that the account submitted today (UTC)."""
        with self._database.read() as db:
            return used_today(db, name)

    # -- tokens ----------------------------------------------------------------------------------------------------

    def add_token(self, name: str, token_name: str, scopes: frozenset[Scope], digest: str) -> Token:
        made = Token(new_id(), name, token_name, scopes, utc_now(), None)
        scope_text = " ".join(sorted(scopes))
        with self._database.write() as db:
            db.insert(
                "tokens",
                {
                    "id": made.id,
                    "account": name,
                    "name": token_name,
                    "digest": digest,
                    "scopes": scope_text,
                    "created_at": made.created_at,
                },
            )
        return made

    def tokens(self, name: str) -> list[Token]:
        with self._database.read() as db:
            return [to_token(row) for row in db.query("SELECT * FROM tokens WHERE account = ? ORDER BY id", [name])]

    def remove_token(self, name: str, token_id: str) -> None:
        with self._database.write() as db:
            if not db.execute("DELETE FROM tokens WHERE id = ? AND account = ?", [token_id, name]).rowcount:
                raise NotFound(message("no_token", name=name, token=echo(token_id)))
        self.changes += 1

    def by_token(self, digest: str) -> tuple[Account, Token] | None:
        with self._database.read() as db:
            for row in db.query("SELECT * FROM tokens WHERE digest = ?", [digest]):
                found = to_token(row)
                [owner] = db.query("SELECT * FROM accounts WHERE name = ?", [found.account])
                return to_account(owner), found
        return None

    def token_used(self, token_id: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE tokens SET used_at = ? WHERE id = ?", [utc_now(), token_id])

    # -- sessions --------------------------------------------------------------------------------------------------

    def add_session(self, name: str, digest: str, address: str, agent: str, expires_at: str) -> None:
        now = utc_now()
        with self._database.write() as db:
            db.execute("DELETE FROM sessions WHERE expires_at < ?", [now])
            # An older session that would outlast a new one was created while the clock was wrong.
            db.execute("UPDATE sessions SET expires_at = :at WHERE expires_at > :at", {"at": expires_at})
            db.insert(
                "sessions",
                {
                    "id": new_id(),
                    "account": name,
                    "digest": digest,
                    "address": address,
                    "agent": agent,
                    "created_at": now,
                    "used_at": now,
                    "expires_at": expires_at,
                },
            )
            db.execute(
                "DELETE FROM sessions WHERE account = :name AND id NOT IN "
                f"(SELECT id FROM sessions WHERE account = :name ORDER BY used_at DESC, id DESC LIMIT {MOST_SESSIONS})",
                {"name": name},
            )

    def sessions(self, name: str) -> list[Session]:
        with self._database.read() as db:
            found = db.query(
                "SELECT * FROM sessions WHERE account = ? AND expires_at > ? ORDER BY used_at DESC", [name, utc_now()]
            )
            return [to_session(row) for row in found]

    def by_session(self, digest: str) -> tuple[Account, Session] | None:
        with self._database.read() as db:
            for row in db.query("SELECT * FROM sessions WHERE digest = ? AND expires_at > ?", [digest, utc_now()]):
                found = to_session(row)
                [owner] = db.query("SELECT * FROM accounts WHERE name = ?", [found.account])
                return to_account(owner), found
        return None

    def session_used(self, session_id: str, expires_at: str) -> None:
        with self._database.write() as db:
            db.execute(
                "UPDATE sessions SET used_at = ?, expires_at = ? WHERE id = ?", [utc_now(), expires_at, session_id]
            )

    def end_session(self, name: str, session_id: str) -> None:
        with self._database.write() as db:
            if not db.execute("DELETE FROM sessions WHERE id = ? AND account = ?", [session_id, name]).rowcount:
                raise NotFound(message("no_session", name=name, session=echo(session_id)))

    def end_sessions(self, name: str, but: str = "") -> int:
        """End the account's sessions, except ``but``; returns their number."""
        with self._database.write() as db:
            return db.execute("DELETE FROM sessions WHERE account = ? AND id != ?", [name, but]).rowcount


def to_account(row: dict[str, Any]) -> Account:
    limits = {name: row[column] for name, column in QUOTA_COLUMNS.items() if row[column] is not None}
    return Account(row["name"], Role(row["role"]), row["created_at"], limits)


def to_token(row: dict[str, Any]) -> Token:
    scopes = frozenset(Scope(each) for each in row["scopes"].split())
    return Token(row["id"], row["account"], row["name"], scopes, row["created_at"], row["used_at"])


def to_session(row: dict[str, Any]) -> Session:
    return Session(
        row["id"], row["account"], row["address"], row["agent"], row["created_at"], row["used_at"], row["expires_at"]
    )


def actor_of(account: Account, scopes: frozenset[Scope], source: str, shared: bool, defaults: Allowance) -> Actor:
    """The actor of an account. Admins have only their own limits, not the settings' defaults."""
    admin = account.role is Role.ADMIN
    base = Allowance() if admin else defaults
    limits = {name: account.limits.get(name, getattr(base, name)) for name in QUOTA_COLUMNS}
    allowed = (scopes & SCOPES[account.role]) | {Scope.READ}
    return Actor(account.name, account.role, allowed, admin or shared, Allowance(**limits), source)
