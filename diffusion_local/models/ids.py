"""Stable ids of models.

An id is the name of a file or folder, made unique by its parent folder's name. Once assigned to a path it is kept:
neither a second file of that name nor the absence of the first reassigns it. A moved file keeps its id if its name,
size and modification time are unchanged.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffusion_local.disk import FILE, replace_file

#: Size and modification time of a file; a folder is identified by its name only.
Mark = tuple[int, int]


class ModelIds:
    """Assigns ids. ``path``: the small file that stores them; None: in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._given: dict[str, dict[str, Any]] = {}
        self._read_at: int | None = None

    def assign(self, paths: list[Path], stems: dict[Path, str]) -> dict[Path, str]:
        """The id of each path; ``stems``: the names that ids are based on."""
        self._read()
        known = {entry["path"]: name for name, entry in self._given.items()}
        found = {path: known[str(path)] for path in paths if str(path) in known}
        if len(found) < len(paths):
            self._give([path for path in paths if path not in found], stems, found)
        return found

    def _give(self, paths: list[Path], stems: dict[Path, str], names: dict[Path, str]) -> None:
        if self._path is None:
            self._name(paths, stems, names)
            return
        try:
            with FileLock(self._path.with_suffix(".lock"), mode=FILE):
                self._read_at = None
                self._read()
                known = {entry["path"]: name for name, entry in self._given.items()}
                names |= {path: known[str(path)] for path in paths if str(path) in known}
                self._name([path for path in paths if path not in names], stems, names)
                replace_file(self._path, json.dumps(self._given, indent=1) + "\n")
                self._read_at = self._path.stat().st_mtime_ns
        except OSError:  # the home is not writable: the ids last only for this process
            self._name([path for path in paths if path not in names], stems, names)

    def _name(self, paths: list[Path], stems: dict[Path, str], names: dict[Path, str]) -> None:
        for path in paths:
            name = self._moved(path, stems[path]) or next(
                each for each in self.candidates(path, stems[path]) if not self._is_taken(each)
            )
            self._given[name] = {"path": str(path), "mark": list(fingerprint_of(path))}
            names[path] = name

    @staticmethod
    def candidates(path: Path, stem: str) -> Iterator[str]:
        return candidate_ids(path, stem)

    def _is_taken(self, name: str) -> bool:
        return name in self._given

    def _moved(self, path: Path, stem: str) -> str:
        """The id of a file that has disappeared and seems to be this one, or ""."""
        mark = list(fingerprint_of(path))
        if not path.is_file():
            return ""
        for name, entry in self._given.items():
            before = Path(entry["path"])
            if before.name == path.name and entry.get("mark") == mark and not before.exists():
                return name
        return ""

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._read_at:
                return
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._given = {
                str(name): entry
                for name, entry in content.items()
                if isinstance(entry, dict) and isinstance(entry.get("path"), str)
            }
            self._read_at = changed
        except (OSError, ValueError, AttributeError, RecursionError):
            return


class AdapterNames(ModelIds):
    """Names of adapters, ``kind:name``, which a file keeps as long as it exists.

    A file that replaces a deleted one takes over its name, as after a conversion to another format.
    """

    @staticmethod
    def candidates(path: Path, stem: str) -> Iterator[str]:
        kind, _, name = stem.partition(":")
        yield stem
        yield f"{kind}:{path.parent.name}/{name}"
        yield f"{kind}:{path.parent.parent.name}/{path.parent.name}/{name}"
        yield f"{kind}:{path}"

    def _is_taken(self, name: str) -> bool:
        return name in self._given and Path(self._given[name]["path"]).exists()

    def _moved(self, path: Path, stem: str) -> str:
        return ""


def fingerprint_of(path: Path) -> Mark:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def candidate_ids(path: Path, stem: str) -> Iterator[str]:
    yield stem
    yield f"{path.parent.name}--{stem}"
    yield f"{path.parent.parent.name}--{path.parent.name}--{stem}"
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
