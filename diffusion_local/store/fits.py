"""The fits table: which rung of memory worked, and which did not, by model, kind of work, size and device."""

from dataclasses import asdict

from diffusion_local.db.database import Database
from diffusion_local.domain import Fit, Kind, utc_now


class FitStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: str, device: str) -> list[Fit]:
        """All that was learned about a model on a device."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM fits WHERE model = ? AND device = ?", [model, device])
            return [Fit(**row | {"kind": Kind(row["kind"])}) for row in found]

    def worked(self) -> dict[str, list[Fit]]:
        """What worked, by model, on whatever device; the newest first."""
        found: dict[str, list[Fit]] = {}
        with self._database.read() as db:
            for row in db.query("SELECT * FROM fits WHERE worked != '' ORDER BY at DESC"):
                found.setdefault(row["model"], []).append(Fit(**row | {"kind": Kind(row["kind"])}))
        return found

    def learn(self, fit: Fit) -> None:
        """Write it over what was known of this model, kind, size and device."""
        row = asdict(fit) | {"kind": str(fit.kind), "at": utc_now()}
        with self._database.write() as db:
            db.upsert("fits", row, key=("model", "kind", "width", "height", "device"))

    def forget(self, model: str) -> None:
        """A model that was replaced or removed is to be measured anew."""
        with self._database.write() as db:
            db.execute("DELETE FROM fits WHERE model = ?", [model])
