"""The manual: every page is found, searched by section and bounded."""

import pytest
from typer.testing import CliRunner

from diffusion_local import manual
from diffusion_local.cli import app
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.messages import LANGUAGES
from tests.support import REPOSITORY

DOCS = REPOSITORY / "assets" / "docs"


def test_every_file_is_a_topic_and_every_topic_has_a_file() -> None:
    files = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert {name for name in files if not name.startswith("zh/")} == set(manual.TOPICS)
    assert {name.removeprefix("zh/") for name in files if name.startswith("zh/")} <= set(manual.TOPICS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_has_a_title(language: str) -> None:
    for page in manual.pages(language):
        assert page.text.startswith(f"# {page.title}\n"), page.topic


def test_a_page_without_a_translation_is_english() -> None:
    assert manual.page("start", "zh").language == "zh"
    assert manual.page("memory", "zh").language == "en"


@pytest.mark.parametrize("topic", ["", "nothing", "../../README", "zh/start", "/etc/passwd"])
def test_an_unknown_topic_names_those_there_are(topic: str) -> None:
    with pytest.raises(NotFound, match="Topics: start, page"):
        manual.page(topic)


def test_search_finds_sections_and_ranks_titles_first() -> None:
    found = manual.search("morning report")
    assert (found[0].section.page.topic, found[0].section.title) == ("overnight", "The morning report")
    assert found[0].section.anchor == "the-morning-report"
    assert all("report" in f"{each.section.title} {each.section.text}".lower() for each in found)


def test_search_in_chinese() -> None:
    assert manual.search("晨间报告", "zh")[0].section.page.topic == "overnight"


def test_search_is_bounded() -> None:
    assert manual.search("  ") == []
    assert manual.search("zzzzzz") == []
    assert len(manual.search("a")) == manual.MAX_RESULTS
    with pytest.raises(InvalidParams, match="at most 200 characters"):
        manual.search("a" * 201)


def test_headings_in_code_are_no_sections() -> None:
    page = manual.Page("x", "X", "# X\n\n```sh\n## not a heading\n```\n\n## Real `one`\n\ntext\n")
    assert [(each.title, each.anchor) for each in manual.split_sections(page)] == [
        ("X", ""),
        ("Real `one`", "real-one"),
    ]


def test_the_command_prints_topics_pages_and_results() -> None:
    def printed(*arguments: str) -> str:
        return CliRunner().invoke(app, ["help", *arguments]).output

    assert all(topic in printed() for topic in manual.TOPICS)
    assert printed("trouble") == manual.page("trouble").text
    assert printed("trouble", "--lang", "zh") == manual.page("trouble", "zh").text
    assert "overnight: The morning report" in printed("--search", "morning report")
    assert isinstance(CliRunner().invoke(app, ["help", "x"]).exception, NotFound)


def test_an_excerpt_reads_as_the_page_does() -> None:
    text = "## Inpainting\n\nThe kind `inpaint`, or a **mask** ([more](page.md#x)).\n\n| option | `a[0]` |\n|---|---|\n"
    assert manual.excerpt(text, ["kind"]) == "Inpainting The kind inpaint, or a mask (more). option a[0]"
