"""Errors of the operating system as problems that name the file, the reason and the remedy."""

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
