"""Controls by every door: native JSON, the preview, A1111's ControlNet extension, ComfyUI's nodes; what is refused."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL
from PIL import ImageDraw

from diffusion_local.compose import Services
from diffusion_local.engine import vision_models
from diffusion_local.engine.preprocessors import control_picture
from diffusion_local.options.types import Control, ControlType
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.a1111 import reading
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.request_limits import MOST_BYTES
from tests.models.files import CONTROLNET, LORA, write_header
from tests.web.api.comfyui.graphs import txt2img
from tests.web.api.conftest import JOBS, SMALL, Hands, draw_next

API = "/sdapi/v1"


def circle(size: tuple[int, int] = (200, 160)) -> bytes:
    picture = PIL.new("RGB", size, "white")
    ImageDraw.Draw(picture).ellipse((40, 30, 140, 130), fill="navy")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


CIRCLE = base64.b64encode(circle()).decode()


@pytest.fixture
def settings(services: Services) -> Settings:
    return services.settings


@pytest.fixture(autouse=True)
def sample(services: Services, settings: Settings) -> Iterator[None]:
    """One ControlNet, without the starter model's own beside it."""
    write_header(settings.controlnet / "edges.safetensors", CONTROLNET)
    shelf = services.catalog.index
    places = shelf.places
    shelf.places = replace(places, bundled_control=None)
    yield
    shelf.places = places
    for path in settings.controlnet.iterdir():
        path.unlink()


def newest(services: Services) -> Any:
    return services.studio.jobs(limit=1)[0].params


def seen(services: Services, control: Control) -> PIL.Image:
    return PIL.open(io.BytesIO(services.studio.sources.file(control.seen).read_bytes()))


def test_a_control_comes_along_and_is_kept_as_it_is_seen(client: TestClient, services: Services) -> None:
    control = {"image": CIRCLE, "type": "canny", "model": "edges", "weight": 0.7, "end": 0.5}
    answer = client.post(JOBS, json={"prompt": "x", "controls": [control]} | SMALL)
    assert answer.status_code == 202, answer.text
    params = newest(services)
    [kept] = params.controls
    assert (kept.type, kept.model, kept.weight, kept.start, kept.end) == ("canny", "edges", 0.7, 0, 0.5)
    size = (params.width, params.height)
    expected = control_picture(PIL.open(io.BytesIO(circle())), "canny", size)
    assert np.array_equal(np.asarray(seen(services, kept)), np.asarray(expected))
    assert expected.getbbox() is not None
    assert set(params.inputs) == {kept.image, kept.seen}  # both are uploaded to other machines, and not cleaned up


def test_the_only_control_that_fits_need_not_be_named(
    client: TestClient, services: Services, settings: Settings
) -> None:
    control = {"image": CIRCLE, "type": "canny"}
    assert client.post(JOBS, json={"prompt": "x", "controls": [control]} | SMALL).status_code == 202
    assert newest(services).controls[0].model == "edges"
    write_header(settings.controlnet / "depth.safetensors", CONTROLNET)
    answer = client.post(JOBS, json={"prompt": "x", "controls": [control]} | SMALL)
    assert (answer.status_code, answer.json()["error"]["id"]) == (422, "control_which")
    write_header(settings.controlnet / "my_canny_v2.safetensors", CONTROLNET)
    assert client.post(JOBS, json={"prompt": "x", "controls": [control]} | SMALL).status_code == 202
    assert newest(services).controls[0].model == "my_canny_v2"


SD15 = CONTROLNET | {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768)}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"image": "0" * 64}, "Add it first"),
        ({"type": "magic"}, "canny"),
        ({"model": "gone"}, "gone"),
        ({"model": "sd15"}, "made for SD 1"),
        ({"model": "lora"}, "LoRA"),
        ({"weight": 9}, "2"),
        ({"start": 0.8, "end": 0.2}, "before the end"),
        ({"strength": 1}, "strength"),
        ({"mode": "magic"}, "depth"),
        ({"type": "depth"}, "preprocessors/depth"),
    ],
)
def test_a_control_that_cannot_be_is_refused_by_name(
    client: TestClient, settings: Settings, more: dict[str, Any], words: str
) -> None:
    write_header(settings.controlnet / "sd15.safetensors", SD15)
    write_header(settings.controlnet / "lora.safetensors", LORA)
    control = {"image": CIRCLE, "type": "canny", "model": "edges"} | more
    answer = client.post(JOBS, json={"prompt": "x", "controls": [control]} | SMALL)
    [name] = list(more)[:1]
    field = "controls[0]" if name == "strength" else f"controls[0].{name}"
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert words in answer.json()["error"]["message"]


def test_what_a_control_sees_is_shown_before(client: TestClient, services: Services) -> None:
    source = client.post("/api/v1/sources", content=circle()).json()["id"]
    told = client.post("/api/v1/sources/control", json={"image": source, "type": "canny", "width": 64, "height": 48})
    assert told.status_code == 201, told.text
    assert (told.json()["width"], told.json()["height"]) == (64, 48)
    shown = PIL.open(io.BytesIO(client.get(told.json()["url"]).content))
    assert np.array_equal(
        np.asarray(shown), np.asarray(control_picture(PIL.open(io.BytesIO(circle())), "canny", (64, 48)))
    )
    for field, value in (("image", "x"), ("type", "magic"), ("width", 0), ("height", 99_999)):
        body = {"image": source, "type": "canny", "width": 64, "height": 48, field: value}
        answer = client.post("/api/v1/sources/control", json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_a_preprocessor_with_a_model_runs_once_for_a_picture_and_version_of_the_model(
    client: TestClient, services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def made_of(picture: PIL.Image, model: vision_models.VisionModel, field: str, check: Any) -> PIL.Image:
        made.append((picture.size, model.kind, model.folder, field))
        return PIL.new("RGB", picture.size, (len(made), 0, 0))

    monkeypatch.setattr(vision_models, "preprocess", made_of)
    source = client.post("/api/v1/sources", content=circle()).json()["id"]
    wanted = {"image": source, "type": "depth", "width": 128, "height": 128}
    refused = client.post("/api/v1/sources/control", json=wanted)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "type")
    assert "depth-anything/" in refused.json()["error"]["message"]
    folder = settings.preprocessors / "depth"
    folder.mkdir()
    try:
        (folder / "config.json").write_text("{}")
        assert client.post("/api/v1/sources/control", json=wanted).status_code == 201
        body = {"prompt": "x", "controls": [{"image": source, "type": "depth"}], "width": 128, "height": 128}
        for _ in range(2):
            assert client.post(JOBS, json=body).status_code == 202
        assert made == [((128, 128), "depth", folder, "type")]
        assert seen(services, newest(services).controls[0]).getpixel((0, 0)) == (1, 0, 0)
        (folder / "config.json").write_text('{"other": 1}')
        assert client.post(JOBS, json=body).status_code == 202
        assert made[1:] == [((128, 128), "depth", folder, "controls[0].type")]
        masked = {"kind": "inpaint", "source": source, "mask": source, "inpaint_area": "Only masked"}
        assert client.post(JOBS, json=body | masked | {"outpaint": "left:64"}).status_code == 202
        assert made[2:] == [
            ((264, 160), "depth", folder, "controls[0].type")
        ]  # of the whole picture, for its area to be cut
    finally:
        shutil.rmtree(folder)


def test_a1111_lists_models_and_modules(client: TestClient) -> None:
    assert client.get("/controlnet/version").json()["version"] >= 2
    assert client.get("/controlnet/model_list").json() == {"model_list": ["edges"]}
    assert {"none", "canny"} <= set(client.get("/controlnet/module_list").json()["module_list"])
    types = client.get("/controlnet/control_types").json()["control_types"]["All"]
    assert types["model_list"] == ["None", "edges"]


def test_a1111_detects(client: TestClient) -> None:
    body = {"controlnet_module": "canny", "controlnet_input_images": [CIRCLE], "controlnet_processor_res": 128}
    answer = client.post("/controlnet/detect", json=body).json()
    made = PIL.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert (made.size, answer["info"]) == ((160, 128), "Success")
    assert made.getbbox() is not None
    for more in ({"controlnet_module": "openpose_full"}, {"controlnet_input_images": []}):
        assert client.post("/controlnet/detect", json=body | more).status_code == 422


def options(services: Services, body: Any) -> dict[str, Any]:
    return reading.translate(services.studio, services.settings, Aliases.parse(""), body, {}).options


def test_a1111_units_become_controls(services: Services) -> None:
    unit = {"enabled": True, "module": "canny", "model": "edges [d14c016b]", "image": CIRCLE, "weight": 0.5,
            "guidance_start": 0.1, "guidance_end": 0.9, "pixel_perfect": True, "control_mode": 0}  # fmt: skip
    off = {"enabled": False, "module": "depth"}
    body = reading.Wanted(prompt="x", **SMALL, alwayson_scripts={"ControlNet": {"args": [unit, off]}})
    services.studio.submit(**options(services, body))
    [control] = newest(services).controls
    assert (control.type, control.model, control.weight, control.start, control.end) == (
        ControlType.CANNY, "edges", 0.5, 0.1, 0.9,
    )  # fmt: skip
    unit = {"input_image": {"image": f"data:image/png;base64,{CIRCLE}", "mask": None}, "module": "none"}
    body = reading.Wanted(prompt="x", **SMALL, alwayson_scripts={"controlnet": {"args": [unit]}})
    services.studio.submit(**options(services, body))
    assert newest(services).controls[0].type == "none"


def test_a1111_fields_of_a_unit_that_have_no_effect_are_warned_of(services: Services) -> None:
    quiet = {"control_mode": "Balanced", "processor_res": -1, "threshold_a": None, "resize_mode": 1}
    loud = {"control_mode": "ControlNet is more important", "processor_res": 768, "threshold_a": 50, "threshold_b": 120}
    for given, expected in ((quiet, []), (loud, list(loud))):
        unit = {"module": "canny", "model": "edges", "image": CIRCLE} | given
        body = reading.Wanted(prompt="x", **SMALL, alwayson_scripts={"ControlNet": {"args": [unit]}})
        warnings = reading.translate(services.studio, services.settings, Aliases.parse(""), body, {}).warnings
        assert [each.partition(": ")[0].rpartition(".")[2] for each in warnings] == expected


def test_a1111_units_of_img2img_take_its_picture(services: Services) -> None:
    unit = {"module": "canny", "model": "edges"}
    scripts = {"controlnet": {"args": [unit]}}
    body = reading.Changed(prompt="x", **SMALL, init_images=[CIRCLE], alwayson_scripts=scripts)
    services.studio.submit(**options(services, body))
    params = newest(services)
    assert services.studio.sources.size(params.controls[0].image) == (200, 160)  # its source is in the size of the job


@pytest.mark.parametrize(
    "unit",
    [
        {"module": "canny"},
        {"module": "magic", "image": CIRCLE},
        {"model": "no", "image": CIRCLE},
        5,
        "edges",
        [[CIRCLE]],
    ],
)
def test_a1111_units_that_cannot_be_are_refused(client: TestClient, unit: Any) -> None:
    body = {"prompt": "x", "alwayson_scripts": {"ControlNet": {"args": [unit]}}} | SMALL
    answer = client.post(f"{API}/txt2img", json=body)
    assert answer.status_code == 422
    assert "alwayson_scripts.ControlNet" in answer.text


@pytest.mark.parametrize(
    ("script", "unit", "field"),
    [
        ("ControlNet", {"guidance_start": 0.8, "guidance_end": 0.2}, "guidance_start"),
        ("ControlNet", {"module": "depth"}, "module"),
        ("ControlNet", {"module": "inpaint"}, "module"),
        ("ControlNet", {"weight": 3}, "weight"),
        ("ControlNet", {"weight": float("nan")}, "weight"),
        ("ControlNet", {"image": "aGVsbG8="}, "image"),
        ("ControlNet", {"union_control_type": "Magic"}, "union_control_type"),
        ("ADetailer", {"ad_model": "face.pt", "ad_denoising_strength": 3}, "ad_denoising_strength"),
        ("ADetailer", {"ad_model": "face.pt", "ad_mask_k": 99}, "ad_mask_k"),
        ("ADetailer", {"ad_model": "face.pt"}, "ad_model"),
    ],
)
def test_a_fault_of_an_a1111_unit_is_told_by_its_own_names(
    client: TestClient, script: str, unit: dict[str, Any], field: str
) -> None:
    control = {"module": "canny", "model": "edges", "image": CIRCLE} if script == "ControlNet" else {}
    off = {"enabled": False} if control else False
    body = {"prompt": "x", "alwayson_scripts": {script: {"args": [True, off, control | unit]}}} | SMALL
    answer = client.post(f"{API}/txt2img", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith(f"alwayson_scripts.{script}.args[2].{field}: "), answer.text


def test_other_apis_take_controls_with_their_pictures(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture in Base64 may be larger than a body without one."""
    noise = np.random.default_rng(0).integers(0, 255, (800, 600, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.fromarray(noise).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    assert len(picture) > MOST_BYTES
    controls = [{"image": picture, "type": "canny", "weight": 0.7}]
    hands = Hands(services, draw_next)
    monkeypatch.setattr(Studio, "submit", lambda *given, **named: hands.submit(*given, **named))
    unit = {"module": "canny", "model": "edges", "image": picture, "weight": 0.7}
    bodies = {
        f"{API}/txt2img": SMALL | {"alwayson_scripts": {"ControlNet": {"args": [unit]}}},
        "/v1/images/generations": {"size": "128x128", "steps": 4, "controls": controls},
        "/predictions": {"input": SMALL | {"controls": controls, "prompt": "x"}},
    }
    seen = set()
    for path, body in bodies.items():
        answer = client.post(path, json={"prompt": "x"} | body)
        assert answer.status_code == 200, (path, answer.text[:500])
        [control] = newest(services).controls
        seen.add((control.image, control.model, control.weight))
    assert len(seen) == 1
    detected = {"controlnet_module": "canny", "controlnet_input_images": [picture]}
    assert client.post("/controlnet/detect", json=detected).status_code == 200
    assert client.post(f"{API}/interrogate", json={"image": picture}).status_code == 422  # no model, but not too large


def test_the_recipe_has_the_units_text(services: Services) -> None:
    from diffusion_local.options import a1111

    source = services.studio.sources.add(circle()).id
    services.studio.submit("x", controls=[{"image": source, "type": "canny", "model": "edges", "weight": 0.5}], **SMALL)
    text = a1111.format_recipe(newest(services))
    assert 'ControlNet 0: "Module: canny, Model: edges, Weight: 0.5, ' in text


def test_comfyuis_nodes(client: TestClient, services: Services) -> None:
    name = client.post("/upload/image", files={"image": ("c.png", circle(), "image/png")}).json()["name"]
    graph = txt2img()
    graph["20"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    graph["21"] = {"class_type": "Canny", "inputs": {"image": ["20", 0], "low_threshold": 0.4, "high_threshold": 0.8}}
    graph["22"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "edges"}}
    graph["23"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "control_net": ["22", 0], "image": ["21", 0],
                   "strength": 0.6, "start_percent": 0.1, "end_percent": 0.7},
    }  # fmt: skip
    graph["3"]["inputs"] |= {"positive": ["23", 0], "negative": ["23", 1]}
    answer = client.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 200, answer.text
    params = newest(services)
    [control] = params.controls
    assert (params.prompt, control.type, control.model) == ("a red apple", "canny", "edges")
    assert (control.weight, control.start, control.end) == (0.6, 0.1, 0.7)
    graph["22"]["inputs"]["control_net_name"] = "gone"
    assert client.post("/prompt", json={"prompt": graph}).status_code == 400
    assert "ControlNetApply" in client.get("/object_info").json()
