"""The images table: the gallery. Rows are written by ``JobStore.finish`` together with the job's end."""

from diffusion_local.domain import Image, utc_now
from diffusion_local.store import rows
from diffusion_local.store.database import Database, scalar
from diffusion_local.store.ownership import ruled, seen
from diffusion_local.store.tombstones import missing

RECENT = 100


class ImageStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, image_id: str) -> Image:
        with self._database.read() as db:
            for row in db.query(f"SELECT * FROM images WHERE id = ? AND {seen()}", [image_id]):
                return rows.image(row)
            raise missing(db, "picture", image_id)

    def of_jobs(self, job_ids: list[str]) -> dict[str, Image]:
        """Pictures by job id; jobs without one are left out."""
        with self._database.read() as db:
            marks = ", ".join("?" * len(job_ids))
            found = db.query(
                f"SELECT * FROM images WHERE job_id IN ({marks}) AND trashed_at IS NULL AND {seen()}", job_ids
            )
            return {image.job_id: image for image in map(rows.image, found)}

    def page(
        self, limit: int = 48, before: str | None = None, search: str = "", starred: bool = False, trashed: bool = False
    ) -> list[Image]:
        """Pictures, newest first. ``before`` is the last id of the page before: any depth costs the same."""
        where = ["trashed_at IS NOT NULL" if trashed else "trashed_at IS NULL", seen()]
        values: dict[str, str | int] = {"limit": limit}
        if before:
            where.append("(created_at, id) < (SELECT created_at, id FROM images WHERE id = :before)")
            values["before"] = before
        if search:
            where.append("instr(lower(prompt), lower(:search)) > 0")
            values["search"] = search
        if starred:
            where.append("starred = 1")
        sql = f"SELECT * FROM images WHERE {' AND '.join(where)} ORDER BY created_at DESC, id DESC LIMIT :limit"
        with self._database.read() as db:
            return [rows.image(row) for row in db.query(sql, values)]

    def count(self) -> int:
        """Pictures in the gallery, without the trash."""
        with self._database.read() as db:
            return scalar(db, f"SELECT count(*) FROM images WHERE trashed_at IS NULL AND {seen()}")

    def bytes_per_pixel(self) -> float | None:
        """Of the newest RECENT pictures; None if there is none."""
        recent = (
            "SELECT bytes, width * height AS pixels FROM images WHERE trashed_at IS NULL "
            f"ORDER BY created_at DESC, id DESC LIMIT {RECENT}"
        )
        with self._database.read() as db:
            return scalar(db, f"SELECT 1.0 * sum(bytes) / sum(pixels) FROM ({recent})")

    def star(self, image_id: str, starred: bool) -> Image:
        return self._change(image_id, "starred = :value", int(starred))

    def trash(self, image_id: str) -> Image:
        return self._change(image_id, "trashed_at = :value", utc_now())

    def restore(self, image_id: str) -> Image:
        return self._change(image_id, "trashed_at = :value", None)

    def _change(self, image_id: str, sets: str, value: str | int | None) -> Image:
        with self._database.write() as db:
            for row in db.query(
                f"UPDATE images SET {sets} WHERE id = :id AND {ruled()} RETURNING *", {"id": image_id, "value": value}
            ):
                return rows.image(row)
            raise missing(db, "picture", image_id)
