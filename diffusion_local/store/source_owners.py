"""Who may look at a source picture: whoever added it, whoever may see a job or picture that uses it, and an admin."""

from diffusion_local.store.database import Database, scalar
from diffusion_local.store.ownership import seen

ADDED = "EXISTS (SELECT 1 FROM source_owners WHERE source_id = :id AND owner = actor_name())"
USED = " OR ".join(
    f"EXISTS (SELECT 1 FROM {table} WHERE json_extract(params, '$.{field}') = :id "
    f"AND json_extract(params, '$.{field}') IS NOT NULL AND {seen(table)})"  # said twice: the index is a partial one
    for table in ("jobs", "images")
    for field in ("source", "mask")
)


class SourceOwners:
    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, source_id: str) -> None:
        """The current actor has added this picture."""
        with self._database.read() as db:
            if scalar(db, f"SELECT {ADDED}", id=source_id):
                return
        with self._database.write() as db:
            db.execute(
                "INSERT OR IGNORE INTO source_owners (source_id, owner) VALUES (:id, actor_name())", {"id": source_id}
            )

    def visible(self, source_id: str) -> bool:
        """Whether the current actor may look at it."""
        with self._database.read() as db:
            return bool(scalar(db, f"SELECT actor_rules_all() OR {ADDED} OR {USED}", id=source_id))
