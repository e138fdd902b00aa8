"""The manual: Markdown pages in ``assets/docs``, looked up by topic and searched by section.

Every page exists in English, and those that people need first also in Chinese, below ``zh/``. Missing translations
fall back to English.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffusion_local.errors import InvalidParams, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.paths import assets

#: Topics in reading order; ``/`` in a topic is a folder.
TOPICS = (
    "start",
    "page",
    "shaping",
    "lists",
    "overnight",
    "models",
    "memory",
    "programs",
    "accounts",
    "service",
    "machines",
    "cluster",
    "trouble",
    "reference/cli",
    "reference/http",
    "reference/gradio",
    "reference/options",
    "reference/features",
    "reference/settings",
    "inside/lifecycle",
    "inside/house",
    "inside/glossary",
    "inside/adding",
    "inside/swapping",
)
MAX_QUERY = 200  # characters
MAX_RESULTS = 20
EXCERPT_CHARS = 160  # characters around a match
HEADING = re.compile(r"^(#{1,3}) (.+)$")


@dataclass(frozen=True, slots=True)
class Page:
    """A page. ``language``: that of the text, which may be English although Chinese was requested."""

    topic: str
    title: str
    text: str
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Section:
    """The part of a page below one heading. ``anchor``: the heading's id in HTML, "" above the first one."""

    page: Page
    title: str
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    section: Section
    excerpt: str


def page(topic: str, language: str = "en") -> Page:
    """A page by topic. Raises NotFound naming the available topics."""
    if topic not in TOPICS:
        raise NotFound(message("no_topic", topic=echo(topic), topics=list(TOPICS)))
    return _read(topic, language if _path(topic, language).exists() else "en")


def pages(language: str = "en") -> list[Page]:
    """All pages, in reading order."""
    return [page(topic, language) for topic in TOPICS]


def search(query: str, language: str = "en") -> list[Result]:
    """Find sections that contain every word of ``query``, ignoring case; title matches come first.

    Raises InvalidParams for a query of more than ``MAX_QUERY`` characters.
    """
    if len(query) > MAX_QUERY:
        raise InvalidParams("search", message("too_long", most=MAX_QUERY, got=len(query)))
    words = query.casefold().split()
    if not words:
        return []
    ranked = []
    for place, section in enumerate(section for each in pages(language) for section in split_sections(each)):
        text = f"{section.title}\n{section.text}".casefold()
        if all(word in text for word in words):
            in_title = sum(word in section.title.casefold() for word in words)
            ranked.append((-in_title, place, Result(section, excerpt(section.text, words))))
    return [result for _, _, result in sorted(ranked, key=lambda each: each[:2])[:MAX_RESULTS]]


def split_sections(page: Page) -> Iterator[Section]:
    title, anchor, fenced = page.title, "", False
    lines: list[str] = []
    for line in page.text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else HEADING.match(line)
        if heading and len(heading[1]) > 1:
            yield Section(page, title, anchor, "\n".join(lines))
            title, anchor, lines = heading[2], slug(heading[2]), []
        elif not heading:
            lines.append(line)
    yield Section(page, title, anchor, "\n".join(lines))


def slug(heading: str) -> str:
    """The id of a heading as used in links: ``What runs next`` is ``what-runs-next``."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def excerpt(text: str, words: list[str]) -> str:
    """The text around the first match, on one line, without Markdown markup."""
    plain = re.sub(r"\[([^\[\]]*)\]\([^)\s]*\)|[`*]+", r"\1", text)
    flat = re.sub(r"(\s|[|#]+|-{3,})+", " ", plain).strip()
    found = [at for word in words if (at := flat.casefold().find(word)) >= 0]
    start = max(0, min(found, default=0) - EXCERPT_CHARS // 4)
    cut = flat[start : start + EXCERPT_CHARS]
    return f"{'…' if start else ''}{cut}{'…' if start + EXCERPT_CHARS < len(flat) else ''}"


def _path(topic: str, language: str) -> Path:
    folder = assets() / "docs"
    return (folder if language == "en" else folder / language) / f"{topic}.md"


@cache
def _read(topic: str, language: str) -> Page:
    text = _path(topic, language).read_text(encoding="utf-8")
    first = text.splitlines()[0]
    return Page(topic, first.removeprefix("# "), text, language)
