"""Who acts: the account on whose behalf something is asked for, and what it may do.

The doors say who it is (``acting``); the Studio and the store ask (``current``). Where nobody said anything it is the
machine's own person, who may do everything: the command line, the worker, and a server without accounts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from diffusion_local.errors import Forbidden


class Scope(StrEnum):
    READ = "read"  # look; every credential may
    SUBMIT = "submit"  # make pictures
    CONTROL = "control"  # cancel, order, star and delete what is one's own
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
WHAT = {
    Scope.READ: "look at this",
    Scope.SUBMIT: "submit pictures",
    Scope.CONTROL: "change jobs and pictures",
    Scope.ADMIN: "do this; it takes an admin",
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one account may ask for; 0 is without a limit. ``pixels``: width times height of a picture."""

    queued: int = 0
    per_day: int = 0
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class Actor:
    """``name`` is empty for the machine's own person. ``source``: local, session, token or nobody."""

    name: str = ""
    role: Role = Role.ADMIN
    scopes: frozenset[Scope] = SCOPES[Role.ADMIN]
    sees_all: bool = True
    allowance: Allowance = Allowance()
    source: str = "local"

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
            how = "This token" if self.source == "token" and scope in SCOPES[self.role] else f"A {self.role}"
            raise Forbidden(f"{how} may not {WHAT[scope]}.")

    def require_own(self, owner: str, what: str) -> None:
        """Raises Forbidden unless it owns ``what``, or rules all."""
        self.require(Scope.CONTROL)
        if not self.owns(owner):
            raise Forbidden(f"{what} belongs to {owner or 'this machine'}: only its owner or an admin may do this.")


LOCAL = Actor()
#: Somebody of whom nothing is known: sees nothing and may do nothing. No account can have this name.
NOBODY = Actor("?", Role.VIEWER, frozenset(), sees_all=False, source="nobody")

_current: ContextVar[Actor] = ContextVar("actor", default=LOCAL)


def current() -> Actor:
    return _current.get()


def require(scope: Scope) -> None:
    """Raises Forbidden unless whoever acts has this scope."""
    current().require(scope)


@contextmanager
def acting(actor: Actor) -> Iterator[Actor]:
    """Everything inside is asked for by ``actor``, in this thread or task and those that it starts."""
    token = _current.set(actor)
    try:
        yield actor
    finally:
        _current.reset(token)
