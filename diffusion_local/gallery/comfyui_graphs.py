"""Converts ComfyUI graphs to the form that sd-parsers reads: one sampler node with all values in place.

The executed graph (``prompt``) is preferred. The drawn graph (``workflow``) lists values by position, so only its nodes
in WIDGET_ORDER are read. Values that come through links from other nodes replace the links, and samplers that ComfyUI
splits into noise, guider, scheduler and sampler are merged.
"""

import json
from collections.abc import Mapping
from typing import Any

MAX_RECIPE_CHARS = 200_000
MAX_NODES = 1000
MAX_STEPS = 20  # links followed per value
#: Name -> {"class_type", "inputs"}; an input is a value, or a link as [name of a node, output].
Graph = dict[str, dict[str, Any]]

#: Input names of a drawn node's values, in order; "" for a value that is not an input.
WIDGET_ORDER: dict[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler", "start_at_step", "end_at_step",
    ),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSDXL": ("", "", "", "", "", "", "text_g", "text_l"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "VAELoader": ("vae_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "FluxGuidance": ("guidance",),
    "CFGGuider": ("cfg",),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
}  # fmt: skip
OFF = (2, 4)  # modes of drawn nodes that are muted or bypassed
#: Inputs that hold one value, which may come through a link.
SINGLE = frozenset(
    ("seed", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "guidance", "width", "height",
     "text", "clip_l", "t5xxl", "text_g", "text_l", "string_a", "string_b", "ckpt_name", "unet_name", "vae_name",
     "lora_name", "strength_model", "stop_at_clip_layer")
)  # fmt: skip
#: Inputs in which nodes that only supply a value hold it.
VALUE_INPUTS = (
    "value",
    "text",
    "string",
    "seed",
    "noise_seed",
    "int",
    "float",
    "number",
    "populated_text",
    "wildcard_text",
)
#: Inputs of nodes with several texts, the most detailed first.
TEXTS = ("t5xxl", "text_g", "text_l", "clip_l")


def read_graph(texts: Mapping[str, str]) -> tuple[Graph, dict[str, Any]]:
    """(nodes, values that could not be placed by ``class.input``); no nodes without a graph, or if it is too large.

    Raises ValueError, TypeError, KeyError, AttributeError or RecursionError for texts of other programs.
    """
    executed = texts.get("prompt", "")
    graph = executed_graph(executed) if executed.lstrip().startswith("{") else drawn_graph(texts.get("workflow", ""))
    if not graph or len(graph) > MAX_NODES:
        return {}, {}
    missing = place_values(graph)
    for node in list(graph.values()):
        if node["class_type"] in ("SamplerCustomAdvanced", "SamplerCustom"):
            node["inputs"] = whole_sampler(graph, node["inputs"])
    return graph, missing


def executed_graph(text: str) -> Graph:
    found = json.loads(text[:MAX_RECIPE_CHARS])
    return {
        str(name): {"class_type": str(node["class_type"]), "inputs": dict(node["inputs"])}
        for name, node in found.items()
        if isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)
    }


def drawn_graph(text: str) -> Graph:
    if not text.lstrip().startswith("{"):
        return {}
    drawn = json.loads(text[:MAX_RECIPE_CHARS])
    origins: dict[Any, list[Any]] = {}
    for link in drawn["links"]:
        id, origin, slot = (link["id"], link["origin_id"], link["origin_slot"]) if isinstance(link, dict) else link[:3]
        origins[id] = [str(origin), slot]
    graph: Graph = {}
    for node in drawn["nodes"][: MAX_NODES + 1]:
        if node.get("mode") in OFF:
            continue
        values = node.get("widgets_values") or []
        names = WIDGET_ORDER.get(str(node["type"]), ())
        pairs = values.items() if isinstance(values, dict) else zip(names, values, strict=False)
        inputs = {str(name): value for name, value in pairs if name}
        linked = {
            each["name"]: origins[each["link"]] for each in node.get("inputs") or [] if each.get("link") in origins
        }
        graph[str(node["id"])] = {"class_type": str(node["type"]), "inputs": inputs | linked}
    return graph


def is_link(graph: Graph, value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in graph


def nodes_of_samplers(graph: Graph) -> set[str]:
    """Names of the samplers and of all nodes that they use."""
    found: set[str] = set()
    left = [name for name, node in graph.items() if "steps" in node["inputs"]]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [str(value[0]) for value in graph[name]["inputs"].values() if is_link(graph, value)]
    return found


def place_values(graph: Graph) -> dict[str, Any]:
    """Replace links by the values they lead to; returns the values that were not found, and additional texts."""
    missing: dict[str, Any] = {}
    for node in graph.values():
        inputs = node["inputs"]
        for name in SINGLE & inputs.keys():
            if not isinstance(inputs[name], list):
                continue
            value = value_behind(graph, inputs[name], name)
            if value is None:
                missing[f"{node['class_type']}.{name}"] = f"linked to {linked_class(graph, inputs[name])}"
                del inputs[name]
            else:
                inputs[name] = value
        if "text" not in inputs and (texts := [inputs.pop(name) for name in TEXTS if inputs.get(name)]):
            inputs["text"], *others = dict.fromkeys(texts)
            missing |= {f"{node['class_type']}.text {place}": each for place, each in enumerate(others, 2)}
    return missing


def linked_class(graph: Graph, link: list[Any]) -> str:
    return str(graph[str(link[0])]["class_type"]) if is_link(graph, link) else "a node that is missing"


def value_behind(graph: Graph, value: Any, name: str) -> Any:
    """The text or number to which a link leads, through nodes that only pass it on; None if there is none."""
    for _ in range(MAX_STEPS):
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return value
        if not is_link(graph, value):
            return None
        node = graph[str(value[0])]
        inputs = node["inputs"]
        if "string_a" in inputs and "string_b" in inputs:
            parts = [inputs["string_a"], inputs["string_b"]]
            return (
                str(inputs.get("delimiter", "")).join(parts) if all(isinstance(each, str) for each in parts) else None
            )
        held = [inputs[each] for each in (name, *VALUE_INPUTS) if each in inputs]
        links = [each for each in inputs.values() if is_link(graph, each)]
        value = held[0] if held else links[0] if len(links) == 1 else None
    return None


def whole_sampler(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a sampler merged with those of its component nodes, which are removed from the graph."""
    made = {name: value for name, value in inputs.items() if name not in ("noise", "sampler", "sigmas", "guider")}
    for part in ("noise", "sampler", "sigmas", "guider"):
        if is_link(graph, inputs.get(part)):
            held = graph.pop(str(inputs[part][0]))["inputs"]
            made |= {name: value for name, value in held.items() if part != "sigmas" or name != "model"}
    if "conditioning" in made:
        made["positive"] = made.pop("conditioning")
    return {"steps": None, "cfg": 1.0, "sampler_name": "unknown"} | made
