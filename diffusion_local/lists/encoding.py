"""Decodes a list's bytes to lines: UTF-8 and UTF-16 with or without BOM, GBK and GB 18030.

Other encodings are refused.
"""

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
#: Common Chinese characters, of texts and of prompts: at least a third of those in Chinese prompts, of which a quarter
#: is required. Text in other encodings often decodes as GBK too, but to rarer characters.
COMMON = frozenset(
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而"
    "能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高"
    "意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政"
    "海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活"
    "难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它"
    "许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权"
    "往展该领传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄"
    "德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读"
    "志飞观争究包组造落视济喜离虽坏存夜穿树草云雨雪星湖河鱼鸟猫狗虎龙牛羊鸡兔熊狐苹桃梨茶杯桌椅窗楼桥船灯球衣裙帽鞋脚"
    "腿胸背蓝绿紫粉灰黑银铜铁木竹叶枝根春夏秋冬晨晚暗亮暖冷热静细节质照摄绘油彩图幅朵棵辆座群景格唯超镜焦逼精致丽漂古"
    "典宫殿森沙漠田野村庄街咖啡店男童婆爷戴坐躺跑跳睡微紅藍綠黃隻個這來時車馬鳥魚龍貓雲電樹葉園國東風飛張畫圖靜麗質細"
    "節術兒後為與從見說開間門關長頭髮體邊遠連過還進單雙"
)  # fmt: skip
COMMON_SHARE = 0.25
#: The share if the bytes could also be Korean or Japanese text, which hits common characters more often.
COMMON_SHARE_IF_OTHER = 0.45
FIRST_IDEOGRAPH = "\u2e80"
#: Characters of UTF-8 that are not ASCII, for each that is damaged, with which text counts as damaged UTF-8.
WIDE_PER_DAMAGE = 10
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


def decoded_lines(data: bytes, max_chars: int = MAX_LINE_CHARS) -> Iterator[tuple[int, str, Message | None]]:
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
            line = line.removeprefix("\ufeff")  # of a file that was appended to another
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
    if line := damaged_line(data):
        return refuse(message("encoding_damaged", line=line))
    if is_chinese(data) and decodes(data, "gb18030"):
        return "gb18030"
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


def damaged_line(data: bytes) -> int:
    """The line of the first byte that is not UTF-8, if the text around it is; else 0."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        around = data[max(0, error.start - SAMPLE // 2) : error.start + SAMPLE // 2].decode("utf-8", "replace")
        damage = around.count("\ufffd")
        wide = sum(not mark.isascii() for mark in around) - damage
        return data.count(b"\n", 0, error.start) + 1 if wide >= WIDE_PER_DAMAGE * damage else 0
    return 0


def is_chinese(data: bytes) -> bool:
    """Whether the data, read as GB 18030 (which GBK is a part of), has as many common characters as Chinese has."""
    sample = data[:SAMPLE]
    signs = [mark for mark in sample.decode("gb18030", "replace") if mark >= FIRST_IDEOGRAPH]
    share = COMMON_SHARE_IF_OTHER if is_korean_or_japanese(sample) else COMMON_SHARE
    return sum(mark in COMMON for mark in signs) >= share * max(1, len(signs))


def is_korean_or_japanese(sample: bytes) -> bool:
    """Whether the data could be EUC-KR (almost only Hangul) or EUC-JP (with kana)."""
    korean = [mark for mark in sample.decode("euc_kr", "replace") if mark >= FIRST_IDEOGRAPH]
    japanese = [mark for mark in sample.decode("euc_jp", "replace") if mark >= FIRST_IDEOGRAPH]
    hangul, kana = (sum(low <= mark <= high for mark in text) for text, low, high in (
        (korean, "\uac00", "\ud7a3"), (japanese, "\u3041", "\u30fe"),
    ))  # fmt: skip
    return hangul > 0.9 * len(korean) or kana > 0.1 * len(japanese)


def decodes(data: bytes, codec: str) -> bool:
    """Whether all data decodes; in chunks, so that the text is never in memory."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        for start in range(0, len(data), SAMPLE):
            decoder.decode(data[start : start + SAMPLE], final=start + SAMPLE >= len(data))
    except UnicodeDecodeError:
        return False
    return True
