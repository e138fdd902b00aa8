"""Warnings about prompts: text beyond the encoder's length, unsupported syntax, foreign scripts."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from diffusion_local import families
from diffusion_local.domain import shortened
from diffusion_local.grammar import prompt_weights, schedules, tags
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.parts import PARTS_BY_ID
from diffusion_local.models.starter_words import understood
from diffusion_local.models.tokenizers import extract, has_vocabulary
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

#: Innermost round brackets, which may contain a weight in A1111's syntax: ``(word:1.2)``.
BRACKETS = re.compile(r"(?<!\\)\(([^()]{1,100})\)")
WEIGHT_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+", re.ASCII)
AND = re.compile(r"(?:^|\s)AND(?::\S{1,20})?(?=\s|$)")
BREAK = re.compile(r"\bBREAK\b")
#: Syntax of other programs that has no meaning here, by program.
FOREIGN_SYNTAX = {
    "ComfyUI": re.compile(r"\bembedding:[^\s,:()\[\]]{1,100}", re.IGNORECASE),
    "InvokeAI": re.compile(
        r"\w{1,40}\+\+{1,9}(?![\w+])|\)(?:[+-]{1,9}|\d?\.\d{1,6})(?=[\s,.)]|$)"
        r"|[)\"]\.(?:and|blend|swap)\([^()]{0,99}\)"
    ),
    "NovelAI": re.compile(r"(?<![\w:.])-?\d{1,3}(?:\.\d{1,6})?::[^:\n]{1,200}::"),
    "Midjourney": re.compile(r"^/imagine\b|[^\W\d]::-?(?:\d{1,3}(?:\.\d{1,6})?|\.\d{1,6})(?![\d.]|\s?\])"),
    "Dynamic Prompts": re.compile(r"__[@~!][\w\-/.*]{1,60}__"),
}  # fmt: skip
#: A flag, which is supported only in lists.
MIDJOURNEY_FLAG = re.compile(r"(?<!\S)--[A-Za-z][\w-]{0,30}(?:[ =][^\s,]{1,40})?(?!\S)")
#: A comment line, which A1111 ignores.
COMMENT = re.compile(r"^[ \t]*#[ \t]+\S.{0,60}", re.MULTILINE)
#: The mark of an item in a list, as Markdown, YAML and language models write it.
LIST_MARK = re.compile(r"(?:[-*•]|\d{1,4}[.)])\s+\S.{0,20}")
#: Syntax in full-width characters of East Asian keyboards; only the ASCII characters are supported.
FULL_WIDTH = re.compile(
    r"[（【][^（）【】\n]{1,100}[:：]\s?\d[^（）【】\n]{0,10}[）】]|｛[^｛｝\n]{0,200}[|｜][^｛｝\n]{0,200}｝"
    r"|[(\[][^()\[\]\n]{1,100}：\s?\d{1,3}(?:\.\d{1,6})?\s?[)\]]|[<＜《〈‹](?:lora|lyco)[:：][^<>＜＞《》〈〉‹›\n]{0,100}[>＞》〉›]"
)
#: An apparent schedule: brackets with two colons.
SCHEDULE = re.compile(r"(?<!\\)\[[^\[\]:|\\]{0,200}:[^\[\]:|\\]{0,200}:[^\[\]:|\\]{0,30}\]")
#: A weight or a share of the steps with a decimal comma.
COMMA_WEIGHT = re.compile(r"\([^()]{1,100}:\s?\d{1,3},\d{1,6}\s?\)|\[[^\[\]]{0,100}:\s?\d{1,3},\d{1,6}\s?\]")
#: An apparent wildcard with a character that its name may not contain.
NO_WILDCARD = re.compile(r"__(?=[^\W_])[\w\-/.*]{1,60}?[^\w\-/.*\n][^_\n]{0,60}(?<=\w)__")
#: Architectures whose models are guided by a picture as strongly as asked.
INSTRUCTED = ("sd1_instruct", "sdxl_instruct", "cosxl_edit")
#: Vocabulary of ChatGLM's tokenizer, which has no other form.
CHATGLM_PIECES = "tokenizer.model"
#: Characters that occur only within an emoji: zero-width joiner, variation selector.
JOINERS = "\u200d\ufe0f"
FIRST_EMOJI = "\u2300"  # after characters such as the degree sign


#: Strings of which a prompt must contain at least one to have any syntax that causes a warning.
SYNTAX = (
    "<",
    "[",
    "]",
    "(",
    ")",
    "BREAK",
    "AND",
    ":",
    "__",
    "++",
    "--",
    "- ",
    "* ",
    "•",
    ". ",
    "{",
    "#",
    "&lt;",
    "\uff08",
    "\uff1a",
    "\uff5b",
    "\uff1c",
    "《",
    "〈",
    "‹",
    "/imagine",
)


def prompt_warnings(model: Model, params: Params) -> list[str]:
    """Warnings about text that the model's encoder will not read or understand."""
    warnings: list[str] = []
    family = families.get(model.family)
    for name, text in (("prompt", params.prompt), ("negative", params.negative)):
        limit, count = count_read(model, text)
        if limit and count > limit:
            slots = {"field": name, "limit": limit, "count": count}
            if reads_whole_prompts(model):
                warnings.append(message("tokens_in_parts", **slots, parts=math.ceil(count / limit)))
            else:
                warnings.append(message("too_many_tokens", **slots))
        read, unknown = understood(model, text)
        if model.scripts and (foreign := [*unknown, *foreign_words(read, model.scripts)]):
            words = shortened(", ".join(foreign), 60)
            warnings.append(message("unknown_words", field=name, model=model.name, words=words))
    warnings += syntax_warnings(model, params).values()
    if params.negative and not family.negative:
        warnings.append(message("no_negative"))
    if params.image_guidance and model.architecture not in INSTRUCTED:
        warnings.append(message("no_image_guidance"))
    if params.clip_skip and not family.clip_skip:
        warnings.append(message("no_clip_skip"))
    return warnings


def syntax_warnings(model: Model, params: Params) -> dict[str, str]:
    """Prompt syntax that the model does not support; warnings of one kind share a key."""
    warnings: dict[str, str] = {}
    if params.kind is Kind.UPSCALE:
        return warnings
    for name, text in (("prompt", params.prompt), ("negative", params.negative)):
        if AND.search(text):
            warnings[f"{name} AND"] = message("joins_no_prompts", field=name)
        for tool, pattern in FOREIGN_SYNTAX.items():
            if other := pattern.search(text):
                excerpt = shortened(other[0], 60)
                warnings[f"{name} {tool}"] = message("foreign_syntax", field=name, text=excerpt, tool=tool)
        if number := COMMA_WEIGHT.search(text):
            warnings[f"{name} comma"] = message("weight_comma", field=name, text=shortened(number[0], 60))
        if wildcard := NO_WILDCARD.search(text):
            warnings[f"{name} wildcard"] = message("no_wildcard_name", field=name, text=shortened(wildcard[0], 60))
        warnings |= shape_warnings(name, text)
        if reads_whole_prompts(model):
            warnings |= weight_warnings(name, text)
            continue
        if weighted := first_weighted(text):
            warnings[f"{name} weights"] = message("prompt_weights", field=name, weight=weighted)
        if changing := schedules.first_schedule(text):
            excerpt = shortened(changing, 60)
            warnings[f"{name} schedule"] = message("no_schedule", field=name, text=excerpt)
        if BREAK.search(text):
            warnings[f"{name} BREAK"] = message("no_break", field=name)
    return warnings


def shape_warnings(field: str, text: str) -> dict[str, str]:
    """Warnings about syntax that belongs elsewhere: flags and marks of lists, comments, full-width brackets."""
    warnings: dict[str, str] = {}
    if flag := MIDJOURNEY_FLAG.search(text):
        warnings[f"{field} flag"] = message("prompt_flag", field=field, text=shortened(flag[0], 60))
    if comment := COMMENT.search(text):
        warnings[f"{field} comment"] = message("prompt_comment", field=field, text=shortened(comment[0].strip(), 60))
    if mark := LIST_MARK.match(text):
        warnings[f"{field} mark"] = message("prompt_list_mark", field=field, text=shortened(mark[0], 60))
    if wide := FULL_WIDTH.search(text):
        warnings[f"{field} wide"] = message("full_width", field=field, text=shortened(wide[0], 60))
    return warnings


def weight_warnings(field: str, text: str) -> dict[str, str]:
    """Warnings about apparent weights and schedules that have another meaning."""
    warnings: dict[str, str] = {}
    if bracket := prompt_weights.unbalanced(text):
        warnings[f"{field} bracket"] = message("bracket_alone", field=field, sign=bracket)
    if strong := prompt_weights.beyond_limit(text):
        warnings[f"{field} strong"] = message("weight_limit", field=field, text=strong, most=prompt_weights.MAX_WEIGHT)
    for match in SCHEDULE.finditer(text):
        if not schedules.first_schedule(match[0]) and not COMMA_WEIGHT.search(match[0]):
            excerpt = shortened(match[0], 60)
            warnings[f"{field} steps"] = message("schedule_number", field=field, text=excerpt)
            break
    return warnings


def tag_warnings(prompt: str, negative: str) -> dict[str, str]:
    """Ignored tags of a prompt as written, with keys as in ``syntax_warnings``."""
    warnings: dict[str, str] = {}
    for tag in tags.find_tags(prompt):
        if tag.rest:
            excerpt = shortened(tag.to_text(), 60)
            warnings["prompt rest"] = message("tag_rest", tag=excerpt)
    if without := tags.find_tags(negative):
        excerpt = shortened(without[0].to_text(), 60)
        warnings["negative tag"] = message("tag_negative", tag=excerpt)
    for name, text in (("prompt", prompt), ("negative", negative)):
        if others := tags.find_other_tags(text):
            warnings[f"{name} other"] = message("tag_unknown", field=name, tag=shortened(others[0], 60))
    return warnings


def first_weighted(text: str) -> str:
    """The first weighted words, brackets included; "" if there are none."""
    for found in BRACKETS.finditer(text):
        words, _, weight = found[1].rpartition(":")
        if words and WEIGHT_NUMBER.fullmatch(weight.strip()):
            return found[0]
    return ""


def reads_whole_prompts(model: Model) -> bool:
    """Whether this program encodes the prompts: with weights, and in chunks if longer than the encoder's window."""
    return families.get(model.family).weights


def count_read(model: Model, text: str) -> tuple[int, int]:
    """(longest window of the text encoders, tokens in the text); (0, 0) if unknown."""
    part, most = families.get(model.family).tokenizer, families.tokens_of(model.family, model.architecture)
    limit, count = count_tokens(tokenizer_of(model, part), understood(model, text)[0])
    return min(limit, most - 2) if most else limit, count


def tokenizer_of(model: Model, part: str) -> Path:
    """The folder of a model's tokenizer ``part``. Files are put together with one, or have the bundled one of CLIP;
    the other bundled ones take seconds to extract, so their folder is the empty one of the configuration.
    """
    folder = model.folder / part
    encoder = next((each.part for each in model.sources if each.slot == part.replace("tokenizer", "text_encoder")), "")
    if has_vocabulary(folder) or model.file is None or not reads_clip(encoder):
        return model.tokenizers.get(part, folder)
    return extract("clip")


def reads_clip(encoder: str) -> bool:
    """Whether a text encoder (id of a part, "" for that of a checkpoint of SD) has CLIP's tokenizer."""
    return encoder not in PARTS_BY_ID or PARTS_BY_ID[encoder].tokenizer == "clip"


def count_tokens(folder: Path, text: str) -> tuple[int, int]:
    """(tokens the text encoder reads, tokens in the text), both without start and end marks; (0, 0) if unknown."""
    try:
        limit = int(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"])
        count_of = _counter(str(folder))
        count = count_of(text) if count_of else 0
    except Exception:  # the tokenizers library raises bare Exceptions for damaged files
        return 0, 0
    return (limit - 2, count) if count_of else (0, 0)


@lru_cache(maxsize=8)
def _counter(folder: str) -> Callable[[str], int] | None:
    """What counts the tokens of a text, start and end marks excluded; None without a readable vocabulary.

    The libraries take up to 30 MB of memory, so they are imported only to check a prompt.
    """
    path = Path(folder)
    if (path / "tokenizer.json").exists() or (path / "vocab.json").exists():
        tokenizer = _tokenizer(path)
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    if (path / CHATGLM_PIECES).exists():
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(path / CHATGLM_PIECES))
        return lambda text: len(pieces.encode(text))
    return None


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    if (path / "tokenizer.json").exists():
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    return Tokenizer(BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt"), end_of_word_suffix="</w>"))


def foreign_words(text: str, scripts: Sequence[str]) -> list[str]:
    """Distinct runs of letters of other scripts, or of emoji. Punctuation and digits belong to all scripts."""
    runs = ("".join(run) for foreign, run in groupby(text, lambda mark: is_foreign(mark, scripts)) if foreign)
    return list(dict.fromkeys(run for run in runs if run.strip(JOINERS)))


def is_foreign(mark: str, scripts: Sequence[str]) -> bool:
    if mark in JOINERS:
        return True
    kind = unicodedata.category(mark)
    if kind in ("So", "Sk"):
        return mark >= FIRST_EMOJI
    return kind.startswith("L") and not any(script in unicodedata.name(mark, "") for script in scripts)
