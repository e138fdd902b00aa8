"""Declarations of operations.

An operation is a public method (or property) of the Studio, such as ``submit``, or of a part of it, such as
``lists.check``. Argument types, defaults and the result type come from the method's signature; the declaration adds the
rest.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from diffusion_local.actor import Scope

#: Path prefix of the HTTP API.
API_ROOT = "/api/v1"


class DataScope(StrEnum):
    """Whose data an operation reads or changes."""

    NOTHING = "nobody's"  # no account's data: the catalogue, or a calculation
    SEEN = "what the actor may see"
    OWN = "the actor's own; an admin's authority covers everybody's"
    ACCOUNT = "the actor's own account, not by a token; an admin's authority covers all accounts"
    ALL = "everybody's"


OPEN, READ, SUBMIT, CONTROL, ADMIN = None, Scope.READ, Scope.SUBMIT, Scope.CONTROL, Scope.ADMIN
NOTHING, SEEN, OWN, ACCOUNT, ALL = DataScope.NOTHING, DataScope.SEEN, DataScope.OWN, DataScope.ACCOUNT, DataScope.ALL


# -- how a method's return value becomes an answer ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AsObject:
    """The value itself, as an object."""


@dataclass(frozen=True, slots=True)
class AsField:
    """``{name: value}``."""

    name: str


@dataclass(frozen=True, slots=True)
class Paged:
    """``{name: [...], "next": cursor}``; the method takes ``limit`` and a cursor, ``before`` or ``after``."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant answer, for methods without a result."""

    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class After:
    """The result of another operation, called afterwards with the same id. ``also``: include the value itself."""

    operation: str
    also: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A file to download: chunks of text or bytes, or a stored file. ``name`` may contain arguments in braces; its
    suffix determines the media type.
    """

    name: str


Answer = AsObject | AsField | Paged | Constant | After | File


# -- where it is offered -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route below ``/api/v1``; parts of the path in braces are arguments.

    ``takes``: arguments besides those in the path, as explained in ``Operation``. ``status``: HTTP status on success.
    ``content``: the argument that is the raw request body. ``served``: false if the route is implemented by hand or
    belongs to another operation, so that this row only informs clients. ``waits``: callers may wait until the job or
    batch named in the path has ended.
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
    """An operation. ``scope``: None if no sign-in is required; ``doc``: shown to API users.

    ``takes``: arguments that interfaces offer, in Gradio's order; None: all of the method's. ``new=old`` renames one,
    ``*`` stands for the ``options`` (``picture``, ``batch`` or both) that the method takes as keywords, ``*-name``
    for all of them but one, and ``...`` for all arguments of the method that are not named. Gradio's ``job_id`` is a
    single one of ``job_ids``. ``endpoint``: name of the Gradio endpoint, with its own arguments in parentheses if they
    differ.
    """

    scope: Scope | None
    data: DataScope
    routes: tuple[Route, ...] = ()
    doc: str = ""
    endpoint: str = ""
    takes: str | None = None
    answer: Answer = AsObject()
    options: str = ""
    meanings: dict[str, str] = field(default_factory=dict)
    name: str = ""

    def route(self, method: str, path: str) -> Route:
        return next(each for each in self.routes if (each.method, each.path) == (method, path))

    @property
    def id(self) -> str:
        """Its name in API documents and generated clients. Operations of the queue have only their verb."""
        return self.name.removeprefix("queue.").replace(".", "_")


def op(scope: Scope | None, data: DataScope, *routes: Route, doc: str = "", **more: Any) -> Operation:
    return Operation(scope, data, routes, doc, **more)


def get(path: str, takes: str | None = None, answer: Answer | None = None) -> Route:
    return Route("GET", path, takes, answer)


def get_when_final(path: str) -> Route:
    return Route("GET", path, waits=True)


def post(path: str, takes: str | None = None, answer: Answer | None = None, status: int = 200) -> Route:
    return Route("POST", path, takes, answer, status)


def put(path: str) -> Route:
    return Route("PUT", path)


def patch(path: str, takes: str | None = None, answer: Answer | None = None) -> Route:
    return Route("PATCH", path, takes, answer)


def delete(path: str, takes: str | None = None) -> Route:
    return Route("DELETE", path, takes)


def unserved(route: Route, content: str = "") -> Route:
    """A copy of a route that this row does not serve."""
    return replace(route, served=False, content=content)
