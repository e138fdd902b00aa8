"""Translates file-system errors to StorageProblem, and sets file modes independently of the inherited umask (no effect
on Windows).
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from diffusion_local.errors import DiskFull, StorageProblem
from diffusion_local.messages import message

WRITABLE_BY_OTHERS = 0o077  # all permissions of group and others
UNCHANGED = -1  # as ``subprocess`` takes it


def error_numbers(*names: str) -> frozenset[int]:
    """Error numbers with these names, omitting those that this platform does not define."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


NO_SPACE = error_numbers("ENOSPC", "EDQUOT", "EFBIG")
SHARE_GONE = error_numbers(
    "ESTALE", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ETIMEDOUT", "EREMOTEIO"
)
REMEDIES = (
    (error_numbers("EACCES", "EPERM"), message("remedy_owner")),
    (error_numbers("EROFS"), message("remedy_mount")),
    (error_numbers("EIO"), message("remedy_copy")),
    (error_numbers("EMFILE", "ENFILE"), message("remedy_limit")),
    (
        error_numbers("ENOENT", "ENOTDIR", "ENODEV", "ENXIO"),
        message("remedy_mounted"),
    ),
    (SHARE_GONE, message("remedy_share")),
)


def to_problem(error: OSError, path: Path | None = None) -> StorageProblem:
    """The StorageProblem for an operating-system error. ``path`` overrides the file that the error names."""
    if error.errno in NO_SPACE:
        return DiskFull()
    name = path or error.filename or message("a_file")
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = next((words for known, words in REMEDIES if error.errno in known), message("remedy_disk"))
    return StorageProblem(message("storage_fault", file=name, reason=reason, remedy=remedy))


def is_storage_error(error: OSError) -> bool:
    """Whether the error is from the operating system and about a file. Connection errors are not, nor is an OSError
    without a number, which a library raises itself (Pillow does, for pictures that it cannot encode).
    """
    return error.errno is not None and not isinstance(error, ConnectionError)


@contextlib.contextmanager
def storage_errors(path: Path | None = None) -> Iterator[None]:
    """Translate operating-system errors about files to StorageProblem."""
    try:
        yield
    except OSError as error:
        if not is_storage_error(error):
            raise
        raise to_problem(error, path) from error


FOLDER, FILE = 0o700, 0o600

_inherited = UNCHANGED


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Context in which this process and its children create files that only their owner can access."""
    global _inherited
    before, remembered = os.umask(WRITABLE_BY_OTHERS), _inherited
    _inherited = before
    try:
        yield
    finally:
        os.umask(before)
        _inherited = remembered


def inherited_umask() -> int:
    """The umask outside of ``private_umask``, for the user's programs; UNCHANGED outside of that context."""
    return _inherited


@contextlib.contextmanager
def inherited_umask_restored() -> Iterator[None]:
    """Context with the user's umask, for exports to outside of the home. Only for single-threaded processes."""
    if _inherited == UNCHANGED:
        yield
        return
    private = os.umask(_inherited)
    try:
        yield
    finally:
        os.umask(private)


def create_private(path: Path) -> None:
    """Create an empty file with mode 0600 unless it exists. Ignores errors: opening the file later will report them.

    An existing file is not opened: closing a descriptor of a database would drop SQLite's locks in this process.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE))


def modes_like(folder: Path) -> tuple[int, int]:
    """(folder mode, file mode) for new entries that are as accessible as ``folder``."""
    mode = folder.stat().st_mode
    return FOLDER | mode & WRITABLE_BY_OTHERS, FILE | mode & 0o044


def share_like(tree: Path, folder: Path) -> None:
    """Make a file or tree as accessible as ``folder``, as far as the file system allows."""
    folder_mode, file_mode = modes_like(folder)
    for path in (tree, *tree.rglob("*")) if tree.is_dir() else (tree,):
        if not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(folder_mode if path.is_dir() else file_mode)


def replace_file(path: Path, content: str | bytes, durable: bool = True, mode: int = FILE) -> None:
    """Write a file through a temporary one beside it, so that readers see the old file or the whole new one.

    ``durable``: it survives a power cut; not needed for files that can be computed again. Raises OSError and leaves
    nothing behind. Writers of one file must exclude each other.
    """
    part = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Not needed on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
