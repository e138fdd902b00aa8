"""Graphs of nodes that batches were submitted as. They are each account's own, whatever else it may see."""

from dataclasses import dataclass

from diffusion_local.authority import guarded
from diffusion_local.db.access import owned
from diffusion_local.db.database import Database
from diffusion_local.errors import NotFound, echo
from diffusion_local.messages import message

MOST = 200  # in one answer
LEFT = "(SELECT 1 FROM jobs WHERE jobs.batch_id = graphs.batch_id AND jobs.state IN ('queued', 'running'))"


@dataclass(frozen=True, slots=True)
class Graph:
    """``graph`` is JSON, as the interface that stored it wrote it. ``finished``: all jobs of the batch have ended."""

    batch_id: str
    graph: str
    created_at: str
    finished: bool


@guarded("graphs")
class GraphStore:
    """Built by ``compose``; hangs on the Studio as ``graphs``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, batch_id: str) -> Graph:
        """Raises NotFound."""
        found = self._read("AND graphs.batch_id = :id", id=batch_id)
        if not found:
            raise NotFound(message("no_such_batch", id=echo(batch_id)))
        return found[0]

    def page(self, limit: int = MOST, before: str | None = None) -> list[Graph]:
        """Newest first; ``before`` is the last batch id of the page before."""
        further = "AND graphs.batch_id < :before" if before else ""
        return self._read(further, limit=max(0, min(limit, MOST)), before=before)

    def unfinished(self, limit: int = MOST) -> list[Graph]:
        """Those of batches that wait or run, newest first."""
        return self._read(f"AND EXISTS {LEFT}", limit=max(0, min(limit, MOST)))

    def _read(self, further: str, limit: int = 1, **values: str | None) -> list[Graph]:
        with self._database.read() as db:
            found = db.query(
                f"SELECT graphs.*, batches.created_at, EXISTS {LEFT} AS unfinished FROM graphs "
                f"JOIN batches ON batches.id = graphs.batch_id WHERE {owned('graphs')} {further} "
                "ORDER BY graphs.batch_id DESC LIMIT :limit",
                values | {"limit": limit},
            )
            return [Graph(row["batch_id"], row["graph"], row["created_at"], not row["unfinished"]) for row in found]
