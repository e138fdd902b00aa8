"""Queries of reports: ended jobs of a batch or a period, with some of their pictures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusion_local.db import rows
from diffusion_local.db.database import Database
from diffusion_local.db.dialect import as_list, in_list, seconds_between
from diffusion_local.db.row_access import readable
from diffusion_local.domain import Image

REPORT_COLUMNS = (
    "jobs.id, jobs.batch_id, jobs.state, jobs.model, jobs.started_at, jobs.finished_at, jobs.error_kind, "
    "substr(jobs.error_message, 1, 500) AS error_message, "
    "CASE WHEN length(jobs.error_message) <= 500 THEN jobs.error_json END AS error_json, "
    f"coalesce(jobs.run_seconds, {seconds_between('jobs.started_at', 'jobs.finished_at')}) AS run_seconds, "
    "jobs.load_seconds, jobs.expected_seconds, jobs.rung, "
    "coalesce((SELECT flag FROM images WHERE images.job_id = jobs.id), '') AS flag"
)


class ReportStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def batch_rows(self, batch_id: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Rows of a batch's jobs, in batch order, streamed."""
        with self._database.read() as db:
            yield db.query(
                f"SELECT {REPORT_COLUMNS} FROM jobs WHERE batch_id = ? AND {readable('jobs')} ORDER BY idx", [batch_id]
            )

    @contextmanager
    def period_rows(self, since: str, until: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Rows of the jobs that ended in a period, by end time, streamed."""
        with self._database.read() as db:
            yield db.query(
                f"SELECT {REPORT_COLUMNS} FROM jobs WHERE finished_at >= ? AND finished_at < ? "
                f"AND {readable('jobs')} ORDER BY finished_at",
                [since, until],
            )

    def names(self, batch_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """(name, lane) of batches, by id."""
        with self._database.read() as db:
            cursor = db.execute(
                f"SELECT id, name, lane FROM batches WHERE {in_list('id')} AND {readable()}",
                {"ids": as_list(batch_ids)},
            )
            return {row[0]: (row[1], row[2]) for row in cursor.fetchall()}

    def forecast(self, batch_id: str) -> tuple[int, str, str] | None:
        """(pictures done when the end of a batch was estimated, time of that estimate, estimated end), or None."""
        query = f"SELECT forecast_pictures, forecast_at, forecast_end FROM batches WHERE id = ? AND {readable()}"
        with self._database.read() as db:
            found = db.execute(query, [batch_id]).fetchone()
            return (found[0], found[1], found[2]) if found and found[1] else None

    def images(self, job_ids: Sequence[str]) -> dict[str, Image]:
        """Pictures that are still in the gallery, by job id."""
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT * FROM images WHERE {in_list('job_id')} AND trashed_at IS NULL AND {readable()}",
                {"ids": as_list(job_ids)},
            )
            return {row["job_id"]: rows.to_image(row) for row in rows_found}
