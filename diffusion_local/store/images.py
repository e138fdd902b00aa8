"""The images table: the gallery. Rows are written by ``JobStore.finish`` together with the job's end."""

from collections.abc import Sequence
from dataclasses import replace

from diffusion_local import actor
from diffusion_local.db import search
from diffusion_local.db.access import own, ruled, seen
from diffusion_local.db.database import Database
from diffusion_local.db.dialect import as_list, contains, each_value, in_list
from diffusion_local.db.schema import recipe_mark
from diffusion_local.domain import Image, utc_now
from diffusion_local.store import rows
from diffusion_local.store.gallery_filter import GalleryFilter
from diffusion_local.store.tombstones import missing

RECENT = 100
EVERYTHING = GalleryFilter()
SAMPLED = 2000


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
            found = db.query(
                f"SELECT * FROM images WHERE {in_list('job_id')} AND trashed_at IS NULL AND {seen()}",
                {"ids": as_list(job_ids)},
            )
            return {image.job_id: image for image in map(rows.image, found)}

    def page(self, limit: int = 48, before: str | None = None, asked: GalleryFilter = EVERYTHING) -> list[Image]:
        """Pictures, newest first. ``before`` is the last id of the page before: any depth costs the same."""
        conditions, values = asked.where()
        only_own = not actor.current().sees_all
        conditions.append(own("images") if only_own else seen())
        values["limit"] = limit
        source, order = "images", "created_at DESC, id DESC"
        after = "(created_at, id) < (SELECT created_at, id FROM images AS last WHERE last.id = :before)"
        with self._database.read() as db:
            if words := search.terms(asked.search):
                source, order, after = search.SOURCE, search.ORDER, search.AFTER
                if only_own or replace(asked, search=""):
                    conditions += search.bounds(db, conditions, values)
                conditions.append(search.MATCHES)
                values["words"] = words
            elif asked.search:
                conditions.append(contains("images.prompt", ":search"))
                values["search"] = asked.search
            if before:
                conditions.append(after)
                values["before"] = before
            sql = f"SELECT images.* FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT :limit"
            return [rows.image(row) for row in db.query(sql, values)]

    def forget(self, image_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Delete rows of the trash: (id, key) of each that was there."""
        with self._database.write() as db:
            gone = db.query(
                f"DELETE FROM images WHERE {in_list('id')} AND trashed_at IS NOT NULL AND {ruled()} RETURNING id, key",
                {"ids": as_list(image_ids)},
            )
            return [(row["id"], row["key"]) for row in gone]

    def alike(self, image: Image) -> int:
        """How many other pictures have this one's recipe, seed included; without the trash."""
        same = f"SELECT count(*) FROM images WHERE mark = :mark AND id != :id AND trashed_at IS NULL AND {seen()}"
        with self._database.read() as db:
            return db.scalar(same, mark=recipe_mark(image.params), id=image.id)

    def repeated(self, images: Sequence[Image]) -> dict[str, int]:
        """Of those whose recipe, seed included, was made more than once: how often, by id; without the trash."""
        same = f"SELECT count(*) FROM images WHERE mark = each.mark AND trashed_at IS NULL AND {seen()}"
        counted = f"SELECT id, ({same}) AS times FROM images AS each WHERE {in_list('id')} AND trashed_at IS NULL"
        with self._database.read() as db:
            found = db.query(counted, {"ids": as_list(image.id for image in images)})
            return {row["id"]: row["times"] for row in found if row["times"] > 1}

    def owners(self) -> list[str]:
        """Accounts that the gallery has pictures of; without the machine's own person."""
        with self._database.read() as db:
            found = db.query(
                f"SELECT owner FROM image_counts WHERE images > 0 AND owner != '' AND {seen()} ORDER BY owner"
            )
            return [row["owner"] for row in found]

    def models(self) -> list[str]:
        """Models of the pictures in the gallery that may be looked at."""
        only_own = "" if actor.current().sees_all else f" AND {own()}"
        with self._database.read() as db:
            return each_value(db, "images", "model", f"trashed_at IS NULL{only_own}")

    def newest_of_models(self) -> dict[str, Image]:
        """The newest picture of each model that is among the newest SAMPLED."""
        newest = (
            f"SELECT id, model, created_at FROM images WHERE trashed_at IS NULL AND {seen()} "
            f"ORDER BY created_at DESC, id DESC LIMIT {SAMPLED}"
        )
        ranked = (
            "SELECT id, row_number() OVER (PARTITION BY model ORDER BY created_at DESC, id DESC) AS place "
            f"FROM ({newest}) AS newest"
        )
        with self._database.read() as db:
            found = db.query(f"SELECT * FROM images WHERE id IN (SELECT id FROM ({ranked}) AS ranked WHERE place = 1)")
            return {image.params.model: image for image in map(rows.image, found)}

    def count(self) -> int:
        """Pictures in the gallery, without the trash."""
        with self._database.read() as db:
            return db.scalar(f"SELECT coalesce(sum(images), 0) FROM image_counts WHERE {seen()}")

    def bytes_per_pixel(self) -> float | None:
        """Of the newest RECENT pictures; None if there is none."""
        recent = (
            "SELECT bytes, width * height AS pixels FROM images WHERE trashed_at IS NULL "
            f"ORDER BY created_at DESC, id DESC LIMIT {RECENT}"
        )
        with self._database.read() as db:
            return db.scalar(f"SELECT 1.0 * sum(bytes) / sum(pixels) FROM ({recent}) AS recent")

    def about_bytes(self) -> int:
        """What all pictures take on the disk, by the size of the newest RECENT ones."""
        recent = f"SELECT bytes FROM images ORDER BY created_at DESC, id DESC LIMIT {RECENT}"
        with self._database.read() as db:
            each = db.scalar(f"SELECT avg(bytes) FROM ({recent}) AS recent") or 0
            return int(each * db.scalar("SELECT count(*) FROM images"))

    def star(self, image_ids: Sequence[str], starred: bool) -> list[Image]:
        return self._change(image_ids, "starred = :value", int(starred))

    def trash(self, image_ids: Sequence[str]) -> list[Image]:
        return self._change(image_ids, "trashed_at = :value", utc_now())

    def restore(self, image_ids: Sequence[str]) -> list[Image]:
        return self._change(image_ids, "trashed_at = :value", None)

    def _change(self, image_ids: Sequence[str], sets: str, value: str | int | None) -> list[Image]:
        """All of them or, where one is not there, none."""
        changed = []
        with self._database.write() as db:
            for image_id in image_ids:
                found = list(
                    db.query(
                        f"UPDATE images SET {sets} WHERE id = :id AND {ruled()} RETURNING *",
                        {"id": image_id, "value": value},
                    )
                )
                if not found:
                    raise missing(db, "picture", image_id)
                changed.append(rows.image(found[0]))
        return changed
