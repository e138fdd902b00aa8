"""The actor: the account on whose behalf code runs, and what that account may do.

Request handlers set it for one call (``acting``); the Studio and the store read it (``current``). Where neither a call
nor the process has set one it is ``NOBODY``, so authority fails closed. The command line, the worker and the supervisor
run on behalf of the machine's own user in all their threads, and say so once when they start (``run_as``). The web
process never does: a thread, callback or task in it acts for an account only inside ``acting``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from diffusion_local.errors import Forbidden
from diffusion_local.messages import Message, message


class Scope(StrEnum):
    READ = "read"  # look; every credential may
    SUBMIT = "submit"  # make pictures
    CONTROL = "control"  # cancel, order, star and delete what is one's own
    WORKER = "worker"  # claim jobs and hand in their pictures, from another machine
    ADMIN = "admin"  # the whole queue, models, settings, and what is others'


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
    """What one account may ask for; 0 is without a limit. ``pixels``: width times height of a picture."""

    queued: int = 0
    per_day: int = 0
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class Actor:
    """``name`` is empty for the machine's own person. ``source``: local, session, token, link (a signed address) or
    nobody; ``token`` is the id of the token that was used."""

    name: str = ""
    role: Role = Role.ADMIN
    scopes: frozenset[Scope] = SCOPES[Role.ADMIN]
    sees_all: bool = True
    allowance: Allowance = Allowance()
    source: str = "local"
    token: str = ""

    @property
    def rules_all(self) -> bool:
        """Whether it may change what belongs to others."""
        return Scope.ADMIN in self.scopes

    def owner(self, given: str = "") -> str:
        """Whose a new batch is. Only the machine's own person may submit in another's name."""
        return self.name or given

    def may_see(self, owner: str) -> bool:
        return self.sees_all or owner == self.name

    def owns(self, owner: str) -> bool:
        """Whether it may act on what belongs to ``owner``, given the scope that the act takes."""
        return self.rules_all or owner == self.name

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if scope not in self.scopes:
            by_token = self.source == "token" and scope in SCOPES[self.role]
            who = "token" if by_token else str(self.role)
            raise Forbidden(message("may_not", who=message(f"who_{who}"), what=message(f"what_{scope}")))

    def require_own(self, owner: str, what: Message) -> None:
        """Raises Forbidden unless it owns ``what``, or rules all."""
        self.require(Scope.CONTROL)
        if not self.owns(owner):
            raise Forbidden(message("anothers", what=what, owner=owner or message("this_machine")))


#: The machine's own user: the command line, the worker, the supervisor, and callers of a server without accounts.
LOCAL = Actor()
#: An unknown caller: sees nothing and may do nothing. No account can have this name.
NOBODY = Actor("?", Role.VIEWER, frozenset(), sees_all=False, source="nobody")

#: What holds in threads and tasks that set no actor: context variables do not reach a new thread.
_of_process: Actor = NOBODY
_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


def current() -> Actor:
    return _current.get() or _of_process


def run_as(actor: Actor) -> None:
    """Let every thread of this process act as ``actor`` unless it says otherwise. Not for the web process."""
    global _of_process
    _of_process = actor


@contextmanager
def acting(actor: Actor) -> Iterator[Actor]:
    """Everything inside runs on behalf of ``actor``: in this thread or task, and in the tasks that it starts."""
    token = _current.set(actor)
    try:
        yield actor
    finally:
        _current.reset(token)
