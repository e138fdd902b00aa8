"""Pictures that are probably not what was wanted are told from all others, and not where they were asked for."""

import os
from random import Random

import pytest
from PIL import Image as PIL
from PIL import ImageDraw, ImageFilter

from diffusion_local.domain import Kind, Params
from diffusion_local.engine.fake import draw_card
from diffusion_local.gallery.quality import blemish_of, flag_of, is_requested
from tests.support import PACKAGE, params

ASSETS = PACKAGE.parent / "assets"


def of(colour: object, size: int = 256) -> PIL.Image:
    return PIL.new("RGB", (size, size), colour)  # type: ignore[arg-type]


def speckled(most: int, base: int = 120) -> PIL.Image:
    lot, picture = Random(1), of((base, base, base))
    for place in range(256):
        value = base + lot.randint(-most, most)
        picture.putpixel((lot.randrange(256), place), (value, value, value))
    return picture


def noise(size: int = 256, blur: float = 0) -> PIL.Image:
    made = PIL.frombytes("RGB", (size, size), os.urandom(3 * size * size))
    return made.filter(ImageFilter.GaussianBlur(blur)).point(lambda value: (value - 128) * 4 + 128) if blur else made


def drawing() -> PIL.Image:
    picture = of("black")
    ImageDraw.Draw(picture).ellipse((40, 40, 60, 60), fill="white")
    return picture


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (of("black"), "black"),
        (of((6, 3, 8)), "black"),
        (of("white"), "one_colour"),
        (of((200, 30, 30), 1024), "one_colour"),
        (speckled(9), "flat"),
        (noise(), "noise"),
        (noise(512), "noise"),
        (noise(1024), "noise"),
        (noise(256, blur=2), "noise"),
        (drawing(), ""),
        (PIL.linear_gradient("L").convert("RGB"), ""),
        (PIL.open(ASSETS / "starter/everyday.webp").convert("RGB"), ""),
        (PIL.open(ASSETS / "screenshots/create.webp").convert("RGB"), ""),
        (of("black", 8), "black"),
        (noise(64), ""),
    ],
)
def test_a_blemish_is_told_by_its_name(picture: PIL.Image, found: str) -> None:
    assert blemish_of(picture) == found


@pytest.mark.parametrize("seed", range(20))
def test_test_cards_have_none(seed: int) -> None:
    assert blemish_of(draw_card(params(seed=seed, width=256, height=256))) == ""


@pytest.mark.parametrize(
    ("blemish", "prompt", "asked"),
    [
        ("black", "a black cat", False),
        ("black", "a house at night, dark", False),
        ("black", "black", True),
        ("black", "pure black image", True),
        ("black", "a Black Background", True),
        ("black", "纯黑背景", True),
        ("one_colour", "a red apple", False),
        ("one_colour", "solid colour", True),
        ("one_colour", "a plain red background", True),
        ("one_colour", "white canvas", True),
        ("flat", "a ship in thick fog", True),
        ("flat", "a ship", False),
        ("noise", "television static noise", True),
        ("noise", "a ship", False),
        ("noise", "black", False),
        ("black", "", False),
    ],
)
def test_what_was_asked_for_is_none(blemish: str, prompt: str, asked: bool) -> None:
    assert is_requested(blemish, params(prompt=prompt)) is asked


def test_a_picture_made_from_one_alike_is_not_flagged() -> None:
    job: Params = params(prompt="a cat", kind=Kind.UPSCALE, source="a" * 64)
    assert flag_of(of("black"), job, lambda: of("black")) == ""
    assert flag_of(of("black"), job, lambda: drawing()) == "black"
    assert flag_of(of("black"), job, lambda: None) == "black"
    assert flag_of(of("black"), params(prompt="a cat"), pytest.fail) == "black"
