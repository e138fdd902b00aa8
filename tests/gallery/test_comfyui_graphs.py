"""ComfyUI's graphs: values behind links, samplers made of several nodes, and drawn workflows."""

import copy
import io
import json
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.gallery import recipes
from tests.gallery.test_foreign_recipes import GRAPH, png

READ = {
    "prompt": "a green hill", "negative": "fog", "seed": 42, "steps": 20, "guidance": 8.0, "sampler": "DPM++ 2M",
    "schedule": "Karras", "model": "hill_v1", "width": 832, "height": 1216, "loras": [{"name": "ink", "weight": 0.8}],
}  # fmt: skip
FLUX: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux/dev.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a green hill", "clip": ["9", 0]}},
    "3": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["2", 0]}},
    "4": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}},
    "5": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "6": {
        "class_type": "BasicScheduler",
        "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1, "model": ["1", 0]},
    },
    "7": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["3", 0]}},
    "8": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 832, "height": 1216, "batch_size": 1}},
    "10": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["4", 0],
            "guider": ["7", 0],
            "sampler": ["5", 0],
            "sigmas": ["6", 0],
            "latent_image": ["8", 0],
        },
    },
}


def read(graph: dict[str, Any]) -> recipes.Recipe:
    return recipes.read_picture(png({"prompt": json.dumps(graph)}))


def changed(node: str, more: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    graph = copy.deepcopy(GRAPH)
    graph[node]["inputs"] |= inputs
    return graph | (more or {})


@pytest.mark.parametrize(
    ("node", "inputs", "more"),
    [
        ("3", {"text": ["20", 0]}, {"20": {"class_type": "PrimitiveString", "inputs": {"value": "a green hill"}}}),
        ("6", {"seed": ["20", 0]}, {"20": {"class_type": "Seed (rgthree)", "inputs": {"seed": 42}}}),
        (
            "6",
            {"steps": ["20", 0]},
            {
                "20": {"class_type": "Reroute", "inputs": {"": ["21", 0]}},
                "21": {"class_type": "PrimitiveInt", "inputs": {"value": 20}},
            },
        ),
        (
            "3",
            {"text": ["20", 0]},
            {
                "20": {
                    "class_type": "StringConcatenate",
                    "inputs": {"string_a": "a green", "string_b": "hill", "delimiter": " "},
                }
            },
        ),
        ("1", {"ckpt_name": ["20", 0]}, {"20": {"class_type": "String", "inputs": {"string": "hill_v1.safetensors"}}}),
    ],
)
def test_a_value_behind_a_link_is_read(node: str, inputs: dict[str, Any], more: dict[str, Any]) -> None:
    assert read(changed(node, more, **inputs)).settings == READ


@pytest.mark.parametrize(
    ("node", "name", "link", "told"),
    [
        ("6", "seed", ["99", 0], "linked to a node that is missing"),
        ("3", "text", ["3", 0], "linked to CLIPTextEncode"),
        ("6", "cfg", ["1", 0], "linked to CheckpointLoaderSimple"),
    ],
)
def test_a_value_that_is_not_found_behind_its_link_is_named(node: str, name: str, link: list[Any], told: str) -> None:
    found = read(changed(node, None, **{name: link}))
    if name == "cfg":
        assert found.others  # without it sd-parsers sees no sampler
    else:
        assert found.others[f"{GRAPH[node]['class_type']}.{name}"] == told


def test_a_lora_that_no_sampler_uses_is_named_as_such() -> None:
    loose = {"20": {"class_type": "LoraLoader", "inputs": {"lora_name": "moss.safetensors", "strength_model": 1}}}
    found = read(changed("3", loose))
    assert found.settings == READ
    assert found.others["LoRA moss"] == "not connected"


def test_loras_that_one_node_switches_on_are_read() -> None:
    graph = changed("3")
    graph["2"] = {
        "class_type": "Power Lora Loader (rgthree)",
        "inputs": {
            "lora_1": {"on": True, "lora": "ink.safetensors", "strength": 0.8},
            "lora_2": {"on": False, "lora": "moss.safetensors", "strength": 1},
            "model": ["1", 0],
            "clip": ["1", 1],
        },
    }
    assert read(graph).settings == READ


def test_a_loader_that_is_also_the_empty_picture_gives_its_size() -> None:
    graph = changed("6", latent_image=["1", 3])
    del graph["5"]
    graph["1"]["inputs"] |= {"empty_latent_width": 832, "empty_latent_height": 1216, "lora_name": "None"}
    assert read(graph).settings == READ


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider"])
def test_a_sampler_made_of_several_nodes_is_read_as_one(guider: str) -> None:
    graph = copy.deepcopy(FLUX)
    expected = {
        "prompt": "a green hill", "seed": 42, "steps": 20, "guidance": 3.5, "sampler": "Euler", "model": "dev",
        "width": 832, "height": 1216,
    }  # fmt: skip
    if guider == "CFGGuider":
        graph["11"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["9", 0]}}
        inputs = {"model": ["1", 0], "positive": ["2", 0], "negative": ["11", 0], "cfg": 5}
        graph["7"] = {"class_type": guider, "inputs": inputs}
        del graph["3"]
        expected |= {"negative": "fog", "guidance": 5.0}
    assert read(graph).settings == expected


def test_the_texts_of_a_node_with_several_encoders_are_read_or_named() -> None:
    graph = changed("3")
    graph["3"] = {
        "class_type": "CLIPTextEncodeFlux",
        "inputs": {"clip_l": "hill", "t5xxl": "a green hill", "guidance": 3.5, "clip": ["2", 1]},
    }
    found = read(graph)
    assert found.settings == READ
    assert found.others["CLIPTextEncodeFlux.text 2"] == "hill"
    assert found.others["CLIPTextEncodeFlux.guidance"] == "3.5"
    graph["3"] = {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a green hill", "text_l": "a green hill"}}
    assert read(graph).settings == READ


@pytest.mark.parametrize("layer", ["x", None, [1], 1e999, True])
def test_a_strange_value_of_one_node_costs_nothing_else(layer: Any) -> None:
    more = {"20": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": layer, "clip": ["1", 1]}}}
    assert read(changed("3", more)).settings["prompt"] == "a green hill"


def drawn() -> dict[str, Any]:
    """GRAPH as ComfyUI's page keeps it."""
    names = ("model", "clip", "positive", "negative", "latent_image")
    links: list[list[Any]] = []
    nodes = []
    for id, node in GRAPH.items():
        inputs = []
        for name, value in node["inputs"].items():
            if name in names and isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(id), len(inputs), name.upper()])
                inputs.append({"name": name, "type": name.upper(), "link": len(links)})
        values = [value for value in node["inputs"].values() if not isinstance(value, list)]
        if node["class_type"] == "KSampler":
            values.insert(1, "randomize")
        nodes.append({"id": int(id), "type": node["class_type"], "mode": 0, "inputs": inputs, "widgets_values": values})
    return {"version": 0.4, "nodes": nodes, "links": links}


def test_a_drawn_workflow_is_read_where_the_executed_graph_is_missing() -> None:
    workflow = drawn()
    assert recipes.read_picture(png({"workflow": json.dumps(workflow)})).settings == READ
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    workflow["links"] = [dict(zip(names, link, strict=True)) for link in workflow["links"]]
    assert recipes.read_picture(png({"workflow": json.dumps(workflow)})).settings == READ


@pytest.mark.parametrize(
    "workflow",
    ["[" * 99_999, "{}", '{"nodes": 3, "links": []}', '{"nodes": [], "links": [[1]]}', '{"nodes": [{}], "links": []}'],
)
def test_a_damaged_workflow_is_no_recipe(workflow: str) -> None:
    with pytest.raises(Exception, match="has no readable recipe"):
        recipes.read_picture(png({"workflow": workflow}))


def test_graphs_in_the_tags_of_other_formats_are_read() -> None:
    exif, data = PIL.Exif(), io.BytesIO()
    exif[0x010F], exif[0x0110] = "workflow:" + json.dumps(drawn()), "prompt:" + json.dumps(GRAPH)
    PIL.new("RGB", (16, 16)).save(data, "WEBP", exif=exif)
    assert recipes.read_picture(data.getvalue()).settings == READ
