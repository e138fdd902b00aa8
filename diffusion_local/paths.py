"""Locations: the folders and files of a home, and the files shipped with the program."""

from pathlib import Path

from diffusion_local import disk


def expanded(path: str | Path) -> Path:
    """Expand ``~``; unchanged for an unknown user or one without a home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class Folders:
    """The files and folders below ``home``. Paths in the database are relative to them."""

    __slots__ = ()
    home: Path

    @property
    def database_file(self) -> Path:
        """SQLite's file, unless the setting ``database`` names a server."""
        return self.home / "app.db"

    @property
    def queue_database(self) -> Path:
        return self.home / "queue.db"

    @property
    def gallery_folder(self) -> Path:
        return self.home / "gallery"

    @property
    def previews(self) -> Path:
        return self.home / "previews"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def loras(self) -> Path:
        return self.home / "loras"

    @property
    def vae(self) -> Path:
        return self.home / "vae"

    @property
    def upscalers(self) -> Path:
        return self.home / "upscalers"

    @property
    def embeddings(self) -> Path:
        return self.home / "embeddings"

    @property
    def controlnet(self) -> Path:
        return self.home / "controlnet"

    @property
    def text_encoders(self) -> Path:
        return self.home / "text_encoders"

    @property
    def ip_adapters(self) -> Path:
        return self.home / "ip_adapters"

    @property
    def clip_vision(self) -> Path:
        return self.home / "clip_vision"

    @property
    def preprocessors(self) -> Path:
        """Models of preprocessors, one folder per type."""
        return self.home / "preprocessors"

    @property
    def removed(self) -> Path:
        """Models removed from the catalogue, until they are deleted."""
        return self.home / "removed"

    @property
    def sources(self) -> Path:
        return self.home / "sources"

    @property
    def uploads(self) -> Path:
        """Uploads of Gradio API callers, until they are used. Emptied at startup, with its parent."""
        return self.home / "tmp" / "uploads"

    @property
    def wildcards(self) -> Path:
        return self.home / "wildcards"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def sheets(self) -> Path:
        """Contact sheets, redrawn on demand."""
        return self.home / "sheets"

    @property
    def kernels(self) -> Path:
        """GPU kernels compiled on this machine; missing ones are recompiled."""
        return self.home / "kernels"

    @property
    def passes(self) -> Path:
        """Unfinished pictures that a stopping worker saved for the next one."""
        return self.home / "passes"

    @property
    def spool(self) -> Path:
        """Pictures that a joined worker could not upload to its studio yet, by slot."""
        return self.home / "spool"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    @property
    def strays(self) -> Path:
        return self.home / "strays"

    @property
    def starter(self) -> Path:
        return assets() / "starter"

    @property
    def starter_control(self) -> Path:
        """The edge ControlNet of the starter model."""
        return assets() / "starter-control"

    def make_folders(self) -> None:
        """Create missing folders, accessible only to their owner; existing ones keep their mode.

        The gallery is created only with a new home: later, its disk or share may just be unmounted.
        """
        new = not self.database_file.exists() and not self.locks.exists()  # with a server, there is no file
        data = (
            *([self.gallery_folder] if new else []),
            self.previews,
            self.sources,
            self.wildcards,
            self.logs,
            self.locks,
        )
        adapters = (
            self.loras,
            self.vae,
            self.upscalers,
            self.embeddings,
            self.controlnet,
            self.text_encoders,
            self.ip_adapters,
            self.clip_vision,
        )
        for folder in (self.home, *data, self.models, *adapters, self.preprocessors):
            folder.mkdir(disk.FOLDER, parents=True, exist_ok=True)


def assets() -> Path:
    """The folder of starter model, icons and CSS: inside an installed package, next to the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"
