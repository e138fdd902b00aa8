"""Triton kernels and their launchers; ``operations`` specifies what each computes.

Every kernel reads and writes 16-bit or fp32 tensors and calculates in fp32. With ``TRITON_INTERPRET=1`` in the
environment before this module is imported they run on a CPU, as in the tests.
"""

# Kernels are compiled from their source: names in capitals are compile-time constants.

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from diffusion_local.engine.fused.operations import EIGHT_BITS, Quantised

#: Largest group (elements) that a single program normalises; larger groups take three launches.
WHOLE_GROUP = 16384
#: Tile of the kernels that iterate over pixels and channels.
TILE_ROWS, TILE_COLUMNS = 32, 128
#: Programs of the first pass over a large tensor: enough to fill the largest GPUs several times.
FIRST_PASS_PROGRAMS = 1056


@triton.jit
def normalise_group(X, SHIFT, WEIGHT, BIAS, Y, pixels, channels, shift_stride, eps,
                    SILU: tl.constexpr, SHIFTED: tl.constexpr, GROUP: tl.constexpr,
                    ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """One program per group of a picture, which is read once."""
    picture = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * GROUP
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    in_group = column < GROUP
    mask = (row < pixels)[:, None] & in_group[None, :]
    at = (picture * pixels + row)[:, None] * channels + (first + column)[None, :]
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    if SHIFTED:
        shift = tl.load(SHIFT + picture * shift_stride + first + column, mask=in_group, other=0.0).to(tl.float32)
        x += shift[None, :]
        x = tl.where(mask, x, 0.0)
    count = pixels * GROUP
    mean = tl.sum(tl.sum(x, 1), 0) / count
    centred = tl.where(mask, x - mean, 0.0)
    variance = tl.sum(tl.sum(centred * centred, 1), 0) / count
    weight = tl.load(WEIGHT + first + column, mask=in_group, other=0.0).to(tl.float32)
    bias = tl.load(BIAS + first + column, mask=in_group, other=0.0).to(tl.float32)
    y = centred * (1.0 / tl.sqrt(variance + eps)) * weight[None, :] + bias[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=mask)


@triton.jit
def channel_sums(X, SHIFT, SUMS, pixels, channels, shift_stride, share,
                 SHIFTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """First of three passes: sums and sums of squares per channel, over a share of a picture's pixels."""
    picture = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    values = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    if SHIFTED:
        shift = tl.load(SHIFT + picture * shift_stride + column, mask=inside, other=0.0).to(tl.float32)
    start = 0
    while start < share:
        row = part * share + start + tl.arange(0, ROWS)
        mask = (row < pixels)[:, None] & inside[None, :]
        at = (picture * pixels + row)[:, None] * channels + column[None, :]
        x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
        if SHIFTED:
            x = tl.where(mask, x + shift[None, :], 0.0)
        values += x
        squares += x * x
        start += ROWS
    to = SUMS + (picture * tl.num_programs(1) + part) * 2 * channels + column
    tl.store(to, tl.sum(values, 0), mask=inside)
    tl.store(to + channels, tl.sum(squares, 0), mask=inside)


@triton.jit(do_not_specialize=["parts"])
def group_factors(SUMS, SHIFT, WEIGHT, BIAS, FACTORS, pixels, channels, shift_stride, parts, eps,
                  SHIFTED: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr,
                  COLUMNS: tl.constexpr):  # fmt: skip
    """Second pass: expresses a group's normalisation as ``factor * x + offset`` for each channel."""
    picture = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < GROUP
    channel = tl.program_id(1) * GROUP + column
    values = tl.zeros([COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    start = 0
    while start < parts:
        part = start + tl.arange(0, PARTS)
        mask = (part < parts)[:, None] & inside[None, :]
        at = SUMS + ((picture * parts + part) * 2)[:, None] * channels + channel[None, :]
        values += tl.sum(tl.load(at, mask=mask, other=0.0), 0)
        squares += tl.sum(tl.load(at + channels, mask=mask, other=0.0), 0)
        start += PARTS
    count = pixels * GROUP
    mean = tl.sum(values, 0) / count
    variance = tl.maximum(tl.sum(squares, 0) / count - mean * mean, 0.0)
    factor = tl.load(WEIGHT + channel, mask=inside, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    offset = tl.load(BIAS + channel, mask=inside, other=0.0).to(tl.float32) - mean * factor
    if SHIFTED:
        shift = tl.load(SHIFT + picture * shift_stride + channel, mask=inside, other=0.0).to(tl.float32)
        offset += shift * factor
    to = FACTORS + picture * 2 * channels + channel
    tl.store(to, factor, mask=inside)
    tl.store(to + channels, offset, mask=inside)


@triton.jit
def scale_and_offset(X, FACTORS, Y, pixels, channels,
                     SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Third pass. Rows are on the first grid axis, because CUDA limits the others to 65,535 programs."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    mask = (row < pixels)[:, None] & inside[None, :]
    at = (picture * pixels + row)[:, None] * channels + column[None, :]
    factors = FACTORS + picture * 2 * channels + column
    factor = tl.load(factors, mask=inside, other=0.0)
    offset = tl.load(factors + channels, mask=inside, other=0.0)
    y = tl.load(X + at, mask=mask, other=0.0).to(tl.float32) * factor[None, :] + offset[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=mask)


@triton.jit
def add_rows(X, Y, BIAS, TOTAL, rows, channels,
             BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    mask = (row < rows)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * channels + column[None, :]
    total = tl.load(X + at, mask=mask, other=0.0).to(tl.float32) + tl.load(Y + at, mask=mask, other=0.0).to(tl.float32)
    if BIASED:
        total += tl.load(BIAS + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(TOTAL + at, total.to(TOTAL.dtype.element_ty), mask=mask)


@triton.jit
def store_quantised(Y, SCALES, y, row, channels, column, inside):
    """Store a row in 8 bits with its scale. 448: the largest e4m3 number. 1e-6: keeps the scale of zeros above 0."""
    scale = tl.maximum(tl.max(tl.abs(tl.where(inside, y, 0.0)), 0), 1e-6) / 448.0
    tl.store(SCALES + row, scale)
    tl.store(Y + row * channels + column, (y / scale).to(Y.dtype.element_ty), mask=inside)


@triton.jit
def quantise_row(X, Y, SCALES, channels, COLUMNS: tl.constexpr):
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < channels
    x = tl.load(X + row * channels + column, mask=inside, other=0.0).to(tl.float32)
    store_quantised(Y, SCALES, x, row, channels, column, inside)


@triton.jit
def gated(X, at, channels, inside):
    """GEGLU: each value times GELU of the one ``channels`` positions after it."""
    value = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(X + at + channels, mask=inside, other=0.0).to(tl.float32)
    return value * 0.5 * g * (1.0 + tl.erf(g * 0.7071067811865476))


@triton.jit
def gate_and_quantise(X, Y, SCALES, channels, HEAD: tl.constexpr, TAIL: tl.constexpr):
    """One program per row, in two tiles: widths are a power of two and a quarter of it, which one tile would round up
    by 60 %."""
    row = tl.program_id(0).to(tl.int64)
    head, tail = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    in_head, in_tail = head < channels, tail < channels
    first = gated(X, row * channels * 2 + head, channels, in_head)
    second = gated(X, row * channels * 2 + tail, channels, in_tail)
    largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0))
    scale = tl.maximum(largest, 1e-6) / 448.0
    inverse = 1.0 / scale
    tl.store(SCALES + row, scale)
    tl.store(Y + row * channels + head, (first * inverse).to(Y.dtype.element_ty), mask=in_head)
    tl.store(Y + row * channels + tail, (second * inverse).to(Y.dtype.element_ty), mask=in_tail)


@triton.jit
def add_and_normalise(X, Y, WEIGHT, BIAS, TOTAL, NORMED, SCALES, channels, eps,
                      ADDING: tl.constexpr, QUANTISED: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """One program per row. The sum is rounded to its stored dtype, then normalised."""
    start = tl.program_id(0).to(tl.int64) * channels
    column = tl.arange(0, COLUMNS)
    inside = column < channels
    x = tl.load(X + start + column, mask=inside, other=0.0).to(tl.float32)
    if ADDING:
        total = (x + tl.load(Y + start + column, mask=inside, other=0.0).to(tl.float32)).to(TOTAL.dtype.element_ty)
        tl.store(TOTAL + start + column, total, mask=inside)
        x = total.to(tl.float32)
    mean = tl.sum(x, 0) / channels
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / channels
    weight = tl.load(WEIGHT + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(BIAS + column, mask=inside, other=0.0).to(tl.float32)
    normed = centred * (1.0 / tl.sqrt(variance + eps)) * weight + bias
    if QUANTISED:
        store_quantised(NORMED, SCALES, normed, tl.program_id(0).to(tl.int64), channels, column, inside)
    else:
        tl.store(NORMED + start + column, normed.to(NORMED.dtype.element_ty), mask=inside)


@triton.jit
def gate(X, Y, rows, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < channels)[None, :]
    at = row.to(tl.int64)[:, None] * channels * 2 + column[None, :]
    y = gated(X, at, channels, mask)
    to = Y + row.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(to, y.to(Y.dtype.element_ty), mask=mask)


class TritonOperations:
    """Launches the kernels on the current stream."""

    def __init__(self, eight_bits: bool = False) -> None:
        self.eight_bits = eight_bits

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False)

    def group_norm(
        self, x: torch.Tensor, norm: torch.nn.GroupNorm, silu: bool, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        pictures, pixels, channels = x.shape
        group = channels // norm.num_groups
        rows, columns = power_of_two(pixels), power_of_two(group)
        y = torch.empty_like(x)
        stride = 0 if shift is None else shift.stride(0)
        shifted: Any = x if shift is None else shift
        if rows * columns <= WHOLE_GROUP:
            normalise_group[(pictures, norm.num_groups)](
                x, shifted, norm.weight, norm.bias, y, pixels, channels, stride, norm.eps, SILU=silu,
                SHIFTED=shift is not None, GROUP=group, ROWS=rows, COLUMNS=columns, num_warps=warps(rows * columns),
            )  # fmt: skip
            return y
        tile = min(TILE_COLUMNS, power_of_two(channels))
        tiles = triton.cdiv(channels, tile)
        share = triton.cdiv(pixels, max(1, min(1024, FIRST_PASS_PROGRAMS // (pictures * tiles), pixels // TILE_ROWS)))
        share = triton.cdiv(share, TILE_ROWS) * TILE_ROWS
        parts = triton.cdiv(pixels, share)
        sums = torch.empty(pictures, parts, 2, channels, device=x.device, dtype=torch.float32)
        factors = torch.empty(pictures, 2, channels, device=x.device, dtype=torch.float32)
        channel_sums[(pictures, parts, tiles)](
            x, shifted, sums, pixels, channels, stride, share,
            SHIFTED=shift is not None, ROWS=TILE_ROWS, COLUMNS=tile, num_warps=4,
        )  # fmt: skip
        group_factors[(pictures, norm.num_groups)](
            sums, shifted, norm.weight, norm.bias, factors, pixels, channels, stride, parts, norm.eps,
            SHIFTED=shift is not None, GROUP=group, PARTS=min(64, power_of_two(parts)), COLUMNS=columns, num_warps=4,
        )  # fmt: skip
        scale_and_offset[(triton.cdiv(pixels, TILE_ROWS), pictures, tiles)](
            x, factors, y, pixels, channels, SILU=silu, ROWS=TILE_ROWS, COLUMNS=tile, num_warps=4
        )
        return y

    def add(self, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        total, channels = torch.empty_like(x), x.shape[-1]
        rows, tile = x.numel() // channels, min(TILE_COLUMNS, power_of_two(channels))
        add_rows[(triton.cdiv(rows, TILE_ROWS), triton.cdiv(channels, tile))](
            x, y, x if bias is None else bias, total, rows, channels,
            BIASED=bias is not None, ROWS=TILE_ROWS, COLUMNS=tile, num_warps=4,
        )  # fmt: skip
        return total

    def add_layer_norm(
        self, x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm, quantised: bool = False
    ) -> tuple[torch.Tensor, Any]:
        channels = x.shape[-1]
        rows = x.numel() // channels
        total = x if y is None else torch.empty_like(x)
        into = empty_quantised(x, channels) if quantised else None
        normed = into.values if into else torch.empty_like(x)
        add_and_normalise[(rows,)](
            x, x if y is None else y, norm.weight, norm.bias, total, normed, into.scales if into else x, channels,
            norm.eps, ADDING=y is not None, QUANTISED=quantised, COLUMNS=power_of_two(channels), num_warps=1,
        )  # fmt: skip
        return total, into or normed

    def quantise(self, x: torch.Tensor) -> Quantised:
        channels = x.shape[-1]
        into = empty_quantised(x, channels)
        columns = power_of_two(channels)
        quantise_row[(x.numel() // channels,)](
            x.contiguous(), into.values, into.scales, channels, COLUMNS=columns, num_warps=max(4, warps(columns))
        )
        return into

    def linear(self, x: Quantised, weight: Quantised, bias: torch.Tensor | None) -> torch.Tensor:
        lead, channels = x.values.shape[:-1], x.values.shape[-1]
        made: torch.Tensor = torch._scaled_mm(
            x.values.view(-1, channels), weight.values.t(), scale_a=x.scales, scale_b=weight.scales.t(), bias=bias,
            out_dtype=x.dtype, use_fast_accum=True,
        )  # fmt: skip
        return made.view(*lead, -1)

    def geglu(self, x: torch.Tensor, quantised: bool = False) -> Any:
        channels = x.shape[-1] // 2
        rows = x.numel() // x.shape[-1]
        if quantised:
            into = empty_quantised(x, channels)
            head = power_of_two(channels + 1) // 2
            tail = power_of_two(max(1, channels - head))
            gate_and_quantise[(rows,)](
                x, into.values, into.scales, channels, HEAD=head, TAIL=tail, num_warps=max(4, warps(head))
            )
            return into
        y = torch.empty(*x.shape[:-1], channels, device=x.device, dtype=x.dtype)
        tile = min(1024, channels & -channels) if channels % 64 == 0 else power_of_two(min(channels, 1024))
        height = max(1, 1024 // tile)
        gate[(triton.cdiv(rows, height), triton.cdiv(channels, tile))](
            x, y, rows, channels, ROWS=height, COLUMNS=tile, num_warps=4
        )
        return y


def empty_quantised(x: torch.Tensor, channels: int) -> Quantised:
    """An uninitialised Quantised with ``channels`` numbers per row and as many rows as ``x``."""
    values = torch.empty(*x.shape[:-1], channels, device=x.device, dtype=EIGHT_BITS)
    scales = torch.empty(x.numel() // x.shape[-1], 1, device=x.device, dtype=torch.float32)
    return Quantised(values, scales, x.dtype)


def power_of_two(count: int) -> int:
    """The smallest power of two not below a number."""
    return 1 << (count - 1).bit_length()


def warps(elements: int) -> int:
    """Number of warps for a tile that one program holds in registers: at most 64 values per thread."""
    return max(1, min(16, elements // 1024))
