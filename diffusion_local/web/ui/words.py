"""Every word of the page, in each language it speaks: ``say`` for what the server draws, ``label`` for components.

The phrases are in ``phrases/*.toml``, both languages side by side; a phrase's key is ``file.name``. The language is the
request's (`frame.Frame` sets it), so that no function has to pass it on.

A phrase that depends on a number has two forms, ``"one picture|{n:,} pictures"``: the first where ``n`` is 1. Chinese
needs one. A person's text that goes into a phrase must be escaped by the caller, like everywhere in ``view``.
"""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import gradio as gr

#: What the page calls each language, in that language, by the code that ``phrases`` uses.
LANGUAGES = {"en": "English", "zh": "简体中文"}
#: The code that a browser knows (``<html lang>``), for each of ours.
TAGS = {"en": "en", "zh": "zh-CN"}
FIRST = "en"
COOKIE = "language"  # set by page.js, when a person has chosen

PHRASES = Path(__file__).parent / "phrases"
#: How deep the sentences within a sentence are translated.
MOST_NESTED = 4

_language: ContextVar[str] = ContextVar("language", default=FIRST)


def language() -> str:
    """The code of the language that is spoken now."""
    return _language.get()


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Within it, ``say`` speaks this language; an unknown one is the first."""
    token = _language.set(code if code in LANGUAGES else FIRST)
    try:
        yield
    finally:
        _language.reset(token)


def preferred(chosen: str, accepted: str) -> str:
    """The language for a browser: what was chosen, else the first of its ``Accept-Language`` that we speak."""
    if chosen in LANGUAGES:
        return chosen
    wanted = []
    for place, part in enumerate(accepted.split(",")):
        tag, _, weight = part.partition(";")
        found = re.search(r"q=([\d.]{1,5})", weight)
        wanted.append((-float(found[1]) if found and found[1].count(".") < 2 and found[1] != "." else -1.0, place, tag))
    codes = (tag.strip().lower().split("-")[0] for _, _, tag in sorted(wanted))
    return next((code for code in codes if code in LANGUAGES), FIRST)


@cache
def phrases() -> dict[str, dict[str, str]]:
    """Key -> language -> phrase."""
    return {
        f"{path.stem}.{name}": said
        for path in sorted(PHRASES.glob("*.toml"))
        for name, said in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }


def say(key: str, **values: Any) -> str:
    """The phrase in the language of this request, with the values filled in. An unknown key is a KeyError."""
    return fill(phrases()[key][language()], values)


def fill(phrase: str, values: dict[str, Any]) -> str:
    one, several, rest = phrase.partition("|")
    if several and "n" in values:
        phrase = one if values["n"] == 1 else rest
    return phrase.format(**values) if values else phrase


def known(key: str) -> bool:
    return key in phrases()


def label(key: str) -> Any:
    """For a component of gradio, which is built once for all browsers: gradio's page puts the phrase in."""
    phrases()[key]
    return gr.I18n()(key)


def translations() -> gr.I18n:
    """What gradio's page chooses from for each ``label``."""
    spoken: dict[str, Any] = {
        TAGS[code]: {key: said[code] for key, said in phrases().items() if "{" not in said[code]} for code in LANGUAGES
    }
    return gr.I18n(**spoken)


def of_script() -> dict[str, str]:
    """The phrases that the page's own scripts use, without ``script.``."""
    return {
        key.removeprefix("script."): said[language()] for key, said in phrases().items() if key.startswith("script.")
    }


# -- what the rest of the program says ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pattern:
    """A sentence of an error: the texts between its slots, one more than there are slots, and the slots' names."""

    key: str
    texts: tuple[str, ...]
    slots: tuple[str, ...]

    @classmethod
    def of(cls, key: str, phrase: str) -> "Pattern":
        texts, slots = [""], []
        for text, slot, _, _ in Formatter().parse(phrase):
            texts[-1] += text
            if slot is not None:
                slots.append(slot)
                texts.append("")
        return cls(key, tuple(texts), tuple(slots))

    def read(self, sentence: str) -> dict[str, str] | None:
        """What fills the slots, at least one character each, or None if it is another sentence.

        Each slot ends where the text behind it is found first, and the last one at the end of the sentence: one pass,
        while a regular expression would try every way to part the sentence, which a caller's own text may be in.
        """
        first, *between, last = self.texts if self.slots else (*self.texts, "")
        end = len(sentence) - len(last)
        if not self.slots:
            return {} if sentence == first else None
        if not sentence.startswith(first) or not sentence.endswith(last):
            return None
        filled, place = [], len(first)
        for text in between:
            found = sentence.find(text, place + 1, end)
            if found < 0:
                return None
            filled.append(sentence[place:found])
            place = found + len(text)
        if place >= end:
            return None
        return dict(zip(self.slots, [*filled, sentence[place:end]], strict=True))


@cache
def patterns() -> list[Pattern]:
    """The sentences of errors; the one with the most words of its own comes first."""
    found = [Pattern.of(key, said[FIRST]) for key, said in phrases().items() if key.startswith("errors")]
    return sorted(found, key=lambda each: -sum(map(len, each.texts)))


def retell(sentence: str, nested: int = 0) -> str:
    """A sentence of the program (an error, a warning), in the language of this request if ``errors*.toml`` know it.

    What fills its slots may be such a sentence, too.
    """
    if language() == FIRST or nested > MOST_NESTED:
        return sentence
    for pattern in patterns():
        if (filled := pattern.read(sentence)) is not None:
            told = {name: retell(text, nested + 1) for name, text in filled.items()}
            return phrases()[pattern.key][language()].format(**told)
    return sentence
