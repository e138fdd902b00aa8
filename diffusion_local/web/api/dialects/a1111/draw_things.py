"""Draw Things' HTTP API, as used by SillyTavern and scripts: A1111's txt2img and img2img under other field names, and
its configuration at ``GET /``.

Browsers get our page at ``/``; ``paths`` routes only programs to the configuration.
"""

from typing import Any

from fastapi import APIRouter

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.options.hires import LANCZOS
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio

#: A1111's field names by Draw Things' names.
A1111_NAMES = {
    "batch_count": "n_iter",
    "guidance_scale": "cfg_scale",
    "hires_fix": "enable_hr",
    "sampler": "sampler_name",
    "strength": "denoising_strength",
}
MOST_LORAS = 50


def renamed(given: Any) -> Any:
    """A body with A1111's field names instead of Draw Things'; fields already under A1111's name are unchanged. Raises
    InvalidParams.
    """
    if not isinstance(given, dict):
        return given
    taken = {name for name, target in A1111_NAMES.items() if name in given and target not in given}
    fields = {A1111_NAMES[name] if name in taken else name: value for name, value in given.items()}
    if fields.get("model") and fields.get("override_settings") in (None, {}):
        fields["override_settings"] = {"sd_model_checkpoint": fields.pop("model")}
    if fields.get("loras"):
        fields["prompt"] = f"{fields.get('prompt') or ''} {tags(fields.pop('loras'))}"
    return fields


def tags(loras: Any) -> str:
    """``[{"file", "weight"}]`` as prompt tags. Raises InvalidParams."""
    if not isinstance(loras, list) or len(loras) > MOST_LORAS:
        raise InvalidParams("loras", message("lora_records", got=echo(loras)))
    written = []
    for each in loras:
        file, weight = (each.get("file"), each.get("weight", 0.6)) if isinstance(each, dict) else (None, None)
        if not isinstance(file, str) or set(file) & set("<>:") or not isinstance(weight, int | float):
            raise InvalidParams("loras", message("lora_records", got=echo(each)))
        written.append(f"<lora:{file.rpartition('.')[0] or file}:{weight}>")
    return " ".join(written)


def add(api: APIRouter, studio: Studio) -> None:
    @api.get("/draw-things")
    def configuration() -> Json:
        """Draw Things' response at `/`: the default model and its defaults."""
        model = studio.models()[0]
        upscalers = [each.name for each in studio.adapters("upscaler")]
        return {
            "model": model.id,
            "prompt": "",
            "negative_prompt": "",
            "width": model.defaults.width,
            "height": model.defaults.height,
            "steps": model.defaults.steps,
            "guidance_scale": model.defaults.guidance,
            "sampler": model.defaults.sampler,
            "seed": -1,
            "strength": 1.0,
            "batch_size": 1,
            "batch_count": 1,
            "clip_skip": 1,
            "hires_fix": False,
            "upscaler": upscalers[0] if upscalers else LANCZOS,
            "loras": [],
            "controls": [],
        }
