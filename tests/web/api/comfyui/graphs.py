"""Graphs that tests begin from, as clients send them."""

import copy
from typing import Any

Graph = dict[str, dict[str, Any]]

TXT2IMG: Graph = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 4,
            "cfg": 6.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "starter"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red apple", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
}


def txt2img(**changes: Any) -> Graph:
    """The graph with other inputs: ``txt2img(KSampler={"steps": 5})``; None takes an input away."""
    graph = copy.deepcopy(TXT2IMG)
    for name, inputs in changes.items():
        for node in graph.values():
            if node["class_type"] == name:
                node["inputs"] |= inputs
                node["inputs"] = {key: value for key, value in node["inputs"].items() if value is not None}
    return graph


def img2img(image: str, denoise: float = 0.5, mask: str = "") -> Graph:
    """From a picture; with ``mask``, the node class that puts it in."""
    graph = txt2img(KSampler={"denoise": denoise})
    graph["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": image, "upload": "image"}}
    if mask == "VAEEncodeForInpaint":
        graph["5"] = {
            "class_type": mask,
            "inputs": {"pixels": ["10", 0], "vae": ["4", 2], "mask": ["10", 1], "grow_mask_by": 6},
        }
    elif mask == "SetLatentNoiseMask":
        graph["11"] = {"class_type": mask, "inputs": {"samples": ["5", 0], "mask": ["10", 1]}}
        graph["3"]["inputs"]["latent_image"] = ["11", 0]
    return graph


def upscale(image: str, model: str) -> Graph:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": model}},
        "3": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    }


def renumbered(graph: Graph) -> Graph:
    """The same graph with other node ids, in another order."""
    names = {node_id: f"node:{place}" for place, node_id in enumerate(reversed(graph))}
    return {
        names[node_id]: {
            "class_type": node["class_type"],
            "inputs": {
                key: [names[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            },
        }
        for node_id, node in reversed(graph.items())
    }
