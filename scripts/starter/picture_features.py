"""Features of pictures that the evaluation measures: object crops, class probabilities, gradients, hues; and sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from .classifier import SIDE, Judge

#: Hue ranges in degrees (low, high); red wraps around.
HUES = {"red": (343, 14), "orange": (14, 42), "yellow": (40, 70), "green": (70, 168), "blue": (190, 252),
        "purple": (250, 310), "pink": (300, 352)}  # fmt: skip


def object_crop(picture: np.ndarray, side: int = SIDE, threshold: float = 0.1) -> np.ndarray:
    """The object on a plain background, squared and scaled as the judge's training views; ``[side, side, 3]``.

    The background's colour is the median of the picture's rim.
    """
    rim = np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3), picture[:, :4].reshape(-1, 3),
                          picture[:, -4:].reshape(-1, 3)])  # fmt: skip
    back = np.median(rim, axis=0)
    mask = np.abs(picture - back).max(-1) > threshold
    rows, columns = np.flatnonzero(mask.sum(1) > 1), np.flatnonzero(mask.sum(0) > 1)
    crop = picture
    if len(rows) >= 6 and len(columns) >= 6:
        crop = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longest = max(crop.shape[:2])
    full = round(longest / 0.92)  # the longest side fills 0.92 of the view
    out = np.empty((full, full, 3), np.float32)
    out[:] = back
    y, x = (full - crop.shape[0]) // 2, (full - crop.shape[1]) // 2
    out[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    resized = Image.fromarray((out.clip(0, 1) * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(resized, np.float32) / 255


def to_tensor(pictures: list[np.ndarray] | np.ndarray, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).contiguous().to(device)


@torch.no_grad()
def judge_rows(judge: Judge, pictures: torch.Tensor) -> torch.Tensor:
    """Class probabilities ``[n, classes]`` of pictures ``[n, 3, 64, 64]``."""
    return torch.cat([judge(part).softmax(1) for part in pictures.split(256)])


def gradient_histogram(x: torch.Tensor) -> torch.Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005) beside a 16x16 thumbnail; unit rows.

    Version 0 was measured with such a feature and nearest neighbours; kept for the comparison. x ``[n, 3, h, w]``.
    """
    grey = (F.interpolate(x, size=(128, 128), mode="area") * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    gy, gx = torch.zeros_like(grey), torch.zeros_like(grey)
    gx[:, :, 1:-1], gy[:, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2], grey[:, 2:] - grey[:, :-2]
    angle = torch.rad2deg(torch.atan2(gy, gx)) % 180
    bins = F.one_hot((angle / 20).long().clamp(0, 8), 9).permute(0, 3, 1, 2) * torch.hypot(gx, gy)[:, None]
    cells = F.avg_pool2d(bins, 16)  # [n, 9, 8, 8]
    blocks = F.unfold(cells, 2).view(len(x), 36, -1)
    blocks = F.normalize(F.normalize(blocks, dim=1).clamp(max=0.2), dim=1).flatten(1)
    thumbnail = (F.interpolate(x, size=(16, 16), mode="area") - 0.8).flatten(1)
    return torch.cat([F.normalize(blocks, dim=1), F.normalize(thumbnail, dim=1)], 1)


def spread_of(distances: torch.Tensor) -> dict[str, float]:
    """Median, and how many are so small that the pictures are nearly the same."""
    return {
        "median": round(float(distances.median()), 4),
        "share_below_0.03": round(float((distances < 0.03).float().mean()), 4),
        "share_below_0.06": round(float((distances < 0.06).float().mean()), 4),
    }


def dominant_hue(pixels: np.ndarray) -> float | None:
    """Peak of the hue histogram (degrees) of saturated pixels ``[n, 3]``; None where there are hardly any."""
    high, low = pixels.max(1), pixels.min(1)
    spread = high - low
    keep = (spread / np.maximum(high, 1e-6) > 0.25) & (high > 0.15)
    if keep.sum() < 30:
        return None
    r, g, b = pixels[keep].T
    high, spread = high[keep], spread[keep]
    hue = 60 * np.where(
        high == r, ((g - b) / spread) % 6, np.where(high == g, (b - r) / spread + 2, (r - g) / spread + 4)
    )
    histogram, _ = np.histogram(hue, bins=36, range=(0, 360))
    return float(histogram.argmax() * 10 + 5)


def has_hue(hue: float | None, colour: str) -> bool:
    low, high = HUES[colour]
    if hue is None:
        return False
    return low <= hue <= high if low < high else hue >= low or hue <= high


def sheet(pictures: np.ndarray, columns: int, cell: int, path: Path, labels: list[str] | None = None) -> None:
    """Contact sheet; PNG."""
    text = 14 if labels else 0
    rows = -(-len(pictures) // columns)
    board = Image.new("RGB", (columns * cell, rows * (cell + text)), "white")
    draw = ImageDraw.Draw(board)
    for i, picture in enumerate(pictures):
        x, y = i % columns * cell, i // columns * (cell + text)
        image = Image.fromarray((picture * 255).round().astype(np.uint8))
        board.paste(image.resize((cell - 2, cell - 2), Image.Resampling.LANCZOS), (x, y + text))
        if labels:
            draw.text((x + 2, y + 1), labels[i][:24], fill="black")
    board.save(path)
