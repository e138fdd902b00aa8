"""Bytes to lines: what is read, what is named and refused, and that no line and no number is lost."""

import io
import random
from pathlib import Path

import pytest

from diffusion_local.errors import InvalidParams
from diffusion_local.lists.encoding import MAX_LINE_CHARS, decode, decoded_lines, read_bounded

CHINESE = "一只红色的苹果，放在木桌上\n海边的灯塔和日落\n"
WESTERN = "un café très chaud\nnaïve peinture à l'huile, façade\n"


def texts(data: bytes) -> list[str]:
    return [line.rstrip("\r\n") for _, line, problem in decoded_lines(data) if not problem]


@pytest.mark.parametrize("text", ["a castle\nun café\n", CHINESE, "😀 emoji\n🍎\n"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_utf_8_and_utf_16_are_read(text: str, codec: str) -> None:
    assert texts(text.encode(codec)) == text.splitlines()


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_read(codec: str) -> None:
    assert texts("a castle by the sea\n# x\n".encode(codec)) == ["a castle by the sea", "# x"]


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        "一隻紅色的貓在桌子上\n漂亮的風景\n",
        "赛博朋克城市夜景，霓虹灯，雨中街道\n",
        "一只猫在𠮷野家\n水墨山水画，孤舟蓑笠翁\n",
        "a cup\n" * 20 + "一只红色的杯子\n",
    ],
)
def test_chinese_in_gbk_and_gb_18030_is_read(text: str) -> None:
    assert texts(text.encode("gb18030")) == text.splitlines()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WESTERN.encode("cp1252") * 20, "it looks like"),
        ("красное яблоко на столе, дом у моря\n".encode("cp1251") * 20, "it looks like"),
        ("赤いりんごと海辺の灯台、夕焼け空\n".encode("shift_jis") * 20, "it looks like"),
        ("赤い猫が机の上にいる\n美しい風景、桜\n".encode("euc_jp"), "must be UTF-8, UTF-16 or GBK"),
        ("빨간 고양이가 책상 위에 있다\n아름다운 풍경\n".encode("euc_kr"), "must be UTF-8, UTF-16 or GBK"),
        ("산과 바다, 일몰, 고품질, 상세한\n".encode("euc_kr"), "must be UTF-8, UTF-16 or GBK"),
        ("แมวสีแดงบนโต๊ะ\n".encode("cp874"), "must be UTF-8, UTF-16 or GBK"),
        (CHINESE.encode() + b"a\nb\xe4\n" + CHINESE.encode(), "line 4 is damaged UTF-8"),
        ("a castle".encode("utf-32"), "it is UTF-32"),
        (b"\xff\xfe\x00\xd8a", "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (b"PK\x03\x04" + bytes(range(256)) * 4, "binary"),
        (b"\x01\x02\x03\x04 a castle", "binary"),
        (random.Random(7).randbytes(5000), "binary"),
        (b"a castle\n" * 20000 + b"\xff\xfe\xfd", "must be UTF-8, UTF-16 or GBK"),
    ],
)
def test_anything_else_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(InvalidParams, match=words) as refused:
        list(decoded_lines(data))
    assert refused.value.field == "list"


def test_the_mark_of_a_file_that_was_appended_is_no_part_of_its_first_line() -> None:
    assert texts("a\n\ufeff# b\n\ufeffc\n".encode()) == ["a", "# b", "c"]


def test_every_kind_of_line_end_counts_once() -> None:
    assert [(number, line) for number, line, _ in decoded_lines(b"a\nb\r\nc\rd\n\ne")] == [
        (1, "a\n"), (2, "b\r\n"), (3, "c\r"), (4, "d\n"), (5, "\n"), (6, "e"),
    ]  # fmt: skip
    assert list(decoded_lines(b"")) == []


@pytest.mark.parametrize("more", [1, 2, 3, 90_000, 1_000_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_that_is_too_long_is_told_and_the_next_one_read(more: int, end: str) -> None:
    length = MAX_LINE_CHARS + more
    found = list(decoded_lines(f"first{end}{'x' * length}{end}third".encode()))
    assert [number for number, _, _ in found] == [1, 2, 3]
    assert found[1][2] == f"has {length:,} characters; at most 10,000 can be read."
    assert len(found[1][1]) == MAX_LINE_CHARS
    assert found[2] == (3, "third", None)


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_line_of_the_limit_is_read(end: str) -> None:
    [(_, line, problem)] = decoded_lines(("x" * MAX_LINE_CHARS + end).encode())
    assert (len(line.rstrip()), problem) == (MAX_LINE_CHARS, None)


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= 2_000_001
            return b"x" * size

    path = tmp_path / "list.txt"
    path.write_bytes(b"x" * 2_000_000)
    assert len(read_bounded(path, 2)) == 2_000_000
    path.write_bytes(b"x" * 2_000_001)
    for source in (path, Endless()):
        with pytest.raises(InvalidParams, match="must be at most 2 MB"):
            read_bounded(source, 2)  # type: ignore[arg-type]
    for wrong in (tmp_path, tmp_path / "nobody"):
        with pytest.raises(InvalidParams, match="cannot be read"):
            read_bounded(wrong, 2)


@pytest.mark.parametrize("text", ["caf\xe9", "m\xfcnchen", "na\xefve \xfcber stra\xdfe"])
def test_a_guess_names_no_encoding_that_would_have_been_read(text: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        decode(text.encode("cp1252"))
    assert "it looks like UTF" not in refused.value.message
