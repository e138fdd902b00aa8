"""The tables of accounts, tokens and sessions. They hold digests, never secrets."""

from dataclasses import dataclass
from typing import Any

from diffusion_local.accounts.quota import used_today
from diffusion_local.accounts.sign_ins import SignIns
from diffusion_local.actor import SCOPES, Actor, Allowance, Role, Scope
from diffusion_local.db.database import Database
from diffusion_local.domain import new_id, utc_now
from diffusion_local.errors import Conflict, NotFound, echo
from diffusion_local.messages import message

#: Columns of an account's limits, by the names of ``Allowance``.
LIMITS = {"queued": "max_queued", "per_day": "max_per_day", "pixels": "max_pixels"}
MOST_SESSIONS = 50  # per account; the least recently used is dropped


@dataclass(frozen=True, slots=True)
class Account:
    """An account. ``limits``: its own, by the names of ``Allowance``; absent ones fall back to the settings."""

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
        """Raises Conflict if the name is taken, or if the first account is not an admin."""
        with self._database.write() as db:
            if db.scalar("SELECT 1 FROM accounts WHERE name = :name", name=name):
                raise Conflict(message("account_there", name=echo(name)))
            if role is not Role.ADMIN and not db.scalar("SELECT 1 FROM accounts WHERE role = 'admin'"):
                raise Conflict(message("first_admin"))
            db.insert("accounts", {"name": name, "role": str(role), "password": password, "created_at": utc_now()})

    def change(self, name: str, **values: Any) -> None:
        """Update columns of an account (names from code, never input). Raises NotFound, and Conflict if no admin would
        be left.
        """
        sets = ", ".join(f"{column} = :{column}" for column in values)
        with self._database.write() as db:
            if not db.execute(f"UPDATE accounts SET {sets} WHERE name = :name", values | {"name": name}).rowcount:
                raise NotFound(message("no_account", name=echo(name)))
            self._check_admins(db)

    def remove(self, name: str) -> None:
        """Delete an account with its tokens and sessions; its jobs and pictures stay."""
        with self._database.write() as db:
            if not db.execute("DELETE FROM accounts WHERE name = ?", [name]).rowcount:
                raise NotFound(message("no_account", name=echo(name)))
            self._check_admins(db)

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
            # No session may outlast a new one: it was made while the clock was wrong.
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
    limits = {name: row[column] for name, column in LIMITS.items() if row[column] is not None}
    return Account(row["name"], Role(row["role"]), row["created_at"], limits)


def to_token(row: dict[str, Any]) -> Token:
    scopes = frozenset(Scope(each) for each in row["scopes"].split())
    return Token(row["id"], row["account"], row["name"], scopes, row["created_at"], row["used_at"])


def to_session(row: dict[str, Any]) -> Session:
    return Session(
        row["id"], row["account"], row["address"], row["agent"], row["created_at"], row["used_at"], row["expires_at"]
    )


def actor_of(found: Account, scopes: frozenset[Scope], source: str, shared: bool, defaults: Allowance) -> Actor:
    """The actor of an account. Admins have only their own limits, not the settings' defaults."""
    admin = found.role is Role.ADMIN
    base = Allowance() if admin else defaults
    limits = {name: found.limits.get(name, getattr(base, name)) for name in LIMITS}
    allowed = (scopes & SCOPES[found.role]) | {Scope.READ}
    return Actor(found.name, found.role, allowed, admin or shared, Allowance(**limits), source)
