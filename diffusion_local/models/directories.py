"""Folders of models, adapters and configurations."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Self

from diffusion_local.models.file_formats import KNOWN_SUFFIXES
from diffusion_local.paths import assets
from diffusion_local.settings import Settings, hub_cache

log = logging.getLogger(__name__)

#: Limits for folders that turn out not to be model folders.
MOST_DEPTH, MOST_FILES = 24, 100_000
#: Folders in which programs keep no models.
JUNK = frozenset(
    ("__pycache__", "node_modules", "site-packages", "venv", "custom_nodes", "output", "outputs", "extensions",
     "repositories", "__macosx", "temp", "cache")
)  # fmt: skip
#: Folders of the denoiser in a diffusers model, and the base name of its weight files.
DENOISERS, WEIGHTS = ("unet", "transformer"), "diffusion_pytorch_model"
#: Number of a shard in the name of a weight file.
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
#: Base architectures, which are preferred over their variants for files that fit several.
UNET_ARCHITECTURES = ("sd1", "sd2", "sdxl")
MOST_SNAPSHOTS = 200


@dataclass(frozen=True, slots=True)
class WalkedFile:
    """A file, or with ``folder`` a diffusers folder or a part of one, into which the walk does not descend.

    ``below``: names of the folders between the start of the walk and this path.
    """

    path: Path
    folder: bool = False
    below: tuple[str, ...] = ()


def walk(root: Path, suffixes: tuple[str, ...] = KNOWN_SUFFIXES) -> Iterator[WalkedFile]:
    """Walk files in name order. A folder that is reached twice through links is visited once."""
    if root.is_file():
        if root.suffix.lower() in suffixes:
            yield WalkedFile(root)
        return
    seen: set[tuple[int, int]] = set()
    yield from islice(walk_folder(root, (), seen, suffixes), MOST_FILES)


def walk_folder(
    folder: Path, below: tuple[str, ...], seen: set[tuple[int, int]], suffixes: tuple[str, ...]
) -> Iterator[WalkedFile]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen or len(below) > MOST_DEPTH:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except PermissionError:
        warn_of_closed(folder)
        return
    except OSError:
        return
    names = {entry.name for entry in entries}
    if is_model_folder(names, folder):
        yield WalkedFile(folder, True, below)
        return
    for entry in entries:
        if entry.name.startswith((".", "._")):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            continue
        if is_folder:
            if entry.name.lower() not in JUNK:
                yield from walk_folder(Path(entry.path), (*below, entry.name), seen, suffixes)
        elif entry.name.lower().endswith(suffixes) and not is_later_shard(entry.name) and entry.is_file():
            yield WalkedFile(Path(entry.path), below=below)


@lru_cache(maxsize=1000)
def warn_of_closed(folder: Path) -> None:
    """Log once that a folder is unreadable, because its models would otherwise be missing silently."""
    log.warning("this user may not read the folder %s; files in it are not listed", folder)


def is_model_folder(names: set[str], folder: Path) -> bool:
    """Whether a folder with these names in it is a diffusers model, or a part of one."""
    if "model_index.json" in names:
        return True
    if "config.json" in names and any(name.endswith((".safetensors", ".bin", ".index.json")) for name in names):
        return True
    return any(part in names and is_part_folder(folder / part) for part in DENOISERS)


def is_part_folder(folder: Path) -> bool:
    """Whether this is a denoiser in diffusers format, rather than another program's folder of denoiser files."""
    try:
        return any(entry.name == "config.json" or entry.name.startswith(WEIGHTS) for entry in os.scandir(folder))
    except OSError:
        return False


def is_later_shard(name: str) -> bool:
    found = SHARD.search(name)
    return found is not None and int(found[1]) != 1


@dataclass(frozen=True, slots=True)
class ModelDirectories:
    """Folders and small JSON files; None if absent.

    ``added``: paths outside of ``models`` that the user added; ``hashes``: computed digests; ``ids``: model ids;
    ``adapter_names``: names of adapters; ``choices``: the user's choices for individual models.
    """

    models: Path
    loras: Path | None = None
    vae: Path | None = None
    upscalers: Path | None = None
    embeddings: Path | None = None
    controlnet: Path | None = None
    text_encoders: Path | None = None
    bundled_control: Path | None = None
    ip_adapters: Path | None = None
    clip_vision: Path | None = None
    configs: Path | None = None
    hub_cache: Path | None = None
    added: Path | None = None
    hashes: Path | None = None
    ids: Path | None = None
    choices: Path | None = None
    adapter_names: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            models=settings.models,
            loras=settings.loras,
            vae=settings.vae,
            upscalers=settings.upscalers,
            embeddings=settings.embeddings,
            controlnet=settings.controlnet,
            text_encoders=settings.text_encoders,
            bundled_control=settings.starter_control,
            ip_adapters=settings.ip_adapters,
            clip_vision=settings.clip_vision,
            configs=settings.configs_folder,
            hub_cache=hub_cache(),
            added=settings.home / "models.json",
            hashes=settings.home / "hashes.json",
            ids=settings.home / "ids.json",
            choices=settings.home / "model-choices.json",
            adapter_names=settings.home / "adapter_names.json",
        )

    def folder(self, name: str) -> Path | None:
        """A folder of adapters or other companion files, by its name in the home."""
        found: Path | None = getattr(self, name)
        return found

    def config_folders(self) -> Iterator[Path]:
        """Folders that may contain the configuration of a checkpoint, in order of preference.

        These are the user's configurations, the bundled ones, installed models, and the hub's cache.
        """
        if self.configs:
            yield from (path for path in [self.configs, *sorted(self.configs.glob("*"))] if is_config(path))
        yield from bundled_configs()
        yield from (path for path in sorted(self.models.glob("*")) if is_config(path))
        if self.hub_cache:
            snapshots = sorted(self.hub_cache.glob("models--*/snapshots/*"))[:MOST_SNAPSHOTS]
            yield from (path for path in snapshots if is_config(path))


@lru_cache(maxsize=1)
def bundled_configs() -> tuple[Path, ...]:
    """Folders of bundled configurations, each named after its architecture."""
    found = [path for path in (assets() / "configs").iterdir() if is_config(path)]
    return tuple(sorted(found, key=lambda path: (path.name not in UNET_ARCHITECTURES, path.name)))


def is_config(path: Path) -> bool:
    try:
        return (path / "model_index.json").is_file()
    except OSError:  # an unreadable folder must not hide others
        return False
