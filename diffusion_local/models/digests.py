"""SHA-256 digests of models and adapters, computed once in the background and stored in a small file.

The digest of a file is what other tools call its hash. The digest of a diffusers folder is computed over one line per
weight file, ``<part>/<file> <digest>``, sorted by name.
"""

import errno
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from diffusion_local.disk import FILE, replace_file
from diffusion_local.models.index import ModelIndex, signature_of, stamp
from diffusion_local.models.verdicts import PLACES

log = logging.getLogger(__name__)

DIGEST_CHUNK = 4 << 20


class DigestCancelled(Exception):
    """The computation was stopped, because other work has priority or the process ends."""


class Digests:
    """Computes and stores digests. ``more``: models outside the index."""

    def __init__(self, index: ModelIndex, *more: Path) -> None:
        self._index = index
        self._more = more
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self, rather: Callable[[], bool] = lambda: False) -> None:
        """Compute missing digests until ``rather`` returns True, which means that other work has priority."""
        entries = [entry for entry in self._index.entries() if not entry.found.problem]
        paths = [*self._more, *(entry.path for entry in entries if not entry.sha256)]
        for kind in PLACES:
            paths += [each.path for each in self._index.adapters(kind) if each.ready and not each.sha256]
        with suppress(DigestCancelled):
            for path in paths:
                self._known_or_computed(path, rather)

    def sha256(self, path: Path) -> str:
        """The digest of a file or folder, computed if missing; "" if unreadable or after ``stop``."""
        try:
            return self._known_or_computed(path, lambda: False)
        except DigestCancelled:
            return ""

    def _known_or_computed(self, path: Path, rather: Callable[[], bool]) -> str:
        signature = signature_of(path)
        if known := self._index.sha256(path, signature):
            return known
        try:
            digest = self._digest(path, rather)
        except OSError as error:
            log.warning("%s has no digest: %s", path.name, error.strerror)
            return ""
        if signature_of(path) == signature:
            self._note(path, stamp(signature), digest)
        return digest

    def _digest(self, path: Path, rather: Callable[[], bool]) -> str:
        if path.is_file():
            return self._of_file(path, rather)
        whole, there = hashlib.sha256(), sorted(path.glob("*/*.safetensors"))
        if not there:
            raise FileNotFoundError(errno.ENOENT, "it has no weights", str(path))
        for weights in there:
            whole.update(f"{weights.relative_to(path).as_posix()} {self._of_file(weights, rather)}\n".encode())
        return whole.hexdigest()

    def _of_file(self, path: Path, rather: Callable[[], bool]) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(DIGEST_CHUNK):
                digest.update(piece)
                if self._stop.is_set() or rather():
                    raise DigestCancelled
        return digest.hexdigest()

    def _note(self, path: Path, signature: str, digest: str) -> None:
        file = self._index.places.hashes
        if file is None:
            return
        with FileLock(file.with_suffix(".lock"), mode=FILE):  # the supervisor and all workers write this file
            known = {name: value for name, value in self._index.known_hashes().items() if Path(name).exists()}
            replace_file(file, json.dumps(known | {str(path): [signature, digest]}, indent=1) + "\n", durable=False)
