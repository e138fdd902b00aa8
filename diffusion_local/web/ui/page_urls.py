"""Addresses of the page, such as ``/ui/gallery?starred=1``, and the state of its gallery and queue.

``router.js`` follows addresses in the browser; the server uses them to serve the page and to write links. All paths
outside ``/ui`` belong to APIs.

The page keeps each state as one query string. That of the gallery is ``model=sdxl&starred=1&at=ID&top=ID&show=200``:
fields of GalleryFilter (only these are in the address), the picture before the visible range, the newest picture when
the page was opened, and the number of pictures drawn. ``queue.js`` writes that of the queue:
``state=failed&text=boat&open=ID+ID&shut=ID&wide=ID:1.0.50+ID:&live=0.0.20&ended=ID``.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from diffusion_local import serializers
from diffusion_local.gallery.images import MAX_CHARS, MAX_VALUE, GalleryFilter
from diffusion_local.queue.groups import MAX_TEXT, STATE_FILTERS, JobFilter, ListPosition, QueuePosition

ROUTE_PREFIX = "/ui"
#: Views (tabs) of the page, in the order of its navigation.
VIEWS = ("create", "gallery", "queue", "lists", "models", "settings")
#: First part of the address of a picture in the viewer: ``/ui/picture/ID``.
PICTURE_PARAMETER = "picture"
MOST_IDS = 60
MOST_WIDE = 4  # batches with a long window at once
MOST_PAGES = 200  # pages that the user can go back
SWITCH_FILTERS = ("starred", "trashed", "flagged")


def address(view: str, **query: str) -> str:
    """The address of a view with its non-empty filters, including the path prefix of a reverse proxy."""
    kept = {name: value for name, value in query.items() if value}
    return f"{serializers.root()}{ROUTE_PREFIX}/{view}" + (f"?{urlencode(kept)}" if kept else "")


def picture(image_id: str) -> str:
    return address(f"{PICTURE_PARAMETER}/{image_id}")


def serves(path: str) -> bool:
    """Whether the page is served at this path."""
    return path == "/" or path == ROUTE_PREFIX or path.startswith(f"{ROUTE_PREFIX}/")


def is_page_url(path: str) -> bool:
    """Whether a path has the form of a view's or a picture's address. The picture need not exist."""
    if not serves(path):
        return False
    parts = path.removeprefix(ROUTE_PREFIX).strip("/").split("/")
    return parts in ([""], *([view] for view in VIEWS)) or (
        len(parts) == 2 and parts[0] == PICTURE_PARAMETER and bool(parts[1])
    )


@dataclass(frozen=True, slots=True)
class QueueState:
    """The state of the Queue tab.

    ``wanted``: filters; ``opened`` and ``shut``: ids of batches that the user expanded and collapsed; ``wide``: ids of
    batches with a long window, and the position after which that starts; ``live`` and ``ended``: the last batch
    of each previous page.
    """

    wanted: JobFilter = field(default_factory=JobFilter)
    opened: frozenset[str] = frozenset()
    shut: frozenset[str] = frozenset()
    wide: dict[str, ListPosition | None] = field(default_factory=dict)
    live: tuple[QueuePosition, ...] = ()
    ended: tuple[str, ...] = ()

    @classmethod
    def parse(cls, query: Any) -> Self:
        """Parse a query string from a browser. It is untrusted: what is invalid is ignored."""
        values = dict(parse_qsl(query)) if isinstance(query, str) else {}
        named = {each.name: values.get(each.name, "").strip()[:MAX_TEXT] for each in fields(JobFilter)}
        if named["state"] not in STATE_FILTERS:
            named["state"] = ""
        pages = [numbers(each) for each in values.get("live", "").split()[-MOST_PAGES:]]
        windows = [each.partition(":") for each in values.get("wide", "").split()[-MOST_WIDE:]]
        return cls(
            JobFilter(**named),
            frozenset(values.get("open", "").split()[-MOST_IDS:]),
            frozenset(values.get("shut", "").split()[-MOST_IDS:]),
            {batch_id: ListPosition(*key) if (key := numbers(written)) else None for batch_id, _, written in windows},
            tuple(QueuePosition(*each) for each in pages if each),
            tuple(values.get("ended", "").split()[-MOST_PAGES:]),
        )


def numbers(written: str) -> tuple[int, int, int] | None:
    try:
        first, second, third = (int(each) for each in written.split("."))
    except ValueError:
        return None
    return (first, second, third) if max(map(abs, (first, second, third))) < 2**62 else None


def format_key(key: tuple[int, int, int]) -> str:
    return ".".join(map(str, key))


FILTER_NAMES = frozenset(each.name for each in fields(GalleryFilter))
FEWEST, SHOW, MAX_SHOWN = 48, 160, 480  # pictures drawn at once: minimum, default, maximum


@dataclass(frozen=True, slots=True)
class GalleryState:
    """The state of the Gallery tab. ``filters``: non-empty fields of GalleryFilter; the module describes the others."""

    filters: dict[str, str] = field(default_factory=dict)
    at: str = ""
    top: str = ""
    show: int = SHOW

    @classmethod
    def parse(cls, query: Any) -> Self:
        """Parse a query string from a browser. It is untrusted: unknown names are ignored, long values cut."""
        values = dict(parse_qsl(query)) if isinstance(query, str) else {}
        at, top, show = (values.pop(name, "")[:MAX_VALUE] for name in ("at", "top", "show"))
        number = int(show) if show.isascii() and show.isdigit() else SHOW
        filters = {
            name: value.strip()[: 2 * MAX_CHARS if name == "search" else MAX_VALUE]
            for name, value in values.items()
            if name in FILTER_NAMES
        }
        return cls(
            {name: value for name, value in filters.items() if value}, at, top, max(FEWEST, min(MAX_SHOWN, number))
        )

    def query_string(self) -> str:
        more = {"at": self.at, "top": self.top, "show": "" if self.show == SHOW else str(self.show)}
        return urlencode(self.filters | {name: value for name, value in more.items() if value})

    def address(self) -> str:
        return address("gallery", **self.filters)

    def filter_arguments(self) -> dict[str, Any]:
        """The filters as keyword arguments of ``Pictures.page``."""
        return {name: value == "1" if name in SWITCH_FILTERS else value for name, value in self.filters.items()}

    def get(self, name: str) -> str:
        return self.filters.get(name, "")

    def narrowed(self, name: str, value: str) -> Self:
        """The state with another filter, at the first picture; an empty value removes that filter."""
        rest = {each: kept for each, kept in self.filters.items() if each != name}
        return replace(
            self, filters=rest | ({name: value} if value and name in FILTER_NAMES else {}), at="", top="", show=SHOW
        )

    def without(self, *names: str) -> Self:
        return replace(self, filters={name: value for name, value in self.filters.items() if name not in names})
