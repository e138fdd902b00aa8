"""Pictures that are small as files and huge as pixels: several at once take the memory of two, others are served."""

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local import image_decoding
from diffusion_local.compose import Services
from diffusion_local.domain import Image
from diffusion_local.errors import InvalidParams, Overloaded
from diffusion_local.image_decoding import Budget
from tests.cost.conftest import WebProcess
from tests.web.conftest import client_of, made, services_of

SIDE, LARGEST = 4000, 8000  # the second tier has the largest
SENDERS, MANY = 6, 8
SLACK = 150_000_000  # for requests, the encoder, and what the allocator keeps


@cache
def huge(mode: str = "RGBA", side: int = SIDE) -> bytes:
    file = io.BytesIO()
    PIL.new(mode, (side, side)).save(file, "PNG")
    return file.getvalue()


class Peak:
    """The most memory that a process holds while this is watched."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self.before = self.bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self.bytes - self.before


def sent(web: WebProcess, data: bytes, place: int) -> httpx.Response:
    """The same picture by one of three doors."""
    text = base64.b64encode(data).decode()
    match place % 3:
        case 0:
            return httpx.post(f"{web.url}/api/v1/sources", content=data, timeout=500)
        case 1:
            body = {"prompt": "a tree", "kind": "img2img", "source": text, "strength": 0.5}
            return httpx.post(f"{web.url}/api/v1/jobs", json=body, timeout=500)
    files = {"image": ("a.png", data, "image/png")}
    return httpx.post(f"{web.url}/v1/images/edits", files=files, data={"prompt": ""}, timeout=500)


@pytest.mark.parametrize(("side", "senders"), [(SIDE, SENDERS), pytest.param(LARGEST, MANY, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_many_huge_pictures_at_once_take_the_memory_of_two(web: WebProcess, side: int, senders: int) -> None:
    data = huge(side=side)
    assert len(data) < 300_000
    httpx.get(f"{web.url}/api/v1/queue", timeout=60)
    with Peak(web.child.pid) as peak, ThreadPoolExecutor(senders) as pool:
        sending = [pool.submit(sent, web, data, place) for place in range(senders)]
        answered = 0
        while not all(each.done() for each in sending):
            answered += httpx.get(f"{web.url}/api/v1/queue", timeout=60).status_code == 200
            time.sleep(0.1)  # a visitor's pace: the server has other work
        answers = [each.result() for each in sending]
    assert web.child.poll() is None
    assert answered > 3
    assert any(each.status_code in (201, 202) for each in answers)
    busy = [each for each in answers if each.status_code == 503]
    assert all("Retry-After" in each.headers for each in busy)
    assert peak.growth < 2 * side * side * 4 + SLACK, f"{peak.growth / 1e6:.0f} MB"


def test_pixels_are_counted_before_they_are_decoded(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    PIL.new("1", (20_000, 4000)).save(file, "PNG")
    monkeypatch.setattr(image_decoding.budget, "reserve", pytest.fail)
    with pytest.raises(InvalidParams, match=r"max_source_megapixels.*20000x4000"):
        services.studio.sources.add(file.getvalue())


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Budget:
    """A budget that is used up: whoever decodes a picture is refused."""
    budget = Budget(most_waiting=0)
    monkeypatch.setattr(image_decoding, "budget", budget)
    return budget


def png() -> bytes:
    file = io.BytesIO()
    PIL.new("RGBA", (64, 64), (0, 0, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Image]:
    """An application that nothing is changed in, and a picture of its gallery."""
    shared = services_of(tmp_path_factory)
    return client_of(shared), made(shared)


@pytest.mark.parametrize("door", ["sources", "form", "json", "a1111", "a1111 larger", "openai", "cog", "gallery"])
def test_every_door_says_when_too_many_wait(gallery: tuple[TestClient, Image], door: str, taken: Budget) -> None:
    (client, image), data = gallery, png()
    text = base64.b64encode(data).decode()
    match door:
        case "sources":
            answer = client.post("/api/v1/sources", content=data)
        case "form":
            answer = client.post("/api/v1/jobs", files={"job": (None, '{"prompt": "a"}'), "source": ("a.png", data)})
        case "json":
            answer = client.post("/api/v1/jobs", json={"prompt": "a", "source": text})
        case "a1111":
            answer = client.post("/sdapi/v1/img2img", json={"prompt": "a", "init_images": [text]})
        case "a1111 larger":
            answer = client.post("/sdapi/v1/extra-single-image", json={"image": text})
        case "openai":
            answer = client.post("/v1/images/edits", files={"image": ("a.png", data)}, data={"prompt": "a"})
        case "cog":
            answer = client.post("/predictions", json={"input": {"prompt": "a", "image": text}})
        case _:
            answer = client.post(f"/api/v1/images/{image.id}/source")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "Too many pictures" in answer.text


def test_own_pictures_take_their_share_too(services: Services, taken: Budget) -> None:
    image = made(services)
    services.files.thumbnail(image.key).delete()
    batch = services.studio.job(image.job_id).batch_id
    for draw in (lambda: services.files.thumbnail(image.key), lambda: services.studio.batches.contact_sheet(batch)):
        with pytest.raises(Overloaded):
            draw()


def test_a_recipe_is_read_without_decoding_a_pixel(gallery: tuple[TestClient, Image], taken: Budget) -> None:
    answer = gallery[0].post("/sdapi/v1/png-info", json={"image": base64.b64encode(huge("L", LARGEST)).decode()})
    assert answer.status_code == 200
