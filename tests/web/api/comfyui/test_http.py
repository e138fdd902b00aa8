"""ComfyUI's routes: prompts, queue, history, files and lists, each caller's own."""

import io
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.calls import PerAccount
from diffusion_local.web.api.dialects.comfyui.graph import translate
from diffusion_local.web.api.dialects.comfyui.nodes import SAMPLER_NAMES, SCHEDULERS
from diffusion_local.web.api.dialects.comfyui.submitting import Uploads, names_of, options_of
from tests.support import claimed
from tests.web.api.comfyui.graphs import TXT2IMG, Graph, img2img, txt2img, upscale
from tests.web.api.conftest import Hands, draw_next, fail_next
from tests.web.authority.scene import png
from tests.web.conftest import client_of, made, services_of

PASSWORD = "correct horse"


def submit(client: TestClient, graph: Any, **more: Any) -> dict[str, Any]:
    answer = client.post("/prompt", json={"prompt": graph} | more)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def upload(client: TestClient, data: bytes, name: str = "apple.png", **fields: str) -> dict[str, Any]:
    answer = client.post("/upload/image", files={"image": (name, data, "image/png")}, data=fields)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def params(services: Services) -> Any:
    return services.studio.jobs(limit=1)[0].params


def clear(size: tuple[int, int] = (128, 128)) -> bytes:
    """A picture whose left half is clear."""
    picture = PIL.new("RGBA", size, "red")
    picture.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_a_prompt_from_its_submit_to_its_picture(client: TestClient, services: Services) -> None:
    answer = submit(client, TXT2IMG, client_id="c")
    prompt_id = answer["prompt_id"]
    assert answer["node_errors"] == {}
    assert client.get("/history/" + prompt_id).json() == {}
    queue = client.get("/queue").json()
    assert [each[:3] for each in queue["queue_pending"]] == [[answer["number"], prompt_id, TXT2IMG]]
    assert client.get("/prompt").json() == {"exec_info": {"queue_remaining": 1}}
    job = claimed(services.jobs)
    assert [each[1] for each in client.get("/queue").json()["queue_running"]] == [prompt_id]
    services.jobs.requeue(job.claim, "test")
    draw_next(services)
    assert client.get("/queue").json() == {"queue_running": [], "queue_pending": []}
    entry = client.get("/history/" + prompt_id).json()[prompt_id]
    assert entry["prompt"][1:] == [prompt_id, TXT2IMG, {"client_id": "c"}, ["9"]]
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("success", True)
    [image] = entry["outputs"]["9"]["images"]
    assert (image["subfolder"], image["type"]) == ("", "output")
    picture = client.get("/view", params=image)
    assert (picture.headers["Content-Type"], picture.content[:4]) == ("image/png", b"\x89PNG")
    small = client.get("/view", params=image | {"preview": "webp;80"})
    assert PIL.open(io.BytesIO(small.content)).format == "WEBP"
    assert client.get("/history").json()[prompt_id] == entry
    assert (params(services).seed, params(services).guidance, params(services).sampler) == (7, 6.5, "Euler")


@pytest.mark.parametrize("prefix", ["", "/api", "/comfyui", "/comfyui/api"])
def test_the_routes_under_every_prefix(client: TestClient, prefix: str) -> None:
    for path in ("/prompt", "/queue", "/history", "/object_info", "/object_info/KSampler", "/system_stats"):
        answer = client.get(prefix + path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json"), path
    assert client.post(prefix + "/prompt", json={"prompt": {}}).json()["error"]["type"] == "prompt_no_outputs"
    assert client.get("/api/v1/jobs").status_code == 200
    assert client.get("/comfyui").status_code == client.get("/comfyui/nothing").status_code == 404


def test_an_id_of_the_clients_own_is_one_prompt(client: TestClient, services: Services) -> None:
    before = len(services.studio.jobs(limit=1000))
    for _ in range(2):
        assert submit(client, TXT2IMG, prompt_id="my-own")["prompt_id"] == "my-own"
    assert len(services.studio.jobs(limit=1000)) == before + 1
    other = client.post("/prompt", json={"prompt": txt2img(KSampler={"steps": 5}), "prompt_id": "my-own"})
    assert other.status_code == 409
    draw_next(services)
    assert list(client.get("/history/my-own").json()) == ["my-own"]


def test_prompts_survive_a_restart(client: TestClient, services: Services) -> None:
    prompt_id = submit(client, TXT2IMG, client_id="c")["prompt_id"]
    again = client_of(services, page=False)
    assert [each[1] for each in again.get("/queue").json()["queue_pending"]] == [prompt_id]
    draw_next(services)
    assert again.get("/history/" + prompt_id).json()[prompt_id]["outputs"]["9"]


def test_what_is_unknown_is_told_apart_from_what_waits(client: TestClient) -> None:
    prompt_id = submit(client, TXT2IMG)["prompt_id"]
    waiting, unknown = client.get("/history/" + prompt_id), client.get("/history/unknown")
    assert (waiting.status_code, waiting.json()) == (200, {})
    assert (unknown.status_code, unknown.json()) == (404, {})


def test_a_prompt_that_failed_says_why(client: TestClient, services: Services) -> None:
    prompt_id = submit(client, TXT2IMG)["prompt_id"]
    fail_next(services)
    status = client.get("/history/" + prompt_id).json()[prompt_id]["status"]
    kind, result = status["messages"][-1]
    assert (status["status_str"], status["completed"], kind) == ("error", False, "execution_error")
    assert (result["node_id"], result["node_type"], result["exception_message"]) == ("3", "KSampler", "it broke")


def test_a_batch_is_several_pictures(client: TestClient, drawing: Hands) -> None:
    prompt_id = submit(client, txt2img(EmptyLatentImage={"batch_size": 3}))["prompt_id"]
    assert len(client.get("/history/" + prompt_id).json()[prompt_id]["outputs"]["9"]["images"]) == 3


def test_deleting_and_interrupting(client: TestClient, services: Services) -> None:
    first, second, third = (submit(client, TXT2IMG)["prompt_id"] for _ in range(3))
    job = claimed(services.jobs)
    assert client.post("/interrupt").status_code == 200
    assert services.studio.job(job.id).cancel_requested
    services.jobs.stop(job.claim)
    status = client.get("/history/" + first).json()[first]["status"]
    assert status["messages"][-1][0] == "execution_interrupted"
    client.post("/queue", json={"delete": [second]})
    assert [each[1] for each in client.get("/queue").json()["queue_pending"]] == [third]
    client.post("/interrupt", json={"prompt_id": third})  # it waits, and only what runs is interrupted
    assert [each[1] for each in client.get("/queue").json()["queue_pending"]] == [third]
    client.post("/queue", json={"clear": True})
    assert client.get("/prompt").json()["exec_info"]["queue_remaining"] == 0
    client.post("/history", json={"delete": [first]})
    assert client.get("/history/" + first).status_code == 404
    client.post("/history", json={"clear": True})
    assert client.get("/history").json() == {}


def test_an_upload_is_named_by_us_or_by_its_sender(client: TestClient, services: Services) -> None:
    result = upload(client, png("blue"), "my apple.png", subfolder="", overwrite="true", type="input")
    assert (result["subfolder"], result["type"]) == ("", "input")
    for name in (result["name"], "my apple.png", result["name"] + " [input]"):
        submit(client, img2img(name, 0.5))
        assert (params(services).kind, params(services).strength) == ("img2img", 0.5)
        assert f"{params(services).source}.png" == result["name"]
        assert params(services).steps == 8  # ComfyUI makes all steps from a picture, whatever the strength
    shown = client.get("/view", params={"filename": result["name"], "type": "input"})
    assert shown.content[:4] == b"\x89PNG"
    image = made(services)
    submit(client, img2img(f"{image.id}.png [output]"))
    assert params(services).kind == "img2img"


def test_masks(client: TestClient, services: Services) -> None:
    result = upload(client, clear())
    for node in ("VAEEncodeForInpaint", "SetLatentNoiseMask"):
        submit(client, img2img(result["name"], 1, node))
        assert params(services).kind == "inpaint"
        data = services.studio.sources.file(params(services).mask).read_bytes()
        mask = PIL.open(io.BytesIO(data)).convert("L")
        assert (mask.getpixel((10, 10)), mask.getpixel((120, 10))) == (255, 0)
        assert mask.getpixel((65, 10)) == (255 if node == "VAEEncodeForInpaint" else 0)  # grown by some pixels
    whole = upload(client, png("blue"))
    answer = client.post("/prompt", json={"prompt": img2img(whole["name"], 1, "SetLatentNoiseMask")})
    assert answer.json()["node_errors"]["10"]["errors"][0]["message"] == "Empty mask"


def test_a_drawn_mask_becomes_the_pictures_alpha(client: TestClient, services: Services) -> None:
    original = upload(client, png("blue"))
    reference = json.dumps({"filename": original["name"], "type": "input", "subfolder": ""})
    answer = client.post(
        "/upload/mask", files={"image": ("mask.png", clear(), "image/png")}, data={"original_ref": reference}
    )
    assert answer.status_code == 200, answer.text
    submit(client, img2img(answer.json()["name"], 1, "SetLatentNoiseMask"))
    assert params(services).kind == "inpaint"
    for wrong in ("", "{", "[]", '{"filename": "../app.db"}', '{"filename": "unknown.png"}'):
        sent = {"image": ("mask.png", clear(), "image/png")}
        answer = client.post("/upload/mask", files=sent, data={"original_ref": wrong})
        assert answer.status_code in (400, 404), wrong


def test_what_the_model_cannot_do_is_fitted_and_said(client: TestClient, services: Services) -> None:
    graph = txt2img(
        EmptyLatentImage={"width": 1024, "height": 1024},
        KSampler={"sampler_name": "dpmpp_3m_sde", "scheduler": "beta", "steps": 500},
        CheckpointLoaderSimple={"ckpt_name": "model.safetensors"},
    )
    answer = " ".join(submit(client, graph)["warnings"])
    for name in ("size", "sampler_name", "scheduler", "steps", "model.safetensors"):
        assert name in answer
    made = params(services)
    assert (made.width, made.height, made.steps, made.sampler) == (512, 512, 100, "DPM++ 2M SDE")


def test_every_listed_sampler_with_every_listed_scheduler(services: Services) -> None:
    studio, uploads = services.studio, Uploads(PerAccount())
    names = names_of(studio, Aliases.parse(""))
    for sampler in SAMPLER_NAMES:
        for scheduler in SCHEDULERS:
            plan = translate(txt2img(KSampler={"sampler_name": sampler, "scheduler": scheduler}), names)
            studio.submit(**options_of(studio, plan, uploads, strict=False)[0])


def test_lists(client: TestClient) -> None:
    info = client.get("/object_info/").json()
    assert info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == ["starter"]
    assert list(client.get("/object_info/KSampler").json()) == ["KSampler"]
    assert client.get("/object_info/Nothing").json() == {}
    assert "checkpoints" in client.get("/models").json()
    assert client.get("/models/checkpoints").json() == ["starter"]
    assert client.get("/models/nothing").status_code == 404
    assert client.get("/embeddings").json() == client.get("/extensions").json() == []
    stats = client.get("/system_stats").json()
    assert {"os", "ram_total", "comfyui_version", "python_version"} <= set(stats["system"])
    assert client.post("/free", json={"unload_models": True}).status_code == 200


@pytest.mark.parametrize(
    ("graph", "node", "input"),
    [
        (txt2img(EmptyLatentImage={"width": 16384, "height": 17000}), "5", "height"),
        (txt2img(EmptyLatentImage={"batch_size": 4096}), "5", "batch_size"),
        (txt2img(KSampler={"steps": 50_000}), "3", "steps"),
        (txt2img(CLIPTextEncode={"text": ""}), "6", "text"),
        (txt2img(CheckpointLoaderSimple={"ckpt_name": "sd_xl_base_1.0.safetensors"}), "4", "ckpt_name"),
        (img2img("unknown.png"), "10", "image"),
        (img2img("../../app.db"), "10", "image"),
        (img2img("0" * 64 + ".png"), "10", "image"),
        (img2img("0" * 26 + ".png"), "10", "image"),
        (img2img(""), "10", "image"),
        (upscale("unknown.png", "none"), "2", "model_name"),
    ],
)
def test_what_the_studio_refuses_is_said_at_its_node(
    client: TestClient, services: Services, graph: Graph, node: str, input: str
) -> None:
    before = len(services.studio.jobs(limit=1000))
    answer = client.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 400
    content = answer.json()
    assert content["error"]["type"] == "prompt_outputs_failed_validation"
    found = content["node_errors"][node]
    assert found["errors"][0]["extra_info"]["input_name"] == input
    assert found["class_type"] == graph[node]["class_type"]
    assert found["dependent_outputs"]
    assert len(services.studio.jobs(limit=1000)) == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"prompt": null}',
        b'{"prompt": 7}',
        b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}}',
        b'{"prompt": {"1": {"class_type": ["SaveImage"], "inputs": {}}}}',
        b'{"prompt": ' + json.dumps(TXT2IMG).encode() + b', "prompt_id": 7}',
        b'{"prompt": ' + json.dumps(TXT2IMG).encode() + b', "client_id": {"a": 1}}',
        b'{"prompt": ' + json.dumps(TXT2IMG).encode() + b', "prompt_id": "' + b"x" * 500 + b'"}',
        b'{"prompt": ' + b"[" * 50_000,
        b'{"prompt": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b'{"prompt": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"\xff\xfe",
    ],
)
def test_bodies_that_are_no_prompt(client: TestClient, services: Services, body: bytes) -> None:
    before = len(services.studio.jobs(limit=1000))
    answer = client.post("/prompt", content=body)
    assert answer.status_code in (400, 413)
    assert "error" in answer.json()
    assert len(services.studio.jobs(limit=1000)) == before


def test_a_prompt_that_is_too_large_to_keep(client: TestClient) -> None:
    graph = txt2img()
    graph["50"] = {"class_type": "Note", "inputs": {"text": "x" * 500_000}}
    answer = client.post("/prompt", json={"prompt": graph})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_prompt")


@pytest.mark.parametrize(
    "filename", ["", "../app.db", "/etc/passwd", "x.png", "0" * 26 + ".png", "0" * 64 + ".png", "\x00", "a" * 10_000]
)
def test_files_that_are_not_there(client: TestClient, filename: str) -> None:
    assert client.get("/view", params={"filename": filename}).status_code == 404


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("body", [{"delete": "x"}, {"delete": [1]}, {"delete": {}}])
def test_lists_of_ids_that_are_none(client: TestClient, path: str, body: Any) -> None:
    assert client.post(path, json=body).status_code == 400


# -- with accounts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["own", "shared"])
def guarded(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[TestClient, Services, dict[str, dict[str, str]]]:
    """(client, services, headers of tokens by name). Where all is shared, a prompt is still its owner's."""
    services = services_of(tmp_path_factory, share=request.param)
    services.studio.accounts.add("root", PASSWORD)
    for name, role in (("ann", "user"), ("bob", "user"), ("eve", "viewer")):
        services.studio.accounts.add(name, PASSWORD, role)
    scopes = {"ann": ["submit", "control"], "bob": ["submit", "control"], "eve": []}
    tokens = {name: services.studio.accounts.add_token(name, "test", of)[1] for name, of in scopes.items()}
    return (
        client_of(services, page=False),
        services,
        {name: {"Authorization": f"Bearer {each}"} for name, each in tokens.items()},
    )


def test_nobody_comes_in_without_a_token(guarded: Any) -> None:
    client, _, _ = guarded
    for path in ("/prompt", "/queue", "/history", "/object_info", "/system_stats", "/comfyui/queue", "/api/queue"):
        assert client.get(path).status_code == 401
    assert client.post("/prompt", json={"prompt": TXT2IMG}).status_code == 401


def test_everything_is_the_callers_own(guarded: Any) -> None:
    client, services, headers = guarded
    ann, bob, eve = headers["ann"], headers["bob"], headers["eve"]
    refused = client.post("/prompt", json={"prompt": TXT2IMG}, headers=eve)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "forbidden")
    prompt_id = client.post("/prompt", json={"prompt": TXT2IMG, "prompt_id": "one"}, headers=ann).json()["prompt_id"]
    assert client.get("/queue", headers=bob).json() == {"queue_running": [], "queue_pending": []}
    assert client.get("/prompt", headers=bob).json()["exec_info"]["queue_remaining"] == 0
    client.post("/queue", json={"clear": True, "delete": [prompt_id]}, headers=bob)
    job = claimed(services.jobs)
    client.post("/interrupt", json={"prompt_id": prompt_id}, headers=bob)
    client.post("/interrupt", headers=bob)
    assert not services.studio.job(job.id).cancel_requested
    services.jobs.requeue(job.claim, "test")
    draw_next(services)
    assert client.get("/history", headers=bob).json() == {}
    assert client.get("/history/" + prompt_id, headers=bob).status_code == 404
    client.post("/history", json={"clear": True, "delete": [prompt_id]}, headers=bob)
    [image] = client.get("/history/" + prompt_id, headers=ann).json()[prompt_id]["outputs"]["9"]["images"]
    assert client.get("/view", params=image, headers=bob).status_code == 404
    assert client.get("/view", params=image, headers=ann).status_code == 200
    other = client.post("/prompt", json={"prompt": txt2img(KSampler={"steps": 5}), "prompt_id": "one"}, headers=bob)
    assert other.status_code == 200  # ids are each account's own
    services.studio.queue.cancel(waiting=True)


def test_uploads_are_the_callers_own(guarded: Any) -> None:
    client, _, headers = guarded
    sent = {"image": ("mine.png", png("green"), "image/png")}
    name = client.post("/upload/image", files=sent, headers=headers["ann"]).json()["name"]
    assert client.get("/view", params={"filename": name}, headers=headers["ann"]).status_code == 200
    for each in (name, "mine.png"):
        answer = client.post("/prompt", json={"prompt": img2img(each)}, headers=headers["bob"])
        assert answer.status_code == 400
        assert client.get("/view", params={"filename": each}, headers=headers["bob"]).status_code == 404
    assert client.post("/upload/image", files=sent, headers=headers["eve"]).status_code == 403
