"""File modes that do not depend on the umask the program was started under. On Windows nothing here has an effect."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from diffusion_local.errors import DiskFull, StorageProblem
from diffusion_local.messages import message


def numbers(*names: str) -> frozenset[int]:
    """The numbers of errors, of those that this operating system has."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


NO_SPACE = numbers("ENOSPC", "EDQUOT", "EFBIG")
SHARE_GONE = numbers(
    "ESTALE", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ETIMEDOUT", "EREMOTEIO"
)
REMEDIES = (
    (numbers("EACCES", "EPERM"), message("remedy_owner")),
    (numbers("EROFS"), message("remedy_mount")),
    (numbers("EIO"), message("remedy_copy")),
    (numbers("EMFILE", "ENFILE"), message("remedy_limit")),
    (
        numbers("ENOENT", "ENOTDIR", "ENODEV", "ENXIO"),
        message("remedy_mounted"),
    ),
    (SHARE_GONE, message("remedy_share")),
)


def problem_of(error: OSError, path: Path | None = None) -> StorageProblem:
    """The problem that an error of the operating system is; ``path`` is the file, if the error does not name the one
    that was meant."""
    if error.errno in NO_SPACE:
        return DiskFull()
    name = path or error.filename or message("a_file")
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = next((words for known, words in REMEDIES if error.errno in known), message("remedy_disk"))
    return StorageProblem(message("storage_fault", file=name, reason=reason, remedy=remedy))


def is_storage(error: OSError) -> bool:
    """Whether the operating system reported it, and of a file: not a connection that the other side closed, and not
    an OSError without a number, which is a library's own (Pillow raises them for what it cannot encode).
    """
    return error.errno is not None and not isinstance(error, ConnectionError)


@contextlib.contextmanager
def explained(path: Path | None = None) -> Iterator[None]:
    """Raise StorageProblem in place of an error of the operating system about a file."""
    try:
        yield
    except OSError as error:
        if not is_storage(error):
            raise
        raise problem_of(error, path) from error


FOLDER, FILE = 0o700, 0o600
OTHERS = 0o077  # every right of the group and of others
UNCHANGED = -1  # as ``subprocess`` takes it

_inherited = UNCHANGED


@contextlib.contextmanager
def kept_private() -> Iterator[None]:
    """While inside, this process and its children create files for their owner only."""
    global _inherited
    before, remembered = os.umask(OTHERS), _inherited
    _inherited = before
    try:
        yield
    finally:
        os.umask(before)
        _inherited = remembered


def inherited_umask() -> int:
    """The umask outside of ``kept_private``, for programs of the user; UNCHANGED if that was not entered."""
    return _inherited


@contextlib.contextmanager
def as_inherited() -> Iterator[None]:
    """Create files as the user's umask says while inside: for exports out of the home, in a process of one thread."""
    if _inherited == UNCHANGED:
        yield
        return
    private = os.umask(_inherited)
    try:
        yield
    finally:
        os.umask(private)


def create_private(path: Path) -> None:
    """Create an empty file with mode 0600 unless it exists. Where that fails, whoever opens the file says why.

    An existing file is not opened: closing a descriptor of a database would drop SQLite's locks in this process.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE))


def like(folder: Path) -> tuple[int, int]:
    """Modes of a new folder and a new file below ``folder``: whoever may enter or read it may do so with them."""
    mode = folder.stat().st_mode
    return FOLDER | mode & OTHERS, FILE | mode & 0o044


def share_like(tree: Path, folder: Path) -> None:
    """Give a file, or a folder with everything in it, to whoever may read ``folder``, where the file system can."""
    folder_mode, file_mode = like(folder)
    for path in (tree, *tree.rglob("*")) if tree.is_dir() else (tree,):
        if not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(folder_mode if path.is_dir() else file_mode)
