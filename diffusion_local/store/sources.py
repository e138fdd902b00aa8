"""Source pictures: what img2img, inpainting and upscaling begin from, kept by the hash of their content."""

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from PIL import Image as PIL
from PIL import ImageCms, ImageOps, UnidentifiedImageError, features

from diffusion_local import decoding
from diffusion_local.authority import guarded
from diffusion_local.errors import InvalidParams, NotFound, UserError, echo
from diffusion_local.messages import Message, message
from diffusion_local.options.values import SOURCE_ID
from diffusion_local.settings import Settings
from diffusion_local.store.blobs import StoredFile
from diffusion_local.store.encoding import PNG_LEVEL
from diffusion_local.store.files import ImageFiles
from diffusion_local.store.images import ImageStore
from diffusion_local.store.source_owners import SourceOwners

#: Formats that are opened; Pillow knows dozens more, whose decoders are little tried.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", *(["AVIF"] if features.check("avif") else []))


@dataclass(frozen=True, slots=True)
class Source:
    """A source picture. ``id`` is the SHA-256, in hex, of the PNG that is kept; sizes in pixels."""

    id: str
    width: int
    height: int


@guarded("sources")
class Sources:
    """Part of the Studio, as ``studio.sources``. The same pixels are kept once."""

    def __init__(self, settings: Settings, owners: SourceOwners, images: ImageStore, files: ImageFiles) -> None:
        self._max_bytes = settings.max_source_mb * 1_000_000
        self._max_pixels = settings.max_source_megapixels * 1_000_000
        self._owners = owners
        self._images = images
        self._files = files
        self._size_of = lru_cache(maxsize=1024)(self._read_size)  # once for an id: a source never changes

    def add(self, data: bytes, field: str = "source") -> Source:
        """Keep a picture: its first frame upright in sRGB, without metadata. Durable once this returns.

        Raises InvalidParams naming ``field`` for what is no picture or too large, Overloaded, and DiskFull.
        """
        if len(data) > self._max_bytes:
            raise InvalidParams(
                field, message("source_bytes", most=self._max_bytes // 10**6, got=len(data) / 1000000.0)
            )
        encoded, size = self._as_png(data, field)
        source = Source(sha256(encoded).hexdigest(), *size)
        kept = self._files.source(source.id)
        if kept.exists():
            kept.touch()  # retention goes by the time of the last use
        else:
            self._files.keep(kept, lambda file: file.write(encoded), durable=True, needed=len(encoded))
        self._owners.note(source.id)
        return source

    def from_image(self, image_id: str) -> Source:
        """A picture of the gallery as a source. Raises NotFound."""
        try:
            return self.add(self._files.picture(self._images.get(image_id).key).read_bytes())
        except FileNotFoundError:
            raise NotFound(message("file_of_picture", image=echo(image_id))) from None

    def file(self, source_id: str) -> StoredFile:
        """The file of a source that the current actor may look at. Raises NotFound."""
        known = SOURCE_ID.fullmatch(source_id) and self._files.source(source_id).exists()
        if not known or not self._owners.visible(source_id):
            raise NotFound(message("no_source_picture", source=echo(source_id)))
        return self._files.source(source_id)

    def size(self, source_id: str) -> tuple[int, int]:
        """Width and height; asked before a submit, so it counts as a use. Raises NotFound."""
        self.file(source_id).touch()
        return self._size_of(source_id)

    def _read_size(self, source_id: str) -> tuple[int, int]:
        with self._files.source(source_id).open() as file, PIL.open(file, formats=("PNG",)) as picture:
            return picture.size

    def _as_png(self, data: bytes, field: str) -> tuple[bytes, tuple[int, int]]:
        """The picture as it is kept, and its size; decoded within the budget of this process."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PIL.DecompressionBombWarning)  # our own limit is asked below
                with PIL.open(io.BytesIO(data), formats=FORMATS) as picture:
                    self._check_pixels(*picture.size, field)
                    with decoding.share(picture):
                        return png_of(picture)
        except UnidentifiedImageError:
            raise InvalidParams(field, message("not_a_picture", formats=list(FORMATS))) from None
        except PIL.DecompressionBombError:
            raise InvalidParams(field, self._too_many_pixels()) from None
        except UserError:
            raise
        except Exception as error:  # decoders raise what they like: OSError, SyntaxError, ValueError, struct.error, ...
            raise InvalidParams(field, message("damaged_picture", error=error)) from None

    def _check_pixels(self, width: int, height: int, field: str) -> None:
        """Asked before a pixel is decoded."""
        if width * height > self._max_pixels:
            raise InvalidParams(
                field, message("too_many_megapixels", most=self._max_pixels // 10**6, got=f"{width}x{height}")
            )

    def _too_many_pixels(self) -> Message:
        return message("megapixels", most=self._max_pixels // 10**6)


def png_of(picture: PIL.Image) -> tuple[bytes, tuple[int, int]]:
    """A picture as it is kept, and its size. Changes the picture."""
    kept, encoded = plain(picture), io.BytesIO()
    kept.save(encoded, "PNG", compress_level=PNG_LEVEL)
    return encoded.getvalue(), kept.size


def plain(picture: PIL.Image) -> PIL.Image:
    """Upright, in sRGB as L, RGB or RGBA, and nothing but pixels.

    Changes the picture itself where it can, as a second copy of a large one costs as much memory again.
    """
    ImageOps.exif_transpose(picture, in_place=True)
    upright = in_srgb(picture)
    clear = upright.has_transparency_data
    mode = "RGBA" if clear else "L" if upright.mode in ("1", "L") else "RGB"
    found = upright if upright.mode == mode else upright.convert(mode)
    found.info = {}
    return found


def in_srgb(picture: PIL.Image) -> PIL.Image:
    """Colours of a wide-gamut photograph as they look; a profile that cannot be read says nothing."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(
            picture, own, ImageCms.createProfile("sRGB"), outputMode=mode, inPlace=mode == picture.mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return converted or picture
