"""Lists that A1111's clients request before generating: available models, samplers and so on, and facts about the
server.
"""

import os
from typing import Any

from fastapi import APIRouter

from diffusion_local import families
from diffusion_local.models.catalog import Model
from diffusion_local.options.hires import HIRES_UPSCALERS, LANCZOS
from diffusion_local.options.samplers import SAMPLERS, SCHEDULES, schedule_api_name
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.system import gpus
from diffusion_local.web.api.dialects.a1111.reading import title

#: Responses, by path, for features that do not exist here; clients request these lists regardless.
EMPTY_ANSWERS: dict[str, Any] = {
    "/hypernetworks": [],
    "/face-restorers": [],
    "/realesrgan-models": [],
    "/scripts": {"txt2img": [], "img2img": []},
    "/script-info": [],
    "/extensions": [],
}


def add(api: APIRouter, studio: Studio) -> None:
    @api.get("/sd-models")
    def sd_models() -> list[Json]:
        return [
            {
                "title": title(each),
                "model_name": each.id,
                "hash": each.sha256[:10] or None,
                "sha256": each.sha256 or None,
                "filename": each.id,
                "config": None,
            }
            for each in studio.models()
            if each.ready
        ]

    @api.get("/samplers")
    def samplers() -> list[Json]:
        """Samplers supported by at least one model; the default model's first."""
        return [
            {"name": name, "aliases": list(SAMPLERS[name].spellings), "options": {}}
            for name in offered(studio.models(), "samplers")
        ]

    @api.get("/schedulers")
    def schedulers() -> list[Json]:
        rest = {"default_rho": -1, "need_inner_model": False}
        return [
            {"name": schedule_api_name(each), "label": each, "aliases": list(SCHEDULES[each]) or None} | rest
            for each in offered(studio.models(), "schedules")
        ]

    @api.get("/sd-vae")
    def sd_vae() -> list[Json]:
        return [{"model_name": each.name, "filename": each.name} for each in studio.adapters("vae")]

    @api.get("/sd-modules")
    def sd_modules() -> list[Json]:
        """Forge's list: VAEs and text encoders."""
        found = [*studio.adapters("vae"), *studio.adapters("text_encoder")]
        return [{"model_name": each.name, "filename": each.name} for each in found]

    @api.get("/upscalers")
    def upscalers() -> list[Json]:
        names = [LANCZOS, *(each.name for each in studio.adapters("upscaler"))]
        empty = dict.fromkeys(["model_name", "model_path", "model_url"])
        return [{"name": name, "scale": 4} | empty for name in names]

    @api.get("/latent-upscale-modes")
    def latent_upscale_modes() -> list[Json]:
        """Values of `hr_upscaler` besides the upscalers."""
        return [{"name": name} for name in HIRES_UPSCALERS if name != LANCZOS]

    @api.get("/loras")
    def loras() -> list[Json]:
        """LoRAs that `<lora:name:0.8>` in a prompt can name."""
        return [
            {"name": x.name, "alias": x.title or x.name, "path": x.name, "metadata": {}}
            for x in studio.adapters("lora")
        ]

    @api.get("/embeddings")
    def embeddings() -> Json:
        loaded = {
            each.name: {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 1}
            for each in studio.adapters("embedding")
        }
        return {"loaded": loaded, "skipped": {}}

    @api.get("/prompt-styles")
    def prompt_styles() -> list[Json]:
        return [
            {"name": each.name, "prompt": each.prompt, "negative_prompt": each.negative} for each in studio.styles.all()
        ]

    @api.get("/memory")
    def memory() -> Json:
        """Memory of the machine and its GPUs, in bytes."""
        found = gpus.read()
        if not found:
            return {"ram": ram(), "cuda": {"error": "no GPU"}}
        used, total = sum(each.used for each in found), sum(each.total for each in found)
        return {"ram": ram(), "cuda": {"system": {"free": total - used, "used": used, "total": total}}}

    @api.get("/cmd-flags")
    def cmd_flags() -> Json:
        """Used by clients to test whether the API responds."""
        return {"api": True, "nowebui": False, "api_server_stop": False}

    for path, content in EMPTY_ANSWERS.items():
        api.add_api_route(path, constant(content), methods=["GET"], name=path.strip("/").replace("-", "_"))

    @api.post("/refresh-checkpoints")
    @api.post("/refresh-loras", include_in_schema=False)
    @api.post("/refresh-vae", include_in_schema=False)
    @api.post("/refresh-embeddings", include_in_schema=False)
    @api.post("/unload-checkpoint", include_in_schema=False)
    @api.post("/reload-checkpoint", include_in_schema=False)
    def refresh() -> Json:
        """A no-op: folders are rescanned at each request, and models are loaded and unloaded as needed."""
        return {}


def constant(content: Any) -> Any:
    def empty() -> Any:
        """Always empty: this feature does not exist here."""
        return content

    return empty


def offered(models: list[Model], what: str) -> list[str]:
    """Samplers or schedules supported by at least one model, in order."""
    found: dict[str, None] = {}
    for each in models:
        found |= dict.fromkeys(getattr(families.sampling_of(each.family, each.architecture), what))
    return list(found)


def ram() -> Json:
    try:
        page, total, free = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return {"error": "not known on this system"}
    return {"free": free * page, "used": (total - free) * page, "total": total * page}
