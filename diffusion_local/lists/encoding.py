"""Decodes a list's bytes to lines: UTF-8 and UTF-16 with or without BOM, and GBK. Other encodings are refused."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import Message, message

MAX_LINE_CHARS = 10_000
SAMPLE = 64 * 1024  # bytes examined to tell text from binary data
TEXT_CONTROLS = b"\t\n\r\f\v\x1b"
#: Share of control characters above which data is binary.
BINARY_SHARE = 0.02
#: Share of two-byte characters within GB 2312 (common Chinese) above which text counts as GBK. Western text in a
#: one-byte encoding often also decodes as GBK, but to rare characters outside of GB 2312.
GBK_SHARE = 0.8
#: Encodings that are detected reliably before guessing, so that a guess of one would be wrong.
NOT_GUESSED = ("utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "utf_7")
BOMS = (
    (codecs.BOM_UTF32_LE, ""),  # before UTF-16, whose BOM it starts with
    (codecs.BOM_UTF32_BE, ""),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_bounded(source: BinaryIO | Path, max_mb: int) -> bytes:
    """All bytes of a file or stream. Raises InvalidParams for more than ``max_mb`` megabytes."""
    limit = max_mb * 1_000_000
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                data = file.read(limit + 1)
        else:
            data = source.read(limit + 1)
    except OSError as error:
        raise InvalidParams("list", message("cannot_be_read", error=error.strerror or error)) from None
    if len(data) > limit:
        raise InvalidParams("list", message("list_bytes", most=max_mb))
    return data


def decode(data: bytes) -> str:
    """Decode all data. Raises InvalidParams if it is not text."""
    encoding = detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:  # UTF-16 only
        raise InvalidParams(
            "list", message("list_not_whole_dot", encoding=encoding.upper(), error=error.reason)
        ) from None


def lines(data: bytes, max_chars: int = MAX_LINE_CHARS) -> Iterator[tuple[int, str, Message | None]]:
    """(1-based number, text with line end, problem or None) per line, decoded incrementally.

    A line that is too long is truncated and has a problem; reading continues. Raises InvalidParams if it is not text.
    """
    encoding = detect_encoding(data)
    reader = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")
    number, after_cut = 0, False
    try:
        while line := reader.readline(max_chars + 2):
            if after_cut and line == "\n":  # the cut went through a CR LF
                after_cut = False
                continue
            number += 1
            text = line.rstrip("\r\n")
            after_cut = len(text) > max_chars
            if not after_cut:
                yield number, line, None
                continue
            length = len(text)
            while not line.endswith(("\n", "\r")) and (line := reader.readline(SAMPLE)):
                length += len(line.rstrip("\r\n"))
            after_cut = line.endswith("\r")
            yield number, text[:max_chars], message("line_long", got=length, most=max_chars)
    except UnicodeDecodeError as error:  # UTF-16 only; the others were decoded before
        raise InvalidParams(
            "list", message("list_not_whole_dot", encoding=encoding.upper(), error=error.reason)
        ) from None


def detect_encoding(data: bytes) -> str:
    """The codec of the data. Raises InvalidParams for binary files and other encodings."""
    for mark, codec in BOMS:
        if data.startswith(mark):
            return codec or refuse(message("encoding_utf32"))
    sample = data[:SAMPLE]
    if codec := detect_utf16(sample):
        return codec
    if b"\0" in sample or count_controls(sample) > BINARY_SHARE * len(sample):
        raise InvalidParams("list", message("binary_list"))
    if decodes(data, "utf-8"):
        return "utf-8"
    if is_gb2312(data) and decodes(data, "gbk"):
        return "gbk"
    from charset_normalizer import from_bytes  # here, because most lists are UTF-8

    found = from_bytes(sample, cp_exclusion=list(NOT_GUESSED)).best()
    if found is None:
        return refuse(message("encoding_unknown"))
    return refuse(message("encoding_like", encoding=found.encoding.upper()))


def refuse(reason: Message) -> str:
    raise InvalidParams("list", message("list_encoding", what=reason))


def detect_utf16(sample: bytes) -> str:
    """The codec, if every other byte is mostly zero and the rest is text, as in UTF-16 of mostly Latin text."""
    even, odd = sample[0::2], sample[1::2]
    for low, high, codec in ((even, odd, "utf-16-le"), (odd, even, "utf-16-be")):
        mostly = high.count(0) > 0.4 * len(high) and low.count(0) < 0.05 * len(low)
        if high and low and mostly and count_controls(low) <= BINARY_SHARE * len(low):
            return codec
    return ""


def count_controls(data: bytes) -> int:
    return sum(byte < 0x20 and byte not in TEXT_CONTROLS for byte in data)


def is_gb2312(data: bytes) -> bool:
    pairs = ordinary = 0
    place = 0
    sample = data[:SAMPLE]
    while place < len(sample) - 1:
        if sample[place] < 0x80:
            place += 1
            continue
        pairs += 1
        ordinary += 0xA1 <= sample[place] <= 0xF7 and sample[place + 1] >= 0xA1
        place += 2
    return pairs > 0 and ordinary >= GBK_SHARE * pairs


def decodes(data: bytes, codec: str) -> bool:
    """Whether all data decodes; in chunks, so that the text is never in memory."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        for start in range(0, len(data), SAMPLE):
            decoder.decode(data[start : start + SAMPLE], final=start + SAMPLE >= len(data))
    except UnicodeDecodeError:
        return False
    return True
