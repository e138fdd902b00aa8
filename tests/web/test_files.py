"""Pictures that are kept as WebP or JPEG, by the web."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Image
from diffusion_local.settings import Settings
from diffusion_local.web.api.dialects.pictures import convert
from tests.web.conftest import client_of, made


@pytest.fixture(params=["webp", "jpeg"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def other(settings: Settings, form: str) -> Services:
    """A house that keeps no PNG."""
    return open_services(replace(settings, image_format=form))


def image_in(services: Services) -> tuple[Image, Path]:
    image = made(services)
    return image, services.files.picture(image.key).local_path


def test_its_address_has_its_suffix_and_its_media_type(other: Services, form: str) -> None:
    image, path = image_in(other)
    client = client_of(other, page=False)
    content = client.get(f"/api/v1/images/{image.id}").json()
    assert content["url"] == f"/images/{image.id}{image.suffix}"
    answer = client.get(content["url"])
    assert (answer.content, answer.headers["Content-Type"]) == (path.read_bytes(), f"image/{form}")
    old = client.get(f"/images/{image.id}.png", follow_redirects=False)
    assert (old.status_code, old.headers["Location"]) == (307, content["url"])
    assert client.get(f"/images/{image.id}.gif").status_code == 404
    named = client.get(f"{content['url']}?download=1").headers["Content-Disposition"]
    assert image.suffix in named


def test_who_asks_for_png_gets_png(other: Services) -> None:
    image, _ = image_in(other)
    with PIL.open(io.BytesIO(convert(other.files.picture(image.key), "png", 90, {}))) as picture:
        assert picture.format == "PNG"
