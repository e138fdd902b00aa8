"""Graphs of ComfyUI, read as one submit, or refused with the node and the input that are at fault."""

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.messages import Message
from diffusion_local.web.api.dialects.comfyui.checking import MOST_NODES
from diffusion_local.web.api.dialects.comfyui.graph import translate
from diffusion_local.web.api.dialects.comfyui.information import describe_node
from diffusion_local.web.api.dialects.comfyui.node_values import Plan, Refused, Scaling
from diffusion_local.web.api.dialects.comfyui.nodes import NODES, Names
from diffusion_local.web.api.dialects.comfyui.submitting import scale
from tests.web.api.comfyui.graphs import TXT2IMG, img2img, renumbered, txt2img, upscale

NAMES = Names(
    {
        "models": ("starter", "flux-dev"),
        "loras": ("ink", "gold"),
        "vaes": ("sharp",),
        "clips": (),
        "upscalers": ("4x_ultra",),
        "ip_adapters": ("plus_sd15",),
        "clip_visions": (),
        "images": (),
    },
    {"any.safetensors": "starter"}.get,
)


def plan(graph: Any) -> Plan:
    return translate(graph, NAMES)


def refused(graph: Any) -> Refused:
    with pytest.raises(Refused) as found:
        plan(graph)
    return found.value


def test_the_standard_graph() -> None:
    found = plan(TXT2IMG)
    assert found.work.options == {
        "prompt": "a red apple",
        "negative": "blurry",
        "model": "starter",
        "steps": 4,
        "seed": 7,
        "sampler": "euler",
        "count": 1,
        "cfg": 6.5,
        "width": 128,
        "height": 128,
    }
    assert (found.outputs, found.work.node_id, found.warnings) == (["9"], "3", [])


def test_a_graph_is_read_by_its_links() -> None:
    assert plan(renumbered(TXT2IMG)).work.options == plan(TXT2IMG).work.options


def test_loras_clip_skip_and_batches() -> None:
    graph = txt2img(EmptyLatentImage={"batch_size": 3})
    graph["20"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["4", 0],
            "clip": ["4", 1],
            "lora_name": "ink.safetensors",
            "strength_model": 0.8,
            "strength_clip": 0.8,
        },
    }
    graph["21"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["20", 0], "lora_name": "styles\\gold.safetensors", "strength_model": 0.5},
    }
    graph["22"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["20", 1], "stop_at_clip_layer": -2}}
    graph["3"]["inputs"]["model"] = ["21", 0]
    graph["6"]["inputs"]["clip"] = ["22", 0]
    options = plan(graph).work.options
    assert options["loras"] == [{"name": "ink", "weight": 0.8}, {"name": "gold", "weight": 0.5}]
    assert (options["clip_skip"], options["count"]) == (2, 3)


def test_split_loaders_with_flux_guidance() -> None:
    graph = txt2img(KSampler={"cfg": 1.0})
    graph["4"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "flux-dev.safetensors", "weight_dtype": "default"},
    }
    graph["30"] = {
        "class_type": "DualCLIPLoader",
        "inputs": {"clip_name1": "t5xxl_fp16.safetensors", "clip_name2": "clip_l.safetensors", "type": "flux"},
    }
    graph["31"] = {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}}
    graph["32"] = {"class_type": "FluxGuidance", "inputs": {"conditioning": ["6", 0], "guidance": 2.5}}
    graph["33"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}
    graph["5"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 256, "height": 128, "batch_size": 1}}
    graph["6"]["inputs"]["clip"] = ["30", 0]
    graph["8"]["inputs"]["vae"] = ["31", 0]
    graph["3"]["inputs"] |= {"positive": ["32", 0], "negative": ["33", 0]}
    del graph["7"]
    work = plan(graph).work
    assert work.model is not None
    assert (work.model.name, work.model.split, work.vae.name) == ("flux-dev", True, "ae.safetensors")
    assert (work.options["guidance"], work.options["negative"], work.options["width"]) == (2.5, "", 256)


def test_from_a_picture_with_and_without_a_mask() -> None:
    work = plan(img2img("apple.png", 0.4)).work
    assert (work.options["kind"], work.options["strength"]) == ("img2img", 0.4)
    assert work.picture is not None
    assert (work.picture.name, work.mask) == ("apple.png", None)
    for name, grow in (("VAEEncodeForInpaint", 6), ("SetLatentNoiseMask", 0)):
        work = plan(img2img("apple.png", 1, name)).work
        assert work.options["kind"] == "inpaint"
        assert work.mask is not None
        assert (work.mask.name, work.mask.channel, work.mask.grow) == ("apple.png", "alpha", grow)


def test_a_latent_is_repeated() -> None:
    graph = img2img("apple.png", 0.4)
    before = graph["3"]["inputs"]["latent_image"]
    graph["90"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": before, "amount": 3}}
    graph["3"]["inputs"]["latent_image"] = ["90", 0]
    work = plan(graph).work
    assert (work.options["kind"], work.options["count"]) == ("img2img", 3)


def test_enlarging_by_a_model() -> None:
    work = plan(upscale("apple.png", "4x_ultra.pth")).work
    assert work.options == {"prompt": "", "kind": "upscale", "upscaler": "4x_ultra"}


def test_a_whole_run_of_the_advanced_sampler() -> None:
    graph = txt2img()
    inputs = graph["3"]["inputs"]
    del inputs["seed"], inputs["denoise"]
    inputs |= {"noise_seed": 9, "add_noise": "enable", "start_at_step": 0, "end_at_step": 10000}
    inputs |= {"return_with_leftover_noise": "disable"}
    graph["3"]["class_type"] = "KSamplerAdvanced"
    assert plan(graph).work.options["seed"] == 9
    for key, value in (("start_at_step", 2), ("end_at_step", 3), ("add_noise", "disable")):
        part = txt2img()
        part["3"] = {"class_type": "KSamplerAdvanced", "inputs": inputs | {key: value}}
        [fault] = refused(part).faults
        assert (fault.node_id, fault.extra["input_name"]) == ("3", key)


def test_values_may_come_from_primitives() -> None:
    graph = txt2img(KSampler={"seed": ["40", 0]}, CLIPTextEncode={"text": ["41", 0]})
    graph["40"] = {"class_type": "PrimitiveInt", "inputs": {"value": 2**40 + 5}}
    graph["41"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a pear"}}
    found = plan(graph)
    assert (found.work.options["seed"], found.work.options["prompt"]) == ((2**40 + 5) % 2**32, "a pear")
    assert [each.id for each in found.warnings if isinstance(each, Message)] == ["seed_wrapped"]
    graph["40"]["inputs"]["value"] = -1
    assert refused(graph).faults[0].type == "value_smaller_than_min"


def test_another_name_of_a_model_is_taken_with_a_warning() -> None:
    found = plan(txt2img(CheckpointLoaderSimple={"ckpt_name": "any.safetensors"}))
    assert found.work.options["model"] == "starter"
    assert "any.safetensors is an alias of the model starter" in found.warnings[0]


def test_nodes_that_no_output_needs_are_left_aside() -> None:
    graph = txt2img()
    graph["50"] = {"class_type": "Note", "inputs": {"text": "remember"}}
    assert plan(graph).work.options == plan(TXT2IMG).work.options


def test_other_nodes_are_refused_by_name() -> None:
    graph = txt2img()
    graph["60"] = {"class_type": "IPAdapterApply", "inputs": {"model": ["4", 0]}}
    graph["3"]["inputs"]["model"] = ["60", 0]
    found = refused(graph)
    assert [(each.node_id, each.type) for each in found.faults] == [("60", "missing_node_type")]
    assert "IPAdapterApply" in found.faults[0].message
    del graph["9"]
    graph["61"] = {"class_type": "SaveAnimatedWEBP", "inputs": {}}
    found = refused(graph)
    assert found.type == "prompt_no_outputs"
    assert {each.node_id for each in found.faults} == {"60", "61"}


@pytest.mark.parametrize(
    ("changes", "node", "type", "key"),
    [
        ({"KSampler": {"steps": None}}, "3", "required_input_missing", "steps"),
        ({"KSampler": {"steps": "many"}}, "3", "invalid_input_type", "steps"),
        ({"KSampler": {"steps": {}}}, "3", "invalid_input_type", "steps"),
        ({"KSampler": {"steps": 0}}, "3", "value_smaller_than_min", "steps"),
        ({"KSampler": {"cfg": 101}}, "3", "value_bigger_than_max", "cfg"),
        ({"KSampler": {"cfg": float("nan")}}, "3", "invalid_input_type", "cfg"),
        ({"KSampler": {"seed": "9" * 5000}}, "3", "invalid_input_type", "seed"),
        ({"KSampler": {"sampler_name": "magic"}}, "3", "value_not_in_list", "sampler_name"),
        ({"CheckpointLoaderSimple": {"ckpt_name": "model.safetensors"}}, "4", "value_not_in_list", "ckpt_name"),
        ({"CheckpointLoaderSimple": {"ckpt_name": None}}, "4", "required_input_missing", "ckpt_name"),
        ({"KSampler": {"model": "starter"}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": []}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": ["4"]}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": ["404", 0]}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": [4, 0]}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": [["4"], 0]}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": ["4", "0"]}}, "3", "bad_linked_input", "model"),
        ({"KSampler": {"model": ["4", 1]}}, "3", "return_type_mismatch", "model"),
        ({"KSampler": {"model": ["4", 9]}}, "3", "return_type_mismatch", "model"),
        ({"KSampler": {"model": ["4", -1]}}, "3", "return_type_mismatch", "model"),
        ({"KSampler": {"denoise": 0.5}}, "3", "custom_validation_failed", "denoise"),
        ({"KSampler": {"latent_image": ["3", 0]}}, None, "dependency_cycle", ""),
    ],
)
def test_what_is_wrong_is_named_by_node_and_input(changes: Any, node: str | None, type: str, key: str) -> None:
    found = refused(txt2img(**changes))
    if node is None:
        assert found.type == type
        return
    assert [(each.node_id, each.type, each.extra["input_name"]) for each in found.faults] == [(node, type, key)]


def test_all_faults_of_a_graph_at_once() -> None:
    found = refused(txt2img(KSampler={"steps": 0, "cfg": "x"}, CheckpointLoaderSimple={"ckpt_name": "none"}))
    assert {(each.node_id, each.type) for each in found.faults} == {
        ("3", "value_smaller_than_min"),
        ("3", "invalid_input_type"),
        ("4", "value_not_in_list"),
    }


@pytest.mark.parametrize("graph", [None, [], {}, "text", 7, {"1": None}, {"1": []}, {"1": {"inputs": {}}}])
def test_what_is_no_graph(graph: Any) -> None:
    assert refused(graph).type in ("prompt_no_outputs", "invalid_prompt")


@pytest.mark.parametrize("inputs", [None, [], "x", 7])
def test_inputs_that_are_no_object(inputs: Any) -> None:
    graph = txt2img()
    graph["3"]["inputs"] = inputs
    assert {each.type for each in refused(graph).faults} == {"required_input_missing"}


def test_cycles_chains_and_crowds_of_nodes_end() -> None:
    graph = txt2img()
    graph["a"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["b", 0], "stop_at_clip_layer": -1}}
    graph["b"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["a", 0], "stop_at_clip_layer": -1}}
    graph["6"]["inputs"]["clip"] = ["b", 0]
    assert refused(graph).type == "dependency_cycle"
    chain = txt2img()
    for place in range(5000):
        before = ["4", 1] if place == 0 else [f"c{place - 1}", 0]
        chain[f"c{place}"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": before, "stop_at_clip_layer": -1}}
    chain["6"]["inputs"]["clip"] = ["c4999", 0]
    assert str(MOST_NODES) in refused(chain).message
    chain["6"]["inputs"]["clip"] = [f"c{MOST_NODES // 2}", 0]
    assert plan(chain).work.options["prompt"] == "a red apple"
    crowd = txt2img() | {f"n{place}": {"class_type": "Note", "inputs": {}} for place in range(20_000)}
    assert plan(crowd).outputs == ["9"]


@pytest.mark.parametrize(
    ("node", "inputs", "at"),
    [
        ("8", {"samples": ["5", 0]}, "8"),  # a latent that nobody sampled
        ("9", {"images": ["70", 0]}, "9"),  # an image that nobody made
        ("3", {"positive": ["71", 0]}, "3"),  # nothing to show
        ("3", {"latent_image": ["72", 0]}, "3"),  # sampled again
    ],
)
def test_known_nodes_in_an_order_that_is_not_understood(node: str, inputs: Any, at: str) -> None:
    graph = txt2img()
    graph["70"] = {"class_type": "LoadImage", "inputs": {"image": "a.png"}}
    graph["71"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}
    graph["72"] = {"class_type": "KSampler", "inputs": dict(graph["3"]["inputs"])}
    graph[node]["inputs"] |= inputs
    [fault] = refused(graph).faults
    assert (fault.node_id, fault.type) == (at, "custom_validation_failed")


def test_two_samplers_are_refused_and_two_outputs_of_one_are_not() -> None:
    graph = txt2img()
    graph["80"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    graph["81"] = {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}}
    graph["82"] = {"class_type": "SaveImage", "inputs": {"images": ["81", 0]}}
    assert plan(graph).outputs == ["9", "80", "82"]
    graph["83"] = {"class_type": "KSampler", "inputs": graph["3"]["inputs"] | {"seed": 8}}
    graph["81"]["inputs"]["samples"] = ["83", 0]
    [fault] = refused(graph).faults
    assert fault.node_id == "83"


def test_object_info_describes_every_node() -> None:
    for name in NODES:
        found = describe_node(name, NAMES)
        assert found["name"] == name
        assert len(found["output"]) == len(found["output_name"])
        assert found["output_node"] == (name in ("SaveImage", "PreviewImage"))
    sampler = describe_node("KSampler", NAMES)["input"]["required"]
    assert sampler["sampler_name"][0][0] == "euler"
    assert sampler["steps"] == ["INT", {"default": 20, "min": 1, "max": 10000}]
    assert describe_node("CheckpointLoaderSimple", NAMES)["input"]["required"]["ckpt_name"][0] == [
        "starter",
        "flux-dev",
    ]


# -- a second pass --------------------------------------------------------------------------------------------------


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampled_again(between: dict[str, Any], latent: list[Any], **changes: Any) -> dict[str, Any]:
    """The standard graph with nodes and a second sampler behind its first one."""
    graph = txt2img() | between
    own = {"seed": 7, "steps": 3, "denoise": 0.5, "latent_image": latent}
    graph["30"] = node("KSampler", **graph["3"]["inputs"] | own | changes)
    graph["8"]["inputs"]["samples"] = ["30", 0]
    return graph


IMAGE = {"40": node("VAEDecode", samples=["3", 0], vae=["4", 2])}
SCALED = node("ImageScaleBy", image=["40", 0], upscale_method="lanczos", scale_by=1.5)
BY_MODEL = {
    "42": node("UpscaleModelLoader", model_name="4x_ultra.pth"),
    "43": node("ImageUpscaleWithModel", upscale_model=["42", 0], image=["40", 0]),
}
ENCODED = node("VAEEncode", pixels=["41", 0], vae=["4", 2])
TO_SIZE = node("ImageScale", image=["43", 0], upscale_method="lanczos", width=256, height=256, crop="disabled")
LATENT_BY = node("LatentUpscaleBy", samples=["3", 0], upscale_method="bislerp", scale_by=2)
LATENT_TO = node("LatentUpscale", samples=["3", 0], upscale_method="bilinear", width=192, height=0, crop="disabled")


@pytest.mark.parametrize(
    ("between", "latent", "scale", "upscaler", "warned"),
    [
        ({"40": LATENT_BY}, ["40", 0], 2, "Latent (bicubic)", 1),
        ({"40": LATENT_TO}, ["40", 0], 1.5, "Latent", 0),
        (IMAGE | {"41": SCALED, "44": ENCODED}, ["44", 0], 1.5, "Lanczos", 0),
        (IMAGE | BY_MODEL | {"41": TO_SIZE, "44": ENCODED}, ["44", 0], 2, "4x_ultra", 0),
    ],
)
def test_a_second_sampler_is_a_second_pass(
    between: dict[str, Any], latent: list[Any], scale: float, upscaler: str, warned: int
) -> None:
    found = plan(sampled_again(between, latent))
    assert len(found.warnings) == warned
    hires = {"hires_scale": scale, "hires_steps": 3, "hires_strength": 0.5, "hires_upscaler": upscaler}
    assert found.work.options == plan(TXT2IMG).work.options | hires
    assert found.work.origins["hires_strength"] == ("30", "denoise")


@pytest.mark.parametrize(
    ("between", "latent", "changes", "why"),
    [
        ({"40": LATENT_BY}, ["40", 0], {"cfg": 3}, "the cfg of the first"),
        ({"40": LATENT_BY}, ["40", 0], {"sampler_name": "heun"}, "the sampler of the first"),
        ({"40": LATENT_BY}, ["40", 0], {"positive": ["7", 0]}, "the prompt of the first"),
        ({}, ["3", 0], {}, "cannot be sampled again"),
        (
            IMAGE | BY_MODEL | {"44": ENCODED | {"inputs": {"pixels": ["43", 0], "vae": ["4", 2]}}},
            ["44", 0],
            {},
            "give the size with ImageScale",
        ),
    ],
)
def test_a_second_sampler_of_another_kind_is_refused(
    between: dict[str, Any], latent: list[Any], changes: dict[str, Any], why: str
) -> None:
    assert why in refused(sampled_again(between, latent, **changes)).details


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"width": 64, "height": 96, "crop": "center"}, (64, 96)),
        ({"width": 0, "height": 30, "crop": "disabled"}, (60, 30)),
        ({"scale_by": 0.5}, (50, 25)),
    ],
)
def test_a_loaded_picture_is_scaled_before_it_is_encoded(given: dict[str, Any], made: tuple[int, int]) -> None:
    kind = "ImageScaleBy" if "scale_by" in given else "ImageScale"
    graph = linked(
        txt2img(KSampler={"latent_image": ["encoded", 0], "denoise": 0.5}),
        loaded=("LoadImage", {"image": "house.png"}),
        sized=(kind, {"image": ["loaded", 0], "upscale_method": "lanczos"} | given),
        encoded=("VAEEncode", {"pixels": ["sized", 0], "vae": ["4", 2]}),
    )
    picture = plan(graph).work.picture
    whole = PIL.new("RGB", (100, 50), "red")
    whole.paste("blue", (0, 0, 50, 50))
    data = io.BytesIO()
    whole.save(data, "PNG")
    with PIL.open(io.BytesIO(scale(data.getvalue(), picture))) as found:
        assert found.size == made
        assert found.getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(Refused):
        scale(data.getvalue(), replace(picture, scaling=Scaling("lanczos", factor=100.0)))


def test_a_seed_of_the_second_sampler_is_warned_of() -> None:
    found = plan(sampled_again({"40": LATENT_BY}, ["40", 0], seed=8))
    assert (found.work.options["seed"], len(found.warnings)) == (7, 2)


def linked(graph: Any, **nodes: Any) -> Any:
    """A graph with more nodes: by id, (class, inputs)."""
    return graph | {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def test_reference_latents_are_references_of_a_picture_that_begins_from_noise() -> None:
    graph = linked(
        txt2img(KSampler={"positive": ["flux", 0], "latent_image": ["encoded", 0]}),
        loaded=("LoadImage", {"image": "house.png"}),
        sized=("FluxKontextImageScale", {"image": ["loaded", 0]}),
        encoded=("VAEEncode", {"pixels": ["sized", 0], "vae": ["4", 2]}),
        refers=("ReferenceLatent", {"conditioning": ["6", 0], "latent": ["encoded", 0]}),
        flux=("FluxGuidance", {"conditioning": ["refers", 0], "guidance": 2.5}),
    )
    work = plan(graph).work
    assert [(each.picture.name, each.values) for each in work.references] == [("house.png", {})]
    assert (work.picture, "strength" in work.options, "width" in work.options) == (None, False, False)
    assert work.origins["references[0]"] == ("refers", "image")
    graph["3"]["inputs"]["denoise"] = 0.5
    assert plan(graph).work.picture == work.references[0].picture


def test_instructions_of_qwen_bring_up_to_three_pictures() -> None:
    graph = linked(
        txt2img(KSampler={"positive": ["words", 0]}),
        one=("LoadImage", {"image": "one.png"}),
        two=("LoadImage", {"image": "two.png"}),
        words=(
            "TextEncodeQwenImageEditPlus",
            {"clip": ["4", 1], "prompt": "make it winter", "image1": ["one", 0], "image3": ["two", 0]},
        ),
    )
    work = plan(graph).work
    assert (work.options["prompt"], work.origins["prompt"]) == ("make it winter", ("words", "prompt"))
    assert [each.picture.name for each in work.references] == ["one.png", "two.png"]


def test_ip_adapters_are_references_with_weight_and_mask() -> None:
    graph = linked(
        txt2img(KSampler={"model": ["second", 0]}),
        loaded=("LoadImage", {"image": "style.png"}),
        file=("IPAdapterModelLoader", {"ipadapter_file": "plus_sd15"}),
        first=(
            "IPAdapterAdvanced",
            {
                "model": ["4", 0], "ipadapter": ["file", 0], "image": ["loaded", 0], "weight": 0.6, "start_at": 0,
                "end_at": 0.5, "weight_type": "linear", "attn_mask": ["loaded", 1],
            },
        ),
        any=("IPAdapterUnifiedLoader", {"model": ["first", 0], "preset": "PLUS FACE (portraits)"}),
        second=(
            "IPAdapter",
            {
                "model": ["any", 0], "ipadapter": ["any", 1], "image": ["loaded", 0], "weight": 0.4, "start_at": 0,
                "end_at": 1, "weight_type": "standard",
            },
        ),
    )  # fmt: skip
    found = plan(graph)
    first, second = found.work.references
    assert first.values == {"use": "style", "adapter": "plus_sd15", "weight": 0.6}
    assert first.mask is not None
    assert second.values == {"use": "face", "weight": 0.4}
    assert ["end_at" in str(each) for each in found.warnings] == [True]


def test_areas_are_regions() -> None:
    graph = linked(
        txt2img(KSampler={"positive": ["both", 0]}),
        fox=("CLIPTextEncode", {"clip": ["4", 1], "text": "a fox"}),
        left=(
            "ConditioningSetArea",
            {"conditioning": ["fox", 0], "x": 0, "y": 0, "width": 64, "height": 128, "strength": 2},
        ),
        right=(
            "ConditioningSetAreaPercentage",
            {"conditioning": ["fox", 0], "x": 0.5, "y": 0, "width": 0.75, "height": 1, "strength": 0.7},
        ),
        one=("ConditioningCombine", {"conditioning_1": ["6", 0], "conditioning_2": ["left", 0]}),
        both=("ConditioningCombine", {"conditioning_1": ["right", 0], "conditioning_2": ["one", 0]}),
    )
    options = plan(graph).work.options
    assert options["prompt"] == "a red apple"
    assert options["regions"] == [
        {"prompt": "a fox", "weight": 1.0, "x": 0, "y": 0, "width": 0.5, "height": 1},
        {"prompt": "a fox", "weight": 0.7, "x": 0.5, "y": 0, "width": 0.5, "height": 1},
    ]
    graph["3"]["inputs"]["positive"] = ["left", 0]
    assert "whole picture" in refused(graph).details
    graph["both"]["inputs"] = {"conditioning_1": ["6", 0], "conditioning_2": ["fox", 0]}
    graph["3"]["inputs"]["positive"] = ["both", 0]
    assert "with an area" in refused(graph).details
