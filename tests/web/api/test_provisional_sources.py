"""A refused submit leaves no source picture behind, whichever door it came through."""

import base64
import io
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.sources import provisional
from diffusion_local.messages import message
from diffusion_local.web.ui.tab_lists import text_or_refusal
from tests.web.api.comfyui.graphs import img2img, txt2img
from tests.web.api.conftest import JOBS, SMALL
from tests.web.api.mcp.test_tools import called


def png(colour: str, mode: str = "RGB", size: tuple[int, int] = (128, 128)) -> bytes:
    file = io.BytesIO()
    PIL.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def in_base64(colour: str, **more: Any) -> str:
    return base64.b64encode(png(colour, **more)).decode()


RED, GREEN, WHITE = map(in_base64, ("red", "green", "white"))
UNIT = {"image": GREEN, "module": "canny", "weight": 99}
FILES = {"image": ("a.png", png("red"), "image/png")}

#: (path, arguments of the request): pictures with an option that is refused after some of them have been stored.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "option": (JOBS, {"json": {"prompt": "x", "source": RED, "mask": WHITE, "strength": 7}}),
    "control": (JOBS, {"json": {"prompt": "x", "controls": [{"image": RED, "type": "canny", "model": "none"}]}}),
    "second picture": (JOBS, {"json": {"prompt": "x", "source": RED, "mask": "AAAA"}}),
    "form": (JOBS, {"data": {"job": '{"prompt": "x", "steps": -1}'}, "files": {"source": FILES["image"]}}),
    "no such model": (JOBS, {"json": {"prompt": "x", "model": "none", "source": RED}}),
    "A1111": ("/sdapi/v1/img2img", {"json": {"init_images": [RED], "mask": WHITE, "steps": 9999, "fit": "strict"}}),
    "A1111 inverted": (
        "/sdapi/v1/img2img",
        {"json": {"init_images": [RED], "mask": GREEN, "inpainting_mask_invert": 1, "denoising_strength": 9}},
    ),
    "A1111 resized": (
        "/sdapi/v1/img2img",
        {
            "json": {"init_images": [in_base64("red", size=(200, 100))], "resize_mode": 2, "denoising_strength": 9}
            | SMALL
        },
    ),
    "ControlNet": ("/sdapi/v1/txt2img", {"json": {"alwayson_scripts": {"controlnet": {"args": [UNIT]}}}}),
    "extras": ("/sdapi/v1/extra-single-image", {"json": {"image": RED, "upscaling_resize": 99}}),
    "detect": ("/controlnet/detect", {"json": {"controlnet_module": "depth", "controlnet_input_images": [RED]}}),
    "interrogate": ("/sdapi/v1/interrogate", {"json": {"image": RED}}),
    "OpenAI edits": ("/v1/images/edits", {"data": {"prompt": "x", "strength": "7"}, "files": FILES}),
    "OpenAI mask": (
        "/v1/images/edits",
        {"data": {"prompt": "x"}, "files": FILES | {"mask": ("m.png", png("white"), "image/png")}},
    ),
    "OpenAI generations": (
        "/v1/images/generations",
        {"json": {"prompt": "x", "controls": [{"image": RED, "weight": 99}]}},
    ),
    "cog": (
        "/predictions",
        {"json": {"input": {"prompt": "x", "source": f"data:image/png;base64,{RED}", "strength": 7}}},
    ),
}


@pytest.fixture(autouse=True)
def nothing_left(services: Services) -> Any:
    def kept() -> tuple[list[str], list[tuple[str, ...]]]:
        with services.database.read() as db:
            rows = db.execute("SELECT source_id, owner FROM source_owners").fetchall()
        return [source_id for source_id, _ in services.files.sources()], [tuple(row) for row in rows]

    yield
    jobs = services.studio.jobs()
    assert (kept(), jobs) == (([], []), [])


@pytest.mark.parametrize("door", REFUSED)
def test_a_refused_submit_leaves_no_picture(client: TestClient, services: Services, door: str) -> None:
    path, request = REFUSED[door]
    answer = client.post(path, **request)
    assert 400 <= answer.status_code < 500, answer.text


def test_a_refused_list_leaves_no_control_picture(client: TestClient, services: Services) -> None:
    source = client.post("/api/v1/sources", content=png("red")).json()["id"]
    control = f'{{"image": "{source}", "type": "canny"}}'
    lines = f'{{"prompt": "x", "controls": [{control}]}}\n{{"prompt": "x", "steps": -1}}'
    assert client.post("/api/v1/lists", content=lines.encode(), params={"format": "jsonl"}).status_code == 422
    services.studio.sources.remove(source)
    services.files.source(source).delete()


def test_a_refused_graph_leaves_the_uploaded_picture_alone(client: TestClient, services: Services) -> None:
    clear = png("#ff000000", "RGBA")
    name = client.post("/upload/image", files={"image": ("a.png", clear, "image/png")}).json()["name"]
    graph = img2img(name, mask="VAEEncodeForInpaint")
    graph["3"]["inputs"]["steps"] = 100_000
    for each in (graph, txt2img(KSampler={"steps": 100_000})):
        assert client.post("/prompt", json={"prompt": each}).status_code == 400
    [source] = services.studio.sources.page()
    assert name.startswith(source.id)
    services.studio.sources.remove(source.id)
    services.files.source(source.id).delete()


def test_a_refused_tool_leaves_no_picture(services: Services) -> None:
    with pytest.raises(InvalidParams), provisional(services.studio.sources):  # as the server calls tools
        called(services, "edit_image", prompt="x", image=RED, strength=7.0)


def test_a_refusal_on_the_page_leaves_no_picture(services: Services) -> None:
    def refused() -> str:
        services.studio.sources.add(png("red"))
        raise InvalidParams("steps", message("text"))

    assert "Steps must be text" in text_or_refusal(services.studio, refused)
