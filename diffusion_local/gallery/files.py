"""The gallery's files, on a storage backend (see ``blobs``): pictures with their companions, and derived files.

A picture's key is ``YYYY/MM/DD/<id>``; formats other than PNG add their suffix: ``.jpg``, ``.full.webp`` (``<id>.webp``
is the thumbnail).
"""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image as PIL

from diffusion_local import disk, image_decoding
from diffusion_local.domain import utc_now
from diffusion_local.errors import StorageProblem
from diffusion_local.gallery import image_formats
from diffusion_local.gallery.blobs import Area, Blobs, Stat, StoredFile, Write, disk_full_error
from diffusion_local.gallery.image_formats import Encoded, draw_thumbnail
from diffusion_local.settings import Settings

PROBE_BYTES = 4096
OLD_PART_SECONDS = 3600.0  # incomplete files of dead processes; a live one finishes in seconds


def key_for(job_id: str, created_at: str) -> str:
    """The key of a job's picture. It does not depend on the attempt, so a retry overwrites the file."""
    return f"{created_at[0:4]}/{created_at[5:7]}/{created_at[8:10]}/{job_id}"


def job_id_of(key: str) -> str:
    """The job id in a picture's key."""
    return bare_key(key).rpartition("/")[2]


class Saved(NamedTuple):
    """Key and size in bytes of a saved picture."""

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
        """Store a picture with its recipe and thumbnail, durably and atomically. Raises StorageProblem.

        The returned key has the suffix of the picture's format.
        """
        return self.save_encoded(key, image_formats.encode(picture, texts, self._form, self._sidecar))

    def save_encoded(self, key: str, picture: Encoded) -> Saved:
        """``save`` for a picture that is already encoded."""
        keys = {form: key if form == "png" else key + suffix for form, suffix in image_formats.SUFFIX_BY_FORMAT.items()}
        forms = {form: self.picture(each) for form, each in keys.items()}
        target = forms.pop(picture.form)
        try:
            self._write_thumbnail(key, picture.thumbnail)
            if picture.sidecar:
                self.sidecar(key).write(lambda file: file.write(picture.sidecar))
            size = target.write(lambda file: file.write(picture.data), durable=True)
        except BaseException:
            with contextlib.suppress(OSError, StorageProblem):
                # otherwise the companions belong to an earlier attempt
                if not any(each.exists() for each in (target, *forms.values())):
                    self._drop_companions(key)
            raise
        with disk.storage_errors():
            for other in forms.values():  # left by an earlier attempt with another format setting
                other.delete()
        return Saved(keys[picture.form], size)

    def picture(self, key: str) -> StoredFile:
        return StoredFile(self._blobs, f"{Area.GALLERY}/{bare_key(key)}{suffix_of(key)}")

    def thumbnail(self, key: str) -> StoredFile:
        """The thumbnail, redrawn if missing. Raises FileNotFoundError without a picture, and Overloaded."""
        stored = self._companion(key, ".webp")
        if not stored.exists():
            with self.picture(key).open() as file, PIL.open(file) as picture, image_decoding.share(picture):
                small = draw_thumbnail(picture)
            self._write_thumbnail(key, image_formats.webp(small, image_formats.QUALITY))
        return stored

    def sidecar(self, key: str) -> StoredFile:
        return self._companion(key, ".json")

    def discard(self, key: str) -> None:
        """Delete a picture with its thumbnail and sidecar, if they exist."""
        self.picture(key).delete()
        self._drop_companions(key)

    def pictures(self, area: Area = Area.GALLERY) -> Iterator[str]:
        """Keys of the pictures in the gallery, or among the strays, sorted."""
        for found, suffix, _ in self._picture_files(area):
            if suffix in image_formats.SUFFIX_BY_FORMAT.values():
                yield found if suffix == ".png" else found + suffix

    def set_aside(self, key: str) -> None:
        """Move a picture from the gallery to the strays and delete its companions."""
        self._blobs.move(self.picture(key).key, self.stray(key).key)
        self._drop_companions(key)

    def restore_stray(self, key: str) -> None:
        """Move a stray back into the gallery."""
        self._blobs.move(self.stray(key).key, self.picture(key).key)

    def stray(self, key: str) -> StoredFile:
        return StoredFile(self._blobs, f"{Area.STRAYS}/{bare_key(key)}{suffix_of(key)}")

    def orphaned_companions(self) -> Iterator[StoredFile]:
        """Thumbnails and sidecars without a picture, left by workers that died before saving it."""
        pictures: set[str] = set()
        companions: dict[str, list[StoredFile]] = {}
        for key, suffix, stat in self._picture_files(Area.GALLERY):
            if suffix in image_formats.SUFFIX_BY_FORMAT.values():
                pictures.add(key)
            elif suffix in (".webp", ".json"):
                companions.setdefault(key, []).append(StoredFile(self._blobs, stat.key))
        for key in companions.keys() - pictures:
            yield from companions[key]

    def drop_unfinished(self) -> None:
        """Delete incomplete files of dead processes."""
        for area in Area:
            self._blobs.drop_unfinished(area, OLD_PART_SECONDS)

    def _picture_files(self, area: Area) -> Iterator[tuple[str, str, Stat]]:
        """(bare key, suffix, stat) of the files at picture keys."""
        for stat in self._blobs.list(f"{area}/"):
            key = stat.key.removeprefix(f"{area}/")
            folders, _, name = key.rpartition("/")
            if folders.count("/") == 2 and "." not in folders and "." in name:
                yield bare_key(key), suffix_of(key), stat

    def _companion(self, key: str, suffix: str) -> StoredFile:
        return StoredFile(self._blobs, f"{Area.GALLERY}/{bare_key(key)}{suffix}")

    def _drop_companions(self, key: str) -> None:
        self._companion(key, ".webp").delete()
        self._companion(key, ".json").delete()

    def _write_thumbnail(self, key: str, thumbnail: bytes) -> None:
        self._companion(key, ".webp").write(lambda file: file.write(thumbnail))

    # -- source pictures and derived files -----------------------------------------------------------------------------

    def source(self, source_id: str) -> StoredFile:
        """A source picture or mask: a PNG named by the SHA-256 of its content."""
        return StoredFile(self._blobs, f"{Area.SOURCES}/{source_id[:2]}/{source_id}.png")

    def open_source(self, source_id: str) -> BinaryIO:
        """Open the content of a source picture. Raises FileNotFoundError."""
        return self.source(source_id).open()

    def sources(self) -> Iterator[tuple[str, Stat]]:
        """(id, stat) of every source picture."""
        for stat in self._blobs.list(f"{Area.SOURCES}/"):
            _, _, name = stat.key.rpartition("/")
            if name.endswith(".png"):
                yield name.removesuffix(".png"), stat

    def write_reserving(self, file: StoredFile, write: Write, durable: bool = False, needed: int = 0) -> None:
        """Write a file, but leave the disk's reserve free.

        Raises DiskFull if less than the reserve plus ``needed`` bytes are free, and StorageProblem.
        """
        file.write(write, durable, self._reserve + needed)

    def preview(self, job_id: str) -> StoredFile:
        """Newest preview of a running job."""
        return StoredFile(self._blobs, f"{Area.PREVIEWS}/{job_id}.webp")

    def save_preview(self, job_id: str, picture: bytes) -> None:
        """Store a running job's preview (WebP), ignoring faults."""
        with contextlib.suppress(StorageProblem, OSError):
            self.write_reserving(self.preview(job_id), lambda file: file.write(picture))

    def drop_preview(self, job_id: str) -> None:
        with contextlib.suppress(OSError, StorageProblem):  # retention deletes old ones
            self.preview(job_id).delete()

    def previews(self) -> Iterator[tuple[StoredFile, Stat]]:
        for stat in self._blobs.list(f"{Area.PREVIEWS}/"):
            yield StoredFile(self._blobs, stat.key), stat

    def sheet(self, batch_id: str, mark: str) -> StoredFile:
        """A batch's contact sheet; ``mark`` identifies its set of pictures."""
        return StoredFile(self._blobs, f"{Area.SHEETS}/{batch_id}-{mark}.webp")

    def save_sheet(self, batch_id: str, mark: str, picture: PIL.Image, quality: int) -> StoredFile:
        """Store a contact sheet and delete the batch's older ones. Raises StorageProblem."""
        sheet = self.sheet(batch_id, mark)
        self.write_reserving(sheet, lambda file: picture.save(file, "WEBP", quality=quality))
        for stat in list(self._blobs.list(f"{Area.SHEETS}/{batch_id}-")):
            if stat.key != sheet.key:
                self._blobs.delete(stat.key)
        return sheet

    def report(self, name: str) -> StoredFile:
        """A stored report, by file name."""
        return StoredFile(self._blobs, f"{Area.REPORTS}/{name}")

    # -- free space --------------------------------------------------------------------------------------------------

    def probe(self, size: int = PROBE_BYTES) -> None:
        """Check that ``size`` bytes can be written to the gallery. Raises StorageProblem."""
        self._blobs.probe(f"{Area.GALLERY}/{key_for('', utc_now())}".rstrip("/"), size)

    def free_bytes(self) -> int:
        """Free bytes for pictures. Raises StorageProblem."""
        return self._blobs.free_bytes()

    def check_room(self) -> None:
        """Raise DiskFull if less than the reserve is free; for operations that may need much space."""
        if self.free_bytes() < self._reserve:
            raise disk_full_error(self._reserve)


def bare_key(key: str) -> str:
    return key.split(".", 1)[0]


def suffix_of(key: str) -> str:
    """File suffix of a picture's key."""
    return "." + key.split(".", 1)[1] if "." in key else ".png"
