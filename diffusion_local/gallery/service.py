"""The gallery as a person uses it: find, star, throw away and bring back, many at once, and take home as a ZIP file."""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from stream_zip import ZIP_64, stream_zip

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.domain import Image
from diffusion_local.errors import Conflict, InvalidParams
from diffusion_local.gallery.blobs import CHUNK
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.images import GalleryFilter, ImageStore
from diffusion_local.messages import message
from diffusion_local.options.signature import taking_fields
from diffusion_local.options.values import whole_number

MOST_AT_ONCE = 1000
PAGE = 500
MODE = 0o644
SLUG_CHARS = 50


@guarded("pictures")
class Pictures:
    """Built by ``compose``; hangs on the Studio as ``pictures``."""

    def __init__(self, images: ImageStore, files: ImageFiles) -> None:
        self._images = images
        self._files = files

    @taking_fields(GalleryFilter)
    def page(self, limit: int = 48, before: str | None = None, **asked: Any) -> list[Image]:
        """Pictures, newest first; ``before`` is the last id of the page before, ``asked`` fields of GalleryFilter."""
        return self._images.page(whole_number("limit", limit, 1, PAGE), before or None, GalleryFilter.of(asked))

    def models(self) -> list[str]:
        """Models that the gallery has pictures of."""
        return self._images.models()

    def owners(self) -> list[str]:
        """Accounts that the gallery has pictures of, as far as whoever acts may see them."""
        return self._images.owners()

    def repeated(self, images: Sequence[Image]) -> dict[str, int]:
        """Of those whose recipe, seed included, was made more than once: how often, by id."""
        return self._images.repeated(images)

    def alike(self, image: Image) -> int:
        """How many other pictures have the same recipe, seed included."""
        return self._images.alike(image)

    def star(self, image_ids: Sequence[str], starred: bool = True) -> list[Image]:
        return self._images.star(self._own(image_ids), starred)

    def trash(self, image_ids: Sequence[str]) -> list[Image]:
        """Take pictures out of the gallery; ``restore`` brings them back."""
        return self._images.trash(self._own(image_ids))

    def restore(self, image_ids: Sequence[str]) -> list[Image]:
        return self._images.restore(self._own(image_ids))

    def delete(self, image_ids: Sequence[str]) -> list[str]:
        """Delete pictures of the trash for good, files and all; their ids. One that is not there is a Conflict."""
        for image_id in self._own(image_ids):
            if not self._images.get(image_id).trashed_at:
                raise Conflict(message("not_in_trash", image=image_id))
        for _, key in self._images.forget(list(image_ids)):
            self._files.discard(key)  # after its row: there is no row without a file
        return list(image_ids)

    def _own(self, image_ids: Sequence[str]) -> list[str]:
        if not 0 < len(image_ids) <= MOST_AT_ONCE:
            raise InvalidParams("image_ids", message("more_kept", most=MOST_AT_ONCE, got=len(image_ids)))
        for image_id in image_ids:
            actor.current().require_own(self._images.get(image_id).owner, message("the_picture", id=image_id))
        return list(image_ids)

    # -- to take home ------------------------------------------------------------------------------------------------

    @taking_fields(GalleryFilter)
    def zip(self, image_ids: Sequence[str] = (), **asked: Any) -> Iterator[bytes]:
        """A ZIP file in pieces, made while it is sent: these pictures, or all that a filter finds."""
        if len(image_ids) > MOST_AT_ONCE:
            raise InvalidParams("image_ids", message("most_pictures", most=MOST_AT_ONCE, got=len(image_ids)))
        wanted = GalleryFilter.of(asked)  # errors now, not within the stream
        chosen = [self._images.get(image_id) for image_id in image_ids]
        return zipped(self._members(chosen or self._all(wanted)))

    def _members(self, images: Iterable[Image]) -> Iterator["Member"]:
        for image in images:
            file = self._files.picture(image.key)
            if file.exists():
                yield name_of(image), datetime.fromisoformat(image.created_at), file.pieces()

    def _all(self, wanted: GalleryFilter) -> Iterator[Image]:
        before = None
        while page := self._images.page(PAGE, before, wanted):
            yield from page
            before = page[-1].id


#: A file of a ZIP: its name, time and bytes.
Member = tuple[str, datetime, Iterable[bytes]]


def zipped(members: Iterable[Member]) -> Iterator[bytes]:
    """A ZIP file in pieces, made while it is sent. Pictures do not shrink any more: all is only stored."""
    entries = ((name, at, MODE, ZIP_64, content) for name, at, content in members)
    return iter(stream_zip(entries, chunk_size=CHUNK, get_compressobj=stored))


def stored() -> "zlib._Compress":
    return zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)


def name_of(image: Image) -> str:
    """A file name people can find again; the id's end keeps it single."""
    slug = re.sub(r"[^\w]+", "-", image.params.prompt.lower())[:SLUG_CHARS].strip("-_") or "picture"
    return f"{slug}-{image.params.seed}-{image.id[-6:].lower()}{image.suffix}"
