"""The plain routes: pictures, thumbnails, previews, health; and what they refuse."""

import io
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.errors import Conflict, DatabaseProblem, InvalidParams, QueueFull
from diffusion_local.gallery.image_formats import webp
from diffusion_local.messages import verbatim
from diffusion_local.web.files import download_name
from tests.support import claimed, image_of, params
from tests.web.conftest import client_of, drawn, made, services_of


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    return services_of(tmp_path_factory)


@pytest.fixture(scope="module")
def client(services: Services) -> TestClient:
    return client_of(services)


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "ok"


def test_a_picture_comes_byte_for_byte_and_may_be_kept(client: TestClient, services: Services) -> None:
    image = made(services)
    answer = client.get(f"/images/{image.id}.png")
    assert answer.content == services.files.picture(image.key).local_path.read_bytes()
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert "Content-Disposition" not in answer.headers
    assert PIL.open(io.BytesIO(answer.content)).text["parameters"].startswith("a red apple\nSteps: 4, ")


def test_head_and_range_work(client: TestClient, services: Services) -> None:
    image = made(services)
    assert client.head(f"/images/{image.id}.png").status_code == 200
    part = client.get(f"/images/{image.id}.png", headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("path", ["/images/{}.png", "/thumbnails/{}.webp"])
def test_who_has_a_file_is_not_sent_it_again(client: TestClient, services: Services, path: str) -> None:
    url = path.format(made(services).id)
    tag = client.get(url).headers["ETag"]
    for method in ("GET", "HEAD"):
        again = client.request(method, url, headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_what_is_not_in_a_file_cannot_be_asked_for(client: TestClient, services: Services) -> None:
    url = f"/images/{made(services).id}.png"
    assert client.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416
    tag = client.get(url).headers["ETag"]
    part = {"Range": "bytes=0-3"}
    assert client.get(url, headers=part | {"If-Range": tag}).content == b"\x89PNG"
    assert client.get(url, headers=part | {"If-Range": '"older"'}).status_code == 200


def test_a_download_has_a_name_to_find_again(client: TestClient, services: Services) -> None:
    image = made(services, "A red apple, on a table!", seed=42)
    answer = client.get(f"/images/{image.id}.png?download=1")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a-red-apple-on-a-table-42.png"'


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("../../etc/passwd", "etc-passwd-7.png"),
        ("!!!", "picture-7.png"),
        ('a"; evil\r\nX: y', "a-evil-x-y-7.png"),
        ("苹果", "苹果-7.png"),
        ("x" * 500, "x" * 50 + "-7.png"),
    ],
)
def test_no_prompt_makes_an_unsafe_file_name(services: Services, prompt: str, name: str) -> None:
    services.studio.submit("x", seed=7)
    image = image_of(claimed(services.jobs), params=params(prompt=prompt))
    assert download_name(image) == name


def test_a_thumbnail_is_small_webp(client: TestClient, services: Services) -> None:
    answer = client.get(f"/thumbnails/{made(services).id}.webp")
    assert answer.headers["Content-Type"] == "image/webp"
    assert "immutable" in answer.headers["Cache-Control"]
    assert PIL.open(io.BytesIO(answer.content)).format == "WEBP"


def test_a_lost_thumbnail_is_made_again(client: TestClient, services: Services) -> None:
    image = made(services)
    services.files.thumbnail(image.key).delete()
    assert client.get(f"/thumbnails/{image.id}.webp").status_code == 200


def test_a_trashed_picture_can_still_be_seen_for_the_undo(client: TestClient, services: Services) -> None:
    image = made(services)
    services.studio.trash(image.id)
    assert client.get(f"/images/{image.id}.png").status_code == 200


def test_a_preview_is_never_kept_and_ends_as_the_picture(client: TestClient, services: Services) -> None:
    services.studio.submit("a red apple", width=128, height=128, steps=4)
    job = claimed(services.jobs)
    url = f"/previews/{job.id}.webp"
    nothing = client.get(url)  # none drawn yet: an empty pixel, not a broken picture
    assert (nothing.status_code, nothing.headers["Content-Type"]) == (200, "image/gif")
    assert PIL.open(io.BytesIO(nothing.content)).size == (1, 1)
    services.files.save_preview(job.id, webp(PIL.new("RGB", (8, 8), "red"), 60))
    answer = client.get(url)
    assert answer.headers["Cache-Control"] == "no-store"
    assert PIL.open(io.BytesIO(answer.content)).size == (8, 8)
    drawn(services, job)
    services.files.drop_preview(job.id)
    assert client.get(url).url.path == f"/thumbnails/{job.id}.webp"


@pytest.mark.parametrize(
    "path",
    [
        "/images/nope.png",
        "/thumbnails/nope.webp",
        "/previews/nope.webp",
        "/assets/icons/nope.svg",
        "/assets/fonts/nope.woff2",
        "/images/..%2f..%2fapp.db.png",
        "/images/%2e%2e%2f%2e%2e%2fapp.png",
        "/images/..%5c..%5capp.db.png",
        "/images/%00.png",
        "/images/' OR 1=1 --.png",
    ],
)
def test_what_is_not_there_is_404_and_tells_no_path(client: TestClient, services: Services, path: str) -> None:
    made(services)
    answer = client.get(path)
    assert answer.status_code == 404
    assert str(services.settings.home) not in answer.text


@pytest.mark.parametrize("path", ["app.db", "queue.db", "gallery", "config.toml"])
def test_no_file_of_the_home_can_be_had_through_gradio(client: TestClient, services: Services, path: str) -> None:
    made(services)
    for url in (f"/gradio_api/file={services.settings.home / path}", f"/gradio_api/file=../{path}", f"/file={path}"):
        assert client.get(url).status_code in (403, 404)


def test_a_missing_file_is_404(client: TestClient, services: Services) -> None:
    image = made(services)
    services.files.picture(image.key).local_path.unlink()
    answer = client.get(f"/images/{image.id}.png")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def as_said(text: str) -> dict[str, Any]:
    return {"id": "verbatim", "params": {"text": text}}


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (
            InvalidParams("width", verbatim("is bad.")),
            422,
            {"code": "invalid_params", "message": "width: is bad.", "field": "width", **as_said("is bad.")},
        ),
        (Conflict(verbatim("No.")), 409, {"code": "conflict", "message": "No.", **as_said("No.")}),
        (QueueFull(verbatim("Full.")), 429, {"code": "queue_full", "message": "Full.", **as_said("Full.")}),
        (
            DatabaseProblem(verbatim("Locked.")),
            503,
            {"code": "database_problem", "message": "Locked.", **as_said("Locked.")},
        ),
    ],
)
def test_user_errors_have_their_status(
    client: TestClient,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    told: dict[str, Any],
) -> None:
    def fails(self: object) -> int:
        raise error

    monkeypatch.setattr(type(services.studio), "revision", fails)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["error"]) == (status, told)


def test_no_answer_tells_where_the_home_is(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object) -> int:
        raise DatabaseProblem(verbatim(f"{services.settings.home}/app.db is locked."))

    monkeypatch.setattr(type(services.studio), "revision", fails)
    answer = client.get("/healthz")
    assert answer.json()["error"]["message"] == "home/app.db is locked."
    assert str(services.settings.home) not in answer.text


def test_page_and_config_tell_no_path_and_name_no_foreign_host(client: TestClient, services: Services) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/theme.css"):
        text = client.get(path).text
        assert str(services.settings.home) not in text
        assert "fonts.googleapis" not in text


def test_icon(client: TestClient) -> None:
    assert client.get("/assets/icons/mark.svg").headers["Content-Type"].startswith("image/svg+xml")


def test_the_typeface_is_served_by_every_page_of_ours(client: TestClient) -> None:
    for path in ("/", "/manual", "/login"):
        assert "/assets/fonts/inter.woff2" in client.get(path).text, path
    font = client.get("/assets/fonts/inter.woff2")
    assert font.headers["Content-Type"] == "font/woff2"
    assert font.content[:4] == b"wOF2"
    assert len(font.content) < 50_000


def test_gradios_own_mcp_server_is_off(client: TestClient) -> None:
    """``/mcp`` is the Studio's own; Gradio's would offer its endpoints a second time."""
    assert client.post("/gradio_api/mcp", json={}).status_code == 404
    assert client.get("/gradio_api/mcp/sse").status_code == 404
