"""Draws the pictures of the bundled styles: assets/icons/styles.webp, four columns in the order of styles.csv.

    python scripts/style_pictures.py

All show the same apple, a picture of the starter model, worked over by filters; no model draws them.
"""

import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SIDE, COLUMNS = 120, 4
LARGE = SIDE * 2  # drawn at twice the size
APPLE = round(LARGE * 0.74)
BOX = ((LARGE - APPLE) // 2, round(LARGE * 0.16))

Picture = Image.Image


def apple() -> tuple[Picture, Picture]:
    """The apple and its mask, on a square of LARGE."""
    found = Image.open(ASSETS / "icons" / "example-apple.webp").convert("RGB").resize((APPLE, APPLE), Image.LANCZOS)
    mask = found.convert("HSV").getchannel("S").point(lambda value: 255 if value > 60 else 0)
    mask = mask.filter(ImageFilter.MedianFilter(7)).filter(ImageFilter.MinFilter(5)).filter(ImageFilter.GaussianBlur(1))
    colours, shape = Image.new("RGB", (LARGE, LARGE), "white"), Image.new("L", (LARGE, LARGE), 0)
    colours.paste(found, BOX)
    shape.paste(mask, BOX)
    return colours, shape


def gradient(top: str, bottom: str, radial: bool = False) -> Picture:
    ramp = ImageOps.invert(Image.radial_gradient("L")) if radial else Image.linear_gradient("L")
    ramp = ramp.resize((LARGE, LARGE))
    return ImageOps.colorize(ramp, top, bottom)


def noise(strength: float, blur: float = 0) -> Picture:
    dice = random.Random(7)
    grain = Image.frombytes("L", (LARGE, LARGE), dice.randbytes(LARGE * LARGE)).filter(ImageFilter.GaussianBlur(blur))
    grain = ImageOps.autocontrast(grain)
    return grain.point(lambda value: round(255 - strength * (255 - value)))


def textured(picture: Picture, strength: float, blur: float = 0) -> Picture:
    return ImageChops.multiply(picture, Image.merge("RGB", [noise(strength, blur)] * 3))


def on(ground: Picture, shadow: float = 0.5, blur: float = 10) -> Picture:
    """The apple on a ground, with a soft shadow below it."""
    colours, shape = apple()
    dark = Image.new("L", (LARGE, LARGE), 0)
    foot = BOX[1] + round(APPLE * 0.93)
    ImageDraw.Draw(dark).ellipse((LARGE * 0.2, foot - 16, LARGE * 0.84, foot + 16), fill=round(255 * shadow))
    ground = Image.composite(
        Image.new("RGB", (LARGE, LARGE), "#100c0a"), ground, dark.filter(ImageFilter.GaussianBlur(blur))
    )
    return Image.composite(colours, ground, shape)


def table(wall: str, far: str, near: str) -> Picture:
    ground, edge = gradient(wall, far), round(LARGE * 0.6)
    ground.paste(gradient(far, near).crop((0, 0, LARGE, LARGE - edge)), (0, edge))
    return ground.filter(ImageFilter.GaussianBlur(5))


def edges(width: int = 3) -> Picture:
    """Dark lines around the apple and where its colours change."""
    colours, shape = apple()
    outline = ImageChops.subtract(shape.filter(ImageFilter.MaxFilter(width * 2 + 1)), shape)
    inner = colours.convert("L").filter(ImageFilter.GaussianBlur(2)).filter(ImageFilter.FIND_EDGES)
    inner = ImageChops.multiply(inner.point(lambda value: min(255, value * 7)), shape.filter(ImageFilter.MinFilter(9)))
    return ImageOps.invert(ImageChops.lighter(outline, inner))


def flattened(colours: int) -> Picture:
    found, _ = apple()
    return found.filter(ImageFilter.MedianFilter(9)).quantize(colours, dither=Image.Dither.NONE).convert("RGB")


def photo() -> Picture:
    return textured(on(table("#cfc9bd", "#8d8271", "#b59a77")), 0.06)


def cinematic() -> Picture:
    graded = ImageChops.multiply(on(table("#3f7d92", "#20414f", "#a8713f"), 0.8), gradient("#c4dde6", "#ffdfb8"))
    vignette = gradient("#8a8a8a", "#ffffff", radial=True)
    found = textured(ImageChops.multiply(graded, vignette), 0.15)
    draw = ImageDraw.Draw(found)
    for top in (0, LARGE - 30):
        draw.rectangle((0, top, LARGE, top + 30), fill="#000000")
    return found


def portrait() -> Picture:
    return ImageChops.multiply(
        on(gradient("#4c4038", "#d9c4ad", radial=True), 0.25, 22), gradient("#ffffff", "#cbb8a8")
    )


def watercolour() -> Picture:
    colours, shape = apple()
    wash = Image.blend(
        flattened(12).filter(ImageFilter.GaussianBlur(3)), Image.new("RGB", colours.size, "#ffffff"), 0.25
    )
    wobble = ImageChops.add(shape.filter(ImageFilter.GaussianBlur(9)), ImageOps.invert(noise(0.7, 6)), 1.6)
    loose = wobble.point(lambda value: 255 if value > 105 else 0).filter(ImageFilter.GaussianBlur(2))
    rim = ImageChops.subtract(loose, loose.filter(ImageFilter.MinFilter(7))).point(lambda value: value // 3)
    found = Image.composite(wash, Image.new("RGB", colours.size, "#fbf6ea"), loose)
    found = Image.composite(Image.new("RGB", colours.size, "#7a1d1d"), found, rim)
    return textured(found, 0.12, 3)


def oil() -> Picture:
    thick = on(gradient("#3d4a3a", "#8b6a3c")).filter(ImageFilter.ModeFilter(13))
    strokes = textured(thick, 0.3, 2).filter(ImageFilter.ModeFilter(7))
    relief = strokes.convert("L").filter(ImageFilter.EMBOSS)
    return ImageEnhance.Brightness(ImageChops.soft_light(strokes, Image.merge("RGB", [relief] * 3))).enhance(1.25)


def ink() -> Picture:
    colours, shape = apple()
    grey = Image.composite(colours.convert("L"), Image.new("L", colours.size, 255), shape).filter(
        ImageFilter.GaussianBlur(3)
    )
    hatch = Image.new("L", (LARGE, LARGE), 255)
    for level, slope in ((150, 1), (105, -1)):
        lines = Image.new("L", (LARGE, LARGE), 255)
        draw = ImageDraw.Draw(lines)
        for start in range(-LARGE, 2 * LARGE, 9):
            draw.line((start, 0, start + slope * LARGE, LARGE), fill=0, width=2)
        dark = grey.point(lambda value, level=level: 255 if value < level else 0)
        hatch = ImageChops.darker(hatch, ImageChops.lighter(lines, ImageOps.invert(dark)))
    return Image.merge("RGB", [ImageChops.darker(hatch, edges())] * 3)


def flat() -> Picture:
    _, shape = apple()
    return Image.composite(
        flattened(5), Image.new("RGB", (LARGE, LARGE), "#ffd9a8"), shape.point(lambda v: 255 * (v > 127))
    )


def anime() -> Picture:
    _, shape = apple()
    cel = ImageEnhance.Color(Image.composite(flattened(7), gradient("#6ec3f5", "#e8f7ff"), shape)).enhance(1.45)
    return ImageChops.multiply(cel, ImageOps.colorize(edges(2), "#2a1030", "#ffffff"))


def pixels() -> Picture:
    small = on(gradient("#27284f", "#57508f"), 0.6, 6).resize((24, 24), Image.Resampling.BOX)
    return small.quantize(14, dither=Image.Dither.NONE).convert("RGB").resize((LARGE, LARGE), Image.Resampling.NEAREST)


def render() -> Picture:
    found = on(gradient("#b79cf7", "#f3d6ff"), 0.45, 16)
    shine = Image.new("L", found.size, 0)
    ImageDraw.Draw(shine).ellipse((82, 82, 122, 104), fill=235)
    return Image.composite(Image.new("RGB", found.size, "white"), found, shine.filter(ImageFilter.GaussianBlur(5)))


def product() -> Picture:
    colours, shape = apple()
    ground, foot = gradient("#ffffff", "#e3e6ea"), BOX[1] + round(APPLE * 0.9)
    depth = LARGE - foot
    mirror = ImageOps.flip(colours.crop((0, foot - depth, LARGE, foot)))
    faint = ImageOps.flip(shape.crop((0, foot - depth, LARGE, foot))).point(lambda value: value // 4)
    ground.paste(mirror, (0, foot), faint)
    return Image.composite(colours, ground, shape)


def line() -> Picture:
    _, shape = apple()
    solid = shape.point(lambda value: 255 if value > 127 else 0).filter(ImageFilter.MedianFilter(9))
    outline = ImageChops.subtract(solid.filter(ImageFilter.MaxFilter(5)), solid.filter(ImageFilter.MinFilter(5)))
    return ImageOps.colorize(outline.filter(ImageFilter.GaussianBlur(1)), "#ffffff", "#18181b")


#: In the order of styles.csv.
DRAWN: tuple[Callable[[], Picture], ...] = (
    photo, cinematic, portrait, watercolour, oil, ink, flat, anime, pixels, render, product, line
)  # fmt: skip


def main() -> None:
    whole = Image.new("RGB", (SIDE * COLUMNS, SIDE * -(-len(DRAWN) // COLUMNS)), "white")
    for place, draw in enumerate(DRAWN):
        tile = draw().resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        whole.paste(tile, (place % COLUMNS * SIDE, place // COLUMNS * SIDE))
    path = ASSETS / "icons" / "styles.webp"
    whole.save(path, quality=80, method=6)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
