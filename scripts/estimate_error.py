"""Errors of the estimates made at the start of jobs, from the columns of the jobs table."""

from dataclasses import dataclass
from statistics import median

from diffusion_local.db.database import Database


@dataclass(frozen=True, slots=True)
class EstimateError:
    """Accuracy of ``count`` estimates made at the start of jobs: median of |estimated - actual| / actual."""

    count: int
    median: float | None


def estimate_error(database: Database, batch_id: str | None = None, since: str = "") -> EstimateError:
    """Accuracy of estimates, of a batch or of everything finished after ``since`` (UTC)."""
    of_batch = "batch_id = :batch_id" if batch_id else "finished_at >= :since"
    with database.read() as db:
        found = db.execute(
            "SELECT abs(expected_seconds - run_seconds - coalesce(load_seconds, 0)) "
            "/ (run_seconds + coalesce(load_seconds, 0)) FROM jobs "
            f"WHERE {of_batch} AND state = 'done' AND expected_seconds IS NOT NULL AND run_seconds > 0",
            {"batch_id": batch_id, "since": since},
        ).fetchall()
    errors = [row[0] for row in found]
    return EstimateError(len(errors), median(errors) if errors else None)
