"""Source pictures of img2img, inpainting and upscaling, stored by content hash."""

import io
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from PIL import Image as PIL
from PIL import ImageCms, ImageMath, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from diffusion_local import image_decoding
from diffusion_local.authority import guarded
from diffusion_local.engine import preprocessors, vision_models
from diffusion_local.errors import InvalidParams, NotFound, UserError, echo
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.image_formats import PNG_LEVEL
from diffusion_local.gallery.images import ImageStore
from diffusion_local.gallery.source_owners import Provisional, SourceOwners, note_written
from diffusion_local.gallery.vision_answers import VisionAnswers, key_of
from diffusion_local.image_decoding import INPUT_FORMATS
from diffusion_local.messages import Message, message
from diffusion_local.options.table import OPTIONS
from diffusion_local.options.types import ControlType
from diffusion_local.options.values import SOURCE_ID, check_choice, check_integer, check_source_id
from diffusion_local.settings import Settings

#: Control pictures whose ids are cached.
MOST_SEEN = 1024
#: Formats whose further frames or pages are real pictures; in a JPEG they are previews and gain maps.
ANIMATED = ("PNG", "GIF", "WEBP", "AVIF", "TIFF")
#: Text chunk that marks a stored picture as the first of several frames, so that every later submit can warn.
FIRST_FRAME = "First frame"
#: A mask repaints pixels that are brighter than this.
HALF_GREY = 127


@dataclass(frozen=True, slots=True)
class Source:
    """A source picture. ``id``: SHA-256 (hex) of the stored PNG; sizes in pixels."""

    id: str
    width: int
    height: int


@guarded("sources")
class Sources:
    """Source-picture use cases, available as ``studio.sources``. Equal pixels are stored once."""

    def __init__(
        self, settings: Settings, owners: SourceOwners, images: ImageStore, files: ImageFiles, looks: VisionAnswers
    ) -> None:
        self._max_bytes = settings.max_source_mb * 1_000_000
        self._max_pixels = settings.max_source_megapixels * 1_000_000
        self._owners = owners
        self._images = images
        self._files = files
        self._size_of = lru_cache(maxsize=1024)(self._read_size)  # cached by id: a source never changes
        self._seen: dict[tuple[object, ...], str] = {}
        self._looks = looks
        self._paints = lru_cache(maxsize=1024)(self._read_paints)

    def add(self, data: bytes, field: str = "source") -> Source:
        """Store a picture durably: its first frame, upright, in sRGB, without metadata.

        Raises InvalidParams for ``field`` if it is not a picture or too large, Overloaded, and DiskFull.
        """
        if len(data) > self._max_bytes:
            raise InvalidParams(
                field, message("source_bytes", most=self._max_bytes // 10**6, got=len(data) / 1000000.0)
            )
        return self._keep(*self._as_png(data, field))

    def _keep(self, encoded: bytes, size: tuple[int, int]) -> Source:
        source = Source(sha256(encoded).hexdigest(), *size)
        stored = self._files.source(source.id)
        self._owners.add(source.id)  # before the file: no refused request deletes the file of a picture with an owner
        if stored.exists():
            stored.touch()  # retention depends on the time of last use
        else:
            self._files.write_reserving(stored, lambda file: file.write(encoded), durable=True, needed=len(encoded))
            note_written(source.id)
        return source

    def preview_control(self, image: str, type: str, width: int, height: int) -> Source:
        """Preprocess a source picture as for a ControlNet in a picture of this size; returns the result as a source.

        Raises NotFound, and InvalidParams naming the argument.
        """
        low, high = (int(bound) for bound in OPTIONS["width"].bounds)
        size = check_integer("width", width, low, high), check_integer("height", height, low, high)
        self._check_pixels(*size, "width")
        kind = check_choice("type", type, tuple(ControlType))
        return Source(self.seen_by(check_source_id("image", image), kind, size, "type"), *size)

    def seen_by(self, image: str, kind: str, size: tuple[int, int], field: str = "controls") -> str:
        """Id of the control picture: the source preprocessed for this type of control and this size in pixels.

        Raises NotFound for a picture that does not exist or that the actor may not read, InvalidParams for ``field``
        if the type needs a model that is missing or fails, and Overloaded.
        """
        file = self.file(image)
        model = self._looks.model(kind, field) if ControlType(kind).needs_model else None

        def make(check: vision_models.Check) -> str:
            with file.open() as opened, PIL.open(opened, formats=("PNG",)) as picture, image_decoding.share(picture):
                fitted = preprocessors.fitted(picture, size)
                made = fitted if model else preprocessors.preprocess(fitted, kind)
            if model:
                made = vision_models.preprocess(made, model, field, check)
            return self._keep(*to_png(made)).id

        if model is None:
            known = self._seen.get((image, str(kind), size))
            if known is None or not self._is_kept(known):
                return self._remember((image, str(kind), size), make(vision_models.unchecked))
            return known
        key = key_of(image, model, size)
        known = self._looks.once(key, make)
        if not self._is_kept(known):  # deleted by retention, or with the request that was refused
            self._looks.forget(key, known)
            known = self._looks.once(key, make)
        return known

    def _is_kept(self, source_id: str) -> bool:
        """Record a use of a control picture by the actor; returns whether its file exists."""
        self._owners.add(source_id)
        stored = self._files.source(source_id)
        stored.touch()
        return stored.exists()

    def describe(self, image: str) -> str:
        """Caption a source picture with the model in the home's folder for captions.

        Raises NotFound, InvalidParams for ``image`` if there is no such model or it fails, and Overloaded.
        """
        return self._looks.caption(image, self.file(check_source_id("image", image)), "image")

    def _remember(self, key: tuple[object, ...], source_id: str) -> str:
        """Cache the id of a control picture, and drop the oldest entry if there are too many."""
        if len(self._seen) >= MOST_SEEN:
            self._seen.pop(next(iter(self._seen)), None)
        self._seen[key] = source_id
        return source_id

    def from_image(self, image_id: str) -> Source:
        """Copy a gallery picture to the sources. Raises NotFound."""
        try:
            return self.add(self._files.picture(self._images.get(image_id).key).read_bytes())
        except FileNotFoundError:
            raise NotFound(message("file_of_picture", image=echo(image_id))) from None

    def page(self, limit: int = 100, after: str = "") -> list[Source]:
        """The pictures that the actor added, ordered by id, starting after the id ``after``."""
        ids = self._owners.page(limit, after)
        return [Source(each, *self._size_of(each)) for each in ids if self._files.source(each).exists()]

    def own_source(self, source_id: str) -> Source:
        """A picture that the actor added. Raises NotFound."""
        self.file(source_id)
        if not self._owners.has(source_id):
            raise NotFound(message("no_source_picture", source=echo(source_id)))
        return Source(source_id, *self._size_of(source_id))

    def remove(self, source_id: str) -> None:
        """Remove a picture from those that the actor added. Jobs and pictures that use it are not affected.

        Its file is deleted only after a period without use, because others may have added the same picture. Raises
        NotFound.
        """
        self.own_source(source_id)
        self._owners.remove(source_id)

    def file(self, source_id: str) -> StoredFile:
        """The file of a source that the actor may read. Raises NotFound."""
        known = SOURCE_ID.fullmatch(source_id) and self._files.source(source_id).exists()
        if not known or not self._owners.is_readable(source_id):
            raise NotFound(message("no_source_picture", source=echo(source_id)))
        return self._files.source(source_id)

    def size(self, source_id: str) -> tuple[int, int]:
        """(width, height). Called before a submit, so it counts as a use. Raises NotFound."""
        self.file(source_id).touch()
        return self._size_of(source_id)

    def paints(self, mask_id: str) -> bool:
        """Whether a mask repaints anything: white does, black and transparent do not. Raises NotFound."""
        self.file(mask_id)  # raises unless the actor may read it
        return self._paints(mask_id)

    def _read_size(self, source_id: str) -> tuple[int, int]:
        with self._files.source(source_id).open() as file, PIL.open(file, formats=("PNG",)) as picture:
            return picture.size

    def _read_paints(self, mask_id: str) -> bool:
        file = self._files.source(mask_id).open()
        with file, PIL.open(file, formats=("PNG",)) as picture, image_decoding.share(picture):
            ground = PIL.new("RGBA", picture.size, "black") if picture.mode == "RGBA" else None
            composited = PIL.alpha_composite(ground, picture) if ground else picture
            return int(composited.convert("L").getextrema()[1]) > HALF_GREY  # type: ignore[arg-type]

    def _as_png(self, data: bytes, field: str) -> tuple[bytes, tuple[int, int]]:
        """(PNG bytes, (width, height)), decoded within this process's budget."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PIL.DecompressionBombWarning)  # our own limit is checked below
                with PIL.open(io.BytesIO(data), formats=INPUT_FORMATS) as picture:
                    self._check_pixels(*picture.size, field)
                    with image_decoding.share(picture):
                        return to_png(picture)
        except UnidentifiedImageError:
            raise InvalidParams(field, message("not_a_picture", formats=list(INPUT_FORMATS))) from None
        except PIL.DecompressionBombError:
            raise InvalidParams(field, self._too_many_pixels()) from None
        except UserError:
            raise
        # decoders raise arbitrary errors: OSError, SyntaxError, ValueError, struct.error, ...
        except Exception as error:
            raise InvalidParams(field, message("damaged_picture", error=error)) from None

    def _check_pixels(self, width: int, height: int, field: str) -> None:
        """Raise InvalidParams for too many pixels; called before any pixel is decoded."""
        if width * height > self._max_pixels:
            raise InvalidParams(
                field, message("too_many_megapixels", most=self._max_pixels // 10**6, got=f"{width}x{height}")
            )

    def _too_many_pixels(self) -> Message:
        return message("megapixels", most=self._max_pixels // 10**6)


def provisional(sources: Any) -> AbstractContextManager[Any]:
    """A context whose additions are withdrawn if it ends with an error, as after a submit that is refused.

    No operation of its own: it takes back only what the actor has just added. Pictures for a studio on another machine
    are sent in requests of their own, and stay.
    """
    return Provisional(sources._owners, sources._files) if isinstance(sources, Sources) else nullcontext()


def is_first_of_several(files: ImageFiles, source_id: str) -> bool:
    """Whether a source picture is the first frame or page of a file that had more. Visibility is not checked."""
    with files.source(source_id).open() as file, PIL.open(file, formats=("PNG",)) as picture:
        return FIRST_FRAME in picture.info


def to_png(picture: PIL.Image) -> tuple[bytes, tuple[int, int]]:
    """(PNG bytes of the normalised picture, (width, height)). Modifies the picture."""
    info = None
    if picture.format in ANIMATED and getattr(picture, "is_animated", False):
        info = PngInfo()
        info.add_text(FIRST_FRAME, "of several")
    picture_8_bit, encoded = normalise(picture), io.BytesIO()
    picture_8_bit.save(encoded, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
    return encoded.getvalue(), picture_8_bit.size


def normalise(picture: PIL.Image) -> PIL.Image:
    """Convert to an upright picture in sRGB, with mode L, RGB or RGBA and without metadata.

    Modifies the picture in place where possible, to avoid the memory of a second copy.
    """
    ImageOps.exif_transpose(picture, in_place=True)
    upright = to_srgb(to_8_bits(picture))
    clear = upright.has_transparency_data
    mode = "RGBA" if clear else "L" if upright.mode in ("1", "L") else "RGB"
    found = upright if upright.mode == mode else upright.convert(mode)
    found.info = {}
    return found


def to_8_bits(picture: PIL.Image) -> PIL.Image:
    """Scale channels of more than 8 bits to 8; Pillow's own conversion would clip at 255.

    The full scale of integers is 65,535 (2,147,483,647 if a value is larger), that of floats 1 (255 if a value is
    larger).
    """
    if picture.mode == "La":
        return picture.convert("LA")  # the only conversion that Pillow has for this mode
    if picture.mode not in image_decoding.WIDE_MODES:
        return picture
    wide = picture.convert("F")
    high = max(0.0, float(wide.getextrema()[1]))  # type: ignore[arg-type]  # a number for one channel
    scales = (1.0, 255.0) if picture.mode == "F" else (65_535.0, 2_147_483_647.0)
    scale = next((each for each in scales if high <= each), high)
    scaled = wide.point(lambda value: value * (255 / scale) + 0.5).convert("L")
    clear = picture.info.get("transparency")
    if isinstance(clear, int):  # the transparent value, before scaling
        alpha = ImageMath.lambda_eval(lambda images: images["wide"] != float(clear), wide=wide)
        scaled = PIL.merge("LA", (scaled, alpha.point(lambda value: value * 255.0).convert("L")))
    return scaled


def to_srgb(picture: PIL.Image) -> PIL.Image:
    """Convert from the embedded colour profile to sRGB. An unreadable profile is ignored."""
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("P", "PA"):  # the profile applies to the colours of the palette
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if picture.mode == "LAB":
        to_rgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return ImageCms.applyTransform(picture, to_rgb) or picture
    if not profile or picture.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if picture.mode in ("L", "LA"):
            return grey_to_srgb(picture, own)
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(
            picture, own, ImageCms.createProfile("sRGB"), outputMode=mode, inPlace=mode == picture.mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return converted or picture


def grey_to_srgb(picture: PIL.Image, own: ImageCms.ImageCmsProfile) -> PIL.Image:
    """Convert L or LA from the tones of a grey profile to those of sRGB; the result is grey. Raises PyCMSError."""
    clear = picture.has_transparency_data
    alpha = picture.convert("LA").getchannel("A") if clear else None
    if own.profile.xcolor_space.strip() != "GRAY":
        return picture  # a colour profile does not apply to a single channel
    coloured = ImageCms.profileToProfile(picture.convert("L"), own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    grey = coloured.getchannel("G") if coloured else picture.convert("L")
    return PIL.merge("LA", (grey, alpha)) if alpha else grey
