"""Who added each source picture, and what a request has added that may still be refused."""

import logging
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

from diffusion_local import actor
from diffusion_local.db.database import Database
from diffusion_local.db.dialect import json_field
from diffusion_local.db.row_access import RULES_ALL, owned, readable
from diffusion_local.domain import new_id
from diffusion_local.errors import UserError
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.options.table import PICTURES

log = logging.getLogger(__name__)

OWNED_SOURCE = f"EXISTS (SELECT 1 FROM source_owners WHERE source_id = :id AND {owned()})"


def used(rows: Callable[[str], str]) -> str:
    """SQL condition: a job or picture uses the source. ``rows``: the condition on the rows of a table that count.

    Options that name one picture are looked up by their indexes, those that name several in ``source_uses``.
    """
    ways = [
        f"EXISTS (SELECT 1 FROM {table} WHERE {json_field('params', name)} = :id "
        f"AND {json_field('params', name)} IS NOT NULL AND {rows(table)})"  # repeated because the index is partial
        for table in ("jobs", "images")
        for name in PICTURES
    ]
    ways += [
        f"EXISTS (SELECT 1 FROM source_uses JOIN {table} ON {table}.id = source_uses.user_id "
        f"WHERE source_uses.source_id = :id AND source_uses.kind = '{table}' AND {rows(table)})"
        for table in ("jobs", "images")
    ]
    return " OR ".join(ways)


READABLE = f"SELECT {RULES_ALL} OR {OWNED_SOURCE} OR {used(readable)}"
#: Whether anybody has added the source, or any job or picture uses it.
IN_USE = f"SELECT EXISTS (SELECT 1 FROM source_owners WHERE source_id = :id) OR {used(lambda table: '1 = 1')}"


@dataclass(slots=True)
class Request:
    """A request that may still be refused. ``added``: the pictures that it added; ``written``: those that were new."""

    id: str = field(default_factory=new_id)
    added: dict[str, None] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)


_REQUEST: ContextVar[Request | None] = ContextVar("request", default=None)


def note_written(source_id: str) -> None:
    """Record that the current request wrote the file of a source picture."""
    if request := _REQUEST.get():
        request.written.add(source_id)


class SourceOwners:
    """The table ``source_owners``. Its column ``request`` is the request that alone has added the picture for this
    owner, so that it is withdrawn with the request; empty once anything else has added it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, source_id: str) -> None:
        """Record that the actor added this picture."""
        request = _REQUEST.get()
        name = request.id if request else ""
        with self._database.read() as db:
            known = db.scalar(f"SELECT request FROM source_owners WHERE source_id = :id AND {owned()}", id=source_id)
        if known in ("", name):
            return
        with self._database.write() as db:
            db.execute(
                "INSERT INTO source_owners (source_id, owner, request) VALUES (?, ?, ?) "
                "ON CONFLICT (source_id, owner) DO UPDATE SET request = ''",
                [source_id, actor.current().name, name],
            )
        if request:
            request.added[source_id] = None

    def has(self, source_id: str) -> bool:
        """Whether the actor added this picture and has not removed it."""
        with self._database.read() as db:
            return bool(db.scalar(f"SELECT {OWNED_SOURCE}", id=source_id))

    def page(self, limit: int, after: str) -> list[str]:
        """Ids of the pictures that the actor added, in the order of their ids."""
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT source_id FROM source_owners WHERE {owned()} AND source_id > :after "
                "ORDER BY source_id LIMIT :limit",
                {"after": after, "limit": limit},
            )
            return [str(row[0]) for row in rows]

    def remove(self, source_id: str) -> None:
        with self._database.write() as db:
            db.execute(f"DELETE FROM source_owners WHERE source_id = :id AND {owned()}", {"id": source_id})

    def is_readable(self, source_id: str) -> bool:
        """Whether the actor may read a source."""
        with self._database.read() as db:
            return bool(db.scalar(READABLE, id=source_id))

    def withdraw(self, request: Request, delete: Callable[[str], None]) -> None:
        """Forget what only this request has added, and ``delete`` the files that it wrote and nothing else uses.

        The files are deleted within the transaction: whoever adds the same picture afterwards finds none and writes it.
        """
        with self._database.write() as db:
            for source_id in request.added:
                gone = db.execute(
                    "DELETE FROM source_owners WHERE source_id = ? AND request = ?", [source_id, request.id]
                ).rowcount
                if gone and source_id in request.written and not db.scalar(IN_USE, id=source_id):
                    delete(source_id)


class Provisional:
    """The context of ``sources.provisional``. Within another one it has no effect. Pictures that anything else has
    added or uses are kept.
    """

    def __init__(self, owners: SourceOwners, files: ImageFiles) -> None:
        self._owners = owners
        self._files = files
        self._request = Request()
        self._token: Token[Request | None] | None = None

    def __enter__(self) -> "Provisional":
        if _REQUEST.get() is None:
            self._token = _REQUEST.set(self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._token is not None:
            _REQUEST.reset(self._token)
        if kind is not None:
            self.withdraw()

    def withdraw(self) -> None:
        """Remove what has been added so far. A fault is logged: retention removes the pictures later."""
        if not self._request.added:
            return
        try:
            self._owners.withdraw(self._request, lambda source_id: self._files.source(source_id).delete())
        except (UserError, OSError):
            log.exception("pictures of a refused request are left until retention removes them")
