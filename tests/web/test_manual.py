"""``/manual``: every page in both languages, with its links, and nothing from elsewhere."""

import re

import pytest
from fastapi.testclient import TestClient

from diffusion_local import manual
from diffusion_local.messages import LANGUAGES
from diffusion_local.web.ui.words import LANGUAGE_TAGS
from tests.web.conftest import client_of, services_of


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """Nothing here changes anything, so one application is enough."""
    return client_of(services_of(tmp_path_factory))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_and_every_link_between_pages(client: TestClient, language: str) -> None:
    headers = {"Accept-Language": LANGUAGE_TAGS[language]}
    answered: dict[str, int] = {}  # most addresses are on every page
    for topic in manual.TOPICS:
        answer = client.get(f"/manual/{topic}", headers=headers)
        assert answer.status_code == 200, topic
        page = manual.page(topic, language)
        assert f"<title>{page.title} · diffusion-local</title>" in answer.text
        assert f'<html lang="{LANGUAGE_TAGS[language]}">' in answer.text
        for address in re.findall(r'(?:href|src|action)="(/[^"#]*)', answer.text):
            if address not in answered:
                answered[address] = client.get(address, headers=headers).status_code
            assert answered[address] == 200, (topic, address)
        assert not re.search(r'(?:src|@import|url\()\s*=?\s*["\']?https?:', answer.text)


def test_the_manual_begins_with_the_start(client: TestClient) -> None:
    answer = client.get("/manual", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/manual/start")


def test_a_page_that_is_not_translated_says_so(client: TestClient) -> None:
    answer = client.get("/manual/memory", headers={"Accept-Language": "zh"})
    assert "本页只有英文版" in answer.text
    assert "本页只有英文版" not in client.get("/manual/start", headers={"Accept-Language": "zh"}).text


def test_search(client: TestClient) -> None:
    found = client.get("/manual/search", params={"q": "morning report"}).text
    assert '<a href="/manual/overnight#the-morning-report">Overnight › The morning report</a>' in found
    assert 'id="the-morning-report"' in client.get("/manual/overnight").text
    assert "No section has all of these words" in client.get("/manual/search", params={"q": "zzzz"}).text


def test_a_query_is_shown_as_text(client: TestClient) -> None:
    attack = '"><script>alert(1)</script>'
    answer = client.get("/manual/search", params={"q": attack})
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize("topic", ["nothing", "..%2f..%2fREADME", "zh/start"])
def test_an_unknown_topic_is_not_found(client: TestClient, topic: str) -> None:
    assert client.get(f"/manual/{topic}").status_code == 404


def test_too_long_a_query_is_refused(client: TestClient) -> None:
    assert client.get("/manual/search", params={"q": "a" * 201}).status_code == 422


def test_raw_html_is_escaped() -> None:
    from diffusion_local.web.manual import to_html

    page = manual.Page(
        "start", "x", "# x\n\n<script>alert(1)</script>\n\n[a](javascript:alert(1)) [b](models.md#add-a-model)\n"
    )
    html = to_html(page, "/studio")
    assert "<script>" not in html
    assert 'href="javascript' not in html
    assert 'href="/studio/manual/models#add-a-model"' in html
