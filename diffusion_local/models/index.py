"""The index of all model folders; unchanged files are not read again."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import Message, message
from diffusion_local.models import adapters, assembly, side_files
from diffusion_local.models.adapters import TEXT_ENCODER, VAE, Adapter
from diffusion_local.models.assembly import Pool
from diffusion_local.models.description import INCOMPLETE, UNSUPPORTED, ModelFacts, incomplete
from diffusion_local.models.directories import SHARD, ModelDirectories, WalkedFile, walk, warn_of_closed
from diffusion_local.models.file_formats import KNOWN_SUFFIXES, PICKLES
from diffusion_local.models.folders import encoder_in, read_config, read_folder, small_vae_in
from diffusion_local.models.identify import read_file
from diffusion_local.models.ids import AdapterNames, ModelIds
from diffusion_local.models.parts import VISION
from diffusion_local.models.probe import ATTACHMENT, CHECKPOINT, CONTROL, DENOISER, STRANGER, UNKNOWN, Contents
from diffusion_local.models.program_roots import ProgramFolder, find_folders
from diffusion_local.models.verdicts import PLACES
from diffusion_local.options.values import MAX_NAME_CHARS, is_file_name

log = logging.getLogger(__name__)

#: Kinds of files in folders of other programs that become catalogue entries; all others are adapters or ignored.
MODELS = (CHECKPOINT, DENOISER, STRANGER)
#: Suffix of pickles that are models; those with others may be anything.
CHECKPOINT_SUFFIX = ".ckpt"
#: The starter model's id, and the name of its edge ControlNet.
STARTER, BUNDLED_CONTROL = "starter", "starter-edges"
#: (relative path, modification time in ns, size) of each relevant file; equal signatures mean unchanged files.
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model found on disk. ``added``: it is outside of ``models/``, in a path that the user added."""

    id: str
    path: Path
    found: ModelFacts
    added: bool = False
    sha256: str = ""

    @property
    def is_file(self) -> bool:
        return self.path.suffix.lower() in KNOWN_SUFFIXES


@dataclass(slots=True)
class IndexedFile:
    """The contents of a file, or the reason why it cannot be read."""

    signature: Signature
    contents: Contents | None = None
    problem: str = ""


class ModelIndex:
    """Reads the folders of ``places``."""

    def __init__(self, places: ModelDirectories) -> None:
        self.places = places
        self._files: dict[Path, IndexedFile] = {}
        self._found: dict[Path, tuple[Any, ModelFacts]] = {}  # by path: (signature and configurations, facts)
        self._adapters: dict[tuple[Path, str], tuple[Any, Adapter]] = {}
        self._index: dict[str, IndexEntry] = {}
        self._ids = ModelIds(places.ids)
        self._names = AdapterNames(places.adapter_names)
        self._hashes: tuple[Any, dict[str, list[str]]] = (None, {})
        self._pool: tuple[Any, Pool] = (None, Pool())

    def entries(self) -> list[IndexEntry]:
        """All models, ordered by location and name."""
        configs = tuple(self.places.config_folders())
        elsewhere = list(self._elsewhere())
        candidates = list(self._candidates(elsewhere))
        self._fill_pool(configs, [place.file.path for place, _ in candidates], elsewhere)
        stems = {place.file.path: " ".join(stem_of(place).splitlines()) for place, _ in candidates}
        ids = self._ids.assign(list(stems), stems)
        by_id: dict[str, IndexEntry] = {}
        for place, added in candidates:
            path = place.file.path
            entry = self.inspect(path, configs, added)
            by_id[ids[path]] = replace(entry, id=ids[path])
        self._index = by_id
        return list(by_id.values())

    def preview(self, root: Path) -> list[IndexEntry]:
        """The entries that adding a path would yield, assembled with parts from there and from all known folders."""
        configs, there = tuple(self.places.config_folders()), list(find_folders(root))
        own = [place.file.path for place in self._own_entries()]
        self._fill_pool(configs, own, [*self._elsewhere(), *there])
        return [self.inspect(place.file.path, configs) for place in there]

    def entry(self, model_id: str) -> IndexEntry | None:
        """A model by its id, or None; reads only the model's own files if it was found before."""
        known = self._index.get(model_id)
        if known and known.path.exists():
            return replace(self.inspect(known.path, None, known.added), id=model_id)
        return next((entry for entry in self.entries() if entry.id == model_id), None)

    def adapters(self, kind: str) -> list[Adapter]:
        """Adapters of a kind by name: those in their folder and its subfolders, then those in paths the user added.

        Names of files in subfolders include the subfolders.
        """
        bundled = weights_in(self.places.bundled_control) if kind == CONTROL and self.places.bundled_control else None
        stems = self._adapter_files(kind)
        if bundled:
            stems = {path: stem for path, stem in stems.items() if path != bundled}
        names = self._names.assign(list(stems), {path: f"{kind}:{stem}" for path, stem in stems.items()})
        found = [self._with_name(self._adapter(path, kind), names[path].partition(":")[2]) for path in stems]
        if bundled:
            found.append(self._with_name(replace(self._adapter(bundled, kind), architecture=STARTER), BUNDLED_CONTROL))
        return sorted(found, key=lambda each: each.name)

    def _adapter_files(self, kind: str) -> dict[Path, str]:
        """The files of a kind, each once, with their names before these are made unique."""
        names: dict[Path, str] = {}
        folder = self.places.folder(PLACES[kind])
        real: set[tuple[int, int]] = set()
        inner = {CONTROL: weights_in, VISION: encoder_in, VAE: small_vae_in}.get(kind)
        for seen in walk(folder) if folder and folder.is_dir() else ():
            path: Path | None = seen.path
            if seen.folder:
                path = inner(seen.path) if inner else None
            if path is not None and (mark := identity(path)) not in real:
                real.add(mark)
                name = "/".join(seen.below if seen.folder else [*seen.below, seen.path.name]) or seen.path.name
                names[path] = clean_name(name.removesuffix(path.suffix))
        for place in self._elsewhere():
            path = place.file.path
            if place.file.folder:
                path = inner(path) if inner else None
            if path is None or (mark := identity(path)) in real:
                continue
            read = self.read(path)
            if read.contents and read.contents.probe.kind == kind:
                real.add(mark)
                names[path] = clean_name(stem_of(place))
        return names

    def _with_name(self, adapter: Adapter, name: str) -> Adapter:
        named = replace(adapter, name=name, sha256=self.sha256(adapter.path, signature_of(adapter.path)))
        if not named.ready or is_file_name(name):
            return named
        return replace(named, state=UNSUPPORTED, problem=message("file_name_unusable", most=MAX_NAME_CHARS))

    def _adapter(self, path: Path, kind: str) -> Adapter:
        read = self.read(path)
        signature = (read.signature, side_files.stamp(path))
        known, adapter = self._adapters.get((path, kind), (None, None))
        if adapter is None or known != signature:
            if kind == CONTROL and SHARD.search(path.name):
                problem = message("control_shards", file=path.name)
                adapter = Adapter(path.stem, kind, path, state=UNSUPPORTED, problem=problem)
            elif read.contents:
                adapter = describe_adapter(path, kind, read.contents)
            else:
                adapter = Adapter(path.stem, kind, path, state=INCOMPLETE, problem=read.problem)
            self._adapters[path, kind] = (signature, adapter)
        return adapter

    def read(self, path: Path) -> IndexedFile:
        """The header of a file, read again only if the file has changed."""
        signature = signature_of(path)
        known = self._files.get(path)
        if known is None or known.signature != signature:
            known = IndexedFile(signature)
            try:
                known.contents = read_file(path)
            except ModelUnavailable as problem:
                known.problem = problem.message
            except Exception as error:
                known.problem = unforeseen(path, error)
            self._files[path] = known
        return known

    def added(self) -> list[Path]:
        """Paths outside of ``models/`` that the user added."""
        try:
            listed = json.loads(self.places.added.read_text(encoding="utf-8"))["paths"] if self.places.added else []
            return [Path(path) for path in listed if isinstance(path, str)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []

    def sha256(self, path: Path, signature: Signature) -> str:
        """The digest of a file or folder if it was computed since the last change, or ""."""
        digest = self.known_hashes().get(str(path))
        return digest[1] if digest and digest[0] == stamp(signature) else ""

    def known_hashes(self) -> dict[str, list[str]]:
        """[signature of the files, digest] by path."""
        path = self.places.hashes
        try:
            changed = path and path.stat().st_mtime_ns
            if path and changed != self._hashes[0]:
                self._hashes = (changed, dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}
        return self._hashes[1]

    def inspect(self, path: Path, configs: tuple[Path, ...] | None, added: bool = False) -> IndexEntry:
        """The entry of a path, without an id yet. ``configs``: None for those of the last scan."""
        signature = signature_of(path)
        known, facts = self._found.get(path, (None, None))
        if configs is None:
            configs = known[1] if known else tuple(self.places.config_folders())
        is_file = path.suffix.lower() in KNOWN_SUFFIXES and not path.is_dir()
        state = (signature, configs, self._pool[0] if is_file else None, self._own_stamp(path) if is_file else None)
        if facts is None or known != state:
            try:
                facts = self._checkpoint(path, configs) if is_file else read_folder(path)
            except Exception as error:
                facts = incomplete(unforeseen(path, error))
            self._found[path] = (state, facts)
        return IndexEntry("", path, facts, added, self.sha256(path, signature))

    def _fill_pool(self, configs: tuple[Path, ...], models: list[Path], elsewhere: list[ProgramFolder]) -> None:
        """Update the pool of parts if any of the files changed."""
        files, folders = list(self._part_files(models, elsewhere)), [path for path in models if path.is_dir()]
        state = (
            tuple((path, self.read(path).signature) for path in files),
            tuple((path, signature_of(path)) for path in folders),
            configs,
        )
        if state == self._pool[0]:
            return
        pool = Pool()
        for path in files:
            if contents := self.read(path).contents:
                pool.add_file(path, contents.probe)
        for path in folders:
            pool.add_folder(path, self.inspect(path, configs).found)
        for folder in configs:
            pool.add_tokenizers(folder)
        self._pool = (state, pool)

    def _part_files(self, models: list[Path], elsewhere: list[ProgramFolder]) -> Iterator[Path]:
        """Files that may contain parts of models, each by one path only."""
        seen: set[tuple[int, int]] = set()
        folders = [self.places.folder(PLACES[kind]) for kind in (TEXT_ENCODER, VAE)]
        beside = [each for folder in folders if folder and folder.is_dir() for each in walk(folder)]
        further = [*beside, *(place.file for place in elsewhere)]
        for path in (*models, *(each.path for each in further if not each.folder)):
            if not path.is_dir() and (mark := identity(path)) not in seen:
                seen.add(mark)
                yield path

    def _checkpoint(self, path: Path, configs: tuple[Path, ...]) -> ModelFacts:
        read = self.read(path)
        if read.contents is None:
            return incomplete(read.problem, size_bytes=assembly.size_of(path))
        return assembly.describe(path, read.contents, configs, self._pool[1], self.places.configs)

    def _own_stamp(self, path: Path) -> Any:
        """A value that changes with the user's own configurations and with that beside a checkpoint."""
        folder = self.places.configs
        below = sorted(folder.glob("*/")) if folder else []
        own = tuple(signature_of(each) for each in ((folder, *below) if folder and folder.is_dir() else ()))
        return own, side_files.stamp(path, configuration=True)

    def _candidates(self, elsewhere: list[ProgramFolder]) -> Iterator[tuple[ProgramFolder, bool]]:
        """(location, whether the user added it) of each model, without duplicates."""
        seen: set[tuple[int, int]] = set()
        for place, added in [(place, False) for place in self._own_entries()] + [(place, True) for place in elsewhere]:
            mark = identity(place.file.path)
            if mark not in seen and (not added or self.is_model(place)):
                seen.add(mark)
                yield place, added

    def _own_entries(self) -> Iterator[ProgramFolder]:
        """Entries in ``models/``, including empty folders."""
        try:
            children = sorted(path for path in self.places.models.iterdir() if not path.name.startswith("."))
        except PermissionError:
            warn_of_closed(self.places.models)
            return
        except OSError:
            return
        for child in children:
            below = list(find_folders(child)) if child.is_dir() or child.suffix.lower() in KNOWN_SUFFIXES else []
            if below or not child.is_dir():
                yield from below
            else:
                yield ProgramFolder(WalkedFile(child, folder=True))

    def _elsewhere(self) -> Iterator[ProgramFolder]:
        for root in self.added():
            if root.exists():
                yield from find_folders(root)
            else:
                yield ProgramFolder(WalkedFile(root, folder=True))

    def is_model(self, place: ProgramFolder) -> bool:
        """Whether a file of another program should be listed: a model, or an apparent one."""
        if place.file.folder:
            if is_control(place.file.path):
                return False
            return not place.cached or (place.file.path / "model_index.json").exists()
        contents, suffix = self.read(place.file.path).contents, place.file.path.suffix.lower()
        apparent = not place.cached and (suffix not in PICKLES or suffix == CHECKPOINT_SUFFIX)
        if contents is None:
            return apparent
        unlisted = contents.probe.kind in (UNKNOWN, ATTACHMENT)  # neither models nor shown among adapters
        return contents.probe.kind in MODELS or (unlisted and apparent)


def describe_adapter(path: Path, kind: str, contents: Contents) -> Adapter:
    try:
        return adapters.describe(path, kind, contents)
    except Exception as error:
        return Adapter(path.stem, kind, path, state=INCOMPLETE, problem=unforeseen(path, error))


def unforeseen(path: Path, error: Exception) -> Message:
    """Log an unexpected error in a file and return a message about it: one bad file must not hide all others."""
    log.warning("%s cannot be read", path, exc_info=error)
    return message("file_unforeseen", name=path.name, error=f"{type(error).__name__}: {error}"[:200])


def clean_name(name: str) -> str:
    """Strip white space around a name, which neither tags nor lists can contain."""
    return name.strip() or name


def stem_of(place: ProgramFolder) -> str:
    path = place.file.path
    return place.stem or (path.name if place.file.folder else path.name.removesuffix(path.suffix))


def weights_in(folder: Path) -> Path | None:
    """The weight file of a ControlNet's diffusers folder, preferably in half precision, or else the first shard.

    None if the folder is not that of a ControlNet.
    """
    if not is_control(folder):
        return None
    found = sorted(folder.glob("*.safetensors"), key=lambda path: (SHARD.search(path.name) is not None, path.name))
    whole = [path for path in found if ".fp16" in path.name and not SHARD.search(path.name)]
    return next(iter(whole or found), None)


def is_control(folder: Path) -> bool:
    """Whether a folder contains a ControlNet or T2I-Adapter, according to its configuration."""
    name = str(read_config(folder).get("_class_name", ""))
    return "ControlNet" in name or name == "T2IAdapter"


def identity(path: Path) -> tuple[int, int]:
    """A key that is equal for two paths to the same file or folder."""
    try:
        status = path.stat()
    except OSError:
        return (0, hash(path))
    return (status.st_dev, status.st_ino)


def signature_of(path: Path) -> Signature:
    """A signature that changes with a file, or with any file in a folder and its subfolders."""
    if not path.is_dir():
        return tuple(stat_of(path, path.name))
    files: list[tuple[str, int, int]] = []
    try:
        for entry in os.scandir(path):
            if entry.is_file():
                files += stat_of(Path(entry.path), entry.name)
            elif entry.is_dir() and not entry.name.startswith("."):
                for inner in os.scandir(entry.path):
                    if inner.is_file():
                        files += stat_of(Path(inner.path), f"{entry.name}/{inner.name}")
    except OSError:
        pass
    return tuple(sorted(files))


def stat_of(path: Path, name: str) -> list[tuple[str, int, int]]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [(name, status.st_mtime_ns, status.st_size)]


def stamp(signature: Signature) -> str:
    """A signature as text, for the file of digests."""
    return ";".join(
        f"{name}:{changed}:{size}" for name, changed, size in signature if name.lower().endswith(KNOWN_SUFFIXES)
    )
