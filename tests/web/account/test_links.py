"""Signed addresses of pictures: what they open, for how long, and what ends them."""

import logging
import time
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from fastapi.testclient import TestClient

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.domain import Image
from tests.web.account.test_access import PASSWORD, bearer
from tests.web.conftest import client_of, made, services_of


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    found = services_of(tmp_path_factory, share="own")
    found.studio.accounts.add("root", PASSWORD)
    for name in ("ann", "bob"):
        found.studio.accounts.add(name, PASSWORD, "user")
    return found


@pytest.fixture(scope="module")
def client(services: Services) -> TestClient:
    return client_of(services)


@pytest.fixture(scope="module")
def image(services: Services) -> Image:
    with acting(replace(LOCAL, name="ann")):
        return made(services, "a secret garden")


def token_of(services: Services, name: str) -> str:
    return services.studio.accounts.add_token(name, "test", ["submit"])[1]


def link(client: TestClient, token: str, image: Image) -> str:
    return str(client.get(f"/api/v1/images/{image.id}", headers=bearer(token)).json()["public_url"])


def test_a_signed_address_opens_its_picture_with_a_plain_get(
    client: TestClient, services: Services, image: Image
) -> None:
    url = link(client, token_of(services, "ann"), image)
    assert url.startswith("http://127.0.0.1:7860/images/")
    assert client.get(url).content.startswith(b"\x89PNG")
    assert client.head(url).status_code == 200
    assert client.get(urlsplit(url).path).status_code == 401


def test_no_address_is_logged(
    client: TestClient,
    services: Services,
    image: Image,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither when it opens its picture nor when that fails."""
    url = link(client, token_of(services, "ann"), image)
    forgiving = TestClient(client.app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)

    def broken(*_: object) -> None:
        raise RuntimeError("the disk is gone")

    with caplog.at_level("DEBUG"):
        assert forgiving.get(url).status_code == 200
        monkeypatch.setattr(type(services.studio), "picture_file", broken)
        assert forgiving.get(url).status_code == 500
    ours = [each for each in caplog.records if not each.name.startswith(("httpx", "httpcore"))]  # the test's own client
    written = "\n".join(logging.Formatter().format(each) for each in ours)
    for secret in parse_qs(urlsplit(url).query).values():
        assert len(secret[0]) < 16 or secret[0] not in written
    assert urlsplit(url).query not in written


def test_it_opens_nothing_else(client: TestClient, services: Services, image: Image) -> None:
    with acting(replace(LOCAL, name="ann")):
        other = made(services, "another")
    parts = urlsplit(link(client, token_of(services, "ann"), image))
    for path in (
        f"/images/{other.id}.png",
        f"/thumbnails/{image.id}.webp",
        f"/api/v1/images/{image.id}",
        "/api/v1/jobs",
        f"/images/{image.id}.png/../{other.id}.png",
    ):
        assert client.get(f"{path}?{parts.query}").status_code == 401, path
    for method in ("POST", "DELETE", "PUT"):
        assert client.request(method, f"{parts.path}?{parts.query}").status_code == 401, method


@pytest.mark.parametrize("field", ["expires", "account", "token", "signature"])
def test_a_changed_address_opens_nothing(client: TestClient, services: Services, image: Image, field: str) -> None:
    parts = urlsplit(link(client, token_of(services, "ann"), image))
    options = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    changed = {"expires": str(int(options["expires"]) + 1), "account": "root", "token": "", "signature": "é" * 64}
    assert client.get(f"{parts.path}?{urlencode(options | {field: changed[field]})}").status_code == 401
    assert client.get(f"{parts.path}?{urlencode({k: v for k, v in options.items() if k != field})}").status_code == 401


def test_it_ends_after_an_hour(
    client: TestClient, services: Services, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, now = link(client, token_of(services, "ann"), image), time.time()
    assert client.get(url).status_code == 200
    monkeypatch.setattr("diffusion_local.notify.signed_urls.time.time", lambda: now + 3601)
    assert client.get(url).status_code == 401


def test_it_ends_with_its_token_and_with_its_account(client: TestClient, services: Services, image: Image) -> None:
    accounts = services.studio.accounts
    with acting(LOCAL):
        kept, secret = accounts.add_token("ann", "short", ["submit"])
        url = link(client, secret, image)
        assert client.get(url).status_code == 200
        accounts.remove_token("ann", kept.id)
        assert client.get(url).status_code == 401
        accounts.add("cal", PASSWORD, "admin")
        other = link(client, accounts.add_token("cal", "x", [])[1], image)
        assert client.get(other).status_code == 200
        accounts.remove("cal")
        assert client.get(other).status_code == 401


def test_it_shows_no_more_than_its_account_may_see(client: TestClient, services: Services, image: Image) -> None:
    with acting(LOCAL):
        services.studio.accounts.add("dan", PASSWORD, "admin")
        url = link(client, services.studio.accounts.add_token("dan", "x", [])[1], image)
        services.studio.accounts.set_role("dan", "user")
    assert client.get(url).status_code == 404


def test_without_accounts_an_absolute_address_needs_no_signature(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory)
    client, image = client_of(services, page=False), made(services)
    assert client.get(f"/api/v1/images/{image.id}").json()["public_url"] == (
        f"http://127.0.0.1:7860/images/{image.id}.png"
    )
