"""The seam for picture bytes, and its local folder.

A key is ``YYYY/MM/DD/<id>``, to which pictures other than PNG have their suffix: ``.jpg``, ``.full.webp`` (the bare
``<id>.webp`` is the thumbnail).
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from PIL import Image as PIL

from diffusion_local import decoding, modes
from diffusion_local.domain import utc_now
from diffusion_local.errors import DiskFull, StorageProblem
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.store import encoding, faults

THUMBNAIL = (320, 320)
PROBE_BYTES = 4096


def key_for(job_id: str, created_at: str) -> str:
    """The one place of a job's picture, whichever attempt makes it: a second try overwrites, it never doubles."""
    return f"{created_at[0:4]}/{created_at[5:7]}/{created_at[8:10]}/{job_id}"


def suffix_of(key: str) -> str:
    """What the file of a key ends in."""
    return "." + key.split(".", 1)[1] if "." in key else ".png"


class Saved(NamedTuple):
    """Where a picture lies now, and its size in bytes."""

    key: str
    bytes: int


class ImageFiles(Protocol):
    """Where pictures are kept."""

    def save(self, key: str, picture: PIL.Image, texts: dict[str, str]) -> Saved:
        """Store a picture with its recipe and a thumbnail, whole or not at all. Raises StorageProblem.

        The key of what was saved has the suffix of its format.
        """
        ...

    def path(self, key: str) -> Path: ...

    def thumbnail(self, key: str) -> Path:
        """The thumbnail's file, made again if it is gone. Raises Overloaded."""
        ...

    def discard(self, key: str) -> None: ...


class LocalFiles:
    """A folder of pictures, each with its WebP thumbnail (and sidecar) beside it, and a folder of live previews."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.gallery
        self.reserve = settings.disk_reserve_mb * 10**6
        self._previews = settings.previews
        self._form = settings.image_format
        self._sidecar = settings.sidecar == "on"

    def save(self, key: str, picture: PIL.Image, texts: dict[str, str]) -> Saved:
        form = self._form if encoding.holds(self._form, picture, texts) else "png"
        suffix = encoding.SUFFIXES[form]
        forms = {each: self.root / f"{key}{each}" for each in encoding.SUFFIXES.values()}
        target = forms.pop(suffix)
        try:
            self._write(self._thumbnail_path(key), lambda file: draw_thumbnail(picture).save(file, "WEBP", quality=82))
            if self._sidecar:
                self._write(self._sidecar_path(key), lambda file: file.write(encoding.sidecar(texts)))
            self._write(target, lambda file: encoding.write(file, form, picture, texts), durable=True)
        except BaseException:
            with contextlib.suppress(OSError):
                if not any(path.exists() for path in (target, *forms.values())):  # else they belong to an earlier try
                    self._thumbnail_path(key).unlink(missing_ok=True)
                    self._sidecar_path(key).unlink(missing_ok=True)
            raise
        with faults.explained(target):
            for other in forms.values():  # of an earlier try, before the setting was changed
                other.unlink(missing_ok=True)
            return Saved(key if form == "png" else key + suffix, target.stat().st_size)

    def _write(self, target: Path, write: Callable[[IO[bytes]], object], durable: bool = False) -> None:
        """Whoever may read the gallery's folder may read what is new in it. The folder is not made anew where it is
        gone: its disk or share may come back."""
        write_whole(target, write, durable, like=self.root)

    def probe(self, size: int = PROBE_BYTES) -> None:
        """Write ``size`` bytes where today's pictures go, and delete them again. Raises StorageProblem."""
        folder = (self.root / key_for("probe", utc_now())).parent
        with faults.explained(self.root):
            make_folder(folder, modes.like(self.root)[0], self.root)
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=".probe-", suffix=".part")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(bytes(size))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                Path(name).unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        return picture_path(self.root, key)

    def thumbnail(self, key: str) -> Path:
        path = self._thumbnail_path(key)
        if not path.exists():
            with PIL.open(self.path(key)) as picture, decoding.share(picture):
                small = draw_thumbnail(picture)
            self._write(path, lambda file: small.save(file, "WEBP", quality=82))
        return path

    def discard(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        self._thumbnail_path(key).unlink(missing_ok=True)
        self._sidecar_path(key).unlink(missing_ok=True)

    def check_room(self) -> None:
        """Raises DiskFull where less than the reserve is free, for what may take much room."""
        with faults.explained(self.root):
            check_room(self.root, self.reserve)

    def free_bytes(self) -> int:
        """Free bytes of the gallery's disk. Raises StorageProblem."""
        with faults.explained(self.root):
            return shutil.disk_usage(self.root).free

    def save_preview(self, job_id: str, picture: PIL.Image) -> None:
        """Keep a running job's preview; losing one does no harm."""
        with contextlib.suppress(StorageProblem, OSError):
            write_whole(self.preview(job_id), lambda file: picture.save(file, "WEBP", quality=60), reserve=self.reserve)

    def preview(self, job_id: str) -> Path:
        return self._previews / f"{job_id}.webp"

    def drop_preview(self, job_id: str) -> None:
        with contextlib.suppress(OSError):  # an old one is dropped with time
            self.preview(job_id).unlink(missing_ok=True)

    def _thumbnail_path(self, key: str) -> Path:
        return self.root / f"{bare(key)}.webp"

    def _sidecar_path(self, key: str) -> Path:
        return self.root / f"{bare(key)}.json"


def bare(key: str) -> str:
    return key.split(".", 1)[0]


def picture_path(folder: Path, key: str) -> Path:
    return folder / f"{bare(key)}{suffix_of(key)}"


def draw_thumbnail(picture: PIL.Image) -> PIL.Image:
    small = picture.convert("RGB")
    small.thumbnail(THUMBNAIL, PIL.Resampling.LANCZOS)
    return small


def write_whole(
    target: Path,
    write: Callable[[IO[bytes]], object],
    durable: bool = False,
    like: Path | None = None,
    reserve: int = 0,
) -> None:
    """Write beside the target, then rename: readers see the whole file or none. ``durable`` also survives a power cut.

    The file is its owner's only, or may be read by whoever may read the folder ``like``, which is above the target and
    not made if it is gone. ``reserve`` is the number of bytes that the disk must have free before.
    Raises StorageProblem, DiskFull if there is no room; nothing is left behind then.
    """
    with faults.explained(target):
        folder_mode, file_mode = modes.like(like) if like else (modes.FOLDER, modes.FILE)
        make_folder(target.parent, folder_mode, like)
        if reserve:
            check_room(target.parent, reserve)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")  # with mode 0600
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if file_mode != modes.FILE:
                    with contextlib.suppress(OSError):  # a file system without modes
                        part.chmod(file_mode)
                write(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(target)
            if durable:
                sync_folder(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def check_room(folder: Path, reserve: int) -> None:
    """Raises DiskFull where a disk has not so many bytes free as are to be kept."""
    if shutil.disk_usage(folder).free < reserve:
        raise DiskFull(message("storage_low", reserve=reserve // 10**6))


def make_folder(folder: Path, mode: int = modes.FOLDER, below: Path | None = None) -> None:
    """A folder with those above it, each entry made durable: a synced file in a lost folder is lost.

    ``below`` itself is not made: raises FileNotFoundError if it is not there.
    """
    if not folder.is_dir():
        if folder == below:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        make_folder(folder.parent, mode, below)
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode & 0o7000 | mode)  # the umask does not count; setgid is inherited
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
