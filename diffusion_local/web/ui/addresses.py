"""Addresses of the page, ``/ui/gallery?starred=1``, and the state of its gallery and queue, each one line of text
that the page carries along. Everything else at the root belongs to APIs.

``router.js`` follows addresses in the browser; the server uses them to serve the page and to write links. The gallery's
state is ``model=sdxl&starred=1&at=ID&top=ID&show=200``: fields of GalleryFilter (they alone are its address), the
picture before the visible range, the newest picture when the page was opened, and how many are drawn. ``queue.js``
writes the queue's: ``state=failed&text=boat&open=ID+ID&shut=ID&wide=ID:1.0.50+ID:&live=0.0.20&ended=ID``.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from diffusion_local import serializers
from diffusion_local.gallery.images import MAX_CHARS, MAX_VALUE, GalleryFilter
from diffusion_local.queue.groups import MAX_TEXT, STATE_FILTERS, JobFilter, ListPosition, QueuePosition

PREFIX = "/ui"
#: Views of the page, in the order of its navigation.
VIEWS = ("create", "gallery", "queue", "lists", "models", "settings")
#: The viewer over the page: ``/ui/picture/ID``.
PICTURE = "picture"


def address(view: str, **query: str) -> str:
    """Of a view, with its filters; below the path of a reverse proxy."""
    kept = {name: value for name, value in query.items() if value}
    return f"{serializers.root()}{PREFIX}/{view}" + (f"?{urlencode(kept)}" if kept else "")


def picture(image_id: str) -> str:
    return address(f"{PICTURE}/{image_id}")


def serves(path: str) -> bool:
    """Whether the page itself is served there."""
    return path == "/" or path == PREFIX or path.startswith(f"{PREFIX}/")


def known(path: str) -> bool:
    """Whether an address can name something: a view or a picture, as far as its form tells."""
    if not serves(path):
        return False
    parts = path.removeprefix(PREFIX).strip("/").split("/")
    return parts in ([""], *([view] for view in VIEWS)) or (len(parts) == 2 and parts[0] == PICTURE and bool(parts[1]))


MOST_IDS = 60
MOST_WIDE = 4  # batches of which a long window is shown at once
MOST_PAGES = 200  # that one can walk back


@dataclass(frozen=True, slots=True)
class QueueState:
    """``opened`` and ``shut`` are the batches that a person has unfolded and folded, ``wide`` those with a long window
    and the key behind which it begins; ``live`` and ``ended`` the last ones of the pages before."""

    wanted: JobFilter = field(default_factory=JobFilter)
    opened: frozenset[str] = frozenset()
    shut: frozenset[str] = frozenset()
    wide: dict[str, ListPosition | None] = field(default_factory=dict)
    live: tuple[QueuePosition, ...] = ()
    ended: tuple[str, ...] = ()

    @classmethod
    def read(cls, written: Any) -> Self:
        """What a browser sends is not trusted: what is not understood is left out."""
        values = dict(parse_qsl(written)) if isinstance(written, str) else {}
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


def written(key: tuple[int, int, int]) -> str:
    return ".".join(map(str, key))


FLAGS = ("starred", "trashed", "flagged")
FILTER_NAMES = frozenset(each.name for each in fields(GalleryFilter))
FEWEST, SHOW, MAX_SHOWN = 48, 160, 480  # pictures that are drawn at once


@dataclass(frozen=True, slots=True)
class GalleryState:
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
            if name in FILTER_NAMES
        }
        return cls(
            {name: value for name, value in filters.items() if value}, at, top, max(FEWEST, min(MAX_SHOWN, number))
        )

    def written(self) -> str:
        more = {"at": self.at, "top": self.top, "show": "" if self.show == SHOW else str(self.show)}
        return urlencode(self.filters | {name: value for name, value in more.items() if value})

    def address(self) -> str:
        return address("gallery", **self.filters)

    def asked(self) -> dict[str, Any]:
        """Arguments of ``Pictures.page``."""
        return {name: value == "1" if name in FLAGS else value for name, value in self.filters.items()}

    def get(self, name: str) -> str:
        return self.filters.get(name, "")

    def narrowed(self, name: str, value: str) -> Self:
        """With one filter more, from the beginning; an empty value takes it away."""
        rest = {each: kept for each, kept in self.filters.items() if each != name}
        return replace(
            self, filters=rest | ({name: value} if value and name in FILTER_NAMES else {}), at="", top="", show=SHOW
        )

    def without(self, *names: str) -> Self:
        return replace(self, filters={name: value for name, value in self.filters.items() if name not in names})
