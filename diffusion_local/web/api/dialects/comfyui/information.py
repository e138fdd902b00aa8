"""Routes about the server: supported nodes, models, and the workers' devices."""

import os
import platform
import sys
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from diffusion_local import __version__, authority
from diffusion_local.actor import Scope as Scopes
from diffusion_local.actor import current
from diffusion_local.errors import NotFound
from diffusion_local.messages import message
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.comfyui import nodes
from diffusion_local.web.api.dialects.comfyui.submitting import names_of

#: The ComfyUI release whose API this implements, as reported to clients.
COMFYUI_VERSION = "0.3.60"
FILE_LISTS = {"checkpoints": "models", "diffusion_models": "models", "loras": "loras", "vae": "vaes"}
FILE_LISTS |= {"upscale_models": "upscalers", "controlnet": "controls", "text_encoders": "clips"}
#: Folders of ComfyUI that clients list and that are always empty here.
NO_FILES = (
    *(
        "audio_encoders",
        "classifiers",
        "clip_vision",
        "configs",
        "custom_nodes",
        "diffusers",
        "gligen",
        "hypernetworks",
    ),
    *("latent_upscale_models", "model_patches", "photomaker", "style_models", "vae_approx"),
)


def describe_node(name: str, names: nodes.Names) -> Json:
    """A node's description in ComfyUI's format."""
    node = nodes.NODES[name]
    inputs: dict[str, dict[str, Any]] = {"required": {}}
    for key, each in node.inputs.items():
        part = inputs.setdefault("required" if each.required else "optional", {})
        part[key] = describe_input(each, names)
    return {
        "input": inputs,
        "input_order": {part: list(each) for part, each in inputs.items()},
        "output": list(node.outputs),
        "output_is_list": [False] * len(node.outputs),
        "output_name": list(node.outputs),
        "name": name,
        "display_name": node.title,
        "description": "",
        "python_module": "nodes",
        "category": node.category,
        "output_node": node.is_output,
    }


def describe_input(each: nodes.Input, names: nodes.Names) -> list[Any]:
    if each.kind == "COMBO":
        return [list(names.choices(each)), {} if each.default is None else {"default": each.default}]
    if each.kind not in nodes.WIDGET_TYPES:
        return [each.kind]
    limits = {"default": each.default, "min": each.low, "max": each.high}
    return [each.kind, {name: value for name, value in limits.items() if value is not None}]


def add(api: APIRouter, studio: Studio, aliases: Aliases) -> None:
    @api.get("/object_info")
    @api.get("/object_info/")
    def object_info() -> Json:
        """All supported nodes, with the values that their choices offer."""
        names = names_of(studio, aliases)
        return {name: describe_node(name, names) for name in nodes.NODES}

    @api.get("/object_info/{node}")
    def one_object_info(node: str) -> Json:
        return {node: describe_node(node, names_of(studio, aliases))} if node in nodes.NODES else {}

    @api.get("/models")
    def folders() -> list[str]:
        return [*FILE_LISTS, "embeddings", *NO_FILES]

    @api.get("/models/{folder}")
    def files(folder: str) -> list[str]:
        if folder == "embeddings":
            return embeddings()
        if folder in NO_FILES:
            return []
        if folder not in FILE_LISTS:
            raise NotFound(message("no_address"))
        return list(names_of(studio, aliases).lists[FILE_LISTS[folder]])

    @api.get("/embeddings")
    def embeddings() -> list[str]:
        return [each.name for each in studio.adapters("embedding")]

    @api.get("/extensions")
    def extensions() -> list[str]:
        return []

    @api.get("/features")
    def features() -> Json:
        return {"supports_preview_metadata": False}

    @api.post("/free")
    def free() -> Response:
        """A no-op: models are unloaded when others need their memory, or after an idle time."""
        authority.check("sources.add")
        return Response(status_code=200)

    @api.get("/system_stats")
    def system_stats() -> Json:
        """The server, and the workers' devices. Memory sizes are shown to admins only."""
        vitals = studio.health.vitals() if Scopes.ADMIN in current().scopes else None
        used, total = vitals.memory if vitals else (0, 0)
        devices = [
            {
                "name": f"{each.slot} {each.device}",
                "type": each.room.type or "cpu",
                "index": index,
                "vram_total": each.room.bytes,
                "vram_free": each.free_bytes,
                "torch_vram_total": each.room.bytes,
                "torch_vram_free": each.free_bytes,
            }
            for index, each in enumerate(studio.workers())
        ]
        system = {
            "os": os.name,
            "ram_total": total,
            "ram_free": total - used,
            "comfyui_version": COMFYUI_VERSION,
            "python_version": sys.version,
            "pytorch_version": "",
            "embedded_python": False,
            "argv": [],
            "diffusion_local_version": __version__,
            "machine": platform.machine(),
        }
        return {"system": system, "devices": devices}
