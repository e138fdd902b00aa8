"""Everything that lies in the folders, described; what has not changed on the disk is not read twice."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusion_local.models.adapters import PLACES, SUFFIXES, Adapter, read_adapter
from diffusion_local.models.checkpoints import PICKLES, SUFFIX, read_checkpoint
from diffusion_local.models.folders import read_folder
from diffusion_local.models.found import Found
from diffusion_local.models.places import Places

MOST_DEPTH = 3  # folders below models/ that are looked into
#: Names of weights that are one part of a diffusers folder.
PART = re.compile(r"(diffusion_pytorch_|pytorch_)?model[.-]")
PART_FOLDER = re.compile(r"(unet|vae|transformer|text_encoder|tokenizer|scheduler|safety_checker)(_\d)?")
#: (relative path, time of change in ns, size) of each file that counts: equal means unchanged.
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that lies somewhere. ``added`` is whether it is outside of ``models/``, named by a person."""

    id: str
    path: Path
    found: Found
    added: bool = False
    sha256: str = ""

    @property
    def is_file(self) -> bool:
        return self.path.suffix.lower() in (SUFFIX, *PICKLES)


class Shelf:
    """Reads the folders of ``places``."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._read: dict[Path, tuple[Any, Any]] = {}  # path -> (signature and configurations, what was read)
        self._index: dict[str, Entry] = {}
        self._hashes: tuple[Any, dict[str, list[str]]] = (None, {})

    def entries(self) -> list[Entry]:
        """Every model, in the order of their places and names. Ids are file names, made unique by their folder's."""
        found: dict[str, Entry] = {}
        configs = tuple(self.places.config_folders())
        for path, added in self._candidates():
            entry = self.look(path, configs, added)
            entry_id = next(each for each in ids_for(path, len(found)) if each not in found)
            found[entry_id] = replace(entry, id=entry_id)
        self._index = found
        return list(found.values())

    def entry(self, model_id: str) -> Entry | None:
        """One model by its id; looks at its own files only, if it was seen before."""
        known = self._index.get(model_id)
        if known and known.path.exists():
            fresh = self.look(known.path, None, known.added)
            return replace(fresh, id=model_id)
        return next((entry for entry in self.entries() if entry.id == model_id), None)

    def adapters(self, kind: str) -> list[Adapter]:
        """LoRAs, VAEs, upscalers or textual inversions, by name; folders below theirs are looked into."""
        folder = self.places.folder(PLACES[kind])
        if folder is None:
            return []
        found = []
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
                signature = signature_of(path)
                known, adapter = self._read.get(path, (None, None))
                if known != (signature, kind):
                    name = path.relative_to(folder).with_suffix("").as_posix()
                    adapter = replace(read_adapter(path, kind), name=name)
                    self._read[path] = ((signature, kind), adapter)
                found.append(replace(adapter, sha256=self.sha256(path, signature)))
        return found

    def added(self) -> list[Path]:
        """Paths outside of ``models/`` that a person named."""
        try:
            listed = json.loads(self.places.added.read_text(encoding="utf-8"))["paths"] if self.places.added else []
            return [Path(path) for path in listed if isinstance(path, str)]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def sha256(self, path: Path, signature: Signature) -> str:
        """The digest of a file, or of a folder's weights, if it was computed since the last change; else empty."""
        digest = self.known_hashes().get(str(path))
        return digest[1] if digest and digest[0] == stamp(signature) else ""

    def known_hashes(self) -> dict[str, list[str]]:
        """Path -> [what its files were like, their digest]."""
        path = self.places.hashes
        try:
            changed = path and path.stat().st_mtime_ns
            if path and changed != self._hashes[0]:
                self._hashes = (changed, dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            return {}
        return self._hashes[1]

    def look(self, path: Path, configs: tuple[Path, ...] | None, added: bool = False) -> Entry:
        """The entry, still without an id, of a path. ``configs`` None: those of the last look at it."""
        signature = signature_of(path)
        known, found = self._read.get(path, (None, None))
        if configs is None:
            configs = known[1] if known else tuple(self.places.config_folders())
        if known != (signature, configs):
            found = read_folder(path) if path.is_dir() else read_checkpoint(path, configs)
            self._read[path] = ((signature, configs), found)
        return Entry("", path, found, added, self.sha256(path, signature))

    def _candidates(self) -> Iterator[tuple[Path, bool]]:
        """Paths of models, each once, and whether a person named them."""
        seen = set()
        for root, added in [(self.places.models, False), *((path, True) for path in self.added())]:
            for path in models_below(root) if root == self.places.models else models_at(root):
                real = path.resolve()
                if real not in seen:
                    seen.add(real)
                    yield path, added


def ids_for(path: Path, number: int) -> Iterator[str]:
    name = path.stem if path.suffix.lower() in (SUFFIX, *PICKLES) else path.name
    yield name
    yield f"{path.parent.name}--{name}"
    yield path.name
    yield f"{name}-{number}"


def models_at(path: Path, depth: int = 0) -> Iterator[Path]:
    """The models that a path is or holds: itself, or in a folder of models those below it."""
    if path.is_file():
        if path.suffix.lower() in (SUFFIX, *PICKLES) and not PART.match(path.name):
            yield path
        return
    if depth >= MOST_DEPTH or (path / "model_index.json").exists() or (path / "config.json").exists():
        yield path
        return
    below = list(models_below(path, depth + 1))
    yield from below or [path]


def models_below(folder: Path, depth: int = 0) -> Iterator[Path]:
    try:
        children = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return
    for child in children:
        if depth and PART_FOLDER.fullmatch(child.name):
            continue
        if child.is_file() or (child.is_dir() and (depth == 0 or any(models_inside(child)))):
            yield from models_at(child, depth)


def models_inside(folder: Path) -> Iterator[Path]:
    """What makes a folder below a folder of models worth a line."""
    for path in folder.glob("*"):
        if path.name == "model_index.json" or (path.suffix.lower() == SUFFIX and not PART.match(path.name)):
            yield path


def signature_of(path: Path) -> Signature:
    """Of a file itself; of a folder of all files in it and in its folders."""
    if not path.is_dir():
        return tuple(stat_of(path, path.name))
    found: list[tuple[str, int, int]] = []
    try:
        for entry in os.scandir(path):
            if entry.is_file():
                found += stat_of(Path(entry.path), entry.name)
            elif entry.is_dir() and not entry.name.startswith("."):
                for inner in os.scandir(entry.path):
                    if inner.is_file():
                        found += stat_of(Path(inner.path), f"{entry.name}/{inner.name}")
    except OSError:
        pass
    return tuple(sorted(found))


def stat_of(path: Path, name: str) -> list[tuple[str, int, int]]:
    try:
        stat = path.stat()
    except OSError:
        return []
    return [(name, stat.st_mtime_ns, stat.st_size)]


def stamp(signature: Signature) -> str:
    """A signature as text, for the file of digests."""
    return ";".join(f"{name}:{changed}:{size}" for name, changed, size in signature if name.endswith(SUFFIX))
