"""Chinese prompts in the words that the starter's text encoder has learned.

The names come from CLDR's annotations of emoji, which is what the starter draws (``scripts/starter/words_zh.py``). A
prompt is read from the left, the longest known word first; places ("in the snow") go behind the things, as in English.
The prompt itself is kept as it was written: only the text encoder gets the translation.
"""

import json
import re
from functools import cache

from diffusion_local.models.catalog import Model
from diffusion_local.settings import assets

HAN = re.compile(r"[\u3400-\u9fff]+")
#: What stands between clauses. Spaces before it count from their first one, so that a long run of them is read once.
CLAUSES = re.compile(r"((?:(?<!\s)\s+)?[,.;:!?()\n]+\s*)")
#: Punctuation in its ASCII form; brackets keep their weights.
COMMAS = str.maketrans(
    dict(zip("，、。；：！？（）", [", ", ", ", ". ", ", ", ": ", "! ", "? ", "(", ")"], strict=True))
)
LONGEST = 8
SILENT = ""


@cache
def table() -> dict[str, tuple[str, bool]]:
    """By Chinese word: the English one, and whether it names a place, which goes to the end."""
    found = json.loads((assets() / "starter" / "words_zh.json").read_text(encoding="utf-8"))
    words = {
        word: (english, False) for part in ("things", "styles", "joining") for word, english in found[part].items()
    }
    words |= dict.fromkeys(found["silent"], (SILENT, False))
    for word, english in found["colours"].items():
        words |= dict.fromkeys((word, f"{word}色"), (english, False))
        words |= dict.fromkeys((f"{word}背景", f"{word}色背景"), (f"on a {english} background", True))
    for word, english in found["scenes"].items():
        words |= dict.fromkeys((word, f"{word}里", f"{word}上", f"{word}中"), (english, True))
    return words


def understood(model: Model, text: str) -> tuple[str, tuple[str, ...]]:
    """(the text in words that the model knows, Chinese words that it does not); the text itself for models that read
    Chinese or of which that is not known."""
    if "LATIN" not in model.scripts or "CJK" in model.scripts or not HAN.search(text):
        return text, ()
    unknown: list[str] = []
    clauses = []
    for clause in CLAUSES.split(text.translate(COMMAS)):
        places: list[str] = []
        read = HAN.sub(lambda run: f" {translated(run[0], places, unknown)} ", clause)  # noqa: B023  # called at once
        clauses.append(" ".join([*read.split(), *places]) if HAN.search(clause) else clause)
    return "".join(clauses).strip(), tuple(dict.fromkeys(unknown))


def translated(run: str, places: list[str], unknown: list[str]) -> str:
    """A run of Chinese without its places, which are added to ``places``; what is not known is added to ``unknown``."""
    known, missed, at = table(), "", 0
    found: list[str] = []
    while at < len(run):
        word = next((run[at : at + n] for n in range(LONGEST, 0, -1) if run[at : at + n] in known), "")
        if not word:
            missed += run[at]
            at += 1
            continue
        if missed:
            unknown.append(missed)
            missed = ""
        english, is_place = known[word]
        (places if is_place else found).append(english)
        at += len(word)
    if missed:
        unknown.append(missed)
    return " ".join(each for each in found if each)
