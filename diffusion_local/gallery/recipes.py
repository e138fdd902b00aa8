"""Reads recipes from pictures and texts, our own and those of other tools, as form settings.

The input is untrusted: its size is bounded, and unusable values are returned by name. A1111 and related tools store
the text in a PNG chunk, or in the EXIF comment of a JPEG or WebP; ``foreign_recipes`` reads the formats of other
programs. Text that no reader recognises is not a recipe.
"""

import io
import json
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PIL
from PIL.PngImagePlugin import iTXt

from diffusion_local import __version__
from diffusion_local.domain import Image
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery import foreign_recipes
from diffusion_local.gallery.comfyui_graphs import MAX_RECIPE_CHARS
from diffusion_local.grammar import tags
from diffusion_local.image_decoding import INPUT_FORMATS
from diffusion_local.messages import message
from diffusion_local.options import a1111
from diffusion_local.options.table import OPTIONS, Params
from diffusion_local.options.values import MAX_LORA_WEIGHT, MAX_LORAS, MAX_PROMPT_CHARS

A1111_KEY = "parameters"
JSON_KEY = "diffusion-local"
MAX_PAIRS = 200
MAX_NOTES = 20  # lines after A1111's line of pairs
USER_COMMENT = 0x9286
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_NAME = re.compile(r"\w[\w \-/]*")
_SPACES = re.compile(r"\s*")
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_STEPS = re.compile(r"(?<=\s)Steps: \d{1,4}(?=,|$)")
#: Options whose values may be any text, and one that others imply.
_FREE_TEXT = frozenset(("model", "vae", "upscaler", "hires_upscaler", "kind"))


def to_texts(image: Image, facts: dict[str, Any]) -> dict[str, str]:
    """Metadata texts by keyword, for ``formats``."""
    return {
        A1111_KEY: a1111.format_recipe(image.params, facts),
        JSON_KEY: json.dumps(
            {
                "version": __version__,
                "id": image.id,
                "job_id": image.job_id,
                "created_at": image.created_at,
                "seconds": image.seconds,
                "params": json.loads(image.params.to_json()),
                "facts": facts,
            },
            ensure_ascii=False,
        ),
    }


def read_json(picture: PIL.Image) -> dict[str, Any] | None:
    """Our JSON from an opened picture; None if it is missing or invalid."""
    try:
        recipe = json.loads(picture.info.get(JSON_KEY) or picture.getexif()[ExifTags.Base.ImageDescription])
        Params.from_dict(recipe["params"])
    except (KeyError, ValueError, ArithmeticError, TypeError, AttributeError, RecursionError):
        return None
    return recipe


#: Longest name and value of a pair; longer pairs are skipped.
_MAX_NAME, _MAX_VALUE, _MAX_QUOTED = 61, 2000, 20_000
_NEGATIVE = re.compile(rf"^{a1111.NEGATIVE}", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe read from a picture or text.

    ``settings``: fields of Params, not validated against a model; ``facts``: those of our own pictures; ``others``:
    unused values of other tools, such as an unknown sampler; ``text``: the text as found; ``tool``: the program, if
    known.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    text: str = ""
    tool: str = ""


def read_picture(data: bytes) -> Recipe:
    """Read the recipe in a picture file. Raises InvalidParams if it is not a picture or has no recipe."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.DecompressionBombWarning)  # no pixels are decoded
            with PIL.open(io.BytesIO(data), formats=INPUT_FORMATS) as picture:
                own, text, texts = read_json(picture), a1111_text(picture), metadata_texts(picture)
    except UnidentifiedImageError:
        raise InvalidParams("image", message("not_a_picture", formats=list(INPUT_FORMATS))) from None
    except Exception as error:  # decoders raise arbitrary errors for damaged files
        raise InvalidParams("image", message("whole_picture", what=list(INPUT_FORMATS), error=error)) from None
    if own:
        facts = own.get("facts")
        known = Params.from_dict(own["params"]).to_dict()
        newer = {str(name)[:_MAX_NAME]: str(own["params"][name])[:_MAX_NAME] for name in own["params"].keys() - OPTIONS}
        return Recipe(known, facts if isinstance(facts, dict) else {}, newer, text)
    if found := foreign_recipes.read(texts):
        settings, others = foreign_recipes.to_settings(found)
        return Recipe(settings, {}, others, text, found.tool)
    if not is_a1111(text):
        raise InvalidParams("image", message("no_recipe"))
    return read_text(text)


def metadata_texts(picture: PIL.Image) -> dict[str, str]:
    """Metadata texts of an opened picture by keyword, bounded."""
    texts = {str(name): repair_latin(each) for name, each in picture.info.items() if isinstance(each, str)}
    comment = a1111_text(picture)
    if comment.lstrip().startswith("{"):  # Fooocus and SwarmUI put their JSON there in formats other than PNG
        texts.setdefault("parameters", comment)
    texts = exif_graph(picture) | texts
    xmp = picture.info.get("xmp")
    if isinstance(xmp, bytes):
        texts.setdefault("XML:com.adobe.xmp", xmp[: 4 * MAX_RECIPE_CHARS].decode("utf-8", "replace"))
    return {name: text[:MAX_RECIPE_CHARS] for name, text in list(texts.items())[:MAX_PAIRS]}


def is_a1111(text: str) -> bool:
    """Whether a text is an A1111 recipe, judged by its line of pairs or its negative prompt."""
    lines = text[:MAX_RECIPE_CHARS].strip().splitlines()
    pairs = dict(parse_pairs(lines[pairs_line(lines)])) if lines else {}
    if len(pairs.keys() & set(a1111.PAIR_ORDER)) >= 2 and a1111.parse_settings(pairs).keys() - _FREE_TEXT:
        return True  # a caption such as "Size: large, Model: Anna" has no usable value
    return any(line.startswith(a1111.NEGATIVE) for line in lines)


def a1111_text(picture: PIL.Image) -> str:
    """A1111's text in an opened picture, or "". Fooocus puts its user comment among the tags of the main directory."""
    text = picture.info.get(A1111_KEY, "")
    if isinstance(text, str) and text:
        return repair_latin(text)[:MAX_RECIPE_CHARS]
    exif = picture.getexif()
    comments = (exif.get_ifd(ExifTags.IFD.Exif).get(USER_COMMENT), exif.get(USER_COMMENT), picture.info.get("comment"))
    comment = next((each for each in comments if each), "")
    return (decode_comment(comment) if isinstance(comment, bytes) else str(comment))[:MAX_RECIPE_CHARS]


def repair_latin(text: str) -> str:
    """A PNG's text: its older chunks are defined to be Latin-1, but many programs write UTF-8 into them."""
    if isinstance(text, iTXt) or text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def decode_comment(comment: bytes) -> str:
    """Decode an EXIF comment: eight bytes that name the encoding, then the text."""
    encoding, text = comment[:8], comment[8 : 8 + 4 * MAX_RECIPE_CHARS]
    if encoding.startswith(b"UNICODE") and (b"\0" in text.rstrip(b"\0") or not is_utf8(text)):
        # EXIF does not define the byte order. A recipe has many ``: `` or, as JSON, ``":``; of other text the zero
        # bytes of Western letters decide. They do not for Chinese: 一 (U+4E00) has one too.
        codecs = ("utf-16",) if text[:2] in UTF16_BOMS else ("utf-16-be", "utf-16-le")
        read = [text[: len(text) // 2 * 2].decode(codec, "replace") for codec in codecs]
        zeros = (text[0::2].count(0), text[1::2].count(0))
        ranked = sorted(zip(read, zeros, strict=False), key=lambda each: (mark_count(each[0]), each[1]))
        return ranked[-1][0].strip("\0")
    if encoding == b"JIS\0\0\0\0\0":
        return text.decode("iso2022_jp" if b"\x1b" in text else "utf-8", "replace").strip("\0")
    named = encoding.startswith((b"ASCII", b"UNICODE"))
    return (text if named else comment).decode("utf-8", "replace").strip("\0\ufeff")


def mark_count(text: str) -> int:
    """The number of signs between names and values, as A1111 and JSON write them."""
    return text.count(": ") + text.count('":')


def is_utf8(text: bytes) -> bool:
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


def exif_graph(picture: PIL.Image) -> dict[str, str]:
    """ComfyUI's graphs in formats without text chunks: EXIF tags with ``prompt:{...}`` and ``workflow:{...}``."""
    graphs = {}
    for value in picture.getexif().values():
        name, colon, text = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon and name.lower() in ("prompt", "workflow") and text.lstrip().startswith("{"):
            graphs[name.lower()] = text
    return graphs


def read_text(text: str) -> Recipe:
    """Parse A1111's text: prompt, ``Negative prompt: ...``, and a last line of ``Name: value`` pairs, each optional."""
    text = text[:MAX_RECIPE_CHARS]
    lines = text.strip().splitlines()
    pairs: dict[str, str] = {}
    left: dict[str, str] = {}
    place = pairs_line(lines)
    if place >= 0:
        start = pairs_start(lines[place])
        pairs = {name: a1111.unquote(value) for name, value in parse_pairs(lines[place][start:])}
        left = {
            name[:_MAX_NAME]: rest.strip()[:_MAX_VALUE] for name, _, rest in map(partition_note, lines[place + 1 :])
        }
        lines = [*lines[:place], lines[place][:start]]
    prompt, negative = split_negative("\n".join(lines))
    settings: dict[str, Any] = {"prompt": tags.remove_tags(prompt).strip()}
    if negative.strip():
        settings["negative"] = negative.strip()
    for name in ("prompt", "negative"):
        if len(whole := settings.get(name, "")) > MAX_PROMPT_CHARS:
            settings[name], left[name] = whole[:MAX_PROMPT_CHARS], f"… {whole[MAX_PROMPT_CHARS:][:_MAX_NAME]} …"
    settings |= a1111.parse_settings(pairs)
    loras, unread = read_loras(prompt)
    if loras:
        settings["loras"] = loras
    return Recipe(settings, {}, a1111.unread_pairs(pairs, settings) | unread | left, text)


def pairs_line(lines: list[str]) -> int:
    """Index of A1111's line of pairs: the last line, or one before lines added by extensions; -1 if there is none."""
    for place in range(len(lines) - 1, max(-1, len(lines) - 1 - MAX_NOTES), -1):
        found = parse_pairs(lines[place])
        last = place == len(lines) - 1
        if len(found) >= 3 and (last or len({name for name, _ in found} & set(a1111.PAIR_ORDER)) >= 2):
            return place
    return -1


def pairs_start(line: str) -> int:
    """Where the pairs of their line begin: after the prompts, if line breaks were lost."""
    first = line.partition(":")[0].strip()
    steps = None if first in (*a1111.PAIR_ORDER, *a1111.FACT_NAMES) else _STEPS.search(line)
    return steps.start() if steps else 0


def partition_note(line: str) -> tuple[str, str, str]:
    """Split a line after the pairs, such as ``Template: a {red|blue} car``, into (name, colon, text)."""
    name, colon, rest = line.partition(":")
    return (name.strip(), colon, rest) if colon and len(name) <= _MAX_NAME else ("further text", "", line)


def split_negative(text: str) -> tuple[str, str]:
    """(prompt, negative prompt). The latter starts on its own line, unless line breaks were lost."""
    found = _NEGATIVE.search(text)
    place = found.start() if found else text.find(a1111.NEGATIVE)
    return (text[:place], text[place + len(a1111.NEGATIVE) :]) if place >= 0 else (text, "")


def parse_pairs(line: str) -> list[tuple[str, str]]:
    """The first MAX_PAIRS of ``Name: value, Name: "value, quoted"``, in one pass."""
    pairs: list[tuple[str, str]] = []
    place = 0
    while len(pairs) < MAX_PAIRS and (colon := line.find(":", place)) >= 0:
        name = line[max(place, colon - _MAX_NAME) : colon].rpartition(",")[2].strip()
        start = _SPACES.match(line, colon + 1).end()  # type: ignore[union-attr]
        quoted = _QUOTED.match(line, start, start + _MAX_QUOTED)
        if quoted and line[quoted.end() : quoted.end() + 1] in ("", ","):
            end, most = quoted.end(), _MAX_QUOTED
        else:
            comma = line.find(",", start)
            end, most = comma if comma >= 0 else len(line), _MAX_VALUE
        if _NAME.fullmatch(name) and end - start <= most:
            pairs.append((name, line[start:end]))
        place = end + 1
    return pairs


def read_loras(prompt: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(LoRAs, unusable tags and further weights)."""
    weights: dict[str, float] = {}
    left: dict[str, str] = {}
    for tag in tags.find_tags(prompt):
        number = a1111.parse_number(tag.weight or "1", -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT)
        if number is not None and tag.kind in tags.LORA_TAGS and len(weights) < MAX_LORAS:
            weights[tag.name] = number
            if tag.rest:
                left[f"<{tag.kind}:{tag.name[:_MAX_NAME]}:{tag.weight[:_MAX_NAME]}>"] = ":".join(tag.rest)[:_MAX_NAME]
        elif len(left) < MAX_PAIRS:
            left[f"<{tag.kind}:{tag.name[:_MAX_NAME]}>"] = tag.weight[:_MAX_NAME]
    return [{"name": name, "weight": weight} for name, weight in weights.items()], left
