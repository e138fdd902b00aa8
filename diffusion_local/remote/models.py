"""Fetches model files that a remote worker lacks from its studio; transfers are resumable and verified."""

import itertools
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

import httpx

from diffusion_local import disk
from diffusion_local.domain import SharedFile
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import message
from diffusion_local.operations.operation import API_ROOT

log = logging.getLogger(__name__)

INCOMING = ".incoming"  # folder for incomplete files, beside their final location
SAFE = re.compile(r"[^\\:\x00-\x1f]+")


class Fetcher:
    """Fetches files into ``folders``, by kind. ``digest_of`` computes the digest of a model as the studio does."""

    def __init__(
        self,
        client: httpx.Client,
        folders: Mapping[str, Path],
        digest_of: Callable[[Path], str],
        reserve_bytes: int,
    ) -> None:
        self._client = client
        self._folders = folders
        self._digest_of = digest_of
        self._reserve = reserve_bytes
        self._given_up: set[str] = set()

    def fetch(self, missing: Sequence[SharedFile]) -> bool:
        """Fetch missing files; returns whether any were added. Files that fail verification are not fetched again.

        Raises DatabaseProblem while the studio is unreachable; the next call resumes incomplete files.
        """
        new = False
        for (kind, name), files in itertools.groupby(missing, key=lambda each: (each.kind, each.name)):
            group = list(files)
            if kind in self._folders and group[0].whole not in self._given_up:
                new |= self._fetch_folder(self._folders[kind], name, group)
        return new

    def _fetch_folder(self, folder: Path, name: str, files: list[SharedFile]) -> bool:
        """Fetch a model or adapter, which appears in ``folder`` only when it is complete and verified."""
        top = {PurePosixPath(each.path).parts[0] for each in files}
        if len(top) != 1 or not all(is_safe(each.path) for each in files):
            return self._reject(name, files, "the studio named an unusable path")
        target, incoming = folder / top.pop(), folder / INCOMING / files[0].whole
        if target.exists():
            return self._reject(name, files, "another file of this name is here")
        with disk.storage_errors():
            incoming.mkdir(disk.FOLDER, parents=True, exist_ok=True)
            here = sum(path.stat().st_size for path in incoming.rglob("*") if path.is_file())
            needed = sum(each.bytes for each in files) - here + self._reserve
            if shutil.disk_usage(folder).free < needed:
                return self._reject(name, files, f"it needs {needed // 10**6} MB of free disk")
            for each in files:
                if not self._fetch_file(incoming / each.path, each):
                    shutil.rmtree(incoming, ignore_errors=True)
                    return self._reject(name, files, f"{each.path} is not what the studio has")
            whole = incoming / target.name
            if self._digest_of(whole) != files[0].whole:
                shutil.rmtree(incoming, ignore_errors=True)
                return self._reject(name, files, "its digest is not the studio's")
            whole.replace(target)
            shutil.rmtree(incoming, ignore_errors=True)
        log.info("fetched %s from the studio", name)
        return True

    def _reject(self, name: str, files: list[SharedFile], why: str) -> bool:
        self._given_up.add(files[0].whole)
        log.error("%s cannot be fetched from the studio: %s", name, why)
        return False

    def _fetch_file(self, path: Path, file: SharedFile) -> bool:
        """Fetch the missing rest of a file; returns whether its size and digest match."""
        path.parent.mkdir(disk.FOLDER, parents=True, exist_ok=True)
        have = path.stat().st_size if path.exists() else 0
        if have < file.bytes or not path.exists():
            query = {"kind": file.kind, "name": file.name, "path": file.path}
            headers = {"Range": f"bytes={have}-"} if have else {}
            try:
                with self._client.stream("GET", f"{API_ROOT}/worker/file", params=query, headers=headers) as answer:
                    if answer.status_code not in (200, 206):
                        answer.read()
                        raise DatabaseProblem(message("model_unfetched", path=file.path, error=answer.status_code))
                    with path.open("ab" if answer.status_code == 206 else "wb") as target:
                        for piece in answer.iter_bytes():
                            target.write(piece)
                        target.flush()
                        os.fsync(target.fileno())
            except httpx.HTTPError as error:
                raise DatabaseProblem(message("model_unfetched", path=file.path, error=error)) from None
        if path.stat().st_size != file.bytes:
            return False
        return not file.sha256 or sha256(path.read_bytes()).hexdigest() == file.sha256


def is_safe(path: str) -> bool:
    """Whether a path from the studio stays below its target folder on any operating system."""
    parts = PurePosixPath(path).parts
    return bool(parts) and SAFE.fullmatch(path) is not None and not path.startswith("/") and ".." not in parts
