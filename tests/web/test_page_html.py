"""The HTML around the page, in the language of whoever asks."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from diffusion_local.actor import Role
from diffusion_local.web import page_html
from diffusion_local.web.gradio_compat import page as gradio_page
from diffusion_local.web.ui import words
from tests.web.conftest import client_of, services_of


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """One application for all of them: they only read."""
    return client_of(services_of(tmp_path_factory))


@pytest.mark.parametrize(
    ("headers", "tag"),
    [
        ({}, "en"),
        ({"accept-language": "zh-CN"}, "zh-CN"),
        ({"accept-language": "zh-CN", "cookie": "language=en"}, "en"),
        ({"cookie": "a=b; language=zh"}, "zh-CN"),
        ({"cookie": "language=<script>"}, "en"),
        ({"cookie": '";;=\x7f; language'}, "en"),
    ],
)
def test_the_page_comes_in_the_language_of_the_browser_or_the_chosen_one(
    client: TestClient, headers: dict[str, str], tag: str
) -> None:
    answer = client.get("/", headers=headers | {"accept-encoding": "br, gzip"})
    assert answer.headers["content-language"] == tag
    assert f'lang="{tag}"' in answer.text
    assert f'["language", "{tag}"]' in answer.text
    assert "Cookie" in answer.headers["vary"]
    assert answer.text.count("window.diffusionLocalWords = ") == 1


def test_the_page_names_nobody_elses_addresses_in_its_head(client: TestClient) -> None:
    head = client.get("/").text.split("<script>window.gradio_config")[0].split("</style>")[0]
    assert "githubusercontent" not in head
    assert "@Gradio" not in head


def test_what_is_drawn_speaks_the_language_of_the_request(client: TestClient) -> None:
    body = {"seen": "", "tab": "create", "asked": []}
    for language, phrase in (("zh", "描述"), ("en", "Describe")):
        answer = client.post("/look", json=body, headers={"accept-language": language})
        with words.speaking(language):
            assert words.say("create.invite") in answer.json()["parts"]["create"], phrase


def test_the_page_is_packed_for_who_can_unpack_it(client: TestClient) -> None:
    sizes = {}
    for coding in ("gzip", "identity"):
        with client.stream("GET", "/", headers={"accept-encoding": coding}) as answer:
            sizes[coding] = len(b"".join(answer.iter_raw()))
            assert answer.headers.get("content-encoding", "identity") == coding
            assert int(answer.headers["content-length"]) == sizes[coding]
            assert "Accept-Encoding" in answer.headers["vary"]
    assert sizes["gzip"] < 82_000 < sizes["identity"] / 4


def test_labels_of_components_are_there_in_both(client: TestClient) -> None:
    config = client.get("/config").json()
    assert config["i18n_translations"]["zh-CN"]["page.create"] == "创作"
    assert config["i18n_translations"]["en"]["page.create"] == "Create"


INLINE = re.compile(r"window\.gradio_config = (\{.*?\});</script>")


@pytest.mark.parametrize(("language", "phrase"), [("en", "Create"), ("zh-CN", "创作")])
def test_the_page_holds_its_own_components_and_words_and_leaves_the_endpoints_to_clients(
    client: TestClient, language: str, phrase: str
) -> None:
    whole = client.get("/config").json()
    text = client.get("/", headers={"accept-language": language}).text
    found = INLINE.search(text)
    assert found
    own = json.loads(found[1])
    names = {each["api_name"] for each in own["dependencies"]}
    public = {each["api_name"] for each in whole["dependencies"] if each["api_visibility"] == "public"}
    assert public >= {"submit", "job", "wait"} <= {each["api_name"] for each in whole["dependencies"]}
    assert not public & names
    assert names == {each["api_name"] for each in whole["dependencies"]} - public
    assert {each["type"] for each in whole["components"]} - {each["type"] for each in own["components"]} == {"api"}
    assert phrase in {each["props"].get("label") for each in own["components"]}
    assert "__i18n__" not in found[1]
    assert own["i18n_translations"] == {}


def test_a_page_that_gradio_writes_in_another_way_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    html = b"<html><script>window.gradio_settings = {};</script></html>"
    assert gradio_page.trimmed(html, str) == html
    assert "writes its page in another way" in caplog.text


def test_words_for_the_scripts_cannot_end_their_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "of_script", lambda: {"a": "</script><b>"})
    html = page_html.page(b"<html><head></head></html>", "en").decode()
    assert "</script><b>" not in html
    assert r"\u003c/script\u003e" in html


def test_the_frame_is_there_before_gradio_and_speaks_the_language(client: TestClient) -> None:
    page = client.get("/ui/gallery", headers={"accept-language": "zh-CN"}).text
    before = page.split("<gradio-app")[0]
    assert 'data-view="gallery" aria-current="page"' in before
    assert "图库" in before
    assert "--accent" in before.split("</head>")[0]


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/", "/ui/create", "/ui/gallery?starred=1", "/ui/picture/ABC"])
def test_every_view_has_an_address(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert '<base href="/" />' in answer.text
    assert client.get("/gallery").status_code == 404  # the root belongs to APIs


@pytest.mark.parametrize("path", ["/ui/nonsense", "/ui/gallery/more", "/ui/picture", "/ui/picture/"])
def test_an_address_that_names_nothing_says_so(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "data-unknown" in answer.text


def test_somebody_who_types_an_address_that_is_not_there_gets_the_page_and_a_program_json(client: TestClient) -> None:
    typed = {"sec-fetch-mode": "navigate", "accept": "text/html"}
    answer = client.get("/galerie", headers=typed)
    assert answer.status_code == 404
    assert "data-unknown" in answer.text
    assert client.get("/galerie").json()["error"]["code"] == "not_found"
    assert "jobs" in client.get("/api/v1/jobs", headers=typed).json()


def test_the_page_can_be_installed(client: TestClient) -> None:
    assert 'rel="manifest" href="/assets/icons/app.webmanifest"' in client.get("/").text
    answer = client.get("/assets/icons/app.webmanifest")
    assert answer.headers["content-type"].startswith("application/manifest+json")
    assert answer.json()["display"] == "standalone"
    for icon in answer.json()["icons"]:
        found = client.get(f"/assets/icons/{icon['src']}")
        assert found.headers["content-type"] == icon["type"]


def test_gradios_page_is_drawn_once_for_each_url_and_never_for_another(client: TestClient) -> None:
    client.get("/ui/create")
    again = client.get("/ui/gallery", headers={"accept-language": "zh-CN"}).text
    assert 'data-view="gallery" aria-current="page"' in again
    for host in ("localhost:7001", "localhost:7002", "127.0.0.1:7003", "127.0.0.1:7004", "127.0.0.1:7005"):
        page = client.get("/", headers={"host": host}).text
        assert f"http://{host}" in page
        assert set(re.findall(r'"root":"http://([^"]+)"', page)) == {host}


def test_the_kept_page_holds_nothing_of_those_who_asked_for_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory)
    accounts = services.studio.accounts
    accounts.add("first-admin", "correct horse")
    accounts.add("second-viewer", "battery staple", Role.VIEWER)
    tokens = [accounts.add_token(name, "private-token-name", [])[1] for name in ("first-admin", "second-viewer")]
    for order in (tokens, tokens[::-1]):  # each as the first of an application that has kept nothing
        client = client_of(services)
        pages = set()
        for token in order:
            answer = client.get("/", headers={"authorization": f"Bearer {token}", "accept": "text/html"})
            assert answer.status_code == 200
            pages.add(answer.text)
        [page] = pages
        assert not any(each in page for each in ("first-admin", "second-viewer", "private-token-name", *tokens))
