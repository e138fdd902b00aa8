"""Finds the repeated blocks of a model by tensor names, and chooses those that stay on the device.

Torch-free. Imports no other module of the program, because ``scripts/bench_precision.py`` loads this file alone.
"""

import re
from collections.abc import Mapping, Sequence

#: Levels of a UNet, and their blocks, with diffusers' names or those of the original files.
UNET_LEVEL_NAME = re.compile(r"(?:down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)\.")
LEVEL_BLOCK = re.compile(
    r".*?transformer_blocks\.\d+(?=\.)"
    r"|(?:(?:(?:down|up)_blocks\.\d+|mid_block)\.\w+|(?:in|out)put_blocks\.\d+|middle_block)\.\d+"
    r"(?=\.)(?!\.(?:norm|proj_in|proj_out)\.)"
)
#: A block of a transformer or a text encoder.
BLOCK_NAME = re.compile(r".*?\.\d+(?=\.)")
#: Blocks with less than this share of a part's weights are not streamed.
LEAST_SHARE = 1 / 500
#: Number of streamed blocks on the device at once: one computes while the next is copied.
DEVICE_SLOTS = 2


def sizes_by_name(counts: Mapping[str, int]) -> tuple[int, ...]:
    """Sizes of a part's blocks, in natural order of their names. ``counts``: size of each tensor by name."""
    sizes: dict[str, int] = {}
    for name, count in counts.items():
        if block := (LEVEL_BLOCK if UNET_LEVEL_NAME.match(name) else BLOCK_NAME).match(name):
            sizes[block[0]] = sizes.get(block[0], 0) + count
    least = sum(counts.values()) * LEAST_SHARE
    return tuple(sizes[name] for name in sorted(sizes, key=natural) if sizes[name] >= least)


def natural(name: str) -> list[tuple[int, str]]:
    """Natural sort key: block 10 comes after block 9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in name.split(".")]


def kept_for(sizes: Sequence[int], room: int) -> frozenset[int]:
    """Indices of the blocks that stay on the device: as many as fit into ``room`` together.

    Streamed blocks are spread evenly among them, so that each copy overlaps with the computation of several blocks.
    """
    count = len(sizes)
    for moving in range(count + 1):
        moved = {place * count // moving for place in range(moving)}
        if sum(sizes) - sum(sizes[place] for place in moved) <= room:
            return frozenset(range(count)) - moved
    return frozenset()


def slots_size(sizes: Sequence[int]) -> int:
    """Size of the slots that streamed blocks share."""
    return DEVICE_SLOTS * max(sizes, default=0)
