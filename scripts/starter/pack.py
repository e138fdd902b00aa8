"""The packed training art: pictures of concepts and drawn backgrounds, as read by every later step.

A pack is one folder with four files:

* ``pack.json``    concepts (names, keywords, weight), pictures (concept, style, colour figures, place in ``pack.bin``),
                   backgrounds (kind, place in ``scenes.bin``) and the phrases of each background kind;
* ``pack.bin``     RGBA pictures, 256x256 WebP, one after the other;
* ``scenes.bin``   RGB backgrounds, 256x256 WebP.
* ``scenes.json``  the backgrounds' part of ``pack.json`` as its step writes it (not read here).
"""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: Side of every picture in pixels.
PIXELS = 256


@dataclass
class Pack:
    """Metadata of the packed art (no pixels)."""

    concepts: list[dict[str, Any]]
    images: list[dict[str, Any]]
    scenes: list[dict[str, Any]]
    scene_types: dict[str, dict[str, Any]]
    folder: Path

    @classmethod
    def load(cls, folder: str | Path) -> Pack:
        """Read ``pack.json`` in ``folder``."""
        folder = Path(folder)
        meta = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        return cls(meta["concepts"], meta["images"], meta["scenes"], meta["types"], folder)

    def images_of_concepts(self) -> dict[int, list[int]]:
        """Indices of the pictures of each concept."""
        found: dict[int, list[int]] = {}
        for index, image in enumerate(self.images):
            found.setdefault(image["c"], []).append(index)
        return found

    def _decode(self, name: str, entries: list[dict[str, Any]], mode: str, side: int, threads: int) -> np.ndarray:
        raw = (self.folder / name).read_bytes()
        out = np.zeros((len(entries), len(mode), side, side), np.uint8)

        def decode(index: int) -> None:
            entry = entries[index]
            image = Image.open(io.BytesIO(raw[entry["off"] : entry["off"] + entry["len"]])).convert(mode)
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BOX)
            out[index] = np.asarray(image).transpose(2, 0, 1)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, range(len(entries))))
        return out

    def textures(self, side: int = PIXELS, threads: int = 2) -> np.ndarray:
        """All pictures, uint8 RGBA ``[N, 4, side, side]`` (straight alpha)."""
        return self._decode("pack.bin", self.images, "RGBA", side, threads)

    def backgrounds(self, side: int = PIXELS, threads: int = 2) -> np.ndarray:
        """All backgrounds, uint8 RGB ``[S, 3, side, side]``."""
        return self._decode("scenes.bin", self.scenes, "RGB", side, threads)
