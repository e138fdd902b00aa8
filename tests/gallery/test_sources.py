"""Source pictures: checked before they are decoded, kept without metadata by the hash of their content."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pillow_heif
import pytest
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo

from diffusion_local import image_decoding
from diffusion_local.compose import Services, open_services
from diffusion_local.engine import vision_models
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.gallery.source_owners import SourceOwners
from diffusion_local.gallery.sources import Source, Sources, is_first_of_several, normalise
from diffusion_local.gallery.vision_answers import VisionAnswers, VisionAnswerStore
from diffusion_local.settings import Settings
from tests.support import claimed, enqueue, eventually, image_of


@pytest.fixture
def services(settings: Settings) -> Services:
    return open_services(settings)


@pytest.fixture
def sources(services: Services) -> Sources:
    return services.studio.sources


def looks(services: Services) -> VisionAnswers:
    return VisionAnswers(VisionAnswerStore(services.database), services.settings.preprocessors)


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


@pytest.mark.parametrize(
    ("mode", "kept"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("RGBA", "RGBA"), ("I;16", "L"), ("LA", "RGBA")]
)
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


def test_a_file_that_is_too_large_is_not_opened(settings: Settings, services: Services) -> None:
    limited = Settings.load({}, home=settings.home, max_source_mb=1)
    small = Sources(limited, SourceOwners(services.database), services.images, services.files, looks(services))
    with pytest.raises(InvalidParams, match="at most 1 MB"):
        small.add(b"\0" * 1_000_001)


@pytest.mark.parametrize("name", ["", "x", "../../app", "A" * 64, "0" * 64])
def test_an_unknown_source_is_not_found(sources: Sources, name: str) -> None:
    with pytest.raises(NotFound):
        sources.file(name)


def test_a_picture_of_the_gallery_becomes_a_source(services: Services) -> None:
    enqueue(services.jobs)
    job = claimed(services.jobs)
    image = image_of(job)
    services.files.save(image.key, PIL.new("RGB", (128, 128), "red"), {"parameters": "a red apple"})
    services.jobs.finish(job.claim, image)
    source = services.studio.sources.from_image(image.id)
    assert source.width == 128
    services.files.discard(image.key)
    with pytest.raises(NotFound):
        services.studio.sources.from_image(image.id)


def test_a_job_with_a_source_is_accepted_and_one_without_is_not(services: Services) -> None:
    source = services.studio.sources.add(encoded())
    receipt = services.studio.submit("a boat", source=source.id, strength=0.4)
    job = services.studio.job(receipt.job_ids[0])
    assert (job.params.source, job.params.strength, job.params.width) == (source.id, 0.4, 256)
    with pytest.raises(InvalidParams, match="source: names an unknown source picture"):
        services.studio.submit("a boat", source="0" * 64)


def wide_png(bits: int, colour: int, pixels: bytes, width: int, clear: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", clear) if clear else b"", chunk(b"IDAT", zlib.compress(pixels))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def pixels(picture: PIL.Image) -> list[Any]:
    return [picture.getpixel((place, 0)) for place in range(picture.width)]


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    data = wide_png(16, 0, b"\0" + struct.pack(">5H", 0, 983, 32768, 65278, 65535), 5)
    with PIL.open(io.BytesIO(data)) as picture:
        assert pixels(normalise(picture)) == [0, 4, 128, 254, 255]


def test_a_dark_mask_of_sixteen_bits_stays_dark(sources: Sources) -> None:
    data = wide_png(16, 0, b"\0" + struct.pack(">2H", 983, 983), 2)
    with sources.file(sources.add(data, "mask").id).open() as file, PIL.open(file) as kept:
        assert pixels(kept) == [4, 4]


def test_the_clear_grey_of_sixteen_bits_is_clear_and_no_other() -> None:
    data = wide_png(16, 0, b"\0" + struct.pack(">3H", 983, 984, 65535), 3, struct.pack(">H", 983))
    with PIL.open(io.BytesIO(data)) as picture:
        assert [pixel[-1] for pixel in pixels(normalise(picture))] == [0, 255, 255]


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@pytest.mark.parametrize("mode", [*MODES, "I", "F", "I;16", "I;16L", "I;16B", "I;16N"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_mode_of_pillow_is_kept_upright(mode: str, orientation: int) -> None:
    picture = PIL.new(mode, (3, 2))
    picture.getexif()[0x0112] = orientation
    kept = normalise(picture)
    assert kept.mode in ("L", "RGB", "RGBA")
    assert kept.size == ((2, 3) if orientation > 4 else (3, 2))


def test_numbers_with_a_fraction_are_scaled_by_their_range() -> None:
    for brightest, seen in ((1.0, [0, 128, 255]), (255.0, [0, 128, 255]), (1000.0, [0, 128, 255])):
        picture = PIL.new("F", (3, 1))
        for place, share in enumerate((0.0, 0.5, 1.0)):
            picture.putpixel((place, 0), share * brightest)
        assert pixels(normalise(picture)) == seen


@pytest.mark.skipif("AVIF" not in image_decoding.INPUT_FORMATS, reason="Pillow was built without AVIF")
def test_avif_is_opened_within_the_budget(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    held_by(sources, monkeypatch, encoded(PIL.linear_gradient("L").convert("RGB"), "AVIF"))


def test_the_heic_of_a_phone_is_opened_within_the_budget(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = PIL.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    pillow_heif.from_pillow(PIL.linear_gradient("L").convert("RGB").resize((64, 32))).save(file, exif=exif.tobytes())
    source = held_by(sources, monkeypatch, file.getvalue())
    assert (source.width, source.height) in ((64, 32), (32, 64))


def held_by(sources: Sources, monkeypatch: pytest.MonkeyPatch, data: bytes) -> Source:
    """The kept source; its decoder takes as much of the budget as one that holds the whole picture itself."""
    taken: list[int] = []
    monkeypatch.setattr(image_decoding.budget, "_take", lambda thread, size: taken.append(size) or held(thread, size))

    def held(thread: int, size: int) -> None:
        image_decoding.budget._holders[thread] = size

    source = sources.add(data)
    assert taken == [source.width * source.height * image_decoding.BYTES_PER_PIXEL * image_decoding.COPIES * 2]
    return source


def test_a_picture_of_heif_that_says_it_is_too_large_is_not_decoded(settings: Settings, services: Services) -> None:
    limited = Settings.load({}, home=settings.home, max_source_megapixels=1)
    file = io.BytesIO()
    pillow_heif.from_pillow(PIL.new("RGB", (1200, 1000))).save(file)
    sources = Sources(limited, SourceOwners(services.database), services.images, services.files, looks(services))
    with pytest.raises(InvalidParams, match="megapixels"):
        sources.add(file.getvalue())


@pytest.mark.parametrize(
    ("picture", "warned"),
    [
        (PIL.new("L", (128, 128), 0), True),
        (PIL.new("L", (128, 128), 127), True),
        (PIL.new("RGBA", (128, 128), (255, 255, 255, 0)), True),
        (PIL.linear_gradient("L").resize((128, 128)), False),
        (PIL.new("RGBA", (128, 128), "white"), False),
    ],
)
def test_a_mask_without_white_is_warned_of(services: Services, picture: PIL.Image, warned: bool) -> None:
    source, mask = (services.studio.sources.add(encoded(each)).id for each in (None, picture))
    receipt = services.studio.submit("a boat", source=source, mask=mask, width=128, height=128)
    assert any("has no white" in warning for warning in receipt.warnings) is warned
    line = f"a boat --source {source} --mask {mask} --size 128x128"
    assert any("has no white" in warning for warning in services.studio.lists.check(line).warnings) is warned


def test_two_processes_at_the_same_time_describe_a_picture_once(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its own memory; the database alone is shared."""
    folder = services.settings.preprocessors / "caption"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    source, others = services.sources.add(encoded()).id, [open_services(services.settings) for _ in range(2)]
    asked: list[Any] = []
    refused: list[str] = []

    def describe(*arguments: Any) -> str:
        asked.append(arguments)
        assert eventually(lambda: len(refused) >= 2)
        return "a cat"

    claim = VisionAnswerStore.claim

    def claimed(self: VisionAnswerStore, key: str) -> bool:
        found = claim(self, key)
        if not found:
            refused.append(key)
        return found

    monkeypatch.setattr(VisionAnswerStore, "claim", claimed)
    monkeypatch.setattr(vision_models, "describe", describe)
    with ThreadPoolExecutor(3) as pool:
        answer = [pool.submit(each.sources.describe, source) for each in (services, *others)]
        assert [each.result() for each in answer] == ["a cat"] * 3
    assert len(asked) == 1


def test_a_look_whose_process_died_is_taken_over(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looks(services)
    store = VisionAnswerStore(services.database)
    assert store.claim("key")
    assert not store.claim("key")
    monkeypatch.setattr("diffusion_local.gallery.vision_answers.CLAIM_SECONDS", -1)
    assert found.once("key", lambda check: "a cat") == "a cat"
    assert found.once("key", pytest.fail) == "a cat"


def test_a_look_that_fails_is_made_again(services: Services) -> None:
    found = looks(services)

    def fail(check: Any) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        found.once("key", fail)
    assert found.once("key", lambda check: "a cat") == "a cat"


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_is_kept_and_every_submit_warns(services: Services, form: str) -> None:
    frames = [PIL.new("RGB", (128, 128), colour) for colour in ("red", "blue")]
    several = services.studio.sources.add(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    single = services.studio.sources.add(encoded(frames[0], form))
    with services.studio.sources.file(several.id).open() as file, PIL.open(file) as kept:
        red, green, blue = kept.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert red > 240
        assert max(green, blue) < 15
    for source, warned in ((several, True), (single, False)):
        settings = {"source": source.id, "width": 128, "height": 128}
        answer = services.studio.submit("a boat", **settings).warnings
        assert any(each.startswith("source: has several frames") for each in answer) is warned
        line = f"a boat --source {source.id} --size 128x128"
        assert any("several frames" in each for each in services.studio.lists.check(line).warnings) is warned
    upscaled = services.studio.submit("", kind="upscale", source=several.id)
    assert any("several frames" in each for each in upscaled.warnings)


def test_further_pictures_of_a_jpeg_are_previews(services: Services) -> None:
    frames = [PIL.new("RGB", (128, 128), colour) for colour in ("red", "blue")]
    source = services.studio.sources.add(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert not is_first_of_several(services.files, source.id)


def linear_profile(space: bytes) -> bytes:
    """An ICC profile of linear light: ``GRAY``, or ``RGB `` with the primaries of sRGB."""

    def xyz(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    white = xyz(0.9642, 1.0, 0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, 256, 0)
    words = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = {b"desc": words, b"wtpt": b"XYZ \0\0\0\0" + white}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        primaries = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
        for name, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + xyz(*primary), name + b"TRC": curve}
    at, table = 128 + 4 + 12 * len(tags), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", at, len(body))
        at += len(body)
    head = struct.pack(">I4sI4s4s4s", at, b"lcms", 0x02400000, b"mntr", space, b"XYZ ") + b"\0" * 12 + b"acsp"
    head = head.ljust(68, b"\0") + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + b"".join(tags.values())


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_with_a_profile_looks_as_it_did(mode: str) -> None:
    picture = PIL.new(mode, (2, 1), 128 if mode == "L" else (128, 60))
    picture.info["icc_profile"] = linear_profile(b"GRAY")  # linear light: half as bright is 188 in sRGB
    kept = normalise(picture)
    first = kept.getpixel((0, 0))
    assert (first[0] if isinstance(first, tuple) else first) == pytest.approx(188, abs=2)
    assert mode == "L" or first[-1] == 60  # type: ignore[index]


def test_a_palette_with_a_profile_looks_as_it_did_in_colour() -> None:
    coloured = PIL.new("RGB", (2, 1), (200, 40, 90))
    found = []
    for picture in (coloured.copy(), coloured.quantize(2)):
        picture.info["icc_profile"] = linear_profile(b"RGB ")
        found.append(normalise(picture).getpixel((0, 0)))
    assert found[0] == found[1] == pytest.approx((228, 110, 159), abs=3)
