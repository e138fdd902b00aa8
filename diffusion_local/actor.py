"""The actor: the account on whose behalf code runs, and its rights.

Interfaces set the current actor for one call with ``acting()``; the Studio and the stores read it with ``current()``.
Where neither the call nor the process has set one it is ``NOBODY``, so authorization fails closed. The command line,
the worker and the supervisor run as the local admin in all threads, set once at startup (``run_as``). The web process
never does: a thread, callback or task in it acts for an account only inside ``acting``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from diffusion_local.errors import Forbidden
from diffusion_local.messages import Message, message


class Scope(StrEnum):
    READ = "read"  # every credential has it
    SUBMIT = "submit"  # make pictures
    CONTROL = "control"  # cancel, reorder, star and delete one's own
    WORKER = "worker"  # claim jobs and return their pictures, from another machine
    ADMIN = "admin"  # the whole queue, models, settings, and other accounts' data


class Role(StrEnum):
    ADMIN = "admin"
    USER = "user"
    VIEWER = "viewer"


SCOPES: dict[Role, frozenset[Scope]] = {
    Role.ADMIN: frozenset(Scope),
    Role.USER: frozenset({Scope.READ, Scope.SUBMIT, Scope.CONTROL}),
    Role.VIEWER: frozenset({Scope.READ}),
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits of an account; 0 is unlimited. ``pixels``: width times height of a picture."""

    queued: int = 0
    per_day: int = 0
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever performs an operation. ``name``: empty for the local admin. ``source``: local, session, token, link (a
    signed address) or nobody. ``token``: id of the token used.
    """

    name: str = ""
    role: Role = Role.ADMIN
    scopes: frozenset[Scope] = SCOPES[Role.ADMIN]
    sees_all: bool = True
    allowance: Allowance = Allowance()
    source: str = "local"
    token: str = ""

    @property
    def rules_all(self) -> bool:
        """Whether it may change data of other accounts."""
        return Scope.ADMIN in self.scopes

    def owner(self, requested: str = "") -> str:
        """Owner of a new batch. Only the local admin may submit on behalf of another account."""
        return self.name or requested

    def may_see(self, owner: str) -> bool:
        return self.sees_all or owner == self.name

    def owns(self, owner: str) -> bool:
        """Whether it may change data of ``owner``, provided that it has the scope that the operation requires."""
        return self.rules_all or owner == self.name

    def require(self, scope: Scope) -> None:
        """Raise Forbidden if the scope is missing."""
        if scope not in self.scopes:
            by_token = self.source == "token" and scope in SCOPES[self.role]
            who = "token" if by_token else str(self.role)
            raise Forbidden(message("may_not", who=message(f"who_{who}"), what=message(f"what_{scope}")))

    def require_own(self, owner: str, what: Message) -> None:
        """Raise Forbidden unless it owns ``what`` or is an admin."""
        self.require(Scope.CONTROL)
        if not self.owns(owner):
            raise Forbidden(message("anothers", what=what, owner=owner or message("this_machine")))


#: The local admin: command line, worker, supervisor, and callers of a server without accounts.
LOCAL = Actor()
#: An unknown caller without any rights. No account can have this name.
NOBODY = Actor("?", Role.VIEWER, frozenset(), sees_all=False, source="nobody")

#: Applies in threads and tasks that set no actor: context variables do not reach new threads.
_of_process: Actor = NOBODY
_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


def current() -> Actor:
    return _current.get() or _of_process


def run_as(actor: Actor) -> None:
    """Run all threads of this process as ``actor`` by default. Not for the web process."""
    global _of_process
    _of_process = actor


@contextmanager
def acting(actor: Actor) -> Iterator[Actor]:
    """Run the block on behalf of ``actor``, in this thread or task and the tasks that it starts."""
    token = _current.set(actor)
    try:
        yield actor
    finally:
        _current.reset(token)
