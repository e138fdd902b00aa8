"""The requests of ComfyUI's usual clients, one after the other as their own code sends them."""

import json
import random
import urllib.parse
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from tests.web.api.comfyui.test_socket import URL, over, until
from tests.web.api.conftest import Hands, draw_next, fail_next
from tests.web.authority.scene import png

#: What Open WebUI sends where nobody chose another workflow.
OPEN_WEBUI: dict[str, Any] = {
    "3": {
        "inputs": {
            "seed": 0,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
        "class_type": "KSampler",
        "_meta": {"title": "KSampler"},
    },
    "4": {
        "inputs": {"ckpt_name": "model.safetensors"},
        "class_type": "CheckpointLoaderSimple",
        "_meta": {"title": "Load Checkpoint"},
    },
    "5": {
        "inputs": {"width": 512, "height": 512, "batch_size": 1},
        "class_type": "EmptyLatentImage",
        "_meta": {"title": "Empty Latent Image"},
    },
    "6": {
        "inputs": {"text": "Prompt", "clip": ["4", 1]},
        "class_type": "CLIPTextEncode",
        "_meta": {"title": "CLIP Text Encode (Prompt)"},
    },
    "7": {
        "inputs": {"text": "", "clip": ["4", 1]},
        "class_type": "CLIPTextEncode",
        "_meta": {"title": "CLIP Text Encode (Prompt)"},
    },
    "8": {
        "inputs": {"samples": ["3", 0], "vae": ["4", 2]},
        "class_type": "VAEDecode",
        "_meta": {"title": "VAE Decode"},
    },
    "9": {
        "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
        "class_type": "SaveImage",
        "_meta": {"title": "Save Image"},
    },
}
#: SillyTavern's default workflow, with its placeholders.
SILLYTAVERN = """{
    "3": {"class_type": "KSampler", "inputs": {"cfg": "%scale%", "denoise": 1, "latent_image": ["5", 0],
        "model": ["4", 0], "negative": ["7", 0], "positive": ["6", 0], "sampler_name": "%sampler%",
        "scheduler": "%scheduler%", "seed": "%seed%", "steps": "%steps%"}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "%model%"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": "%height%", "width": "%width%"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "%prompt%"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "%negative_prompt%"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "SillyTavern", "images": ["8", 0]}}
}"""
AGENT = {"User-Agent": "Mozilla/5.0", "Authorization": "Bearer "}


def test_open_webui_makes_a_picture(client: TestClient, services: Services) -> None:
    info = client.get("/object_info", headers=AGENT).json()
    key = next(each for each in info["CheckpointLoaderSimple"]["input"]["required"] if "_name" in each)
    [model] = info["CheckpointLoaderSimple"]["input"]["required"][key][0]
    workflow = json.loads(json.dumps(OPEN_WEBUI))
    workflow["4"]["inputs"][key] = model
    workflow["6"]["inputs"]["text"] = "a red apple"
    workflow["3"]["inputs"]["seed"] = random.randint(2**32, 1125899906842624)
    workflow["3"]["inputs"]["steps"] = 4
    with client.websocket_connect(URL + "/ws?clientId=openwebui", headers=AGENT) as socket:
        sent = {"prompt": workflow, "client_id": "openwebui"}
        prompt_id = client.post("/prompt", json=sent, headers=AGENT).json()["prompt_id"]
        draw_next(services)
        received = until(socket, lambda each: over(each) and each["data"]["prompt_id"] == prompt_id)
        assert received
    history = client.get(f"/history/{prompt_id}", headers=AGENT).json()[prompt_id]
    [image] = [
        image
        for node_id, output in history["outputs"].items()
        if workflow[node_id].get("class_type") in ("SaveImage", "PreviewImage")
        for image in output["images"]
    ]
    query = urllib.parse.urlencode({each: image[each] for each in ("filename", "subfolder", "type")})
    picture = client.get(f"/view?{query}", headers=AGENT)
    assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/png")
    made = services.studio.job(services.studio.jobs(limit=1)[0].id).params
    assert (made.prompt, made.model, made.width, made.steps, made.guidance) == ("a red apple", "starter", 512, 4, 8)


def test_open_webui_edits_a_picture(client: TestClient, services: Services) -> None:
    form = {"image": ("upload.png", png("blue"), "image/png")}
    name = client.post("/api/upload/image", files=form, data={"type": "input"}, headers=AGENT).json()["name"]
    workflow = json.loads(json.dumps(OPEN_WEBUI))
    workflow["4"]["inputs"]["ckpt_name"] = "starter"
    workflow["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
    workflow["10"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    workflow["3"]["inputs"] |= {"denoise": 0.6, "steps": 4}
    with client.websocket_connect(URL + "/ws?clientId=edit", headers=AGENT) as socket:
        sent = {"prompt": workflow, "client_id": "edit"}
        prompt_id = client.post("/prompt", json=sent, headers=AGENT).json()["prompt_id"]
        draw_next(services)
        until(socket, lambda each: over(each) and each["data"]["prompt_id"] == prompt_id)
    assert client.get(f"/history/{prompt_id}").json()[prompt_id]["outputs"]["9"]["images"]
    assert services.studio.jobs(limit=1)[0].params.kind == "img2img"


def sillytavern(client: TestClient, settings: dict[str, Any]) -> dict[str, Any]:
    """Its ``/api/sd/comfy`` router: ping, lists, generate; the history's entry of the prompt."""
    assert client.get("/system_stats").is_success
    info = client.get("/object_info").json()
    sampler = info["KSampler"]["input"]["required"]
    values = {
        "model": info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0][0],
        "sampler": sampler["sampler_name"][0][0],
        "scheduler": sampler["scheduler"][0][0],
    } | settings
    assert isinstance(info["VAELoader"]["input"]["required"]["vae_name"][0], list)
    assert isinstance(info["UNETLoader"]["input"]["required"]["unet_name"][0], list)
    workflow = SILLYTAVERN
    for name, value in values.items():
        workflow = workflow.replace(f'"%{name}%"', json.dumps(value))
    answer = client.post(
        "/prompt", content=f'{{"prompt": {workflow}}}', headers={"Content-Type": "text/plain;charset=UTF-8"}
    )
    assert answer.is_success, answer.text
    history = client.get("/history").json()
    entry: dict[str, Any] = history[answer.json()["prompt_id"]]
    return entry


SETTINGS = {
    "prompt": 'a "red" apple',
    "negative_prompt": "blurry",
    "scale": 7,
    "steps": 20,
    "width": 512,
    "height": 512,
    "seed": 2**50,
}


def test_sillytavern_makes_a_picture(client: TestClient, services: Services, drawing: Hands) -> None:
    item = sillytavern(client, SETTINGS)
    assert item["status"]["status_str"] != "error"
    [image] = [image for output in item["outputs"].values() for image in output["images"]]
    query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
    assert client.get(f"/view?{query}").content.startswith(b"\x89PNG")
    assert services.studio.jobs(limit=1)[0].params.prompt == 'a "red" apple'


def test_sillytavern_hears_of_a_failure(client: TestClient, failing: Hands) -> None:
    item = sillytavern(client, SETTINGS)
    assert item["status"]["status_str"] == "error"
    [error] = [result for kind, result in item["status"]["messages"] if kind == "execution_error"]
    line = f"{error['node_type']} [{error['node_id']}] {error['exception_type']}: {error['exception_message']}"
    assert line == "KSampler [3] engine_error: it broke"


def test_sillytavern_interrupts(client: TestClient) -> None:
    assert client.post("/interrupt", headers={"Authorization": "Basic Og=="}).is_success


@pytest.mark.parametrize("ends", [draw_next, fail_next])
def test_comfyui_sdk_runs_a_prompt(client: TestClient, services: Services, ends: Any) -> None:
    """@saintno/comfyui-sdk: ``init``, then ``CallWrapper.run`` with its listeners."""
    headers = {"Comfy-User": "sdk"}
    with client.websocket_connect(URL + "/ws?clientId=sdk") as socket:
        [first] = until(socket, lambda received: received["type"] == "status")
        assert first["data"]["sid"] == "sdk"
        assert "exec_info" in client.get("/prompt", headers=headers).json()
        assert client.get("/system_stats", headers=headers).json()["system"]["os"]
        for absent in ("/manager/queue/status", "/crystools/monitor"):  # its optional features
            assert client.get(absent, headers=headers).status_code == 404
        checkpoints = client.get("/object_info/CheckpointLoaderSimple", headers=headers).json()
        [model] = checkpoints["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
        assert client.get("/object_info/", headers=headers).json()["LoraLoader"]["input"]["required"]["lora_name"]
        workflow = json.loads(json.dumps(OPEN_WEBUI))
        workflow["4"]["inputs"]["ckpt_name"] = model
        body = json.dumps({"client_id": "sdk", "prompt": workflow, "front": True})
        plain = headers | {"Content-Type": "text/plain;charset=UTF-8"}  # it leaves the media type out
        prompt_id = client.post("/prompt", content=body, headers=plain).json()["prompt_id"]
        ends(services)
        received = until(socket, over)
        mine = [each for each in received if each["type"] != "status" and each["data"]["prompt_id"] == prompt_id]
        assert mine[1]["type"] == "execution_cached"
        history = client.get(f"/history/{prompt_id}", headers=headers).json()[prompt_id]
        if ends is draw_next:
            [executed] = [each["data"] for each in mine if each["type"] == "executed"]
            assert (executed["node"], history["status"]["completed"]) == ("9", True)
            [image] = executed["output"]["images"]
            query = f"filename={image['filename']}&type={image['type']}&subfolder={image['subfolder']}"
            assert client.get(f"/view?{query}", headers=headers).is_success
        else:
            [error] = [each["data"] for each in mine if each["type"] == "execution_error"]
            assert (error["exception_type"], history["status"]["completed"]) == ("engine_error", False)
    image = client.post(
        "/upload/image",
        files={"image": ("a.png", png("red"), "application/octet-stream")},
        data={"subfolder": "", "overwrite": "false"},
        headers=headers,
    ).json()
    reference = json.dumps(image | {"filename": image["name"]})
    mask = {"image": ("mask.png", png("blue"), "image/png")}
    assert client.post("/upload/mask", files=mask, data={"original_ref": reference}, headers=headers).is_success
    assert client.get("/history?max_items=200", headers=headers).is_success
    assert client.get("/queue", headers=headers).json() == {"queue_running": [], "queue_pending": []}
    assert client.post("/free", content='{"unload_models":true,"free_memory":true}', headers=plain).is_success
    assert client.post("/interrupt", headers=headers).is_success
