"""Measurements that estimates and the memory policy learn from."""

from collections.abc import Iterable
from dataclasses import asdict

from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import by_index, seconds_between
from diffusion_local.domain import Fit, Kind, utc_now
from diffusion_local.queue.estimates import FinishedPicture, Pace, Work


class FitStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: str, device: str) -> list[Fit]:
        """All measurements of a model on a device."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM fits WHERE model = ? AND device = ?", [model, device])
            return [Fit(**row | {"kind": Kind(row["kind"])}) for row in found]

    def successful(self) -> dict[str, list[Fit]]:
        """Successful measurements by model, on any device, newest first."""
        found: dict[str, list[Fit]] = {}
        with self._database.read() as db:
            for row in db.query("SELECT * FROM fits WHERE worked != '' ORDER BY at DESC"):
                found.setdefault(row["model"], []).append(Fit(**row | {"kind": Kind(row["kind"])}))
        return found

    def save(self, fit: Fit) -> None:
        """Store a measurement, replacing the one of the same model, kind, size and device."""
        row = asdict(fit) | {"kind": str(fit.kind), "at": utc_now()}
        with self._database.write() as db:
            db.upsert("fits", row, key=("model", "kind", "width", "height", "device"))

    def delete(self, model: str) -> None:
        """Delete the measurements of a model that was replaced or removed."""
        with self._database.write() as db:
            db.execute("DELETE FROM fits WHERE model = ?", [model])


HISTORY_JOBS = 200  # newest pictures per model to learn from


def pace_of(db: Transaction, models: Iterable[str]) -> Pace:
    history = []
    for model in models:
        found = db.execute(
            f"SELECT kind, pixels, steps, coalesce(run_seconds, {seconds_between('started_at', 'finished_at')}), "
            "load_seconds, rung, together FROM jobs "
            f"WHERE state = 'done' AND model = ? ORDER BY finished_at DESC LIMIT {HISTORY_JOBS}",
            [model],
        ).fetchall()
        history += [FinishedPicture(Work(model, *each[:3]), *each[3:]) for each in found]
    return Pace.learn(history)


def queued_work(db: Transaction, where: str = "", **values: int | str) -> dict[Work, int]:
    """Number of queued jobs per kind of work. ``where``: literal condition on the queue order."""
    counted = "SELECT model, kind, pixels, steps, jobs FROM job_counts WHERE state = 'queued' AND jobs > 0"
    if where:
        counted = (
            f"SELECT model, kind, pixels, steps, count(*) FROM {by_index('jobs', 'jobs_queued')} "
            f"WHERE state = 'queued' AND {where} GROUP BY model, kind, pixels, steps"
        )
    found = db.execute(counted, values).fetchall()
    return {Work(*work): count for *work, count in found}
