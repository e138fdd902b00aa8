"""Which files of a home others than its owner may read, and how they are closed to them.

Databases and secrets are closed whenever the studio starts. Everything else may be shared on purpose, above all the
gallery: it is only reported, and changed where somebody asks for it (``doctor --fix``).
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffusion_local.disk import FILE, FOLDER, OTHERS
from diffusion_local.settings import Settings

MODES = os.name != "nt"  # whether files have any
#: Patterns below the home. Whole databases lie beside app.db, set aside, before an upgrade or as backups.
SECRETS = ("*.db", "*.db-wal", "*.db-shm", "*.damaged", "webhook.secret", "config.toml", "tls/*key*")


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A file or folder that others could read: its mode before, and why it could not be changed, if so."""

    path: Path
    mode: int
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path} stays {self.mode & 0o7777:04o}: {self.problem}"
        return f"{self.path}: {self.mode & 0o7777:04o} -> {private(self.mode):04o}"


def tighten_secrets(settings: Settings) -> list[ModeChange]:
    """Close databases and secrets to everybody but their owner; those that were not closed before."""
    return close(path for pattern in SECRETS for path in sorted(settings.home.glob(pattern)))


def shared(settings: Settings) -> list[Path]:
    """The home, and what lies directly in it, where others may read it; models are no secret.

    Empty where the home itself is closed, as nobody then reaches anything below it.
    """
    if not is_open(settings.home):
        return []
    models = {settings.models, settings.loras, settings.vae, settings.upscalers, settings.embeddings, settings.removed}
    inside = sorted(path for path in settings.home.iterdir() if path not in models and is_open(path))
    return [settings.home, *inside] if mode_of(settings.home) & 0o066 else inside


def close_all(settings: Settings) -> list[ModeChange]:
    """Close all that ``shared`` finds, and databases and secrets."""
    return [*tighten_secrets(settings), *close(shared(settings))]


def close(paths: Iterable[Path]) -> list[ModeChange]:
    """Take every right from group and others. Links are left alone, as their targets lie elsewhere."""
    return [shut(path) for path in paths if is_open(path)]


def shut(path: Path) -> ModeChange:
    mode = mode_of(path)
    try:
        path.chmod(private(mode))
    except PermissionError:
        return ModeChange(path, mode, "it belongs to another user, or the file system refuses a change")
    except OSError as error:  # read-only, or modes are not supported
        return ModeChange(path, mode, f"the file system refuses a change ({error.strerror})")
    if is_open(path):
        return ModeChange(path, mode, "the file system gives every file the same mode")
    return ModeChange(path, mode)


def private(mode: int) -> int:
    return mode & ~OTHERS & 0o7777 | (FOLDER if stat.S_ISDIR(mode) else FILE)


def is_open(path: Path) -> bool:
    """Whether others than the owner have a right to it."""
    return MODES and bool(mode_of(path) & OTHERS)


def mode_of(path: Path) -> int:
    """Mode with its file type; 0 of a link, and of a path that is gone or out of reach."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return 0
    return 0 if stat.S_ISLNK(mode) else mode
