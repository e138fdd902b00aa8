"""Model files that the studio passes on to workers on other machines, if the setting ``share_models`` allows it."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from diffusion_local.compose import Services
from diffusion_local.dispatch.offers import (
    CONTROLS,
    EMBEDDINGS,
    LORAS,
    MODELS,
    UPSCALERS,
    VAES,
    installed_files,
    required_files,
)
from diffusion_local.domain import SharedFile
from diffusion_local.queue.leases import Files

LOOK_AT = 200  # queued jobs whose files are missed
SMALL_BYTES = 16 * 1024 * 1024  # a file up to this size has a digest of its own
MOST_FILES = 500  # of one model


@dataclass(frozen=True, slots=True)
class Shared:
    """A model or adapter at the studio: its files by their paths below the folder of its kind."""

    digest: str
    files: dict[str, Path]


def missing_files(services: Services, there: Files) -> list[SharedFile]:
    """Files that a worker lacks for the first queued jobs; none unless they may be shared."""
    if services.settings.share_models != "on":
        return []
    here = installed_files(services.catalog)
    wanted = {
        (kind, name)
        for job in services.view.snapshot(LOOK_AT, 0).waiting
        for kind, name in required_files(job.params, here)
        if here.get(kind, {}).get(name) and here[kind][name] != there.get(kind, {}).get(name)
    }
    return [
        SharedFile(kind, name, path, file.stat().st_size, small_digest(file), shared.digest)
        for kind, name in sorted(wanted)
        if (shared := find(services, kind, name))
        for path, file in shared.files.items()
    ]


def find(services: Services, kind: str, name: str) -> Shared | None:
    """A ready model or adapter by the name under which jobs name it; None if it is not known or does not lie alone."""
    catalog = services.catalog
    if kind == MODELS:
        found = next((each for each in catalog.all() if each.id == name and each.ready and each.sha256), None)
        if found is None or found.sources or found.source == "bundled":
            return None
        return Shared(found.sha256, files_below(found.path))
    kinds = {
        LORAS: catalog.loras,
        VAES: catalog.vaes,
        UPSCALERS: catalog.upscalers,
        EMBEDDINGS: catalog.embeddings,
        CONTROLS: catalog.controls,
    }
    if kind not in kinds:
        return None
    adapter = next((each for each in kinds[kind]() if each.name == name and each.ready and each.sha256), None)
    return Shared(adapter.sha256, files_below(adapter.path)) if adapter else None


def files_below(path: Path) -> dict[str, Path]:
    """A file, or the files of a folder, by their POSIX paths from the folder that it lies in."""
    if path.is_file():
        return {path.name: path}
    found = [each for each in sorted(path.rglob("*")) if each.is_file() and not each.name.startswith(".")]
    return {each.relative_to(path.parent).as_posix(): each for each in found[:MOST_FILES]}


def small_digest(file: Path) -> str:
    """SHA-256 of a small file; "" of weights, which the digest of the whole covers."""
    return sha256(file.read_bytes()).hexdigest() if file.stat().st_size <= SMALL_BYTES else ""
