"""The images table: the gallery. Rows are written by ``JobStore.finish`` together with the job's end."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlite_utils

from diffusion_local import actor
from diffusion_local.domain import Image, utc_now
from diffusion_local.store import rows
from diffusion_local.store.database import Database, each_value, scalar
from diffusion_local.store.gallery_filter import GalleryFilter
from diffusion_local.store.ownership import ruled, seen
from diffusion_local.store.tombstones import missing

RECENT = 100
EVERYTHING = GalleryFilter()
SAMPLED = 2000
FEW = 2000  # pictures of a filter that a search is led to, instead of passing by all that have the word


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

    def page(self, limit: int = 48, before: str | None = None, asked: GalleryFilter = EVERYTHING) -> list[Image]:
        """Pictures, newest first. ``before`` is the last id of the page before: any depth costs the same."""
        conditions, values = asked.where()
        own = not actor.current().sees_all
        # Said outright where it holds, so that an index finds one's own among those of others.
        conditions.append("images.owner = actor_name()" if own else seen())
        values["limit"] = limit
        source, order, after = "images", "created_at DESC, id DESC", "(created_at, id) < (SELECT created_at, id"
        with self._database.read() as db:
            if words := asked.words():
                # In the order in which they came in, which the full-text index can walk backwards: no word is so
                # common that its pictures must be sorted first.
                source = "images_text CROSS JOIN images ON images.number = images_text.rowid"
                order, after = "images_text.rowid DESC", "images_text.rowid < (SELECT number"
                if own or replace(asked, search=""):
                    conditions += bounds(db, conditions, values)
                conditions.append("images_text MATCH :words")
                values["words"] = words
            elif asked.search:
                conditions.append("instr(lower(images.prompt), lower(:search)) > 0")
                values["search"] = asked.search
            if before:
                conditions.append(f"{after} FROM images AS last WHERE last.id = :before)")
                values["before"] = before
            sql = f"SELECT images.* FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT :limit"
            return [rows.image(row) for row in db.query(sql, values)]

    def forget(self, image_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Delete rows of the trash: (id, key) of each that was there."""
        with self._database.write() as db:
            asked = "id IN (SELECT value FROM json_each(:ids)) AND trashed_at IS NOT NULL"
            gone = db.query(
                f"DELETE FROM images WHERE {asked} AND {ruled()} RETURNING id, key",
                {"ids": json.dumps(list(image_ids))},
            )
            return [(row["id"], row["key"]) for row in gone]

    def alike(self, image: Image) -> int:
        """How many other pictures have this one's recipe, seed included; without the trash."""
        same = f"SELECT count(*) FROM images WHERE mark = :mark AND id != :id AND trashed_at IS NULL AND {seen()}"
        with self._database.read() as db:
            return scalar(db, same, mark=rows.recipe_mark(image.params), id=image.id)

    def repeated(self, images: Sequence[Image]) -> dict[str, int]:
        """Of those whose recipe, seed included, was made more than once: how often, by id; without the trash."""
        same = f"SELECT count(*) FROM images WHERE mark = each.mark AND trashed_at IS NULL AND {seen()}"
        counted = (
            f"SELECT id, ({same}) AS times FROM images AS each "
            "WHERE id IN (SELECT value FROM json_each(:ids)) AND trashed_at IS NULL"
        )
        with self._database.read() as db:
            found = db.query(counted, {"ids": json.dumps([image.id for image in images])})
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
        own = "" if actor.current().sees_all else " AND owner = actor_name()"
        with self._database.read() as db:
            return each_value(db, "images", "model", f"trashed_at IS NULL{own}")

    def newest_of_models(self) -> dict[str, Image]:
        """The newest picture of each model that is among the newest SAMPLED."""
        newest = (
            f"SELECT id, model, created_at FROM images WHERE trashed_at IS NULL AND {seen()} "
            f"ORDER BY created_at DESC, id DESC LIMIT {SAMPLED}"
        )
        with self._database.read() as db:
            found = db.query(
                f"SELECT * FROM images WHERE id IN (SELECT id FROM (SELECT id, max(created_at || id) FROM ({newest}) "
                "GROUP BY model))"
            )
            return {image.params.model: image for image in map(rows.image, found)}

    def count(self) -> int:
        """Pictures in the gallery, without the trash."""
        with self._database.read() as db:
            return scalar(db, f"SELECT coalesce(sum(images), 0) FROM image_counts WHERE {seen()}")

    def bytes_per_pixel(self) -> float | None:
        """Of the newest RECENT pictures; None if there is none."""
        recent = (
            "SELECT bytes, width * height AS pixels FROM images WHERE trashed_at IS NULL "
            f"ORDER BY created_at DESC, id DESC LIMIT {RECENT}"
        )
        with self._database.read() as db:
            return scalar(db, f"SELECT 1.0 * sum(bytes) / sum(pixels) FROM ({recent})")

    def about_bytes(self) -> int:
        """What all pictures take on the disk, by the size of the newest RECENT ones."""
        recent = f"SELECT bytes FROM images ORDER BY created_at DESC, id DESC LIMIT {RECENT}"
        with self._database.read() as db:
            each = scalar(db, f"SELECT avg(bytes) FROM ({recent})") or 0
            return int(each * scalar(db, "SELECT count(*) FROM images"))

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


def bounds(db: sqlite_utils.Database, conditions: Sequence[str], values: dict[str, Any]) -> list[str]:
    """Where in the full-text index the pictures of a filter are, as conditions; their values are added."""
    asked = " AND ".join(conditions)
    found = db.execute(f"SELECT number FROM images WHERE {asked} LIMIT {FEW + 1}", values).fetchall()
    if len(found) <= FEW:
        numbers = [number for (number,) in found]
        values |= {"few": json.dumps(numbers), "low": min(numbers, default=0), "high": max(numbers, default=0)}
        # The plus: looked up in the list while it walks, not one search for each of the list.
        return [
            "images_text.rowid BETWEEN :low AND :high",
            "+images_text.rowid IN (SELECT value FROM json_each(:few))",
        ]
    if "until" in values:
        return ["images_text.rowid <= (SELECT max(+number) FROM images WHERE created_at < :until)"]
    return []
