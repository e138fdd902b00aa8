"""Finds and fixes files of a home that other users can read.

Databases and secrets are restricted at every start. Anything else, above all the gallery, may be shared on purpose, so
it is only reported, and changed on request (``doctor --fix``).
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffusion_local.disk import FILE, FOLDER, WRITABLE_BY_OTHERS
from diffusion_local.settings import Settings

MODES = os.name != "nt"  # whether the platform has file modes
#: Patterns below the home. Damaged, pre-upgrade and backup copies of the database are next to app.db.
SECRETS = ("*.db", "*.db-wal", "*.db-shm", "*.damaged", "webhook.secret", "config.toml", "tls/*key*")


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A file or folder that others could read: its former mode, and why it could not be changed, if so."""

    path: Path
    mode: int
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.path} stays {self.mode & 0o7777:04o}: {self.problem}"
        return f"{self.path}: {self.mode & 0o7777:04o} -> {private(self.mode):04o}"


def tighten_secrets(settings: Settings) -> list[ModeChange]:
    """Restrict databases and secrets to their owner; returns those that others could read."""
    return close(path for pattern in SECRETS for path in sorted(settings.home.glob(pattern)))


def shared(settings: Settings) -> list[Path]:
    """The home and its direct entries that others can read, except models.

    Empty if the home itself is restricted, because then nothing below it is reachable.
    """
    if not is_open(settings.home):
        return []
    adapters = {settings.loras, settings.vae, settings.upscalers, settings.embeddings, settings.controlnet}
    models = {settings.models, settings.removed, *adapters}
    inside = sorted(path for path in settings.home.iterdir() if path not in models and is_open(path))
    return [settings.home, *inside] if mode_of(settings.home) & 0o066 else inside


def close_all(settings: Settings) -> list[ModeChange]:
    """Restrict everything that ``shared`` finds, and all databases and secrets."""
    return [*tighten_secrets(settings), *close(shared(settings))]


def close(paths: Iterable[Path]) -> list[ModeChange]:
    """Remove all permissions of group and others. Links are skipped, because their targets are elsewhere."""
    return [restrict(path) for path in paths if is_open(path)]


def restrict(path: Path) -> ModeChange:
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
    return mode & ~WRITABLE_BY_OTHERS & 0o7777 | (FOLDER if stat.S_ISDIR(mode) else FILE)


def is_open(path: Path) -> bool:
    """Whether anyone but the owner has any permission for it."""
    return MODES and bool(mode_of(path) & WRITABLE_BY_OTHERS)


def mode_of(path: Path) -> int:
    """Mode with file type; 0 for links and for missing or unreachable paths."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return 0
    return 0 if stat.S_ISLNK(mode) else mode
