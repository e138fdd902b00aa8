"""Backgrounds, drawn by simple geometry (part of step 2): twelve kinds, many random drawings of each."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .pack import PIXELS

S = 512  # drawn at twice the size, then scaled down
Colour = tuple[int, int, int]


def gradient(top: Colour, bottom: Colour, power: float = 1.0) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    ramp = (np.linspace(0, 1, S) ** power)[:, None, None]
    rows = np.array(top)[None, None] * (1 - ramp) + np.array(bottom)[None, None] * ramp
    image = Image.fromarray(np.repeat(rows, S, 1).clip(0, 255).astype(np.uint8))
    return image, ImageDraw.Draw(image)


def vary(colour: Colour, rng: random.Random, spread: int = 14) -> Colour:
    r, g, b = (int(max(0, min(255, v + rng.uniform(-spread, spread)))) for v in colour)
    return r, g, b


def hill(d: ImageDraw.ImageDraw, rng: random.Random, y: float, height: float, colour: Colour) -> None:
    phase, waves = rng.uniform(0, 2 * math.pi), rng.uniform(0.6, 1.6)
    line = [(x, y + height * math.sin(x / S * 2 * math.pi * waves + phase)) for x in range(0, S + 8, 8)]
    d.polygon([*line, (S, S), (0, S)], fill=colour)


def clouds(d: ImageDraw.ImageDraw, rng: random.Random, number: int, lowest: float = 0.33) -> None:
    for _ in range(number):
        x, y, s = rng.uniform(0, S), rng.uniform(0.05, lowest) * S, rng.uniform(26, 52)
        for dx, dy, q in ((-1, 0.1, 0.7), (0, -0.25, 1), (1, 0.1, 0.75), (0.4, 0.15, 0.8), (-0.5, 0.15, 0.75)):
            box = [
                x + dx * s - q * s * 0.8,
                y + dy * s - q * s * 0.55,
                x + dx * s + q * s * 0.8,
                y + dy * s + q * s * 0.55,
            ]
            d.ellipse(box, fill=(255, 255, 255))


def disc(d: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    d.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def dots(d: ImageDraw.ImageDraw, rng: random.Random, number: int, lowest: float, radii: list, colours: list) -> None:
    for _ in range(number):
        disc(d, rng.uniform(0, S), rng.uniform(0, S * lowest), rng.choice(radii), rng.choice(colours))


def pine(
    d: ImageDraw.ImageDraw, x: float, base: float, height: float, width: float, colour: Colour, snowy: bool
) -> None:
    for k in range(3):
        y, w = base - height * k * 0.28, width * (1 - 0.25 * k)
        d.polygon([(x - w, y), (x + w, y), (x, y - height * 0.5)], fill=colour)
        if snowy:
            cap = [(x - w * 0.45, y - height * 0.28), (x + w * 0.45, y - height * 0.28), (x, y - height * 0.5)]
            d.polygon(cap, fill=(245, 250, 255))


def meadow(r: random.Random) -> Image.Image:
    image, d = gradient(vary((90, 175, 245), r), vary((205, 236, 255), r))
    clouds(d, r, r.randint(1, 3))
    if r.random() < 0.4:
        disc(d, r.uniform(0.1, 0.9) * S, 70, 40, (255, 221, 80))
    hill(d, r, S * 0.6, 24, vary((110, 195, 80), r))
    hill(d, r, S * 0.7, 16, vary((92, 176, 66), r))
    return image


def night(r: random.Random) -> Image.Image:
    image, d = gradient(vary((12, 16, 52), r, 8), vary((44, 52, 110), r, 10))
    dots(d, r, r.randint(40, 80), 0.75, [2, 2, 3, 4], [(255, 250, 215)])
    if r.random() < 0.7:
        x, y, q = r.uniform(0.12, 0.88) * S, r.uniform(0.1, 0.25) * S, r.uniform(26, 42)
        disc(d, x, y, q, (250, 240, 190))
        if r.random() < 0.5:
            disc(d, x + q * 0.6, y - 4, q, (18, 23, 62))
    hill(d, r, S * 0.76, 14, vary((22, 40, 48), r, 6))
    return image


def beach(r: random.Random) -> Image.Image:
    image, d = gradient(vary((100, 190, 250), r), vary((215, 240, 255), r))
    clouds(d, r, r.randint(0, 2), 0.22)
    if r.random() < 0.5:
        disc(d, r.uniform(0.1, 0.9) * S, 72, 38, (255, 224, 90))
    d.rectangle([0, S * 0.42, S, S], fill=vary((38, 150, 205), r))
    d.rectangle([0, S * 0.52, S, S], fill=vary((70, 185, 220), r, 8))
    hill(d, r, S * 0.64, 8, (235, 250, 255))
    hill(d, r, S * 0.66, 8, vary((243, 217, 160), r))
    return image


def snow(r: random.Random) -> Image.Image:
    image, d = gradient(vary((150, 185, 225), r), vary((220, 233, 248), r))
    for _ in range(r.randint(1, 4)):
        height = r.uniform(80, 140)
        pine(d, r.uniform(0, 1) * S, S * 0.64, height, height * 0.36, vary((52, 110, 90), r), True)
    hill(d, r, S * 0.62, 14, vary((240, 246, 252), r, 5))
    hill(d, r, S * 0.74, 12, (250, 252, 255))
    dots(d, r, r.randint(30, 70), 1.0, [3, 4, 5], [(255, 255, 255)])
    return image


def space(r: random.Random) -> Image.Image:
    image, d = gradient(vary((10, 8, 30), r, 6), vary((34, 18, 70), r, 10))
    dots(d, r, r.randint(70, 130), 1.0, [1.5, 2, 2, 3], [(255, 255, 255), (200, 220, 255), (255, 235, 190)])
    for _ in range(r.randint(0, 2)):
        x, y = r.choice([r.uniform(0, 0.2), r.uniform(0.8, 1)]) * S, r.uniform(0.05, 0.95) * S
        q = r.uniform(28, 66)
        colour = vary(r.choice([(214, 120, 80), (90, 140, 220), (170, 110, 200), (225, 190, 120)]), r)
        disc(d, x, y, q, colour)
        d.chord([x - q, y - q, x + q, y + q], 60, 200, fill=tuple(int(v * 0.82) for v in colour))
    return image


def desert(r: random.Random) -> Image.Image:
    image, d = gradient(vary((110, 190, 240), r), vary((250, 228, 180), r))
    disc(d, r.uniform(0.15, 0.85) * S, 80, 40, (255, 215, 80))
    hill(d, r, S * 0.58, 26, vary((232, 180, 105), r))
    hill(d, r, S * 0.7, 20, vary((220, 162, 86), r))
    for _ in range(r.randint(0, 2)):
        x, green = r.choice([r.uniform(0.05, 0.22), r.uniform(0.78, 0.95)]) * S, (70, 140, 75)
        d.rounded_rectangle([x - 11, S * 0.44, x + 11, S * 0.68], 11, fill=green)
        d.rounded_rectangle([x - 36, S * 0.5, x - 20, S * 0.58], 8, fill=green)
        d.rectangle([x - 30, S * 0.555, x, S * 0.58], fill=green)
    return image


def sunset(r: random.Random) -> Image.Image:
    image, d = gradient(vary((90, 55, 130), r), vary((255, 165, 85), r), 0.8)
    x = r.uniform(0.25, 0.75) * S
    disc(d, x, S * 0.42 + 62, 62, (255, 226, 120))
    if r.random() < 0.5:
        d.rectangle([0, S * 0.62, S, S], fill=vary((120, 70, 110), r))
        for k in range(6):
            y = S * (0.66 + 0.035 * k)
            d.line([(x - 70 + k * 9, y), (x + 70 - k * 9, y)], fill=(255, 190, 120), width=7)
    else:
        hill(d, r, S * 0.62, 24, vary((96, 52, 90), r))
        hill(d, r, S * 0.74, 14, vary((66, 36, 66), r))
    return image


def underwater(r: random.Random) -> Image.Image:
    image, d = gradient(vary((80, 200, 235), r), vary((10, 70, 140), r))
    hill(d, r, S * 0.86, 10, vary((225, 200, 140), r))
    for _ in range(r.randint(8, 18)):
        x, y, q = r.uniform(0, S), r.uniform(0, S * 0.85), r.uniform(4, 11)
        d.ellipse([x - q, y - q, x + q, y + q], outline=(220, 245, 255), width=3)
    for _ in range(r.randint(2, 5)):
        x, height = r.choice([r.uniform(0, 0.28), r.uniform(0.72, 1)]) * S, r.uniform(60, 150)
        weed = [(x + 10 * math.sin(k), S * 0.9 - height * k / 8) for k in range(9)]
        d.line(weed, fill=vary((30, 140, 90), r), width=12, joint="curve")
    return image


def table(r: random.Random) -> Image.Image:
    image, d = gradient(vary((245, 232, 210), r), vary((232, 214, 188), r))
    wood, top = vary((168, 112, 66), r), S * 0.66
    d.rectangle([0, top, S, S], fill=wood)
    for k in range(4):
        y = top + (S - top) * k / 4
        d.line([(0, y), (S, y)], fill=tuple(int(v * 0.85) for v in wood), width=4)
    return image


def forest(r: random.Random) -> Image.Image:
    image, d = gradient(vary((150, 215, 220), r), vary((215, 240, 215), r))
    for _ in range(r.randint(7, 11)):
        x, height, base = r.uniform(-0.05, 1.05) * S, r.uniform(170, 300), S * r.uniform(0.62, 0.7)
        d.rectangle([x - 9, base - 20, x + 9, base + 14], fill=(110, 76, 48))
        pine(d, x, base - 10, height * 0.93, height * 0.3, vary((50, 125, 72), r, 22), False)
    hill(d, r, S * 0.68, 10, vary((98, 170, 80), r))
    return image


def city(r: random.Random) -> Image.Image:
    image, d = gradient(vary((24, 24, 66), r, 8), vary((90, 70, 130), r, 10))
    x = -10.0
    while x < S:
        width, height = r.uniform(48, 90), r.uniform(0.28, 0.62) * S
        d.rectangle([x, S * 0.8 - height, x + width, S], fill=vary((38, 38, 72), r, 10))
        for y in range(int(S * 0.8 - height) + 12, int(S * 0.76), 24):
            for left in range(int(x) + 9, int(x + width) - 12, 20):
                if r.random() < 0.55:
                    d.rectangle([left, y, left + 10, y + 13], fill=(255, 222, 120))
        x += width + r.uniform(0, 10)
    d.rectangle([0, S * 0.78, S, S], fill=vary((64, 64, 78), r))
    return image


def mountains(r: random.Random) -> Image.Image:
    image, d = gradient(vary((110, 180, 240), r), vary((225, 240, 250), r))
    clouds(d, r, r.randint(0, 2), 0.2)
    for _ in range(r.randint(2, 4)):
        x, h, base = r.uniform(0, 1) * S, r.uniform(200, 300), S * 0.68
        w = h * 0.75
        d.polygon([(x - w, base), (x + w, base), (x, base - h)], fill=vary((110, 125, 155), r))
        cap = [(-0.26, 0.74), (-0.08, 0.68), (0.05, 0.76), (0.26, 0.74), (0, 1)]
        d.polygon([(x + w * a, base - h * b) for a, b in cap], fill=(248, 250, 255))
    hill(d, r, S * 0.66, 14, vary((105, 180, 85), r))
    return image


#: Kind: how it is drawn, phrases for things in front of it, caption of the empty scene.
KINDS: dict[str, tuple[Callable[[random.Random], Image.Image], list[str], str]] = {
    "meadow": (meadow, ["in a green meadow", "on the grass under a blue sky", "in a field", "outdoors on green grass",
                        "in a park", "with blue sky and clouds"], "a green meadow under a blue sky"),
    "night": (night, ["at night", "under a starry night sky", "at night with stars", "in the moonlight",
                      "under the stars"], "a starry night sky"),
    "beach": (beach, ["on the beach", "at the beach by the sea", "on a sandy beach", "by the ocean", "at the seaside"],
              "a beach by the sea"),
    "snow": (snow, ["in the snow", "in a snowy landscape", "in winter", "in falling snow", "on a snowy day"],
             "a snowy winter landscape"),
    "space": (space, ["in space", "in outer space", "among the stars in space", "floating in space with planets"],
              "outer space with stars and planets"),
    "desert": (desert, ["in the desert", "in a sandy desert", "in the hot desert sun"], "a desert with sand dunes"),
    "sunset": (sunset, ["at sunset", "in front of a sunset", "with an orange sunset sky", "at dusk"], "a sunset"),
    "underwater": (underwater, ["underwater", "under the sea", "under water with bubbles", "in the ocean deep"],
                   "underwater sea floor with bubbles"),
    "table": (table, ["on a wooden table", "on a table", "on a desk", "in a kitchen"], "a wooden table"),
    "forest": (forest, ["in a forest", "in the woods", "among trees", "in front of pine trees"],
               "a forest of pine trees"),
    "city": (city, ["in a city at night", "in front of a city skyline", "on a city street at night",
                    "with skyscrapers"], "a city skyline at night"),
    "mountains": (mountains, ["in the mountains", "in front of mountains", "with snowy mountains behind",
                              "on a mountain"], "snowy mountains"),
}  # fmt: skip


def draw_scenes(path: Path, each: int = 28, seed: int = 5) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Draw ``each`` backgrounds of every kind into one file; returns their places and the phrases of the kinds."""
    rng, offset, places = random.Random(seed), 0, []
    with path.open("wb") as file:
        for kind, (draw, _, _) in KINDS.items():
            for _ in range(each):
                buffer = io.BytesIO()
                draw(rng).resize((PIXELS, PIXELS), Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=90, method=4)
                file.write(buffer.getvalue())
                places.append({"t": kind, "off": offset, "len": len(buffer.getvalue())})
                offset += len(buffer.getvalue())
    return places, {kind: {"ctx": phrases, "alone": alone} for kind, (_, phrases, alone) in KINDS.items()}
