"""A server without accounts behind a proxy, configured or forgotten: nobody is taken for its owner."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services, open_services
from diffusion_local.db.database import Database
from diffusion_local.errors import UserError
from diffusion_local.supervisor.supervisor import Supervisor
from tests.support import eventually
from tests.web.conftest import client_of, services_of

PASSWORD = "correct horse"
SUBMIT = {"prompt": "a red apple", "width": 128, "height": 128, "steps": 4}
STRANGER = {"X-Forwarded-For": "203.0.113.9"}
PROXIED = {"trusted_proxies": "127.0.0.1", "allowed_hosts": "studio.example", "root_path": "/studio"}
DEEDS = (
    ("GET", "/api/v1/jobs"),
    ("POST", "/api/v1/jobs"),
    ("POST", "/api/v1/queue/pause"),
    ("GET", "/"),
    ("GET", "/config"),
    ("GET", "/login"),
    ("POST", "/gradio_api/run/jobs"),
    ("GET", "/metrics"),
)


def local_client(services: Services) -> TestClient:
    """Requests from this machine, as a proxy beside the server sends them."""
    return TestClient(client_of(services).app, base_url="http://127.0.0.1:7860", client=("127.0.0.1", 5))


@dataclass(frozen=True)
class Served:
    """An application that all tests of the module share, and the services behind it."""

    services: Services
    client: TestClient


def served(services: Services) -> Served:
    return Served(services, local_client(services))


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(services_of(tmp_path_factory, **PROXIED))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(services_of(tmp_path_factory))


def refused(answer: Any) -> bool:
    return bool(answer.status_code == 503 and answer.json()["error"]["code"] == "no_accounts")


@pytest.mark.parametrize(("method", "path"), DEEDS)
@pytest.mark.parametrize("headers", [{}, STRANGER], ids=["plain", "forwarded"])
def test_a_stranger_behind_a_configured_proxy_does_nothing(
    proxied: Served, method: str, path: str, headers: dict[str, str]
) -> None:
    before = proxied.services.studio.revision()
    body = SUBMIT if path == "/api/v1/jobs" else {"data": []}
    json = body if method == "POST" else None
    answer = proxied.client.request(method, path, json=json, headers=headers)
    assert refused(answer)
    assert "trusted_proxies = 127.0.0.1" in answer.json()["error"]["message"]
    assert proxied.services.studio.revision() == before


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_answer_all_the_same(proxied: Served, path: str) -> None:
    answer = proxied.client.get(path)
    assert "no_accounts" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        STRANGER,
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": ""},
        {"x-forwarded-proto": "https"},
        {"X-Forwarded-Host": "studio.example"},
        {"Forwarded": "for=203.0.113.9"},
        {"X-Real-IP": "203.0.113.9"},
        {"Via": "1.1 cache"},
        {"CF-Connecting-IP": "203.0.113.9"},
        {"True-Client-IP": "203.0.113.9"},
        {"X-Forwarded-Port": "443"},
        {"X-Forwarded-Prefix": "/studio"},
        {"X-Forwarded-Server": "studio.example"},
        {"X-Forwarded-Ssl": "on"},
        {"X-Forwarded": "for=203.0.113.9"},
        {"Forwarded-For": "203.0.113.9"},
        {"X-Scheme": "https"},
        {"Front-End-Https": "on"},
        {"Fly-Client-IP": "203.0.113.9"},
        {"Fastly-Client-IP": "203.0.113.9"},
        {"X-Azure-ClientIP": "203.0.113.9"},
        {"X-Azure-SocketIP": "203.0.113.9"},
        {"X-Envoy-External-Address": "203.0.113.9"},
        {"X-AppEngine-User-IP": "203.0.113.9"},
        {"Client-IP": "203.0.113.9"},
        {"X-Client-IP": "203.0.113.9"},
        {"X-Cluster-Client-IP": "203.0.113.9"},
        {"CDN-Loop": "cloudflare"},
        {"Tailscale-User-Login": "somebody@example.org"},
    ],
    ids=str,
)
def test_a_proxy_that_nobody_configured_is_noticed(plain: Served, headers: dict[str, str]) -> None:
    client = plain.client
    assert client.get("/api/v1/jobs").status_code == 200
    before = plain.services.studio.revision()
    for method, path in DEEDS:
        answer = client.request(method, path, json=SUBMIT if method == "POST" else None, headers=headers)
        assert refused(answer), path
        assert next(iter(headers)).lower() in answer.json()["error"]["message"]
    assert plain.services.studio.revision() == before


def test_who_said_no_auth_is_served_through_any_proxy(tmp_path_factory: pytest.TempPathFactory) -> None:
    client = local_client(services_of(tmp_path_factory, auth="none", **PROXIED))
    assert client.get("/api/v1/jobs", headers=STRANGER).status_code == 200


def test_with_an_account_a_forgotten_proxy_asks_to_sign_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory)
    services.studio.accounts.add("root", PASSWORD)
    assert local_client(services).get("/api/v1/jobs", headers=STRANGER).status_code == 401


def test_when_the_last_account_goes_the_server_closes(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory, **PROXIED)
    services.studio.accounts.add("root", PASSWORD)
    client = local_client(services)
    assert client.get("/api/v1/jobs", headers=STRANGER).status_code == 401
    services.studio.accounts.store.remove("root")  # as another process with other settings does
    eventually(lambda: refused(client.get("/api/v1/jobs", headers=STRANGER)), 5, every=0.1)
    assert refused(client.post("/api/v1/queue/pause", headers=STRANGER))


def test_a_database_set_aside_opens_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory, **PROXIED)
    services.studio.accounts.add("root", PASSWORD)
    services.database.close()
    for file in services.settings.home.glob("app.db*"):
        file.rename(file.with_name("aside." + file.name))
    client = local_client(replace(services, studio=open_services(services.settings).studio))
    assert refused(client.get("/api/v1/jobs", headers=STRANGER))
    Database.open(services.settings.database_file).close()
    assert refused(client.get("/api/v1/jobs", headers=STRANGER))


@pytest.mark.parametrize(("name", "value"), PROXIED.items())
def test_it_does_not_start(services: Services, name: str, value: str) -> None:
    reached = replace(services.settings, **{name: value})
    with pytest.raises(UserError, match=rf"Others can reach this server \({name} = "):
        Supervisor(reached, False, print).run()
