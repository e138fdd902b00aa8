"""Detects pictures that are probably unwanted: black, single-coloured, nearly flat, or mere noise.

They are kept and flagged. A picture is not flagged if its prompt asks for it ("black background", "static noise") or
consists only of colour words, or if its source picture looks the same.
"""

import re
from collections.abc import Callable

from PIL import Image as PIL
from PIL import ImageChops, ImageStat

from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

BLACK, ONE_COLOUR, FLAT, NOISE = "black", "one_colour", "flat", "noise"
BLEMISHES = (BLACK, ONE_COLOUR, FLAT, NOISE)
#: Flag of a picture that was kept although one of its last steps failed.
INCOMPLETE = "incomplete"
FLAGS = (*BLEMISHES, INCOMPLETE)
DARKEST = 8  # brightest value (of 255) of a black picture
MAX_SPREAD = 4  # range of a channel's values in a single-coloured picture
FLATTEST = 3.0  # standard deviation of the brightness of a nearly flat picture
NOISE_SIDE = 512  # longest side of the centre crop examined for noise
LEAST_SIDE = 128
BLOCK_PIXELS = 32
#: Largest share of its variance that noise keeps after averaging over blocks, by block size in pixels. Averaging
#: removes the variance of uncorrelated pixels; in undenoised latents they are uncorrelated from about 16 pixels on.
MOST_NOISE_KEPT = {16: 0.3, 32: 0.09}
LEAST_LOSS = 2.2  # loss from 16 to 32 pixels; coherent pictures lose less
LEAST_VARIANCE = 400.0
LEAST_EVEN = 0.2  # variance of the quietest block relative to the mean

COLOURS = (
    "black|white|grey|gray|red|green|blue|yellow|orange|purple|violet|pink|brown|beige|cyan|magenta|teal|navy|gold"
)
GROUNDS = "background|screen|image|picture|frame|canvas|void|square|wallpaper|wall|surface|colou?r|card|rectangle"
#: Prompts that ask for such a picture.
REQUESTED_FLAGS = {
    BLACK: re.compile(
        r"\b(?:all|pure|pitch|plain|solid|entirely|completely|totally|fully|just|only)[ -]black\b"
        rf"|\bblack[ -]?(?:{GROUNDS}|out)\b|\b(?:blank|void|nothing|darkness|lights? out)\b"
        r"|纯黑|全黑|漆黑|黑屏|黑色?背景",
        re.IGNORECASE,
    ),
    ONE_COLOUR: re.compile(
        r"\b(?:plain|solid|flat|uniform|single|one|monochrome)[ -](?:colou?r|background|\w{3,9}[ -]background)\b"
        rf"|\b(?:{COLOURS})[ -](?:{GROUNDS})\b|\b(?:blank|empty|nothing|void)\b|纯色|单色|空白",
        re.IGNORECASE,
    ),
    FLAT: re.compile(
        r"\b(?:fog|foggy|mist|misty|haze|hazy|white[ -]?out|minimal\w*|gradient|faint)\b|雾|渐变", re.IGNORECASE
    ),
    NOISE: re.compile(
        r"\b(?:noise|noisy|static|grain|grainy|glitch|texture|pattern|speckle\w*|sand|gravel|pixels)\b|噪|纹理",
        re.IGNORECASE,
    ),
}
IMPLIED = {BLACK: (BLACK,), ONE_COLOUR: (BLACK, ONE_COLOUR), FLAT: (BLACK, ONE_COLOUR, FLAT), NOISE: (NOISE,)}
PROMPT_WORD = re.compile(r"\w+")
#: A prompt of only these words asks for a single colour.
PLAIN_WORDS = frozenset(
    f"a an the of in on and just only simple very dark night light {COLOURS}".replace("|", " ").split()
)


def blemish_of(picture: PIL.Image) -> str:
    """One of BLEMISHES, or "". About 10 ms per megapixel."""
    image = picture if picture.mode == "RGB" else picture.convert("RGB")
    if max(image.size) > 2 * NOISE_SIDE:
        image = image.reduce(max(image.size) // NOISE_SIDE)
    spans = image.getextrema()
    if all(high <= DARKEST for _, high in spans):  # type: ignore[misc]
        return BLACK
    if all(high - low <= MAX_SPREAD for low, high in spans):  # type: ignore[misc]
        return ONE_COLOUR
    if max(ImageStat.Stat(image).stddev) < FLATTEST:
        return FLAT
    return NOISE if is_noise(centre_crop(picture).convert("L")) else ""


def centre_crop(picture: PIL.Image) -> PIL.Image:
    """Centre crop in whole blocks, at most NOISE_SIDE on each side."""
    width, height = (min(side, NOISE_SIDE) // BLOCK_PIXELS * BLOCK_PIXELS for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def is_noise(grey: PIL.Image) -> bool:
    if min(grey.size) < LEAST_SIDE:
        return False
    whole = variance(grey)
    remaining = {size: variance(grey.reduce(size)) for size in MOST_NOISE_KEPT}
    if whole < LEAST_VARIANCE or any(remaining[size] > most * whole for size, most in MOST_NOISE_KEPT.items()):
        return False
    if remaining[32] > 1 and remaining[16] < LEAST_LOSS * remaining[32]:
        return False
    blocks = block_variances(grey)
    return min(blocks) > LEAST_EVEN * sum(blocks) / len(blocks)


def variance(grey: PIL.Image) -> float:
    return float(ImageStat.Stat(grey).var[0])


def block_variances(grey: PIL.Image) -> list[float]:
    """The variance within each block."""
    exact = grey.convert("F")
    difference = ImageChops.difference(
        grey, exact.reduce(BLOCK_PIXELS).convert("L").resize(grey.size, PIL.Resampling.NEAREST)
    )
    squares = difference.point([value * value // 255 for value in range(256)])
    return [float(value) + 1e-3 for value in squares.reduce(BLOCK_PIXELS).tobytes()]


def flag_of(picture: PIL.Image, params: Params, source: Callable[[], PIL.Image | None]) -> str:
    """A picture's blemish that its prompt did not ask for, or "". ``source`` opens the picture's source picture."""
    flag = blemish_of(picture)
    if not flag or is_requested(flag, params):
        return ""
    if params.kind is not Kind.TXT2IMG:
        begun = source()
        if begun is not None and blemish_of(begun) == flag:
            return ""
    return flag


def is_requested(blemish: str, params: Params) -> bool:
    """Whether the prompt asks for such a picture."""
    words = set(PROMPT_WORD.findall(params.prompt.lower()))
    if blemish != NOISE and words and words <= PLAIN_WORDS:
        return True
    return any(REQUESTED_FLAGS[each].search(params.prompt) for each in IMPLIED[blemish])
