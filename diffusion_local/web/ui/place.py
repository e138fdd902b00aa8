"""Where in the gallery somebody is: the filters, and the pages behind. One line of text that the page carries along.

``model=sdxl&starred=1&at=ID+ID``: fields of GalleryFilter, and the last ids of the pages before this one.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from diffusion_local.gallery.images import MAX_VALUE, GalleryFilter

MOST_PAGES = 200  # that one can walk back
FLAGS = ("starred", "trashed", "flagged")
NAMES = frozenset(each.name for each in fields(GalleryFilter)) - {"search"}


@dataclass(frozen=True, slots=True)
class Place:
    filters: dict[str, str] = field(default_factory=dict)
    cursors: tuple[str, ...] = ()

    @classmethod
    def read(cls, written: Any) -> Self:
        """What a browser sends is not trusted: unknown names are left out."""
        values = dict(parse_qsl(written)) if isinstance(written, str) else {}
        at = tuple(each[:MAX_VALUE] for each in values.pop("at", "").split()[-MOST_PAGES:])
        return cls({name: value[:MAX_VALUE] for name, value in values.items() if name in NAMES}, at)

    def written(self) -> str:
        return urlencode(self.filters | ({"at": " ".join(self.cursors)} if self.cursors else {}))

    def asked(self) -> dict[str, Any]:
        """Arguments of ``Pictures.page``."""
        return {name: value == "1" if name in FLAGS else value for name, value in self.filters.items()}

    @property
    def before(self) -> str | None:
        return self.cursors[-1] if self.cursors else None

    def get(self, name: str) -> str:
        return self.filters.get(name, "")

    def only(self, **filters: str) -> Self:
        """The first page of these filters alone."""
        return type(self)(filters)

    def narrowed(self, name: str, value: str) -> Self:
        """The first page with one filter more; an empty value takes it away."""
        rest = {each: kept for each, kept in self.filters.items() if each != name}
        return type(self)(rest | ({name: value} if value and name in NAMES else {}))

    def older(self, last: str) -> Self:
        return replace(self, cursors=(*self.cursors, last)[-MOST_PAGES:])

    def newer(self) -> Self:
        return replace(self, cursors=self.cursors[:-1])
