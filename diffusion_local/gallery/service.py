"""Gallery use cases: find, star, trash and restore pictures, in bulk, and download them as a ZIP file."""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.domain import MAX_IDS, Image
from diffusion_local.errors import Conflict, InvalidParams
from diffusion_local.gallery.blobs import READ_CHUNK
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.images import GalleryFilter, ImageStore
from diffusion_local.gallery.vision_answers import VisionAnswers
from diffusion_local.messages import message
from diffusion_local.options.signature import with_fields
from diffusion_local.options.values import check_cursor, check_integer

ZIP_PAGE = 500
MOST_COUNTED = 1000  # matches
MODE = 0o644
SLUG_CHARS = 50


@guarded("pictures")
class Pictures:
    """Gallery use cases, available as ``studio.pictures``."""

    def __init__(self, images: ImageStore, files: ImageFiles, looks: VisionAnswers) -> None:
        self._images = images
        self._files = files
        self._looks = looks

    @with_fields(GalleryFilter)
    def page(self, limit: int = 48, before: str | None = None, **filters: Any) -> list[Image]:
        """Pictures, newest first unless ``sort`` says otherwise. ``before``: last id of the previous page; ``filters``:
        fields of GalleryFilter.
        """
        most, cursor = check_integer("limit", limit, 1, ZIP_PAGE), check_cursor("before", before)
        return self._images.page(most, cursor, GalleryFilter.parse(filters))

    @with_fields(GalleryFilter)
    def count_matches(self, most: int = 1000, **filters: Any) -> int:
        """Number of pictures that match, counted up to ``most``. ``filters``: fields of GalleryFilter."""
        return self._images.count_matches(GalleryFilter.parse(filters), check_integer("most", most, 1, MOST_COUNTED))

    def models(self) -> list[str]:
        """Models of the pictures in the gallery."""
        return self._images.models()

    def owners(self) -> list[str]:
        """Accounts with pictures that the actor may read."""
        return self._images.owners()

    def repeated(self, images: Sequence[Image]) -> dict[str, int]:
        """By id, how many pictures have the same recipe and seed, if more than one."""
        return self._images.repeated(images)

    def alike(self, image: Image) -> int:
        """Number of other pictures with the same recipe and seed."""
        return self._images.count_alike(image)

    def star(self, image_ids: Sequence[str], starred: bool = True) -> list[Image]:
        return self._images.star(self._require_own(image_ids), starred)

    def trash(self, image_ids: Sequence[str]) -> list[Image]:
        """Move pictures to the trash; ``restore`` brings them back."""
        return self._images.trash(self._require_own(image_ids))

    def restore(self, image_ids: Sequence[str]) -> list[Image]:
        return self._images.restore(self._require_own(image_ids))

    def delete(self, image_ids: Sequence[str]) -> list[str]:
        """Delete pictures from the trash permanently, with their files; returns their ids.

        Raises Conflict for a picture that is not in the trash.
        """
        for image_id in self._require_own(image_ids):
            if not self._images.get(image_id).trashed_at:
                raise Conflict(message("not_in_trash", image=image_id))
        for _, key in self._images.delete_trashed(list(image_ids)):
            self._files.discard(key)  # after the row, so that no row lacks a file
        return list(image_ids)

    def caption(self, image_id: str) -> Image:
        """Caption a picture with a model and store the caption, by which the gallery's search finds it.

        Raises InvalidParams for ``image`` if there is no model in preprocessors/caption or it fails, and Overloaded.
        """
        self._require_own([image_id])
        image = self._images.get(image_id)
        return self._images.set_caption(
            image_id, self._looks.caption(image_id, self._files.picture(image.key), "image")
        )

    def _require_own(self, image_ids: Sequence[str]) -> list[str]:
        if not 0 < len(image_ids) <= MAX_IDS:
            raise InvalidParams("image_ids", message("more_kept", most=MAX_IDS, got=len(image_ids)))
        for image_id in image_ids:
            actor.current().require_own(self._images.get(image_id).owner, message("the_picture", id=image_id))
        return list(image_ids)

    # -- downloads ---------------------------------------------------------------------------------------------------

    @with_fields(GalleryFilter)
    def zip(self, image_ids: Sequence[str] = (), **filters: Any) -> Iterator[bytes]:
        """A ZIP file in chunks, created while it is sent: the given pictures, or those matching the filters."""
        if len(image_ids) > MAX_IDS:
            raise InvalidParams("image_ids", message("most_pictures", most=MAX_IDS, got=len(image_ids)))
        matching = GalleryFilter.parse(filters)  # validate before streaming starts
        chosen = [self._images.get(image_id) for image_id in image_ids]
        return stream_members(self._members(chosen or self._matching(matching)))

    def _members(self, images: Iterable[Image]) -> Iterator["Member"]:
        for image in images:
            file = self._files.picture(image.key)
            if file.exists():
                yield file_name(image), datetime.fromisoformat(image.created_at), file.chunks()

    def _matching(self, gallery_filter: GalleryFilter) -> Iterator[Image]:
        before = None
        while page := self._images.page(ZIP_PAGE, before, gallery_filter):
            yield from page
            before = page[-1].id


#: A ZIP member: name, time, content.
Member = tuple[str, datetime, Iterable[bytes]]


def stream_members(members: Iterable[Member]) -> Iterator[bytes]:
    """A ZIP file in chunks. Pictures do not compress further, so members are stored."""
    from stream_zip import ZIP_64, stream_zip  # here, because it imports ciphers for encrypted files

    entries = ((name, at, MODE, ZIP_64, content) for name, at, content in members)
    return iter(stream_zip(entries, chunk_size=READ_CHUNK, get_compressobj=stored_only))


def stored_only() -> "zlib._Compress":
    return zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)


def file_name(image: Image) -> str:
    """A recognisable file name; the end of the id makes it unique."""
    slug = re.sub(r"[^\w]+", "-", image.params.prompt.lower())[:SLUG_CHARS].strip("-_") or "picture"
    return f"{slug}-{image.params.seed}-{image.id[-6:].lower()}{image.suffix}"
