"""Jobs with what became of them, for a list that is written out."""

from collections.abc import Iterator

from diffusion_local.db.access import seen
from diffusion_local.db.database import Database
from diffusion_local.db.dialect import as_list, in_list
from diffusion_local.domain import Batch, Job
from diffusion_local.store import rows
from diffusion_local.store.tombstones import missing

PAGE = 500  # jobs that are in memory at once


class Results:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of_batch(self, batch_id: str) -> Iterator[tuple[Job, str | None]]:
        """The batch's jobs in their order, each with its picture's key. Raises NotFound."""
        with self._database.read() as db:
            if not db.scalar(f"SELECT 1 FROM batches WHERE id = :id AND {seen()}", id=batch_id):
                raise missing(db, "batch", batch_id)
            found = db.execute("SELECT id FROM jobs WHERE batch_id = ? ORDER BY idx", [batch_id]).fetchall()
        return self._pages([row[0] for row in found])

    def waiting(self) -> Iterator[tuple[Job, str | None]]:
        """Every job that waits, in the order in which they will run."""
        line = f"SELECT id FROM jobs WHERE state = 'queued' AND {seen()} ORDER BY lane, priority DESC, position"
        with self._database.read() as db:
            return self._pages([row[0] for row in db.execute(line).fetchall()])

    def waiting_by_batch(self) -> Iterator[tuple[Batch, Job]]:
        """Every job that waits with its batch: the oldest batch first, each in its own order."""
        with self._database.read() as db:
            found = db.execute(
                f"SELECT id FROM jobs WHERE state = 'queued' AND {seen()} ORDER BY batch_id, priority DESC, position"
            )
            ids = [row[0] for row in found.fetchall()]
            batches = {
                row["id"]: rows.batch(row)
                for row in db.query(
                    "SELECT * FROM batches WHERE id IN (SELECT batch_id FROM jobs WHERE state = 'queued')"
                )
            }
        return ((batches[job.batch_id], job) for job, _ in self._pages(ids))

    def _pages(self, ids: list[str]) -> Iterator[tuple[Job, str | None]]:
        """By ids, so that a job that ends meanwhile is told once; one that is forgotten meanwhile is left out."""
        for start in range(0, len(ids), PAGE):
            asked = ids[start : start + PAGE]
            with self._database.read() as db:
                found = db.query(
                    "SELECT jobs.*, images.key AS image_key FROM jobs LEFT JOIN images "
                    "ON images.job_id = jobs.id AND images.trashed_at IS NULL "
                    f"WHERE {in_list('jobs.id')}",
                    {"ids": as_list(asked)},
                )
                jobs = {row["id"]: (rows.job(row), row["image_key"]) for row in found}
            yield from (jobs[job_id] for job_id in asked if job_id in jobs)
