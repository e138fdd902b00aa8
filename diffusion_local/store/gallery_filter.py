"""What of the gallery is asked for, and the WHERE that finds it by an index; words are a matter of ``db.search``."""

from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Self

from diffusion_local.db.schema import SHAPE
from diffusion_local.db.search import word_count
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

SHAPES = {"square": 0, "portrait": -1, "landscape": 1}
#: Of a search: an index descends into its expression with a call for each word, and a long one overflows the stack.
MAX_CHARS, MAX_WORDS = 1000, 50
MAX_VALUE = 200  # characters of any other filter


@dataclass(frozen=True, slots=True)
class GalleryFilter:
    """Every field narrows; empty ones do not. ``since`` and ``until`` are days (UTC, YYYY-MM-DD), both included."""

    search: str = ""
    starred: bool = False
    trashed: bool = False
    flagged: bool = False  # those that are probably not what was wanted
    model: str = ""
    board: str = ""
    batch: str = ""
    owner: str = ""
    shape: str = ""
    since: str = ""
    until: str = ""
    like: str = ""  # id of a picture: those of the same recipe

    def __bool__(self) -> bool:
        return self != type(self)()

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """A filter from its fields; what is None is not asked for. Raises InvalidParams."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidParams(name, message("gallery_filter", known=sorted(known)))
        given = {name: value for name, value in values.items() if value is not None}
        if isinstance(given.get("search"), str):
            given["search"] = given["search"].strip()
        asked = cls(**given)
        asked.check_lengths()
        if asked.shape and asked.shape not in SHAPES:
            raise InvalidParams("shape", message("one_of", known=list(SHAPES), got=echo(asked.shape)))
        for field in ("since", "until"):
            check_day(field, getattr(asked, field))
        return asked

    def check_lengths(self) -> None:
        """Raises InvalidParams naming the first filter that is too long."""
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
        """Conditions on ``images`` and their values."""
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
            conditions.append(f"{SHAPE} = {SHAPES[self.shape]}")
        if self.since:
            conditions.append("created_at >= :since")
            values["since"] = self.since
        if self.until:
            conditions.append("created_at < :until")
            values["until"] = self.until + "U"  # after every time of that day, which goes on with a T
        return conditions, values


def check_day(field: str, text: str) -> None:
    try:
        if text:
            date.fromisoformat(text)
    except (ValueError, TypeError):
        raise InvalidParams(field, message("gallery_day", got=echo(text))) from None
