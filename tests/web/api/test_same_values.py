"""An odd value means the same picture at every interface, or is refused by the caller's name of the field."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from tests.support import every
from tests.web.api.comfyui.graphs import txt2img
from tests.web.api.conftest import Hands

BASE = {
    "prompt": "a red apple",
    "width": 128,
    "height": 128,
    "steps": 4,
    "seed": 7,
    "guidance": 6.5,
    "sampler": "Euler",
    "negative": "",
}
Given = dict[str, Any]


def post(client: TestClient, path: str, body: Any) -> Any:
    return client.post(path, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


def renamed(given: Given, **names: str) -> Given:
    return {names.get(name, name): value for name, value in given.items()} | {"fit": "strict"}


def native(client: TestClient, given: Given) -> Any:
    return post(client, "/api/v1/jobs", given)


def openai(client: TestClient, given: Given) -> Any:
    size = f"{given['width']}x{given['height']}"
    rest = {name: value for name, value in given.items() if name not in ("width", "height")}
    return post(client, "/v1/images/generations", renamed(rest) | {"size": size})


def a1111(client: TestClient, given: Given) -> Any:
    body = renamed(given, guidance="cfg_scale", sampler="sampler_name", negative="negative_prompt")
    return post(client, "/sdapi/v1/txt2img", body)


def comfyui(client: TestClient, given: Given) -> Any:
    sampled = {"seed": given["seed"], "steps": given["steps"], "cfg": given["guidance"]}
    graph = txt2img(KSampler=sampled, EmptyLatentImage={name: given[name] for name in ("width", "height")})
    graph["6"]["inputs"]["text"], graph["7"]["inputs"]["text"] = given["prompt"], given["negative"]
    return post(client, "/prompt", {"prompt": graph})


def cog(client: TestClient, given: Given) -> Any:
    body = renamed(given, steps="num_inference_steps", guidance="guidance_scale", sampler="scheduler")
    return post(client, "/predictions", {"input": body})


def jsonl(client: TestClient, given: Given) -> Any:
    content = json.dumps(given).encode()
    return client.post("/api/v1/lists", content=content, headers={"Content-Type": "application/jsonl"})


def comma_separated(client: TestClient, given: Given) -> Any:
    file = io.StringIO()
    csv.writer(file).writerows([given, given.values()])
    return client.post("/api/v1/lists", content=file.getvalue().encode(), headers={"Content-Type": "text/csv"})


INTERFACES: list[Callable[[TestClient, Given], Any]] = [
    native,
    openai,
    a1111,
    comfyui,
    cog,
    jsonl,
    comma_separated,
]
#: How callers of the interfaces know our fields.
NAMES = {
    "steps": ("steps", "num_inference_steps"),
    "guidance": ("guidance", "cfg", "cfg_scale", "guidance_scale"),
    "width": ("width", "size"),
    "prompt": ("prompt", "text", "body"),
    "negative": ("negative", "negative_prompt", "text"),
}


@pytest.mark.parametrize("send", INTERFACES)
@pytest.mark.parametrize(
    ("field", "value"),
    every(
        3,
        [
            ("seed", 1.5),
            ("seed", True),
            ("seed", "x"),
            ("seed", 2**64),
            ("seed", -2),
            ("seed", float("nan")),
            ("steps", 0),
            ("steps", 3.5),
            ("steps", True),
            ("guidance", -1),
            ("guidance", True),
            ("guidance", float("inf")),
            ("guidance", "6,5"),
            ("width", 0),
            ("width", 130.5),
            ("width", "wide"),
            ("width", -128),
            ("prompt", " "),
            ("prompt", None),
            ("prompt", "half \ud800 of one"),
            ("prompt", "__nowhere__ car"),
            ("negative", "__nowhere__"),
        ],
    ),
)
def test_it_is_refused_by_its_name(
    client: TestClient, services: Services, send: Callable[..., Any], field: str, value: Any
) -> None:
    if send is comma_separated and value == "half \ud800 of one":
        pytest.skip("no file in UTF-8 can hold it")
    before = len(services.studio.jobs(limit=1000))
    answer = send(client, BASE | {field: value})
    assert answer.status_code in (400, 422), answer.text
    assert any(f"{name}:" in answer.text or f": {name}" in answer.text for name in NAMES.get(field, (field,)))
    assert len(services.studio.jobs(limit=1000)) == before


@pytest.mark.parametrize("send", INTERFACES)
@pytest.mark.parametrize(
    ("field", "value", "meant"),
    every(
        3,
        [
            ("seed", 0, 0),
            ("seed", "7", 7),
            ("steps", "5", 5),
            ("width", " 192 ", 192),
            ("guidance", "6.25", 6.25),
            ("guidance", 0, 0.0),
            ("sampler", "", "DPM++ 2M"),
            ("prompt", r"\{a|b\} car", "{a|b} car"),
            ("prompt", "{a|a} car", "a car"),
            ("negative", "{c|c}", "c"),
            ("prompt", r"\(x\) (y:1.2)", r"\(x\) (y:1.2)"),
            ("negative", "<lora:nowhere:1> z", "z"),
        ],
    ),
)
def test_it_means_the_same(
    client: TestClient, services: Services, drawing: Hands, send: Callable[..., Any], field: str, value: Any, meant: Any
) -> None:
    if field == "sampler" and send is comfyui:
        pytest.skip("its node has a list of samplers, which must be chosen from as in ComfyUI")
    answer = send(client, BASE | {field: value})
    assert answer.status_code in (200, 201, 202), answer.text
    params = services.studio.jobs(limit=1)[0].params
    assert {name: getattr(params, name) for name in BASE} == BASE | {field: meant}


@pytest.mark.parametrize("place", ["\ud800", "_meta", "node"])
def test_half_a_character_anywhere_in_a_graph_is_refused(client: TestClient, place: str) -> None:
    graph = txt2img()
    if place == "node":
        graph["\ud800"] = {"class_type": "\ud800", "inputs": {}}
    elif place == "_meta":
        graph["6"]["_meta"] = {"title": "\ud800"}
    else:
        graph["4"]["inputs"]["ckpt_name"] = place
    answer = post(client, "/prompt", {"prompt": graph})
    assert (answer.status_code, "half a character" in answer.text) == (400, True)
