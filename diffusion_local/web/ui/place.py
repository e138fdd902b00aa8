"""Where in the gallery somebody is: the filters, and which part of the pictures is drawn. One line of text that the
page carries along; the filters alone are its address.

``model=sdxl&starred=1&at=ID&top=ID&show=200``: fields of GalleryFilter, the picture behind which the drawn part begins,
the newest picture when the page was opened, and how many are drawn.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from diffusion_local.gallery.images import MAX_CHARS, MAX_VALUE, GalleryFilter
from diffusion_local.web.ui import addresses

FLAGS = ("starred", "trashed", "flagged")
NAMES = frozenset(each.name for each in fields(GalleryFilter))
FEWEST, SHOW, MOST = 48, 160, 480  # pictures that are drawn at once


@dataclass(frozen=True, slots=True)
class Place:
    filters: dict[str, str] = field(default_factory=dict)
    at: str = ""
    top: str = ""
    show: int = SHOW

    @classmethod
    def read(cls, written: Any) -> Self:
        """What a browser sends is not trusted: unknown names are left out."""
        values = dict(parse_qsl(written)) if isinstance(written, str) else {}
        at, top, show = (values.pop(name, "")[:MAX_VALUE] for name in ("at", "top", "show"))
        number = int(show) if show.isascii() and show.isdigit() else SHOW
        filters = {
            name: value.strip()[: 2 * MAX_CHARS if name == "search" else MAX_VALUE]
            for name, value in values.items()
            if name in NAMES
        }
        return cls({name: value for name, value in filters.items() if value}, at, top, max(FEWEST, min(MOST, number)))

    def written(self) -> str:
        more = {"at": self.at, "top": self.top, "show": "" if self.show == SHOW else str(self.show)}
        return urlencode(self.filters | {name: value for name, value in more.items() if value})

    def address(self) -> str:
        return addresses.address("gallery", **self.filters)

    def asked(self) -> dict[str, Any]:
        """Arguments of ``Pictures.page``."""
        return {name: value == "1" if name in FLAGS else value for name, value in self.filters.items()}

    def get(self, name: str) -> str:
        return self.filters.get(name, "")

    def narrowed(self, name: str, value: str) -> Self:
        """With one filter more, from the beginning; an empty value takes it away."""
        rest = {each: kept for each, kept in self.filters.items() if each != name}
        return replace(
            self, filters=rest | ({name: value} if value and name in NAMES else {}), at="", top="", show=SHOW
        )

    def without(self, *names: str) -> Self:
        return replace(self, filters={name: value for name, value in self.filters.items() if name not in names})
