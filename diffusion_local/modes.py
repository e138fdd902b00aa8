"""File modes that do not depend on the umask the program was started under. On Windows nothing here has an effect."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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
