"""Words of the starter model: what it understands of a prompt, in English and in Chinese.

The starter model draws emoji. Its text encoder was trained on captions of a few thousand words; whole words of its
tokenizer and the English of the Chinese table are those that it has seen. Its Chinese words come from CLDR's emoji
annotations (``scripts/starter/words_zh.py``). A prompt is translated from left to right, longest known word first;
places ("in the snow") move behind the things, as in English. The stored prompt is not changed: only the text encoder
gets the translation.
"""

import json
import re
from functools import cache

from diffusion_local.models.catalog import Model
from diffusion_local.models.index import STARTER
from diffusion_local.paths import assets

HAN = re.compile(r"[\u3400-\u9fff]+")
#: Separators of clauses. Spaces match only from the first of a run, so that a long run takes linear time.
CLAUSES = re.compile(r"((?:(?<!\s)\s+)?[,.;:!?()\n]+\s*)")
#: Punctuation in its ASCII form; brackets keep their weights.
COMMAS = str.maketrans(
    dict(zip("，、。；：！？（）", [", ", ", ", ". ", ", ", ": ", "! ", "? ", "(", ")"], strict=True))
)
LONGEST_NAME = 8
SILENT = ""


@cache
def table() -> dict[str, tuple[str, bool]]:
    """By Chinese word: (English word, whether it names a place, which moves to the end)."""
    content = json.loads((assets() / "starter" / "words_zh.json").read_text(encoding="utf-8"))
    words = {
        word: (english, False) for part in ("things", "styles", "joining") for word, english in content[part].items()
    }
    words |= dict.fromkeys(content["silent"], (SILENT, False))
    for word, english in content["colours"].items():
        words |= dict.fromkeys((word, f"{word}色"), (english, False))
        words |= dict.fromkeys((f"{word}背景", f"{word}色背景"), (f"on a {english} background", True))
    for word, english in content["scenes"].items():
        words |= dict.fromkeys((word, f"{word}里", f"{word}上", f"{word}中"), (english, True))
    return words


def understood(model: Model, text: str) -> tuple[str, tuple[str, ...]]:
    """(the text translated to words that the model knows, unknown Chinese words).

    The text is unchanged for models that read Chinese or whose languages are unknown.
    """
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
    """Translate a run of Chinese; places are appended to ``places`` instead, unknown words to ``unknown``."""
    known, missed, at = table(), "", 0
    english_words: list[str] = []
    while at < len(run):
        word = next((run[at : at + n] for n in range(LONGEST_NAME, 0, -1) if run[at : at + n] in known), "")
        if not word:
            missed += run[at]
            at += 1
            continue
        if missed:
            unknown.append(missed)
            missed = ""
        english, is_place = known[word]
        (places if is_place else english_words).append(english)
        at += len(word)
    if missed:
        unknown.append(missed)
    return " ".join(each for each in english_words if each)


# -- English --------------------------------------------------------------------------------------------------------

#: Syntax that is not drawn: LoRA tags and wildcards.
UNDRAWN = re.compile(r"<[^<>\n]{0,100}>|__[\w\-/.*]{1,60}__")
WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")
#: Words that carry no picture; the starter was trained on some of them only.
FUNCTION_WORDS = frozenset(
    str.split(
        "a about above across after all along also an and any are around as at be been behind being below "
        "beneath beside between both but by can did do does down during each either for from full had has "
        "have her his how i in inside into is it its just like made make me more most my near next no not of "
        "off on one onto or other our out outside over own per please she he so some such than that the their "
        "them then there these they this those through to together too toward towards under until up upon "
        "very was we were what when where which while who whose will with within without you your"
    )
)


@cache
def english() -> frozenset[str]:
    """The English words that the starter's text encoder was trained on, in lower case."""
    end = "</w>"
    tokenizer = json.loads((assets() / "starter" / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = tokenizer["model"]["vocab"]
    whole = {token.removesuffix(end) for token in tokens if token.endswith(end)}
    taught = {word for phrase, _ in table().values() for word in re.findall("[a-z]+", phrase)}
    return frozenset(whole | taught | FUNCTION_WORDS)


def knows(word: str) -> bool:
    """Whether the starter knows an English word, in lower case, as it is or in its singular or plural."""
    forms = {word, f"{word}s", word.removesuffix("s"), word.removesuffix("es")}
    if word.endswith("ies"):
        forms.add(f"{word[:-3]}y")
    return not forms.isdisjoint(english())


def unknown_words(model: Model, text: str) -> tuple[str, ...]:
    """Distinct words of a prompt that the starter does not know, in their order; none for other models."""
    if model.id != STARTER:
        return ()
    plain = UNDRAWN.sub(" ", text)
    latin = [word for word in WORD.findall(plain) if len(word) > 1 and not knows(re.sub("['’].*", "", word.lower()))]
    return tuple(dict.fromkeys([*latin, *understood(model, plain)[1]]))
