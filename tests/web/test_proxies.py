"""Forwarded headers of a trusted proxy are true, of anybody else they are not even seen."""

from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import JSONResponse

from diffusion_local import serializers
from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.settings import Settings
from diffusion_local.web.app import create_app
from diffusion_local.web.proxies import NEVER_TAKEN, Proxies, checked_root, trusted_networks
from diffusion_local.web.ui import view, view_gallery
from diffusion_local.web.ui.page_urls import GalleryState
from tests.web.conftest import made

PROXY, STRANGER = "10.0.0.1", "10.0.0.9"
TOLD = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "studio.example"}


def asked(settings: Settings, address: str, path: str = "/jobs", headers: Any = None, **changes: str) -> Any:
    """What the application behind sees."""

    async def tell(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        content = {
            "client": request.client.host if request.client else "",
            "scheme": request.url.scheme,
            "host": request.headers.get("host"),
            "headers": sorted(request.headers),
            "path": scope["path"],
            "base": str(request.base_url),
            "picture": serializers.picture_url("x"),
        }
        await JSONResponse(content)(scope, receive, send)

    trusting = replace(settings, **{"trusted_proxies": "10.0.0.1, 10.1.0.0/16"} | changes)
    client = TestClient(Proxies(tell, trusting), base_url="http://inside:7860", client=(address, 1))
    return client.get(path, headers=headers or TOLD).json()


def test_a_trusted_proxy_says_who_asked_and_how(settings: Settings) -> None:
    result = asked(settings, PROXY)
    assert (result["client"], result["scheme"], result["host"]) == ("192.0.2.7", "https", "studio.example")
    assert "x-forwarded-for" not in result["headers"]
    assert "x-forwarded-host" not in result["headers"]


def test_a_stranger_says_nothing(settings: Settings) -> None:
    result = asked(settings, STRANGER)
    assert (result["client"], result["scheme"], result["host"]) == (STRANGER, "http", "inside:7860")
    assert not [name for name in result["headers"] if "forwarded" in name]


def test_what_a_caller_wrote_before_the_proxy_is_not_believed(settings: Settings) -> None:
    result = asked(settings, PROXY, headers={"X-Forwarded-For": "1.2.3.4, 192.0.2.7, 10.1.2.3"})
    assert result["client"] == "192.0.2.7"


@pytest.mark.parametrize("address", [PROXY, STRANGER])
def test_other_ways_to_say_it_are_removed_from_everybody(settings: Settings, address: str) -> None:
    result = asked(settings, address, headers={name.decode(): "evil.example" for name in NEVER_TAKEN})
    assert not set(result["headers"]) & {name.decode() for name in NEVER_TAKEN}


@pytest.mark.parametrize("path", ["/studio/jobs", "/jobs"])
def test_below_a_path_with_the_prefix_or_without(settings: Settings, path: str) -> None:
    result = asked(settings, PROXY, path, root_path="/studio/")
    assert result["path"] == "/jobs"
    assert result["base"] == "https://studio.example/studio/"
    assert result["picture"] == "/studio/images/x.png"
    assert serializers.picture_url("x") == "/images/x.png"


@pytest.mark.parametrize("root", ["studio", "/a//b", "/a b", "/<b>", "/a?b", "https://evil.example"])
def test_a_root_path_is_a_path(root: str) -> None:
    with pytest.raises(InvalidParams, match="root_path"):
        checked_root(root)


@pytest.mark.parametrize("text", ["proxy", "10.0.0.0/99", "*"])
def test_proxies_are_addresses(text: str) -> None:
    with pytest.raises(InvalidParams, match="trusted_proxies"):
        trusted_networks(text)


@pytest.fixture
def below(services: Services) -> TestClient:
    """The application as a proxy serves it that takes the path off, to somebody at https://studio.example/studio."""
    settings = replace(services.settings, root_path="/studio", auth="none")
    return TestClient(create_app(services.studio, settings, services=services), base_url="http://127.0.0.1:7860")


def test_every_address_of_the_page_is_below_the_path(below: TestClient, services: Services) -> None:
    html = below.get("/").text
    assert 'href="/studio/assets/icons/app.webmanifest"' in html
    assert 'window.diffusionLocalRoot = "/studio"' in html
    with serializers.with_root("/studio"):
        drawn = view_gallery.gallery(GalleryState(), view_gallery.GalleryPage([]), [], [], [], view.utc())
    assert "/studio/api/v1/images/zip?ids=" in drawn
    assert '"/api/v1' not in drawn
    assert 'href="/studio/ui/gallery?starred=1"' in drawn
    assert '<base href="/studio/" />' in html
    assert 'href="/studio/ui/models"' in html
    manifest = below.get("/assets/icons/app.webmanifest").json()
    start = urljoin("https://studio.example/studio/assets/icons/app.webmanifest", manifest["start_url"])
    assert start == "https://studio.example/studio/"


def test_addresses_in_answers_are_below_the_path(below: TestClient) -> None:
    wish = {"prompt": "x", "width": 128, "height": 128, "steps": 2}
    one = below.post("/api/v1/jobs", json=wish)
    assert one.headers["Location"] == one.json()["status_url"] == f"/studio/api/v1/batches/{one.json()['batch_id']}"
    many = below.post("/api/v1/jobs", json=wish | {"count": 2}).json()
    assert many["status_url"] == f"/studio/api/v1/batches/{many['batch_id']}"
    copied = below.post(f"/api/v1/batches/{many['batch_id']}/duplicate")
    assert copied.headers["Location"].startswith("/studio/api/v1/batches/")
    listed = below.post("/api/v1/lists", content="a cat", headers={"Content-Type": "text/plain"})
    assert listed.headers["Location"].startswith("/studio/api/v1/batches/")
    assert below.get("/api/v1/jobs?limit=1").headers["Link"].startswith("</studio/api/v1/jobs?limit=1&before=")
    assert below.get("/studio/api/v1/jobs?limit=1").headers["Link"].startswith("</studio/api/v1/jobs?limit=1&before=")


def test_a_whole_address_has_the_path_once(below: TestClient, services: Services) -> None:
    image = made(services)
    seen: list[str] = []

    @below.app.get("/told")  # type: ignore[attr-defined]
    def told(request: Request) -> None:
        seen.append(serializers.public_url(image))

    below.app.router.routes.insert(0, below.app.router.routes.pop())  # type: ignore[attr-defined]
    below.get("/told")
    assert seen == [f"http://127.0.0.1:7860/studio/images/{image.id}.png"]
