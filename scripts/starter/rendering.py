"""Renders batches of recipes to pixels, on any device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .pack import PIXELS
from .recipes import (
    BACKGROUND_SCENE,
    EFFECT,
    EFFECT_SHADOW,
    EFFECT_STICKER,
    FILTER_BLUR,
    FILTER_GRAY,
    FILTER_LINE,
    FILTER_LOWRES,
    FILTER_NOISE,
    FILTER_PIXEL,
    FILTER_SEPIA,
    FILTER_WARP,
    FLIP,
    MAX_OBJECTS,
    MODE,
    MODE_RECOLOUR,
    MODE_SILHOUETTE,
    P0,
    P1,
    P2,
    P3,
    P4,
    ROTATION,
    SCALE,
    Recipes,
    X,
    Y,
)


def shift_hue(rgb: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Move the dominant hue of pictures to the asked one; pixels of other hues and greys stay.

    rgb ``[n, 3, h, w]`` in 0..1, rows ``[n, 12]``: P0 dominant hue, P1 target hue (degrees), P2 saturation factor,
    P3 value factor, P4 value offset.
    """
    highest, lowest = rgb.amax(1), rgb.amin(1)
    spread = highest - lowest
    red, green, blue = rgb.unbind(1)
    safe = spread.clamp_min(1e-5)
    hue = 60 * torch.where(
        highest == red,
        ((green - blue) / safe) % 6,
        torch.where(highest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = spread / highest.clamp_min(1e-5)
    column = lambda k: rows[:, k, None, None]  # noqa: E731
    distance = (hue - column(P0) + 180) % 360 - 180
    mask = ((62 - distance.abs()) / 20).clamp(0, 1) * ((saturation - 0.06) / 0.12).clamp(0, 1)
    new_hue = (column(P1) + distance * 0.35) % 360
    new_saturation = (saturation * column(P2)).clamp(0, 1)
    new_value = (highest * column(P3) + column(P4)).clamp(0, 1)
    channels = []
    for n in (5, 3, 1):  # HSV to RGB, https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
        k = (n + new_hue / 60) % 6
        channels.append(new_value - new_value * new_saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return rgb * (1 - mask[:, None]) + torch.stack(channels, 1) * mask[:, None]


def affine_matrix(rows: torch.Tensor) -> torch.Tensor:
    """Sampling matrices ``[n, 2, 3]`` (output to input, coordinates -1..1) of objects ``rows [n, 12]``."""
    centre = rows[:, [X, Y]] / (PIXELS / 2) - 1
    flip, scale = 1 - 2 * rows[:, FLIP], rows[:, SCALE]
    cos, sin = torch.cos(rows[:, ROTATION]), torch.sin(rows[:, ROTATION])
    linear = torch.stack([flip * cos / scale, flip * sin / scale, -sin / scale, cos / scale], 1).view(-1, 2, 2)
    return torch.cat([linear, -(linear @ centre[:, :, None])], 2)


def render(textures: torch.Tensor, scenes: torch.Tensor, recipes: Recipes) -> torch.Tensor:
    """Draw recipes: float32 ``[n, 3, side, side]`` in 0..1 on the device of ``textures``.

    textures uint8 ``[N, 4, side, side]``, scenes uint8 ``[S, 3, side, side]``. Index sets are made with NumPy on the
    CPU, so that nothing waits for the GPU.
    """
    canvas = draw_backgrounds(scenes, recipes.backgrounds, textures.shape[-1], textures.device)
    for slot in range(MAX_OBJECTS):
        used = np.flatnonzero(recipes.images[:, slot] >= 0)
        if len(used):
            draw_objects(canvas, used, textures, recipes.images[used, slot], recipes.objects[used, slot])
    return apply_filters(canvas, recipes.filters)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def draw_backgrounds(scenes: torch.Tensor, backgrounds: np.ndarray, side: int, device: torch.device) -> torch.Tensor:
    """A canvas ``[n, 3, side, side]`` with the solid colours, gradients and scenes of ``backgrounds [n, 8]``."""
    n, rows = len(backgrounds), to_device(backgrounds, device)
    ramp = torch.linspace(0, 1, side, device=device)[None, None, :, None]
    canvas = rows[:, 1:4, None, None] * (1 - ramp) + rows[:, 4:7, None, None] * ramp
    canvas = (canvas / 255).expand(n, 3, side, side).contiguous()
    with_scene = np.flatnonzero(backgrounds[:, 0] == BACKGROUND_SCENE)
    if len(with_scene):
        picked = scenes[to_device(backgrounds[with_scene, 1].astype(np.int64), device)].float() / 255
        flip = to_device(backgrounds[with_scene, 2] > 0.5, device)[:, None, None, None]
        canvas[to_device(with_scene, device)] = torch.where(flip, picked.flip(-1), picked)
    return canvas


def draw_objects(
    canvas: torch.Tensor, used: np.ndarray, textures: torch.Tensor, images: np.ndarray, objects: np.ndarray
) -> None:
    """Draw one object onto each picture in ``used``: ``images [k]`` by the parameters ``objects [k, 12]``."""
    device, side = canvas.device, canvas.shape[-1]
    rows = to_device(objects, device)
    source = textures[to_device(images.astype(np.int64), device)].float() / 255
    rgb, alpha = source[:, :3], source[:, 3:]
    which = np.flatnonzero(objects[:, MODE] == MODE_RECOLOUR)
    if len(which):
        at = to_device(which, device)
        rgb[at] = shift_hue(rgb[at], rows[at])
    which = np.flatnonzero(objects[:, MODE] == MODE_SILHOUETTE)
    if len(which):
        at = to_device(which, device)
        rgb[at] = rows[at][:, P0 : P2 + 1, None, None].expand(-1, -1, side, side)
    rgb = rgb * alpha  # premultiplied from here on
    which = np.flatnonzero(objects[:, EFFECT].astype(int) & EFFECT_STICKER)
    if len(which):  # a white rim
        at = to_device(which, device)
        rim = F.max_pool2d(alpha[at], 17, 1, 8)
        rgb[at] = rgb[at] + (rim - alpha[at]).clamp_min(0)
        alpha[at] = rim
    layer = placed(torch.cat([rgb, alpha], 1), rows, objects)
    which = np.flatnonzero(objects[:, EFFECT].astype(int) & EFFECT_SHADOW)
    if len(which):
        at, base = to_device(which, device), to_device(used[which], device)
        canvas[base] = canvas[base] * (1 - 0.38 * contact_shadow(layer[at, 3], rows[at]))[:, None]
    at = to_device(used, device)
    canvas[at] = canvas[at] * (1 - layer[:, 3:]) + layer[:, :3]


def placed(layer_in: torch.Tensor, rows: torch.Tensor, objects: np.ndarray) -> torch.Tensor:
    """Premultiplied pictures ``[k, 4, side, side]`` moved, scaled and turned into their places."""
    side = layer_in.shape[-1]
    layer, matrix = torch.empty_like(layer_in), affine_matrix(rows)
    for small in (False, True):  # halve first where the picture shrinks a lot, against aliasing
        which = np.flatnonzero((objects[:, SCALE] < 0.6) == small)
        if len(which):
            at = to_device(which, layer_in.device)
            part = F.avg_pool2d(layer_in[at], 2) if small else layer_in[at]
            grid = F.affine_grid(matrix[at], [len(which), 4, side, side], align_corners=False)
            layer[at] = F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return layer


def contact_shadow(alpha: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A soft shadow in 0..1 under the lowest opaque row of each picture; alpha ``[k, side, side]``."""
    side = alpha.shape[-1]
    line = torch.arange(side, device=alpha.device)
    bottom = ((alpha.amax(2) > 0.5) * line).amax(1)[:, None, None]
    across = (line[None, None, :] * (PIXELS / side) - rows[:, X, None, None]) / (104 * rows[:, SCALE, None, None])
    down = (line[None, :, None] - bottom) / (7 * side / PIXELS)
    return torch.exp(-1.2 * (across**2 + down**2))


def apply_filters(canvas: torch.Tensor, filters: np.ndarray) -> torch.Tensor:
    """Apply each picture's filter (column 0) with its strength (column 1) to ``canvas [n, 3, side, side]``."""
    device, side = canvas.device, canvas.shape[-1]
    luma = torch.tensor([0.299, 0.587, 0.114], device=device)[None, :, None, None]
    for which in range(1, 9):
        rows = np.flatnonzero(filters[:, 0] == which)
        if not len(rows):
            continue
        at = torch.from_numpy(rows).to(device)
        strength = torch.from_numpy(filters[rows, 1]).to(device)[:, None, None, None]
        y = canvas[at]
        if which == FILTER_GRAY:
            y = (y * luma).sum(1, keepdim=True).expand_as(y)
        elif which == FILTER_SEPIA:
            tint = torch.tensor([[1.0, 0.86, 0.66], [0.02, 0.01, 0.0]], device=device)[:, None, :, None, None]
            y = (y * luma).sum(1, keepdim=True) * tint[0] + tint[1]
        elif which == FILTER_PIXEL:
            y = y.clone()
            for cells in (32, 40):
                some = torch.from_numpy(np.flatnonzero(filters[rows, 1] == cells)).to(device)
                if len(some):
                    y[some] = F.interpolate(F.interpolate(y[some], size=(cells, cells), mode="area"), size=(side, side))
        elif which == FILTER_LINE:  # Sobel edges, dark on white
            sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=device)[None, None]
            z = F.pad(F.avg_pool2d(y, 3, 1, 1, count_include_pad=False).flatten(0, 1)[:, None], (1,) * 4, "replicate")
            edge = (F.conv2d(z, sobel) ** 2 + F.conv2d(z, sobel.transpose(2, 3)) ** 2).sqrt()
            edge = edge.view(y.shape).amax(1, keepdim=True)
            y = (1 - ((edge - 0.18) * 1.6).clamp(0, 0.92)).expand_as(y)
        elif which == FILTER_BLUR:
            small = F.avg_pool2d(F.interpolate(y, size=(28, 28), mode="area"), 3, 1, 1, count_include_pad=False)
            y = F.interpolate(small, size=(side, side), mode="bicubic")
        elif which == FILTER_NOISE:
            y = y + torch.randn_like(y) * 0.16 * strength
        elif which == FILTER_WARP:
            drift = F.interpolate(torch.randn(len(rows), 2, 6, 6, device=device), size=(side, side), mode="bicubic")
            unit = torch.eye(2, 3, device=device)[None].expand(len(rows), -1, -1)
            grid = F.affine_grid(unit, [len(rows), 3, side, side], align_corners=False)
            grid = grid + (drift * 0.09 * strength).permute(0, 2, 3, 1)
            y = F.grid_sample(y, grid, padding_mode="border", align_corners=False)
        elif which == FILTER_LOWRES:
            y = F.interpolate(F.interpolate(y, size=(24, 24), mode="area"), size=(side, side))
        canvas[at] = y.clamp(0, 1)
    return canvas.clamp(0, 1)
