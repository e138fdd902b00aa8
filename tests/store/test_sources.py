"""Source pictures: checked before they are decoded, kept without metadata by the hash of their content."""

import io
import struct
import zlib
from hashlib import sha256
from typing import Any

import pytest
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo

from diffusion_local.compose import House, open_house
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.settings import Settings
from diffusion_local.store.source_owners import SourceOwners
from diffusion_local.store.sources import Sources
from tests.support import claimed, enqueue, image_of


@pytest.fixture
def house(settings: Settings) -> House:
    return open_house(settings)


@pytest.fixture
def sources(house: House) -> Sources:
    return house.studio.sources


def encoded(picture: PIL.Image | None = None, form: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    (picture or PIL.linear_gradient("L").convert("RGB")).save(data, form, **options)
    return data.getvalue()


def test_a_source_is_kept_by_the_hash_of_its_file(sources: Sources) -> None:
    source = sources.add(encoded())
    assert (source.width, source.height) == (256, 256)
    assert sha256(sources.file(source.id).read_bytes()).hexdigest() == source.id
    assert sources.size(source.id) == (256, 256)


def test_the_same_pixels_are_kept_once_and_without_metadata(sources: Sources) -> None:
    info = PngInfo()
    info.add_text("parameters", "a secret prompt")
    first, second = sources.add(encoded(pnginfo=info)), sources.add(encoded(form="BMP"))
    assert first == second
    assert b"secret" not in sources.file(first.id).read_bytes()


def test_a_photograph_is_turned_upright(sources: Sources) -> None:
    exif = PIL.Exif()
    exif[0x0112] = 6
    source = sources.add(encoded(PIL.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert (source.width, source.height) == (20, 40)


@pytest.mark.parametrize(("mode", "kept"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("RGBA", "RGBA"), ("I;16", "RGB")])
def test_a_picture_is_kept_as_grey_colour_or_with_its_transparency(sources: Sources, mode: str, kept: str) -> None:
    source = sources.add(encoded(PIL.new(mode, (8, 8))))
    with PIL.open(sources.file(source.id).local_path) as picture:
        assert picture.mode == kept


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "must be a picture"),
        (b"GIF89a", "must be a"),
        (b"%PDF-1.4 hello", "must be a picture"),
        (encoded()[:600], "damaged"),
        (bomb(60_000, 60_000), "megapixels"),
        (bomb(9_000, 9_000), "megapixels"),
    ],
)
def test_what_is_no_sound_picture_is_refused(sources: Sources, settings: Settings, data: bytes, words: str) -> None:
    with pytest.raises(InvalidParams, match=words) as refused:
        sources.add(data, "mask")
    assert refused.value.field == "mask"
    assert not [path for path in settings.sources.rglob("*") if path.is_file()]


def test_a_file_that_is_too_large_is_not_opened(settings: Settings, house: House) -> None:
    limited = Settings.load({}, home=settings.home, max_source_mb=1)
    small = Sources(limited, SourceOwners(house.database), house.images, house.files)
    with pytest.raises(InvalidParams, match="at most 1 MB"):
        small.add(b"\0" * 1_000_001)


@pytest.mark.parametrize("name", ["", "x", "../../app", "A" * 64, "0" * 64])
def test_an_unknown_source_is_not_found(sources: Sources, name: str) -> None:
    with pytest.raises(NotFound):
        sources.file(name)


def test_a_picture_of_the_gallery_becomes_a_source(house: House) -> None:
    enqueue(house.jobs)
    job = claimed(house.jobs)
    image = image_of(job)
    house.files.save(image.key, PIL.new("RGB", (128, 128), "red"), {"parameters": "a red apple"})
    house.jobs.finish(job.claim, image)
    source = house.studio.sources.from_image(image.id)
    assert source.width == 128
    house.files.discard(image.key)
    with pytest.raises(NotFound):
        house.studio.sources.from_image(image.id)


def test_a_job_with_a_source_is_accepted_and_one_without_is_not(house: House) -> None:
    source = house.studio.sources.add(encoded())
    receipt = house.studio.submit("a boat", source=source.id, strength=0.4)
    job = house.studio.job(receipt.job_ids[0])
    assert (job.params.source, job.params.strength, job.params.width) == (source.id, 0.4, 256)
    with pytest.raises(InvalidParams, match="source: names no picture"):
        house.studio.submit("a boat", source="0" * 64)
