"""The repeated blocks of a model: their sizes by the names of their tensors, and which of them stay on the device.

Torch-free, and without other modules of the program: ``scripts/bench_precision.py`` loads this file alone.
"""

import re
from collections.abc import Mapping, Sequence

#: Levels of a UNet, in the names of diffusers and of the original files, and their blocks.
LEVEL = re.compile(r"(?:down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)\.")
LEVEL_BLOCK = re.compile(
    r".*?transformer_blocks\.\d+(?=\.)"
    r"|(?:(?:(?:down|up)_blocks\.\d+|mid_block)\.\w+|(?:in|out)put_blocks\.\d+|middle_block)\.\d+"
    r"(?=\.)(?!\.(?:norm|proj_in|proj_out)\.)"
)
#: A block of a transformer or a text encoder.
BLOCK = re.compile(r".*?\.\d+(?=\.)")
#: Blocks with less than this share of a part's weights stay with the rest of it.
LEAST_SHARE = 1 / 500
#: Blocks that are on the device to be used or to be copied, beside those that stay.
SLOTS = 2


def sizes_by_name(counts: Mapping[str, int]) -> tuple[int, ...]:
    """Sizes of the blocks, in the order of their names. ``counts``: size of each tensor by its name."""
    found: dict[str, int] = {}
    for name, count in counts.items():
        if block := (LEVEL_BLOCK if LEVEL.match(name) else BLOCK).match(name):
            found[block[0]] = found.get(block[0], 0) + count
    least = sum(counts.values()) * LEAST_SHARE
    return tuple(found[name] for name in sorted(found, key=natural) if found[name] >= least)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which block 10 comes after block 9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in name.split(".")]


def kept_for(sizes: Sequence[int], room: int) -> frozenset[int]:
    """Positions of the blocks that stay: as many as take at most ``room`` together.

    The others are spread evenly between them, so that each copy has several blocks' computing to hide behind.
    """
    count = len(sizes)
    for moving in range(count + 1):
        moved = {place * count // moving for place in range(moving)}
        if sum(sizes) - sum(sizes[place] for place in moved) <= room:
            return frozenset(range(count)) - moved
    return frozenset()


def slots_size(sizes: Sequence[int]) -> int:
    """What the blocks that come and go take at once."""
    return SLOTS * max(sizes, default=0)
