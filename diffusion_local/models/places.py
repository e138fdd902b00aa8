"""Where models and what goes with them lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from diffusion_local.settings import Settings, assets, hub_cache

BUNDLED_CONFIGS = ("sd1", "sd2", "sdxl")
MOST_SNAPSHOTS = 200


@dataclass(frozen=True, slots=True)
class Places:
    """``added`` and ``hashes`` are small JSON files: paths outside of ``models`` that a person named, and the digests
    that were computed of files; ``ids`` is one too, with the ids of models. A path that is None has nothing."""

    models: Path
    loras: Path | None = None
    vae: Path | None = None
    upscalers: Path | None = None
    embeddings: Path | None = None
    text_encoders: Path | None = None
    configs: Path | None = None
    hub_cache: Path | None = None
    added: Path | None = None
    hashes: Path | None = None
    ids: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            models=settings.models,
            loras=settings.loras,
            vae=settings.vae,
            upscalers=settings.upscalers,
            embeddings=settings.embeddings,
            text_encoders=settings.text_encoders,
            configs=settings.configs_folder,
            hub_cache=hub_cache(),
            added=settings.home / "models.json",
            hashes=settings.home / "hashes.json",
            ids=settings.home / "ids.json",
        )

    def folder(self, name: str) -> Path | None:
        """``loras``, ``vae``, ``upscalers``, ``embeddings`` or ``text_encoders``."""
        found: Path | None = getattr(self, name)
        return found

    def config_folders(self) -> Iterator[Path]:
        """Folders that may hold the configuration of a checkpoint: the person's, ours, models at hand, the hub's
        cache; the preferred first."""
        if self.configs:
            yield from (path for path in [self.configs, *sorted(self.configs.glob("*"))] if is_config(path))
        yield from (assets() / "configs" / name for name in BUNDLED_CONFIGS)
        yield from (path for path in sorted(self.models.glob("*")) if is_config(path))
        if self.hub_cache:
            snapshots = sorted(self.hub_cache.glob("models--*/snapshots/*"))[:MOST_SNAPSHOTS]
            yield from (path for path in snapshots if is_config(path))


def is_config(path: Path) -> bool:
    return (path / "model_index.json").is_file()
