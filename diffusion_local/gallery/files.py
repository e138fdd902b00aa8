"""The pictures of the gallery and all that belongs to them, as files of one backend (see ``blobs``).

A picture's key is ``YYYY/MM/DD/<id>``, to which pictures other than PNG have their suffix: ``.jpg``, ``.full.webp``
(the bare ``<id>.webp`` is the thumbnail).
"""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image as PIL

from diffusion_local import disk, image_decoding
from diffusion_local.domain import utc_now
from diffusion_local.errors import StorageProblem
from diffusion_local.gallery import formats
from diffusion_local.gallery.blobs import Area, Blobs, Stat, StoredFile, Write, nearly_full
from diffusion_local.gallery.formats import Encoded, draw_thumbnail
from diffusion_local.settings import Settings

PROBE_BYTES = 4096
OLD_PART_SECONDS = 3600.0  # a half-written file of a process that died; a living one is done in seconds


def key_for(job_id: str, created_at: str) -> str:
    """The one place of a job's picture, whichever attempt makes it: a second try overwrites, it never doubles."""
    return f"{created_at[0:4]}/{created_at[5:7]}/{created_at[8:10]}/{job_id}"


def id_of(key: str) -> str:
    """The id of a picture's job."""
    return bare(key).rpartition("/")[2]


class Saved(NamedTuple):
    """The key of a saved picture, and its size in bytes."""

    key: str
    bytes: int


class ImageFiles:
    """Pictures with thumbnails and sidecars, strays, live previews, source pictures, contact sheets and reports."""

    def __init__(self, blobs: Blobs, settings: Settings) -> None:
        self._blobs = blobs
        self._reserve = settings.disk_reserve_mb * 10**6
        self._form = settings.image_format
        self._sidecar = settings.sidecar == "on"

    # -- pictures of the gallery -------------------------------------------------------------------------------------

    def save(self, key: str, picture: PIL.Image, texts: dict[str, str]) -> Saved:
        """Store a picture with its recipe and a thumbnail, durably, whole or not at all. Raises StorageProblem.

        The key of what was saved has the suffix of its format.
        """
        return self.save_encoded(key, formats.encode(picture, texts, self._form, self._sidecar))

    def save_encoded(self, key: str, picture: Encoded) -> Saved:
        """Store a picture as ``save`` does that is encoded already."""
        keys = {form: key if form == "png" else key + suffix for form, suffix in formats.SUFFIXES.items()}
        forms = {form: self.picture(each) for form, each in keys.items()}
        target = forms.pop(picture.form)
        try:
            self._write_thumbnail(key, picture.thumbnail)
            if picture.sidecar:
                self.sidecar(key).write(lambda file: file.write(picture.sidecar))
            size = target.write(lambda file: file.write(picture.data), durable=True)
        except BaseException:
            with contextlib.suppress(OSError, StorageProblem):
                if not any(each.exists() for each in (target, *forms.values())):  # else they belong to an earlier try
                    self._drop_companions(key)
            raise
        with disk.explained():
            for other in forms.values():  # of an earlier try, before the setting was changed
                other.delete()
        return Saved(keys[picture.form], size)

    def picture(self, key: str) -> StoredFile:
        return StoredFile(self._blobs, f"{Area.GALLERY}/{bare(key)}{suffix_of(key)}")

    def thumbnail(self, key: str) -> StoredFile:
        """The thumbnail, drawn again if it is gone. Raises FileNotFoundError without a picture, and Overloaded."""
        found = self._companion(key, ".webp")
        if not found.exists():
            with self.picture(key).open() as file, PIL.open(file) as picture, image_decoding.share(picture):
                small = draw_thumbnail(picture)
            self._write_thumbnail(key, formats.webp(small, formats.QUALITY))
        return found

    def sidecar(self, key: str) -> StoredFile:
        return self._companion(key, ".json")

    def discard(self, key: str) -> None:
        """Delete a picture with its thumbnail and sidecar, if they are there."""
        self.picture(key).delete()
        self._drop_companions(key)

    def pictures(self, area: Area = Area.GALLERY) -> Iterator[str]:
        """Keys of the pictures in the gallery, or among the strays, in their order."""
        for found, suffix, _ in self._listed(area):
            if suffix in formats.SUFFIXES.values():
                yield found if suffix == ".png" else found + suffix

    def set_aside(self, key: str) -> None:
        """Move a picture out of the gallery to the strays, without its companions."""
        self._blobs.move(self.picture(key).key, self.stray(key).key)
        self._drop_companions(key)

    def bring_back(self, key: str) -> None:
        """Move a stray into the gallery."""
        self._blobs.move(self.stray(key).key, self.picture(key).key)

    def stray(self, key: str) -> StoredFile:
        return StoredFile(self._blobs, f"{Area.STRAYS}/{bare(key)}{suffix_of(key)}")

    def lone_companions(self) -> Iterator[StoredFile]:
        """Thumbnails and sidecars without a picture: a worker that died between them and the picture leaves them."""
        pictures: set[str] = set()
        companions: dict[str, list[StoredFile]] = {}
        for found, suffix, stat in self._listed(Area.GALLERY):
            if suffix in formats.SUFFIXES.values():
                pictures.add(found)
            elif suffix in (".webp", ".json"):
                companions.setdefault(found, []).append(StoredFile(self._blobs, stat.key))
        for found in companions.keys() - pictures:
            yield from companions[found]

    def drop_unfinished(self) -> None:
        """Delete half-written files of processes that died."""
        for area in Area:
            self._blobs.drop_unfinished(area, OLD_PART_SECONDS)

    def _listed(self, area: Area) -> Iterator[tuple[str, str, Stat]]:
        """(key without a suffix, the suffix, the file) of what lies where pictures do."""
        for stat in self._blobs.list(f"{area}/"):
            key = stat.key.removeprefix(f"{area}/")
            folders, _, name = key.rpartition("/")
            if folders.count("/") == 2 and "." not in folders and "." in name:
                yield bare(key), suffix_of(key), stat

    def _companion(self, key: str, suffix: str) -> StoredFile:
        return StoredFile(self._blobs, f"{Area.GALLERY}/{bare(key)}{suffix}")

    def _drop_companions(self, key: str) -> None:
        self._companion(key, ".webp").delete()
        self._companion(key, ".json").delete()

    def _write_thumbnail(self, key: str, thumbnail: bytes) -> None:
        self._companion(key, ".webp").write(lambda file: file.write(thumbnail))

    # -- what pictures begin from, and what is made of them ------------------------------------------------------------

    def source(self, source_id: str) -> StoredFile:
        """A source picture or mask: a PNG under the SHA-256 of its content."""
        return StoredFile(self._blobs, f"{Area.SOURCES}/{source_id[:2]}/{source_id}.png")

    def open_source(self, source_id: str) -> BinaryIO:
        """A source picture's content. Raises FileNotFoundError."""
        return self.source(source_id).open()

    def sources(self) -> Iterator[tuple[str, Stat]]:
        """(id, file) of every source picture."""
        for stat in self._blobs.list(f"{Area.SOURCES}/"):
            _, _, name = stat.key.rpartition("/")
            if name.endswith(".png"):
                yield name.removesuffix(".png"), stat

    def keep(self, file: StoredFile, write: Write, durable: bool = False, needed: int = 0) -> None:
        """Write a file that is not worth the last of the disk: DiskFull where less than the reserve, and ``needed``
        bytes, are free. Raises StorageProblem."""
        file.write(write, durable, self._reserve + needed)

    def preview(self, job_id: str) -> StoredFile:
        """The newest preview of a running job."""
        return StoredFile(self._blobs, f"{Area.PREVIEWS}/{job_id}.webp")

    def save_preview(self, job_id: str, picture: bytes) -> None:
        """Keep a running job's preview (WebP); losing one does no harm."""
        with contextlib.suppress(StorageProblem, OSError):
            self.keep(self.preview(job_id), lambda file: file.write(picture))

    def drop_preview(self, job_id: str) -> None:
        with contextlib.suppress(OSError, StorageProblem):  # an old one is dropped with time
            self.preview(job_id).delete()

    def previews(self) -> Iterator[tuple[StoredFile, Stat]]:
        for stat in self._blobs.list(f"{Area.PREVIEWS}/"):
            yield StoredFile(self._blobs, stat.key), stat

    def sheet(self, batch_id: str, mark: str) -> StoredFile:
        """A batch's contact sheet; the mark tells which of its pictures are on it."""
        return StoredFile(self._blobs, f"{Area.SHEETS}/{batch_id}-{mark}.webp")

    def keep_sheet(self, batch_id: str, mark: str, picture: PIL.Image, quality: int) -> StoredFile:
        """Store a contact sheet in place of the batch's older ones. Raises StorageProblem."""
        sheet = self.sheet(batch_id, mark)
        self.keep(sheet, lambda file: picture.save(file, "WEBP", quality=quality))
        for stat in list(self._blobs.list(f"{Area.SHEETS}/{batch_id}-")):
            if stat.key != sheet.key:
                self._blobs.delete(stat.key)
        return sheet

    def report(self, name: str) -> StoredFile:
        """A report that was kept, by its name with the suffix."""
        return StoredFile(self._blobs, f"{Area.REPORTS}/{name}")

    # -- room --------------------------------------------------------------------------------------------------------

    def probe(self, size: int = PROBE_BYTES) -> None:
        """Write ``size`` bytes where today's pictures go, and delete them again. Raises StorageProblem."""
        self._blobs.probe(f"{Area.GALLERY}/{key_for('', utc_now())}".rstrip("/"), size)

    def free_bytes(self) -> int:
        """Free bytes for pictures. Raises StorageProblem."""
        return self._blobs.free_bytes()

    def check_room(self) -> None:
        """Raises DiskFull where less than the reserve is free, for what may take much room."""
        if self.free_bytes() < self._reserve:
            raise nearly_full(self._reserve)


def bare(key: str) -> str:
    return key.split(".", 1)[0]


def suffix_of(key: str) -> str:
    """The suffix of the file of a picture's key."""
    return "." + key.split(".", 1)[1] if "." in key else ".png"
