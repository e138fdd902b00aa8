"""Who may look at a source picture: whoever added it, whoever may see a job or picture that uses it, and an admin."""

from diffusion_local import actor
from diffusion_local.db.access import RULES_ALL, own, seen
from diffusion_local.db.database import Database
from diffusion_local.db.dialect import field

ADDED = f"EXISTS (SELECT 1 FROM source_owners WHERE source_id = :id AND {own()})"
USED = " OR ".join(
    f"EXISTS (SELECT 1 FROM {table} WHERE {field('params', name)} = :id "
    f"AND {field('params', name)} IS NOT NULL AND {seen(table)})"  # said twice: the index is a partial one
    for table in ("jobs", "images")
    for name in ("source", "mask")
)


class SourceOwners:
    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, source_id: str) -> None:
        """The current actor has added this picture."""
        with self._database.read() as db:
            if db.scalar(f"SELECT {ADDED}", id=source_id):
                return
        with self._database.write() as db:
            db.execute(
                "INSERT INTO source_owners (source_id, owner) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [source_id, actor.current().name],
            )

    def visible(self, source_id: str) -> bool:
        """Whether the current actor may look at it."""
        with self._database.read() as db:
            return bool(db.scalar(f"SELECT {RULES_ALL} OR {ADDED} OR {USED}", id=source_id))
