"""All texts of the page, in each language: ``say`` for server-drawn parts, ``label`` for components.

The phrases are in ``phrases/*.toml``, both languages side by side; a phrase's key is ``file.name``. The language is
that of the request (set by ``page_html``), so that no function has to pass it on.

A phrase that depends on a number has two forms, ``"one picture|{n:,} pictures"``: the first for ``n`` = 1. Chinese
needs only one. User text in a phrase must be escaped by the caller, as everywhere in ``view``.
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
LANGUAGES = {"en": "English", "zh": "简体中文"}
#: BCP 47 tag (``<html lang>``) of each code.
TAGS = {"en": "en", "zh": "zh-CN"}
FIRST = "en"
COOKIE = "language"  # set by page.js, when a person has chosen

PHRASES = Path(__file__).parent / "phrases"

_language: ContextVar[str] = ContextVar("language", default=FIRST)


def language() -> str:
    """Code of the current request's language."""
    return _language.get()


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Context in which ``say`` uses this language; an unknown one selects the first."""
    token = _language.set(code if code in LANGUAGES else FIRST)
    try:
        yield
    finally:
        _language.reset(token)


def preferred(chosen: str, accepted: str) -> str:
    """The language for a browser: the chosen one, else the first supported one of its ``Accept-Language``."""
    if chosen in LANGUAGES:
        return chosen
    wanted = []
    for place, part in enumerate(accepted.split(",")):
        tag, _, weight = part.partition(";")
        found = re.search(r"q=([\d.]{1,5})", weight)
        quality = float(found[1]) if found and found[1].count(".") < 2 and found[1] != "." else 1.0
        if (code := tag.strip().lower().split("-")[0]) in LANGUAGES:
            wanted.append((-quality, place, code))
    return min(wanted, default=(0.0, 0, FIRST))[2]


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


def has_phrase(key: str) -> bool:
    return key in phrases()


def label(key: str) -> Any:
    """A text for a Gradio component, which is built once for all browsers; Gradio's page inserts the phrase."""
    phrases()[key]
    return gr.I18n()(key)


def translations() -> gr.I18n:
    """The translations from which Gradio's page selects for each ``label``."""
    spoken: dict[str, Any] = {
        TAGS[code]: {key: said[code] for key, said in phrases().items() if "{" not in said[code]} for code in LANGUAGES
    }
    return gr.I18n(**spoken)


def of_script() -> dict[str, str]:
    """Phrases used by the page's scripts, without the prefix ``script.``."""
    return {
        key.removeprefix("script."): said[language()] for key, said in phrases().items() if key.startswith("script.")
    }


def translated(text: str) -> str:
    """A message of the program in the language of the request; any other text is returned unchanged."""
    return translate(language(), text)
