"""What a picture is made from beside its model: source pictures, and files of the home's folders. No torch here."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from PIL import Image as PIL

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.settings import Settings

#: What carries weights and can also carry code that runs when it is opened.
PICKLES = (".pt", ".pth", ".bin", ".ckpt")


class Materials:
    """Finds what Params name: files of one home, and source pictures by what opens them.

    ``open_source`` takes an id and raises FileNotFoundError for one that is not kept any more.
    """

    def __init__(self, settings: Settings, open_source: Callable[[str], BinaryIO]) -> None:
        self._settings = settings
        self._open_source = open_source

    def source(self, source_id: str) -> PIL.Image:
        """A source picture as it is kept (L, RGB or RGBA). Raises ModelUnavailable if it is gone or damaged."""
        try:
            with self._open_source(source_id) as file, PIL.open(file, formats=("PNG",)) as picture:
                picture.load()
                return picture
        except FileNotFoundError:
            raise ModelUnavailable(message("source_gone", source=source_id)) from None
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the picture
                raise
            raise ModelUnavailable(message("source_damaged", source=source_id)) from None

    def lora(self, name: str) -> Path:
        return found(self._settings.loras, name, "LoRA")

    def vae(self, name: str) -> Path:
        return found(self._settings.vae, name, "VAE")

    def upscaler(self, name: str) -> Path:
        return found(self._settings.upscalers, name, "upscaler")

    def embeddings(self) -> dict[str, Path]:
        """Textual inversions by the word that calls them up."""
        return {path.stem: path for path in sorted(self._settings.embeddings.rglob("*.safetensors"))}


def found(folder: Path, name: str, what: str) -> Path:
    """The file of a name. Raises ModelUnavailable, with why a pickle of that name is not taken."""
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return path
    for suffix in PICKLES:
        if (folder / f"{name}{suffix}").exists():
            raise ModelUnavailable(message("material_pickle", kind=what, name=name, file=suffix))
    raise ModelUnavailable(message("material_missing", kind=what, name=name, file=f"{folder.name}/{name}"))


def short_hash(path: Path) -> str:
    """The first ten digits of a file's SHA-256, as A1111 writes hashes; computed once while the file stays."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)[:10]


@lru_cache(maxsize=256)
def _digest(path: Path, changed: int, size: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
