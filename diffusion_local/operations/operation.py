"""What is declared about an operation.

An operation is a public method (or property) of the Studio, such as ``submit``, or of a part of it, such as
``lists.check``. Types and defaults of its arguments are those of the method's signature, and so is the type of its
answer; a declaration says the rest.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from diffusion_local.actor import Scope


class Whose(StrEnum):
    """What an operation reads or changes."""

    NOTHING = "nobody's"  # the catalogue, a calculation: nothing that belongs to anybody
    SEEN = "what the actor may see"
    OWN = "the actor's own; an admin's authority covers everybody's"
    ACCOUNT = "the actor's own account, not by a token; an admin's authority covers all accounts"
    ALL = "everybody's"


OPEN, READ, SUBMIT, CONTROL, ADMIN = None, Scope.READ, Scope.SUBMIT, Scope.CONTROL, Scope.ADMIN
NOTHING, SEEN, OWN, ACCOUNT, ALL = Whose.NOTHING, Whose.SEEN, Whose.OWN, Whose.ACCOUNT, Whose.ALL


# -- how a method's return value becomes an answer ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """The value itself, as an object."""


@dataclass(frozen=True, slots=True)
class Named:
    """``{name: value}``."""

    name: str


@dataclass(frozen=True, slots=True)
class Paged:
    """``{name: [...], "next": cursor}``; the method takes ``limit`` and a cursor, ``before`` or ``after``."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same, for methods that return nothing."""

    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class After:
    """What another operation answers afterwards, asked with the same id; with ``also`` the value itself too."""

    operation: str
    also: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A file to download: pieces of text or bytes, or a stored file.

    ``name`` may contain arguments in braces; its suffix tells the media type.
    """

    name: str


Answer = Whole | Named | Paged | Constant | After | File


# -- where it is offered -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route below ``/api/v1``; parts of the path in braces are arguments.

    ``takes`` names the arguments besides those of the path, as explained at ``Operation``. ``status`` is that of
    success. ``content`` is the argument that is the request's body as it is. ``served`` is false where the route is
    written by hand, or is another operation's: then the row only tells clients how to ask. With ``waits`` a caller may
    prefer to wait until the job or batch that the path names has ended.
    """

    method: str
    path: str
    takes: str | None = None
    answer: Answer | None = None
    status: int = 200
    content: str = ""
    served: bool = True
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """``scope`` is None where nobody needs to have signed in. ``doc`` is what users of the APIs read.

    ``takes`` names the arguments that interfaces offer, in the order in which Gradio takes them; None is all of the
    method's. ``new=old`` renames one, ``*`` stands for the ``options`` (``picture``, ``batch`` or both) that the method
    takes as keywords, ``*-name`` for all of them but one. Gradio's ``job_id`` stands for a single one of ``job_ids``.
    ``endpoint`` is the name of the Gradio endpoint, with its own arguments in parentheses if they differ.
    """

    scope: Scope | None
    whose: Whose
    routes: tuple[Route, ...] = ()
    doc: str = ""
    endpoint: str = ""
    takes: str | None = None
    answer: Answer = Whole()
    options: str = ""
    meanings: dict[str, str] = field(default_factory=dict)
    name: str = ""

    def route(self, method: str, path: str) -> Route:
        return next(each for each in self.routes if (each.method, each.path) == (method, path))


def op(scope: Scope | None, whose: Whose, *routes: Route, doc: str = "", **more: Any) -> Operation:
    return Operation(scope, whose, routes, doc, **more)


def get(path: str, takes: str | None = None, answer: Answer | None = None) -> Route:
    return Route("GET", path, takes, answer)


def awaited(path: str) -> Route:
    return Route("GET", path, waits=True)


def post(path: str, takes: str | None = None, answer: Answer | None = None, status: int = 200) -> Route:
    return Route("POST", path, takes, answer, status)


def put(path: str) -> Route:
    return Route("PUT", path)


def patch(path: str, takes: str | None = None, answer: Answer | None = None) -> Route:
    return Route("PATCH", path, takes, answer)


def delete(path: str, takes: str | None = None) -> Route:
    return Route("DELETE", path, takes)


def elsewhere(route: Route, content: str = "") -> Route:
    """A route that this row does not serve."""
    return replace(route, served=False, content=content)
