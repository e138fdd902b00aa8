"""The images table: the gallery. ``JobStore.finish`` inserts the rows."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any, Self

from diffusion_local import actor
from diffusion_local.db import rows, search
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import IMAGE_PIXELS, SHAPE, as_list, contains, distinct_values, in_list, recipe_mark
from diffusion_local.db.row_access import owned, readable, writable
from diffusion_local.db.rows import not_found
from diffusion_local.db.search import word_count
from diffusion_local.domain import Image, utc_now
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

SHAPE_FILTERS = {"square": 0, "portrait": -1, "landscape": 1}
SORTS = ("newest", "oldest", "largest")
#: Limits of a search: FTS recurses per word of the expression, and a long one would overflow the stack.
MAX_CHARS, MAX_WORDS = 1000, 50
MAX_VALUE = 200  # characters of other filters
RECENT_IMAGES = 100
MOST_SEARCHED_IMAGES = 2000


def criterion(default: Any, meaning: str) -> Any:
    """A field of GalleryFilter. ``meaning``: help of its command-line flag."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class GalleryFilter:
    """Gallery filter; empty fields match everything. ``since`` and ``until`` are inclusive; pictures of one size are
    sorted newest first.

    HTTP, Gradio, the command line and the page's address take its fields; ``meaning`` describes them to users.
    """

    search: str = criterion("", "words of prompt or caption")
    starred: bool = criterion(False, "only starred pictures")
    trashed: bool = criterion(False, "pictures in the trash instead")
    flagged: bool = criterion(
        False, "only pictures that are black, of one colour, nearly flat or mere noise without being asked for, or "
        "incomplete"
    )  # fmt: skip
    model: str = criterion("", "id of a model")
    board: str = criterion("", "id of a board")
    batch: str = criterion("", "id of a batch")
    owner: str = criterion("", "name of an account")
    shape: str = criterion("", "square, portrait or landscape")
    since: str = criterion("", "first day (UTC), YYYY-MM-DD")
    until: str = criterion("", "last day (UTC), YYYY-MM-DD")
    like: str = criterion("", "id of a picture: pictures with the same recipe")
    sort: str = criterion("", "newest, oldest or largest first; default newest")

    def __bool__(self) -> bool:
        return self != type(self)()

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Build a filter from named fields; None means absent. Raises InvalidParams."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidParams(name, message("gallery_filter", known=sorted(known)))
        values_given = {name: value for name, value in values.items() if value is not None}
        if isinstance(values_given.get("search"), str):
            values_given["search"] = values_given["search"].strip()
        parsed = cls(**values_given)
        parsed.check_lengths()
        for field, known_values in (("shape", tuple(SHAPE_FILTERS)), ("sort", SORTS)):
            value = getattr(parsed, field)
            if value and value not in known_values:
                raise InvalidParams(field, message("one_of", known=list(known_values), got=echo(value)))
        for field in ("since", "until"):
            check_day(field, getattr(parsed, field))
        return parsed

    def check_lengths(self) -> None:
        """Raise InvalidParams for the first filter that is too long."""
        for field in fields(self):
            if field.type != "str" and field.type is not str:
                continue
            value, most = getattr(self, field.name), MAX_CHARS if field.name == "search" else MAX_VALUE
            if not isinstance(value, str):
                raise InvalidParams(field.name, message("text"))
            if len(value) > most:
                raise InvalidParams(field.name, message("too_long", most=most, got=len(value)))
        if (words := word_count(self.search)) > MAX_WORDS:
            raise InvalidParams("search", message("most_words", most=MAX_WORDS, got=words))

    def where(self) -> tuple[list[str], dict[str, Any]]:
        """SQL conditions on ``images``, and their values."""
        conditions = ["trashed_at IS NOT NULL" if self.trashed else "trashed_at IS NULL"]
        values: dict[str, Any] = {}
        if self.starred:
            conditions.append("starred = 1")
        if self.flagged:
            conditions.append("flag != ''")
        for field, column in (("model", "model"), ("batch", "batch_id"), ("owner", "owner")):
            if value := getattr(self, field):
                conditions.append(f"{column} = :{field}")
                values[field] = value
        if self.board:
            conditions.append("id IN (SELECT image_id FROM board_images WHERE board_id = :board)")
            values["board"] = self.board
        if self.like:
            conditions.append("mark = (SELECT mark FROM images AS liked WHERE liked.id = :like)")
            values["like"] = self.like
        if self.shape:
            conditions.append(f"{SHAPE} = {SHAPE_FILTERS[self.shape]}")
        if self.since:
            conditions.append("created_at >= :since")
            values["since"] = self.since
        if self.until:
            conditions.append("created_at < :until")
            values["until"] = self.until + "U"  # sorts after every time of that day, whose 11th character is T
        return conditions, values


def check_day(field: str, text: str) -> None:
    try:
        if text:
            date.fromisoformat(text)
    except (ValueError, TypeError):
        raise InvalidParams(field, message("gallery_day", got=echo(text))) from None


def ordered(sort: str, indexed: bool, before: bool) -> list[tuple[str, str]]:
    """(condition on pictures after ``:before``, ORDER BY) of each query, in the order of their results.

    ``largest`` takes one query for pictures of the same size and one for smaller ones, so that each starts in the
    middle of an index. ``indexed``: rows come from the full-text index, which is in order of creation.
    """
    last = "FROM images AS last WHERE last.id = :before"
    older, newest_first = f"(created_at, id) < (SELECT created_at, id {last})", "created_at DESC, id DESC"
    if sort == "largest":
        largest_first = f"{IMAGE_PIXELS} DESC, {newest_first}"
        same, smaller = (f"{IMAGE_PIXELS} {sign} (SELECT {IMAGE_PIXELS} {last})" for sign in ("=", "<"))
        behind = [(f"{same} AND {older}", newest_first), (smaller, largest_first)]
        return behind if before else [("", largest_first)]
    after, order = (search.AFTER, search.NEWEST_FIRST) if indexed else (older, newest_first)
    if sort == "oldest":
        after, order = after.replace(" < ", " > "), order.replace("DESC", "ASC")
    return [(after if before else "", order)]


def selection(db: Transaction, gallery_filter: GalleryFilter) -> tuple[str, list[str], dict[str, Any]]:
    """(FROM, conditions, their values) of the pictures that match and that the actor may read."""
    conditions, values = gallery_filter.where()
    only_own = not actor.current().sees_all
    conditions.append(owned("images") if only_own else readable())
    source = "images"
    if found_by := search.lookup(db, gallery_filter.search):
        source = found_by.source
        if only_own or replace(gallery_filter, search=""):
            conditions += search.index_bounds(db, conditions, values)
        conditions.append(found_by.match)
        values["words"] = found_by.words
    if gallery_filter.search and not search.match_query(db, gallery_filter.search):
        columns = ("images.prompt", "images.caption")
        conditions.append("(" + " OR ".join(contains(each, ":search") for each in columns) + ")")
        values["search"] = gallery_filter.search
    return source, conditions, values


EVERYTHING = GalleryFilter()


class ImageStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, image_id: str) -> Image:
        with self._database.read() as db:
            for row in db.query(f"SELECT * FROM images WHERE id = ? AND {readable()}", [image_id]):
                return rows.to_image(row)
            raise not_found(db, "picture", image_id)

    def of_jobs(self, job_ids: list[str]) -> dict[str, Image]:
        """Pictures by job id; jobs without one are left out."""
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT * FROM images WHERE {in_list('job_id')} AND trashed_at IS NULL AND {readable()}",
                {"ids": as_list(job_ids)},
            )
            return {image.job_id: image for image in map(rows.to_image, rows_found)}

    def page(
        self, limit: int = 48, before: str | None = None, gallery_filter: GalleryFilter = EVERYTHING
    ) -> list[Image]:
        """Pictures in the filter's order. ``before``: last id of the previous page; the cost does not depend on the
        depth.
        """
        with self._database.read() as db:
            source, conditions, values = selection(db, gallery_filter)
            indexed = source != "images" and gallery_filter.sort != "largest"  # the full-text index gives the order
            images: list[Image] = []
            for part, order in ordered(gallery_filter.sort, indexed, bool(before)):
                bound = values | {"limit": limit - len(images)} | ({"before": before} if part else {})
                matching = " AND ".join([*conditions, part] if part else conditions)
                sql = f"SELECT images.* FROM {source} WHERE {matching} ORDER BY {order} LIMIT :limit"
                images += [rows.to_image(row) for row in db.query(sql, bound)]
                if len(images) == limit:
                    break
            return images

    def count_matches(self, gallery_filter: GalleryFilter, most: int) -> int:
        """Number of pictures that match, counted up to ``most``."""
        with self._database.read() as db:
            source, conditions, values = selection(db, gallery_filter)
            matching = f"SELECT 1 FROM {source} WHERE {' AND '.join(conditions)} LIMIT :most"
            [row] = db.query(f"SELECT count(*) AS matches FROM ({matching}) AS matching", values | {"most": most})
            return row["matches"]

    def delete_trashed(self, image_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Delete rows from the trash; returns (id, key) of the deleted ones."""
        with self._database.write() as db:
            gone = db.query(
                f"DELETE FROM images WHERE {in_list('id')} AND trashed_at IS NOT NULL AND {writable()} "
                "RETURNING id, key",
                {"ids": as_list(image_ids)},
            )
            return [(row["id"], row["key"]) for row in gone]

    def count_alike(self, image: Image) -> int:
        """Number of other pictures with the same recipe and seed, without the trash."""
        same = f"SELECT count(*) FROM images WHERE mark = :mark AND id != :id AND trashed_at IS NULL AND {readable()}"
        with self._database.read() as db:
            return db.scalar(same, mark=recipe_mark(image.params), id=image.id)

    def repeated(self, images: Sequence[Image]) -> dict[str, int]:
        """By id, how many pictures have the same recipe and seed, if more than one; without the trash."""
        same = f"SELECT count(*) FROM images WHERE mark = each.mark AND trashed_at IS NULL AND {readable()}"
        counted = f"SELECT id, ({same}) AS times FROM images AS each WHERE {in_list('id')} AND trashed_at IS NULL"
        with self._database.read() as db:
            found = db.query(counted, {"ids": as_list(image.id for image in images)})
            return {row["id"]: row["times"] for row in found if row["times"] > 1}

    def owners(self) -> list[str]:
        """Accounts with pictures in the gallery, without the local user."""
        with self._database.read() as db:
            found = db.query(
                f"SELECT owner FROM image_counts WHERE images > 0 AND owner != '' AND {readable()} ORDER BY owner"
            )
            return [row["owner"] for row in found]

    def models(self) -> list[str]:
        """Models of the pictures that the actor may read."""
        only_own = "" if actor.current().sees_all else f" AND {owned()}"
        with self._database.read() as db:
            return distinct_values(db, "images", "model", f"trashed_at IS NULL{only_own}")

    def newest_of_models(self) -> dict[str, Image]:
        """Newest picture per model, among the newest MOST_SEARCHED_IMAGES pictures."""
        newest = (
            f"SELECT id, model, created_at FROM images WHERE trashed_at IS NULL AND {readable()} "
            f"ORDER BY created_at DESC, id DESC LIMIT {MOST_SEARCHED_IMAGES}"
        )
        ranked = (
            "SELECT id, row_number() OVER (PARTITION BY model ORDER BY created_at DESC, id DESC) AS place "
            f"FROM ({newest}) AS newest"
        )
        with self._database.read() as db:
            found = db.query(f"SELECT * FROM images WHERE id IN (SELECT id FROM ({ranked}) AS ranked WHERE place = 1)")
            return {image.params.model: image for image in map(rows.to_image, found)}

    def count(self) -> int:
        """Number of pictures, without the trash."""
        with self._database.read() as db:
            return db.scalar(f"SELECT coalesce(sum(images), 0) FROM image_counts WHERE {readable()}")

    def bytes_per_pixel(self) -> float | None:
        """Average file size per pixel of the newest RECENT_IMAGES pictures; None if there are none."""
        recent = (
            "SELECT bytes, width * height AS pixels FROM images WHERE trashed_at IS NULL "
            f"ORDER BY created_at DESC, id DESC LIMIT {RECENT_IMAGES}"
        )
        with self._database.read() as db:
            return db.scalar(f"SELECT 1.0 * sum(bytes) / sum(pixels) FROM ({recent}) AS recent")

    def estimated_bytes(self) -> int:
        """Estimated disk use of all pictures, from the newest RECENT_IMAGES ones."""
        recent = f"SELECT bytes FROM images ORDER BY created_at DESC, id DESC LIMIT {RECENT_IMAGES}"
        with self._database.read() as db:
            each = db.scalar(f"SELECT avg(bytes) FROM ({recent}) AS recent") or 0
            return int(each * db.scalar("SELECT count(*) FROM images"))

    def star(self, image_ids: Sequence[str], starred: bool) -> list[Image]:
        return self._change(image_ids, "starred = :value", int(starred))

    def trash(self, image_ids: Sequence[str]) -> list[Image]:
        return self._change(image_ids, "trashed_at = :value", utc_now())

    def restore(self, image_ids: Sequence[str]) -> list[Image]:
        return self._change(image_ids, "trashed_at = :value", None)

    def set_caption(self, image_id: str, caption: str) -> Image:
        with self._database.write() as db:
            if not db.scalar(f"SELECT 1 FROM images WHERE id = :id AND {writable()}", id=image_id):
                raise not_found(db, "picture", image_id)
            search.set_caption(db, image_id, caption)
            return next(rows.to_image(row) for row in list(db.query("SELECT * FROM images WHERE id = ?", [image_id])))

    def _change(self, image_ids: Sequence[str], sets: str, value: str | int | None) -> list[Image]:
        """Change all of the pictures, or none if one of them does not exist."""
        changed = []
        with self._database.write() as db:
            for image_id in image_ids:
                updated = list(
                    db.query(
                        f"UPDATE images SET {sets} WHERE id = :id AND {writable()} RETURNING *",
                        {"id": image_id, "value": value},
                    )
                )
                if not updated:
                    raise not_found(db, "picture", image_id)
                changed.append(rows.to_image(updated[0]))
        return changed
