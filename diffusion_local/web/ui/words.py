"""Translations of the page: ``say`` for server-drawn parts, ``label`` for Gradio components.

Phrases are in ``phrases/*.toml``, with both languages side by side; the key of a phrase is ``file.name``. The language
is a context variable, which ``page_html`` sets for each request.

A phrase with a plural has two forms, ``"one picture|{n:,} pictures"``; the first is for ``n`` = 1. Chinese needs only
one. The caller must escape user text before it fills it into a phrase.
"""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from diffusion_local.messages import translate

#: The name of each language in that language, by the code used in ``phrases``.
LANGUAGE_NAMES = {"en": "English", "zh": "简体中文"}
#: BCP 47 tag (``<html lang>``) of each code.
LANGUAGE_TAGS = {"en": "en", "zh": "zh-CN"}
FIRST = "en"
COOKIE = "language"  # set by page.js when the user selects a language

PHRASES = Path(__file__).parent / "phrases"

_language: ContextVar[str] = ContextVar("language", default=FIRST)


def language() -> str:
    """Code of the current request's language."""
    return _language.get()


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Context in which ``say`` uses this language, or ``FIRST`` if the code is unknown."""
    token = _language.set(code if code in LANGUAGE_NAMES else FIRST)
    try:
        yield
    finally:
        _language.reset(token)


def preferred(chosen: str, accepted: str) -> str:
    """The language for a browser: the chosen one, or the supported one that its ``Accept-Language`` ranks highest."""
    if chosen in LANGUAGE_NAMES:
        return chosen
    languages = []
    for place, part in enumerate(accepted.split(",")):
        tag, _, weight = part.partition(";")
        found = re.search(r"q=([\d.]{1,5})", weight)
        quality = float(found[1]) if found and found[1].count(".") < 2 and found[1] != "." else 1.0
        if (code := tag.strip().lower().split("-")[0]) in LANGUAGE_NAMES:
            languages.append((-quality, place, code))
    return min(languages, default=(0.0, 0, FIRST))[2]


@cache
def phrases() -> dict[str, dict[str, str]]:
    """All phrases: key -> language -> phrase."""
    return {
        f"{path.stem}.{name}": texts
        for path in sorted(PHRASES.glob("*.toml"))
        for name, texts in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }


def say(key: str, **values: Any) -> str:
    """The phrase in the language of the request, with ``values`` filled in. Raises KeyError if the key is unknown."""
    return fill(phrases()[key][language()], values)


def fill(phrase: str, values: dict[str, Any]) -> str:
    one, several, rest = phrase.partition("|")
    if several and "n" in values:
        phrase = one if values["n"] == 1 else rest
    return phrase.format(**values) if values else phrase


def has_phrase(key: str) -> bool:
    return key in phrases()


def label(key: str) -> Any:
    """A text for a Gradio component. Raises KeyError if the key is unknown.

    Components are built once for all browsers, so Gradio's page inserts the phrase in the browser's language.
    """
    phrases()[key]
    return gr.I18n()(key)


def translations() -> gr.I18n:
    """The phrases that Gradio's page needs for each ``label``: all without placeholders."""
    by_language: dict[str, Any] = {
        LANGUAGE_TAGS[code]: {key: texts[code] for key, texts in phrases().items() if "{" not in texts[code]}
        for code in LANGUAGE_NAMES
    }
    return gr.I18n(**by_language)


def of_script() -> dict[str, str]:
    """Phrases for the page's scripts in the language of the request; keys without the prefix ``script.``."""
    return {
        key.removeprefix("script."): texts[language()] for key, texts in phrases().items() if key.startswith("script.")
    }


def translated(text: str) -> str:
    """Translate a message of the program into the language of the request; any other text is returned unchanged."""
    return translate(language(), text)
