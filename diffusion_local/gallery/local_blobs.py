"""Blobs as files in the folders of a home, written atomically."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diffusion_local import disk
from diffusion_local.gallery.blobs import READ_CHUNK, Area, Stat, Write, check_key, disk_full_error
from diffusion_local.settings import Settings

PART_SUFFIX = ".part"  # suffix of a file being written
MAX_DEPTH = 6  # depth limit of listings, so that a link to a parent folder does no harm


class LocalBlobs:
    """One folder per area. Files are private, but in the gallery they get the folder's mode (``disk.modes_like``).

    A missing gallery folder is not created, because its disk or network share may be mounted again.
    """

    def __init__(self, settings: Settings) -> None:
        self._folders = {
            Area.GALLERY: settings.gallery_folder,
            Area.SOURCES: settings.sources,
            Area.PREVIEWS: settings.previews,
            Area.SHEETS: settings.sheets,
            Area.REPORTS: settings.reports,
            Area.STRAYS: settings.strays,
        }
        self._root = settings.gallery_folder

    def write(self, key: str, write: Write, durable: bool = False, reserve: int = 0) -> int:
        return write_atomically(self.local_path(key), write, durable, like=self._like(key), reserve=reserve)

    def open(self, key: str) -> BinaryIO:
        return self.local_path(key).open("rb")

    def stat(self, key: str) -> Stat | None:
        try:
            found = self.local_path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[Stat]:
        """See ``Blobs.list``. Skips hidden files, and folders deeper than MAX_DEPTH."""
        area, _, rest = prefix.partition("/")
        below, _, start = rest.rpartition("/")
        folder = self._folders[Area(area)] / below
        yield from walk(folder, f"{area}/{below}/" if below else f"{area}/", start, MAX_DEPTH)

    def touch(self, key: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.local_path(key))

    def move(self, key: str, target: str) -> None:
        source, path, like = self.local_path(key), self.local_path(target), self._like(target)
        with disk.storage_errors(path):
            make_folder(path.parent, disk.modes_like(like)[0] if like else disk.FOLDER, like)
            try:
                source.replace(path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with source.open("rb") as file:  # the areas are on different disks
                    write_atomically(
                        path, lambda copy: shutil.copyfileobj(file, copy, READ_CHUNK), durable=True, like=like
                    )
                source.unlink()

    def delete(self, key: str) -> None:
        self.local_path(key).unlink(missing_ok=True)

    def drop_unfinished(self, area: Area, seconds: float) -> None:
        for part in self._folders[area].rglob(f".*{PART_SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > seconds:
                    part.unlink()

    def free_bytes(self) -> int:
        with disk.storage_errors(self._root):
            return shutil.disk_usage(self._root).free

    def probe(self, prefix: str, size: int) -> None:
        folder = self.local_path(prefix)
        with disk.storage_errors(self._root):
            make_folder(folder, disk.modes_like(self._root)[0], self._root)
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=".probe-", suffix=PART_SUFFIX)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(bytes(size))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                Path(name).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path:
        area, _, rest = check_key(key).partition("/")
        return self._folders[Area(area)] / rest

    def _like(self, key: str) -> Path | None:
        return self._root if key.startswith(f"{Area.GALLERY}/") else None


def walk(folder: Path, prefix: str, start: str, deepest: int) -> Iterator[Stat]:
    """Files below a folder whose name starts with ``start``, sorted by key."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name + "/" * entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if not entry.name.startswith(start) or entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                if deepest:
                    yield from walk(folder / entry.name, f"{prefix}{entry.name}/", "", deepest - 1)
            elif entry.is_file():
                found = entry.stat()
                yield Stat(prefix + entry.name, found.st_size, found.st_mtime)
        except FileNotFoundError:  # deleted meanwhile
            continue


def write_atomically(
    target: Path,
    write: Write,
    durable: bool = False,
    like: Path | None = None,
    reserve: int = 0,
) -> int:
    """Write a temporary file beside the target, then rename it, so that readers see the whole file or none.

    ``durable``: fsync. The file is private, or with ``like`` has the permissions of that folder (a parent of the
    target, which is not created). ``reserve``: bytes that must be free beforehand. Returns the size in bytes. Raises
    StorageProblem or DiskFull and leaves nothing behind.
    """
    with disk.storage_errors(target):
        folder_mode, file_mode = disk.modes_like(like) if like else (disk.FOLDER, disk.FILE)
        make_folder(target.parent, folder_mode, like)
        if reserve:
            check_room(target.parent, reserve)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=PART_SUFFIX)  # created with mode 0600
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if file_mode != disk.FILE:
                    with contextlib.suppress(OSError):  # the file system may not support modes
                        part.chmod(file_mode)
                write(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            part.replace(target)
            if durable:
                disk.sync_folder(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        return size


def check_room(folder: Path, reserve: int) -> None:
    """Raise DiskFull if the folder's disk has less than ``reserve`` bytes free."""
    if shutil.disk_usage(folder).free < reserve:
        raise disk_full_error(reserve)


def make_folder(folder: Path, mode: int = disk.FOLDER, below: Path | None = None) -> None:
    """Create a folder and its parents durably, because a synced file is lost if its folder is.

    Raises FileNotFoundError if ``below`` does not exist; it is never created.
    """
    if not folder.is_dir():
        if folder == below:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        make_folder(folder.parent, mode, below)
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode & 0o7000 | mode)  # ignore the umask, but keep an inherited setgid bit
        disk.sync_folder(folder.parent)
