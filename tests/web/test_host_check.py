"""Foreign hosts and foreign pages are refused; programs and our own page are not."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.settings import Settings
from diffusion_local.web.host_check import allowed_origins, host_name, host_rule
from tests.web.conftest import client_of, services_of


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    return services_of(tmp_path_factory)


@pytest.fixture(scope="module")
def client(services: Services) -> TestClient:
    return client_of(services)


LOCAL = ("localhost", "127.0.0.1", "127.9.9.9", "::1")


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "0.0.0.0", "::", "192.168.1.5"])
def test_this_machine_is_always_allowed(settings: Settings, bound: str, name: str) -> None:
    assert host_rule(replace(settings, host=bound))(name)


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7", ""])
def test_a_server_for_this_machine_answers_to_nothing_else(settings: Settings, name: str) -> None:
    assert not host_rule(settings)(name)


def test_a_server_for_the_network_answers_to_addresses_and_its_own_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Studio.lan")
    allowed = host_rule(replace(settings, host="0.0.0.0"))
    assert all(map(allowed, ["10.0.0.7", "fe80::1", "studio.lan", "studio.local"]))
    assert not allowed("evil.example")


def test_further_names_are_allowed_by_setting(settings: Settings) -> None:
    allowed = host_rule(replace(settings, allowed_hosts="Studio.example, other.example"))
    assert allowed("studio.example")
    assert allowed("other.example")
    assert not allowed("third.example")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:7860", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:7860", "::1"),
        ("evil.example:80", "evil.example"),
        ("127.0.0.1:", "127.0.0.1"),
        ("a_b-c.Example:80", "a_b-c.example"),
        ("user@evil.example", ""),
        ("evil@127.0.0.1", ""),
        ("127.0.0.1#.evil.example", ""),
        ("127.0.0.1/.evil.example", ""),
        ("127.0.0.1?.evil.example", ""),
        ("127.0.0.1\n", ""),
        ("127.0.0.1 ", ""),
        ("127.0.0.1:80:80", ""),
        ("127.0.0.1:80@evil.example", ""),
        ("127.0.0.1,evil.example", ""),
        ("[::1].evil.example", ""),
        ("evil.example[::1]", ""),
        ("::1", ""),
        ("[", ""),
        ("", ""),
    ],
)
def test_host_header_is_taken_apart(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize("path", ["/", "/healthz", "/images/x.png", "/gradio_api/info", "/config"])
def test_a_foreign_host_gets_nothing(client: TestClient, path: str) -> None:
    """DNS rebinding: the site's own name comes as Host."""
    answer = client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["evil@127.0.0.1", "127.0.0.1#.evil.example", "localhost/evil.example", "[::1]x"])
def test_a_malformed_host_is_refused_by_its_whole_text(client: TestClient, host: str) -> None:
    answer = client.get("/healthz", headers={"Host": host})
    assert answer.status_code == 400
    assert host in answer.json()["error"]["message"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:7860.evil"])
def test_a_foreign_page_cannot_submit(client: TestClient, services: Services, origin: str) -> None:
    before = services.studio.revision()
    answer = submit(client, {"Origin": origin})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert services.studio.revision() == before


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://127.0.0.1:7860"}])
def test_programs_and_our_own_page_can_submit(client: TestClient, headers: dict[str, str]) -> None:
    answer = submit(client, headers)
    assert answer.status_code == 200
    assert len(answer.json()["data"][0]["job_ids"]) == 1


def submit(client: TestClient, headers: dict[str, str]):  # type: ignore[no-untyped-def]
    data = ["a red apple"]
    return client.post("/gradio_api/run/submit", json={"data": data}, headers=headers)


def test_a_foreign_origin_is_never_mirrored(client: TestClient) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (client.options("/gradio_api/run/submit", headers=asked), client.get("/config", headers=asked)):
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/images/none.png"])
def test_every_answer_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Referer": "http://evil.example/page"},
        {"Referer": "http://[broken"},
        {"Origin": ""},
    ],
)
def test_a_foreign_page_is_known_without_origin_too(client: TestClient, headers: dict[str, str]) -> None:
    assert submit(client, headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Referer": "http://127.0.0.1:7860/"}],
)
def test_our_own_page_is_known_without_origin_too(client: TestClient, headers: dict[str, str]) -> None:
    assert submit(client, headers).status_code == 200


def test_a_page_that_may_call_us_does_so_without_anybodys_cookie(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory, cors_origins="https://front.example")
    services.studio.accounts.add("root", "correct horse")
    token = services.studio.accounts.add_token("root", "front", ["submit"])[1]
    client = client_of(services)
    client.post("/login", data={"username": "root", "password": "correct horse"})
    front = {"Origin": "https://front.example"}
    asked = front | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = client.options("/api/v1/jobs", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://front.example"
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    stainless = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"  # OpenAI's SDK
    asked |= {"Access-Control-Request-Headers": stainless}
    assert client.options("/v1/images/generations", headers=asked).status_code == 200
    assert client.get("/api/v1/jobs").status_code == 200
    assert client.get("/api/v1/jobs", headers=front).status_code == 401
    wish = {"prompt": "a tree", "width": 128, "height": 128, "steps": 4}
    answer = client.post("/api/v1/jobs", json=wish, headers=front | {"Authorization": f"Bearer {token}"})
    assert answer.status_code == 202
    assert answer.headers["Access-Control-Allow-Origin"] == "https://front.example"
    assert client.post("/api/v1/jobs", json=wish, headers={"Origin": "https://other.example"}).status_code == 403


@pytest.mark.parametrize("origins", ["*", "front.example", "https://front.example/page", "null", "file:///x"])
def test_other_pages_are_named_exactly(settings: Settings, origins: str) -> None:
    with pytest.raises(InvalidParams, match="cors_origins"):
        allowed_origins(replace(settings, cors_origins=origins))
