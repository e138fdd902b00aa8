"""Recipes of other programs: what is recognised is read, what is not used is named, and nothing else is a recipe."""

import html
import io
import json
from typing import Any

import pytest
from PIL import ExifTags
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo

from diffusion_local.errors import InvalidParams
from diffusion_local.gallery import comfyui_graphs, foreign_recipes, recipes

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl\\hill_v1.safetensors"}},
    "2": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "ink.safetensors",
            "strength_model": 0.8,
            "strength_clip": 1,
            "model": ["1", 0],
            "clip": ["1", 1],
        },
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a green hill", "clip": ["2", 1]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["2", 1]}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216, "batch_size": 1}},
    "6": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 42,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1,
            "model": ["2", 0],
            "positive": ["3", 0],
            "negative": ["4", 0],
            "latent_image": ["5", 0],
        },
    },
    "7": {"class_type": "ImageScaleBy", "inputs": {"scale_by": 1.5, "image": ["6", 0]}},
}
DRAWN = {
    "c": "a green hill",
    "uc": "fog",
    "seed": 42,
    "steps": 20,
    "scale": 8,
    "sampler": "DPM++ 2M Karras",
    "size": "832x1216",
    "model": "hill_v1.ckpt",
    "mask_blur": 2.5,
    "v2": {},
    "lora": [{"model": "ink.ckpt", "weight": 0.8}],
}
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"><rdf:Description xmlns:exif="e"><exif:UserComment>'
    f'<rdf:Alt><rdf:li xml:lang="x-default">{html.escape(json.dumps(DRAWN))}</rdf:li></rdf:Alt></exif:UserComment>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
WANTED = {
    "prompt": "a green hill",
    "negative": "fog",
    "seed": 42,
    "steps": 20,
    "guidance": 8.0,
    "width": 832,
    "height": 1216,
    "model": "hill_v1",
    "sampler": "DPM++ 2M",
    "schedule": "Karras",
    "loras": [{"name": "ink", "weight": 0.8}],
}
INVOKE = {
    "positive_prompt": "a green hill",
    "negative_prompt": "fog",
    "seed": 42,
    "steps": 20,
    "cfg_scale": 8.0,
    "width": 832,
    "height": 1216,
    "scheduler": "dpmpp_2m",
    "model": {"name": "hill_v1", "hash": "blake3:1"},
    "rand_device": "cpu",
    "loras": [{"model": {"name": "ink"}, "weight": 0.8}],
}
FOOOCUS = {
    "prompt": "a green hill",
    "negative_prompt": "fog",
    "seed": "42",
    "steps": 20,
    "guidance_scale": 8.0,
    "sampler": "dpmpp_2m",
    "scheduler": "karras",
    "base_model": "hill_v1.safetensors",
    "resolution": "(832, 1216)",
    "sharpness": 2,
    "lora_combined_1": "ink.safetensors : 0.8",
    "version": "Fooocus v2.5",
}
SWARM = {
    "sui_image_params": {
        "prompt": "a green hill",
        "negativeprompt": "fog",
        "model": "sdxl/hill_v1",
        "images": 1,
        "steps": 20,
        "cfgscale": 8.0,
        "seed": 42,
        "width": 832,
        "height": 1216,
        "sampler": "dpmpp_2m",
        "scheduler": "karras",
        "aspectratio": "13:19",
        "loras": ["ink"],
        "loraweights": ["0.8"],
    }
}
NOVELAI = {
    "prompt": "a green hill",
    "uc": "fog",
    "steps": 20,
    "seed": 42,
    "scale": 8.0,
    "sampler": "k_dpmpp_2m",
    "width": 832,
    "height": 1216,
    "noise_schedule": "karras",
}
PICTURES: dict[str, tuple[dict[str, str], dict[str, Any], set[str]]] = {
    "ComfyUI": ({"prompt": json.dumps(GRAPH), "workflow": '{"nodes": []}'}, WANTED, {"ImageScaleBy.scale_by"}),
    "InvokeAI": (
        {"invokeai_metadata": json.dumps(INVOKE)},
        {n: v for n, v in WANTED.items() if n != "schedule"},
        {"rand_device"},
    ),
    "Fooocus": ({"parameters": json.dumps(FOOOCUS)}, WANTED, {"sharpness", "version"}),
    "SwarmUI": ({"parameters": json.dumps(SWARM)}, WANTED, {"aspectratio"}),
    "NovelAI": (
        {"Software": "NovelAI", "Source": "SDXL 1", "Description": "a green hill", "Comment": json.dumps(NOVELAI)},
        {n: v for n, v in WANTED.items() if n not in ("model", "loras", "schedule")},
        {"noise_schedule"},
    ),
    "Draw Things": ({"XML:com.adobe.xmp": XMP}, WANTED, {"mask_blur"}),
    "Easy Diffusion": (
        {
            "prompt": "a green hill",
            "negative_prompt": "fog",
            "seed": "42",
            "num_inference_steps": "20",
            "guidance_scale": "8",
            "width": "832",
            "height": "1216",
            "sampler_name": "dpmpp_2m",
            "use_stable_diffusion_model": "hill_v1",
            "use_lora_model": "ink",
            "lora_alpha": "0.8",
            "use_face_correction": "GFPGANv1.4",
        },
        {n: v for n, v in WANTED.items() if n != "schedule"},
        {"use_face_correction"},
    ),
}


def png(texts: dict[str, str]) -> bytes:
    info, data = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_itxt(name, text)
    PIL.new("RGB", (16, 16)).save(data, "PNG", pnginfo=info)
    return data.getvalue()


@pytest.mark.parametrize("tool", PICTURES)
def test_a_recipe_of_another_program_becomes_settings_and_the_rest_is_named(tool: str) -> None:
    texts, expected, others = PICTURES[tool]
    found = recipes.read_picture(png(texts))
    assert found.tool == tool
    assert found.settings == expected
    assert set(found.others) == others


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("tool", ["Fooocus", "SwarmUI"])
def test_the_same_in_the_comment_of_a_photograph(form: str, tool: str) -> None:
    texts, expected, _ = PICTURES[tool]
    exif, data = PIL.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.Exif)[recipes.USER_COMMENT] = b"UNICODE\0" + texts["parameters"].encode("utf-16-le")
    PIL.new("RGB", (16, 16)).save(data, form, exif=exif)
    assert recipes.read_picture(data.getvalue()).settings == expected


@pytest.mark.parametrize("seed", [2**64 - 1, -3, "many"])
def test_a_seed_that_cannot_be_used_is_named(seed: Any) -> None:
    graph = GRAPH | {"6": GRAPH["6"] | {"inputs": GRAPH["6"]["inputs"] | {"seed": seed}}}
    found = recipes.read_picture(png({"prompt": json.dumps(graph)}))
    assert "seed" not in found.settings
    assert found.others["seed"] == str(seed)
    text = recipes.read_text(f"a pier\nSteps: 20, Sampler: Euler, Seed: {seed}")
    assert "seed" not in text.settings
    assert text.others["Seed"] == str(seed)


def test_loras_that_cannot_be_used_are_named() -> None:
    tags = "".join(f"<lora:l{place}:{'9' if place == 0 else '1'}>" for place in range(12))
    found = recipes.read_text(f"a pier {tags}\nSteps: 20, Sampler: Euler, Seed: 1")
    assert len(found.settings["loras"]) == 8
    assert {"<lora:l0>", "<lora:l9>", "<lora:l10>", "<lora:l11>"} == set(found.others)


def exif_note(comment: bytes) -> bytes:
    exif, data = PIL.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.Exif)[recipes.USER_COMMENT] = comment
    PIL.new("RGB", (16, 16)).save(data, "JPEG", exif=exif)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        exif_note(b"ASCII\0\0\0Screenshot"),
        exif_note(b"ASCII\0\0\0Shot with: a phone, on: holiday, at: sea"),
        png({"parameters": "a note"}),
        png({"parameters": "Size: large, Model: Anna, Location: Berlin"}),
        png({"parameters": '{"some": "JSON"}'}),
        png({"parameters": '{"sui_image_params": 3}'}),
        png({"prompt": "{}", "workflow": "{}"}),
        png({"prompt": '{"1": {"class_type": 3}}'}),
        png({"prompt": "[" * 100_000}),
        png({"prompt": '{"a":' * 30_000}),
        png({"invokeai_metadata": '{"model": 3}'}),
        png({"Software": "NovelAI", "Comment": "{}"}),
        png({"XML:com.adobe.xmp": "<exif:UserComment>{"}),
        png({"Comment": "made by hand", "Software": "GIMP"}),
    ],
)
def test_what_no_program_recognises_is_no_recipe(data: bytes) -> None:
    with pytest.raises(InvalidParams, match="has no readable recipe"):
        recipes.read_picture(data)


def test_a_graph_without_a_sampler_is_told_as_such() -> None:
    graph = {"1": {"class_type": "Painter", "inputs": {"words": "a hill"}}}
    found = recipes.read_picture(png({"prompt": json.dumps(graph)}))
    assert (found.tool, found.others) == ("ComfyUI", {"graph": "Painter"})


def test_a_huge_graph_is_not_walked() -> None:
    chain = {
        str(n): {"class_type": "X", "inputs": {"model": [str(n + 1), 0]}} for n in range(comfyui_graphs.MAX_NODES + 1)
    }
    assert foreign_recipes.read({"prompt": json.dumps(chain)}) is None
    loop = {"1": GRAPH["6"] | {"inputs": GRAPH["6"]["inputs"] | {"model": ["1", 0], "positive": ["1", 0]}}}
    assert foreign_recipes.read({"prompt": json.dumps(loop)}) is not None


def test_a_number_without_end_is_no_recipe_and_no_fault() -> None:
    graph = GRAPH | {"8": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": float("inf")}}}
    text = json.dumps(graph | {"6": GRAPH["6"]}).replace("Infinity", "1e999")
    foreign_recipes.read({"prompt": text})  # raises nothing, whatever is read of it


def test_a_lora_that_is_listed_and_tagged_counts_once() -> None:
    data = {"prompt": "a hill <lora:ink:0.5>, fog", "seed": 1, "loras": ["ink"], "loraweights": ["0.5"]}
    found = recipes.read_picture(png({"parameters": json.dumps({"sui_image_params": data})}))
    assert found.settings["prompt"] == "a hill, fog"
    assert found.settings["loras"] == [{"name": "ink", "weight": 0.5}]


def test_half_a_character_does_not_reach_the_settings() -> None:
    text = '{"sui_image_params": {"prompt": "a \\ud800 hill", "seed": "\\udfff", "\\udc00": "x"}}'
    found = recipes.read_picture(png({"parameters": text}))
    json.dumps([found.settings, found.others], ensure_ascii=False).encode()
    assert found.settings["prompt"] == "a ? hill"


FLUX_OF_INVOKE = {
    "generation_mode": "flux_txt2img", "positive_prompt": "a green hill", "negative_prompt": None, "seed": 42,
    "width": 832, "height": 1216, "steps": 20, "guidance": 4.0, "scheduler": "dpmpp_2m_sde_k",
    "model": {"key": "k", "name": "FLUX Dev", "base": "flux"}, "vae": {"name": "ae"},
    "loras": [{"model": {"key": "a", "name": "ink"}, "weight": 0.7}], "app_version": "5.6.0",
}  # fmt: skip


def test_invokeai_with_flux_is_read_though_it_has_no_cfg_and_no_negative_prompt() -> None:
    found = recipes.read_picture(png({"invokeai_metadata": json.dumps(FLUX_OF_INVOKE)}))
    assert found.settings == {
        "prompt": "a green hill", "seed": 42, "width": 832, "height": 1216, "steps": 20, "guidance": 4.0,
        "sampler": "DPM++ 2M SDE", "schedule": "Karras", "model": "FLUX Dev", "vae": "ae",
        "loras": [{"name": "ink", "weight": 0.7}],
    }  # fmt: skip
    assert set(found.others) == {"generation_mode", "app_version"}


def test_fooocus_puts_its_comment_among_the_tags_of_the_main_directory() -> None:
    exif, data = PIL.Exif(), io.BytesIO()
    exif[recipes.USER_COMMENT] = PICTURES["Fooocus"][0]["parameters"]
    PIL.new("RGB", (16, 16)).save(data, "JPEG", exif=exif)
    assert recipes.read_picture(data.getvalue()).settings == PICTURES["Fooocus"][1]


@pytest.mark.parametrize(("form", "codec"), [("GIF", "utf-8"), ("JPEG", "utf-8"), ("PNG", "utf-8"), ("PNG", "latin-1")])
def test_a_text_is_read_from_the_comment_and_in_utf_8_where_the_format_has_latin(form: str, codec: str) -> None:
    data, text = io.BytesIO(), "ein grüner Hügel\nSteps: 20, Sampler: Euler, CFG scale: 8, Seed: 42"
    if form == "PNG":
        info = PngInfo()
        info.add(b"tEXt", b"parameters\0" + text.encode(codec))
        PIL.new("RGB", (16, 16)).save(data, form, pnginfo=info)
    else:
        PIL.new("RGB", (16, 16)).save(data, form, comment=text.encode(codec))
    assert recipes.read_picture(data.getvalue()).settings["prompt"] == "ein grüner Hügel"


def test_a_value_of_another_type_is_named_and_not_shown_as_code() -> None:
    params = {"prompt": {"a": 1}, "steps": 20, "seed": 4, "loras": "ink,moss", "loraweights": "1,2"}
    found = recipes.read_picture(png({"parameters": json.dumps({"sui_image_params": params})}))
    assert found.settings == {"prompt": "", "steps": 20, "seed": 4}
    assert found.others == {"prompt": "{'a': 1}", "loras": "ink,moss", "loraweights": "1,2"}


@pytest.mark.parametrize("lora", [5, None, {"model": 3, "weight": 1}, {"weight": 1}])
def test_a_strange_lora_of_invokeai_costs_nothing_else(lora: Any) -> None:
    data = {
        "positive_prompt": "a hill",
        "seed": 1,
        "steps": 2,
        "cfg_scale": 7,
        "scheduler": "euler",
        "model": {"name": "hill"},
    }
    found = recipes.read_picture(png({"invokeai_metadata": json.dumps(data | {"loras": [lora]})}))
    assert (found.settings["prompt"], found.settings["steps"]) == ("a hill", 2)
