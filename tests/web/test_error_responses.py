"""Faults of the disk at the doors: one shape, 503, and nothing half-written."""

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services, open_services
from tests.web.api.test_sources import SOURCES, in_base64, png
from tests.web.conftest import client_of, made, services_of


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """For tests in which nothing is taken: each of them finds it empty."""
    return services_of(tmp_path_factory)


@pytest.fixture(scope="module")
def empty(untouched: Services) -> TestClient:
    return client_of(untouched, page=False)


@pytest.fixture(scope="module")
def full(untouched: Services) -> TestClient:
    """A studio whose disk is below its reserve."""
    return client_of(open_services(replace(untouched.settings, disk_reserve_mb=10**9)), page=False)


def everything(services: Services) -> list[str]:
    """Files of pictures, sources, sheets, reports and what is half-written."""
    folders = (
        services.settings.gallery_folder,
        services.settings.sources,
        services.settings.sheets,
        services.settings.reports,
    )
    return [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]


UPLOADS: dict[str, Callable[[TestClient], Any]] = {
    "source": lambda client: client.post(SOURCES, content=png(), headers={"Content-Type": "image/png"}),
    "list": lambda client: client.post("/api/v1/lists", json={"list": "one\ntwo"}),
    "A1111": lambda client: client.post("/sdapi/v1/img2img", json={"init_images": [in_base64(png())], "prompt": "x"}),
}


@pytest.mark.parametrize("upload", UPLOADS)
def test_uploads_leave_the_reserve_of_the_disk_alone(full: TestClient, untouched: Services, upload: str) -> None:
    answer = UPLOADS[upload](full)
    assert answer.status_code == 503, answer.text
    assert "disk_reserve_mb" in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert str(untouched.settings.home) not in answer.text
    assert everything(untouched) == []
    assert untouched.studio.jobs() == []


@pytest.mark.parametrize("name", ["EROFS", "EIO", "ESTALE", "ENOSPC"])
def test_a_fault_of_the_disk_at_a_door_has_the_documented_shape(
    empty: TestClient, untouched: Services, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(errno, name)

    def mkstemp(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number), kwargs["dir"])

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    answer = UPLOADS["source"](empty)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == ("disk_full" if name == "ENOSPC" else "storage_error")
    assert error["message"].endswith((".", "by itself."))
    assert str(untouched.settings.home) not in answer.text
    assert everything(untouched) == []


def test_a_picture_that_cannot_be_read_for_now_is_503(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made(services)

    def stale(*_: Any) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(services.files.picture(image.key).local_path))

    monkeypatch.setattr(type(services.studio), "picture_file", stale)
    answer = client.get(f"/images/{image.id}.png")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_error")
    assert "Check the network share" in answer.json()["error"]["message"]
    assert str(services.settings.home) not in answer.text


def test_an_error_that_is_no_fault_of_the_disk_stays_one(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("a library's own")

    monkeypatch.setattr(type(services.studio), "picture_file", broken)
    image = made(services)
    with pytest.raises(OSError, match="a library's own"):
        client_of(services, page=False).get(f"/images/{image.id}.png")
