"""Model folders of other programs: which folders below a program's root hold models, and their names.

Files in them are identified by their headers, so folder names are needed only to skip the rest of a program.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from diffusion_local.models.directories import WalkedFile, walk
from diffusion_local.models.invoke_titles import invoke_titles
from diffusion_local.paths import expanded

#: Roots of programs: (files or folders that only this root has, folders below it with models).
#: ComfyUI, A1111 and Forge, SwarmUI, InvokeAI, SD.Next, Fooocus, Stability Matrix.
ROOTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("comfy", "models"), ("models",)),
    (("custom_nodes", "models"), ("models",)),
    (("webui.py", "models"), ("models", "embeddings")),
    (("modules", "extensions-builtin"), ("models", "embeddings")),
    (("SwarmUI.sln",), ("Models",)),
    (("Models", "Data"), ("Models",)),
    (("src", "Models", "dlbackend"), ("Models",)),
    (("invokeai.yaml",), ("models", "autoimport")),
    (("databases", "models"), ("models", "autoimport")),
    (("fooocus_version.py",), ("models",)),
    (("Packages", "Models"), ("Models",)),
)
EXTRA_PATH_LISTS = ("extra_model_paths.yaml", "extra_model_paths.yml")
#: Prefix of folders in the hub's cache: models--owner--name/snapshots/commit.
CACHED = "models--"
MOST_YAML, MOST_PATHS = 1_000_000, 1000


@dataclass(frozen=True, slots=True)
class ProgramFolder:
    """A file or folder with models. ``stem``: the entry's name if the file name is not descriptive."""

    file: WalkedFile
    stem: str = ""
    cached: bool = False


def find_folders(root: Path) -> Iterator[ProgramFolder]:
    """Everything below a path that the user added.

    The path may be a file, a folder, a program's root, the hub's cache, or a list of folders
    (``extra_model_paths.yaml``).
    """
    if root.is_file() and root.suffix.lower() in (".yaml", ".yml"):
        for folder in list_entries(root):
            yield from folders_below(folder)
        return
    root = program_of(root)
    titles = invoke_titles(root)
    for folder in model_folders(root):
        for found in folders_below(folder):
            title = titles.pop(found.file.path, "")
            yield replace(found, stem=found.stem or title) if found.file.folder and title else found
    for path in titles:  # used by InvokeAI where they lie
        if not path.is_relative_to(root) and path.exists():
            yield from (ProgramFolder(seen, titles[path] if seen.folder else "") for seen in walk(path))
    for name in EXTRA_PATH_LISTS:
        if (root / name).is_file():
            for folder in list_entries(root / name):
                yield from folders_below(folder)


def program_of(root: Path) -> Path:
    """The root of the program in a portable package of ComfyUI or Stability Matrix; any other path itself."""
    if not root.is_dir() or (root / "models").is_dir():
        return root
    if (root / "ComfyUI/models").is_dir():
        return root / "ComfyUI"
    data = root / "Data"
    return data if (data / "Models").is_dir() and (data / "Packages").is_dir() else root


def model_folders(root: Path) -> Iterator[Path]:
    """Model folders below a program's root; any other folder itself."""
    if not root.is_dir():
        yield root
        return
    names = {entry.name for entry in scan(root)}
    if "hub" in names and any(entry.name.startswith(CACHED) for entry in scan(root / "hub")):
        yield root / "hub"
        return
    for marks, folders in ROOTS:
        if all(mark in names for mark in marks):
            yield from (root / folder for folder in folders if folder in names)
            return
    yield root


def folders_below(folder: Path) -> Iterator[ProgramFolder]:
    name = folder.name
    if name.startswith(CACHED):
        yield from hub_snapshots(folder)
    elif folder.is_dir() and any(entry.name.startswith(CACHED) for entry in scan(folder)):
        for entry in sorted(scan(folder), key=lambda each: each.name):
            if entry.name.startswith(CACHED):
                yield from hub_snapshots(folder / entry.name)
    else:
        yield from (ProgramFolder(seen) for seen in walk(folder))


def hub_snapshots(folder: Path) -> Iterator[ProgramFolder]:
    """Newest snapshot of a repository in the hub's cache, named after the repository."""
    stem = folder.name.removeprefix(CACHED).split("--")[-1]
    snapshot = snapshot_of(folder)
    if snapshot is None:
        return
    for seen in walk(snapshot):
        whole = seen.folder and seen.path == snapshot
        yield ProgramFolder(seen, stem if whole else "", cached=True)


def snapshot_of(folder: Path) -> Path | None:
    """The snapshot to which ``main`` refers, else the one that changed last."""
    try:
        commit = (folder / "refs/main").read_text(encoding="utf-8").strip()
        if commit and "/" not in commit and (folder / "snapshots" / commit).is_dir():
            return folder / "snapshots" / commit
    except (OSError, UnicodeDecodeError):
        pass
    found = [entry for entry in scan(folder / "snapshots") if entry.is_dir()]
    return Path(max(found, key=lambda each: each.stat().st_mtime).path) if found else None


def list_entries(path: Path) -> list[Path]:
    """The folders in a list in ComfyUI's format: sections with ``base_path`` and one or more paths for each kind."""
    content = read_yaml(path)
    folders: dict[Path, None] = {}
    for section in content.values() if isinstance(content, dict) else ():
        if not isinstance(section, dict):
            continue
        stated = section.get("base_path", "")
        base = expanded(os.path.expandvars(stated) if isinstance(stated, str) else "")
        for kind, value in section.items():
            if kind in ("base_path", "is_default", "custom_nodes"):
                continue
            for line in lines_of(value):
                folders[path.parent / base / expanded(os.path.expandvars(line))] = None
    there = [folder for folder in folders if folder.is_dir()]
    return [each for each in there if not any(other != each and each.is_relative_to(other) for other in there)]


def lines_of(value: Any) -> list[str]:
    """The paths of a kind: a text with one a line, or a list of texts."""
    texts = value if isinstance(value, list) else [value]
    lines = (line.strip() for text in texts[:MOST_PATHS] if isinstance(text, str) for line in text.splitlines())
    return [line for line in lines if line]


def scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; None if it is unreadable, damaged or too large."""
    try:
        if path.stat().st_size > MOST_YAML:
            return None
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
