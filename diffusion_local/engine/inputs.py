"""Inputs of a picture besides its model: source pictures, references, and files of the home's folders."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from PIL import Image as PIL

from diffusion_local.engine import img2img, vision_models
from diffusion_local.engine.home_files import HomeFiles
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import Loop
from diffusion_local.engine.preview_decoders import PreviewDecoder
from diffusion_local.engine.vision_models import Check, unchecked
from diffusion_local.errors import ModelUnavailable, UserError
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.options.types import Use
from diffusion_local.settings import Settings

T = TypeVar("T")


class PictureInputs(HomeFiles):
    """The files of a home that Params name, and source pictures.

    ``open_source`` takes a picture's id and raises FileNotFoundError if the picture no longer exists.
    """

    def __init__(self, settings: Settings, open_source: Callable[[str], BinaryIO]) -> None:
        super().__init__(settings)
        self._open_source = open_source
        self._preview_vae = settings.preview_vae
        self._decoders: dict[tuple[Path, int], PreviewDecoder] = {}

    def preview_decoder(self, architecture: str, device: str) -> PreviewDecoder | None:
        """The decoder that draws previews of a model's latents on this device; None for linear previews."""
        wanted = self._preview_vae == "on" or (self._preview_vae == "auto" and device != "cpu")
        path = self.preview_vae(architecture) if wanted else None
        try:
            key = (path, path.stat().st_mtime_ns) if path else None
        except OSError:
            return None
        if key is None:
            return None
        if key not in self._decoders:
            self._decoders = {key: PreviewDecoder(key[0])}
        return self._decoders[key]

    def source(self, source_id: str) -> PIL.Image:
        """A stored source picture (L, RGB or RGBA). Raises ModelUnavailable if it is missing or damaged."""
        try:
            with self._open_source(source_id) as file, PIL.open(file, formats=("PNG",)) as picture:
                picture.load()
                return picture
        except FileNotFoundError:
            raise ModelUnavailable(message("source_gone", source=source_id)) from None
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the picture
                raise
            raise ModelUnavailable(message("source_damaged", source=source_id)) from None

    def check_tasks(self, params: Params) -> None:
        """Raise ModelUnavailable if a vision model for a picture's final steps (details, background) is missing or does
        not know the target word.

        Call it before making the picture, because another worker may have the model.
        """
        tasks = [("detect", each.target) for each in params.details]
        tasks += [("background", "")] if params.background else []
        try:
            for task, word in tasks:
                vision_models.check_model(self._preprocessors, task, task, word)
        except UserError as error:
            raise ModelUnavailable(error.message) from None

    def find(
        self, picture: PIL.Image, word: str, least: float, check: Check = unchecked
    ) -> list[vision_models.Detection]:
        """Detect the objects that ``word`` names in a picture (RGB). ``least``: minimum confidence, 0 to 1.

        ``check`` is called repeatedly meanwhile. Raises ModelUnavailable and whatever ``check`` raises.
        """
        return self._with_model(
            "detect", lambda model: vision_models.detect(picture, model, "details", word, least, check)
        )

    def main_object(self, picture: PIL.Image, check: Check = unchecked) -> PIL.Image:
        """A mask (L) of a picture's main object, with soft edges. Raises like ``find``."""
        made = self._with_model(
            "background", lambda model: vision_models.preprocess(picture, model, "background", check)
        )
        return made.convert("L")

    def _with_model(self, task: str, ask: Callable[[vision_models.VisionModel], T]) -> T:
        try:
            return ask(self.vision_model(task))
        except UserError as error:
            raise ModelUnavailable(error.message) from None


def short_hash(path: Path) -> str:
    """The first ten hex digits of a file's SHA-256, A1111's format; cached while the file is unchanged."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)[:10]


@lru_cache(maxsize=256)
def _digest(path: Path, changed: int, size: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def edit_references(params: Params, materials: PictureInputs) -> list[PIL.Image]:
    """The reference pictures that the model itself reads, in order (RGB; transparent pixels become white)."""
    ids = [each.image for each in params.references if each.use is Use.EDIT]
    return [img2img.flatten_alpha(materials.source(each), "white").convert("RGB") for each in ids]


def denoising_pipeline(loaded: Loaded, loop: Loop) -> Callable[..., Any]:
    """The callable to denoise with, which reads the reference pictures if there are any.

    InstructPix2Pix aligns its picture with the result pixel by pixel, so a tile gets the matching crop; other models
    read whole pictures. Raises ModelUnavailable if there are references but the model cannot read any.
    """
    if not loaded.pictures:
        return loaded.family.run(loaded.pipe)
    if loaded.family.refer is None:
        raise ModelUnavailable(message("no_references", model=loaded.model.id))
    pictures = loaded.pictures
    if loop.is_tile and hasattr(loaded.pipe, "unet"):
        pictures = [img2img.make_canvas(each, loop.whole).source.crop(loop.box) for each in pictures]
    return loaded.family.refer(loaded.pipe, loop.params, pictures)


def with_same_parts(pipeline: Any, pipe: Any, **more: Any) -> Any:
    """A pipeline of class ``pipeline`` with the components of ``pipe``."""
    found = pipeline(**pipe.components, **more)
    found.set_progress_bar_config(disable=True)
    return found
