"""Inpainting options and geometry, without pixels: painted region, fill under the mask, extension of the picture."""

import re
from dataclasses import astuple, dataclass
from typing import Any

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

#: The first of each is the default; the names are A1111's.
INPAINT_AREAS = ("Whole picture", "Only masked")
CONTENTS = ("original", "fill", "latent noise", "latent nothing")
EDGES = ("hard", "soft")
#: Other names of the fills under the mask.
CONTENT_NAMES = {"blur": "fill", "noise": "latent noise", "nothing": "latent nothing"}

SIDES = ("left", "top", "right", "bottom")
MAX_SIDE = 4096
OUTPAINT_SIDE = re.compile(r"(left|top|right|bottom|all)\s*[:=]?\s*(\d{1,9})(?:px)?", re.ASCII | re.IGNORECASE)
FRAME = re.compile(r"(\d{1,9})\s*[x×]\s*(\d{1,9})(?:\s*\+\s*(\d{1,9})\s*\+\s*(\d{1,9}))?", re.ASCII | re.IGNORECASE)
#: Values of ``outpaint``, for error messages.
EXAMPLES = {"sides": "left:128 right:128", "frame": "1024x768", "placed": "1024x768+128+0"}

Size = tuple[int, int]
#: left, top, right, bottom
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Margins:
    """Pixels by which a source is extended on each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return any(astuple(self))

    def extended(self, size: Size) -> Size:
        return self.left + size[0] + self.right, self.top + size[1] + self.bottom


def check_content(field: str, value: Any) -> str:
    """Our name of a fill under the mask, given by any of its names. Raises InvalidParams."""
    text = value.strip().casefold() if isinstance(value, str) else ""
    found = CONTENT_NAMES.get(text, text)
    if found not in CONTENTS:
        raise InvalidParams(field, message("one_of", known=list(CONTENTS), got=echo(value)))
    return found


def check_outpaint(field: str, value: Any) -> str:
    """Normalise an outpaint: sides (``left:128 right:64``) or a frame (``1024x768+128+0``). Raises InvalidParams."""
    if isinstance(value, dict):
        value = " ".join(f"{side}:{pixels}" for side, pixels in value.items())
    text = value.strip().strip(",;") if isinstance(value, str) else ""
    if frame := FRAME.fullmatch(text):
        width, height, left, top = frame.groups()
        return f"{int(width)}x{int(height)}" + (f"+{int(left)}+{int(top)}" if left else "")
    found = {name.lower(): int(pixels) for name, pixels in OUTPAINT_SIDE.findall(text)}
    if not found or OUTPAINT_SIDE.sub("", text).strip(" ,;") or len(OUTPAINT_SIDE.findall(text)) != len(found):
        raise InvalidParams(field, message("outpaint", **EXAMPLES, got=echo(value)))
    sides = dict.fromkeys(SIDES, found.pop("all", 0)) | found
    if max(sides.values()) > MAX_SIDE:
        raise InvalidParams(field, message("outpaint_side", most=MAX_SIDE, got=max(sides.values())))
    return " ".join(f"{side}:{sides[side]}" for side in SIDES if sides[side])


def margins(outpaint: str, size: Size) -> Margins:
    """The margins of a checked outpaint around a source of this size. Raises InvalidParams if it exceeds the frame.

    In a frame without a position, the source is centred.
    """
    if not (frame := FRAME.fullmatch(outpaint)):
        return Margins(**{name.lower(): int(pixels) for name, pixels in OUTPAINT_SIDE.findall(outpaint)})
    width, height = int(frame[1]), int(frame[2])
    spare = (width - size[0], height - size[1])
    left, top = (int(frame[3]), int(frame[4])) if frame[3] else (spare[0] // 2, spare[1] // 2)
    added = Margins(left, top, spare[0] - left, spare[1] - top)
    if min(astuple(added)) < 0:
        raise InvalidParams("outpaint", message("outpaint_frame", size=f"{size[0]}x{size[1]}", got=outpaint))
    if max(astuple(added)) > MAX_SIDE:
        raise InvalidParams("outpaint", message("outpaint_side", most=MAX_SIDE, got=max(astuple(added))))
    return added


def region(box: Box, padding: int, shape: Size, size: Size) -> Box:
    """A box with padding, widened to the aspect ratio of ``shape`` as far as a picture of ``size`` allows."""
    left, top = max(0, box[0] - padding), max(0, box[1] - padding)
    right, bottom = min(size[0], box[2] + padding), min(size[1], box[3] + padding)
    width, height = right - left, bottom - top
    target_size = (
        max(width, round(height * shape[0] / shape[1])),
        max(height, round(width * shape[1] / shape[0])),
    )
    left, right = widened(left, right, target_size[0], size[0])
    top, bottom = widened(top, bottom, target_size[1], size[1])
    return left, top, right, bottom


def widened(start: int, end: int, least: int, most: int) -> tuple[int, int]:
    """Widen a span to ``least`` pixels around its middle, within 0 and ``most``."""
    length = min(max(least, end - start), most)
    start = min(max(0, start - (length - (end - start)) // 2), most - length)
    return start, start + length
