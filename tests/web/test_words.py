"""The page's words: complete in each language, and nowhere else than in ``phrases``."""

import ast
import re
import string
from pathlib import Path

import pytest

from diffusion_local.messages import message
from diffusion_local.web.ui import words
from tests.sources import nodes
from tests.support import PACKAGE

UI = PACKAGE / "web" / "ui"
MODULES = sorted(path for path in UI.glob("*.py") if path.name != "words.py")
#: Words between tags or in an attribute that is read out, and sentences.
SHOWN = re.compile(
    r">[^<>{}]*[A-Za-z]{3,}[^<>{}]*<|(?:aria-label|title|placeholder|alt)=\"[A-Za-z]|^[A-Z][a-z]+ [a-z]+[ a-z.]*$"
)
READ_OUT = {"label", "placeholder", "info", "title"}


def slots(phrase: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(phrase) if name}


def test_every_phrase_is_there_in_every_language() -> None:
    assert len(words.phrases()) > 150
    for key, messages in words.phrases().items():
        assert set(messages) == set(words.LANGUAGE_NAMES), key
        assert all(messages.values()), key
        assert slots(messages["en"]) == slots(messages["zh"]), key


def test_a_file_of_phrases_is_one_line_a_phrase() -> None:
    """So that what is said can be searched, and two people's changes meet seldom."""
    files = sorted(words.PHRASES.glob("*.toml"))
    assert files
    lines = [(path.name, line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = [
        (name, line)
        for name, line in lines
        if line and not line.startswith("#") and not re.fullmatch(r'\w+ = \{ en = ".+", zh = ".+" \}', line)
    ]
    assert wrong == []


def test_every_key_that_is_said_exists_and_every_phrase_is_said() -> None:
    files = [path for suffix in ("py", "js", "html") for path in UI.parent.rglob(f"*.{suffix}")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    messages = set(re.findall(r"""(?:say|label)\(\s*["'](\w+\.\w+)["'](?!\s*~)""", code))
    assert messages <= set(words.phrases()), sorted(messages - set(words.phrases()))
    written = set(re.findall(r"""["']([\w.]+)""", code))
    begun = set(re.findall(r"""["']([\w.]+)(?:\{|" ~)""", code))  # the rest is computed
    for key in words.phrases():
        section, _, name = key.partition(".")
        if section.startswith("errors") or section == "common":  # by the sentence; by the field or the state
            continue
        used = key in written or any(key[:cut] in begun for cut in range(len(section) + 1, len(key)))
        assert used or (section == "script" and f".{name}" in code), f"{key} is not used"


def own_words(path: Path) -> set[str]:
    """Texts of a module that a person would see and that do not come from ``phrases``."""
    docs = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    found = [
        node.value
        for node in nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docs
        and SHOWN.search(node.value.replace("diffusion-local", ""))
    ]
    found += [
        keyword.value.value
        for node in nodes(path)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in READ_OUT and isinstance(keyword.value, ast.Constant) and keyword.value.value
        if keyword.value.value != "diffusion-local"
    ]
    return set(found)


def test_no_module_of_the_page_has_words_of_its_own() -> None:
    assert MODULES
    retold = {messages["en"] for key, messages in words.phrases().items() if key.startswith("errors")}
    assert {path.name: own for path in MODULES if (own := own_words(path) - retold)} == {}


def test_no_template_has_words_of_its_own() -> None:
    templates = sorted((UI / "templates").glob("*.html"))
    assert templates
    for path in templates:
        html = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", path.read_text(encoding="utf-8"), flags=re.S)
        assert SHOWN.findall(html.replace('"diffusion-local"', '""')) == [], path.name


def test_a_phrase_with_a_number_has_two_forms() -> None:
    assert [words.say("common.pictures", n=n) for n in (0, 1, 1000)] == ["0 pictures", "1 picture", "1,000 pictures"]
    with words.speaking("zh"):
        assert words.say("common.pictures", n=1) == "1 张图片"
    assert words.language() == "en"


def test_an_unknown_key_or_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        words.say("common.nonsense")
    with pytest.raises(KeyError):
        words.label("common.nonsense")
    with pytest.raises(KeyError):
        words.say("common.pictures", m=1)


@pytest.mark.parametrize(
    ("chosen", "accepted", "code"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "zh-TW", "zh"),
        ("", "en;q=0.5, zh;q=0.8", "zh"),
        ("", "de-DE,de;q=0.9,en;q=0.7", "en"),
        ("", "fr, zh;q=0.1", "zh"),
        ("en", "zh-CN", "en"),
        ("zh", "en", "zh"),
        ("xx", "zh", "zh"),
        ("", ";;q=,,q=.;=\0" * 99, "en"),
    ],
)
def test_the_language_is_the_chosen_one_or_the_browsers(chosen: str, accepted: str, code: str) -> None:
    assert words.preferred(chosen, accepted) == code


def test_the_programs_own_messages_are_shown_in_the_language() -> None:
    sentence = message("range", low=1, high=100, got="0")
    assert words.translated(sentence) == "must be from 1 to 100 (got 0)."
    with words.speaking("zh"):
        assert words.translated(sentence) == "必须在 1 到 100 之间（输入为 0）。"
        assert words.translated("something new.") == "something new."
